"""What watches a run: signals, the watchdog, the one-writer fence, start-up times."""
