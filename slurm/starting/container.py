"""`container:` of the site file: the image that ranks run in, by Apptainer (Singularity) or by Pyxis and enroot.

Ranks alone run in it. The batch script around them runs on the node, with the node's own plain python3.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.common.cli import nearest
from recipes.common.errors import RecipeError
from slurm.starting.lacking_node import or_lacks

PYXIS = "pyxis"
KEYS = {
    "apptainer": ("engine", "image", "binds", "nv"),
    "singularity": ("engine", "image", "binds", "nv"),
    PYXIS: ("engine", "image", "mounts"),
}
"""What starts containers -> the keys that go with it."""
_TEXT = r"[^\x00-\x1f\x7f]+"
_FOLDER = r"/[^\x00-\x1f\x7f:,\\]*"
_BIND = re.compile(rf"({_FOLDER})(?::({_FOLDER})(?::[A-Za-z0-9=+_-]+)?)?")


@dataclass(frozen=True)
class Container:
    """What the site file says.

    Attributes:
        engine: what starts it, a key of `KEYS`.
        image: a file or folder, or where the engine fetches it.
        binds: the site's folders in it, as SOURCE, SOURCE:PLACE or SOURCE:PLACE:OPTION.
        nv: whether NVIDIA's driver is brought in; Pyxis does that by itself.
    """

    engine: str
    image: str
    binds: tuple[str, ...] = ()
    nv: bool = False

    def _all_binds(self, folders: Sequence[str]) -> list[str]:
        """Return the site's binds, and those of ours that do not lie in one of them.

        Raises:
            RecipeError: a folder's name cannot be told to the engine.
        """
        places = [match[2] or match[1] for bind in self.binds if (match := _BIND.fullmatch(bind))]
        own: list[str] = []
        for folder in folders:
            if not any(Path(folder).is_relative_to(place) for place in (*places, *own)):
                own.append(folder)
        if wrong := next((folder for folder in own if not re.fullmatch(_FOLDER, folder)), None):
            raise RecipeError(
                f"{wrong} cannot be bound into the container: an absolute path without a colon, a comma and a "
                "backslash is legal"
            )
        return [*self.binds, *(f"{folder}:{folder}" for folder in own)]

    def srun_arguments(self, folders: Sequence[str]) -> list[str]:
        """Return what srun is told: Pyxis is a part of srun.

        Args:
            folders: those that ranks need, under the same names as outside.
        """
        if self.engine != PYXIS:
            return []
        return [f"--container-image={self.image}", f"--container-mounts={','.join(self._all_binds(folders))}"]

    def words(self, folders: Sequence[str]) -> list[str]:
        """Return the words before the command that runs inside; for `folders` see `srun_arguments`."""
        if self.engine == PYXIS:
            return []
        binds = [word for bind in self._all_binds(folders) for word in ("--bind", bind)]
        return [self.engine, "exec", *binds, *(["--nv"] if self.nv else []), self.image]

    def check_lines(self) -> list[str]:
        """Return the shell lines that end a job where the node lacks what the container needs."""
        image = shlex.quote(self.image)
        needed = [("command -v python3 >/dev/null", "has no python3, which the batch script runs outside")]
        if self.engine == PYXIS:
            needed.append(("srun --help | grep -q -e --container-image", "has a srun without Pyxis"))
        else:
            needed.append((f"command -v {self.engine} >/dev/null", f"has no {self.engine}"))
        if self.image.startswith("/"):
            needed.append((f"[ -e {image} ]", f"does not see the image {self.image}"))
        return [or_lacks(test, f"{lack}: `container` of the site file needs it") for test, lack in needed]


def read_container(value: object, path: Path) -> Container:
    """Read the key.

    Raises:
        RecipeError: one sentence that names the file, the key in it and what would be legal.
    """

    def refuse(key: str, found: object, legal: str) -> RecipeError:
        return RecipeError(f"{path}: container{key}={found!r} is not legal: {legal}")

    if not isinstance(value, dict):
        raise refuse("", value, "its keys are, such as `container: {image: /shared/glt.sif, nv: true}`")
    engine = value.get("engine", "apptainer")
    if not isinstance(engine, str) or engine not in KEYS:
        raise refuse(".engine", engine, nearest(engine, KEYS))
    if wrong := next((key for key in value if key not in KEYS[engine]), None):
        others = [other for other in KEYS if wrong in KEYS[other]]
        hint = f"with engine: {' or '.join(others)} it is" if others else nearest(wrong, KEYS[engine])
        raise RecipeError(f"{path}: container.{wrong} is not legal with engine: {engine}: {hint}")
    image, nv = value.get("image"), value.get("nv", False)
    if not isinstance(image, str) or not re.fullmatch(_TEXT, image) or image.startswith("-"):
        raise refuse(".image", image, "a file, such as /shared/glt.sif, or what the engine fetches an image by")
    if not isinstance(nv, bool):
        raise refuse(".nv", nv, "true or false is")
    key = "mounts" if engine == PYXIS else "binds"
    return Container(engine, _placed(engine, image, path), _binds(value.get(key, []), key, path), nv)


def _placed(engine: str, image: str, path: Path) -> str:
    """Return an image's absolute path, which the file may say from its own folder on; an address stays as it is."""
    is_file = image.endswith((".sif", ".sqsh", ".img")) or image.startswith(("/", "./", "../", "~"))
    if engine == PYXIS and not is_file:
        return image  # such as nvcr.io#nvidia/pytorch:25.01-py3
    if "://" in image:
        return image
    return str((path.parent / os.path.expanduser(image)).absolute())


def _binds(value: Any, key: str, path: Path) -> tuple[str, ...]:
    found = value if isinstance(value, list) else [None]
    wrong = [bind for bind in found if not isinstance(bind, str) or not _BIND.fullmatch(bind)]
    if wrong:
        raise RecipeError(
            f"{path}: container.{key}={value!r} is not legal: a list of absolute paths is, each as SOURCE, "
            "SOURCE:PLACE or SOURCE:PLACE:ro, without commas and backslashes"
        )
    return tuple(found)
