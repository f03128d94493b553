"""`check=nodes`: looks at nodes as a run does before its first step, and prints a table.

    python slurm/launch.py check=nodes nodes=2

On SLURM it is a short job that this command waits for. `cluster=local` does it with processes of this machine, each in
the place of a node. `check=FOLDER` prints the table of a job that had to wait in the queue for longer.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ifl.supervision.node_limits import VARIABLE, NodeLimits
from ifl.supervision.node_report import NodeReport, report_of
from recipes.common.addresses import free_port
from recipes.common.cli import nearest, split_word
from recipes.common.errors import DataError, RecipeError, UserError, one_line
from recipes.common.json_text import read_object
from recipes.layers import SiteValues
from recipes.resolve import merge, resolve
from recipes.schema import PROJECT, Recipe
from slurm import environment
from slurm.cluster.batch_job import BatchJob, require_sbatch, setup_lines
from slurm.cluster.origins import LAUNCHER, by_origin
from slurm.cluster.sbatch import asked, gpu_options
from slurm.cluster.sbatch_help import refuse_unknown
from slurm.cluster.submission import alone
from slurm.code_snapshot import place, running, snapshot_code
from slurm.monitoring.run_state import ENDED, queue
from slurm.nodes.table import is_fit, table
from slurm.site_file import Site
from slurm.starting.rank_start import folders_of, rank_start

LEGAL = ("check", "nodes", "tasks_per_node", "cluster", "runs", "data.cache_folder")
"""The words that go with check=, besides those of the slurm. section."""
RESULT, FOLDER, NAME = "nodes.json", ".check", "glt-check-nodes"
"""A look's file; the folder beside the runs in which each look has one; and what its job is called."""
AGAIN = "look again"
"""What to do about a damaged file."""
MINUTES = 5
"""The job's time limit."""
START_S, LOOK_S, SEEN_S = 120.0, 240.0, 30.0
"""How long the job may wait in the queue, and run; and how long its last file may stay unseen after it ended."""


@dataclass(frozen=True)
class CheckJob:
    """A rank of the look.

    Attributes:
        folder: where the result goes, in the shared folder.
        disk: a folder on the node's own disk; empty: where the node keeps temporary files.
        gpus: how many of a node were asked for.
    """

    folder: str
    disk: str
    gpus: int

    def __call__(self) -> NoReturn:
        """Look, and leave the process by `os._exit`, for others may wait in a collective."""
        code = 1
        try:
            self._look()
            code = 0
        except UserError as error:
            print(error, file=sys.stderr)
        except BaseException:  # whatever it was, it is printed and the process ends with a code
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def checkpoint(self) -> None:
        """Return nothing to submit, when submitit asks: a look is not made again."""
        return None

    def _look(self) -> None:
        from slurm.rendezvous import export_rank

        export_rank()
        import torch

        from ifl.distributed.comm import join
        from ifl.engine import is_first_on_node, local_rank, name_of, refuse_missing_gpus
        from ifl.supervision.node_look import NodeLook
        from ifl.supervision.node_report import NodeFault
        from recipes.common.files import write_json

        blind = []
        try:
            refuse_missing_gpus(self.gpus)
        except NodeFault as error:
            blind = list(error.faults.values())
        sees = torch.cuda.is_available() and not blind
        device = torch.device("cuda", local_rank() % torch.cuda.device_count()) if sees else torch.device("cpu")
        comm = join(LOOK_S)
        disk = Path(self.disk or tempfile.gettempdir())  # the node's, as in a run
        look = NodeLook(Path(self.folder), disk, running(), NodeLimits.of_environment())
        seen = look.own(device, name_of(device), is_first_on_node() or "GLT_NODE" in os.environ)
        seen.faults[:0] = blind
        reports = look.reports(comm, seen, device, torch.device("cpu"))
        writers = [rank for report in reports if report.folder for rank in report.ranks]
        if comm.rank in writers[:1]:
            write_json(Path(self.folder) / RESULT, {"nodes": [report.plain() for report in reports]})
        comm.gather_objects(None, "cpu")  # nobody leaves before it is there


@dataclass(frozen=True)
class NodeCheck:
    """A command with `check=nodes`.

    Attributes:
        recipe: says what the job asks SLURM for.
        folder: where the look is made.
        site: this machine's site file.
        origins: where the recipe's values come from, by their dotted keys.
    """

    recipe: Recipe
    folder: Path
    site: Site
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def job(self) -> CheckJob:
        """What each rank calls."""
        gpus = (self.recipe.slurm.gpus or 0) if self.recipe.cluster == "slurm" else 0
        return CheckJob(str(self.folder), self.recipe.data.cache_folder or "", gpus)

    def run(self) -> int:
        """Do what the command asks for; returns the exit code: 0 if all nodes are as they should be.

        Raises:
            RecipeError: SLURM is not on this machine, does not answer or refuses the job.
        """
        return MODES[self.recipe.cluster](self)


