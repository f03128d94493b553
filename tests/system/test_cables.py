"""Nodes that are cut off or die, on a real SLURM (tests/helpers/cables.py)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.resolve import resolve
from slurm.monitoring import events
from tests.helpers import cables
from tests.helpers import cluster as clusters
from tests.helpers.jobs import launched, result_of, wait
from tests.helpers.paths import PROJECT
from tests.system.chaos_kinds import Target


@pytest.fixture
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cables.Cables]:
    if reason := cables.refused():
        pytest.skip(reason)
    running = cables.Cables(tmp_path_factory.mktemp("slurm"))
    try:
        yield running.start()
    finally:
        running.stop()


def test_a_cut_cable(wired: cables.Cables) -> None:
    """Jobs run on nodes with host names and addresses of their own; a cut cable makes its node unreachable, and healed
    it is reached again."""
    said = wired.run("srun", "-N2", "-n2", "-p", "high", "sh", "-c", "hostname; ip -4 -o address show eth0").stdout
    assert {"r1", "r2"} <= set(said.split()) and f"{wired.network}.2/24" in said
    assert wired.reaches(1)
    wired.cut(1)
    assert not wired.reaches(1) and wired.reaches(2)
    wired.heal(1)
    assert wired.reaches(1)


def test_cables_leave_nothing_behind(tmp_path: Path) -> None:
    """`stop()` removes networks, cables and processes; what a killed owner left is removed by the next start."""
    if reason := cables.refused():
        pytest.skip(reason)
    first = cables.Cables(tmp_path / "a", nodes=1).start()
    first.stop()
    assert not list(Path("/sys/class/net").glob(f"{first.name}*")) and not first._processes()
    owner = (
        "import os, pathlib, sys; from tests.helpers import cables; "
        "cables.Cables(pathlib.Path(sys.argv[1]), nodes=1).start(); "
        "print(os.getpid(), flush=True); os.kill(os.getpid(), 9)"
    )
    pid = subprocess.run(
        [sys.executable, "-c", owner, str(tmp_path / "b")], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    mark = f"{cables.OWNER}={pid}"
    assert len(clusters.marked(mark)) >= 3 and Path(f"/sys/class/net/glt{pid}").exists()
    cables.remove_leftovers()
    assert not Path(f"/sys/class/net/glt{pid}").exists() and not list(cables.NETWORKS.glob(f"glt{pid}r*"))
    assert not clusters.marked(mark)


WORDS = [
    "recipe=glt_randaug_ifl",
    "data=digits_glt",
    "seed=3",
    "schedule.epochs=12",
    "batch.size=32",
    "batch.bn=16",
    "ifl.milestones=[0,1]",
    "log.every=1",
    "log.eval_test_every=12",
    "log.save_every_steps=5",
    "slurm.cpus_per_task=1",
]


def _hit(
    wired: cables.Cables, tiny_root: Path, place: Path, nodes: int
) -> tuple[Target, dict[str, object], dict[int, int]]:
    """A run that has made checkpoints, what it would end with undisturbed, and the processes of its ranks."""
    words = [*WORDS, f"nodes={nodes}", f"data.root={tiny_root}"]
    quiet = [*words, f"runs={place}/quiet", "cluster=local"]
    launched(quiet)
    target = Target(wired, [*words, f"runs={place}/runs"], place)
    wait(lambda: len(target.checkpoints()) > 1, 90, "the second checkpoint", wired, target.folder)
    return target, result_of(resolve(quiet).run_folder), target.ranks()


def _ends_as(target: Target, wanted: dict[str, object]) -> None:
    wait((target.folder / "done").exists, 150, "the end of the run", target.cluster, target.folder)
    steps = [
        line["step"]
        for line in map(json.loads, (target.folder / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "train"
    ]
    assert steps == list(range(1, len(steps) + 1)), "no step stands there twice"
    assert result_of(target.folder) == wanted
    wait(lambda: target.known()["JobState"] == "COMPLETED", 60, "the job's end", target.cluster, target.folder)


@pytest.mark.full
@pytest.mark.parametrize("nodes", [1, 2])
def test_after_a_cut_only_the_newest_start_commits(
    wired: cables.Cables, tiny_root: Path, tmp_path: Path, nodes: int
) -> None:
    """The node of rank 0 is cut off, SLURM starts the run again elsewhere, and the cable is healed while the old rank 0
    lives and
    goes on: it commits nothing, its batch script leaves the new start in peace, and the run ends with the bits of an
    undisturbed one."""
    target, wanted, old = _hit(wired, tiny_root, tmp_path, nodes)
    node = target.node_of(old[0])
    clusters.send(
        [old[0]], signal.SIGSTOP
    )  # a node that is out of reach may also be slow: its rank must not finish the run first
    wired.cut(node)
    wait(lambda: target.starts() == 2, 90, "the start elsewhere", wired, target.folder)
    assert all(target.node_of(pid) != node for pid in target.ranks().values() if pid not in old.values())
    newest = target.checkpoints()[-1]
    wait(
        lambda: target.checkpoints()[-1] > newest or (target.folder / "done").exists(),
        90,
        "the new start's first commit",
        wired,
        target.folder,
    )
    assert Path(f"/proc/{old[0]}").exists(), "the old rank 0 lives"
    clusters.send([old[0]], signal.SIGCONT)
    if nodes == 1:  # alone it needs nobody, and trains on to its next commit
        wait(
            lambda: any(event.get("error", "").startswith("Fenced") for event in events.read(target.folder)),
            60,
            "the old start's refusal",
            wired,
            target.folder,
        )
    wired.heal(node)
    _ends_as(target, wanted)
    noted = events.read(target.folder)
    # SLURM knows a step by its number alone: when the old start's srun ends its step, it may end the new start's too,
    # which saves and comes back.
    assert target.starts() in (2, 3)
    assert [
        event["verdict"] for event in noted if event["event"] == "verdict" and event["incarnation"].endswith(".0")
    ] in ([], ["superseded"])


@pytest.mark.full
def test_a_node_dies(wired: cables.Cables, tiny_root: Path, tmp_path: Path) -> None:
    """Tasks, step daemon and slurmd of rank 0's node end at once, without a word: SLURM starts the run again elsewhere
    and it ends with the bits of an undisturbed one."""
    target, wanted, ranks = _hit(wired, tiny_root, tmp_path, 2)
    node = target.node_of(ranks[0])
    wired.kill(node)
    assert not wired.processes(node)
    wait(lambda: target.starts() == 2, 90, "the start elsewhere", wired, target.folder)
    assert all(target.node_of(pid) != node for pid in target.ranks().values())
    wired.boot(node)
    _ends_as(target, wanted)
