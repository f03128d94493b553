"""Faults of a run's evaluator (`log.eval=job`): the run goes on, and the evaluator comes back."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from slurm import evaluator
from slurm.monitoring.run_state import ENDED, is_in, queue
from tests.helpers import cluster as clusters
from tests.system.chaos_kinds import Blow, Missed, Target, kind, wait

BACK_S = 90


def register() -> None:
    """Make these kinds known."""
    kind("evaluator-killed")(kill)
    kind("evaluator-thrown-out")(throw_out)


def jobs(target: Target) -> list[str]:
    """Return the jobs of the run's evaluators that have not ended."""
    place = target.folder / evaluator.FOLDER
    return [job for job, said in (queue() or {}).items() if is_in(place, said) and said.state not in ENDED]


def kill(target: Target, dice: random.Random) -> Blow:
    """kill -9 of the evaluator."""
    pid = _process(target)
    clusters.send([pid], signal.SIGKILL)
    return _back(target, pid)


def throw_out(target: Target, dice: random.Random) -> Blow:
    """The evaluator's job is put back into the queue, as by a preemption."""
    pid, own = _process(target), jobs(target)
    if not own:
        raise Missed
    target.cluster.run("scontrol", "requeue", own[0])
    return _back(target, pid)


def _back(target: Target, old: int) -> Blow:
    """Wait for another evaluator than the one struck; the run may end meanwhile."""
    try:
        wait(lambda: target.state() == "finished" or _found(target) not in (0, old), BACK_S)
    except Missed:
        return Blow(restarts=False, problem=f"no evaluator came back in {BACK_S} s")
    return Blow(restarts=False)


def _process(target: Target) -> int:
    if not (pid := _found(target)):
        raise Missed
    return pid


def _found(target: Target) -> int:
    """Return the process of the run's evaluator on this machine; 0 where there is none."""
    for pid in target.cluster._processes():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:
            continue
        if "python" in words[0] and "ifl.evaluation" in words and str(target.folder) in words:
            return pid
    return 0
