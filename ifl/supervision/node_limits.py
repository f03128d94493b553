"""What a site asks of its nodes: limits below which one is left out, and when one counts as slow. No torch.

They come from the site file's `look:` (slurm/nodes/site_limits.py) and reach the ranks by the environment variable
GLT_LOOK, as JSON. What is not there has the default: rates are told, and leave nobody out. The batch script reads them,
too, by whatever Python 3.6 or later its node has.
"""

import json
import os
from typing import NamedTuple

VARIABLE = "GLT_LOOK"


class NodeLimits(NamedTuple):
    """What is asked of a node.

    Attributes:
        folder_mb_s: MB/s at which it must write and read the shared folder; None: whatever it is.
        disk_mb_s: the same of its own disk.
        allreduce_gb_s: GB/s that the nodes must reach together. One that is too low is told and leaves nobody out, for
            it does not say whose cable it is.
        clock_s: seconds by which its clock may be off the others'; None: more than `CLOCK_S` is told.
        slow_factor: times the other nodes' seconds an image from which on it is slow.
        slow_steps: over so many steps.
        exclude_slow: whether a slow node is left out at the next start.
    """

    folder_mb_s: "float | None" = None
    disk_mb_s: "float | None" = None
    allreduce_gb_s: "float | None" = None
    clock_s: "float | None" = None
    slow_factor: float = 1.5
    slow_steps: int = 100
    exclude_slow: bool = False

    @classmethod
    def of_environment(cls) -> "NodeLimits":
        """Return those that this process was given, else the defaults."""
        return cls(**json.loads(os.environ.get(VARIABLE) or "{}"))

    def text(self) -> str:
        """Return what `of_environment` reads: the values that are not the defaults."""
        return json.dumps({key: value for key, value in self._asdict().items() if value != getattr(_DEFAULTS, key)})


_DEFAULTS = NodeLimits()
CLOCK_S = 5.0
"""Seconds by which a clock may be off before it is told, where the site says nothing."""
