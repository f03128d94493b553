"""The report: one document of all tables and figures that compiles for real, whatever the names in it, and repeats byte
for byte.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from analysis.figures.catalogue import NamedFigure
from analysis.figures.style import save_figure
from analysis.report import pdf
from analysis.report.pdf import document, typeset

HOSTILE = [
    "50% & a_b #1 $x$ {y} \\z ~ ^",
    '[1ex] * <a|b> "q" `t\'',
    "\\input{/etc/passwd}",
    "\\write18{touch gone}",
    "é ± ß 数字 ∑",
    "x" * 300,
    "%",
    "\\",
]

needs_tex = pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="pdflatex is not installed; the Debian packages latexmk and texlive-latex-recommended have it (`make "
    "system`)",
)


def make_tables(folder: Path) -> Path:
    """A report of one table and a figure for each hostile caption."""
    folder.mkdir()
    (folder / "table.tex").write_text(
        "\\begin{table}\\caption{T \\citep[see][p. 4]{one} \\citet[p. 5]{two} \\cite{three}}"
        "\\begin{tabular}{l}\\toprule a\\\\\\bottomrule\\end{tabular}\\end{table}\n"
    )
    drawn = []
    for number, caption in enumerate(HOSTILE):
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([number])
        save_figure(figure, folder, f"plot{number}")
        drawn.append(NamedFigure(f"plot{number}", caption, figure))
    source = folder / "report.tex"
    source.write_text(document("A title with _ and &", HOSTILE, ["table.tex"], drawn), encoding="utf-8")
    return source


@needs_tex
def test_report_compiles_and_repeats(tmp_path: Path) -> None:
    """Hostile text compiles, leaves nothing but the PDF beside the source, and two runs at other places give the same
    bytes.
    """
    made = []
    for name in ("one", "two"):
        source = make_tables(tmp_path / name)
        before = {file.name for file in source.parent.iterdir()}
        pdf, said = typeset(source)
        assert pdf is not None and said == ""
        assert {file.name for file in source.parent.iterdir()} - before == {"report.pdf"}
        made.append(pdf.read_bytes())
    assert made[0] == made[1]
    assert not (tmp_path / "one" / "gone").exists()


@needs_tex
def test_report_holds_every_caption(tmp_path: Path) -> None:
    """What stands in a caption stands in the PDF, character by character where the fonts have it."""
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed; the Debian package poppler-utils has it (`make system`)")
    pdf, _ = typeset(make_tables(tmp_path / "one"))
    text = " ".join(
        subprocess.run(
            ["pdftotext", "-layout", str(pdf), "-"], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    for part in ("50% & a_b #1 $x$ {y} \\z", "\\input{/etc/passwd}", "\\write18{touch gone}", "A title with _ and &"):
        assert part in text
    assert "T [one] [two] [three]" in text
    assert "root:" not in text


@needs_tex
def test_tables_stand_below_each_other(tmp_path: Path) -> None:
    """Tables that share a page leave no hole between them, wherever the next one has to begin."""
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed; the Debian package poppler-utils has it (`make system`)")
    heights_mm = {"Alpha": 200, "Beta": 90, "Gamma": 50, "Delta": 200}
    for name, height in heights_mm.items():
        (tmp_path / f"{name}.tex").write_text(
            f"\\begin{{table}}\\caption{{{name}}}\\rule{{1mm}}{{{height}mm}}\\end{{table}}\n"
        )
    source = tmp_path / "report.tex"
    source.write_text(document("Title", [], [f"{name}.tex" for name in heights_mm], []))
    made, _ = typeset(source)
    said = subprocess.run(["pdftotext", "-bbox", str(made), "-"], capture_output=True, text=True, check=True).stdout
    page_of, top_of = {}, {}
    for page, content in enumerate(said.split("<page ")):
        for name in heights_mm:
            if found := re.search(rf'yMin="([0-9.]+)"[^>]*>{name}<', content):
                page_of[name], top_of[name] = page, float(found[1]) / 72 * 25.4
    assert page_of["Beta"] == page_of["Gamma"] != page_of["Delta"]
    assert top_of["Gamma"] - top_of["Beta"] < heights_mm["Beta"] + 20


def fake(folder: Path, name: str, script: str) -> None:
    """A command of that name, on a PATH of its own."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(stat.S_IRWXU)


@pytest.mark.parametrize(
    "script, said",
    [
        ("exit 3", "report.tex is not typeset: pdflatex ended with 3"),
        ("echo '! Undefined control sequence.'; exit 1", "report.tex is not typeset: ! Undefined control sequence."),
        (
            "for last; do :; done; for w; do case $w in -output-directory=*) echo why > ${w#*=}/report.log;; esac; "
            "done; exit 1",
            "report.tex is not typeset: pdflatex ended with 1; see report.log",
        ),
        ("exec sleep 30", "report.tex is not typeset: pdflatex took longer than 1 s"),
    ],
)
def test_what_tex_complains_of_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    """A TeX that fails, complains or hangs costs the PDF, also an old one, and says why; the source stays, and the log
    where there is one.
    """
    fake(tmp_path / "bin", "pdflatex", script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(pdf, "ENGINES", {"pdflatex": pdf.ENGINES["pdflatex"]})
    monkeypatch.setattr(pdf, "LIMIT_S", 1 if "sleep" in script else 20)
    (tmp_path / "report.tex").write_text("x")
    (tmp_path / "report.pdf").write_text("an old one")
    assert typeset(tmp_path / "report.tex") == (None, said)
    assert {file.name for file in tmp_path.iterdir()} == {"bin", "report.tex"} | (
        {"report.log"} if "see" in said else set()
    )


def test_without_tex_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine: the source stays, and the sentence names Debian's packages."""
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "report.tex").write_text("x")
    pdf, said = typeset(tmp_path / "report.tex")
    assert (
        pdf is None
        and "apt-get install latexmk texlive-latex-recommended" in said
        and (tmp_path / "report.tex").exists()
    )


def test_engines_are_tried_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """latexmk before tectonic before pdflatex; what it writes to the folder that it is told becomes the report."""
    for name in ("pdflatex", "tectonic"):
        fake(
            tmp_path / "bin",
            name,
            f"for w; do case $w in --outdir=*|-output-directory=*) echo {name} > ${{w#*=}}/report.pdf;; esac; done",
        )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    (tmp_path / "report.tex").write_text("x")
    pdf, _ = typeset(tmp_path / "report.tex")
    assert pdf is not None and pdf.read_text() == "tectonic\n"
