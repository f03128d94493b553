"""A rank that may not open the files that it needs ends before it starts, in one sentence with their number."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ifl import setup
from ifl.supervision.open_files import check_before_connecting, check_before_reading
from recipes.common.errors import RunError
from recipes.resolve import resolve
from sharding.open import open_dataset
from slurm.run_folder import prepare
from tests.helpers.paths import PROJECT


def open_now() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The soft and the hard limit of open files, as the code under test sees and sets them."""
    limits = {"soft": 1, "hard": 1}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits["soft"], limits["hard"]))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, both: limits.update(soft=both[0], hard=both[1]))
    return limits


@pytest.mark.parametrize(
    ("ranks", "workers", "more", "whom"),
    [
        ("1", 0, 26, "1 ranks with 0 loader workers each"),
        ("2", 2, 26 + 5 + 8 + 24, "2 ranks with 2 loader workers each"),
        ("8", 0, 26 + 35, "8 ranks with 0 loader workers each"),
    ],
)
def test_too_few_files_for_the_ranks_are_refused(
    limits: dict[str, int], monkeypatch: pytest.MonkeyPatch, ranks: str, workers: int, more: int, whom: str
) -> None:
    """One file less than a rank needs for itself, for the others and for its workers is refused, with the number."""
    monkeypatch.setenv("WORLD_SIZE", ranks)
    wanted = open_now() + more
    limits.update(soft=20, hard=wanted - 1)
    with pytest.raises(RunError) as refused:
        check_before_connecting(workers)
    assert str(refused.value) == (
        f"{wanted} open files are needed for {whom}, and the hard limit here (ulimit -Hn) is {wanted - 1}: start from "
        f"a shell with `ulimit -n {wanted}` or more"
    )
    limits.update(hard=wanted)
    check_before_connecting(workers)
    assert limits == {"soft": wanted, "hard": wanted}


def test_a_low_soft_limit_is_raised(limits: dict[str, int]) -> None:
    """Where only the soft limit is too low nothing is refused: there is room for more than is needed now."""
    limits.update(soft=20, hard=100_000)
    check_before_reading(4, 300)
    assert limits == {"soft": 4096, "hard": 100_000}
    check_before_reading(0, 300)
    assert limits["soft"] == 4096


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", ["none", "decoded"])
def test_the_files_of_the_data_are_counted(limits: dict[str, int], tiny_root: Path, workers: int, cache: str) -> None:
    """A rank that reads by itself holds the shards of all its splits, a worker those of one; both hold the caches."""
    dataset = open_dataset(str(tiny_root), "digits_glt")
    splits = {name: dataset.split("glt", name) for name in ("train", "val", "test_cbl")}
    shards = [len(split.index.shard_name) for split in splits.values()]
    recipe = resolve(["data=digits_glt", f"data.workers={workers}", f"data.cache={cache}"])
    held = (max(shards) if workers else sum(shards)) + (18 if cache == "decoded" else 0)
    with pytest.raises(RunError, match=rf" for {workers} loader workers and {held} files of the data, and the hard "):
        setup._check_files(recipe, splits)


def test_a_rank_without_files_ends_in_a_sentence(tiny_root: Path, tmp_path: Path) -> None:
    """Under `ulimit -n 24` a rank of two ends with code 1 before it meets the other: a sentence and no traceback."""
    recipe = resolve(["data=digits_glt", f"data.root={tiny_root}", f"runs={tmp_path}", "nodes=2"])
    prepare(recipe, recipe.run_folder)
    result = subprocess.run(
        [sys.executable, "-m", "slurm.job", str(recipe.run_folder)],
        cwd=PROJECT,
        env={**os.environ, "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    (said,) = result.stderr.splitlines()
    assert result.returncode == 1 and " open files are needed for 2 ranks with " in said and "is 24: start" in said
    assert '"error": "RunError: ' in (recipe.run_folder / "log" / "events.jsonl").read_text()
