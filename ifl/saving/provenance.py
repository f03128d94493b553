"""Where a run's numbers come from: commit, versions, machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from recipes.code.checkout import commit

PACKAGES = (
    *("torch", "torchvision", "deepspeed", "webdataset", "numpy", "pillow", "pylibjxl", "simplejpeg", "torchcodec"),
    *("timm", "peft", "open_clip_torch"),
)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def meta(facts: Mapping[str, Any], command: Sequence[str] = ()) -> dict[str, Any]:
    """Return the contents of meta.json: where the run comes from, and the facts of the run itself.

    Args:
        facts: of the run.
        command: the launcher's `sys.argv`; where it is empty, the process speaks for itself.
    """
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {"node": platform.node(), "processor": platform.machine(), "cores": os.cpu_count()},
        "argv": list(command or sys.argv),
        **facts,
    }
