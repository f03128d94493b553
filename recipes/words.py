"""Words that are not legal, the nearest that are, and sentences that quote them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST = 1000


def nearest(word: Any, legal: Iterable[Any]) -> str:
    """The end of a sentence about an illegal word: `did you mean X? legal: X, Y, Z`, the question only where one is near."""
    words = [str(value) for value in legal]
    close = difflib.get_close_matches(str(word), words, n=1, cutoff=0.5)
    return (f"did you mean {close[0]}? " if close else "") + f"legal: {', '.join(words)}"


def one_line(sentence: str) -> str:
    """The sentence as a terminal can show it: what is not printable is written out, and a long quotation is cut in the middle."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 3 :]}"


PIPE = "pipe:"
"""The data root that means the site file's command; there alone the command follows."""


def is_afar(root: object) -> bool:
    """Whether a data root is an address (http, https, or the site file's pipe: command) and not a folder."""
    return str(root).startswith(("http://", "https://", PIPE))
