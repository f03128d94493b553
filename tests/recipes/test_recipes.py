"""Recipes: what beats what, what is refused and how, and that a run keeps its name."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from recipes.common import search_path
from recipes.common.errors import RecipeError
from recipes.resolve import dump, load_resolved, merge, resolve
from recipes.schema import PROJECT, Ifl, Optim, Recipe, Section, operation, science
from recipes.table_layout import Layout
from tests.helpers import shipped


def refused(*words: str) -> str:
    """The sentence with which a command is refused: one line, whatever was wrong."""
    with pytest.raises(RecipeError) as caught:
        resolve(words)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def written(folder: Path, text: str, name: str = "my_row.yaml") -> str:
    """The word `recipe=FILE` for a recipe file with this text."""
    (folder / name).write_text(text)
    return f"recipe={folder / name}"


@pytest.fixture()
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of recipes/ that a test may change, used in place of the project's."""
    copy = tmp_path / "project"
    shutil.copytree(PROJECT / "recipes", copy / "recipes")
    (copy / "ifl").symlink_to(PROJECT / "ifl")
    monkeypatch.setattr(search_path, "PROJECT", copy)
    return copy


def leaves(section: type[BaseModel] = Recipe, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, field) of every value of the schema."""
    for key, field in section.model_fields.items():
        kinds = [
            kind
            for kind in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        if kinds:
            yield from leaves(kinds[0], (*path, key))
        else:
            yield (*path, key), field


LEAVES = list(leaves())


# --------------------------------------------------------------------------------------------------------- merge order
LAYERS = ("schema", "data", "preset", "recipe", "on preset", "on data", "on edition", "command")


@pytest.mark.parametrize("top", range(len(LAYERS)), ids=LAYERS)
def test_each_layer_beats_the_one_before(project: Path, top: int) -> None:
    """schema < data/NAME.yaml < preset < recipe < on: PRESET < on: NAME < on: NAME/EDITION < command line: with layers
    up to any one that set the same key, that one's value holds, and a key beside it that only a lower layer sets
    stays."""
    value = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8][top]
    files = [project / "recipes" / name for name in ("data/digits_glt.yaml", "presets/paper.yaml", "glt_baseline.yaml")]
    for layer, file in enumerate(files, start=1):
        tree = yaml.safe_load(file.read_text())
        if top >= layer:
            tree.setdefault("optim", {})["lr"] = (layer + 1) / 10
        if layer == 1:
            tree["log"]["digest_every"] = 77
        if layer == 3:
            blocks = {
                "imagenet_glt": {"optim": {"lr": 9}},
                "digits_glt/glt": {"optim": {"lr": 9}},
                "corrected": {"optim": {"lr": 9}},
            }
            blocks |= {"digits_glt": {"optim": {"lr": 0.6}}} if top >= 5 else {}  # in whatever order they stand
            blocks |= {"digits_glt/cbl": {"optim": {"lr": 0.7}}} if top >= 6 else {}
            blocks |= {"paper": {"optim": {"lr": 0.5}}} if top >= 4 else {}
            tree["on"] = blocks
        file.write_text(yaml.safe_dump(tree))
    recipe = resolve(["data=digits_glt", "train=cbl", *(["optim.lr=0.8"] if top >= 7 else [])])
    assert recipe.optim.lr == value
    assert recipe.log.digest_every == 77


def test_on_blocks_hold_for_their_data_and_edition_only(tmp_path: Path) -> None:
    """An `on:` block, written as the word people write (YAML 1.1 reads `on` as true), changes the recipe on its data
    set, or on one edition of it, and nowhere else."""
    word = written(tmp_path, "on:\n  digits_glt: {schedule: {epochs: 7}}\n  digits_glt/cbl: {schedule: {epochs: 9}}\n")
    epochs = {
        (data, train): resolve([word, f"data={data}", f"train={train}"]).schedule.epochs
        for data in ("digits_glt", "imagenet_glt")
        for train in ("glt", "cbl")
    }
    assert epochs == {
        ("digits_glt", "glt"): 7,
        ("digits_glt", "cbl"): 9,
        ("imagenet_glt", "glt"): 100,
        ("imagenet_glt", "cbl"): 100,
    }


def test_axes_may_stand_in_the_recipe_and_the_command_beats_them(tmp_path: Path) -> None:
    """A recipe may name its data, edition and preset, which then choose the files that are merged; the command line's
    choice beats it.
    """
    word = written(tmp_path, "data: digits_glt\ntrain: cbl\npreset: corrected\n")
    mine, other = resolve([word]), resolve([word, "data=imagenet_glt", "train=glt", "preset=paper"])
    assert (mine.data.name, mine.train, mine.preset, mine.model.name, mine.optim.momentum) == (
        "digits_glt",
        "cbl",
        "corrected",
        "small_resnet",
        0.9,
    )
    assert (other.data.name, other.train, other.preset, other.model.name, other.optim.momentum) == (
        "imagenet_glt",
        "glt",
        "paper",
        "resnext50_32x4d",
        0.0,
    )


def test_presets_are_expanded_and_explicit_keys_win() -> None:
    """A preset's choices stand written out in the recipe; an explicit key beats the preset and leaves its other
    choices.
    """
    paper, corrected = (
        resolve(["recipe=glt_ifl", "data=digits_glt"]),
        resolve(["recipe=glt_ifl", "data=digits_glt", "preset=corrected"]),
    )
    assert paper.ifl and corrected.ifl
    assert (paper.preset, paper.optim.momentum, paper.ifl.unseen, paper.batch.replacement) == (
        "paper",
        0.0,
        "zero",
        True,
    )
    assert (corrected.preset, corrected.optim.momentum, corrected.ifl.unseen, corrected.batch.replacement) == (
        "corrected",
        0.9,
        "class_mean",
        False,
    )
    mixed = resolve(
        ["recipe=glt_ifl", "data=digits_glt", "preset=corrected", "optim.momentum=0", "batch.replacement=true"]
    )
    assert mixed.ifl and (mixed.optim.momentum, mixed.batch.replacement, mixed.ifl.unseen) == (0.0, True, "class_mean")
    one_stream = resolve(["recipe=glt_baseline", "data=digits_glt"])
    assert one_stream.batch.replacement is False and one_stream.ifl is None
    assert len({paper.run_name, corrected.run_name, mixed.run_name}) == 3
    for same in (paper, corrected):  # null asks for the preset's choice
        assert (
            resolve(
                [
                    "recipe=glt_ifl",
                    "data=digits_glt",
                    f"preset={same.preset}",
                    "optim.momentum=null",
                    "ifl.unseen=null",
                    "batch.replacement=null",
                ]
            )
            == same
        )


@pytest.mark.parametrize(
    "text, words, environments",
    [
        ("", [], None),
        ("ifl: {environments: 2}", [], 2),
        ("ifl: {}", [], 2),
        ("ifl: null", [], None),
        ("", ["ifl.environments=4"], 4),
        ("", ["ifl={}"], 2),
        ("ifl: {environments: 2}", ["ifl=null"], None),
        ("ifl: {environments: 2}", ["ifl.environments=4", "ifl=null"], None),
        ("ifl: null", ["ifl.alpha=[0.1, 0.2]"], 2),
        ("ifl: {environments: 2}\non: {digits_glt: {ifl: null}}", [], None),
        ("on: {digits_glt: {ifl: {environments: 4}}}", [], 4),
        ("on: {digits_glt: {ifl: null}, digits_glt/glt: {ifl: {environments: 1}}}", [], 1),
        ("ifl: {environments: 2}\non: {imagenet_glt: {ifl: null}}", [], 2),
    ],
)
def test_ifl_switch(tmp_path: Path, text: str, words: list[str], environments: int | None) -> None:
    """IFL is on if the recipe, its `on:` blocks or the command line say so, whoever speaks last, and null switches it
    off.
    """
    recipe = resolve([written(tmp_path, text or "method: {name: ce}"), "data=digits_glt", *words])
    assert (recipe.ifl and recipe.ifl.environments) == environments


@pytest.mark.parametrize("preset", ["paper", "corrected"])
def test_data_and_preset_never_switch_ifl(project: Path, preset: str) -> None:
    """Values for the `ifl` block in a data file or a preset hold where IFL is on, and never switch it on or off."""
    data = project / "recipes" / "data" / "digits_glt.yaml"
    data.write_text(data.read_text() + "\nifl: {center_lr: 0.125}\n")
    off, on = (
        resolve([f"recipe={name}", "data=digits_glt", f"preset={preset}"]) for name in ("glt_baseline", "glt_ifl")
    )
    assert off.ifl is None
    assert on.ifl and on.ifl.center_lr == 0.125
    data.write_text(data.read_text().replace("ifl: {center_lr: 0.125}", "ifl: null"))
    assert resolve(["recipe=glt_ifl", "data=digits_glt", f"preset={preset}"]).ifl is not None


# ------------------------------------------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    "words, sentence",
    [
        (["recipe=glt_randag"], "recipe=glt_randag does not exist; did you mean glt_randaug?"),
        (["data=digit_glt"], "data=digit_glt does not exist; did you mean digits_glt?"),
        (["data.name=imagnet_glt"], "data=imagnet_glt does not exist; did you mean imagenet_glt?"),
        (["preset=papr"], "preset=papr does not exist; did you mean paper?"),
        (["train=gtl"], "train=gtl (the command line) is not legal: did you mean glt?"),
        (["cluster=locl"], "cluster=locl (the command line) is not legal: did you mean local?"),
        (["model.name=small_resnt"], "model.name=small_resnt does not exist; did you mean small_resnet?"),
        (["method.name=c"], "method.name=c does not exist; did you mean ce?"),
        (["optim.precision=bf17"], "did you mean bf16?"),
        (["optim.zero=2"], "optim.zero=2 (the command line) is not legal: legal: 0, 1"),
        (["batch.budget=match"], "did you mean matched?"),
        (["ifl.unseen=zeros"], "did you mean zero?"),
        (["ifl.center=cosin"], "did you mean cosine?"),
        (["ifl.centre=l2"], "unknown key ifl.centre (the command line): did you mean ifl.center?"),
        (["sead=1"], "unknown key sead (the command line): did you mean seed?"),
        (["schedule.epoch=3"], "did you mean schedule.epochs?"),
        (["slurm.partion=gpu"], "did you mean slurm.partition?"),
        (["tasks_pernode=3"], "did you mean tasks_per_node?"),
        (["log.evry=3"], "did you mean log.every?"),
        (["seed=minus"], "seed=minus (the command line): input should be a valid integer"),
        (["seed=-1"], "seed=-1 (the command line): input should be greater than or equal to 0"),
        (["seed=4294967296"], "less than 4294967296"),
        (["seed.x=1"], "seed={'x': '1'} (the command line): input should be a valid integer"),
        (["seed=2001-99-99"], "seed=2001-99-99 (the command line): input should be a valid integer"),
        (["seed=!!int 1"], "seed=!!int 1 (the command line): input should be a valid integer"),
        (["nodes=0"], "nodes=0 (the command line): input should be greater than or equal to 1"),
        (["optim.lr=0"], "optim.lr=0 (the command line): input should be greater than 0"),
        (["optim.lr=nan"], "finite"),
        (["optim.lr=1e999"], "finite"),
        (["optim.lr=.nan"], "optim.lr=.nan (the command line): input should be a valid number"),
        (["optim.momentum=1"], "optim.momentum=1 (the command line): input should be less than 1"),
        (["batch.draws_per_epoch=-1"], "greater than 0"),
        (["data.mean=[0.5]"], "data.mean"),
        (["data.mean=[2, 0, 0]"], "less than or equal to 1"),
        (["batch.size=100"], "batch.size=100 is no multiple of batch.bn=128"),
        (
            ["ifl.environments=3"],
            "batch.bn=128 is no multiple of the 3 environments, and batch.size=258 batch.bn=129 is legal",
        ),
        (["ifl.alpha=[1]"], "one alpha for each milestone is legal"),
        (["ifl.alpha=[1, -1]"], "must not be negative"),
        (["ifl.milestones=[0.8, 0.6]"], "must rise"),
        (["ifl.milestones=[0.6, 0.6]"], "must rise"),
        (["recipe=glt_ifl", "schedule.epochs=2"], "are the epochs [1, 1] of schedule.epochs=2"),
        (["recipe=glt_ifl", "ifl.milestones=[0.5, 100]"], "lie before the last"),
        (["ifl=true"], "ifl=true (the command line)"),
        (["seed"], "'seed' is not of the form key=value"),
        (["=1"], "is not of the form key=value"),
        (["optim..lr=1"], "is not of the form key=value"),
        (["recipe=no/such.yaml"], "no/such.yaml does not exist"),
        (["recipe="], "recipe= has no value"),
        (["on.digits_glt.seed=3"], "unknown key on"),
        (["recipe=null"], "recipe=null does not exist"),
        (
            ["data.mean=[.5,.5]"],
            "data.mean=[0.5,0.5] (the command line) is not legal: as many values as in data.mean=[",
        ),
        (["data.std=[1,1,1,1]"], "data.std=[1,1,1,1] (the command line) is not legal: as many values as in data.std=["),
        (["data.std=[0,0,0]"], "data.std.0=0 (the command line): input should be greater than 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_name_key_value_and_nearest(words: list[str], sentence: str) -> None:
    """What is wrong is refused in one sentence with the key, the value, where it came from, and the nearest legal word
    or the limit.
    """
    assert sentence in refused(*words)


@pytest.mark.parametrize(
    "words, advice",
    [
        ([], ["batch.size=258", "batch.bn=129"]),
        (["data=digits_glt"], ["batch.size=132", "batch.bn=33"]),
        (["data=fashion_glt"], ["batch.size=66", "batch.bn=33"]),
        (["batch.bn=0"], ["batch.size=258"]),
        (["batch.bn=0", "batch.micro=32"], ["batch.size=264", "batch.micro=33"]),
        (["batch.bn_by=env"], ["batch.size=384"]),
    ],
)
def test_three_environments_as_advised_are_legal(words: list[str], advice: list[str]) -> None:
    """The advice that the refusal of three environments gives works, keeps about as many rows in as many groups, and
    names no groups that a network without batch normalisation has not."""
    assert refused("ifl.environments=3", *words).endswith(f", and {' '.join(advice)} is legal")
    assert resolve(["ifl.environments=3", *words, *advice]).streams == 3


def test_one_environment_to_a_group_needs_groups() -> None:
    """Without batch normalisation there are none, but of micro batches, which the sentence names."""
    words = ["recipe=glt_ifl", "batch.bn_by=env", "batch.bn=0"]
    assert "batch.bn=0 leaves no groups: batch.micro is legal there" in refused(*words)
    assert "is no multiple of 2 environments x batch.micro=256" in refused(*words, "batch.size=256", "batch.micro=256")
    assert resolve([*words, "batch.size=256", "batch.micro=64"]).batch.group == 64


@pytest.mark.parametrize("path", [path for path, _ in LEAVES], ids=".".join)
def test_a_slip_in_any_key_names_the_key(path: tuple[str, ...]) -> None:
    """A letter doubled or lost in any key of the schema is refused by a sentence that names the right key."""
    section, key = ".".join(path[:-1]), path[-1]
    for slip in (key + key[-1], key[:-1]):
        if slip in {other[-1] for other, _ in LEAVES if other[:-1] == path[:-1]}:
            continue
        dotted = f"{section}.{slip}".lstrip(".")
        message = refused(f"{dotted}=1")
        assert f"unknown key {dotted} (the command line): did you mean {'.'.join(path)}?" in message


def test_errors_of_a_file_name_the_file(tmp_path: Path) -> None:
    """A wrong key or value in a recipe or in its `on:` block is said to come from there."""
    word = written(tmp_path, "optim: {lrr: 1}")
    assert f"unknown key optim.lrr ({tmp_path}/my_row.yaml): did you mean optim.lr?" in refused(word)
    assert "(on: digits_glt)" in refused(written(tmp_path, "on: {digits_glt: {seed: x}}"), "data=digits_glt")


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"\xff\xfe\x00\x01", "is not readable YAML"),
        (b"a: [", "is not readable YAML"),
        (b"seed: 2001-99-99", "input should be a valid integer"),
        (b"- 1\n- 2\n", "must hold `key: value` lines"),
        (b"", "must hold `key: value` lines"),
        (b"data: {1: 2}", "keys should be strings"),
        (b"{a: 1}: 2", "is not readable YAML"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, content: bytes, sentence: str) -> None:
    """A recipe file that is not text, not YAML or not a mapping is refused in one line that begins with its name."""
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    message = refused(f"recipe={path}")
    assert str(path) in message and sentence in message


def test_a_folder_or_nothing_for_a_recipe_is_refused(tmp_path: Path) -> None:
    """Neither a folder nor a missing file is a recipe."""
    assert str(tmp_path) in refused(f"recipe={tmp_path}/")
    assert refused(f"recipe={tmp_path}/none.yaml") == f"{tmp_path}/none.yaml does not exist"


# ------------------------------------------------------------------------------------------------------------- hostile
HOSTILE = [
    "a;touch canary",
    "a\ntouch canary",
    "a$(touch canary)",
    "a`touch canary`",
    "--wrap=touch canary",
    "-x",
    "a b",
    "a|b",
    "a&b",
    "a>b",
    "a'b",
    'a"b',
    "a\\b",
    "a%j",
    "a#b",
    "a\0b",
    "",
    " a",
    "a\n",
    "a\u2028b",
    "../a",
    "é",
    "~",
    "a*",
    "a(b",
    "a{b",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_slurm_values_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Whatever a shell, sbatch or a path would read as more than a word is refused for every text value of the slurm
    section, from the command line and from a file.
    """
    monkeypatch.chdir(tmp_path)
    texts = [key for key, field in type(Recipe().slurm).model_fields.items() if "str" in str(field.annotation)]
    assert set(texts) == {"partition", "account", "qos", "constraint", "mem", "modules", "gpus_per_node", "options"}
    for key in [*(key for key in texts if key != "options"), "time"]:  # tests/slurm/test_site_options.py has those
        if key == "constraint" and value in ("a|b", "a&b", "a*", "a(b"):
            continue  # signs between node features, which the batch file quotes
        given = [value] if key == "modules" else value
        refused(f"slurm.{key}={json.dumps(given)}")
        refused(written(tmp_path, json.dumps({"slurm": {key: given}})))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "key",
    [
        "setup",
        "teardown",
        "python",
        "additional_parameters",
        "srun_args",
        "comment",
        "a\ntouch canary",
        "wrap",
        "_target_",
    ],
)
def test_no_other_slurm_keys(tmp_path: Path, key: str) -> None:
    """There is no key through which shell text or another sbatch option could come; of `setup` the sentence says where
    it belongs.
    """
    assert ("in the site file alone" if key == "setup" else "unknown key slurm.") in refused(
        written(tmp_path, json.dumps({"slurm": {key: "touch canary"}}))
    )


