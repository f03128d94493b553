"""The suite's step, DeepSpeed with ZeRO 0 and 1, against the hand-written loop, on batches that lie on the device."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.bench.gpu.bench import Bench, Cell, Peer
from tests.bench.gpu.ours import Ours
from tests.bench.gpu.plain import Plain


def section(bench: Bench) -> None:
    """Time them; what the suite could gain by a switch that it does not have is a row, too."""
    scale = bench.scale
    cells = []
    for side in scale.sides:
        compiled, eager = f"plain at {side}: compiled", f"plain at {side}: eager"
        base = f"suite at {side}: ZeRO 0"
        if scale.gpu:
            cells.append(Cell(compiled, _plain(bench, side, True), scale.batch, needs_s=scale.compile_s))
        cells += [
            Cell(eager, _plain(bench, side, False), scale.batch, (Peer(compiled),)),
            Cell(base, _ours(bench, side), scale.batch, (Peer(eager, least=0.97), Peer(compiled))),
            Cell(
                f"suite at {side}: ZeRO 1", _ours(bench, side, "optim.zero=1"), scale.batch, (Peer(base), Peer(eager))
            ),
            Cell(
                f"suite at {side}: ZeRO 0, fp32", _ours(bench, side, "optim.precision=fp32"), scale.batch, (Peer(base),)
            ),
            Cell(
                f"suite at {side}: groups of {scale.bn}, as recipes have them",
                _ours(bench, side, f"batch.bn={scale.bn}"),
                scale.batch,
                (Peer(base),),
            ),
        ]
        if scale.gpu:
            cells += [
                Cell(f"{base}, cuDNN's search", _ours(bench, side, searching=True), scale.batch, (Peer(base),)),
                Cell(
                    f"{base}, weights channels last",
                    _ours(bench, side, change=_weights_channels_last),
                    scale.batch,
                    (Peer(base),),
                ),
                Cell(
                    f"{base}, backbone compiled, cuDNN's search",
                    _ours(bench, side, searching=True, change=_compiled),
                    scale.batch,
                    (Peer(base), Peer(compiled, least=0.97)),
                    needs_s=scale.compile_s,
                ),
            ]
    bench.note("the suite's steps have one group of batch normalisation, as the plain loop, where nothing else is said")
    bench.measure(cells)


def _plain(bench: Bench, side: int, compiled: bool) -> Callable[[], Callable[[], None]]:
    return lambda: Plain(bench, side, compiled=compiled).take


def _ours(
    bench: Bench, side: int, *words: str, searching: bool = False, change: Callable[[Ours], None] = lambda ours: None
) -> Callable[[], Callable[[], None]]:
    def make() -> Callable[[], None]:
        ours = Ours(bench, *words, side=side, searching=searching)
        change(ours)
        return ours.take

    return make


def _weights_channels_last(ours: Ours) -> None:
    """After DeepSpeed's start, which sends parameters as plain bytes; it would refuse them before."""
    ours.network.to(memory_format=torch.channels_last)


def _compiled(ours: Ours) -> None:
    """In place, so that no parameter has another name."""
    ours.network.get_submodule("backbone").compile(dynamic=False)
