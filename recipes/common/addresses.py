"""Addresses: where data come from other than a folder, and ports of this machine. Standard library only."""

from __future__ import annotations

import socket

PIPE = "pipe:"
"""The data root that means the site file's command; only in the site file does the command follow."""


def is_afar(root: object) -> bool:
    """Say whether a data root is an address (http, https, or the site file's pipe: command) and not a folder."""
    return str(root).startswith(("http://", "https://", PIPE))


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