@pytest.mark.parametrize(
    "value, minutes",
    [
        ("90", 90),
        ("02:30:00", 150),
        ("12:00:00", 720),
        ("36:00:00", 2160),
        ("00:00:30", 1),
        ("00:59:01", 60),
        ("1-12", 2160),
        ("2-00:30", 2910),
        ("1-00:00:01", 1441),
        ("0-01", 60),
    ],
)
def test_time_limits_in_all_their_forms(tmp_path: Path, value: str, minutes: int) -> None:
    """A time limit is understood in minutes and in SLURM's forms (12:00:00 is no number to the base 60), from the
    command and from a file, and stands in minutes in the recipe, seconds as a begun minute."""
    warning = "slurm.signal_delay_s=9"
    assert (
        resolve([f"slurm.time={value}", warning]).slurm.time
        == resolve([written(tmp_path, f"slurm: {{time: {value}}}"), warning]).slurm.time
        == minutes
    )


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "-5",
        "12:30",
        "1:2",
        "00:00:00",
        "10:60:00",
        "10:00:60",
        "1-24",
        "1-",
        "-1",
        "1d",
        "1.5",
        "true",
        "[1]",
        "UNLIMITED",
        "400-00",
        "99999999",
        "1-1-1",
        "1:00:00:00",
        "\u0661",
    ],
)
def test_other_time_limits_are_refused(value: str) -> None:
    """What is no time limit, nothing, or could mean hours as well as minutes is refused, and the sentence names key and
    value.
    """
    sentence = refused(f"slurm.time={value}")
    assert "slurm.time=" in sentence or "time=true" in sentence
    if ":" in value and value != "00:00:00":
        assert "HH:MM:SS" in sentence


