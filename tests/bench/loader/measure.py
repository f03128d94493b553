"""What the bench's processes say of themselves: seconds of cores, memory, and one JSON line for whoever started
them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def family() -> dict[int, list[str]]:
    """This process and all below it, by pid: the fields of /proc/PID/stat after the name."""
    found: dict[int, list[str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
    mine, more = {os.getpid()}, True
    while more:
        more = {pid for pid, fields in found.items() if int(fields[1]) in mine} - mine
        mine |= more
    return {pid: found[pid] for pid in mine}


def cores_s() -> float:
    """CPU seconds of this process and of all below it, so far. (getrusage counts no child that still runs.)"""
    return sum(int(fields[11]) + int(fields[12]) for fields in family().values()) / os.sysconf("SC_CLK_TCK")


def pss_mb() -> dict[int, float]:
    """MB of memory by pid, of this process and of all below it; a page that k processes share counts 1/k for each."""
    return {pid: _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") * 1024 / 1e6 for pid in family()}


def _field(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name))


def voice() -> Callable[[Any], None]:
    """Says a value as one line of JSON on standard output, which from now on is nobody else's: what libraries print
    goes to standard error.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def say(value: Any) -> None:
        print(json.dumps(value), file=out, flush=True)

    return say
