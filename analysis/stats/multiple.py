"""Many tests at once: the correction of their p."""

from __future__ import annotations

from collections.abc import Sequence


def holm(ps: Sequence[float | None]) -> list[float]:
    """Correct the p of a family of tests by Holm's step-down method.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statist. 6 (1979).

    Args:
        ps: of all tests of the family; None for one that is still to be made, which counts as 1, so that what is found
            now is not lost when it comes.
    """
    known = [1.0 if p is None else p for p in ps]
    corrected, least = [1.0] * len(known), 0.0
    for place, index in enumerate(sorted(range(len(known)), key=known.__getitem__)):
        least = max(least, min(1.0, known[index] * (len(known) - place)))
        corrected[index] = least
    return corrected
