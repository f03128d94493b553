"""What the build command says when writing fails outside of a shard."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sharding import build
from sharding.building import request


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.ENOSPC, "no space left on device, the same command goes on"), (errno.EFBIG, "File too large")],
)
def test_a_file_that_cannot_be_written_is_looked_for_below_out(
    number: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A write to an open file fails without the file's name: the sentence then names out=, and what to do about a full
    disk.
    """

    def full(_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(build, "run", full)
    assert build.main(["data=mscoco_glt", f"out={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith(f"sharding.build: a file below out={tmp_path}: {sentence}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = (", "build.py, line 2: no legal Python: "),
        ("TAKES = tuple('a')", "build.py, line 2: TAKES must be a literal"),
    ],
)
def test_a_builder_that_cannot_be_read_is_told_with_its_line(
    text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's own builder that is no Python, or whose words are no literal, is one sentence of the command."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "build.py").write_text(f"def build(request: Request) -> None: pass\n{text}\n")
    monkeypatch.setattr(request, "DATASETS", tmp_path)
    assert build.main(["data=mine", f"out={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and sentence in said
