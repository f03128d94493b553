"""Real gloo processes for the tests, started once and asked many times.

`started(4)` gives a group of 4 processes joined by the five plain variables, forked from one that has done the imports;
`.run(function, ...)` calls a function of a test module in all of them and returns each rank's result. Inside,
`comm_of(2)` is a `Comm` of ranks 0 and 1, so that one started group serves checks on 1, 2, 3 and 4 ranks. A call that
takes too long ends the group, and the error shows where every rank was.
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
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from tests.helpers.paths import PROJECT

BOOT_S = 120.0


class RankFailure(AssertionError):
    """A rank raised, died or hung; the message has its traceback or the end of its output."""


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": path,
    }


class _Nursery:
    """A process that has imported what ranks need, and forks them.

    Importing torch and DeepSpeed takes seconds of a core, a fork takes almost nothing. It answers requests over a
    socket, one at a time.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._answers, self._asking = self._socket.makefile("rb"), threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            cwd=PROJECT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # Ctrl-C on the terminal is for the tests; all here ends with them
        )
        theirs.close()

    def fork(self, variables: dict[str, str], *files: int) -> _Process:
        """Fork a rank with these environment variables added; `files`: what it reads, writes and logs to."""
        return _Process(self.ask("fork", {**_environment(), **variables}, files=files))

    def ask(self, *request: Any, files: Sequence[int] = ()) -> Any:
        data = pickle.dumps(request)
        with self._asking:  # a bench runs two groups, each from a thread
            socket.send_fds(self._socket, [struct.pack("<Q", len(data))], files)
            self._socket.sendall(data)
            return _receive(self._answers)


class _Process:
    """A forked rank with the used part of `subprocess.Popen`. The nursery is its parent and knows how it ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def send_signal(self, sign: signal.Signals) -> None:
        os.kill(self.pid, sign)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = 60) -> int | None:
        """Return its exit code once it has ended (negative: a signal); None if not within `timeout` seconds."""
        return _nursery().ask("wait", self.pid, timeout)


@functools.cache
def _nursery() -> _Nursery:
    return _Nursery()


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
            self._processes.append(
                _nursery().fork({key: str(value) for key, value in five.items()}, asked, answered, log.fileno())
            )
            os.close(asked)
            os.close(answered)
            self._calls.append(os.fdopen(ask, "wb"))
            self._answers.append(os.fdopen(answer, "rb"))
            self._logs.append(log)
        self._collect(BOOT_S, "the start")

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 120.0, **kwargs: Any) -> list[Any]:
        """Call `function(*args, **kwargs)` in each rank, which finds it by its name in its module; return the results.

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
        """Return one answer of every rank; report all failures together, and end the group unless all answered."""
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
                complaints.append(f"rank {rank} gave no answer within {timeout:.0f} s; it was at\n{self._where(rank)}")
            elif answers[rank] is None:
                complaints.append(f"rank {rank} died with code {self._processes[rank].wait()}\n{self.said(rank)}")
            elif not answers[rank][0]:
                complaints.append(f"rank {rank} raised\n{answers[rank][1]}")
        if complaints:
            if not all(answers.get(rank) for rank in range(self.size)):
                self.close()
            raise RankFailure(f"{what} on {self.size} ranks:\n" + "\n".join(complaints))
        return [answers[rank][1] for rank in range(self.size)]

    def _where(self, rank: int) -> str:
        """Return the stacks of a rank that hangs."""
        with contextlib.suppress(ProcessLookupError):
            self._processes[rank].send_signal(signal.SIGABRT)  # faulthandler prints the stacks
            self._processes[rank].wait(5)
        return self.said(rank)

    def said(self, rank: int) -> str:
        """Return the end of a rank's output."""
        self._logs[rank].seek(0)
        return self._logs[rank].read().decode(errors="replace")[-4000:]


@functools.cache
def _kept(size: int) -> list[Ranks]:
    return []


