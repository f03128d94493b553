"""Hostile values and keys run nothing, leave no trace outside the run folder, and are refused in one printable
sentence; what is legal, such as a strange folder name, is inert."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from recipes.common.errors import RecipeError
from recipes.resolve import dump, load_resolved, resolve
from recipes.schema import PROJECT, Recipe
from recipes.table_layout import load_layout
from tests.helpers.launching import batch_file

BOMB = (
    "{a: &a [x,x,x,x,x,x,x,x,x], b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a], c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b], d: &d "
    "[*c,*c,*c,*c,*c,*c,*c,*c,*c], e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d], f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e],"
    " g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f], h: [*g,*g,*g,*g,*g,*g,*g,*g,*g]}"
)
TOUCH = "touch canary"
PAYLOADS = [
    # a shell's
    f"; {TOUCH}",
    f"a;{TOUCH}",
    f"a\n{TOUCH}",
    f"a\r\n{TOUCH}\n",
    f"$({TOUCH})",
    f"a$({TOUCH})b",
    f"`{TOUCH}`",
    f"a && {TOUCH}",
    f"a || {TOUCH}",
    f"a | {TOUCH}",
    f"a & {TOUCH} &",
    "a > canary",
    "a >> canary",
    f"<({TOUCH})",
    f"'; {TOUCH}; '",
    f'"; {TOUCH}; "',
    f"\\'; {TOUCH} #",
    f"${{IFS}}{TOUCH}",
    "${PATH}",
    "$HOME",
    "~root",
    "*",
    "a?b",
    "{canary,canary}",
    "!!",
    "#",
    f"() {{ :; }}; {TOUCH}",
    f"$'\\n{TOUCH}'",
    # sbatch's and submitit's
    f"--wrap={TOUCH}",
    "--output=canary",
    "-o canary",
    f"a\n#SBATCH --wrap='{TOUCH}'",
    "%j",
    "%x/%u",
    "%%",
    "a%4t",
    "--export=ALL,BASH_ENV=canary",
    "--uid=0",
    "a,b --exclusive",
    # paths
    "../canary",
    "../../../../tmp/canary",
    "/etc/passwd",
    "/dev/null",
    "/proc/self/environ",
    ".",
    "..",
    "a/../../canary",
    "a//b",
    "file:///etc/passwd",
    "pipe:touch canary",
    "http://127.0.0.1/canary",
    "con\0trol",
    "\0",
    # terminals', YAML's and Python's
    "\x1b[2J\x1b]0;canary\x07",
    "\x9b31m",
    "\u202egnp.exe",
    "a\u2028b",
    "\ufeffce",
    "\u0441\u0435",
    "\uff43\uff45",
    "\ud7ff\u200b",
    "é" * 3,
    "a" * 100_000,
    "[" * 1500,
    "{" * 300,
    f'!!python/object/apply:os.system ["{TOUCH}"]',
    f'!!python/object/new:os.system ["{TOUCH}"]',
    "!!python/name:os.system",
    "!!python/module:os",
    '!!python/object/apply:subprocess.check_output [["touch", "canary"]]',
    "!!binary Y2FuYXJ5",
    "!!set {a, b}",
    "!include canary",
    BOMB,
    "&a [*a]",
    "{<<: {name: ce}}",
    "? [a] : b",
    "{_target_: os.system, _args_: [touch canary]}",
    "${oc.env:HOME}",
    "{__class__: os}",
    "__import__('os').system('touch canary')",
    "{{7*7}}",
    "{0.__class__.__mro__}",
    "%(canary)s",
    # numbers'
    "9" * 5000,
    "-" + "9" * 400,
    "0x" + "f" * 400,
    "1e999",
    ".nan",
    "-.inf",
    "2**64",
    "18446744073709551616",
    "1_0",
    "0o17",
    "true",
    "~",
    "",
]


def _leaves(section: type[BaseModel], path: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for key, field in section.model_fields.items():
        inner = next(
            (
                kind
                for kind in (field.annotation, *get_args(field.annotation))
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            ),
            None,
        )
        leaves += _leaves(inner, f"{path}{key}.") if inner else [(f"{path}{key}", field)]
    return leaves


LEAVES = [key for key, _ in _leaves(Recipe)]
TEXTS = [key for key, field in _leaves(Recipe) if "str" in str(field.annotation) or "Literal" in str(field.annotation)]
FEW = ("recipe", "runs", "method.name", "slurm.partition", "cluster")
BASE = ["recipe=glt_ifl", "data=digits_glt", "cluster=dry"]


@pytest.fixture(autouse=True)
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; whatever a payload would make appears there or in the project."""
    folder = tmp_path / "sandbox"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def _outcome(words: list[str]) -> Recipe | None:
    """The recipe, or None after a refusal in one short printable sentence."""
    try:
        return resolve(words)
    except RecipeError as error:
        sentence = str(error)
        assert sentence.isprintable() and 10 < len(sentence) < 2000, f"{words}: {sentence!r}"[:1500]
        return None


