"""In which science values runs differ, as texts and in an order that a reader expects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from analysis.inputs.runs import Run

NONE = "-"
"""What is shown for a value that a run has not."""

Order = tuple[tuple[int, float, str], ...]


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """List the science keys in which some runs differ, in the order of the schema."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for key, value in run.values.items():
            found.setdefault(key, set()).add(shown(value))
    whole = {key for key in found if all(key in run.values for run in runs)}
    return [key for key, values in found.items() if len(values) > 1 or key not in whole]


def shown(value: Any) -> str:
    """Return a value as a command has it."""
    return value if isinstance(value, str) else json.dumps(value)


def texts(run: Run, keys: Sequence[str]) -> list[str]:
    """Return a run's values of some keys."""
    own = run.values
    return [shown(own[key]) if key in own else NONE for key in keys]


def order_of(run: Run, keys: Sequence[str]) -> Order:
    """Return a key that sorts runs by their values of some keys: none first, then numbers by size, then texts."""
    own = run.values
    return tuple(_order(own.get(key)) for key in keys)


def _order(value: Any) -> tuple[int, float, str]:
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return 2, 0.0, shown(value)
