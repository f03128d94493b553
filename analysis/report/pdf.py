r"""`report.tex` and `report.pdf`: all tables and figures as one document to read or print."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from analysis.figures.catalogue import NamedFigure
from analysis.tables.latex import escape

ENGINES = {
    "latexmk": (
        "latexmk",
        "-norc",
        "-pdf",
        "-halt-on-error",
        "-interaction=nonstopmode",
        "-no-shell-escape",
        "-outdir=FOLDER",
    ),
    "tectonic": ("tectonic", "--untrusted", "--chatter=minimal", "--keep-logs", "--outdir=FOLDER"),
    "pdflatex": (
        "pdflatex",
        "-halt-on-error",
        "-interaction=nonstopmode",
        "-no-shell-escape",
        "-output-directory=FOLDER",
    ),
}
"""Command -> the words before the file's name, FOLDER for all that it writes; the first that is installed is used."""

LIMIT_S = 300

_HEAD = (
    r"""\documentclass[10pt,a4paper]{article}
\usepackage[T1]{fontenc}
\usepackage[a4paper,margin=16mm]{geometry}
\usepackage{booktabs,graphicx,caption}
\captionsetup{font=small,labelfont=bf}
\ifdefined\pdfsuppressptexinfo \pdfsuppressptexinfo=-1 \pdfinfoomitdate=1 \pdftrailerid{} \fi"""
    r""" % the same bytes every time
\renewcommand{\topfraction}{0.95}\renewcommand{\textfraction}{0.05}\renewcommand{\floatpagefraction}{0.6}
\setcounter{topnumber}{4}\setcounter{totalnumber}{6}
\makeatletter\def\fps@table{!htp}\def\fps@figure{!htp}
\setlength{\@fptop}{0pt}\setlength{\@fpsep}{16pt}\setlength{\@fpbot}{0pt plus 1fil}\makeatother
\renewcommand{\cite}[1][]{\citekeys}\newcommand{\citekeys}[2][]{[#2]}\let\citep\cite\let\citet\cite
% There is no bibliography: keys stand in brackets, and what \cite[see][p. 4]{key} says beside them is left out.
\renewcommand{\arraystretch}{0.94}
\begin{document}
"""
)


def document(title: str, paragraphs: list[str], inputs: list[str], drawn: list[NamedFigure]) -> str:
    r"""Write a LaTeX document of a page of text, the files to \input, and NAME.pdf of each figure, all beside it."""
    lines = [
        _HEAD + rf"\section*{{{escape(title)}}}\suppressfloats",
        *(rf"{escape(said)}\par\smallskip" for said in paragraphs),
    ]
    lines += [rf"\input{{{name}}}" for name in inputs] + [r"\clearpage"]
    for page, scale in pages(drawn):
        lines += [r"\begin{figure}[p]", r"\centering"]
        for number, one in enumerate(page):
            lines += [r"\par\bigskip"] if number else []
            lines += [
                rf"\includegraphics[width={scale * _size(one)[0]:.3f}in]{{{one.name}.pdf}}",
                rf"\caption{{{escape(one.caption)}}}",
            ]
        lines += [r"\end{figure}"]
    return "\n".join([*lines, r"\end{document}", ""])


LINE_IN, PAGE_IN = 6.9, 10.3
"""Inches that a page has for figures, across and down."""

ENLARGED, REDUCED = 1.3, 0.78
"""By how much a figure is enlarged at most to fill the line, and reduced at most to fit a page with others."""


def pages(drawn: Sequence[NamedFigure]) -> list[tuple[list[NamedFigure], float]]:
    """Lay figures out on pages, each on the first with room for it, and join two that fit one page at a smaller scale.

    Returns:
        For each page its figures, and the scale of their sizes on the line.
    """
    filled: list[list[NamedFigure]] = []
    for one in drawn:
        place = next((page for page in filled if _scale([*page, one]) >= 1), None)
        if place is None:
            filled.append([one])
        else:
            place.append(one)
    at = 0
    while at < len(filled):
        fits = {n: _scale([*filled[at], *filled[n]]) for n in range(at + 1, len(filled))}
        best = max(fits, key=lambda n: fits[n], default=at)
        if fits.get(best, 0) >= REDUCED:
            filled[at] += filled.pop(best)
        else:
            at += 1
    return [(page, min(1.0, _scale(page))) for page in filled]


def _scale(page: Sequence[NamedFigure]) -> float:
    """Return the scale at which figures fill a page with their captions."""
    captions = sum(0.45 + 0.16 * (len(one.caption) // 105 + 1) for one in page)
    return (PAGE_IN - captions) / sum(_size(one)[1] for one in page)


def _size(one: NamedFigure) -> tuple[float, float]:
    """Return the inches, across and down, of a figure on the line, where it is alone on its page."""
    across, down = map(float, one.figure.get_size_inches())
    scale = min(LINE_IN / across, ENLARGED)
    return scale * across, scale * down


def typeset(source: Path) -> tuple[Path | None, str]:
    """Make the PDF of a .tex file beside it.

    Returns:
        Its path and an empty sentence; or None and one sentence: what to install, or what TeX complained of, and then
        its log is beside the file.
    """
    engine = next((command for name, command in ENGINES.items() if shutil.which(name)), None)
    if engine is None:
        return (
            None,
            f"{source.name} is not typeset: no latexmk, tectonic or pdflatex is installed (Debian: apt-get "
            f"install latexmk texlive-latex-recommended)",
        )
    made, log = source.with_suffix(".pdf"), source.with_suffix(".log")
    for old in (made, log):
        old.unlink(missing_ok=True)
    # SOURCE_DATE_EPOCH: the date that TeX and the included figures see; without it no two PDFs are the same.
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "1000"}
    with tempfile.TemporaryDirectory() as folder:
        command = [word.replace("FOLDER", folder) for word in engine]
        try:
            done = subprocess.run(
                [*command, source.name],
                cwd=source.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT_S,
            )
            said = next(
                (line for line in done.stdout.splitlines() if line.startswith("!")),
                f"{engine[0]} ended with {done.returncode}",
            )
        except subprocess.TimeoutExpired:
            done, said = None, f"{engine[0]} took longer than {LIMIT_S} s"
        for file in (made, log):
            inside = Path(folder) / file.name
            if inside.exists() and (file == made) == (done is not None and done.returncode == 0):
                shutil.copyfile(inside, file)
    return (
        (made, "")
        if made.exists()
        else (None, f"{source.name} is not typeset: {said}{f'; see {log.name}' if log.exists() else ''}")
    )
