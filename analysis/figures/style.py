"""What all figures share: a palette safe for colour-blind readers, and files that are the same bytes each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")

from matplotlib.artist import Artist  # the backend comes first
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend

from analysis.figures.fonts import fit_fonts

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito, "Color Universal Design" (2008), without its yellow, too pale for lines on white."""

LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: dict[RcKeyType, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # fonts a publisher's checker accepts
}


def save_figure(figure: Figure, out: Path, name: str) -> list[Path]:
    """Write NAME.pdf and NAME.png (200 dpi), and return their paths; no date or version goes in."""
    others, _ = fit_fonts(figure)
    if figure.get_layout_engine() is not None:  # laid out once, not for each file: it takes most of the time
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    files = [out / f"{name}.pdf", out / f"{name}.png"]
    # Fonts with PostScript outlines, as many of other scripts are, can only be embedded as drawings.
    with matplotlib.rc_context({"pdf.fonttype": 3 if others else 42}):
        figure.savefig(files[0], metadata={"CreationDate": None, "Creator": None, "Producer": None})
    figure.savefig(files[1], dpi=200, metadata={"Software": None})
    return files


def legend_below(block: Figure | SubFigure, handles: Sequence[Artist], most: int, handlelength: float = 3) -> Legend:
    """Put a legend below the panels, in as many columns as fit the width, or in one.

    Args:
        block: with a constrained layout, which makes room.
        handles: one for each entry, with its label.
        most: columns.
        handlelength: of each entry's line, in font sizes.
    """
    for columns in range(min(most, len(handles)), 0, -1):
        legend = block.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=handlelength)
        fit_fonts(legend)
        if columns == 1 or legend.get_window_extent().width <= block.bbox.width:
            break
        legend.remove()
    return legend


COLUMN, PAGE = 3.5, 7.2
"""Widths in inches of a figure across one column of a paper, and across both."""

PLAIN_LOOK: dict[str, Any] = {"color": "#000000", "linestyle": "-", "marker": "o", "markersize": 3, "linewidth": 1.2}
IFL_LOOK: dict[str, Any] = {"color": "#0072B2", "linestyle": "--", "marker": "^", "markersize": 3.5, "linewidth": 1.2}
EQUAL_LOOK: dict[str, Any] = {"color": "#D55E00", "linestyle": ":", "marker": "v", "markersize": 3.5, "linewidth": 1.2}
"""A method without and with IFL, and with IFL at equal images, told apart by colour, dashes and marker."""

ATTRIBUTE_LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-", "marker": "o", "hatch": ""},
    {"color": "#D55E00", "linestyle": "--", "marker": "s", "hatch": "//"},
    {"color": "#009E73", "linestyle": ":", "marker": "^", "hatch": ".."},
)
"""The looks of the groups many, medium and few, of classes or attributes."""


def heat_map(
    axes: Axes,
    values: NDArray[np.float64],
    rows: list[str],
    columns: list[str],
    *,
    low: float,
    high: float,
    colours: str,
    signed: bool = False,
) -> AxesImage:
    """Draw a heat map with its numbers in the cells, so that grey print and colour-blind readers lose nothing.

    NaN is left white with a dash.

    Args:
        axes: where to draw.
        values: float64 [rows, columns], in percent or points.
        rows: names at the left.
        columns: names below.
        low: the value of the first colour.
        high: the value of the last colour.
        colours: name of a matplotlib colour map.
        signed: whether numbers carry their sign, as differences do.
    """
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest"
    )
    axes.grid(False)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (down, across), value in np.ndenumerate(values):
        red, green, blue = (
            np.array((image.cmap(image.norm(np.asarray(value))) if np.isfinite(value) else (1, 1, 1))[:3]) ** 2.2
        )
        # Relative luminance below which white text reads better than black.
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179
        text = "\N{EN DASH}" if not np.isfinite(value) else f"{value:+.0f}" if signed else f"{value:.0f}"
        axes.text(
            across,
            down,
            "0" if text in ("-0", "+0") else text,
            ha="center",
            va="center",
            fontsize=6.5,
            color="white" if dark else "black",
        )
    return image
