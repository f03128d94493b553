"""Plans made ahead have the bits of plans made when they are asked for; sorting in place gives the stable order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from recipes.common.errors import PlanError
from sharding.plan import ahead, epoch, philox, sampling
from sharding.plan.ahead import Planner
from sharding.plan.epoch import BatchShape, stream_draws
from sharding.plan.philox import DrawKey
from sharding.plan.windowed import ShardWindow

N, SEED = 500, 7
SHAPE = BatchShape(24, 12, 3)
WEIGHTS = [None, np.linspace(0, 3, N), np.linspace(1, 2, N)]
WINDOW = ShardWindow(np.arange(N) // 50, 2)


def planner(window: ShardWindow | None = None, replacement: bool = False) -> Planner:
    return Planner(lambda weights: stream_draws(weights, N, replacement=replacement), SHAPE, SEED, window)


def ids_at_once(number: int, weights: Sequence[np.ndarray | None], window: ShardWindow | None = None) -> np.ndarray:
    """The plan's ids, made without a planner."""
    return epoch.plan_epoch(stream_draws(weights, N), SHAPE, DrawKey(SEED, number), window).ids


@pytest.fixture
def made_in(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, str]]:
    """(epoch, stream, thread) of every order that is made."""
    found: list[tuple[int, int, str]] = []
    real = epoch.stream_order

    def noted(draw: epoch.StreamDraw, key: DrawKey, window: ShardWindow | None = None) -> epoch.Order:
        found.append((key.epoch, key.stream, threading.current_thread().name))
        return real(draw, key, window)

    for module in (epoch, ahead):
        monkeypatch.setattr(module, "stream_order", noted)
    return found


@pytest.mark.parametrize("window", [None, WINDOW], ids=["whole", "window"])
def test_a_plan_made_ahead_is_the_plan(made_in: list[tuple[int, int, str]], window: ShardWindow | None) -> None:
    """Each order is made once, in the thread, and the plan is that of `plan_epoch`."""
    one = planner(window)
    one.begin(4, WEIGHTS)
    found = one.plan(4, WEIGHTS)
    assert made_in == [(4, stream, "plan") for stream in range(3)]
    assert np.array_equal(found.ids, ids_at_once(4, WEIGHTS, window)) and found.ids.dtype == np.int64


def test_streams_that_are_not_known_wait(made_in: list[tuple[int, int, str]]) -> None:
    """A stream whose weights are to change is planned when they are there, by them; the others ahead."""
    one, changed = planner(), [None, WEIGHTS[1][::-1].copy(), WEIGHTS[2]]
    one.begin(5, WEIGHTS, unknown=range(1, 2))
    found = one.plan(5, changed)
    assert made_in == [(5, 0, "plan"), (5, 2, "plan"), (5, 1, "MainThread")]
    assert np.array_equal(found.ids, ids_at_once(5, changed))


def test_what_was_made_of_other_weights_is_made_again(made_in: list[tuple[int, int, str]]) -> None:
    """Weights that changed unforeseen count, and so does another epoch than the one that was begun."""
    one, changed = planner(), [None, WEIGHTS[1], WEIGHTS[2].copy()]
    one.begin(5, WEIGHTS)
    assert np.array_equal(one.plan(5, changed).ids, ids_at_once(5, changed))
    assert next(made for made in made_in if made[2] == "MainThread") == (5, 2, "MainThread")
    one.begin(6, WEIGHTS)
    assert np.array_equal(one.plan(7, WEIGHTS).ids, ids_at_once(7, WEIGHTS))


@pytest.mark.parametrize("replacement", [True, False])
def test_no_call_of_a_plan_that_keeps_pythons_lock_is_long(replacement: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`np.repeat` does: where few samples have most of the draws it makes a chunk of them at a time, and the ids are
    those of one call."""
    chunk, samples = 1 << 8, 5000
    monkeypatch.setattr(philox, "CHUNK", chunk)
    weights = np.ones(samples)
    weights[1000:1100] = 40.0
    weights[2000] = 300.0
    draw = sampling.StreamDraw(weights, samples, 3 * samples, replacement)
    key, repeat, made = DrawKey(SEED, 1), np.repeat, []
    counts = np.concatenate(list(sampling._counts(draw, key, samples - 1)))
    monkeypatch.setattr(np, "repeat", lambda *args: made.append(repeat(*args)) or made[-1])
    assert np.array_equal(sampling.drawn_ids(draw, key), repeat(np.arange(samples), counts))
    assert counts.max() > chunk and sum(map(len, made)) == draw.draws
    assert max(map(len, made)) <= chunk + counts.max() and len(made) > samples / chunk + 15


def test_the_last_plan_is_kept(made_in: list[tuple[int, int, str]]) -> None:
    """Who asks twice gets the same plan, which is not made again; other weights or another epoch give another."""
    one = planner()
    first = one.plan(3, WEIGHTS)
    assert one.plan(3, list(WEIGHTS)) is first and len(made_in) == 3
    assert one.plan(3, [None, None, None]) is not first


def test_an_error_of_the_thread_is_raised_at_use() -> None:
    """Weights that are not legal are refused where the plan is asked for, in the words of `plan_epoch`."""
    one, bad = planner(), [None, np.full(N, np.nan), None]
    one.begin(1, bad)
    with pytest.raises(PlanError, match="weights must be 500 finite numbers"):
        one.plan(1, bad)
    assert np.array_equal(one.plan(1, WEIGHTS).ids, ids_at_once(1, WEIGHTS))


@pytest.mark.parametrize("bits", [0, 6, 14, 40, 64])
@pytest.mark.parametrize("number", [1, 2, 3, 64, 65, 1000])
def test_the_order_of_words_is_stable(monkeypatch: pytest.MonkeyPatch, number: int, bits: int) -> None:
    """Words are sorted as numpy's stable argsort does, where all, many, some or none are equal or nearly so, also where
    runs of them cross a chunk's end.
    """
    monkeypatch.setattr(philox, "CHUNK", 64)
    words = philox.random_words(number, DrawKey(1, number), philox.ORDER) & np.uint64(2**bits - 1)
    found = philox.order_of(words.copy)
    assert found.dtype == np.int32 and np.array_equal(found, np.argsort(words, kind="stable"))


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("draws", [200, 500, 730])
@pytest.mark.parametrize("weights", [None, WEIGHTS[1], np.full(N, 0.3)], ids=["uniform", "weighted", "equal"])
def test_chunks_do_not_show(
    monkeypatch: pytest.MonkeyPatch, weights: np.ndarray | None, draws: int, replacement: bool
) -> None:
    """What is drawn does not depend on how many numbers are worked on at a time."""
    drawn = partial(epoch.draw_ids, epoch.StreamDraw(weights, N, draws, replacement), DrawKey(SEED, 1))
    whole = drawn()
    monkeypatch.setattr(philox, "CHUNK", 7)
    assert np.array_equal(drawn(), whole)


@pytest.mark.parametrize("number, kept", [(2**31 - 1, np.int32), (2**31, np.int64)])
def test_ids_take_4_bytes_while_they_fit(number: int, kept: type[np.signedinteger]) -> None:
    """Numbers up to 2**31 - 1 are kept in 4 bytes, larger ones in 8."""
    assert philox.narrow(number) is kept
