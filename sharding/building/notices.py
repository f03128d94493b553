"""Counts what a build left out of its source, and what it took although it looks damaged.

The build prints the counts at its end and keeps them in dataset.json under `notes`; sharding.verify repeats them as
warnings for as long as the data set lives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

LEFT_OUT, DOUBTFUL = "left_out", "doubtful"
"""Entries of dataset.json's notes: reason -> {"count": how many, "first": names of the first of them}."""
NAMED = 20
"""How many names are kept for each reason."""
ALIKE = "images of a class whose names differ in case or extension alone"
"""A reason to doubt that sharding.verify reads: the build saw such names as different files of one folder."""
_SAID = {LEFT_OUT: "left out", DOUBTFUL: "taken, but doubtful"}


@dataclass
class Notices:
    """What a build has to say about its source: for each entry and reason a count and the first names.

    A reason is a few words in the plural that continue "12 left out: ", such as "hard links in class tars". What is
    added in the order of the plan does not depend on the number of processes.
    """

    _found: dict[str, dict[str, tuple[int, list[str]]]] = field(default_factory=dict)

    def leave_out(self, reason: str, *names: str) -> None:
        """Count things that the data set does not hold."""
        self._add(LEFT_OUT, reason, len(names), names)

    def doubt(self, reason: str, *names: str) -> None:
        """Count images that the data set holds although something is odd about them."""
        self._add(DOUBTFUL, reason, len(names), names)

    def merge(self, notes: dict[str, Any]) -> None:
        """Add what `notes()` of another build stage returned."""
        for entry, reasons in notes.items():
            for reason, one in reasons.items():
                self._add(entry, reason, one["count"], one["first"])

    def notes(self) -> dict[str, Any]:
        """Return the entries for dataset.json's notes; empty ones are left out."""
        return {
            entry: {reason: {"count": count, "first": first} for reason, (count, first) in sorted(reasons.items())}
            for entry, reasons in sorted(self._found.items())
        }

    def lines(self) -> list[str]:
        """Return one sentence for each reason, for the build's last lines."""
        return list(sentences(self.notes()))

    def _add(self, entry: str, reason: str, count: int, names: Any) -> None:
        if count:
            before, first = self._found.setdefault(entry, {}).get(reason, (0, []))
            self._found[entry][reason] = (before + count, [*first, *names][:NAMED])


def sentences(notes: dict[str, Any]) -> Iterator[str]:
    """Yield one sentence for each reason in dataset.json's notes; other notes are skipped."""
    for entry, said in _SAID.items():
        for reason, one in notes.get(entry, {}).items():
            more = one["count"] - len(one["first"])
            names = ", ".join(one["first"]) + (f" and {more:,} more" if more else "")
            yield f"{one['count']:,} {said}: {reason} ({names})"
