"""What in a folder of runs nobody needs any more; only looked at here, and removed in `removal.py`.

Never of a run that has a job or a process, or may have one, and never of one that cannot be read. Of a finished run
stay the weights of the last and the best epoch, which second stages, `eval=` and `export=` need, the checkpoints of the
epochs in `log.keep`, and all that tables and figures are made from.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.common.errors import UserError
from recipes.common.files import file_digest, is_unfinished
from recipes.common.json_text import read_object
from recipes.folders import RUN_NAME, is_run_name
from slurm.after_run.wanted import WANTED
from slurm.cluster import node_check
from slurm.code_snapshot import FOLDER
from slurm.monitoring import commands
from slurm.monitoring.events import read
from slurm.monitoring.run_state import (
    ARRAYS,
    ENDED,
    LIVE,
    Job,
    is_finished,
    is_in,
    job_of,
    meta_of,
    recipe_of,
    state_of,
)

CODE, CHECKPOINTS, LEFTOVERS, SUBMISSION = KINDS = (
    "old code",
    "checkpoints of finished runs",
    "leftovers",
    "submission files of finished runs",
)
"""What there is to remove."""
TIDIED = ".tidied-"
"""How the name begins that a thing gets before it is removed: what is left of it, a later call removes."""
BESIDE_RUNS = {
    FOLDER: r"\.new-[a-z0-9_]{8}",
    node_check.FOLDER: "[0-9]{8}-[0-9]{6}-[0-9]+",
    ARRAYS: r"\..+-x[0-9]+-[0-9a-f]{8}\.[0-9a-f]{8}",
    commands.FOLDER: "",
}
"""Folders in a folder of runs, and in each the names of leftovers: code and arrays that were not whole, looks at nodes.

Names are told exactly: a user may keep hidden things in a folder of runs, too.
"""
OLD_S = 3600.0
"""A leftover is younger than this where somebody may still write it."""
DAMAGE = (UserError, OSError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Item:
    """A thing that is not needed any more.

    Attributes:
        kind: one of `KINDS`.
        root: the run folder that it is in, or the folder of runs.
        name: its path from there.
        size: its bytes.
    """

    kind: str
    root: Path
    name: str
    size: int


@dataclass(frozen=True)
class Found:
    """What a look found.

    Attributes:
        items: what is not needed any more.
        kept: sentences about runs of which all stays.
    """

    items: list[Item]
    kept: list[str]


def look(runs: Path, jobs: Mapping[str, Job] | None) -> Found:
    """Find what nobody needs any more in a folder of runs.

    Args:
        runs: the folder.
        jobs: SLURM's queue; None where it does not answer or is not on this machine.
    """
    items: list[Item] = []
    states: dict[Path, str] = {}
    for folder in sorted(path.parent for path in runs.glob("[!.]*/recipe.yaml")):
        states[folder] = state = _state(folder, jobs)
        if state in LIVE or state == "unreadable":
            continue
        try:
            items += list(_of_a_run(folder))
        except DAMAGE:
            states[folder] = "unreadable"
    items += _of_commands(runs, states)
    if jobs is not None:
        items += _of_arrays(runs, states)
    looks = [look for look in (runs / node_check.FOLDER).glob("*") if _has_a_job(look, jobs)]
    submitted = any(map(_was_submitted, states))
    if not looks and (jobs is not None or not submitted):
        items += _code(runs, states)
    items += [item for path in _left_beside(runs) if path not in looks and (item := _leftover(runs, path))]
    words: dict[str, list[str]] = {}
    for folder, state in states.items():
        if state in LIVE or state == "unreadable":
            words.setdefault(state, []).append(folder.name)
    kept = [f"all is kept of what is {state}: {', '.join(names)}" for state, names in sorted(words.items())]
    if jobs is None and (submitted or looks):
        kept.append("all code is kept, for SLURM does not answer (squeue): a job may be running from it")
    elif looks:
        kept.append(f"all code is kept, for looks at nodes have jobs: {', '.join(look.name for look in looks)}")
    return Found(items, kept)


def _of_commands(runs: Path, states: Mapping[Path, str]) -> Iterator[Item]:
    """Yield the files of commands whose runs are all finished, or all gone."""
    for file in commands.files(runs):
        of_runs = {states.get(runs / name, "gone") for name in commands.read(file).runs}
        if of_runs in ({"finished"}, {"gone"}) and not _is_young(file):
            yield Item(SUBMISSION, runs, file.relative_to(runs).as_posix(), size_of(file))


def _of_arrays(runs: Path, states: Mapping[Path, str]) -> Iterator[Item]:
    """Yield the folders of job arrays whose runs are finished or gone."""
    for folder in (runs / ARRAYS).glob("[!.]*"):
        linked = {states.get(runs / link.readlink().name, "gone") for link in folder.glob("*/*") if link.is_symlink()}
        if linked <= {"finished", "gone"} and not _is_young(folder):
            yield Item(SUBMISSION, runs, folder.relative_to(runs).as_posix(), size_of(folder))


def _has_a_job(look: Path, jobs: Mapping[str, Job] | None) -> bool:
    """Say whether a look at nodes has a job, or may have one; a wrapper may hide its folder, not its name."""
    if jobs is None:
        return any(look.glob("*.sh"))
    return any((is_in(look, job) or job.name == node_check.NAME) and job.state not in ENDED for job in jobs.values())


def _was_submitted(folder: Path) -> bool:
    """Say whether SLURM ever had a job of a run, or may have had one."""
    try:
        return any(event["event"] == "submitted" for event in read(folder))
    except OSError:
        return True


def _state(folder: Path, jobs: Mapping[str, Job] | None) -> str:
    """Return a run's state; one with a job that has not ended is `running`, though it is finished."""
    try:
        recipe_of(folder), meta_of(folder)
        events = read(folder)
        state, job = state_of(folder, events, jobs), job_of(folder, events, jobs or {})
    except DAMAGE:
        return "unreadable"
    return "running" if jobs and job and jobs[job].state not in ENDED and state not in LIVE else state


