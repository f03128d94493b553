"""Checks a built data set: `python -m sharding.verify DIR [workers=N] [limit=N] [duplicates=problem|warning]`.

    DIR           a data set's folder, DATA_ROOT/NAME, or DATA_ROOT with several
    workers=N     processes (default: one a core); the report does not depend on it
    limit=N       how many problems and warnings to list (default 100); all are counted
    duplicates=   what the same image bytes under two sources in two splits of an edition are (default: warning where
                  the data set says that its source has such, as mscoco_glt does, else problem)

Problems: a byte that is not as it was written, in a shard (image, tar header, padding, .cls, .json), in index.npz or in
dataset.json; an image that does not decode; labels, groups and counts that do not fit; missing and foreign shards; a
shard that plain webdataset reads otherwise; a source, a key (within a class also in other case, with another extension
or other folders in front) or the same image in two splits of an edition.
Warnings: images that look alike in two splits of an edition; sources there that differ in case or extension alone, of
which the build saw both (images with such names that look alike are a problem); images that look damaged although their
bytes are those that were packed; files that do not belong there; and what the build left out of its source or took
although it looks damaged.

The report goes to standard output, the progress and the speed to standard error. Exit status: 0 all is well, 1 there
are problems, 2 the check could not run.
"""

if __name__ == "__main__":
    from recipes.common.venv import in_environment

    in_environment()  # before the first import that a bare or an older Python lacks

import importlib
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from recipes.common.cli import asks_help, folder_and_options, whole_number
from recipes.common.errors import DataError, one_line
from recipes.common.output import ends_told, go_on_unread
from sharding.building.process_pool import end_of
from sharding.checks.dataset import (
    Meeting,
    check_across,
    check_digest,
    check_files,
    check_folders,
    check_meta,
    check_notices,
    folder_pairs,
    read_index,
    read_meta,
    split_folders,
)
from sharding.checks.near_duplicates import BITS, LEVELS, SIDE, alike
from sharding.checks.report import Findings
from sharding.checks.shard import Report, Task, check_shard
from sharding.format.dataset import DATASET_FILE
from sharding.format.index import Index
from sharding.progress import ProgressBar

KEYS = ("workers", "limit", "duplicates")


@dataclass(frozen=True)
class Verdict:
    """The outcome for a data set: the first problems and warnings, sorted, their numbers, and how much was read."""

    name: str
    problems: Findings
    warnings: Findings
    images: int
    shards: int
    size: int
    fingerprint: str

    def lines(self) -> list[str]:
        """Return the report, line by line."""
        lines = [
            f"{kind}: {self.name}/{one_line(str(finding))}"
            for kind, found in (("problem", self.problems), ("warning", self.warnings))
            for finding in found.first()
        ]
        lines += [
            f"... and {found.count - len(found.first())} more {kind}s"
            for kind, found in (("problem", self.problems), ("warning", self.warnings))
            if found.count > len(found.first())
        ]
        state = f"{_counted(self.problems.count, 'problem')}, {_counted(self.warnings.count, 'warning')}"
        return [
            *lines,
            f"{self.name}: {state}; {self.images:,} images decoded from {self.shards:,} shards of "
            f"{self.size / 1e6:,.1f} MB; fingerprint {self.fingerprint}",
        ]


