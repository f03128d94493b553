"""`cluster=here`: runs on nodes that the user holds already, by salloc or an interactive job; srun starts them at once.

Queue, view, lock and signals are those of runs on this machine (slurm/local); only what starts a run's ranks differs.
A run is a step of the allocation. Its ranks run the project itself and not a copy: what is edited counts for the next
start. They see by their standard input, which srun hands on, that the launcher has ended.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from tqdm import tqdm

from ifl.supervision.signals import LAUNCHER
from recipes.common import search_path
from recipes.common.addresses import with_command
from recipes.common.errors import RecipeError
from recipes.common.files import write_whole
from recipes.schema import PROJECT, Recipe, Slurm
from slurm import environment
from slurm.cluster.batch_job import setup_lines
from slurm.cluster.sbatch import step_gpus, threads
from slurm.evaluator import LOG as EVALUATOR_LOG
from slurm.job import FAILED, FINISHED, STOPPED
from slurm.local.process_group import LocalRun, blocked, goes_on
from slurm.local.progress import Begin
from slurm.monitoring.events import HELD, read
from slurm.monitoring.failure import why
from slurm.planning.schedule import Run
from slurm.site_file import Site
from slurm.starting.lacking_node import ends
from slurm.starting.rank_start import folders_of, rank_start

NO_STEP_FROM = 0xFFFFFFF0
"""Ids of steps that hold nothing of their job, such as the one in which some sites run the shell of salloc."""
SILENT_S = 15.0
"""After so long without a word of rank 0 the user is told that the step waits."""
KILLED_S = 15.0
"""How long srun may take to end a step at once."""


@dataclass(frozen=True)
class Allocation:
    """The allocation that this shell is in.

    Attributes:
        job: its id.
        nodes: how many nodes it has, and `node_list` their names as SLURM writes them.
        cpus: CPUs of the node that has fewest; None where SLURM does not say.
        within_step: whether this shell itself is a step that holds them, as under `srun --pty bash`.
    """

    job: str
    nodes: int
    node_list: str
    cpus: int | None
    within_step: bool


def held(variables: Mapping[str, str]) -> Allocation:
    """Return the allocation that a shell with these variables is in.

    Raises:
        RecipeError: it is in none, or SLURM does not know it as running.
    """
    job = variables.get("SLURM_JOB_ID", "")
    if not job:
        raise RecipeError(
            "cluster=here runs in an allocation, and this shell is in none: `salloc` or an interactive job gives one; "
            "cluster=slurm submits a job and cluster=local runs on this machine"
        )
    try:
        told = environment.ask(["scontrol", "show", "job", "-o", job], 60)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        raise RecipeError(
            f"cluster=here: SLURM does not answer (scontrol), so nothing was started in job {job}"
        ) from None
    said = environment.facts(told.stdout)
    if said.get("JobState") != "RUNNING":
        state = said.get("JobState") or (told.stderr.strip().splitlines() or ["unknown"])[-1]
        raise RecipeError(
            f"cluster=here: the allocation of this shell, job {job}, is over or not there yet ({state}): ask for "
            "another by salloc, and the same command goes on in it"
        )
    counts = [int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?", variables.get("SLURM_JOB_CPUS_PER_NODE", ""))]
    step = variables.get("SLURM_STEP_ID", "")
    return Allocation(
        job,
        int(said["NumNodes"].partition("-")[0]),
        said["NodeList"],
        min(counts, default=None),
        step.isdecimal() and int(step) < NO_STEP_FROM,
    )


def beginner(runs: Sequence[Run], site: Site) -> Begin:
    """Return what starts a run in this shell's allocation.

    Raises:
        RecipeError: there is no allocation, or a run does not fit into it.
    """
    allocation = held(os.environ)
    for run in runs:
        _refuse_unfitting(run.recipe, allocation)
    return functools.partial(HeldRun, site=site, allocation=allocation)


def _refuse_unfitting(recipe: Recipe, allocation: Allocation) -> None:
    if recipe.nodes > allocation.nodes:
        raise RecipeError(
            f"nodes={recipe.nodes} is more than the allocation has, job {allocation.job} with {allocation.nodes}: at "
            f"most nodes={allocation.nodes} is legal here"
        )
    tasks, cpus = recipe.tasks // recipe.nodes, allocation.cpus
    if cpus is not None and tasks * recipe.slurm.cpus_per_task > cpus:
        most = f"slurm.cpus_per_task={cpus // tasks}" if tasks <= cpus else f"tasks_per_node={cpus}"
        raise RecipeError(
            f"{tasks} tasks a node with slurm.cpus_per_task={recipe.slurm.cpus_per_task} need more than the {cpus} "
            f"CPUs that job {allocation.job} has on a node: at most {most} is legal here"
        )


def step_script(run: Run, site: Site, allocation: Allocation) -> str:
    """Return the shell script that starts a run's ranks: modules and setup as in a job, then srun in its place."""
    recipe = run.recipe
    srun = [
        f"--job-name={recipe.run_name}",
        *(f"--nodes={recipe.nodes}", f"--ntasks={recipe.tasks}", f"--ntasks-per-node={recipe.tasks // recipe.nodes}"),
        # Each step has cores and GPUs of its own, so that several commands share the allocation, and one more waits.
        # In a step that holds them all (srun --pty bash), nothing is ever free, so a step shares them.
        "--overlap" if allocation.within_step else "--exact",
        *_gpus(recipe.slurm),
        f"--output={run.folder}/log/rank-%t.log",
    ]
    return _script(run, site.for_run(recipe), allocation, srun, ["slurm.job", str(run.folder), *run.command])


