"""Backbones. NAME.py has the literal FORMS, and `build(form="plain")`.

`build` returns a module from float32 [B, 3, H, W] to features [B, D], with the attribute `feature_dim` = D. The forms
are plain, experts and branches (ifl/network/branches.py).
"""
