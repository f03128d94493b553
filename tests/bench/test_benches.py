"""Each bench still runs, at toy size, and refuses words that it does not know."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.spread import middle_half
from tests.bench.words import some_of, values_of
from tests.helpers.paths import PROJECT

TOY: dict[str, list[list[str]]] = {
    "afar": [["data={scratch}/loader", "images=256", "mb_s=50", "rounds=1", "faults=9"]],
    "analysis": [["runs=8", "samples=60"]],
    "boot": [["n=1", "data={digits}"]],
    "coco_crops": [["crops=40", "rounds=1"]],
    "coco_splitting": [["read=no"]],
    "growth": [["most=1e5", "windowed=1e5", "classes=100", "n=1"]],
    "gpu": [["size=toy", "only=nccl", "out={scratch}/gpu"]],
    "listing": [["rows=2000"]],
    "loader.data": [["out={scratch}/images", "images=32"]],
    "loader.run": [["data={scratch}/loader", "images=256", "rounds=1", "only=224,pixels", "rows=ours, pillow"]],
    "packing": [["images=20", "crops=100", "views=2"]],
    "plan_thread": [["samples=1e5", "n=1"]],
    "safety": [["n=2", "boots=1"]],
    "saving": [["mb=2", "n=2", "ranks=1"]],
    "scaling": [["n=2", "rounds=1", "data={digits}"]],
    "splitting": [["classes=20", "width=16"]],
    "step": [["networks=small_resnet", "ranks=1,2", "n=5", "data={digits}"], ["shares=examples/fashion_glt"]],
    "verify": [["images=30", "n=1"]],
}
"""By program: the words of its calls, of which none takes a minute on a free machine."""
CALLS = [(name, words) for name, calls in TOY.items() for words in calls]


def programs() -> set[str]:
    """The modules below tests/bench that take words."""
    folder = PROJECT / "tests" / "bench"
    found = {path for path in folder.rglob("*.py") if "values_of(" in path.read_text() and path.name[:5] != "test_"}
    names = {".".join(path.relative_to(folder).with_suffix("").parts) for path in found}
    return {name.removesuffix(".__main__") for name in names} - {"words"}


def test_every_bench_has_a_toy_size() -> None:
    """None is left out of these tests."""
    assert programs() == set(TOY)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benches")


@pytest.mark.full
@pytest.mark.parametrize(("name", "words"), CALLS, ids=[f"{name} {words[0]}" for name, words in CALLS])
def test_a_bench_runs(name: str, words: list[str], scratch: Path, request: pytest.FixtureRequest) -> None:
    """It ends well, and prints what it measured, in numbers."""
    digits = request.getfixturevalue("digits_root") if any("{digits}" in word for word in words) else None
    given = [word.format(scratch=scratch, digits=digits) for word in words]
    ended = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{name}", *given],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "nan" not in ended.stdout.split() and any(letter.isdigit() for letter in ended.stdout), ended.stdout


@pytest.mark.parametrize("name", sorted(TOY))
@pytest.mark.parametrize("word", ["siez=toy", "toy"])
def test_an_unknown_word_is_refused(name: str, word: str) -> None:
    """One sentence names the key, before anything is measured or written."""
    module = importlib.import_module(f"tests.bench.{name}" + (".__main__" if name == "gpu" else ""))
    with pytest.raises(SystemExit, match=f"unknown key '{word.split('=')[0]}'; .*legal: ") as refused:
        module.main([word])
    assert "\n" not in str(refused.value)


def test_of_the_gpus_bench_every_value_is_checked() -> None:
    """A section, size or time that there is not, before anything is measured; it is not left out in silence."""
    from tests.bench.gpu.__main__ import main

    for word, said in (
        ("only=engine", "'engine' is unknown; did you mean engines? legal: images, "),
        ("size=big", "size=big is not legal; legal: full, toy"),
        ("minutes=x", "minutes=x is not legal; a number above 0 is"),
    ):
        with pytest.raises(SystemExit) as refused:
            main(["size=toy", word] if "size" not in word else [word])
        assert said in str(refused.value)


def test_words_are_read_as_what_the_usual_ones_are() -> None:
    """Numbers as numbers, of which some may be 0; names of a list as a list."""
    usual = {"n": 5, "most": 1e7, "data": "", "read": ("yes", "no")}
    assert values_of([], usual) == {"n": 5, "most": 1e7, "data": "", "read": "yes"}
    assert values_of(["n=0", "most=1e5", "data=x", "read=no"], usual, zero=("n",)) == {
        "n": 0,
        "most": 1e5,
        "data": "x",
        "read": "no",
    }
    for word in ("n=0", "n=1.5", "n=-1", "most=inf", "most=nan", "read=maybe", "n=", "n"):
        with pytest.raises(SystemExit, match=word.split("=")[0]):
            values_of([word], usual)
    assert some_of("only", "", ["a", "b"]) == ["a", "b"] and some_of("only", "b", ["a", "b"]) == ["b"]


def test_the_middle_half_lies_within_the_values() -> None:
    """Of two values, and of one, too; of many it is what it is called."""
    assert middle_half([1.0, 3.0]) == (1.5, 2.5) and middle_half([2.0]) == (2.0, 2.0)
    assert middle_half(range(101)) == (25.0, 75.0)


def test_a_turn_that_never_comes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank does not wait for ever for a rank of the other group that has failed."""
    from tests.bench import step

    monkeypatch.setattr(step, "TURN_S", 0.05)
    monkeypatch.setenv("RANK", "0")
    mine, other = step.Turns(tmp_path, 0, 1), step.Turns(tmp_path, 1, 1)
    other.tell("ready", 0)
    mine.begin(0)
    with pytest.raises(TimeoutError, match="rank 0 of group 1 has not told 'done' of step 0"):
        mine.end(0)


def test_ranks_end_with_who_started_them() -> None:
    """Of a bench or a test that is killed no rank is left, not even one in the midst of a call."""
    program = """
import time
from tests.helpers.ranks import Ranks
ranks = Ranks(1)
print(ranks._processes[0].pid, flush=True)
ranks.run(time.sleep, 600, timeout=600)
"""
    killed = subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    rank = int(killed.stdout.readline())
    time.sleep(0.2)  # the call is made
    killed.kill()
    killed.wait(30)
    ends = time.monotonic() + 30
    while time.monotonic() < ends and is_on(rank):
        time.sleep(0.05)
    assert not is_on(rank)


def is_on(pid: int) -> bool:
    """Whether a process is there, and not only its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
