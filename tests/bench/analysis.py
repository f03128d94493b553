"""How long a table takes: `python -m tests.bench.analysis [runs=1000] [samples=2400] [classes=10] [keep=DIR]` prints,
by part, seconds of CPU and on the wall, and peak memory.

Synthetic runs, every recipe of the digits tables on both editions in turn with as many seeds as `runs` asks for, go
through all that the
command does for its tables: reading, tidy frame, four tables with intervals and tests, and all text. A second line
times the tables without
the resamples, their peer: the difference is what intervals and tests cost.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np

from tests.bench.words import values_of

LAYOUTS = ("digits_clt_glt", "digits_alt", "digits_overall", "digits_ablation")


def synthetic(folder: Path, runs: int, samples: int = 2400, classes: int = 10) -> None:
    """Run folders with everything that tables read; predictions are right with a chance of the run's own."""
    from recipes.table_layout import available, load_layout

    recipes = list(dict.fromkeys(row.recipe for name in LAYOUTS for row in load_layout(available()[name]).rows))
    test = np.random.default_rng(0)
    label = np.arange(samples) % classes
    group_of_class = np.arange(classes) * 3 // classes
    attribute = test.integers(0, 3, samples)
    for number in range(runs):
        recipe, train, seed = (
            recipes[number // 2 % len(recipes)],
            ("glt", "cbl")[number % 2],
            number // (2 * len(recipes)),
        )
        rng = np.random.default_rng(number)
        path = folder / f"{recipe}-digits_glt-{train}-s{seed}-0123abcd"
        skill = 0.5 + 0.3 * (recipes.index(recipe) + 1) / len(recipes) - 0.1 * (group_of_class[label] + attribute)
        for select in ("last", "best"):
            (path / "preds" / select).mkdir(parents=True)
            for split in ("test_cbl", "test_gbl"):
                prediction = np.where(rng.random(samples) < skill, label, rng.integers(0, classes, samples))
                arrays = {
                    "id": np.arange(samples),
                    "label": label,
                    "group": group_of_class[label],
                    "attribute": attribute,
                    "prediction": prediction,
                }
                np.savez(path / "preds" / select / f"{split}.npz", **arrays, confidence=rng.random(samples, np.float32))
        (path / "recipe.yaml").write_text(resolved(recipe, train).replace("seed: 0\n", f"seed: {seed}\n", 1))
        meta = {
            "commit": "c0ffee",
            "data_fingerprint": train,
            "hash": "0123abcd",
            "class_names": [f"class {c}" for c in range(classes)],
            "class_groups": group_of_class.tolist(),
            "class_counts": [100] * classes,
        }
        (path / "meta.json").write_text(json.dumps(meta))
        (path / "metrics.jsonl").write_text("")
        (path / "done").write_text("{}")


@cache
def resolved(recipe: str, train: str) -> str:
    """recipe.yaml of a run of seed 0. A second stage's first stage is any name: it is not looked for."""
    from recipes.resolve import dump, resolve

    return dump(resolve([f"recipe={recipe}", "data=digits_glt", f"train={train}", "seed=0"]))


def main(words: list[str]) -> None:
    values = values_of(words, {"runs": 1000, "samples": 2400, "classes": 10, "keep": ""})
    with tempfile.TemporaryDirectory() as folder:
        place = Path(values["keep"] or folder)  # runs that are there already are taken as they are
        place.mkdir(parents=True, exist_ok=True)
        if not any(place.iterdir()):
            synthetic(place, values["runs"], values["samples"], values["classes"])
        timed(place, values["runs"])


def timed(folder: Path, runs: int) -> None:
    started = time.process_time(), time.perf_counter()
    from analysis.inputs.frame import tidy
    from analysis.inputs.runs import load_runs
    from analysis.stats.bootstrap import Resamples
    from analysis.tables import text
    from analysis.tables.cells import fill_table
    from recipes.table_layout import available, load_layout

    layouts = [load_layout(available()[name]).model_copy(update={"seeds": list(range(runs))}) for name in LAYOUTS]
    parts: list[tuple[str, float, float]] = []

    def done(part: str) -> None:
        nonlocal started
        now = time.process_time(), time.perf_counter()
        parts.append((part, now[0] - started[0], now[1] - started[1]))
        started = now

    done("import")
    found, _ = load_runs(folder)
    done("read run folders")
    frame, problems = tidy(found)
    done("metrics of all predictions")
    content = frame.to_csv(index=False)
    done("results.csv")
    for run in found:
        run.departures()
    done("compared with the recipes as they stand")
    tables = [fill_table(layout, found, frame, problems, Resamples(number=2)) for layout in layouts]
    done("tables, resampled twice (peer)")
    resamples = Resamples()
    tables = [fill_table(layout, found, frame, problems, resamples) for layout in layouts]
    done(f"tables, resampled {resamples.number} times")
    written = sum(len(form(table)) for table in tables for form in (text.latex, text.csv, text.markdown, text.terminal))
    done("text of all tables")
    parts.append(("all", sum(cpu for _, cpu, _ in parts), sum(wall for _, _, wall in parts)))
    for part, cpu, wall in parts:
        print(f"{part:40s} {cpu:7.2f} s of CPU {wall:7.2f} s")
    cells = sum(len(table.cells) * len(table.layout.columns) for table in tables)
    print(f"{len(found)} runs, {len(frame)} numbers, {cells} cells, {(len(content) + written) / 1e6:.1f} MB written")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
