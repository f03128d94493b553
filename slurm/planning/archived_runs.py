"""Runs of a command that are finished in the archive, while a purge took their folders: they are not trained again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recipes.common.errors import DataError, RecipeError, one_line
from slurm.after_run import archive
from slurm.after_run.settings import Archive
from slurm.monitoring.events import append_event
from slurm.monitoring.run_state import is_finished
from slurm.monitoring.several import names
from slurm.planning.schedule import Run


def marked(runs: Sequence[Run], kept: Archive | None) -> list[Run]:
    """Return the runs, with those marked whose finished folder is in the archive alone.

    Raises:
        RecipeError: a run that is to be made starts from one whose weights are not in the archive, or
            the archive is the folder of the runs.
    """
    if kept is not None and archive.is_folder_of(runs[0].folder, kept):
        raise RecipeError(f"archive={kept.folder} {archive.DISPLACES}")
    found = [run if run.again else replace(run, archived=archive.archived(run.folder, kept)) for run in runs]
    copies = {run.folder: run.archived for run in found if run.archived}
    for run in found:
        for need in run.needs if run.is_to_make else ():
            if need in copies and not archive.has_weights(copies[need]):
                raise RecipeError(
                    f"{run.folder.name} starts from {need.name}, which is finished and archived in "
                    f"{copies[need].parent} without its weights: put a whole copy of its folder into {need.parent}, or "
                    "make it again by its own command with again=yes"
                )
    return found


def remarks(runs: Sequence[Run]) -> list[str]:
    """Say which runs are finished in the archive alone."""
    kept = [run.folder.name for run in runs if run.archived]
    if not kept:
        return []
    place = next(run.archived.parent for run in runs if run.archived)
    one = len(kept) == 1
    return [
        f"{names(kept)} {'is' if one else 'are'} finished and archived in {place}, and not trained again: "
        f"{'its folder is' if one else 'their folders are'} put back from there (again=yes makes "
        f"{'it' if one else 'them'} again)"
    ]


def put_back(runs: Sequence[Run]) -> None:
    """Put the folders of archived runs back into their places.

    Raises:
        DataError: a copy is not what was written.
        OSError: it cannot be read, or its place not be written.
    """
    for run in runs:
        if run.archived and not is_finished(run.folder):
            left = archive.put_back(run.archived, run.folder)
            print(f"{run.folder}: put back from {run.archived}", flush=True)
            if left:
                print(f"what was left in its place is in {left.name} now", flush=True)


def keep_finished(runs: Sequence[Run], kept: Archive | None) -> None:
    """Archive the finished runs that are not archived yet; one that cannot be is told and noted, and nothing fails."""
    if kept is None:
        return
    for run in runs:
        if run.again or not is_finished(run.folder) or not archive.lacking(run.folder, kept):
            continue
        try:
            print(f"{run.folder.name}: archived in {archive.keep(run.folder, kept)}", flush=True)
            append_event(run.folder, "archived", to=kept.folder, weights=kept.weights)
        except (OSError, DataError) as error:
            print(f"{run.folder.name} is not archived: {one_line(str(error))}", flush=True)
            append_event(run.folder, "archive refused", to=kept.folder, error=one_line(str(error)))
