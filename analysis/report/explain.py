"""What is behind one cell, as plain data (for a page) and as lines (for a terminal)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analysis.inputs.runs import Run
from analysis.tables.cells import Cell, Table
from analysis.tables.presentation import p_text
from ifl.metrics import ScoredPredictions
from recipes.common.cli import nearest
from recipes.table_layout import Column, Layout


def explain_cell(
    table: Table, row: int, column: int, read: Callable[[Run, str, str], ScoredPredictions] = Run.scored_predictions
) -> dict[str, Any]:
    """Collect everything behind `table.cells[row][column]`, as JSON can hold it.

    Args:
        table: the filled table.
        row: from 0.
        column: from 0.
        read: reads a run's predictions, given its select and split; a caller that asks for many cells may cache them.

    Returns:
        Numbers are fractions, None where there are none. Keys: `table`, `row`, `column` (what the layout says), `mean`,
        `std`, `interval` [low, high], `marked`, `state`, `notes`, `paper` {source, data, value, difference}, `twin`
        (the test against the baseline), and `runs`: for each its name, seed, commit, hash, fingerprint, preset, budget,
        value, how many samples the subset has, and how many of them are right.
    """
    layout, cell = table.layout, table.cells[row][column]
    said, of = layout.rows[row], layout.columns[column]
    return {
        "table": layout.name,
        "row": {
            "label": layout.full_label(said),
            "group": said.group,
            "recipe": said.recipe,
            "budget": said.budget,
            "set": said.set,
            "twin": said.twin,
        },
        "column": {**of.model_dump(), "name": column_name(of), "split": of.split},
        "select": layout.select,
        "preset": layout.preset,
        "seeds": list(layout.seeds_of(said)),
        "mean": cell.mean,
        "std": cell.std,
        "interval": None if cell.interval is None else list(cell.interval),
        "marked": cell.marked,
        "state": cell.state,
        "notes": list(cell.notes),
        "paper": _paper(cell, of),
        "twin": _baseline(cell),
        "runs": [
            _run(of, value, run, read(run, layout.select, of.split))
            for value, run in zip(cell.values, cell.runs, strict=True)
        ],
    }


def _paper(cell: Cell, column: Column) -> dict[str, Any] | None:
    if cell.paper is None:
        return None
    # On other data a difference means nothing.
    difference = None if cell.mean is None or cell.paper.data != column.data else cell.mean - cell.paper.value
    return {"source": cell.paper.source, "data": cell.paper.data, "value": cell.paper.value, "difference": difference}


def _baseline(cell: Cell) -> dict[str, Any] | None:
    test = cell.baseline_test
    if test is None:
        return None
    return {
        "label": test.baseline,
        "difference": test.difference,
        "interval": [test.low, test.high],
        "p": test.p,
        "method": test.method,
        "seeds": list(test.seeds),
        "twin_seeds": list(test.baseline_seeds),
        "samples": test.samples,
        "gained": test.gained,
        "lost": test.lost,
    }


def _run(column: Column, value: float, run: Run, scored: ScoredPredictions) -> dict[str, Any]:
    right = scored.right_in(column.subset)
    return {
        "name": run.name,
        "seed": run.seed,
        "commit": run.commit,
        "hash": run.hash,
        "fingerprint": run.fingerprint,
        "preset": run.preset,
        "budget": run.budget,
        "value": value,
        "samples": len(right),
        "right": int(right.sum()),
        "classes": len(scored.classes),
    }


def column_name(column: Column) -> str:
    """Name a column in one word: `clt.overall.accuracy`."""
    return f"{column.protocol}.{column.subset}.{column.metric}"


def find_cell(layout: Layout, row: str, column: str) -> tuple[int, int]:
    """Find a cell by the words of a command; both indices are from 0.

    Args:
        layout: the table's.
        row: its label, its recipe (with `:matched`, its budget) or its number from 1.
        column: its name or its number from 1.

    Raises:
        ValueError: no row or column is meant, or several; the sentence names the nearest or all.
    """
    labels = [layout.full_label(each) for each in layout.rows]
    short = [each.label for each in layout.rows]
    recipes = [each.recipe if each.budget == "paper" else f"{each.recipe}:{each.budget}" for each in layout.rows]
    columns = [column_name(each) for each in layout.columns]
    return _index_of("row", row, labels, recipes, short), _index_of("column", column, columns)


def _index_of(key: str, word: str, *names: list[str]) -> int:
    if word.isdecimal() and 1 <= int(word) <= len(names[0]):
        return int(word) - 1
    for words in names:
        found = [index for index, name in enumerate(words) if name == word]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"{key}={word}: {len(found)} of the table's are so called; legal is also a number, here "
                f"{' or '.join(str(i + 1) for i in found)}"
            )
    raise ValueError(
        f"{key}={word}: the table has none so called; {nearest(word, [name for words in names for name in words])}"
    )


def explanation_lines(fact: dict[str, Any]) -> list[str]:
    """Write what `explain_cell` returns for a terminal, in percent."""
    row, column = fact["row"], fact["column"]
    said = [
        f"table   {fact['table']} (preset {fact['preset']}, {fact['select']} epoch, seeds "
        f"{', '.join(map(str, fact['seeds']))})",
        f"row     {row['label']} (recipe={row['recipe']}, budget {row['budget']}"
        + "".join(f", {key}={value}" for key, value in row["set"].items())
        + ")",
        f"column  {column['name']} (data={column['data']}, trained on {column['train']}, tested on {column['split']})",
        f"value   {_number(fact)}",
    ]
    if fact["paper"]:
        paper = fact["paper"]
        difference = "" if paper["difference"] is None else f", ours minus it {100 * paper['difference']:+.2f}"
        other = "" if paper["data"] == column["data"] else f", on {paper['data']}"
        said.append(f"paper   {100 * paper['value']:.2f} ({paper['source']}{other}{difference})")
    if fact["twin"]:
        twin = fact["twin"]
        counts = (
            "" if twin["gained"] is None else f"; right here alone {twin['gained']}, right there alone {twin['lost']}"
        )
        said.append(
            f"twin    {100 * twin['difference']:+.2f} against {twin['label']} "
            f"[{100 * twin['interval'][0]:+.2f}, {100 * twin['interval'][1]:+.2f}], "
            f"p = {p_text(twin['p'])} ({twin['method']}, {twin['samples']} samples{counts})"
        )
    said.append(f"runs    {len(fact['runs'])}")
    for run in fact["runs"]:
        said.append(
            f"  {run['name']}: {100 * run['value']:.2f}, {run['right']} of {run['samples']} samples right, "
            f"{run['classes']} classes in the split; "
            f"seed {run['seed']}, commit {run['commit']}, hash {run['hash']}, data {run['fingerprint']}"
        )
    return [*said, *(f"note    {note}" for note in fact["notes"])]


def _number(fact: dict[str, Any]) -> str:
    if fact["mean"] is None:
        return f"none: {fact['state']}"
    spread = "" if fact["std"] is None else f" ± {100 * fact['std']:.2f} (standard deviation over seeds)"
    between = (
        ""
        if fact["interval"] is None
        else f", 95 % interval {100 * fact['interval'][0]:.2f} to {100 * fact['interval'][1]:.2f}"
    )
    return f"{100 * fact['mean']:.2f}{spread}{between}"
