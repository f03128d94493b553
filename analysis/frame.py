"""Runs -> one tidy pandas frame, every number recomputed from the stored predictions."""

from typing import Any, Iterator

import pandas as pd

from recipes.layout import PROTOCOLS, SELECTS
from analysis.runs import Run
from ifl.metrics import GROUPS, evaluate

METRICS = ("accuracy", "precision")
SUBSETS = (*GROUPS, "overall", *(f"{name}_a" for name in GROUPS))
"""Class groups, everything, attribute groups."""

COLUMNS = (
    "run", "recipe", "data", "edition", "protocol", "subset", "metric", "seed",
    "select", "preset", "budget", "hash", "fingerprint", "commit", "value",
)  # fmt: skip

Problems = dict[tuple[str, str, str], str]
"""(run, select, protocol) -> why there are no numbers."""


def tidy(runs: list[Run]) -> tuple[pd.DataFrame, Problems]:
    """One line for each (run, select, protocol, subset, metric) of the *finished* runs.

    Returns the frame with `COLUMNS` (`value` a fraction in [0, 1], `seed` an int, the rest strings;
    a subset without samples has no line), in the order of `runs`, and what could not be computed.
    """
    records: list[dict[str, Any]] = []
    problems: Problems = {}
    for run in (run for run in runs if run.finished):
        about = {
            "run": run.name, "recipe": run.recipe, "data": run.data, "edition": run.train, "seed": run.seed,
            "preset": run.preset, "budget": run.budget, "hash": run.hash, "fingerprint": run.fingerprint,
            "commit": run.commit,
        }  # fmt: skip
        for protocol, (edition, split) in PROTOCOLS.items():
            for select in SELECTS if edition == run.train else ():
                try:
                    result = evaluate(**run.predictions(select, split))
                except ValueError as error:
                    problems[run.name, select, protocol] = str(error)
                    continue
                for subset, metric, value in _flat(result):
                    key = {"protocol": protocol, "select": select, "subset": subset, "metric": metric}
                    records.append({**about, **key, "value": value})
    return pd.DataFrame(records, columns=list(COLUMNS)), problems


def _flat(result: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    for subset in SUBSETS:
        part = result.get("attribute", {}) if subset.endswith("_a") else result
        for metric in METRICS:
            value = part.get(metric, {}).get(subset.removesuffix("_a"))
            if value is not None:
                yield subset, metric, value
