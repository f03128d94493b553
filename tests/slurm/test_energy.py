"""A job that ends asks SLURM's accounting for its energy, and notes the text where it says anything."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.cluster import energy, requeue
from slurm.monitoring import events

TEXT = "12|\n12.batch|900\n12.0|1000\n"


def answers(monkeypatch: pytest.MonkeyPatch, reply: Callable[[], tuple[int, str]]) -> list[list[str]]:
    """Put a stand-in in the place of SLURM's commands; returns the words that it is asked with."""
    asked: list[list[str]] = []

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(words)
        code, out = (0, "JobState=RUNNING") if words[0] == "scontrol" else reply()
        return subprocess.CompletedProcess(words, code, out, "")

    monkeypatch.setattr(energy.subprocess, "run", run)
    return asked


def test_a_finished_job_notes_its_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SLURM's words, of all its starts (--duplicates), once, after the verdict."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    events.append_event(tmp_path, "start")
    events.append_event(tmp_path, "finished")
    (tmp_path / "done").write_text("{}")
    asked = answers(monkeypatch, lambda: (0, TEXT))
    assert requeue.main(tmp_path, 0) == 0
    assert [words[0] for words in asked] == ["scontrol", "sacct"] and "--duplicates" in asked[1]
    lines = (tmp_path / "log" / "energy.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [{"by": "sacct", "job": "12", "text": TEXT.strip()}]


def raises(error: Exception) -> Callable[[], tuple[int, str]]:
    def reply() -> tuple[int, str]:
        raise error

    return reply


@pytest.mark.parametrize(
    "reply",
    [
        lambda: (1, TEXT),
        lambda: (0, "12|\n12.0|0\n"),
        raises(FileNotFoundError("sacct")),
        raises(subprocess.TimeoutExpired("sacct", 20)),
    ],
    ids=["refused", "nothing measured", "no sacct", "no answer"],
)
def test_where_nothing_is_measured_nothing_is_noted(
    reply: Callable[[], tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the job ends as it would."""
    (tmp_path / "log").mkdir()
    answers(monkeypatch, reply)
    assert not energy.note_energy(tmp_path, "12") and list((tmp_path / "log").iterdir()) == []
