"""metrics.jsonl, and where the recipe asks for it (`log.tensorboard`, `log.wandb`) the same numbers through DeepSpeed's
own monitor. Rank 0 writes; the other ranks have a log that keeps nothing.

metrics.jsonl is the truth: a resumed run cuts off what came after its checkpoint, and what the monitors are told
follows from it. TensorBoard's files are written again from it at every start, so no step is there twice. Weights &
Biases goes on with the run of the same id and ignores the steps that it has already.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ifl.engine import open_monitor
from ifl.saving.state import State
from ifl.supervision.waits import Waits
from recipes.common.errors import RunError
from recipes.common.files import named
from recipes.common.json_text import whole_lines
from recipes.schema import Recipe

Event = tuple[str, float, int]
"""Name, value, optimizer step."""
Line = dict[str, Any]
"""A line of metrics.jsonl."""
NEEDED = {"kind", "step"}
"""Keys of every line of metrics.jsonl."""


class RunLog:
    """The log of ranks other than 0, which keeps nothing."""

    def write(self, **values: Any) -> None:
        """Append a line of `values`."""

    def keep_place(self, epoch: int) -> None:
        """Keep a place for lines about an epoch that are not known yet; lines that come after it are held back."""

    def fill_place(self, epoch: int, lines: Sequence[Line]) -> None:
        """Put the lines into the place that was kept for them, and those that waited for it behind it."""

    def held(self) -> list[int | Line]:
        """Return what is held back, in its order: lines, and the epochs whose places are kept."""
        return []

    def offset(self) -> int:
        """Return the bytes so far."""
        return 0

    def sync(self) -> None:
        """Make the lines so far durable."""


class Metrics(RunLog):
    """metrics.jsonl: one JSON object a line, appended by rank 0.

    A checkpoint stores `offset` and `held`; resuming cuts off what came after, so no step is there twice.
    """

    def __init__(self, path: Path, offset: int, held: Sequence[int | Line] = ()) -> None:
        path.touch()
        if path.stat().st_size < offset:
            print(
                f"{path} is shorter than the checkpoint knows it: lines were lost, and the run goes on without them",
                flush=True,
            )
        os.truncate(path, min(offset, path.stat().st_size))
        self._file = open(path, "a")  # noqa: SIM115 (open as long as the run)
        self._held = list(held)

    def write(self, **values: Any) -> None:
        self._held.append(values)
        self._release()

    def keep_place(self, epoch: int) -> None:
        self._held.append(epoch)

    def fill_place(self, epoch: int, lines: Sequence[Line]) -> None:
        place = self._held.index(epoch)
        self._held[place : place + 1] = lines
        self._release()

    def held(self) -> list[int | Line]:
        return list(self._held)

    def _release(self) -> None:
        """Append the lines before the first place that is kept."""
        while self._held and isinstance(self._held[0], dict):
            self._append(self._held.pop(0))

    def _append(self, values: Any) -> None:
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def offset(self) -> int:
        return self._file.tell()

    def sync(self) -> None:
        with named(Path(self._file.name)):
            os.fsync(self._file.fileno())


class Reporter:
    """Writes a run's lines, each with the epoch and the step it belongs to."""

    def __init__(self, run_log: RunLog, recipe: Recipe, steps: int, waits: Waits) -> None:
        """Report to `run_log`; an epoch has `steps` steps, and `waits` knows what the ranks waited for."""
        self._run_log, self._steps, self._waits = run_log, steps, waits
        self._batch, self._every = recipe.batch.size, recipe.log.every

    def write(self, state: State, kind: str, **values: Any) -> None:
        """Write a line; none if there is nothing to say."""
        if values:
            step = state.epoch * self._steps + state.step
            self._run_log.write(kind=kind, epoch=state.epoch, step=step, **values)

    def keep_place(self, epoch: int) -> None:
        """Keep the place of an epoch's scores."""
        self._run_log.keep_place(epoch)

    def fill_place(self, epoch: int, found: Mapping[str, Line]) -> None:
        """Write an epoch's scores, by split, into the place that was kept for them."""
        head = {"kind": "eval", "epoch": epoch, "step": (epoch + 1) * self._steps}
        self._run_log.fill_place(epoch, [{**head, "split": name, **scores} for name, scores in found.items()])

    def begin_epoch(self, state: State) -> None:
        """Start the clock that images are counted by."""
        self._from, self._began = state.step, time.monotonic()

    def after_step(self, state: State, lr: float, alpha: float) -> None:
        """Write a training line where one is due; the means are over the steps since the last one."""
        if (state.epoch * self._steps + state.step) % self._every == 0 or state.step == self._steps:
            seconds = time.monotonic() - self._began
            images_per_s = (state.step - self._from) * self._batch / seconds
            speed = {"images_per_s": round(images_per_s, 1), "seconds": round(seconds, 4)}
            said = {**state.means(alpha), **speed, **self._waits.taken()}
            self.write(state, "train", lr=lr, alpha=alpha, **said)
            self.begin_epoch(state)


