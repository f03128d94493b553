"""Addresses: data roots that are not folders, and ports of this machine. Standard library only."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping

PIPE = "pipe:"
"""The data root that means the site file's command; only in the site file does the command follow."""

_WITH_ONE_SLASH = re.compile(r"(?:^|,)(?:s3a?|gc?s|hdfs|https?|ftp|file|az|abfss?):/", re.IGNORECASE)
"""An address of a scheme that is in use, after a path was made of it: `s3:/bucket`."""

COMMAND = "GLT_PIPE"
"""Environment variable by which a launcher hands the site file's command to a process that it starts.

The process asks for it once, with `command_of_process`; inside a process it is an argument. It is not part of the
process's command line, because every user of the node can read that.
"""


def is_remote(root: object) -> bool:
    """Say whether a data root is an address (http, https, or the site file's pipe: command) and not a folder."""
    return str(root).startswith(("http://", "https://", PIPE))


def root_fault(root: object) -> str:
    """Return what is wrong with a data root that is an address of another kind; empty where nothing is."""
    if not _is_address(root) or is_remote(root):
        return ""
    return (
        "http:// and https:// (in small letters) are the addresses that can be read; any other store is read by a "
        f"command in the site file, `root: {PIPE}COMMAND` under `data:`; a folder is legal, too"
    )


def path_fault(text: object) -> str:
    """Return what is wrong with an address where a folder or file is wanted; empty where it is not an address."""
    return "it is an address, and a folder or file that this machine sees is legal" if _is_address(text) else ""


def _is_address(text: object) -> bool:
    return "://" in str(text) or _WITH_ONE_SLASH.search(str(text)) is not None


def with_command(environment: Mapping[str, str], command: str | None) -> dict[str, str]:
    """Return the environment of a process that is to have the site file's command, or none."""
    others = {name: value for name, value in environment.items() if name != COMMAND}
    return others if command is None else {**others, COMMAND: command}


def command_of_process() -> str | None:
    """Return the site file's command, as the launcher has handed it to this process."""
    return os.environ.get(COMMAND)


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
