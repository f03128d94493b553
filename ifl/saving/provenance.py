"""Where a run's numbers come from: commit, versions, machine."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
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


def processor_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the first processor's model as Linux names it, such as `AMD EPYC 7763 64-Core Processor`; else empty."""
    try:
        found = re.search(r"^model name[ \t]*:(.*)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return ""
    return " ".join(found[1].split()) if found else ""


def meta(facts: Mapping[str, Any], command: Sequence[str] = ()) -> dict[str, Any]:
    """Return the contents of meta.json: where the run comes from, and the facts of the run itself.

    Args:
        facts: of the run.
        command: the launcher's `sys.argv`; where it is empty, the process speaks for itself.
    """
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {
            "node": platform.node(),
            "processor": platform.machine(),
            "processor_model": processor_model(),
            "cores": os.cpu_count(),
        },
        "argv": list(command or sys.argv),
        **facts,
    }
