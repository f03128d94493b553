"""What follows a run's end: notices, the archive, and a command's end."""
