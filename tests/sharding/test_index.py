"""An index takes no more memory than its arrays."""

from __future__ import annotations

import tracemalloc
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from sharding.format import index as module
from sharding.format.index import Index, load_index, save_index

N = 20_000


@pytest.fixture(scope="module")
def index() -> Index:
    numbers = np.arange(N)
    return Index.of_columns(
        key=[f"sample-{number:06d}é" for number in range(N)],
        source=[f"folder/{number % 97}/picture-{number}.jpg" for number in range(N)],
        shard=numbers // 1000,
        offset=numbers * 512,
        size=numbers + 1,
        sha256=np.arange(N * 32, dtype=np.uint64).astype(np.uint8).reshape(N, 32),
        label=numbers % 10,
        group=numbers % 3,
        attribute=numbers % 4 - 1,
        shard_name=[f"{shard:06d}.tar" for shard in range(20)],
        shard_size=np.arange(20) + 1,
        shard_sha256=np.zeros((20, 32)),
    )


def test_reading_an_index_copies_nothing(index: Index, tmp_path: Path) -> None:
    """While an index is read, its arrays are in memory once."""
    save_index(tmp_path, index)
    tracemalloc.start()
    found = load_index(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    arrays = [getattr(found, field.name) for field in fields(found)]
    assert peak < 1.1 * sum(array.nbytes for array in arrays)
    assert not any(array.flags.writeable for array in arrays) and found.fingerprint == index.fingerprint


def test_an_index_made_of_arrays_is_not_theirs(index: Index) -> None:
    """An index that is made of somebody's arrays copies them: later changes of these do not reach it."""
    columns = {field.name: getattr(index, field.name).copy() for field in fields(index)}
    made = Index(**columns)
    columns["label"] += 1
    assert np.array_equal(made.label, index.label)


def test_the_fingerprint_is_that_of_all_entries_together(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fingerprint does not depend on how many entries are looked at together."""
    prints = set()
    for chunk in (7, 4096, N):
        monkeypatch.setattr(module, "CHUNK", chunk)
        prints.add(Index(**{field.name: getattr(index, field.name) for field in fields(index)}).fingerprint)
    assert len(prints) == 1
