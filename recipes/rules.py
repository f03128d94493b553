"""What spans several sections of a recipe: rules that a single field cannot check."""

from __future__ import annotations

from typing import Any

from recipes.common.cli import nearest
from recipes.common.errors import RecipeError, TooManyTasks
from recipes.declarations import declaration, model_forms
from recipes.schema import Recipe


def epochs_of(key: str, milestones: list[int | float], epochs: int, apart: bool = True) -> list[int]:
    """Fractions of the epochs as epochs; in a short run several may fall on one, unless they must stay `apart`."""
    found = [epoch_of(m, epochs) for m in milestones]
    if found != sorted(set(found) if apart else found) or (found and found[-1] >= epochs):
        raise RecipeError(
            f"{key}={milestones} are the epochs {found} of schedule.epochs={epochs}: they must {'differ' if apart else 'rise'} and lie before the last"
        )
    return found


def method_args(recipe: Recipe) -> dict[str, Any]:
    """All arguments of the method, written out: the recipe's, and its file's defaults for the rest."""
    name, usual = recipe.method.name, declaration(recipe.method.name).args(recipe.preset)
    for key, value in recipe.method.args.items():
        if key not in usual:
            raise RecipeError(
                f"unknown key method.args.{key}: {nearest(key, list(usual)) if usual else f'the method {name} has no arguments'}"
            )
        wanted = type(usual[key])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise RecipeError(
                f"method.args.{key}={value} is not legal: {name} takes a {wanted.__name__} there, such as {usual[key]}"
            )
    return {key: type(default)(recipe.method.args.get(key, default)) for key, default in usual.items()}


def check_method(recipe: Recipe) -> None:
    """What a method refuses or needs, with its reason; and a second stage needs a first."""
    method, declared = recipe.method, declaration(recipe.method.name)
    if declared.FORM not in model_forms(recipe.model.name):
        raise RecipeError(
            f"the method {method.name} needs a network of {declared.FORM}, and model.name={recipe.model.name} comes as {', '.join(model_forms(recipe.model.name))}"
        )
    for key, on in (
        ("ifl", recipe.ifl),
        ("mixup", recipe.augment.mixup),
        ("legacy_count_order", method.legacy_count_order),
    ):
        if on and key in declared.REFUSES:
            raise RecipeError(f"the method {method.name} cannot be combined with {key}: {declared.REFUSES[key]}")
    if method.legacy_count_order and not declared.COUNTS:
        raise RecipeError(
            f"method.legacy_count_order=true would change nothing in the method {method.name}, which reads no class counts: leave it out"
        )
    if "environments" in declared.NEEDS and not (recipe.ifl and recipe.ifl.environments > 1):
        raise RecipeError(
            f"the method {method.name} needs ifl.environments=2 or more: {declared.NEEDS['environments']}"
        )
    groups = recipe.batch.size // recipe.batch.bn if recipe.batch.bn else 1
    if "whole_groups" in declared.NEEDS and recipe.tasks > groups:
        raise TooManyTasks(
            f"the method {method.name} cannot share a batch-normalisation group among ranks: {declared.NEEDS['whole_groups']}; at most {groups} tasks are legal here"
        )
    if recipe.augment.mixup and not recipe.batch.bn:
        raise RecipeError(
            "mixup forms pairs inside a batch-normalisation group, so that a step is the same on any number of ranks, and batch.bn=0 leaves none"
        )
    if (
        recipe.augment.mixup
        and recipe.tasks > groups
        and (recipe.tasks % groups or recipe.mixup_blocks % (recipe.tasks // groups))
    ):
        legal = [ranks for ranks in range(1, groups) if groups % ranks == 0] + [
            groups * sharing for sharing in range(1, recipe.mixup_blocks + 1) if recipe.mixup_blocks % sharing == 0
        ]
        raise TooManyTasks(
            f"mixup draws partners inside blocks, {recipe.mixup_blocks} in each of the {groups} batch-normalisation groups, which {recipe.tasks} tasks cannot share whole: {', '.join(map(str, legal))} tasks are legal here"
        )
    if recipe.augment.mixup and recipe.ifl and recipe.batch.bn_by == "env":
        raise RecipeError(
            "mixup forms pairs across environments inside a batch-normalisation group, and batch.bn_by=env leaves one environment to a group: batch.bn_by=mix is legal"
        )
    if declared.FORM == "branches" and recipe.batch.bn_by == "env":
        raise RecipeError(
            f"the method {method.name} pairs rows of its two streams, and batch.bn_by=env leaves one stream to a group: batch.bn_by=mix is legal"
        )
    if declared.TRAINS == "head" and not method.init_from:
        raise RecipeError(
            f"the method {method.name} trains the classifier alone: method.init_from must name the recipe of its first stage, such as glt_baseline"
        )
    if method.init_from and method.eval_of:
        raise RecipeError(
            "method.init_from and method.eval_of exclude each other: the one is trained further, the other judged as it is"
        )
    if method.eval_of:
        for key, on, trained in (
            ("ifl", recipe.ifl, "glt_ifl"),
            ("augment.mixup", recipe.augment.mixup, "glt_mixup"),
            ("augment.randaug", recipe.augment.randaug, "glt_randaug"),
        ):
            if on:
                raise RecipeError(
                    f"{key} cannot be combined with method.eval_of={method.eval_of}: nothing is trained; name {trained} in method.eval_of instead"
                )
    if recipe.ifl and "uniform" not in declared.STREAMS:
        raise RecipeError(
            f"the method {method.name} cannot be combined with ifl: it draws no uniform stream that environments could replace; give ifl to its first stage"
        )


def check_streams(recipe: Recipe) -> None:
    """A batch and its groups must divide among the environments."""
    batch, streams = recipe.batch, recipe.streams
    if batch.bn_by == "env":
        if not batch.bn or batch.size % (streams * batch.bn):
            raise RecipeError(
                f"batch.size={batch.size} with batch.bn_by=env is no multiple of {streams} environments x batch.bn={batch.bn}"
            )
    elif (batch.bn or batch.size) % streams:
        key = f"batch.bn={batch.bn}" if batch.bn else f"batch.size={batch.size}"
        raise RecipeError(
            f"{key} is no multiple of the {streams} environments; for 3 environments batch.size=258 batch.bn=129 is legal"
        )


def epoch_of(milestone: float, epochs: int) -> int:
    """A fraction of the epochs, or (from 1 on) an epoch itself."""
    return int(milestone) if milestone >= 1 else int(milestone * epochs + 1e-9)
