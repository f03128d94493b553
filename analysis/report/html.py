"""One HTML page that needs nothing else: tables that sort, figures, and the runs and recipes behind every number."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from analysis.claims import text as verdicts
from analysis.claims.verdicts import Judged
from analysis.figures.catalogue import NamedFigure
from analysis.inputs.runs import Run
from analysis.report.explain import column_name, explain_cell
from analysis.tables.agreement import agreement_sentence
from analysis.tables.captions import caption, unsaid_marks
from analysis.tables.cells import Cell, Table
from analysis.tables.ledger import EVERY, HEADS, Line, by_table, notes, shown
from analysis.tables.presentation import MISSING, baseline_mark, blocks, legend, minus, p_text, percent, ranks
from recipes.common.json_text import NotJson, parse_json
from recipes.typed_latex import plain_text

COLOURS = 128
"""Colours of an image on the page: enough for a plot, and a third of the bytes."""

NONE = "\N{EN DASH}"
"""What a fact is shown as where the run does not say it."""

TEMPLATE = Path(__file__).resolve().parent / "page.html"


def page(
    title: str,
    tables: list[Table],
    judged: list[Judged],
    drawn: list[NamedFigure],
    images: Path,
    runs: list[Run],
    left_out: list[str],
    ledger: Sequence[Line] = (),
) -> str:
    """Write the whole page. Names of runs, recipes and classes are text in it, whatever they hold.

    Args:
        title: of the page.
        tables: in the order of the page.
        judged: the verdicts on their claims.
        drawn: the figures.
        images: the folder with `NAME.png` of each figure.
        runs: all that were read.
        left_out: sentences about what is not there.
        ledger: what the tables cost.
    """
    place = {run.name: index for index, run in enumerate(runs)}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["minus"] = minus
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        about=(
            f"{len(runs)} run folders, {sum(run.finished for run in runs)} finished; {len(tables)} "
            f"table{'s' * (len(tables) != 1)}, {len(drawn)} figures. Numbers are percent."
        ),
        tables=[_table(table, place, index) for index, table in enumerate(tables)],
        verdicts=[
            {
                "name": each.name,
                "summary": verdicts.summary(each),
                "heads": verdicts.HEADS,
                "sections": verdicts.sections(each),
                "legend": verdicts.legend(each),
            }
            for each in judged
        ],
        figures=[{"name": one.name, "caption": one.caption, **_image(images / f"{one.name}.png")} for one in drawn],
        runs=[
            {
                "name": run.name,
                "finished": run.finished,
                "facts": _provenance(run),
                "recipe": _text(run.path / "recipe.yaml"),
            }
            for run in runs
        ],
        left_out=left_out,
        compute=_compute(ledger),
        facts={"runs": [run.name for run in runs], "tables": [_cell_facts(table, place) for table in tables]},
    )


def _table(table: Table, place: dict[str, int], number: int) -> dict[str, Any]:
    layout, parts, best = table.layout, blocks(table.layout), ranks(table)
    shown = [column for part in parts for column in part.columns]
    starts = {unit[0] for part in parts for unit in part.units}
    rows = []
    for index, (row, cells) in enumerate(zip(layout.rows, table.cells, strict=True)):
        new = index == 0 or row.group != layout.rows[index - 1].group
        rows.append(
            {
                "label": plain_text(row.label),
                "group": plain_text(row.group) if new else None,
                "cells": [_cell(cells[column], best[index][column], place, number, column) for column in shown],
            }
        )
    ranges = ["below a number its 95 % interval"] * any(cell.interval for line in table.cells for cell in line)
    return {
        "name": layout.name,
        "heading": plain_text(caption(table, underlined=False)).rstrip("."),
        "legend": "; ".join([*unsaid_marks(table, underlined=False), *ranges, *legend(table, captioned=True)]),
        "blocks": [(plain_text(part.title), len(part.columns)) for part in parts],
        "subsets": [(plain_text(subset), len(part.metrics)) for part in parts for subset in part.subsets],
        "columns": [
            {
                "name": plain_text(metric),
                "said": plain_text(f"{part.short_title} {subset} {metric}"),
                "lower": layout.columns[column].lower_is_better,
                "first": column in starts,
            }
            for part in parts
            for subset, unit in zip(part.subsets, part.units, strict=True)
            for metric, column in zip(part.metrics, unit, strict=True)
        ],
        "rows": rows,
        "notes": table.told,
        "shape": agreement_sentence(table),
    }


def _cell(cell: Cell, rank: int, place: dict[str, int], number: int, column: int) -> dict[str, Any]:
    text, interval = percent(cell), cell.interval
    return {
        "column": column,
        "text": text or MISSING,
        "spread": "" if cell.std is None else f"± {100 * cell.std:.2f}",
        "value": "" if cell.mean is None else f"{cell.mean:.8f}",
        "range": f"{100 * interval[0]:.1f}\N{EN DASH}{100 * interval[1]:.1f}" if interval and text else "",
        "best": rank == 1,
        "marked": cell.marked,
        "arrow": baseline_mark(cell),
        "href": f"#run-{place[cell.runs[0].name]}"
        if cell.runs
        else f"#notes-{number}"
        if cell.notes
        else f"#table-{number}",
    }


def _compute(ledger: Sequence[Line]) -> dict[str, Any]:
    """Return the ledger as the page shows it: column titles, lines of each table, and what is said below."""
    parts = [(name or EVERY, [shown(line) for line in lines]) for name, lines in by_table(ledger)]
    return {"heads": HEADS, "parts": parts, "notes": notes(ledger) if ledger else []}


def _cell_facts(table: Table, place: dict[str, int]) -> dict[str, Any]:
    """Collect what the page's dialog says of each cell; runs and notes by number, for hundreds of cells share them."""
    notes = {note: index for index, note in enumerate(table.notes)}
    read = functools.lru_cache(maxsize=16)(Run.scored_predictions)  # the cells of a row are of the same few files
    cells = []
    for row in range(len(table.layout.rows)):
        line = []
        for column in range(len(table.layout.columns)):
            fact = explain_cell(table, row, column, read)
            kept = {key: fact[key] for key in ("mean", "std", "interval", "state", "paper", "twin")}
            if kept["twin"]:
                kept["twin"] = {**kept["twin"], "p": p_text(kept["twin"]["p"])}
            said = [notes[note] for note in fact["notes"] if note in notes]
            of = [
                {"run": place[run["name"]], **{key: run[key] for key in ("seed", "value", "right", "samples")}}
                for run in fact["runs"]
            ]
            line.append(_rounded({**kept, "notes": said, "runs": of}))
        cells.append(line)
    layout = table.layout
    return {
        "rows": [layout.full_label(row) for row in layout.rows],
        "columns": [column_name(column) for column in layout.columns],
        "notes": table.notes,
        "cells": cells,
    }


