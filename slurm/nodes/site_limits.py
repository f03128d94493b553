"""The site file's `look:`: what is asked of a node, and when one is slow. The batch script hands it to the ranks."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifl.supervision.node_limits import VARIABLE, NodeLimits
from recipes.common.cli import nearest
from recipes.common.errors import RecipeError

RATES = ("folder_mb_s", "disk_mb_s", "allreduce_gb_s", "clock_s")
KEYS = (*RATES, "slow_factor", "slow_steps", "exclude_slow")


def read(value: object, path: Path) -> NodeLimits:
    """Read the key's value.

    Raises:
        RecipeError: one sentence that names the file and the key.
    """
    if not isinstance(value, Mapping):
        raise RecipeError(f"{path}: look={value!r} is not legal: {', '.join(KEYS)} are its keys")
    for key, given in value.items():
        if key not in KEYS:
            raise RecipeError(f"{path}: look.{key} is not legal: {nearest(str(key), KEYS)}")
        if legal := _lacking(key, given):
            raise RecipeError(f"{path}: look.{key}={given!r} is not legal: {legal}")
    return NodeLimits(**{str(key): given for key, given in value.items()})


def _lacking(key: str, given: Any) -> str:
    """Say what would be legal; empty where the value is."""
    if key == "exclude_slow":
        return "" if isinstance(given, bool) else "true or false"
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if key == "slow_steps":
        return "" if isinstance(given, int) and number and 10 <= given <= 10**6 else "10 to 1000000 steps"
    if key == "slow_factor":
        return "" if number and 1.1 <= given <= 1000 else "a number from 1.1 to 1000"
    return "" if number and 0 < given < 1e6 else "a number above 0 and below 1000000"


def exported(limits: NodeLimits | None) -> tuple[str, ...]:
    """Return the shell line by which a job's ranks, and what decides after them, have the limits."""
    return () if limits is None else (f"export {VARIABLE}={shlex.quote(limits.text())}",)
