"""Real gloo processes for the tests, started once and asked many times.

`started(4)` gives a group of 4 fresh interpreters joined by the five plain variables; `.run(function, ...)` calls a
function of a test module in all of them and returns each rank's result. Inside, `comm_of(2)` is a `Comm` of ranks 0
and 1, so that one started group serves checks on 1, 2, 3 and 4 ranks. A call that takes too long ends the group, and
the error shows where every rank stood.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

from tests.helpers.paths import PROJECT

BOOT_S = 120.0


class RankFailure(AssertionError):
    """A rank raised, died or hung; the message has its traceback or the end of its output."""


class Ranks:
    """`size` processes that wait for calls."""

    def __init__(self, size: int) -> None:
        self.size, self.alive = size, True
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._processes, self._calls, self._answers, self._logs = [], [], [], []
        for rank in range(size):
            asked, ask = os.pipe()
            answer, answered = os.pipe()
            log = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the rank)
            five = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": size,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            environment = {
                **os.environ,
                **{key: str(value) for key, value in five.items()},
                "OMP_NUM_THREADS": "1",
                "DS_ACCELERATOR": "cpu",
                "CUDA_VISIBLE_DEVICES": "",
                "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]),
            }
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", __name__, str(asked), str(answered)],
                    cwd=PROJECT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(asked, answered),
                )
            )
            os.close(asked)
            os.close(answered)
            self._calls.append(os.fdopen(ask, "wb"))
            self._answers.append(os.fdopen(answer, "rb"))
            self._logs.append(log)
        self._collect(BOOT_S, "the start")

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 120.0, **kwargs: Any) -> list[Any]:
        """Each rank's `function(*args, **kwargs)`; the function is found by its name in its module.

        Raises:
            RankFailure: a rank raised (the group lives on if all ranks answered), died or took longer than `timeout`.
        """
        assert self.alive, "this group of ranks has ended"
        call = pickle.dumps((function.__module__, function.__qualname__, args, kwargs, timeout))
        for pipe in self._calls:
            with contextlib.suppress(BrokenPipeError):
                _send(pipe, call)
        return self._collect(timeout + 5, f"{function.__module__}.{function.__qualname__}")

    def close(self) -> None:
        self.alive = False
        for process in self._processes:
            process.kill()
            process.wait()
        for file in (*self._calls, *self._answers, *self._logs):
            with contextlib.suppress(BrokenPipeError):
                file.close()

    def _collect(self, timeout: float, what: str) -> list[Any]:
        """One answer of every rank; all that failed are told together, the group ends unless all have answered."""
        deadline, answers = time.monotonic() + timeout, {}
        grace = None  # a rank that raised leaves others in a collective: they get 5 s to answer
        while len(answers) < self.size:
            waiting = {self._answers[r].fileno(): r for r in range(self.size) if r not in answers}
            limit = min(deadline, grace or deadline) - time.monotonic()
            ready = select.select(list(waiting), [], [], max(0.0, limit))[0]
            if not ready:
                break
            for fd in ready:
                rank = waiting[fd]
                answers[rank] = _receive(self._answers[rank])
                if answers[rank] is None or not answers[rank][0]:
                    grace = grace or time.monotonic() + 5
        complaints = []
        for rank in range(self.size):
            if rank not in answers:
                complaints.append(
                    f"rank {rank} gave no answer within {timeout:.0f} s; it stood at\n{self._where(rank)}"
                )
            elif answers[rank] is None:
                complaints.append(f"rank {rank} died with code {self._processes[rank].wait()}\n{self._tail(rank)}")
            elif not answers[rank][0]:
                complaints.append(f"rank {rank} raised\n{answers[rank][1]}")
        if complaints:
            if not all(answers.get(rank) for rank in range(self.size)):
                self.close()
            raise RankFailure(f"{what} on {self.size} ranks:\n" + "\n".join(complaints))
        return [answers[rank][1] for rank in range(self.size)]

    def _where(self, rank: int) -> str:
        """The stacks of a rank that hangs."""
        with contextlib.suppress(ProcessLookupError):
            self._processes[rank].send_signal(signal.SIGABRT)  # faulthandler prints the stacks
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._processes[rank].wait(5)
        return self._tail(rank)

    def _tail(self, rank: int) -> str:
        self._logs[rank].seek(0)
        return self._logs[rank].read().decode(errors="replace")[-4000:]


@functools.cache
def _kept(size: int) -> list[Ranks]:
    return []


def started(size: int) -> Ranks:
    """The group of `size` ranks of this test session; a new one if the last has ended."""
    kept = _kept(size)
    if not kept or not kept[-1].alive:
        kept.append(Ranks(size))
        atexit.register(kept[-1].close)
    return kept[-1]


# -------------------------------------------------------------------------------------------------- inside a process
@functools.cache
def comms() -> dict[int, Any]:
    """`Comm`s of the first 1, 2, ... ranks; None where this rank is not among them. A collective when first called."""
    import torch.distributed as dist

    from ifl.distributed.comm import Comm

    world = dist.get_world_size()
    groups = {size: dist.new_group(list(range(size))) for size in range(1, world + 1)}
    return {size: Comm(group) if dist.get_rank() < size else None for size, group in groups.items()}


def comm_of(size: int) -> Any:
    return comms()[size]


def my_rank() -> int:
    return int(os.environ["RANK"])


def _send(pipe: BinaryIO, data: bytes) -> None:
    pipe.write(struct.pack("<Q", len(data)) + data)
    pipe.flush()


def _receive(pipe: BinaryIO) -> Any:
    """The next value, or None where the other side is gone."""
    head = pipe.read(8)
    data = pipe.read(struct.unpack("<Q", head)[0]) if len(head) == 8 else b""
    return pickle.loads(data) if data else None


def _serve(asked: int, answered: int) -> None:
    faulthandler.enable()
    calls, answers = os.fdopen(asked, "rb"), os.fdopen(answered, "wb")
    sys.modules["tests.helpers.ranks"] = sys.modules["__main__"]  # one module, whatever its name
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    _send(answers, pickle.dumps((True, None)))
    while (call := _receive(calls)) is not None:
        module, name, args, kwargs, timeout = call
        faulthandler.dump_traceback_later(timeout, exit=False)
        try:
            function = functools.reduce(getattr, name.split("."), importlib.import_module(module))
            answer = (True, function(*args, **kwargs))
        except BaseException:
            answer = (False, traceback.format_exc())
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.flush()
        _send(answers, pickle.dumps(answer))
    os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
