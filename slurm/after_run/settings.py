"""What the site file says of a run's end: `notify:`, whom to tell, and `archive:`, where copies go.

    notify: [/home/me/bin/tell, --quietly]          a command, which gets one JSON line on its standard input
    notify: https://hooks.example.org/services/x    an address, to which that line is sent by POST
    archive: /project/vision/archive                light parts of run folders
    archive: {folder: /project/vision/archive, weights: true}   and the last epoch's weights

An address, and a command's words, may hold a secret. So no sentence quotes them, and they stand in no recipe, batch
file, environment or run folder. What a job needs of them is in `RUNS/.site.json`, for its user alone to read (mode
0600), which each launch writes anew: a job that ends looks there. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from recipes.common.cli import nearest
from recipes.common.errors import DataError, RecipeError
from recipes.common.files import named, replacing
from recipes.common.json_text import read_object
from slurm.after_run.wanted import WANTED

LEGAL = (
    "a command as a list of words, such as [/home/me/bin/tell, --quietly], or an address that begins with http:// or "
    "https:// is"
)


@dataclass(frozen=True)
class Notify:
    """Whom to tell: one of the two is not empty.

    Attributes:
        command: its words; no shell reads them.
        address: http or https.
    """

    command: tuple[str, ...] = ()
    address: str = ""

    @property
    def shown(self) -> str:
        """Its name without what may be a secret: the program, or the address's host."""
        return os.path.basename(self.command[0]) if self.command else str(urlsplit(self.address).hostname)


@dataclass(frozen=True)
class Archive:
    """Where copies of finished runs go, and whether the last epoch's weights go with them."""

    folder: str
    weights: bool = False


@dataclass(frozen=True)
class AtTheEnd:
    """What is to be done when a run has ended; None where the site file does not say."""

    notify: Notify | None = None
    archive: Archive | None = None


# ------------------------------------------------------------------------------------------------------- the site file
def notify_of(value: object, path: Path) -> Notify:
    """Read `notify:`.

    Raises:
        RecipeError: it is neither a command nor an address; the sentence does not quote it.
    """
    if isinstance(value, str):
        if fault := _address_fault(value):
            raise RecipeError(f"{path}: notify: {fault}; {LEGAL}")
        return Notify(address=value)
    if not isinstance(value, list) or not value:
        raise RecipeError(f"{path}: notify is {_kind(value)}; {LEGAL}")
    for number, word in enumerate(value, 1):
        if not isinstance(word, str) or "\0" in word:
            raise RecipeError(
                f"{path}: notify: word {number} of the command is {_kind(word)}; text without NUL is legal, in quotes "
                "where it looks like something else"
            )
    program = os.path.expanduser(value[0])
    if not program.strip() or ("/" in program and not os.path.isabs(program)):
        raise RecipeError(
            f"{path}: notify: the command's first word is {'empty' if not program.strip() else 'a path from a folder'}"
            "; a program's name or whole path is legal, for a job starts in a folder of its own"
        )
    return Notify(command=(program, *value[1:]))


def _kind(value: object) -> str:
    if value is None or value in ("", [], {}):
        return "empty"
    return {list: "a list", dict: "a mapping", bool: "true or false", str: "text with NUL"}.get(
        type(value), "no text but a value of another kind"
    )


def _address_fault(text: str) -> str:
    """Say what is wrong with an address, without a word of it; empty where nothing is."""
    if not re.match("https?://", text):
        return "the text begins with neither http:// nor https://"
    if not re.fullmatch(r"[!-~]+", text):
        return "the address holds a blank, or a sign that is not ASCII"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "the address has no host, or a port that is no number"
    if not host:
        return "the address has no host"
    return "the address holds a user or password before an @, which cannot be sent" if "@" in parts.netloc else ""


def archive_of(value: object, path: Path) -> Archive:
    """Read `archive:`.

    Raises:
        RecipeError: it names no folder.
    """
    tree = {"folder": value} if isinstance(value, str) else value
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: archive={value!r} is not legal: a folder is, or {{folder: DIR, weights: true}}")
    if wrong := next((key for key in tree if key not in ("folder", "weights")), None):
        raise RecipeError(f"{path}: archive.{wrong} is not legal: {nearest(str(wrong), ('folder', 'weights'))}")
    folder, weights = tree.get("folder"), tree.get("weights", False)
    if not isinstance(weights, bool):
        raise RecipeError(f"{path}: archive.weights={weights!r} is not legal: true or false is")
    place = os.path.expanduser(folder) if isinstance(folder, str) else ""
    if not os.path.isabs(place) or not place.isprintable():
        raise RecipeError(
            f"{path}: archive.folder={folder!r} is not legal: a folder's whole path is, such as /project/archive"
        )
    return Archive(place, weights)


# ----------------------------------------------------------------------------------------------------- for jobs to read
def hand_over(runs: Path, own: Mapping[str, object]) -> None:
    """Write what jobs of a folder of runs need of the site file; nothing is left there where it says nothing.

    Args:
        runs: the folder.
        own: the values of the site file's further keys.
    """
    kept = {key: asdict(value) for key, value in own.items() if isinstance(value, Notify | Archive)}
    file = runs / WANTED
    if not kept:
        file.unlink(missing_ok=True)
        return
    with named(file), replacing(file) as temporary:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(json.dumps(kept) + "\n")
            out.flush()
            os.fsync(out.fileno())


def handed_over(runs: Path) -> AtTheEnd:
    """Read it back.

    Raises:
        DataError: it is damaged.
    """
    file = runs / WANTED
    if not file.exists():
        return AtTheEnd()
    kept = read_object(file, {}, "launch any run of this folder again, which writes it anew")
    with contextlib.suppress(TypeError, AttributeError):
        notify, archive = kept.get("notify"), kept.get("archive")
        return AtTheEnd(
            Notify(tuple(notify["command"]), notify["address"]) if notify else None,
            Archive(**archive) if archive else None,
        )
    raise DataError(f"{file} is damaged (it is not what was written); launch any run of this folder again")
