"""YAML as recipes and tables use it, safe to read from others."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Plain values alone. Anchors are refused: a few lines of them can stand for gigabytes. Numbers to the base 60, as which
    YAML 1.1 reads the time limit 12:00:00 (43200), are text."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "anchors and aliases (& and *) are not legal here", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int | str:
        return node.value if ":" in node.value else super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:binary", _Loader.construct_undefined)  # bytes would pass for text


def read_yaml(text: str) -> Any:
    """The value that a text means. Raises ValueError or yaml.YAMLError where it is none."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
