"""The README's commands do what it says: the quick ones here, the long ones in a fresh clone under `make test-full`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent

# Every command of the README stands here with what it must end with: an exit code and words of its output.
QUICK = {
    "python slurm/launch.py recipe=glt_randaug_ifl nodes=4": (2, "python -m sharding.build data=imagenet_glt"),
    "python slurm/launch.py recipe=glt_ifl data=digits_glt nodes=4 cluster=dry": (0, "#SBATCH --nodes=4"),
    "python slurm/launch.py recipe=glt_ifl data=digits_glt seeds=0,1,2 max_jobs=2 nodes=4 cluster=dry": (
        0,
        "has left the queue",
    ),
    "python slurm/launch.py table=digits_clt_glt seeds=0,1,2 cluster=dry": (0, "glt_crt-digits_glt-glt-s2-"),
    "python slurm/status.py": (0, "state"),
}
LONG = [
    "make demo",
    "python slurm/launch.py recipe=glt_ifl data=digits_glt cluster=local nodes=2",
    "python -m analysis runs=runs out=out",
    "make test",
]
CLUSTER = [
    "make cluster",
    "export SLURM_CONF=/tmp/glt-cluster/slurm.conf",
    "python slurm/launch.py recipe=glt_randaug_ifl data=digits_glt nodes=4 seed=1",
    "squeue",
    "make cluster-down",
]


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (PROJECT / "README.md").read_text(), re.S)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def run(command: str, folder: Path, timeout: float) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
    )


def test_every_command_of_the_readme_is_run() -> None:
    """A command that the README shows is run by a test here, and nothing else is."""
    assert sorted(commands()) == sorted([*QUICK, *LONG, *CLUSTER])


@pytest.mark.parametrize("command", QUICK)
def test_quick_commands(tmp_path: Path, command: str) -> None:
    """The README's quick commands end as it says (the first, on a machine without ImageNet-GLT, by naming the command
    that builds it), in a folder of runs of their own: of a user's, some may be finished and are not launched again."""
    code, words = QUICK[command]
    result = run(f"{command} runs={tmp_path}", PROJECT, 60)
    assert result.returncode == code, result.stderr
    assert words in result.stdout + result.stderr


def test_the_readme_names_only_files_that_exist() -> None:
    """Every relative link of the README leads to a file."""
    links = re.findall(r"\]\(([^)#:]+)\)", (PROJECT / "README.md").read_text())
    assert links
    assert [link for link in links if not (PROJECT / link).exists()] == []


@pytest.mark.full
def test_long_commands_in_a_fresh_clone(tmp_path: Path) -> None:
    """In a fresh clone without an environment the long commands work as written, in the README's order; the demo ends
    with its table, and a second demo trains nothing."""
    if not (PROJECT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git and a checkout to clone (Debian package: git)")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(PROJECT), str(clone)], check=True)
    for command in LONG[:1]:
        result = subprocess.run(command, shell=True, cwd=clone, capture_output=True, text=True, timeout=3600)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "RandAug" in result.stdout and "out/demo.tex" in result.stdout
    again = subprocess.run("make demo", shell=True, cwd=clone, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and again.stdout.count("nothing to do") == 4  # the data and three runs
    for command in LONG[1:]:
        environment = {**os.environ, "PATH": f"{clone}/.venv/bin:{os.environ['PATH']}"}
        result = subprocess.run(
            command, shell=True, cwd=clone, env=environment, capture_output=True, text=True, timeout=3600
        )
        assert result.returncode == 0, command + result.stdout[-3000:] + result.stderr[-3000:]
    environment = {**os.environ, "PATH": f"{clone}/.venv/bin:{os.environ['PATH']}:/usr/sbin"}
    shown = subprocess.run(
        "\n".join(["set -e", *CLUSTER[:4], "while squeue -h | grep -q .; do sleep 2; done", CLUSTER[4]]),
        shell=True,
        executable="/bin/bash",
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert shown.returncode == 0 and "job: " in shown.stdout, shown.stdout + shown.stderr
    assert len(list((clone / "runs").glob("glt_randaug_ifl-digits_glt-glt-s1-*/done"))) == 1
