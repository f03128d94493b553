"""The cut of a pool: which images are in which split, how many, and what is refused."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.common.errors import DataError
from sharding.datasets.samples.long_tail import LongTail
from sharding.datasets.samples.splits import NONE, TEST, TRAIN, VAL, Cut, Pool, Wishes, cut

NAMES = ("ant", "bee", "cat", "dog")
TAIL = LongTail("10", "exponential", 10.0)


def pool_of(cells: list[list[int]], per_source: int = 1, seed: int = 0) -> Pool:
    """A pool with so many images of each class and attribute group, shuffled; some share a source."""
    counts = np.array(cells)
    label = np.repeat(np.arange(len(counts)), counts.sum(1))
    group = np.concatenate([np.repeat(np.arange(counts.shape[1]), row) for row in counts])
    order = np.random.default_rng(seed).permutation(len(label))
    source = np.arange(len(label)) // per_source if per_source > 1 else None
    return Pool(NAMES[: len(cells)], label[order], group[order] if counts.shape[1] > 1 else None, source=source)


def totals(found: Cut) -> dict[str, list[int]]:
    return {folder: counts.sum(1).tolist() for folder, counts in found.report.counts.items()}


def cells_of(pool: Pool, rows: np.ndarray) -> list[list[int]]:
    group = np.zeros(len(pool.label), int) if pool.attribute is None else pool.attribute
    width = 1 if pool.attribute is None else 3
    cell = pool.label[rows] * width + group[rows]
    table: list[list[int]] = np.bincount(cell, minlength=len(NAMES) * width).reshape(-1, width).tolist()
    return table


def held_apart(found: Cut, pool: Pool) -> None:
    """No image and no source is in two splits, but for the two trainings; and none is twice in one."""
    source = np.arange(len(pool.label)) if pool.source is None else pool.source
    for rows in found.rows.values():
        assert len(np.unique(rows)) == len(rows)
    for one, other in combinations(found.rows, 2):
        if not (one.endswith("train") and other.endswith("train")):
            assert not np.intersect1d(source[found.rows[one]], source[found.rows[other]]).size, (one, other)


pools = st.builds(
    pool_of,
    st.lists(st.lists(st.integers(20, 60), min_size=3, max_size=3), min_size=4, max_size=4),
    st.integers(1, 2),
    st.integers(0, 9),
)
attribute_tails = st.sampled_from([None, (7, 2, 1), (1, 1, 1), (5, 3, 2)])


@settings(max_examples=40, deadline=None)
@given(pools, attribute_tails, st.integers(0, 2**31))
def test_every_cut_keeps_its_promises(pool: Pool, attribute_tail: tuple[int, int, int] | None, seed: int) -> None:
    """Splits are disjoint; Test-GBL has equal groups; tests, val and Train-CBL are balanced over the classes and have
    training's proportion of groups; Train-GLT has the tail; Train-CBL has no more images but for rounding; and the
    report counts what is there.
    """
    found = cut(pool, Wishes(TAIL, attribute_tail, val=5, test_cbl=6, test_gbl=9), seed)
    held_apart(found, pool)
    counts = found.report.counts
    assert {folder: cells_of(pool, rows) for folder, rows in found.rows.items()} == {
        folder: table.tolist() for folder, table in counts.items()
    }
    assert (counts["shared/test_gbl"] == 3).all()
    assert (counts["shared/test_cbl"].sum(1) == 6).all() and (counts["shared/val"].sum(1) == 5).all()
    glt, cbl = counts["glt/train"].sum(1), counts["cbl/train"].sum(1)
    assert (cbl == cbl[0]).all() and sum(cbl) < sum(glt) + len(cbl) and glt.tolist() == TAIL.of(int(glt[0]), 4)
    if attribute_tail:
        share = np.array(attribute_tail) / sum(attribute_tail)
        for folder in ("glt/train", "cbl/train", "shared/val", "shared/test_cbl"):
            assert (np.abs(counts[folder] - counts[folder].sum(1, keepdims=True) * share) < 1).all()


@settings(max_examples=20, deadline=None)
@given(pools, attribute_tails, st.integers(0, 2**31))
def test_the_same_seed_is_the_same_cut(pool: Pool, attribute_tail: tuple[int, int, int] | None, seed: int) -> None:
    """The same seed gives the same rows in the same order; another one other rows, where sources are single in the same
    numbers.
    """
    wishes = Wishes(TAIL, attribute_tail, val=5, test_cbl=6, test_gbl=9)
    one, again, other = (cut(pool, wishes, number) for number in (seed, seed, seed + 1))
    assert {folder: rows.tolist() for folder, rows in one.rows.items()} == {
        folder: rows.tolist() for folder, rows in again.rows.items()
    }
    assert one.rows["shared/test_cbl"].tolist() != other.rows["shared/test_cbl"].tolist()
    if pool.source is None:
        assert {f: table.tolist() for f, table in one.report.counts.items()} == {
            f: table.tolist() for f, table in other.report.counts.items()
        }


def test_editions_with_attributes() -> None:
    """Both editions share val and the tests; only their trainings differ."""
    shared = {"val": "shared/val", "test_cbl": "shared/test_cbl", "test_gbl": "shared/test_gbl"}
    found = cut(pool_of([[40, 30, 20]] * 4), Wishes(TAIL), 0)
    assert found.editions == {"glt": {"train": "glt/train", **shared}, "cbl": {"train": "cbl/train", **shared}}


def test_train_cbl_has_as_many_images_as_train_glt() -> None:
    """Where the classes can give them, so that the editions' runs see equally many images."""
    found = cut(pool_of([[100, 60, 40]] * 4), Wishes(TAIL), 0)
    glt, cbl = (found.report.counts[f"{edition}/train"].sum() for edition in ("glt", "cbl"))
    assert 0 <= cbl - glt < 4