@dataclass(frozen=True)
class EarlierCheck:
    """A command with `check=FOLDER`."""

    folder: Path

    def run(self) -> int:
        """Print the table of a look that was made before; returns the exit code."""
        return _tell(self.folder)


def parse_command(words: Sequence[str], site: Site) -> NodeCheck | EarlierCheck:
    """Read a command with check=; nothing is written or started.

    Raises:
        RecipeError: a word that is not legal.
    """
    for word in words:
        key = split_word(word)[0]
        if key not in LEGAL and not key.startswith("slurm."):
            raise RecipeError(f"{key}= does not go with check=: {nearest(key, (*LEGAL, 'slurm.KEY'))}")
    what = dict(map(split_word, words))["check"]
    if what != "nodes":
        if not what or not (Path(what) / RESULT).is_file():
            raise RecipeError(f"check={what} is not legal: check=nodes looks at nodes, check=FOLDER shows a look again")
        if other := next((word for word in words if not word.startswith("check=")), None):
            raise RecipeError(f"{other} does not go with check={what}, which only shows a look again: leave it out")
        return EarlierCheck(Path(what))
    others = [word for word in words if not word.startswith("check=")]
    # Of the site file what is true of all runs: what stands in `for:` is for others.
    given = ["recipe=glt_baseline", *others]
    of_all = SiteValues(site.slurm.layers) if isinstance(site.slurm, SiteValues) else {}
    recipe = resolve(given, of_all)
    if recipe.cluster not in MODES:
        raise RecipeError(f"cluster={recipe.cluster} does not go with check=: {nearest(recipe.cluster, MODES)}")
    if recipe.cluster != "local":
        site.refuse_no_cluster()
        refuse_unknown(recipe.slurm.options)
    folder = recipe.run_folder.parent.absolute() / FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    return NodeCheck(recipe, folder, site, merge(given, of_all)[1])


# -------------------------------------------------------------------------------------------------------------- modes
def _show(check: NodeCheck) -> int:
    """Print the batch file: `cluster=dry`."""
    job = _job(check, place(check.folder.parents[1]))
    owned = dict.fromkeys(("slurm.time", "slurm.signal_delay_s"), LAUNCHER)
    said = [f"site file: {check.site.named(())}", *_remarks(check, job), *by_origin(job, {**check.origins, **owned})]
    print(*(f"# {line}\n" for line in said), sep="", end="")
    print(job.text())
    return 0


def _remarks(check: NodeCheck, job: BatchJob) -> list[str]:
    """Say what the user should know of the job: variables of the shell, and whether GPUs are looked at."""
    none = "slurm.gpus_per_node is not set, so the job asks for no GPU, and none is looked at (0 says so on purpose)"
    return [*environment.remarks(job.decided), *([none] if check.recipe.slurm.gpus is None else [])]


def _look_here(check: NodeCheck) -> int:
    """Look at this machine, with a process in the place of each rank: `cluster=local`."""
    tasks, port, job = check.recipe.tasks, free_port(), check.job
    check.folder.mkdir(parents=True, mode=0o700)
    limits = check.site.own.get("look") or NodeLimits()
    processes = []
    for rank in range(tasks):
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(tasks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLT_NODE": f"{platform.node()}-{rank}",
            "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // tasks)),
            VARIABLE: limits.text(),
        }
        words = [sys.executable, "-m", "slurm.cluster.node_check", job.folder, job.disk]
        with open(check.folder / f"rank-{rank}.log", "w") as log:
            processes.append(
                subprocess.Popen(words, cwd=PROJECT, env={**environment.clean(), **variables}, stdout=log, stderr=log)
            )
    try:
        deadline = time.monotonic() + LOOK_S
        while any(process.poll() is None for process in processes):
            if time.monotonic() > deadline or any(process.poll() for process in processes):
                time.sleep(1)  # the others may be about to say why, too
                break
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return _end(check.folder) if (check.folder / RESULT).exists() else _without_table(check.folder, "the ranks ended")


