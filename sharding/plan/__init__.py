"""The order of samples: pure functions of weights, seed and epoch. numpy only."""
