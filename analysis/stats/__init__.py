"""Numbers about numbers: bootstrap, per-class accuracy."""