@pytest.mark.parametrize(
    "value, memory",
    [
        ("480", "480G"),
        ("480G", "480G"),
        ("512M", "512M"),
        ("2T", "2T"),
        ("0", "0"),
        ("'64'", None),
        ("64GB", None),
        ("-1", None),
        ("0G", None),
        ("1.5", None),
        ("true", None),
        ("64g", None),
        ("[1]", None),
        ("12345678", None),
    ],
)
def test_memory(value: str, memory: str | None) -> None:
    """Memory is a number with its unit or of GB; anything else is refused by a sentence that shows legal values."""
    if memory is None:
        assert "480G" in refused(f"slurm.mem={value}")
    else:
        assert resolve([f"slurm.mem={value}"]).slurm.mem == memory


def test_the_warning_comes_before_the_limit() -> None:
    """A warning as long as the time limit or longer is refused, whichever layer set the two, and the sentence names
    both.
    """
    assert resolve(["slurm.time=2", "slurm.signal_delay_s=119"]).slurm.signal_delay_s == 119
    for words in (["slurm.time=2"], ["slurm.time=2", "slurm.signal_delay_s=121"]):
        sentence = refused(*words)
        assert "slurm.signal_delay_s=" in sentence and "slurm.time=2 " in sentence and "120 seconds" in sentence


