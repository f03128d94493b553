"""Helpers for tests of a node's caches: processes that come and go, and batches that must be equal."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sharding.reader import Batch
from tests.helpers.paths import PROJECT


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    """Assert that the batches are equal bit for bit, and that there are some."""
    assert len(found) == len(expected) > 0
    assert all(
        torch.equal(mine, theirs)
        for left, right in zip(found, expected, strict=True)
        for mine, theirs in zip(left, right, strict=True)
    )


def children(number: int, work: Callable[[int], object]) -> list[int]:
    """Fork processes that do `work(k)` and exit without cleaning up, with 1 after an error; return their pids."""
    pids = []
    for k in range(number):
        if (pid := os.fork()) == 0:
            try:
                work(k)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        pids.append(pid)
    return pids


def on_a_disk_of(megabytes: float, folder: Path, script: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a Python script while a file system of so many MB is mounted on `folder`, visible only to the script.

    The script can import the tests' modules; its first argument is `folder`.
    """
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("a process may not mount a file system for itself here")
    folder.mkdir(exist_ok=True)
    mount = f'mount -t tmpfs -o size={round(megabytes * 1024)}k none "$1" && exec "$0" -c "$2" "$1" "${{@:3}}"'
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.run(
        ["unshare", "-rm", "bash", "-c", mount, sys.executable, str(folder), script, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
