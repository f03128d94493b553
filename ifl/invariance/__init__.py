"""Invariant feature learning: environments from confidence, and the centers."""
