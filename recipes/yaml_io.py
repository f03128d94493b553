"""YAML as recipes and tables use it, safe to read from others."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from recipes.common.errors import RecipeError


class _NoAliases(yaml.parser.Parser, yaml.composer.Composer):
    """Refuses anchors: a few lines of them can mean gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "anchors and aliases (& and *) are not legal here", self.current_event.start_mark
            )
        return super().compose_node(parent, index)


class _Loader(_NoAliases, yaml.SafeLoader):
    """Loads plain values alone, and no number that is not decimal as it is typed.

    YAML 1.1 reads 030 as 24, 1_000 as 1000, 12:00 as 720, 2024-01-01 as a day and `on` as true. Here they are text, and
    the field that they stand for reads it.
    """


class _Texts(_NoAliases, yaml.BaseLoader):
    """Loads lists and mappings of texts, and null."""


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    """Read a number, also where its tag is written out (!!int 030)."""
    if not _NUMBERS[node.tag].fullmatch(node.value):
        raise yaml.constructor.ConstructorError(None, None, f"{node.value} is no decimal number", node.start_mark)
    if node.tag == _INT:
        return loader.construct_yaml_int(node)
    if math.isinf(number := loader.construct_yaml_float(node)) and "inf" not in node.value.lower():
        raise yaml.constructor.ConstructorError(None, None, f"{node.value} is too large a number", node.start_mark)
    return number


def _refused(loader: _Loader, node: yaml.Node) -> None:
    raise yaml.constructor.ConstructorError(
        None, None, f"could not determine a constructor for the tag {node.tag!r}", node.start_mark
    )


_TAG = "tag:yaml.org,2002:"
_NULL, _BOOL, _INT, _FLOAT = (f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float"))
_NUMBERS = {
    _INT: re.compile("-?(0|[1-9][0-9]*)"),
    _FLOAT: re.compile(r"[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN)"),
}
_Loader.yaml_implicit_resolvers = {}  # none of YAML 1.1's
for _tag, _form, _starts in (
    (_NULL, re.compile("~|null|Null|NULL|"), ["~", "n", "N", ""]),
    (_BOOL, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF")),
    (_INT, _NUMBERS[_INT], list("-0123456789")),
    (_FLOAT, _NUMBERS[_FLOAT], list("-+0123456789.")),
    (f"{_TAG}merge", re.compile("<<"), ["<"]),
):
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_form.pattern})$"), _starts)
for _tag in _NUMBERS:
    _Loader.add_constructor(_tag, _number)
_Loader.add_constructor(f"{_TAG}binary", _refused)  # bytes would pass for text
_Texts.add_implicit_resolver(_NULL, re.compile("null$"), ["n"])
_Texts.add_constructor(_NULL, lambda loader, node: None)


def read_yaml(text: str) -> Any:
    """Return the value that a text means.

    Raises:
        ValueError: the text is nested too deeply or holds a value that Python does not have.
        yaml.YAMLError: the text is not YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (AttributeError, LookupError):  # `!!timestamp x`, `!!bool x`
        raise ValueError("a value does not have the form that its tag asks for") from None


def read_texts(text: str) -> Any:
    """Return the list or mapping that a text means, whose values are texts as typed, or None for null.

    Raises:
        ValueError: the text is nested too deeply.
        yaml.YAMLError: the text is not YAML.
    """
    try:
        return yaml.load(text, _Texts)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a file holds.

    Raises:
        RecipeError: the file does not exist, is not readable YAML or holds something else than `key: value` lines.
    """
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} is not readable YAML: {_fault(error)}") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} must hold `key: value` lines")
    return tree


def _fault(error: Exception) -> str:
    """Say what is wrong and in which line, without the excerpt of PyYAML's: a site file may hold a secret there."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    told = ((error.context, error.context_mark), (error.problem, error.problem_mark))
    return ", ".join(f"{text} (line {mark.line + 1})" if mark else text for text, mark in told if text)
