"""Use a finished run again, in one process: evaluate its splits again, or export its weights for other programs.

`python -m ifl.finished_run evaluate RUN_FOLDER last|best KEPT` and
`python -m ifl.finished_run export RUN_FOLDER last|best FILE`; the launcher's `eval=` and `export=` check the words and
start them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Literal

import numpy as np

from ifl.evaluator import scores, write_predictions
from ifl.exported import INPUT, description, plain_weights
from ifl.model_card import model_card
from ifl.saving.checkpoint import CheckpointError
from ifl.saving.weights import load_run, start_from
from ifl.setup import set_up
from ifl.supervision.startup_timer import Boot
from recipes.common.addresses import command_of_process
from recipes.common.errors import DataError, RunError, one_line
from recipes.common.files import write_whole
from recipes.common.json_text import read_object
from recipes.common.output import ends_told, go_on_unread
from recipes.resolve import load_resolved
from sharding.format.index import load_npz

Select = Literal["last", "best"]


def evaluate(
    run: Path,
    select: Select,
    root: str | None = None,
    cache_folder: str | None = None,
    cache_gb: float | None = None,
    pipe: str | None = None,
) -> dict[str, int]:
    """Evaluate every split by a finished run's weights, write preds/SELECT again and print the accuracies.

    Args:
        run: the run folder.
        select: whose weights: the last epoch's, or those of the best on val.
        root: where the data lie here; None: where they lay for the run.
        cache_folder: this machine's, for remote data.
        cache_gb: how much may be stored there.
        pipe: the site file's command, by which the data come where their root is `pipe:`.

    Returns:
        For each split, how many predictions differ from those that were there; -1 where there were none.

    Raises:
        CheckpointError: the run is not finished, its weights are gone, or the data are not those it was trained on.
    """
    recipe, meta = load_resolved(run / "recipe.yaml"), read_object(run / "meta.json", {"data_fingerprint": str})
    weights = load_run(run.parent / recipe.method.eval_of if recipe.method.eval_of else run, select)
    # This machine is not one of the run's nodes, and pixels that are read once need not be kept.
    own = {"cache": "none", "cache_folder": cache_folder, "cache_gb": cache_gb, "root": root or recipe.data.root}
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=own)})
    ready = set_up(recipe, run, Boot(lambda section: None), fresh=False, trains=False, pipe=pipe)
    if ready.data.fingerprint != meta["data_fingerprint"]:
        raise CheckpointError(
            f"{run.name} was trained on other data than those in {recipe.data_root}: their fingerprints differ"
        )
    if recipe.method.eval_of:
        start_from(ready.model.engine.network, ready.model.method, weights)
    else:
        ready.model.engine.network.load_state_dict(weights)
    changed = {}
    for split, evaluator in ready.readers.evaluators.items():
        predictions = evaluator.predict(ready.model.engine, ready.model.method)
        changed[split] = _changed(run / "preds" / select / f"{split}.npz", predictions["prediction"])
        write_predictions(run / "preds" / select, split, predictions)
        found = scores(predictions)
        what = {-1: "new", 0: "as before"}.get(
            changed[split], f"{changed[split]} of {len(predictions['id'])} predictions differ from before"
        )
        print(
            f"{split}: accuracy {found['accuracy']['overall']:.2%}, "
            f"precision {found['precision']['overall']:.2%} ({what})",
            flush=True,
        )
    return changed


def _changed(stored: Path, predicted: np.ndarray) -> int:
    """Count the predictions that are not those stored, int64 [M]; -1 where none are."""
    try:
        before = load_npz(stored)["prediction"]
    except FileNotFoundError:
        return -1
    except (DataError, KeyError) as error:
        print(f"{stored} is damaged ({one_line(str(error))}) and is written anew", flush=True)
        return -1
    return int((before != predicted).sum()) if before.shape == predicted.shape else len(predicted)


def export(run: Path, select: Select, file: Path) -> None:
    """Write a finished run's network, parameters and buffers, as safetensors; the file's metadata say what it is.

    Beside it comes its model card, FILE.md.

    Raises:
        CheckpointError: the run is not finished, trains nothing itself, or its weights are gone.
    """
    from safetensors.torch import save

    recipe = load_resolved(run / "recipe.yaml")
    meta = read_object(run / "meta.json", {"commit": str, "decoder": str, "class_names": list, "class_counts": list})
    about = {"run": run.name, "select": select, **description(recipe, meta)}
    weights = plain_weights(recipe, load_run(run, select))
    write_whole(file, save({name: tensor.contiguous() for name, tensor in weights.items()}, metadata=about))
    card = file.with_name(f"{file.name}.md")
    write_whole(card, model_card(run, select, recipe, meta, INPUT))
    print(f"{file}: {recipe.model.name} of {run.name}, {select}; {card.name} describes it")


def main(words: list[str]) -> int:
    what, run, chosen, last = words
    select: Select = "best" if chosen == "best" else "last"
    try:
        if what == "evaluate":
            evaluate(Path(run), select, **json.loads(last), pipe=command_of_process())
        else:
            export(Path(run), select, Path(last))
    except (RunError, ValueError, OSError) as error:
        print(f"launch.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    go_on_unread()
    code = ends_told("launch.py", lambda: main(sys.argv[1:]))
    os._exit(code)  # without waiting for fetching threads or process groups
