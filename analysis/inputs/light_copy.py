"""The light part of run folders, to lie beside a paper: what the tables and figures are made from, without
checkpoints and logs.

`python -m analysis light runs=DIR out=DIR [select=best] [thumbnails=RUN,...]` copies of each finished run its recipe,
meta.json, metrics, last predictions and environments; when its starts began and ended, and their energy; thumbnails of
the extremes only for the runs named. The predictions of the epoch that was best on val come with `select=best` alone.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from analysis.inputs.runs import arrays_of
from recipes.common.json_text import whole_lines
from recipes.folders import LIGHT, is_run_name

PLACES = re.compile(rb"^(|  )(runs|root|cache_folder|text): .*(?:\n+\1 +\S.*)*$", re.MULTILINE)
"""Where data and runs lay on the machine, in a resolved recipe, a long one over several lines; they say nothing
elsewhere."""
WORDS = re.compile(rb',\s*"(runs|data\.root|data\.cache_folder|method\.text)=(?:[^"\\]|\\.)*"')
"""The same in the command that meta.json records."""
LOGS = {
    "log/events.jsonl": ("event", "incarnation", "time", "step", "world", "rank", "verdict"),
    "log/energy.jsonl": ("by", "incarnation", "job", "rank", "joules", "text"),
}
"""What is kept of each line of a log: what hours and energy are counted from, and no message, node or folder."""
THUMBNAILS = ("thumbnails", "extremes", "extreme_classes")


def copy_run(run: Path, out: Path, thumbnails: bool, selects: Collection[str] = ()) -> int:
    """Copy a finished run's light part to `out/NAME` in place of what is there; returns its bytes.

    Args:
        run: its folder.
        out: the folder of the copy.
        thumbnails: whether environments keep their pictures.
        selects: whose predictions are copied besides those of the last epoch.
    """
    target = out / run.name
    shutil.rmtree(target, ignore_errors=True)
    patterns = dict.fromkeys([*LIGHT, *(f"preds/{select}/*.npz" for select in selects)])
    for path in (path for pattern in patterns for path in sorted(run.glob(pattern)) if path.is_file()):
        name = path.relative_to(run).as_posix()
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.name == "env" and not thumbnails:
            arrays: dict[str, Any] = arrays_of(path, str(path))
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **{name: array for name, array in arrays.items() if name not in THUMBNAILS})
            copy.write_bytes(buffer.getvalue())
        elif path.name == "recipe.yaml":
            copy.write_bytes(PLACES.sub(rb"\1\2: null", path.read_bytes()))
        elif path.name == "meta.json":
            copy.write_bytes(WORDS.sub(b"", path.read_bytes()))
        elif name in LOGS:
            copy.write_text(_kept(path.read_bytes(), LOGS[name]), encoding="utf-8", newline="\n")
        else:
            shutil.copyfile(path, copy)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def _kept(lines: bytes, keys: Collection[str]) -> str:
    """Return the lines of a log with these keys alone."""
    entries = ({key: line[key] for key in keys if key in line} for line in whole_lines(lines))
    return "".join(f"{json.dumps(entry)}\n" for entry in entries)


def copy_finished_runs(
    runs: Path, out: Path, thumbnails: Collection[str] = (), selects: Collection[str] = ()
) -> tuple[list[str], int]:
    """Copy the light part of every finished run in `runs`.

    Args:
        runs: the directory that holds the run folders.
        out: where the copies go, one folder a run.
        thumbnails: names of runs whose environments keep their pictures.
        selects: whose predictions are copied besides those of the last epoch: `best`.

    Returns:
        The runs' names and the bytes written.

    Raises:
        ValueError: a run of `thumbnails` is not there or not finished, there is no finished run at all, or a copy would
            replace its own run.
    """
    finished = sorted(path.parent for path in runs.glob("*/done") if is_run_name(path.parent.name))
    names = [run.name for run in finished]
    if not names:
        raise ValueError(f"runs={runs}: no finished run in it")
    if unknown := sorted(set(thumbnails) - set(names)):
        raise ValueError(f"thumbnails={unknown[0]}: no finished run of that name in {runs}")
    for run in finished:  # a copy begins by removing what is in its place
        if (target := out.resolve() / run.name).resolve() == run.resolve() or run.resolve() in target.resolve().parents:
            raise ValueError(
                f"out={out}: the copy of {run.name} would replace the run itself; legal is a folder other "
                f"than runs={runs}"
            )
    return names, sum(copy_run(run, out, run.name in thumbnails, selects) for run in finished)