def _batch_is_inert(recipe: Recipe, tmp_path: Path) -> None:
    """bash parses the batch file, and running it calls srun once, on the run's log folder."""
    tools = tmp_path / "tools"
    if not tools.exists():
        tools.mkdir()
        (tools / "srun").write_text(
            f'#!/bin/sh\necho "$#" >> {shlex.quote(str(tools / "calls"))}\nfor word; do printf "%s\\0" "$word"; done '
            f"> {shlex.quote(str(tools / 'words'))}\n"
        )
        (tools / "module").write_text("#!/bin/sh\n")  # a shell's function on a cluster
        (tools / "ln").write_text("#!/bin/sh\n")  # the run folder is not made
        for tool in ("srun", "module", "ln"):
            (tools / tool).chmod(stat.S_IRWXU)
    (tools / "calls").unlink(missing_ok=True)
    folder = recipe.run_folder
    text = batch_file(recipe, folder, tmp_path / "code")
    options = [option for line in text.splitlines() if line.startswith("#SBATCH ") for option in shlex.split(line[8:])]
    logs = {f"--output={folder}/log/%j_0_log.out", f"--error={folder}/log/%j_0_log.err"}
    assert logs <= set(options) and not any(
        "%" in option or "wrap" in option.partition("=")[0] for option in set(options) - logs
    )
    subprocess.run(["bash", "-n", "-c", text], check=True, timeout=20)
    # outside a job it would end at once; not what is tested
    teardown = f"{shlex.quote(sys.executable)} -P -m slurm.cluster.requeue"
    subprocess.run(
        ["bash", "-c", text.replace(teardown, "true")], env={"PATH": f"{tools}:/usr/bin:/bin"}, check=True, timeout=20
    )
    assert len((tools / "calls").read_text().splitlines()) == 1
    assert (tools / "words").read_text().split("\0")[-2] == str(folder / "log")


def _no_trace(tmp_path: Path, sandbox: Path) -> None:
    assert (
        not list(sandbox.iterdir())
        and not (PROJECT / "canary").exists()
        and not (tmp_path / "canary").exists()
        and not Path("/tmp/canary").exists()
    )


def test_there_are_enough_of_them() -> None:
    """Sixty at least, all different."""
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 60 and {
        "recipe",
        "data.root",
        "runs",
        "method.name",
        "slurm.partition",
        "train",
    } <= set(TEXTS)


@pytest.mark.parametrize("key", [key if key in FEW else pytest.param(key, marks=pytest.mark.full) for key in TEXTS])
def test_values_of_every_text_field(tmp_path: Path, sandbox: Path, key: str) -> None:
    """Every payload as the value of every text field, as typed and as a quoted string: refused in a sentence, or legal,
    and then the run lies where it should and its batch file runs nothing else."""
    legal = set()
    for payload in PAYLOADS:
        for text in (payload, json.dumps(payload)):
            recipe = _outcome([*BASE, f"runs={tmp_path / 'runs'}", f"{'data' if key == 'data.name' else key}={text}"])
            if recipe is None:
                continue
            value = str(
                getattr(recipe, key)
                if "." not in key
                else getattr(getattr(recipe, key.split(".")[0]), key.split(".")[1])
            )
            if value in legal:
                continue
            legal.add(value)
            assert recipe.run_folder.name.isascii() and recipe.run_folder.parent == Path(
                recipe.runs or PROJECT / "runs"
            )
            assert yaml.safe_load(dump(recipe)) == recipe.model_dump(mode="json")
            _batch_is_inert(recipe, tmp_path)
    if key == "slurm.constraint":  # an expression; the batch file quotes its signs
        legal = {re.sub(r"[][|&*()]", "", value) for value in legal}
    if key == "slurm.options":
        legal.discard("{}")  # {canary,canary} names what is not to be set
    plain = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:=/@+-]{0,199}|\[('[A-Za-z0-9][A-Za-z0-9_.,:=/@+-]{0,199}'(, )?)*\]")
    assert key in ("runs", "data.root", "data.cache_folder") or all(plain.fullmatch(value) for value in legal), legal
    _no_trace(tmp_path, sandbox)


def test_sections_without_a_value(tmp_path: Path) -> None:
    """`data=` and the like are refused in a sentence, on the command line and in a run's own recipe; of the words with
    null `ifl=null` alone is legal, it means no IFL.
    """
    sections = [key for key, value in resolve(BASE).model_dump().items() if isinstance(value, dict)]
    assert [section for section in sections if _outcome([*BASE, f"{section}="])] == []
    assert [section for section in sections if _outcome([*BASE, f"{section}=null"])] == ["ifl"]
    whole, file = resolve(BASE).model_dump(mode="json"), tmp_path / "recipe.yaml"
    for value in (None, [], "digits_glt", {"root": "data"}):
        file.write_text(json.dumps({**whole, "data": value}))
        with pytest.raises(RecipeError, match=r"data=.* is not legal: a recipe that is written out"):
            resolve([f"recipe={file}"])


