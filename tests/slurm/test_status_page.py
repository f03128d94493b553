"""A command's runs as one line of the status view, and the view as a page."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from slurm import status
from slurm.monitoring import commands, events, page, progress, run_state
from slurm.monitoring.commands import Command
from slurm.monitoring.run_line import Status, without_alike
from slurm.monitoring.run_state import Job
from tests.helpers.browser import CHROMIUM, browser
from tests.helpers.paths import PROJECT

END = ("held", "finished")
HOSTILE = "<script>alert(1)</script>&\"'; é"


def line(name: str, state: str, **values: object) -> Status:
    usual = dict.fromkeys(("images_per_s", "left_s", "val")) | {"epochs": 4, "whole_s": None, "job": None}
    return Status(name, state, "-", "-", 0, "-", log="-", **(usual | values))


def test_a_command_is_counted_in_one_line() -> None:
    """Done, running, queued and failed add up to the command's runs, whatever their states; the failed ones say how;
    those without a folder wait; job arrays are named."""
    states = ["finished", "running", "suspended", "queued", "held", "stuck", "gave up", "gave up", "lost", "unknown"]
    lines = [line(f"r{number}", state, job=f"17_{number}") for number, state in enumerate(states)]
    command = Command("table=t seeds=0,1", tuple(f"r{number}" for number in range(11)))
    (made,) = progress.lines([command, Command("other", ("x", "y"))], lines)
    assert sum(made.parts.values()) == made.runs == 11
    assert str(made) == (
        "table=t seeds=0,1: 11 runs, 1 done, 2 running, 3 queued, 4 failed (2 gave up, 1 lost, 1 stuck), 1 unknown, "
        "hours left unknown, array 17"
    )
    assert str(progress.lines([Command("t", ("r0",))], lines)[0]) == "t: 1 runs, 1 done, 0 running, 0 queued, 0 failed"


def test_hours_left_follow_from_what_is_known() -> None:
    """Runs under way say what they need; those that wait take what an epoch of the others takes; all of it is shared by
    as many as are under way now, and none ends before the longest."""
    known = {"whole_s": 7200.0, "left_s": 3600.0}
    lines = [line("a", "running", **known), line("b", "running", **known), line("c", "queued", epochs=8)]
    command = Command("t", ("a", "b", "c", "d"))
    made = progress.progress_of(command, {one.name: one for one in lines})
    assert made.left_s == max((3600 + 3600 + 2 * 7200 + 7200) / 2, 14400)
    alone = progress.progress_of(Command("t", ("a", "c")), {one.name: one for one in lines})
    assert alone.left_s == 3600 + 14400
    over = progress.progress_of(Command("t", ("x",)), {"x": line("x", "gave up")})
    assert over.left_s == 0


def test_waiting_elements_of_an_array_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Many that only wait are one line with the array's id; those that run, or have run, keep theirs."""
    (tmp_path / "x").mkdir()
    for number in range(5):
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        (folder / "recipe.yaml").write_text("schedule: {epochs: 4}\nbatch: {size: 32}")
        events.append_event(folder, "submitted", job=f"17_{number}")
    monkeypatch.setattr(
        run_state,
        "queue",
        lambda: {f"17_{n}": Job("RUNNING" if n == 2 else "PENDING", time.time(), f"run-{n}") for n in range(5)},
    )
    commands.note_launch([tmp_path / f"run-{number}" for number in range(5)], ["x", "table=t"])
    assert status.main([f"runs={tmp_path}"]) == 0
    first, head, *rows = capsys.readouterr().out.splitlines()
    assert first == "table=t: 5 runs, 0 done, 1 running, 4 queued, 0 failed, hours left unknown, array 17"
    assert head.split()[0] == "run"
    assert [row.split("  ")[0] for row in rows] == ["4 runs of array 17", "run-2"]
    for number in range(5):
        (tmp_path / f"run-{number}" / "done").touch()
    assert status.main([f"runs={tmp_path}"]) == 0
    assert capsys.readouterr().out.split()[0] == "run", "a command that is finished has no line any more"
    few = [line(f"r{n}", "queued", job=f"8_{n}") for n in range(2)]
    assert without_alike(few) == few


def test_held_elements_of_an_array_are_a_line_beside_its_waiting_ones() -> None:
    """So are blocked ones: each line stands for elements of one state."""
    states = ["held", "queued", "blocked"] * 3
    lines = [line(f"r{n}", state, job=f"8_{n}") for n, state in enumerate(states)]
    shown = [(one.name, one.state) for one in without_alike(lines)]
    assert shown == [("3 runs of array 8", state) for state in states[:3]]


