"""The paper's claims on runs of planted accuracy: words, family, margins, and what the verdicts say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.claims import statements, text
from analysis.claims.ranks import average_ranks, cliques, rank
from analysis.claims.verdicts import Judged, judge
from analysis.figures.catalogue import draw_all
from analysis.inputs.frame import tidy
from analysis.inputs.runs import load_runs
from analysis.publishing import checklist
from analysis.stats.bootstrap import Resamples
from analysis.stats.crossed import accuracies, difference
from analysis.tables import comparison, published
from analysis.tables.cells import Cell, Table, fill_table
from analysis.tables.presentation import p_text, seeds_text
from recipes.table_layout import Column, Layout
from tests.helpers.claims import write_claim_runs
from tests.helpers.shipped import layout_of
from tests.helpers.tables import layout

ROWS = [
    {"recipe": "base", "label": "Baseline", "group": "G", "published": "Baseline"},
    {"recipe": "crt", "label": "cRT", "group": "G", "published": "cRT"},
    {"recipe": "base_ifl", "label": "+ IFL", "group": "G", "published": "Baseline + IFL", "twin": "base"},
    {"recipe": "crt_ifl", "label": "+ IFL", "group": "G", "published": "cRT + IFL", "twin": "crt"},
]
ALL = {"Baseline": 0.6, "cRT": 0.6, "Baseline + IFL": 0.7, "cRT + IFL": 0.7}


def small(**change: Any) -> Layout:
    """A layout of four rows under all protocols: six comparisons with IFL, and one of re-balancing."""
    columns = [
        {"data": "digits_glt", "train": train, "protocol": protocol, "subset": "overall", "metric": metric}
        for protocol, train in (("clt", "glt"), ("glt", "glt"), ("alt", "cbl"))
        for metric in ("accuracy", "precision")
    ]
    made = {
        "rows": ROWS,
        "columns": columns,
        "seeds": [0, 1, 2],
        "claims": ["ifl", "rebalancing"],
        "published": ["table1_imagenet_clt_glt", "table2_imagenet_alt"],
    }
    return layout(**{**made, **change})


def judged(folder: Path, accuracy: dict[str, float], made: Layout | None = None, **how: Any) -> Judged:
    made = made or small()
    write_claim_runs(folder, made, accuracy, **how)
    runs, _ = load_runs(folder)
    found = judge(fill_table(made, runs, *tidy(runs)))
    assert found is not None
    return found


def words(found: Judged) -> dict[str, str]:
    return {f"{each.label}, {each.column.protocol}": each.word for each in found.verdicts}


# --- what is claimed -------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "number"), [("claims", 35), ("parts", 39)])
def test_what_is_claimed_is_what_the_papers_numbers_say(name: str, number: int) -> None:
    """Each comparison of the shipped tables has the paper's sign wherever the paper has both numbers; what is not above
    another is less than the margin above it, BBN by 1.53 points."""
    found = statements.comparisons(layout_of(name))
    assert len(found) == number
    for each in found:
        assert each.paper is None or (each.paper > 0 if each.above else each.paper < each.margin), each
    without = {layout_of(name).rows[each.row].published for each in found if each.paper is None}
    assert without <= {"Logit-Adj + IFL"}, "the paper's table 2 lacks this alone"


def test_all_rebalancing_of_the_papers_table_is_judged() -> None:
    """The methods of table 2's first block, without the baseline and without IFL."""
    made = layout_of("claims")
    rows = {place.method for place in published.by_place(made) if place.measure.protocol == "alt"}
    wanted = {row.published for row in made.rows if row.group == "Re-balance" and row.twin is None} & rows
    found = {made.rows[each.row].published for each in statements.comparisons(made) if each.claim == "rebalancing"}
    assert found == wanted - {"Baseline"} and len(found) == 6


def test_every_claim_of_the_file_is_in_a_shipped_table() -> None:
    """Each pair of methods in claims.yaml is compared in `claims` or `parts`, under each of its protocols."""
    pairs = set()
    for made in (layout_of("claims"), layout_of("parts")):
        for each in statements.comparisons(made):
            row, other = made.rows[each.row].published, made.rows[each.other].published
            pairs.add((each.claim, row, other, made.columns[each.column].protocol))
    known = statements.read()
    assert pairs == {
        (name, *pair, protocol)
        for name, claim in known.items()
        for pair, _ in claim.pairs()
        for protocol in claim.protocols
    }


