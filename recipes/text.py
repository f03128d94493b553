"""YAML that comes from others, and sentences that may quote it."""

from __future__ import annotations

from typing import Any

import yaml

LONGEST = 1000


class _Loader(yaml.SafeLoader):
    """Plain values alone. Anchors are refused: a few lines of them can stand for gigabytes. Numbers to the base 60, as which
    YAML 1.1 reads the time limit 12:00:00 (43200), are text."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "anchors and aliases (& and *) are not legal here", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int | str:
        return node.value if ":" in node.value else super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(text: str) -> Any:
    """The value that a text means. Raises ValueError or yaml.YAMLError where it is none."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def one_line(sentence: str) -> str:
    """The sentence as a terminal can show it: what is not printable is written out, and a long quotation is cut in the middle."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 3 :]}"
