"""Runs that several tests of the loop share."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import mini
from tests.helpers.interrupted import EPOCHS, STEPS, GoOn, Launch, Start, ending, in_ranks
from tests.helpers.shared import made_once


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


@pytest.fixture(params=["in ranks", pytest.param("by the command", marks=pytest.mark.full)])
def go_on(request: pytest.FixtureRequest, tiny_root: Path, start: Start) -> GoOn:
    """Takes up the run in a `runs` folder; whether it is finished, and what was said."""

    def by_the_command(runs: Path, root: Path = tiny_root) -> tuple[bool, str]:
        launch = start(runs, root=root)
        code = launch.finish()
        assert code != 99
        return code == 0, launch.text + (launch.folder / "log" / "rank-0.log").read_text()

    return by_the_command if request.param == "by the command" else lambda runs, root=tiny_root: in_ranks(root, runs)


@pytest.fixture(scope="session")
def undisturbed(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The ending of a run that nothing happened to."""
    runs = tmp_path_factory.mktemp("undisturbed")
    finished, text = in_ranks(tiny_root, runs)
    assert finished, text
    result = ending(next(runs.glob("glt_randaug_ifl-*")))
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


@pytest.fixture(scope="session")
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
    return made_once(tmp_path_factory, "mini", partial(mini.build, digits_root))
