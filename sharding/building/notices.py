"""Counts what a build left out of its source, what it took although it looks damaged, and images that it cannot take.

The build prints the counts at its end and keeps them in dataset.json under `notes`; sharding.verify repeats them as
warnings for as long as the data set lives. After an image that it cannot take it goes on to the others, so that one
start tells of all, and refuses at its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from recipes.common.errors import DataError
from sharding.progress import ProgressBar

LEFT_OUT, DOUBTFUL = "left_out", "doubtful"
"""Entries of dataset.json's notes: reason -> {"count": how many, "first": names of the first of them}."""
NAMED = 20
"""How many names are kept for each reason."""
ENOUGH = 1000
"""Damaged images after which no more are looked for: the source is not what it was taken for."""
ALIKE = "images of a class whose names differ in case or extension alone"
"""A reason to doubt that sharding.verify reads: the build saw such names as different files of one folder."""
_SAID = {LEFT_OUT: "left out", DOUBTFUL: "taken, but doubtful"}


class _Counted(NamedTuple):
    """How many things there are of one reason, and the names of the first `NAMED`."""

    total: int
    first: list[str]


@dataclass
class Notices:
    """What a build has to say about its source: for each entry and reason a count and the first names.

    A reason is a few words in the plural that continue "12 left out: ", such as "hard links in class tars". What is
    added in the order of the plan does not depend on the number of processes.
    """

    _found: dict[str, dict[str, _Counted]] = field(default_factory=dict)

    @classmethod
    def of(cls, notes: Mapping[str, Any]) -> Notices:
        """Return the counts that notes of an earlier stage have, as `added_to` made them."""
        counted = {
            entry: {reason: _Counted(one["count"], list(one["first"])) for reason, one in notes.get(entry, {}).items()}
            for entry in _SAID
        }
        return cls({entry: reasons for entry, reasons in counted.items() if reasons})

    def leave_out(self, reason: str, *names: str) -> None:
        """Count things that the data set does not hold."""
        self._count(LEFT_OUT, reason, names)

    def doubt(self, reason: str, *names: str) -> None:
        """Count images that the data set holds although something is odd about them."""
        self._count(DOUBTFUL, reason, names)

    def added_to(self, notes: Mapping[str, Any]) -> dict[str, Any]:
        """Return dataset.json's notes with these counts added to those of earlier stages; all else in them stays.

        This is the only way out: who put entries side by side would have one stage's counts replace another's.
        """
        added = dict(notes)
        for entry, reasons in sorted(self._found.items()):
            known = dict(notes.get(entry, {}))
            for reason, (count, first) in reasons.items():
                before = known.get(reason, {"count": 0, "first": []})
                known[reason] = {"count": before["count"] + count, "first": [*before["first"], *first][:NAMED]}
            added[entry] = dict(sorted(known.items()))
        return added

    def lines(self) -> list[str]:
        """Return one sentence for each reason."""
        return list(sentences(self.added_to({})))

    def _count(self, entry: str, reason: str, names: Sequence[str]) -> None:
        if names:
            reasons = self._found.setdefault(entry, {})
            count, first = reasons.get(reason, _Counted(0, []))
            reasons[reason] = _Counted(count + len(names), [*first, *names][:NAMED])


def sentences(notes: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence for each reason in dataset.json's notes; other notes are skipped."""
    for entry, said in _SAID.items():
        for reason, one in notes.get(entry, {}).items():
            more = one["count"] - len(one["first"])
            names = ", ".join(one["first"]) + (f" and {more:,} more" if more else "")
            yield f"{one['count']:,} {said}: {reason} ({names})"


class Damaged(DataError):
    """Images whose bytes are damaged, or none of a kind that is taken.

    Attributes:
        images: name -> what is wrong, a few words; not empty.
    """

    def __init__(self, images: Mapping[str, str]) -> None:
        super().__init__(images)
        self.images = dict(images)

    def __str__(self) -> str:
        """Return the sentence that names the images, the first of many."""
        names = list(self.images)
        first = self.images[names[0]]
        if len(names) == 1:
            return f"{names[0]}: {first}"
        count = f"{len(names):,}" + (" or more" if len(names) >= ENOUGH else "")
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        return (
            f"{count} images cannot be taken: {', '.join(names[:NAMED])}{more}; of the first: {first}; once all are "
            "replaced or taken out, the same command goes on"
        )


def add_damaged(found: dict[str, str], more: Mapping[str, str]) -> None:
    """Add damaged images, name -> what is wrong, to those found before; the first is told at once."""
    if more and not found:
        first = Damaged(dict([*more.items()][:1]))
        ProgressBar.write(f"{first} (the build goes on to the other images, and refuses at its end)")
    found |= more
