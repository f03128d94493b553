"""`build=NAME`: a data set's shards, built on SLURM stage after stage, a stage's parts side by side as a job array.

    python slurm/launch.py build=imagenet_glt tasks=16 source=... out=...

Each stage is a job that starts when all of the one before has ended, and refuses where that one left something out.
The words are those of `python -m sharding.build`, and what comes out has the same bytes. A job that is preempted,
killed or out of time starts again by itself and keeps what its shards' records vouch for. `cluster=local` does the same
stages and parts here, one after another.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recipes.common.cli import nearest, split_word, take_words
from recipes.common.errors import RecipeError
from recipes.resolve import merge, resolve
from recipes.schema import Slurm
from sharding.building.packing import WORK
from sharding.building.request import SAMPLES, builder_of, parse, stages_of
from sharding.building.samples_words import READ, absolute
from slurm import environment
from slurm.cluster.batch_job import BatchJob, require_sbatch, setup_lines
from slurm.cluster.origins import LAUNCHER, by_origin
from slurm.cluster.sbatch import asked, gpu_options
from slurm.cluster.sbatch_help import refuse_unknown
from slurm.cluster.submission import alone
from slurm.code_snapshot import place, snapshot_code
from slurm.monitoring.run_state import ENDED, is_in, queue
from slurm.site_file import Site
from slurm.starting.rank_start import rank_start

CLUSTERS = ("slurm", "local", "dry")


@dataclass(frozen=True)
class BuildJob:
    """One part of one stage. The pickle carries only the command's words: what is done already is found on disk."""

    words: tuple[str, ...]

    def __call__(self) -> None:
        """Run it, and leave the process with its exit code unless that is 0: a failed stage is a failed job."""
        from sharding.build import main

        if code := main(self.words):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def checkpoint(self) -> Any:
        """Return what to submit when the time limit comes near, as submitit asks: the same words again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class Stage:
    """A stage of a build.

    Attributes:
        name: what it is called.
        parts: its words, one tuple for each part.
        slurm: what its job asks for.
        origins: where that comes from, by the dotted keys of a recipe.
        site: what this machine's site file says for it.
    """

    name: str
    parts: tuple[tuple[str, ...], ...]
    slurm: Slurm = field(default_factory=Slurm)
    origins: Mapping[str, str] = field(default_factory=dict)
    site: Site = field(default_factory=Site)


@dataclass(frozen=True)
class Build:
    """A command with `build=`.

    Attributes:
        name: the data set.
        plan: the stages, in their order.
        cluster: where they run: slurm, local or dry.
        work: the folder that the stages leave their work in.
    """

    name: str
    plan: tuple[Stage, ...]
    cluster: str
    work: Path

    @property
    def words(self) -> list[str]:
        """The words of the whole build, without stages and parts."""
        return [word for word in self.plan[0].parts[0] if not word.startswith(("stage=", "part="))]

    def run(self) -> int:
        """Do what the command asks for; returns the exit code.

        Raises:
            RecipeError: SLURM is not on this machine, does not answer or refuses a job.
        """
        return {"dry": _show, "local": _run_here, "slurm": _submit}[self.cluster](self)


def stages(words: Sequence[str], tasks: int) -> list[Stage]:
    """List the stages of a build in their order.

    Args:
        words: those of `sharding.build`, with data=.
        tasks: the number of parts of a stage that can be split.
    """
    found = []
    for name, in_parts in stages_of(words).items():
        parts = [f"part={i}/{tasks}" for i in range(1, tasks + 1)] if in_parts and tasks > 1 else []
        of_stage = (*words, f"stage={name}")
        found.append(Stage(name, tuple((*of_stage, part) for part in parts) or (of_stage,)))
    return found


def parse_command(words: Sequence[str], site: Site) -> Build:
    """Read a command with build=; nothing is written or started.

    Raises:
        RecipeError: a word that is not legal.
        DataError: a word of `sharding.build` that is not legal.
    """
    ours, others = take_words(words, ("build", "tasks", "cluster"))
    slurm_words = [word for word in others if word.startswith("slurm.")]
    rest = [word for word in others if word not in slurm_words]
    cluster, tasks = ours.get("cluster", "slurm"), ours.get("tasks", "1")
    if cluster not in CLUSTERS:
        raise RecipeError(f"cluster={cluster} is not legal; {nearest(cluster, CLUSTERS)}")
    if not re.fullmatch(r"[1-9][0-9]{0,3}", tasks):
        raise RecipeError(
            f"tasks={tasks} is not legal: it is the number of parts that are worked on at once, 1 to 9999"
        )
    if taken := next((word for word in rest if word.startswith(("data=", "stage=", "part="))), None):
        raise RecipeError(
            f"{taken} and build= do not go together: build=NAME names the data set, and its stages and parts are the "
            "jobs"
        )
    if cluster != "local":
        site.refuse_no_cluster()
    _asked(slurm_words, site.for_build())
    given = [f"data={ours['build']}", *rest]
    name, request = parse(given)
    if not stages_of(given):
        raise RecipeError(f"build={name} has no stages, it takes seconds: python -m sharding.build {shlex.join(given)}")
    plan = []
    for stage in stages(_absolute(given), int(tasks)):
        own = site.for_build(stage.name)
        slurm, origins = _asked(slurm_words, own)
        parts = stage.parts
        if cluster != "local":
            refuse_unknown(slurm.options)
            if not any(word.startswith("workers=") for word in given):  # a job may see more cores than are its own
                parts = tuple((*part, f"workers={slurm.cpus_per_task}") for part in parts)
        plan.append(replace(stage, parts=parts, slurm=slurm, origins=origins, site=own))
    return Build(name, tuple(plan), cluster, request.out.absolute() / name / WORK)


def _asked(words: Sequence[str], site: Site) -> tuple[Slurm, dict[str, str]]:
    """Return what the jobs of a stage ask for, and where that comes from."""
    command = ["recipe=glt_baseline", *words]
    origins = merge(command, site.slurm, str(site.path))[1]
    return resolve(command, site.slurm, str(site.path)).slurm, origins


def _show(build: Build) -> int:
    """Print each stage's command and batch file: `cluster=dry`."""
    after = None
    site = f"site file: {build.plan[0].site.named(())}"
    print(*(f"# {line}\n" for line in (site, *_remarks(build))), sep="", end="")
    for stage in build.plan:
        print(f"# {stage.name}: {len(stage.parts)} x python -m sharding.build {shlex.join(stage.parts[0])}")
        job = _job(build, stage, place(build.work), after)
        origins = {**stage.origins, "nodes": LAUNCHER, "tasks_per_node": LAUNCHER}
        print(*(f"# {line}" for line in by_origin(job, origins)), job.text(), sep="\n")
        after = f"JOB_OF_{stage.name.upper()}"
    return 0