def test_default_folders_are_written_out() -> None:
    """The folders of data and runs that a command leaves open stand in the recipe as absolute paths: its job runs from
    a copy of the project, next to which they are not.
    """
    recipe = resolve(["data=digits_glt"])
    assert (recipe.data.root, recipe.runs) == (str(PROJECT / "data"), str(PROJECT / "runs"))


@pytest.mark.parametrize(
    "value", ["../up", "a/b", "A", "a b", "a-b", "a.b", "..", "/etc/passwd", "a\n", "$(touch canary)"]
)
def test_names_cannot_leave_their_folders(tmp_path: Path, value: str) -> None:
    """Names that become file and folder names (recipe, data, model, method) are plain words; what is not is refused."""
    for text in ({"recipe": value}, {"data": {"name": value}}, {"model": {"name": value}}, {"method": {"name": value}}):
        with pytest.raises(RecipeError):
            resolve([written(tmp_path, json.dumps(text))])


@pytest.mark.parametrize(
    "tag",
    [
        '!!python/object/apply:os.system ["touch canary"]',
        '!!python/object/new:os.system ["touch canary"]',
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object:os.system {}",
        "!custom x",
    ],
)
def test_yaml_tags_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str) -> None:
    """A YAML tag that would make a Python object is refused, in a word of the command and in a file, and nothing
    runs.
    """
    monkeypatch.chdir(tmp_path)
    assert "input should be a valid integer" in refused(f"seed={tag}")
    assert refused(f"ifl.alpha=[{tag}]")
    assert "is not readable YAML" in refused(written(tmp_path, f"seed: {tag}\n"))
    assert not (tmp_path / "canary").exists()


# ---------------------------------------------------------------------------------------------------- given back, named
OVERRIDES = [
    [],
    ["preset=corrected", "seed=3", "train=cbl"],
    ["schedule.epochs=10", "optim.lr=1e-3", "batch.budget=matched", "optim.momentum=0.5"],
    ["ifl.environments=4", "ifl.milestones=[0.5, 0.75, 0.9]", "ifl.alpha=[0.1, 0.2, 0.3]", "ifl.unseen=class_mean"],
    ["ifl=null", "nodes=2", "tasks_per_node=2", "slurm.partition=gpu", "runs=here", "data.root=there", "cluster=local"],
]


@pytest.mark.parametrize("words", OVERRIDES, ids=lambda words: " ".join(words) or "plain")
@pytest.mark.parametrize("data", shipped.DATA)
@pytest.mark.parametrize("name", shipped.RECIPES)
def test_resolved_recipe_given_back_is_the_same_run(tmp_path: Path, name: str, data: str, words: list[str]) -> None:
    """The recipe.yaml of a run, given back by its path, resolves to an equal recipe with an equal run name; so it does
    to whoever reads the run folder; and it holds every key of the schema."""
    try:
        recipe = resolve([f"recipe={name}", f"data={data}", *words])
    except RecipeError as error:  # not every method goes with IFL, nor every batch with 4 environments
        assert any(word.startswith("ifl") for word in words) and re.search(
            "cannot be combined with (ifl: |method.eval_of)|environments", str(error)
        )
        return
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    again = resolve([f"recipe={tmp_path / 'recipe.yaml'}"])
    assert again == recipe and again.run_name == recipe.run_name and dump(again) == dump(recipe)
    assert load_resolved(tmp_path / "recipe.yaml") == recipe
    tree = yaml.safe_load(dump(recipe))
    for path, _ in LEAVES:
        if path[0] == "ifl" and recipe.ifl is None:
            assert tree["ifl"] is None
            continue
        value = tree
        for key in path:
            value = value[key]


