"""Measurements, and tests of what they measure."""
