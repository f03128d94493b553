"""Bytes on disk: the index of a split, its tar shards, and dataset.json."""
