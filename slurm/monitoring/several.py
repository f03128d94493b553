"""What is said of several runs: the first names and a count, and one sentence where it is the same of many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

SHOWN = 3
"""Names that a sentence shows."""
MANY = 3
"""From so many on, those of which the same is to be said share a line."""


def names(of: Sequence[str]) -> str:
    """Return names as a sentence shows them: `a, b, c and 9 more`."""
    return ", ".join(of[:SHOWN]) + (f" and {len(of) - SHOWN} more" if len(of) > SHOWN else "")


def alike(said: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Yield line by line who it is, `is` or `are`, and what is said; the same of `MANY` is one line.

    Args:
        said: (a run's name or folder, what is to be said of it; empty where that is nothing). In one line with others a
            folder is its name.
    """
    groups: dict[str, list[str]] = {}
    for who, what in said:
        if what:
            groups.setdefault(what, []).append(who)
    for what, own in groups.items():
        if len(own) < MANY:
            yield from ((who, "is", what) for who in own)
        else:
            yield names([os.path.basename(who) for who in own]), "are", what
