"""MSCOCO-GLT's splits: the greedy pick against its literal definition, and every rule by which objects are dealt
out.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from recipes.common.errors import DataError
from sharding.datasets.mscoco_glt.splits import (
    PAPER,
    Part,
    Sizes,
    attribute_counts,
    class_group,
    greedy_pick,
    pool_sizes,
    split,
    thirds,
    unevenness,
)
from sharding.format.dataset import digest_of
from tests.helpers import coco_source

SMALL = {edition: sizes.times(0.02) for edition, sizes in PAPER.items()}
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(29), np.linspace(260, 40, 29).astype(int)))
PRESENT = coco_source.vectors(LABELS, 0) > 0.5
NAMES = list(coco_source.SIZES)


@pytest.fixture(scope="module")
def dealt() -> dict[str, dict[str, Part]]:
    return split(LABELS, PRESENT, NAMES, 0, SMALL)


# --------------------------------------------------------------------------------------------------------- greedy pick
def exact_pick(present: np.ndarray, count: int) -> list[int]:
    """The definition word for word, in fractions: of each candidate the variance of (d + v) / (sum + 1e-9) over the
    attributes, `<`, in order.
    """
    taken: list[int] = []
    for _ in range(count):
        counts = present[taken].sum(0, dtype=np.int64)
        best: tuple[Fraction, int] | None = None
        for row in range(len(present)):
            if row in taken or not present[row].any():
                continue
            with_row = [int(n) for n in counts + present[row]]
            share = [Fraction(n) / (sum(with_row) + Fraction(1, 10**9)) for n in with_row]
            mean = sum(share) / len(share)
            variance = sum((s - mean) ** 2 for s in share) / len(share)
            if best is None or variance < best[0]:
                best = variance, row
        taken.append(best[1])
    return taken


@pytest.mark.parametrize("seed", range(6))
def test_greedy_pick_is_its_definition(seed: int) -> None:
    """The same objects in the same order as the definition in exact arithmetic, on vectors with repeats, with none, and
    with many ties.
    """
    rng = np.random.default_rng(seed)
    present = rng.random((24, 7)) < rng.uniform(0.1, 0.5, 7)
    present[rng.integers(0, 24, 8)] = present[rng.integers(0, 24, 8)]
    present[3] = False
    count = min(15, int(present.any(1).sum()))
    assert greedy_pick(present, count).tolist() == exact_pick(present, count)


@pytest.mark.parametrize("seed", range(3))
def test_greedy_pick_is_the_least_std_in_floats(seed: int) -> None:
    """Against numpy's own float64 std of every candidate, at 204 attributes: each pick has the least to within
    rounding, is the pick wherever no other is within rounding, and is the first in order of the candidates with its own
    vector."""
    rng = np.random.default_rng(seed)
    present = coco_source.vectors(np.zeros(300, int), seed) > 0.5
    present[rng.integers(0, 300, 100)] = present[rng.integers(0, 300, 100)]
    picks = greedy_pick(present, 60).tolist()
    alone = 0
    for i, pick in enumerate(picks):
        with_each = present[picks[:i]].sum(0) + present.astype(float)
        std = (with_each / (with_each.sum(1, keepdims=True) + 1e-9)).std(1)
        free = np.array([row not in picks[:i] and present[row].any() for row in range(300)])
        std[~free] = np.inf
        close = np.flatnonzero(std <= std.min() * (1 + 1e-12))
        assert pick in close
        same = [row for row in np.flatnonzero(free).tolist() if (present[row] == present[pick]).all()]
        assert pick == same[0]
        alone += len(close) == 1
    assert alone > 20


def test_ties_go_to_the_first() -> None:
    """Objects of one vector are taken in their order; of equally good ones the first is."""
    present = np.repeat(np.eye(4, dtype=bool), 2, axis=0)[[0, 2, 1, 4, 6, 3, 5, 7]]
    assert greedy_pick(present, 8).tolist() == [0, 1, 3, 4, 2, 5, 6, 7]
    assert greedy_pick(np.ones((5, 3), bool), 5).tolist() == [0, 1, 2, 3, 4]


def test_objects_without_attributes_are_not_picked() -> None:
    """They are never in Test-GBL, and too few others are refused."""
    present = np.zeros((5, 3), bool)
    present[[1, 4]] = True
    assert sorted(greedy_pick(present, 2).tolist()) == [1, 4]
    with pytest.raises(DataError, match="2 objects have an attribute, 3 are needed"):
        greedy_pick(present, 3)


# ------------------------------------------------------------------------------------------------------------ the rules
def test_the_papers_pool() -> None:
    """Train-GLT's class sizes before Test-GLT and val are cut off are the published ones, 153,273 together; Train-CBL's
    are 1158 each.
    """
    published = [
        64600,
        7266,
        5254,
        5124,
        5028,
        4923,
        4783,
        4674,
        4573,
        4569,
        4489,
        4451,
        4408,
        4388,
        4373,
        3780,
        3128,
        2589,
        2142,
        1773,
        1467,
        1214,
        1005,
        831,
        688,
        569,
        471,
        390,
        323,
    ]
    assert (
        pool_sizes(PAPER["glt"], [n - 400 for n in coco_source.SIZES.values()]) == published
        and sum(published) == 153273
    )
    assert pool_sizes(PAPER["cbl"], [n - 200 for n in coco_source.SIZES.values()]) == [1158] * 29


def test_counts(dealt: dict[str, dict[str, Part]]) -> None:
    """Of each class as many as the sizes say; Test-GLT and val out of the pool; nothing is left over from the pool."""
    assert {"glt": Sizes(4, 1292, 0.005, 2, 4), "cbl": Sizes(2, 23, 1.0, 1, 0)} == SMALL
    for edition, sizes in SMALL.items():
        parts, each = (
            dealt[edition],
            {name: np.bincount(LABELS[part.rows], minlength=29) for name, part in dealt[edition].items()},
        )
        assert set(parts) == {"train", "val", "test_cbl", "test_gbl"} | ({"test_glt"} if edition == "glt" else set())
        assert each["test_cbl"].tolist() == each["test_gbl"].tolist() == [sizes.test] * 29
        pool = pool_sizes(sizes, (np.bincount(LABELS) - 2 * sizes.test).tolist())
        assert (each["train"] + each["val"] + each.get("test_glt", 0)).tolist() == pool
        assert len(parts["val"]) == 29 * sizes.val and len(parts.get("test_glt", ())) == 29 * sizes.test_glt


def test_no_object_twice_in_an_edition(dealt: dict[str, dict[str, Part]]) -> None:
    for parts in dealt.values():
        rows = np.concatenate([part.rows for part in parts.values()])
        assert len(np.unique(rows)) == len(rows)


def test_gbl_is_the_greedy_pick_and_cbls_its_first_half(dealt: dict[str, dict[str, Part]]) -> None:
    """Test-GBL is the greedy pick of each class, whatever the seed; the balanced edition's is the first half of the
    picks.
    """
    other = split(LABELS, PRESENT, NAMES, 1, SMALL)
    for edition, count in (("glt", 4), ("cbl", 2)):
        wanted = [np.flatnonzero(k == LABELS)[greedy_pick(PRESENT[k == LABELS], count)] for k in range(29)]
        for found in (dealt, other):
            assert set(found[edition]["test_gbl"].rows.tolist()) == set(np.concatenate(wanted).tolist())


def test_test_gbl_is_more_even_than_test_cbl(dealt: dict[str, dict[str, Part]]) -> None:
    for parts in dealt.values():
        assert unevenness(PRESENT[parts["test_gbl"].rows]) < 0.8 * unevenness(PRESENT[parts["test_cbl"].rows])


def test_seed(dealt: dict[str, dict[str, Part]]) -> None:
    """A seed gives the same splits again; another seed gives others, of every split; and these very ones, on any
    machine and numpy.
    """
    again, other = split(LABELS, PRESENT, NAMES, 0, SMALL), split(LABELS, PRESENT, NAMES, 1, SMALL)
    for edition, parts in dealt.items():
        for name, part in parts.items():
            assert again[edition][name].rows.tolist() == part.rows.tolist()
            assert other[edition][name].rows.tolist() != part.rows.tolist()
    assert (
        digest_of(
            {edition: {name: part.rows.tolist() for name, part in parts.items()} for edition, parts in dealt.items()}
        )[:16]
        == "2ee65414335af587"
    )


def test_scores_and_thirds(dealt: dict[str, dict[str, Part]]) -> None:
    """attribute_score is sum_a p_train(a | class) v_a / |v|, 0 without attributes; the groups are thirds of the split
    by falling score, with `>` at the thresholds.
    """
    for parts in dealt.values():
        train = parts["train"].rows
        counts = attribute_counts(LABELS[train], PRESENT[train], 29)
        for part in parts.values():
            wanted = [
                counts[LABELS[row]][PRESENT[row]].sum() / counts[LABELS[row]].sum() / PRESENT[row].sum()
                if PRESENT[row].any()
                else 0.0
                for row in part.rows
            ]
            np.testing.assert_allclose(part.score, wanted, rtol=1e-12)
            assert part.attribute.tolist() == thirds(part.score).tolist()
            assert abs(np.bincount(part.attribute, minlength=3) - len(part) / 3).max() <= 0.1 * len(part)
    assert thirds(np.array([5.0, 1, 4, 2, 3, 0])).tolist() == [0, 2, 0, 1, 1, 2]
    assert thirds(np.array([5.0, 5, 5, 2, 3, 0, 5])).tolist() == [1, 1, 1, 2, 2, 2, 1]  # none is above the threshold


def test_class_groups() -> None:
    """Groups follow the class ids: 0-10, 11-22, 23-28."""
    assert [class_group(k) for k in range(29)] == [0] * 11 + [1] * 12 + [2] * 6


def test_too_few_objects_name_the_class() -> None:
    """A class that cannot fill its tests or its training is named with what is needed."""
    keep = np.ones(len(LABELS), bool)
    keep[np.flatnonzero(LABELS == 7)[26:]] = False
    with pytest.raises(
        DataError,
        match="class 'broccoli' has 26 objects, too few for edition cbl: 4 for its two balanced tests and 23 for "
        "training are needed",
    ):
        split(LABELS[keep], PRESENT[keep], NAMES, 0, SMALL)
    bare = PRESENT.copy()
    bare[np.flatnonzero(LABELS == 3)[2:]] = False
    with pytest.raises(
        DataError, match=r"class 'motorcycle' is too small for Test-GBL: [0-9] objects have an attribute, 4 are needed"
    ):
        split(LABELS, bare, NAMES, 0, SMALL)
