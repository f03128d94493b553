"""The hand-written loop in all its forms: precision, layout, compilation, at both sizes, on synthetic images."""

from __future__ import annotations

from functools import partial

from tests.bench.gpu.bench import Bench, Cell, Peer
from tests.bench.gpu.plain import Plain

IMAGES_S = 3000.0
"""Wanted of one H200 at 224 (the design's note on performance): bf16, channels last, compiled."""


def name_of(side: int, bf16: bool, channels_last: bool, compiled: bool) -> str:
    """A form's name."""
    return (
        f"plain at {side}: {'bf16' if bf16 else 'fp32'}, channels {'last' if channels_last else 'first'}, "
        f"{'compiled' if compiled else 'eager'}"
    )


def section(bench: Bench) -> None:
    """Time them, the most telling ones first."""
    scale, sides = bench.scale, bench.scale.sides
    small, large = sides[0], sides[-1]
    forms = [
        *((side, True, True, True) for side in sides),
        *((side, bf16, last, False) for bf16 in (True, False) for last in (True, False) for side in sides),
        (small, False, True, True),
        (small, True, False, True),
        (large, False, True, True),
        (large, True, False, True),
    ]
    if not scale.gpu:  # a compilation takes longer than all the rest
        forms = [(small, True, True, True), *(form for form in forms if not form[3])]
    made = {name_of(*form) for form in forms}
    cells = []
    for side, bf16, last, compiled in forms:
        wanted = [
            Peer(name_of(side, False, True, False), least=2.6 if compiled and bf16 and last else None),
            Peer(name_of(side, True, False, False), least=1.4 if compiled and bf16 and last else None),
            Peer(name_of(side, bf16, last, False)),
        ]
        own = name_of(side, bf16, last, compiled)
        against = {peer.what: peer for peer in reversed(wanted) if peer.what != own and peer.what in made}
        cells.append(
            Cell(
                own,
                lambda side=side, options=(bf16, last, compiled): partial(_take, _plain(bench, side, *options)),
                scale.batch,
                tuple(against.values()),
                needs_s=scale.compile_s if compiled else 10 if scale.gpu else 0,
                least=IMAGES_S if side == 224 and bf16 and last and compiled else None,
            )
        )
    bench.note("fp32 is torch's default: TF32 in convolutions, not in the last linear layer")
    bench.measure(cells)


def _plain(bench: Bench, side: int, bf16: bool, channels_last: bool, compiled: bool) -> Plain:
    return Plain(bench, side, bf16=bf16, channels_last=channels_last, compiled=compiled)


def _take(loop: Plain) -> None:
    loop.take()
