"""Backbones: NAME.py has build() -> a module from float32 [B, 3, H, W] to features [B, D], with `feature_dim` = D."""
