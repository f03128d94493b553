"""Words that are not legal, and the nearest that are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def nearest(word: Any, legal: Iterable[Any]) -> str:
    """The end of a sentence about an illegal word: `did you mean X? legal: X, Y, Z`, the question only where one is near."""
    words = [str(value) for value in legal]
    close = difflib.get_close_matches(str(word), words, n=1, cutoff=0.5)
    return (f"did you mean {close[0]}? " if close else "") + f"legal: {', '.join(words)}"
