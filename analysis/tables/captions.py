"""The caption of a table: the layout's own, or one that says in a reader's words what the numbers are.

What explains marks stands in the second; beside the layout's own it is printed apart (`unsaid_marks`).
"""

from __future__ import annotations

from analysis.tables.cells import Table
from analysis.tables.presentation import GROUPINGS, METRICS, few_seeds_remark, more_images_remark, ranks
from recipes.table_layout import Column

PROTOCOLS = {
    "clt": "CLT: trained on long-tailed classes and attributes, tested on balanced classes",
    "glt": "GLT: trained on long-tailed classes and attributes, tested on balanced classes and attributes",
    "alt": "ALT: trained on balanced classes with long-tailed attributes, tested on balanced classes and attributes",
}
SELECTS = {"last": "after the last epoch", "best": "at the epoch that is best on the validation set"}
PRESETS = {"paper": "the reference code's hyper-parameters", "corrected": "the corrected hyper-parameters"}


def caption(table: Table, underlined: bool = True) -> str:
    """Return the layout's caption, which may hold LaTeX, or say what was measured, on what, how often and how trained.

    What the recipes, presets and seeds are called stands in the heading of other forms (`presentation.heading`).

    Args:
        table: a filled table.
        underlined: whether the form underlines the second.
    """
    layout = table.layout
    if layout.caption is not None:
        return layout.caption
    columns = layout.columns
    metrics = list(dict.fromkeys(METRICS.get(column.metric, column.metric) for column in columns))
    parts = [
        f"{_listed(metrics)} in % on {_listed(list(dict.fromkeys(column.data for column in columns)))}",
        "; ".join(PROTOCOLS[protocol] for protocol in dict.fromkeys(column.protocol for column in columns)),
        f"{_spread(table)}, {SELECTS[layout.select]}, with {PRESETS[layout.preset]}",
        _groups(columns, table.grouping),
        *_marks(table, underlined),
    ]
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)


def unsaid_marks(table: Table, underlined: bool = True) -> list[str]:
    """Explain the marks where the caption is the layout's own; else nothing, for the caption explains them.

    Args:
        table: a filled table.
        underlined: whether the form underlines the second.
    """
    if table.layout.caption is None:
        return []
    several = any(cell.std is not None for line in table.cells for cell in line)
    return [_spread(table)] * several + _marks(table, underlined)


def _marks(table: Table, underlined: bool) -> list[str]:
    """Say what bold and underlined are, why there are no arrows, and which rows see more images, as far as they do."""
    places = {place for line in ranks(table) for place in line}
    bold = f"bold: best of its block{'; underlined: second' * (underlined and 2 in places)}"
    return [part for part in (bold * (1 in places), few_seeds_remark(table), more_images_remark(table)) if part]


def _spread(table: Table) -> str:
    """Say over how many trainings the numbers are means, as far as there are any."""
    counts = sorted({len(cell.values) for line in table.cells for cell in line if cell.values}) or [0]
    if counts[-1] < 2:
        return "one training each"
    n = str(counts[-1]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    return f"mean ± standard deviation over {n} trainings (seeds)"


def _groups(columns: list[Column], grouping: str) -> str:
    """Say what many, medium and few are; empty where all columns are overall ones."""
    named = {column.subset for column in columns} - {"overall", "overall_a"}
    said = [
        *(["classes by their training images"] if any(not subset.endswith("_a") for subset in named) else []),
        *(["attributes by their frequency in each class"] if any(subset.endswith("_a") for subset in named) else []),
    ]
    by = f", {GROUPINGS[grouping]}" if grouping and said else ""
    return f"Many, Med, Few: {_listed(said)}{by}" if said else ""


def _listed(words: list[str]) -> str:
    """Join words as a sentence does: `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
