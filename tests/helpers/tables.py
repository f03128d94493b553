"""Run folders of ten samples with planted predictions, and tables made of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from analysis.inputs.frame import tidy
from analysis.inputs.runs import load_runs
from analysis.tables.cells import Table, fill_table
from recipes.table_layout import Layout
from tests.helpers.paths import PROJECT

# Ten samples; classes 0, 1 are many, 2 medium, 3 few. Right: samples 0, 1, 2, 4, 6.
LABEL = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3, 3])
GROUP = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2])
ATTRIBUTE = np.array([0, 0, 1, 1, 0, 1, 0, 1, 0, 1])
HALF = np.array([0, 0, 0, 1, 1, 0, 2, 0, 0, 1])
MOST = np.array([0, 0, 0, 0, 1, 1, 2, 0, 3, 0])  # wrong: 7 (2 taken for 0) and 9 (3 taken for 0)
NONE_RIGHT = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
TABLE_COLUMNS = [
    {"data": "digits_glt", "train": "glt", "protocol": "clt", "subset": "overall", "metric": "accuracy"},
    {"data": "digits_glt", "train": "glt", "protocol": "clt", "subset": "many", "metric": "precision"},
    {"data": "digits_glt", "train": "glt", "protocol": "glt", "subset": "few", "metric": "accuracy"},
]
ROWS = [
    {"recipe": "plain", "label": "Plain", "group": "First"},
    {"recipe": "plain_ifl", "label": "+ IFL", "group": "First", "twin": "plain"},
]


def layout(**change: Any) -> Layout:
    return Layout(
        **{"name": "small", "preset": "paper", "seeds": [0, 1], "rows": ROWS, "columns": TABLE_COLUMNS, **change}
    )


@dataclass(frozen=True)
class Written:
    """What a run folder of `write_run` says; `cbl` and `gbl` are the last epoch's predictions."""

    data: str = "digits_glt"
    train: str = "glt"
    preset: str = "paper"
    budget: str = "paper"
    hash_: str = "0123abcd"
    fingerprint: str = "f00d"
    cbl: np.ndarray = field(default_factory=lambda: HALF)
    gbl: np.ndarray = field(default_factory=lambda: HALF)
    best: np.ndarray = field(default_factory=lambda: NONE_RIGHT)
    lines: Sequence[Any] = ()
    done: bool = True
    name: str | None = None


def write_run(folder: Path, recipe: str = "plain", seed: int = 0, **change: Any) -> Path:
    """Write a run folder as training does; `change` replaces fields of `Written`."""
    run = Written(**change)
    path = folder / (run.name or f"{recipe}-{run.data}-{run.train}-s{seed}-{run.hash_}")
    resolved = {
        "recipe": recipe,
        "train": run.train,
        "seed": seed,
        "preset": run.preset,
        "data": {"name": run.data},
        "batch": {"budget": run.budget},
        "ifl": {"environments": 2} if recipe.endswith("_ifl") else None,
    }
    for select in ("last", "best"):
        (path / "preds" / select).mkdir(parents=True)
        for split, prediction in (("test_cbl", run.cbl), ("test_gbl", run.gbl)):
            np.savez(
                path / "preds" / select / f"{split}.npz",
                id=np.arange(10),
                label=LABEL,
                group=GROUP,
                attribute=ATTRIBUTE,
                prediction=prediction if select == "last" else run.best,
                confidence=np.ones(10, np.float32),
            )
    (path / "recipe.yaml").write_text(yaml.safe_dump(resolved))
    meta = {"commit": "c0ffee", "world": 2, "data_fingerprint": run.fingerprint, "hash": run.hash_}
    (path / "meta.json").write_text(json.dumps(meta))
    (path / "metrics.jsonl").write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in run.lines)
    )
    if run.done:
        (path / "done").write_text("{}")
    return path


def table(folder: Path, **change: Any) -> Table:
    runs, _ = load_runs(folder)
    return fill_table(layout(**change), runs, *tidy(runs))


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "analysis", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **environment},
    )


PUBLISHED = ["table1_imagenet_clt_glt"]
BOTH = [
    {"recipe": "plain", "label": "Plain", "group": "G", "published": "Baseline"},
    {"recipe": "plain_ifl", "label": "+ IFL", "group": "G", "published": "Baseline + IFL", "twin": "plain"},
]


def beside_paper(folder: Path, data: str = "imagenet_glt", **change: Any) -> Table:
    columns = [{**column, "data": data} for column in TABLE_COLUMNS]
    return table(folder, **{"seeds": [0], "published": PUBLISHED, "columns": columns, "rows": BOTH, **change})