def data_sets(folder: Path) -> list[Path]:
    """List the data sets' folders in or at `folder`, sorted.

    Raises:
        DataError: it finds none, or `folder` is not a folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; DATA_ROOT/NAME, or DATA_ROOT with several, would be legal")

    def built(path: Path) -> bool:
        return (path / DATASET_FILE).exists() or bool(split_folders(path, None))

    found = (
        [folder]
        if built(folder)
        else sorted(
            path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".") and built(path)
        )
    )
    if not found:
        raise DataError(
            f"there is no data set in {folder}: neither it nor a folder in it holds a {DATASET_FILE} or shards"
        )
    return found


def verify(folder: Path, workers: int = 1, limit: int = 100, strict: bool | None = None) -> Verdict:
    """Check the data set in `folder`; the findings do not depend on the number of processes.

    It takes the memory of the indices, 192 bytes an image, and one sample in every process.

    Args:
        folder: the data set's folder.
        workers: number of processes.
        limit: how many problems, and how many warnings, to keep; all are counted.
        strict: whether the same image bytes in two splits of an edition are a problem, or a warning; None: as
            `notes.duplicates` of dataset.json says.

    Raises:
        DataError: a worker process was killed or ended by itself.
    """
    folder = Path(os.path.abspath(folder))  # not resolved: a link may have the data set's name
    problems, warnings = Findings(limit), Findings(limit)
    meta = read_meta(folder, problems)
    relatives = split_folders(folder, meta)
    recorded = {relative: meta["splits"][relative].get("fingerprint") if meta else None for relative in relatives}
    read = {relative: read_index(folder, relative, recorded[relative], problems) for relative in relatives}
    indices = {relative: index for relative, index in read.items() if index is not None}
    for relative in relatives:
        check_files(folder, relative, indices.get(relative), problems, warnings)
    check_folders(folder, relatives, warnings)
    editions: Mapping[str, Mapping[str, str]] = meta["editions"] if meta else {}
    if meta:
        check_meta(folder, meta, indices, problems)
        check_digest(meta, warnings)
    notes = meta.get("notes") if meta else None
    check_notices(notes, warnings)
    if strict is None:
        strict = not (isinstance(notes, dict) and notes.get("duplicates") == "warning")
    doubted = check_across(meta or {}, indices, problems, problems if strict else warnings, warnings)

    tasks = [task for relative, index in indices.items() for task in shard_tasks(folder, relative, index, limit)]
    thumbs = {relative: np.zeros((len(index), SIDE, SIDE, 3), np.uint8) for relative, index in indices.items()}
    decoded = {relative: np.zeros(len(index), bool) for relative, index in indices.items()}
    images = size = 0
    total = sum(int(task.rows.shard_size[0]) for task in tasks)
    with ProgressBar(total, f"verifying {folder.name}", "B", unit_scale=True) as bar:
        for task, report in zip(tasks, _reports(tasks, workers), strict=True):
            relative = task.place.rpartition("/")[0]
            problems.merge(report.found, report.count)
            warnings.merge(report.doubts, report.doubtful)
            thumbs[relative][task.ids], decoded[relative][task.ids] = report.thumbs, report.decoded
            images, size = images + report.images, size + report.size
            bar.update(int(task.rows.shard_size[0]))
    _look_alikes(editions, indices, (thumbs, decoded), doubted, problems, warnings)
    return Verdict(
        folder.name, problems, warnings, images, len(tasks), size, meta["fingerprint"] if meta else "unknown"
    )


def shard_tasks(folder: Path, relative: str, index: Index, limit: int) -> Iterator[Task]:
    """Yield a task for each shard of a split, in order."""
    order = np.argsort(index.shard, kind="stable")
    bounds = np.searchsorted(index.shard[order], np.arange(len(index.shard_name) + 1))
    for number, name in enumerate(index.shard_name.tolist()):
        ids = order[bounds[number] : bounds[number + 1]]
        shard = slice(number, number + 1)
        rows = Index(
            key=index.key[ids],
            source=index.source[ids],
            shard=np.zeros(len(ids)),
            offset=index.offset[ids],
            size=index.size[ids],
            sha256=index.sha256[ids],
            label=index.label[ids],
            group=index.group[ids],
            attribute=index.attribute[ids],
            shard_name=index.shard_name[shard],
            shard_size=index.shard_size[shard],
            shard_sha256=index.shard_sha256[shard],
        )
        yield Task(folder / relative / name, f"{relative}/{name}", ids, rows, limit)


def _reports(tasks: Sequence[Task], workers: int) -> Iterator[Report]:
    """Yield the tasks' reports, in the tasks' order."""
    if workers == 1:
        yield from map(check_shard, tasks)
        return
    importlib.import_module("webdataset")  # once, before the fork, so that the workers find it loaded
    others = active_children()
    processes: list[BaseProcess] = []
    with ProcessPoolExecutor(min(workers, max(1, len(tasks))), get_context("fork")) as pool:
        running: deque[Future[Report]] = deque()
        try:
            for task in tasks:
                running.append(pool.submit(check_shard, task))
                processes = processes or [process for process in active_children() if process not in others]
                if len(running) > 2 * workers:  # finished reports wait in memory, so keep only a few jobs under way
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            pool.shutdown(wait=True, cancel_futures=True)
            raise DataError(f"one of {len(processes)} worker processes {end_of(processes)}") from None
        finally:
            for future in running:
                future.cancel()


def _look_alikes(
    editions: Mapping[str, Mapping[str, str]],
    indices: Mapping[str, Index],
    seen: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]],
    doubted: Set[Meeting],
    problems: Findings,
    warnings: Findings,
) -> None:
    """Find pictures in two splits of an edition that look alike: warnings, or problems where their names do, too.

    Args:
        editions: edition -> split -> folder.
        indices: folder of each split -> its index of N samples.
        seen: folder -> thumbnails, uint8 [N, 8, 8, 3]; folder -> which samples have one, bool [N].
        doubted: the pairs whose names are alike.
        problems: takes pairs of `doubted`.
        warnings: takes the others.
    """
    thumbs, decoded = seen
    pairs = folder_pairs(editions)
    for edition in sorted(editions):
        used = [relative for relative in sorted(set(editions[edition].values())) if relative in indices]
        if not used:
            continue
        owner = np.concatenate([np.full(len(indices[relative]), number) for number, relative in enumerate(used)])
        row = np.concatenate([np.arange(len(indices[relative])) for relative in used])
        found, whole = alike(
            np.concatenate([thumbs[relative] for relative in used]),
            np.concatenate([decoded[relative] for relative in used]),
            owner,
        )
        if not whole:
            warnings.add(
                edition,
                f"edition {edition} has so many images of one kind that not all pairs were compared for looking alike",
            )
        for a, b in found.tolist():
            one, two = used[owner[a]], used[owner[b]]
            if (
                pairs[one, two] == edition
                and indices[one].sha256[row[a]].tobytes() != indices[two].sha256[row[b]].tobytes()
            ):  # same bytes: said already
                text = (
                    f"the image of key {str(indices[one].key[row[a]])!r} looks like that of key "
                    f"{str(indices[two].key[row[b]])!r} in {two}"
                )
                pair = (one, int(row[a])), (two, int(row[b]))
                (problems if pair in doubted else warnings).add(
                    one,
                    f"{text} (at most {BITS} of {4 * SIDE * SIDE} steps of brightness and colour, and {LEVELS:g} of "
                    "255 levels apart)",
                    int(row[a]),
                )


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}" if number else f"no {what}s"


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    if not arguments or asks_help(arguments):
        print(__doc__.strip())
        return 0
    try:
        word, options = folder_and_options(arguments, KEYS)
        workers, limit = (
            whole_number(options, "workers", len(os.sched_getaffinity(0)), 1),
            whole_number(options, "limit", 100, 1),
        )
        duplicates = options.get("duplicates")
        if duplicates not in (None, "problem", "warning"):
            raise DataError(f"duplicates={duplicates} is not legal; problem or warning is")
        status = 0
        for folder in data_sets(Path(word)):
            start = time.perf_counter()
            verdict = verify(folder, workers, limit, None if duplicates is None else duplicates == "problem")
            seconds = time.perf_counter() - start
            print("\n".join(verdict.lines()), flush=True)
            print(
                f"{seconds:.1f} s with {_counted(workers, 'worker')}: {verdict.images / seconds:,.0f} images/s, "
                f"{verdict.size / seconds / 1e9:.3f} GB/s",
                file=sys.stderr,
            )
            status = max(status, int(verdict.problems.count > 0))
        return status
    except DataError as error:
        print(f"sharding.verify: {one_line(str(error))}", file=sys.stderr)
    except OSError as error:  # a folder that cannot be listed
        print(f"sharding.verify: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        print("sharding.verify: stopped", file=sys.stderr)
        return 130
    return 2


if __name__ == "__main__":
    go_on_unread()
    raise SystemExit(ends_told("sharding.verify", lambda: main(sys.argv[1:])))
