"""Verdicts as text: lines for a terminal, CSV, Markdown, LaTeX, and the same cells for the page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis.claims.statements import Pair
from analysis.claims.verdicts import WORDS, Judged, Verdict
from analysis.inputs import frame
from analysis.stats.bootstrap import ALPHA, FEWEST_SEEDS
from analysis.stats.power import MOST_SEEDS, POWER
from analysis.tables import published
from analysis.tables.latex import escape, latex_float, tabular
from analysis.tables.presentation import MISSING, minus, p_text
from analysis.tables.text import plain, wrap_lines

HEADS = ("under", "paper", "ours", "95 %", "p", "verdict", "seeds", "finds", "needs")
_EMPTY = "nothing"


class Section(NamedTuple):
    """The comparisons of one claim on one data set."""

    name: str
    says: str
    lines: list[tuple[Verdict, tuple[str, ...]]]
    """(comparison, the cells that `HEADS` name)."""

    @property
    def title(self) -> str:
        return f"{self.name}: {self.says}"


def sections(judged: Judged) -> list[Section]:
    """Return the verdicts as plain text, by data set and claim in the order of the table."""
    of_part: dict[tuple[str, str], list[Verdict]] = {}
    for data in dict.fromkeys(each.column.data for each in judged.verdicts):
        for each in judged.verdicts:
            if each.column.data == data:
                of_part.setdefault((data, each.of.claim), []).append(each)
    several = len({data for data, _ in of_part}) > 1
    return [
        Section(claim + f", {data}" * several, members[0].of.says, [(each, _cells(each)) for each in members])
        for (data, claim), members in of_part.items()
    ]


def _cells(each: Verdict) -> tuple[str, ...]:
    found = each.found
    return (
        each.column.protocol.upper(),
        MISSING if each.of.paper is None else _points(each.of.paper) + "°" * each.paper_below_noise,
        _points(found.value) if found else MISSING,
        " to ".join(map(_points, found.interval)) if found else MISSING,
        _p(each),
        each.word,
        _seeds(each),
        MISSING if each.smallest is None else f"{100 * each.smallest:.2f}",
        _needed(each),
    )


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"


def _p(each: Verdict) -> str:
    if each.holm is None:
        return MISSING
    return "<.0001" if each.holm < 1e-4 else p_text(each.holm)


def _seeds(each: Verdict) -> str:
    if each.found is None:
        return MISSING
    return "|".join(map(str, dict.fromkeys(each.found.runs))) + " pairs" * each.found.paired


def _needed(each: Verdict) -> str:
    """Say how many seeds would decide an undecided comparison."""
    if each.p is None or each.word != "undecided":
        return MISSING
    return f">{MOST_SEEDS}" if each.seeds is None else str(each.seeds)


def summary(judged: Judged) -> str:
    """Count the verdicts, in a sentence."""
    counts = ", ".join(f"{number} {word}" for word in WORDS if (number := judged.count(word)))
    return f"{judged.name}: of {len(judged.verdicts)} comparisons of the paper's claims: {counts or _EMPTY}"


def legend(judged: Judged) -> list[str]:
    """Explain the columns, then what the verdicts take for granted."""
    paired = any(each.found is not None and each.found.paired for each in judged.verdicts)
    said = [
        "differences in points of overall accuracy, with their 95 % interval over seeds and test samples (of one seed: "
        "over test samples)",
        f"p: corrected by Holm's method over the {len(judged.verdicts)} comparisons of this table; intervals, and "
        "verdicts by them, are not corrected",
        f"reproduced: the claimed sign with p < {ALPHA}; not reproduced: the opposite sign with p < {ALPHA}, or an "
        "interval wholly below half the paper's difference; else undecided, and always with fewer than "
        f"{FEWEST_SEEDS} seeds",
        *(["pairs: one row's runs start from the other's, so run is compared with run"] if paired else []),
        *_margins(judged),
        f"finds: the smallest true difference found with a chance of {POWER} by these seeds and samples at the level "
        "that the correction leaves; needs: seeds a row that would decide, were difference and spread those seen",
    ]
    return [*said, *filter(None, [_noise(judged)]), *judged.notes]


def _margins(judged: Judged) -> list[str]:
    """Explain the verdicts on claims of `not above`, where there are any."""
    margins: dict[Pair, dict[str, None]] = {}
    for of in (each.of for each in judged.verdicts):
        if of.margin_of is not None:
            margins.setdefault(of.margin_of, {})[f"{100 * of.margin:.2f}"] = None
    return [
        f"not above: reproduced where surely less than {', '.join(points)} points above, half of what {one} is above "
        f"{other} in the paper; not reproduced where the interval is wholly above 0, and above what the paper has"
        for (one, other), points in margins.items()
    ]


def _noise(judged: Judged) -> str:
    """Explain the mark of the paper's differences below published noise, where one has it."""
    marked = [each for each in judged.verdicts if each.paper_below_noise]
    known = {
        (each.column.protocol.upper(), published.noise(each.of.paper_data or "", each.column.protocol, "accuracy"))
        for each in marked
    }
    return published.noise_sentence({protocol: noise for protocol, noise in known if noise})


