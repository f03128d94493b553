"""What is not needed any more in a folder of runs."""
