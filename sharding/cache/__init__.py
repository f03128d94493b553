"""A node's caches: decoded images, and shards of a remote data set."""
