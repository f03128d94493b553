"""What the paper claims: the comparisons of recipes/published/claims.yaml, at their places in a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from analysis.tables import published
from analysis.tables.published import Measure, Place
from recipes.common.cli import nearest
from recipes.common.errors import one_line
from recipes.table_layout import Column, Layout
from recipes.yaml_io import read_yaml

FILE = published.FOLDER / "claims.yaml"
Pair = tuple[str, str]


class Claim(BaseModel):
    """A claim in words, and the comparisons that it is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    says: str
    protocols: list[Literal["clt", "glt", "alt"]]
    order: list[list[str]] = []
    """Methods from low to high: each is above the one before it."""
    not_above: list[Pair] = []
    """(method, other): the method is not above the other."""
    margin: Pair | None = None
    """A gain is no help where it is surely below half of this pair's difference in the paper."""

    @model_validator(mode="after")
    def _has_margin(self) -> Claim:
        if bool(self.not_above) != (self.margin is not None):
            raise ValueError("not_above and margin go together: a gain of what size would be a help?")
        return self

    def pairs(self) -> Iterator[tuple[Pair, bool]]:
        """Yield ((method, other), whether the method is claimed to be above the other)."""
        for low, high in itertools.chain(*map(itertools.pairwise, self.order)):
            yield (high, low), True
        for pair in self.not_above:
            yield pair, False


@dataclass(frozen=True)
class Comparison:
    """One claim about two rows of a table in one column of overall accuracy."""

    claim: str
    """Its name in the file."""
    says: str
    row: int
    other: int
    column: int
    above: bool
    """The row is claimed to be above the other, or else not to be above it."""
    paper: float | None
    """The paper's difference, a fraction; None where it has no such numbers."""
    paper_data: str | None
    margin: float
    """From which gain on a row counts as above the other; 0 where it is claimed to be."""
    margin_of: Pair | None
    """The methods of which that is half the paper's difference; None where the row is claimed to be above."""

    @property
    def papers_gain(self) -> float:
        """The gain of a row that is claimed not to be above another, which the paper has itself and calls none."""
        return max(0.0, self.paper or 0.0)


@cache
def read() -> dict[str, Claim]:
    """Read recipes/published/claims.yaml.

    Raises:
        ValueError: it is not what its head says.
    """
    content = read_yaml(FILE.read_text(encoding="utf-8"))
    try:
        return {name: Claim.model_validate(entry) for name, entry in content.items()}
    except ValidationError as error:
        raise ValueError(one_line(f"{FILE.name}: {error}")) from None


def comparisons(layout: Layout) -> list[Comparison]:
    """Return the comparisons of the layout's claims whose two methods are rows of it, in the order of the file.

    Raises:
        ValueError: the layout names a claim that does not exist.
    """
    known = read()
    if strange := [name for name in layout.claims if name not in known]:
        raise ValueError(f"{layout.name}: claims: {strange[0]} does not exist; {nearest(strange[0], known)}")
    rows = {row.published: index for index, row in enumerate(layout.rows) if row.published is not None}
    measured = [(column.subset, column.metric) for column in layout.columns]
    columns = [index for index, measure in enumerate(measured) if measure == ("overall", "accuracy")]
    numbers = published.by_place(layout)
    return [
        _comparison(layout, numbers, (name, known[name]), (rows[pair[0]], rows[pair[1]], column), above)
        for name in layout.claims
        for pair, above in known[name].pairs()
        if rows.keys() >= set(pair)
        for column in columns
        if layout.columns[column].protocol in known[name].protocols
    ]


def _comparison(
    layout: Layout,
    numbers: dict[Place, published.Number],
    claim: tuple[str, Claim],
    place: tuple[int, int, int],
    above: bool,
) -> Comparison:
    row, other, index = place
    column, (name, entry) = layout.columns[index], claim
    paper = _difference(numbers, (layout.rows[row].published or "", layout.rows[other].published or ""), column)
    margin_of = None if above else entry.margin
    margin = _difference(numbers, margin_of, column) if margin_of else None
    return Comparison(
        claim=name,
        says=entry.says,
        row=row,
        other=other,
        column=index,
        above=above,
        paper=paper[0] if paper else None,
        paper_data=paper[1] if paper else None,
        margin=margin[0] / 2 if margin else 0.0,
        margin_of=margin_of,
    )


def _difference(numbers: dict[Place, published.Number], pair: Pair, column: Column) -> tuple[float, str] | None:
    """Return the paper's difference of two methods and its data; None where it lacks one of the numbers."""
    measure = Measure(column.protocol, "overall", "accuracy")
    one, other = (numbers.get(Place(method, measure)) for method in pair)
    return (round(one.value - other.value, 6), one.data) if one and other else None
