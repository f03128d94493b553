"""Several runs as one job array: each element works in its own run folder, and comes back as itself.

Which element makes which run is on disk before SLURM hears of the array: `runs/.arrays/NAME/3/0` is a link to the run
that element 3 makes. The batch script finds its run by it, SLURM writes the logs through it into the run folder, and
the status command finds a run's job by it. NAME holds a digest of the whole list, so a list never changes under its
name.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.common.files import sync_folder, write_json
from slurm.cluster.batch_job import PYTHON, BatchJob, link_line
from slurm.cluster.needs import NEEDS
from slurm.cluster.sbatch import parameters
from slurm.job import TrainJob
from slurm.monitoring.run_state import ARRAYS, Job, is_in
from slurm.planning.arrays import Array, numbers_text


@dataclass(frozen=True)
class ArrayJob(BatchJob):
    """Runs as a job array; `folder` is `.arrays/NAME`, and `calls` are those of the elements that are submitted.

    Attributes:
        runs: the run folders of the calls.
        array: the elements that are submitted and how many of them at once, as sbatch takes it.
    """

    runs: tuple[Path, ...] = ()
    array: str = ""

    @property
    def is_array(self) -> bool:
        return True

    @property
    def logs(self) -> Path:
        return self.folder / "%a" / "0" / "log"

    @property
    def pickles(self) -> dict[Path, Any]:
        return {run / "log" / f"{run.name}.pkl": call for run, call in zip(self.runs, self.calls, strict=True)}

    def setup(self) -> list[str]:
        """Return the lines that find the run, those of every run, and the one that finds the pickle."""
        element = f'{shlex.quote(str(self.folder))}/"$SLURM_ARRAY_TASK_ID"/0'
        return [
            f"name=$(readlink {element}) && name=${{name##*/}} || exit 1",
            f'run={shlex.quote(str(self.folder.parents[1]))}/"$name"',
            *self.parameters["setup"],
            'log="$run/log"',
            link_line("${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}", "$name.pkl"),
        ]

    def holds(self, job: Job) -> bool:
        return any(is_in(run / "log", job) for run in self.runs)


def array_job(array: Array, code: Path, setup: tuple[str, ...] = (), dependency: str | None = None) -> ArrayJob:
    """Return the job of several runs; for the other arguments see `sbatch.parameters`."""
    first = array.runs[0]
    given = parameters(first.recipe, None, code, setup, dependency)
    if any(run.needs for run in array.runs):
        given["setup"] = [*given["setup"], f'{PYTHON} -m slurm.cluster.needs "$run" || exit 0']
    throttle = f"%{array.at_once}" if array.at_once else ""
    given |= {"job_name": array_name(array)}
    given["additional_parameters"] = {
        **given["additional_parameters"],
        "array": numbers_text(array.numbers) + throttle,
    }
    return ArrayJob(
        first.folder.parent / ARRAYS / given["job_name"],
        tuple(TrainJob(str(run.folder), run.command) for run in array.runs),
        given,
        () if first.recipe.slurm.gpus_per_node is None else ("gpus_per_node",),
        tuple(run.folder for run in array.runs),
        given["additional_parameters"]["array"],
    )


def array_name(array: Array) -> str:
    """Return a name that says what and how many runs these are, and which by a digest of the whole list."""
    names = [[run.folder.name for run in element] for element in array.elements]
    recipes = {run.recipe.recipe for element in array.elements for run in element}
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]
    return f"{recipes.pop() if len(recipes) == 1 else 'runs'}-x{sum(map(len, names))}-{digest}"


def write_elements(array: Array, folder: Path) -> None:
    """Write which element makes which run, as a whole or not at all, and beside each run what it needs.

    Args:
        array: the elements, those that are not submitted now too.
        folder: `runs/.arrays/NAME`.
    """
    for run in array.runs:
        if run.needs:
            write_json(run.folder / "log" / NEEDS, {"needs": [str(need) for need in run.needs]})
    if folder.exists():
        return
    folder.parent.mkdir(exist_ok=True, mode=0o700)
    unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        for number, element in enumerate(array.elements):
            own = unfinished / str(number)
            own.mkdir(parents=True)
            for place, run in enumerate(element):
                (own / str(place)).symlink_to(Path("..", "..", "..", run.folder.name))
        sync_folder(unfinished)
        os.rename(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
