"""A section in its own process, so that neither memory nor compiled code of one is in the next one's way."""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from sharding.loader_workers import end_with_parent
from tests.bench.gpu.bench import Bench
from tests.bench.gpu.scale import Scale

GRACE_S = 20.0
"""A section that does not end by itself so long after its time is ended."""


def serve(name: str, scale: Scale, scratch: Path, out: Path, seconds: float) -> None:
    """In the process: run a section, what it and its children print going to a log beside its findings."""
    end_with_parent()
    os.setsid()  # its loader workers end with it
    log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    bench = Bench(scale, scratch, out, time.monotonic() + seconds)
    try:
        bench.say("machine", **bench.device.facts())
        importlib.import_module(f"tests.bench.gpu.{name}").section(bench)
        bench.say("end")
    except BaseException as error:
        traceback.print_exc()
        said = next(iter(str(error).strip().splitlines()), "")
        bench.say("failed", why=f"{type(error).__name__}: {said[:300]}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # whatever threads and workers are left end here


def run(name: str, scale: Scale, scratch: Path, seconds: float) -> dict[str, Any]:
    """Run a section for at most so many seconds, and return its record."""
    out = scratch / f"{name}.jsonl"
    # A fork has all that is imported already; a CUDA context does not survive one.
    context = multiprocessing.get_context("spawn" if scale.gpu else "fork")
    process = context.Process(target=serve, args=(name, scale, scratch, out, seconds))
    began = time.monotonic()
    process.start()
    process.join(seconds + GRACE_S)
    late = process.is_alive()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # also workers that a fallen section left
    process.kill()
    process.join()
    return recorded(out, time.monotonic() - began, late, process.exitcode)


def recorded(out: Path, seconds: float, late: bool, code: int | None) -> dict[str, Any]:
    """Put a section's lines together.

    Args:
        out: its file of lines; the last may be cut short.
        seconds: that it took.
        late: whether it had to be ended.
        code: its process's exit code, negative: its signal.
    """
    lines = []
    for line in out.read_text().splitlines() if out.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))

    def of(kind: str) -> list[dict[str, Any]]:
        return [{key: value for key, value in line.items() if key != "kind"} for line in lines if line["kind"] == kind]

    left_out, end = of("left out"), of("end")
    if late:
        left_out.append({"what": "the rest of the section", "why": f"it had not ended after {seconds:.0f} s"})
    elif failed := of("failed"):
        left_out.append({"what": "the rest of the section", "why": failed[0]["why"]})
    elif not end:
        left_out.append({"what": "the rest of the section", "why": f"its process ended with code {code}"})
    return {
        "seconds": round(seconds, 1),
        "machine": next(iter(of("machine")), {}),
        "rows": of("row"),
        "ratios": of("ratio"),
        "notes": [note["text"] for note in of("note")],
        "left_out": left_out,
    }
