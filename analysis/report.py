r"""`report.tex` and `report.pdf`: all tables and figures as one document to read or print."""

import os
import shutil
import subprocess
from pathlib import Path

from analysis.gallery import Drawn
from analysis.tables import Table
from analysis.text import escape

ENGINES = {
    "latexmk": ("latexmk", "-pdf", "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape"),
    "tectonic": ("tectonic", "--untrusted", "--chatter=minimal"),
    "pdflatex": ("pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape"),
}
"""Command -> what stands before the file's name; the first that is installed is used."""

LIMIT_S = 300

_HEAD = r"""\documentclass[10pt,a4paper]{article}
\usepackage[T1]{fontenc}
\usepackage[a4paper,margin=18mm]{geometry}
\usepackage{booktabs,graphicx,caption}
\captionsetup{font=small,labelfont=bf}
\ifdefined\pdfsuppressptexinfo \pdfsuppressptexinfo=-1 \pdfinfoomitdate=1 \pdftrailerid{} \fi % the same bytes every time
\renewcommand{\topfraction}{0.95}\renewcommand{\textfraction}{0.05}\renewcommand{\floatpagefraction}{0.6}
\setcounter{topnumber}{4}\setcounter{totalnumber}{6}
\begin{document}
"""


def document(title: str, about: str, tables: list[Table], drawn: list[Drawn]) -> str:
    r"""A LaTeX document that \inputs NAME.tex of each table and includes NAME.pdf of each figure, all beside it."""
    lines = [_HEAD + rf"\section*{{{escape(title)}}}", escape(about), ""]
    for table in tables:
        lines += [rf"\input{{{table.layout.name}}}", r"\clearpage"]
    for one in drawn:
        lines += [
            r"\begin{figure}[p]", r"\centering", rf"\includegraphics[width=\linewidth,height=0.86\textheight,keepaspectratio]{{{one.name}.pdf}}",
            rf"\caption{{{escape(one.caption)}}}", r"\end{figure}",
        ]  # fmt: skip
    return "\n".join([*lines, r"\end{document}", ""])


def typeset(source: Path) -> tuple[Path | None, str]:
    """Makes the PDF of a .tex file beside it, leaving nothing else behind.

    Returns its path and nothing to say, or None and one sentence: what to install, or what TeX complained of.
    """
    engine = next((command for name, command in ENGINES.items() if shutil.which(name)), None)
    if engine is None:
        return None, f"{source.name} is not typeset: no latexmk, tectonic or pdflatex is installed (Debian: apt-get install latexmk texlive-latex-recommended)"
    before = set(source.parent.iterdir())
    # SOURCE_DATE_EPOCH: the date that TeX and the included figures see; without it no two PDFs are alike.
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "1000"}
    try:
        done = subprocess.run([*engine, source.name], cwd=source.parent, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=LIMIT_S)
        said = next((line for line in done.stdout.splitlines() if line.startswith("!")), f"{engine[0]} ended with {done.returncode}")
    except subprocess.TimeoutExpired:
        done, said = None, f"{engine[0]} took longer than {LIMIT_S} s"
    made = source.with_suffix(".pdf")
    ok = done is not None and done.returncode == 0 and made.exists()
    for file in set(source.parent.iterdir()) - before - ({made} if ok else set()):
        if file.stem == source.stem and (file.suffix != ".log" or ok):  # a log stays where it explains a failure
            file.unlink()
    return (made, "") if ok else (None, f"{source.name} is not typeset: {said}; see {source.stem}.log")
