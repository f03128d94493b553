"""What a GPU makes of the suite: `python -m tests.bench.gpu [size=full] [minutes=15] [out=out/gpu]
[only=networks,engines,...]` writes OUT/gpu.json and OUT/gpu.md.

One GPU, 16 cores, 15 minutes. Everything is a ratio to a named peer in the same run: rows of a section take turns.

* networks: a hand-written loop on ResNeXt-50 at 112 and 224, in bf16 and fp32, channels first and last, eager and
  compiled, on synthetic images;
* engines: the suite's step with DeepSpeed's ZeRO 0 and 1 against that loop;
* ifl_step: a step with IFL against the baseline's;
* waits: how often the host waits for the device in a step, by the profiler's trace, and where in the code;
* feeding: each decoder, on the host and on the device, with RandAug, too, and the decoded cache against batches that
  lie on the device, and the device's idle share;
* features: images/s of data.features=once and of the builder's network;
* resume: whether runs are equal to the last bit, with torch's deterministic algorithms and without;
* nccl: the collectives on one rank.

Each section is a process of its own and has its share of the time that is left; what one leaves goes to the next. A
cell that has no memory, fails or finds no time is named in the table, and the others go on. `size=toy` is the same
program on a CPU in seconds, for the tests; its figures mean nothing.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.gpu.scale import SCALES, Scale
from tests.bench.words import some_of, values_of

SECTIONS = {
    "images": 40,
    "networks": 240,
    "engines": 230,
    "ifl_step": 55,
    "waits": 45,
    "feeding": 160,
    "features": 45,
    "resume": 70,
    "nccl": 15,
}
"""By name: its share of the time, in seconds of a quarter of an hour."""


def prepare(scale: Scale) -> None:
    """Set what must be set before torch is loaded, and refuse a machine that has not what the size needs."""
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    if not scale.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        import deepspeed  # noqa: F401 -- once for all sections, which are forks of this process
        import torch._dynamo  # noqa: F401 -- which torch's optimisers load

        import ifl.train  # noqa: F401

    elif not any(Path("/dev").glob("nvidia[0-9]*")) and not shutil.which("nvidia-smi"):
        raise SystemExit("no GPU is here: size=toy runs the same on a CPU, and its figures mean nothing")


def measured(names: list[str], scale: Scale, minutes: float, scratch: Path) -> dict[str, dict[str, Any]]:
    """Run the sections one after the other, and return their records by name."""
    from tests.bench.gpu.process import run

    ends, found = time.monotonic() + 60 * minutes, {}
    for place, name in enumerate(names):
        share = SECTIONS[name] / sum(SECTIONS[each] for each in names[place:])
        seconds = max(1.0, share * (ends - time.monotonic()))
        print(f"{name}: up to {seconds:.0f} s", flush=True)
        found[name] = run(name, scale, scratch, seconds)
        for gap in found[name]["left_out"]:
            print(f"  left out: {gap['what']} ({gap['why']})", flush=True)
    return found


def main(words: list[str]) -> None:
    """Measure, and write both files."""
    from tests.bench.gpu.table import markdown

    options = values_of(words, {"size": tuple(SCALES), "minutes": 15.0, "out": "out/gpu", "only": ""})
    scale, out = SCALES[options["size"]], Path(options["out"])
    only = some_of("only", options["only"], SECTIONS)
    names = [name for name in SECTIONS if name in {"images", *only}]
    prepare(scale)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    result: dict[str, Any] = {
        "command": " ".join(["python -m tests.bench.gpu", *words]),
        "size": scale.name,
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    with tempfile.TemporaryDirectory(prefix="glt-gpu-") as scratch:
        sections = measured(names, scale, options["minutes"], Path(scratch))
        for log in Path(scratch).glob("*.log"):
            (out / log.name).write_bytes(log.read_bytes())
    machines = [section.pop("machine") for section in sections.values()]
    result |= {
        "seconds": round(time.monotonic() - began, 1),
        "machine": next((machine for machine in machines if machine), {}),
        "sections": sections,
    }
    (out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "gpu.md").write_text(markdown(result))
    print(f"{out / 'gpu.md'} and {out / 'gpu.json'}, {result['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
