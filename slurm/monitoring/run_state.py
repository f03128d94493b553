"""A run's state, from its folder and SLURM's queue; no accounting needed. Standard library only."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from recipes.common import leases
from recipes.common.errors import DataError
from recipes.common.json_text import OF_A_RUN, NotJson, parse_json, read_object, wrong_kinds
from recipes.common.locks import is_held
from slurm import environment
from slurm.monitoring.events import REMARKS, last_launch, since_launch
from slurm.monitoring.several import alike

LIVE = ("running", "queued", "suspended", "held", "blocked", "stuck", "unknown")
"""States in which the run has a job or a process, or may have one: it is not to be started again."""
ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "PREEMPTED",
    "REVOKED",
    "NODE_FAIL",
    "BOOT_FAIL",
    "DEADLINE",
    "OUT_OF_MEMORY",
)
HELD = r"HOLD|Hold|[Hh]eld|SPECIAL_EXIT"
"""SLURM's states and reasons of a job that waits to be released; not `QOSUsageThreshold`."""
FORGOTTEN = ("cancelled", "timed out", "preempted")
"""Ends that SLURM alone tells, for some minutes; a look at the run notes them."""
STUCK_AFTER_S = 600.0
ANSWER_S = 20.0


class Job(NamedTuple):
    """What SLURM says of a job.

    Attributes:
        state: its state, or the reason why it never leaves the queue.
        began: when it started, in seconds since 1970; 0 where it has not.
        name: its name; a run's job has the run folder's, unless a site's plugin renames it.
        batch_file: the file that sbatch was given, in the run folder's log/, unless a site's wrapper copies it; of an
            array of runs as if each element had a copy in its own folder (`ARRAYS`).
    """

    state: str
    began: float = 0.0
    name: str = ""
    batch_file: str = ""


ARRAYS = ".arrays"
"""Folder beside the run folders: in `.arrays/NAME/3` lie links to the runs that element 3 of the array NAME makes."""
TELLS_S = 600
"""For so many seconds a job whose id SLURM has not told may still come up, and is not submitted again."""


def queue() -> dict[str, Job] | None:
    """Return the user's jobs that SLURM still knows, by id, with those that ended some minutes ago.

    Those of partitions that are hidden are among them.

    Returns:
        None if SLURM does not answer or is not on this machine.
    """
    if shutil.which("squeue") is None:
        return None
    words = ["squeue", "-h", "-a", "-r", "--me", "-t", "all", "-o", "%i|%T|%S|%r|%j|%o"]
    # An array's elements one by one; those that never left it together, in words that are not cut.
    variables = {**environment.clean(), "SLURM_BITSTR_LEN": "0"}
    try:
        shown = subprocess.run(words, env=variables, capture_output=True, text=True, errors="replace", timeout=30)
    except subprocess.TimeoutExpired:
        return None
    jobs = {}
    for line in shown.stdout.splitlines():
        if not re.match(r"\d+[^|]*(\|[^|]*){4}\|", line):
            continue  # a notice of the site's
        job, state, began, reason, own, batch_file = line.split("|", 5)
        if state == "PENDING" and (reason == "DependencyNeverSatisfied" or re.search(HELD, reason)):
            state = reason
        for element in _elements(job):
            jobs[element] = Job(state, _seconds(began), own, _seen_from(element, batch_file))
    return None if shown.returncode else jobs


def _elements(job: str) -> list[str]:
    """Return the ids that squeue means by one: 17_[0,3-4%2] are 17_0, 17_3 and 17_4."""
    together = re.fullmatch(r"(\d+)_\[([0-9,-]+)(?:%\d+)?\]", job)
    if together is None:
        return [job]
    ranges = [part.split("-") for part in together[2].split(",")]
    return [f"{together[1]}_{number}" for part in ranges for number in range(int(part[0]), int(part[-1]) + 1)]


def _seen_from(job: str, batch_file: str) -> str:
    """Return the batch file as if it lay in the folder of the job's own element, where it has one."""
    folder, file = os.path.split(batch_file)
    of_runs = os.path.basename(os.path.dirname(folder)) == ARRAYS and "_" in job
    return os.path.join(folder, job.partition("_")[2], file) if of_runs else batch_file


def _seconds(moment: str) -> float:
    """Return a moment as squeue writes it in seconds since 1970; 0 where it is none, such as N/A."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return 0.0


def is_in(folder: Path, job: Job) -> bool:
    """Say whether the file that sbatch was given for a job lies in the folder, or in an array's that leads to it."""
    return os.path.realpath(folder) in _leads_to(os.path.dirname(job.batch_file))


def _leads_to(folder: str) -> frozenset[str]:
    """Return the folder, or the log folders of the runs that an element of an array makes.

    A job without a batch file (salloc, srun, --wrap, sbatch's standard input) has a bare word in its place, which names
    no folder: ours are handed over by their whole paths.
    """
    if not os.path.isabs(folder):
        return frozenset()
    if os.path.basename(os.path.dirname(os.path.dirname(folder))) != ARRAYS:
        return frozenset([_place(folder)])
    try:
        return _linked(folder)
    except OSError:  # not there yet, or not seen yet from here
        return frozenset()


