"""The job of a run's evaluator (`log.eval=job`): the run's own job submits it, start by start, and takes it back.

`python -m slurm.evaluator begin|end|needed|watch|again RUN_FOLDER` is what batch scripts call, by the node's own
Python. `begin` is the run's, just before its ranks start; that start's end (slurm/cluster/requeue.py) dismisses what it
began, and `end` does where SLURM ends the batch script, which then decides nothing.
So a run that waits has no evaluator in the queue, and each element of an array, and each packed run, has its own. The
others are the evaluator's: it looks again and again whether the start that it is for is still on, and leaves where it
is not, for that start may have had no time to dismiss it. The launcher has written its batch file.
"""

import contextlib
import json
import os
import re
import shlex
import sys
import time
from pathlib import Path

from slurm import environment
from slurm.monitoring.events import append_event, incarnation, read

FOLDER = "eval"
"""Of a run folder: the batch file does not lie where those of runs do, or its job would be taken for the run's."""
FILE = "evaluator.sh"
LOG = "evaluator.log"
"""In log/: what the evaluator and its batch script say, wherever they run."""
START = "GLT_START"
"""Environment variable of an evaluator's job: the start of the run that it is for, as `incarnation` names it."""
AGAIN = 10
"""So often an evaluator comes back in one start of its run, whatever ended it; most often it is thrown out."""
LOOK_S = 30
"""Between two looks for the start."""
ANSWER_S = 20
"""How long a question to SLURM may take, and the submission: the start's end waits for it."""
OVER = 3
"""The exit code of `needed` where the start is over; a Python that breaks down has another."""
WITHOUT = "without"
"""The shell function by which an evaluator's job notes that the run has none."""
UNTIL_STARTED = f"trap {WITHOUT} EXIT; trap 'trap - EXIT; exit 143' TERM"
STARTED = f"case $? in 0) trap - EXIT TERM;; {OVER}) trap - EXIT; exit 0;; *) exit 1;; esac"
"""The shell line behind `needed`, the first thing that a Python does in an evaluator's job."""
ALONE = "this run evaluates by itself"
ON = ("RUNNING", "SUSPENDED", "STOPPED", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT")
"""States of a run's job in which its start is not over."""
OF_DEVICES = ("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
"""Variables by which SLURM tells the run's job its own devices."""


def begin(folder: Path) -> int:
    """Submit the run's evaluator, from within the run's job, in the place of any that an earlier start left."""
    dismiss(folder)
    with contextlib.suppress(FileNotFoundError):
        (folder / FOLDER / "evaluator.json").unlink()  # an earlier one's claim: a new one is on its way
    file = folder / FOLDER / FILE
    decided = re.findall(r"^#SBATCH --([a-z0-9-]+)", file.read_text(), re.MULTILINE)
    variables = environment.for_sbatch([name.replace("-", "_") for name in decided])
    variables = {name: value for name, value in variables.items() if name not in OF_DEVICES}
    refused, _, reason = environment.answer(("sbatch", str(file)), ANSWER_S, {**variables, START: incarnation()})
    if refused:
        _do_without(folder, f"sbatch refused the evaluator ({(reason.splitlines() or [f'code {refused}'])[-1]})")
    return refused


def end(folder: Path) -> int:
    """Dismiss the run's evaluator where SLURM ends the start's batch script, unless a newer start has begun another."""
    job, _, restarts = incarnation().rpartition(".")
    known = environment.facts(_ask("scontrol", "show", "job", "-o", job)[1])
    if known.get("JobState") not in ON or known.get("Restarts") == restarts:
        dismiss(folder)
    return 0


def dismiss(folder: Path) -> None:
    """Cancel the evaluator's job of a run, if there is one; it is known by where its batch file lies."""
    if not (folder / FOLDER / FILE).exists():
        return
    place = os.path.realpath(str(folder / FOLDER))
    listed = [line.partition("|")[::2] for line in _ask("squeue", "-h", "-a", "--me", "-o", "%i|%o")[1].splitlines()]
    # One without a batch file (salloc, --wrap) has a bare word there, which would name the current folder.
    jobs = [job for job, file in listed if os.path.isabs(file) and os.path.realpath(os.path.dirname(file)) == place]
    if jobs:  # where SLURM does not answer, the evaluator looks for its start itself
        _ask("scancel", *jobs)


def is_on(folder: Path, start: str) -> bool:
    """Say whether a start of a run is under way; where SLURM does not answer, it is thought to be.

    Args:
        folder: the run folder.
        start: its name, as `incarnation` gives it.
    """
    if (folder / "done").exists():
        return False
    if any(event["event"] == "verdict" and event["incarnation"] == start for event in read(folder)):
        return False
    job, _, restarts = start.rpartition(".")
    refused, said, reason = _ask("scontrol", "show", "job", "-o", job)
    if refused:
        return "invalid job id" not in reason.lower()
    known = environment.facts(said)
    return known.get("JobState") in ON and known.get("Restarts", "0") == restarts


def needed(folder: Path) -> int:
    """Return 0 if the start is on that this evaluator's job is for, and else `OVER`."""
    return 0 if is_on(folder, os.environ[START]) else OVER


def notes_none(folder: Path) -> "tuple[str, ...]":
    """Return the shell function by which a job that ends before `STARTED` notes that the run has no evaluator.

    What is wrong may be just what a Python needs to start, so none is asked. A job that is cancelled notes nothing.
    """
    text = f"the evaluator's job %s ended before its Python was started; see log/{LOG}: {ALONE}"
    line = f'{{"event": "evaluator", "incarnation": "%s", "time": %s, "step": -1, "text": {json.dumps(text)}}}\\n'
    values = f'"${START}" "$(date +%s)" "$SLURM_JOB_ID"'
    events, claim = (shlex.quote(str(folder / name)) for name in ("log/events.jsonl", f"{FOLDER}/evaluator.json"))
    return (
        f"{WITHOUT}() {{ trap - EXIT; printf {shlex.quote(line)} {values} >> {events}",
        f"[ -s {claim} ] || : > {claim}; }}  # a newer start's evaluator may have claimed the run",
    )


def watch(folder: Path) -> int:
    """End the evaluator's own job once the start is over that it is for."""
    while is_on(folder, os.environ[START]):
        time.sleep(LOOK_S)
    return _ask("scancel", str(environment.job_id()))[0]


def again(folder: Path) -> int:
    """Put the evaluator's own job back into the queue where it ended before its start did; returns its exit code."""
    if not is_on(folder, os.environ[START]):
        return 0
    own = str(environment.job_id())
    if environment.facts(_ask("scontrol", "show", "job", "-o", own)[1]).get("JobState") == "CANCELLED":
        _do_without(folder, f"the evaluator's job {own} was cancelled")
        return 1
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) < AGAIN:
        refused, _, reason = _ask("scontrol", "requeue", own)
        if not refused or "pending" in reason.lower():  # pending: SLURM was first
            time.sleep(60)  # SLURM ends this script when it takes the job back
            return 1
    _do_without(folder, f"the evaluator's job {own} ended and does not come back; see log/{LOG}")
    return 1


def _do_without(folder: Path, text: str) -> None:
    """Note why the run has no evaluator, and let its ranks not wait for one."""
    print(text, file=sys.stderr, flush=True)
    of_run = os.environ.get(START, incarnation())  # by which the status command takes it for the run's
    append_event(folder, "evaluator", incarnation=of_run, text=f"{text}: {ALONE}")
    with contextlib.suppress(OSError):  # a full disk: they notice that it is silent
        (folder / FOLDER / "evaluator.json").write_text("")


def _ask(*words: str) -> "tuple[int, str, str]":
    return environment.answer(words, ANSWER_S)


if __name__ == "__main__":
    sys.exit(
        {"begin": begin, "end": end, "needed": needed, "watch": watch, "again": again}[sys.argv[1]](Path(sys.argv[2]))
    )
