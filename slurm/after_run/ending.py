"""What is done when a run has ended, in a process of its own: it is told, kept, and counted to its command.

Whatever goes wrong is noted in log/events.jsonl and does nothing to the run. Standard library only.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.common.errors import DataError, one_line
from slurm.after_run import archive, notices
from slurm.after_run.settings import AtTheEnd, Notify, handed_over
from slurm.monitoring import commands
from slurm.monitoring.events import append_event, beside

PROJECT = Path(__file__).resolve().parents[2]
LIMIT_S, BEFORE_A_REQUEUE_S = 600.0, 30.0
"""The longest that all of it may take; a copy that is not whole by then is made at the next start or launch."""


# ------------------------------------------------------------------------------------------------------ from outside
def start(
    folder: Path, word: str, over: bool, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes] | None:
    """Start what is to be done in a process of its own; None where nobody is to be told and nothing kept.

    Args:
        folder: the run folder.
        word: how the run has ended: one of `notices.WORDS`, or another state.
        over: whether it does not come back by itself.
        variables: of that process; None gives it this one's.
    """
    try:
        if not _is_for_a_process(folder, word, over):
            if over:
                commands.note_end(folder, word)
            return None
        return subprocess.Popen(
            [sys.executable, "-m", "slurm.after_run", str(folder), word, "over" if over else "again"],
            cwd=PROJECT,
            env=None if variables is None else dict(variables),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for the runs
        )
    except OSError as error:
        append_event(folder, "notice refused", of=word, error=_said(error))
        return None


def wait(folder: Path, word: str, process: subprocess.Popen[bytes] | None, over: bool = True) -> None:
    """Wait for it, and end it where it takes too long; a process that a dead disk holds is left to its fate.

    A job that is to come back may be within the warning before its time limit, so there it is no long wait.
    """
    if process is None:
        return
    limit = LIMIT_S if over else BEFORE_A_REQUEUE_S
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        process.kill()
        refused, hint = (
            ("archive refused", "; the same command makes it") if word == "finished" else ("notice refused", "")
        )
        append_event(folder, refused, of=word, error=f"not done in {limit:g} s{hint}")


def _is_for_a_process(folder: Path, word: str, over: bool) -> bool:
    """Say whether there may be anything to tell or to keep, which takes time."""
    try:
        wanted = handed_over(folder.parent)
    except DataError:
        return True  # it notes what is wrong
    told = word in notices.WORDS or (over and bool(commands.files(folder.parent)))
    return bool((wanted.notify and told) or (wanted.archive and word == "finished"))


# ---------------------------------------------------------------------------------------------------- in that process
def after(folder: Path, word: str, over: bool) -> None:
    """Do what there is to do; done again for a run that has finished, it does only what is not done yet."""
    wanted = AtTheEnd()
    try:
        wanted = handed_over(folder.parent)
        if word in notices.WORDS and not (word == "finished" and _is_told(folder)):
            _tell(folder, wanted.notify, notices.of_a_run(folder, word))
    except Exception as error:  # each part is done whatever became of the others
        append_event(folder, "notice refused", of=word, error=one_line(_said(error)))
    try:
        for command in commands.note_end(folder, word) if over else ():
            _tell(folder, wanted.notify, notices.of_a_command(command, folder.parent))
    except Exception as error:
        append_event(folder, "notice refused", of=notices.ALL, error=one_line(_said(error)))
    try:
        if wanted.archive and word == "finished" and (copy := archive.keep(folder, wanted.archive)):
            append_event(folder, "archived", to=str(copy), weights=wanted.archive.weights)
    except Exception as error:
        to = wanted.archive.folder if wanted.archive else None
        append_event(folder, "archive refused", to=to, error=one_line(_said(error)))


def _said(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def _is_told(folder: Path) -> bool:
    return any(event["event"] == "notified" and event.get("of") == "finished" for event in beside(folder))


def _tell(folder: Path, target: Notify | None, notice: Mapping[str, Any]) -> None:
    if target is None:
        return
    refused = notices.send(target, notice)
    if refused:
        append_event(folder, "notice refused", of=notice["event"], to=target.shown, error=refused)
    else:
        append_event(folder, "notified", of=notice["event"], to=target.shown)