def test_resolved_recipe_takes_overrides(tmp_path: Path) -> None:
    """A run's recipe can be repeated with another seed or more nodes: the seed changes the name, nodes do not, nothing
    else changes.
    """
    recipe = resolve(["recipe=glt_ifl", "data=digits_glt"])
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    other = resolve([f"recipe={tmp_path / 'recipe.yaml'}", "seed=1", "nodes=4"])
    assert other.hash8 == recipe.hash8 and other.run_name == recipe.run_name.replace("-s0-", "-s1-")
    assert other.model_copy(update={"seed": 0, "nodes": 1}) == recipe


def test_damaged_resolved_recipe_is_refused_by_name(tmp_path: Path) -> None:
    """A run folder's recipe with a foreign key is a RecipeError with the file's name."""
    (tmp_path / "recipe.yaml").write_text(dump(resolve(["data=digits_glt"])) + "extra: 1\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: unknown key extra"):
        load_resolved(tmp_path / "recipe.yaml")


PINNED = [
    "data=digits_glt",
    "data.image_size=32",
    "data.test_resize=32",
    "data.mean=[0.5, 0.5, 0.5]",
    "data.std=[0.25, 0.25, 0.25]",
    "augment.crop_scale=[0.6, 1.0]",
    "augment.hflip=false",
    "model.name=small_resnet",
    "schedule.epochs=30",
    "batch.size=128",
    "batch.bn=32",
    "optim.lr=0.1",
    "optim.weight_decay=5e-4",
]
KNOWN = {
    "glt_baseline": "glt_baseline-digits_glt-glt-s0-67920804",
    "glt_ifl": "glt_ifl-digits_glt-glt-s0-4b826e7f",
    "glt_randaug": "glt_randaug-digits_glt-glt-s0-578464b3",
    "glt_randaug_ifl": "glt_randaug_ifl-digits_glt-glt-s0-2e422cfc",
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_run_names(name: str) -> None:
    """The names of these runs never change: a new field, another order of keys or another library must not orphan old
    run folders. (The data set's own settings, which may be tuned, are pinned here.)"""
    assert resolve([f"recipe={name}", *PINNED]).run_name == KNOWN[name]


YOUNGER = {
    "glt_irm": ("method.args", "lag", 0, 1, "699973a7"),
    "glt_bbn": ("model", "init", "own", "torch", "2ec4a378"),
    "glt_randaug": ("augment", "randaug_pixels", "own", "package", "7c8091a8"),
    "glt_randaug_ifl": ("augment", "randaug_pixels", "own", "package", "f6dc69ab"),
    "glt_ride_ifl_randaug": ("augment", "randaug_pixels", "own", "package", "21adc04e"),
}
"""What later code chooses for a row of the paper preset: section, key, what older runs did, what the reference does,
and the hash of an older run on ImageNet-GLT."""


def value_at(recipe: Recipe, section: str, key: str) -> Any:
    tree: Any = recipe.model_dump()
    for part in section.split("."):
        tree = tree[part]
    return tree[key]


@pytest.mark.parametrize("name", YOUNGER)
def test_the_references_numbers_are_the_paper_presets(name: str) -> None:
    """`paper` does as the reference, under a name of its own; `corrected` does as before, and so do digits_glt, whose
    runs are older, and BBN on small images, whose network has a start of its own."""
    section, key, before, reference, _ = YOUNGER[name]
    for data in shipped.DATA:
        for preset in ("paper", "corrected"):
            words = [f"recipe={name}", f"data={data}", f"preset={preset}"]
            found, older = resolve(words), resolve([*words, f"{section}.{key}={before}"])
            papers = data in ("imagenet_glt", "mscoco_glt")
            changes = preset == "paper" and (papers or (data == "fashion_glt" and name != "glt_bbn"))
            assert value_at(found, section, key) == (reference if changes else before)
            assert (found.hash8 == older.hash8) != changes


@pytest.mark.parametrize("name", YOUNGER)
def test_a_run_that_is_older_than_a_key_goes_on_as_it_began(tmp_path: Path, name: str) -> None:
    """Its recipe.yaml lacks the key: taken up, or repeated by its path, it is the same run as ever, with the numbers
    that it began with, whatever the preset chooses for new ones."""
    section, key, before, _, hash8 = YOUNGER[name]
    tree = yaml.safe_load(dump(resolve([f"recipe={name}", "data=imagenet_glt"])))
    holder = tree
    for part in section.split("."):
        holder = holder[part]
    del holder[key]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    taken_up, repeated = load_resolved(path), resolve([f"recipe={path}"])
    assert taken_up == repeated and value_at(taken_up, section, key) == before
    assert taken_up.run_name == f"{name}-imagenet_glt-glt-s0-{hash8}"


def test_committed_runs_are_their_recipes_as_they_stand() -> None:
    """The bundled runs' folders have the names that their recipes make today, so that a command finds them."""
    folders = [path.parent for path in (PROJECT / "examples").glob("*/*/recipe.yaml")]
    for folder in folders:
        ran = load_resolved(folder / "recipe.yaml")
        words = [f"recipe={ran.recipe}", f"data={ran.data.name}", f"train={ran.train}", f"seed={ran.seed}"]
        words += [f"preset={ran.preset}", f"batch.budget={ran.batch.budget}"]
        assert folder.name == resolve(words).run_name == ran.run_name
    assert folders


def other_value(value: Any) -> Any:
    """A value that differs from `value` and from the field's default; hash8 needs no legal one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 17
    if isinstance(value, dict):
        return {**value, "other": 1}
    return [*value, 1] if isinstance(value, list | tuple) else f"{value}_other"


@pytest.mark.parametrize("name", ["glt_baseline", "glt_randaug_ifl"])
def test_hash_changes_with_science_and_with_nothing_else(name: str) -> None:
    """Each single science field of the schema changes hash8, each to another value; no operation field does, so nodes,
    workers, roots and logging never make another run."""
    recipe = resolve([f"recipe={name}", "data=digits_glt"])
    hashes = {(): recipe.hash8}
    for path, field in LEAVES:
        changed = recipe.model_copy(deep=True)
        section = changed
        for key in path[:-1]:
            section = getattr(section, key)
        if section is None:
            continue
        setattr(section, path[-1], other_value(getattr(section, path[-1])))
        if field.json_schema_extra["science"]:
            hashes[path] = changed.hash8
        else:
            assert changed.hash8 == recipe.hash8, path
    assert len(set(hashes.values())) == len(hashes)
    assert len(hashes) > 15


def test_switching_ifl_changes_the_hash() -> None:
    """An `ifl` block with nothing but defaults is another run than none."""
    recipe = Recipe()
    assert recipe.model_copy(update={"ifl": Ifl()}).hash8 != recipe.hash8


def test_a_field_added_later_keeps_old_names() -> None:
    """A new science field leaves hash8 as it is while it has its default, in old sections and in new ones, and changes
    it otherwise.
    """

    class MoreOptim(Optim):
        nesterov: bool = science(False, "new")

    class Extra(Section):
        power: float = science(1.0, "new")

    class More(Recipe):
        optim: MoreOptim = MoreOptim()
        extra: Extra = Extra()
        colour: str = science("none", "new")
        place: str = operation("here", "new")

    old = resolve(["recipe=glt_randaug_ifl", "data=digits_glt"])
    new = More.model_validate(old.model_dump())
    assert new.hash8 == old.hash8
    for words in ({"colour": "red"}, {"optim": {**old.optim.model_dump(), "nesterov": True}}, {"extra": {"power": 2}}):
        assert More.model_validate({**old.model_dump(), **words}).hash8 != old.hash8


def test_axes_stand_in_the_name() -> None:
    """Recipe, data, edition and seed stand in the run's name, so that no two of them share a folder."""
    places = [
        (name, data, train, seed)
        for name in shipped.RECIPES
        for data in shipped.DATA
        for train in ("glt", "cbl")
        for seed in (0, 1)
    ]
    names = [resolve([f"recipe={n}", f"data={d}", f"train={t}", f"seed={s}"]).run_name for n, d, t, s in places]
    assert len(set(names)) == len(places)
    assert all(name.startswith(f"{n}-{d}-{t}-s{s}-") for name, (n, d, t, s) in zip(names, places, strict=True))


@pytest.mark.parametrize("path, field", LEAVES, ids=[".".join(path) for path, _ in LEAVES])
def test_every_field_is_described_and_marked(path: tuple[str, ...], field: Any) -> None:
    """Every value of the schema says what it is and whether it is science or operation, and has a default."""
    assert isinstance((field.json_schema_extra or {}).get("science"), bool), path
    assert field.description and len(field.description) >= 5
    assert not field.is_required()


def test_what_the_design_calls_operation_is_operation() -> None:
    """Nodes, tasks, cluster, slurm, log, workers, roots and what stands in the name are operation; the learning is
    science.
    """
    marks = {".".join(path): field.json_schema_extra["science"] for path, field in LEAVES}
    away = {
        "recipe",
        "train",
        "seed",
        "nodes",
        "tasks_per_node",
        "cluster",
        "runs",
        "data.name",
        "data.root",
        "data.workers",
        "data.cache",
        "data.cache_folder",
        "data.cache_gb",
        "method.text",  # its digest is science
        "model.weights",  # a place; what lies there is model.weights_sha256
    }
    assert not any(marks[key] for key in marks if key in away or key.startswith(("slurm.", "log.")))
    assert all(
        marks[key]
        for key in marks.keys() - away
        if key == "preset" or key.startswith(("model.", "method.", "ifl.", "augment.", "schedule.", "batch."))
        if key not in away
    )
    assert marks["model.weights_sha256"]
    assert marks["optim.lr"] and marks["optim.precision"] and marks["data.image_size"] and marks["data.shuffle_window"]
    assert marks["data.decoder"] and marks["data.cache_short_side"], "what changes pixels is science"


def test_workers_default_to_the_tasks_cores() -> None:
    """One core trains and the others load on SLURM, two processes load here; the resolved recipe says how many."""
    assert (
        resolve(["data=imagenet_glt"]).data.workers == 7
        and resolve(["data=imagenet_glt", "slurm.cpus_per_task=1"]).data.workers == 1
    )
    assert (
        resolve(["data=imagenet_glt", "cluster=local"]).data.workers == 2
        and resolve(["data=imagenet_glt", "data.workers=0"]).data.workers == 0
    )


# ------------------------------------------------------------------------------------------------------ resolved values
@pytest.mark.parametrize(
    "words, epochs",
    [
        (["data=imagenet_glt"], [60, 80]),
        (["data=digits_glt", "schedule.epochs=30"], [18, 24]),
        (["data=digits_glt", "schedule.epochs=10"], [6, 8]),
        (["data=digits_glt", "schedule.epochs=30", "ifl.milestones=[0.2, 15]"], [6, 15]),
        (["data=digits_glt", "ifl.milestones=[0, 1]"], [0, 1]),
    ],
)
def test_milestones_are_resolved_to_epochs(words: list[str], epochs: list[int]) -> None:
    """Fractions of the epochs stand as whole epochs in the resolved recipe (.6 and .8 of 100 are 60 and 80, of 30 are
    18 and 24), whole epochs stay; and the two ways to say one thing make one run."""
    recipe = resolve(["recipe=glt_ifl", *words])
    assert recipe.ifl and recipe.ifl.milestones == epochs and all(type(epoch) is int for epoch in recipe.ifl.milestones)
    whole = [word for word in words if not word.startswith("ifl")]
    assert resolve(["recipe=glt_ifl", *whole, f"ifl.milestones={epochs}"]).run_name == recipe.run_name


def test_fractions_do_not_fall_between_epochs() -> None:
    """k hundredths of 100 epochs are epoch k, though k / 100 * 100 may be a little less in float."""
    for k in range(1, 99):
        recipe = resolve(["recipe=glt_ifl", f"ifl.milestones=[{k / 100}, 0.99]"])
        assert recipe.ifl and recipe.ifl.milestones == [k, 99]


def test_paths_count_from_the_folder_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`runs` and `data.root` are the user's paths, relative or with ~, and stand absolute in the recipe."""
    monkeypatch.chdir(tmp_path)
    recipe = resolve(["runs=here", "data.root=~/there"])
    assert recipe.runs == str(tmp_path / "here") and recipe.data.root == os.path.expanduser("~/there")
    assert resolve([]).run_folder.parent == PROJECT / "runs" and resolve([]).data_root == str(PROJECT / "data")


def test_tasks_default_to_gpus_on_slurm_and_to_one_here() -> None:
    """`tasks_per_node` defaults to the node's GPUs on SLURM (and in what `dry` shows of it) and to 1 locally; what is
    said explicitly holds everywhere.
    """
    for cluster, tasks in (("slurm", 16), ("dry", 16), ("local", 2)):
        assert resolve(["nodes=2", "slurm.gpus_per_node=8", f"cluster={cluster}"]).tasks == tasks
        assert resolve(["nodes=2", "slurm.gpus_per_node=8", "tasks_per_node=3", f"cluster={cluster}"]).tasks == 6
        assert resolve([f"cluster={cluster}"]).tasks == 1


# ------------------------------------------------------------------------------------------------- slips found in use
@pytest.mark.parametrize(
    "text, sentence",
    [
        ("on: 3", "must hold blocks"),
        ("on: {digits_gtl: {optim: {lr: 1}}}", "did you mean digits_glt"),
        ("on: {digits_glt: 3}", "hold sections"),
        ("on: {digits_glt/clb: {optim: {lr: 1}}}", "NAME/cbl"),
        ("on: {digits_glt: {preset: corrected}}", "not preset"),
        ("on: {digits_glt: {data: {name: x}}}", "not data"),
    ],
)
def test_on_blocks_are_checked(tmp_path: Path, text: str, sentence: str) -> None:
    """A block of `on:` that would be ignored or would move an axis is refused, not passed over."""
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        resolve([f"recipe={path}", "data=digits_glt"])


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["seed=true"], "seed=true (the command line): input should be a valid integer"),
        (["ifl.environments=true", "recipe=glt_ifl"], "ifl.environments=true (the command line)"),
        (["augment.crop_scale=[0.9,0.1]"], "0 < low <= high <= 1"),
        (["augment.crop_scale=[0,1]"], "0 < low <= high <= 1"),
        (["data.test_resize=100"], "smaller than data.image_size=112"),
        (["runs=a\nb"], "control characters"),
        (["lr=0.2"], "did you mean optim.lr?"),
    ],
)
def test_slips_are_named(words: list[str], sentence: str) -> None:
    """Values that would fail only in training, or be taken for others, are refused before anything starts."""
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        resolve(words)