def test_effects_and_margins_are_the_papers() -> None:
    """Baseline + IFL is 45.97 to 42.52 under CLT; re-balancing must help by half of 45.89 - 41.73 under ALT."""
    found = statements.comparisons(small())
    assert (found[0].paper, found[0].above, found[0].margin) == (pytest.approx(0.0345), True, 0.0)
    last = found[-1]
    assert (last.paper, last.above, last.margin) == (pytest.approx(-0.0014), False, pytest.approx(0.0208))


def test_a_third_environment_is_claimed_to_add_little() -> None:
    """It is not above two by half of what these are above IRM: 2.27, 1.93 and 1.42 points; what it adds itself in the
    paper refutes nothing; and the legend says of which difference each margin is half."""
    made = layout_of("parts")
    found = [each for each in statements.comparisons(made) if made.rows[each.row].published == "CE + IFL (3 env)"]
    assert {(each.claim, each.above, made.rows[each.other].published) for each in found} == {
        ("third_environment", False, "CE + IFL (2 env)")
    }
    assert [each.margin for each in found] == pytest.approx([0.01135, 0.00965, 0.0071])
    assert [each.papers_gain for each in found] == pytest.approx([0.0009, 0.0036, 0.0006])
    verdicts = judge(fill_table(made, [], *tidy([])))
    assert verdicts is not None
    (said,) = (note for note in text.legend(verdicts) if note.startswith("not above"))
    assert "half of what CE + IFL (2 env) is above IRM (2 env) in the paper" in said


def test_a_claim_that_does_not_exist_is_named() -> None:
    """One sentence with the nearest; and of two rows of one method nobody can say which is meant."""
    with pytest.raises(ValueError, match="small: claims: rebalance does not exist; did you mean rebalancing"):
        statements.comparisons(small(claims=["rebalance"]))
    with pytest.raises(ValueError, match="two rows are published: Baseline"):
        small(rows=[*ROWS, {**ROWS[0], "recipe": "other"}])


# --- verdicts --------------------------------------------------------------------------------------
def test_what_is_there_is_reproduced_and_what_is_not_is_not(tmp_path: Path) -> None:
    """IFL adds ten points to the baseline and takes eight from cRT, which is two below the baseline."""
    found = judged(tmp_path, {**ALL, "cRT": 0.58, "cRT + IFL": 0.5})
    assert words(found) == {
        **{f"Baseline + IFL above Baseline, {protocol}": "reproduced" for protocol in ("clt", "glt", "alt")},
        **{f"cRT + IFL above cRT, {protocol}": "not reproduced" for protocol in ("clt", "glt", "alt")},
        "cRT not above Baseline, alt": "reproduced",
    }
    first = found.verdicts[0]
    assert first.found is not None and first.found.sources == 300 and first.seeds is None


def test_a_row_surely_above_is_no_row_not_above(tmp_path: Path) -> None:
    """Re-balancing that adds fifteen points refutes the claim that it adds none."""
    found = judged(tmp_path, {**ALL, "cRT": 0.75})
    assert words(found)["cRT not above Baseline, alt"] == "not reproduced"


def test_a_gain_that_the_paper_has_itself_refutes_nothing(tmp_path: Path) -> None:
    """BBN gains 1.53 points in the paper, which calls it no help: what is surely above 0 refutes nothing until it is
    surely above that.
    """
    rows = [ROWS[0], {"recipe": "bbn", "label": "BBN", "group": "G", "published": "BBN"}]
    both = small(rows=rows, claims=["rebalancing"])
    for name, gain, word in (("a", 0.011, "undecided"), ("b", 0.15, "not reproduced")):
        (found,) = judged(
            tmp_path / name, {"Baseline": 0.6, "BBN": 0.6 + gain}, both, made_from={"BBN": "Baseline"}
        ).verdicts
        assert found.found is not None and found.found.interval[0] > 0 and found.of.papers_gain == pytest.approx(0.0153)
        assert found.word == word


