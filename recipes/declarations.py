"""What a method declares of itself, read from its file without running it.

The launcher must know a method's streams and arguments, and must not import torch.

A method is a file `ifl/methods/NAME.py`, in the project or in a folder of GLT_PATH. Besides its class it may hold these
literals:

    STREAMS = ("uniform",)     what its batches are drawn from, in equal shares: uniform, class_balanced, class_inverse
    FORM = "plain"             the form of network it needs: plain, experts, branches, twin (see ifl/models)
    HEAD = "linear"            the kind of its classifier, where a run that takes another's classifier over, too, can
                               start from one of this kind alone; any word, and without it nothing is compared
    TRAINS = "all"             or "head": the backbone stays as `method.init_from` left it; or "nothing": the run
                               evaluates the network as it starts
    ARGS = {"scale": 30.0}     arguments and their defaults; {"paper": 0.0, "corrected": 0.7} gives each preset its own
    POSITIVE = ("scale",)      those of ARGS that must be more than 0
    LIMITS = {"beta": {"ge": 0, "lt": 1}}   what others of ARGS must be: ge (or more), gt (more than), le, lt
    FRACTIONS = ("from",)      those of ARGS that are a fraction of the epochs: what could be an epoch is refused
    COUNTS = True              its losses depend on the class counts, so `method.legacy_count_order` means something
    SMOOTHS = True             its losses are softmax cross-entropies that take `optim.label_smoothing` in
    REFUSES = {"ifl": "why"}   what it cannot be combined with: ifl, mixup, legacy_count_order
    NEEDS = {"environments": "why"}   what it cannot do without: environments (two of IFL's), whole_groups (a rank sees
                               all rows of a batch-normalisation group, so there are no more ranks than groups), text
                               (class vectors, `method.text`)
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from recipes.backbones.facts import facts_of, library_of
from recipes.common import search_path
from recipes.common.errors import RecipeError, UserError

STREAMS = ("uniform", "class_balanced", "class_inverse")
PRESETS = ("paper", "corrected")
FORMS = ("plain", "experts", "branches", "twin")
REFUSED = ("ifl", "mixup", "legacy_count_order")
NEEDED = ("environments", "whole_groups", "text")
LIMITS = {
    "ge": (operator.ge, "{} or more"),
    "gt": (operator.gt, "more than {}"),
    "le": (operator.le, "at most {}"),
    "lt": (operator.lt, "less than {}"),
}
"""How a number is compared with a limit, and the words for it."""


def literals(path: Path, usual: Mapping[str, Any], refusal: type[UserError] = RecipeError) -> dict[str, Any]:
    """Read the module-level assignments of literals to some names, without running the file.

    Args:
        path: the file.
        usual: the names, and the value of each that the file does not assign.
        refusal: what to raise.

    Raises:
        UserError: the file is no Python, one of them is not a literal, or one of their kind is assigned to a name that
            lacks its S or has one too many; a `refusal` that names the line.
    """
    try:
        module = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""  # none of a file with zero bytes
        raise refusal(f"{path}{line}: no legal Python: {error.msg}") from None
    except (OSError, ValueError) as error:  # no UTF-8
        raise refusal(f"{path} cannot be read as Python: {error}") from None
    found, assigned = dict(usual), list(_assigned(module))
    slips = {name[:-1] if name.endswith("S") else f"{name}S": name for name in usual.keys() - dict(assigned).keys()}
    for name, node in assigned:
        if name not in usual and name not in slips:
            continue
        value = _literal(node)
        if name in slips and type(value) in (type(usual[slips[name]]), list):
            raise refusal(f"{path}, line {node.lineno}: {name} is read by nobody: did you mean {slips[name]}?")
        if name in usual and value is _COMPUTED:
            raise refusal(
                f"{path}, line {node.lineno}: {name} must be a literal, for it is read without running the file"
            )
        if name in usual:
            found[name] = value
    return found


def _assigned(module: ast.Module) -> Iterator[tuple[str, ast.Assign | ast.AnnAssign]]:
    """List the names that a file assigns at module level, each with the statement."""
    for node in module.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield target.id, node


_COMPUTED = object()


def _literal(node: ast.Assign | ast.AnnAssign) -> Any:
    """Return the value that a statement assigns, `_COMPUTED` where it is no literal."""
    try:
        return ast.literal_eval(node.value) if node.value else _COMPUTED
    except (ValueError, TypeError):  # the latter of {[]: 1}
        return _COMPUTED


@dataclass(frozen=True)
class Declaration:
    """A method's literals; the defaults are those of plain cross-entropy."""

    STREAMS: tuple[str, ...] = ("uniform",)
    FORM: str = "plain"
    HEAD: str = ""
    TRAINS: str = "all"
    ARGS: dict[str, Any] = field(default_factory=dict)
    POSITIVE: tuple[str, ...] = ()
    LIMITS: dict[str, dict[str, float]] = field(default_factory=dict)
    FRACTIONS: tuple[str, ...] = ()
    COUNTS: bool = False
    SMOOTHS: bool = False
    REFUSES: dict[str, str] = field(default_factory=dict)
    NEEDS: dict[str, str] = field(default_factory=dict)

    def args(self, preset: str) -> dict[str, Any]:
        """Return the arguments' defaults under a preset."""
        return {key: value[preset] if isinstance(value, dict) else value for key, value in self.ARGS.items()}

    def limits(self, key: str) -> dict[str, float]:
        """Return the limits of an argument, by the words of `LIMITS`."""
        return {**({"gt": 0} if key in self.POSITIVE else {}), **self.LIMITS.get(key, {})}


