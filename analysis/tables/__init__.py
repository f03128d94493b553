"""The cells of a table, their text and LaTeX, and their comparison with the paper."""
