"""IFL's step over its baseline's, at equal images and on batches that lie on the device."""

from __future__ import annotations

from tests.bench.gpu.bench import Bench, Cell, Peer
from tests.bench.gpu.ours import IFL, Ours

MOST = 1.03
"""Wanted: a step with IFL takes at most so much of the baseline's time."""


def section(bench: Bench) -> None:
    """Time both in groups of the recipes' size; images/s at least 1 / MOST of the baseline's."""
    scale = bench.scale
    for_groups = f"batch.bn={scale.bn}"
    cells = []
    for side in scale.sides:
        base = f"baseline at {side}"
        cells += [
            Cell(base, lambda side=side: Ours(bench, for_groups, side=side).take, scale.batch),
            Cell(
                f"IFL at {side}",
                lambda side=side: Ours(bench, *IFL, for_groups, side=side).take,
                scale.batch,
                (Peer(base, least=1 / MOST),),
            ),
        ]
    bench.note("with center term, scoring and moving centers in every step; ratios are of images/s")
    bench.measure(cells)
