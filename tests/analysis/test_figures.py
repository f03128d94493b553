"""Figures: the numbers behind each, by brute force; what is left out is said; and files repeat byte for byte."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from analysis.__main__ import main
from analysis.figures import environments, figure5, long_tail
from analysis.figures.catalogue import draw_all, figure5_caption
from analysis.figures.methods import Study, refuse_unknown_pair, studies
from analysis.figures.point_labels import label_points
from analysis.figures.progress import curves_of, progress, steps_of_epoch
from analysis.figures.style import heat_map, save_figure
from analysis.inputs.artifacts import Classes, classes_of, environments_of
from analysis.inputs.frame import tidy
from analysis.inputs.runs import load_run, load_runs
from analysis.labels import shortened
from analysis.stats import per_class
from analysis.tables.cells import Table, fill_table
from recipes.table_layout import Layout, available, load_layout
from tests.helpers.folders import COUNTS, EPOCHS, GROUPS, NAMES, REBUILDS, STEPS, metric_lines, write_rich_run
from tests.helpers.paths import PROJECT

PRESETS = ("corrected", "paper")
METHODS = {"glt_baseline": 0.5, "glt_crt": 0.55, "glt_ifl": 0.8, "glt_crt_ifl": 0.7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods and their twins on both editions."""
    runs = tmp_path_factory.mktemp("runs")
    for recipe, skill in METHODS.items():
        for train in ("glt", "cbl"):
            write_rich_run(runs, recipe, train, skill=skill + 0.05 * (train == "cbl"))
    return runs


def filled(folder: Path, *names: str) -> list[Table]:
    runs, _ = load_runs(folder)
    frame, problems = tidy(runs)
    return [fill_table(load_layout(available()[name]), runs, frame, problems) for name in names or ("digits_overall",)]


def with_rows(folder: Path, rows: list[dict[str, Any]], **change: Any) -> Table:
    """Fill digits_overall with other rows."""
    layout = load_layout(available()["digits_overall"]).model_dump()
    runs, _ = load_runs(folder)
    made = Layout(**{**layout, "rows": [{"group": "g", **row} for row in rows], "published": [], **change})
    return fill_table(made, runs, *tidy(runs))


@pytest.fixture(scope="module")
def tables(folder: Path) -> list[Table]:
    return filled(folder)