def test_rows_made_from_one_anothers_runs_are_compared_run_by_run(tmp_path: Path) -> None:
    """cRT starts from the baseline's runs: however these spread, what it adds to each is surely below the margin. The
    baseline's further seeds have no part in it.
    """
    rows = [{**ROWS[0], "seeds": [0, 1, 2, 3, 4]}, ROWS[1]]
    made = small(rows=rows, claims=["rebalancing"])
    accuracy = {"Baseline": 0.6, "cRT": 0.595}
    apart = judged(tmp_path / "a", accuracy, made, spread=0.06)
    pairs = judged(tmp_path / "b", accuracy, made, spread=0.06, made_from={"cRT": "Baseline"})
    assert (words(apart), words(pairs)) == (
        {"cRT not above Baseline, alt": "undecided"},
        {"cRT not above Baseline, alt": "reproduced"},
    )
    assert [each.verdicts[0].found.runs for each in (apart, pairs) if each.verdicts[0].found] == [(3, 5), (3,)]
    assert "3 pairs" in text.terminal(pairs) and "pairs: one row's runs" in " ".join(text.legend(pairs))
    assert (
        "paired" not in " ".join(text.legend(apart)) and ",3,3,1," in text.csv(pairs) and ",3,5,0," in text.csv(apart)
    )


def test_a_comparison_that_is_another_once_more_is_left_out(tmp_path: Path) -> None:
    """Adjusted logits on classes of equal size change nothing: neither is the row compared with the one that it judges,
    nor do both with IFL count once more. The others' p are corrected for what is left.
    """
    claimed = {"Baseline": 0.6, "Baseline + IFL": 0.7, "cRT": 0.6, "cRT + IFL": 0.7}
    judges = {"cRT": "Baseline", "cRT + IFL": "Baseline + IFL"}
    found = judged(tmp_path, claimed, made_from=judges)
    assert list(words(found)) == [f"Baseline + IFL above Baseline, {protocol}" for protocol in ("clt", "glt", "alt")]
    assert len(found.notes) == 4
    assert found.notes[0].startswith(
        "cRT + IFL above cRT, CLT on digits_glt, is left out: it compares Baseline + IFL with"
    )
    assert found.notes[3].startswith(
        "cRT not above Baseline, ALT on digits_glt, is left out: it compares a row with itself"
    )
    ps = [each.p for each in found.verdicts if each.p is not None]
    assert min(each.holm for each in found.verdicts if each.holm is not None) == pytest.approx(3 * min(ps))


def test_too_small_is_not_reproduced(tmp_path: Path) -> None:
    """No effect, measured so well that the interval is wholly below half of the paper's 3.45 points."""
    found = judged(tmp_path, {**ALL, "Baseline + IFL": 0.6})
    first = found.verdicts[0]
    assert first.found is not None and first.found.interval[1] < 0.0345 / 2
    assert first.word == "not reproduced" and first.holm is not None and first.holm > 0.05


def test_what_spreads_is_undecided_and_says_what_it_would_take(tmp_path: Path) -> None:
    """Seeds that spread by ten points decide nothing; what these could have found, and how many would decide."""
    found = judged(tmp_path, ALL, spread=0.1)
    undecided = [each for each in found.verdicts if each.word == "undecided"]
    assert undecided
    for each in undecided:
        assert each.smallest is not None and each.found is not None and each.smallest > abs(each.found.value)
        assert each.seeds is None or each.seeds > 3


@pytest.mark.parametrize(("seeds", "word"), [(1, "undecided (one seed)"), (2, "undecided (two seeds)")])
def test_few_seeds_decide_nothing(tmp_path: Path, seeds: int, word: str) -> None:
    """With fewer than three there is an effect and its interval, and no p."""
    found = judged(tmp_path, ALL, seeds=seeds)
    assert set(words(found).values()) == {word}
    assert all(each.p is None and each.holm is None and each.found is not None for each in found.verdicts)


def test_missing_runs_count_in_the_family(tmp_path: Path) -> None:
    """A row without runs is missing, by name, and the others' p are corrected for it as if it were there."""
    found = judged(tmp_path / "a", {name: ALL[name] for name in ("Baseline", "Baseline + IFL")})
    assert found.count("missing") == 4 and found.count("reproduced") == 3
    command = (
        "python slurm/launch.py recipe=crt_ifl data=digits_glt train=glt preset=paper batch.budget=paper seeds=0,1,2"
    )
    assert f"no run of cRT + IFL counts: {command}" in found.verdicts[3].why
    known = sorted(each.p for each in found.verdicts if each.p is not None)
    assert min(each.holm for each in found.verdicts if each.holm is not None) == pytest.approx(7 * known[0])


