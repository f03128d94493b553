"""Table layouts: `recipes/tables/NAME.yaml`, read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recipes.common import search_path
from recipes.common.cli import nearest
from recipes.common.errors import one_line
from recipes.yaml_io import read_yaml

PROTOCOLS: dict[str, tuple[str, str]] = {
    "clt": ("glt", "test_cbl"),
    "glt": ("glt", "test_gbl"),
    "alt": ("cbl", "test_gbl"),
}
"""Protocol -> (training edition, test split). Other pairs of edition and split are not a protocol."""

SELECTS = ("last", "best")
"""Which model's predictions: those of the last epoch, or of the one best on val."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Row(_Strict):
    """One method: the runs of `recipe` trained on `budget` (a table row; seeds are averaged)."""

    recipe: str
    label: str
    group: str
    published: str | None = None
    """The method's name in the published tables."""
    twin: str | None = None
    """The recipe of the same method without IFL."""
    budget: Literal["paper", "matched"] = "paper"


class Column(_Strict):
    """One number for each row: a metric of a subset under a protocol."""

    data: str
    train: Literal["glt", "cbl"]
    protocol: Literal["clt", "glt", "alt"]
    subset: Literal["many", "medium", "few", "overall", "many_a", "medium_a", "few_a", "overall_a"]
    metric: Literal["accuracy", "precision", "f1", "ece", "harmonic", "worst"]
    """The paper has the first two. `harmonic` and `worst` are over the accuracies of the groups: of the classes (subset
    `overall`) or of the attributes (`overall_a`); the others are of any other subset."""

    @property
    def source(self) -> tuple[str, str]:
        """(data, train): columns with the same source are filled by the same runs."""
        return self.data, self.train

    @property
    def split(self) -> str:
        """The test split."""
        return PROTOCOLS[self.protocol][1]

    @property
    def title(self) -> str:
        """The protocol with what it trains and tests on, for headers and panels."""
        return f"{self.protocol.upper()}: {self.data}, {self.train} to {self.split}"

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is an error."""
        return self.metric == "ece"

    @model_validator(mode="after")
    def _metric_of_subset(self) -> Column:
        over_groups = self.metric in ("harmonic", "worst")
        legal = ("overall", "overall_a") if over_groups else get_args(Column.model_fields["subset"].annotation)[:-1]
        if self.subset not in legal:
            raise ValueError(f"metric {self.metric} has no subset {self.subset}; legal: {', '.join(legal)}")
        return self

    @model_validator(mode="after")
    def _train_of_protocol(self) -> Column:
        train = PROTOCOLS[self.protocol][0]
        if self.train != train:
            raise ValueError(f"protocol {self.protocol} is measured on train: {train}, not {self.train}")
        return self


class Layout(_Strict):
    """A table: which runs (preset, select, seeds) in which rows and columns."""

    name: str
    preset: Literal["paper", "corrected"]
    select: Literal["last", "best"] = "last"
    seeds: list[int] = Field(min_length=1)
    published: list[str] = []
    """Files of recipes/published, without `.csv`, whose numbers are shown beside this table's. They may be of other
    data: then only their shape compares."""
    rows: list[Row] = Field(min_length=1)
    columns: list[Column] = Field(min_length=1)

    @property
    def sources(self) -> list[tuple[str, str]]:
        """The distinct (data, train) of the columns, in their order."""
        return list(dict.fromkeys(column.source for column in self.columns))

    def full_label(self, row: Row) -> str:
        """Return the label as it reads away from its neighbours: `+ IFL` becomes `Baseline + IFL`."""
        baselines = [other.label for other in self.rows if other.recipe == row.twin]
        return f"{baselines[0]} {row.label}" if baselines and row.label.startswith("+") else row.label

    @model_validator(mode="after")
    def _distinct(self) -> Layout:
        for key, entries in (
            ("seeds", self.seeds),
            ("rows", [(row.recipe, row.budget) for row in self.rows]),
            ("columns", self.columns),
        ):
            twice = [str(entry) for i, entry in enumerate(entries) if entry in entries[:i]]
            if twice:
                raise ValueError(f"{key} names {twice[0]} twice; legal is once")
        return self


def load_layout(file: Path) -> Layout:
    """Read the layout in `file`; its name is the file's.

    Raises:
        ValueError: the file is not a YAML mapping, or a key or value in it is not legal.
    """
    try:
        content = read_yaml(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(one_line(f"{file.name}: not readable as YAML ({' '.join(str(error).split())})")) from None
    if not isinstance(content, dict) or "name" in content:
        raise ValueError(f"{file.name}: legal is a mapping of preset, select, seeds, rows, columns")
    try:
        return Layout(name=file.stem, **content)
    except ValidationError as error:
        raise ValueError(one_line(f"{file.name}: {_sentence(error)}")) from None


def available() -> dict[str, Path]:
    """List all layouts as {table name: file}, sorted by name."""
    return dict(sorted(search_path.files(search_path.TABLES).items()))


def _sentence(error: ValidationError) -> str:
    """Say what is wrong first, with its place, and what would be legal."""
    # A mistyped key first: that a key is missing is often only its consequence.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        kinds: dict[str, type[_Strict]] = {"rows": Row, "columns": Column}
        model = kinds.get(str(first["loc"][0]), Layout)
        legal = [key for key in model.model_fields if model is not Layout or key != "name"]
        return f"{place} is no key of a table; {nearest(str(first['loc'][-1]), legal)}"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] in ("missing", "value_error") else f" (given: {first['input']!r})"
    return f"{place}: {message}{given}" if place else message
