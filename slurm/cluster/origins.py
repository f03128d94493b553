"""Where each `#SBATCH` line of a batch file comes from, for `cluster=dry`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from recipes.sbatch.options import OWN
from slurm.cluster.batch_job import BatchJob

SCHEMA = "the schema's defaults"
LAUNCHER = "the launcher, which must own them"


def by_origin(job: BatchJob, origins: Mapping[str, str]) -> list[str]:
    """Return lines that name the options of a batch file by where their values come from.

    Args:
        job: the one with the file.
        origins: of each value that is not the schema's, by its dotted key.
    """
    found: dict[str, list[str]] = {}
    for name in re.findall(r"^#SBATCH --([a-z0-9-]+)", job.text(), re.MULTILINE):
        found.setdefault(_origin(name, origins), []).append(name)
    said = sorted(found, key=lambda origin: (origin == LAUNCHER, origin == SCHEMA, origin))
    return ["where the #SBATCH lines come from:", *(f"  {origin}: {', '.join(found[origin])}" for origin in said)]


def _origin(name: str, origins: Mapping[str, str]) -> str:
    if (option := f"slurm.options.{name}") in origins:  # none that the launcher sets is legal there
        return origins[option]
    keys = {**{option: f"slurm.{key}" for option, key in OWN.items()}, "nodes": "nodes"}
    if name == "ntasks-per-node":
        ways = ("tasks_per_node", "slurm.gpus_per_node", "slurm.options.gres")
        return next((origins[key] for key in ways if key in origins), SCHEMA)
    return origins.get(keys[name], SCHEMA) if name in keys else LAUNCHER
