"""What all figures share: a palette safe for colour-blind readers, and files that repeat byte for byte."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure  # noqa: E402  (the backend comes first)
from matplotlib.text import Text  # noqa: E402

PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito, "Color Universal Design" (2008), without its yellow, too pale for lines on white."""

LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # fonts a publisher's checker accepts
}


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Writes NAME.pdf and NAME.png (200 dpi) and returns their paths; no date or version goes in."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a `$` in somebody's label is a dollar
    files = [out / f"{name}.pdf", out / f"{name}.png"]
    figure.savefig(files[0], metadata={"CreationDate": None, "Creator": None, "Producer": None})
    figure.savefig(files[1], dpi=200, metadata={"Software": None})
    return files
