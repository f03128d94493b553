"""Only the newest start of a run may commit.

When a node dies or the network is cut, SLURM may start a job again while its old processes live. Each start writes a
fresh token into the run folder; whoever finds another's there at a commit has been replaced and leaves. A start that
was cut off while it booted finds that a later one of its job was here, and does not take the run away from it. On
file systems without locks this narrows the race to the moment between the look and the rename; it does not close it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from recipes.common.errors import DataError, RunError
from recipes.common.files import write_json, write_whole
from recipes.common.json_text import read_object


class Fenced(RunError):
    """A newer start has taken over this run folder."""


class Fence:
    """This start's claim on a run folder; rank 0 holds it.

    Attributes:
        token: names this start.

    Raises:
        Fenced: a later start of the same SLURM job has claimed the folder already.
    """

    def __init__(self, folder: Path) -> None:
        # Another cluster counts its job ids from the beginning; its address, where it is known, tells them apart.
        job = (
            f"{os.environ['SLURM_JOB_ID']} {os.environ.get('SLURM_WORKING_CLUSTER', '')}"
            if "SLURM_JOB_ID" in os.environ
            else None
        )
        self._path = folder / "FENCE"
        self.token = secrets.token_hex(8)
        self._claim = {
            "job": job,
            "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            "token": self.token,
        }
        held = self._read_claim() or {}
        if job and held.get("job") == job and held["restart"] > self._claim["restart"]:
            raise Fenced(
                f"{self._path}: start {held['restart']} of this job has the run, "
                f"and this is start {self._claim['restart']}"
            )
        write_json(self._path, self._claim)
        metrics = folder / "metrics.jsonl"
        if metrics.exists():  # an older start that has it open goes on writing, into a file that no longer has a name
            write_whole(metrics, metrics.read_bytes())

    def _read_claim(self) -> dict[str, Any] | None:
        """Read the claim that is in the folder; None where none can be read."""
        try:
            return read_object(self._path, {"restart": int})
        except DataError:
            return None

    def check(self) -> None:
        """Stop if this start has lost the run.

        Raises:
            Fenced: a newer start has claimed the folder since.
            RunError: that cannot be told.
        """
        held = self._read_claim()
        if held is None:
            raise RunError(
                f"{self._path} cannot be read: whether this start still has the run cannot be told, "
                "so it commits nothing more"
            )
        if held != self._claim:
            raise Fenced(
                f"{self._path} holds another token: a newer start of this run has taken over, "
                "and this one leaves without a commit"
            )
