"""Locks hold between real processes, also on a file system that has none, and an error is not a lock that is held."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipes.common import leases, locks
from recipes.common.locks import is_free, is_held, locked, release, try_acquire
from recipes.schema import PROJECT

OTHER = """
import errno, fcntl, os, sys
sys.path.insert(0, {project!r})
def refuse(file, how):
    raise OSError(errno.ENOLCK, "no locks")
fcntl.flock = refuse
from recipes.common import leases, locks
leases.BEAT_S, leases.LEASE_S = 0.05, 0.3
file = open(sys.argv[1], "w")
print(locks.try_acquire(file, shared=sys.argv[2] == "shared"), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file system without locks, on which a dead process's lease is soon free."""

    def refuse(file: Any, how: int) -> None:
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(leases, "LEASE_S", 0.3)
    yield
    leases._end()


def other_process(path: Path, kind: str) -> subprocess.Popen[str]:
    """Another process that takes the lock and keeps it."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", OTHER.format(project=str(PROJECT)), str(path), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "True\n"
    return process


def test_two_processes_exclude_each_other_without_locks(without_locks: None, tmp_path: Path) -> None:
    """Where `flock` is not there one of two processes has the lock, as long as it lives and beats; once it is killed
    the other gets it, and a lock that was let go is free at once."""
    path = tmp_path / "lock"
    path.touch()
    assert is_free(path) and not is_held(path)
    holder = other_process(path, "alone")
    with open(path) as file:
        time.sleep(0.4)  # longer than a lease without a beat lasts
        assert not try_acquire(file) and not try_acquire(file, shared=True) and is_held(path) and not is_free(path)
        holder.kill()
        holder.wait()
        began = time.monotonic()
        with locked(path):
            assert time.monotonic() - began < 2 and is_held(path)
        assert not is_held(path) and is_free(path)
        assert try_acquire(file) and is_held(path)
        release(file)
        assert is_free(path) and [entry.name for entry in tmp_path.iterdir()] == ["lock"]


def test_shared_leases_shut_out_whoever_wants_it_alone(without_locks: None, tmp_path: Path) -> None:
    """Two processes share a lock that a third does not get alone until both are gone."""
    path = tmp_path / "lock"
    path.touch()
    holder = other_process(path, "shared")
    with open(path) as file, open(path) as mine:
        assert try_acquire(mine, shared=True) and not is_held(path) and not is_free(path)
        assert not try_acquire(file)
        release(mine)
        assert not try_acquire(file)
        assert holder.stdin
        holder.communicate("\n", timeout=10)
        assert try_acquire(file)
        release(file)


def test_an_error_of_the_call_is_not_a_lock_that_is_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A disk that fails is told as such, by every question."""

    def fail(file: Any, how: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "lock"
    path.touch()
    monkeypatch.setattr(fcntl, "flock", fail)
    with open(path) as file:
        for ask in (lambda: try_acquire(file), lambda: is_free(path), lambda: is_held(path)):
            with pytest.raises(OSError, match="Input/output"):
                ask()


def test_a_lease_that_beats_does_not_hide_a_stuck_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A launcher that lives on touches its lease; the run's state goes by what its ranks write."""
    import os

    from slurm.monitoring import run_state

    for name in ("lock", "recipe.yaml"):
        (tmp_path / name).write_text("seed: 0\n")
        os.utime(tmp_path / name, (0, 0))
    monkeypatch.setattr(locks, "_flock", lambda file, how: None)
    (tmp_path / "lock.lease").write_text("somebody")
    assert run_state.state_of(tmp_path, [], {}) == "stuck"
