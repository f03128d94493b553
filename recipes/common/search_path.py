"""Where recipes, data values, table layouts, methods and models lie: in the project, and in a user's own folders.

The environment variable GLT_PATH names such folders, as PATH does. Each has sub-folders named as the project's are:
recipes, recipes/data, recipes/tables, ifl/methods, ifl/models. Standard library only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from recipes.common.cli import nearest
from recipes.common.errors import RecipeError

PROJECT = Path(__file__).resolve().parents[2]
VARIABLE = "GLT_PATH"
RECIPES, DATA, TABLES, METHODS, MODELS = KINDS = (
    "recipes",
    "recipes/data",
    "recipes/tables",
    "ifl/methods",
    "ifl/models",
)
"""The sub-folders in which a user's files are found."""
PRESETS = "recipes/presets"
"""The project's alone: the code knows their names."""


def folders() -> tuple[Path, ...]:
    """Return the user's folders, the stronger first.

    Raises:
        RecipeError: one of them is no absolute path, does not exist, or has none of the sub-folders.
    """
    found = dict.fromkeys(part for part in os.environ.get(VARIABLE, "").split(":") if part)
    return tuple(_checked(part) for part in found)


def _checked(part: str) -> Path:
    folder = Path(part)
    if not folder.is_absolute():
        raise RecipeError(
            f"{VARIABLE}={part} is a relative folder, and jobs run elsewhere: its whole name, such as "
            f"{folder.absolute()}, is legal"
        )
    if not os.path.isdir(folder):
        raise RecipeError(f"{VARIABLE}={part} names a folder that does not exist")
    if not any((folder / kind).is_dir() for kind in KINDS):
        raise RecipeError(f"{VARIABLE}={part} has none of the sub-folders {', '.join(KINDS)}, and one at least is due")
    return folder


def files(kind: str) -> dict[str, Path]:
    """Return all files of a kind by their names: the project's, and those of the user's folders, the first one's first.

    Args:
        kind: one of `KINDS`, or `PRESETS`.

    Raises:
        RecipeError: a user's file has a name of the project's, or a folder of the user's is not legal.
    """
    shipped = _listed(PROJECT, kind)
    found: dict[str, Path] = {}
    for folder in folders() if kind in KINDS else ():
        for name, path in _listed(folder, kind).items():
            if name in shipped:
                raise RecipeError(
                    f"{path} has the name of {shipped[name]}, which comes with the suite: another name is legal"
                )
            found.setdefault(name, path)
    return {**shipped, **found}


def _listed(folder: Path, kind: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted((folder / kind).glob(f"*{_suffix(kind)}")) if path.stem[0] != "_"}


def _suffix(kind: str) -> str:
    return ".py" if kind in (METHODS, MODELS) else ".yaml"


def find(kind: str, name: str) -> Path | None:
    """Return the file of a name; None where there is none."""
    path = PROJECT / kind / f"{name}{_suffix(kind)}"
    return path if path.is_file() else find_own(kind, name)


def find_own(kind: str, name: str) -> Path | None:
    """Return the file of a name in the user's folders; None where there is none."""
    places = (folder / kind / f"{name}{_suffix(kind)}" for folder in folders())
    return next((path for path in places if path.is_file()), None)


def fault(kind: str, name: Any, what: str) -> str:
    """Say that there is no file of a name, and which one is nearest; empty where there is one.

    Args:
        kind: one of `KINDS`, or `PRESETS`.
        name: what the user typed.
        what: the key that it was typed for.
    """
    legal = files(kind)
    if name in list(legal):
        return ""
    return f"{what}={'null' if name is None else name} does not exist; {nearest(name, sorted(legal))}"


def named(kind: str, name: Any, what: str) -> Path:
    """Return the file of a name; for the arguments see `fault`.

    Raises:
        RecipeError: there is no such file; the sentence names the nearest one there is.
    """
    if sentence := fault(kind, name, what):
        raise RecipeError(sentence)
    return files(kind)[name]


def is_own(path: Path) -> bool:
    """Say whether a file lies in a user's folder. In a job that one is a copy inside of the code's own."""
    return path.parent not in [PROJECT / kind for kind in KINDS]


def shown(path: Path) -> str:
    """Return a file's name for a sentence: a file of the project without the project's folder."""
    return str(path) if is_own(path) else path.relative_to(PROJECT).as_posix()


def place(kind: str, name: str) -> str:
    """Return where the file of a name lies, for a sentence, or would lie in the project."""
    return shown(find(kind, name) or PROJECT / kind / f"{name}{_suffix(kind)}")
