"""Hits running jobs on a private SLURM at seeded random moments, and compares what they end with.

`python tests/chaos.py [faults=20] [seed=0] [hits=4]` (make chaos): each run is hit `hits` times, then left to finish;
its parameters, buffers, centers, environments and predictions must equal those of an undisturbed run, bit for bit.
Prints a table by kind of fault, and exits with 1 if a run differs, hangs, or its status is not told right.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cluster as clusters
from test_slurm import launch, queue_of, result_of

from recipes.resolve import resolve
from slurm import events, status

WORDS = ["recipe=glt_randaug_ifl", "data=digits_glt", "nodes=2", "schedule.epochs=24", "batch.size=32", "batch.bn=16", "ifl.milestones=[1,3]", "log.every=1",
         "log.eval_test_every=24", "log.save_every_steps=5", "slurm.cpus_per_task=1"]
PATIENCE_S = 240


class Target:
    """One run under fire."""

    def __init__(self, cluster: clusters.Cluster, words: list[str]) -> None:
        self.cluster, self.words, self.folder = cluster, words, resolve(words).run_folder
        self.job = self.submit()

    def submit(self) -> str:
        return re.search(r"job: (\d+)", launch(self.words, self.cluster.environment))[1]

    def ranks(self) -> list[int]:
        """Process ids of the run's ranks on this machine, in no order."""
        return [pid for pid in self.cluster._processes() if b"submitit.core._submit" in _cmdline(pid) and str(self.folder).encode() in _cmdline(pid)]

    def starts(self) -> int:
        return sum(event["event"] == "start" for event in events.read(self.folder))

    def state(self) -> str:
        return status.state_of(self.folder, events.read(self.folder), queue_of(self.cluster))


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# -------------------------------------------------------------------------------------------------------------- faults
def kill_one(target: Target, dice: random.Random) -> None:
    ranks = target.ranks()
    if ranks:
        _send(dice.choice(ranks), signal.SIGKILL)


def kill_all(target: Target, dice: random.Random) -> None:
    for pid in target.ranks():
        _send(pid, signal.SIGKILL)


def _send(pid: int, sign: signal.Signals) -> None:
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        pass


def warn(target: Target, dice: random.Random) -> None:
    """The warning before a time limit."""
    target.cluster.run("scancel", "--signal=USR2", target.job)


def terminate(target: Target, dice: random.Random) -> None:
    """SIGTERM to the ranks, as a scheduler without user signals sends it."""
    for pid in target.ranks():
        _send(pid, signal.SIGTERM)


def requeue(target: Target, dice: random.Random) -> None:
    target.cluster.run("scontrol", "requeue", target.job)


def preempt(target: Target, dice: random.Random) -> None:
    target.cluster.run("sbatch", "-p", "high", "-N", "4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")


FAULTS: dict[str, Callable[[Target, random.Random], None]] = {
    "kill -9 one rank": kill_one, "kill -9 all ranks": kill_all, "warning SIGUSR2": warn, "SIGTERM to ranks": terminate, "scontrol requeue": requeue,
    "preempted by a job": preempt,
}


# ---------------------------------------------------------------------------------------------------------------- runs
def main(faults: int, seed: int, hits: int) -> int:
    dice = random.Random(seed)
    rows: dict[str, list[float]] = defaultdict(list)
    problems: list[str] = []
    redone = restarts = equal = runs = gave_up = 0
    with tempfile.TemporaryDirectory() as place:
        root = _tiny(Path(place))
        base = [*WORDS, f"seed={seed}", f"data.root={root}"]
        quiet = [*base, f"runs={place}/quiet", "cluster=local"]
        launch(quiet)
        wanted = result_of(resolve(quiet).run_folder)
        cluster = clusters.Cluster(Path(place) / "slurm").start()
        try:
            while sum(map(len, rows.values())) < faults:
                partition = dice.choice(["low", "lowgrace"])
                target = Target(cluster, [*base, f"runs={place}/run-{runs}", f"slurm.partition={partition}"])
                runs += 1
                for _ in range(min(hits, faults - sum(map(len, rows.values())))):
                    before = target.starts()
                    if not _until(lambda: target.state() in ("running", "finished"), problems, "running"):
                        break
                    time.sleep(dice.uniform(0, 9))  # boot, training and saves all lie in these seconds
                    if target.state() in ("finished", "gave up"):
                        break
                    kind = dice.choice(list(FAULTS))
                    hit_at = time.monotonic()
                    FAULTS[kind](target, dice)
                    _until(lambda: target.starts() > max(before, 1) or target.state() in ("finished", "gave up"), problems, f"a new start after {kind}")
                    rows[f"{kind}, {partition}" if kind.startswith("preempted") else kind].append(time.monotonic() - hit_at)
                    print(f"{sum(map(len, rows.values())):3d} run {runs} {kind}: {rows and time.monotonic() - hit_at:.1f} s, {target.state()}", flush=True)
                    if target.state() == "gave up":  # three starts in a row were killed before a checkpoint: the user launches again
                        gave_up += 1
                        target.job = target.submit()
                while _until(lambda: target.state() in ("finished", "gave up"), problems, "the end") and target.state() == "gave up":
                    gave_up += 1
                    target.job = target.submit()
                restarts += target.starts() - 1
                if (target.folder / "done").exists():
                    same = result_of(target.folder) == wanted
                    equal += same
                    if not same:
                        problems.append(f"run {runs} ended with other bits")
                    lines = [json.loads(line) for line in (target.folder / "metrics.jsonl").read_text().splitlines()]
                    steps = [line["step"] for line in lines if line["kind"] == "train"]
                    if steps != sorted(set(steps)):
                        problems.append(f"run {runs} has steps twice in metrics.jsonl")
        finally:
            cluster.stop()
    print(f"\n{'fault':34} {'n':>3} {'s to the next start: median':>28} {'max':>6}")
    for kind, seconds in sorted(rows.items()):
        print(f"{kind:34} {len(seconds):3d} {median(seconds):28.1f} {max(seconds):6.1f}")
    print(f"\nseed {seed}: {sum(map(len, rows.values()))} faults, {runs} runs, {restarts} restarts, {gave_up} relaunched after giving up, {equal} of {runs} ended with the undisturbed run's bits")
    for problem in problems:
        print("PROBLEM:", problem)
    return int(bool(problems) or equal != runs)


def _until(condition: Callable[[], bool], problems: list[str], what: str) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            problems.append(f"{what} did not come in {PATIENCE_S} s")
            return False
        time.sleep(0.3)
    return True


def _tiny(place: Path) -> Path:
    """The tests' small data set."""
    from conftest import twentieth

    from sharding.digits_glt import build

    build(place / "digits", None, 0, None)
    return twentieth(place / "digits", place / "tiny")


if __name__ == "__main__":
    options = {"faults": 20, "seed": 0, "hits": 4} | {key: int(value) for key, value in (word.split("=") for word in sys.argv[1:])}
    sys.exit(main(**options))
