"""The epoch plan: a pure function of (weights, seed, epoch) that gives every rank the same steps of the same global
batches.

Statistical tests use fixed seeds, so they never flicker; 5 sigma is how far a true sampler may lie.
Axes: N samples, S streams, B global batch, T steps, R ranks.
"""

from __future__ import annotations

import hashlib
import re
import tracemalloc
from fractions import Fraction
from math import ceil, floor, sqrt

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recipes.common.errors import PlanError
from sharding.plan.epoch import EpochPlan
from sharding.plan.ranks import Draws, rank_draws
from sharding.plan.shard_schedule import last_use, shard_arrivals
from sharding.plan.windowed import WindowedShuffle
from tests.helpers.plans import draw_ids, micro_batches, plan_epoch

seeds = st.integers(0, 2**32 - 1)
epochs = st.integers(0, 10_000)
bounded = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def layouts(draw: st.DrawFn) -> dict:
    """Streams S, group g (a multiple of S) and batch B (a multiple of g)."""
    streams = draw(st.integers(1, 4))
    group = streams * draw(st.integers(1, 4))
    return {"streams": streams, "group": group, "batch": group * draw(st.integers(1, 6))}


@st.composite
def sharded(draw: st.DrawFn, most: int = 12) -> np.ndarray:
    """int [N]: the shard of each id; shards of very different sizes, of one sample too."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=most))
    return np.repeat(np.arange(len(sizes)), sizes)


@st.composite
def weight_vectors(draw: st.DrawFn, samples: int | None = None) -> np.ndarray:
    """float64 [N], not all zero, zeros first, last and inside, over 12 orders of magnitude."""
    value = st.one_of(st.just(0.0), st.integers(1, 9).map(float), st.floats(1e-6, 1e6))
    size = {"min_size": samples, "max_size": samples} if samples else {"min_size": 1, "max_size": 60}
    weights = np.array(draw(st.lists(value, **size)))
    assume(weights.max() > 0)
    return weights


def columns(plan: EpochPlan, streams: int) -> list[np.ndarray]:
    """Each stream's ids in the order of the epoch, the completion of the last batch included."""
    return [plan.ids[:, plan.streams == stream].ravel() for stream in range(streams)]


def counts_of(ids: np.ndarray, samples: int) -> np.ndarray:
    return np.bincount(ids, minlength=samples)


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array, dtype="<i8").tobytes() for array in arrays)).hexdigest()[
        :16
    ]


# ------------------------------------------------------------------------------------------------------ what is drawn
@bounded
@given(layout=layouts(), samples=st.integers(1, 200), times=st.integers(1, 3), seed=seeds, epoch=epochs)
def test_uniform_epoch_is_a_permutation(layout: dict, samples: int, times: int, seed: int, epoch: int) -> None:
    """A uniform stream without replacement draws each id exactly `draws_per_epoch` times, and the last batch is
    completed from the front of the same order, with fewer than B rows for all streams together."""
    number, batch = layout["streams"], layout["batch"]
    plan = plan_epoch(
        [None] * number, samples, batch=batch, group=layout["group"], draws_per_epoch=times, seed=seed, epoch=epoch
    )
    draws = times * samples
    for ids in columns(plan, number):
        assert (counts_of(ids[:draws], samples) == times).all()
        assert np.array_equal(ids[draws:], ids[np.arange(len(ids) - draws) % draws])
    assert 0 <= plan.ids.size - number * draws < batch


@bounded
@given(weights=weight_vectors(), draws=st.integers(1, 300), seed=seeds, epoch=epochs, stream=st.integers(0, 7))
def test_weighted_counts_are_floor_or_ceil(weights: np.ndarray, draws: int, seed: int, epoch: int, stream: int) -> None:
    """Without replacement an id of weight w occurs the floor or the ceiling of draws * w / sum(w) times, computed here
    in exact fractions.
    """
    ids = draw_ids(weights, len(weights), draws, seed=seed, epoch=epoch, stream=stream)
    assert len(ids) == draws and ids.dtype == np.int64
    total = sum(map(Fraction, weights))
    slack = Fraction(draws, 10**12)  # the edges are float64
    for weight, count in zip(weights, counts_of(ids, len(weights)), strict=True):
        expected = draws * Fraction(weight) / total
        assert floor(expected - slack) <= count <= ceil(expected + slack)