@pytest.mark.parametrize(
    "where",
    [
        "command line",
        "recipe section",
        *(
            pytest.param(w, marks=pytest.mark.full)
            for w in ("section", "recipe file", "on block", "on section", "run folder", "data set")
        ),
    ],
)
def test_keys_everywhere(tmp_path: Path, sandbox: Path, where: str) -> None:
    """Every payload as a key is refused, wherever keys stand."""
    whole = resolve([*BASE, f"runs={tmp_path / 'runs'}"]).model_dump(mode="json")
    for payload in [
        *PAYLOADS,
        "_target_",
        "__class__",
        "__init__",
        "model_config",
        "model_fields",
        "constructor",
        "<<",
    ]:
        file, words = tmp_path / "recipe.yaml", [*BASE[1:], f"runs={tmp_path / 'runs'}"]
        trees: dict[str, Any] = {
            "recipe file": {payload: TOUCH},
            "recipe section": {"slurm": {payload: TOUCH}},
            "on block": {"on": {payload: {"seed": 1}}},
            "on section": {"on": {"digits_glt": {"method": {payload: TOUCH}}}},
            "run folder": {**whole, "slurm": {**whole["slurm"], payload: TOUCH}},
            "data set": {"data": {payload: TOUCH}},
        }
        if where == "command line":
            given = [*BASE, f"{payload}={TOUCH}"]
        elif where == "section":
            given = [*BASE, f"slurm.{payload}={TOUCH}"]
        else:
            file.write_text(json.dumps(trees[where]))
            given = [f"recipe={file}", *words]
        recipe = _outcome(given)
        assert recipe is None, f"{where}: {payload!r} was taken"
        if where == "run folder":
            with pytest.raises(RecipeError) as error:
                load_resolved(file)
            assert str(error.value).isprintable()
    _no_trace(tmp_path, sandbox)


@pytest.mark.parametrize(
    "payloads", [[BOMB, PAYLOADS[0]], pytest.param(PAYLOADS, marks=pytest.mark.full)], ids=["two", "all"]
)
def test_files_that_are_payloads(tmp_path: Path, sandbox: Path, payloads: list[str]) -> None:
    """A payload as a whole file or as an unquoted value in it: recipes, a run's recipe.yaml and tables refuse it in one
    sentence, within seconds, whatever it would expand to."""
    readers: dict[str, Callable[[Path], object]] = {
        "recipe": lambda path: resolve([f"recipe={path}", *BASE[1:]]),
        "run folder": load_resolved,
        "table": load_layout,
    }
    for payload in payloads:
        for content in (
            payload,
            f"method: {payload}",
            f"rows: {payload}",
            f"preset: {payload}\nseeds: [0]\nrows: [{{recipe: {payload}, label: a, group: b}}]\ncolumns: {payload}",
        ):
            file = tmp_path / "file.yaml"
            file.write_bytes(content.encode("utf-8", "surrogatepass"))
            for what, read in readers.items():
                try:
                    read(file)
                except ValueError as error:
                    assert len(str(error)) < 2000 and str(error).isprintable(), (
                        f"{what}: {content[:200]!r}: {str(error)[:500]!r}"
                    )
    _no_trace(tmp_path, sandbox)


def test_the_command_itself(tmp_path: Path, sandbox: Path) -> None:
    """The real command on a handful: exit code 2, one line that a terminal can show, nothing made."""
    for word in (f"slurm.partition=a;{TOUCH}", "a\x1b[2J=1", f"ifl={BOMB}"):
        done = subprocess.run(
            [sys.executable, str(PROJECT / "slurm" / "launch.py"), *BASE, f"runs={tmp_path / 'runs'}", word],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "GLT_SITE": ""},
        )
        assert (
            done.returncode == 2
            and done.stdout == ""
            and len(done.stderr.splitlines()) == 1
            and done.stderr.strip().isprintable()
        ), (word, done)
    assert not (tmp_path / "runs").exists()
    _no_trace(tmp_path, sandbox)


def test_run_folders_are_private(tmp_path: Path) -> None:
    """Only their owner may write, or even read, what a job unpickles from its run folder, whatever the umask."""
    from slurm.run_folder import prepare

    recipe = resolve([*BASE, f"runs={tmp_path / 'runs'}"])
    before = os.umask(0)
    try:
        prepare(recipe, recipe.run_folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(recipe.run_folder.stat().st_mode) == 0o700
