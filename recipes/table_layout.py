"""Table layouts: `recipes/tables/NAME.yaml`, or a file elsewhere, read strictly.

A layout whose columns leave `data` out is open: it is laid out on the data sets that a command names.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recipes.common import search_path
from recipes.common.cli import nearest
from recipes.common.errors import RecipeError, one_line
from recipes.folders import DIGESTS
from recipes.identity import science_keys
from recipes.messages import sentence
from recipes.resolve import FIRST, first_words, has_first_stage, is_of_the_first, of_the_first, without_first
from recipes.schema import Recipe
from recipes.typed_latex import latex_fault, plain_text
from recipes.yaml_io import load_yaml, read_yaml

PROTOCOLS: dict[str, tuple[str, str]] = {
    "clt": ("glt", "test_cbl"),
    "glt": ("glt", "test_gbl"),
    "alt": ("cbl", "test_gbl"),
}
"""Protocol -> (training edition, test split). Other pairs of edition and split are not a protocol."""

SELECTS = ("last", "best")
"""Which model's predictions: those of the last epoch, or of the one best on val."""

OF_THE_TABLE = ("recipe", "data.name", "train", "seed", "preset", "batch.budget")
"""The values of a run that a table says by keys of its own."""

WRITTEN = ("results", "classes", "shape", "rankings", "ledger", "problems", "report", "index")
"""What analysis calls its other files."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _legal_values(values: dict[str, Any]) -> dict[str, Any]:
    """Check what a `set` holds.

    Raises:
        ValueError: a key is none that it may set, or a value is not legal there.
    """
    for name, value in values.items():
        try:
            first_words([f"{name}={value}"])
        except RecipeError as error:
            raise ValueError(str(error)) from None
        key = without_first(name)
        if key in (*OF_THE_TABLE, "data", "seeds", "budget"):
            raise ValueError(f"{name} is said by the table's own keys (recipe, budget, preset, seeds, columns)")
        if fault := ((key, value) != ("ifl", None) and key_fault(key)) or value_fault(key, value, "set"):
            raise ValueError(fault if key == name else of_the_first(fault))
    return values


def key_fault(key: str) -> str:
    """Say that a key is none that decides what a run is, and which would be near; empty where it is one.

    Such are the science keys, and those of files, whose digests are science.
    """
    legal = [*science_keys(Recipe), *DIGESTS]
    if key in legal or key.startswith(("method.args.", "model.args.")):
        return ""
    section, _, leaf = key.rpartition(".")
    near = [word for word in legal if word.rpartition(".")[0] == section] or legal
    elsewhere = [word for word in legal if word.rpartition(".")[2] == leaf]
    hint = f"did you mean {elsewhere[0]}?" if elsewhere else nearest(key, near)
    return f"{key} is no science key of a recipe; {hint}"


def value_fault(key: str, value: Any, origin: str) -> str:
    """Say what is wrong with a value for a recipe's key, by the schema alone; empty where nothing is.

    Args:
        key: dotted.
        value: as a file or a command has it.
        origin: where it stands, for the sentence.
    """
    tree: Any = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    try:
        Recipe.model_validate({"recipe": "row", **tree})
    except ValidationError as error:
        # What other keys then lack or contradict, the recipe may bring.
        own = [found for found in error.errors() if ".".join(map(str, found["loc"])).startswith(key)]
        return sentence(error, {key: origin}) if own else ""
    return ""


def _of_row(values: Mapping[str, Any], recipe: Any) -> dict[str, Any]:
    """Return a table's values as a row of a recipe has them: its first stage, if it has one, is given them as well.

    Else it would not be the table's row of that recipe, and a run would be made that stands in no row.

    Raises:
        ValueError: the recipe is not here, so that nobody knows whether it has a first stage.
    """
    apart = [key for key in values if is_of_the_first(key)]
    try:
        has_first = bool(apart) and has_first_stage(recipe)
    except RecipeError as error:
        raise ValueError(f"set: {apart[0]} is for first stages, too, and {error}") from None
    return {**values, **({FIRST + key: values[key] for key in apart} if has_first else {})}


Values = Annotated[dict[str, Any], AfterValidator(_legal_values)]
"""Values of a recipe by their dotted keys."""


Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""As `Recipe.seed` takes it."""


