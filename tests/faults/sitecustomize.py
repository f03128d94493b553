"""Faults inside a rank, for tests: Python imports this file at its start where the folder is on PYTHONPATH.

The file that GLT_FAULT names holds `KIND RANK` when a fault is due. That rank removes it, so that it strikes once, and
in its step raises an error (`exception`), gets losses that are no numbers (`nan`), or leaves out the reduction that all
ranks make (`skip`).

Other kinds last as long as their line `KIND NODE` stands in the file. The node's device has none that can be used
(`no-device`) or answers wrong (`answer`), its folders cannot be written (`unwritable`) or are full (`full`), its clock
is 37 s ahead (`clock`), its torch is another (`version`), its disk is slow (`slow-disk`), or its ranks are (`slow`).
"""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
import time
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

PATH = os.environ.get("GLT_FAULT", "")


def _due(kind: str) -> bool:
    try:
        with open(PATH) as file:
            if file.read() != f"{kind} {os.environ['RANK']}":
                return False
        os.remove(PATH)
        return True
    except FileNotFoundError:
        return False


def lasts(kind: str) -> bool:
    """Whether this node has a fault that lasts."""
    node = os.environ.get("GLT_NODE") or os.environ.get("SLURMD_NODENAME", "")
    try:
        with open(PATH) as file:
            return f"{kind} {node}" in file.read().splitlines()
    except FileNotFoundError:
        return False


def _arm_look(look: ModuleType) -> None:
    product, rates_of, versions, fsync = look.product, look.rates_of, look.versions, os.fsync

    def wrong_product(matrix):
        if lasts("no-device"):
            raise RuntimeError("CUDA error: no device\nand more")
        right = product(matrix)
        right[3, 5] += lasts("answer")
        return right

    def refused(folder):
        if lasts("unwritable"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if lasts("full"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rates_of(folder)

    def slow_fsync(file):
        time.sleep(0.3 * lasts("slow-disk"))
        fsync(file)

    os.fsync = slow_fsync
    look.product, look.rates_of = wrong_product, refused
    look.versions = lambda: {**versions(), **({"torch": "0.1"} if lasts("version") else {})}
    look.time = SimpleNamespace(time=lambda: time.time() + 37 * lasts("clock"), perf_counter=time.perf_counter)


def _arm(sync: ModuleType) -> None:
    from ifl.distributed.comm import Pending

    add, start = sync.StepSync.add, sync.StepSync.start

    def add_or_poison(self, part):
        time.sleep(0.06 * lasts("slow"))
        return add(self, replace(part, losses_B=part.losses_B * float("nan")) if _due("nan") else part)

    def start_or_fail(self, *rest, **named):
        if _due("exception"):
            raise RuntimeError("a fault was asked for")
        if not _due("skip"):
            return start(self, *rest, **named)
        self.comm.start_sum = Pending  # shadows the method: the sum stays here
        start(self, *rest, **named)
        del self.comm.start_sum

    sync.StepSync.add, sync.StepSync.start = add_or_poison, start_or_fail


ARMED = {"ifl.step_reduction": _arm, "ifl.supervision.node_look": _arm_look}


class _AfterImport:
    """Finds the modules of `ARMED` as always, and arms each once it is loaded."""

    def __init__(self) -> None:
        self._busy = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in ARMED or self._busy:
            return None
        self._busy = True
        spec = importlib.util.find_spec(name)
        self._busy = False
        load = spec.loader.exec_module

        def load_and_arm(module: ModuleType) -> None:
            load(module)
            ARMED[name](module)

        spec.loader.exec_module = load_and_arm
        return spec


if PATH:
    sys.meta_path.insert(0, _AfterImport())
