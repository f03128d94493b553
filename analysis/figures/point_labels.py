"""Names beside points, none over another."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

SIDES = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
RINGS = (4, 9, 16, 25, 36, 50, 66, 84)
"""Distances to try, in points of 1/72 inch, the near ones first."""
CROSSED = 60.0
"""What a line through a name counts, in square pixels of covered names."""


def place(figure: Figure, axes: Axes, points: list[tuple[float, float]], names: list[str], size: float = 6.5) -> None:
    """Writes each name at the nearest place around its point where it covers neither another name, a point nor a
    line, nor leaves the axes, with a thin line to the point, which crosses no name, where that is not right beside
    it. Points are taken from the most crowded to the loneliest. The
    layout must be final: places are looked for in pixels.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    pixels = figure.dpi / 72
    spots = [tuple(axes.transData.transform(point)) for point in points]
    taken = [Bbox.from_extents(x - 3 * pixels, y - 3 * pixels, x + 3 * pixels, y + 3 * pixels) for x, y in spots]
    inside = axes.bbox
    lines: list[np.ndarray] = []
    crowded = sorted(
        range(len(points)),
        key=lambda i: (
            sum((spots[i][0] - x) ** 2 + (spots[i][1] - y) ** 2 < (60 * pixels) ** 2 for x, y in spots) * -1,
            i,
        ),
    )
    for index in crowded:
        best: tuple[float, tuple[float, float], Bbox, np.ndarray, str, str] | None = None
        probe = axes.text(0, 0, names[index], fontsize=size)
        probe.set_parse_math(False)
        extent = probe.get_window_extent()
        probe.remove()
        for ring, (right, up) in itertools.product(RINGS, SIDES):
            x, y = spots[index][0] + right * ring * pixels, spots[index][1] + up * ring * pixels
            left = x - extent.width * (1 - right) / 2
            below = y - extent.height * (1 - up) / 2
            box = Bbox.from_extents(left - pixels, below, left + extent.width + pixels, below + extent.height)
            covered = 3 * sum(_shared(box, other) for i, other in enumerate(taken) if i != index) + 100 * (
                box.width * box.height - _shared(box, inside)
            )
            line = np.linspace(spots[index], (x, y), 24)[2:] if ring > RINGS[0] else np.empty((0, 2))
            covered += CROSSED * (
                sum(_meets(line, other) for i, other in enumerate(taken) if i != index)
                + sum(_meets(other, box) for other in lines)
            )
            if best is None or covered < best[0] - 0.5:
                best = (
                    covered,
                    (right * ring, up * ring),
                    box,
                    line,
                    ("right", "center", "left")[right + 1],
                    ("top", "center", "bottom")[up + 1],
                )
            if best[0] <= 0.5:
                break
        assert best is not None
        _, offset, box, line, side, height = best
        taken.append(box)
        lines.append(line)
        far = max(map(abs, offset)) > RINGS[0]
        axes.annotate(
            names[index],
            points[index],
            xytext=offset,
            textcoords="offset points",
            fontsize=size,
            ha=side,
            va=height,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#777777", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            if far
            else None,
        )


def _meets(line: np.ndarray, box: Bbox) -> bool:
    """Whether any of the points [M, 2] along a line lies in a box."""
    return bool(((line >= box.min) & (line <= box.max)).all(axis=1).any())


def _shared(one: Bbox, other: Bbox) -> float:
    """The area of what two boxes have in common."""
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else max(0.0, both.width) * max(0.0, both.height)
