"""Backbones: NAME.py has the literal FORMS and build(form="plain") -> a module from float32 [B, 3, H, W] to features
[B, D], with `feature_dim` = D. Forms: plain; experts and branches (ifl/network/branches.py)."""