@functools.cache  # a table's jobs and runs ask for the same ones again and again
def _place(folder: str) -> str:
    return os.path.realpath(folder)


@functools.cache  # an array's folder appears as a whole, before SLURM hears of it
def _linked(folder: str) -> frozenset[str]:
    links = [entry.path for entry in os.scandir(folder) if entry.is_symlink()]
    return frozenset(os.path.realpath(os.path.join(link, "log")) for link in links)


def job_of(folder: Path, events: Sequence[Mapping[str, Any]], jobs: Mapping[str, Job]) -> str | None:
    """Return the id of the run's job among `jobs`.

    It is the one noted last, or one that waits or runs although nothing was noted (a full disk, Ctrl-C after sbatch).
    SLURM uses ids again, so the file that sbatch was given decides too, under whatever name a site's plugin lets the
    job run; or else the name, where a site's wrapper handed over another file. An array's file leads to the run by what
    was written of its elements.
    """
    noted: Mapping[str, Any] = next((event for event in reversed(events) if event["event"] == "submitted"), {})
    last, name = noted.get("job"), noted.get("array", folder.name)
    log = os.path.realpath(folder / "log")
    own = [
        job
        for job, said in jobs.items()
        if ((job == last or said.state not in ENDED) and log in _leads_to(os.path.dirname(said.batch_file)))
        or (job == last and said.name == name)
    ]
    return max(own, key=lambda job: (jobs[job].state not in ENDED, number_of(job)), default=None)


def runs_of(job: Job) -> int:
    """Return how many runs a job makes side by side."""
    return len(_leads_to(os.path.dirname(job.batch_file)))


def main_id(job: str) -> str:
    """Return the number in a job's id, which squeue writes as 17, 17_3, 17_[4-15] or 17+0, as text."""
    return re.split(r"\D", job, maxsplit=1)[0]


def number_of(job: str) -> int:
    """Return the number in a job's id: the higher, the newer."""
    return int(main_id(job))


def metric_lines(folder: Path) -> list[dict[str, Any]]:
    """Read the run's metrics.jsonl; torn lines are passed over.

    Raises:
        DataError: a whole line is something else than what a run writes.
    """
    path = folder / "metrics.jsonl"
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        try:
            entry = parse_json(line)
        except NotJson:  # torn by a kill
            continue
        if wrong := wrong_kinds(entry, {"kind": str}):
            raise DataError(f"{path} is damaged (line {number}: {wrong}); {OF_A_RUN}")
        lines.append(entry)
    return lines


def meta_of(folder: Path) -> dict[str, Any] | None:
    """Read the run's meta.json; None where there is none yet.

    Raises:
        DataError: it is damaged.
    """
    path = folder / "meta.json"
    return read_object(path, {}) if path.exists() else None


def is_finished(folder: Path) -> bool:
    """Say whether the run is finished."""
    return (folder / "done").exists()


def has_begun(folder: Path) -> bool:
    """Say whether the run has made anything; a folder that was only prepared holds nothing to keep."""
    return any((folder / name).exists() for name in ("meta.json", "ckpt", "done"))


def missing_weights(folder: Path, select: str = "last") -> str:
    """Say that a finished run's `last` or `best` weights are gone, and what to do; empty where that is not so."""
    try:
        file = read_object(folder / "done", {"weights": dict})["weights"][select][0]
    except (OSError, DataError, LookupError, TypeError):
        return ""  # it has none of its own, or whoever reads them says what is wrong with it
    if (folder / "ckpt" / str(file)).is_file():
        return ""
    best = "; select=best still works" if select == "last" and list((folder / "ckpt").glob("best-*.pt")) else ""
    return (
        f"the weights ckpt/{file} are gone, which eval=, export= and runs that start from them need: put a copy of the "
        f"file back, or make a run again (by its command with again=yes, which keeps the old folder beside it){best}"
    )


def nothing_to_do(settled: Mapping[Path, str]) -> Iterator[str]:
    """Say line by line that nothing is to be done for runs of these states, and what finished ones lack."""

    def what(folder: Path, state: str) -> str:
        lacking = missing_weights(folder) if state == "finished" else ""
        return f"{state}: nothing to do{lacking and '; '}{lacking}"

    for who, verb, said in alike((str(folder), what(folder, state)) for folder, state in settled.items()):
        yield f"{who} {verb} {said}"