def evaluator_script(run: Run, site: Site, allocation: Allocation) -> str:
    """Return the script of a run's evaluator: a step of one task, which shares cores and a GPU with the ranks."""
    recipe = run.recipe
    srun = [
        *(f"--job-name={recipe.run_name}.eval", "--nodes=1", "--ntasks=1", "--overlap"),
        *(*_gpus(recipe.slurm.share(recipe.tasks // recipe.nodes)), f"--output={run.folder}/log/{EVALUATOR_LOG}"),
    ]
    return _script(
        run, site.for_evaluator(recipe), allocation, srun, ["ifl.evaluation", str(run.folder)], threads(recipe.slurm)
    )


def _gpus(slurm: Slurm) -> Sequence[str]:
    return step_gpus(slurm) or ([] if slurm.gpus is None else ["--gres=none"])


def _script(
    run: Run, site: Site, allocation: Allocation, srun: Sequence[str], words: Sequence[str], lines: Sequence[str] = ()
) -> str:
    """Return a shell script that starts a step.

    Args:
        run: the run.
        site: what this machine's site file says for the step.
        allocation: where it starts.
        srun: what srun is told, besides what every step is.
        words: the module that a task runs, and its arguments.
        lines: further shell lines before it.
    """
    recipe = run.recipe
    start = rank_start(site.own, PROJECT, [*folders_of(recipe), *map(str, search_path.folders())])
    told = [
        *("srun", f"--jobid={allocation.job}", *srun, f"--cpus-per-task={recipe.slurm.cpus_per_task}", "--mem=0"),
        *("-K1", "--quit-on-interrupt", "--export=ALL", "--unbuffered", "--open-mode=append", *start.srun),
    ]
    return "\n".join(
        [
            "#!/bin/bash",
            f"export {HELD}={allocation.job} SLURM_JOB_NODELIST={shlex.quote(allocation.node_list)}",
            "export SUBMITIT_EXECUTOR=slurm PYTHONUNBUFFERED=1",
            *ends(),
            *setup_lines(recipe.slurm.modules, site.setup, PROJECT, search_path.folders()),
            *start.lines,
            *lines,
            f"exec {shlex.join(told)} {start.rank} {shlex.join(['-m', *words])}",
            "",
        ]
    )


class HeldRun(LocalRun):
    """A run under way in an allocation; `log/here.sh` is what started it, and srun's words are in `log/here.log`."""

    def __init__(self, run: Run, cores: int, bar: Callable[[], tqdm], *, site: Site, allocation: Allocation) -> None:
        """Start its ranks; for the other arguments see `LocalRun`, whose errors are raised."""
        self._site, self._allocation = site, allocation
        self._said, self._asked = run.folder / "log" / "here.log", False
        self._silent_until: float | None = time.monotonic() + SILENT_S
        super().__init__(run, cores, bar)

    def _begin(self) -> list[subprocess.Popen[bytes]]:
        (self.folder / "log").mkdir(exist_ok=True)
        self._before, self._rank_began = len(read(self.folder)), self._rank_said()
        text = step_script(self.run, self._site, self._allocation)
        # A launcher that is killed leaves the lock to srun.
        with open(self._said, "w") as said:
            return [self._step("here.sh", text, said, [self._lock.fileno()])]

    def _begin_evaluator(self) -> subprocess.Popen[bytes]:
        text = evaluator_script(self.run, self._site, self._allocation)
        with open(self.folder / "log" / EVALUATOR_LOG, "a") as said:
            return self._step("here-evaluator.sh", text, said, [])

    def _step(self, name: str, text: str, said: IO[str], files: Sequence[int]) -> subprocess.Popen[bytes]:
        """Write a script of srun's to log/ and start it; what srun says goes to a file."""
        script = self.folder / "log" / name
        write_whole(script, text)
        variables = {**with_command(environment.clean(), self.run.pipe), LAUNCHER: "0"}  # it is their standard input
        with blocked():
            return subprocess.Popen(
                ["bash", str(script)],
                cwd=PROJECT,
                env=variables,
                stdin=self._ended,
                stdout=said,
                stderr=said,
                pass_fds=files,
                process_group=0,
            )

    def stop(self) -> None:
        """Ask all ranks to save and leave; a step that still waits for its cores is given up."""
        self._asked = True
        super().stop()

    def pause(self, paused: bool) -> None:
        """Let the ranks go on: a step's processes are SLURM's to stop, and only the view of them pauses."""

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """End the step: srun does on SIGINT, and would leave the ranks behind if it were killed."""
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILLED_S)
            return
        process.kill()

    def _draw(self) -> None:
        super()._draw()
        if self._silent_until is not None and time.monotonic() > self._silent_until:
            self._silent_until = None
            if self._rank_said() == self._rank_began:
                job = self._allocation.job
                self.bar.write(
                    f"{self.folder.name} waits: no rank has begun, and other steps may have the cores or GPUs of job "
                    f"{job} (squeue --steps --jobs={job} lists them)"
                )

    def _rank_said(self) -> int:
        """Return how much rank 0 has ever written, bytes; srun itself says late that it waits."""
        log = self.folder / "log" / "rank-0.log"
        return log.stat().st_size if log.exists() else 0

    def _verdict(self, codes: list[int | None]) -> int:
        """Return the run's exit code from srun's, which is the highest of the ranks', and from what they noted."""
        noted = [event["event"] for event in read(self.folder)[self._before :]]
        if codes == [FINISHED]:
            return FINISHED
        if codes == [STOPPED] or (noted and noted[-1] == "stopped") or (self._asked and not noted):
            return self._has_stopped()
        self.bar.leave = False
        ends = [line for line in self._said.read_text(errors="replace").splitlines() if line.strip()][-15:]
        said = f"srun ended with {codes[0]}; {goes_on(self.run)}. The end of {self._said}:"
        reason = [why(self.folder)] if "start" in noted or "failed" in noted else []
        self.bar.write("\n".join([said, *ends, *reason]), file=sys.stderr)
        return FAILED
