"""metrics.jsonl, and where the recipe asks for it (`log.tensorboard`, `log.wandb`) the same numbers through DeepSpeed's own monitor. Rank 0 only.

metrics.jsonl is the truth: a resumed run cuts off what came after its checkpoint, and what the others are told follows from it. TensorBoard's
files are made anew from it at every start, so no step stands there twice. Weights & Biases goes on with the run of the same id and ignores
the steps that it has already.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ifl.engine import open_monitor
from recipes.common.errors import RunError
from recipes.schema import Recipe

Event = tuple[str, float, int]
"""Name, value, optimizer step."""


class Metrics:
    """metrics.jsonl: one JSON object a line, appended by rank 0. A checkpoint stores `offset`; resuming cuts off what
    came after, so no step stands there twice."""

    def __init__(self, path: Path, offset: int) -> None:
        path.touch()
        if path.stat().st_size < offset:
            print(
                f"{path} is shorter than the checkpoint knows it: lines were lost, and the run goes on without them",
                flush=True,
            )
        os.truncate(path, min(offset, path.stat().st_size))
        self._file = open(path, "a")  # noqa: SIM115 (open as long as the run)

    def write(self, **values: Any) -> None:
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def offset(self) -> int:
        """Bytes so far, made durable."""
        os.fsync(self._file.fileno())
        return self._file.tell()


def open_metrics(recipe: Recipe, folder: Path, offset: int) -> Metrics:
    """The metrics file of a run folder, cut off at `offset` bytes, told on to whatever the recipe's switches name.

    Raises:
        RunError: a package is not installed, or Weights & Biases does not start.
    """
    metrics = Metrics(folder / "metrics.jsonl", offset)
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
        unique = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[
            :8
        ]  # a copy of the folder elsewhere is another run
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
            f"log.wandb={recipe.log.wandb}: Weights & Biases does not start ({reason}); WANDB_MODE=offline works without an account and without internet"
        ) from error
    return Monitored(folder / "metrics.jsonl", offset, monitor)


class Monitored(Metrics):
    """metrics.jsonl whose lines go to a monitor, too; TensorBoard, which starts anew, is first told those that are there already."""

    def __init__(self, path: Path, offset: int, monitor: Any) -> None:
        super().__init__(path, offset)
        self._monitor = monitor
        if monitor.tb_monitor is not None:
            lines = path.read_text(encoding="utf-8").splitlines()
            monitor.tb_monitor.write_events([event for line in lines for event in events(json.loads(line))])

    def write(self, **values: Any) -> None:
        super().write(**values)
        self._monitor.write_events(list(events(values)))


def events(line: dict[str, Any]) -> Iterator[Event]:
    """The scalars of a line of metrics.jsonl at its step: `train/loss`, `test_gbl/accuracy/overall`, `boot/seconds`, ... Lists are none."""
    head = line["split"] if line["kind"] == "eval" else line["kind"]
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


def close_monitors() -> None:
    """Hand in what Weights & Biases still holds: the process leaves without the farewell on which it would do so itself."""
    if wandb := sys.modules.get("wandb"):
        wandb.finish()
