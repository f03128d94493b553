"""How many files this process may open: looked at before it opens many, for what libraries say of a lack is no help."""

from __future__ import annotations

import os
import resource

from recipes.common.errors import RunError

PLENTY = 4096
"""Open files that are asked for at least, where more are needed than a process may have."""


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
