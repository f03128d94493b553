"""README's set-up, in a minimal Debian that holds the packages README names and nothing else."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from recipes.schema import PROJECT
from tests.helpers import minimal_root


def test_the_smallest_list_of_packages_is_readme_s() -> None:
    """README has one line of packages; `make system` installs them, too, and no compiler is among them."""
    wanted = minimal_root.packages()
    system = next(
        line
        for line in (PROJECT / "Makefile").read_text().splitlines()
        if "apt-get install" in line and line.startswith("\t")
    )
    assert set(wanted) <= set(system.split()) and {"python3", "python3-venv", "make"} <= set(wanted)
    assert not {"g++", "gcc", "python3-dev", "ninja-build", "procps"} & set(wanted)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> minimal_root.MinimalRoot:
    if reason := minimal_root.lacking():
        pytest.skip(reason)
    if not (PROJECT / ".git").exists():
        pytest.skip("needs a checkout to clone")
    root = minimal_root.MinimalRoot(tmp_path_factory.mktemp("machine") / "root").make()
    root.clone()
    return root


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0 and "Traceback" not in result.stdout, result.stdout[-3000:]
    return next(line for line in reversed(result.stdout.splitlines()) if line.startswith("set-up stopped: "))


@pytest.mark.full
def test_what_is_missing_is_one_sentence(machine: minimal_root.MinimalRoot) -> None:
    """No venv package, no internet, a full disk and a folder of another user: each is told, and the same command works
    once it is mended.
    """
    hidden = (
        'echo "raise ImportError" > "$ROOT/tmp/lost"; for file in '
        '"$ROOT"/usr/lib/python3*/ensurepip/__init__.py; do mount --bind "$ROOT/tmp/lost" "$file"; done'
    )
    assert "apt-get install python3-venv" in last_line(machine.run("make venv", before=hidden))
    assert "no package index can be reached" in last_line(
        machine.run(
            "make venv",
            unshare="--mount --net",
            PIP_RETRIES="1",
            PIP_NO_CACHE_DIR="1",
            PIP_FIND_LINKS="",
            PIP_CONFIG_FILE="/dev/null",
        )
    )
    venv = f'"$ROOT{minimal_root.CLONE}/.venv"'
    assert "0.3 GB free" in last_line(
        machine.run("make venv", before=f"mkdir -p {venv}; mount -t tmpfs -o size=300m none {venv}")
    )
    stranger = last_line(
        machine.run("setpriv --reuid 12345 --regid 12345 --clear-groups make venv", before='chmod 755 "$ROOT/root"')
    )
    assert "belongs to root and cannot be written by user 12345" in stranger


@pytest.mark.full
def test_the_two_commands_on_a_machine_that_has_nothing(machine: minimal_root.MinimalRoot) -> None:
    """`make demo` and `make test` end well in a fresh clone, in a folder with spaces, with README's packages alone, no
    locale and a home that cannot be written; the tests say in their last line what was not tested."""
    demo = machine.run("time make demo", HOME="/proc")
    print(demo.stdout[-3000:])
    assert demo.returncode == 0 and "+ IFL" in demo.stdout, demo.stdout[-5000:]
    place = machine.folder / minimal_root.CLONE[1:]
    assert len(list(place.glob("runs/*/done"))) == 3 and not list(Path(place, ".venv").glob("torch_extensions"))
    tests = machine.run("time make test")
    print(tests.stdout[-3000:])
    assert tests.returncode == 0, tests.stdout[-5000:]
    skipped = re.search(r"\d+ passed, (\d+) skipped", tests.stdout)
    last = next(line for line in reversed(tests.stdout.splitlines()) if not re.match(r"(real|user|sys)\b|$", line))
    assert skipped and last.startswith(f"not tested here, {skipped[1]} of the tests: ")