@pytest.mark.parametrize(
    "weights, draws",
    [(None, 30), (None, 130), ([1.0, 2.0, 0.5, 4.0, 0.0, 2.5, 0.1] * 6, 42)],
    ids=["uniform half", "uniform twice", "weighted"],
)
def test_fractions_of_a_draw_come_out_right_in_the_mean(weights: list | None, draws: int) -> None:
    """Without replacement, over many epochs each id's mean count is its expected number of draws: the odd draw goes
    round fairly. (Variance of a floor-or-ceil
    count: f (1 - f).)"""
    samples, rounds = len(weights or [0] * 60), 400
    array = None if weights is None else np.array(weights)
    total = sum(counts_of(draw_ids(array, samples, draws, seed=7, epoch=epoch), samples) for epoch in range(rounds))
    expected = draws * (np.full(samples, 1 / samples) if array is None else array / array.sum())
    fraction = expected - np.floor(expected)
    assert (np.abs(total - rounds * expected) <= 5 * np.sqrt(rounds * fraction * (1 - fraction)) + 1e-6).all()


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize(
    "weights", [None, [0.0, 5.0, 1.0, 1.0, 0.0, 3.0, 0.25, 2.0, 1.0, 0.0]], ids=["uniform", "weighted"]
)
def test_with_replacement_counts_are_multinomial(weights: list | None, window: int) -> None:
    """With replacement each id's count is binomial: mean draws * p within 5 sigma, variance draws * p * (1 - p) (a
    sampler that were secretly balanced would have none), whatever the window."""
    samples, draws, rounds = 10, 50, 400
    array = None if weights is None else np.array(weights)
    p = np.full(samples, 0.1) if array is None else array / array.sum()
    shards = np.repeat(np.arange(5), 2)
    table = np.array(
        [
            counts_of(
                draw_ids(array, samples, draws, seed=3, epoch=e, replacement=True, shards=shards, window=window),
                samples,
            )
            for e in range(rounds)
        ]
    )
    variance = draws * p * (1 - p)
    assert (np.abs(table.mean(axis=0) - draws * p) <= 5 * np.sqrt(variance / rounds)).all()
    assert (np.abs(table.var(axis=0) - variance) <= 5 * variance * sqrt(2.2 / rounds)).all()


def test_with_replacement_order_is_random_too() -> None:
    """With replacement neighbouring draws are independent: the next id is larger as often as smaller, and equal with
    probability 1 / N.
    """
    ids = draw_ids(None, 50, 20_000, seed=1, epoch=1, replacement=True)
    equal, up = np.mean(np.diff(ids) == 0), np.mean(np.diff(ids) > 0)
    assert abs(equal - 0.02) <= 5 * sqrt(0.02 / 20_000)
    assert abs(up - 0.49) <= 5 * sqrt(0.25 / 20_000)


@bounded
@given(
    weights=weight_vectors(), draws=st.integers(1, 200), replacement=st.booleans(), window=st.integers(0, 3), seed=seeds
)
def test_zero_weight_is_never_drawn(weights: np.ndarray, draws: int, replacement: bool, window: int, seed: int) -> None:
    """An id of weight 0 (first, last or inside) is never drawn, in any mode, and exactly `draws` ids are."""
    shards = np.arange(len(weights)) // 4
    ids = draw_ids(
        weights, len(weights), draws, seed=seed, epoch=0, replacement=replacement, shards=shards, window=window
    )
    assert len(ids) == draws
    assert (weights[ids] > 0).all()


@pytest.mark.parametrize("word", [0, 2**63, 2**64 - 1], ids=["lowest", "middle", "highest"])
@pytest.mark.parametrize("replacement", [False, True])
def test_extreme_random_words(monkeypatch: pytest.MonkeyPatch, word: int, replacement: bool) -> None:
    """Where the random words are the lowest or the highest there are, which rounding makes the hard cases, still
    `draws` ids are drawn and none of weight 0.
    """
    monkeypatch.setattr("sharding.plan.philox.random_words", lambda count, *rest: np.full(count, word, dtype=np.uint64))
    random = np.random.Generator(np.random.PCG64(0))
    for _ in range(300):
        weights = random.random(12) * 10.0 ** random.integers(-6, 7)
        weights[[0, 1, -1]] = 0
        draws = int(random.integers(1, 100))
        ids = draw_ids(weights, 12, draws, seed=0, epoch=0, replacement=replacement)
        assert len(ids) == draws and (weights[ids] > 0).all()


