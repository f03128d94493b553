"""The confidence table: a literal dictionary's sums, exactly, on any number of ranks, in any order, through
restarts.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
import torch

from ifl.invariance.confidence import SCORE_BITS, ConfidenceTable, mean_scores
from tests.helpers.ranks import comm_of, started

SAMPLES, DRAWS = 50, 400


def _draws() -> tuple[np.ndarray, np.ndarray]:
    """ids int64 [DRAWS] with many repeats (the last five samples are never drawn) and scores float32 [DRAWS]."""
    rng = np.random.default_rng(5)
    ids, scores = rng.integers(0, SAMPLES - 5, DRAWS), rng.random(DRAWS).astype(np.float32) ** 4
    scores[:3] = 0.0, 1.0, np.nextafter(np.float32(1), np.float32(0))
    return ids, scores


def _literal() -> tuple[dict[int, int], dict[int, int]]:
    """Sums (multiples of 2**-30) and counts of each drawn id, in a dictionary."""
    sums, counts = {}, {}
    for sample, score in zip(*(values.tolist() for values in _draws()), strict=True):
        sums[sample] = sums.get(sample, 0) + round(Fraction(score) * 2**SCORE_BITS)
        counts[sample] = counts.get(sample, 0) + 1
    return sums, counts


def _share(size: int, rank: int, seed: int | None) -> np.ndarray:
    """The draws of one rank: a slice, or with a seed one of a shuffled order with unequal, perhaps empty shares."""
    if seed is None:
        return np.array_split(np.arange(DRAWS), size)[rank]
    rng = np.random.default_rng(seed)
    order, cuts = rng.permutation(DRAWS), np.sort(rng.integers(0, DRAWS, size - 1))
    if size > 2:
        cuts[0] = 0  # an empty rank
    return np.split(order, cuts)[rank]


def _add(table: ConfidenceTable, chosen: np.ndarray) -> None:
    ids, scores = _draws()
    for part in np.array_split(chosen, 3):
        table.add(torch.from_numpy(ids[part]), torch.from_numpy(scores[part]))


def totals_of(size: int, seed: int | None) -> list[np.ndarray] | None:
    """In a rank: the total, asked for twice on the way and once at the end."""
    comm = comm_of(size)
    if comm is None:
        return None
    table, mine = ConfidenceTable(SAMPLES), _share(size, comm.rank, seed)
    middle = len(mine) // 2
    _add(table, mine[:middle])
    first, second = table.total(comm), table.total(comm)
    assert torch.equal(first, second), "asking for the total changed it"
    _add(table, mine[middle:])
    return [first.numpy(), table.total(comm).numpy()]


def restarted_total(before: int, after: int) -> np.ndarray | None:
    """In a rank: the total of an epoch that was stopped on `before` ranks, stored, and went on on `after` ranks."""
    stored = torch.zeros(2, SAMPLES, dtype=torch.int64)
    if (comm := comm_of(before)) is not None:
        table = ConfidenceTable(SAMPLES)
        mine = _share(before, comm.rank, None)
        _add(table, mine[: len(mine) // 2])
        stored = table.total(comm)
    stored = comm_of(4).from_first(stored, "cpu")  # the file
    if (comm := comm_of(after)) is None:
        return None
    table = ConfidenceTable(SAMPLES)
    _add(table, np.arange(7))  # whatever stood in the table before is gone
    table.restart(stored, comm.rank)
    assert torch.equal(table.total(comm), stored)
    rest = np.concatenate(
        [_share(before, rank, None)[len(_share(before, rank, None)) // 2 :] for rank in range(before)]
    )
    _add(table, np.array_split(rest, after)[comm.rank])
    return table.total(comm).numpy()


def test_table_equals_a_literal_dictionary() -> None:
    """Sum and count of p(y|x) of each draw, repeats included; never drawn samples have no mean."""
    table = ConfidenceTable(SAMPLES)
    _add(table, np.arange(DRAWS))
    sums, counts = _literal()
    assert table.table.dtype == torch.int64
    assert table.table[0].tolist() == [sums.get(i, 0) for i in range(SAMPLES)]
    assert table.table[1].tolist() == [counts.get(i, 0) for i in range(SAMPLES)]
    means = mean_scores(table.table)
    assert means.dtype == np.float64
    for i in range(SAMPLES):
        assert (
            math.isnan(means[i]) if i not in counts else means[i] == float(Fraction(sums[i], counts[i] * 2**SCORE_BITS))
        )
    assert sum(map(math.isnan, means)) >= 5


def test_same_bits_on_any_number_of_ranks_and_in_any_order() -> None:
    """The total is the dictionary's on 1, 2, 3 and 4 ranks, with equal, shuffled, unequal and empty shares."""
    sums, counts = _literal()
    want = np.array([[part.get(i, 0) for i in range(SAMPLES)] for part in (sums, counts)])
    for size in (1, 2, 3, 4):
        for seed in (None, 1, 2):
            for answer in started(4).run(totals_of, size, seed)[:size]:
                assert np.array_equal(answer[1], want)
                assert answer[0][1].sum() < want[1].sum()


def test_a_restart_in_mid_epoch_changes_nothing() -> None:
    """Stored in the middle of an epoch and taken up again, on as many ranks or on others: the same total."""
    sums, counts = _literal()
    want = np.array([[part.get(i, 0) for i in range(SAMPLES)] for part in (sums, counts)])
    for before, after in ((2, 2), (1, 4), (4, 1), (2, 3)):
        for answer in started(4).run(restarted_total, before, after)[:after]:
            assert np.array_equal(answer, want), (before, after)


def test_a_new_epoch_starts_empty() -> None:
    """`restart()` forgets the epoch before."""
    table = ConfidenceTable(SAMPLES)
    _add(table, np.arange(DRAWS))
    table.restart()
    assert not table.table.any()


def test_a_score_that_is_no_number_does_not_spoil_the_table() -> None:
    """NaN counts as a draw with 0 (the step that made it stops the run); its neighbours are untouched."""
    table = ConfidenceTable(3)
    table.add(torch.tensor([0, 1, 1]), torch.tensor([0.5, math.nan, 0.25]))
    assert table.table.tolist() == [[2**29, 2**28, 0], [1, 2, 0]]


def test_any_number_of_micro_batches_is_added_up() -> None:
    """Draw by draw, more of them than the table holds before it adds them up, gives the dictionary's sums, also where
    somebody looks on the way.
    """
    table, (ids, scores) = ConfidenceTable(SAMPLES), _draws()
    for i in range(DRAWS):
        table.add(torch.from_numpy(ids[i : i + 1]), torch.from_numpy(scores[i : i + 1]))
        assert i % 97 or int(table.table[1].sum()) == i + 1
    sums, counts = _literal()
    assert table.table.tolist() == [[part.get(i, 0) for i in range(SAMPLES)] for part in (sums, counts)]


def test_what_is_collected_keeps_no_file_open() -> None:
    """Ids that come in shared memory, where each tensor is an open file, are let go with their batch."""
    table, before = ConfidenceTable(SAMPLES), len(os.listdir("/proc/self/fd"))
    for start in range(5):
        table.add(torch.arange(start, start + 3).share_memory_(), torch.full((3,), 0.5))
    assert len(os.listdir("/proc/self/fd")) == before
    assert table.table[1, :8].tolist() == [1, 2, 3, 3, 3, 2, 1, 0]
