"""The model card that `export=` writes beside the weights: data, budget, recipe, numbers, limits, of the run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ifl.evaluator import scores
from recipes.common.errors import DataError, one_line
from recipes.common.json_text import read_object
from recipes.identity import science
from recipes.schema import Recipe
from sharding.format.index import load_npz

Z95 = 1.959963984540054
"""The normal distribution's 97.5th percentile."""
GROUPS = ("overall", "many", "medium", "few")
PAGE = """\
# {model}, trained by {method} on {data}

Weights of the run `{run}`, {select}{averaged}. Written from the run folder.

## Data

- Data set `{data}`, edition `{train}`: {classes} classes, {images:,} training images, {largest:,} of the largest class
  and {smallest:,} of the smallest. Fingerprint `{fingerprint}`.
- Licence of the images: the run folder does not say; `croissant.json` beside the data may.

## Training

- {epochs} epochs of {steps} steps of {batch} images: {seen:,} images; budget `{budget}`, seed {seed}, preset
  `{preset}`.
- {cost}
{first}- Code at commit `{commit}`; {versions}.

## Numbers

{numbers}

Percent. The interval of the overall accuracy is Wilson's at 95 %, over test samples: it does not hold what another seed
would give. Other numbers have none here. {selection}

## Use and limits

- {input}.
- It tells the {classes} classes of its training set apart and says one of them for every image, whatever it shows.
- One run of one seed. It was judged on the splits above and on nothing else: not under other cameras, attributes or
  shares of classes, nor for fairness or safety.
- The columns many, medium and few say how well classes with many and with few training images are recognized.
- Confidences are the softmax's maximum, not calibrated.

## Recipe

Every science value:

```json
{science}
```
"""
SELECTION = {
    "last": "The last epoch was taken, so no split chose the weights.",
    "best": "The epoch of highest accuracy on val was taken, so the numbers on val are too high.",
}


def model_card(run: Path, select: str, recipe: Recipe, meta: Mapping[str, Any], input_said: str) -> str:
    """Return the card as Markdown.

    Args:
        run: the finished run's folder.
        select: `last` or `best`.
        recipe: the run's.
        meta: the content of its meta.json.
        input_said: what the network is given, in words.

    Raises:
        DataError: its `done` is damaged.
    """
    done, counts, steps = read_object(run / "done", {}), meta["class_counts"], int(meta.get("steps_per_epoch", 0))
    epochs = int(done.get("epochs", recipe.schedule.epochs))
    versions = meta.get("versions")
    source = recipe.method.init_from
    return PAGE.format(
        model=recipe.model.name,
        method=recipe.method.name + (" with IFL" if recipe.ifl else ""),
        data=recipe.data.name,
        run=run.name,
        select={"last": "last epoch", "best": "best epoch on val"}[select],
        averaged=f", the moving average with decay {recipe.optim.ema}" if recipe.optim.ema else "",
        train=recipe.train,
        classes=len(counts),
        images=sum(counts),
        largest=max(counts),
        smallest=min(counts),
        fingerprint=meta.get("data_fingerprint", "not on record"),
        epochs=epochs,
        steps=steps,
        batch=recipe.batch.size,
        seen=epochs * steps * recipe.batch.size,
        budget=recipe.batch.budget,
        seed=recipe.seed,
        preset=recipe.preset,
        cost=_cost(meta, done),
        first=f"- It started from the weights of `{source}`, whose training comes on top.\n" if source else "",
        commit=meta["commit"],
        versions=", ".join(f"{k} {v}" for k, v in versions.items())
        if isinstance(versions, dict)
        else "versions unknown",
        numbers=_numbers(run / "preds" / select),
        selection=SELECTION[select],
        input=input_said,
        science=json.dumps(science(recipe), indent=1, sort_keys=True),
    )


def wilson(right: int, samples: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, as fractions."""
    share, z2 = right / samples, Z95**2
    middle = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = Z95 / (1 + z2 / samples) * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2))
    return middle - half, middle + half


def _cost(meta: Mapping[str, Any], done: Mapping[str, Any]) -> str:
    """Say how long the steps that were kept took, and on what."""
    hours = float(done.get("wall_s", 0.0)) / 3600
    machine = meta.get("machine")
    known = machine if isinstance(machine, dict) else {}
    processor = known.get("processor_model") or (f"{known['processor']} processor" if "processor" in known else "")
    on = ", ".join(filter(None, (processor, f"{known['cores']} cores" if "cores" in known else "")))
    device = meta.get("device", "device not on record")
    return f"{hours:.3g} hours on {meta.get('world', 1)} x {device} ({on or 'machine not on record'})."


def _numbers(folder: Path) -> str:
    """Return the table of accuracy by split and class group; below it which splits cannot be read, and which have
    several images of one source, as far as the predictions say.
    """
    lines = ["| split | samples | accuracy | 95 % | many | medium | few | precision |", f"|---|{'---:|' * 7}"]
    remarks = []
    for file in sorted(folder.glob("*.npz")):
        try:
            found = load_npz(file)
            scored = scores(found)
        except (DataError, KeyError, ValueError) as error:
            remarks.append(f"- {file.stem} cannot be read: {one_line(str(error))}.")
            continue
        samples = len(found["label"])
        if "source" in found and (sources := len(np.unique(found["source"]))) < samples:
            remarks.append(
                f"- {file.stem}: {samples:,} images of {sources:,} sources. The interval takes them as independent, so "
                "it is too narrow."
            )
        low, high = wilson(int((found["label"] == found["prediction"]).sum()), samples)
        accuracy = [_percent(scored["accuracy"][group]) for group in GROUPS]
        cells = [file.stem, str(samples), accuracy[0], f"{_percent(low)} to {_percent(high)}", *accuracy[1:]]
        lines.append(f"| {' | '.join([*cells, _percent(scored['precision']['overall'])])} |")
    return "\n".join([*lines, *([""] if remarks else []), *remarks])


def _percent(share: float | None) -> str:
    return "--" if share is None else f"{100 * share:.2f}"
