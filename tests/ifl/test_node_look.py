"""Each node is looked at before the first step: every fault that is injected is found, on real processes."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ifl.supervision import node_look
from ifl.supervision.node_limits import NodeLimits
from ifl.supervision.node_report import Fault, NodeFault, NodeReport, Seen, by_node, report_of
from ifl.supervision.stragglers import Stragglers
from recipes.common.errors import RunError
from tests.helpers.paths import FAULTS, PROJECT
from tests.helpers.ranks import comm_of, my_rank, started

CPU = torch.device("cpu")
HARD = {
    "no-device": ("device", "cannot compute on cpu: CUDA error: no device$"),
    "answer": ("answer", r"gets 1 of 262144 numbers wrong in a product that is known, on cpu$"),
    "unwritable": ("folder", "cannot write the shared folder, .*: Read-only file system$"),
}
SOFT = {
    "clock": ("clock", r"has a clock that is 3\d\.\d s ahead of the others$"),
    "version": ("versions", "has torch 0.1, and the others torch [2-9]"),
}


def _fresh(path: Path) -> ModuleType:
    """A module of its own from a file that may be imported already."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_of_the_look", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def looked(folder: str, fault: str = "", limits: dict[str, Any] | None = None) -> tuple[str, int | None, list[Any]]:
    """In a rank, each in the place of a node, n0, n1 ...: what `at_start` says where n2 has a fault.

    Returns:
        The error's sentence, its witness, and what was seen of the nodes.
    """
    fsync, faults, look = os.fsync, _fresh(FAULTS / "sitecustomize.py"), _fresh(Path(node_look.__file__))
    os.environ["GLT_NODE"] = f"n{my_rank()}"
    faults.PATH = f"{folder}/fault"
    faults._arm_look(look)
    try:
        place = look.NodeLook(Path(folder) / "shared", Path(folder) / "disk", "code", NodeLimits(**(limits or {})))
        reports = place.at_start(comm_of(4), CPU, "cpu", True)
        return "", None, [report.plain() for report in reports]
    except NodeFault as error:
        return str(error), error.witness, [(node, found.kind) for node, found in error.faults.items()]
    except (RunError, OSError) as error:
        return f"{type(error).__name__}: {error}", None, []
    finally:
        os.fsync = fsync
        del os.environ["GLT_NODE"]


def _looked(
    folder: Path, fault: str = "", everywhere: bool = False, **limits: Any
) -> tuple[str, int | None, list[Any]]:
    """The answer, which must be the same on all ranks."""
    text = "".join(f"{fault} n{rank}\n" for rank in (range(4) if everywhere else (2,)) if fault)
    (folder / "fault").write_text(text)
    answers = started(4).run(looked, str(folder), fault, limits)
    assert all(answer == answers[0] for answer in answers)
    assert not [path for path in folder.rglob("*") if path.name not in ("fault", "shared", "disk")], "it left a file"
    return answers[0]


def test_sound_nodes_are_told_with_their_rates(tmp_path: Path) -> None:
    """Where nothing is wrong, each node has its line, with rates, clock and versions; a line survives its way through
    JSON."""
    sentence, _, nodes = _looked(tmp_path)
    assert sentence == "" and [node["node"] for node in nodes] == ["n0", "n1", "n2", "n3"]
    for rank, node in enumerate(nodes):
        assert node["ranks"] == [rank] and node["faults"] == [] and abs(node["clock_s"]) < 5
        assert node["allreduce_gb_s"] > 0 and node["folder"]["write_mb_s"] > 0 < node["disk"]["read_mb_s"]
        assert node["folder"]["locks"] and set(node["versions"]) == {"python", "torch", "deepspeed", "code"}
        assert report_of(node).plain() == node


@pytest.mark.parametrize("fault", HARD)
def test_a_hard_fault_stops_all_ranks_and_names_the_node(tmp_path: Path, fault: str) -> None:
    """A device that cannot be used or answers wrong, a folder that cannot be written: all ranks leave with the same
    sentence, and one of a sound node is to note it."""
    kind, text = HARD[fault]
    sentence, witness, nodes = _looked(tmp_path, fault)
    assert nodes == [("n2", kind)] and witness == 0
    assert sentence.startswith("node n2 ") and Fault(kind, "").hard
    assert re.search(text, sentence), sentence


