"""`eval/` in a run folder: what a trainer and its evaluator tell each other (`log.eval=job`).

`wanted.json` is the trainer's: epochs whose weights lie in ckpt/, with the files' sha256. `epoch-NNN.json` is the
evaluator's, and names the weights that it is about: a verdict about other weights counts for nothing, so epochs that
are trained again are judged again, and others are not. `evaluator.json` is the newest evaluator's claim. It is touched
as the evaluator gets on; an older evaluator that finds another's leaves. Only changes of its time are looked at, never
the time itself, for clocks of nodes differ.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import Any

from recipes.common.errors import DataError, RunError
from recipes.common.files import write_json, write_whole
from recipes.common.json_text import read_object

Weights = tuple[int, str]
"""An epoch, and the sha256 of its weights' file."""
CLAIM = "evaluator.json"
BEAT_S = 1.0
"""Between two touches of the claim."""


class Verdicts:
    """The verdicts of a run, and what is still wanted."""

    def __init__(self, run: Path) -> None:
        self._folder = run / "eval"

    def want(self, weights: list[Weights], start: str) -> None:
        """Ask for verdicts on these weights, oldest first; `start` is the token of the trainer's claim on the run."""
        if self._wanted() != (wanted := {"start": start, "weights": [list(entry) for entry in weights]}):
            write_json(self._folder / "wanted.json", wanted)

    def next_wanted(self, start: str) -> Weights | None:
        """Return the oldest weights without a verdict that the start of this token asks for."""
        wanted = self._wanted()
        entries = [(int(epoch), str(sha256)) for epoch, sha256 in wanted["weights"]] if wanted["start"] == start else []
        return next((entry for entry in entries if self.read(*entry) is None), None)

    def _wanted(self) -> dict[str, Any]:
        with contextlib.suppress(DataError):  # there is none yet
            return read_object(self._folder / "wanted.json", {"start": str, "weights": list})
        return {"start": "", "weights": []}

    def write(self, epoch: int, sha256: str, verdict: dict[str, Any]) -> None:
        """Write the verdict on an epoch's weights."""
        write_json(self._file(epoch), {"epoch": epoch, "sha256": sha256, **verdict})

    def read(self, epoch: int, sha256: str) -> dict[str, Any] | None:
        """Return the verdict on an epoch's weights; None where there is none on these very weights."""
        with contextlib.suppress(DataError):
            found = read_object(self._file(epoch), {"sha256": str, "val_accuracy": float, "scores": dict})
            return found if found["sha256"] == sha256 else None
        return None

    def _file(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:03d}.json"


class Replaced(RunError):
    """A newer evaluator judges this run."""


class Claim:
    """An evaluator's claim to be the one of its run."""

    def __init__(self, run: Path) -> None:
        self._path, self._token, self._touched_s = run / "eval" / CLAIM, secrets.token_hex(8), 0.0
        write_json(self._path, {"token": self._token})

    def check(self) -> None:
        """Stop if this evaluator is not the one of the run any more.

        Raises:
            Replaced: a newer one has claimed the run since.
        """
        try:
            held = read_object(self._path, {"token": str})["token"]
        except DataError:
            held = None
        if held != self._token:
            raise Replaced(
                f"{self._path} is not this evaluator's any more: a newer one has the run, and this one leaves"
            )

    def beat(self) -> None:
        """Say that this evaluator gets on; it checks the claim, too."""
        if time.monotonic() - self._touched_s > BEAT_S:
            self.check()
            os.utime(self._path)
            self._touched_s = time.monotonic()

    def leave(self) -> None:
        """Give the claim up, if it is still this one's."""
        with contextlib.suppress(Replaced, OSError):
            self.check()
            withdraw(self._path.parent.parent)


def expect(run: Path) -> None:
    """Forget an earlier start's evaluator: a new one is on its way."""
    (run / "eval" / CLAIM).unlink(missing_ok=True)


def withdraw(run: Path) -> None:
    """Empty the claim of an evaluator that has ended: its trainer need not wait for it."""
    write_whole(run / "eval" / CLAIM, "")


class Presence:
    """Whether a run has an evaluator that gets on, as its trainer sees it."""

    def __init__(self, run: Path, patience_s: float) -> None:
        """Begin to look; an evaluator is thought to be coming for `patience_s` seconds."""
        self._path, self._patience_s = run / "eval" / CLAIM, patience_s
        self._seen: int | None = None
        self._since_s = time.monotonic()

    def there(self) -> bool:
        """Say whether one gets on: false once it has left, or was silent for too long."""
        try:
            with open(self._path, "rb") as file:  # opening it asks a network file system anew
                status = os.fstat(file.fileno())
        except OSError:  # a run can do without, whatever the disk says
            touched = None
        else:
            if not status.st_size:
                return False
            touched = status.st_mtime_ns
        if touched != self._seen:
            self._seen, self._since_s = touched, time.monotonic()
        return time.monotonic() - self._since_s <= self._patience_s
