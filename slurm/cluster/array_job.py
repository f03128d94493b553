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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.common.files import sync_folder, write_json
from slurm.cluster.batch_job import BatchJob, link_line
from slurm.cluster.needs import NEEDS
from slurm.cluster.packed import OVER
from slurm.cluster.sbatch import AWAITED, begins_evaluator, done_guard, gpu_options, parameters, step_gpus
from slurm.job import TrainJob
from slurm.monitoring.run_state import ARRAYS, Job, is_in
from slurm.nodes import site_limits
from slurm.planning.arrays import Array, numbers_text
from slurm.starting.interpreter import PYTHON
from slurm.starting.lacking_node import comes_back
from slurm.starting.rank_start import folders_of, rank_start

JOB = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"


@dataclass(frozen=True)
class ArrayJob(BatchJob):
    """Runs as a job array; `folder` is `.arrays/NAME`, and `calls` are those of the elements that are submitted.

    Attributes:
        runs: the run folders of the calls.
        has_needs: whether some of the runs need another to be finished.
        outside: shell words that start the Python of what the batch script runs itself.
    """

    runs: tuple[Path, ...] = ()
    has_needs: bool = False
    outside: str = PYTHON

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
        """Return the lines that find the run, those of every run, and those that find need and pickle."""
        return [*self.find_run("0"), *self.lacks, *self.parameters["setup"], *self.before_ranks()]

    def find_run(self, place: str) -> list[str]:
        """Return the shell lines that find the run of this element at a place, a number or a shell's word."""
        link = f'{shlex.quote(str(self.folder))}/"$SLURM_ARRAY_TASK_ID"/{place}'
        return [
            f"name=$(readlink {link}) && name=${{name##*/}} || exit 1",
            f'run={shlex.quote(str(self.folder.parents[1]))}/"$name"',
            'log="$run/log"',
        ]

    def before_ranks(self) -> list[str]:
        """Return the shell lines of a run just before its ranks start."""
        needs = [f'{self.outside} -m slurm.cluster.needs "$run" || exit 0'] if self.has_needs else []
        return [*needs, link_line(JOB, "$name.pkl"), *self.last]

    def holds(self, job: Job) -> bool:
        return any(is_in(run / "log", job) for run in self.runs)


@dataclass(frozen=True)
class PackedJob(ArrayJob):
    """Runs as a job array of which each element makes several, side by side: each is a step of its own.

    A run has its share of cores and GPUs, its own log and verdict; what becomes of the job is decided for all of them
    when the last has ended (slurm/cluster/packed.py).

    Attributes:
        tasks: processes of a run.
        gpus: srun's arguments for the GPUs of a run.
        guard: the shell line by which a finished run leaves.
    """

    tasks: int = 1
    gpus: tuple[str, ...] = ()
    guard: str = ""

    @property
    def logs(self) -> Path:
        return self.folder / "%a"

    def setup(self) -> list[str]:
        """Return what is set up once for all, and the beginning of what is done for each run."""
        return [
            f'run={shlex.quote(str(self.folder))}/"$SLURM_ARRAY_TASK_ID"',
            *self.lacks,
            *self.parameters["setup"],
            "one() (  # the run at place $1",
            *self.find_run('"$1"'),
            f'exec >> "$log/{JOB}_0_log.out" 2>> "$log/{JOB}_0_log.err"',
            self.guard,
            f'[ ! -e "$log/{JOB}{OVER}" ] || exit 0  # it has given up in an earlier start',
            *self.before_ranks(),
        ]

    def command(self) -> str:
        """Return the step of a run: of its share, which no other step takes, and of the job's memory, which all do."""
        share = ["--exact", "--mem=0", "--nodes=1", f"--ntasks={self.tasks}", f"--ntasks-per-node={self.tasks}"]
        return " ".join(
            [
                'srun --unbuffered --open-mode=append --output "$log/%A_%a_%t_log.out" --error "$log/%A_%a_%t_log.err"',
                *map(shlex.quote, [*self.parameters["srun_args"], *share, *self.gpus]),
                f'{self.python} -u -m submitit.core._submit "$log"',
            ]
        )


def array_job(
    array: Array,
    code: Path,
    setup: Sequence[str] = (),
    dependency: str | None = None,
    own: Mapping[str, Any] | None = None,
) -> ArrayJob:
    """Return the job of several runs; for the other arguments see `sbatch.batch_job`."""
    recipe = array.runs[0].recipe
    start = rank_start(own or {}, code, folders_of(recipe))
    given = parameters(recipe, None, code, setup, dependency, start=start)
    throttle = f"%{array.at_once}" if array.at_once else ""
    given["job_name"] = array_name(array)
    given["additional_parameters"] = {**given["additional_parameters"], "array": numbers_text(array.numbers) + throttle}
    folder, pack = recipe.run_folder.parent / ARRAYS / given["job_name"], array.pack
    common: dict[str, Any] = {
        "folder": folder,
        "calls": tuple(TrainJob(str(run.folder), run.command) for run in array.runs),
        "options": gpu_options(recipe.slurm),
        "python": start.rank,
        "last": begins_evaluator(recipe, None, start),
        "runs": tuple(run.folder for run in array.runs),
        "has_needs": any(run.needs for run in array.runs),
        "outside": start.outside,
    }
    if pack == 1:
        lacks = comes_back('slurm.cluster.requeue "$run" lacking', '"$run"', JOB, code, start.outside)
        return ArrayJob(parameters=given, **common, lacks=lacks)
    slurm = recipe.slurm.with_gpus(pack * (recipe.slurm.gpus or 0))
    given["additional_parameters"] |= slurm.options
    if slurm.gpus_per_node:
        given["gpus_per_node"] = slurm.gpus_per_node
    guard = done_guard('"$run"', code, start)  # each run's, and all else is done once
    lines = [line for line in given["setup"] if line != guard]
    if look := (own or {}).get("look"):  # packed runs measure a disk side by side
        lines += site_limits.exported(look._replace(folder_mb_s=None, disk_mb_s=None))
    packed = {**given, "setup": lines, "use_srun": False, "ntasks_per_node": pack * recipe.tasks}
    element, awaited = f'{shlex.quote(str(folder))}/"$SLURM_ARRAY_TASK_ID"', [AWAITED] * recipe.has_evaluator
    packed["teardown"] = _teardown(element, start.outside, awaited)
    lacks = comes_back(f"slurm.cluster.packed lacking {element}", f"{element}/[0-9]*", JOB, code, start.outside)
    return PackedJob(
        parameters=packed, **common, tasks=recipe.tasks, gpus=step_gpus(recipe.slurm), guard=guard, lacks=lacks
    )


def _teardown(element: str, python: str, awaited: Sequence[str]) -> list[str]:
    """Return the shell lines that start each run of a packed job, wait, and decide for all."""
    return [
        "code=$?",
        *awaited,
        f'{python} -m slurm.cluster.packed run "$run" $code',
        ")",
        f'for link in {element}/[0-9]*; do [ ! -L "$link" ] || one "${{link##*/}}" & done',
        "wait",
        "trap : TERM",
        f"{python} -m slurm.cluster.packed job {element}",
    ]


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