def open_metrics(recipe: Recipe, folder: Path, offset: int, held: Sequence[int | Line] = ()) -> Metrics:
    """Open the metrics file of a run folder, cut off at `offset` bytes, and the monitors that the recipe switches on.

    `held` is what was held back.

    Raises:
        RunError: a package is not installed, or Weights & Biases does not start.
    """
    metrics = Metrics(folder / "metrics.jsonl", offset, held)
    if not recipe.log.tensorboard and recipe.log.wandb is None:
        return metrics
    if lacking := recipe.log.lacking():
        raise RunError(lacking)
    files = folder / "tensorboard"
    shutil.rmtree(files, ignore_errors=True)
    settings: dict[str, dict[str, Any]] = {}
    if recipe.log.tensorboard:
        settings["tensorboard"] = {"enabled": True, "output_path": str(folder), "job_name": files.name}
    if recipe.log.wandb is not None:
        settings["wandb"] = {"enabled": True, "project": recipe.log.wandb, "group": recipe.recipe}
        # a copy of the folder in another place is another run
        unique = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
        own = {
            "WANDB_RUN_ID": f"{recipe.run_name}-{unique}",
            "WANDB_NAME": recipe.run_name,
            "WANDB_RESUME": "allow",
            "WANDB_DIR": str(folder),
            "WANDB_SILENT": "true",
        }
        for name, value in own.items():
            os.environ.setdefault(name, value)
    try:
        monitor = open_monitor(settings)
    except Exception as error:
        if recipe.log.wandb is None or isinstance(error, OSError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(
            f"log.wandb={recipe.log.wandb}: Weights & Biases does not start ({reason}); "
            "WANDB_MODE=offline works without an account and without internet"
        ) from error
    return Monitored(folder / "metrics.jsonl", offset, monitor, held)


class Monitored(Metrics):
    """metrics.jsonl whose lines go to a monitor, too.

    TensorBoard starts from nothing, so it is first told the lines that are there already.
    """

    def __init__(self, path: Path, offset: int, monitor: Any, held: Sequence[int | Line] = ()) -> None:
        super().__init__(path, offset, held)
        self._monitor = monitor
        if monitor.tb_monitor is not None:
            lines = [line for line in whole_lines(path.read_bytes()) if line.keys() >= NEEDED]
            monitor.tb_monitor.write_events([event for line in lines for event in events(line)])

    def _append(self, values: Any) -> None:
        super()._append(values)
        self._monitor.write_events(list(events(values)))


def events(line: dict[str, Any]) -> Iterator[Event]:
    """Yield the scalars of a line of metrics.jsonl at its step: `train/loss`, `test_gbl/accuracy/overall`, ...

    Lists are left out.
    """
    head = str(line.get("split") if line["kind"] == "eval" else line["kind"])
    rest = {
        key: value
        for key, value in line.items()
        if key not in ("kind", "split", "step") and not (key == "epoch" and line["kind"] != "train")
    }
    yield from _scalars(head, rest, int(line["step"]))


def _scalars(name: str, value: Any, step: int) -> Iterator[Event]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _scalars(f"{name}/{key}", inner, step)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value), step


def has_history(folder: Path) -> bool:
    """Say whether the run of a folder has logged anything: then it must go on from a checkpoint, or stop."""
    path = folder / "metrics.jsonl"
    return path.exists() and path.stat().st_size > 0


def close_monitors() -> None:
    """Hand in what Weights & Biases still holds.

    It would do so itself when the process exits normally, but a rank does not exit that way.
    """
    if wandb := sys.modules.get("wandb"):
        wandb.finish()
