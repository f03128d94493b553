"""Features of a data set's images, computed once and kept as arrays."""
