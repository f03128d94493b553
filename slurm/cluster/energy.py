"""What a job used of energy, as SLURM's accounting says it, kept as text in the run folder: `log/energy.jsonl`.

SLURM has it where a plug-in measures it (AcctGatherEnergyType) and an accounting database keeps it. Elsewhere nothing
is noted. Analysis reads the text. Not run on a cluster that measures: only with an `sacct` that tests stand in for.
"""

import json
import re
import subprocess
from pathlib import Path

from slurm import environment

ENERGY_FILE = "energy.jsonl"
FIELDS = "JobIDRaw,ConsumedEnergyRaw"
ANSWER_S = 20
_MEASURED = re.compile(r"\|0*[1-9]\d*\s*$", re.MULTILINE)


def note_energy(folder: Path, job: str) -> bool:
    """Ask SLURM's accounting for the energy of a job's steps, those before a requeue included, and note what it says.

    Returns:
        Whether anything was noted: not where there is no accounting, it does not answer, or nothing was measured.
    """
    words = ["sacct", "--noheader", "--parsable2", "--duplicates", "-j", job, f"--format={FIELDS}"]
    try:
        asked = environment.ask(words, ANSWER_S)
        if asked.returncode or not _MEASURED.search(asked.stdout):
            return False
        line = json.dumps({"by": "sacct", "job": job, "text": asked.stdout.strip()})
        with open(folder / "log" / ENERGY_FILE, "a") as file:
            file.write(f"{line}\n")
    except (OSError, subprocess.TimeoutExpired):
        return False
    return True
