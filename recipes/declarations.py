"""What a method declares of itself, read from its file without running it.

The launcher must know a method's streams and arguments, and must not import torch.

A method is a file `ifl/methods/NAME.py`. Besides its class it may hold these literals:

    STREAMS = ("uniform",)     what its batches are drawn from, in equal shares: uniform, class_balanced, class_inverse
    FORM = "plain"             the form of network it needs: plain, experts, branches, twin (see ifl/models)
    TRAINS = "all"             or "head": the backbone stays as `method.init_from` left it
    ARGS = {"scale": 30.0}     arguments and their defaults; {"paper": 0.0, "corrected": 0.7} gives each preset its own
    COUNTS = True              its losses depend on the class counts, so `method.legacy_count_order` means something
    REFUSES = {"ifl": "why"}   what it cannot be combined with: ifl, mixup, legacy_count_order
    NEEDS = {"environments": "why"}   what it cannot do without: environments (two of IFL's), whole_groups (a rank sees
                               all rows of a batch-normalisation group, so there are no more ranks than groups)
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

STREAMS = ("uniform", "class_balanced", "class_inverse")
FORMS = ("plain", "experts", "branches", "twin")
IFL = Path(__file__).resolve().parent.parent / "ifl"


def _literals(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Read the module-level assignments of literals to some names."""
    found: dict[str, Any] = {}
    for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id in names:
            try:
                found[target.id] = ast.literal_eval(node.value)
            except ValueError:
                raise ValueError(
                    f"{path}: {target.id} must be a literal, for it is read without running the file"
                ) from None
    return found


@dataclass(frozen=True)
class Declaration:
    """A method's literals; the defaults are those of plain cross-entropy."""

    STREAMS: tuple[str, ...] = ("uniform",)
    FORM: str = "plain"
    TRAINS: str = "all"
    ARGS: dict[str, Any] = field(default_factory=dict)
    COUNTS: bool = False
    REFUSES: dict[str, str] = field(default_factory=dict)
    NEEDS: dict[str, str] = field(default_factory=dict)

    def args(self, preset: str) -> dict[str, Any]:
        """Return the arguments' defaults under a preset."""
        return {key: value[preset] if isinstance(value, dict) else value for key, value in self.ARGS.items()}


@cache
def declaration(name: str, folder: Path = IFL / "methods") -> Declaration:
    """Return what the file of a method declares.

    Where there is no such file it is the defaults, for a run folder may outlive its method.

    Raises:
        ValueError: a declaration is not a literal, or not one of the legal ones.
    """
    path = folder / f"{name}.py"
    if not path.is_file():
        return Declaration()
    declared = Declaration(**_literals(path, tuple(Declaration.__dataclass_fields__)))
    for key, value, legal in (
        ("FORM", [declared.FORM], FORMS),
        ("TRAINS", [declared.TRAINS], ("all", "head")),
        ("COUNTS", [declared.COUNTS], (True, False)),
        ("STREAMS", declared.STREAMS, STREAMS),
    ):
        if not value or not set(value) <= set(legal) or len(set(value)) != len(value):
            raise ValueError(f"{path}: {key}={value} is not legal; legal: {', '.join(map(str, legal))}")
    return declared


@cache
def model_forms(name: str, folder: Path = IFL / "models") -> tuple[str, ...]:
    """Return the forms in which a backbone comes: `FORMS` of its file, and always `twin`, two of it side by side."""
    return (*_literals(folder / f"{name}.py", ("FORMS",)).get("FORMS", ("plain",)), "twin")
