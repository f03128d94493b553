"""How long a rank takes to its first step: `python -m tests.bench.boot [n=5] [data=ROOT] [other=CHECKOUT]`.

One rank of `recipe=glt_ifl` on the whole of digits_glt (built first unless `data` names it), started as a local run
starts it, in turns: as it is; with torch's compiler imported, as torch's optimisers would have it; and from the code of
another checkout, if one is named. The seconds from the process's begin to its first step, by the rank's own `boot`
line, and the CPU time of the whole short run; median (min to max), and the ratio of the medians. Two floors beside
them: a process that imports torch alone, and torch and DeepSpeed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from recipes.resolve import resolve
from slurm.run_folder import prepare
from tests.bench.words import values_of
from tests.helpers.digits import digits
from tests.helpers.paths import PROJECT

RANK = "import sys; from slurm.job import TrainJob; TrainJob(sys.argv[1])()"
COMPILER = "import sys, torch._dynamo; from slurm.job import TrainJob; TrainJob(sys.argv[1])()"
FLOORS = {
    "floor: import torch": "import torch",
    "floor: import torch, deepspeed": "import torch, deepspeed",
    "floor: import torch, deepspeed and what compiles": "import torch, deepspeed, torch._dynamo",
}
WORDS = ("recipe=glt_ifl", "data=digits_glt", "cluster=local", "schedule.epochs=1", "data.workers=0")
SHORT = ("ifl.milestones=[0]", "ifl.alpha=[0.001]", "batch.draws_per_epoch=0.02")


def ran(program: str, checkout: Path, *arguments: str) -> tuple[float, float]:
    """Seconds on the wall and of the CPU that a process takes, which is run in a checkout."""
    began, before = time.monotonic(), os.times()
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=checkout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _, said = process.communicate()
    seconds, after = time.monotonic() - began, os.times()
    assert process.returncode == 0, said.decode()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, cpu


def started(program: str, checkout: Path, root: Path, place: Path) -> tuple[float, float]:
    """Seconds of a rank to its first step, and of the CPU to the end of its short run."""
    recipe = resolve([*WORDS, *SHORT, f"data.root={root}", f"runs={place}"])
    prepare(recipe, recipe.run_folder)
    _, cpu = ran(program, checkout, str(recipe.run_folder))
    lines = map(json.loads, (recipe.run_folder / "metrics.jsonl").read_text().splitlines())
    boot = next(line for line in lines if line["kind"] == "boot")
    return boot["parts"]["import"] + boot["seconds"], cpu


def main(words: list[str]) -> None:
    values = values_of(words, {"n": 5, "data": "", "other": ""})
    kinds = {"a rank": (RANK, PROJECT), "a rank that imports torch's compiler": (COMPILER, PROJECT)}
    if values["other"]:
        kinds["a rank of the other checkout"] = RANK, Path(values["other"]).resolve()
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(values["data"]).resolve() if values["data"] else digits(Path(folder) / "data")
        for number in range(values["n"] + 1):
            for name, (program, checkout) in kinds.items():
                found[name].append(started(program, checkout, root, Path(folder) / f"{number}-{name}"))
            for name, program in FLOORS.items():
                found[name].append(ran(program, PROJECT))
    print(f"n = {values['n']}\n\n| | s to the first step (floors: to the end) | CPU s | x a rank: wall (CPU) |")
    print("|---|---|---|---|")
    base = [median(column) for column in zip(*found["a rank"][1:], strict=True)]
    for name, rows in found.items():
        wall, cpu = zip(*rows[1:], strict=True)  # the first of each fills the caches of files
        print(
            f"| {name} | {median(wall):.2f} ({min(wall):.2f} to {max(wall):.2f}) "
            f"| {median(cpu):.2f} ({min(cpu):.2f} to {max(cpu):.2f}) "
            f"| {median(wall) / base[0]:.2f} ({median(cpu) / base[1]:.2f}) |"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
