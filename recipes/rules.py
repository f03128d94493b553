"""The rules that span several sections of a recipe, which a single field cannot check.

Each rule is a function that returns what is wrong with a recipe as one sentence, or an empty one. A new rule is such a
function and a line of `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.backbones.facts import facts_of, library_of, unfit
from recipes.common import search_path
from recipes.common.cli import nearest
from recipes.common.errors import RecipeError, TooManyTasks
from recipes.declarations import Declaration, declaration, in_words, model_forms, within
from recipes.schema import Recipe
from recipes.values import argument


@dataclass(frozen=True)
class Rule:
    """One thing that a recipe must not be.

    Attributes:
        fault: says what is wrong with a recipe; empty where it keeps the rule.
        error: what is raised with that sentence.
    """

    fault: Callable[[Recipe], str]
    error: type[RecipeError] = RecipeError


def check(recipe: Recipe) -> None:
    """Raise the error of the first rule that a recipe breaks.

    Raises:
        RecipeError: one sentence that says what is wrong and what would be legal.
    """
    for rule in RULES:
        if sentence := rule.fault(recipe):
            raise rule.error(sentence)


# -------------------------------------------------------------------------------------------------------------- values
def epoch_of(milestone: float, epochs: int) -> int:
    """Return the epoch that a fraction of the epochs means, or (from 1 on) the epoch itself."""
    return int(milestone) if milestone >= 1 else epoch_at(milestone, epochs)


def epoch_at(fraction: float, epochs: int) -> int:
    """Return the epoch (0-based) that a fraction of all epochs means; 1 and more lie behind the last."""
    return int(fraction * epochs + 1e-9)


def epochs_of(milestones: Sequence[float], epochs: int) -> list[int]:
    """Return the epochs that fractions of the epochs mean; in a short run several may fall on one."""
    return [epoch_of(milestone, epochs) for milestone in milestones]


def method_args(recipe: Recipe) -> dict[str, Any]:
    """Return all arguments of the method: the recipe's, and its file's defaults for the rest."""
    usual = _declared(recipe).args(recipe.preset)
    return {key: argument(recipe.method.args.get(key, default), type(default)) for key, default in usual.items()}


def _declared(recipe: Recipe) -> Declaration:
    return declaration(recipe.method.name)


def _groups(recipe: Recipe) -> int:
    """Count the groups of a batch, of batch normalisation or micro batches; one without groups counts as one."""
    return recipe.batch.size // recipe.batch.group if recipe.batch.group else 1


# -------------------------------------------------------------------------------------------------------------- epochs
def kept_epochs(recipe: Recipe) -> str:
    """Require that the checkpoints to keep are of epochs that the run has."""
    return _no_epochs("log.keep", recipe.log.keep or [], recipe.schedule.epochs)


def _no_epochs(key: str, given: Sequence[float], epochs: int) -> str:
    """Say that one of several milestones is no epoch of the run; a number from 1 on is an epoch, and whole."""
    if all(0 <= milestone < epochs and _is_epoch(milestone) for milestone in given):
        return ""
    return (
        f"{key}={given} is not legal: whole epochs from 0 to {epochs - 1} or fractions of schedule.epochs={epochs} are"
    )


def _is_epoch(milestone: float) -> bool:
    return milestone < 1 or milestone == int(milestone)


_MOST_EPOCHS = 1000
"""Up to this many epochs a legal number is looked for, for a message."""


def _misplaced(key: str, milestones: Sequence[float], epochs: int, apart: bool, whole: bool = True) -> str:
    """Say that milestones are no epochs, do not rise, fall on one where they must stay `apart`, or come too late.

    Where they need not be `whole`, one may lie between two epochs.
    """
    if any(milestone < 0 or (whole and not _is_epoch(milestone)) for milestone in milestones):
        return _no_epochs(key, milestones, epochs)
    found = epochs_of(milestones, epochs)
    if _is_placed(found, epochs, apart):
        return ""
    more = range(epochs + 1, _MOST_EPOCHS)
    legal = next((n for n in more if _is_placed(epochs_of(milestones, n), n, apart)), 0)
    return (
        f"{key}={milestones} are the epochs {found} of schedule.epochs={epochs}: they must "
        f"{'differ' if apart else 'rise'} and lie before the last"
        + (f"; schedule.epochs={legal} is the next legal number" if legal else "")
    )


def _is_placed(found: list[int], epochs: int, apart: bool) -> bool:
    return found == sorted(set(found) if apart else found) and (not found or found[-1] < epochs)


def milestones(recipe: Recipe) -> str:
    """Require that IFL's milestones are distinct epochs."""
    return _misplaced("ifl.milestones", recipe.ifl.milestones, recipe.schedule.epochs, apart=True) if recipe.ifl else ""


