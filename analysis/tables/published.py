"""Published numbers, the paper's and later papers', from `recipes/published/*.csv`, at their place in a table."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from recipes.table_layout import Column, Layout, Row

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "published"
DATA = {"ImageNet-GLT": "imagenet_glt", "MSCOCO-GLT": "mscoco_glt"}
"""The paper's name of a data set -> ours."""
NOISE = "noise"
"""The file of how much single runs differ."""


class Measure(NamedTuple):
    """What a column shows, on whatever data; in the words of a layout."""

    protocol: str
    subset: str
    metric: str


class Place(NamedTuple):
    """Where a number belongs in a table: the row of its method, and its column."""

    method: str
    measure: Measure


@dataclass(frozen=True)
class Number:
    """One published cell: a single run's, as a fraction."""

    source: str
    """`table 1` of the paper, or the later paper's name."""
    data: str
    method: str
    measure: Measure
    value: float

    @property
    def place(self) -> Place:
        """Where it belongs in a table."""
        return Place(self.method, self.measure)


def measure_of(column: Column) -> Measure:
    """Return what a layout's column shows."""
    return Measure(column.protocol, column.subset, column.metric)


@cache
def read(name: str) -> tuple[Number, ...]:
    """Read the numbers of `recipes/published/NAME.csv`, in its order.

    Under the ALT protocol the files' many, medium and few are attribute groups: `many_a` and so on.

    Raises:
        ValueError: there is no such file, or it is not what recipes/published/README.md says.
    """
    file = FOLDER / f"{name}.csv"
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return tuple(_number(line) for line in csv.DictReader(lines))
    except FileNotFoundError:
        legal = ", ".join(sorted(path.stem for path in FOLDER.glob("*.csv") if path.stem != NOISE))
        raise ValueError(f"published: {name}: no such file in recipes/published; legal: {legal}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"recipes/published/{name}.csv: a line is not legal ({type(error).__name__}: {error})"
        ) from None


def _number(line: dict[str, str]) -> Number:
    protocol, subset = line["protocol"].lower(), line["subset"]
    return Number(
        source=f"table {line['table']}" if "table" in line else line["source"],
        data=DATA[line["dataset"]],
        method=line["method"],
        measure=Measure(
            protocol, f"{subset}_a" if protocol == "alt" and subset != "overall" else subset, line["metric"]
        ),
        value=float(line["value"]) / 100,
    )


def by_place(layout: Layout) -> dict[Place, Number]:
    """Return the numbers of all files that the layout names, by their place."""
    return {number.place: number for name in layout.published for number in read(name)}


def number_at(numbers: dict[Place, Number], row: Row, column: Column) -> Number | None:
    """Return the published number at a row and column, on whatever data."""
    return numbers.get(Place(row.published or "", measure_of(column)))


class Noise(NamedTuple):
    """How much two single runs differ, 95 % of them by less than `difference`, by published runs: variants of one
    method, so that it holds what the variants change, too.
    """

    difference: float
    """A fraction."""
    runs: int
    source: str


@cache
def noise(data: str, protocol: str, metric: str) -> Noise | None:
    """Return the published noise of overall numbers on a data set; None where nobody published any.

    Of a protocol that it was not published for, the largest of the others stands.
    """
    with (FOLDER / f"{NOISE}.csv").open(encoding="utf-8", newline="") as lines:
        known = [
            (line["protocol"].lower(), Noise(_TWO_RUNS * float(line["std"]) / 100, int(line["runs"]), line["source"]))
            for line in csv.DictReader(lines)
            if (DATA[line["dataset"]], line["metric"]) == (data, metric)
        ]
    own = [found for of_protocol, found in known if of_protocol == protocol]
    return max(own or [found for _, found in known], default=None)


_TWO_RUNS = 1.96 * math.sqrt(2)
"""Times a run's standard deviation: what 95 % of the differences of two runs are below."""


def below_noise(difference: float, data: str, column: Column) -> bool:
    """Say whether published single runs (`Noise`) differ as much as two of the paper's overall numbers.

    Args:
        difference: the paper's, a fraction.
        data: the data set of its numbers.
        column: of what they are.
    """
    found = noise(data, column.protocol, column.metric) if column.subset == "overall" else None
    return found is not None and abs(difference) < found.difference


def noise_sentence(known: Mapping[str, Noise]) -> str:
    """Explain the mark ° of differences below published noise; empty for none.

    Args:
        known: the noise, by protocol as it is printed.
    """
    if not known:
        return ""
    bounds = ", ".join(f"{100 * noise.difference:.2f} points ({name})" for name, noise in sorted(known.items()))
    one = next(iter(known.values()))
    return (
        f"° the paper's difference is below single-run noise, {bounds}: 95 % of the differences of two single runs are "
        f"smaller, by {one.runs} published runs ({one.source}); these are variants of one method, so what they change "
        "is in it, too"
    )


def later_papers(layout: Layout) -> list[Number]:
    """Return later papers' numbers on the layout's data, for its columns."""
    wanted = {(column.data, measure_of(column)) for column in layout.columns}
    return [number for number in read("followups") if (number.data, number.measure) in wanted]