def test_two_data_sets_are_one_family(tmp_path: Path) -> None:
    """Side by side in one table, with a section each, and p corrected over both."""
    columns = [{**column.model_dump(), "data": data} for data in ("birds", "digits_glt") for column in small().columns]
    found = judged(tmp_path, ALL, small(columns=columns))
    assert len(found.verdicts) == 14
    assert [part.name for part in text.sections(found)] == [
        f"{claim}, {data}" for data in ("birds", "digits_glt") for claim in ("ifl", "rebalancing")
    ]
    least = min(each.p for each in found.verdicts if each.p is not None)
    assert min(each.holm for each in found.verdicts if each.holm is not None) == pytest.approx(14 * least)


def test_what_the_data_have_not_is_not_claimed(tmp_path: Path) -> None:
    """Data without attributes have CLT alone: two comparisons, and no re-balancing under ALT."""
    made = small(columns=[column.model_dump() for column in small().columns if column.protocol == "clt"])
    assert [each.of.claim for each in judged(tmp_path, ALL, made).verdicts] == ["ifl", "ifl"]


def test_sources_widen_the_interval_and_lacking_ones_are_said(tmp_path: Path) -> None:
    """Predictions that say their sources are compared by source; old ones sample by sample, with a note."""
    with_sources = judged(tmp_path / "a", ALL)
    without = judged(tmp_path / "b", ALL, sources=False)
    assert not with_sources.notes and "do not say from which source" in without.notes[0]
    assert [each.found.sources for each in (with_sources.verdicts[0], without.verdicts[0]) if each.found] == [300, 600]


@pytest.mark.parametrize("old", ["base-*-s0-*", "base-*", "base_ifl-*", "base*"])
def test_sources_that_any_run_says_count_in_tables_and_verdicts(old: str, tmp_path: Path) -> None:
    """Whichever runs are from before predictions said their sources, if only one of the table says them: intervals,
    tests and verdicts are those of runs that all say them, and arrows rest on the interval of the verdict."""
    made = small()
    write_claim_runs(tmp_path, made, ALL, spread=0.02)

    def filled() -> Table:
        runs, _ = load_runs(tmp_path)
        return fill_table(made, runs, *tidy(runs), Resamples(50))

    want, want_judged = (found := filled()), judge(found)
    for file in (file for run in tmp_path.glob(old) for file in (run / "preds" / "last").iterdir()):
        np.savez(file, **{name: array for name, array in np.load(file).items() if name != "source"})
    got, got_judged = (found := filled()), judge(found)
    assert got_judged == want_judged and got_judged is not None
    for line, want_line in zip(got.cells, want.cells, strict=True):
        assert [cell.interval for cell in line] == [cell.interval for cell in want_line]
        assert [cell.baseline_test for cell in line] == [cell.baseline_test for cell in want_line]
    first = got_judged.verdicts[0]
    test = got.cells[first.of.row][first.of.column].baseline_test
    assert test is not None and first.found is not None and (test.low, test.high) == first.found.interval


