"""Grids: one recipe or table with several values of some keys."""
