"""What the batch script of packed runs (`pack=N`) does when a run has ended, and when the last of them has.

`python -m slurm.cluster.packed run RUN_FOLDER CODE` decides about one run, as slurm/cluster/requeue.py does for a run
that has a job to itself. `python -m slurm.cluster.packed job ELEMENT_FOLDER` puts the job back into the queue if any of
its runs is to go on. A run that is not to go on is not started again with the others.
"""

import os
import sys
from pathlib import Path

from slurm import environment
from slurm.cluster.requeue import after, judge, put_back
from slurm.monitoring.events import incarnation, read

OVER = ".over"
"""Ending of the file in a run's log folder, named by the job, which says that the run is not to go on in that job."""


def end_run(folder: Path, code: int) -> int:
    """Note what is to become of a run; returns its exit code."""
    job = environment.job_id()
    if job is None:
        return code
    verdict, noted = judge(folder, code, job, packed=True)
    if verdict in ("give up", "cancelled") and noted:
        (folder / "log" / f"{job}{OVER}").touch()
    after(folder, verdict, noted)
    return 0 if verdict == "finished" else code or 1


def end_job(element: Path) -> int:
    """Put the job back if a run of it is to go on; returns the batch script's exit code.

    A packed job's energy is of all its runs together, so it is noted for none.
    """
    job = environment.job_id()
    runs = [place.parent.joinpath(os.readlink(place)) for place in sorted(element.iterdir()) if place.is_symlink()]
    go_on = [run for run in runs if _verdict(run) == "requeue"]
    print(f"job {job}: {len(go_on)} of {len(runs)} runs are to go on", file=sys.stderr, flush=True)
    if job is not None and go_on:
        put_back(job, go_on)
    return 0 if all((run / "done").exists() for run in runs) else 1


def _verdict(run: Path) -> "str | None":
    """Return what this start of the job decided about a run; None where it did not run."""
    mine = incarnation()
    own = [event for event in read(run) if event["event"] == "verdict" and event["incarnation"] == mine]
    return str(own[-1]["verdict"]) if own else None


if __name__ == "__main__":
    sys.exit(end_run(Path(sys.argv[2]), int(sys.argv[3])) if sys.argv[1] == "run" else end_job(Path(sys.argv[2])))
