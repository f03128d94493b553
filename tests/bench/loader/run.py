"""The loader beside what people would use instead: same files, same crops, two workers, in turns.

    python -m tests.bench.loader.run [data=out/bench-loader] [images=2000] [rounds=5]
    [only=224,112,short256,randaug,randaug224,pixels,policy,access,memory,small] [rows='ours, turbojpeg|DALI on CPUs']

`data` gets the images and each peer's own form of them, and is used again. `rows` leaves a table these rows alone.
Each loader is a process of its own that warms up with an epoch; then they take turns, an epoch of `images` at a time,
and a row's figure is the median of its rounds. Only ratios inside one table count: by images/s, and in brackets by the
cores' time for an image, which other work on the machine hardly moves. About 20 minutes on two cores.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.loader import access, data, memory, pixels, randaug, small
from tests.bench.loader.environments import PROJECT, install, python_of, reason_of
from tests.bench.loader.pipelines import BATCH, MAKERS, WORKERS
from tests.bench.words import some_of, values_of

PEERS = ("webdataset + Pillow", "ImageFolder + DataLoader", "webdataset + Pillow + RandAugment, float32")
FLOORS = tuple(name for name in MAKERS if "alone" in name or "floor" in name)
USUAL = ("webdataset + Pillow", "ImageFolder + DataLoader")
RANDAUG = tuple(name for name in MAKERS if "RandAug" in name)
TABLES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "224": ("full", 224, tuple(name for name in MAKERS if name not in RANDAUG)),
    "112": ("full", 112, ("ours, turbojpeg", "ours, simplejpeg", "ours, cache full", "ours, cache 160", *USUAL)),
    "short256": (
        "short256",
        224,
        (
            *FLOORS,
            "ours, turbojpeg",
            "ours, simplejpeg",
            "ours, pillow",
            "ours, cache full",
            *USUAL,
            "mosaicml-streaming",
            "litdata",
            "ffcv, jpg",
            "ffcv, raw 256",
        ),
    ),
    "randaug": ("full", 112, RANDAUG),
    "randaug224": ("full", 224, RANDAUG),
}
"""By name: the set, the crop's side, and the rows."""
SECTIONS = {
    "pixels": pixels.section,
    "policy": randaug.section,
    "access": access.section,
    "memory": memory.section,
    "small": small.section,
}


class Loader:
    """A pipeline in its process, warmed up. `reason` says why there is none."""

    def __init__(self, name: str, folder: Path, size: int) -> None:
        words = [str(python_of(MAKERS[name][0])), "-m", "tests.bench.loader.pipelines", name, str(folder), str(size)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- lives as long as the process
        self._process = subprocess.Popen(
            words,
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.figures: list[dict[str, float]] = []
        self.reason = ""
        shape, dtype = self._heard() or (None, None)
        wanted = [[BATCH, 3, size, size], "torch.float32" if "float32" in name else "torch.uint8"]
        if not self.reason and shape is not None and [shape, dtype] != wanted:
            self.reason = f"its batches are {dtype} {shape}, not {wanted[1]} {wanted[0]}"

    def time(self) -> None:
        """One more epoch into `figures`."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        if figures := self._heard():
            self.figures.append(figures)

    def close(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _heard(self) -> Any:
        if line := self._process.stdout.readline():
            return json.loads(line)
        self._errors.seek(0)
        self.reason = reason_of(self._errors.read())
        return None

    def median(self, name: str) -> float:
        return statistics.median(each[name] for each in self.figures)


def ready(root: Path, images: int, wanted: set[str]) -> dict[str, str]:
    """The images and the wanted peers' forms of them; by peer, why it cannot take part."""
    data.make(root, images)
    reasons = {}
    for peer in sorted(wanted):
        if not (reason := install(peer)):
            words = [str(python_of(peer)), "-m", "tests.bench.loader.pipelines", peer, str(root), "prepare"]
            done = subprocess.run(
                words, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True
            )
            reason = reason_of(done.stderr) if done.returncode else ""
        if reason:
            reasons[peer] = reason
    return reasons


def table(root: Path, name: str, rows: tuple[str, ...], rounds: int, reasons: dict[str, str]) -> None:
    kind, size, _ = TABLES[name]
    loaders = {row: Loader(row, root / kind, size) for row in rows if MAKERS[row][0] not in reasons}
    for number in range(rounds):
        # Each round in an order of its own: other work on the machine comes and goes, and would hit the same neighbours
        # each time.
        for loader in random.Random(number).sample(list(loaders.values()), len(loaders)):
            if not loader.reason:
                loader.time()
    for loader in loaders.values():
        loader.close()
    there = {row: loader for row, loader in loaders.items() if not loader.reason}
    peers = [peer for peer in PEERS if peer in there]
    print(f"\n**{name}**: {kind} images, crops of {size}, batches of {BATCH}, {WORKERS} workers, n = {rounds}\n")
    print("| loader | images/s, median | min to max | core-ms an image |" + "".join(f" x {peer} |" for peer in peers))
    print("|---|---|---|---|" + "---|" * len(peers))
    for row, loader in there.items():
        rates = [each["images_s"] for each in loader.figures]
        rate, work = loader.median("images_s"), loader.median("core_ms")
        ratios = "".join(
            f" {rate / there[peer].median('images_s'):.2f} ({there[peer].median('core_ms') / work:.2f}) |"
            for peer in peers
        )
        print(f"| {row} | {rate:,.0f} | {min(rates):,.0f} to {max(rates):,.0f} | {work:.2f} |{ratios}")
    for row in rows:
        if row not in there:
            print(f"\n{row}: not measured, {reasons.get(MAKERS[row][0]) or loaders[row].reason}")
    sys.stdout.flush()


def main(words: list[str]) -> None:
    usual = {"data": "out/bench-loader", "images": data.IMAGES, "rounds": 5, "only": "", "rows": ""}
    values = values_of(words, usual)
    alone = some_of("rows", values["rows"], MAKERS, between="|")
    wanted = some_of("only", values["only"], [*TABLES, *SECTIONS])
    tables = {name: tuple(row for row in TABLES[name][2] if row in alone) for name in wanted if name in TABLES}
    root, rounds = (PROJECT / values["data"]).resolve(), values["rounds"]
    reasons = ready(root, values["images"], {MAKERS[row][0] for rows in tables.values() for row in rows} - {""})
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "torchvision", "pillow", "pylibjxl", "simplejpeg", "webdataset")
    )
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    for name in wanted:
        if name in TABLES:
            table(root, name, tables[name], rounds, reasons)
        else:
            SECTIONS[name](root, rounds)


if __name__ == "__main__":
    main(sys.argv[1:])