def test_equal_weights_are_the_uniform_stream() -> None:
    """Weights that are all equal give the uniform stream's very draws, so a constant confidence changes nothing."""
    for draws in (7, 40, 93):
        assert np.array_equal(
            draw_ids(np.full(40, 0.3), 40, draws, seed=5, epoch=2), draw_ids(None, 40, draws, seed=5, epoch=2)
        )


def test_plan_neither_reads_nor_writes_anything_else() -> None:
    """The plan leaves its arguments and numpy's global generator alone, and does not depend on the latter."""
    weights = np.arange(1.0, 21.0)
    before = weights.copy()
    options = {"batch": 8, "group": 4, "seed": 2, "epoch": 3}
    np.random.seed(0)
    first = plan_epoch([None, weights], 20, **options)
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    second = plan_epoch([None, weights], 20, **options)
    assert np.array_equal(first.ids, second.ids) and np.array_equal(weights, before)
    assert np.array_equal(np.random.get_state()[1], state)


# ----------------------------------------------------------------------------------------------------- batches, groups
@bounded
@given(
    layout=layouts(),
    samples=st.integers(1, 150),
    units=st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0]),
    matched=st.booleans(),
    replacement=st.booleans(),
)
def test_steps_follow_the_batch_arithmetic(
    layout: dict, samples: int, units: float, matched: bool, replacement: bool
) -> None:
    """Each stream draws `draws_per_epoch` * N samples, or with `matched` all streams together do; steps = ceil(draws /
    (B / S)). An epoch smaller than a batch is one step."""
    number, batch = layout["streams"], layout["batch"]
    plan = plan_epoch(
        [None] * number,
        samples,
        batch=batch,
        group=layout["group"],
        draws_per_epoch=units,
        matched=matched,
        replacement=replacement,
        seed=1,
        epoch=1,
    )
    draws = max(1, round(units * samples / (number if matched else 1)))
    assert plan.steps == ceil(draws / (batch // number)) == len(plan.ids)
    assert plan.ids.shape == (plan.steps, batch)
    for ids in columns(
        plan, number
    ):  # the completion repeats the front, so the draws before it are all of the stream's
        assert np.array_equal(ids, np.resize(ids[:draws], len(ids)))


def test_matched_costs_what_one_stream_costs() -> None:
    """`matched` with S streams has the steps of a run with one stream; `paper` has S times as many draws."""
    steps = {
        (s, m): plan_epoch([None] * s, 960, batch=96, group=12, matched=m, seed=0, epoch=0).steps
        for s in (1, 2, 3)
        for m in (False, True)
    }
    assert [steps[s, True] for s in (1, 2, 3)] == [10, 10, 10]
    assert [steps[s, False] for s in (1, 2, 3)] == [10, 20, 30]


@bounded
@given(layout=layouts(), samples=st.integers(1, 50))
def test_streams_share_every_group_equally(layout: dict, samples: int) -> None:
    """Every batch-normalisation group of every step holds each stream g / S times, stream after stream."""
    number, group, batch = layout["streams"], layout["group"], layout["batch"]
    plan = plan_epoch([None] * number, samples, batch=batch, group=group, seed=0, epoch=0)
    assert plan.streams.tolist() == [
        stream for _ in range(batch // group) for stream in range(number) for _ in range(group // number)
    ]


@bounded
@given(
    streams=st.integers(1, 4), group=st.integers(1, 6), each=st.integers(1, 3), samples=st.integers(1, 50), seed=seeds
)
def test_groups_of_one_stream(streams: int, group: int, each: int, samples: int, seed: int) -> None:
    """With `by_stream` every group holds one stream only, stream after stream, each the same number of groups; each
    stream's draws and the number of steps are those of the mixed plan."""
    batch = streams * group * each
    weights = [None] + [np.linspace(1, 2, samples)] * (streams - 1)
    plan = plan_epoch(weights, samples, batch=batch, group=group, by_stream=True, seed=seed, epoch=1)
    assert plan.streams.reshape(-1, group).tolist() == [
        [stream] * group for stream in range(streams) for _ in range(each)
    ]
    mixed = plan_epoch(weights, samples, batch=batch, group=batch, seed=seed, epoch=1)
    assert plan.steps == mixed.steps
    assert all(
        np.array_equal(mine, theirs)
        for mine, theirs in zip(columns(plan, streams), columns(mixed, streams), strict=True)
    )


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("group", [6, 12, 24])
def test_groups_and_streams_do_not_touch_each_others_draws(group: int, replacement: bool) -> None:
    """A stream's order is that of `draw_ids` alone: neither the group size nor the other streams' weights change it."""
    weights = np.linspace(0.5, 4, 77)
    plan = plan_epoch([None, weights, None], 77, batch=24, group=group, replacement=replacement, seed=4, epoch=9)
    for stream, (weight, ids) in enumerate(zip([None, weights, None], columns(plan, 3), strict=True)):
        alone = draw_ids(weight, 77, 77, seed=4, epoch=9, stream=stream, replacement=replacement)
        assert np.array_equal(ids, np.resize(alone, len(ids)))


# --------------------------------------------------------------------------------------------------------------- ranks
RANKS = [(0, ranks, False) for ranks in (1, 2, 3, 4, 5, 7, 24)] + [
    (6, 1, False),
    (6, 2, False),
    (6, 4, False),
    (12, 2, True),
    (12, 4, True),
    (12, 6, True),
    (12, 10, True),
    (12, 24, True),
    (24, 5, True),
    (6, 8, True),
]


@pytest.mark.parametrize("group, ranks, synchronised", RANKS)
def test_union_of_ranks_is_the_global_batch(group: int, ranks: int, synchronised: bool) -> None:
    """Whatever the number of ranks (one slice each, whole groups, or several ranks to a group), every rank has the same
    number of micro-batches, and the rows of all ranks at step t are each row of the global batch exactly once, with its
    id, stream and draw number."""
    batch, samples = 24, 59
    weights = [None, np.linspace(0, 3, samples), None]
    plan = plan_epoch(weights, samples, batch=batch, group=group, seed=11, epoch=2)
    shared = [micro_batches(batch, group, rank, ranks, synchronised=synchronised) for rank in range(ranks)]
    assert len({len(rows) for rows in shared}) == 1
    per_step = len(shared[0])
    streams = [list(rank_draws(plan, rows, seed=11)) for rows in shared]
    assert {len(mine) for mine in streams} == {plan.steps * per_step}
    for step in range(plan.steps):
        parts = [part for mine in streams for part in mine[step * per_step : (step + 1) * per_step]]
        draws, ids, of = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("draws", "ids", "streams")
        )
        order = np.argsort(draws)
        assert np.array_equal(draws[order], np.arange(step * batch, (step + 1) * batch))
        assert np.array_equal(ids[order], plan.ids[step])
        assert np.array_equal(of[order], plan.streams)
        assert all((part.seed, part.epoch) == (11, 2) for part in parts)


@bounded
@given(batch=st.integers(1, 60), ranks=st.integers(1, 60))
def test_slices_of_ranks_differ_by_one_at_most(batch: int, ranks: int) -> None:
    """Without batch normalisation the ranks' slices are consecutive and differ by at most one row; none is empty."""
    assume(ranks <= batch)
    slices = [micro_batches(batch, 0, rank, ranks) for rank in range(ranks)]
    assert all(len(rows) == 1 for rows in slices)
    sizes = [len(rows[0]) for rows in slices]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1
    assert np.array_equal(np.concatenate([rows[0] for rows in slices]), np.arange(batch))


@bounded
@given(group=st.integers(1, 8), groups=st.integers(1, 8), ranks=st.integers(1, 70))
def test_micro_batches_are_groups_or_parts_of_one(group: int, groups: int, ranks: int) -> None:
    """With batch normalisation a micro-batch is one whole group; where ranks exceed groups it lies within one group,
    and the ranks of a group follow each other. A number of ranks is refused exactly where that cannot be."""
    batch = group * groups
    legal = groups % ranks == 0 if ranks <= groups else ranks % groups == 0 and ranks // groups <= group
    if not legal:
        with pytest.raises(PlanError):
            micro_batches(batch, group, 0, ranks, synchronised=True)
        return
    taken = []
    for rank in range(ranks):
        for rows in micro_batches(batch, group, rank, ranks, synchronised=True):
            assert len(rows) > 0 and len(set(rows // group)) == 1
            assert len(rows) == group or ranks > groups
            taken += rows.tolist()
    assert taken == list(range(batch))


# -------------------------------------------------------------------------------------------------------------- resume
def same(left: list[Draws], right: list[Draws]) -> bool:
    fields = ("ids", "draws", "streams")
    return len(left) == len(right) and all(
        (a.seed, a.epoch) == (b.seed, b.epoch) and all(np.array_equal(getattr(a, f), getattr(b, f)) for f in fields)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("group, rank, ranks", [(0, 0, 1), (0, 2, 3), (4, 0, 1), (4, 1, 3), (4, 0, 3)])
@pytest.mark.parametrize("window, replacement", [(0, False), (2, False), (0, True), (2, True)])
def test_resume_at_every_step_and_twice(group: int, rank: int, ranks: int, window: int, replacement: bool) -> None:
    """A restart at any step t, with a plan computed anew, gives the tail of the epoch exactly; so does a second restart
    at any later step of the same epoch; a restart at the epoch's end gives nothing."""
    samples, batch = 50, 12
    weights = np.linspace(0, 2, samples)

    def fresh() -> EpochPlan:
        return plan_epoch(
            [None, weights],
            samples,
            batch=batch,
            group=group,
            replacement=replacement,
            seed=9,
            epoch=4,
            shards=np.arange(samples) // 7,
            window=window,
        )

    rows = micro_batches(batch, group, rank, ranks)
    whole = list(rank_draws(fresh(), rows, seed=9))
    steps, per_step = fresh().steps, len(rows)
    assert steps == 9
    for first in range(steps + 1):
        tail = list(rank_draws(fresh(), rows, seed=9, start=first))
        assert same(tail, whole[first * per_step :])
        for second in range(first, steps + 1):
            begun = tail[: (second - first) * per_step]
            assert same(begun + list(rank_draws(fresh(), rows, seed=9, start=second)), whole[first * per_step :])


# -------------------------------------------------------------------------------------------------------------- window
@bounded
@given(shards=sharded(), window=st.integers(1, 14), times=st.integers(1, 2), seed=seeds, epoch=epochs)
def test_window_is_an_exact_permutation_of_windows_of_shards(
    shards: np.ndarray, window: int, times: int, seed: int, epoch: int
) -> None:
    """With `shuffle_window=k` each id is still drawn exactly once (or twice), the shards come in blocks of k which are
    finished one after the other, and each block draws from no more than its k shards, for any number and sizes of
    shards."""
    samples, number = len(shards), int(shards[-1]) + 1
    ids = draw_ids(None, samples, times * samples, seed=seed, epoch=epoch, shards=shards, window=window)
    assert (counts_of(ids, samples) == times).all()
    sizes = np.bincount(shards)
    seen: set[int] = set()
    position = 0
    for block in range(0, number, window):
        # The block's length follows from its shards; take ids until k shards have been met and are used up.
        here: set[int] = set()
        end = position
        while end < len(ids) and (
            len(here) < min(window, number - block) or end - position < times * sizes[list(here)].sum()
        ):
            here.add(int(shards[ids[end]]))
            end += 1
        assert len(here) <= window and not here & seen
        assert end - position == times * sizes[list(here)].sum()
        seen |= here
        position = end
    assert position == len(ids) and seen == set(range(number))


@bounded
@given(shards=sharded(), window=st.integers(1, 14), replacement=st.booleans(), data=st.data())
def test_window_draws_what_the_whole_epoch_draws(
    shards: np.ndarray, window: int, replacement: bool, data: st.DataObject
) -> None:
    """The window changes the order and never the counts, for weighted streams too (of independent draws those of the
    shards: inside a shard they are drawn anew); and it takes the shards in the same order for all streams, so that they
    are asked for together."""
    samples = len(shards)
    weights = data.draw(weight_vectors(samples))
    options = {"seed": 5, "epoch": 6, "replacement": replacement}
    whole = draw_ids(weights, samples, 2 * samples, stream=1, **options)
    windowed = draw_ids(weights, samples, 2 * samples, stream=1, shards=shards, window=window, **options)
    drawn = (
        (lambda ids: counts_of(shards[ids], int(shards[-1]) + 1))
        if replacement
        else (lambda ids: counts_of(ids, samples))
    )
    assert np.array_equal(drawn(whole), drawn(windowed))

    def visits(ids: np.ndarray) -> list[int]:
        return list(dict.fromkeys(shards[ids].tolist()))

    uniform = visits(draw_ids(None, samples, samples, stream=0, shards=shards, window=1, seed=5, epoch=6))
    single = visits(draw_ids(weights, samples, 2 * samples, stream=1, shards=shards, window=1, **options))
    assert single == [shard for shard in uniform if shard in set(single)]


def test_window_shuffles_shards_and_samples_anew_each_epoch() -> None:
    """Both the order of the shards and the order inside a window differ from epoch to epoch, and inside a window shards
    mix.
    """
    shards = np.repeat(np.arange(20), 50)
    orders = [draw_ids(None, 1000, 1000, seed=0, epoch=epoch, shards=shards, window=4) for epoch in range(6)]
    blocks = [tuple(sorted(set(shards[order[:200]].tolist()))) for order in orders]
    assert len(set(blocks)) == 6
    for order in orders:
        assert len(set(shards[order[:40]].tolist())) == 4
        assert (np.diff(order[:200]) != 1).mean() > 0.9
    one_window = [draw_ids(None, 1000, 1000, seed=0, epoch=epoch, shards=shards, window=20) for epoch in range(2)]
    assert len(set(shards[one_window[0][:100]].tolist())) > 10 and not np.array_equal(*one_window)


@bounded
@given(shards=sharded(), window=st.integers(1, 14), draws=st.integers(1, 300), seed=seeds)
def test_window_shares_out_what_does_not_divide(shards: np.ndarray, window: int, draws: int, seed: int) -> None:
    """Of a uniform stream of any length every id is drawn the floor or the ceiling of its share, and so is every
    shard.
    """
    samples = len(shards)
    counts = counts_of(draw_ids(None, samples, draws, seed=seed, epoch=0, shards=shards, window=window), samples)
    assert counts.sum() == draws and set(counts.tolist()) <= {draws // samples, -(-draws // samples)}
    expected = draws * np.bincount(shards) / samples
    drawn = np.bincount(shards, weights=counts)
    assert (drawn >= np.floor(expected - 1e-9)).all() and (drawn <= np.ceil(expected + 1e-9)).all()


def test_window_favours_no_id_over_the_epochs() -> None:
    """Half an epoch of 40 samples, 2,000 times: each id comes half of the times, to 5 sigma."""
    shards = np.repeat(np.arange(5), [3, 12, 1, 20, 4])
    total = sum(
        counts_of(draw_ids(None, 40, 20, seed=1, epoch=epoch, shards=shards, window=2), 40) for epoch in range(2000)
    )
    assert (np.abs(total - 1000) <= 5 * np.sqrt(500)).all()


@pytest.mark.parametrize(
    "options", [{}, {"replacement": True}, {"matched": True}], ids=["shuffle", "replacement", "matched"]
)
def test_window_holds_no_more_than_its_shards_and_a_window(options: dict) -> None:
    """Besides the weights, which are given, a plan takes less than 200 bytes a shard and some windows, however many
    samples there are: at 400,000 samples a quarter of what their ids alone would take."""
    peaks = {}
    for samples in (40_000, 400_000):
        shards, weights = np.arange(samples) // 200, np.linspace(0, 1, samples)
        tracemalloc.start()
        plan = plan_epoch(
            [None, weights], samples, batch=64, group=0, seed=0, epoch=0, shards=shards, window=4, **options
        )
        for step in (0, plan.steps // 2, plan.steps - 1):
            plan.batch(step)
        peaks[samples] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert all(peak < 200 * samples / 200 + 2**20 for samples, peak in peaks.items()), peaks


def test_any_step_costs_the_windows_that_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start in mid-epoch makes the ids of one or two windows of each stream, and going on makes each window once."""
    made: list[int] = []
    real = WindowedShuffle._make
    monkeypatch.setattr(WindowedShuffle, "_make", lambda self, number: (made.append(number), real(self, number))[1])
    shards = np.arange(4000) // 50

    def fresh() -> EpochPlan:
        return plan_epoch(
            [None, np.linspace(0, 1, 4000)], 4000, batch=40, group=0, seed=0, epoch=0, shards=shards, window=4
        )

    whole = fresh()
    sequential = [whole.batch(step) for step in range(whole.steps)]
    assert sorted(made) == sorted([*range(20), *range(20)])
    for step in (0, 57, 123, 199, 3):
        made.clear()
        assert np.array_equal(fresh().batch(step), sequential[step]) and len(made) <= 4


@bounded
@given(
    shards=sharded(),
    window=st.integers(0, 5),
    units=st.sampled_from([0.3, 1.0, 2.0]),
    replacement=st.booleans(),
    start=st.integers(0, 5),
    data=st.data(),
)
def test_shards_are_known_to_be_needed_before_they_are(
    shards: np.ndarray, window: int, units: float, replacement: bool, start: int, data: st.DataObject
) -> None:
    """From any step on, each shard that a step draws from was named at or before it, once, and is not said to be done
    with before its last draw. With a window a shard is named at most the length of its window before its first draw."""
    samples = len(shards)
    plan = plan_epoch(
        [None, data.draw(weight_vectors(samples))],
        samples,
        batch=8,
        group=0,
        draws_per_epoch=units,
        replacement=replacement,
        seed=3,
        epoch=1,
        shards=shards,
        window=window,
    )
    named: dict[int, int] = {}
    for step, there in shard_arrivals(plan, shards, start):
        assert step >= start and not set(there.tolist()) & set(named)
        named |= dict.fromkeys(there.tolist(), step)
    assert list(named.values()) == sorted(named.values())
    last = last_use(plan, shards)
    for step in range(start, plan.steps):
        for shard in set(shards[plan.batch(step)].tolist()):
            assert named[shard] <= step <= last[shard]
    if window and units == 1.0 and int(shards[-1]) + 1 > 2 * window:
        assert len({step for step in named.values()}) > 1 or plan.steps - start <= 2, "not all at once"


def test_what_completes_the_last_batch_is_named_last() -> None:
    """In mid-epoch the first window's shards, which are drawn from again at the end, do not come before those that are
    needed now; from the start they stay needed.
    """
    shards = np.repeat(np.arange(10), 10)
    plan = plan_epoch(
        [None], 100, batch=8, group=0, seed=3, epoch=1, shards=shards, window=2
    )  # 13 steps, 4 draws too many
    (first, there), *rest = shard_arrivals(plan, shards, 7)
    assert first == 7 and set(shards[plan.batch(7)].tolist()) <= set(there.tolist()) and len(there) == 4, (
        "those of step 7's windows"
    )
    again = set(shard_arrivals(plan, shards).__next__()[1].tolist()) & set(shards[plan.batch(0)].tolist())
    assert rest[-1][0] == plan.steps - 1 and again <= set(rest[-1][1][-2:].tolist())
    assert (last_use(plan, shards)[list(again)] == plan.steps - 1).all()


# ----------------------------------------------------------------------------------------------- seeds, known answers
def test_seed_epoch_and_stream_each_change_the_order() -> None:
    """Every seed, epoch and stream has an order of its own, at the ends of their ranges too; so has each window's
    block.
    """
    places = [
        (seed, epoch, stream) for seed in (0, 1, 2, 2**32 - 1) for epoch in (0, 1, 2, 2**31) for stream in (0, 1, 2, 7)
    ]
    for replacement in (False, True):
        orders = {
            draw_ids(None, 40, 40, seed=s, epoch=e, stream=t, replacement=replacement).tobytes() for s, e, t in places
        }
        assert len(orders) == len(places)
    weighted = {draw_ids(np.linspace(1, 2, 40), 40, 40, seed=s, epoch=e, stream=t).tobytes() for s, e, t in places}
    assert len(weighted) == len(places)
    shards = np.arange(4000) // 40
    order = draw_ids(None, 4000, 4000, seed=0, epoch=0, shards=shards, window=1).reshape(100, 40)
    assert len({(block - block.min()).tobytes() for block in order}) == 100


KNOWN = {
    "uniform": "e4300e5e2175cee4",
    "two streams": "baa8722ffb63d531",
    "replacement": "a902a8dfe55008c0",
    "window": "fe81c78c84580bad",
    "half": "91907dd3f05d71f0",
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers(name: str) -> None:
    """The plan of given numbers never changes: not with numpy's version, not with this code. A run that was begun
    yesterday goes on with the same samples.
    """
    weights = np.array([1, 5, 0, 2, 2, 7, 1, 1, 3, 4], dtype=float)
    shards = np.array([0, 0, 0, 0, 1, 1, 2, 3, 3, 3])
    streams, options = {
        "uniform": ([None], {}),
        "two streams": ([None, weights], {"draws_per_epoch": 2.0}),
        "replacement": ([None, weights], {"replacement": True}),
        "window": ([None, weights], {"shards": shards, "window": 2}),
        "half": ([None, weights], {"matched": True}),
    }[name]
    plan = plan_epoch(streams, 10, batch=4, group=2, seed=42, epoch=7, **options)
    assert digest(plan.ids, plan.streams) == KNOWN[name]


def test_known_order_in_plain_numbers() -> None:
    """The same in numbers that a person can read."""
    assert draw_ids(None, 10, 10, seed=0, epoch=0).tolist() == [5, 3, 7, 8, 2, 4, 1, 0, 6, 9]
    assert draw_ids(np.arange(5.0), 5, 10, seed=0, epoch=0).tolist() == [3, 3, 4, 4, 2, 3, 2, 1, 4, 4]


# -------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    "weights", [[1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0, float("nan"), 1.0], [1.0, float("inf"), 1.0], [1.0, 1.0]]
)
@pytest.mark.parametrize("replacement", [False, True])
def test_bad_weights_are_refused(weights: list[float], replacement: bool) -> None:
    """Weights that are negative, all zero, not finite or not one for each sample are refused by a sentence that says
    what is legal.
    """
    with pytest.raises(PlanError, match=r"^weights must be 3 finite numbers, none negative and not all 0$"):
        draw_ids(np.array(weights), 3, 6, seed=0, epoch=0, replacement=replacement)


@pytest.mark.parametrize(
    "streams, batch, group, by_stream",
    [
        (1, 100, 32, False),
        (3, 128, 32, False),
        (2, 9, 0, False),
        (3, 64, 0, False),
        (2, 96, 32, True),
        (3, 128, 32, True),
        (2, 64, 0, True),
    ],
)
def test_batch_that_cannot_be_shared_is_refused(streams: int, batch: int, group: int, by_stream: bool) -> None:
    """A batch that is no multiple of its groups, or groups that do not fit the streams, is refused; the sentence has
    the numbers and the rule.
    """
    with pytest.raises(PlanError) as caught:
        plan_epoch([None] * streams, 500, batch=batch, group=group, by_stream=by_stream, seed=0, epoch=0)
    message = str(caught.value)
    assert (
        str(batch) in message
        and f"{streams} streams" in message
        and "must be a multiple" in message
        and "\n" not in message
    )
    assert ("share a multiple of the group" if by_stream else "the group a multiple of the streams") in message


def accepted(batch: int, group: int, ranks: int, synchronised: bool) -> bool:
    try:
        micro_batches(batch, group, 0, ranks, synchronised=synchronised)
    except PlanError:
        return False
    return True


@pytest.mark.parametrize(
    "batch, group, ranks, legal",
    [(128, 16, 3, [1, 2, 4, 8]), (96, 16, 4, [1, 2, 3, 6]), (60, 5, 7, [1, 2, 3, 4, 6, 12])],
)
def test_error_lists_exactly_the_legal_numbers_of_ranks(batch: int, group: int, ranks: int, legal: list[int]) -> None:
    """Ranks that do not divide the groups are refused by a sentence that lists the legal numbers, and exactly those are
    accepted.
    """
    with pytest.raises(PlanError) as caught:
        micro_batches(batch, group, 0, ranks)
    listed = re.search(r": ([\d, ]+) ranks are legal$", str(caught.value))
    assert (
        listed
        and [int(n) for n in listed[1].split(", ")]
        == [n for n in range(1, 200) if accepted(batch, group, n, False)]
        == legal
    )
    assert f"{ranks} ranks" in str(caught.value) and f"batch.bn={group}" in str(caught.value)


def test_error_names_the_largest_legal_number_of_ranks() -> None:
    """More ranks than groups on a CPU, more ranks than rows, and ranks that do not share groups evenly are refused with
    the limit, and the limit is true.
    """
    with pytest.raises(
        PlanError,
        match=r"5 ranks are more than the 4 groups of batch\.bn=32, .*needs a GPU: at most 4 ranks are legal here$",
    ):
        micro_batches(128, 32, 0, 5)
    assert accepted(128, 32, 4, False) and not accepted(128, 32, 8, False) and accepted(128, 32, 8, True)
    with pytest.raises(PlanError, match=r"^9 ranks cannot share a batch of 8: at most 8 are legal$"):
        micro_batches(8, 0, 0, 9)
    assert accepted(8, 0, 8, False)
    for ranks in (6, 129, 256):
        with pytest.raises(
            PlanError,
            match=rf"^{ranks} ranks cannot share the 4 groups of batch\.bn=32: a multiple of 4 up to 128 is legal$",
        ):
            micro_batches(128, 32, 0, ranks, synchronised=True)
    assert all(accepted(128, 32, ranks, True) for ranks in range(4, 129, 4))
