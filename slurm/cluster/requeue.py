"""What the batch script does when its ranks have ended: the one authority that puts a job back into the queue.

`python -m slurm.cluster.requeue RUN_FOLDER CODE` runs on the job's first node with srun's exit code. Finished runs end;
a run that saved and stopped on a signal goes back into the queue, unless `STOPS` starts in a row were stopped before
anything could be saved; so does one that failed, unless it has failed `PATIENCE` times in a row without a new
checkpoint, `BLIND` times for want of a device, or the run folder cannot be written. Nodes that were found unfit are
left out of the next start (slurm/nodes/exclusion.py). A cancelled job stays cancelled, and a start that a newer one has
replaced leaves the queue alone. (With a preemption without grace SLURM requeues by itself and kills the batch script
first; then there is nothing to decide.)

`python -m slurm.cluster.requeue RUN_FOLDER lacking LACK` runs instead where the node lacks what the batch script needs
before the ranks start (slurm/starting/lacking_node.py): the node is unfit then, and the same is decided.
"""

import os
import platform
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ifl.supervision.node_events import DEVICE
from ifl.supervision.node_limits import NodeLimits
from slurm import environment
from slurm.after_run.follow import follow
from slurm.cluster.energy import note_energy
from slurm.evaluator import dismiss
from slurm.monitoring.events import append_event, incarnation, newest_step, read, since_launch
from slurm.nodes.exclusion import Exclusion, exclusion, is_of_nodes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Literal

    Verdict = Literal["finished", "requeue", "give up", "cancelled", "superseded"]

PATIENCE = 3
BLIND = 2
"""So many starts in a row that found no usable device on a node end a run: then it is hardly the node."""
STOPS = 20
"""So many starts in a row that were stopped before anything could be saved end a run: hardly by chance."""
TOO_LONG = (
    f"its last {STOPS} starts were stopped before anything could be saved: a start takes longer than the time limit "
    "(slurm.time) or the preemptions leave it"
)
ANSWER_S = 600
"""How long SLURM's controller is asked again where it does not answer: a cut cable, a restart."""
AWAY = "contact|connect|timed out|no answer|temporar|unexpected message"
"""Complaints of a controller that is asked again; after the last, the requeue may be under way."""


def decide(folder: Path, cancelled: bool) -> "Verdict":
    """Decide what to do with the run, only from what is on disk: `done`, the checkpoints and the events."""
    if (folder / "done").exists():
        return "finished"
    if cancelled:
        return "cancelled"
    events, mine = read(folder), incarnation()
    if any(e["event"] == "failed" and e["incarnation"] == mine and e["error"].startswith("Fenced") for e in events):
        return "superseded"  # a newer start has the run; to come back would take it away again
    starts = [e for e in events if e["event"] == "start"]
    if any(e["incarnation"] == mine for e in starts) and starts[-1]["incarnation"] != mine:
        return "superseded"
    tries = _fruitless(folder, events, mine)
    if _is_stopped(events, mine):
        return "give up" if len(tries.stopped) >= STOPS else "requeue"
    return "give up" if len(tries.failed) >= PATIENCE or len(tries.blind) >= BLIND else "requeue"


def _is_stopped(events: "Sequence[Mapping[str, Any]]", mine: str) -> bool:
    return any(event["event"] == "stopped" and event["incarnation"] == mine for event in events)


class Fruitless(NamedTuple):
    """The starts since the last progress.

    Attributes:
        failed: those that ended by themselves; a start may end before it noted that it began.
        blind: those that found no usable device.
        stopped: those that a signal ended. What SLURM threw out without one is nowhere.
    """

    failed: "set[str]"
    blind: "set[str]"
    stopped: "set[str]"


def _fruitless(folder: Path, events: "Sequence[Mapping[str, Any]]", mine: str) -> Fruitless:
    """Return the starts since the last progress; this one, `mine`, failed if it was not stopped."""
    ended = {mine}
    blind: "set[str]" = set()
    stopped: "set[str]" = set()
    for event in reversed(events):
        if event["event"] == "submitted":
            break  # the user's wish to try again
        if event["event"] == "start" and event["step"] < newest_step(folder):
            ended.discard(event["incarnation"])  # it made progress
            stopped.discard(event["incarnation"])
            break
        if event["event"] == "verdict":
            ended.add(event["incarnation"])
        if event["event"] == "stopped":
            stopped.add(event["incarnation"])
        if event["event"] == "node" and event["fault"] == DEVICE:
            blind.add(event["incarnation"])
    return Fruitless(ended - stopped, blind, stopped)


