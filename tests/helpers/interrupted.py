"""Interrupted runs: the command under way, all bits of a run's ending, an engine for checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.resolve import resolve
from slurm.run_folder import prepare
from tests.helpers.mini import trained
from tests.helpers.paths import PROJECT
from tests.helpers.ranks import RankFailure, started

LIMIT_S = 240.0
TIMES = ("images_per_s", "seconds", "data_wait_s", "rank_wait_s")
"""Of a training line what no two runs share."""
STEPS, EPOCHS = 14, 3
WORDS = (
    "recipe=glt_randaug_ifl",
    "data=digits_glt",
    "cluster=local",
    "nodes=2",
    f"schedule.epochs={EPOCHS}",
    "batch.size=32",
    "batch.bn=16",
    "optim.momentum=0.9",
    "optim.lr=0.02",
    "ifl.milestones=[0,1]",
    "ifl.alpha=[0.01,0.02]",
    "log.every=3",
    "log.save_every_steps=4",
    "log.digest_every=5",
    "log.eval_test_every=1",
)


class Launch:
    """The command under way, in a separate session, so that none of its processes outlives the test."""

    def __init__(self, root: Path, runs: Path, *words: str) -> None:
        runs.mkdir(parents=True, exist_ok=True)
        self.output = runs / "output.txt"
        self.runs = runs
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        }
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "slurm/launch.py", *WORDS, f"data.root={root}", f"runs={runs}", *words],
                cwd=PROJECT,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env={**environment, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
                start_new_session=True,
            )

    @property
    def folder(self) -> Path:
        return next(self.runs.glob("glt_randaug_ifl-*"))

    def ranks(self) -> dict[int, int]:
        """Return the process ids of the running ranks, by rank."""
        result = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                    variables = dict(
                        item.split("=", 1) for item in (path / "environ").read_text().split("\0") if "=" in item
                    )
                    result[int(variables["RANK"])] = int(path.name)
        return result

    def wait_for_step(self, step: int) -> None:
        """Wait until metrics.jsonl has a training line of `step` or later."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(StopIteration, OSError):
                lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().split("\n")[:-1]]
                if any(line["kind"] == "train" and line["step"] >= step for line in lines):
                    return
            time.sleep(0.005)
        raise AssertionError(f"the run never came to step {step}:\n{self._text()}")

    def finish(self) -> int:
        """Return the exit code; fail if it takes too long or leaves a rank behind."""
        try:
            code = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"the command hangs:\n{self._text()}") from None
        left = self._mine()
        self.end()
        assert not left, f"processes {left} outlived the command"
        return code

    def _mine(self) -> list[int]:
        """Return the ids of running processes that name this test's folder in their command."""
        result = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (
                    f"{self.runs}" in (path / "cmdline").read_text()
                    and (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                ):
                    result.append(int(path.name))
        return result

    def end(self) -> None:
        for process in self._mine():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()

    def _text(self) -> str:
        return self.output.read_text()[-4000:]

    @property
    def text(self) -> str:
        return self.output.read_text()


Start = Callable[..., Launch]
GoOn = Callable[..., tuple[bool, str]]


def in_ranks(root: Path, runs: Path, *words: str, stop_at: int | None = None) -> tuple[bool, str]:
    """Go on with the run of `WORDS` in two ranks that exist already: a command spends most of its time on imports.

    Args:
        root: of the data.
        runs: where the run folder is.
        words: more than `WORDS`.
        stop_at: the step at which a rank asks to stop.

    Returns:
        Whether the run is finished, and what was printed.
    """
    recipe = resolve([*WORDS, f"data.root={root}", f"runs={runs}", *words])
    prepare(recipe, recipe.run_folder)
    ranks = started(2)
    try:
        answers = ranks.run(trained, str(recipe.run_folder), stop_at)
    except RankFailure as failure:
        return False, str(failure)
    return answers == [True, True], f"{answers}\n{ranks.said(0)}"


def sha(value: np.ndarray | torch.Tensor) -> str:
    array = np.ascontiguousarray(value.numpy() if isinstance(value, torch.Tensor) else value)
    return hashlib.sha256(str((array.dtype, array.shape)).encode() + array.tobytes()).hexdigest()


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Return digests of tensors, and plain values, by dotted name."""
    if isinstance(value, dict):
        return {key: v for name, inner in value.items() for key, v in _flat(f"{prefix}.{name}", inner).items()}
    if isinstance(value, list | tuple):
        return {key: v for i, inner in enumerate(value) for key, v in _flat(f"{prefix}.{i}", inner).items()}
    return {prefix: sha(value) if isinstance(value, torch.Tensor | np.ndarray) else value}


def ending(folder: Path) -> dict[str, Any]:
    """Return all of a finished run that must not depend on what happened to it.

    That is the last checkpoint's parameters, buffers, optimizer state, centers, weights, confidence and numbers;
    environments; predictions; the best epoch's weights; and the training and evaluation lines without their times.
    """
    assert (folder / "done").exists()
    newest = sorted(folder.glob("ckpt/step-*"))[-1]
    suite = torch.load(newest / "suite.pt", weights_only=True)
    engine = torch.load(newest / "engine" / "mp_rank_00_model_states.pt", weights_only=False)
    result = {
        "newest": newest.name,
        **_flat("suite", {k: v for k, v in suite.items() if k not in ("seconds", "metrics_offset")}),
        **_flat("network", engine["module"]),
        **_flat("optimizer", engine["optimizer"]),
    }
    for path in sorted([*folder.glob("env/*.npz"), *folder.glob("preds/*/*.npz")]):
        with np.load(path) as arrays:
            result |= _flat(str(path.relative_to(folder)), dict(arrays))
    best = json.loads((folder / "done").read_text())["best_epoch"]
    result |= _flat("best", torch.load(folder / "ckpt" / f"best-{best:04d}.pt", weights_only=True))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if k not in TIMES} for line in lines if line["kind"] in ("train", "eval")]
    steps = [(line["kind"], line.get("split"), line["step"]) for line in kept]
    assert len(steps) == len(set(steps)), "a step is twice in metrics.jsonl"
    return result | {f"line {kind} {split} {step}": line for (kind, split, step), line in zip(steps, kept, strict=True)}


def copy_of_killed(killed: Path, runs: Path) -> Path:
    """Copy the killed run, and return the copy's run folder."""
    shutil.copytree(killed, runs)
    return next(runs.glob("glt_randaug_ifl-*"))


def flip_bit(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset % len(data)] ^= 1 << bit
    path.write_bytes(data)


def small_engine(seed: int = 0, zero: int = 0) -> Any:
    from ifl.engine import Engine
    from ifl.network.network import Network
    from recipes.schema import Optim

    torch.manual_seed(seed)
    backbone = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    return Engine(
        Network(backbone, torch.nn.Linear(4, 3, bias=False), (0.5,) * 3, (0.25,) * 3),
        Optim(momentum=0.9, zero=zero),
        8,
        8,
        1,
        torch.device("cpu"),
    )


def train_steps(engine: Any, steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        output = engine.forward(torch.randint(0, 256, (8, 3, 8, 8), generator=generator, dtype=torch.uint8))
        engine.backward(output.logits_BK.square().sum(), last=True)
        engine.step()
