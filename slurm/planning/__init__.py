"""Which runs a command means, in which order, at what cost."""
