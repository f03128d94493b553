"""The site file: written once, merged below the recipe, and the only place for shell lines."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recipes.common.addresses import with_command
from recipes.common.errors import DataError, RecipeError
from recipes.resolve import dump, resolve, source_words
from recipes.schema import PROJECT, Slurm
from slurm import launch as launcher
from slurm import site_file
from slurm.local import process_group
from slurm.planning.requested_runs import requested_runs
from slurm.planning.schedule import Run
from slurm.reuse import Reuse
from tests.helpers.launching import batch_file, batch_part, flags, launch, refused

DRY = ["data=digits_glt", "cluster=dry"]


def written(folder: Path, text: str) -> Path:
    path = folder / "my site.yaml"
    path.write_text(text)
    return path


def dry(path: Path, *words: str) -> str:
    result = launch(*DRY, *words, GLT_SITE=str(path))
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_recipe_and_command_beat_the_site_and_the_site_beats_presets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """schema, data, preset < site file < recipe < `on:` < command line, for the slurm section; a value that nobody else
    sets is the site's.
    """
    (tmp_path / "row.yaml").write_text(
        "slurm: {qos: recipe, account: recipe, constraint: recipe}\non: {digits_glt: {slurm: {account: block, "
        "constraint: block}}}\n"
    )
    layer = {"partition": "site", "qos": "site", "account": "site", "constraint": "site", "cpus_per_task": 3}
    slurm = resolve([f"recipe={tmp_path / 'row.yaml'}", "data=digits_glt", "slurm.constraint=command"], layer).slurm
    assert (slurm.cpus_per_task, slurm.partition, slurm.qos, slurm.account, slurm.constraint) == (
        3,
        "site",
        "recipe",
        "block",
        "command",
    )
    assert resolve(["data=digits_glt"], layer).run_name == resolve(["data=digits_glt"]).run_name, (
        "a cluster is no science"
    )
    copy = tmp_path / "recipes"
    shutil.copytree(PROJECT / "recipes", copy)
    for below in ("data/digits_glt.yaml", "presets/paper.yaml"):
        (copy / below).write_text((copy / below).read_text() + "\nslurm: {partition: below}\n")
    monkeypatch.setattr("recipes.common.search_path.PROJECT", tmp_path)
    (tmp_path / "ifl").symlink_to(PROJECT / "ifl")
    assert resolve(["data=digits_glt"]).slurm.partition == "below"
    assert resolve(["data=digits_glt"], layer).slurm.partition == "site"


def test_shell_lines_reach_the_batch_script_and_no_recipe(tmp_path: Path) -> None:
    """The batch script loads the modules, then runs the site's lines as they stand, then puts the run's code first on
    the path, all before srun; the recipe that is written holds the modules and none of the lines."""
    lines = ["export NCCL_SOCKET_IFNAME=ib0", "ulimit -n 4096 || true  # as many as allowed"]
    path = written(tmp_path, yaml.safe_dump({"partition": "gpu", "modules": ["gcc/12.2", "cuda/12.4"], "setup": lines}))
    output = dry(path)
    text = batch_part(output)
    body = text[text.index("\n}\n") + 1 : text.index("srun")].splitlines()  # behind the function that checks call
    assert body[1:3] == [
        f"module load {name} || node_lacks 'fails at `module load {name}`'" for name in ("gcc/12.2", "cuda/12.4")
    ]
    assert [body[5], body[7]] == lines and body[12].startswith("export PYTHONPATH=")
    assert flags(text)["partition"] == "gpu"
    assert "NCCL" not in output[: output.index("#!/bin/bash")] and "cuda/12.4" in output[: output.index("#!/bin/bash")]
    assert output.splitlines()[1] == f"# site file: {path}"


def test_without_a_site_file_nothing_is_added(tmp_path: Path) -> None:
    """GLT_SITE= (empty) means no site file, and `cluster=dry` says that there is none."""
    output = launch(*DRY, GLT_SITE="").stdout
    assert output.splitlines()[1] == "# site file: none"
    assert yaml.safe_load(output[: output.index("#!/bin/bash")]) == yaml.safe_load(dump(resolve(DRY)))


def test_the_default_site_file_is_the_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without GLT_SITE slurm/site.yaml is read where there is one, and git does not see it."""
    monkeypatch.delenv("GLT_SITE", raising=False)
    monkeypatch.setattr(site_file, "PROJECT", tmp_path)
    assert site_file.load() == site_file.Site()
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "site.yaml").write_text("partition: gpu\nsetup: [date]\n")
    assert site_file.load() == site_file.Site(tmp_path / "slurm" / "site.yaml", {"partition": "gpu"}, ("date",))
    assert "/slurm/site.yaml" in (PROJECT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize(
    "text, words",
    [
        ("partitoin: gpu", "partitoin is not legal: did you mean partition?"),
        ("slurm: {partition: gpu}", "leave out `slurm:`"),
        ("- partition", "must hold `key: value` lines"),
        ("a: [", "is not readable YAML"),
        ("partition: a;b", "slurm.partition=a;b"),
        ("time: soon", "slurm.time=soon"),
        ("cpus_per_task: many", "slurm.cpus_per_task=many"),
        ("modules: [$(date)]", "slurm.modules.0=$(date)"),
        ("modules: cuda", "slurm.modules=cuda"),
        ("setup: date", "setup='date'"),
        ("setup: [{export A: b}]", "shell lines"),
        ("setup: ['a\n\n  b']", "shell lines"),
        ('setup: ["a\\0b"]', "shell lines"),
        ("time: 1\nsignal_delay_s: 60", "slurm.signal_delay_s=60"),
    ],
)
def test_a_bad_site_file_is_one_sentence_with_its_name(tmp_path: Path, text: str, words: str) -> None:
    """What is wrong in a site file is said in one sentence that names the file and the key."""
    path = written(tmp_path, text)
    sentence = refused(*DRY, GLT_SITE=str(path))
    assert words in sentence and str(path) in sentence


@pytest.mark.parametrize("text", ["", "\n \n", "# partition: gpu\n  # time: 10\n"])
def test_a_file_of_comments_alone_sets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """An empty site file, or one in which every line is a comment, has no values."""
    monkeypatch.setenv("GLT_SITE", str(written(tmp_path, text)))
    assert site_file.load() == site_file.Site(tmp_path / "my site.yaml")


def test_a_module_that_is_not_there_ends_the_job(tmp_path: Path) -> None:
    """The batch script does not go on without a module."""
    recipe = resolve([*DRY, "slurm.modules=[none]"])
    ran = subprocess.run(
        ["bash", "-c", "module() { return 1; }; srun() { echo went on; }\n" + batch_file(recipe, tmp_path, tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.returncode == 1 and ran.stdout == ""


@pytest.mark.parametrize(
    ("line", "goes_on"),
    [
        ("false  # of no use", False),
        ("source /none", False),
        ("false || true  # as many as allowed", True),
        ("for x in a b; do false; done; true", True),
    ],
)
def test_a_setup_line_that_fails_ends_the_job(tmp_path: Path, line: str, goes_on: bool) -> None:
    """The ranks start after all lines of the site file have gone well, and else the log names the line."""
    (tmp_path / "log").mkdir()
    script = "srun() { echo went on; }\n" + batch_file(resolve(DRY), tmp_path, tmp_path, ["true", line])
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert (ran.stdout == "went on\n") == goes_on
    assert goes_on or (
        ran.returncode == 1 and f"fails at setup line 2 of the site file, so the job ends: {line}\n" in ran.stderr
    )


def test_a_site_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """GLT_SITE naming nothing, or a folder, is refused by name; it never means 'none'."""
    assert f"GLT_SITE={tmp_path / 'none.yaml'} names a file that does not exist" in refused(
        *DRY, GLT_SITE=str(tmp_path / "none.yaml")
    )
    assert str(tmp_path) in refused(*DRY, GLT_SITE=str(tmp_path))


@pytest.mark.parametrize("word", ["slurm.setup=[date]", "slurm.setup=date", "slurm={setup: [date]}"])
def test_shell_lines_are_refused_on_the_command_line(word: str) -> None:
    """A recipe's refusal is in test_recipes; the command line has no way to shell lines either, and says where they
    belong.
    """
    assert "slurm/site.yaml" in refused(*DRY, word)


def test_the_example_is_legal_and_complete(tmp_path: Path) -> None:
    """slurm/site.example.yaml works as it stands, shows every value of the slurm section, and its batch file is bash
    that sbatch would read.
    """
    example = PROJECT / "slurm" / "site.example.yaml"
    shown = yaml.safe_load(example.read_text())
    assert set(shown) == {
        *Slurm.model_fields,
        *site_file.READERS,
        "setup",
        "data",
        "runs",
        "clusters",
        "default",
        "for",
    }
    assert set(shown["data"]) == set(site_file.DATA)
    text = batch_part(dry(example, "nodes=2"))
    assert {key: flags(text)[key] for key in ("time", "mem", "gpus-per-node", "ntasks-per-node", "signal")} == {
        "time": "1440",
        "mem": "240G",
        "gpus-per-node": "4",
        "ntasks-per-node": "4",
        "signal": "USR2@180",
    }


PIPED = "pipe:cat /store/{path}"


def test_the_site_file_says_where_data_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `data:` goes below the recipe and the command; an address stays as it is written, and a command goes to the
    job's environment.
    """
    path = tmp_path / "site.yaml"
    monkeypatch.setenv("GLT_SITE", str(path))
    path.write_text(f"data: {{root: '{PIPED}', cache_gb: 7, cache_folder: /local/glt}}\n")
    site = site_file.load()
    recipe = resolve(["data=digits_glt"], site.slurm)
    assert (recipe.data.root, recipe.data.cache_gb, recipe.data.cache_folder, recipe.data.name) == (
        "pipe:",
        7,
        "/local/glt",
        "digits_glt",
    ), "the command stays in the site file"
    assert resolve(["data=digits_glt", "data.root=https://host/glt"], site.slurm).data.root == "https://host/glt"
    assert site.pipe == "cat /store/{path}" and f"export GLT_PIPE='{site.pipe}'" in batch_part(dry(path))
    path.write_text("data: {root: /shared/glt}\n")
    assert site_file.load().pipe is None and "GLT_PIPE" not in batch_part(dry(path))
    for text, words in (
        ("data: {rot: x}", "data.rot is not legal: did you mean root"),
        ("data: 7", "data=7 is not legal: root, cache_folder, cache_gb"),
        ("data: {root: 'pipe:cat /store'}", "without {path}, which stands for the file"),
    ):
        path.write_text(text)
        with pytest.raises(RecipeError, match=words):
            site_file.load()


@pytest.mark.parametrize("site", [None, {"data": {"root": "pipe:cat /other/{path}"}}, {"partition": "gpu"}])
def test_only_the_site_file_brings_commands(tmp_path: Path, site: dict | None) -> None:
    """One in a recipe or on the command line is refused, unless it is the site file's own; what a run writes down is
    `pipe:`, which means the site file's.
    """
    row = tmp_path / "row.yaml"
    row.write_text(f"data: {{root: '{PIPED}'}}\n")
    for words in (["data=digits_glt", f"data.root={PIPED}"], [f"recipe={row}"]):
        with pytest.raises(
            RecipeError, match=r"^data.root=pipe:cat .* is not legal: only the site file may bring a command"
        ):
            resolve(words, site)
        assert resolve(words, {"data": {"root": PIPED}}).data.root == "pipe:"
    assert resolve(["recipe=glt_crt", "data=digits_glt"], {"data": {"root": PIPED}}).method.init_from.startswith(
        "glt_baseline-"
    ), "a second stage's first one, too"
    written = tmp_path / "recipe.yaml"
    written.write_text(dump(resolve(["data=digits_glt", f"data.root={PIPED}"], {"data": {"root": PIPED}})))
    assert PIPED not in written.read_text()
    if "data" in (site or {}):
        assert resolve([f"recipe={written}"], site).data.root == "pipe:"
    else:
        with pytest.raises(RecipeError, match="only the site file"):
            resolve([f"recipe={written}"], site)


def test_a_command_that_fails_here_does_not_refuse_the_launch(capsys: pytest.CaptureFixture[str]) -> None:
    """It may need what the setup lines load on the nodes: one warning; where the run starts here, or the data are no
    command's, it is an error.
    """
    command = "no_such_command {path}"
    site = {"data": {"root": f"pipe:{command}"}}
    launcher._check_set.cache_clear()
    launcher._check_data(resolve(["data=digits_glt"], site), command)
    assert re.fullmatch(
        "launch.py: warning: digits_glt/dataset.json, by the site file's pipe: command, cannot be fetched: the "
        "command ended with 127 .*\n",
        capsys.readouterr().err.split("not found\n")[-1],
    )
    for words in (["cluster=local"], ["data.root=/no/such"]):
        with pytest.raises(DataError):
            launcher._check_data(resolve(["data=digits_glt", *words], site), command)


RANK = """
import os, sys, types
taken = lambda *_, pipe=None, **__: print("by", pipe, flush=True) or True
sys.modules["ifl.train"] = types.SimpleNamespace(train=taken)
from slurm.job import TrainJob
TrainJob(sys.argv[1])()
os._exit(0)
"""


def test_processes_get_the_site_file_s_command_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell left in the environment means nothing, to the ranks of a local run and to `eval=`; a rank takes what
    it was started with, and hands it on as an argument."""
    seen: list[str | None] = []

    class Started:
        returncode = 0

        def __init__(self, words: list[str], env: dict[str, str], **_: object) -> None:
            seen.append(env.get("GLT_PIPE"))

    monkeypatch.setenv("GLT_PIPE", "touch stray {path}")
    recipe = resolve([*DRY, f"runs={tmp_path}"])
    recipe.run_folder.mkdir()
    monkeypatch.setattr(subprocess, "Popen", Started)
    monkeypatch.setattr(subprocess, "run", Started)
    for pipe in (None, "cat {path}"):
        with open(tmp_path / "lock", "w") as lock:
            process_group._start(Run(recipe, pipe=pipe), lock, lock.fileno(), 1)
    Reuse(("evaluate", "run", "last", "{}"), "cat {path}").run()
    monkeypatch.undo()
    assert seen == [*[None] * recipe.tasks, *["cat {path}"] * recipe.tasks, "cat {path}"]
    (recipe.run_folder / "recipe.yaml").write_text(dump(recipe))
    rank = subprocess.run(
        [sys.executable, "-c", RANK, str(recipe.run_folder)],
        cwd=PROJECT,
        env=with_command(os.environ, "cat {path}"),
        capture_output=True,
        text=True,
    )
    assert rank.stdout == "by cat {path}\n", rank.stderr


def test_the_cost_of_runs_whose_data_cannot_be_counted_is_unknown(tmp_path: Path) -> None:
    """And no reason to refuse them."""
    site = site_file.Site(tmp_path / "site.yaml", {"data": {"root": "pipe:false {path}"}})
    runs = requested_runs(["data=digits_glt", "seeds=0,1", f"runs={tmp_path}"], site).runs
    assert launcher._cost(runs).startswith(
        "cost unknown: digits_glt/dataset.json, by the site file's pipe: command, cannot be fetched"
    )


def test_a_run_is_repeated_with_what_it_left_open(tmp_path: Path) -> None:
    """Its written-out root stays; the node's folder and bytes, which it did not say, are the site file's."""
    written = tmp_path / "recipe.yaml"
    written.write_text(dump(resolve(["data=digits_glt", "data.root=/mine", "data.cache_gb=3"])))
    again = resolve([f"recipe={written}"], {"data": {"root": "/site", "cache_folder": "/local/glt", "cache_gb": 7}})
    assert (again.data.root, again.data.cache_folder, again.data.cache_gb) == ("/mine", "/local/glt", 3)


@pytest.mark.parametrize("name", ["a 'b' \"c\" #d", "x: y", "[1]", "é😀", "null", "1"])
def test_a_second_stage_finds_data_in_any_folder(name: str) -> None:
    """Names that are no plain YAML are handed on as they are."""
    assert (
        resolve(["recipe=glt_crt", "data=digits_glt"], {"data": {"root": f"/data/{name}"}}).data.root == f"/data/{name}"
    )
    recipe = resolve(["data=digits_glt"], {"data": {"root": f"/data/{name}"}})
    assert resolve(source_words(recipe, "glt_baseline")).data.root == f"/data/{name}"


@pytest.mark.parametrize("key", ["data.root", "data.cache_folder", "runs"])
def test_what_is_no_folder_is_refused(key: str) -> None:
    """An address of another kind, and a variable that nothing would replace."""
    for value, words in (
        ("s3://bucket/glt", "is not legal"),
        ("HTTPS://host/glt", "is not legal"),
        ("~nobody-here/x", "who is not here"),
        *(
            [("/local/$TMPDIR/glt", "holds [$], and nothing replaces variables there")]
            if key == "data.cache_folder"
            else []
        ),
    ):
        with pytest.raises(RecipeError, match=f"^{key}={re.escape(value)} .*{words}"):
            resolve(["data=digits_glt", f"{key}={value}"])


def test_a_node_s_folder_is_not_looked_up_here(tmp_path: Path) -> None:
    """A link of the launching machine stays a link in data.cache_folder."""
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    assert resolve([f"data.cache_folder={tmp_path}/link"]).data.cache_folder == f"{tmp_path}/link"
    assert resolve([f"data.root={tmp_path}/link"]).data.root == f"{tmp_path}/here"


def test_setup_lines_are_no_parameter_of_the_recipe(tmp_path: Path) -> None:
    """The same recipe with and without a site's lines makes batch files that differ in those lines alone."""
    recipe = resolve(DRY)
    with_line, without = (batch_file(recipe, tmp_path, tmp_path, lines).splitlines() for lines in (["date"], []))
    own = with_line.index("date")
    assert "fails at setup line 1 of the site file" in with_line[own + 1]
    assert with_line[: own - 2] + with_line[own + 5 :] == without  # what guards them is there with them alone


def test_bad_text_is_a_recipe_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` raises RecipeError, the one kind the launcher shows as a sentence, for bytes that are not text too."""
    path = tmp_path / "site.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    monkeypatch.setenv("GLT_SITE", str(path))
    with pytest.raises(RecipeError, match="is not readable YAML"):
        site_file.load()
