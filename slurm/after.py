"""What the batch script does when its ranks have ended: the one authority that puts a job back into the queue.

`python -m slurm.after RUN_FOLDER CODE` runs on the job's first node with srun's exit code. Finished runs end; a run that
saved and stopped on a signal goes back into the queue; so does one that failed, unless it has failed `PATIENCE` times in a row
without a new checkpoint. A cancelled job stays cancelled. (With a preemption without grace SLURM requeues by itself and kills
the batch script first; then there is nothing to decide.)
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

from slurm.events import incarnation, newest_step, note, read

PATIENCE = 3
Verdict = Literal["finished", "requeue", "give up", "cancelled", "superseded"]


def decide(folder: Path, cancelled: bool) -> Verdict:
    """What to do with the run, from what is on disk alone: `done`, the checkpoints and the events."""
    if (folder / "done").exists():
        return "finished"
    if cancelled:
        return "cancelled"
    events = read(folder)
    if any(e["event"] == "failed" and e["incarnation"] == incarnation() and e["error"].startswith("Fenced") for e in events):
        return "superseded"  # a newer start has the run; to come back would take it away again
    if any(e["event"] == "stopped" and e["incarnation"] == incarnation() for e in events):
        return "requeue"
    fruitless = 0
    for event in reversed([e for e in events if e["event"] == "start"]):
        if event["step"] < newest_step(folder):
            break  # this start made progress
        fruitless += 1
    return "give up" if fruitless >= PATIENCE else "requeue"


def main(folder: Path, code: int) -> int:
    """Carry the decision out; returns the batch script's exit code."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return code  # no job, so no queue to go back to
    shown = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True).stdout
    state = match[1] if (match := re.search(r"JobState=(\S+)", shown)) else "UNKNOWN"
    verdict = decide(folder, cancelled=state.startswith("CANCELLED"))
    note(folder, "verdict", verdict=verdict, code=code, state=state)
    print(f"srun ended with {code}, job {job} is {state}: {verdict}", flush=True)
    if verdict != "requeue":
        return 0 if verdict == "finished" else code or 1
    requeued = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if requeued.returncode and "pending" not in requeued.stderr.lower():  # pending: SLURM was first
        note(folder, "verdict", verdict="requeue refused", reason=requeued.stderr.strip())
        print(f"scontrol requeue {job} failed: {requeued.stderr.strip()}; launch the run again to go on", flush=True)
        return code or 1
    time.sleep(60)  # SLURM ends this script when it takes the job back
    return code or 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
