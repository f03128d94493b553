"""Faults inside a rank, for tests: Python imports this file at its start where the folder is on PYTHONPATH.

The file that GLT_FAULT names holds `KIND RANK` when a fault is due. That rank removes it, so that it strikes once, and
in its step raises an error (`exception`), gets losses that are no numbers (`nan`), or leaves out the reduction that all
ranks make (`skip`).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType

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


def _arm(sync: ModuleType) -> None:
    from ifl.distributed.comm import Pending

    add, start = sync.StepSync.add, sync.StepSync.start

    def add_or_poison(self, part):
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


class _AfterImport:
    """Finds ifl.step_reduction as always, and arms it once it is loaded."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "ifl.step_reduction":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_arm(module: ModuleType) -> None:
            load(module)
            _arm(module)

        spec.loader.exec_module = load_and_arm
        return spec


if PATH:
    sys.meta_path.insert(0, _AfterImport())
