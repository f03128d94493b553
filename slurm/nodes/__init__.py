"""The nodes of a job: what a site asks of them, and which are left out of the next start."""
