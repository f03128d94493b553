"""Reads pickles of plain data, and runs nothing of them.

What is trusted: the opcodes of Python's own `pickle`, which by themselves only make numbers, text, bytes and builtin
containers, and numpy's reading of raw numbers of a plain type. Nothing that a file names is imported or called:
`PLAIN` maps the few names that plain data need to functions of this module, a reader may add some of its own, and every
other name ends the reading.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np


class Refused(Exception):
    """The pickle asks for something that plain data do not need."""


class Kind:
    """Stands in for numpy.dtype while its parts are read; `dtype` is the plain type that they name."""

    def __init__(self, name: str, *_: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[biufSU][0-9]{1,6}", name):
            raise Refused(f"an array of type {name!r}, where numbers and text are legal")
        self.name, self.order = name, "="

    @property
    def dtype(self) -> np.dtype:
        """The plain type."""
        return np.dtype(self.order + self.name)


class ArrayClass:
    """Stands in for numpy.ndarray where a file names an array's class; it is never instantiated."""

    def __new__(cls, *_: Any) -> Any:
        """Refuse.

        Raises:
            Refused: always.
        """
        raise Refused("an array made by its class")


def _scalar(kind: Kind, data: bytes) -> Any:
    """Make a scalar, in place of numpy's constructor."""
    return np.frombuffer(data, kind.dtype, count=1)[0].item()


def _mapping(*_: Any) -> dict[Any, Any]:
    """Make a dictionary, in place of OrderedDict's constructor; its content is read later."""
    return {}


def _encode(text: str, codec: str) -> bytes:
    """Encode text, in place of _codecs.encode, by which old protocols write bytes."""
    if codec not in ("latin1", "latin-1"):
        raise Refused(f"text encoded as {codec!r}")
    return text.encode("latin-1")


Names = Mapping[tuple[str, str], Callable[..., Any]]

PLAIN: Names = {
    ("numpy", "ndarray"): ArrayClass,
    ("numpy", "dtype"): Kind,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,
    ("__builtin__", "frozenset"): frozenset,
    ("collections", "OrderedDict"): _mapping,
    ("_codecs", "encode"): _encode,
}
"""Names that files of plain data contain, and what is used in their place."""


class PlainUnpickler(pickle._Unpickler):
    """Python's own unpickler without any imports, calls and states that the file chooses.

    It is the unpickler written in Python, because a reader may find raw arrays between the opcodes.

    Attributes:
        admitted: all names that a file may contain, and what is used in their place.
    """

    admitted: ClassVar[Names] = PLAIN
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        """Return what is used in place of a name.

        Raises:
            Refused: it is not admitted.
        """
        if (module, name) not in self.admitted:
            raise Refused(f"{module}.{name}")
        return self.admitted[module, name]

    def load_build(self) -> None:
        """Give a stand-in its state."""
        state = self.stack.pop()
        top = self.stack[-1]
        if type(top) is Kind and isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            top.order = state[1]
        else:
            self.stack[-1] = self.built(top, state)

    dispatch[pickle.BUILD[0]] = load_build

    def built(self, top: Any, state: Any) -> Any:
        """Return what an object of the reader's own names becomes by its state.

        Raises:
            Refused: it takes no state.
        """
        raise Refused(f"a state for a {type(top).__name__}")
