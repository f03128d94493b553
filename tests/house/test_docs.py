"""The pages do what they say: their commands, links, paths and examples hold, and they stay short.

The quick commands are run here, the long ones in a fresh clone under `make test-full`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
ALL_PAGES = [*PAGES, *(PROJECT / f"{name}.md" for name in ("AGENTS", "CHANGELOG", "CONTRIBUTING"))]
MOST_LINES = {"README.md": 150, "AGENTS.md": 40, "CONTRIBUTING.md": 60}
"""Of a page in docs/ 230; the changelog grows, and results are as long as the tables that a command writes there."""

# Every command in a page's sh block is in one of these, with what it must end with: exit code, pattern of its output.
QUICK = {
    "python slurm/launch.py recipe=glt_ifl data=digits_glt grid=optim.lr:.05,.1,.2+optim.momentum:0,.9 cluster=dry": (
        0,
        r"optim\.momentum \(2\), 6 points: 6 runs",
    ),
    "python slurm/launch.py recipe=glt_randaug_ifl nodes=4": (2, r"python -m sharding\.build data=imagenet_glt"),
    "python slurm/launch.py recipe=glt_ifl data=digits_glt nodes=4 cluster=dry": (0, "#SBATCH --nodes=4"),
    "python slurm/launch.py recipe=glt_ifl data=digits_glt seeds=0,1,2 max_jobs=2 nodes=4 cluster=dry": (
        0,
        "array 1: elements 0-2, 2 at once",
    ),
    "python slurm/launch.py recipe=glt_ifl data=digits_glt seeds=0,1,2,3,4,5,6,7 pack=4 cluster=dry": (
        0,
        r"array 1: elements 0-1\n.*\n.*\n.*\n  \[0\] .*-s3-.*\n  \[1\] .*-s4-",
    ),
    "python slurm/launch.py table=digits_clt_glt seeds=0,1,2 cluster=dry": (0, "glt_crt-digits_glt-glt-s2-"),
    "python slurm/launch.py build=imagenet_glt tasks=16 source=/shared/ILSVRC2012_img_train.tar out=/shared/data "
    "cluster=dry": (0, "#SBATCH --array=0-15"),
    "python slurm/status.py": (0, "state"),
    "python slurm/launch.py tidy=show": (0, "in all 0 B not needed any more"),
    "python -m slurm.scaling image_s=0.0003": (0, "ranks:.*images/s"),
    "python -m sharding.build data=mscoco_glt source=COCO out=data": (2, r"COCO/cocottributes_py3\.jbl cannot be read"),
    "python -m sharding.build data=mscoco_glt source=COCO out=data attributes=cocottributes_py3.jbl resize_short=160": (
        2,
        r"cocottributes_py3\.jbl cannot be read",
    ),
    "python -m sharding.build data=mscoco_glt out=data annotation=coco_glt.json,coco_cbl.json "
    "prefix=/data4/coco/=/mine/coco/": (2, r"coco_glt\.json cannot be read"),
}
# As QUICK, but they load torch first.
SLOW = {
    "python -m sharding.build data=imagenet_glt source=ILSVRC2012_img_train.tar out=data": (
        2,
        r"ILSVRC2012_img_train\.tar|weights of ResNet-50",
    ),
    "python -m sharding.build data=imagenet_glt source=ILSVRC/Data/CLS-LOC/train "
    "annotation=imagenet_sup_intra_lt_inter_lt.json,imagenet_sup_intra_lt_inter_bl.json out=data": (
        2,
        r"annotation=imagenet_sup_intra_lt_inter_lt\.json does not exist",
    ),
}
# Where the package is not installed they are refused; where it is they train, and are not run here.
WITH_PACKAGE = {
    "python slurm/launch.py recipe=glt_ifl data=digits_glt cluster=local log.tensorboard=true": "tensorboard",
    "WANDB_MODE=offline python slurm/launch.py recipe=glt_ifl data=digits_glt cluster=local log.wandb=PROJECT": "wandb",
}
# In a fresh clone, in this order.
LONG = [
    "make demo",
    "python slurm/launch.py recipe=glt_ifl data=digits_glt cluster=local nodes=2",
    "python -m sharding.build data=digits_glt out=data preview=out/digits_glt.png",
    "python -m sharding.build data=fashion_glt out=data source=/usr/share/datasets/fashion-mnist "
    "long_tail=examples/fashion_glt_counts.csv attributes=clusters attribute_tail=7:2:1",
    "python slurm/launch.py recipe=glt_ifl data=fashion_glt model.name=timm:vit_tiny_patch16_224 "
    "model.args.patch_size=7 model.args.depth=4 model.train=lora optim.name=adamw optim.lr=0.001 schedule.epochs=5 "
    "cluster=local nodes=2",
    "python -m sharding.verify data/digits_glt",
    "python -m sharding.describe data/digits_glt out=out/digits_glt",
    "python -m analysis runs=runs out=out",
    "python -m analysis runs=runs out=out only=tables",
    "python -m analysis runs=runs out=out pair=glt_randaug_ifl",
    'python -m analysis explain runs=examples/fashion_glt table=claims data=fashion_glt row="Baseline + IFL" '
    "column=glt.overall.accuracy",
    "python -m analysis light runs=runs out=light",
    "python -m analysis bundle runs=runs out=bundle.zip",
    "python -m analysis bundle runs=runs out=bundle.zip anonymous=yes",
    "python -m analysis sweep runs=examples/fashion_glt recipe=glt_ifl,glt_baseline",
    "python -m analysis tuned runs=examples/fashion_glt table=claims data=fashion_glt",
    "python -m analysis results runs=examples/fashion_glt out=docs/results-fashion.md",
    "make test",
]
CLUSTER = [
    "make cluster",
    "export SLURM_CONF=/tmp/glt-cluster/slurm.conf",
    "python slurm/launch.py recipe=glt_randaug_ifl data=digits_glt nodes=4 seed=1",
    "squeue",
    "make cluster-down",
]

TOP = ("recipes", "sharding", "ifl", "slurm", "analysis", "tests", "docs", "examples")
NOT_OURS = {"slurm/site.yaml"}
"""Paths that a user makes."""
NOT_SPOKEN = (r"\banew\b", r"\bafar\b", r"\bhere alone\b", r"\bof its own\b", r"(?m)^(?:[-*] )?Of an? ")
"""Turns of phrase that the pages have given up."""


# --- reading pages ----------------------------------------------------------------------------------------------------


def prose(page: Path) -> list[tuple[int, str]]:
    """Return (line number from 1, line) of what is neither in a code block nor in a table."""
    return [(number, line) for number, line in outside_code(page) if not line.lstrip().startswith("|")]


def outside_code(page: Path) -> list[tuple[int, str]]:
    """Return (line number from 1, line) of what is not in a code block."""
    lines, code = [], False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            code = not code
        elif not code:
            lines.append((number, line))
    assert not code, f"{page.name}: a code block has no end"
    return lines


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


def commands() -> list[str]:
    """Return every command in an sh block of a page, without its comment, once."""
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines() if line.strip()]
    return list(dict.fromkeys(line.split("  #")[0].strip() for line in lines))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    seen: Counter[str] = Counter()
    found = set()
    for _, line in outside_code(page):
        if heading := re.fullmatch(r"#+ (.*)", line):
            slug = re.sub(r"[^\w\- ]", "", heading[1].strip().lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found


def links(page: Path) -> list[str]:
    """Return the targets of a page's links, those to other sites left out."""
    text = re.sub(r"`[^`]*`", "", "\n".join(line for _, line in outside_code(page)))
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:", target)]