def test_editions_without_attributes() -> None:
    """The class tail alone is the edition glt with one test, and an image is in one split."""
    pool = pool_of([[100]] * 4)
    found = cut(pool, Wishes(TAIL), 0)
    assert found.editions == {"glt": {"train": "glt/train", "val": "glt/val", "test_cbl": "glt/test_cbl"}}
    assert totals(found) == {"glt/train": TAIL.of(85, 4), "glt/val": [5] * 4, "glt/test_cbl": [10] * 4}
    held_apart(found, pool)


def test_natural_tails_leave_nothing_out() -> None:
    """Without a class tail and an attribute tail training has every image that val and the tests leave."""
    pool = pool_of([[60, 30, 20], [50, 25, 25], [60, 40, 9], [33, 33, 34]])
    found = cut(pool, Wishes(LongTail()), 0)
    used = sum(len(rows) for folder, rows in found.rows.items() if folder != "cbl/train")
    assert used == len(pool.label) and found.report.notes == ()


def test_shares_are_of_the_smallest_class() -> None:
    """A share counts the smallest class's images, truncated to whole steps; a whole number is images a class."""
    pool = pool_of([[90, 60, 50], [60, 20, 20], [90, 60, 50], [90, 60, 50]])
    found = cut(pool, Wishes(LongTail(), (7, 2, 1), val=0.29, test_cbl=7, test_gbl=0.1), 0)
    sizes = {folder: set(counts) for folder, counts in totals(found).items() if folder.startswith("shared")}
    assert sizes == {"shared/val": {29}, "shared/test_cbl": {7}, "shared/test_gbl": {9}}


def test_the_largest_class_is_reported() -> None:
    """The report has the counts of Train-GLT and their largest."""
    found = cut(pool_of([[400]] * 4), Wishes(LongTail("100", "exponential", 100.0), val=10, test_cbl=10), 0)
    assert totals(found)["glt/train"] == [380, 81, 17, 3] and found.report.largest == 380


def test_classes_of_two_kinds_have_equal_halves_in_test_gbl() -> None:
    """Where all classes have two kinds (groups 0 and 2) Test-GBL has equal parts of these."""
    found = cut(pool_of([[60, 0, 30]] * 4), Wishes(LongTail(), test_gbl=8), 0)
    assert found.report.counts["shared/test_gbl"].tolist() == [[4, 0, 4]] * 4


# --------------------------------------------------------------------------------------------------------- given splits
def listed(cells: list[list[int]], splits: list[int], shares: list[int]) -> Pool:
    """A pool whose images are dealt to given splits in turn: so many of each in a round."""
    pool = pool_of(cells)
    rounds = np.resize(np.repeat(splits, shares), len(pool.label))
    split = np.empty(len(pool.label), np.uint8)
    for k in range(len(cells)):
        rows = np.flatnonzero(pool.label == k)
        split[rows] = rounds[: len(rows)]
    return Pool(pool.names, pool.label, pool.attribute, split)


def test_cifar_with_its_test_list_has_the_published_count() -> None:
    """5,000 training and 1,000 test images of each of 10 classes at ratio 100: 12,406 are for training, val is cut from
    the test list, and the rest of it is the test.
    """
    label = np.tile(np.arange(10), 6000)
    split = np.where(np.arange(60_000) < 50_000, TRAIN, TEST)
    pool = Pool(tuple("abcdefghij"), label, split=split)
    found = cut(pool, Wishes(LongTail("100", "exponential", 100.0)), 0)
    sizes = {folder: len(rows) for folder, rows in found.rows.items()}
    assert sizes == {"glt/train": 12_406, "glt/val": 1000, "glt/test_cbl": 9000}
    assert (split[found.rows["glt/train"]] == TRAIN).all()
    assert (split[found.rows["glt/val"]] == TEST).all() and (split[found.rows["glt/test_cbl"]] == TEST).all()