@pytest.mark.parametrize("word", ["data=imagenet_glt", "train=cbl", "preset=corrected"])
def test_a_written_out_recipe_keeps_its_data_edition_and_preset(tmp_path: Path, word: str) -> None:
    """The recipe of a run holds every value, so another data set, edition or preset is refused instead of being mixed
    in.
    """
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(resolve(["recipe=glt_ifl", "data=digits_glt"])))
    with pytest.raises(RecipeError, match="cannot change"):
        resolve([f"recipe={path}", word])


@pytest.mark.parametrize(
    "name, words, key, both",
    [
        ("glt_ifl", ["schedule.epochs=48"], "ifl.milestones", ["ifl.milestones=[0.6,0.8]"]),
        ("glt_ifl", ["ifl=null"], "batch.replacement", ["batch.replacement=null"]),
        ("glt_baseline", ["method.name=bbn", "model.init=own"], "batch.replacement", ["batch.replacement=null"]),
        ("glt_ldam", ["schedule.epochs=200"], "schedule.drops", ["schedule.drops=[0.8,0.9]"]),
        ("glt_crt", ["seed=1"], "method.init_from", ["method.init_from=glt_baseline"]),
        ("glt_crt", ["data.image_size=28"], "method.init_from", ["method.init_from=glt_baseline"]),
        ("glt_logit_adjust", ["seed=1"], "method.eval_of", ["method.eval_of=glt_baseline"]),
        ("glt_logit_adjust_ifl", ["batch.budget=matched"], "method.eval_of", ["method.eval_of=glt_ifl"]),
    ],
)
def test_a_written_out_recipe_is_not_changed_by_halves(
    tmp_path: Path, name: str, words: list[str], key: str, both: list[str]
) -> None:
    """Values that follow from others stand written out in a run's recipe, so changing one alone is refused, and both
    are taken.
    """
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(resolve([f"recipe={name}", "data=digits_glt"])))
    with pytest.raises(RecipeError, match=r"written out: give both, or start from recipe=NAME") as refused:
        resolve([f"recipe={path}", *words])
    assert key in str(refused.value)
    assert (
        resolve([f"recipe={path}", *words, *both]).run_name
        == resolve([f"recipe={name}", "data=digits_glt", *words]).run_name
    )


