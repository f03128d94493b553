"""Hits running jobs on a private SLURM at seeded random moments, and compares what they end with.

`python -m tests.system.chaos [faults=20] [seed=0] [hits=4] [eval=inline|job] [kinds=kill,cut]` (make chaos): each run
is hit `hits` times, then left to finish; its parameters, buffers, centers, environments and predictions must equal
those of an undisturbed run, bit for bit, and so must every line of a step that was made again, and the lines of the
evaluations. Meanwhile the status command's word for the run is compared with scontrol's. With `eval=job` the runs under
fire have evaluators, which are hit, too, and must be gone when their run is; the undisturbed run has none. Prints a
table by kind of fault, and exits with 1 if a run differs, hangs, leaves an evaluator, or its status is not told right.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from recipes.resolve import resolve
from slurm.monitoring import events, failure, run_state
from tests.helpers import cables
from tests.helpers import cluster as clusters
from tests.helpers.interrupted import TIMES
from tests.helpers.jobs import launched, result_of
from tests.system import chaos_evaluator, chaos_shell
from tests.system.chaos_kinds import KINDS, Missed, Target, legal_kinds
from tests.system.chaos_local import LOCAL
from tests.system.chaos_local import strike as strike_here

WORDS = [
    "recipe=glt_randaug_ifl",
    "data=digits_glt",
    "nodes=2",
    "schedule.epochs=48",  # a run must last long enough to be hit four times
    "batch.size=32",
    "batch.bn=16",
    "ifl.milestones=[1,3]",
    "log.every=1",
    "log.eval_test_every=48",
    "log.save_every_steps=5",
    "log.stuck_after_s=20",
    "slurm.cpus_per_task=1",
    "data.workers=1",  # or there is none to kill
    "slurm.signal_delay_s=50",
]
PATIENCE_S = 240
MISSES = 40
"""So many blows in a row that found nothing to hit end it: nothing more would be learned."""
PERIOD_S = 0.7
STATES = {  # scontrol's word, and the status command's that say the same
    "PENDING": {"queued"},
    "RUNNING": {"running", "finished"},
    "COMPLETED": {"finished"},
    "CANCELLED": {"cancelled"},
    "TIMEOUT": {"timed out"},
    "FAILED": {"failed", "gave up", "superseded"},
    "NODE_FAIL": {"failed", "queued"},
}
DISK_MB = 192


class Watcher(threading.Thread):
    """Reads a run's status and its training lines again and again, as long as it lives."""

    def __init__(self, target: Target) -> None:
        super().__init__(daemon=True)
        self.target, self.ended = target, False
        self.polls, self.wrong = 0, Counter()
        self.lines: set[str] = set()
        self.start()

    def run(self) -> None:
        doubt = None
        while not self.ended:
            before = self.target.known().get("JobState")
            said = self.target.state()
            if before in STATES and before == self.target.known().get("JobState"):
                self.polls += 1
                wrong = None if said in STATES[before] else f"{said} while scontrol says {before}"
                self.wrong[wrong] += wrong is not None and wrong == doubt  # once is a change in between
                doubt = wrong
            if (self.target.folder / "metrics.jsonl").exists():
                whole = (self.target.folder / "metrics.jsonl").read_text().rpartition("\n")[0]
                self.lines.update(line for line in whole.splitlines() if '"kind": "train"' in line)
            time.sleep(PERIOD_S)

    def stop(self) -> None:
        self.ended = True
        self.join()


def train_lines(text: Iterator[str] | set[str]) -> list[tuple[int, tuple]]:
    """Of each training line the step and the values that are a function of it."""
    lines = [json.loads(line) for line in text]
    return [
        (line["step"], tuple((key, value) for key, value in sorted(line.items()) if key not in TIMES))
        for line in lines
        if line["kind"] == "train"
    ]


