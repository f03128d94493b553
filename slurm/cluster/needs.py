"""What the batch script does where a run's first stage has no `done` when its turn comes: it says so, and leaves.

`python -m slurm.cluster.needs RUN_FOLDER FIRST_STAGE`. A second stage waits for the first by `afterany`, for SLURM's
word on how a job ended is not always the run's: from 24.05 on, a job that was once preempted may end as PREEMPTED
although it finished.
"""

import sys
import time
from pathlib import Path

from slurm.after_run.follow import follow
from slurm.monitoring.events import append_event

SEEN_S = 60.0
"""How long a node may not see a file that another one wrote: NFS keeps a folder's list that long."""


def main(folder: Path, need: Path) -> int:
    """Return 0 if the first stage is finished after all, and else 1, with `waiting` noted."""
    deadline = time.monotonic() + SEEN_S
    while not (need / "done").exists():
        if time.monotonic() >= deadline:
            append_event(folder, "waiting", needs=[need.name])
            print(f"{folder.name} needs {need}, which is not finished: launch it again", file=sys.stderr, flush=True)
            follow(folder, "waiting", over=True)
            return 1
        time.sleep(2)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
