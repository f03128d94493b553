"""What happened to a run: events, state, failure."""