def named_paths(page: Path) -> list[str]:
    """Return what looks like a path or a module of the project, in backticks or in a code block of commands."""
    spans = re.findall(r"`([^`\n]+)`", "\n".join(line for _, line in outside_code(page)))
    spans += [line for language in ("sh", "text") for block in blocks(page, language) for line in block.splitlines()]
    words = [word.strip("`,;:()\"'") for span in spans for word in re.split(r"[\s=|]+", span)]
    paths = [word for word in words if re.fullmatch(rf"(?:{'|'.join(TOP)})/[\w.*/-]*", word)]
    tests = [f"tests/**/{word}" for word in words if re.fullmatch(r"test_\w+\.py", word)]
    modules = [word for span in spans for word in re.findall(r"python -m ((?:\w+\.)*\w+)", span)]
    return [*paths, *tests, *(word.replace(".", "/") for word in modules if word.split(".")[0] in TOP)]


def exists(path: str) -> bool:
    """Whether a path is there; words in capitals, such as NAME, are any name, and a module is a file or a package."""
    pattern = re.sub(r"\b[A-Z]+\b", "*", path.rstrip("/"))
    return any(next(PROJECT.glob(form), None) for form in (pattern, f"{pattern}.py", f"{pattern}/__main__.py"))


# --- commands ---------------------------------------------------------------------------------------------------------


