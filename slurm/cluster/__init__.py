"""Runs on SLURM: batch files, submission, requeueing, builds."""