@pytest.fixture(scope="module")
def study(tables: list[Table]) -> Study:
    (found,) = studies(tables)
    return found


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other by more than a hair, and texts that leave the figure."""
    figure.draw_without_rendering()
    boxes = [
        (text.get_text(), text.get_window_extent())
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip()
    ]
    # Tick labels that are switched off or outside the view stay in the list of artists; those lie outside their axes'
    # drawn range.
    drawn = [(name, box) for name, box in boxes if box.width > 0]
    found = []
    for i, (name, box) in enumerate(drawn):
        for other, its in drawn[i + 1 :]:
            across, down = min(box.x1, its.x1) - max(box.x0, its.x0), min(box.y1, its.y1) - max(box.y0, its.y0)
            if across > 1.5 and down > 1.5:
                found.append((name, other))
    return found


# ----------------------------------------------------------------------------------------------------- numbers by class
def random_predictions(rng: np.random.Generator, samples: int, classes: int) -> dict[str, np.ndarray]:
    label = rng.integers(0, classes, samples)
    prediction = np.where(rng.random(samples) < 0.6, label, rng.integers(0, classes, samples))
    return {"label": label, "prediction": prediction, "group": 0 * label, "attribute": rng.integers(-1, 3, samples)}


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_table_by_brute_force(seed: int) -> None:
    """Each entry is the share of right predictions among the samples of its bin and attribute group, counted one by
    one; NaN where there is none.
    """
    rng = np.random.default_rng(seed)
    found = random_predictions(rng, 60, 7)
    bins = [np.array([4, 0]), np.array([6, 5, 1]), np.array([2])]  # class 3 is in none, but counts in all
    made = per_class.accuracy_table(found, bins, 3)
    for g in range(4):
        for a in range(4):
            members = [
                i
                for i in range(60)
                if (g == 3 or found["label"][i] in bins[g]) and (a == 3 or found["attribute"][i] == a)
            ]
            expected = (
                sum(found["label"][i] == found["prediction"][i] for i in members) / len(members) if members else np.nan
            )
            np.testing.assert_equal(made[g, a], expected)


def test_tail_bins_go_from_head_to_tail() -> None:
    """Classes come by falling count, ties in their order, in runs whose lengths differ by one at most."""
    assert [part.tolist() for part in per_class.tail_bins(np.array([3, 9, 3, 7, 1]), 9)] == [[1], [3], [0], [2], [4]]
    assert [part.tolist() for part in per_class.tail_bins(np.array([3, 9, 3, 7, 1]), 2)] == [[1, 3, 0], [2, 4]]


def test_confusion_by_brute_force() -> None:
    """Rows are shares of the true class; a class without samples is a row of zeros, and a prediction outside the
    classes counts in no column.
    """
    found = random_predictions(np.random.default_rng(3), 80, 5)
    found["label"][found["label"] == 2] = 1
    found["prediction"][:4] = 9
    made = per_class.confusion(found, 5)
    for true in range(5):
        members = [i for i in range(80) if found["label"][i] == true]
        for predicted in range(5):
            assert made[true, predicted] == (
                sum(found["prediction"][i] == predicted for i in members) / len(members) if members else 0
            )


def test_most_confused_takes_the_largest_pairs() -> None:
    """The classes of the largest confusions, pair after pair, until no whole pair has room."""
    shares = np.eye(5) * 0.5
    shares[0, 3], shares[4, 0], shares[1, 2] = 0.4, 0.3, 0.2
    assert per_class.most_confused(shares, 3).tolist() == [0, 3, 4]
    assert per_class.most_confused(shares, 4).tolist() == [0, 3, 4], "1 and 2 have no room together"
    assert per_class.most_confused(shares, 5).tolist() == [0, 1, 2, 3, 4]
    assert per_class.most_confused(np.eye(3), 3).tolist() == []


def test_environment_numbers_by_hand() -> None:
    """Shares are of the mass of samples with an attribute; equal weights inside a class keep its mass; Kish's size is 1
    for equal weights and 1/N for one.
    """
    weights, labels, attributes = (
        np.array([1.0, 3.0, 2.0, 2.0, 4.0]),
        np.array([0, 0, 0, 1, 1]),
        np.array([0, 1, 1, 2, -1]),
    )
    np.testing.assert_allclose(per_class.attribute_shares(weights, attributes, 3), [1 / 8, 5 / 8, 2 / 8])
    np.testing.assert_allclose(per_class.flat_in_class(weights, labels), [2, 2, 2, 3, 3])
    assert per_class.effective_size(np.full(7, 0.3)) == pytest.approx(1) and per_class.effective_size(
        np.eye(5)[0]
    ) == pytest.approx(1 / 5)
    assert per_class.effective_size(weights) == pytest.approx(12**2 / 34 / 5)


# ------------------------------------------------------------------------------------------------------------- figure 5
def test_study_takes_rows_of_the_table_and_runs_of_both_editions(folder: Path) -> None:
    """Methods are the largest table's rows; their runs come from all tables of the data set, and only runs that count
    there.
    """
    (found,) = studies(filled(folder, "digits_alt", "digits_clt_glt"))
    assert [method.label for method in found.methods] == [
        row.label for row in load_layout(available()["digits_clt_glt"]).rows
    ]
    of = {method.recipe: method for method in found.methods}
    assert {train: [run.train for run in runs] for train, runs in of["glt_crt"].runs.items()} == {
        "glt": ["glt"],
        "cbl": ["cbl"],
    }
    assert of["glt_lws"].runs == {} and found.protocols == ["clt", "glt", "alt"]
    assert found.chosen(None).ifl.recipe == "glt_ifl" and found.chosen("glt_crt").ifl.recipe == "glt_crt_ifl"
    assert found.chosen("glt_tde") == found.chosen(None)


def test_a_row_has_the_most_runs_of_all_tables_and_its_points_are_a_tables_own(tmp_path: Path) -> None:
    """Whatever table is read first: a demo's one seed stands for nothing. A point of (c, d) is the difference that a
    table tests: over pairs where one row builds on the other, else over all seeds of both.
    """
    for train in ("glt", "cbl"):
        for recipe in ("glt_baseline", "glt_crt", "glt_ifl", "glt_mixup"):
            for seed in range(4 if recipe == "glt_baseline" else 3):
                write_rich_run(tmp_path, recipe, train, seed, skill=0.5 + len(recipe) / 40 + seed / 50)
    base, *rows = [
        {"recipe": "glt_baseline", "label": "Baseline"},
        *({"recipe": f"glt_{name}", "label": name, "twin": "glt_baseline"} for name in ("crt", "ifl", "mixup")),
    ]
    demo = with_rows(tmp_path, [base, rows[1]], seeds=[0], name="demo")
    most = with_rows(tmp_path, [{**base, "seeds": [0, 1, 2, 3]}, *rows[:2]], seeds=[0, 1, 2], name="most")
    other = with_rows(tmp_path, [base, rows[2]], seeds=[0, 1, 2], name="other")
    tests = [[cell.baseline_test for cell in line] for line in (*most.cells[1:], other.cells[1])]
    for tables in itertools.permutations((demo, most, other)):
        (study,) = studies(list(tables))
        assert {method.recipe: [len(runs) for runs in method.runs.values()] for method in study.methods} == {
            "glt_baseline": [4, 4],
            "glt_crt": [3, 3],
            "glt_ifl": [3, 3],
            "glt_mixup": [3, 3],
        }
        for metric, places in (("accuracy", (0, 4)), ("precision", (1, 5))):
            made = {point.label: point[1:3] for point in figure5.improvements(study, list(tables), metric)}
            for label, line in zip(("crt", "ifl", "mixup"), tests, strict=True):
                expected = [100 * line[place].difference for place in places]
                np.testing.assert_allclose(made[label], expected, atol=1e-9, err_msg=label)
    assert [test.baseline_seeds for test in next(zip(*tests, strict=True))] == [(0, 1, 2), (0, 1, 2, 3), (0, 1, 2)]


def test_figures_are_laid_out_after_the_table_with_the_most_runs(tmp_path: Path) -> None:
    """A long table of which hardly a run is there loses to a shorter one; methods that only other tables have follow,
    but for variants of IFL, and what is shown in depth is the first method's.
    """

    def shown(*more: tuple[str, str]) -> tuple[Study, list[str]]:
        for recipe, budget in more:
            write_rich_run(tmp_path, recipe, words=["preset=corrected", f"batch.budget={budget}"])
        runs, _ = load_runs(tmp_path)
        layouts = [load_layout(available()[name], ["digits_glt"]) for name in ("budgets", "claims", "parts")]
        (found,) = studies([fill_table(layout, runs, *tidy(runs)) for layout in layouts])
        return found, [method.label for method in found.methods if method.runs]

    _, labels = shown(("glt_baseline", "paper"), ("glt_tde", "paper"), ("glt_ifl", "matched"))
    assert labels == ["Baseline", "Deconfound-TDE", "Baseline + IFL"]
    study, labels = shown(
        *((recipe, "paper") for recipe in ("glt_ifl", "glt_ldam", "glt_baseline_2n", "glt_focal", "glt_ride_ce")),
        *((recipe, "matched") for recipe in ("glt_ifl_3env", "glt_ride_ce_ifl")),
    )
    assert labels == [
        *("Baseline", "Baseline, twice the images", "Baseline + IFL, paper budget", "Baseline + IFL, matched", "LDAM"),
        *("Deconfound-TDE", "Focal", "CE (3 experts)", "CE + IFL (2 env, 3 experts)"),
    ]
    assert [pair.ifl.label for pair in study.pairs if pair.is_ready] == [*labels[2:4], labels[-1]]
    assert study.chosen(None).ifl.label == "Baseline + IFL, matched"


def test_the_first_method_is_shown_in_depth_though_another_is_at_equal_images(tmp_path: Path) -> None:
    """Equal images come first among the rows with IFL of one method, not before the order of rows."""
    for recipe, budget in (("baseline", "paper"), ("ifl", "paper"), ("crt", "paper"), ("crt_ifl", "matched")):
        write_rich_run(tmp_path, f"glt_{recipe}", words=[f"batch.budget={budget}"])
    rows = [
        *IFL_AND_OTHERS[:1],
        *IFL_AND_OTHERS[4:7],
        {"recipe": "glt_crt_ifl", "label": "+ IFL", "twin": "glt_crt", "budget": "matched"},
    ]
    (study,) = studies([with_rows(tmp_path, rows)])
    assert study.chosen(None).ifl.label == "Baseline + IFL, paper budget"
    assert study.chosen("glt_crt").ifl.label == "cRT + IFL"


def test_a_baseline_is_of_the_same_budget_where_there_is_one(tmp_path: Path) -> None:
    """A matched row is compared with the matched row of its twin before the one at the paper's budget."""
    write_rich_run(tmp_path)
    for words in ([], ["batch.budget=matched"]):
        write_rich_run(tmp_path, "glt_ifl", words=words)
    rows = [
        {"recipe": "glt_baseline", "label": "a"},
        {"recipe": "glt_baseline", "label": "b", "budget": "matched"},
        {"recipe": "glt_ifl", "label": "c", "twin": "glt_baseline", "budget": "matched"},
        {"recipe": "glt_ifl", "label": "d", "twin": "glt_baseline"},
    ]
    (found,) = studies([with_rows(tmp_path, rows)])
    assert [(pair.plain.label, pair.ifl.label) for pair in found.pairs] == [("b", "c"), ("a", "d")]


