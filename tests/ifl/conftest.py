"""Runs that several tests of the loop share."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import mini
from tests.helpers.interrupted import EPOCHS, STEPS, Launch, Start, ending


@pytest.fixture
def start(tiny_root: Path) -> Iterator[Start]:
    """Starts commands, and ends what is left of them after the test."""
    under_way: list[Launch] = []

    def begin(runs: Path, *words: str, root: Path = tiny_root) -> Launch:
        under_way.append(Launch(root, runs, *words))
        return under_way[-1]

    yield begin
    for launch in under_way:
        launch.end()


@pytest.fixture(scope="module")
def undisturbed(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The ending of a run that nothing happened to."""
    launch = Launch(tiny_root, tmp_path_factory.mktemp("undisturbed"))
    assert launch.finish() == 0, launch.text
    result = ending(launch.folder)
    assert result["newest"] == f"step-{STEPS * EPOCHS:09d}"
    assert {
        f"preds/{which}/{split}.npz.prediction"
        for which in ("last", "best")
        for split in ("val", "test_cbl", "test_gbl", "test_glt")
    } <= result.keys()
    assert {
        "suite.centers",
        "suite.weights.1",
        "optimizer.state.0.momentum_buffer",
        "env/epoch-000.npz.weights",
        "env/epoch-001.npz.weights",
    } <= result.keys()
    return result


@pytest.fixture(scope="module")
def killed(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `runs` folder of a run of which one rank was killed with two checkpoints on disk; to be copied."""
    launch = Launch(tiny_root, tmp_path_factory.mktemp("killed"))
    dice = random.Random(1)
    launch.wait_for_step(dice.randrange(12, 20))
    victim = dice.randrange(2)
    os.kill(launch.ranks()[victim], signal.SIGKILL)
    assert launch.finish() not in (0, 99)
    assert f"rank {victim} was killed by SIGKILL" in launch.text
    assert len(list(launch.folder.glob("ckpt/step-*"))) >= 2 and not (launch.folder / "done").exists()
    return launch.runs


@pytest.fixture(scope="session")
def mini_root(digits_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.build(digits_root, tmp_path_factory.mktemp("mini"))
