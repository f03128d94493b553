"""Which options this machine's sbatch has, by its own help text."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Iterable

from recipes.common.cli import nearest
from recipes.common.errors import RecipeError
from recipes.sbatch.options import refused
from slurm import environment

OF_ALL = (
    "account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint container "
    "contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency "
    "distribution error exclude exclusive export export-file extra-node-info get-user-env gid gpu-bind gpu-freq gpus "
    "gpus-per-node gpus-per-socket gpus-per-task gres gres-flags help hint hold ignore-pbs input job-name "
    "kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network "
    "nice no-kill no-requeue nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node "
    "ntasks-per-socket open-mode output overcommit oversubscribe parsable partition prefer priority profile "
    "propagate qos quiet reboot requeue reservation signal sockets-per-node spread-job switches test-only "
    "thread-spec threads-per-core time time-min tmp uid usage use-min-nodes verbose version wait wait-all-nodes wckey "
    "wrap"
)
"""Options of sbatch from 22.05 on; its help leaves some out, as hint where the cluster does not bind tasks."""
LATER = (
    "consolidate-segments container-id extra oom-kill-step power resv-ports segment spread-segments stepmgr tres-bind "
    "tres-per-task"
)
"""Options that some version has and another has not: they count where no sbatch is here to be asked."""
PATIENCE_S = 10


def refuse_unknown(names: Iterable[str]) -> None:
    """Refuse options that sbatch does not have.

    Raises:
        RecipeError: the first of them, with the nearest that can be set.
    """
    for name in dict.fromkeys(names):
        own = names_here()
        known = {*OF_ALL.split(), *(LATER.split() if own is None else own)}
        if name not in known:
            whose = "in any sbatch that is known" if own is None else "in this machine's sbatch"
            raise RecipeError(
                f"slurm.options.{name} is not legal: there is no option --{name} {whose}; "
                f"{nearest(name, sorted(one for one in known if not refused(one)))}"
            )


@functools.cache
def names_here() -> frozenset[str] | None:
    """Return the long options in the help text of this machine's sbatch; None where it has none or prints none."""
    try:
        said = subprocess.run(
            ["sbatch", "--help"],
            env=environment.clean(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        ).stdout
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    found = frozenset(re.findall(r"^ +(?:-\w,? +)?--([a-z][a-z0-9-]*)", said, re.MULTILINE))
    return found if "partition" in found else None