def cluster_config() -> str:
    """Return SLURM's own settings, a line each; empty where it does not tell, which holds for a minute at most."""
    return config_in(int(time.monotonic() // 60))


@functools.lru_cache(maxsize=1)  # a table's runs ask for it again and again, and a silent SLURM takes its time
def config_in(minute: int) -> str:
    """Return what `cluster_config` does, asked once in a minute."""
    return environment.answer(("scontrol", "show", "config"), ANSWER_S)[1]


def cluster_name() -> str:
    """Return the name of the cluster whose queue is asked here; empty where SLURM does not tell."""
    found = re.search(r"^ClusterName\s*=\s*(\S+)", cluster_config(), re.MULTILINE)
    return found[1] if found else ""


def elsewhere(events: Sequence[Mapping[str, Any]]) -> str:
    """Return the cluster that the run's last job was submitted on, where this may be another one; "" else."""
    cluster = str(last_launch(events).get("cluster", ""))
    return cluster if cluster and not is_over(events) and cluster_name() != cluster else ""


def not_asked(events: Sequence[Mapping[str, Any]]) -> str:
    """Say which queue could not be asked for a run that is `unknown`."""
    cluster = elsewhere(events)
    if cluster and not cluster_name():
        return f"SLURM does not tell whether this is cluster {cluster} (scontrol show config)"
    return f"the queue of cluster {cluster} is not asked from here" if cluster else "SLURM does not answer (squeue)"


def state_of(folder: Path, events: Sequence[dict[str, Any]], jobs: Mapping[str, Job] | None) -> str:
    """Return the run's state, by the first that knows: `done`, the local lock, the queue, the last event."""
    if (folder / "done").exists():
        return "finished"
    events = _of_the_run(events)
    if is_held(folder / "lock"):
        return _moving(folder)
    if elsewhere(events):
        jobs = None
    said = _said_last(events)
    if jobs is None and last_launch(events).get("event") == "submitted":  # whose id may not have been told
        return said if is_over(events) else "unknown"
    job = job_of(folder, events, jobs or {})
    known = jobs[job] if jobs and job else None
    if known is None or (known.state in ENDED and last_launch(events).get("event") == "start"):
        return _without_a_job(events, said)
    if known.state == "DependencyNeverSatisfied":
        return "blocked"
    if re.search(HELD, known.state):
        return "held"
    if known.state in ("SUSPENDED", "STOPPED"):
        return "suspended"
    if known.state == "COMPLETING":  # on its way out, or back into the queue: a rank's word on its end decides neither
        return "running" if not events or events[-1]["event"] != "verdict" else "queued" if said == "requeue" else said
    if known.state in ("CANCELLED", "TIMEOUT"):
        return {"CANCELLED": "cancelled", "TIMEOUT": "timed out"}[known.state]
    if known.state in ENDED:
        taken = "preempted" if known.state == "PREEMPTED" else "failed"  # 24.05 says so of others' ends, too
        return taken if said in ("start", "submitted", "requeue", "stopped") else said
    return _of_a_live_job(folder, events, known, said)


def _without_a_job(events: Sequence[Mapping[str, Any]], said: str) -> str:
    if said == "submitted" and events[-1].get("job") is None and time.time() - events[-1]["time"] < TELLS_S:
        return "unknown"
    return "lost" if said in ("start", "submitted", "requeue") else said


def _of_a_live_job(folder: Path, events: Sequence[Mapping[str, Any]], job: Job, said: str) -> str:
    if events and events[-1].get("packed"):  # it has ended, and other runs of its job have not
        return "queued" if said == "requeue" else said
    return _moving(folder, job.began) if job.state in ("RUNNING", "STAGE_OUT", "SIGNALING") else "queued"


def _of_the_run(events: Sequence[Any]) -> list[Any]:
    """Return the events without those about nodes, which say nothing of where the run is."""
    return [event for event in events if event["event"] not in REMARKS]


def is_over(events: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether the last word is one after which the job does not come back."""
    events = _of_the_run(events)
    final = ("finished", "give up", *FORGOTTEN, "requeue refused")
    return bool(events) and (events[-1].get("verdict") in final or events[-1]["event"] == "waiting")


def _said_last(events: Sequence[dict[str, Any]]) -> str:
    """Return the state that a run's events speak of; `cancelled` stays, whatever the job says on its way out."""
    if any(event.get("verdict") == "cancelled" for event in since_launch(events)):
        return "cancelled"
    return _said(events[-1]) if events else "new"


def _said(event: Mapping[str, Any]) -> str:
    """Return the state that an event speaks of; `start`, `submitted` and `requeue` say nothing about an end."""
    word = str(event["verdict" if event["event"] == "verdict" else "event"])
    return {"give up": "gave up", "requeue refused": "failed"}.get(word, word)


def _moving(folder: Path, began: float = 0.0) -> str:
    """Return `running`, or `stuck` where the run has been silent for longer than any part of it may take."""
    from ifl.supervision.watchdog import boot_limit_s

    written = [
        path.stat().st_mtime
        for pattern in ("*", "log/*")
        for path in folder.glob(pattern)
        if path.exists() and path.suffix != leases.SUFFIX  # the launcher touches it, whatever its ranks do
    ]
    limit = boot_limit_s(recipe_of(folder).get("log", {}).get("stuck_after_s", STUCK_AFTER_S))
    return "stuck" if time.time() - max([*written, began]) > limit else "running"


def recipe_of(folder: Path) -> dict[str, Any]:
    """Read the run's recipe as nested values; empty where there is none.

    Raises:
        RecipeError: it is damaged.
    """
    from recipes.yaml_io import load_yaml

    path = folder / "recipe.yaml"
    return load_yaml(path) if path.exists() else {}