def class_means(recipe: Recipe) -> str:
    """Require an epoch in which features are seen, where centers start from class means."""
    if not recipe.ifl or recipe.ifl.center_init != "class_means":
        return ""
    if epochs_of(recipe.ifl.milestones, recipe.schedule.epochs)[:1] not in ([], [0]):
        return ""
    return f"ifl.center_init=class_means needs an epoch before the first of ifl.milestones={recipe.ifl.milestones}"


def drops(recipe: Recipe) -> str:
    """Require that the epochs of the learning rate's drops rise."""
    schedule = recipe.schedule
    if schedule.decay != "steps":
        return ""
    return _misplaced("schedule.drops", schedule.drops, schedule.epochs, apart=False, whole=schedule.by == "epoch")


def warmup(recipe: Recipe) -> str:
    """Require that the learning rate's rise ends before the run."""
    schedule = recipe.schedule
    if schedule.warmup < schedule.epochs:
        return ""
    return f"schedule.warmup={schedule.warmup} must be less than schedule.epochs={schedule.epochs}"


# ----------------------------------------------------------------------------------------------------------- optimiser
OPTIMISERS = ("sgd", "adamw", "lars")
OPTIMISERS_OF = {"momentum": ("sgd", "lars"), "betas": ("adamw",), "eps": ("adamw",)}
"""Keys of `optim` that only some optimisers have."""


def optimiser_keys(recipe: Recipe) -> str:
    """Refuse what the optimiser does not have."""
    optim = recipe.optim
    for key, names in OPTIMISERS_OF.items():
        value = getattr(optim, key)
        if value is not None and optim.name not in names:
            return (
                f"optim.{key}={list(value) if isinstance(value, tuple) else value} is a value of "
                f"optim.name={' and '.join(names)}, and this is {optim.name}: leave it out"
            )
    return ""


def lars_whole(recipe: Recipe) -> str:
    """Refuse LARS where no rank holds a whole layer."""
    if recipe.optim.name != "lars" or not recipe.optim.zero:
        return ""
    return (
        "optim.name=lars takes the norm of each layer, and optim.zero=1 lays all layers end to end and cuts them: "
        "optim.zero=0 is legal"
    )


def label_smoothing(recipe: Recipe) -> str:
    """Refuse smoothed labels where the method's loss has no place for them."""
    if not recipe.optim.label_smoothing or _declared(recipe).SMOOTHS:
        return ""
    return (
        f"optim.label_smoothing={recipe.optim.label_smoothing} needs a softmax cross-entropy, and the method "
        f"{recipe.method.name} declares none (SMOOTHS = True in its file): optim.label_smoothing=0 is legal"
    )


# ------------------------------------------------------------------------------------------------- the method's demands
def model_exists(recipe: Recipe) -> str:
    """Require that the backbone is a file of ifl/models or a network of a library, and takes its arguments."""
    model = recipe.model
    if library_of(model.name):
        facts_of(model.name, model.args)  # refuses what is not there
        return ""
    if model.args:
        return (
            f"model.args.{next(iter(model.args))} is for networks of libraries, and model.name="
            f"{model.name} is a file, which holds what it is: leave it out"
        )
    return search_path.fault(search_path.MODELS, model.name, "model.name")


OF_THE_NETWORK = ("train", "rank", "drop_path")
"""Keys of `model` that not every network allows."""


