"""A notice: one JSON line that a command reads or an address gets, sent within seconds or not at all.

Nothing here fails or blocks a run: what is refused, or takes longer, becomes a sentence for log/events.jsonl. That
sentence holds no word of an address or a command, of an answer or an output, for these may hold a secret. Standard
library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slurm import environment
from slurm.after_run.settings import Notify
from slurm.monitoring.commands import Command
from slurm.monitoring.events import newest_step, read
from slurm.monitoring.failure import last_error

LIMIT_S = 5.0
"""The longest that a notice may take."""
WORDS = ("finished", "failed", "given up", "stuck")
"""The ends of a run that are told."""
ALL = "all ended"
"""The end of a command."""


def of_a_run(folder: Path, word: str) -> dict[str, Any]:
    """Return the notice of a run's end; `text` says it to a person, as chat services show it."""
    from slurm.monitoring.run_state import metric_lines

    error = last_error(read(folder)) if word != "finished" else ""
    val = None
    with contextlib.suppress(Exception):  # a damaged file is told elsewhere
        vals = [line for line in metric_lines(folder) if line["kind"] == "eval" and line["split"] == "val"]
        val = vals[-1]["accuracy"]["overall"] if vals else None
    told = f"{folder.name}: {word}"
    if error:
        told += f" ({error})"
    elif val is not None:
        told += f", {100 * val:.1f} % on val"
    return {
        "event": word,
        "run": folder.name,
        "folder": str(folder),
        "job": environment.job_id(),
        "step": max(newest_step(folder), 0),
        "val": val,
        "error": error,
        "text": told,
    }


def of_a_command(command: Command, runs: Path) -> dict[str, Any]:
    """Return the notice of a command's end: how many of its runs ended how, and which are not finished."""
    counts = command.counts
    shown = ", ".join(f"{number} {word}" for word, number in counts.items())
    return {
        "event": ALL,
        "command": command.label,
        "folder": str(runs),
        "runs": len(command.runs),
        "ends": counts,
        "not_finished": [name for name in command.runs if command.ends.get(name) != "finished"],
        "text": f"{command.label}: all of {len(command.runs)} runs have ended, {shown}",
    }


def send(target: Notify, notice: Mapping[str, Any]) -> str:
    """Send a notice; returns why it was refused, empty where it was taken."""
    line = (json.dumps(notice) + "\n").encode()
    return _run(target.command, line) if target.command else _within(LIMIT_S, lambda: _post(target.address, line))


def _run(command: Sequence[str], line: bytes) -> str:
    """Start a command in a process group of its own, which ends with it or at the limit."""
    try:
        process = subprocess.Popen(
            command,
            env=environment.clean(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        return f"it cannot be started: {error.strerror}"
    except ValueError:
        return "it cannot be started: a word is not legal"
    try:
        process.communicate(line, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"it took longer than {LIMIT_S:g} s and was ended"
    except OSError:
        pass  # it does not read; its exit code decides
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    code = process.returncode
    return "" if code == 0 else f"it ended with code {code}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for a refusal: urllib would follow it by a GET, without the line."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _post(address: str, line: bytes) -> str:
    request = urllib.request.Request(address, line, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=LIMIT_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"it answers {error.code}"
    except urllib.error.URLError as error:
        reason = error.reason
        return f"it is not reached: {getattr(reason, 'strerror', None) or type(reason).__name__}"
    except Exception as error:  # its text may quote the address
        return f"it is not reached: {type(error).__name__}"


def _within(limit_s: float, ask: Callable[[], str]) -> str:
    """Return what `ask` returns, or that it took too long: finding a host's number knows no limit of its own."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(ask()), daemon=True)
    thread.start()
    thread.join(limit_s)
    return found[0] if found else f"no answer in {limit_s:g} s"
