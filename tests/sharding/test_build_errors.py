"""What the build command says when writing fails outside of a shard."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sharding import build


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
