"""The order of several runs: which starts after which, how many at once, and nothing twice."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.common.errors import RecipeError
from recipes.schema import Recipe
from slurm.monitoring.run_state import has_begun, is_finished


@dataclass(frozen=True)
class Run:
    """A run to launch.

    Attributes:
        recipe: its recipe, which names its folder.
        needs: the run folders that must be finished before it starts.
        remark: what the user should know about it.
        command: the `sys.argv` of the launcher, which the run's meta.json keeps; a job's own are other words.
        pipe: the site file's command, by which its data come where their root is `pipe:`.
        again: what is there already is set aside, and the run made again.
        archived: the archive's copy of it, where it is finished there and no longer here; None else.
        point: the values of `grid=` that it has, as words; empty where it has none.
        words: those that its recipe was resolved from, but for the number of nodes; its row's and its point's among
            them.
    """

    recipe: Recipe
    needs: tuple[Path, ...] = ()
    remark: str = ""
    command: tuple[str, ...] = ()
    pipe: str | None = None
    again: bool = False
    point: str = ""
    archived: Path | None = None
    words: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.recipe.run_folder

    @property
    def same_command(self) -> str:
        """What a sentence calls the command that goes on with what this one has begun."""
        return "the same command" + (" without again=yes" if "again=yes" in self.command else "")

    @property
    def is_to_make(self) -> bool:
        """Whether there is anything to train or evaluate; a finished run that is made again is still in its folder."""
        return self.again or not (self.archived or is_finished(self.folder))

    @property
    def sets_aside(self) -> bool:
        """Whether its folder is renamed before it is made: what was only prepared is used."""
        return self.again and has_begun(self.folder)


@dataclass(frozen=True)
class Step:
    """A run's place in the order.

    It starts when all of `finished` are finished and all of `left` have left the queue.
    """

    run: Run
    finished: tuple[Path, ...] = ()
    left: tuple[Path, ...] = ()


def schedule(
    runs: Sequence[Run], finished: Collection[Path], queued: Sequence[Path], at_once: int | None = None
) -> list[Step]:
    """Order the runs that are neither finished nor queued, so that each comes after what it needs.

    Args:
        runs: distinct runs.
        finished: run folders that need nothing more.
        queued: run folders that have a job in the queue, oldest first.
        at_once: how many of these runs may be under way at once; no limit if None.

    Raises:
        RecipeError: a run needs another that is neither finished nor in the queue nor among these.
    """
    own = [run.folder for run in runs]
    assert len(set(own)) == len(own), f"a run is twice among {own}"
    todo = [run for run in runs if run.folder not in finished and run.folder not in queued]
    for run in todo:
        if missing := next(
            (need for need in run.needs if need not in finished and need not in queued and need not in own), None
        ):
            raise RecipeError(
                f"{run.folder.name} needs {missing}, which is neither finished nor in the queue nor part of this "
                "command"
            )
    under_way = [folder for folder in queued if folder in own]
    # If more are under way than may be, those that are too many come before every lane.
    lanes = (
        [[*under_way[:-at_once], *under_way[-at_once:][lane : lane + 1]] for lane in range(at_once)] if at_once else []
    )
    steps: list[Step] = []
    ordered = {*finished, *queued}
    while todo:
        free = [run for run in todo if ordered.issuperset(run.needs)]
        assert free, f"these runs need each other: {[run.folder for run in todo]}"
        run = free[0]
        todo.remove(run)
        ordered.add(run.folder)
        lane = min(lanes, key=len, default=[])
        # After the whole lane and not only its last run: that one may be cancelled while an earlier one still runs.
        steps.append(Step(run, tuple(need for need in run.needs if need not in finished), tuple(lane)))
        lane.append(run.folder)
    return steps


def tree(steps: Sequence[Step], settled: dict[Path, str]) -> str:
    """Show the run folders as lines, each under the last one that it starts after.

    Args:
        steps: the runs that are to start.
        settled: why the other folders have no step.
    """
    lines: dict[Path, tuple[Path | None, str]] = {folder: (None, f"{folder}  {why}") for folder, why in settled.items()}
    for step in steps:
        after = [
            *(f"{folder.name} is finished" for folder in step.finished),
            *(f"{folder.name} has left the queue" for folder in step.left[-1:]),
        ]
        above = next((folder for folder in [*step.left[::-1], *step.finished] if folder in lines), None)
        again = ["made again"] if step.run.sets_aside else []
        said = [str(step.run.folder), *filter(None, [step.run.point]), *again]
        lines[step.run.folder] = (above, "  ".join([*said, *([f"after {' and '.join(after)}"] if after else [])]))

    def below(above: Path | None, indent: str) -> list[str]:
        return [
            text
            for folder, (parent, line) in lines.items()
            if parent == above
            for text in (indent + line, *below(folder, indent + "  "))
        ]

    return "\n".join(below(None, ""))


def finished_of(runs: Sequence[Run]) -> set[Path]:
    """Return the folders of the runs, and of what they need, that are finished and stay so."""
    again = {run.folder for run in runs if run.again}
    archived = {run.folder for run in runs if run.archived}
    return {folder for run in runs for folder in (run.folder, *run.needs) if is_finished(folder)} - again | archived
