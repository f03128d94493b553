"""Run folders of a claims table with planted accuracies, over seeds and over sources of several samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from recipes.table_layout import Layout
from tests.helpers.tables import write_run

SAMPLES, SOURCES = 600, 300
LABEL = np.arange(SAMPLES) % 4


def write_claim_runs(
    folder: Path,
    layout: Layout,
    accuracy: dict[str, float],
    *,
    seeds: int | None = None,
    spread: float = 0.0,
    sources: bool = True,
    made_from: Mapping[str, str] | None = None,
) -> None:
    """Write the runs of every row of a layout, each with the accuracy of its published name; rows without one get none.

    Args:
        folder: the runs'.
        layout: the table.
        accuracy: by a row's published name.
        seeds: how many; default: as many as the row averages.
        spread: standard deviation of a run's accuracy over seeds.
        sources: whether predictions say of what source their samples are: two samples a source.
        made_from: a row's published name -> that of a row before it, whose run of the same seed each of its runs
            judges: it has the same spread and, of the same accuracy, the same samples right.
    """
    rng = np.random.default_rng(0)
    hard = np.repeat(rng.random(SOURCES), SAMPLES // SOURCES)  # the same sources are hard for every run
    drawn: dict[tuple[str, str, str, int], tuple[str, float, list[np.ndarray]]] = {}
    for row in layout.rows:
        if row.published not in accuracy:
            continue
        for data, train in layout.sources:
            for seed in layout.seeds_of(row)[:seeds]:
                path = write_run(
                    folder, row.recipe, seed, data=data, train=train, preset=layout.preset, budget=row.budget
                )
                if source := (made_from or {}).get(row.published):
                    judged, beyond, noise = drawn[source, data, train, seed]
                    written = yaml.safe_load((path / "recipe.yaml").read_text())
                    (path / "recipe.yaml").write_text(yaml.safe_dump({**written, "method": {"eval_of": judged}}))
                else:
                    beyond, noise = spread * rng.standard_normal(), [rng.random(SAMPLES) for _ in range(2)]
                drawn[row.published, data, train, seed] = path.name, beyond, noise
                for split, own in zip(("test_cbl", "test_gbl"), noise, strict=True):
                    right = 0.7 * hard + 0.3 * own < accuracy[row.published] + beyond
                    arrays: dict[str, Any] = {
                        "id": np.arange(SAMPLES),
                        "label": LABEL,
                        "group": LABEL // 2,
                        "attribute": np.zeros(SAMPLES, int),
                        "prediction": np.where(right, LABEL, (LABEL + 1) % 4),
                        "confidence": np.ones(SAMPLES, np.float32),
                        **({"source": np.arange(SAMPLES, dtype=np.int32) // 2} if sources else {}),
                    }
                    np.savez(path / "preds" / layout.select / f"{split}.npz", **arrays)