def _ask(*words: str) -> "tuple[int, str, str]":
    """Return a command's exit code, output and complaint; ask again for a while if the controller is not reached."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        answer = environment.answer(words, 60)
        if answer[0] == 0 or not re.search(AWAY, answer[2], re.IGNORECASE) or time.monotonic() > deadline:
            return answer
        time.sleep(5)


def _job(job: str) -> "Mapping[str, str]":
    """Return what SLURM knows of the job; empty where it does not answer."""
    return environment.facts(_ask("scontrol", "show", "job", "-o", job)[1])


def _is_cancelled(known: "Mapping[str, str]") -> bool:
    return known.get("JobState", "").startswith("CANCELLED")


def _stay_cancelled(job: str, folders: "Sequence[Path]") -> None:
    """Note that the runs of a job stay cancelled, which were to go on."""
    for folder in folders:
        append_event(folder, "verdict", verdict="cancelled")
        _follow(folder, "cancelled")
    print(f"job {job} was cancelled meanwhile, and stays so", file=sys.stderr, flush=True)


def _ends(folder: Path, job: str) -> "list[str]":
    """Return srun's lines about tasks of this start that ended badly; it knows those that could not say why, too."""
    log = folder / "log" / f"{job}_0_log.err"
    said = log.read_text(errors="replace").rpartition(f" of job {job}: rank 0 ")[2] if log.exists() else ""
    return re.findall(r"^srun: error: (\S+: tasks? .*)$", said, re.MULTILINE)[:8]


def _follow(folder: Path, verdict: "Verdict") -> None:
    """Do what the site file wants done when a run has ended."""
    word = {"give up": "given up", "requeue": "failed"}.get(verdict, verdict)
    follow(folder, word, over=verdict != "requeue")


def judge(folder: Path, code: "int | None", job: str, **values: bool) -> "tuple[Verdict, bool]":
    """Decide about the run and note it, with `values`; returns the verdict, and whether it is on disk.

    Args:
        folder: the run folder.
        code: srun's exit code; None where no rank was started.
        job: the job's id.
        values: what the event says besides.
    """
    known = _job(job)
    state = known.get("JobState", "UNKNOWN")
    verdict = decide(folder, cancelled=_is_cancelled(known))
    if int(known.get("Restarts", "0")) > int(os.environ.get("SLURM_RESTART_COUNT", "0")) and verdict == "requeue":
        # SLURM took this start for dead and has begun another: requeued, that one would be thrown out.
        verdict = "superseded"
    without = left_out(folder, known, verdict)
    if without.refused:
        verdict = "give up"
    too_long = TOO_LONG if verdict == "give up" and _is_stopped(read(folder), incarnation()) else ""
    said = {"code": code, "excluded": without.nodes, "reason": without.refused or too_long}
    noted = append_event(
        folder,
        "verdict",
        verdict=verdict,
        state=state,
        ends=[] if code is None else _ends(folder, job),
        **values,
        **{key: value for key, value in said.items() if value not in (None, (), "")},
    )
    began = "no rank was started" if code is None else f"srun ended with {code}"
    print(f"{began}, job {job} is {state}: {verdict}", file=sys.stderr, flush=True)
    if verdict == "requeue" and not noted:  # nor could its starts be counted, and it would come back for ever
        print(
            f"{folder} cannot be written: the job ends; launch the run again when it can", file=sys.stderr, flush=True
        )
    return verdict, noted


def after(folder: Path, verdict: "Verdict", noted: bool) -> None:
    """Dismiss the run's evaluator, and do what the site file wants done after a verdict.

    One that a newer start has begun stays; and of a run that was only stopped nobody is told.
    """
    if verdict != "superseded":
        dismiss(folder)
    if verdict == "requeue" and not noted:
        _follow(folder, "give up")
    elif verdict != "superseded" and not (verdict == "requeue" and _is_stopped(read(folder), incarnation())):
        _follow(folder, verdict)