def run(command: str, folder: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def checked(command: str, folder: Path, code: int, pattern: str) -> None:
    """Run a command on no user's folders: some of their runs may be finished, and their data are theirs."""
    if " slurm/" in command:
        words = "" if " build=" in command else f" runs={folder}"
        result = run(command + words, PROJECT, 120)
    else:
        result = run(command, folder, 120)
    assert result.returncode == code, result.stdout + result.stderr
    assert re.search(pattern, result.stdout + result.stderr), result.stdout + result.stderr


def test_every_command_of_the_pages_is_run() -> None:
    """A command that a page shows is run by a test here, and nothing else is."""
    assert sorted(commands()) == sorted([*QUICK, *SLOW, *WITH_PACKAGE, *LONG, *CLUSTER])


@pytest.mark.parametrize("command", QUICK)
def test_quick_commands(tmp_path: Path, command: str) -> None:
    """The quick commands end as the pages say; what needs data that are not here says what is missing."""
    checked(command, tmp_path, *QUICK[command])


@pytest.mark.full
@pytest.mark.parametrize("command", SLOW)
def test_slow_commands(tmp_path: Path, command: str) -> None:
    """Commands that load torch before they look at their source are refused by naming what is missing."""
    checked(command, tmp_path, *SLOW[command])


@pytest.mark.parametrize("command", WITH_PACKAGE)
def test_commands_that_need_a_package(tmp_path: Path, command: str) -> None:
    """Without the package the launcher refuses before anything starts, and says what to install."""
    package = WITH_PACKAGE[command]
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed, so the command would train")
    checked(command, tmp_path, 2, f"needs the package {package}")


def test_the_words_of_build_commands_are_legal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every build command of the pages is one that the builder's words allow."""
    from sharding.building.request import parse

    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()  # where a contact sheet goes
    Path("examples").symlink_to(PROJECT / "examples")
    found = [command for command in commands() if "-m sharding.build" in command]
    assert len(found) >= 6
    for command in found:
        words = command.split()[3:]
        assert parse(words)[0] == words[0].removeprefix("data=")


@pytest.mark.full
def test_long_commands_in_a_fresh_clone(tmp_path: Path) -> None:
    """In a fresh clone without an environment the long commands work as written, in the pages' order; the demo ends
    with its table, a second demo trains nothing, and the page of results is written as it is committed."""
    if not (PROJECT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git and a checkout to clone (Debian package: git)")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(PROJECT), str(clone)], check=True)

    def in_clone(command: str, path: str, timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            shell=True,
            executable="/bin/bash",
            cwd=clone,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    bare, own = os.environ["PATH"], f"{clone}/.venv/bin:{os.environ['PATH']}"
    demo = in_clone(LONG[0], bare, 3600)
    assert demo.returncode == 0, demo.stdout[-3000:] + demo.stderr[-3000:]
    assert "BLSoftmax" in demo.stdout and "out/demo.tex" in demo.stdout
    again = in_clone("make demo", bare, 300)
    assert again.returncode == 0 and again.stdout.count("nothing to do") == 2  # the data, and three runs in a line
    for command in LONG[1:]:
        result = in_clone(command, own, 3600)
        assert result.returncode == 0, command + result.stdout[-3000:] + result.stderr[-3000:]
    changed = in_clone("git status --porcelain docs", bare, 60)
    assert changed.returncode == 0 and changed.stdout == ""
    script = "\n".join(["set -e", *CLUSTER[:4], "while squeue -h | grep -q .; do sleep 2; done", CLUSTER[4]])
    shown = in_clone(script, f"{own}:/usr/sbin", 1200)
    assert shown.returncode == 0 and "job: " in shown.stdout, shown.stdout + shown.stderr
    assert len(list((clone / "runs").glob("glt_randaug_ifl-digits_glt-glt-s1-*/done"))) == 1


# --- links, paths, lengths, English -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file or folder, and its anchor to a heading there."""
    broken = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    """A page that nobody links to is not read: README links to each."""
    reached = {link.partition("#")[0] for link in links(PROJECT / "README.md")}
    assert {page.relative_to(PROJECT).as_posix() for page in PAGES[1:]} <= reached


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_pages_name_only_paths_that_exist(page: Path) -> None:
    """What a page calls by a path, a test's file name or a module of the project is there."""
    assert [path for path in named_paths(page) if path not in NOT_OURS and not exists(path)] == []


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_pages_are_short_and_narrow(page: Path) -> None:
    """A page can be read in one go, and without scrolling sideways; tables and code may be wide."""
    is_written = page.parent.name == "docs" and not page.name.startswith("results-")
    most = 230 if is_written else MOST_LINES.get(page.name, 10_000)
    assert len(page.read_text(encoding="utf-8").splitlines()) <= most
    assert [number for number, line in prose(page) if len(line) > 120] == []


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_pages_are_written_as_one_speaks(page: Path) -> None:
    """Turns of phrase that no one uses when speaking do not come back."""
    text = re.sub(r"`[^`]*`", "", "\n".join(line for _, line in outside_code(page)))
    assert [pattern for pattern in NOT_SPOKEN if re.search(pattern, text)] == []


# --- examples ---------------------------------------------------------------------------------------------------------


def example(page: str, number: int = 0) -> dict[str, Any]:
    """Return the names that a Python block of a page defines, run as it is there."""
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(compile(blocks(PROJECT / "docs" / page, "python")[number], page, "exec"), namespace)
    return namespace


def test_the_example_builder_builds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The builder in docs/adding-a-dataset.md builds a data set that opens, and a second time does nothing."""
    from PIL import Image

    from sharding.building.request import Request
    from sharding.open import open_dataset

    raw, counts = tmp_path / "raw", {"cat": 6, "dog": 4, "owl": 2}
    for split in ("train", "val", "test_cbl", "test_gbl"):
        for name, count in counts.items():
            (raw / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (i, 0, 0)).save(raw / split / name / f"{i}.jpg")
    source = blocks(PROJECT / "docs" / "adding-a-dataset.md", "python")[0]
    assert re.search(r"^def build\(request: Request\) -> None:", source, re.M)  # how a builder is found
    build = example("adding-a-dataset.md")["build"]
    assert callable(build)
    build(Request(out=tmp_path / "data", source=raw))
    built = open_dataset(tmp_path / "data", "my_data")
    assert built.class_names == ["cat", "dog", "owl"] and built.class_groups == [0, 1, 2]
    assert len(built.split("glt", "train")) == 12
    build(Request(out=tmp_path / "data", source=raw))
    assert "nothing to do" in capsys.readouterr().out


def test_the_example_format_and_tail_are_found_by_their_place(tmp_path: Path) -> None:
    """The format and the tail of docs/adding-a-dataset.md, put where the page says in a copy of the project, build a
    data set.
    """
    from PIL import Image

    from tests.helpers.project_copy import copy_of_the_project

    project = copy_of_the_project(tmp_path / "project")
    _, format_, tail = blocks(PROJECT / "docs" / "adding-a-dataset.md", "python")
    (project / "sharding" / "sources" / "by_name.py").write_text(format_)
    (project / "sharding" / "datasets" / "samples" / "tails" / "line.py").write_text(tail)
    (tmp_path / "raw").mkdir()
    for label in ("ant", "bee", "owl"):
        for i in range(60):
            Image.new("RGB", (8, 8), (i, 4 * len(label), 0)).save(tmp_path / "raw" / f"{label}--{i}.png")
    (tmp_path / "raw" / "cover.png").write_bytes(b"")
    words = [
        "data=insects",
        f"source={tmp_path / 'raw'}",
        f"out={tmp_path}",
        "long_tail=line:10",
        "val=5",
        "test_cbl=5",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "sharding.build", *words], cwd=project, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "insects" / "dataset.json").read_text())["splits"]["glt/train"]["per_class"] == [
        50,
        28,
        5,
    ]
    assert "1 left out: files without a label in their name (cover.png)" in done.stdout


def test_the_example_of_images_from_python_builds(tmp_path: Path) -> None:
    """The program in docs/your-data.md makes a data set of 200 arrays."""
    example("your-data.md")["main"](str(tmp_path))
    assert json.loads((tmp_path / "shades" / "dataset.json").read_text())["class_names"] != []


def test_the_example_values_are_those_of_digits_glt() -> None:
    """The values shown in docs/adding-a-dataset.md are the whole of recipes/data/digits_glt.yaml."""
    shown = blocks(PROJECT / "docs" / "adding-a-dataset.md", "yaml")[0]
    file = (PROJECT / "recipes" / "data" / "digits_glt.yaml").read_text(encoding="utf-8")
    assert shown == "".join(line for line in file.splitlines(keepends=True) if not line.startswith("#"))


def test_the_example_method_gives_a_loss_for_each_row() -> None:
    """The method in docs/adding-a-method.md is one: float [B] losses, and the prior counts."""
    import numpy as np
    import torch

    from ifl.method import Output, Rows, Task

    names = example("adding-a-method.md")
    method, args = names["Method"], names["ARGS"]
    assert isinstance(method, type) and isinstance(args, dict)
    made = method(Task(np.array([8, 2]), feature_dim=4, epochs=1, args=args))
    labels = torch.tensor([0, 1, 1])
    losses = made.losses(Output(torch.zeros(3, 4), torch.zeros(3, 2)), Rows(labels, labels, labels, 0, labels))
    torch.testing.assert_close(losses, -torch.tensor([0.8, 0.2, 0.2]).log())
