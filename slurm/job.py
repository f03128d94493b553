"""The job: one picklable object for every kind of cluster, and the one entry to training.

`python -m slurm.job RUN_FOLDER COMMAND...` is a rank of a local run; on SLURM submitit unpickles `TrainJob` and calls
it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from slurm.monitoring.events import append_event

if TYPE_CHECKING:
    from ifl.supervision.node_look import NodeLook
    from ifl.supervision.watchdog import Watchdog
    from recipes.schema import Recipe

FINISHED, FAILED, STOPPED = 0, 1, 99
"""Exit codes of a rank: the run is finished; an error; stopped by a signal after a checkpoint, wants to go on."""


@dataclass(frozen=True)
class TrainJob:
    """Trains the run folder's recipe from its newest checkpoint.

    The pickle carries no state: where to go on is always found on disk.

    Attributes:
        folder: the run folder.
        command: the launcher's `sys.argv`, for meta.json.
    """

    folder: str
    command: tuple[str, ...] = ()

    def __call__(self) -> NoReturn:
        """Run one rank, and leave the process by `os._exit`.

        After an error or a stop other ranks may be in a collective, and an orderly shutdown could wait for them for
        ever; after the end it would wait for loader workers and process groups, and may abort.
        """
        from ifl.supervision.signals import watch

        stop_requested, code = watch(), FAILED  # before the long imports
        gc.disable()  # they make no garbage, and are a quarter faster without the search for it
        from ifl.saving.storage import disk_of
        from recipes.common.addresses import command_of_process
        from recipes.common.errors import UserError

        try:
            from slurm.rendezvous import export_rank

            export_rank()
            from recipes.resolve import load_resolved

            folder, rank = Path(self.folder), int(os.environ.get("RANK", "0"))
            recipe, first = load_resolved(folder / "recipe.yaml"), rank == 0
            watchdog = _watchdog(folder, rank, recipe.log.stuck_after_s, stop_requested)
            from ifl.run_log import close_monitors
            from ifl.train import train
            from slurm.code_snapshot import running

            if first:
                world, threads = int(os.environ.get("WORLD_SIZE") or 1), os.environ.get("OMP_NUM_THREADS", "")
                more_of_start = {"threads": int(threads)} if threads.isdecimal() else {}  # `4,2` is legal, too
                append_event(folder, "start", code=running(), world=world, **more_of_start)
            more: dict[str, Any] = {
                "pipe": command_of_process(),
                "command": self.command,
                "look": _look(recipe, folder),
            }
            with disk_of(folder):
                finished = train(recipe, folder, stop_requested, watchdog.progressed, **more)
            code = FINISHED if finished else STOPPED
            if first:
                append_event(folder, "finished" if code == FINISHED else "stopped")
                close_monitors()
        except BaseException as error:  # whatever it was, it is printed and the process ends with a code
            with contextlib.suppress(OSError):  # the log may lie on the disk that is full
                if isinstance(error, UserError):  # a sentence for the user; others are for developers
                    print(error, file=sys.stderr)
                else:
                    traceback.print_exc()
            _note_nodes(Path(self.folder), error)
            append_event(
                Path(self.folder),
                "failed",
                rank=int(os.environ.get("RANK", "0")),
                error=f"{type(error).__name__}: {error}",
            )
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    def checkpoint(self) -> None:
        """Return nothing to submit, when submitit asks before it requeues: the loop saves on the same signal."""
        return None


def _look(recipe: Recipe, folder: Path) -> NodeLook:
    """Say how the nodes are looked at; what is told of them later is noted in the run folder."""
    from ifl.supervision.node_limits import NodeLimits
    from ifl.supervision.node_look import NodeLook
    from slurm.code_snapshot import running

    disk = Path(recipe.data.cache_folder or tempfile.gettempdir())
    tell = functools.partial(append_event, folder)
    return NodeLook(folder, disk, running(), NodeLimits.of_environment(), tell)


def _note_nodes(folder: Path, error: BaseException) -> None:
    """Note nodes that nothing is trained on, by the one rank that is to do it."""
    from ifl.supervision.node_report import NodeFault

    if isinstance(error, NodeFault) and error.witness in (None, int(os.environ.get("RANK", "0"))):
        for node, fault in error.faults.items():
            append_event(folder, "node", node=node, fault=fault.kind, text=fault.text)


def _watchdog(folder: Path, rank: int, stuck_after_s: float, stop_requested: Callable[[], bool]) -> Watchdog:
    """Watch this rank; what it does about it is noted in the run folder."""
    from ifl.supervision.watchdog import Leaving, Watchdog

    def note(event: str) -> Callable[[str], object]:
        return lambda message: append_event(folder, event, rank=rank, error=message)

    return Watchdog(stuck_after_s, rank, note("failed"), Leaving(stop_requested, note("stopped"), STOPPED))


if __name__ == "__main__":
    TrainJob(sys.argv[1], tuple(sys.argv[2:]))()
