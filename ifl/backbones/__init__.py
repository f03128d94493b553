"""Backbones of libraries, by their name in it."""
