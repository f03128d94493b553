"""The loader beside what people would use instead: same files, same crops, two workers, in turns.

    python -m tests.bench.loader.run [FOLDER] [rounds=5] [only=224,112,short256,randaug,pixels,draws,access,memory]

FOLDER (default /tmp/glt-bench) gets the images, each peer's own form of them, and is used again. Every figure is an epoch of 2,000 images after one to
warm up, in a process of its own; a table's rows take turns, and a row's figure is the median of its rounds. Only ratios inside one table count. About 25
minutes on two cores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from tests.bench.loader import data, details
from tests.bench.loader.environments import PROJECT, install, python_of
from tests.bench.loader.pipelines import BATCH, MAKERS, PREPARE, WORKERS

TABLES: dict[str, tuple[str, int, list[str]]] = {
    "224": ("full", 224, [name for name in MAKERS if "RandAug" not in name and name != "ffcv, raw"]),
    "112": ("full", 112, ["floor: TurboJPEG's region decode, 1 process", "ours, turbojpeg", "ours, simplejpeg", "ours, cache 160", "webdataset + Pillow", "ImageFolder + DataLoader"]),
    "short256": ("short256", 224, ["ours, turbojpeg", "ours, simplejpeg", "ours, cache full", "webdataset + Pillow", "ImageFolder + DataLoader", "ffcv, jpg", "ffcv, raw"]),
    "randaug": ("full", 224, [name for name in MAKERS if "RandAug" in name]),
}
"""By name: which images, the crop's side, and the rows."""
PEERS = ("webdataset + Pillow", "ImageFolder + DataLoader", "webdataset + Pillow + RandAugment, float32")
DETAILS = {"pixels": details.pixels, "draws": details.draws, "access": details.access, "memory": details.memory}


def run(name: str, folder: Path, size: int) -> dict[str, float] | str:
    """A pipeline's figures, or why there are none."""
    words = [str(python_of(MAKERS[name][0])), "-m", "tests.bench.loader.pipelines", name, str(folder), str(size)]
    done = subprocess.run(words, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no word"])[-1]


def ready(root: Path) -> dict[str, str]:
    """The images and the peers' forms of them; by peer, why it cannot take part."""
    data.make(root, 2000)
    reasons = {}
    for peer in sorted({peer for peer, _ in MAKERS.values() if peer}):
        if reason := install(peer):
            reasons[peer] = reason
            continue
        for kind in ("full", "short256"):
            words = [str(python_of(peer)), "-m", "tests.bench.loader.pipelines", peer, str(root / kind), "prepare"]
            done = subprocess.run(words, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True)
            if done.returncode:
                reasons[peer] = done.stderr.strip().splitlines()[-1]
    return reasons


def table(root: Path, name: str, rounds: int, reasons: dict[str, str]) -> None:
    kind, size, rows = TABLES[name]
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for row in rows:
            if (peer := MAKERS[row][0]) in reasons:
                continue
            figures = run(row, root / kind, size)
            if isinstance(figures, str):
                reasons[row] = figures
            else:
                found.setdefault(row, []).append(figures)
    rate = {row: statistics.median(each["images_s"] for each in figures) for row, figures in found.items()}
    peers = [peer for peer in PEERS if peer in rate]
    print(f"\n**{name}**: {kind} images, crops of {size}, batches of {BATCH}, {WORKERS} workers, n = {rounds}\n")
    print("| loader | images/s, median | min to max | core-ms an image |" + "".join(f" x {peer} |" for peer in peers))
    print("|---|---|---|---|" + "---|" * len(peers))
    for row, figures in found.items():
        rates = [each["images_s"] for each in figures]
        print(f"| {row} | {rate[row]:,.0f} | {min(rates):,.0f} to {max(rates):,.0f} | {statistics.median(each['core_ms'] for each in figures):.2f} |" + "".join(f" {rate[row] / rate[peer]:.2f} |" for peer in peers))
    for row in rows:
        if row not in found:
            print(f"\n{row}: {reasons.get(row) or reasons.get(MAKERS[row][0])}")
    sys.stdout.flush()


def main(words: list[str]) -> None:
    values = dict(word.split("=", 1) for word in words if "=" in word)
    root = Path(next((word for word in words if "=" not in word), "/tmp/glt-bench"))
    rounds = int(values.get("rounds", 5))
    wanted = values["only"].split(",") if "only" in values else [*TABLES, *DETAILS]
    reasons = ready(root)
    for name in wanted:
        if name in TABLES:
            table(root, name, rounds, reasons)
        else:
            DETAILS[name](root, rounds)


if __name__ == "__main__":
    main(sys.argv[1:])