def put_back(job: str, folders: "Sequence[Path]") -> None:
    """Put a job back into the queue, without the nodes that its runs are to be left without, and wait for the end.

    Where SLURM refuses, note it for the runs and return; so where the user has cancelled it since the verdict, while
    the run's end was told.
    """
    known = _job(job)
    if _is_cancelled(known):
        _stay_cancelled(job, folders)
        return
    of_nodes = [folder for folder in folders if any(map(is_of_nodes, since_launch(read(folder))))]
    lists = [left_out(folder, known, "requeue").wanted for folder in of_nodes]
    wanted = next((nodes for nodes in lists if nodes is not None), None)
    if wanted is not None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which SLURM ends this script once the job is requeued
    refused, _, reason = _ask("scontrol", "requeue", job)
    if refused and _is_cancelled(_job(job)):
        _stay_cancelled(job, folders)
        return
    if refused and "pending" not in reason.lower():  # pending: SLURM was first
        for folder in folders:
            append_event(folder, "verdict", verdict="requeue refused", reason=reason)
        print(f"scontrol requeue {job} failed: {reason}; launch the run again to go on", file=sys.stderr, flush=True)
        for folder in folders:
            _follow(folder, "give up")
        return
    if wanted is None:
        time.sleep(60)  # SLURM ends this script when it takes the job back
    else:
        _leave_out(job, wanted)


def main(folder: Path, code: "int | None") -> int:
    """Carry the decision out; returns the batch script's exit code. For `code` see `judge`."""
    job = environment.job_id()
    if job is None:
        return code or 0  # no job, so no queue to go back to
    verdict, noted = judge(folder, code, job)
    if verdict not in ("requeue", "superseded"):
        note_energy(folder, job)  # not before a requeue, which has no time to lose: the last start asks for all
    after(folder, verdict, noted)  # SLURM ends this script when it takes the job back
    if verdict == "requeue" and noted:
        put_back(job, [folder])
    return 0 if verdict == "finished" else code or 1


def lacking(folder: Path, lack: str) -> int:
    """Decide about a start that this node cannot make; returns 0, for it is done, and no other Python is to do it."""
    leave_when_put_back()
    if not (folder / "done").exists():
        note_lack(folder, lack)
    main(folder, None)
    return 0


def leave_when_put_back() -> None:
    """End with 0 where SLURM ends the batch script, which waits for it once the job is put back."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def note_lack(folder: Path, lack: str) -> None:
    """Note that this node lacks what a start needs: it is left out of the next one.

    Args:
        folder: the run folder.
        lack: the end of a sentence that begins with the node.
    """
    node = os.environ.get("SLURMD_NODENAME") or platform.node()
    append_event(folder, "node", node=node, fault="setup", text=lack)
    append_event(folder, "failed", rank=0, error=f"node {node} {lack}")


def left_out(folder: Path, known: "Mapping[str, str]", verdict: "Verdict") -> Exclusion:
    """Decide which nodes the job is to be left without, or say which ones made it give up."""
    events, mine = since_launch(read(folder)), incarnation()
    if verdict == "requeue":
        return exclusion(events, known, mine, NodeLimits.of_environment().exclude_slow, _ask)
    unfit = [e for e in events if e["event"] == "node" and e["incarnation"] == mine and verdict == "give up"]
    return Exclusion(refused="; ".join(f"node {event['node']} {event['text']}" for event in unfit))


def _leave_out(job: str, nodes: str) -> None:
    """Change the nodes that a job is left without; SLURM takes that of a job that waits, and of no other."""
    refused, _, reason = _ask("scontrol", "update", f"JobId={job}", f"ExcNodeList={nodes}")
    if refused:
        print(f"scontrol update JobId={job} ExcNodeList={nodes} failed: {reason}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run, said = Path(sys.argv[1]), sys.argv[2]
    sys.exit(lacking(run, sys.argv[3]) if said == "lacking" else main(run, int(said)))