def test_with_attributes_a_test_list_gives_val_and_both_tests() -> None:
    """Test-GBL and val are cut from the test list, what remains of it is Test-CBL, as far as it is even; training never
    has an image of it.
    """
    pool = listed([[70, 50, 30]] * 4, [TRAIN, TEST], [3, 2])
    found = cut(pool, Wishes(TAIL, (7, 2, 1)), 0)
    assert pool.split is not None
    for folder, rows in found.rows.items():
        assert (pool.split[rows] == (TRAIN if folder.endswith("train") else TEST)).all()
    sizes = {folder: set(counts) for folder, counts in totals(found).items() if folder.startswith("shared")}
    assert all(len(counts) == 1 for counts in sizes.values())
    more = int(max(sizes["shared/test_cbl"])) + 1
    with pytest.raises(DataError, match=f"the largest legal.* test_cbl={more - 1}"):
        cut(pool, Wishes(TAIL, (7, 2, 1), val=6, test_cbl=more, test_gbl=max(sizes["shared/test_gbl"])), 0)


def test_an_unbalanced_test_list_is_kept_whole() -> None:
    """Without attributes a test list with unequal classes is Test-CBL as it is, and a note says so."""
    pool = listed([[40], [30], [20], [10]], [TRAIN, VAL, TEST], [3, 1, 1])
    found = cut(pool, Wishes(LongTail()), 0)
    assert totals(found) == {"glt/train": [24, 18, 12, 6], "glt/val": [8, 6, 4, 2], "glt/test_cbl": [8, 6, 4, 2]}
    assert found.report.notes == (
        "Test-CBL is the given test list, as far as val leaves it: 2 to 8 images a class, not balanced",
        "val is the given list: 2 to 8 images a class, not balanced",
    )


def test_a_tail_that_leaves_attribute_groups_empty_is_said() -> None:
    """The note counts the classes, and with the ratio that it names each group has an image."""
    pool = pool_of([[50, 50, 50]] * 4)
    found = cut(pool, Wishes(LongTail("100", "exponential", 100.0)), 0)
    [note] = [note for note in found.report.notes if "attribute group" in note and "Train-GLT" in note]
    lacking = int((found.report.counts["glt/train"] == 0).any(1).sum())
    assert lacking and note.startswith(f"{lacking} of 4 classes have no image of an attribute group in Train-GLT")
    best = int(note.split("a ratio of ")[1].split()[0])
    milder = cut(pool, Wishes(LongTail(str(best), "exponential", float(best))), 0)
    assert milder.report.counts["glt/train"].all() and not any("Train-GLT" in note for note in milder.report.notes)


def test_images_without_a_split_give_val_and_tests_before_a_training_list() -> None:
    """Where a source names training images and none for tests, these come from the images without a split."""
    pool = listed([[60]] * 4, [TRAIN, NONE], [2, 1])
    found = cut(pool, Wishes(LongTail(), val=3, test_cbl=4), 0)
    assert pool.split is not None and totals(found)["glt/train"] == [53] * 4
    for folder in ("glt/val", "glt/test_cbl"):
        assert (pool.split[found.rows[folder]] == NONE).all()


def test_a_source_in_two_lists_is_refused() -> None:
    """Images of one source may not be in the training and the test list."""
    pool = pool_of([[40]] * 4, per_source=2)
    split = np.resize(np.array([TRAIN, TEST], np.uint8), 160)
    with pytest.raises(DataError, match="80 sources have images in two given splits"):
        cut(Pool(pool.names, pool.label, None, split, pool.source), Wishes(TAIL), 0)


def test_an_image_whose_source_is_in_the_test_list_is_not_trained_on() -> None:
    """An image without a split stays out of training where the test list has one of its source."""
    pool = pool_of([[40]] * 4, per_source=2)
    split = np.zeros(160, np.uint8)
    split[:80:2] = TEST
    pool = Pool(pool.names, pool.label, None, split, pool.source)
    found = cut(pool, Wishes(LongTail(), val=1), 0)
    held_apart(found, pool)
    assert sorted(found.rows["glt/train"].tolist()) == list(range(80, 160))


