"""Checks of a built data set, and numbers and pictures of what it holds."""
