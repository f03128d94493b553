"""Builds a run's network once before anything is submitted, as its ranks will: with its files, and what is added to it.

The launcher, which imports no torch, runs `python -m ifl.pretrained.start_check SECTIONS` in a process of its own, with
the recipe's sections as JSON. It prints one line of JSON: empty, or with the sentence `fault`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from ifl.clip.class_vectors import read_vectors
from ifl.clip.head_start import start_head
from ifl.network.bn_statistics import RunningStatistics, without_groups
from ifl.network.network import build_network
from recipes.common.errors import UserError
from recipes.schema import Recipe

CLASSES = 10
"""Where no file says how many there are."""


def fault(recipe: Recipe) -> str:
    """Say why a run cannot start with its network and files; empty where it can. Its data are not looked at."""
    try:
        text, method = recipe.method.text, recipe.method
        made = read_vectors(Path(text), None, method.text_sha256) if text else None
        counts = np.arange(len(made.class_names) if made else CLASSES, 0, -1)
        network, _ = build_network(recipe, counts, pretrained=True)
        if made:
            start_head(network.head, made, Path(str(text)), method.name)
    except UserError as error:
        if isinstance(error.__cause__, ImportError):
            raise  # a container or a module may bring what lacks here: the run's start says it
        return str(error)
    normalises = RunningStatistics(network).normalises
    return without_groups(recipe.model.name) if normalises and not recipe.batch.bn else ""


if __name__ == "__main__":
    said = fault(Recipe.model_validate(json.loads(sys.argv[1])))
    print(json.dumps({"fault": said} if said else {}))
