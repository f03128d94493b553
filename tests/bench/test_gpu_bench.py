"""The GPU's bench, at toy size on the CPU: the whole program runs, its page says what its JSON says, and its parts
measure what they name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bench.gpu.__main__ import SECTIONS
from tests.bench.gpu.bench import Bench, Cell, Peer
from tests.bench.gpu.process import recorded
from tests.bench.gpu.scale import TOY
from tests.bench.gpu.table import markdown
from tests.bench.gpu.trace import Trace
from tests.helpers.paths import PROJECT

NOT_HERE = re.compile(r"data\.decoder=\w+")
"""All that may be left out on a CPU: decoders that are not installed."""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What the whole program writes at toy size: the JSON, and the page."""
    out = tmp_path_factory.mktemp("gpu")
    words = [sys.executable, "-m", "tests.bench.gpu", "size=toy", f"out={out}"]
    ended = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=400)
    logs = "".join(path.read_text() for path in out.glob("*.log"))
    assert ended.returncode == 0, ended.stdout + ended.stderr + logs
    return json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


def test_every_section_measures(result: tuple[dict[str, Any], str]) -> None:
    """At toy size every section has rows with n rounds, what is against a peer has ratios, and nothing fails."""
    found, _ = result
    assert list(found["sections"]) == list(SECTIONS) and found["machine"]["device"] == "cpu"
    for name, section in found["sections"].items():
        assert section["rows"], name
        assert {gap["what"] for gap in section["left_out"] if not NOT_HERE.fullmatch(gap["what"])} == set(), name
        for row in (*section["rows"], *section["ratios"]):
            assert len(row["values"]) == row["n"] and row["min"] <= row["median"] <= row["max"]
    for name in ("networks", "engines", "ifl_step", "feeding"):
        assert found["sections"][name]["ratios"], name
        assert all(row["n"] == TOY.rounds for row in found["sections"][name]["ratios"])
    assert [row["median"] for row in found["sections"]["resume"]["rows"]] == [0, 0]


def test_the_page_has_the_numbers_of_the_json(result: tuple[dict[str, Any], str]) -> None:
    """Every row of every table is an entry of the JSON, in its order, with its numbers to three digits, and none is
    missing."""
    found, page = result
    for name, section in found["sections"].items():
        text = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
        rows = [row for row in rows if row[0] != "what"]
        entries = [*section["rows"], *section["ratios"]]
        assert len(rows) == len(entries)
        for row, entry in zip(rows, entries, strict=True):
            assert row[0] == entry["what"]
            first = 2 if "against" in entry else 1
            assert first == 1 or row[1] == entry["against"]
            for cell, key in zip(row[first : first + 4], ("median", "min", "max", "n"), strict=True):
                assert float(cell.replace(",", "")) == pytest.approx(entry[key], rel=0.006), (row, key)
        for gap in section["left_out"]:
            assert f"- Left out: {gap['what']} ({gap['why']})" in text


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(TOY, tmp_path, tmp_path / "one.jsonl", time.monotonic() + 100)


def findings(tmp_path: Path) -> dict[str, Any]:
    return recorded(tmp_path / "one.jsonl", 1.0, False, 0)


def test_a_cell_without_memory_or_time_leaves_the_others_alone(bench: Bench, tmp_path: Path) -> None:
    """A cell that runs out of memory, when it is built or in a later round, fails, or needs more time than is left, is
    named with its reason; the others are measured, and a ratio to it is made of the rounds that it had."""
    steps = []

    def no_room() -> Callable[[], object]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    def soon_no_room() -> None:
        steps.append(1)
        if len(steps) > TOY.warm + 2:  # of the first round one does not count
            no_room()

    cells = [
        Cell("full at once", no_room, 1),
        Cell("full later", lambda: soon_no_room, 1),
        Cell("fails", lambda: 1 / 0, 1),
        Cell("too long", lambda: lambda: None, 1, needs_s=1000.0),
        Cell("well", lambda: lambda: None, 1, (Peer("full later"), Peer("full at once"))),
    ]
    bench.measure(cells)
    found = findings(tmp_path)
    assert {row["what"]: row["n"] for row in found["rows"]} == {"full later": 1, "well": TOY.rounds}
    assert [(ratio["against"], ratio["n"]) for ratio in found["ratios"]] == [("full later", 1)]
    reasons = {gap["what"]: gap["why"] for gap in found["left_out"]}
    assert reasons["full at once"] == reasons["full later"] == "out of memory"
    assert "ZeroDivisionError" in reasons["fails"] and "no time left" in reasons["too long"]


