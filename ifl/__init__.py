"""Learning: models, methods, centers, environments, the train loop, evaluation, checkpoints."""
