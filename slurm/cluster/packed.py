"""What the batch script of packed runs (`pack=N`) does when a run has ended, and when the last of them has.

`python -m slurm.cluster.packed run RUN_FOLDER CODE` decides about one run, as slurm/cluster/requeue.py does for a run
that has a job to itself. `python -m slurm.cluster.packed job ELEMENT_FOLDER` puts the job back into the queue if any of
its runs is to go on. A run that is not to go on is not started again with the others. `python -m slurm.cluster.packed
lacking ELEMENT_FOLDER LACK` does both where the node lacks what the start needs.
"""

import os
import sys
from pathlib import Path

from slurm import environment
from slurm.cluster.requeue import after, judge, leave_when_put_back, note_lack, put_back
from slurm.monitoring.events import incarnation, read

OVER = ".over"
"""Ending of the file in a run's log folder, named by the job, which says that the run is not to go on in that job."""


def end_run(folder: Path, code: "int | None") -> int:
    """Note what is to become of a run; returns its exit code. No code: its ranks were not started."""
    job = environment.job_id()
    if job is None:
        return code or 0
    verdict, noted = judge(folder, code, job, packed=True)
    if verdict in ("give up", "cancelled") and noted:
        (folder / "log" / f"{job}{OVER}").touch()
    after(folder, verdict, noted)
    return 0 if verdict == "finished" else code or 1


def end_job(element: Path) -> int:
    """Put the job back if a run of it is to go on; returns the batch script's exit code.

    A packed job's energy is of all its runs together, so it is noted for none.
    """
    job, runs = environment.job_id(), _runs(element)
    go_on = [run for run in runs if _verdict(run) == "requeue"]
    print(f"job {job}: {len(go_on)} of {len(runs)} runs are to go on", file=sys.stderr, flush=True)
    if job is not None and go_on:
        put_back(job, go_on)
    return 0 if all((run / "done").exists() for run in runs) else 1


def lacking(element: Path, lack: str) -> int:
    """Decide about all runs of a start that this node cannot make; returns 0, for it is done."""
    leave_when_put_back()
    for run in _runs(element):
        if not (run / "done").exists() and not (run / "log" / f"{environment.job_id()}{OVER}").exists():
            note_lack(run, lack)
            end_run(run, None)
    end_job(element)
    return 0


def _runs(element: Path) -> "list[Path]":
    return [place.parent.joinpath(os.readlink(place)) for place in sorted(element.iterdir()) if place.is_symlink()]


def _verdict(run: Path) -> "str | None":
    """Return what this start of the job decided about a run; None where it did not run."""
    mine = incarnation()
    own = [event for event in read(run) if event["event"] == "verdict" and event["incarnation"] == mine]
    return str(own[-1]["verdict"]) if own else None


def main(what: str, folder: Path, *more: str) -> int:
    """Do what the batch script asks for; returns the exit code."""
    if what == "run":
        return end_run(folder, int(more[0]))
    return lacking(folder, more[0]) if what == "lacking" else end_job(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
