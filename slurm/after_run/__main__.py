"""What is done when a run's job, or its local start, has ended: tell it, keep it, and tell the end of its command.

`python -m slurm.after_run RUN_FOLDER END over|again` is started by the batch script (slurm/cluster/requeue.py) and by
the launcher of local runs, as a process of its own that may take `start`'s time and whose end nobody asks for. What
could not be done is noted in log/events.jsonl, and does nothing to the run. Standard library only.
"""

import sys
from pathlib import Path

from slurm.after_run.follow import NEWER

if __name__ == "__main__" and sys.version_info >= NEWER:
    from slurm.after_run.ending import after

    after(Path(sys.argv[1]).absolute(), sys.argv[2], over=sys.argv[3] == "over")
