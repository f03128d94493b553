"""Where a run's numbers come from: commit, versions, machine, data."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from recipes.schema import PROJECT

PACKAGES = ("torch", "torchvision", "deepspeed", "webdataset", "numpy", "pillow", "simplejpeg")


_COMMAND: ContextVar[Sequence[str]] = ContextVar("command", default=())


def commit() -> str:
    """Return the checked-out commit, with `+changes` where the work tree differs from it.

    In a copy made for a job it is what was checked out when the copy was made.
    """
    if (stated := PROJECT / "COMMIT").exists():
        return stated.read_text(errors="replace").strip()
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def _git(*words: str) -> str:
    """Ask git about the project's checkout, also where it belongs to another user (root in a container)."""
    command = ["git", "-c", f"safe.directory={PROJECT}", *words]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@contextlib.contextmanager
def launched_by(command: Sequence[str]) -> Iterator[None]:
    """Make `meta` name this command inside as the one that launched the run.

    Args:
        command: the launcher's `sys.argv`; where it is empty, the process speaks for itself.
    """
    token = _COMMAND.set(command)
    try:
        yield
    finally:
        _COMMAND.reset(token)


def meta(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of meta.json: where the run comes from, and the facts of the run itself."""
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {"node": platform.node(), "processor": platform.machine(), "cores": os.cpu_count()},
        "argv": list(_COMMAND.get() or sys.argv),
        **facts,
    }
