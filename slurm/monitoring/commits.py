"""Which runs were made at another commit than today's: shown, and marks nothing, for most commits change no number.

Only digests of a run's method and model are compared and marked; the loop and all else is known by its commit.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from slurm.monitoring.several import names


def other_commits(folders: Iterable[Path]) -> str:
    """Say it in one line; empty where no run was, or where a commit is not known."""
    from recipes.code.checkout import commit

    made: dict[str, list[str]] = {}
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            made.setdefault(str(json.loads((folder / "meta.json").read_text())["commit"]), []).append(folder.name)
    today = commit() if made else "unknown"
    others = [f"{_short(name)} made {names(runs)}" for name, runs in made.items() if name not in (today, "unknown")]
    return f"the code's commit is {_short(today)}, and {'; '.join(others)}" if others and today != "unknown" else ""


def _short(commit: str) -> str:
    """Return a commit by its first digits, with the word on changes."""
    name, plus, changes = commit.partition("+")
    return name[:12] + plus + changes