@pytest.mark.parametrize("fault", SOFT)
def test_what_is_no_hard_fault_is_told_and_leaves_nobody_out(tmp_path: Path, fault: str) -> None:
    """A clock that is off and another version are in the node's line, and the run goes on."""
    kind, text = SOFT[fault]
    sentence, _, nodes = _looked(tmp_path, fault)
    assert sentence == ""
    found = {node["node"]: [(fault["kind"], fault["hard"]) for fault in node["faults"]] for node in nodes}
    assert found == {"n0": [], "n1": [], "n2": [(kind, False)], "n3": []}
    assert re.search(text, nodes[2]["faults"][0]["text"])


def test_rates_and_clocks_leave_a_node_out_by_the_sites_limits_alone(tmp_path: Path) -> None:
    """A slow disk and a clock are hard faults where the site file has limits that the node does not reach."""
    assert _looked(tmp_path, "slow-disk")[0] == ""
    sentence, _, nodes = _looked(tmp_path, "slow-disk", disk_mb_s=3)
    assert nodes == [("n2", "rate")]
    assert "node n2 writes its own disk at " in sentence and sentence.endswith("look.disk_mb_s=3 is wanted")
    assert _looked(tmp_path, "clock", clock_s=2)[2] == [("n2", "clock")]
    sentence, _, nodes = _looked(tmp_path, allreduce_gb_s=1e5)
    assert sentence == "" and all("look.allreduce_gb_s=100000" in node["faults"][0]["text"] for node in nodes)


def test_a_folder_that_no_node_can_write_or_that_is_full_accuses_no_node(tmp_path: Path) -> None:
    """A shared folder without room, on one node or all, is told as such; one that no node can write, too."""
    folder = tmp_path / "shared"
    full = f"OSError: [Errno {errno.ENOSPC}] No space left on device: '{folder}'"
    assert _looked(tmp_path, "full") == _looked(tmp_path, "full", everywhere=True) == (full, None, [])
    said = f"each of the nodes n0, n1, n2, n3 cannot write the shared folder, {folder}: Read-only file system"
    assert _looked(tmp_path, "unwritable", everywhere=True)[0] == f"RunError: {said}"


def wrong_sums(own: int) -> str:
    """In a rank: the error where the sums over the ranks come out wrong on rank `own`."""
    comm = comm_of(2)
    if comm is None:
        return ""
    summed = comm.sum

    def wrong(tensor: torch.Tensor) -> torch.Tensor:
        total = summed(tensor)
        return total.add_(len(tensor) > 1000 and comm.rank == own)

    comm.sum = wrong
    try:
        node_look.allreduce_gb_s(comm, CPU)
    except RunError as error:
        return str(error)
    finally:
        del comm.sum
    return ""


def test_a_wrong_sum_stops_all_ranks() -> None:
    """An all-reduce whose sum is wrong on one rank ends the start on all of them."""
    sentences = started(4).run(wrong_sums, 1)[:2]
    assert sentences == ["the sum of 1 MB over 2 ranks is wrong on 1 of them: look at the network"] * 2


