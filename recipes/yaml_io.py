"""YAML as recipes and tables use it, safe to read from others; and the files of a folder by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from recipes.common.cli import nearest
from recipes.common.errors import RecipeError


class _Loader(yaml.SafeLoader):
    """Loads plain values only.

    Anchors are refused: a few lines of them can mean gigabytes. Numbers to the base 60, as which YAML 1.1 reads the
    time limit 12:00:00 (43200), are text.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "anchors and aliases (& and *) are not legal here", self.current_event.start_mark
            )
        return super().compose_node(parent, index)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int | str:
    return node.value if ":" in node.value else loader.construct_yaml_int(node)


def _refused(loader: _Loader, node: yaml.Node) -> None:
    raise yaml.constructor.ConstructorError(
        None, None, f"could not determine a constructor for the tag {node.tag!r}", node.start_mark
    )


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_Loader.add_constructor("tag:yaml.org,2002:binary", _refused)  # bytes would pass for text


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
        raise RecipeError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} must hold `key: value` lines")
    return {"on" if key is True else key: value for key, value in tree.items()}  # YAML 1.1 reads the word `on` as true


def missing(folder: Path, name: Any, what: str, suffix: str = ".yaml") -> str:
    """Say that `folder` has no file `name.suffix`, and which one is nearest; empty where it has."""
    legal = sorted(path.stem for path in folder.glob(f"*{suffix}") if not path.stem.startswith("_"))
    return "" if name in legal else f"{what}={name} does not exist; {nearest(name, legal)}"


def named(folder: Path, name: Any, what: str) -> Path:
    """Return the file `folder/name.yaml`.

    Args:
        folder: where it lies.
        name: what the user typed.
        what: the key that it was typed for.

    Raises:
        RecipeError: there is no such file; the sentence names the nearest one there is.
    """
    if fault := missing(folder, name, what):
        raise RecipeError(fault)
    return folder / f"{name}.yaml"