IFL_AND_OTHERS = [
    {"recipe": "glt_baseline", "label": "Baseline"},
    {"recipe": "glt_balanced_softmax", "label": "BLSoftmax", "twin": "glt_baseline"},
    {"recipe": "glt_baseline_2n", "label": "Baseline, twice the draws", "twin": "glt_baseline"},
    {"recipe": "glt_irm", "label": "IRM", "twin": "glt_baseline"},
    {"recipe": "glt_ifl", "label": "+ IFL, paper budget", "twin": "glt_baseline"},
    {"recipe": "glt_ifl", "label": "+ IFL, matched", "twin": "glt_baseline", "budget": "matched"},
    {"recipe": "glt_crt", "label": "cRT"},
    {"recipe": "glt_crt_ifl", "label": "+ IFL", "twin": "glt_crt"},
    {"recipe": "glt_ifl_3env", "label": "three", "twin": "+ IFL, paper budget"},
]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Rows with IFL among rows that have another twin."""
    runs = tmp_path_factory.mktemp("others")
    for row in IFL_AND_OTHERS:
        for train in ("glt", "cbl"):
            words = [f"batch.budget={row.get('budget', 'paper')}"]
            write_rich_run(runs, row["recipe"], train, words=words, skill=0.5 + len(row["label"]) / 100)
    return with_rows(runs, IFL_AND_OTHERS)


def test_only_rows_with_ifl_are_drawn_as_such(others: Table) -> None:
    """A row with a twin is a method with IFL where its runs, or those that they build on, train with IFL, and its twin
    not; and the pair in depth is at equal images where there is one.
    """
    (study,) = studies([others])
    assert [(pair.plain.label, pair.ifl.label) for pair in study.pairs] == [
        ("Baseline", "Baseline + IFL, paper budget"),
        ("Baseline", "Baseline + IFL, matched"),
        ("cRT", "cRT + IFL"),
    ]
    assert study.chosen(None).ifl.label == "Baseline + IFL, matched"
    points = figure5.improvements(study, [others], "accuracy")
    ifl = {"Baseline + IFL, paper budget", "Baseline + IFL, matched", "cRT + IFL", "three"}
    assert len(points) == 8 and {point.label for point in points if point.with_ifl} == ifl
    with_ifl = figure5.all_pairs(study, "glt")
    assert [axes.get_title() for axes in with_ifl.axes] == [pair.ifl.label for pair in study.pairs]


def test_a_run_builds_on_ifl_though_its_first_stage_is_elsewhere(tmp_path: Path) -> None:
    """The recipe that the first stage's name begins with tells it, where its folder is not beside the run."""
    for recipe, expected in (("glt_crt", False), ("glt_crt_ifl", True), ("glt_logit_adjust_ifl", True)):
        assert load_run(write_rich_run(tmp_path, recipe)).has_ifl is expected
    gone = load_run(write_rich_run(tmp_path, "glt_lws_ifl"))
    assert gone.has_ifl and not (tmp_path / gone.builds_on).exists()
    write_rich_run(tmp_path, "glt_ifl")
    recipe = tmp_path / gone.builds_on / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("ifl:\n", "ifl: null\nother:\n"))
    assert not load_run(gone.path).has_ifl, "what the first stage was comes before its recipe"