def network_fits(recipe: Recipe) -> str:
    """Require that a library's network takes the images, in the method's form, and groups as it needs them."""
    model, batch = recipe.model, recipe.batch
    if not library_of(model.name):
        return ""
    normalises = facts_of(model.name, model.args).normalises
    if normalises and not batch.bn:
        return (
            f"batch.bn=0 is for a network without batch normalisation, and {model.name} has it: set batch.bn to the "
            "samples of a group"
        )
    if batch.bn and not normalises:
        return (
            f"batch.bn={batch.bn} is for batch normalisation, which {model.name} has not: batch.bn=0 with "
            f"batch.micro={batch.bn} is legal"
        )
    usual = type(model)()
    more = {key: getattr(model, key) for key in OF_THE_NETWORK if getattr(model, key) != getattr(usual, key)}
    return unfit(model.name, model.args, _declared(recipe).FORM, recipe.data.image_size, more)


def method_exists(recipe: Recipe) -> str:
    """Require that the method is a file of ifl/methods."""
    return search_path.fault(search_path.METHODS, recipe.method.name, "method.name")


def network_form(recipe: Recipe) -> str:
    """Require that the backbone comes in the form that the method needs."""
    form, forms = _declared(recipe).FORM, model_forms(recipe.model.name, recipe.model.args)
    if form in forms:
        return ""
    if library_of(recipe.model.name):
        return unfit(recipe.model.name, recipe.model.args, form, recipe.data.image_size)
    return (
        f"the method {recipe.method.name} needs a network of {form}, and model.name={recipe.model.name} comes as "
        f"{', '.join(forms)}"
    )


def combinations(recipe: Recipe) -> str:
    """Refuse the switches that the method's file refuses; it says why."""
    refused = _declared(recipe).REFUSES
    for key, on in (
        ("ifl", recipe.ifl),
        ("mixup", recipe.augment.mixup),
        ("legacy_count_order", recipe.method.legacy_count_order),
    ):
        if on and key in refused:
            return f"the method {recipe.method.name} cannot be combined with {key}: {refused[key]}"
    return ""


def count_order(recipe: Recipe) -> str:
    """Refuse an order of the class counts where the method does not read them."""
    if not recipe.method.legacy_count_order or _declared(recipe).COUNTS:
        return ""
    return (
        f"method.legacy_count_order=true would change nothing in the method {recipe.method.name}, which reads no class "
        "counts: leave it out"
    )


def environments(recipe: Recipe) -> str:
    """Require two environments where the method compares them."""
    needs = _declared(recipe).NEEDS
    if "environments" not in needs or (recipe.ifl and recipe.ifl.environments > 1):
        return ""
    return f"the method {recipe.method.name} needs ifl.environments=2 or more: {needs['environments']}"


def whole_groups(recipe: Recipe) -> str:
    """Require at most a rank for each group where the method needs all rows of a group."""
    needs, groups = _declared(recipe).NEEDS, _groups(recipe)
    if "whole_groups" not in needs or recipe.tasks <= groups:
        return ""
    return (
        f"the method {recipe.method.name} cannot share a batch-normalisation group among ranks: "
        f"{needs['whole_groups']}; at most {groups} tasks are legal here"
        f"{'' if recipe.batch.group else ', or batch.micro, which makes groups'}"
    )


# ---------------------------------------------------------------------------------------------------------- what trains
def small_additions(recipe: Recipe) -> str:
    """Refuse the size of what nothing adds to the network."""
    model = recipe.model
    for key, value in (("rank", model.rank), ("alpha", model.alpha)):
        if value is not None and model.train not in ("lora", "adapter"):
            return (
                f"model.{key}={value} would change nothing with model.train={model.train}: it is legal with lora and "
                "adapter"
            )
    return ""


def depth_of_fixed(recipe: Recipe) -> str:
    """Refuse stochastic depth in a backbone that does not train."""
    if recipe.model.drop_path is None or recipe.model.train != "head":
        return ""
    return (
        f"model.drop_path={recipe.model.drop_path} would change nothing with model.train=head, whose backbone is used "
        "as in evaluation: leave it out"
    )


def center_term_alone(recipe: Recipe) -> str:
    """Refuse IFL where nothing of it is left: fixed features have no gradient, and nothing is drawn otherwise."""
    if not recipe.ifl or recipe.model.train != "head" or recipe.ifl.environments > 1:
        return ""
    return (
        "ifl.environments=1 leaves the center term alone, and with model.train=head the features that it pulls do not "
        "move: ifl.environments=2 or more is legal, or another model.train"
    )