def terminal(judged: Judged) -> str:
    """Write the verdicts as lines for a terminal: a comparison, and below it a line a protocol."""
    parts = sections(judged)
    every = [HEADS, *(cells for part in parts for _, cells in part.lines)]
    widths = [max(len(text) for text in texts) for texts in zip(*every, strict=True)]

    def joined(cells: Sequence[str]) -> str:
        return "    " + "  ".join(f"{text:>{width}}" for text, width in zip(cells, widths, strict=True))

    lines = [summary(judged), "", joined(HEADS)]
    for part in parts:
        lines += wrap_lines(part.title)
        for label, members in itertools.groupby(part.lines, key=lambda line: line[0].label):
            lines += [f"  {label}", *(joined(cells) for _, cells in members)]
    lines.append("")
    for note in legend(judged):
        lines += wrap_lines(note)
    return "\n".join([*lines, ""])


def markdown(judged: Judged) -> str:
    """Write the verdicts as Markdown, a table a claim."""
    lines = [f"# {summary(judged)}", ""]
    for part in sections(judged):
        lines += [f"**{part.title}**", "", f"| | {' | '.join(HEADS)} |", f"|---|{'---:|' * len(HEADS)}"]
        lines += [f"| {plain(each.label)} | {' | '.join(map(plain, cells))} |" for each, cells in part.lines]
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in legend(judged))]) + "\n"


def latex(judged: Judged) -> str:
    r"""Write the verdicts as a LaTeX float for `\input`, which needs the packages booktabs and graphicx."""
    parts = sections(judged)
    body = [(part.name, _latex_lines(part)) for part in parts]
    heads = [[(escape(head), 1) for head in ("", *HEADS)]]
    spec = "llrrrrlrrr"
    return latex_float(
        "table*",
        f"{summary(judged)}.",
        f"tab:{judged.name}:verdicts",
        [tabular(spec, heads, body, first="Claim")],
        [*dict.fromkeys(part.title for part in parts), *legend(judged)],
    )


def _latex_lines(part: Section) -> list[tuple[str, list[str]]]:
    """Return (label, cells) of a section's lines; the labels of a comparison stand at its first protocol alone."""
    lines, before = [], ""
    for each, cells in part.lines:
        new = each.label != before
        lines.append((each.row * new, [escape(each.relation * new), *map(_latex, cells)]))
        before = each.label
    return lines


def _latex(cell: str) -> str:
    """Write a cell as LaTeX, with a minus sign before negative numbers."""
    return escape(minus(cell))


def csv(judged: Judged) -> str:
    """Write one line for each comparison; differences in points, four decimals."""
    return frame.csv(pd.DataFrame([_record(judged, each) for each in judged.verdicts], dtype=object))


def _record(judged: Judged, each: Verdict) -> dict[str, Any]:
    found = each.found
    low, high = found.interval if found else (None, None)
    return {
        "table": judged.name,
        "claim": each.of.claim,
        "comparison": each.label,
        "data": each.column.data,
        "protocol": each.column.protocol,
        "metric": each.column.metric,
        "paper_data": each.of.paper_data,
        "paper": _percent(each.of.paper),
        "paper_below_noise": int(each.paper_below_noise),
        "margin": None if each.of.above else _percent(each.of.margin),
        "ours": _percent(found.value if found else None),
        "low": _percent(low),
        "high": _percent(high),
        "error": _percent(found.error if found else None),
        "seeds": found.runs[0] if found else 0,
        "other_seeds": found.runs[-1] if found else 0,
        "paired": int(found is not None and found.paired),
        "samples": found.samples if found else None,
        "sources": found.sources if found else None,
        "p": None if each.p is None else float(f"{each.p:.4g}"),
        "holm": None if each.holm is None else float(f"{each.holm:.4g}"),
        "verdict": each.word,
        "why": each.why,
        "finds": _percent(each.smallest),
        "needs": each.seeds,
    }


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 4)
