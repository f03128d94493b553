"""Runs with other values beside each other: what differs, and which values val chooses."""
