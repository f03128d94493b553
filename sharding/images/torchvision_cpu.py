"""Imports torchvision, also where its compiled operators are missing (sharding/images/torchvision_operators.py)."""

from __future__ import annotations

from sharding.images.torchvision_operators import define_missing

define_missing()

import torchvision  # noqa: E402 - it needs the schemas

__all__ = ["torchvision"]
