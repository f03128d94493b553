"""Where it runs: the launcher and the job."""