def test_a_cell_that_builds_for_ever_is_stopped(tmp_path: Path) -> None:
    """What is not built while there is time is named; what was built before is measured."""
    bench = Bench(TOY, tmp_path, tmp_path / "one.jsonl", time.monotonic() + 0.5)

    def for_ever() -> Callable[[], object]:
        while True:
            sum(range(1000))

    bench.measure([Cell("well", lambda: lambda: None, 1), Cell("for ever", for_ever, 1)])
    found = findings(tmp_path)
    assert [row["what"] for row in found["rows"]] == ["well"]
    assert "OutOfTime" in found["left_out"][0]["why"]


def test_a_section_that_is_ended_keeps_what_it_had(bench: Bench, tmp_path: Path) -> None:
    """Of a section that was killed, in the midst of a line too, all whole lines are in the record, and the page says
    that the rest is missing."""
    bench.row("known", "s", [2.0, 1.0])
    with open(tmp_path / "one.jsonl", "a") as file:
        file.write('{"kind": "row", "what": "half')
    found = recorded(tmp_path / "one.jsonl", 9.0, True, -9)
    assert [row["median"] for row in found["rows"]] == [1.5]
    about = {"machine": {}, "size": "toy", "command": "", "began": "", "seconds": 9.0}
    assert "the rest of the section (it had not ended after 9 s)" in markdown({**about, "sections": {"one": found}})
    assert "ended with code -9" in recorded(tmp_path / "none.jsonl", 9.0, False, -9)["left_out"][0]["why"]


def event(cat: str, name: str, ts: float, dur: float) -> dict[str, Any]:
    return {"cat": cat, "name": name, "ts": ts, "dur": dur}


def test_a_trace_of_a_gpu_is_read_right() -> None:
    """Of a GPU's trace the busy time is the union of kernels and copies, on all streams, and of the host's calls those
    that wait are counted; operators and annotations are neither."""
    events = [
        event("kernel", "conv", 100, 50),
        event("kernel", "reduction, on another stream", 120, 50),  # 100 to 170
        event("gpu_memcpy", "DtoH", 300, 10),
        event("gpu_memset", "zeros", 305, 3),  # inside of the copy
        event("cpu_op", "aten::conv2d", 0, 1000),
        event("user_annotation", "step", 0, 1000),
        event("cuda_runtime", "cudaLaunchKernel", 90, 5),
        event("cuda_runtime", "cudaStreamSynchronize", 170, 100),
        event("cuda_driver", "cuStreamSynchronize", 400, 100),
        event("cuda_runtime", "cudaDeviceSynchronize", 900, 100),
        event("cuda_runtime", "cudaMalloc", 910, 10),
    ]
    trace = Trace(events, wall_s=1000e-6, steps=1)
    assert trace.idle == pytest.approx(1 - 80 / 1000)
    assert trace.waits == {"cudaStreamSynchronize": 1, "cuStreamSynchronize": 1}
    assert trace.allocations == {"cudaMalloc": 1}


def test_without_a_gpu_the_whole_size_says_so() -> None:
    """Where no GPU is, `size=full` ends with a sentence that names what runs there."""
    if any(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi"):
        pytest.skip("a GPU is here")
    words = [sys.executable, "-m", "tests.bench.gpu", f"out={os.devnull}"]
    ended = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert ended.returncode and "size=toy" in ended.stderr and "Traceback" not in ended.stderr
