"""Nodes that are bad or slow: what a site asks of them, which are left out of the next start, and the look alone."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from ifl.supervision.node_limits import NodeLimits
from ifl.supervision.node_report import Fault, NodeReport, Rates
from recipes.common.errors import RecipeError
from recipes.common.files import write_json
from recipes.resolve import resolve
from slurm import launch as launcher
from slurm import site_file, status
from slurm.cluster import node_check, requeue
from slurm.monitoring import events, run_state
from slurm.nodes import exclusion, site_limits
from slurm.nodes.table import table
from tests.helpers.launching import batch_file, batch_part, launch
from tests.helpers.paths import FAULTS

SITE = Path("/a/site.yaml")


# ------------------------------------------------------------------------------------------------------- the site file
def test_the_sites_limits_reach_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`look:` of the site file is exported by the batch script before srun, and what the shell makes of it is read by
    a rank as it was written; without the key nothing is exported."""
    wanted = {"folder_mb_s": 50, "clock_s": 2.5, "slow_factor": 2, "slow_steps": 200, "exclude_slow": True}
    site = tmp_path / "my site.yaml"
    site.write_text(yaml.safe_dump({"look": wanted, "setup": ["true"]}))
    monkeypatch.setenv("GLT_SITE", str(site))
    recipe = resolve(["data=digits_glt"])
    text = batch_file(recipe, tmp_path, tmp_path, site_file.load().setup)
    (line,) = [line for line in text[: text.index("\nsrun")].splitlines() if line.startswith("export GLT_LOOK=")]
    script = f"{line}; exec {sys.executable} -c 'import os; print(os.environ[\"GLT_LOOK\"])'"
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert NodeLimits(**yaml.safe_load(said)) == NodeLimits(**wanted) == site_limits.read(wanted, site)
    site.write_text("setup: ['true']\n")
    assert "GLT_LOOK" not in batch_file(recipe, tmp_path, tmp_path, site_file.load().setup)


@pytest.mark.parametrize(
    "value, words",
    [
        ([1], "look=[1] is not legal: folder_mb_s, disk_mb_s"),
        ("$(date)", "look='$(date)' is not legal"),
        ({"disk_mbs": 5}, "look.disk_mbs is not legal: did you mean disk_mb_s?"),
        ({"disk_mb_s": "5"}, "look.disk_mb_s='5' is not legal: a number above 0"),
        ({"disk_mb_s": True}, "look.disk_mb_s=True is not legal"),
        ({"disk_mb_s": float("nan")}, "look.disk_mb_s=nan is not legal"),
        ({"clock_s": 0}, "look.clock_s=0 is not legal"),
        ({"clock_s": None}, "look.clock_s=None is not legal"),
        ({"slow_factor": 1.0}, "look.slow_factor=1.0 is not legal: a number from 1.1"),
        ({"slow_steps": 10.5}, "look.slow_steps=10.5 is not legal: 10 to"),
        ({"exclude_slow": "yes'; rm -rf /"}, "look.exclude_slow="),
        ({"folder_mb_s": [5]}, "look.folder_mb_s=[5] is not legal"),
        ({"a\nb": 5}, "is not legal: legal:"),
    ],
)
def test_bad_limits_are_one_sentence(value: object, words: str) -> None:
    """What is wrong under `look:` is said in one sentence that names the file and the key."""
    with pytest.raises(RecipeError) as caught:
        site_limits.read(value, SITE)
    assert words in str(caught.value) and str(SITE) in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- the next start
def test_few_nodes_are_left_out() -> None:
    """The newest bad nodes, at most a tenth of the partition and always one, and never so many that
    too few are left."""
    names = [f"r{number}" for number in range(40)]
    assert exclusion.choose(names[:9], names, 40, 2) == names[:4]
    assert exclusion.choose(["r1", "r2"], names[:4], 4, 2) == ["r1"]
    assert exclusion.choose(["r1"], names[:4], 4, 3) == ["r1"]
    assert exclusion.choose(["r1"], names[:4], 4, 4) == []
    assert exclusion.choose(["gone", "r1"], names[:4], 4, 3) == ["gone"]


def test_bad_nodes_are_forgotten_after_a_day() -> None:
    """The newest first; slow ones where they are asked for."""
    now = 1e6
    noted = [
        {"event": "node", "time": now - 90000, "node": "old", "text": "x"},
        {"event": "node", "time": now - 9000, "node": "a", "text": "is wrong"},
        {"event": "slow", "time": now - 5000, "node": "b", "factor": 2.5, "steps": 100},
        {"event": "node", "time": now - 50, "node": "c", "text": "is wrong, too"},
    ]
    assert exclusion.bad_nodes(noted, False, now) == {"c": "is wrong, too", "a": "is wrong"}
    assert list(exclusion.bad_nodes(noted, True, now)) == ["c", "b", "a"]


