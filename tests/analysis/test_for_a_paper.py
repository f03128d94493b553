"""What a table needs to go into a paper: a caption and titles of its own, maths and citations; figures without boxes
and without empty panels; and a report whose pages are filled.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.__main__ import main
from analysis.figures import figure5, fonts, learning_curves, long_tail
from analysis.figures.catalogue import NamedFigure, draw_all, figure5_caption
from analysis.figures.methods import studies
from analysis.figures.progress import progress
from analysis.figures.style import EQUAL_LOOK, save_figure
from analysis.inputs.frame import tidy
from analysis.inputs.runs import load_run, load_runs
from analysis.report import html, pdf
from analysis.tables import captions, latex, presentation, text
from analysis.tables.cells import Table, fill_table
from recipes.resolve import dump
from recipes.table_layout import available, load_layout
from recipes.typed_latex import plain_text
from slurm.planning.requested_runs import requested_runs
from slurm.site_file import Site
from tests.helpers.folders import NAMES, write_rich_run
from tests.helpers.paths import PROJECT
from tests.helpers.tables import HALF, MOST, ROWS, layout, table, write_run

PDFLATEX = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (`make system`)")
TYPED: dict[str, Any] = {
    "caption": r"At $\lambda=\frac{1}{2}$ as in \cite{tang22}, 50% & a_b",
    "titles": {"clt": r"Class tail $\pi$", "many": "Head_1", "accuracy": "Acc.", "digits_glt": "Digits"},
    "rows": [
        {**ROWS[0], "label": r"ERM~\cite{vapnik91,b}", "group": r"Base $\alpha$"},
        {**ROWS[1], "label": r"+ IFL ($\mathcal{L}_{c}$, $\eta\times2$) & 5$"},
    ],
}


def typed(folder: Path) -> Table:
    write_run(folder, "plain", cbl=HALF)
    write_run(folder, "plain_ifl", cbl=MOST)
    return table(folder, seeds=[0], **TYPED)


# ------------------------------------------------------------------------------------------------------ LaTeX as typed
@pytest.mark.parametrize(
    ("label", "plain"),
    [
        (r"IFL ($\alpha=.5$)", "IFL (\N{GREEK SMALL LETTER ALPHA}=.5)"),
        (r"$\Delta_{c}^{2}\le\frac{1}{2}\,\mathcal{L}$", "Δ_c^2≤1/2 L"),
        (r"$\lambda \times 3$", "λ×3"),
        (r"TADE~\cite{a22,b}, \citep[p.~3]{c}", "TADE [a22,b], [c]"),
        (r"\cite{a} ERM \cite{b}\citet{c}, \citep[see][p. 4]{d}", "[a] ERM [b] [c], [d]"),
        (r"acc $\uparrow$, $\downarrow$, $\checkmark$", "acc ↑, ↓, ✓"),
        (r"$A\cup B$, $\mp1$, $\sum_i x_i$, $\sqrt{2}$", "A\N{UNION}B, ∓1, ∑_i x_i, √2"),
        (r"$\sqrt{a+b}$, $\left(\hat{x}\right)$", "√(a+b), (x)"),
        (r"$\log p$, $\Bumpeq$, $\log\alpha$", "log p, Bumpeq, log\N{GREEK SMALL LETTER ALPHA}"),
        ("costs $5 and $6", "costs $5 and $6"),
        (r"a $ b, \$x, \alpha, 5$", r"a $ b, \$x, \alpha, 5$"),
    ],
)
def test_labels_read_without_latex(label: str, plain: str) -> None:
    """Maths and citations have a readable form; a dollar that opens no maths is a dollar, and all else is text."""
    assert plain_text(label) == plain


def test_maths_and_citations_are_latex_as_typed(tmp_path: Path) -> None:
    """Labels, groups, titles and the caption keep maths and citations, and what is beside them is escaped."""
    made = typed(tmp_path)
    written = latex.latex(made)
    for part in (
        r"\caption{At $\lambda=\frac{1}{2}$ as in \cite{tang22}, 50\% \& a\_b}",
        r"\textit{Base $\alpha$}",
        r"ERM~\cite{vapnik91,b} &",
        r"+ IFL ($\mathcal{L}_{c}$, $\eta\times2$) \& 5\ensuremath{\$} &",
        r"{Class tail $\pi$, Digits}",
        r"Head\_1",
        "Acc.",
    ):
        assert part in written
    assert latex.latex_text(r"ERM_1 \citep[see][p. 4]{d}") == r"ERM\_1 \citep[see][p. 4]{d}"
    label = made.layout.full_label(made.layout.rows[1], latex=True)
    assert label == rf"{TYPED['rows'][0]['label']} {TYPED['rows'][1]['label']}"
    for shown in (text.terminal(made), text.markdown(made), text.csv(made)):
        assert "[vapnik91,b]" in shown.replace("\\", "") and "$" not in shown.replace("5\\$", "").replace("5$", "")
    assert "Class tail π: Digits, glt to test_cbl" in text.terminal(made)


@pytest.mark.parametrize("subset", ["overall", "few"])
@pytest.mark.parametrize("protocols", [("clt",), ("clt", "glt")])
def test_every_title_stands_over_its_column(subset: str, protocols: tuple[str, ...], tmp_path: Path) -> None:
    """In every form, of one data set and one subset, too; without titles a subset other than overall has its name."""
    write_run(tmp_path, "plain")
    columns = [
        {"data": "digits_glt", "train": "glt", "protocol": one, "subset": subset, "metric": "accuracy"}
        for one in protocols
    ]
    said = {subset: "Part of it", "accuracy": "Share right", "digits_glt": "Digits", **dict.fromkeys(protocols, "Tail")}
    made, plain = (table(tmp_path, rows=ROWS[:1], seeds=[0], columns=columns, titles=titles) for titles in (said, {}))
    page = html._table(made, {"plain": 0, made.cells[0][0].runs[0].name: 0}, 0)
    forms = [latex.latex(made), latex.latex(made, stacked=True), text.markdown(made), text.terminal(made), str(page)]
    assert [[word for word in said.values() if word not in form] for form in forms] == [[]] * len(forms)
    heads = latex.bare_tabular(plain).partition(r"\midrule")[0]
    assert ("Few" in heads) == (subset == "few") and "digits" not in heads


@PDFLATEX
def test_a_bare_tabular_compiles_in_a_float_of_ones_own(tmp_path: Path) -> None:
    """The tabular is that of the float, and compiles with maths and citations in it."""
    made = typed(tmp_path / "runs")
    bare = latex.bare_tabular(made)
    assert bare.splitlines()[1:] == latex.latex(made).partition("\\sbox0{%\n")[2].partition("\n}%")[0].splitlines()
    (tmp_path / "t.tex").write_text(bare)
    body = r"\begin{table}\caption{Mine}\input{t}\end{table}"
    (tmp_path / "d.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}{body}\end{{document}}"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "d.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("maths", [r"$\frac$", "$x_$", "${x$", "$}x{$", "$a&b$", "$50%$", r"$\mathcal$"])
def test_maths_that_stops_tex_is_refused(maths: str) -> None:
    """In one sentence that names the place and the maths."""
    with pytest.raises(ValueError, match=f"{re.escape(maths)} is no maths that LaTeX can set"):
        layout(rows=[{**ROWS[0], "label": f"A {maths}"}])
    with pytest.raises(ValueError, match=f"caption, titles: {re.escape(maths)} is no maths"):
        layout(titles={"clt": maths})


@pytest.mark.parametrize("cite", [r"\cite", r"\citep{}", r"\citet[a][b][c]{d}", r"\citeauthor{a}", r"\cite{a"])
def test_a_citation_that_would_be_printed_as_typed_is_refused(cite: str) -> None:
    """In one sentence with what is legal; one with a sign that stops TeX in its brackets, too."""
    for made in ({"caption": f"ERM {cite}"}, {"rows": [{**ROWS[0], "label": f"ERM {cite}"}]}):
        with pytest.raises(ValueError, match=f"{re.escape(cite)} is no citation: .cite, .citep or .citet, up to two"):
            layout(**made)
    with pytest.raises(ValueError, match="is no citation that LaTeX can set"):
        layout(caption=r"\citep[5%]{a}")


def test_signs_without_latex_are_set_again() -> None:
    """What plain text shows of maths can be set by TeX where the plain text is written, as in the ledger."""
    assert latex.escape("\N{UNION} √ → ≤ λ ε ± ~ | *") == (
        r"\ensuremath{\cup} \ensuremath{\surd} \ensuremath{\rightarrow} \ensuremath{\leq} \ensuremath{\lambda} "
        r"\ensuremath{\epsilon} \ensuremath{\pm} \textasciitilde{} \textbar{} {*}"
    )


def test_titles_of_no_column_are_refused() -> None:
    """A word that no column has is named, with the nearest that one has."""
    with pytest.raises(ValueError, match="titles names overal, which no column has; did you mean overall"):
        layout(titles={"overal": "All"})


def test_the_default_caption_is_a_readers(tmp_path: Path) -> None:
    """It names measures, data, protocols and the number of trainings, and no key, file or command of ours."""
    for recipe in ("plain", "plain_ifl"):
        for seed in (0, 1):
            write_run(tmp_path, recipe, seed=seed)
    made = table(tmp_path)
    assert captions.caption(made).startswith(
        "Accuracy and precision in % on digits_glt. CLT: trained on long-tailed classes and attributes, tested on "
        "balanced classes; GLT: trained on long-tailed classes and attributes, tested on balanced classes and "
        "attributes. Mean ± standard deviation over 2 trainings (seeds), after the last epoch, with the reference "
        "code's hyper-parameters. Many, Med, Few: classes by their training images. Bold: best of its block."
    )
    once = fill_table(layout(seeds=[0]), load_runs(tmp_path)[0], *tidy(load_runs(tmp_path)[0]))
    assert "One training each, after the last epoch" in captions.caption(once)


def test_marks_are_explained_under_a_caption_of_ones_own(tmp_path: Path) -> None:
    """The caption is the author's to the letter; what bold and more images are, and why there are no arrows, is a note
    below the tabular and among the page's marks, once.
    """
    for recipe, cbl in (("glt_baseline", HALF), ("glt_ifl", MOST)):
        write_run(tmp_path, recipe, cbl=cbl)
    rows = [
        {"recipe": "glt_baseline", "label": "Plain", "group": "G"},
        {"recipe": "glt_ifl", "label": "+ IFL", "group": "G", "twin": "glt_baseline"},
    ]
    said = (
        "bold: best of its block",
        "no arrows over 1 seed: differences are marked from 3 seeds on",
        "These rows see more images than their twins, 2 times: Plain + IFL. "
        "The table controls compares at equal images",
    )
    own, ours = (table(tmp_path, seeds=[0], rows=rows, caption=given) for given in ("Mine.", None))
    for stacked in (False, True):
        above, _, below = latex.latex(own, stacked).partition(r"\bottomrule")
        assert r"\caption{Mine.}" in above and all(rf"{each}.\par" in below for each in said)
        above, _, below = latex.latex(ours, stacked).partition(r"\bottomrule")
        assert all(f"{each[0].upper()}{each[1:]}." in above for each in said) and not any(
            each in below for each in said
        )
    for made in (own, ours):
        shown = html._table(made, {run.name: 0 for runs in made.runs.values() for run in runs}, 0)
        words = f"{shown['heading']}. {shown['legend']}".lower()
        assert [words.count(each.lower()) for each in said] == [1, 1, 1]
    write_run(tmp_path, "glt_baseline", seed=1)
    both = table(tmp_path, seeds=[0, 1], rows=rows, caption="Mine.")
    assert (
        r"mean \ensuremath{\pm} standard deviation over 1 to 2 trainings"
        in latex.latex(both).partition("bottomrule")[2]
    )
    alone = table(tmp_path, seeds=[0], rows=rows[:1], caption="Mine.")
    assert captions.unsaid_marks(alone) == [] and "old" not in captions.caption(
        table(tmp_path, seeds=[0], rows=rows[:1])
    )


def test_rows_that_see_more_images_are_named() -> None:
    """By how many times, of all epochs and first stages: two environments for half the epochs see no more; 30 epochs
    after the baseline's 60 see half as many more, and which table has them at equal images is said of none but IFL's.
    """
    rows: list[dict[str, Any]] = [
        {"recipe": "glt_baseline", "label": "Plain"},
        {"recipe": "glt_ifl", "label": "+ IFL"},
        {"recipe": "glt_ifl", "label": "equal", "budget": "matched"},
        {"recipe": "glt_ifl", "label": "half", "set": {"schedule.epochs": 30}},
        {"recipe": "glt_ifl", "label": "more draws", "budget": "matched", "set": {"batch.draws_per_epoch": 1.4}},
        {"recipe": "glt_crt", "label": "cRT", "set": {"batch.draws_per_epoch": 1.0, "schedule.epochs": 30}},
        {"recipe": "glt_logit_adjust_ifl", "label": "judged", "twin": "glt_logit_adjust"},
    ]

    def said(which: slice) -> str:
        whole = [{"group": "G", "twin": "glt_baseline", **row} for row in rows]
        made = layout(name="mine", seeds=[0], preset="corrected", rows=[{**whole[0], "twin": None}, *whole[which]])
        return presentation.more_images_remark(fill_table(made, [], *tidy([])))

    assert said(slice(1, 7)) == (
        "These rows see more images than their twins, 2 times: Plain + IFL; judged; 1.4 times: more draws; "
        "1.5 times: cRT. The table budgets compares at equal images"
    )
    assert said(slice(4, 5)) == "These rows see more images than their twins, 1.4 times: more draws"
    assert said(slice(2, 4)) == ""


def test_the_example_of_the_page_is_launched_and_filled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The layout in docs/table-layouts.md, as a file outside of the project: what `table=PATH` plans fills every cell,
    with two seeds each, and the page's keys are those of the layout.
    """
    page = (PROJECT / "docs" / "table-layouts.md").read_text(encoding="utf-8")
    file = tmp_path / "variants.yaml"
    file.write_text(re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)[0], encoding="utf-8")
    for run in requested_runs([f"table={file}", f"runs={tmp_path}"], Site()).runs:
        recipe = run.recipe
        change = {"hash_": recipe.hash8, "budget": recipe.batch.budget}
        path = write_run(tmp_path / "runs", recipe.recipe, seed=recipe.seed, **change)
        (path / "recipe.yaml").write_text(dump(recipe))
    main([f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", f"table={file}", "only=tables"])
    numbers = pd.read_csv(tmp_path / "out" / "variants.csv")
    assert len(numbers) == 4 * 2 and set(numbers["n"]) == {2} and set(numbers["marked"]) == {0}
    assert "±" in capsys.readouterr().out
    written = (tmp_path / "out" / "variants.tex").read_text()
    assert r"that of \cite{tang2022ifl}, with $\alpha$ as there." in written and r"IFL ($\eta=.05$) &" in written
    assert all(title in written for title in ("Class-wise", "Class- and attribute-wise", "Acc."))
    assert (tmp_path / "out" / "variants.tabular.tex").exists()
    keys = [*type(load_layout(file)).model_fields, *type(load_layout(file).rows[0]).model_fields]
    assert [key for key in keys if key != "name" and f"| `{key}` |" not in page] == []


# -------------------------------------------------------------------------------------------------------------- figures
def test_characters_without_a_font_are_written_as_code_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """What neither our font nor one of the machine has is its code point, never a box."""
    monkeypatch.setattr(fonts, "_others", lambda: ())
    fonts.family_of.cache_clear()
    assert fonts.drawable("é ± \N{GREEK SMALL LETTER ALPHA}") == "é ± \N{GREEK SMALL LETTER ALPHA}"
    assert fonts.drawable("a中文b\n") == "aU+4E2D U+6587b\n"
    assert fonts.drawn_label("中" * 9, 20) == "U+4E2D U+4E2D…U+4E2D"
    fonts.family_of.cache_clear()


def test_characters_of_another_font_are_drawn_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A title, and a tick drawn later, take the font that has their characters: no glyph is missing in either file."""
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXGeneral.ttf"
    monkeypatch.setattr(fonts, "_others", lambda: (("STIXGeneral", str(file)),))
    fonts.family_of.cache_clear()
    own, stix = (fonts._characters(name) for name in (fonts.findfont(fonts.OWN), str(file)))
    strange = next(chr(code) for code in sorted(stix - own) if chr(code).isprintable() and code > 0x2000)
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.set_title(fonts.drawn_label(f"a{strange}"))
    axes.set_xticks([0, 1], [fonts.drawn_label(strange), "b"])
    assert fonts.fit_fonts(figure) == (True, False) and axes.get_title() == f"a{strange}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing
        save_figure(figure, tmp_path, "strange")
    fonts.family_of.cache_clear()


def test_classes_in_other_scripts_cost_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their figures are drawn without a missing glyph, and one remark says what stands for the names."""
    monkeypatch.setattr(fonts, "_others", lambda: ())
    fonts.family_of.cache_clear()
    for recipe in ("glt_baseline", "glt_ifl"):
        write_rich_run(tmp_path, recipe, names=("鸢尾花", "かな", *NAMES[2:]))
    runs, _ = load_runs(tmp_path)
    drawn, remarks = draw_all([fill_table(load_layout(available()["digits_clt_glt"]), runs, *tidy(runs))])
    assert remarks.count(fonts.NOTE) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in drawn:
            if one.name in ("tail_glt", "classes_glt"):
                save_figure(one.figure, tmp_path, one.name)
    fonts.family_of.cache_clear()


@pytest.mark.parametrize("name", ["W", "Baseline ", "\N{CJK UNIFIED IDEOGRAPH-9E22}"])
def test_legends_of_long_labels_stay_on_the_page(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fewer columns, which cost the panels no height, whatever their letters and fonts."""
    recipes = ("glt_baseline", "glt_ifl", "glt_crt", "glt_crt_ifl")
    for recipe in recipes:
        write_rich_run(tmp_path, recipe)
    monkeypatch.setattr(fonts, "_others", lambda: ())
    fonts.family_of.cache_clear()
    made = []
    for label in ("A", 60 * name):
        runs, _ = load_runs(tmp_path)
        layout = load_layout(available()["digits_clt_glt"])
        rows = [row.model_copy(update={"label": label + row.label}) for row in layout.rows if row.recipe in recipes]
        filled = fill_table(layout.model_copy(update={"rows": rows}), runs, *tidy(runs))
        figure, _ = learning_curves.learning_curves(filled)
        (study,) = studies([filled])
        pair = study.chosen(None)
        over_epochs, _ = figure5.figure5(study, pair, [filled])
        tail, _ = long_tail.one_pair(study, pair, "glt")
        for each in (figure, over_epochs, tail):
            save_figure(each, tmp_path, "drawn")
            (legend,) = (each.subfigs or [each])[0].legends
            box = legend.get_window_extent()
            assert each.bbox.x0 <= box.x0 and box.x1 <= each.bbox.x1, box
        made.append(figure.axes[0].get_window_extent().height)
    fonts.family_of.cache_clear()
    assert made[1] == pytest.approx(made[0], abs=2)


def test_figure5_has_equal_images_beside_the_papers_budget(tmp_path: Path) -> None:
    """Where another table has the matched run of the pair, its curve stands beside, and the caption says so; without
    ALT there are no panels c and d.
    """
    write_rich_run(tmp_path, "glt_baseline")
    write_rich_run(tmp_path, "glt_ifl", skill=0.8)
    tables = ["digits_clt_glt", "controls"]

    def made() -> tuple[Figure, str]:
        runs, _ = load_runs(tmp_path)
        filled = [fill_table(load_layout(available()[name]), runs, *tidy(runs)) for name in tables]
        (study,) = studies(filled)
        figure, _ = figure5.figure5(study, study.chosen(None), filled)
        assert figure is not None
        return figure, figure5_caption(study, study.chosen(None), figure)

    figure, caption = made()
    assert [axes.get_title()[:3] for axes in figure.axes] == ["(a)", "(b)"]
    assert "from epoch 0 on." in caption and "(c" not in caption
    write_rich_run(tmp_path, "glt_ifl", skill=0.7, words=["batch.budget=matched"])
    figure, caption = made()
    for axes in figure.axes:
        looks = [line.get_color() for line in axes.lines if len(line.get_xdata()) > 2]
        assert len(looks) == 3 and looks[-1] == EQUAL_LOOK["color"]
    assert "beside it IFL at equal images" in caption
    assert "Baseline + IFL, equal images" in [entry.get_text() for entry in figure.subfigs[0].legends[0].get_texts()]


def test_nothing_empty_is_drawn(tmp_path: Path) -> None:
    """Runs that were never evaluated while they trained have no curves, and one without IFL has no panels of IFL."""
    for recipe in ("glt_baseline", "glt_ifl"):
        path = write_rich_run(tmp_path, recipe)
        lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
        (path / "metrics.jsonl").write_text("".join(line for line in lines if '"split": "test' not in line))
    runs, _ = load_runs(tmp_path)
    filled = fill_table(load_layout(available()["digits_clt_glt"]), runs, *tidy(runs))
    assert learning_curves.learning_curves(filled)[0] is None
    drawn, remarks = draw_all([filled])
    assert not {"figure5", "curves_digits_clt_glt"} & {one.name for one in drawn}
    assert any("figure 5 has no curves" in said for said in remarks)
    assert any("digits_clt_glt: no learning curves" in said for said in remarks)
    titles = [axes.get_title() for axes in progress(load_run(runs[0].path)).axes]
    assert titles == ["(a) loss", "(b) accuracy (%)", "(c) learning rate", "(d) images/s"]


# --------------------------------------------------------------------------------------------------------------- report
@pytest.mark.parametrize("heights", [[5.2] * 5, [5.8, 2, 2, 9, 3, 3, 3], [1] * 30, [9.5, 9.5], []])
def test_pages_of_the_report_are_filled(heights: list[float]) -> None:
    """Every figure is on one page, no page is too full, and no two could be one."""
    drawn = [NamedFigure(f"f{i}", "A caption.", Figure(figsize=(7.2, height))) for i, height in enumerate(heights)]
    made = pdf.pages(drawn)
    assert sorted(one.name for page, _ in made for one in page) == sorted(one.name for one in drawn)
    for page, scale in made:
        assert pdf.REDUCED <= scale <= 1 or len(page) == 1
        assert scale * sum(pdf._size(one)[1] for one in page) + 0.61 * len(page) <= pdf.PAGE_IN + 1e-9
    for i, (page, _) in enumerate(made):
        for other, _ in made[:i]:
            assert pdf._scale([*page, *other]) < pdf.REDUCED


@PDFLATEX
def test_two_small_figures_share_a_page_of_the_report(tmp_path: Path) -> None:
    """A report of four figures of half a page has the page of text and tables and two more; citations are keys."""
    drawn = []
    for i in range(4):
        figure = Figure(figsize=(7.2, 4.4))
        figure.subplots().plot([i])
        save_figure(figure, tmp_path, f"f{i}")
        drawn.append(NamedFigure(f"f{i}", "A caption.", figure))
    (tmp_path / "t.tex").write_text(latex.latex(typed(tmp_path / "runs")))
    source = tmp_path / "report.tex"
    source.write_text(pdf.document("T", ["Text."], ["t.tex"], drawn))
    file, complaint = pdf.typeset(source)
    assert complaint == "" and file is not None
    assert len(re.findall(rb"/Type\s*/Page\b", file.read_bytes())) in (0, 3)  # 0: in object streams
    if shutil.which("pdfinfo"):
        assert "Pages:           3" in subprocess.run(["pdfinfo", file], capture_output=True, text=True).stdout
