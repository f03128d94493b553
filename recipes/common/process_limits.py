"""What the system lets this process have: memory, and how much of it was used; open files. Standard library only."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from recipes.common.errors import RunError

CGROUP, MOUNTED = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60
"""Bytes; cgroup v1 writes a number near 2**63 for none."""
_USED = ("memory.peak", "memory.max_usage_in_bytes", "memory.current", "memory.usage_in_bytes")
"""Files of a cgroup (v2 and v1 in turn) that say how much is used: the most so far, and where there is none, now."""
GIB = 2**30
PLENTY = 4096
"""Open files that are asked for at least, where more are needed than a process may have."""


@dataclass(frozen=True)
class Memory:
    """What is known of a job's memory; `str` says it.

    Attributes:
        most: bytes that its tightest cgroup allows; None where none has a limit.
        used: the most bytes that were used there at a time, or those of now where the kernel keeps no such number.
        kills: processes of this one's own cgroup that the kernel has killed for want of memory; None where it does not
            count them.
        others: what else bounds it, in words.
    """

    most: int | None
    used: int | None
    kills: int | None
    others: tuple[str, ...]

    def __str__(self) -> str:
        said = []
        if self.most is not None:
            used = "" if self.used is None else f" and {self.used / GIB:.1f} were used"
            said.append(f"the job's cgroup allows {self.most / GIB:.1f} GiB{used}")
        if self.kills:
            said.append(f"the kernel killed for want of it so far: {self.kills}")
        return ", ".join((*said, *self.others))


def memory_of_job(cgroup: Path = CGROUP, mounted: Path = MOUNTED) -> Memory:
    """Return what is known of this job's memory.

    Args:
        cgroup: the file that says in which cgroups this process is.
        mounted: the folder of all cgroups.
    """
    folders = list(_folders(cgroup, mounted))
    limits = [
        (limit, folder)
        for folder in folders
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := _number(folder / name)) is not None and limit < NO_LIMIT
    ]
    most, tightest = min(limits, default=(None, None), key=lambda found: found[0] or 0)
    used = [] if tightest is None else [found for name in _USED if (found := _number(tightest / name)) is not None]
    kills = (
        int(line.split()[1])
        for folder in folders  # the own one first: those above count the kills of other jobs, too
        for name in ("memory.events", "memory.oom_control")
        for line in _text(folder / name).splitlines()
        if line.startswith("oom_kill ")
    )
    return Memory(most, used[0] if used else None, next(kills, None), tuple(_others()))


def _folders(cgroup: Path, mounted: Path) -> Iterator[Path]:
    """List this process's memory cgroups (v1 or v2), each with those that it lies in; some may not be there."""
    for line in _text(cgroup).splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds == "" or "memory" in kinds.split(","):
            top = mounted / "memory" if kinds else mounted
            own = top / path.lstrip("/")
            yield from (own, *(folder for folder in own.parents if folder.is_relative_to(top)))


def _others() -> Iterator[str]:
    with suppress(ValueError):
        if megabytes := int(os.environ.get("SLURM_MEM_PER_NODE", "0")):
            yield f"SLURM gave the job {megabytes / 1024:.1f} GiB of this node"
    bound, _ = resource.getrlimit(resource.RLIMIT_AS)
    if bound != resource.RLIM_INFINITY:
        yield f"ulimit -v allows a process {bound / GIB:.1f} GiB"
    sizes = dict(line.split(":", 1) for line in _text(Path("/proc/meminfo")).splitlines() if ":" in line)
    with suppress(KeyError, ValueError):
        total, free = (int(sizes[name].split()[0]) / 2**20 for name in ("MemTotal", "MemAvailable"))
        yield f"this machine has {total:.1f} GiB, of which {free:.1f} are free now"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


# ----------------------------------------------------------------------------------------------------------- open files
def has_files(more: int) -> bool:
    """Say whether this process may open so many more files, once its soft limit is as high as it may be."""
    wanted = _open_now() + more
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return True
    if hard != resource.RLIM_INFINITY and hard < wanted:
        return False
    plenty = max(wanted, PLENTY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (plenty if hard == resource.RLIM_INFINITY else min(plenty, hard), hard))
    return True


def require_files(more: int, purpose: str) -> None:
    """Check that this process may open so many more files for a purpose, and raise its soft limit where that helps.

    Raises:
        RunError: it may not.
    """
    if not has_files(more):
        wanted, hard = _open_now() + more, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        raise RunError(
            f"{wanted} open files are needed for {purpose}, and the hard limit here (ulimit -Hn) is {hard}: start from "
            f"a shell with `ulimit -n {wanted}` or more"
        )


def _open_now() -> int:
    return len(os.listdir("/proc/self/fd"))
