"""One tidy pandas frame of runs, every number recomputed from the stored predictions."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.inputs.runs import ClassFacts, Run
from ifl.metrics import KEYS
from recipes.table_layout import PROTOCOLS, SELECTS

VAL = "val"
"""What `protocol` is for numbers on the long-tailed val of a run's edition, by which a model is chosen."""

METRICS = ("accuracy", "precision")
"""The two metrics of the paper."""

COLUMNS = (
    "run",
    "recipe",
    "data",
    "edition",
    "protocol",
    "subset",
    "metric",
    "seed",
    "select",
    "preset",
    "budget",
    "hash",
    "fingerprint",
    "commit",
    "value",
)

CLASS_COLUMNS = (
    "run",
    "recipe",
    "data",
    "edition",
    "protocol",
    "seed",
    "select",
    "preset",
    "budget",
    "label",
    "name",
    "group",
    "train_images",
    "attribute",
    "true",
    "predicted",
    "right",
)

ATTRIBUTES = ("many_a", "medium_a", "few_a", "none_a")

Problems = dict[tuple[str, str, str], str]
"""(run, select, protocol) -> why there are no numbers."""


def tidy(runs: list[Run]) -> tuple[pd.DataFrame, Problems]:
    """Make one line for each (run, select, protocol, subset, metric) of the *finished* runs.

    Subsets and metrics are those of `ifl.metrics.KEYS`: accuracy, precision, f1 and ece of each subset, harmonic and
    worst over the class groups (`overall`) and over the attribute groups (`overall_a`). Runs that keep their
    predictions on val have lines of the protocol `val`, too.

    Returns:
        The frame, in the order of `runs`, with `COLUMNS`: `value` is a fraction in [0, 1], `seed` an int, the rest
        strings; a subset without samples has no line. And what could not be computed.
    """
    # Column by column: a thousand runs make 128,000 lines, and as many dictionaries would take seconds.
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    problems: Problems = {}
    for run in (run for run in runs if run.finished):
        for protocol, (edition, split) in {**PROTOCOLS, VAL: (run.train, "val")}.items():
            for select in SELECTS if edition == run.train else ():
                if protocol == VAL and not run.has_predictions(select, split):
                    continue
                try:
                    scores = run.scored_predictions(select, split).scores()
                except ValueError as error:
                    problems[run.name, select, protocol] = str(error)
                    continue
                values = {key: float(scores[key][0]) for key in KEYS if key in scores}
                values = {key: value for key, value in values.items() if not math.isnan(value)}  # no samples
                for name, value in (*_about(run), ("protocol", protocol), ("select", select)):
                    columns[name] += [value] * len(values)
                columns["subset"] += [subset for subset, _ in values]
                columns["metric"] += [metric for _, metric in values]
                columns["value"] += values.values()
    return pd.DataFrame(columns), problems


def by_class(runs: list[Run], select: str = "last") -> pd.DataFrame:
    """Make one line for each (run, protocol, class, attribute group) of the finished runs, with `CLASS_COLUMNS`.

    `true`, `predicted`, `right` count samples of the test split: those of class `label` in the attribute group, those
    there that were taken for it, those rightly so. `attribute` is one of `ATTRIBUTES` (`none_a`: samples without one);
    `group` 0 many, 1 medium, 2 few; `name` and `train_images` (-1: not stored) come from meta.json. Runs whose
    predictions cannot be read are left out: `tidy` says why.
    """
    columns: dict[str, list[Any]] = {name: [] for name in CLASS_COLUMNS}
    for run in (run for run in runs if run.finished):
        for protocol, (edition, split) in PROTOCOLS.items():
            if edition != run.train:
                continue
            try:
                scored = run.scored_predictions(select, split)
            except ValueError:
                continue
            counts, classes = scored.counts(), scored.classes.tolist()
            known = [
                run.classes[label] if label < len(run.classes) else ClassFacts(str(label), -1, -1) for label in classes
            ]
            slots = [
                slot for slot in range(len(ATTRIBUTES)) if counts["true"][slot].any() or counts["predicted"][slot].any()
            ]
            for slot in slots:
                for name, value in (
                    *_about(run),
                    ("protocol", protocol),
                    ("select", select),
                    ("attribute", ATTRIBUTES[slot]),
                ):
                    if name in columns:
                        columns[name] += [value] * len(classes)
                columns["label"] += classes
                columns["name"] += [each.name for each in known]
                columns["group"] += scored.group_of_class.tolist()
                columns["train_images"] += [each.images for each in known]
                for name, of_slots in counts.items():
                    columns[name] += of_slots[slot].tolist()
    return pd.DataFrame(columns)


def csv(*frames: pd.DataFrame) -> str:
    """Write frames of the same columns, below each other, as CSV."""
    written: str = pd.concat(frames).to_csv(index=False, lineterminator="\n")
    return written


def _about(run: Run) -> tuple[tuple[str, object], ...]:
    return (
        ("run", run.name),
        ("recipe", run.recipe),
        ("data", run.data),
        ("edition", run.train),
        ("seed", run.seed),
        ("preset", run.preset),
        ("budget", run.budget),
        ("hash", run.hash),
        ("fingerprint", run.fingerprint),
        ("commit", run.commit),
    )