def test_a_folder_without_locks_is_a_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without flock the rates are told all the same; another refusal of a lock is an error. No file is left behind."""

    def refuse(number: int) -> None:
        def flock(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(node_look.fcntl, "flock", flock)

    refuse(errno.ENOLCK)
    rates = node_look.rates_of(tmp_path)
    assert not rates.locks and rates.write_mb_s > 0
    (report,) = by_node([Seen("a", 0, "cpu", folder=rates)], NodeLimits(), None)
    assert [(fault.kind, fault.hard) for fault in report.faults] == [("locks", False)]
    refuse(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        node_look.rates_of(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_must_be_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that gives back other bytes is found."""
    read = os.read
    monkeypatch.setattr(node_look.os, "read", lambda *words: read(*words)[::-1])
    with pytest.raises(OSError, match="what is read is not what was written"):
        node_look.rates_of(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_known_product_is_exact_in_every_precision(dtype: torch.dtype) -> None:
    """Hadamard's matrix times itself has not one wrong bit, so a single wrong number is a fault and never rounding."""
    square = node_look.product(node_look.hadamard(CPU).to(dtype)).float()
    assert torch.equal(square, node_look.SIDE * torch.eye(node_look.SIDE))


def test_of_two_nodes_the_clock_is_told_against_the_other() -> None:
    """With two nodes nobody knows which clock is right, and the sentence does not say so."""
    reports = by_node([Seen("a", 0, "cpu", clock=50.0), Seen("b", 1, "cpu", clock=20.0)], NodeLimits(), None)
    assert [[fault.text for fault in report.faults] for report in reports] == [
        [],
        ["has a clock that is 30.0 s behind that of a"],
    ]


# ---------------------------------------------------------------------------------------------------------- stragglers
def _told(nodes: list[str], steps: list[list[int]], **limits: Any) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    watching = Stragglers(nodes, NodeLimits(**limits), lambda event, **values: told.append({"event": event, **values}))
    for own_ns in steps:
        watching.count(own_ns)
    return told


def test_a_node_that_is_slower_over_many_steps_is_told_once() -> None:
    """By its slowest rank, against the median of the others, and not before so many steps were counted; a few slow
    steps, a step without times and a single node are nothing."""
    slow, sound = [100, 101, 99, 160], [100, 101, 99, 149]
    nodes = ["a", "b", "c", "d"]
    told = _told(nodes, [slow] * 250)
    assert told == [{"event": "slow", "node": "d", "factor": 1.6, "steps": 100}]
    assert _told(nodes, [sound] * 250) == [] == _told(nodes, [slow] * 99)
    assert _told(nodes, [slow] * 20 + [[100] * 4] * 80) == []
    assert _told(nodes, [[0, 0, 0, 0]] * 300) == [] == _told(["a"] * 4, [slow] * 300)
    assert [event["node"] for event in _told(["a", "a", "b", "b"], [[100, 160, 100, 100]] * 100)] == ["a"]
    assert len(_told(nodes, [slow] * 20, slow_steps=20, slow_factor=1.55)) == 1


def own_times(slow: int) -> tuple[list[list[int]], bool]:
    """In a rank: the own times that three steps bring, where rank `slow` takes its time; and whether the other totals
    are those of steps without a clock."""
    from ifl.step_reduction import MicroBatchSums, StepSync

    comm, told = comm_of(2), []
    if comm is None:
        return [], True
    totals = []
    for clocked in (True, False):
        sync = StepSync(comm, 8, None, CPU)
        for step in range(3):
            if clocked:
                sync.begin()
                time.sleep(0.02 * (comm.rank == slow))
            rows = 2 + 4 * comm.rank  # unequal shares
            sync.add(
                MicroBatchSums(torch.ones(rows), torch.tensor(1), torch.ones(2), [(1.0, torch.zeros(rows).long())])
            )
            sync.start((0, step), save=False, stop=False)
            total = sync.wait()
            told += [total.own_ns] if clocked else []
            total.own_ns, total.statistics = [], total.statistics.tolist()
            totals.append(total)
    return told, totals[:3] == totals[3:]


@pytest.mark.parametrize("slow", [0, 1])
def test_each_ranks_own_time_rides_in_the_next_steps_reduction(slow: int) -> None:
    """All ranks learn all ranks' times of the step before, by the image, in the one reduction; nothing else of the
    totals changes."""
    for told, same in started(4).run(own_times, slow)[:2]:
        assert same and told[0] == [0, 0]
        for own in told[1:]:
            assert own[slow] > 0.02e9 / (2 + 4 * slow) and own[slow] > own[1 - slow] > 0


def test_the_limits_reach_a_process_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `text` writes is what `of_environment` reads; without the variable the defaults hold."""
    limits = NodeLimits(folder_mb_s=50, slow_factor=2.0, exclude_slow=True)
    monkeypatch.setenv("GLT_LOOK", limits.text())
    assert NodeLimits.of_environment() == limits
    monkeypatch.delenv("GLT_LOOK")
    assert NodeLimits.of_environment() == NodeLimits() and NodeLimits().text() == "{}"


def test_the_armed_modules_are_those_that_there_are() -> None:
    """tests/faults changes modules by name: after a renaming it must fail here, and not in the long tests alone."""
    armed = _fresh(FAULTS / "sitecustomize.py").ARMED
    assert all((PROJECT / f"{name.replace('.', '/')}.py").is_file() for name in armed)


def test_a_report_says_which_fault_is_hard() -> None:
    """The first hard one counts, whatever remarks come before it."""
    remark, hard = Fault("clock", "is off", hard=False), Fault("disk", "cannot be written")
    report = NodeReport("a", [0], "cpu", None, None, 0.0, None, {}, [remark, hard])
    assert report.hard == hard