def test_the_comparison_is_of_the_runs_that_count(tmp_path: Path) -> None:
    """Value and interval are those of the rows' stored predictions."""
    found = judged(tmp_path, ALL, spread=0.02).verdicts[0]
    runs, _ = load_runs(tmp_path)
    sides = [
        np.stack(
            [
                run.scored_predictions("last", "test_cbl").right
                for run in runs
                if (run.recipe, run.train) == (recipe, "glt")
            ]
        )
        for recipe in ("base_ifl", "base")
    ]
    scores = [accuracies(side, np.arange(600) // 2) for side in sides]
    assert found.found == difference(*scores)


def test_bounds_from_a_larger_budget_say_so() -> None:
    """Where rows of equal images are judged by the paper's differences, one note says with how many it got them."""

    def notes(made: Layout) -> list[str]:
        found = judge(fill_table(made, [], *tidy([])))
        assert found is not None
        return [note for note in text.legend(found) if "the larger budget" in note]

    assert len(notes(layout_of("claims"))) == len(notes(layout_of("parts"))) == 1
    assert not notes(small()), "rows of the paper's own budget"
    matched = [{**row, **({"budget": "matched"} if "twin" in row else {})} for row in ROWS]
    assert not notes(small(rows=matched, published=[])), "no numbers of the paper, and so no bounds"


def test_rows_of_one_label_are_told_apart(tmp_path: Path) -> None:
    """No two comparisons of `parts` read alike, though cross-entropy is there alone and with three experts."""
    found = judge(fill_table(layout_of("parts"), [], *tidy([])))
    assert found is not None
    labels = [each.label for each in found.verdicts]
    assert "CE + IFL (2 env, 3 experts) above CE (3 experts)" in labels and len(set(labels)) == len(labels) / 3


# --- written ---------------------------------------------------------------------------------------
def test_verdicts_are_written_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Terminal within 120 columns, LaTeX, CSV, Markdown; rows have seeds of their own; report and page have them."""
    accuracy = {"Baseline": 0.6, "Baseline + IFL": 0.7, "cRT": 0.55}
    write_claim_runs(tmp_path / "runs", layout_of("claims"), accuracy)
    out = tmp_path / "out"
    main([f"runs={tmp_path / 'runs'}", f"out={out}", "table=claims", "data=digits_glt"])
    shown = capsys.readouterr().out
    assert "claims: of 35 comparisons of the paper's claims: 4 reproduced, 31 missing" in shown
    assert max(map(len, shown.split("runs read")[0].splitlines())) <= 120
    lines = pd.read_csv(out / "claims_verdicts.csv").set_index(["comparison", "protocol"])
    assert len(lines) == 35 and (lines.loc["cRT not above Baseline", "alt"][["seeds", "other_seeds"]] == [3, 5]).all()
    assert lines.loc[("Baseline + IFL above Baseline", "clt"), "verdict"] == "reproduced"
    written = (out / "claims_verdicts.md").read_text()
    assert written.count("| reproduced |") == 4 and "intervals, and verdicts by them, are not corrected" in written
    assert r"\input{claims_verdicts.tex}" in (out / "report.tex").read_text()
    page = (out / "index.html").read_text()
    assert 'id="verdicts-0"' in page and page.count("<td>reproduced</td>") == 4
    assert "<td>\N{MINUS SIGN}" in page and "<td>-" not in page.replace("<td>--<", "")


@pytest.mark.parametrize(
    ("p", "shown"),
    [(0.0434, "0.043"), (0.05017, "0.0502"), (0.04998, "0.04998"), (0.05, "0.05"), (0.000331, "0.00033"), (1.0, "1")],
)
def test_p_shows_on_which_side_of_the_level_it_is(p: float, shown: str) -> None:
    """Two digits, and near .05 as many as it takes: 0.05 would leave open whether p < 0.05."""
    assert p_text(p) == shown


def test_seeds_of_the_command_are_those_of_all_rows(tmp_path: Path) -> None:
    """`seeds=0` replaces rows' own, so no seed is lacking; without it a row that has its own lacks the others."""
    made = small(rows=[{**ROWS[0], "seeds": [0, 1, 2, 3]}, *ROWS[1:]])
    write_claim_runs(tmp_path, made, {"Baseline": 0.6}, seeds=1)
    runs, _ = load_runs(tmp_path)
    own, replaced = (fill_table(each, runs, *tidy(runs)) for each in (made, made.with_seeds([0])))
    assert any("Baseline: no run of seed 1, 2, 3" in note for note in own.notes)
    assert not any("of seed" in note for note in replaced.notes)
    assert seeds_text(made) == "seeds 0, 1, 2 (0, 1, 2, 3 in 1 row)" and seeds_text(replaced.layout) == "seed 0"
    assert checklist._seeds(own) == "seeds 0, 1, 2 (0, 1, 2, 3 in 1 row) asked for; runs behind a number: 0 to 1"


def test_gains_explain_arrows_and_their_lack(tmp_path: Path) -> None:
    """Each where it applies, also both in one table; that the paper's are untested stands below every one."""
    for seeds, marks, few in ((3, True, False), (1, False, True), (2, False, True), (None, True, True)):
        made = small(rows=[*ROWS[:3], {**ROWS[3], "seeds": [0]}] if seeds is None else ROWS)
        write_claim_runs(folder := tmp_path / str(seeds), made, ALL, seeds=seeds)
        runs, _ = load_runs(folder)
        gains = comparison.gains(fill_table(made, runs, *tidy(runs)))
        assert ("against the method without IFL" in gains, "o arrows over" in gains) == (marks, few)
        assert gains.count("differences of single runs, untested") == gains.count(r"\caption")


# --- published noise -------------------------------------------------------------------------------
def test_differences_below_single_run_noise_are_marked(tmp_path: Path) -> None:
    """95 % of the differences of two runs are below 1.96 sqrt(2) standard deviations: .28 points under CLT; ALT, which
    nobody published, takes that too; other data and other subsets have none.
    """
    clt = Column(data="x", train="glt", protocol="clt", subset="overall", metric="accuracy")
    alt = clt.model_copy(update={"train": "cbl", "protocol": "alt"})
    known = published.noise("imagenet_glt", "clt", "accuracy")
    assert known is not None and known.difference == pytest.approx(1.96 * 2**0.5 * 0.000993)
    assert published.below_noise(0.0027, "imagenet_glt", clt) and not published.below_noise(0.0028, "imagenet_glt", clt)
    assert published.below_noise(-0.0014, "imagenet_glt", alt) and not published.below_noise(0.0, "mscoco_glt", alt)
    assert not published.below_noise(0.0, "imagenet_glt", clt.model_copy(update={"subset": "few"}))
    found = judged(tmp_path, ALL)
    assert "-0.14°" in text.terminal(found) and "+3.45 " in text.terminal(found)
    assert "° the paper's difference is below single-run noise, 0.28 points (ALT)" in " ".join(text.legend(found))


def test_gains_mark_them_too(tmp_path: Path) -> None:
    """A third environment adds .09 points under CLT in the paper: `paper | ours` marks that, and says what it means."""
    rows = [
        {"recipe": "two", "label": "two", "group": "G", "published": "CE + IFL (2 env)"},
        {"recipe": "three", "label": "three", "group": "G", "published": "CE + IFL (3 env)", "twin": "two"},
    ]
    made = small(rows=rows, published=["table4_ablation"], claims=[])
    write_claim_runs(tmp_path, made, {"CE + IFL (2 env)": 0.6, "CE + IFL (3 env)": 0.6})
    runs, _ = load_runs(tmp_path)
    gains = comparison.gains(fill_table(made, runs, *tidy(runs)))
    assert r"$+0.09$\ensuremath{^\circ}" in gains and r"$+0.36$ &" in gains
    assert "below single-run noise, 0.28 points (ALT accuracy)" in gains


# --- ranks over data sets --------------------------------------------------------------------------
def ranked(numbers: np.ndarray) -> Table:
    """A filled table of rows by data sets, accuracies as given; NaN is an empty cell."""
    rows = [{"recipe": f"r{i}", "label": f"row {i}", "group": "G"} for i in range(len(numbers))]
    columns = [
        {"data": f"data{j}", "train": "glt", "protocol": "clt", "subset": "overall", "metric": "accuracy"}
        for j in range(numbers.shape[1])
    ]
    cells = [[Cell(() if np.isnan(value) else (float(value),)) for value in line] for line in numbers]
    made = layout(rows=rows, columns=columns)
    return Table(made, cells, [], {(row, source): [] for row in range(len(rows)) for source in made.sources})


def test_ranks_by_hand() -> None:
    """Ties share the mean rank; over five data sets of the same order two of three rows differ: z = 2 / sqrt(.4)."""
    assert rank(np.array([[0.9], [0.7], [0.9], [0.1]])).ravel().tolist() == [1.5, 3.0, 1.5, 4.0]
    (found,) = average_ranks(ranked(np.tile([[0.3], [0.1], [0.2]], 5)))
    assert found.labels == ("row 0", "row 2", "row 1") and found.ranks.tolist() == [1.0, 2.0, 3.0]
    # p of neighbours .114, times 2; of the ends .0016, times 3.
    assert found.cliques == ((0, 1), (1, 2))
    assert cliques(np.array([1.0, 1.5, 6.0, 6.5]), 40) == [(0, 1), (2, 3)]
    assert cliques(np.array([2.4, 2.5, 2.6]), 5) == [(0, 2)]


def test_ranks_only_from_five_data_sets_on() -> None:
    """With four there are neither ranks nor a figure; a row that lacks a number is left out by name."""
    numbers = np.random.default_rng(0).random((4, 5))
    assert average_ranks(ranked(numbers[:, :4])) == []
    numbers[1, 2] = np.nan
    (found,) = average_ranks(ranked(numbers))
    assert found.left_out == ("row 1",) and len(found.ranks) == 3
    names = [one.name for one in draw_all([ranked(numbers)])[0]]
    assert "ranks_small_clt" in names
    assert not any(name.startswith("ranks") for name in [one.name for one in draw_all([ranked(numbers[:, :4])])[0]])