def within(value: float, limits: Mapping[str, float]) -> bool:
    """Say whether a number keeps its limits."""
    return all(LIMITS[word][0](value, limit) for word, limit in limits.items())


def in_words(limits: Mapping[str, float]) -> str:
    """Return the limits of a number as a part of a sentence."""
    return " and ".join(LIMITS[word][1].format(limit) for word, limit in limits.items())


def declaration(name: str) -> Declaration:
    """Return what the file of a method declares.

    Where there is no such file it is the defaults, for a run folder may outlive its method.

    Raises:
        RecipeError: the file is no Python, or a declaration is not a literal or not one of the legal ones.
    """
    path = search_path.find(search_path.METHODS, name)
    return Declaration() if path is None else declared_in(path)


@cache
def declared_in(path: Path) -> Declaration:
    """Return what the file of a method declares.

    Raises:
        RecipeError: as `declaration`.
    """
    declared = Declaration(**literals(path, vars(Declaration())))
    for key, value, legal in (
        ("FORM", [declared.FORM], FORMS),
        ("TRAINS", [declared.TRAINS], ("all", "head", "nothing")),
        ("COUNTS", [declared.COUNTS], (True, False)),
        ("SMOOTHS", [declared.SMOOTHS], (True, False)),
        ("STREAMS", declared.STREAMS, STREAMS),
    ):
        _check_choice(path, key, value, legal)
    if not isinstance(declared.ARGS, dict):
        raise RecipeError(f"{path}: ARGS={declared.ARGS} is not legal: a mapping such as {{'scale': 30.0}} is")
    for key, value in declared.ARGS.items():
        _check_argument(path, key, value)
    if not isinstance(declared.HEAD, str):
        raise RecipeError(f"{path}: HEAD={declared.HEAD} is not legal: a word is")
    _check_limits(path, declared)
    for name, reasons, legal in (("REFUSES", declared.REFUSES, REFUSED), ("NEEDS", declared.NEEDS, NEEDED)):
        if not isinstance(reasons, dict) or not all(isinstance(text, str) for text in reasons.values()):
            raise RecipeError(f"{path}: {name}={reasons} is not legal: a mapping of words to their reasons is")
        if reasons:
            _check_choice(path, name, tuple(reasons), legal)
    return declared


