"""Which classes are the head, groups of classes, and the attribute groups of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recipes.common.errors import DataError
from sharding.datasets.samples import groups, heads
from sharding.datasets.samples.attributes import by_clusters, by_column, group_of_rank

NAMES = ("a", "b", "c", "d")


def test_head_by_frequency_puts_the_largest_first() -> None:
    """Classes come by size; those of one size in an order of the seed."""
    counts = np.array([5, 9, 5, 7])
    orders = {tuple(heads.order(counts, "frequency", seed, NAMES).tolist()) for seed in range(20)}
    assert orders == {(1, 3, 0, 2), (1, 3, 2, 0)}


def test_head_by_seed_is_an_order_of_the_seed_alone() -> None:
    """The same seed gives the same order whatever the counts; other seeds give others."""
    names = [str(k) for k in range(30)]
    one, other = np.arange(30), np.zeros(30, np.int64)
    assert heads.order(one, "seed", 3, names).tolist() == heads.order(other, "seed", 3, names).tolist()
    assert heads.order(one, "seed", 4, names).tolist() != heads.order(one, "seed", 3, names).tolist()


def test_head_by_a_file(tmp_path: Path) -> None:
    """A file of all names is the order; one that does not exist is refused."""
    (tmp_path / "order").write_text("c\na\nd\nb\n")
    assert heads.order(np.zeros(4), str(tmp_path / "order"), 0, NAMES).tolist() == [2, 0, 3, 1]
    with pytest.raises(DataError, match=r"head=nothing is no file; frequency, seed or a file of the classes' names"):
        heads.order(np.zeros(4), "nothing", 0, NAMES)


def test_groups_of_classes() -> None:
    """Thirds go by the rank of training images, earlier ones taking one more, whatever the classes' order; shots by
    more than 100, 20 to 100, fewer than 20 images.
    """
    assert groups.thirds(np.arange(10, 0, -1)).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert groups.thirds(np.array([7] * 4)).tolist() == [0, 0, 1, 2]
    assert groups.thirds(np.array([9, 21, 37, 9])).tolist() == [1, 0, 0, 2]
    assert groups.shots(np.array([101, 100, 20, 19])).tolist() == [0, 1, 1, 2]


def test_kinds_are_paired_as_the_papers_clusters() -> None:
    """Six kinds are pairs by rank; other numbers are even, earlier groups taking one more; two are groups 0 and 2."""
    of = {kinds: group_of_rank(kinds).tolist() for kinds in (1, 2, 3, 4, 5, 6, 7)}
    assert of == {
        1: [0],
        2: [0, 2],
        3: [0, 1, 2],
        4: [0, 0, 1, 2],
        5: [0, 0, 1, 1, 2],
        6: [0, 0, 1, 1, 2, 2],
        7: [0, 0, 0, 1, 1, 2, 2],
    }


def test_kinds_are_ranked_within_each_class_ties_by_name() -> None:
    """The most frequent value of a class is its group 0; of two of one size the first name is ranked higher."""
    label = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    value = np.array([2, 2, 1, 0, 0, 0, 0, 2, 2, 1])
    found = by_column(value, label, ("x", "y"), ("blue", "green", "red"))
    assert found.group.tolist() == [0, 0, 2, 1, 0, 0, 0, 1, 1, 2]
    assert [kinds.tolist() for kinds in found.kinds] == [[2, 0, 1], [0, 2, 1]]
    assert [sizes.tolist() for sizes in found.sizes] == [[2, 1, 1], [3, 2, 1]]


def test_a_column_of_one_value_is_refused() -> None:
    """In all, and within a class, a column with one value has no groups."""
    with pytest.raises(DataError, match="says 'red' of every image; two values or more"):
        by_column(np.zeros(2, int), np.array([0, 1]), ("x", "y"), ("red",))
    with pytest.raises(DataError, match="class 'y' has the attribute 'red' alone"):
        by_column(np.array([0, 1, 1]), np.array([0, 0, 1]), ("x", "y"), ("blue", "red"))


def test_a_class_of_one_cluster_is_refused() -> None:
    """A class whose images all have the same features has no attribute groups."""
    with pytest.raises(DataError, match="class 'y' has a single cluster"):
        by_clusters(np.array([0, 1, 0, 0]), np.array([0, 0, 1, 1]), ("x", "y"))
