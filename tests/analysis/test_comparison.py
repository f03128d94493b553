"""Beside the paper: every published cell has its place, differences and gains are right, and Kendall's tau is
Kendall's.
"""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from analysis.tables import agreement, comparison, published
from analysis.tables.latex import escape
from analysis.tables.presentation import baseline_mark
from recipes.table_layout import available, load_layout
from tests.helpers.tables import HALF, LABEL, MOST, NONE_RIGHT, beside_paper, table, write_run

PAPER = {"imagenet_clt_glt": 336, "imagenet_alt": 152, "mscoco": 126, "ablation": 96}
DIGITS = {
    "digits_clt_glt": "imagenet_clt_glt",
    "digits_alt": "imagenet_alt",
    "digits_overall": "mscoco",
    "digits_ablation": "ablation",
}


@pytest.mark.parametrize("name", PAPER)
def test_every_published_cell_has_a_row_and_a_column(name: str) -> None:
    """Each number of the paper's table stands at exactly one place of our layout, on its data set, and no row or
    column is without.
    """
    layout = load_layout(available()[name])
    numbers = published.by_place(layout)
    cells = [(row, column) for row in layout.rows for column in layout.columns]
    placed = [number for row, column in cells if (number := published.number_at(numbers, row, column)) is not None]
    lines = [
        line
        for file in layout.published
        for line in csv.DictReader((published.FOLDER / f"{file}.csv").open(encoding="utf-8"))
    ]
    assert len(placed) == len(cells) == len(set(placed)) == len(numbers) == len(lines) == PAPER[name]
    assert {number.data for number in placed} == {column.data for column in layout.columns}
    assert sorted(number.value for number in placed) == sorted(float(line["value"]) / 100 for line in lines)


@pytest.mark.parametrize("name", DIGITS)
def test_digits_tables_name_the_same_methods(name: str) -> None:
    """A digits table has the paper's numbers of the table that it is laid out as: the same recipe at the same
    published name.
    """
    digits, paper = load_layout(available()[name]), load_layout(available()[DIGITS[name]])
    assert digits.published == paper.published
    assert [(row.recipe, row.published, row.twin) for row in digits.rows] == [
        (row.recipe, row.published, row.twin) for row in paper.rows
    ]


def test_a_number_by_hand() -> None:
    """Spot checks against the paper: table 1's first cell, and table 2's Few, which is of attributes."""
    table1, table2 = published.read("table1_imagenet_clt_glt"), published.read("table2_imagenet_alt")
    first = published.Measure("clt", "many", "accuracy")
    assert table1[0] == published.Number("table 1", "imagenet_glt", "Baseline", first, pytest.approx(0.5934))
    assert {number.measure.subset for number in table2} == {"many_a", "medium_a", "few_a", "overall"}


def test_unknown_published_file_is_named() -> None:
    """A layout that names no file of recipes/published is refused with the legal ones."""
    with pytest.raises(ValueError, match=r"published: tabel1: no such file .*legal: followups, table1"):
        published.read("tabel1")


# --- comparisons -----------------------------------------------------------------------------------


def test_beside_gives_paper_ours_and_difference(tmp_path: Path) -> None:
    """paper | ours | difference: 42.52 in the paper, 50.00 here, +7.48; a cell without a run has the paper's alone."""
    write_run(tmp_path, data="imagenet_glt", cbl=HALF)
    beside = comparison.paper_and_ours(beside_paper(tmp_path))
    plain, ifl = ([line for line in beside.splitlines() if f"{label} &" in line] for label in ("Plain", "+ IFL"))
    assert "42.52 & 50.00 & $+7.48$" in plain[0]
    assert "45.97 & -- & " in ifl[0].replace(r"--\ensuremath{^\dagger}", "--")


def test_other_data_has_no_difference(tmp_path: Path) -> None:
    """Where the data differ, values do not stand beside each other; only the shape does, and says so."""
    write_run(tmp_path)
    write_run(tmp_path, "plain_ifl", cbl=MOST)
    digits = beside_paper(tmp_path, "digits_glt")
    assert comparison.paper_and_ours(digits) == "" and digits.cells[0][0].paper is not None
    assert "only the shape compares" in comparison.gains(digits)
    assert "only the shape compares" in agreement.agreement_sentence(digits)


def test_negative_numbers_of_the_shape_have_a_minus_sign(tmp_path: Path) -> None:
    """Kendall's tau below 0, and its interval, are set with a minus sign and no hyphen."""
    write_run(tmp_path, cbl=MOST)
    write_run(tmp_path, "plain_ifl", cbl=HALF)
    written = comparison.shape_summary(beside_paper(tmp_path, "digits_glt"))
    cells = [cell.strip() for line in written.splitlines() if " & " in line for cell in line.split("&")]
    assert escape("\N{MINUS SIGN}1.00") in cells and not [cell for cell in cells if re.search(r"(^|\s)-\d", cell)]


def test_published_noise_says_what_is_in_it() -> None:
    """The nine runs behind ° are variants of one method, and the sentence says so."""
    noise = published.noise("imagenet_glt", "clt", "accuracy")
    assert noise is not None
    said = published.noise_sentence({"CLT": noise})
    assert "two single runs are smaller, by 9 published runs" in said and "variants of one method" in said
    assert "runs of one method" not in said


def test_later_papers_are_an_option(tmp_path: Path) -> None:
    """Later papers' numbers come as rows where asked for, each with its source (two print MetaSAug), else not at
    all.
    """
    write_run(tmp_path, data="imagenet_glt")
    later = comparison.paper_and_ours(beside_paper(tmp_path), later=True)
    assert "Meta-CALA {[}2{]} & 55.14 & " in later and "MetaSAug {[}1{]} & " in later and "MetaSAug {[}2{]} & " in later
    assert "{[}1{]} xiaolingzhou98/CLP" in later and "{[}2{]} xiaolingzhou98/CALA" in later
    assert "Meta-CALA" not in comparison.paper_and_ours(beside_paper(tmp_path))


