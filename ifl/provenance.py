"""Where a run's numbers come from: commit, versions, machine, data."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import features

from recipes.schema import PROJECT, Recipe
from sharding.dataset import Dataset

PACKAGES = ("torch", "torchvision", "deepspeed", "webdataset", "numpy", "pillow")


def commit() -> str:
    """The checked-out commit, with `+changes` where the work tree differs from it; in a copy made for a job, what stood there then."""
    if (stated := PROJECT / "COMMIT").exists():
        return stated.read_text().strip()
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "--no-optional-locks", "status", "--porcelain", "--untracked-files=no"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def decoder() -> str:
    """What turns JPEG bytes into pixels: it must be the same on all ranks and for the whole of a run."""
    return f"pillow {version('pillow')} libjpeg {features.version('jpg')}"


def meta(recipe: Recipe, dataset: Dataset, fingerprint: str, counts: np.ndarray, steps: int, ranks: int, network: dict[str, int]) -> dict[str, Any]:
    """The contents of meta.json; `network` is its size (ifl/network.py)."""
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "machine": {"node": platform.node(), "processor": platform.machine(), "cores": os.cpu_count()},
        "argv": json.loads(os.environ.get("GLT_ARGV", "null")) or sys.argv,
        "world": ranks,
        "hash": recipe.hash8,
        "data_fingerprint": fingerprint,
        "class_names": dataset.class_names,
        "class_groups": dataset.class_groups,
        "class_counts": counts.tolist(),
        "decoder": decoder(),
        "steps_per_epoch": steps,
        "network": network,
    }
