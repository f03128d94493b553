"""Errors whose message is one sentence for the user, so that no traceback is wanted. Standard library only."""

LONGEST = 1000
"""Characters of a sentence that are shown."""


def printable(sentence: str) -> str:
    """Return the sentence as a terminal can show it: what is not printable is written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence)


def one_line(sentence: str) -> str:
    """Return the sentence printable, and a long one, which quotes something, without its middle."""
    shown = printable(sentence)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 3 :]}"


class UserError(Exception):
    """What the user asked for cannot be done; the message is one sentence that says why and what would be legal."""


class RecipeError(UserError, ValueError):
    """A recipe or command that cannot be run."""

    def __init__(self, sentence: str) -> None:
        super().__init__(one_line(sentence))


class TooManyTasks(RecipeError):
    """A recipe that this number of processes cannot share, and a smaller one perhaps can."""


class DataError(UserError, ValueError):
    """Data on disk are missing, damaged or not what was asked for."""


class PlanError(UserError, ValueError):
    """A batch that cannot be shared out as asked."""


class RunError(UserError, RuntimeError):
    """The run ends here."""


class StatusError(UserError):
    """A run's state cannot be told, or its job cannot be cancelled."""
