"""The kinds of fault that the chaos driver knows: each strikes a running job, says what must come of it, and how to
undo it.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recipes.resolve import resolve
from slurm.monitoring import events, run_state
from tests.helpers import cables
from tests.helpers import cluster as clusters
from tests.helpers.jobs import launched
from tests.helpers.paths import FAULTS


class Target:
    """One run under fire. `disk` is the small file system that its folder lies on."""

    def __init__(self, cluster: clusters.Cluster, words: list[str], disk: Path) -> None:
        self.cluster, self.words, self.disk, self.folder = cluster, words, disk, resolve(words).run_folder
        self.fault = disk.parent / "fault"
        self.path = {**os.environ, **cluster.environment}["PATH"]
        self.next_environment: dict[str, str] = {}  # variables of the shell of the next submission alone
        self.submit()

    def submit(self) -> None:
        own = {**self.cluster.environment, "PYTHONPATH": str(FAULTS), "GLT_FAULT": str(self.fault), **self._site()}
        said = launched(self.words, {**own, **self.next_environment})
        self.next_environment = {}
        self.job = re.search(r"job: (\d+)", said)[1]

    def _site(self) -> dict[str, str]:
        site = self.disk.parent / "site.yaml"
        site.write_text("look: {slow_steps: 20, exclude_slow: true}\n")
        return {"GLT_SITE": str(site)}

    def nodes(self) -> list[str]:
        """The nodes that the job has."""
        listed = self.known().get("NodeList", "(null)")
        return self.cluster.run("scontrol", "show", "hostnames", listed).stdout.split() if "(" not in listed else []

    def noted(self, kind: str) -> int:
        return sum(event["event"] == kind for event in events.read(self.folder))

    def ranks(self) -> dict[int, int]:
        """The process of each of the run's live ranks; a rank's loader workers, forked from it, look the same."""
        found, parents = {}, {}
        for pid in self.cluster._processes():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if (
                    b"python" in words.split(b"\0")[0]
                    and b"submitit.core._submit" in words
                    and str(self.folder).encode() in words
                ):
                    found[pid] = int(_variable(pid, "SLURM_PROCID"))
                    parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, TypeError, IndexError):
                continue
        return {rank: pid for pid, rank in found.items() if parents.get(pid) not in found}

    def node_of(self, pid: int) -> int:
        return int(_variable(pid, "SLURMD_NODENAME").removeprefix("r"))

    def known(self) -> dict[str, str]:
        """What scontrol says of the job."""
        return dict(re.findall(r"(\w+)=(\S+)", self.cluster.run("scontrol", "show", "job", "-o", self.job).stdout))

    def starts(self) -> int:
        return sum(event["event"] == "start" for event in events.read(self.folder))

    def state(self) -> str:
        return run_state.state_of(self.folder, events.read(self.folder), run_state.queue())

    def checkpoints(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob("ckpt/step-*/MANIFEST.json"))


def _variable(pid: int, name: str) -> str | None:
    found = re.search(rb"(?:^|\0)" + name.encode() + rb"=([^\0]*)", Path(f"/proc/{pid}/environ").read_bytes())
    return found and found[1].decode()


@dataclass
class Blow:
    """What must come of a fault.

    Attributes:
        comes_back: by itself; else the run stops, and goes on when it is launched again.
        starts: how many starts there had been when the last part of the fault struck, if it has parts.
        why: a pattern that `status.py why=RUN` must show; None where nothing failed.
        undo: called once that has come.
        without: the node that the next start must not have; empty where it may have any.
        restarts: whether another start comes of it.
        problem: what was not as it must be; empty where all was.
    """

    comes_back: bool = True
    why: str | None = None
    undo: Callable[[], object] = lambda: None
    starts: int | None = None
    without: str = ""
    restarts: bool = True
    problem: str = ""


class Missed(Exception):
    """There was nothing to hit."""


Strike = Callable[[Target, random.Random], Blow]
KINDS: dict[str, Strike] = {}


def kind(name: str) -> Callable[[Strike], Strike]:
    def keep(strike: Strike) -> Strike:
        KINDS[name] = strike
        return strike

    return keep


def legal_kinds(cluster: clusters.Cluster) -> list[str]:
    """Those that this cluster can have."""
    return [name for name in KINDS if isinstance(cluster, cables.Cables) or name not in ("node-death", "cut")]


def _one(target: Target, dice: random.Random) -> tuple[int, int]:
    ranks = target.ranks()
    if not ranks:
        raise Missed
    return dice.choice(sorted(ranks.items()))


def _kill(target: Target, dice: random.Random) -> Blow:
    rank, pid = _one(target, dice)
    clusters.send([pid], signal.SIGKILL)
    return Blow(why=rf"rank {rank} .*Killed")


# ------------------------------------------------------------------------------------------------------------ processes
@kind("kill")
def kill(target: Target, dice: random.Random) -> Blow:
    """kill -9 of a rank, whatever it does."""
    return _kill(target, dice)


@kind("kill-all")
def kill_all(target: Target, dice: random.Random) -> Blow:
    _one(target, dice)
    clusters.send(target.ranks().values(), signal.SIGKILL)
    return Blow(why="Killed")


@kind("kill-save")
def kill_in_a_save(target: Target, dice: random.Random) -> Blow:
    """kill -9 of a rank while a checkpoint is half there."""
    wait(lambda: any(target.folder.glob("ckpt/tmp-*")), 20, pause=0.002)
    time.sleep(dice.uniform(0, 0.1))
    return _kill(target, dice)


@kind("kill-boot")
def kill_in_a_boot(target: Target, dice: random.Random) -> Blow:
    """kill -9 of a rank that has just been started again."""
    before = set(target.ranks().values())
    clusters.send(before, signal.SIGKILL)
    wait(lambda: set(target.ranks().values()) - before, 60)
    time.sleep(dice.uniform(0, 4))
    booting = set(target.ranks().values())
    why = _kill(target, dice).why
    wait(lambda: not booting & set(target.ranks().values()), 60)  # until then the other rank may still note their start
    return Blow(why=why, starts=target.starts())


@kind("worker")
def kill_a_loader_worker(target: Target, dice: random.Random) -> Blow:
    """kill -9 of a loader worker of a rank, as the kernel does for want of memory."""
    _trains(target)
    rank, pid = _one(target, dice)
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        workers = [int(child) for child in children if b"submitit" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:  # the rank has ended
        raise Missed from None
    if not workers:
        raise Missed
    clusters.send([dice.choice(workers)], signal.SIGKILL)
    return Blow(why=rf"rank {rank} .*loader worker \d+ of \d+ .*killed by SIGKILL")


@kind("stuck")
def stop_a_rank(target: Target, dice: random.Random) -> Blow:
    """A rank hangs: SIGSTOP, in a step."""
    _trains(target)
    rank, pid = _one(target, dice)
    clusters.send([pid], signal.SIGSTOP)
    return Blow(why=rf"rank {rank} was silent; .*Stuck")


def _inside(name: str, why: str) -> None:
    @kind(name)
    def strike(target: Target, dice: random.Random) -> Blow:
        _trains(target)
        rank, _ = _one(target, dice)
        target.fault.write_text(f"{name} {rank}")
        wait(lambda: not target.fault.exists(), 30)
        return Blow(why=why.format(rank=rank))


_inside("exception", r"rank {rank} after step \d+: RuntimeError: a fault was asked for")
_inside("nan", r"Diverged: epoch \d+, step \d+")
_inside("skip", r"Desynchronised")


# ---------------------------------------------------------------------------------------------------------------- queue
@kind("warn")
def warn(target: Target, dice: random.Random) -> Blow:
    """SIGUSR2 to the step, the warning."""
    target.cluster.run("scancel", "--signal=USR2", target.job)
    return Blow()


@kind("term")
def terminate(target: Target, dice: random.Random) -> Blow:
    """SIGTERM to the ranks, as a scheduler without user signals sends it."""
    _one(target, dice)
    clusters.send(target.ranks().values(), signal.SIGTERM)
    return Blow()


@kind("requeue")
def requeue(target: Target, dice: random.Random) -> Blow:
    target.cluster.run("scontrol", "requeue", target.job)
    return Blow()


def _preempt(target: Target, grace_s: int) -> Blow:
    target.cluster.run("scontrol", "update", f"PartitionName={target.known()['Partition']}", f"GraceTime={grace_s}")
    target.cluster.run(
        "sbatch",
        "-p",
        "high",
        "--exclusive",
        f"--nodelist={target.known()['NodeList']}",
        "-o",
        "/dev/null",
        "--wrap",
        "sleep 1",
    )
    return Blow()


@kind("preempt")
def preempt(target: Target, dice: random.Random) -> Blow:
    """Thrown out by a job of higher priority at once."""
    return _preempt(target, 0)


@kind("preempt-grace")
def preempt_with_grace(target: Target, dice: random.Random) -> Blow:
    """The same with a warning and ten seconds."""
    return _preempt(target, 10)


@kind("cancel")
def cancel(target: Target, dice: random.Random) -> Blow:
    target.cluster.run("scancel", target.job)
    return Blow(comes_back=False)


@kind("time-limit")
def time_limit(target: Target, dice: random.Random) -> Blow:
    """The end of the job's time is less than a minute away."""
    known = target.known()
    hours, minutes, _ = known["RunTime"].split(":")
    target.cluster.run("scontrol", "update", f"JobId={target.job}", f"TimeLimit={60 * int(hours) + int(minutes) + 1}")
    return Blow(
        undo=lambda: target.cluster.run("scontrol", "update", f"JobId={target.job}", f"TimeLimit={known['TimeLimit']}")
    )