def features_once(recipe: Recipe) -> str:
    """Require a backbone that does not move, and nothing done to pixels, where features take the images' place."""
    data, augment = recipe.data, recipe.augment
    if data.features == "none":
        return f"data.feature_views={data.feature_views} is of data.features=once" if data.feature_views else ""
    if recipe.model.train != "head":
        return (
            f"data.features=once needs a backbone that does not train, and model.train={recipe.model.train} moves its "
            "features: model.train=head is legal"
        )
    if augment.mixup:
        return "augment.mixup mixes pixels, and data.features=once reads none: leave one of the two out"
    for key, on in (("augment.randaug", augment.randaug), ("data.cache_short_side", data.cache_short_side)):
        if on and not data.feature_views:
            return idle_in_a_clean_view(key)
    return ""


def idle(recipe: Recipe) -> dict[str, str]:
    """Return the keys that nothing reads in a recipe, but that may have values there, each with the sentence."""
    data, found = recipe.data, {}
    if data.features == "once" and not data.feature_views:
        found = {key: idle_in_a_clean_view(key) for key in ("augment.crop_scale", "augment.hflip")}
    if recipe.trains and recipe.schedule.decay != "steps":
        found |= {
            key: f"{key} would change nothing with schedule.decay={recipe.schedule.decay}: it is legal with steps"
            for key in ("schedule.drops", "schedule.gamma")
        }
    if recipe.trains and not recipe.augment.randaug:
        found["augment.randaug_pixels"] = (
            "augment.randaug_pixels would change nothing without RandAug: it is legal with augment.randaug=true"
        )
    if recipe.trains and recipe.streams == 1 and recipe.batch.bn_by == "env":
        found["batch.bn_by"] = "batch.bn_by=env would change nothing with one stream: batch.bn_by=mix is legal"
    return found


def idle_in_a_clean_view(key: str) -> str:
    """Say that a key of training images changes nothing in their test crops."""
    return (
        f"{key} would change nothing with data.features=once and its one clean view: "
        "data.feature_views=4 computes four augmented ones"
    )


def evaluator(recipe: Recipe) -> str:
    """Refuse an evaluator where it would have other inputs than the run's ranks."""
    if recipe.log.eval == "job" and recipe.data.features == "once":
        return (
            "log.eval=job evaluates images, and data.features=once reads features, of which an evaluation costs next "
            "to nothing: log.eval=inline is legal"
        )
    return ""


# --------------------------------------------------------------------------------------------------------------- mixup
def mixup_groups(recipe: Recipe) -> str:
    """Require groups of two rows or more where mixup forms pairs in them."""
    batch = recipe.batch
    if not recipe.augment.mixup or batch.group > 1:
        return ""
    if batch.group:
        return (
            f"mixup forms pairs inside a group of the batch, and {batch.group_key}=1 leaves each row alone: a group of "
            "2 rows or more is legal"
        )
    return (
        "mixup forms pairs inside a batch-normalisation group, so that a step is the same on any number of ranks, and "
        "batch.bn=0 leaves none: batch.micro is legal there, which makes groups"
    )