def test_a_written_out_recipe_keeps_the_pixels_of_another_network_no_more_than_a_recipe_does(tmp_path: Path) -> None:
    """A library's network says an image size and what it belongs to, so its name alone is refused over a set of larger
    images, from a network of ifl/models and back; small sets have their own, and so have networks of ifl/models."""
    values = ["data.image_size=224", "data.test_resize=256", "data.mean=[.4,.4,.4]", "data.std=[.3,.3,.3]"]
    path, name = tmp_path / "recipe.yaml", "torchvision:resnet18"
    large = resolve(["data=imagenet_glt"])
    path.write_text(dump(large))
    assert resolve([f"recipe={path}", "model.name=resnet50"]).data.image_size == 112
    for of_run, changed in ((large.model.name, name), (name, "resnet50")):
        large.model.name = of_run
        path.write_text(dump(large))
        with pytest.raises(RecipeError, match=r"model\.name alone cannot change .* whose data\.image_size is written"):
            data_section([f"recipe={path}", f"model.name={changed}"])
        assert data_section([f"recipe={path}", f"model.name={changed}", *values])["image_size"] == "224"
    path.write_text(dump(resolve(["data=digits_glt"])))
    assert data_section([f"recipe={path}", f"model.name={name}"])["image_size"] == 32


def data_section(words: list[str]) -> dict[str, Any]:
    """The data section that words mean, before any library is asked about its network."""
    data: dict[str, Any] = merge(words)[0]["data"]
    return data


def test_a_method_of_other_streams_is_only_refused_where_the_draws_follow(tmp_path: Path) -> None:
    """The preset corrected never draws with replacement, and with IFL the paper preset always does."""
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(resolve(["data=digits_glt", "preset=corrected"])))
    assert resolve([f"recipe={path}", "method.name=bbn"]).batch.replacement is False
    assert resolve([f"recipe={path}", "ifl.environments=2", "ifl.unseen=class_mean"]).batch.replacement is False
    path.write_text(dump(resolve(["recipe=glt_ifl", "data=digits_glt"])))
    assert resolve([f"recipe={path}", "method.name=balanced_softmax"]).batch.replacement is True


def test_a_written_out_recipe_keeps_epochs_that_are_kept(tmp_path: Path) -> None:
    """`log.keep` stands as whole epochs, too; and where the drops mean nothing any more, epochs change alone."""
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(resolve(["recipe=glt_ldam", "data=digits_glt", "log.keep=[0.5]"])))
    words = [f"recipe={path}", "schedule.epochs=200", "schedule.decay=cosine"]
    with pytest.raises(RecipeError, match=r"schedule\.epochs alone cannot change .* whose log\.keep is written out"):
        resolve(words)
    assert resolve([*words, "log.keep=[0.5]"]).kept_epochs == [100]
    assert resolve([*words, "log.keep=null"]).kept_epochs == []


