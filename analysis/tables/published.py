"""The paper's numbers, and later papers', as `recipes/published/*.csv` hold them, at their place in a table."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from recipes.table_layout import Column, Layout, Row

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "published"
DATA = {"ImageNet-GLT": "imagenet_glt", "MSCOCO-GLT": "mscoco_glt"}
"""The paper's name of a data set -> ours."""


@dataclass(frozen=True)
class Number:
    """One published cell: a single run's, as a fraction."""

    source: str
    """`table 1` of the paper, or the later paper's name."""
    data: str
    method: str
    protocol: str
    subset: str
    metric: str
    value: float

    @property
    def place(self) -> tuple[str, str, str, str]:
        """(method, protocol, subset, metric) in the words of a layout."""
        return self.method, self.protocol, self.subset, self.metric


@cache
def read(name: str) -> tuple[Number, ...]:
    """The numbers of `recipes/published/NAME.csv`, in its order.

    Under the ALT protocol the files' many, medium and few are attribute groups: `many_a` and so on.

    Raises:
        ValueError: no such file, or it is not what recipes/published/README.md says.
    """
    file = FOLDER / f"{name}.csv"
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return tuple(_number(line) for line in csv.DictReader(lines))
    except FileNotFoundError:
        legal = ", ".join(sorted(path.stem for path in FOLDER.glob("*.csv")))
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
        protocol=protocol,
        subset=f"{subset}_a" if protocol == "alt" and subset != "overall" else subset,
        metric=line["metric"],
        value=float(line["value"]) / 100,
    )


def beside(layout: Layout) -> dict[tuple[str, str, str, str], Number]:
    """{(method, protocol, subset, metric): number} of all files that the layout names."""
    return {number.place: number for name in layout.published for number in read(name)}


def of_cell(numbers: dict[tuple[str, str, str, str], Number], row: Row, column: Column) -> Number | None:
    """The published number at a row and column, on whatever data."""
    return numbers.get((row.published or "", column.protocol, column.subset, column.metric))


def later(layout: Layout) -> list[Number]:
    """Later papers' numbers on the layout's data under its columns."""
    places = {(column.data, column.protocol, column.subset, column.metric) for column in layout.columns}
    return [number for number in read("followups") if (number.data, *number.place[1:]) in places]