# ---------------------------------------------------------------------------------------------------------------- nodes
@kind("node-death")
def node_death(target: Target, dice: random.Random) -> Blow:
    """Tasks, step daemon and slurmd of a node end at once."""
    node = target.node_of(_one(target, dice)[1])
    target.cluster.kill(node)
    return Blow(undo=lambda: target.cluster.boot(node))


@kind("cut")
def cut(target: Target, dice: random.Random) -> Blow:
    """A node's cable is cut; it is healed when the run has started elsewhere, with the old rank still there."""
    node = target.node_of(_one(target, dice)[1])
    target.cluster.cut(node)
    return Blow(undo=lambda: target.cluster.heal(node))


@kind("unfit-node")
def fail_the_look(target: Target, dice: random.Random) -> Blow:
    """A node answers wrong from the next start on: that start finds it, and the one after it is elsewhere."""
    _trains(target)
    before, starts, found = target.known()["Restarts"], target.starts(), target.noted("node")
    target.cluster.run("scontrol", "requeue", target.job)
    wait(lambda: target.known()["Restarts"] != before and target.known()["JobState"] == "RUNNING", 60)
    node = dice.choice(target.nodes())
    target.fault.write_text(f"answer {node}\n")
    wait(lambda: target.noted("node") > found or target.starts() > starts + 1, 90)
    return Blow(
        why=rf"NodeFault: node {node} gets \d+ of \d+ numbers wrong",
        undo=lambda: target.fault.unlink(missing_ok=True),
        starts=target.starts(),
        without=node,
    )


