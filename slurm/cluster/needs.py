"""What the batch script does where a run's first stage has no `done` when its turn comes: it says so, and leaves.

`python -m slurm.cluster.needs RUN_FOLDER [FIRST_STAGE]`. Without a first stage it looks for those that the run folder
itself names in `log/needs.json`, as an array's element does. A second stage waits for the first by `afterany`, for
SLURM's word on how a job ended is not always the run's: from 24.05 on, a job that was once preempted may end as
PREEMPTED although it finished.
"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.common.json_text import read_object
from slurm.after_run.follow import follow
from slurm.monitoring.events import append_event

if TYPE_CHECKING:
    from collections.abc import Sequence

NEEDS = "needs.json"
SEEN_S = 60.0
"""How long a node may not see a file that another one wrote: NFS keeps a folder's list that long."""


def main(folder: Path, needs: "Sequence[Path]") -> int:
    """Return 0 if the first stages are finished after all, and else 1, with `waiting` noted.

    Raises:
        DataError: the file that names them is damaged.
    """
    path = folder / "log" / NEEDS
    named = read_object(path, {"needs": list})["needs"] if not needs and path.exists() else needs
    return max((_waits(folder, Path(need)) for need in named), default=0)


def _waits(folder: Path, need: Path) -> int:
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
    sys.exit(main(Path(sys.argv[1]), [Path(need) for need in sys.argv[2:]]))
