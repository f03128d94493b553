"""Whether a run's network can be built with its files, asked of a process with torch before anything is submitted.

Networks of libraries by themselves are a matter of rules (recipes/rules.py); this is about files of weights and of
text, and about what is added to a network of ifl/models.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from recipes.backbones.facts import Unanswered, answer, library_of
from recipes.code.digest import code_digests
from recipes.schema import Recipe

ASKED = "ifl.pretrained.start_check"
"""The module that answers."""


def start_fault(recipe: Recipe) -> str:
    """Say why a new run cannot start with its network and files.

    Returns:
        One sentence; empty where it can, where there is nothing to try, and where nobody could say.
    """
    if not _has_something_to_try(recipe) or (recipe.run_folder / "meta.json").exists():
        return ""
    code = code_digests(recipe)
    return _asked(json.dumps(_sections(recipe), sort_keys=True), f"{code['model']} {code['method']}")


def _has_something_to_try(recipe: Recipe) -> bool:
    model, method = recipe.model, recipe.method
    builds_on = method.init_from or method.eval_of  # whose weights it takes instead
    if (model.weights and not builds_on) or method.text:
        return True
    adds = model.train in ("lora", "adapter", "norm") or model.drop_path is not None
    return not library_of(model.name) and (adds or not recipe.batch.bn)


def _sections(recipe: Recipe) -> dict[str, Any]:
    """Return the parts of a recipe on which its network depends; runs that share them are asked about once."""
    whole = recipe.model_dump(mode="json")
    # Of the run that it starts from only counts that there is one: each seed has another.
    other = {key: "a-run" for key in ("init_from", "eval_of") if whole["method"][key]}
    data = {key: whole["data"][key] for key in ("name", "image_size", "mean", "std")}
    batch = {key: whole["batch"][key] for key in ("size", "bn", "micro")}
    return {"model": whole["model"], "method": whole["method"] | other, "data": data, "batch": batch}


@functools.cache  # a table has many runs on one network
def _asked(sections: str, code: str) -> str:
    try:
        return str(answer(ASKED, sections, code).get("fault", ""))
    except Unanswered:
        return ""  # without torch here, or with too little memory: the run's own start says it
