"""Before the first step each node is looked at: does it compute, are its answers right, can it write, is it like the
others?

The device multiplies a matrix whose product is known to the last bit. The first rank of a node writes, renames, locks
and reads a file in the shared folder and on the node's disk. Then the ranks meet: clocks and versions are compared, and
an all-reduce is timed. All this takes less than a second. Every rank knows what all have seen, so all leave together
where a node is not fit; what that means is in node_report.py.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ifl.distributed.comm import Comm
from ifl.supervision.node_events import DEVICE, slow_text
from ifl.supervision.node_limits import NodeLimits
from ifl.supervision.node_report import (
    FULL_FOLDER,
    Fault,
    NodeFault,
    NodeReport,
    Rates,
    Seen,
    by_node,
    node_name,
)
from ifl.supervision.stragglers import Stragglers
from recipes.common.errors import RunError
from recipes.common.files import FULL
from recipes.common.locks import NO_LOCKS

SIDE = 512
"""Rows of the matrix, a power of two; its product with itself is exact in every precision down to bfloat16."""
LONG_S = 0.05
"""A part whose last try took this long is over."""
MOST_MB, LEAST_KB = 16, 256
"""What is written at most, and at first, of a file."""
REDUCED_MB = (1, 1, 4, 16, 64)
"""Sizes of all-reduce; the first opens the connections and does not count."""


@dataclass(frozen=True)
class NodeLook:
    """What a start must know to look at its nodes.

    Attributes:
        folder: the shared folder.
        disk: a folder on the node's own disk.
        code: names the code that runs.
        limits: the site's.
        tell: called on rank 0 with what becomes known later: an event's name and its values.
    """

    folder: Path
    disk: Path
    code: str
    limits: NodeLimits
    tell: Callable[..., object] = lambda event, **values: None

    def at_start(self, comm: Comm, device: torch.device, name: str, first_on_node: bool) -> list[NodeReport]:
        """Look, and say what was seen: the same on all ranks. A collective.

        Args:
            comm: the ranks.
            device: this rank's.
            name: what it is called.
            first_on_node: whether this rank looks at the folders.

        Raises:
            NodeFault: on all ranks, where a node is not fit; on one whose GPU does not compute, before the others.
            RunError: on all ranks, where the sum over the ranks is wrong, or no node can write the shared folder.
            OSError: on all ranks, where that is full.
        """
        seen = self.own(device, name, first_on_node)
        if device.type == "cuda" and (lost := next((fault for fault in seen.faults if fault.kind == DEVICE), None)):
            raise NodeFault({seen.node: lost})  # messages travel by the device, too: only this rank can say it
        reports = self.reports(comm, seen, device)
        bad = {report.node: report.hard for report in reports if report.hard}
        if bad:
            self._not_the_nodes(bad, len(reports))
            well = (rank for report in reports if not report.hard for rank in report.ranks)
            raise NodeFault(bad, next(well, 0))
        if comm.rank == 0:
            for report in reports:
                for fault in report.faults:
                    print(f"node {report.node} {fault.text}", file=sys.stderr, flush=True)
        return reports

    def _not_the_nodes(self, bad: Mapping[str, Fault], nodes: int) -> None:
        """Stop where the shared folder is what is wrong, and not the nodes that cannot write it.

        Raises:
            OSError: it is full.
            RunError: no node can write it.
        """
        if any(fault.kind == FULL_FOLDER for fault in bad.values()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        if len(bad) == nodes > 1 and {fault.kind for fault in bad.values()} == {"folder"}:
            raise RunError(f"each of the nodes {', '.join(bad)} {next(iter(bad.values())).text}")

    def stragglers(self, comm: Comm, reports: Sequence[NodeReport]) -> Stragglers:
        """Return what watches the nodes' own times from now on; rank 0 tells of them."""
        nodes = {rank: report.node for report in reports for rank in report.ranks}

        def tell(event: str, **values: Any) -> None:
            if comm.rank == 0:
                print(f"node {values['node']} {slow_text(**values)}", file=sys.stderr, flush=True)
                self.tell(event, **values)

        return Stragglers([nodes[rank] for rank in range(comm.size)], self.limits, tell)

    def own(self, device: torch.device, name: str, first_on_node: bool) -> Seen:
        """Look at what this rank can see alone."""
        seen = Seen(node_name(), comm_rank(), name, versions={**versions(), "code": self.code})
        if wrong := answer_of(device):
            seen.faults.append(wrong)
        for key, called, folder in (("folder", "the shared folder", self.folder), ("disk", "its own disk", self.disk)):
            if first_on_node:
                try:
                    setattr(seen, key, rates_of(folder))
                except OSError as error:
                    reason = error.strerror or str(error)
                    full = key == "folder" and error.errno in FULL
                    seen.faults.append(
                        Fault(FULL_FOLDER if full else key, f"cannot write {called}, {folder}: {reason}")
                    )
        return seen

    def reports(
        self, comm: Comm, seen: Seen, device: torch.device, meeting: torch.device | None = None
    ) -> list[NodeReport]:
        """Meet the others, and put together what all have seen. A collective.

        Args:
            comm: the ranks.
            seen: what this rank has seen.
            device: this rank's.
            meeting: the device of the messages; None: the same. All ranks must have one of its kind.

        Raises:
            RunError: on all ranks, where the sum over the ranks is wrong.
        """
        comm.sum(torch.zeros(1, device=meeting or device)).cpu()  # all leave it in the same moment
        seen.clock = time.time()
        all_seen = comm.gather_objects(seen, meeting or device)
        fit = not any(fault.kind in (DEVICE, "answer") for one in all_seen for fault in one.faults)
        reached = allreduce_gb_s(comm, device) if fit and comm.size > 1 else None
        reports = by_node(all_seen, self.limits, reached)
        least = self.limits.allreduce_gb_s
        if reached is not None and least is not None and reached < least:
            text = f"reaches {reached:g} GB/s in an all-reduce with the others, and look.allreduce_gb_s={least:g} is"
            for report in reports:
                report.faults.append(Fault("rate", f"{text} wanted", hard=False))
        return reports


