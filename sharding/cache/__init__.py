"""What a node keeps: decoded images, and shards of a remote data set."""
