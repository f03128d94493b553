"""Progress: a bar on a terminal, lines in a log."""

from __future__ import annotations

import os
import subprocess
import sys
import termios

import pytest

from sharding import progress
from sharding.progress import ProgressBar
from tests.helpers.paths import PROJECT


def test_a_log_gets_whole_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no terminal is, a line now and then and one at the end: no carriage return, no move of the cursor and no
    empty line, also with several bars, changed words and lines written above them.
    """
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    with (
        ProgressBar(100, "packing", "img") as bar,
        ProgressBar(None, "starting", "step", position=1, leave=False) as two,
    ):
        for _ in range(100):
            clock[0] += 1
            bar.update()
            two.update()
            bar.set_postfix(loss="1.0")
        two.total = 200
        two.set_description("glt_ifl")
        ProgressBar.write("a shard is written again", file=sys.stderr)
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert "\r" not in said and "\x1b" not in said and "" not in lines
    assert "a shard is written again" in lines
    packing = [line for line in lines if line.startswith("packing: ")]
    assert 4 <= len(packing) <= 5
    assert packing[-1] == "packing: 100% (100 of 100 img), 1.00img/s, after 01:40, 00:00 left, loss=1.0"
    assert any(line.startswith("starting: 0% (") and " of ? step" in line for line in lines)


def test_a_terminal_gets_a_bar(terminal: tuple[int, int]) -> None:
    """On a terminal the bar is drawn over itself."""
    code = "from sharding.progress import ProgressBar\nwith ProgressBar(2, 'packing', 'img') as bar: bar.update(2)"
    ours, theirs = terminal
    termios.tcsetwinsize(theirs, (24, 80))
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, stderr=theirs, check=True)
    shown = os.read(ours, 10_000).decode()
    assert "\rpacking: 100%|" in shown and "2/2" in shown
