"""Only the newest start of a run may commit.

After a node's death or a network cut SLURM may start a job anew while its old processes still live. Each start writes a
fresh token into the run folder; whoever finds another's there at a commit has been replaced and leaves. On file systems
without locks this narrows the race to the moment between the look and the rename; it does not close it.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from ifl.files import write_whole


class Fenced(RuntimeError):
    """A newer start has taken over this run folder."""


class Fence:
    """This start's claim on a run folder; rank 0 holds it."""

    def __init__(self, folder: Path) -> None:
        self._path, self._token = folder / "FENCE", secrets.token_hex(8)
        write_whole(self._path, self._token)

    def check(self) -> None:
        """Raises Fenced if a newer start has claimed the folder since."""
        if self._path.read_text() != self._token:
            raise Fenced(f"{self._path} holds another token: a newer start of this run has taken over, and this one leaves without a commit")
