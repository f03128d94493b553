"""Which share of its time a run waits for data, or its ranks for the slowest one, where that is notable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOTABLE = 0.1
"""A smaller share of the time is not told."""
RECENT = 10
"""Training lines that are looked at, the newest ones of a start."""
KINDS = (
    ("data_wait_s", "for data", "docs/loading.md"),
    ("rank_wait_s", "for the slowest rank, as a mean over the ranks", "docs/nodes.md"),
)


def waits(lines: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Say it in a phrase each.

    Args:
        lines: of metrics.jsonl; those of older code, which do not say how long they took, tell nothing.
    """
    start = max((number for number, line in enumerate(lines) if line["kind"] == "boot"), default=0)
    recent = [line for line in lines[start:] if line["kind"] == "train" and line.get("seconds")][-RECENT:]
    seconds = sum(line["seconds"] for line in recent)
    shares = [(sum(line[key] for line in recent) / seconds, what, page) for key, what, page in KINDS if recent]
    return tuple(f"waits {share:.0%} of the time {what}: {page}" for share, what, page in shares if share >= NOTABLE)