def test_figure5_names_both_budgets_of_a_table_by_its_rows(others: Table) -> None:
    """Each curve has its own row's name; the legend has an onset where one is drawn."""
    (study,) = studies([others])
    pair = study.chosen(None)
    figure, _ = figure5.figure5(study, pair, [])
    legend = [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]
    assert legend == ["Baseline", "Baseline + IFL, paper budget", "Baseline + IFL, matched", "IFL sets in"]
    assert "beside it IFL at equal images" in figure5_caption(study, pair, figure)
    figure, _ = figure5.figure5(study, study.chosen("glt_crt"), [])
    legend = [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]
    assert legend == ["cRT", "cRT + IFL, paper's budget"], "the second stage has no center term"


def test_improvements_are_differences_of_the_tables_cells(tables: list[Table], study: Study) -> None:
    """Each point is a method's CLT and ALT cell minus the first row's, in percent; methods without both numbers are no
    points.
    """
    (table,) = tables
    names = [f"{column.protocol}.{column.metric}" for column in table.layout.columns]
    for metric in ("accuracy", "precision"):
        clt, alt = names.index(f"clt.{metric}"), names.index(f"alt.{metric}")
        expected = [
            (
                table.layout.full_label(row),
                100 * (cells[clt].mean - table.cells[0][clt].mean),
                100 * (cells[alt].mean - table.cells[0][alt].mean),
                row.twin is not None,
            )
            for row, cells in zip(table.layout.rows[1:], table.cells[1:], strict=True)
            if cells[clt].mean is not None and cells[alt].mean is not None
        ]
        made = figure5.improvements(study, tables, metric)
        assert [(p.label, p.with_ifl) for p in made] == [(label, ifl) for label, _, _, ifl in expected] and len(
            made
        ) == 3
        np.testing.assert_allclose(
            [(p.class_wise, p.attribute_wise) for p in made], [point for _, *point, _ in expected]
        )


def test_mean_series_is_over_epochs_that_all_seeds_have() -> None:
    """Mean, lowest and highest over seeds, only where every curve has a value."""
    assert figure5.mean_series([[(2, 10.0), (4, 20.0)], [(4, 30.0), (6, 1.0)]]) == [(4, 25.0, 20.0, 30.0)]
    assert figure5.mean_series([]) == [] and figure5.mean_series([[], [(1, 2.0)]]) == []


def test_figure5_draws_both_methods_with_the_onset(study: Study, tables: list[Table]) -> None:
    """Panels a and b have the evaluations of both methods in percent and a line where alpha sets in; c and d a point
    for each method, with its name.
    """
    figure, remarks = figure5.figure5(study, study.chosen(None), tables)
    assert figure is not None and remarks == []
    for axes, factor in zip(figure.axes[:2], (1, 0.95), strict=True):
        plain, ifl = (line for line in axes.lines if len(line.get_xdata()) == 3)
        (onset,) = [line for line in axes.lines if list(line.get_xdata()) == [3, 3]]
        for line, skill in ((plain, 0.5), (ifl, 0.8)):
            np.testing.assert_allclose(line.get_xdata(), [2, 4, 6])
            np.testing.assert_allclose(
                line.get_ydata(), [100 * factor * skill * 0.9 * epochs / EPOCHS for epochs in (2, 4, 6)], atol=0.02
            )
        assert plain.get_linestyle() != ifl.get_linestyle() and plain.get_marker() != ifl.get_marker() and onset
    for axes in figure.axes[2:4]:
        assert axes.get_legend() is None  # it stands below, where it covers no point and no name
        assert {text.get_text() for text in axes.texts} == {"cRT", "Baseline + IFL", "cRT + IFL"}


