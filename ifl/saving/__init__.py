"""What a run keeps on disk: checkpoints, weights, provenance."""