def mixup_shares(recipe: Recipe) -> str:
    """Require that ranks which share a group hold whole blocks, so that a row and its mixup partner are on one rank."""
    groups, blocks, tasks = _groups(recipe), recipe.mixup_blocks, recipe.tasks
    if not recipe.augment.mixup or tasks <= groups or not (tasks % groups or blocks % (tasks // groups)):
        return ""
    legal = [
        *(ranks for ranks in range(1, groups) if groups % ranks == 0),
        *(groups * sharing for sharing in range(1, blocks + 1) if blocks % sharing == 0),
    ]
    return (
        f"mixup draws partners inside blocks, {blocks} in each of the {groups} batch-normalisation groups, which "
        f"{tasks} tasks cannot share whole: {', '.join(map(str, legal))} tasks are legal here"
    )


def mixup_environments(recipe: Recipe) -> str:
    """Require several environments in a group where mixup pairs rows across them."""
    if not (recipe.augment.mixup and recipe.ifl and recipe.batch.bn_by == "env"):
        return ""
    return (
        "mixup forms pairs across environments inside a batch-normalisation group, and batch.bn_by=env leaves one "
        "environment to a group: batch.bn_by=mix is legal"
    )


# -------------------------------------------------------------------------------------------------- streams and stages
def paired_streams(recipe: Recipe) -> str:
    """Require both streams in a group where a method of two branches pairs their rows."""
    if _declared(recipe).FORM != "branches" or recipe.batch.bn_by != "env":
        return ""
    return (
        f"the method {recipe.method.name} pairs rows of its two streams, and batch.bn_by=env leaves one stream to a "
        "group: batch.bn_by=mix is legal"
    )


def paired_rows(recipe: Recipe) -> str:
    """Require groups where several ranks share a batch whose rows are pairs: a rank's plain share holds no pairs."""
    if _declared(recipe).FORM != "branches" or recipe.batch.group or recipe.tasks == 1:
        return ""
    return (
        f"the method {recipe.method.name} pairs rows of its two streams, and with batch.bn=0 and no batch.micro a "
        f"task's share of the batch holds no whole pairs: with {recipe.tasks} tasks batch.micro is legal, which makes "
        "groups"
    )


def first_stage(recipe: Recipe) -> str:
    """Require a trained backbone where the method trains only the classifier."""
    if _declared(recipe).TRAINS != "head" or recipe.method.init_from:
        return ""
    return (
        f"the method {recipe.method.name} trains the classifier alone: method.init_from must name the recipe of its "
        "first stage, such as glt_baseline"
    )


def one_source(recipe: Recipe) -> str:
    """Refuse two ways at once to build on another run."""
    if not (recipe.method.init_from and recipe.method.eval_of):
        return ""
    return (
        "method.init_from and method.eval_of exclude each other: the one is trained further, the other judged as it is"
    )


def nothing_trained(recipe: Recipe) -> str:
    """Refuse what changes training in a run that only evaluates another's weights."""
    for key, on, trained in (
        ("ifl", recipe.ifl, "glt_ifl"),
        ("augment.mixup", recipe.augment.mixup, "glt_mixup"),
        ("augment.randaug", recipe.augment.randaug, "glt_randaug"),
    ):
        if on and recipe.method.eval_of:
            return (
                f"{key} cannot be combined with method.eval_of={recipe.method.eval_of}: nothing is trained; name "
                f"{trained} in method.eval_of instead"
            )
    return ""


def class_vectors(recipe: Recipe) -> str:
    """Require a file of class vectors where the method needs one, and that a classifier starts from one source."""
    method, needs = recipe.method, _declared(recipe).NEEDS
    if method.text is None:
        if "text" in needs:
            return (
                f"the method {method.name} needs method.text=FILE: {needs['text']}; python -m ifl.clip makes the file"
            )
        return ""
    for key, source in (("init_from", method.init_from), ("eval_of", method.eval_of)):
        if source:
            return (
                f"method.text cannot be combined with method.{key}={source}, whose classifier or backbone is what the "
                f"method {method.name} starts from: give it to that run instead"
            )
    return ""


def judged_as_it_starts(recipe: Recipe) -> str:
    """Refuse what changes training where nothing is ever trained, and require weights that another trained."""
    model, augment, name = recipe.model, recipe.augment, recipe.method.name
    if recipe.trains or recipe.method.eval_of:
        return ""
    for key, on, off in (
        ("ifl", recipe.ifl, "null"),
        ("augment.mixup", augment.mixup, "null"),
        ("augment.randaug", augment.randaug, "false"),
        ("model.train", model.train != "all", "all"),
        ("model.drop_path", model.drop_path, "null"),
        ("optim.ema", recipe.optim.ema, "0"),
        ("data.features", recipe.data.features != "none", "none"),
    ):
        if on:
            return f"{key} cannot be combined with the method {name}, which trains nothing: {key}={off} is legal"
    # A user's own file may read its weights itself.
    if model.weights or model.weights_sha256 or search_path.find_own(search_path.MODELS, model.name):
        return ""
    return f"the method {name} trains nothing, and {model.name} starts at random: it needs model.weights=FILE"


def uniform_stream(recipe: Recipe) -> str:
    """Require a uniform stream where environments are to take its place."""
    if not recipe.ifl or "uniform" in _declared(recipe).STREAMS:
        return ""
    return (
        f"the method {recipe.method.name} cannot be combined with ifl: it draws no uniform stream that environments "
        "could replace; give ifl to its first stage"
    )


def arguments(recipe: Recipe) -> str:
    """Require that the method's arguments are those of its file, and of the same type."""
    name, usual = recipe.method.name, _declared(recipe).args(recipe.preset)
    for key, value in recipe.method.args.items():
        if key not in usual:
            legal = nearest(key, list(usual)) if usual else f"the method {name} has no arguments"
            return f"unknown key method.args.{key}: {legal}"
        wanted = type(usual[key])
        try:
            argument(value, wanted)
        except ValueError:
            return (
                f"method.args.{key}={value} is not legal: {name} takes a {wanted.__name__} there, such as {usual[key]}"
            )
        if not within(argument(value, wanted), limits := _declared(recipe).limits(key)):
            return (
                f"method.args.{key}={value} is not legal: {name} takes {in_words(limits)} there, such as {usual[key]}"
            )
    return ""


def argument_fractions(recipe: Recipe) -> str:
    """Refuse an epoch of the run where the method takes a fraction of all; from the run's end on both are one."""
    given, epochs, usual = method_args(recipe), recipe.schedule.epochs, _declared(recipe).args(recipe.preset)
    for key in _declared(recipe).FRACTIONS:
        if 1 < given[key] < epochs:
            return (
                f"method.args.{key}={given[key]} is not legal: {recipe.method.name} takes a fraction of "
                f"schedule.epochs={epochs} there and no epoch, such as {usual[key]}, or 1 for all of them"
            )
    return ""


def divisible(recipe: Recipe) -> str:
    """Require that a batch and its groups divide among the environments."""
    batch, streams = recipe.batch, recipe.streams
    if batch.bn_by == "env":
        if not batch.group:
            return (
                "batch.bn_by=env gives each group one environment, and batch.bn=0 leaves no groups: batch.micro is "
                "legal there, which makes groups, or batch.bn_by=mix"
            )
        if batch.size % (streams * batch.group) == 0:
            return ""
        return (
            f"batch.size={batch.size} with batch.bn_by=env is no multiple of {streams} environments x "
            f"{batch.group_key}={batch.group}, and batch.size={batch.size + -batch.size % (streams * batch.group)} is "
            "legal"
        )
    held = batch.group or batch.size
    if held % streams == 0:
        return ""
    legal, key = held + -held % streams, batch.group_key if batch.group else "batch.size"
    advice = f"batch.size={legal * _groups(recipe)}" + (f" {key}={legal}" if batch.group else "")
    return f"{key}={held} is no multiple of the {streams} environments, and {advice} is legal"


RULES = (
    Rule(kept_epochs),
    Rule(model_exists),
    Rule(method_exists),
    Rule(network_form),
    Rule(combinations),
    Rule(count_order),
    Rule(environments),
    Rule(whole_groups, TooManyTasks),
    Rule(small_additions),
    Rule(depth_of_fixed),
    Rule(center_term_alone),
    Rule(features_once),
    Rule(evaluator),
    Rule(mixup_groups),
    Rule(mixup_shares, TooManyTasks),
    Rule(mixup_environments),
    Rule(paired_streams),
    Rule(paired_rows, TooManyTasks),
    Rule(first_stage),
    Rule(one_source),
    Rule(nothing_trained),
    Rule(class_vectors),
    Rule(judged_as_it_starts),
    Rule(uniform_stream),
    Rule(milestones),
    Rule(class_means),
    Rule(drops),
    Rule(warmup),
    Rule(optimiser_keys),
    Rule(lars_whole),
    Rule(label_smoothing),
    Rule(arguments),
    Rule(argument_fractions),
    Rule(divisible),
    Rule(network_fits),
)
"""All rules, in the order in which they are told."""