@kind("straggler")
def slow_down(target: Target, dice: random.Random) -> Blow:
    """A node's rank gets slow: it is named, and left out when the job has come back."""
    _trains(target)
    node = f"r{target.node_of(_one(target, dice)[1])}"
    found = target.noted("slow")
    target.fault.write_text(f"slow {node}\n")
    try:
        wait(lambda: target.noted("slow") > found, 60)
    except Missed:
        target.fault.unlink()
        raise
    target.cluster.run("scancel", "--signal=USR2", target.job)
    return Blow(undo=lambda: target.fault.unlink(missing_ok=True), without=node)


# -------------------------------------------------------------------------------------------------------------- storage
@kind("corrupt")
def corrupt(target: Target, dice: random.Random) -> Blow:
    """A bit of the newest checkpoint flips, then all ranks are killed."""
    wait(lambda: len(target.checkpoints()) > 1, 60)
    path = dice.choice(
        sorted(path for path in target.checkpoints()[-1].rglob("*") if path.is_file() and path.stat().st_size)
    )
    with open(path, "r+b") as file:
        at = dice.randrange(path.stat().st_size)
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << dice.randrange(8)]), at)
    return kill_all(target, dice)


@kind("remove")
def remove(target: Target, dice: random.Random) -> Blow:
    """The newest checkpoint is removed, then all ranks are killed."""
    wait(lambda: len(target.checkpoints()) > 1, 60)
    shutil.rmtree(target.checkpoints()[-1])
    return kill_all(target, dice)


@kind("disk-full")
def disk_full(target: Target, dice: random.Random) -> Blow:
    ballast = target.disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return Blow(comes_back=False, undo=ballast.unlink)


@kind("read-only")
def read_only(target: Target, dice: random.Random) -> Blow:
    """The file system turns read-only. While files are open for writing the kernel refuses that: it is done between two
    starts.
    """
    target.cluster.run("scontrol", "requeue", target.job)

    def remount(how: Literal["ro", "rw"]) -> bool:
        return subprocess.run(["mount", "-o", f"remount,{how}", str(target.disk)], capture_output=True).returncode == 0

    wait(lambda: remount("ro"), 30, pause=0.05)
    return Blow(comes_back=False, undo=lambda: remount("rw"))


# ----------------------------------------------------------------------------------------------------------------------
def _trains(target: Target) -> None:
    """Wait until this start has made some steps."""
    path = target.folder / "metrics.jsonl"
    counts: list[int] = []

    def grown() -> bool:
        lines = path.read_text().count('"train"') if path.exists() else 0
        if counts and lines < counts[-1]:
            counts.clear()  # a start that resumes cuts the file first
        counts.append(lines)
        return lines > counts[0] + 2

    wait(grown, 90)


def wait(condition: Callable[[], object], seconds: float, pause: float = 0.2) -> None:
    """Wait until a condition holds.

    Raises:
        Missed: it does not come.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Missed
        time.sleep(pause)
