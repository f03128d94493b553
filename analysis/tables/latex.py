r"""A filled table as LaTeX: it needs booktabs and graphicx only, which are in any TeX installation.

A table keeps its natural size where that fits `\linewidth` and is shrunk to it where not.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence

from analysis.tables.captions import caption, unsaid_marks
from analysis.tables.cells import Cell, Table
from analysis.tables.presentation import (
    MISSING,
    Block,
    baseline_mark,
    blocks,
    legend_and_notes,
    percent,
    ranks,
    row_groups,
    single_subset,
)
from recipes.typed_latex import LATEX, SYMBOLS, plain_text

_GREEK = {
    unicodedata.name(letter).rpartition(" ")[2].lower().replace("lamda", "lambda"): letter
    for letter in "αβγδεζηθικλμνξπρστυφχψω"
}
_LATEX = {
    # In math mode: the text symbols need fonts that a small TeX installation lacks.
    **{sign: rf"\ensuremath{{\{name}}}" for name, sign in {**SYMBOLS, **_GREEK}.items()},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "†": r"\ensuremath{^\dagger}",
    "$": r"\ensuremath{\$}",
    "\N{MINUS SIGN}": r"\ensuremath{-}",
    "↑": r"\ensuremath{\scriptstyle\uparrow}",
    "↓": r"\ensuremath{\scriptstyle\downarrow}",
    "°": r"\ensuremath{^\circ}",
    "\N{EN DASH}": "--",
    "—": "---",
    "“": "``",
    "”": "''",
    "\N{LEFT SINGLE QUOTATION MARK}": "`",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "…": r"\ldots{}",
    "ß": r"\ss{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    # Braced: after a row's end `\\` a bare [ or * would be read as its argument.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    **{character: "\\" + character for character in "&%#_{}"},
}
_ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc", strict=True)
)
PACKAGES = r"% \usepackage{booktabs,graphicx}"


def escape(text: str) -> str:
    """Write any text as ASCII LaTeX that prints it; white space becomes one blank.

    What the fonts of a small TeX installation lack is written as its code point, so that no name can stop a document.
    """
    return "".join(map(_escaped, " ".join(unicodedata.normalize("NFC", text).split())))


def latex_text(text: str) -> str:
    """Write text whose maths and citations are LaTeX as typed (see `recipes.typed_latex.LATEX`), ASCII as `escape`."""
    made, at = "", 0
    for found in LATEX.finditer(text):
        made += _between(text[at : found.start()])
        made += "".join(each if each.isascii() else _escaped(each) for each in found[0])
        at = found.end()
    return made + _between(text[at:])


def _between(text: str) -> str:
    """Escape text beside LaTeX: the blanks at its ends are kept."""
    return f"{' ' * text[:1].isspace()}{escape(text)}{' ' * (len(text) > 1 and text[-1].isspace())}"


def latex_label(label: str) -> str:
    """Write a label or a group's name, whole: in a paper nothing of it may go."""
    return latex_text(" ".join(label.split()))