def _run_here(build: Build) -> int:
    """Build one part after the other, up to the first that fails: `cluster=local`."""
    from sharding.build import is_there, main

    if is_there(build.words):
        return 0
    return next((code for stage in build.plan for part in stage.parts if (code := main(part))), 0)


def _absolute(words: Sequence[str]) -> list[str]:
    """Make the words' paths absolute: a job starts in another folder."""

    of_samples = builder_of(dict(map(split_word, words))) == SAMPLES

    def one(word: str) -> str:
        key, value = split_word(word)
        if of_samples and key in READ:
            return f"{key}={absolute(key, value)}"
        if key in ("out", "source", "weights", "attributes", "preview"):
            return f"{key}={Path(value).absolute()}"
        if key == "annotation":
            return f"{key}={','.join(str(Path(path).absolute()) for path in value.split(','))}"
        return word

    return [one(word) for word in words]


def _job(build: Build, stage: Stage, code: Path, after: str | None) -> BatchJob:
    """Return a stage's job; only a stage called features asks for a GPU, and for one."""
    work, asked_for = build.work, stage.slurm
    start = rank_start(stage.site.own, code, _folders(build))
    slurm = asked_for.on_one_node().with_gpus(1 if stage.name == "features" and asked_for.gpus else 0)
    optional = {"gpus_per_node": slurm.gpus_per_node, "dependency": f"afterany:{after}" if after else None}
    parameters = {
        **asked(slurm, start),
        "job_name": f"build-{build.name}-{stage.name}",
        "nodes": 1,
        "ntasks_per_node": 1,
        "setup": [*setup_lines(slurm.modules, stage.site.setup, code), *start.lines],
        **{key: value for key, value in optional.items() if value},
    }
    decided = gpu_options(asked_for)
    return BatchJob(work / "log", tuple(map(BuildJob, stage.parts)), parameters, decided, start.rank)


