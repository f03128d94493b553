"""Place names beside points so that no name covers another."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

SIDES = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
RINGS = (4, 9, 16, 25, 36, 50, 66, 84)
"""Distances to try, in points of 1/72 inch, the near ones first."""
CROSSED = 60.0
"""What a line through a name counts, in square pixels of covered names."""
NEAR, CLEAR = 30.0, 5
"""What another point beside a name at the end of a line counts, in the same, for the name would seem to be that one's;
and how near that is, in points of 1/72 inch.
"""


@dataclass(frozen=True)
class _Others:
    """What a name keeps clear of, in pixels: points and names, what is beside points, and the lines to names."""

    boxes: list[Bbox]
    near: list[Bbox]
    lines: list[np.ndarray]


@dataclass(frozen=True)
class _Place:
    """A place tried for a name: what it covers in square pixels, its offset, and its box and line in pixels."""

    covered: float
    right: int
    up: int
    ring: int
    box: Bbox
    line: np.ndarray


def label_points(
    figure: Figure, axes: Axes, points: list[tuple[float, float]], names: list[str], size: float = 6.5
) -> None:
    """Write each name at the nearest place around its point where it covers nothing.

    A name covers no other name, no point and no line, and does not leave the axes. Where a name is not right beside its
    point, a thin line leads to it and crosses no name. Points are taken from the most crowded to the loneliest. The
    layout must be final: places are looked for in pixels.

    Args:
        figure: with its final layout.
        axes: where the points are.
        points: (x, y) in the axes' units.
        names: one for each point.
        size: of the font, in points.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    pixels = figure.dpi / 72
    spots: list[tuple[float, float]] = [tuple(axes.transData.transform(point)) for point in points]
    taken = [Bbox.from_extents(x - 3 * pixels, y - 3 * pixels, x + 3 * pixels, y + 3 * pixels) for x, y in spots]
    lines: list[np.ndarray] = []
    for index in _crowded(spots, 60 * pixels):
        probe = axes.text(0, 0, names[index], fontsize=size)
        probe.set_parse_math(False)
        extent = probe.get_window_extent()
        probe.remove()
        others = _Others(
            boxes=[box for i, box in enumerate(taken) if i != index],
            near=[box.padded(CLEAR * pixels) for i, box in enumerate(taken[: len(spots)]) if i != index],
            lines=lines,
        )
        best = _best_place(spots[index], extent, pixels, others, axes.bbox)
        taken.append(best.box)
        lines.append(best.line)
        _annotate(axes, names[index], points[index], best, size)


def _crowded(spots: list[tuple[float, float]], near: float) -> list[int]:
    """Order the spots' indices: those with the most others nearer than `near` pixels come first."""
    neighbours = [sum((x - p) ** 2 + (y - q) ** 2 < near**2 for p, q in spots) for x, y in spots]
    return sorted(range(len(spots)), key=lambda i: (-neighbours[i], i))


def _best_place(spot: tuple[float, float], extent: Bbox, pixels: float, others: _Others, inside: Bbox) -> _Place:
    """Find the nearest place that covers nothing, or the one that covers least."""
    best: _Place | None = None
    for ring, (right, up) in itertools.product(RINGS, SIDES):
        x, y = spot[0] + right * ring * pixels, spot[1] + up * ring * pixels
        left = x - extent.width * (1 - right) / 2
        below = y - extent.height * (1 - up) / 2
        box = Bbox.from_extents(left - pixels, below, left + extent.width + pixels, below + extent.height)
        outside = box.width * box.height - _overlap(box, inside)
        covered = 3 * sum(_overlap(box, other) for other in others.boxes) + 100 * outside
        line = np.linspace(spot, (x, y), 24)[2:] if ring > RINGS[0] else np.empty((0, 2))
        covered += CROSSED * (
            sum(_touches(line, other) for other in others.boxes) + sum(_touches(other, box) for other in others.lines)
        )
        covered += NEAR * sum(box.overlaps(other) for other in others.near) * bool(len(line))
        if best is None or covered < best.covered - 0.5:
            best = _Place(covered, right, up, ring, box, line)
        if best.covered <= 0.5:
            break
    assert best is not None  # there are rings and sides
    return best


def _annotate(axes: Axes, name: str, point: tuple[float, float], at: _Place, size: float) -> None:
    # The line ends where `_best_place` has it: at the name's side or corner towards the point, not in its middle.
    line = {"arrowstyle": "-", "color": "#777777", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
    axes.annotate(
        name,
        point,
        xytext=(at.right * at.ring, at.up * at.ring),
        textcoords="offset points",
        fontsize=size,
        ha=("right", "center", "left")[at.right + 1],
        va=("top", "center", "bottom")[at.up + 1],
        annotation_clip=False,
        arrowprops=line | {"relpos": ((1 - at.right) / 2, (1 - at.up) / 2)} if at.ring > RINGS[0] else None,
    )


def _touches(line: np.ndarray, box: Bbox) -> bool:
    """Say whether any of the points [M, 2] along a line is in a box."""
    return bool(((line >= box.min) & (line <= box.max)).all(axis=1).any())


def _overlap(one: Bbox, other: Bbox) -> float:
    """Return the area that two boxes have in common."""
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else max(0.0, both.width) * max(0.0, both.height)
