"""Whether a built data set is whole, and what it holds."""