def test_the_page_says_what_the_table_says_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nodes, why a run gave up, missing evaluators: each sentence below the table stands in the page, too."""
    run, file = tmp_path / "runs" / "a-run", tmp_path / "page.html"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("{}")
    monkeypatch.setattr(run_state, "queue", lambda: {})
    events.append_event(run, "start")
    events.append_event(run, "slow", node="r3", factor=2.5, steps=100)
    assert status.main([f"runs={run.parent}"]) == 0
    _, _, *about = capsys.readouterr().out.splitlines()
    assert "node r3 took 2.5 times" in about[0]
    assert status.main([f"runs={run.parent}", f"html={file}"]) == 0
    reader = Reader()
    reader.feed(file.read_text())
    assert set(about) <= set(reader.said)


class Reader(HTMLParser):
    """Notes tags and what they point to, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.links, self.said = [], [], []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def full_page() -> str:
    names = [HOSTILE, "glt_ride_ifl_randaug-imagenet_glt-glt-s0-0123abcd", *(f"run-{number}" for number in range(8))]
    states = ["running", "running", "finished", "queued", "held", "failed", "gave up", "stuck", "unreadable", "unknown"]
    known = {"images_per_s": 812.4, "left_s": 7261.0, "val": 0.517, "whole_s": 9000.0}
    lines = [
        line(name, state, **(known if state == "running" else {})) for name, state in zip(names, states, strict=True)
    ]
    made = progress.lines([Command(f"table=t {HOSTILE}", tuple(names))], lines)
    about = [f"run-1: node {HOSTILE} took 2 times as long", "run-2 gave up: why"]
    return page.page(f"/runs/{HOSTILE}", made, lines, about, 7.4, "2026-11-29 13:00:00 UTC")


def test_the_page_is_whole_in_itself_and_its_text_is_text() -> None:
    """It refreshes itself, has no script and points to nothing; names of runs, folders and commands are shown as they
    are and are never markup."""
    text = full_page()
    reader = Reader()
    reader.feed(text)
    assert "script" not in reader.tags and reader.links == ["data:,"] and "url(" not in text and "@import" not in text
    assert text.count('http-equiv="refresh" content="7"') == 1
    shown = "".join(reader.said)
    order = re.findall(r'class="state \w+">([\w ]+)<', text)
    assert order == [*("failed", "gave up", "stuck", "unreadable", "unknown", "running", "running", "queued"), *END]
    assert shown.index("run-2 gave up: why") > shown.index("unreadable")
    assert shown.count(HOSTILE) == 4 and "812" in shown and "02:01:01" in shown and "51.7" in shown


def test_the_page_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """`html=FILE` writes it in place of the old one, and nothing else beside it; slips are one sentence."""
    monkeypatch.setattr(run_state, "queue", lambda: {})
    (tmp_path / "runs" / "a-run").mkdir(parents=True)
    (tmp_path / "runs" / "a-run" / "recipe.yaml").write_text("schedule: {epochs: 4}\nbatch: {size: 32}")
    file = tmp_path / "my page.html"
    file.write_text("old")
    assert status.main([f"runs={tmp_path / 'runs'}", f"html={file}"]) == 0
    assert capsys.readouterr().out == f"{file}: 1 runs\n"
    assert "a-run" in file.read_text() and 'content="30"' in file.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my page.html", "runs"]
    for wrong, said in ((tmp_path, "is a folder"), (tmp_path / "no" / "x.html", "in a folder that is not there")):
        assert status.main([f"runs={tmp_path / 'runs'}", f"html={wrong}"]) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1


def test_a_page_that_is_watched_is_written_again(tmp_path: Path) -> None:
    """With watch= it is written again and again, never half: each state of the file that a reader meets is a whole
    page."""
    runs, file = tmp_path / "runs", tmp_path / "page.html"
    (runs / "a-run").mkdir(parents=True)
    (runs / "a-run" / "recipe.yaml").write_text("schedule: {epochs: 4}\nbatch: {size: 32}")
    words = [sys.executable, "slurm/status.py", f"runs={runs}", f"html={file}", "watch=0.02"]
    with subprocess.Popen(words, cwd=PROJECT, stdout=subprocess.DEVNULL) as process:
        try:
            seen, deadline = set(), time.monotonic() + 30
            while len(seen) < 3 and time.monotonic() < deadline:
                if file.exists():
                    seen.add((file.stat().st_ino, file.stat().st_mtime_ns))
                    text = file.read_text()
                    assert text.startswith("<!DOCTYPE html>") and text.endswith("</html>\n")
        finally:
            process.terminate()
    assert len(seen) >= 3


@pytest.mark.full
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (make system)")
@pytest.mark.parametrize("width, height", [(360, 780), (1920, 1080)], ids=["phone", "wall"])
def test_the_page_fits_a_phone_and_a_wall(tmp_path: Path, width: int, height: int) -> None:
    """A browser shows it without a complaint or a request, no wider than its window, with a legible size of letters."""
    file = tmp_path / "page.html"
    file.write_text(full_page())
    with browser(tmp_path / "profile") as tab:
        tab.open(file, width, height)
        assert tab.value("document.documentElement.scrollWidth") <= width
        size = tab.value("parseFloat(getComputedStyle(document.body).fontSize)")
        assert 14 <= size <= 26 and tab.complaints == []


def test_refresh_is_never_too_often() -> None:
    """A page that is written many times a second is read once a second."""
    assert re.search(r'refresh" content="1"', page.page("r", [], [], [], 0.02, "now"))