def _check_limits(path: Path, declared: Declaration) -> None:
    """Check what is said of the numbers among a method's arguments, which their defaults must keep."""

    def within_limits(limits: Mapping[str, float]) -> tuple[str, ...]:
        return tuple(key for key, value in declared.ARGS.items() if _keeps(value, limits))

    if declared.POSITIVE:
        _check_choice(path, "POSITIVE", declared.POSITIVE, within_limits({"gt": 0}))
    if declared.FRACTIONS:
        _check_choice(path, "FRACTIONS", declared.FRACTIONS, within_limits({"ge": 0}))
    if not isinstance(declared.LIMITS, dict):
        raise RecipeError(f"{path}: LIMITS={declared.LIMITS} is not legal: a mapping of arguments to their limits is")
    for key, limits in declared.LIMITS.items():
        are_limits = isinstance(limits, dict) and set(limits) <= set(LIMITS)
        if not are_limits or not all(type(limit) in (int, float) for limit in limits.values()):
            raise RecipeError(
                f"{path}: {key!r}: {limits!r} in LIMITS is not legal: {', '.join(LIMITS)} with a number each are"
            )
        if key in declared.ARGS and key not in within_limits(limits):
            raise RecipeError(f"{path}: {key!r}: {declared.ARGS[key]!r} in ARGS does not keep its LIMITS {limits}")
        _check_choice(path, "LIMITS", (key,), tuple(declared.ARGS))


def _check_choice(path: Path, key: str, value: Any, legal: tuple[Any, ...]) -> None:
    is_listed = isinstance(value, tuple | list) and value and all(word in legal for word in value)
    if not is_listed or len(set(value)) != len(value):
        such = f", as in {key} = ({value!r},)" if isinstance(value, str) and value in legal else ""
        raise RecipeError(f"{path}: {key}={value!r} is not legal; legal: {', '.join(map(str, legal))}{such}")


def _keeps(value: Any, limits: Mapping[str, float]) -> bool:
    """Say whether an argument's default, under both presets, is a number within limits."""
    each = value.values() if isinstance(value, dict) else [value]
    return all(type(one) in (int, float) and within(one, limits) for one in each)


def _check_argument(path: Path, key: Any, value: Any) -> None:
    """Check an argument's default: a number, truth or text, or one for each preset, of one kind."""
    each = list(value.values()) if isinstance(value, dict) else [value]
    are_plain = len({type(one) for one in each}) == 1 and type(each[0]) in (bool, int, float, str)
    are_plain &= not any(isinstance(one, float) and not math.isfinite(one) for one in each)  # 1e999
    if not isinstance(key, str) or not are_plain or (isinstance(value, dict) and set(value) != set(PRESETS)):
        raise RecipeError(
            f"{path}: {key!r}: {value!r} in ARGS is not legal: a finite number, True or False, or a text is, or "
            "one of a kind for each preset, as {'paper': 0.0, 'corrected': 0.7}"
        )


def model_forms(name: str, args: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Return the forms in which a backbone comes: `FORMS` of its file, and always `twin`, two of it side by side.

    Args:
        name: of the model.
        args: of the factory of a library's network.

    Raises:
        RecipeError: there is no such file or network, it is no Python, or its FORMS are not legal.
    """
    if library_of(name):
        return facts_of(name, args or {}).forms
    return forms_in(search_path.named(search_path.MODELS, name, "model.name"))


@cache
def forms_in(path: Path) -> tuple[str, ...]:
    """Return the forms in which the backbone of a file comes.

    Raises:
        RecipeError: as `model_forms`.
    """
    forms = literals(path, {"FORMS": ("plain",)})["FORMS"]
    _check_choice(path, "FORMS", forms, FORMS)
    return (*forms, "twin")