def _escaped(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    if character.isascii() and character.isprintable():
        return character
    dotless = {"i": r"\i", "j": r"\j"}
    base, accent = (*unicodedata.normalize("NFD", character), "", "")[:2]
    if base.isascii() and base.isalpha() and accent in _ACCENTS and len(unicodedata.normalize("NFD", character)) == 2:
        return f"\\{_ACCENTS[accent]}{{{dotless.get(base, base)}}}"
    return rf"\texttt{{U+{ord(character):04X}}}"


def latex(table: Table, stacked: bool = False) -> str:
    r"""Write a float for `\input`, which needs the packages booktabs and graphicx.

    Args:
        table: a filled table.
        stacked: one protocol above the other in a `table`, readable in a narrow column; else side by side in a
            `table*`, as in the paper.
    """
    every = blocks(table.layout)
    parts = [[block] for block in every] if stacked and not single_subset(every) else [every]
    tabulars = [_tabular(table, part) for part in parts]
    notes = unsaid_marks(table)
    if table.notes or any(baseline_mark(cell) for line in table.cells for cell in line):
        notes += legend_and_notes(table, brief=True, captioned=True)
    return latex_float(
        "table" if stacked else "table*",
        caption(table),
        f"tab:{table.layout.name}{':stacked' if stacked else ''}",
        tabulars,
        notes,
    )


def bare_tabular(table: Table) -> str:
    r"""Write the tabular of `latex` alone, to `\input` into a float of one's own; the same two packages."""
    return "\n".join([PACKAGES, *_tabular(table, blocks(table.layout)), ""])


def latex_float(float_: str, said: str, label: str, tabulars: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Put tabulars (lists of lines) into a float, each at its natural width or shrunk to the line, with notes below."""
    lines = [
        PACKAGES,
        rf"\begin{{{float_}}}",
        r"\centering\footnotesize",
        rf"\caption{{{latex_text(said)}}}",
        rf"\label{{{label}}}",
    ]
    lines += [r"\setlength{\tabcolsep}{3.5pt}"]
    for number, tabular in enumerate(tabulars):
        lines += [r"\par\medskip"] if number else []
        lines += [
            r"\sbox0{%",
            *tabular,
            "}%",
            r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
        ]
    if any(r"\texttt{U+" in line for line in lines):
        notes = [*notes, "U+ and a number stand for a character that the fonts of a small TeX installation lack"]
    if notes:
        lines += [r"\par\smallskip\begin{minipage}{\linewidth}\scriptsize\raggedright"]
        lines += [rf"{escape(note)}.\par" for note in notes]
        lines += [r"\end{minipage}"]
    return "\n".join([*lines, rf"\end{{{float_}}}", ""])


def _tabular(table: Table, part: Sequence[Block]) -> list[str]:
    order = [index for block in part for index in block.columns]
    places = ranks(table)
    spec = "".join(
        "r" if i == 0 else r"@{\hspace{3pt}$|$\hspace{3pt}}r"
        for block in part
        for unit in block.units
        for i in range(len(unit))
    )
    body = [
        (
            group,
            [
                (table.layout.rows[row].label, [_cell(table.cells[row][index], places[row][index]) for index in order])
                for row in rows
            ],
        )
        for group, rows in row_groups(table.layout)
    ]
    return tabular(spec, _heads(part), body)


def _heads(part: Sequence[Block]) -> list[list[tuple[str, int]]]:
    """Return the header levels of blocks side by side: protocols, metrics, subsets; as few as say it."""
    metrics = [
        latex_text(f"<{' | '.join(block.metrics)}>" if len(block.metrics) > 1 else block.metrics[0]) for block in part
    ]
    widths = [len(block.columns) for block in part]
    subsets = [(head_text(name), len(block.metrics)) for block in part for name in block.subsets]
    if len(part) == 1:
        return [[(rf"{latex_text(part[0].title)} \quad {metrics[0]}", widths[0])], subsets]
    if single_subset(part):  # a header wider than its numbers would tear them apart
        return [
            [(metrics[0], sum(widths))],
            [(latex_text(block.short_title), width) for block, width in zip(part, widths, strict=True)],
            *([] if part[0].is_plain else [subsets]),
        ]
    titles = itertools.groupby(zip(part, widths, strict=True), key=lambda entry: entry[0].title)
    return [
        [(latex_text(title), sum(width for _, width in members)) for title, members in titles],
        list(zip(metrics, widths, strict=True)),
        subsets,
    ]


Body = Sequence[tuple[str, Sequence[tuple[str, Sequence[str]]]]]
"""[(group, [(label, LaTeX of the cells)])], names as the layout types them."""


def tabular(spec: str, heads: Sequence[Sequence[tuple[str, int]]], body: Body, first: str = "Method") -> list[str]:
    """Write the lines of a tabular.

    Args:
        spec: the columns behind the labels'.
        heads: header levels, each of [(LaTeX, how many columns it spans)].
        body: groups are turned at the left where all are long enough for their names, else each is a line; one without
            a name has neither.
        first: the header over the labels.
    """
    named = any(group for group, _ in body)
    upright = named and all(len(plain_text(group)) <= 2.4 * len(rows) for group, rows in body)
    before, left = (" & ", 2) if upright else ("", 1)
    lines = [rf"\begin{{tabular}}{{{'c' * upright}l{spec}}}", r"\toprule"]
    for depth, head in enumerate(heads):
        start, rules, cells = left + 1, [], []
        for text, span in head:
            cells.append(rf"\multicolumn{{{span}}}{{c}}{{{text}}}" if span > 1 else text)
            rules.append(rf"\cmidrule(lr){{{start}-{start + span - 1}}}")
            start += span
        last = depth == len(heads) - 1
        lines.append(f"{before}{first if last else ''} & {' & '.join(cells)} \\\\")
        lines += [" ".join(rules)] if depth == 0 and not last else []
    for group, rows in body:
        lines.append(r"\midrule")
        if named and not upright:
            width = left + sum(span for _, span in heads[-1])
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{latex_label(group)}}}}} \\")
        for place, (label, shown) in enumerate(rows):
            name = _rotated_group(group, len(rows)) if upright and place == len(rows) // 2 else ""
            lines.append(f"{name}{before}{latex_label(label)} & {' & '.join(shown)} \\\\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _rotated_group(group: str, rows: int) -> str:
    """Turn a group's name and put it over the middle of its rows: set in the lower middle one, with no height."""
    shift = r".5ex" if rows % 2 else r"\dimexpr.5\baselineskip+.5ex\relax"
    return rf"\smash{{\raisebox{{{shift}}}{{\rotatebox[origin=c]{{90}}{{\textit{{{latex_text(group)}}}}}}}}}"


def head_text(name: str) -> str:
    """Write the name over a column; `Many_C` has its index below."""
    indexed = re.fullmatch("([A-Za-z]+)_([A-Z])", name)
    return f"{indexed[1]}$_{indexed[2]}$" if indexed else latex_text(name)


def latex_mark(sign: str) -> str:
    """Write a mark as LaTeX; nothing for nothing."""
    return _LATEX.get(sign, "")


def _cell(cell: Cell, place: int) -> str:
    text = percent(cell)
    marks = latex_mark("†" * cell.marked) + latex_mark(baseline_mark(cell))
    if text is None:
        return MISSING + marks
    text = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(place, text)
    return text + ("" if cell.std is None else rf"{{\tiny$\pm${100 * cell.std:.2f}}}") + marks