class Slurm:
    """Stands in for SLURM's commands where the order of what is asked is the promise; see tests/system for a real
    one."""

    def __init__(
        self,
        nodes: Sequence[str],
        excluded: str = "(null)",
        needed: int = 2,
        refused: str = "",
        asks: str = "",
    ) -> None:
        self.nodes, self.excluded, self.needed, self.refused, self.asks = nodes, excluded, needed, refused, asks
        self.asked: list[str] = []

    def __call__(self, words: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        said = ""
        if words[0] == "sinfo":
            up = [node if " " in node else f"{node} mixed (null) (null) 8 1000" for node in self.nodes]
            away = (f"{node} (null) (null) 8 1000" for node in ("r8 drained", "r9 idle*", "r10 down"))
            said = "\n".join([*up, *away])
        elif words[1:3] == ["show", "job"]:
            said = f"JobState=RUNNING Restarts=0 Partition=low NumNodes={self.needed} ExcNodeList={self.excluded} "
            said += self.asks
        elif words[1] == "show":
            said = words[3].replace(",", "\n")
        elif words[0] == "scontrol":
            self.asked.append(" ".join(words[1:]))
        code = int(bool(self.refused) and words[1] == "update")
        return subprocess.CompletedProcess(words, code, stdout=said, stderr=self.refused if code else "")


def _node(folder: Path, node: str, fault: str = "answer") -> None:
    events.append_event(folder, "node", node=node, fault=fault, text="answers wrong")
    events.append_event(folder, "failed", rank=0, error=f"NodeFault: node {node} answers wrong")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, in whose first start we are."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    monkeypatch.setattr(requeue.time, "sleep", lambda _: None)
    monkeypatch.setattr(requeue.signal, "signal", lambda *_: None)
    folder = tmp_path / "a-run"
    folder.mkdir()
    events.append_event(folder, "submitted", incarnation=events.LAUNCHER, job="5", needs=[])
    events.append_event(folder, "start")
    return folder


def _ends(monkeypatch: pytest.MonkeyPatch, folder: Path, slurm: Slurm) -> dict[str, Any]:
    monkeypatch.setattr(subprocess, "run", slurm)
    assert requeue.main(folder, 1) == 1
    return events.read(folder)[-1]


def test_an_unfit_node_is_left_out_after_the_requeue(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM takes the list of a job that waits alone, so the requeue comes first. Nodes that the user left out stay
    out, and those that we left out before and that are forgotten come back."""
    _node(run, "r2")
    slurm = Slurm(["r1", "r2", "r3", "r4"], "r4")
    verdict = _ends(monkeypatch, run, slurm)
    assert verdict["verdict"] == "requeue" and verdict["excluded"] == ["r2"]
    assert slurm.asked == ["requeue 5", "update JobId=5 ExcNodeList=r4,r2"]
    later = time.time() + 2 * exclusion.FORGET_S
    monkeypatch.setattr(exclusion.time, "time", lambda: later)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    slurm = Slurm(["r1", "r2", "r3", "r4"], "r4,r2")
    assert "excluded" not in _ends(monkeypatch, run, slurm)
    assert slurm.asked == ["requeue 5", "update JobId=5 ExcNodeList=r4"]


def test_without_bad_nodes_slurm_is_told_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary failure is requeued as before; a slow node is left out where the site says so."""
    events.append_event(run, "slow", node="r1", factor=2.0, steps=100)
    slurm = Slurm(["r1", "r2", "r3", "r4"])
    assert "excluded" not in _ends(monkeypatch, run, slurm) and slurm.asked == ["requeue 5"]
    monkeypatch.setenv("GLT_LOOK", NodeLimits(exclude_slow=True).text())
    slurm = Slurm(["r1", "r2", "r3", "r4"])
    assert _ends(monkeypatch, run, slurm)["excluded"] == ["r1"]


def test_a_list_that_slurm_refuses_leaves_the_job_in_the_queue(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job has gone back all the same, and the log says it."""
    _node(run, "r2")
    assert _ends(monkeypatch, run, Slurm(["r1", "r2", "r3"], refused="Invalid node name"))["verdict"] == "requeue"
    assert "ExcNodeList=r2 failed: Invalid node name" in capsys.readouterr().err


def test_without_another_node_the_run_gives_up_and_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job that would wait for ever, or come back to the node, ends; the status says why in one sentence."""
    _node(run, "r2")
    slurm = Slurm(["r1", "r2"])
    verdict = _ends(monkeypatch, run, slurm)
    assert verdict["verdict"] == "give up" and slurm.asked == []
    reason = (
        "node r2 answers wrong, and partition low has no other node that is up and has what the job asks for, for a "
        "job of 2"
    )
    assert verdict["reason"] == reason
    (run / "recipe.yaml").write_text("{}")
    assert status.Look(run.parent, None).run() == 0
    assert f"{run.name} gave up: {reason}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("asks", "verdict", "without"),
    [
        ("Features=a100", "give up", None),
        ("Features=a100|h100", "requeue", ["r2"]),
        ("TresPerNode=gres/gpu:a100:4", "give up", None),
        ("ReqNodeList=r[1-2] Features=(null)", "requeue", None),
        ("Reservation=ml", "requeue", None),
        ("Features=[rack1|rack2]*2", "requeue", None),
        ("TresPerNode=gres:gpu:4", "requeue", ["r2"]),
        ("TresPerNode=gres:gpu:8", "requeue", None),
        ("TresPerNode=gpu:a100:4,gres:nvme:1", "give up", None),
        ("MinCPUsNode=32 MinMemoryNode=64G", "requeue", ["r2"]),
        ("MinCPUsNode=64 MinMemoryNode=0", "give up", None),
        ("MinCPUsNode=8 MinMemoryNode=128G", "give up", None),
        ("MinCPUsNode=32 MinMemoryCPU=4G", "give up", None),
    ],
)
def test_only_nodes_count_that_have_what_the_job_asks_for(
    run: Path, monkeypatch: pytest.MonkeyPatch, asks: str, verdict: str, without: list[str] | None
) -> None:
    """So that a job never waits for a node that is not there. Where that cannot be told none is left out."""
    _node(run, "r2")
    both, other = "idle a100,ib gpu:a100:4(S:0-1,3),nvme:1 64 256000", "idle h100 gpu:h100:4 32 66000"
    alike = "idle a100_mig gpu:a100_mig:4 32 66000"
    nodes = [f"r1 {both}", f"r2 {both}", *(f"r{number} {other}" for number in (3, 4)), f"r5 {alike}"]
    slurm = Slurm(nodes, asks=asks)
    said = _ends(monkeypatch, run, slurm)
    assert (said["verdict"], said.get("excluded")) == (verdict, without)


@pytest.mark.parametrize("state", ["reserved", "idle$", "blocked", "drained", "idle*", "maint"])
def test_nodes_that_are_kept_for_others_do_not_count(run: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """A job without a reservation is never given a reserved node, so it would wait for it for as long as that lasts."""
    _node(run, "r2")
    slurm = Slurm(["r1", "r2", f"r3 {state} (null) (null) 8 1000"])
    assert _ends(monkeypatch, run, slurm)["verdict"] == "give up" and slurm.asked == []


def test_no_usable_device_is_tried_once_elsewhere(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first start without a usable device is requeued without its node; after the second the run gives up. A wrong
    answer has the patience of any other failure."""
    nodes = [f"r{number}" for number in range(1, 9)]
    for fault, verdicts in (("device", ["requeue", "give up"]), ("answer", ["requeue", "requeue", "give up"])):
        events.append_event(run, "submitted", incarnation=events.LAUNCHER, job="5", needs=[])
        said = []
        for number in range(len(verdicts)):
            monkeypatch.setenv("SLURM_RESTART_COUNT", str(number))
            events.append_event(run, "start")
            _node(run, f"r{number + 1}", fault)
            said.append(_ends(monkeypatch, run, Slurm(nodes)))
        assert [event["verdict"] for event in said] == verdicts
        assert said[-1]["reason"] == f"node r{len(verdicts)} answers wrong"


def test_what_is_noted_of_nodes_does_not_change_a_runs_state(run: Path) -> None:
    """A slow node, or an unfit one, is no word on where the run is."""
    jobs = {"5": run_state.Job("RUNNING", time.time(), run.name)}
    events.append_event(run, "slow", node="r1", factor=2.0, steps=100)
    assert run_state.state_of(run, events.read(run), jobs) == "running"
    assert run_state.state_of(run, events.read(run), {}) == "lost"
    events.append_event(run, "verdict", verdict="cancelled")
    events.append_event(run, "slow", node="r1", factor=2.0, steps=100)
    assert run_state.is_over(events.read(run)) and run_state.state_of(run, events.read(run), {}) == "cancelled"


def test_status_names_slow_nodes_and_those_left_out(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slow node of the newest start, and the nodes that the run goes on without, in a sentence each; nothing once the
    run is finished. A damaged event does not hide them."""
    (run / "recipe.yaml").write_text("{}")
    _node(run, "r2")
    events.append_event(run, "verdict", verdict="requeue", excluded=["r2"])
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    events.append_event(run, "start")
    events.append_event(run, "slow", node="r3", factor=2.345, steps=100)
    events.append_event(run, "slow", node=["r3"], factor="2", steps=100)
    status.Look(run.parent, None).run()
    said = capsys.readouterr().out.splitlines()
    assert f"{run.name}: node r3 took 2.345 times as long for an image as the others, over 100 steps" in said
    assert [line for line in said if line.startswith(f"{run.name} goes on without node r2, which answers wrong (forg")]
    events.append_event(run, "finished")
    status.Look(run.parent, None).run()
    assert "node r" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- the look alone
def test_check_finds_what_was_injected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`check=nodes cluster=local` on two processes in the place of nodes: each fault of either is named in a sentence
    and in the table, and the exit code is 1. The folder is kept, and shows the table again."""
    first, second = (f"{platform.node()}-{rank}" for rank in (0, 1))
    faults = [f"unwritable {first}", f"answer {second}", f"clock {second}", f"version {second}", f"slow-disk {second}"]
    (tmp_path / "fault").write_text("\n".join(faults))
    (tmp_path / "site.yaml").write_text("look: {disk_mb_s: 4}\n")
    said = launch(
        *("check=nodes", "nodes=2", "cluster=local", f"runs={tmp_path}"),
        GLT_SITE=str(tmp_path / "site.yaml"),
        GLT_FAULT=str(tmp_path / "fault"),
        PYTHONPATH=str(FAULTS),
    )
    lines = said.stdout.splitlines()
    assert said.returncode == 1 and said.stderr == "", said.stderr
    assert lines[1].split()[0] == first and lines[1].split()[2] == "right" and lines[1].endswith("equal     unfit")
    assert lines[2].split()[0] == second and lines[2].split()[2] == "wrong" and lines[2].endswith("differ    unfit")
    text = said.stdout
    for sentence in (
        f"node {first} cannot write the shared folder, ",
        f"node {first} cannot write its own disk, ",
        f"node {second} gets 1 of 262144 numbers wrong in a product that is known, on cpu",
        f"s ahead of that of {first}",
        f"node {second} has torch 0.1, and the others torch ",
        "look.disk_mb_s=4 is wanted",
    ):
        assert sentence in text, text
    (kept,) = (tmp_path / ".check").iterdir()
    assert launcher.main([f"check={kept}"]) == 1 and capsys.readouterr().out == text
    assert launcher.main([f"check={kept}", "nodes=2"]) == 2
    assert f"nodes=2 does not go with check={kept}, which only shows a look again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["check=node"], "check=node is not legal: check=nodes looks at nodes"),
        (["check="], "check= is not legal"),
        (["check=$(date)"], "check=$(date) is not legal"),
        (["check=nodes", "optim.lr=1"], "optim.lr= does not go with check="),
        (["check=nodes", "recipe=glt_ifl"], "recipe= does not go with check="),
        (["check=nodes", "nodes=0"], "nodes=0"),
        (["check=nodes", "nodes=2;ls"], "nodes=2;ls"),
        (["check=nodes", "cluster=lokal"], "cluster=lokal"),
        (["check=nodes", "slurm.partition=a b"], "slurm.partition=a b"),
        (["check=nodes", "nodes=2", "PATH=''"], "PATH= does not go with check="),
    ],
)
def test_slips_are_one_sentence(words: list[str], sentence: str) -> None:
    """What is wrong in the command is told before anything is started."""
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        launcher.parse(words, site_file.Site())


def test_dry_shows_the_looks_job_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`cluster=dry` prints the batch file: as many tasks and GPUs as a run would ask for, a few minutes, no requeue."""
    site = tmp_path / "site.yaml"
    site.write_text(
        "gpus_per_node: 4\nsetup: [date]\nlook: {disk_mb_s: 100}\ndefault: a\n"
        "clusters: {a: {partition: gpu, options: {comment: c}, for: {recipe/glt_baseline: {account: not-here}}}}\n"
    )
    monkeypatch.setenv("GLT_SITE", str(site))
    assert launcher.main(["check=nodes", "nodes=2", "cluster=dry", f"runs={tmp_path / 'runs'}"]) == 0
    shown = capsys.readouterr().out
    assert f"# site file: {site}, clusters.a\n" in shown
    assert f"\n#   {site}, clusters.a: comment, partition\n" in shown
    assert f"\n#   {site}: gpus-per-node, ntasks-per-node\n" in shown and "\n#   the command line: nodes\n" in shown
    assert "not-here" not in shown
    text = batch_part(shown)
    for line in (
        "--nodes=2",
        "--ntasks-per-node=4",
        "--gpus-per-node=4",
        "--time=5",
        "--no-requeue",
        "--partition=gpu",
    ):
        assert f"#SBATCH {line}" in text, text
    assert "\ndate\n" in text and "export GLT_LOOK=" in text and "--requeue" not in text.replace("--no-requeue", "")
    assert not (tmp_path / "runs").exists()


SOUND = NodeReport("a", [0], "cpu", Rates(3.0, 3.0, True), None, 0.0, 1.0, {}, []).plain()


def test_the_disk_is_the_nodes_and_not_the_launchers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no folder is named, a rank of the look takes its own temporary folder, as a run's does."""
    from ifl.supervision import node_look

    def job(*words: str) -> node_check.CheckJob:
        command = node_check.parse_command(["check=nodes", f"runs={tmp_path}", *words], node_check.Site())
        assert isinstance(command, node_check.NodeCheck)
        return command.job

    asked: list[Path] = []

    class Asked(Exception): ...

    def note(folder: Path, disk: Path, *_: object) -> None:
        asked.append(disk)
        raise Asked

    monkeypatch.setattr(node_look, "NodeLook", note)
    monkeypatch.setattr("ifl.distributed.comm.join", lambda _: None)
    looks = [job(), job(f"data.cache_folder={tmp_path}/cache")]
    monkeypatch.setattr(node_check.tempfile, "gettempdir", lambda: "/the/node's")
    for look in looks:
        with pytest.raises(Asked):
            look._look()
    assert asked == [Path("/the/node's"), tmp_path / "cache"]


def test_showing_a_look_removes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`check=FOLDER` prints the table that lies in a folder, and leaves all that lies there, whatever it says."""
    write_json(tmp_path / "nodes.json", {"nodes": [SOUND]})
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "thesis.txt").write_text("years")
    before = sorted(tmp_path.rglob("*"))
    assert launcher.main([f"check={tmp_path}"]) == 0 and capsys.readouterr().out.splitlines()[1].endswith("ok")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "nodes, fault",
    [
        ([{key: value for key, value in SOUND.items() if key != "ranks"}], "it lacks ranks"),
        ([], "it holds no node"),
        (7, "nodes is int, not list"),
        ([3], "it does not hold an object"),
        ([{**SOUND, "clock_s": "x"}], "clock_s is str, not float"),
        ([{**SOUND, "device": None}], "device is NoneType, not str"),
        ([{**SOUND, "folder": {"write_mb_s": 1.0, "locks": True}}], "it lacks read_mb_s"),
        ([{**SOUND, "disk": {"write_mb_s": 10**400, "read_mb_s": 1.0, "locks": True}}], "write_mb_s is int, not float"),
        ([{**SOUND, "faults": [{"kind": [], "text": "x", "hard": True}]}], "kind is list, not str"),
    ],
)
def test_a_damaged_table_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nodes: object, fault: str
) -> None:
    """The file of a look that is not what a look writes is told by its name, and stays."""
    write_json(tmp_path / "nodes.json", {"nodes": nodes})
    assert launcher.main([f"check={tmp_path}"]) == 2 and (tmp_path / "nodes.json").exists()
    assert capsys.readouterr().err == f"launch.py: {tmp_path / 'nodes.json'} is damaged ({fault}); look again\n"


def test_a_rate_far_below_the_others_is_told_without_a_limit() -> None:
    """It is a remark below the table, for a look lasts a moment."""
    rates = {"a": 3.0, "b": 400.0, "c": 380.0}
    reports = [
        NodeReport(name, [0], "cpu", Rates(300.0, 300.0, True), Rates(rate, 900.0, True), 0.0, 1.0, {}, [])
        for name, rate in rates.items()
    ]
    lines = table(reports).splitlines()
    assert lines[4].startswith("node a writes its own disk at 3 MB/s and the others at 390:") and len(lines) == 5
    reports[1].faults.append(Fault("locks", "has no locks", hard=False))
    assert table(reports).splitlines()[2].endswith("ok")


def test_the_look_needs_sbatch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without SLURM on this machine the sentence names the other ways."""
    monkeypatch.setenv("PATH", str(tmp_path))
    check = node_check.parse_command(["check=nodes", f"runs={tmp_path}"], node_check.Site())
    with pytest.raises(RecipeError, match="no sbatch: use cluster=local"):
        check.run()
    assert not (tmp_path / ".check").exists()
