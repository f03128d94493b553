"""What a reviewer of a paper gets: a bundle of runs, tables and answers."""