def comm_rank() -> int:
    """Return this process's number among all ranks, before they have met."""
    return int(os.environ.get("RANK", "0"))


def answer_of(device: torch.device) -> Fault | None:
    """Let the device multiply a matrix with itself, and compare with the product that is known; None where it is right.

    The matrix is Hadamard's of `SIDE` rows, of 1 and -1: its square is `SIDE` on the diagonal and 0 elsewhere.
    """
    try:
        wrong = int((product(hadamard(device)) != SIDE * torch.eye(SIDE, device=device)).sum())
    except RuntimeError as error:  # the driver's, in many words
        return Fault(DEVICE, f"cannot compute on {device}: {str(error).splitlines()[0]}")
    if not wrong:
        return None
    return Fault("answer", f"gets {wrong} of {SIDE**2} numbers wrong in a product that is known, on {device}")


def hadamard(device: torch.device) -> torch.Tensor:
    """Return float32 [SIDE, SIDE]."""
    matrix = torch.ones(1, 1, device=device)
    while len(matrix) < SIDE:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def product(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix times itself."""
    return matrix @ matrix


def rates_of(folder: Path) -> Rates:
    """Write, rename, lock and read a file in a folder, which is there afterwards as it was before.

    Raises:
        OSError: something of that is not possible, or what is read is not what was written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f".look-{node_name().replace('/', '-')}-{os.getpid()}"
    renamed = path.with_name(f"{path.name}.renamed")
    content = os.urandom(LEAST_KB << 10)
    try:
        with open(path, "wb", buffering=0) as file:
            written_mb_s = write_mb_s(file.fileno(), content)
        os.replace(path, renamed)
        with open(renamed, "rb", buffering=0) as file:
            locks = _locks(file.fileno())
            read_mb_s = _read_mb_s(file.fileno(), content, renamed)
    finally:
        for each in (path, renamed):
            with contextlib.suppress(OSError):
                each.unlink(missing_ok=True)
    return Rates(round(written_mb_s, 1), round(read_mb_s, 1), locks)


def write_mb_s(file: int, content: bytes) -> float:
    """Write and sync twice as much each time, until it takes long; return the best rate."""
    size, best = LEAST_KB << 10, 0.0
    while True:
        began = time.perf_counter()
        for _ in range(size // len(content)):
            if os.write(file, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file)
        took = time.perf_counter() - began
        best = max(best, size / 1e6 / took)
        if took > LONG_S or size >= MOST_MB << 19:  # with the tries before, twice as much
            return best
        size *= 2


def _read_mb_s(file: int, content: bytes, path: Path) -> float:
    with contextlib.suppress(OSError):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)  # as far as it goes, not out of this node's memory
    began, size = time.perf_counter(), 0
    while part := os.read(file, len(content)):
        if part != content[: len(part)]:
            raise OSError(errno.EIO, "what is read is not what was written", str(path))
        size += len(part)
        if time.perf_counter() - began > 2 * LONG_S:
            break
    return size / 1e6 / (time.perf_counter() - began)


def _locks(file: int) -> bool:
    """Say whether the file system has locks.

    Raises:
        OSError: it has, and this one was not given.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def versions() -> dict[str, str]:
    """Return the versions that all nodes must share."""
    packages = {name: importlib.metadata.version(name) for name in ("torch", "deepspeed")}
    return {"python": platform.python_version(), **packages}


def allreduce_gb_s(comm: Comm, device: torch.device) -> float:
    """Sum ever larger tensors over the ranks until it takes long; return the bus rate of the best. A collective.

    The bus rate, 2 (n - 1) / n bytes by seconds, is what each rank's connection carries, whatever n is.

    Raises:
        RunError: on all ranks, where a sum is wrong.
    """
    best = 0.0
    for number, size in enumerate(REDUCED_MB):
        tensor = torch.full((size << 18,), float(comm.rank + 1), device=device)
        comm.sum(torch.zeros(1, device=device)).cpu()  # begin together
        began = time.perf_counter()
        comm.sum(tensor)
        low, high = (float(value) for value in torch.aminmax(tensor))  # waits for the device
        own_us = int(1e6 * (time.perf_counter() - began))
        wrong = int(low != high or low != comm.size * (comm.size + 1) / 2)
        took, bad = comm.sum(torch.tensor([own_us, wrong], device=device)).tolist()
        if bad:
            raise RunError(
                f"the sum of {size} MB over {comm.size} ranks is wrong on {bad} of them: look at the network"
            )
        took_s = max(1, took) / 1e6 / comm.size
        if number:
            best = max(best, 2 * (comm.size - 1) / comm.size * (size << 20) / 1e9 / took_s)
        if number and took_s > LONG_S / 2:  # the next would take four times as long
            break
    return round(best, 3)
