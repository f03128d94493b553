"""Helpers that tests share: data, processes, clusters, servers."""