def _of_a_run(folder: Path) -> Iterator[Item]:
    """Yield what a run that has ended does not need any more."""
    if is_finished(folder):
        if is_run_name(folder.name) and (folder / "ckpt").is_dir():
            yield from _checkpoints(folder)
        for path in sorted([*folder.glob("log/*"), *folder.glob("eval/*.sh")]):
            if path.suffix == ".pkl" or (path.suffix == ".sh" and path.stem in (folder.name, "evaluator")):
                yield Item(SUBMISSION, folder, path.relative_to(folder).as_posix(), size_of(path))
    hidden = (path for path in folder.rglob(".*") if is_unfinished(path.name) or _is_tidied(path))
    for path in [*hidden, *folder.glob("ckpt/tmp-*")]:
        if item := _leftover(folder, path):
            yield item


def _checkpoints(folder: Path) -> Iterator[Item]:
    """Yield the checkpoints of a finished run, unless its weights are gone: then they are the only copy."""
    if not all((folder / "ckpt" / file).is_file() for file in _weights(folder)):
        return
    kept = _kept_steps(folder)
    for path in sorted(folder.glob("ckpt/step-*")):
        match = re.fullmatch(r"step-(\d+)(\.old)?", path.name)
        if match and (match[2] or int(match[1]) not in kept):
            yield Item(CHECKPOINTS, folder, f"ckpt/{path.name}", size_of(path))


def _weights(folder: Path) -> dict[str, str]:
    """Return the files of a finished run's last and best weights, with the sha256 of each."""
    return {
        str(file): str(digest) for file, digest in read_object(folder / "done", {"weights": dict})["weights"].values()
    }


def has_its_weights(folder: Path) -> bool:
    """Say whether a finished run's weights are what was written."""
    return all(file_digest(folder / "ckpt" / file) == digest for file, digest in _weights(folder).items())


def _kept_steps(folder: Path) -> set[int]:
    """Return the steps whose checkpoints are kept for good: at the ends of the epochs in `log.keep`."""
    from recipes.resolve import load_resolved

    of_epoch = int((meta_of(folder) or {})["steps_per_epoch"])
    return {(epoch + 1) * of_epoch for epoch in load_resolved(folder / "recipe.yaml").kept_epochs}


def _code(runs: Path, states: Mapping[Path, str]) -> Iterator[Item]:
    """Yield the copies of code that no unfinished run was submitted with or started from; all stay if one is unread."""
    used: set[str] = set()
    for folder, state in states.items():
        if state == "unreadable":
            return
        if state != "finished" or not is_finished(folder):
            used |= {str(event.get("code")) for event in read(folder)}
    for path in sorted((runs / FOLDER).glob("*")):
        if re.fullmatch(r"[0-9a-f]{12}", path.name) and path.name not in used:
            yield Item(CODE, runs, f"{FOLDER}/{path.name}", size_of(path))


def _left_beside(runs: Path) -> Iterator[Path]:
    """Yield what killed commands and looks at nodes leave behind, in a folder of runs and in no run."""
    for path in runs.glob(".*"):
        if is_unfinished(path.name, rf"{RUN_NAME}|{re.escape(WANTED)}") or _is_tidied(path):
            yield path
    for folder, names in BESIDE_RUNS.items():
        for path in (runs / folder).glob("*"):
            if re.fullmatch(names, path.name) or _is_tidied(path):
                yield path


def _is_tidied(path: Path) -> bool:
    return re.fullmatch(f"{re.escape(TIDIED)}[0-9a-f]{{8}}", path.name) is not None


def _leftover(root: Path, path: Path) -> Item | None:
    """Return what a process left behind that was killed, unless it may still be at it."""
    try:
        young = _is_young(path) and not _is_tidied(path)
        return None if young else Item(LEFTOVERS, root, path.relative_to(root).as_posix(), size_of(path))
    except FileNotFoundError:  # it is gone: its writer was there
        return None


def _is_young(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime < OLD_S


def size_of(path: Path) -> int:
    """Return the bytes of a file, a link or a folder; what goes meanwhile counts nothing."""
    total = 0
    for one in [path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else ())]:
        try:
            total += one.lstat().st_size if one.is_symlink() or not one.is_dir() else 0
        except FileNotFoundError:
            continue
    return total


def by_kind(items: Sequence[Item]) -> dict[str, tuple[int, int]]:
    """Return how many there are of each kind, and their bytes."""
    return {
        kind: (len(own), sum(item.size for item in own))
        for kind in KINDS
        if (own := [item for item in items if item.kind == kind])
    }
