"""What of sbatch's options a recipe may set: names, values, and why some are refused."""