class Row(_Strict):
    """One method: the runs of `recipe` trained on `budget`, with the values of `set` (seeds are averaged)."""

    recipe: str
    label: str
    group: str
    published: str | None = None
    """The method's name in the published tables."""
    twin: str | None = None
    """The row that this one is tested against: its recipe, or its label where several rows have that recipe. Mostly the
    same method without IFL."""
    budget: Literal["paper", "matched"] = "paper"
    set: Values = {}
    """Values over the recipe's own, by their dotted keys: any that are science, and files that count by their digests;
    with `first.` before it, those of its first stage that a command may set. The table's `set` is in it."""
    seeds: list[Seed] | None = Field(default=None, min_length=1)
    """The row's own seeds, where they are not the table's."""
    tried: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Among how many values val chose those of the row, by data set, where it is not as `tried_in` says."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes its runs another row's or not: recipe, budget, and `set` as text."""
        return self.recipe, self.budget, json.dumps(self.set, sort_keys=True)

    def tried_on(self, data: str) -> int:
        """Return among how many values val chose those of the row on a data set; a `set` is none of the recipe's."""
        return self.tried.get(data, 1 if self.set else tried_in(data).get(self.recipe, 1))

    @property
    def set_words(self) -> list[str]:
        """The values of `set` as words of a command."""
        return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in self.set.items()]

    @field_validator("label")
    @classmethod
    def _said(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("an empty label is not legal: any text is that names the row")
        return text

    @field_validator("label", "group")
    @classmethod
    def _settable(cls, text: str) -> str:
        if fault := latex_fault(text):
            raise ValueError(fault)
        return text


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
    like: str | None = None
    """The layout of recipes/tables whose keys count where this one does not say them. Its `rows` may then be the keys
    of some rows to change, by recipe."""
    preset: Literal["paper", "corrected"]
    select: Literal["last", "best"] = "last"
    seeds: list[Seed] = Field(min_length=1)
    published: list[str] = []
    """Files of recipes/published, without `.csv`, whose numbers are shown beside this table's. They may be of other
    data: then only their shape compares."""
    claims: list[str] = []
    """Claims of recipes/published/claims.yaml that are judged, over the rows that `published` names."""
    caption: str | None = None
    """The table's caption, instead of one that says what the numbers are."""
    titles: dict[str, str] = {}
    """What stands over columns instead of a protocol's, subset's, metric's or data set's own name."""
    set: Values = {}
    """Values of all rows, as a row's own, which come before them; first stages have them, too."""
    rows: list[Row] = Field(min_length=1)
    columns: list[Column] = Field(min_length=1)

    @property
    def sources(self) -> list[tuple[str, str]]:
        """The distinct (data, train) of the columns, in their order."""
        return list(dict.fromkeys(column.source for column in self.columns))

    def twin_of(self, row: Row) -> Row | None:
        """Return the table's row that another is tested against; None where it has none, or it is not in the table.

        Of several rows of the recipe that `twin` names, one of the same values and budget comes before one of the same
        values, one without values, one of the paper's budget, and the first.
        """
        others = [other for other in self.rows if other.key != row.key and row.twin is not None]
        of_recipe = [other for other in others if other.recipe == row.twin]
        if not of_recipe:
            return next((other for other in others if other.label == row.twin), None)
        return min(
            of_recipe,
            key=lambda other: (
                bool(other.set) and other.set != row.set,
                other.set != row.set,
                other.budget != row.budget,
                other.budget != "paper",
            ),
        )

    def twin_recipe(self, row: Row) -> str | None:
        """Return the recipe of the row's twin, which need not be in the table; None where it has none."""
        twin = self.twin_of(row)
        return twin.recipe if twin else row.twin

    def full_label(self, row: Row, latex: bool = False) -> str:
        """Return the label as it reads away from its neighbours: `+ IFL` becomes `Baseline + IFL`, and where another
        group has such a row, too, `Ensemble: Baseline + IFL`.

        Args:
            row: one of the table's.
            latex: as typed, instead of as `plain_text`; it then stands below its group, which is not named.
        """

        def parts(one: Row) -> list[str]:
            twin = self.twin_of(one)
            return [twin.label, one.label] if twin and one.label.startswith("+") else [one.label]

        own = parts(row)
        if latex:
            return " ".join(own)
        alike = (other for other in self.rows if other.label == row.label and other.group != row.group)
        group = [f"{row.group}:"] if row.group and any(parts(other) == own for other in alike) else []
        return " ".join(map(plain_text, [*group, *own]))

    def seeds_of(self, row: Row) -> list[int]:
        """Return the seeds that a row averages, its own or the table's."""
        return row.seeds or self.seeds

    def with_seeds(self, seeds: list[int]) -> Layout:
        """Return the same table with these seeds in all rows."""
        rows = [row.model_copy(update={"seeds": None}) for row in self.rows]
        return self.model_copy(update={"seeds": seeds, "rows": rows})

    def outside(self, recipe: str, group: str) -> Row:
        """Return the row of a twin that is no row of the table: it has the table's values, as rows do."""
        return Row(recipe=recipe, label=recipe, group=group, set=_of_row(self.set, recipe))

    def tried_on(self, data: str) -> dict[str, int]:
        """Return among how many values val chose those of each row on a data set, by full label, the most first."""
        counts = {self.full_label(row): row.tried_on(data) for row in self.rows}
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def refuse_unknown_twins(self, recipes: Collection[str]) -> None:
        """Refuse a twin that is neither a row of the table nor one of `recipes`: its row would silently have no test.

        Raises:
            ValueError: there is one.
        """
        for row in self.rows:
            if row.twin is not None and self.twin_of(row) is None and row.twin not in recipes:
                legal = dict.fromkeys([*(other.label for other in self.rows if other is not row), *sorted(recipes)])
                raise ValueError(
                    f"table {self.name}: twin of {row.label}: {row.twin} is no row of the table and no recipe; "
                    f"{nearest(row.twin, legal)}"
                )

    def words(self, row: Row, source: tuple[str, str]) -> list[str]:
        """Return the command of a row's runs on (data, train), without a seed."""
        data, train = source
        axes = [f"recipe={row.recipe}", f"data={data}", f"train={train}", f"preset={self.preset}"]
        return [*axes, f"batch.budget={row.budget}", *row.set_words]

    @model_validator(mode="before")
    @classmethod
    def _handed_on(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Put the table's `set` into each row's; what is not of its kind yet is left to the checks of the fields."""
        values, rows = content.get("set"), content.get("rows")
        if not (isinstance(values, dict) and isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
            return content
        for key in map(str, values):
            if key.startswith(("ifl", FIRST)):
                lacking = "first stage" if key.startswith(FIRST) else "IFL"
                raise ValueError(f"set: {key} is not for rows without {lacking}: it is legal in the `set` of a row")
        return {
            **content,
            "rows": [
                {**row, "set": {**_of_row(values, row.get("recipe")), **own}}
                if isinstance(own := row.get("set", {}), dict)
                else row
                for row in rows
            ],
        }

    @model_validator(mode="after")
    def _distinct(self) -> Layout:
        own: list[tuple[str, list[Any]]] = [(f"seeds of {row.label}", row.seeds or []) for row in self.rows]
        for key, entries in (
            *own,
            ("seeds", self.seeds),
            ("rows", [row.key for row in self.rows]),
            ("columns", self.columns),
        ):
            twice = [str(entry) for i, entry in enumerate(entries) if entry in entries[:i]]
            if twice:
                raise ValueError(f"{key} names {twice[0]} twice; legal is once")
        return self

    @model_validator(mode="after")
    def _methods_of_claims(self) -> Layout:
        named = [row.published for row in self.rows if row.published is not None] if self.claims else []
        if twice := next((method for method in named if named.count(method) > 1), None):
            raise ValueError(f"claims: two rows are published: {twice}, so nobody can say which a claim means")
        return self

    @model_validator(mode="after")
    def _titles(self) -> Layout:
        words = [
            word for column in self.columns for word in (column.protocol, column.subset, column.metric, column.data)
        ]
        for word in self.titles:
            if word not in words:
                raise ValueError(
                    f"titles names {word}, which no column has; {nearest(word, list(dict.fromkeys(words)))}"
                )
        if fault := next(filter(None, map(latex_fault, (self.caption or "", *self.titles.values()))), ""):
            raise ValueError(f"caption, titles: {fault}")
        return self

    @model_validator(mode="after")
    def _twins(self) -> Layout:
        for row in self.rows:
            recipes = {other.recipe for other in self.rows}
            labels = [other.label for other in self.rows]
            if row.twin is None or row.twin in recipes:
                continue
            if labels.count(row.twin) > 1:
                raise ValueError(f"twin of {row.label}: {labels.count(row.twin)} rows have the label {row.twin}")
            if row.twin == row.label:
                raise ValueError(f"twin of {row.label}: a row is not its own twin")
            if row.twin not in labels and not re.fullmatch(r"\w+", row.twin):
                raise ValueError(
                    f"twin of {row.label}: {row.twin} is no recipe and no label; {nearest(row.twin, labels)}"
                )
        return self


def load_layout(file: Path, data: Sequence[str] = (), known: Sequence[str] = ()) -> Layout:
    """Read the layout in `file`; its name is the file's.

    Args:
        file: the layout.
        data: the data sets of an open layout, in the order of the table's blocks.
        known: the data sets that a sentence about a missing `data=` names; default: those of recipes/data.

    Raises:
        ValueError: the file is not a YAML mapping, or a key or value in it is not legal; the layout is open and `data`
            is empty, or it names its data and `data` is not.
    """
    content = _content(file)
    if _leaves_data_out(content):
        if not data:
            raise ValueError(
                f"table={file.stem} is open, so data=NAME (or NAME,NAME) says on which data it is laid out; "
                f"known here: {', '.join(known or known_data())}"
            )
        content["columns"] = [
            {**column, "data": column.get("data", name)} if isinstance(column, dict) else column
            for place, name in enumerate(data)
            for column in content["columns"]
            if place == 0 or "data" not in column
        ]
    elif data:
        raise ValueError(
            f"data={','.join(data)}: the table {file.stem} names its data itself; open tables, which take data=, are "
            f"{', '.join(open_tables())}"
        )
    try:
        layout = Layout(name=file.stem, **content)
    except ValidationError as error:
        raise ValueError(one_line(f"{file.name}: {_sentence(error)}")) from None
    for name in dict.fromkeys(column.data for column in layout.columns):
        tried_in(name)
    if not data:  # an open layout may know data sets on which it is not laid out now
        _refuse_other_data(layout)
    return layout


def tried_in(data: str) -> Mapping[str, int]:
    """Return among how many values val chose those of each recipe on a data set, as recipes/data/NAME.yaml says.

    Raises:
        ValueError: it says so of what is no recipe, or a count is none.
    """
    file = search_path.find(search_path.DATA, data)
    return _tried(file, file.stat().st_mtime_ns) if file else {}


@functools.cache  # every row asks
def _tried(file: Path, mtime_ns: int) -> Mapping[str, int]:
    tried, where = load_yaml(file).get("tried", {}), search_path.shown(file)
    if not isinstance(tried, dict):
        raise ValueError(f"{where}: tried={tried!r} is not legal: counts by recipe are, such as {{glt_tade: 8}}")
    for recipe, count in tried.items():
        if type(count) is not int or count < 1:
            raise ValueError(f"{where}: tried.{recipe}={count!r} is not legal: a whole number from 1 is")
        if fault := search_path.fault(search_path.RECIPES, recipe, f"{where}: tried: recipe"):
            raise ValueError(fault)
    return tried


def _refuse_other_data(layout: Layout) -> None:
    """Refuse `tried` on a data set that neither the table nor anybody knows.

    Raises:
        ValueError: a row has it.
    """
    known = list(dict.fromkeys([*(column.data for column in layout.columns), *known_data()]))
    for row in layout.rows:
        if strange := next((name for name in row.tried if name not in known), None):
            raise ValueError(f"{layout.name}: tried of {row.label} names {strange}; {nearest(strange, known)}")


def find_layout(name: str, data: Sequence[str] = (), known: Sequence[str] = ()) -> Layout:
    """Read the layout that `table=` names: one of recipes/tables, or a file's path (with / or .yaml).

    `data` and `known` are as for `load_layout`.

    Raises:
        ValueError: there is none, or as `load_layout`.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        file = Path(name).expanduser()
        if not file.is_file():
            raise ValueError(f"table={name}: there is no such file")
    else:
        files = available()
        if name not in files:
            raise ValueError(f"table={name} does not exist; {nearest(name, files)}, or the path of a file of yours")
        file = files[name]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", file.stem) or file.stem in WRITTEN:
        raise ValueError(
            f"table={name}: the files made of a table have its name, so letters, digits and _ . - are legal in it, and "
            f"none of {', '.join(WRITTEN)}"
        )
    return load_layout(file, data, known)


def data_names(text: str) -> list[str]:
    """Return the names in a command's `data=NAME,NAME`.

    Raises:
        ValueError: one is empty, holds what no name has, or is there twice.
    """
    names = text.split(",")
    if not all(re.fullmatch(r"\w+", name) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"data={text} is not legal: names of data sets, each once, are, such as data=birds,digits_glt")
    return names


def open_tables() -> list[str]:
    """List the layouts that take `data=`; a file that cannot be read is none."""
    return [name for name, file in available().items() if is_open(file)]


def is_open(file: Path) -> bool:
    """Say whether the layout in `file` takes `data=`; one that cannot be read does not."""
    try:
        return _leaves_data_out(_content(file))
    except ValueError:
        return False


def known_data() -> list[str]:
    """List the data sets that have a file of values in recipes/data, the project's or the user's."""
    return sorted(search_path.files(search_path.DATA))


def available() -> dict[str, Path]:
    """List all layouts as {table name: file}, sorted by name."""
    return dict(sorted(search_path.files(search_path.TABLES).items()))


def _content(file: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the mapping that a layout's file holds, over that of the layout which it is like.

    Args:
        file: the layout.
        above: those that are like it, which it may not be like itself.

    Raises:
        ValueError: it is none, there is no such other, or a row that it changes is not that one's.
    """
    own = _own_content(file)
    if "like" not in own:
        return own
    files = {name: other for name, other in available().items() if other not in (file, *above)}
    like, rows = own["like"], own.get("rows")
    if not isinstance(like, str) or like not in files:
        raise ValueError(f"{file.name}: like: {like} names no table; {nearest(str(like), list(files))}")
    liked = _content(files[like], (file, *above))
    if own.get("set") and isinstance(liked.get("rows"), list):
        # Its rows have other values than those among which val chose.
        rows_there = [row for row in liked["rows"] if isinstance(row, dict)]
        liked["rows"] = [{key: row[key] for key in row if key != "tried"} for row in rows_there]
    if isinstance(rows, dict) and isinstance(liked.get("rows"), list):
        own["rows"] = _changed(liked["rows"], rows, f"{file.name}: rows")
    return {**liked, **own}


def _changed(rows: Sequence[Mapping[str, Any]], changes: Mapping[Any, Any], where: str) -> list[dict[str, Any]]:
    """Return rows with other values of some keys, or without some.

    Args:
        rows: those of the table that is liked.
        changes: the keys of a row by its recipe; None leaves it out.
        where: begins sentences.

    Raises:
        ValueError: not exactly one row has a recipe, or a change is no mapping.
    """
    recipes = [str(row.get("recipe")) for row in rows]
    for recipe, change in changes.items():
        if recipe not in recipes:
            raise ValueError(f"{where}: {recipe} is the recipe of no row; {nearest(str(recipe), recipes)}")
        if (count := recipes.count(recipe)) > 1:
            raise ValueError(f"{where}: {recipe} is the recipe of {count} rows; legal is a list of all rows")
        if change is not None and not isinstance(change, dict):
            raise ValueError(f"{where}: {recipe}: {change!r} is not legal: keys of a row, or null to leave it out, are")
    found = [(row, changes.get(recipe, {})) for row, recipe in zip(rows, recipes, strict=True)]
    return [{**row, **change} for row, change in found if change is not None]


def _own_content(file: Path) -> dict[str, Any]:
    """Return the mapping that a layout's file holds itself.

    Raises:
        ValueError: it is none.
    """
    try:
        content = read_yaml(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(one_line(f"{file.name}: not readable as YAML ({' '.join(str(error).split())})")) from None
    if not isinstance(content, dict):
        raise ValueError(f"{file.name}: legal is a mapping of preset, select, seeds, rows, columns")
    if "name" in content:
        raise ValueError(f"{file.name}: name is not legal: a table's name is that of its file")
    return content


def _leaves_data_out(content: Mapping[str, Any]) -> bool:
    """Say whether any column leaves `data` out."""
    columns = content.get("columns")
    return isinstance(columns, list) and any(isinstance(column, dict) and "data" not in column for column in columns)


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
