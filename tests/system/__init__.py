"""On a real SLURM."""
