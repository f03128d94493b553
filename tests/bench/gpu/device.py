"""The device that is measured. All that exists on a GPU alone is called here and nowhere else in this folder.

On a CPU every call does the same in its own way, or nothing, so that the same program runs on both.
"""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

CLOCKS = "clocks.sm,clocks.max.sm,power.draw,temperature.gpu"
"""What nvidia-smi is asked for right after a section's steps."""
BLAS = ":4096:8"
"""cuBLAS gives the same bits every time with this workspace, which must be set before its first call."""


class Took(NamedTuple):
    """Seconds of some steps: by the host's clock between two waits, and by the device's own events."""

    host_s: float
    device_s: float


class Device:
    """A GPU, the first that is visible, or the CPU."""

    def __init__(self, gpu: bool) -> None:
        self.gpu = gpu
        self.torch = torch.device("cuda", 0) if gpu else torch.device("cpu")
        self.activity = torch.profiler.ProfilerActivity.CUDA if gpu else torch.profiler.ProfilerActivity.CPU

    # --------------------------------------------------------------------------------------------------------- clocks
    def wait(self) -> None:
        """Wait until everything that was asked of it is done."""
        if self.gpu:
            torch.cuda.synchronize()

    def timed(self, step: Callable[[], object], steps: int) -> Took:
        """Time `steps` calls, all that they asked of the device included."""
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self.gpu else []
        self.wait()
        began = time.perf_counter()
        for mark in marks[:1]:
            mark.record()
        for _ in range(steps):
            step()
        for mark in marks[1:]:
            mark.record()
        self.wait()
        host_s = time.perf_counter() - began
        return Took(host_s, marks[0].elapsed_time(marks[1]) / 1e3 if marks else host_s)

    # --------------------------------------------------------------------------------------------------------- memory
    def held(self) -> int:
        """Bytes of all tensors; 0 on a CPU."""
        return torch.cuda.memory_allocated() if self.gpu else 0

    def forget_peak(self) -> None:
        """Let `peak` begin anew."""
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Bytes of all tensors at their most; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() if self.gpu else 0

    def tidy(self) -> None:
        """Give back the memory of what nobody holds any more."""
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()

    # ------------------------------------------------------------------------------------------------------- switches
    @contextmanager
    def searching(self, on: bool) -> Iterator[None]:
        """Let cuDNN try its algorithms for each new shape, as a hand-tuned loop does; `on` False: torch's default."""
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = on
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before

    @contextmanager
    def repeatable(self, on: bool) -> Iterator[list[str]]:
        """Switch torch to algorithms that give the same bits every time, and list the operators that have none."""
        lacking: list[str] = []
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = BLAS
        cudnn = torch.backends.cudnn.deterministic
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.use_deterministic_algorithms(on, warn_only=True)
            torch.backends.cudnn.deterministic = on
            try:
                yield lacking
            finally:
                torch.use_deterministic_algorithms(False)
                torch.backends.cudnn.deterministic = cudnn
                texts = {str(one.message).splitlines()[0] for one in said}
                lacking += sorted(text for text in texts if "deterministic" in text)

    @contextmanager
    def told_of_waits(self) -> Iterator[Counter[str]]:
        """Count by `file:line` which calls wait for the device, as torch itself tells of them; empty on a CPU."""
        places: Counter[str] = Counter()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            if self.gpu:
                torch.cuda.set_sync_debug_mode("warn")
            try:
                yield places
            finally:
                if self.gpu:
                    torch.cuda.set_sync_debug_mode("default")
                for one in said:
                    if "called a synchronizing" in str(one.message):
                        places[f"{one.filename.partition('site-packages/')[2] or one.filename}:{one.lineno}"] += 1

    # ---------------------------------------------------------------------------------------------------------- facts
    def facts(self) -> dict[str, Any]:
        """What the figures belong to."""
        from importlib.metadata import version

        found = {
            "device": "cpu",
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "deepspeed": version("deepspeed"),
        }
        if self.gpu:
            properties = torch.cuda.get_device_properties(0)
            found |= {
                "device": properties.name,
                "memory_gb": round(properties.total_memory / 1e9, 1),
                "multiprocessors": properties.multi_processor_count,
                "gpus_visible": torch.cuda.device_count(),
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
                "nccl": ".".join(map(str, torch.cuda.nccl.version())),
                "driver": self._asked("driver_version"),
            }
        return found

    def clocks(self) -> str:
        """Clock, power, heat and what slows it down, as nvidia-smi says; empty where there is none."""
        return self._asked(CLOCKS) if self.gpu else ""

    def _asked(self, fields: str) -> str:
        try:
            uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
            words = ["nvidia-smi", f"--id={uuid}", f"--query-gpu={fields}", "--format=csv,noheader"]
            answer = subprocess.run(words, capture_output=True, text=True, timeout=20)
        except (OSError, AttributeError, RuntimeError, subprocess.TimeoutExpired) as error:
            return f"not known ({type(error).__name__})"
        return answer.stdout.strip() if answer.returncode == 0 else f"not known ({answer.stdout.strip()[:80]})"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had no room."""
    return isinstance(error, torch.OutOfMemoryError)