def scores(folder: Path) -> list[tuple[tuple[str, object], ...]]:
    """Of each line of an evaluation all but its times, in order."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [
        tuple((key, value) for key, value in sorted(line.items()) if key not in TIMES)
        for line in lines
        if line["kind"] == "eval"
    ]


class Chaos:
    """The whole: an undisturbed run, then runs under fire until there were enough faults."""

    def __init__(self, place: Path, cluster: clusters.Cluster, seed: int, kinds: list[str], judge: str) -> None:
        self.place, self.cluster, self.seed, self.dice, self.kinds = place, cluster, seed, random.Random(seed), kinds
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.restarts: dict[str, int] = Counter()
        self.problems: list[str] = []
        self.totals: Counter[str] = Counter()
        self.base = [*WORDS, f"seed={seed}", f"data.root={_tiny(place)}"]
        quiet = [*self.base, f"runs={place}/quiet", "cluster=local"]
        launched(quiet, seconds=900)
        folder = resolve(quiet).run_folder
        self.base.append(f"log.eval={judge}")
        self.wanted = result_of(folder)
        self.wanted_lines = dict(train_lines(iter((folder / "metrics.jsonl").read_text().splitlines())))
        self.wanted_scores = scores(folder)
        self.order: list[str] = []
        self.misses = 0

    @property
    def faults(self) -> int:
        return sum(map(len, self.seconds.values()))

    def next_kind(self, local: bool = False) -> str | None:
        """All kinds in random order, then again; None where none of the kinds is `local`, or all are."""
        for _ in range(2):
            fitting = [kind for kind in self.order if (kind in LOCAL) == local]
            if fitting or local:
                break
            self.order += self.dice.sample(self.kinds, len(self.kinds))
        if fitting:
            self.order.remove(fitting[-1])
        return fitting[-1] if fitting else None

    def run_here(self, kind: str, number: int) -> None:
        """Strike a run on this machine once, and compare what it ends with."""
        words = [*self.base, f"runs={self.place}/local/run-{number}", "cluster=local"]
        folder, took, problem = strike_here(kind, words, self.dice.uniform(0, 5))
        if took is None:
            self.order.insert(0, kind)
            self.totals["missed"] += 1
        else:
            self.seconds[kind].append(took)
            self.restarts[kind] += 1
        same = result_of(folder) == self.wanted and scores(folder) == self.wanted_scores
        self.totals["equal"] += same
        self.problems += [
            f"run {number}: {said}" for said in (problem, "" if same else "ended with other bits") if said
        ]
        print(f"{self.faults:3d} run {number} {kind}: {'same bits' if same else 'OTHER BITS'}", flush=True)

    def run(self, hits: int) -> None:
        if not self.order:
            self.order = self.dice.sample(self.kinds, len(self.kinds))
        number = self.totals["runs"] = self.totals["runs"] + 1
        if here := self.next_kind(local=True):
            self.run_here(here, number)
            return
        partition = self.dice.choice(["low", "lowgrace"])
        target = Target(
            self.cluster,
            [*self.base, f"runs={self.place}/disk/run-{number}", f"slurm.partition={partition}"],
            self.place / "disk",
        )
        watcher, hit = Watcher(target), 0
        while hit < hits and self.until(
            lambda: target.state() in ("running", "finished", "gave up"), "running", target
        ):
            if target.state() == "gave up":
                self.relaunch(target)
                continue
            time.sleep(self.dice.uniform(0, 9))  # boot, training and saves all lie in these seconds
            if target.state() != "running":
                self.misses += 1
                break
            if kind := self.next_kind():
                hit += self.strike(target, kind, number)
        while (
            self.until(lambda: target.state() not in run_state.LIVE, "the end", target) and target.state() != "finished"
        ):
            self.relaunch(target)
        self.until(lambda: target.known().get("JobState") == "COMPLETED", "the job's end", target)
        time.sleep(2 * PERIOD_S)
        watcher.stop()
        self.judge(target, watcher, number)

    def strike(self, target: Target, kind: str, number: int) -> bool:
        """One fault and what comes of it; False if there was nothing to hit."""
        before, began = target.starts(), time.monotonic()
        try:
            blow = KINDS[kind](target, self.dice)
        except Missed:
            self.miss(kind)
            return False
        struck, struck_at = time.monotonic(), before if blow.starts is None else blow.starts

        def dead() -> bool:
            return target.state() not in (*run_state.LIVE, "finished")

        def back() -> bool:
            if not blow.restarts:
                return target.state() == "running"
            return blow.comes_back and target.starts() > max(struck_at, 1) and target.state() == "running"

        self.until(lambda: target.state() == "finished" or dead() or back(), f"what comes of {kind}", target)
        told = failure.why(target.folder) if blow.why else ""
        state = target.state()
        if blow.problem:
            self.problems.append(f"run {number}: after {kind}: {blow.problem}")
        if blow.comes_back and dead():
            self.problems.append(
                f"run {number}: after {kind} it {state} and did not come back; its last events: "
                f"{events.read(target.folder)[-4:]}"
            )
        if blow.without and state == "running" and blow.without in target.nodes():
            self.problems.append(f"run {number}: after {kind} it came back to node {blow.without}")
        blow.undo()
        if dead():
            struck, stopped = time.monotonic(), target.starts()
            self.relaunch(target)
            self.until(lambda: target.starts() > stopped, f"a start after {kind}", target)
        took = time.monotonic() - struck
        if state == "finished":  # it was too late for this one
            self.miss(kind)
        else:
            self.misses = 0
            self.seconds[kind].append(took)
            self.restarts[kind] += target.starts() - before
            if blow.why and not re.search(blow.why, told):
                self.totals["wrong why"] += 1
                self.problems.append(f"run {number}: why said after {kind}: {told[:300]!r}, and not {blow.why!r}")
        print(
            f"{self.faults:3d} run {number} {kind}: {struck - began:.1f} s to strike, {took:.1f} s to the next "
            f"start, {state}",
            flush=True,
        )
        return True

    def miss(self, kind: str) -> None:
        """Keep a kind that found nothing to hit, or came too late, for later."""
        self.order.insert(0, kind)
        self.totals["missed"] += 1
        self.misses += 1

    def relaunch(self, target: Target) -> None:
        self.totals["relaunched"] += 1
        target.submit()

    def judge(self, target: Target, watcher: Watcher, number: int) -> None:
        restarts = target.starts() - 1
        self.totals["restarts"] += restarts
        self.totals["polls"] += watcher.polls
        made = train_lines(watcher.lines)
        self.totals["steps redone"] += len(made) - len({step for step, _ in made})
        mismatches = sum(self.wanted_lines.get(step) != values for step, values in made)
        self.totals["loss mismatches"] += mismatches
        self.totals["wrong states"] += sum(watcher.wrong.values())
        self.problems += [f"run {number}: status said {wrong}, {n} times" for wrong, n in watcher.wrong.items() if n]
        self.problems += [f"run {number}: {mismatches} training lines differ from the undisturbed run's"] * (
            mismatches > 0
        )
        self.until(lambda: not chaos_evaluator.jobs(target), "the end of the evaluator", target)
        same = (target.folder / "done").exists() and result_of(target.folder) == self.wanted
        same = same and scores(target.folder) == self.wanted_scores
        self.totals["equal"] += same
        if not same:
            self.problems.append(f"run {number} ended with other bits")
        else:
            lines = [step for step, _ in train_lines(iter((target.folder / "metrics.jsonl").read_text().splitlines()))]
            if lines != sorted(self.wanted_lines):
                self.problems.append(f"run {number} has steps twice, or lacks some, in metrics.jsonl")
            subprocess.run(["rm", "-r", str(target.folder.parent)], check=True)
        print(
            f"    run {number}: {'same bits' if same else 'OTHER BITS'}, {restarts} restarts, {len(made)} steps for "
            f"{len(self.wanted_lines)}",
            flush=True,
        )

    def until(self, condition: Callable[[], bool], what: str, target: Target) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                self.problems.append(
                    f"{target.folder.parent.name}: {what} did not come in {PATIENCE_S} s, the state is {target.state()}"
                )
                return False
            time.sleep(0.3)
        return True

    def report(self) -> int:
        totals = self.totals
        print(f"\n{'fault':16} {'n':>3} {'restarts':>9} {'s to the next start: median':>28} {'max':>6}")
        for kind, seconds in sorted(self.seconds.items()):
            print(f"{kind:16} {len(seconds):3d} {self.restarts[kind]:9d} {median(seconds):28.1f} {max(seconds):6.1f}")
        everything = [second for seconds in self.seconds.values() for second in seconds]
        if everything:
            print(
                f"{'all':16} {self.faults:3d} {sum(self.restarts.values()):9d} {median(everything):28.1f} "
                f"{max(everything):6.1f}"
            )
        print(
            f"\nseed {self.seed}: {self.faults} faults, {totals['runs']} runs, {totals['restarts']} restarts, "
            f"{totals['relaunched']} launched again, "
            f"{totals['missed']} found nothing to hit; "
            f"{totals['steps redone']} steps redone with {totals['loss mismatches']} loss mismatches; status: "
            f"{totals['wrong states']} of {totals['polls']} wrong, "
            f"{totals['wrong why']} wrong reasons; {totals['equal']} of {totals['runs']} ended with the undisturbed "
            "run's bits"
        )
        for problem in self.problems:
            print("PROBLEM:", problem)
        return int(bool(self.problems) or totals["equal"] != totals["runs"])


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of its own, which can fill up."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def main(faults: int, seed: int, hits: int, kinds: str, judge: str) -> int:
    reason = cables.refused()
    with tempfile.TemporaryDirectory() as name, small_disk(Path(name) / "disk"):
        place = Path(name)
        cluster = clusters.Cluster(place / "slurm") if reason else cables.Cables(place / "slurm")
        chaos_shell.register()
        if judge == "job":
            chaos_evaluator.register()
        legal = [*legal_kinds(cluster), *LOCAL]
        if unknown := [kind for kind in kinds.split(",") if kind and kind not in legal]:
            print(
                f"kinds={','.join(unknown)}: no fault here; these are: {','.join(legal)}"
                + (f" ({reason})" if reason else ""),
                file=sys.stderr,
            )
            return 2
        os.environ.update(cluster.environment)
        try:
            cluster.start()
            chaos = Chaos(place, cluster, seed, kinds.split(",") if kinds else legal, judge)
            while chaos.faults < faults and chaos.misses < MISSES:
                chaos.run(min(hits, faults - chaos.faults))
            if chaos.faults < faults:
                chaos.problems.append(
                    f"{MISSES} blows in a row found nothing to hit (waiting: {', '.join(chaos.order)}): the runs are "
                    "too short here, or the ranks are not found"
                )
            return chaos.report()
        finally:
            cluster.stop()


def _tiny(place: Path) -> Path:
    """The tests' small data set."""
    from tests.helpers.digits import digits, twentieth

    return twentieth(digits(place / "digits"), place / "tiny")


if __name__ == "__main__":
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    sys.exit(
        main(
            int(options.get("faults", 20)),
            int(options.get("seed", 0)),
            int(options.get("hits", 4)),
            options.get("kinds", ""),
            options.get("eval", "inline"),
        )
    )