def _folders(build: Build) -> list[str]:
    """Return what a container of the build must see: the folders that its words name, and those of files they name."""
    values = [part for word in build.plan[0].parts[0] for part in split_word(word)[1].split(",")]
    named = [Path(value) for value in values if value.startswith("/")]
    around = [path if path.is_dir() or path.parent == Path("/") else path.parent for path in named]
    return [str(build.work.parent.parent), *map(str, around)]


def _submit(build: Build) -> int:
    """Submit all stages, each after the one before, unless they are in the queue already: `cluster=slurm`."""
    require_sbatch()
    build.work.mkdir(parents=True, exist_ok=True)
    with alone(build.work):
        return _submit_stages(build)


def _submit_stages(build: Build) -> int:
    from sharding.build import is_there

    name, work = build.name, build.work
    if live := _in_the_queue(build):
        print(f"build={name} is in the queue already (jobs {', '.join(live)}): nothing to do")
        return 0
    if is_there(build.words):
        return 0
    code = snapshot_code(work)
    (work / "log").mkdir(exist_ok=True)
    print(*_remarks(build), f"logs: {work / 'log'}", sep="\n", flush=True)
    jobs: list[str] = []
    for stage in build.plan:
        before = f"the stages before it are in the queue: scancel {' '.join(jobs)}" if jobs else "nothing was submitted"
        try:
            job = _job(build, stage, code, jobs[-1] if jobs else None).submit()
        except RecipeError as error:
            raise RecipeError(f"{error} ({before})") from None
        if job is None:
            raise RecipeError(f"SLURM took stage {stage.name} and does not tell its id (squeue); {before}")
        parts = f", {len(stage.parts)} parts" if len(stage.parts) > 1 else ""
        condition = f" (afterany:{jobs[-1]})" if jobs else ""
        jobs.append(job)
        print(f"{stage.name}: job {job}{parts}{condition}", flush=True)
    return 0


def _remarks(build: Build) -> list[str]:
    """Say which variables of this shell the jobs do not see, and which they do."""
    decided = (_job(build, stage, place(build.work), None).decided for stage in build.plan)
    return list(dict.fromkeys(line for options in decided for line in environment.remarks(options)))


def _in_the_queue(build: Build) -> list[str]:
    """List the ids of an earlier command's jobs that have not ended.

    Raises:
        RecipeError: SLURM does not say.
        DataError: the file that names them is damaged.
    """
    known = queue()
    if known is None:
        if not (build.work / "log").exists():
            return []  # nothing was ever submitted
        raise RecipeError(
            "SLURM does not answer (squeue), so nothing was submitted: an earlier build may be in its queue already"
        )
    # An array's tasks are listed as 17_3 and 17_[4-15].
    live = {
        job.partition("_")[0]
        for job, said in known.items()
        if said.state not in ENDED and is_in(build.work / "log", said)
    }
    return sorted(live, key=int)