def _job(check: NodeCheck, code: Path) -> BatchJob:
    recipe = check.recipe
    site = check.site
    start = rank_start(site.own, code, [str(check.folder), *folders_of(recipe)])
    parameters = {
        **asked(recipe.slurm, start),
        "job_name": NAME,
        "nodes": recipe.nodes,
        "ntasks_per_node": recipe.tasks // recipe.nodes,
        "time": MINUTES,
        "signal_delay_s": 30,
        "additional_parameters": {"no_requeue": True, **recipe.slurm.options},
        "setup": [*setup_lines(recipe.slurm.modules, site.setup, code), *start.lines],
        **({"gpus_per_node": recipe.slurm.gpus_per_node} if recipe.slurm.gpus_per_node else {}),
    }
    return BatchJob(check.folder, (check.job,), parameters, gpu_options(recipe.slurm), start.rank)


def _submit(check: NodeCheck) -> int:
    """Look by a job, and wait for it: `cluster=slurm`."""
    require_sbatch()
    runs = check.folder.parents[1]
    with alone(runs):  # or tidy=yes could remove the copy of the code before it sees the job
        check.folder.mkdir(parents=True, mode=0o700)
        asked_for = _job(check, snapshot_code(runs))
        print(*(f"{line}\n" for line in _remarks(check, asked_for)), sep="", end="", file=sys.stderr, flush=True)
        job = asked_for.submit()
    if job is None:
        raise RecipeError(f"SLURM took the look and does not tell its job's id (squeue); its folder is {check.folder}")
    print(f"job {job} looks at {check.recipe.nodes} nodes", flush=True)
    try:
        return _wait(check.folder, job)
    except KeyboardInterrupt:
        subprocess.run(["scancel", job], env=environment.clean(), capture_output=True)
        print(f"job {job} is being cancelled", file=sys.stderr)
        return 130


def _wait(folder: Path, job: str) -> int:
    """Wait for the job's table; returns the exit code."""
    began, ran, ended = time.monotonic(), 0.0, 0.0
    while True:
        now = time.monotonic()
        if (folder / RESULT).exists():
            return _end(folder)
        jobs = queue()
        state = "unknown" if jobs is None else jobs[job].state if job in jobs else "gone"
        if state in (*ENDED, "gone"):
            ended = ended or now
        elif state == "RUNNING":
            ran = ran or now
        if ended and now - ended > SEEN_S:
            return _without_table(folder, f"job {job} ended as {state}")
        waited = now - (ran or began)
        if not ended and waited > (LOOK_S if ran else START_S):
            print(
                f"job {job} is {state} after {waited:.0f} s ({_reason(job)}): `squeue -j {job}` shows what it does, "
                f"`python slurm/launch.py check={shlex.quote(str(folder))}` its table once it is there, and `scancel "
                f"{job}` ends it",
                file=sys.stderr,
            )
            return 1
        time.sleep(1)


def _reason(job: str) -> str:
    """Return why a job waits, in SLURM's word."""
    words = ["squeue", "-h", "-j", job, "-o", "%r"]
    said = subprocess.run(words, env=environment.clean(), capture_output=True, text=True).stdout.strip()
    return said if said not in ("", "None") else "no reason is told"


def _end(folder: Path) -> int:
    """Print the table of a look that this command made; its folder goes where all is well. Returns the exit code."""
    code = _tell(folder)
    if code == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _tell(folder: Path) -> int:
    """Print the table that a look has left; returns the exit code.

    Raises:
        DataError: the file is damaged.
    """
    reports = _reports(folder / RESULT)
    print(table(reports), flush=True)
    return 0 if all(map(is_fit, reports)) else 1


def _reports(path: Path) -> list[NodeReport]:
    values = read_object(path, {"nodes": list}, AGAIN)["nodes"]
    try:
        reports = [report_of(node) for node in values]
    except ValueError as error:
        raise DataError(one_line(f"{path} is damaged ({error}); {AGAIN}")) from None
    if not reports:
        raise DataError(f"{path} is damaged (it holds no node); {AGAIN}")
    return reports


def _without_table(folder: Path, what: str) -> int:
    """Say that there is no table, and what the ranks said last; returns the exit code."""
    print(f"{what} and left no table; what its ranks said is in {folder}:", file=sys.stderr)
    for log in sorted([*folder.glob("*.log"), *folder.glob("*.err")]):
        said = log.read_text(errors="replace").splitlines()
        print(*(f"{log.name}: {line}" for line in said[-5:]), sep="\n", file=sys.stderr)
    return 1


MODES = {"dry": _show, "local": _look_here, "slurm": _submit}
"""Where a look can be made."""


if __name__ == "__main__":
    CheckJob(sys.argv[1], sys.argv[2], 0)()
