"""Ranks: collectives, exact sums, and checks that all hold the same."""
