"""The house stays readable: short lines, functions, modules and pages, one place for every pinned version."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.shipped import is_own

PROJECT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
ROOMS = ("recipes", "sharding", "ifl", "slurm", "analysis")
WIDEST = 120
LONGEST_FUNCTION = 60
LONGER_FUNCTIONS = {"ifl/train.py:train": 110}
"""The loop of training is read from top to bottom."""
LONGEST_TEST = 100
"""Of tests and benches, some of which tell a story from its beginning to its end."""
LONGEST_FILES = {"ifl/train.py": 200, "README.md": 150, "AGENTS.md": 40}
OLD_PYTHON = {
    "recipes/common/install.py",
    "recipes/common/venv.py",
    "recipes/common/errors.py",
    "recipes/common/json_text.py",
    "slurm/environment.py",
    "slurm/evaluator.py",
    "slurm/monitoring/events.py",
    "slurm/cluster/energy.py",
    "slurm/cluster/needs.py",
    "slurm/cluster/packed.py",
    "slurm/cluster/requeue.py",
    "slurm/after_run/__main__.py",
    "slurm/after_run/follow.py",
    "slurm/after_run/wanted.py",
    "slurm/nodes/exclusion.py",
    "ifl/supervision/node_events.py",
    "ifl/supervision/node_limits.py",
    "slurm/launch.py",
    "slurm/status.py",
    "slurm/scaling.py",
    "analysis/__main__.py",
    "sharding/build.py",
    "sharding/verify.py",
    "sharding/describe.py",
    "sharding/coco_attributes.py",
    "ifl/engine.py",
    "ifl/clip/__main__.py",
    "ifl/pretrained/__main__.py",
}
"""They must be read by Python 3.6, which has no such import, to go on in .venv or to say that a newer one is needed."""
FENCE = re.compile(r"^\s*(```|~~~)")


def named(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def modules(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((PROJECT / folder).rglob("*.py")) if not is_own(path)]
    assert found, f"no modules in {folders}"
    return found


def pages() -> list[Path]:
    return [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").rglob("*.md"))]


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The numbered lines of a Markdown page but for tables and code blocks, which cannot be wrapped."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line):
            inside = not inside
        elif not inside and not line.lstrip().startswith("|"):
            yield number, line


def functions(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, int]]:
    """Dotted name and number of lines of each function, decorators not counted."""
    for node in ast.iter_child_nodes(tree):
        name = outer
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{outer}.{node.name}".lstrip(".")
            if not isinstance(node, ast.ClassDef):
                yield name, (node.end_lineno or node.lineno) - node.lineno + 1
        yield from functions(node, name)


def test_the_finders_find() -> None:
    """Prose is what is neither table nor code; inner functions and methods are found by their dotted names."""
    assert list(prose("a\n```sh\nb\n```\n| c |\nd")) == [(1, "a"), (6, "d")]
    source = "class A:\n    @b\n    def c(self):\n        def d():\n            pass\nif e:\n    def f(): pass\n"
    assert list(functions(ast.parse(source))) == [("A.c", 3), ("A.c.d", 2), ("f", 1)]


@pytest.mark.parametrize("room", [*ROOMS, "tests"])
def test_no_line_is_too_wide(room: str) -> None:
    """A line has at most 120 characters."""
    wide = [
        f"{named(path)}:{number}"
        for path in modules(room)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > WIDEST
    ]
    assert wide == []


def test_no_line_of_a_page_is_too_wide() -> None:
    """So has a line of a page, tables and code blocks excepted."""
    lines = [(path, number, line) for path in pages() for number, line in prose(path.read_text())]
    assert [f"{named(path)}:{number}" for path, number, line in lines if len(line) > WIDEST] == []


@pytest.mark.parametrize("room", [*ROOMS, "tests"])
def test_no_function_is_too_long(room: str) -> None:
    """A function has at most 60 lines; training's loop may have 110, a test 100."""
    longest = LONGEST_TEST if room == "tests" else LONGEST_FUNCTION
    found = [
        (f"{named(path)}:{name}", length)
        for path in modules(room)
        for name, length in functions(ast.parse(path.read_text()))
    ]
    assert {name: length for name, length in found if length > LONGER_FUNCTIONS.get(name, longest)} == {}


def test_short_files_stay_short() -> None:
    """The training loop's module and the pages that everyone reads first keep to their numbers of lines."""
    lengths = {
        name: len((PROJECT / name).read_text().splitlines()) for name in LONGEST_FILES if (PROJECT / name).exists()
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILES[name]} == {}


@pytest.mark.parametrize("room", [*ROOMS, "tests"])
def test_annotations_are_not_evaluated(room: str) -> None:
    """Every module with code begins with `from __future__ import annotations`."""
    lacking = []
    for path in modules(room):
        body = ast.parse(path.read_text()).body
        code = [node for node in body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
        if code and ast.unparse(code[0]) != "from __future__ import annotations":
            lacking.append(named(path))
    assert set(lacking) - OLD_PYTHON == set()


def test_tools_are_pinned_once() -> None:
    """pre-commit runs the tools of the environment, whose versions requirements.txt pins; it names none itself."""
    text = (PROJECT / ".pre-commit-config.yaml").read_text()
    tools = set(re.findall(r"entry: \.venv/bin/python -m (\w+)", text))
    assert {"ruff", "mypy"} <= tools and len(re.findall(r"entry:", text)) == len(re.findall(r"language: system", text))
    assert "rev:" not in text and not re.search(r"\d+\.\d+", text)
    pinned = set(re.findall(r"^([\w-]+)==", (PROJECT / "requirements.txt").read_text(), re.M))
    assert tools <= pinned


def test_ci_checks_before_it_tests() -> None:
    """.ci/run calls `make check`, which takes a minute, before `make test`."""
    lines = (PROJECT / ".ci" / "run").read_text().splitlines()
    assert lines.index("make check") < lines.index("make test")