def started(size: int) -> Ranks:
    """Return the group of `size` ranks of this test session; start a new one if the last has ended."""
    kept = _kept(size)
    if not kept or not kept[-1].alive:
        kept.append(Ranks(size))
        atexit.register(kept[-1].close)
    return kept[-1]


# -------------------------------------------------------------------------------------------------- inside a process
@functools.cache
def comms() -> dict[int, Any]:
    """Return `Comm`s of the first 1, 2, ... ranks, None for those without this rank. At first a collective."""
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
    """Return the next value, or None if the other side is gone."""
    head = pipe.read(8)
    data = pipe.read(struct.unpack("<Q", head)[0]) if len(head) == 8 else b""
    return pickle.loads(data) if data else None


def _bring_up(requests: socket.socket) -> None:
    """Fork ranks and report how they ended, until the tests are gone; runs in the nursery."""
    sys.modules["tests.helpers.ranks"] = sys.modules["__main__"]  # one module under both names
    import deepspeed  # noqa: F401 (what ranks need)
    import torch._dynamo  # noqa: F401 (torch.optim imports it at the first step)

    import ifl.train  # noqa: F401
    from sharding.loader_workers import end_with_parent

    answers, codes = requests.makefile("wb"), dict[int, int | None]()
    while True:
        head, files, _, _ = socket.recv_fds(requests, 8, 3)
        if not head:
            return
        length, data = struct.unpack("<Q", head)[0], b""
        while len(data) < length:
            data += requests.recv(length - len(data))
        what, *words = pickle.loads(data)
        if what == "fork":
            if (pid := os.fork()) == 0:
                end_with_parent()  # it may be in the midst of a call when the tests are killed
                requests.close()
                os.environ.clear()
                os.environ.update(words[0])
                os.dup2(files[2], 1)
                os.dup2(files[2], 2)
                _serve(*files[:2])
            for file in files:
                os.close(file)
            answer = pid
        else:
            answer = codes.get(words[0])
            if answer is None:
                answer = codes[words[0]] = _code(*words)
        _send(answers, pickle.dumps(answer))


def _code(pid: int, timeout: float) -> int | None:
    """Return how the fork ended; None if it has not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended or time.monotonic() > deadline:
            return os.waitstatus_to_exitcode(status) if ended else None
        time.sleep(0.005)


def _groups() -> set[Any]:
    """Return every process group of this rank."""
    from torch.distributed import distributed_c10d

    return set(distributed_c10d._world.pg_map)


def _kept_groups() -> set[Any]:
    """Return the groups that later calls use again: those of `comm_of`, and the one that DeepSpeed makes once.

    All others belong to a single call; their threads would wake up a hundred times a second until the tests end.
    """
    from deepspeed.utils import groups

    ours = {comm.group for comm in comms().values() if comm} if comms.cache_info().currsize else set()
    return ours | {groups._WORLD_GROUP}


def _serve(asked: int, answered: int) -> None:
    faulthandler.enable()
    calls, answers = os.fdopen(asked, "rb"), os.fdopen(answered, "wb")
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.fsync = lambda file: None  # no test cuts the power, and a disk takes 10 ms each time, 65 times in a run
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    _send(answers, pickle.dumps((True, None)))
    while (call := _receive(calls)) is not None:
        module, name, args, kwargs, timeout = call
        groups = _groups()
        faulthandler.dump_traceback_later(timeout, exit=False)
        try:
            function = functools.reduce(getattr, name.split("."), importlib.import_module(module))
            answer = (True, function(*args, **kwargs))
        except BaseException:
            answer = (False, traceback.format_exc())
        faulthandler.cancel_dump_traceback_later()
        for group in _groups() - groups - _kept_groups():
            dist.destroy_process_group(group)
        sys.stdout.flush()
        _send(answers, pickle.dumps(answer))
    os._exit(0)


if __name__ == "__main__":
    _bring_up(socket.socket(fileno=int(sys.argv[1])))