def test_a_written_out_recipe_takes_what_changes_nothing(tmp_path: Path) -> None:
    """A value that it has already is no change; and a first stage that was named with another seed stays."""
    path = tmp_path / "recipe.yaml"
    other = resolve(["recipe=glt_baseline", "data=digits_glt", "seed=7"]).run_name
    path.write_text(dump(resolve(["recipe=glt_crt", "data=digits_glt"])))
    assert resolve([f"recipe={path}", "seed=00", "data.image_size=32"]) == resolve([f"recipe={path}"])
    path.write_text(dump(resolve(["recipe=glt_crt", "data=digits_glt", f"method.init_from={other}"])))
    assert resolve([f"recipe={path}", "seed=1"]).method.init_from == other


def test_a_recipe_in_a_folder_called_presets_is_no_preset(tmp_path: Path) -> None:
    """What it says beside its optimiser's name is meant for that optimiser."""
    (tmp_path / "presets").mkdir()
    path = tmp_path / "presets" / "mine.yaml"
    path.write_text("optim: {name: adamw, lr: 0.001}\n")
    assert resolve([f"recipe={path}"]).optim.lr == 0.001


def test_departures_name_science_alone() -> None:
    """What a run was changed in on the command line is told key by key; where and how fast it ran is not."""
    from recipes.identity import departures

    stands = resolve(["recipe=glt_ifl", "data=digits_glt"])
    assert (
        departures(resolve(["recipe=glt_ifl", "data=digits_glt", "nodes=2", "data.workers=3", "log.every=7"]), stands)
        == []
    )
    assert departures(resolve(["recipe=glt_ifl", "data=digits_glt", "optim.lr=0.2"]), stands) == ["optim.lr=0.2 (0.1)"]
    assert departures(resolve(["recipe=glt_ifl", "data=digits_glt", "ifl.milestones=[1,2]"]), stands) == [
        "ifl.milestones=[1, 2] ([36, 48])"
    ]


# --------------------------------------------------------------------------------------------------------------- tables
PUBLISHED = {
    "imagenet_clt_glt": "table1_imagenet_clt_glt",
    "imagenet_alt": "table2_imagenet_alt",
    "mscoco": "table3_mscoco",
    "ablation": "table4_ablation",
}
TABLES = {name: shipped.layout_of(name) for name in shipped.TABLES}


def _published(name: str) -> list[dict[str, str]]:
    with open(PROJECT / "recipes" / "published" / f"{PUBLISHED[name]}.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", PUBLISHED)
def test_tables_hold_every_published_row_and_number(name: str) -> None:
    """The paper's rows in the paper's order, each once, and a column for each number that the paper prints."""
    layout, published = TABLES[name], _published(name)
    assert [row.published for row in layout.rows] == list(dict.fromkeys(line["method"] for line in published))
    if name != "ablation":  # whose groups are ours
        groups = {line["method"]: line["group"] for line in published}
        assert all(row.group == groups[row.published] and row.label == row.published for row in layout.rows)
    by_attribute = {"overall": "overall", **{subset: f"{subset}_a" for subset in ("many", "medium", "few")}}
    wanted = {
        (
            line["dataset"].lower().replace("-", "_"),
            line["protocol"].lower(),
            by_attribute[line["subset"]] if line["protocol"] == "ALT" else line["subset"],
            line["metric"],
        )
        for line in published
    }
    assert {(column.data, column.protocol, column.subset, column.metric) for column in layout.columns} == wanted
    assert layout.preset == "paper" and len(published) == len(layout.rows) * len(layout.columns)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_table_resolves_on_the_tables_data(name: str) -> None:
    """Row by row and source by source, with the first stages that a row builds on; no two rows are one run, and a twin
    is another recipe without IFL or with less of it.
    """
    layout: Layout = TABLES[name]
    runs = []
    for row in layout.rows:
        for data, train in layout.sources:
            recipe = resolve(
                [
                    f"recipe={row.recipe}",
                    f"data={data}",
                    f"train={train}",
                    f"preset={layout.preset}",
                    f"batch.budget={row.budget}",
                ]
            )
            runs.append(recipe.run_name)
        if row.twin:
            assert (PROJECT / "recipes" / f"{row.twin}.yaml").is_file() and row.twin != row.recipe
            assert resolve([f"recipe={row.twin}", f"data={data}"]).ifl is None
    assert len(set(runs)) == len(runs)


def test_digits_tables_have_the_papers_rows() -> None:
    """The bundled data's tables have the rows of the paper's, so that each of these trains on a laptop; every recipe of
    the project stands in one of them or among our own controls.
    """
    for digits, paper in (
        ("digits_clt_glt", "imagenet_clt_glt"),
        ("digits_alt", "imagenet_alt"),
        ("digits_overall", "mscoco"),
        ("digits_ablation", "ablation"),
    ):
        assert [(row.recipe, row.twin) for row in TABLES[digits].rows] == [
            (row.recipe, row.twin) for row in TABLES[paper].rows
        ]
    shown = {row.recipe for name in ("digits_overall", "digits_ablation", "controls") for row in TABLES[name].rows}
    assert set(shipped.RECIPES) == shown


def test_every_row_with_ifl_has_a_compute_matched_control() -> None:
    """Each row of the tables that trains on more than one environment, or builds on one that does, stands in `controls`
    with the matched budget.
    """
    rows = {row.recipe for name in ("digits_clt_glt", "digits_ablation") for row in TABLES[name].rows} | {
        "glt_ldam_ifl"
    }
    more = {
        name
        for name in rows
        if name.endswith("_ifl") or resolve([f"recipe={name}"]).stream_names.count("environment") > 1
    }
    assert {"glt_irm", "glt_ride_ifl_mixup", "glt_ifl_3env"} < more
    assert more == {row.recipe for row in TABLES["controls"].rows if row.budget == "matched"}


@pytest.mark.parametrize("preset, replacement", [("paper", True), ("corrected", False)])
def test_the_baseline_with_twice_the_draws_draws_as_ifl_does(preset: str, replacement: bool) -> None:
    """So that it and IFL differ in what is drawn, and not in how."""
    twice, ifl = (resolve([f"recipe={name}", f"preset={preset}"]) for name in ("glt_baseline_2n", "glt_ifl"))
    assert twice.batch.replacement == ifl.batch.replacement == replacement
