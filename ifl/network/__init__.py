"""The network: backbone, heads, branches, batch-normalisation statistics."""
