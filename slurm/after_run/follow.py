"""The batch script's way to what follows a run's end: it runs by the node's own Python, which may be 3.6."""

import sys
from pathlib import Path

from slurm.after_run.wanted import WANTED
from slurm.monitoring.events import append_event, read

NEWER = (3, 9)
"""The Python that what follows needs."""
OLD = (
    "what follows a run's end needs a python3 of 3.9 or later on the node, which `modules:` of the site file may "
    "bring; launching again archives what has finished"
)


def follow(folder: Path, word: str, over: bool) -> None:
    """Do what the site file wants done when a run has ended; it takes seconds, or as long as a copy of the run.

    Args:
        folder: the run folder.
        word: how the run has ended; `failed` also stands for `stuck`.
        over: whether it does not come back by itself.
    """
    if sys.version_info < NEWER:
        if (folder.parent / WANTED).exists():
            append_event(folder, "notice refused", of=word, error=OLD)
        return
    from slurm.after_run import ending
    from slurm.monitoring.failure import is_stuck

    if word == "failed" and is_stuck(read(folder)):
        word = "stuck"
    ending.wait(folder, word, ending.start(folder, word, over=over), over)
