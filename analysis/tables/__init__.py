"""The cells of a table, and their text, LaTeX and comparison with the paper."""