# ------------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    "cells, wishes, sentence",
    [
        (
            [[40], [40], [7], [40]],
            Wishes(TAIL, val=4, test_cbl=3),
            "class 'cat' has 7 images; val=4 and test_cbl=3 need 7, and training one more; the largest legal, with the "
            "others as they are: val=3 or test_cbl=2",
        ),
        (
            [[40, 20, 20], [40, 20, 20], [9, 5, 4], [40, 20, 20]],
            Wishes(TAIL, (7, 2, 1), val=5, test_cbl=5, test_gbl=6),
            "class 'cat' has 18 images, in attribute groups of [9, 5, 4]; val=5, test_cbl=5 and test_gbl=6 need 16, in "
            "attribute groups [10, 4, 2], and training one more; the largest legal, with the others as they are: val=3 "
            "or test_cbl=3",
        ),
        (
            [[9], [9], [9], [2]],
            Wishes(TAIL),
            "class 'dog' has 2 images; val=1 and test_cbl=1 need 2, and training one more; even val=1 and test_cbl=1 "
            "are too many: a source without this class, or one with more of it, would be legal",
        ),
        (
            [[50]] * 4,
            Wishes(TAIL, val=60, test_cbl=60),
            "class 'ant' has 50 images; val=60 and test_cbl=60 need 120, and training one more, and so do 3 other "
            "classes; together val=24 and test_cbl=24 would be legal",
        ),
        (
            [[9], [1], [9], [1]],
            Wishes(TAIL),
            "class 'bee' has 1 image; val=1 and test_cbl=1 need 2, and training one more"
            ", and so does 1 other class; even",
        ),
        ([[9], [0], [9], [9]], Wishes(TAIL), "class 'bee' has no images; a source without this class"),
        ([[50]] * 4, Wishes(TAIL, val=0), "val=0 is not legal: a number of images a class from 1 on, or a share"),
        ([[50]] * 4, Wishes(TAIL, test_cbl=1.5), "test_cbl=1.5 is not legal: a number of images a class from 1 on"),
        ([[50]] * 4, Wishes(TAIL, test_gbl=3), "test_gbl= and attribute_tail= need attributes=clusters or a column"),
        (
            [[50, 50, 50]] * 4,
            Wishes(TAIL, test_gbl=10),
            "test_gbl=10: the attribute groups have equal parts in it, so a multiple of 3 images a class would be "
            "legal, such as 9 or 12",
        ),
    ],
)
def test_what_a_class_cannot_give_is_one_sentence(cells: list[list[int]], wishes: Wishes, sentence: str) -> None:
    """The sentence names the class, what it has, what is needed, and the largest legal numbers."""
    with pytest.raises(DataError) as error:
        cut(pool_of(cells), wishes, 0)
    assert str(error.value).startswith(sentence)


def test_the_largest_legal_numbers_are_legal() -> None:
    """What a refusal names can be had, and one step more cannot."""
    pool = pool_of([[40, 20, 20], [40, 20, 20], [9, 5, 4], [40, 20, 20]])
    assert totals(cut(pool, Wishes(LongTail(), (7, 2, 1), val=3, test_cbl=5, test_gbl=6), 0))["shared/val"] == [3] * 4
    with pytest.raises(DataError):
        cut(pool, Wishes(LongTail(), (7, 2, 1), val=4, test_cbl=5, test_gbl=6), 0)


def test_a_class_with_nothing_left_to_train_on_is_refused() -> None:
    """Where val and tests use up the sources of a class, nothing is left for training."""
    pool = pool_of([[20]] * 4)
    source = np.arange(80)
    source[pool.label == 2] = np.resize([200, 201], 20)
    with pytest.raises(DataError, match="class 'cat' has no image left for training"):
        cut(Pool(pool.names, pool.label, source=source), Wishes(LongTail(), val=1, test_cbl=1), 0)


def test_sources_that_are_used_up_are_refused() -> None:
    """Where few sources hold all images of a class, the splits cannot each have one of their own."""
    pool = pool_of([[20]] * 4)
    with pytest.raises(DataError, match="of which 0 are of a source that no other split has, and val needs 1"):
        cut(Pool(pool.names, pool.label, source=np.zeros(80, int)), Wishes(LongTail(), val=1, test_cbl=1), 0)


def test_a_given_val_list_leaves_no_val_to_wish() -> None:
    """`val=` beside a val list is refused: the list is kept."""
    with pytest.raises(DataError, match="val=3: the source gives a val list, which is kept; no val= would be legal"):
        cut(listed([[40]] * 4, [TRAIN, VAL, TEST], [2, 1, 1]), Wishes(LongTail(), val=3), 0)


def test_a_class_with_no_image_to_train_on_is_refused() -> None:
    """A class that the test list alone has cannot be learnt."""
    pool = listed([[40]] * 4, [TRAIN, TEST], [1, 1])
    assert pool.split is not None
    split = np.where(pool.label == 1, TEST, pool.split)
    with pytest.raises(DataError, match="class 'bee' has images in the given val or test list alone"):
        cut(Pool(pool.names, pool.label, None, split), Wishes(LongTail()), 0)