@pytest.mark.parametrize("most, lines", [(3, 1), (2, 2)])
def test_many_names_have_the_width_of_the_page(
    most: int, lines: int, study: Study, tables: list[Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Panels c and d are side by side as in the paper, and one above the other where they have more methods."""
    monkeypatch.setattr(figure5, "BESIDE", most)
    figure, _ = figure5.figure5(study, study.chosen(None), tables)
    assert [axes.get_title()[:3] for axes in figure.axes] == ["(a)", "(b)", "(c)", "(d)"]
    assert len({round(axes.get_position().y0, 3) for axes in figure.axes[2:]}) == lines
    assert overlapping(figure) == []


def test_labels_cover_neither_each_other_nor_points() -> None:
    """Thirty names around points that are close together: none over another, all inside the axes."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    points = [(i % 6 + 0.1 * (i // 6), i // 6 + 0.07 * (i % 6)) for i in range(30)]
    axes.plot(*zip(*points, strict=True), "o")
    label_points(figure, axes, points, [f"Method {i} + IFL" for i in range(30)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 30
    overlaps = [(i, j) for i in range(30) for j in range(i) if boxes[i].overlaps(boxes[j])]
    assert overlaps == []
    assert all(axes.bbox.x0 - 2 <= box.x0 and box.x1 <= axes.bbox.x1 + 2 for box in boxes)


def test_a_name_away_from_its_point_is_beside_no_other() -> None:
    """A name at the end of a line stays clear of other points, and its line ends at its side or corner, so that it
    crosses no name.
    """
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    crowd = [(0.5 + 0.012 * i, 0.5 + 0.01 * (i % 3)) for i in range(6)]
    points = [*crowd, *((0.44 + 0.05 * i, 0.58 - 0.16 * (i % 2)) for i in range(4))]
    axes.plot(*zip(*points, strict=True), "o")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    label_points(figure, axes, points, [f"Method {i}" for i in range(len(points))])
    figure.draw_without_rendering()
    spots, pixels = axes.transData.transform(points), figure.dpi / 72
    led = [text for text in axes.texts if isinstance(text, Annotation) and text.arrow_patch is not None]
    assert led
    for text in led:
        box = Text.get_window_extent(text)
        own = axes.transData.transform(text.xy)
        near = [spot for spot in spots if not np.allclose(spot, own) and box.padded(5 * pixels).contains(*spot)]
        assert not near, text.get_text()
        line = text.arrow_patch.get_path().vertices
        others = [other for other in axes.texts if other is not text]
        assert not any(Text.get_window_extent(other).contains(*place) for other in others for place in line)


# ------------------------------------------------------------------------------------------------ environments, centers
def test_compositions_are_those_of_the_files(folder: Path) -> None:
    """After each rebuild the last environment's shares and size, and those with equal weights inside classes, counted
    one by one; environment 1 is uniform.
    """
    (run,) = [run for run in load_runs(folder)[0] if run.recipe == "glt_ifl" and run.train == "glt"]
    first, later = environments.compositions(environments_of(run))
    assert (
        [one.start for one in later] == [epoch + 1 for epoch in REBUILDS]
        and first.start == 0
        and first.size == pytest.approx(1)
    )
    labels = [k for k, n in enumerate(COUNTS) for _ in range(n)]
    weight = [3.0 if i % 3 == 2 else 1.0 for i in range(len(labels))]
    mass = [sum(w for w, k in zip(weight, labels, strict=True) if k == label) for label in range(10)]
    weight = [w / mass[k] for w, k in zip(weight, labels, strict=True)]
    shares = [sum(w for i, w in enumerate(weight) if i % 3 == a) / 10 for a in range(3)]
    level = [sum(1 / COUNTS[k] for i, k in enumerate(labels) if i % 3 == a) / 10 for a in range(3)]
    for one in later:
        np.testing.assert_allclose(one.shares, shares)
        np.testing.assert_allclose(one.level, level)
        assert one.size == pytest.approx(10**2 / sum(w * w for w in weight) / len(weight))
        assert one.level_size == pytest.approx(10**2 / sum(1 / n for n in COUNTS) / len(weight))


def test_the_last_environment_has_its_number(tmp_path: Path) -> None:
    """Of three environments figures and captions name the third, which is drawn; without an onset the legend has none,
    and what trained nothing with IFL has no number.
    """
    for recipe in ("glt_baseline", "glt_ifl_3env"):
        write_rich_run(tmp_path, recipe)
    rows = [IFL_AND_OTHERS[0], {"recipe": "glt_ifl_3env", "label": "+ IFL", "twin": "glt_baseline"}]
    drawn, _ = draw_all([with_rows(tmp_path, rows)])
    of = {one.name: one for one in drawn}
    assert of["environments"].figure.axes[0].get_title() == "(a) Train-GLT: environment 3"
    for name in ("environments", "images_glt"):
        assert "environment 3" in of[name].caption
        assert "environment 2" not in " ".join([of[name].caption, *texts(of[name].figure)])
    assert "IFL sets in" in texts(of["environments"].figure)
    run = load_run(write_rich_run(tmp_path, "glt_ifl_no_center"))
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    silent = [json.dumps({**line, "alpha": 0.0}) + "\n" for line in lines]
    (run.path / "metrics.jsonl").write_text("".join(silent))
    figure, _ = environments.environment_panels([("T", run)])
    assert "environment 2" in figure.axes[0].get_title() and "IFL sets in" not in texts(figure)
    assert environments.last_environment(load_run(write_rich_run(tmp_path, "glt_crt_ifl"))) == "the last environment"


def test_drift_is_the_mean_of_each_class_group() -> None:
    """Means over the classes of a group at each epoch; a line with another number of classes is refused by name."""
    classes = Classes(list(NAMES), np.array(COUNTS), np.array(GROUPS))
    lines = metric_lines(True, 0.5)
    epochs, means = environments.drift(lines, classes)["from_start"]
    assert epochs.tolist() == [4, 5, 6]
    for row, epoch in zip(means, (3, 4, 5), strict=True):
        values = [0.2 * epoch + 0.05 * k for k in range(10)]
        np.testing.assert_allclose(
            row, [np.mean([v for v, g in zip(values, GROUPS, strict=True) if g == group]) for group in range(3)]
        )
    lines[-1]["norm"] = [1.0]
    with pytest.raises(ValueError, match="has not the 10 values of norm"):
        environments.drift(lines, classes)


@pytest.mark.parametrize(
    "damage, said",
    [
        ("no labels", "epoch-002.npz lacks labels"),
        ("garbage", "epoch-002.npz cannot be read"),
        ("none", "rebuilt none"),
    ],
)
def test_older_or_damaged_environments_are_left_out_by_name(tmp_path: Path, damage: str, said: str) -> None:
    """A run without labels beside its weights, with an unreadable file or without any costs its figure and nothing
    else; the sentence names it.
    """
    path = write_rich_run(tmp_path, "glt_ifl")
    file = path / "env" / "epoch-002.npz"
    with np.load(file) as stored:
        arrays = dict(stored)
    if damage == "no labels":
        np.savez(file, **{key: value for key, value in arrays.items() if key != "labels"})
    elif damage == "garbage":
        file.write_bytes(b"PK\x03\x04 garbage")
    else:
        for each in (path / "env").iterdir():
            each.unlink()
    run = load_run(path)
    for figure, remarks in (environments.environment_panels([("T", run)]), environments.extreme_images("T", run)):
        assert figure is None and said in " ".join(remarks)


def test_environments_without_pictures_are_drawn(tmp_path: Path) -> None:
    """Their light part has weights and no thumbnails: shares, sizes and drift need none, and only the strip of images
    is left out.
    """
    path = write_rich_run(tmp_path, "glt_ifl")
    for file in (path / "env").iterdir():
        with np.load(file) as stored:
            arrays = {
                key: stored[key] for key in stored.files if key not in ("thumbnails", "extremes", "extreme_classes")
            }
        np.savez(file, **arrays)
    figure, remarks = environments.environment_panels([("T", load_run(path))])
    assert figure is not None and not remarks
    figure, remarks = environments.extreme_images("T", load_run(path))
    assert figure is None and "has stored no pictures" in remarks[0]


def test_runs_without_center_lines_keep_the_other_panels(tmp_path: Path) -> None:
    """What a run of before `centers` lines lacks is said, and shares and sizes are drawn all the same."""
    path = write_rich_run(tmp_path, "glt_ifl")
    kept = [line for line in (path / "metrics.jsonl").read_text().splitlines() if '"centers"' not in line]
    (path / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    figure, remarks = environments.environment_panels([("T", load_run(path))])
    assert figure is not None and [axes.get_title()[:3] for axes in figure.axes] == ["(a)", "(b)"]
    assert remarks == [
        f"drift of the centers of T is left out: {path.name} has no lines about centers in metrics.jsonl"
    ]


def test_classes_that_meta_lacks_leave_figures_out(tmp_path: Path) -> None:
    """A run whose meta.json has no class names costs the figures by class, with a sentence, and the rest is drawn."""
    for recipe in ("glt_baseline", "glt_ifl"):
        path = write_rich_run(tmp_path, recipe)
        meta = json.loads((path / "meta.json").read_text())
        del meta["class_names"]
        (path / "meta.json").write_text(json.dumps(meta))
    drawn, remarks = draw_all(filled(tmp_path))
    assert "figure5" in {one.name for one in drawn} and not {"tail_glt", "classes_glt", "environments"} & {
        one.name for one in drawn
    }
    assert any("meta.json lacks class_names" in said for said in remarks)


# ------------------------------------------------------------------------------------------------------- along the tail
def test_heat_maps_print_the_numbers_they_colour(study: Study) -> None:
    """The figure of all methods has each method's accuracy by class, overall and by attribute group, in percent; the
    pair's last panel the signed difference.
    """
    figure, remarks = long_tail.all_methods(study, "glt")
    assert figure is not None and remarks == []
    shown = iter(figure.axes[0].texts)
    for method in [method for method in study.methods if method.runs]:
        found = method.runs["glt"][0].predictions("last", "test_gbl")
        right = found["label"] == found["prediction"]
        numbers = (
            [right[found["label"] == k].mean() for k in range(10)]
            + [right.mean()]
            + [right[found["attribute"] == a].mean() for a in range(3)]
        )
        assert [next(shown).get_text() for _ in numbers] == [f"{100 * number:.0f}" for number in numbers]
    pair = study.chosen(None)
    figure, _ = long_tail.one_pair(study, pair, "glt")
    plain, ifl = (
        [
            (found["label"] == found["prediction"])[(found["label"] == 0) & (found["attribute"] == a)].mean()
            for a in range(3)
        ]
        for found in (method.runs["glt"][0].predictions("last", "test_gbl") for method in pair)
    )
    first = [text.get_text() for text in figure.axes[-1].texts[:3]]
    assert first == [
        ("0" if round(100 * (b - a)) == 0 else f"{100 * (b - a):+.0f}") for a, b in zip(plain, ifl, strict=True)
    ]


def test_train_cbl_is_ordered_by_the_tail_of_train_glt(tmp_path: Path) -> None:
    """Train-CBL has as many of each class; its figures keep Train-GLT's order from head to tail."""
    for train in ("glt", "cbl"):
        path = write_rich_run(tmp_path, "glt_baseline", train)
        meta = json.loads((path / "meta.json").read_text())
        meta["class_counts"] = [9] * 10 if train == "cbl" else list(range(10))
        (path / "meta.json").write_text(json.dumps(meta))
    (found,) = studies(filled(tmp_path))
    figure, _ = long_tail.all_methods(found, "alt")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][:3] == ["digit 0", "digit 6", "digit 4"]


def test_many_classes_are_binned(tmp_path: Path) -> None:
    """With more classes than fit, neighbours along the tail share a column that is named by their places."""
    names = tuple(f"class {k}" for k in range(40))
    for recipe in ("glt_baseline", "glt_ifl"):
        write_rich_run(tmp_path, recipe, names=names)
    (found,) = studies(filled(tmp_path))
    figure, remarks = long_tail.one_pair(found, found.chosen(None), "glt")
    assert remarks == [] and [label.get_text() for label in figure.axes[0].get_xticklabels()][:2] == [
        "1\u20134",
        "5\u20138",
    ]
    classes = classes_of(found.methods[0].runs["glt"][0])
    assert long_tail.bin_names(classes, per_class.tail_bins(classes.counts, long_tail.BINS))[-1] == "38\u201340"


def test_cells_have_readable_text() -> None:
    """A number in a heat map is black or white, whichever has the higher contrast to its cell (at least 4.5 : 1); no
    number is a dash.
    """
    axes = Figure().subplots()
    values = np.linspace(0, 100, 60).reshape(6, 10)
    values[2, 3] = np.nan
    image = heat_map(axes, values, list("abcdef"), list("0123456789"), low=0, high=100, colours="cividis")

    def linear(c: Any) -> np.ndarray:
        return np.where(np.asarray(c) <= 0.04045, np.asarray(c) / 12.92, ((np.asarray(c) + 0.055) / 1.055) ** 2.4)

    for text, value in zip(axes.texts, values.flat, strict=True):
        if np.isnan(value):
            assert text.get_text() == "\u2013"
            continue
        luminance = linear(image.cmap(image.norm(value))[:3]) @ [0.2126, 0.7152, 0.0722]
        contrast = 1.05 / (luminance + 0.05) if text.get_color() == "white" else (luminance + 0.05) / 0.05
        assert contrast >= 4.4


def test_short_keeps_both_ends() -> None:
    """A long name keeps its beginning and its end; a short one is as it was."""
    assert shortened("a  b") == "a b" and shortened("abcdefghijklmnop", 10) == "abcdef…nop"
    assert len(shortened("x" * 500, 28)) == 28


# ------------------------------------------------------------------------------------------------------------- progress
def test_progress_reads_lines_restarts_and_epochs(tmp_path: Path) -> None:
    """Values stand at their place in epochs, restarts where they began again, the first start not; steps of an epoch
    come from the evaluations.
    """
    lines = metric_lines(True, 0.6, boots=((0, 0), (2, 24)))
    assert steps_of_epoch(lines) == STEPS and steps_of_epoch(lines[:2]) > lines[1]["step"]
    curves = curves_of(lines, STEPS)
    assert curves["restarts"] == [(2.4, 2)]
    assert curves["val"] == [
        (epoch + 1, pytest.approx(100 * round(0.6 * (epoch + 1) / EPOCHS, 4))) for epoch in range(EPOCHS)
    ]
    assert curves["alpha"][0] == (0.2, 0.0) and curves["alpha"][-1] == (6.0, 0.001)
    assert curves["loss"][-1] == (6.0, pytest.approx(2 / 7 + 0.02)) and curves["method_loss"][-1] == (
        6.0,
        pytest.approx(2 / 7),
    )
    assert [at for at, _ in curves["lr"]] == [at for at, _ in curves["images_per_s"]] and curves["images_per_s"][3] == (
        0.8,
        908.0,
    )
    path = write_rich_run(tmp_path, "glt_ifl", boots=((0, 0), (2, 24), (4, 42)))
    (path / "done").unlink()
    figure = progress(load_run(path))
    assert sum(list(line.get_xdata()) == [2.4, 2.4] for line in figure.axes[0].lines) == 1
    assert "restarts (2)" in texts(figure) and any("not finished" in text for text in texts(figure))


@pytest.mark.parametrize(
    "content", ["", '{"kind": "train", "epoch": 0, "step": 3, "loss": 2.0}\n{"kind": "tr', "\x00\n"]
)
def test_progress_of_a_run_that_has_hardly_begun(tmp_path: Path, content: str) -> None:
    """A run without lines, with one, or with torn ones is drawn, and the command names its files."""
    path = write_rich_run(tmp_path, "glt_ifl")
    (path / "done").unlink()
    (path / "metrics.jsonl").write_text(content)
    save_figure(progress(load_run(path)), tmp_path, "begun")
    assert (tmp_path / "begun.pdf").stat().st_size > 1000


def test_progress_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`progress run=RUN out=DIR` writes both files and prints them; what is no run folder is refused by name."""
    path = write_rich_run(tmp_path, "glt_ifl")
    main(["progress", f"run={path}", f"out={tmp_path / 'out'}"])
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "out" / f"progress-{path.name}.{kind}") for kind in ("pdf", "png")
    ]
    with pytest.raises(ValueError, match=r"run=.*nowhere is no run folder: recipe.yaml is missing"):
        main(["progress", f"run={tmp_path / 'nowhere'}", f"out={tmp_path}"])
    with pytest.raises(ValueError, match=r"rn=x: .*did you mean run"):
        main(["progress", "rn=x"])


def test_progress_tells_of_notable_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a tenth of the time on, over all lines that say how long they took; and nothing of what older code wrote."""
    path = write_rich_run(tmp_path, "glt_ifl")
    lines = metric_lines(True, 0.6)
    for line in lines:
        if line["kind"] == "train":
            line |= {"seconds": 2.0, "data_wait_s": 0.5 if line["epoch"] % 2 else 0.1, "rank_wait_s": 0.19}
    lines.append({"kind": "train", "epoch": 6, "step": 61, "seconds": "?", "data_wait_s": 9.0, "rank_wait_s": 9.0})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    main(["progress", f"run={path}", f"out={tmp_path / 'out'}"])
    assert capsys.readouterr().out.splitlines()[2:] == ["waited 15% of the time for data"]


# ---------------------------------------------------------------------------------------------------------- the gallery
def test_gallery_has_every_figure_of_the_issue(tables: list[Table], tmp_path: Path) -> None:
    """Every kind of figure, under its own name, with a caption; and no text lies over another in those that have
    numbers and names side by side.
    """
    drawn, remarks = draw_all(tables)
    assert remarks == []
    names = [one.name for one in drawn]
    assert len(set(names)) == len(names) and all(one.caption for one in drawn)
    per_protocol = {
        f"{kind}_{protocol}" for kind in ("pairs", "classes", "tail", "confusion") for protocol in ("clt", "glt", "alt")
    }
    assert set(names) == {"figure5", "environments", "images_glt", "images_cbl", "curves_digits_overall"} | per_protocol
    of = {one.name: one.figure for one in drawn}
    for name in ("figure5", "tail_glt", "confusion_glt", "images_glt"):
        save_figure(of[name], tmp_path, name)  # as it is written
        assert overlapping(of[name]) == [], name


def test_gallery_of_a_method_asked_for(tables: list[Table]) -> None:
    """`pair=` shows another method in depth."""
    drawn, _ = draw_all(tables, "glt_crt_ifl")
    assert next(one.caption for one in drawn if one.name == "tail_glt").startswith("cRT and cRT + IFL, GLT")


def test_a_pair_that_one_study_has_is_shown_there(tmp_path: Path) -> None:
    """Where another preset has no such runs, its default pair is shown, with a remark; the tables are not in vain."""
    for recipe in ("glt_baseline", "glt_crt", "glt_ifl", "glt_crt_ifl"):
        write_rich_run(tmp_path, recipe)
    for recipe in ("glt_baseline", "glt_ifl"):
        write_rich_run(tmp_path, recipe, words=["preset=corrected"])
    rows = [row for row in IFL_AND_OTHERS if row["recipe"] in METHODS and "budget" not in row]
    drawn, remarks = draw_all([with_rows(tmp_path, rows, preset=preset) for preset in PRESETS], "glt_crt_ifl")
    shown = [one.caption.partition(", GLT")[0] for one in drawn if one.name.endswith("tail_glt")]
    assert shown == ["Baseline and Baseline + IFL, paper budget", "cRT and cRT + IFL"]
    assert (
        "digits_glt, preset corrected, last epoch: no finished runs of pair=glt_crt_ifl without and with IFL, so "
        "Baseline + IFL, paper budget is shown in depth"
    ) in remarks


def test_a_pair_of_no_table_is_refused_before_the_work(folder: Path, tmp_path: Path) -> None:
    """Nothing is written; the sentence names what is legal. A recipe whose row has no IFL is none."""
    runs, _ = load_runs(folder)
    layouts = [load_layout(available()[name]) for name in ("digits_overall", "controls")]
    for legal in METHODS:
        refuse_unknown_pair(legal, layouts, runs)
    for wrong in ("glt_tde", "glt_baseline_2n"):
        with pytest.raises(ValueError, match=f"pair={wrong}: .*legal: glt_ifl, glt_baseline, glt_crt_ifl, glt_crt"):
            refuse_unknown_pair(wrong, layouts, runs)
    with pytest.raises(ValueError, match="no run of theirs has IFL"):
        refuse_unknown_pair("glt_ifl", layouts, [])
    with pytest.raises(ValueError, match=r"pair=glt_crt_ilf: .*did you mean glt_crt_ifl"):
        main([f"runs={folder}", f"out={tmp_path / 'out'}", "pair=glt_crt_ilf"])
    assert not (tmp_path / "out").exists()


HOSTILE = (
    r"50% & a_b #1 $x$",
    r"{y} \z ~ ^",
    "<b>&amp;</b>",
    "$",
    "_",
    "é ± ß 数字",
    "x" * 300,
    "\\frac{",
    "tab\tnewline\n",
    "",
)


def test_hostile_class_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    """No class name is read as mathematics or fails a figure, however long it is."""
    for recipe in ("glt_baseline", "glt_ifl"):
        write_rich_run(tmp_path / "runs", recipe, names=HOSTILE)
    drawn, _ = draw_all(filled(tmp_path / "runs"))
    of = {one.name: one.figure for one in drawn}
    for name in ("tail_glt", "classes_glt", "confusion_glt", "images_glt"):
        save_figure(of[name], tmp_path, name)
    assert "{y} \\z ~ ^" in texts(of["tail_glt"]) and "$" in texts(of["tail_glt"])


def _draw_some() -> None:
    """Draw a few figures of the runs in sys.argv[1] to the folder sys.argv[2]."""
    (study,) = studies(filled(Path(sys.argv[1])))
    pair = study.chosen(None)
    runs = [("T", pair.ifl.runs["glt"][0])]
    drawn = {
        "tail": long_tail.one_pair(study, pair, "glt"),
        "environments": environments.environment_panels(runs),
        "images": environments.extreme_images(*runs[0]),
    }
    for name, (figure, _) in drawn.items():
        save_figure(figure, Path(sys.argv[2]), name)


@pytest.mark.full  # test_analysis.py compares all files of two whole commands
def test_figures_repeat_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    """Two processes with other hash seeds write the same bytes."""
    made = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        out.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", "from tests.analysis.test_figures import _draw_some; _draw_some()", folder, out],
            cwd=PROJECT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        made.append({file.name: file.read_bytes() for file in sorted(out.iterdir())})
    assert len(made[0]) == 6 and made[0].keys() == made[1].keys()
    assert [name for name in made[0] if made[0][name] != made[1][name]] == []
