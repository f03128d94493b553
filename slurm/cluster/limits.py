"""How much SLURM lets a user submit: an array's size, and jobs in the queue, where it says so.

An array's elements count as jobs. Where SLURM does not tell a limit it may have one all the same; then sbatch refuses.
"""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass
from typing import NamedTuple

from recipes.schema import Slurm
from slurm.environment import answer
from slurm.monitoring.run_state import ANSWER_S, cluster_config, cluster_name

ARRAY_SIZE = 1001
"""SLURM's own default of MaxArraySize."""


class Limit(NamedTuple):
    """A limit of jobs in the queue.

    Attributes:
        jobs: the most of them.
        of: who says so, for a sentence; requests that meet the same one have the same words here.
    """

    jobs: int
    of: str


@dataclass(frozen=True)
class Limits:
    """What one user may submit by requests of a kind.

    Attributes:
        array_size: the most elements of an array, which are numbered from 0; 0 where there are no arrays.
        of_jobs: the limits of jobs in the queue; empty where SLURM does not say.
    """

    array_size: int = ARRAY_SIZE
    of_jobs: tuple[Limit, ...] = ()


def limits(slurm: Slurm) -> Limits:
    """Ask SLURM, and where there is one its accounting database, for the limits of a request."""
    sizes = re.findall(r"(?:^MaxArraySize\s*=\s*|\bmax_array_tasks=)(\d+)", cluster_config(), re.MULTILINE)
    rows = _association(slurm, cluster_name())
    quality = slurm.qos or next((row[-1] for row in rows if row[-1]), "")
    told = [
        Limit(int(row[place]), f"the association's {name} (account {', partition '.join(filter(None, row[1:3]))})")
        for row in rows
        for place, name in OF_AN_ASSOCIATION
        if row[place]
    ]
    told += [Limit(jobs, f"MaxSubmitJobsPerUser of qos {quality}") for jobs in _quality_of_service(quality)]
    return Limits(min(map(int, sizes), default=ARRAY_SIZE), tuple(told))


OF_AN_ASSOCIATION = ((3, "MaxSubmitJobs"), (4, "GrpSubmitJobs"))
"""Columns of what sacctmgr is asked for."""


def _association(slurm: Slurm, cluster: str) -> list[list[str]]:
    """Return the user's association that a job would have: the cells of its line; none where that cannot be told.

    A user with several accounts gets the limits of one only where the request names it.
    """
    words = ["show", "assoc", "where", f"user={getpass.getuser()}"]
    fields = "format=Cluster,Account,Partition,MaxSubmitJobs,GrpSubmitJobs,DefaultQOS"
    rows = [line.split("|") for line in answer(["sacctmgr", "-nP", *words, fields], ANSWER_S)[1].splitlines()]
    fitting = [
        row
        for row in rows
        if len(row) == 6
        and row[0].lower() in (cluster.lower(), "")
        and (slurm.account is None or row[1].lower() == slurm.account.lower())
        and (not row[2] or row[2] in (slurm.partition or "").split(","))
        and all(re.fullmatch(r"\d*", row[place]) for place, _ in OF_AN_ASSOCIATION)
    ]
    return fitting if len({row[1] for row in fitting}) == 1 else []


def _quality_of_service(name: str) -> list[int]:
    """Return its limit, if it has one."""
    if not re.fullmatch(r"[\w.-]+", name):
        return []
    words = ["show", "qos", "where", f"name={name}", "format=MaxSubmitJobsPerUser"]
    said = answer(["sacctmgr", "-nP", *words], ANSWER_S)[1].strip()
    return [int(said)] if re.fullmatch(r"\d+", said) else []
