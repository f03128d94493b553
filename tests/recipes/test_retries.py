"""What a shared file system refuses for a while is read again, and what a job's memory is bounded by is found."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from recipes.common import retries
from recipes.common.process_limits import memory_of_job
from recipes.common.retries import retried

pytestmark = pytest.mark.fast


def failing(*numbers: int) -> tuple[list[int], object]:
    """A read that fails with these errors, one after the other, and then gives 7; and the errors that are left."""
    left = list(numbers)

    def read() -> int:
        if left:
            raise OSError(number := left.pop(0), os.strerror(number))
        return 7

    return left, read


def test_errors_that_pass_are_tried_again_and_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stale handle, an I/O error and a slow server are; each after its pause, with one line of what goes on."""
    slept: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", slept.append)
    left, read = failing(errno.ESTALE, errno.EIO, errno.ETIMEDOUT)
    assert retried(read, "shard a.tar") == 7 and not left and slept == list(retries.PAUSES_S[:3])
    assert capsys.readouterr().err == "shard a.tar: ESTALE (Stale file handle); trying again for 60 s\n"
    left, read = failing(*[errno.EIO] * 99)
    with pytest.raises(OSError, match="Input/output error"):
        retried(read, "shard a.tar")
    assert 99 - len(left) == len(retries.PAUSES_S) + 1


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EPERM])
def test_what_was_never_there_is_refused_at_once(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing or forbidden file is the user's to mend; where it was there before, it is waited for."""
    monkeypatch.setattr(retries, "PAUSES_S", (0.0,))
    with pytest.raises(OSError):
        retried(failing(number)[1], "a")
    assert retried(failing(number)[1], "a", was_there=True) == 7
    with pytest.raises(IsADirectoryError):
        retried(failing(errno.EISDIR)[1], "a", was_there=True)


@pytest.mark.parametrize(
    ("line", "files", "said"),
    [
        (
            "0::/job_3/step_0\n",
            {
                "job_3/memory.max": f"{8 * 2**30}\n",
                "job_3/memory.current": f"{2**30}\n",
                "job_3/memory.peak": f"{15 * 2**29}\n",
                "job_3/memory.events": "low 0\noom 1\noom_kill 4\noom_group_kill 0\n",
                "job_3/step_0/memory.max": "max\n",
                "job_3/step_0/memory.events": "oom_kill 1\n",
            },
            "the job's cgroup allows 8.0 GiB and 7.5 were used, the kernel killed for want of it so far: 1",
        ),
        (
            "11:cpuset:/a\n4:memory:/slurm/job_3\n0::/\n",
            {
                "memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
                "memory/slurm/job_3/memory.limit_in_bytes": f"{3 * 2**30}\n",
                "memory/slurm/job_3/memory.max_usage_in_bytes": f"{3 * 2**30}\n",
                "memory/slurm/job_3/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
            },
            "the job's cgroup allows 3.0 GiB and 3.0 were used",
        ),
        ("0::/not/mounted\n", {}, "SLURM gave the job 16.0 GiB of this node"),
    ],
)
def test_the_memory_of_a_job_is_found(
    line: str, files: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In cgroups of both versions the tightest limit on the way up counts; without one, SLURM's word and the machine's
    size are told. Kills are those of the own cgroup, for one above it counts other steps' too."""
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "16384")
    (tmp_path / "cgroup").write_text(line)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = memory_of_job(tmp_path / "cgroup", tmp_path)
    assert str(found).startswith(said) and "SLURM gave the job 16.0 GiB of this node" in str(found)
    assert found.kills == (int(said[-1]) if "killed" in said else 0 if files else None)
