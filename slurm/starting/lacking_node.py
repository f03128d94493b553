"""What a batch script does where its node lacks what a start needs: a shell function that each of its checks calls.

`node_lacks 'has no apptainer' MORE` says so in the log, MORE with it, and ends the job. A run's job then starts on
another node, or is given up, as slurm/cluster/requeue.py decides.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

FUNCTION = "node_lacks"
_SAID = 'lacks=said; echo "$(uname -n) $1, so the job ends${2:+: $2}" >&2'
OUTSIDE = "python3 -E -s"
"""A node's own Python, 3.6 or later, with the standard library alone: neither what modules put on the path nor what
the user has installed reaches it."""
LEAVES = "ends at a setup line of the site file"
"""What a node lacks where the site's own lines leave the script, by `exit`, or by a failure after `set -e`."""
_SIGNALS = "HUP INT TERM USR1 USR2 XCPU"
_OWN_OPTIONS = "set +aeEfkmuC +o pipefail +o posix; trap - ERR"
BEFORE_SETUP = (
    f"""lacks=; trap '[ "$lacks" ] || {FUNCTION} "{LEAVES}" "$BASH_COMMAND"' EXIT""",
    f"trap 'lacks=said; exit 143' {_SIGNALS}  # that is no fault of the node, and a cancelled job stays so",
)
AFTER_SETUP = (
    f"{_OWN_OPTIONS}  # `set -e` of the site's lines, say, would end the script before it decides",
    f"[[ $(trap -p EXIT) != *{FUNCTION}* ]] || trap - EXIT  # but not one that the site's lines have set",
    f"for signal in {_SIGNALS}; do [[ $(trap -p $signal) != *lacks=said* ]] || trap - $signal; done",
)
UNDECIDED = "no Python of its node could be started that decides what becomes of the job, see its log"


def or_lacks(test: str, lack: str, more: str = "") -> str:
    """Return the shell line that ends the job where a test fails.

    Args:
        test: shell words.
        lack: what the node lacks, the end of a sentence that begins with the node; it is noted and told.
        more: what stands in the log alone.
    """
    return f"{test} || {FUNCTION} {shlex.quote(lack)}" + (f" {shlex.quote(more)}" if more else "")


def ends(*first: str) -> tuple[str, ...]:
    """Return the function of a job that nobody puts back; `first`: the commands that it runs before the job ends."""
    return (f"{FUNCTION}() {{ {'; '.join((_SAID, *first, 'exit 1'))}; }}",)


def comes_back(words: str, runs: str, job: str, code: Path, outside: str) -> tuple[str, ...]:
    """Return the function of a run's job, or of runs that share one.

    What is missing may be just what the job's own Python needs, so the node's is asked next. Where no Python decides,
    the runs are given up.

    Args:
        words: the module that decides and its arguments, before what the node lacks.
        runs: the run folders, as a shell's words.
        job: the job's id, as a shell's words.
        code: the copy of the suite.
        outside: shell words that start the job's own Python.
    """
    at = shlex.quote(str(code))
    asked = " || ".join(f'{python} -m {words} "$1"' for python in dict.fromkeys((outside, OUTSIDE)))
    event = {"verdict": "give up", "reason": UNDECIDED}
    line = f'{{"event": "verdict", "incarnation": "%s", "time": %s, "step": -1, {json.dumps(event)[1:]}\\n'
    values = f'"{job}.${{SLURM_RESTART_COUNT:-0}}" "$(date +%s)" >> "$run/log/events.jsonl"'
    return (
        f"{FUNCTION}() {{  # the job goes on elsewhere, or is given up",
        f"  {_SAID}",
        f"  {_OWN_OPTIONS}",
        "  trap : TERM  # SLURM sends it once the job is put back",
        f"  export PYTHONPATH={at}",
        f"  cd {at} && {{ {asked}; }} ||",
        f'    for run in {runs}; do [ -e "$run/done" ] || printf {shlex.quote(line)} {values}; done',
        "  exit 1",
        "}",
    )
