"""The file of class vectors that `method.text` names: one vector a class, made from text.

A safetensors file with the tensor `vectors`, float32 [K, D], or [K, T, D] with T templates; its metadata have one
entry, `about`, JSON with the lists `class_names` and `templates`, and what the vectors were made by. (Of several
entries the library writes the order by chance, and the same vectors are to be the same file.) An .npz with the arrays
`vectors`, `class_names` and `templates` is legal too.

Axes: K classes, T templates, D feature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from recipes.common.errors import DataError, RunError, one_line
from recipes.common.files import file_digest, write_whole
from sharding.format.index import load_npz

VECTORS, ABOUT, NAMES, TEMPLATES = "vectors", "about", "class_names", "templates"
WANTED = f"a file with `{VECTORS}` float [K, D] or [K, T, D] and K `{NAMES}` is legal, such as python -m ifl.clip makes"


@dataclass(frozen=True)
class ClassVectors:
    """What a file of class vectors holds.

    Attributes:
        vectors_KD: float32 [K, D], each of length 1: of several templates the mean of their unit vectors, brought to
            length 1 again (CLIP, Radford et al., ICML 2021, section 3.1.4).
        class_names: K, in the order of the class ids.
        templates: what the names were put into; empty where the file does not say.
        made_by: what else the file says, such as the model and the digest of its weights.
    """

    vectors_KD: torch.Tensor = field(repr=False)
    class_names: Sequence[str]
    templates: Sequence[str] = ()
    made_by: Mapping[str, str] = field(default_factory=dict)


def write_vectors(path: Path, made: ClassVectors) -> None:
    """Write the file, a safetensors."""
    from safetensors.torch import save

    said = {NAMES: list(made.class_names), TEMPLATES: list(made.templates), **made.made_by}
    write_whole(path, save({VECTORS: made.vectors_KD.contiguous()}, metadata={ABOUT: json.dumps(said)}))


def read_vectors(path: Path, class_names: Sequence[str] | None, sha256: str | None = None) -> ClassVectors:
    """Read the file.

    Args:
        path: of the file.
        class_names: those of the data set, which the file must have in the same order; None: any.
        sha256: the digest that it must have; None: any.

    Raises:
        RunError: it is not such a file, or another one, or one of other classes; one sentence that names it.
    """
    whose = f"method.text={path}"
    try:
        if sha256 not in (None, file_digest(path)):
            raise RunError(f"{whose} is not the file that the run began with: its sha256 is another; put that one back")
        vectors, names, templates, made_by = _arrays(path) if path.suffix == ".npz" else _tensors(path)
    except RunError:
        raise
    except Exception as error:  # libraries raise errors of many types for damaged bytes
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise RunError(one_line(f"{whose} cannot be read: {reason}; {WANTED}")) from None
    if not vectors.is_floating_point() or vectors.dim() not in (2, 3) or 0 in vectors.shape:
        raise RunError(f"{whose} has `{VECTORS}` of {vectors.dtype} {list(vectors.shape)}; {WANTED}")
    if len(vectors) != len(names):
        raise RunError(f"{whose} has {len(vectors)} vectors and {len(names)} {NAMES}; {WANTED}")
    if class_names is not None and (fault := _other_names(names, class_names)):
        raise RunError(f"{whose} is of other classes than the data set: {fault}; one made for it is legal")
    vectors = vectors.float()
    if not torch.isfinite(vectors).all() or (vectors.norm(dim=-1) == 0).any():
        raise RunError(f"{whose} has a vector that is zero or not finite; {WANTED}")
    units = F.normalize(vectors, dim=-1)
    return ClassVectors(
        units if units.dim() == 2 else F.normalize(units.mean(dim=1), dim=-1), names, templates, made_by
    )


def _tensors(path: Path) -> tuple[torch.Tensor, list[str], list[str], dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        said = json.loads((file.metadata() or {}).get(ABOUT, "{}"))
        if VECTORS not in file.keys() or not isinstance(said, dict) or NAMES not in said:  # noqa: SIM118 - no dict
            raise DataError(f"it lacks `{VECTORS}` or, in the entry `{ABOUT}` of its metadata, `{NAMES}`")
        names, templates = _texts(said.pop(NAMES)), _texts(said.pop(TEMPLATES, []))
        return file.get_tensor(VECTORS), names, templates, {key: str(value) for key, value in said.items()}


def _arrays(path: Path) -> tuple[torch.Tensor, list[str], list[str], dict[str, str]]:
    found = load_npz(path)
    if VECTORS not in found or NAMES not in found:
        raise DataError(f"it lacks the array `{VECTORS}` or `{NAMES}`")
    names, templates = (_texts(found.get(key, np.zeros(0, "U1")).tolist()) for key in (NAMES, TEMPLATES))
    return torch.from_numpy(found[VECTORS]), names, templates, {}


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"`{NAMES}` and `{TEMPLATES}` are lists of texts")
    return value


def _other_names(found: Sequence[str], wanted: Sequence[str]) -> str:
    """Say how names differ from the data set's; empty where they do not."""
    if len(found) != len(wanted):
        return f"it has {len(found)}, and the data set {len(wanted)}"
    for number, (name, own) in enumerate(zip(found, wanted, strict=True)):
        if name != own:
            order = " (the same names in another order)" if sorted(found) == sorted(wanted) else ""
            return f"class {number} is {name!r} there and {own!r} here{order}"
    return ""
