"""Errors whose message is one sentence for the user. Standard library only."""

from __future__ import annotations

LONGEST = 1000


def one_line(sentence: str) -> str:
    """The sentence as a terminal can show it: what is not printable is written out, and a long quotation is cut in the middle."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 3 :]}"


class RecipeError(ValueError):
    """A recipe or command that cannot be run; the message is one sentence for the user."""

    def __init__(self, sentence: str) -> None:
        super().__init__(one_line(sentence))


class TooManyTasks(RecipeError):
    """A recipe that this number of processes cannot share, and a smaller one perhaps can."""


class DataError(ValueError):
    """Data on disk is missing, damaged or not what was asked for; the message is one sentence that says which."""


class PlanError(ValueError):
    """A batch that cannot be shared out as asked; the message says what would be legal."""


class RunError(RuntimeError):
    """The run ends here; the message is one sentence that says why and what to do, so no traceback is wanted."""


class StatusError(Exception):
    """A wish that cannot be met, as one sentence."""
