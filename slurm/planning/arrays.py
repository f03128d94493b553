"""Which of several runs go to SLURM together: those of one stage that ask for the same are a job array.

An array's elements are numbered over all runs that the command has of a kind, so a run keeps its number while others
are done; only those that are to be made are submitted. Packed runs (`pack=N`) share an element, N each.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slurm.planning.schedule import Run, Step


@dataclass(frozen=True)
class Array:
    """What one call of sbatch hands to SLURM.

    Attributes:
        elements: the runs of each element, by its number.
        numbers: the elements that are submitted, in order.
        after: the run folders whose jobs must have left the queue before any of these starts.
        at_once: how many of these may be under way at once; None sets no limit.
        alone: each run is a plain job.
    """

    elements: tuple[tuple[Run, ...], ...]
    numbers: tuple[int, ...]
    after: tuple[Path, ...] = ()
    at_once: int | None = None
    alone: bool = False

    @property
    def runs(self) -> list[Run]:
        """The runs that are submitted."""
        return [run for number in self.numbers for run in self.elements[number]]

    @property
    def pack(self) -> int:
        """How many runs an element has, at most."""
        return max(map(len, self.elements))

    @property
    def jobs(self) -> int:
        """How many jobs SLURM counts for it."""
        return len(self.numbers)


def arrays(
    runs: Sequence[Run],
    steps: Sequence[Step],
    request: Callable[[Run], Hashable],
    at_once: int | None,
    under_way: Sequence[Path],
    size: int,
    pack: int = 1,
) -> list[Array]:
    """Return what is to be submitted, each after what it waits for.

    Args:
        runs: all of the command, each after those that it builds on.
        steps: those that are to be submitted.
        request: what a run asks SLURM for; runs with equal requests may share an array.
        at_once: how many jobs of the command may be under way at once; None sets no limit.
        under_way: the folders of those that have a job already.
        size: the most elements that an array may have; below 2 each run is a job of its own.
        pack: runs of an element.
    """
    behind = {step.run.folder: step.finished for step in steps}
    found: list[Array] = []
    for members in _alike(runs, request, together=size > 1):
        for chunk in _chunks(_elements(members, behind, pack), max(size, 1)):
            for waits in (False, True):  # one that waits for nothing does not wait for what others need
                own = [behind.get(element[0].folder) for element in chunk]  # None: not to be made
                numbers = [n for n, after in enumerate(own) if after is not None and bool(after) == waits]
                after = _unique(folder for n in numbers for run in chunk[n] for folder in behind[run.folder])
                if numbers:
                    found.append(Array(chunk, tuple(numbers), after, alone=pack == 1 and len(numbers) == 1))
    if at_once is None or sum(array.jobs for array in found) + len(under_way) <= at_once:
        return found
    # One array after the other, so that no more than so many are under way over all of them. After all before and not
    # only the last: that one may be cancelled while an earlier one still runs.
    limited, before = [], list(under_way)
    for array in found:
        limited.append(replace(array, after=_unique([*before, *array.after]), at_once=min(at_once, array.jobs)))
        before += [run.folder for run in array.runs]
    return limited


def plain_jobs(steps: Iterable[Step]) -> list[Array]:
    """Return a job for each run, in the order that the steps say."""
    return [one_job(step.run, _unique([*step.finished, *step.left])) for step in steps]


def one_job(run: Run, after: tuple[Path, ...] = ()) -> Array:
    """Return the plain job of a run, after the jobs of some run folders."""
    return Array(((run,),), (0,), after, alone=True)


def _alike(runs: Sequence[Run], request: Callable[[Run], Hashable], together: bool) -> list[list[Run]]:
    """Group the runs by their stage and by what they ask for, first stages first."""
    stages: dict[Path, int] = {}
    groups: dict[tuple[int, Hashable], list[Run]] = {}
    for run in runs:
        stage = stages[run.folder] = 1 + max((stages.get(need, -1) for need in run.needs), default=-1)
        kind: Hashable = request(run) if together and run.recipe.slurm.arrays else run.folder
        groups.setdefault((stage, kind), []).append(run)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def _elements(members: Sequence[Run], behind: Mapping[Path, Sequence[Path]], pack: int) -> list[tuple[Run, ...]]:
    """Return all runs one by one; or packs of those that are to be made, which wait for something or do not."""
    if pack == 1:
        return [(run,) for run in members]
    kinds = (
        [run for run in members if run.folder in behind and bool(behind[run.folder]) == waits]
        for waits in (False, True)
    )
    return [tuple(kind[start : start + pack]) for kind in kinds for start in range(0, len(kind), pack)]


def _chunks(elements: Sequence[tuple[Run, ...]], size: int) -> list[tuple[tuple[Run, ...], ...]]:
    return [tuple(elements[start : start + size]) for start in range(0, len(elements), size)]


def _unique(folders: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(folders))


def numbers_text(numbers: Sequence[int]) -> str:
    """Write ascending numbers as sbatch takes them: 0,3-7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def shown(planned: Sequence[Array], settled: dict[Path, str]) -> str:
    """Show the arrays as lines, each with its elements below; `settled`: why the other folders are in none."""
    lines = [f"{folder}  {why}" for folder, why in settled.items()]
    words = [f"{'job' if array.alone else 'array'} {place}" for place, array in enumerate(planned, 1)]
    named = {run.folder: word for word, array in zip(words, planned, strict=True) for run in array.runs}
    for word, array in zip(words, planned, strict=True):
        after = list(dict.fromkeys(named.get(folder, folder.name) for folder in array.after))
        left = f"{' and '.join(after)} {'has' if len(after) == 1 else 'have'} left the queue"
        condition = f", after {left}" if after else ""
        throttle = f", {array.at_once} at once" if array.at_once else ""
        of = "" if array.alone else f": elements {numbers_text(array.numbers)}"
        lines.append(f"{word}{of}{throttle}{condition}")
        for number in array.numbers:
            for run in array.elements[number]:
                again = ["made again"] if run.sets_aside else []
                lines.append("  ".join([f"  [{number}] {run.folder}", *filter(None, [run.point]), *again]))
    return "\n".join(lines)
