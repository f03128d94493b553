"""Values mean what is typed: on the command line whole words, in files decimal numbers, read by the field's type."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from recipes.common.errors import RecipeError
from recipes.resolve import dump, load_resolved, resolve, source_words
from recipes.schema import PROJECT, Recipe
from recipes.table_layout import load_layout
from slurm.planning.requested_runs import requested_runs
from slurm.site_file import Site

LDAM = ["method.name=ldam", "data=digits_glt"]


def field(recipe: Recipe, dotted: str) -> Any:
    value: Any = recipe
    for part in dotted.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def in_a_file(folder: Path, key: str, text: str) -> str:
    """The word for a recipe file that holds `key: text`, as typed."""
    *sections, last = key.split(".")
    (folder / "mine.yaml").write_text("".join(f"{section}: {{" for section in sections) + f"{last}: {text}")
    with (folder / "mine.yaml").open("a") as file:
        file.write("}" * len(sections) + "\n")
    return f"recipe={folder / 'mine.yaml'}"


# ------------------------------------------------------------------------------------------------- on the command line
@pytest.mark.parametrize(
    "word, value",
    [
        ("schedule.epochs=030", 30),
        ("schedule.epochs=1e2", 100),
        ("seed=0012", 12),
        ("slurm.time=030", 30),
        ("slurm.time=1:30:00", 90),
        ("slurm.mem=064", "64G"),
        ("optim.zero=01", 1),
        ("optim.lr=1e-1", 0.1),
        ("optim.lr=.5", 0.5),
        ("ifl.alpha=[1e-1, 01.5]", [0.1, 1.5]),
        ("augment.hflip=false", False),
        ("slurm.account=00123", "00123"),
        ("slurm.account=1_000", "1_000"),
        ("slurm.account=1e5", "1e5"),
        ("slurm.partition=on", "on"),
        ("slurm.qos=12:30", "12:30"),
        ("slurm.constraint=[a|b]*2", "[a|b]*2"),
        ("slurm.modules=[python/3.10, 3.10, 010]", ["python/3.10", "3.10", "010"]),
        ("slurm.partition=null", None),
        ("log.wandb=2024-01-01", "2024-01-01"),
    ],
)
def test_a_word_is_read_by_the_type_of_its_field(word: str, value: Any) -> None:
    """Numbers are decimal; a text is the word as typed, whatever it looks like; null leaves the field open."""
    found = field(resolve([word]), word.partition("=")[0])
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "name",
    ["20240101", "00123", "a#b", "a: b", "{a", "[b]", "*c", "&d", "!e", '"f"', "'g'", "h=i", "true", "1.10", "%j"],
)
def test_a_folder_is_the_word_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No sign in a folder's name is taken for anything else, in the command, the recipe or the first stage's words."""
    monkeypatch.chdir(tmp_path)
    recipe = resolve([f"data.root={name}"])
    assert recipe.data.root == str(tmp_path / name)
    assert resolve(source_words(recipe, "glt_ifl")).data.root == recipe.data.root
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    assert load_resolved(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize("blank", ["", " ", "\t "])
@pytest.mark.parametrize(
    "key, null",
    [
        *(("data.root", True), ("runs", True), ("ifl", True), ("slurm.partition", True), ("log.keep", True)),
        *(("augment.mixup", True), ("recipe", False), ("seed", False), ("data", False), ("nonsense", False)),
    ],
)
def test_a_value_left_empty_is_refused(key: str, null: bool, blank: str) -> None:
    """An unset variable of the shell, or blanks, neither mean a default nor switch IFL off; the sentence names null
    where the field takes it."""
    with pytest.raises(RecipeError, match=rf"^{re.escape(key)}=('.*')? has no value.*: {re.escape(key)}=VALUE") as said:
        resolve(["recipe=glt_ifl", f"{key}={blank}"])
    assert str(said.value).endswith(f", and so is {key}=null") == null


def test_a_blank_text_of_a_file_is_refused(tmp_path: Path) -> None:
    """A folder of blanks is none."""
    with pytest.raises(RecipeError, match=r"^data\.root= .*mine\.yaml\): it is blank, and a value is legal$"):
        resolve([in_a_file(tmp_path, "data.root", "' '")])


@pytest.mark.parametrize(
    "word", ["optim.lr=1e999", "optim.lr=-1e999", "optim.lr=inf", "optim.lr=nan", "nodes=1e400", "ifl.alpha=[1e999,1]"]
)
def test_a_number_that_is_not_finite_is_refused_as_typed(word: str) -> None:
    """The sentence has the text, and not what it would become."""
    with pytest.raises(RecipeError, match=rf"^{re.escape(word)} \(the command line\): .*finite"):
        resolve(["recipe=glt_ifl", word])


@pytest.mark.parametrize(
    "text, said", [("1.0e+999", r"1\.0e\+999 is too large"), (".inf", r"optim\.lr=\.inf .*finite")]
)
def test_a_number_of_a_file_that_is_not_finite_is_refused_as_typed(tmp_path: Path, text: str, said: str) -> None:
    """In YAML, too."""
    with pytest.raises(RecipeError, match=said):
        resolve([in_a_file(tmp_path, "optim.lr", text)])


@pytest.mark.parametrize(
    "word, legal",
    [
        ("ifl.milestones=030,060", "a list is, such as ifl.milestones=[0.6,0.8]"),
        ("data.mean=0.5", "a list is, such as data.mean=[0.485,0.456,0.406]"),
        ("log.keep=3", "a list is, such as log.keep=[0.5]"),
        ("slurm.modules=gcc", "a list is, such as slurm.modules=[NAME]"),
        ("ifl.milestones=[a,b]", "ifl.milestones.0=a (the command line): a number is legal"),
    ],
)
def test_a_list_that_is_none_is_told_with_a_legal_one(word: str, legal: str) -> None:
    """The example is one of the same key, as a command has it."""
    with pytest.raises(RecipeError, match=rf"{re.escape(legal)}$"):
        resolve(["recipe=glt_ifl", word])


@pytest.mark.parametrize(
    "word, said",
    [
        ("schedule.epochs=", "first.schedule.epochs= has no value"),
        ("schedule.epochs=x", "first.schedule.epochs=x (the command line): "),
        (
            "schedule.epoch=3",
            "unknown key first.schedule.epoch (the command line): did you mean first.schedule.epochs?",
        ),
        ("schedule.epochs", "'first.schedule.epochs' is not of the form key=value"),
        ("batch.bn=7", "first.batch.size=256 is no multiple of first.batch.bn=7"),
        ("ifl.milestones=3", "first.ifl.milestones=3 (the command line) is not legal: a list is, such as first.ifl."),
    ],
)
def test_what_is_wrong_with_a_first_stage_is_told_with_its_keys(word: str, said: str) -> None:
    """A sentence about `first.KEY=VALUE` names the key as the command has it."""
    with pytest.raises(RecipeError, match=rf"^{re.escape(said)}"):
        resolve(["recipe=glt_crt", f"first.{word}"])


def test_make_passes_only_what_was_given() -> None:
    """No target hands a word of the user's on without a value."""
    text = (PROJECT / "Makefile").read_text()
    handed = re.findall(r"(\S*?)\b(\w+)=\$\(\2\)", text)
    assert handed and all(before.endswith(f"$({word}),") for before, word in handed)


@pytest.mark.parametrize(
    "word",
    [
        "schedule.epochs=1_000",
        "schedule.epochs=0x10",
        "schedule.epochs=1:30",
        "seed= 1",
        "seed=\u0663",
        "optim.lr=1_0.5",
    ],
)
def test_what_is_no_decimal_number_is_refused(word: str) -> None:
    """Nothing but digits, sign, point and exponent makes a number; the sentence names key and value as typed."""
    with pytest.raises(RecipeError, match=rf"^{re.escape(word)} \(the command line\): "):
        resolve([word])


@pytest.mark.parametrize(
    "text, value",
    [("1e1", 10.0), ("010", 10.0), (".5", 0.5), ("1_0", None), ("1e999", None), ("true", None), ("0x1", None)],
)
def test_arguments_of_a_method_are_read_as_the_fields_are(tmp_path: Path, text: str, value: float | None) -> None:
    """method.args takes the same numbers as optim.lr, from the command and from a file; others are refused."""
    for words in (
        [*LDAM, f"method.args.scale={text}"],
        [in_a_file(tmp_path, "method.args.scale", text), *LDAM],
        [*LDAM, f"method.args={{scale: {text}}}"],
    ):
        if value is None:
            with pytest.raises(RecipeError, match=r"^method\.args\.scale=.* is not legal: ldam takes a float"):
                resolve(words)
        else:
            assert resolve(words).method.args["scale"] == value


def test_truths_among_the_arguments_stay_what_they_are() -> None:
    """The text false is not taken for true, and a written-out recipe keeps it."""
    for text, value in (("false", False), ("true", True), ("no", False)):
        assert resolve([*LDAM, f"method.args.scaled_scores={text}"]).method.args["scaled_scores"] is value


def test_a_nodes_word_of_a_table_may_be_any_number(tmp_path: Path) -> None:
    """nodes=8.0 beside table= is 8, also where a row has to take fewer."""
    runs = requested_runs([f"runs={tmp_path}", "table=digits_ablation", "seeds=0", "nodes=8.0"], Site()).runs
    assert {run.recipe.nodes for run in runs if run.recipe.recipe != "glt_irm"} == {8}


# ------------------------------------------------------------------------------------------------------------ in files
@pytest.mark.parametrize(
    "key, text, value",
    [
        ("schedule.epochs", "030", 30),
        ("schedule.epochs", "1e1", 10),
        ("slurm.time", "1:30:00", 90),
        ("slurm.mem", "0480", "480G"),
        ("optim.lr", "1e-1", 0.1),
        ("optim.lr", "5e-4", 0.0005),
        ("augment.hflip", "no", False),
        ("slurm.account", "00123", "00123"),
        ("slurm.account", "123", "123"),
        ("slurm.account", "1_000", "1_000"),
        ("slurm.partition", "on", "on"),
        ("log.wandb", "2024-01-01", "2024-01-01"),
        ("slurm.modules", "[010, gcc/12]", ["010", "gcc/12"]),
        ("ifl.alpha", "[.1, 05]", [0.1, 5.0]),
    ],
)
def test_a_file_means_what_stands_in_it(tmp_path: Path, key: str, text: str, value: Any) -> None:
    """YAML 1.1's octal, sexagesimal and other numbers, days and truths do not come in where they were not meant."""
    recipe = resolve([in_a_file(tmp_path, key, text)])
    assert field(recipe, key) == value
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    assert load_resolved(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    "key, text",
    [
        ("schedule.epochs", "1_000"),
        ("schedule.epochs", "0x10"),
        ("schedule.epochs", "1:30"),
        ("schedule.epochs", "true"),
        ("slurm.account", "1.10"),
        ("seed", "2024-01-01"),
    ],
)
def test_a_file_with_another_number_is_refused_by_file_and_key(tmp_path: Path, key: str, text: str) -> None:
    """What is no decimal number, or no text, is refused; also where the command sets another key of the section."""
    word = in_a_file(tmp_path, key, text)
    with pytest.raises(RecipeError, match=rf"^{re.escape(key)}=.* \({re.escape(str(tmp_path / 'mine.yaml'))}\): "):
        resolve([word, "schedule.gamma=0.5", "slurm.partition=gpu"])


@pytest.mark.parametrize("text", ["!!int 0_1", "!!int 030", "!!float 1:30", "!!float 1_0"])
def test_a_tag_brings_no_other_number_in(tmp_path: Path, text: str) -> None:
    """A tag that is written out reads decimal numbers alone."""
    with pytest.raises(RecipeError, match="is no decimal number"):
        resolve([in_a_file(tmp_path, "schedule.epochs", text)])


def test_a_table_with_an_octal_seed_is_refused(tmp_path: Path) -> None:
    """A table's `seeds: [010]` is not seed 8."""
    (tmp_path / "t.yaml").write_text(
        "preset: paper\nseeds: [010]\nrows: [{recipe: glt_ifl, label: a, group: b}]\n"
        "columns: [{data: digits_glt, train: glt, protocol: clt, subset: overall, metric: accuracy}]\n"
    )
    with pytest.raises(ValueError, match=r"seeds\.0"):
        load_layout(tmp_path / "t.yaml")


def test_null_of_a_section_in_a_written_out_recipe_is_refused(tmp_path: Path) -> None:
    """`schedule=null` beside a run's own recipe is refused in a sentence."""
    (tmp_path / "recipe.yaml").write_text(dump(resolve(["recipe=glt_ifl"])))
    for word in ("schedule=null", "batch=null", "schedule=x"):
        with pytest.raises(RecipeError, match="is a section"):
            resolve([f"recipe={tmp_path / 'recipe.yaml'}", word])