def _rounded(value: Any) -> Any:
    """Round floats to six decimals: a third of the page's bytes, and more than it shows."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def _provenance(run: Run) -> list[tuple[str, str]]:
    """Collect what a reader needs to make the run again, as far as meta.json and done say it."""
    meta, done = _object(run.path / "meta.json"), _object(run.path / "done")
    machine, versions = meta.get("machine"), meta.get("versions")
    facts = [
        ("recipe", f"{run.recipe}, budget {run.budget}"),
        ("data", f"{run.data}, trained on {run.train}; fingerprint {run.fingerprint}"),
        ("seed, preset, hash", f"{run.seed}, {run.preset}, {run.hash}"),
        ("commit", run.commit),
        ("command", " ".join(map(str, meta["argv"])) if isinstance(meta.get("argv"), list) else ""),
        ("ranks", str(meta.get("world", ""))),
        ("machine", ", ".join(f"{key} {value}" for key, value in machine.items()) if isinstance(machine, dict) else ""),
        (
            "versions",
            ", ".join(f"{key} {value}" for key, value in versions.items()) if isinstance(versions, dict) else "",
        ),
        ("decoder", str(meta.get("decoder", ""))),
        (
            "finished",
            f"{done.get('epochs', '?')} epochs, best on val {done.get('best_epoch', NONE)}, {done.get('wall_s', '?')} s"
            if run.finished
            else f"no: {run.ended() or 'it has no file named done'}",
        ),
        ("not as the recipe", "; ".join(run.departures())),
    ]
    return [(key, value) for key, value in facts if value]


def _object(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(file.read_bytes())
    except (OSError, NotJson):
        return {}
    return content if isinstance(content, dict) else {}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"


def _image(file: Path) -> dict[str, Any]:
    """Return a PNG as base64 with few colours, and its size in CSS pixels (files have 200 a printed inch)."""
    buffer = io.BytesIO()
    with Image.open(file) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        width, height = image.size
    return {
        "data": base64.b64encode(buffer.getvalue()).decode(),
        "width": round(width * 0.7),
        "height": round(height * 0.7),
    }