@pytest.mark.parametrize(
    ("plain", "ifl", "seeds", "ours", "verdict"),
    [
        (HALF, MOST, 3, 0.3, "agrees"),
        (MOST, HALF, 3, -0.3, "disagrees"),
        (HALF, HALF, 3, 0.0, "equal"),
        (NONE_RIGHT, LABEL, 3, 1.0, "agrees surely"),
        (LABEL, NONE_RIGHT, 3, -1.0, "disagrees surely"),
        (NONE_RIGHT, LABEL, 2, 1.0, "agrees"),
        (NONE_RIGHT, LABEL, 1, 1.0, "agrees"),
        (LABEL, NONE_RIGHT, 1, -1.0, "disagrees"),
        (HALF, None, 3, None, "no number"),
    ],
)
def test_gains_agree_in_sign(
    tmp_path: Path, plain: np.ndarray, ifl: np.ndarray | None, seeds: int, ours: float | None, verdict: str
) -> None:
    """The paper has + IFL 3.45 points above the baseline (CLT, overall accuracy); ours agrees, or not, and surely
    where p < 0.05 over three seeds, as arrows are.
    """
    for seed in range(seeds):
        write_run(tmp_path, seed=seed, cbl=plain)
        if ifl is not None:
            write_run(tmp_path, "plain_ifl", seed=seed, cbl=ifl)
    table = beside_paper(tmp_path, "digits_glt", seeds=[*range(seeds)])
    gain = agreement.gains_of(table)[0]
    assert ("surely" in gain.agreement) == bool(baseline_mark(table.cells[1][0]))
    assert (gain.label, gain.baseline, gain.paper) == ("Plain + IFL", "Plain", pytest.approx(0.0345))
    assert gain.ours == (ours if ours is None else pytest.approx(ours)) and gain.agreement == verdict


def test_the_gain_of_every_pair_protocol_and_metric(tmp_path: Path) -> None:
    """Table 1 has a gain for each of its 9 pairs in each of its 16 columns, whether or not anything was run."""
    write_run(tmp_path)
    for name, gains in (("imagenet_clt_glt", 9 * 16), ("imagenet_alt", 8 * 8), ("mscoco", 9 * 6), ("ablation", 4 * 6)):
        layout = load_layout(available()[name])
        found = agreement.gains_of(
            table(tmp_path, **{key: getattr(layout, key) for key in ("name", "seeds", "rows", "columns", "published")})
        )
        assert len(found) == gains and {gain.agreement for gain in found} == {"no number"}


@pytest.mark.parametrize("seed", range(10))
def test_kendall_with_ties(seed: int) -> None:
    """tau-b equals scipy's and the definition, pair by pair, with many ties, for all columns at once."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 6, 12).astype(float), rng.integers(0, 5, (12, 4)).astype(float)
    got = agreement.kendall_tau(first, second)
    for r in range(4):
        agree = against = only_first = only_second = 0
        for i, j in itertools.combinations(range(12), 2):
            one, other = first[i] - first[j], second[i, r] - second[j, r]
            agree, against = agree + (one * other > 0), against + (one * other < 0)
            only_first, only_second = only_first + (one != 0), only_second + (other != 0)
        assert got[r] == pytest.approx((agree - against) / (only_first * only_second) ** 0.5)
        assert got[r] == pytest.approx(kendalltau(first, second[:, r]).statistic)


def test_kendall_without_an_order_is_no_number() -> None:
    """All ties on one side, or fewer than two: NaN, and no warning of a division."""
    assert np.isnan(agreement.kendall_tau(np.array([1.0, 1.0]), np.array([[1.0], [2.0]]))).all()
    assert np.isnan(agreement.kendall_tau(np.array([1.0]), np.array([[1.0]]))).all()


def test_ranking_of_a_column(tmp_path: Path) -> None:
    """The same order as the paper's is tau 1, the reverse -1; rows without a run do not count."""
    rows = [
        {"recipe": f"r{i}", "label": method, "group": "G", "published": method}
        for i, method in enumerate(("Baseline", "RandAug", "RIDE", "TADE"))
    ]
    for i, prediction in enumerate((NONE_RIGHT, HALF, MOST)):
        write_run(tmp_path, f"r{i}", cbl=prediction)
    ranking = agreement.rankings(beside_paper(tmp_path, "digits_glt", rows=rows))[0]
    paper = [
        row.paper.value
        for row in (line[0] for line in beside_paper(tmp_path, "digits_glt", rows=rows).cells)
        if row.paper
    ]
    assert (ranking.rows, ranking.tau) == (3, pytest.approx(kendalltau(paper[:3], [0, 0.5, 0.8]).statistic))
    assert ranking.low is not None and ranking.low <= ranking.tau <= ranking.high


def test_sentence_counts(tmp_path: Path) -> None:
    """One line says how many gains have numbers and how many agree; nothing published or nothing run: no line."""
    write_run(tmp_path, cbl=HALF)
    write_run(tmp_path, "plain_ifl", cbl=MOST)
    said = agreement.agreement_sentence(beside_paper(tmp_path, "digits_glt"))
    assert (
        "of the paper's 3 gains, `X + IFL` minus `X`, 3 have numbers here: " in said
        and "2 agree in sign (0 surely), 0 do not (0 surely: p < 0.05 over 3 seeds or more)" in said
    )
    assert agreement.agreement_sentence(table(tmp_path, seeds=[0])) == ""
