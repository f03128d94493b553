"""What a network of timm, torchvision or open_clip says of itself, asked of the library in a process of its own.

The launcher imports no torch, so `python -m ifl.network.library_facts` answers, once: what it said is kept in the
user's cache folder, by library, version, name, arguments and code. Standard library only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recipes.common.errors import RecipeError
from recipes.common.files import write_whole

PROJECT = Path(__file__).resolve().parents[2]
LIBRARIES = {"timm": "timm", "torchvision": "torchvision", "open_clip": "open_clip_torch"}
"""By what a name begins with: the package."""
ASKED = "ifl.network.library_facts"
"""The module that answers."""
SMALL_PIXELS = 64
"""Up to this many pixels a data set's own image size, mean and std win over the network's."""
LONGEST_S = 300
"""Seconds that an answer may take."""


@dataclass(frozen=True)
class Facts:
    """What a library says of a network.

    Attributes:
        image_size: side of the crops that its configuration names, pixels.
        test_resize: shorter side before the central crop, pixels: `image_size` by its share of the image.
        mean: of pixels in 0..1, RGB.
        std: the same.
        normalises: whether it has batch normalisation.
        forms: in which it can be built.
        version: of the library.
    """

    image_size: int
    test_resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    normalises: bool
    forms: tuple[str, ...]
    version: str

    @property
    def values(self) -> dict[str, Any]:
        """The values of a recipe that follow from it, nested as its sections are."""
        data = {
            "image_size": self.image_size,
            "test_resize": self.test_resize,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        return {"data": data}


def library_of(name: Any) -> str:
    """Return the library of a network's name, `timm` of `timm:resnet50d`; empty for a file of ifl/models."""
    return name.partition(":")[0] if isinstance(name, str) and ":" in name else ""


def version_of(library: str) -> str:
    """Return the version of a library here; empty where it is not installed."""
    try:
        return version(LIBRARIES[library])
    except PackageNotFoundError:
        return ""


def lacking(library: str) -> str:
    """Say that a library is not installed here; empty where it is."""
    if version_of(library):
        return ""
    package = LIBRARIES[library]
    return (
        f"model.name={library}:... needs the package {package}, which is not installed: `.venv/bin/python -m pip "
        f"install {package}`, or a network of ifl/models"
    )


def question(name: str, args: Mapping[str, Any]) -> str:
    """Return what is asked of a network, as canonical JSON."""
    return json.dumps({"name": name, "args": dict(args)}, sort_keys=True)


_noted: dict[str, Mapping[str, Any]] = {}
"""By question what runs noted: then a table is made where the library is not."""


def remember(told: Mapping[str, Mapping[str, Any]]) -> None:
    """Take the answers that a run noted for what the library says, where it is not installed."""
    _noted.update(told)


def is_told(told: Any) -> bool:
    """Say whether a value has the shape of a noted answer."""
    return isinstance(told, Mapping) and set(told) == set(Facts.__dataclass_fields__)


def facts_of(name: str, args: Mapping[str, Any]) -> Facts:
    """Return what the library says of a network.

    Args:
        name: LIBRARY:NETWORK.
        args: of its factory, `model.args`.

    Raises:
        RecipeError: there is no such library or network, or it does not take the arguments; one sentence.
    """
    told = _answer(question(name, args))
    if "fault" in told:
        raise RecipeError(told["fault"])
    said: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in told["facts"].items()
    }
    return Facts(**said)


def unfit(name: str, args: Mapping[str, Any], form: str, image_size: int, more: Mapping[str, Any] | None = None) -> str:
    """Say why a network cannot be built in a form, take images of a size or train so; empty where it can.

    Args:
        name: LIBRARY:NETWORK.
        args: of its factory.
        form: of `declarations.FORMS`.
        image_size: H = W, pixels.
        more: other fields of the section `model` that it must allow, such as `train`.
    """
    if question(name, args) in _noted and lacking(library_of(name)):
        return ""  # it was built for the run
    asked = {"name": name, "args": dict(args), "form": form, "image_size": image_size, **(more or {})}
    return str(_answer(json.dumps(asked, sort_keys=True)).get("fault", ""))


@functools.cache  # a table has many recipes on one network
def _answer(asked: str) -> dict[str, Any]:
    """Return the answer to a question, from the cache where it was given before; faults are asked again."""
    library = library_of(json.loads(asked)["name"])
    if sentence := lacking(library):
        return {"facts": _noted[asked]} if asked in _noted else {"fault": sentence}
    try:
        return answer(ASKED, asked, version_of(library))
    except Unanswered as error:
        return {"fault": f"model.name={json.loads(asked)['name']}: {library} could not be asked about it: {error}"}


class Unanswered(Exception):
    """Nobody could say; with the reason."""


def answer(module: str, asked: str, version: str) -> dict[str, Any]:
    """Return the answer to a question, from the cache where it was given before; faults are asked again.

    Args:
        module: which answers, `python -m MODULE QUESTION`, with one line of JSON at the end of what it prints.
        asked: the question, JSON.
        version: of what is asked about; another one is another answer.

    Raises:
        Unanswered: it does not come in time, or ends otherwise.
    """
    kept = _place(asked, version)
    try:
        told: dict[str, Any] = json.loads(kept.read_text())
        return told
    except (OSError, ValueError):
        told = _ask(module, asked)
    if "fault" not in told:
        with contextlib.suppress(OSError):  # then it is asked again next time
            write_whole(kept, json.dumps(told))
    return told


def _place(asked: str, version: str) -> Path:
    """Return the file that keeps an answer; other code or another version gives another."""
    code = [path.read_bytes() for room in ("backbones", "network") for path in sorted(PROJECT.glob(f"ifl/{room}/*.py"))]
    key = hashlib.sha256(b"\0".join([asked.encode(), version.encode(), *code])).hexdigest()[:32]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "glt-suite" / "networks" / f"{key}.json"


def _ask(module: str, asked: str) -> dict[str, Any]:
    """Ask a module in another process."""
    words = [sys.executable, "-m", module, asked]
    try:
        done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=LONGEST_S)
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told
    except subprocess.TimeoutExpired:
        raise Unanswered(f"no answer within {LONGEST_S} s") from None
    except (ValueError, IndexError):
        why = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1][:300]
        raise Unanswered(why) from None
