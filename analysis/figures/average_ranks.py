"""Average ranks over data sets, with bars over the methods that do not differ surely."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure

from analysis.claims.ranks import AverageRanks
from analysis.figures.style import COLUMN, PALETTE, STYLE


def average_ranks_figure(found: AverageRanks) -> Figure:
    """Draw a dot a method, the best above, and at the right a bar for each clique."""
    with matplotlib.rc_context(STYLE):
        rows = len(found.ranks)
        figure = Figure(figsize=(COLUMN, 0.7 + 0.17 * rows), layout="constrained")
        axes = figure.subplots()
        axes.plot(found.ranks, range(rows), "o", color=PALETTE[1], markersize=4)
        end = float(found.ranks.max())
        step = 0.04 * max(end - float(found.ranks.min()), 1.0)
        for place, (first, last) in enumerate(found.cliques):
            across = end + (place + 2) * step
            axes.plot([across, across], [first - 0.2, last + 0.2], color="black", linewidth=2.5, solid_capstyle="butt")
        axes.set_yticks(range(rows), found.labels)
        axes.set_ylim(rows - 0.4, -0.6)
        axes.set_xlabel(f"average rank over {len(found.data)} data sets, {found.protocol.upper()}")
        axes.grid(axis="y", visible=False)
    return figure
