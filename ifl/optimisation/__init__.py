"""How parameters move: optimisers, parameter groups, learning rate, and the moving average of weights."""
