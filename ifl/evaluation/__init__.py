"""Who judges the epochs of a run: its own ranks, or an evaluator beside them."""
