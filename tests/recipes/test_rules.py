"""Each rule of recipes/rules.py refuses what it is there for, with its sentence, and nothing of the table's recipes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from recipes import rules
from recipes.common.errors import RecipeError, TooManyTasks
from recipes.resolve import resolve

BROKEN = {
    "kept_epochs": ("log.keep=[100]", "whole epochs from 0 to 99"),
    "model_exists": ("model.name=resnext51", "model.name=resnext51 does not exist; did you mean"),
    "method_exists": ("method.name=focall", "method.name=focall does not exist; did you mean focal?"),
    "network_form": ("recipe=glt_ride", "needs a network of experts, and model.name=resnext50_32x4d comes as plain"),
    "combinations": ("recipe=glt_bbn ifl.environments=2", "the method bbn cannot be combined with ifl: "),
    "count_order": ("method.legacy_count_order=true", "the method ce, which reads no class counts"),
    "environments": ("recipe=glt_irm ifl=null", "needs ifl.environments=2 or more: "),
    "whole_groups": ("recipe=glt_irm nodes=8", "at most 2 tasks are legal here"),
    "small_additions": ("model.train=head model.rank=4", "it is legal with lora and adapter"),
    "depth_of_fixed": ("model.train=head model.drop_path=.1", "whose backbone is used as in evaluation"),
    "center_term_alone": ("recipe=glt_ifl_1env model.train=head", "ifl.environments=2 or more is legal"),
    "features_once": ("data.features=once model.train=lora", "model.train=head is legal"),
    "mixup_groups": ("augment.mixup=1 batch.bn=0", "batch.bn=0 leaves none"),
    "mixup_shares": ("augment.mixup=1 nodes=6", "which 6 tasks cannot share whole: 1, 2, 4, 8, 16 tasks are legal"),
    "mixup_environments": ("recipe=glt_mixup_ifl batch.bn_by=env", "leaves one environment to a group"),
    "paired_streams": ("recipe=glt_bbn batch.bn_by=env", "leaves one stream to a group"),
    "paired_rows": ("recipe=glt_bbn batch.bn=0 nodes=2", "with 2 tasks batch.micro is legal, which makes groups"),
    "first_stage": ("recipe=glt_crt method.init_from=null", "must name the recipe of its first stage"),
    "one_source": ("method.init_from=glt_ifl method.eval_of=glt_focal", "exclude each other"),
    "nothing_trained": ("method.eval_of=glt_focal augment.mixup=1", "name glt_mixup in method.eval_of instead"),
    "class_vectors": ("recipe=glt_clip_zeroshot", "the method clip_zeroshot needs method.text=FILE: its class vectors"),
    "judged_as_it_starts": (
        "recipe=glt_clip_zeroshot method.text=t.npz",
        "the method clip_zeroshot trains nothing, and resnext50_32x4d starts at random: it needs model.weights=FILE",
    ),
    "uniform_stream": ("recipe=glt_crt ifl.environments=2", "it draws no uniform stream"),
    "milestones": (
        "recipe=glt_ifl schedule.epochs=1",
        "they must differ and lie before the last; schedule.epochs=3 is the next legal number",
    ),
    "class_means": ("recipe=glt_ifl ifl.center_init=class_means ifl.milestones=[0,1]", "needs an epoch before"),
    "drops": ("schedule.decay=steps schedule.drops=[0.8,0.6]", "they must rise and lie before the last"),
    "evaluator": ("log.eval=job data.features=once model.train=head", "log.eval=job evaluates images"),
    "warmup": ("schedule.warmup=100", "schedule.warmup=100.0 must be less than schedule.epochs=100"),
    "optimiser_keys": (
        "optim.betas=[0.9,0.95]",
        "optim.betas=[0.9, 0.95] is a value of optim.name=adamw, and this is sgd: leave it out",
    ),
    "lars_whole": ("optim.name=lars optim.lr=1 optim.zero=1", "optim.zero=0 is legal"),
    "label_smoothing": (
        "recipe=glt_focal optim.label_smoothing=0.1",
        "optim.label_smoothing=0.1 needs a softmax cross-entropy, and the method focal declares none",
    ),
    "arguments": ("method.args.scale=1", "unknown key method.args.scale: the method ce has no arguments"),
    "argument_fractions": (
        "recipe=glt_ldam method.args.reweight_from=80",
        "method.args.reweight_from=80.0 is not legal: ldam takes a fraction of schedule.epochs=100 there and no",
    ),
    "network_fits": ("batch.bn=0", "is for a network without batch normalisation, and resnext50_32x4d has it"),
    "divisible": ("recipe=glt_ifl ifl.environments=3", "batch.bn=128 is no multiple of the 3 environments"),
}
"""Rule -> the words of a recipe that breaks it and no rule before it, and what the sentence says."""


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.fault.__name__)
def test_each_rule_refuses(rule: rules.Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    if rule.fault is rules.network_form:  # every backbone of ours comes in every form
        monkeypatch.setattr(rules, "model_forms", lambda name, args: ("plain",))
    if rule.fault is rules.network_fits:  # a library's network, without asking one
        monkeypatch.setattr(rules, "library_of", lambda name: "timm")
        monkeypatch.setattr(rules, "facts_of", lambda name, args: SimpleNamespace(normalises=True))
    words, said = BROKEN[rule.fault.__name__]
    with pytest.raises(RecipeError) as refused:
        resolve(words.split())
    assert said in str(refused.value)
    assert isinstance(refused.value, TooManyTasks) == (rule.error is TooManyTasks)
    monkeypatch.undo()
    assert rule.fault(resolve(["recipe=glt_baseline"])) == ""


@pytest.mark.parametrize(
    "word, said",
    [
        ("model.train=lora", "model.train cannot be combined with the method clip_zeroshot, which trains nothing"),
        ("model.drop_path=.1", "model.drop_path cannot be combined"),
        (
            "optim.ema=.9",
            "optim.ema cannot be combined with the method clip_zeroshot, which trains nothing: optim.ema=0",
        ),
        ("augment.randaug=true", "augment.randaug cannot be combined with"),
        (
            "ifl.environments=2",
            "ifl cannot be combined with the method clip_zeroshot, which trains nothing: ifl=null is",
        ),
        (
            "method.args.scale=0",
            "method.args.scale=0 is not legal: clip_zeroshot takes more than 0 there, such as 100.0",
        ),
        ("method.args.scale=-5", "method.args.scale=-5 is not legal"),
    ],
)
def test_zero_shot_refuses_what_would_change_nothing(word: str, said: str, tmp_path: Path) -> None:
    """Each of these would give a run another name, or no numbers, and is refused; without it the run is legal."""
    for name in ("text", "weights"):
        (tmp_path / name).write_text(name)
    words = ["recipe=glt_clip_zeroshot", f"method.text={tmp_path}/text", f"model.weights={tmp_path}/weights"]
    assert not resolve(words).trains
    with pytest.raises(RecipeError) as refused:
        resolve([*words, word])
    assert said in str(refused.value)


@pytest.mark.parametrize("words", ["batch.bn=1", "batch.bn=0 batch.micro=1"])
def test_mixup_needs_two_rows_in_a_group(words: str) -> None:
    """In a group of one each row would be its own partner, and nothing would be mixed."""
    with pytest.raises(RecipeError, match=r"batch\.\w+=1 leaves each row alone: a group of 2 rows or more is legal"):
        resolve(["augment.mixup=1", *words.split()])


def test_branches_without_groups_stay_on_one_task() -> None:
    """A batch without groups is cut into plain shares, of which only the whole holds pairs; micro batches hold them."""
    words = ["recipe=glt_bbn", "data=digits_glt", "batch.bn=0"]
    assert resolve(words).tasks == 1
    assert resolve([*words, "nodes=2", "batch.micro=64"]).tasks == 2


@pytest.mark.parametrize("word", ["augment.randaug=true", "data.cache_short_side=40"])
def test_a_clean_view_takes_no_crops(word: str) -> None:
    """What would act on training images alone is refused where their features are of test crops; with views it is
    legal, and a data set's own crops are always."""
    words = ["data=digits_glt", "model.train=head", "data.features=once"]
    assert resolve(words).augment.crop_scale == (0.6, 1.0)
    with pytest.raises(RecipeError, match=r"would change nothing with data\.features=once and its one clean view"):
        resolve([*words, word])
    assert resolve([*words, word, "data.feature_views=2"]).data.feature_views == 2


@pytest.mark.parametrize(
    "words, said",
    [
        ("recipe=glt_ifl ifl.milestones=[60.5,80.9]", "ifl.milestones=[60.5, 80.9] is not legal: whole epochs from 0"),
        ("recipe=glt_ldam schedule.drops=[60.5]", "schedule.drops=[60.5] is not legal: whole epochs from 0 to 99 or"),
        ("recipe=glt_ldam schedule.drops=[-5]", "schedule.drops=[-5] is not legal: whole epochs from 0 to 99 or"),
        ("log.keep=[3.5]", "log.keep=[3.5] is not legal: whole epochs from 0 to 99 or"),
    ],
)
def test_an_epoch_is_a_whole_one_of_the_run(words: str, said: str) -> None:
    """A number from 1 on is an epoch; between two epochs drops by step alone may lie."""
    with pytest.raises(RecipeError) as refused:
        resolve([*words.split(), "model.name=small_resnet"])
    assert said in str(refused.value)
    words_by_step = ["recipe=glt_ldam", "schedule.by=step", "schedule.drops=[60.5,80.0]"]
    assert resolve(words_by_step).schedule.drops == [60.5, 80.0]


@pytest.mark.parametrize(
    "words, said",
    [
        ("recipe=glt_ldam method.args.beta=1", "ldam takes 0 or more and less than 1 there, such as 0.9999"),
        ("recipe=glt_ldam method.args.beta=2", "method.args.beta=2 is not legal"),
        ("recipe=glt_ldam method.args.margin=-3", "ldam takes 0 or more there, such as 0.5"),
        ("recipe=glt_focal method.args.gamma=-1", "focal takes 0 or more there, such as 2.0"),
        ("recipe=glt_lff method.args.ema=1.5", "lff takes 0 or more and less than 1 there, such as 0.0"),
        ("recipe=glt_tde method.args.momentum=1.5", "tde takes 0 or more and at most 1 there, such as 0.005"),
        ("recipe=glt_ride method.args.temperature=1", "method.args.temperature=1 is not legal"),
        ("recipe=glt_ride method.args.reweight_after=-0.1", "ride takes 0 or more there, such as 0.8"),
        ("recipe=glt_irm method.args.grows_every=0", "irm takes more than 0 there, such as 0.3"),
    ],
)
def test_arguments_keep_the_limits_of_their_method(words: str, said: str) -> None:
    """What would give NaN, or end a rank, is refused before a job is submitted."""
    with pytest.raises(RecipeError) as refused:
        resolve([*words.split(), "model.name=small_resnet"])
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "word",
    [
        "recipe=glt_ldam method.args.reweight_from",
        "recipe=glt_ride method.args.reweight_after",
        "recipe=glt_irm method.args.grows_every",
    ],
)
def test_a_fraction_is_not_taken_for_an_epoch(word: str) -> None:
    """What a run of an older project was must not change under its name: 1 is all epochs, an epoch of the run is
    refused, and what is as long as the run, as fraction and as epoch, is legal.
    """
    words = ["data=digits_glt", "schedule.epochs=5", *word.split()[:1]]
    for value in ("0.8", "1", "1.0", "5", "10"):
        assert resolve([*words, f"{word.split()[1]}={value}"])
    for value in ("1.5", "3"):
        with pytest.raises(
            RecipeError, match=rf"={float(value)} is not legal: [a-z]+ takes a fraction of schedule.epochs=5 there"
        ):
            resolve([*words, f"{word.split()[1]}={value}"])


def test_sizes_of_other_methods_are_positive_too() -> None:
    """A scale of cosines or a number of parts of 0 is refused before a rank starts."""
    for word in ("recipe=glt_ldam method.args.scale=0", "recipe=glt_tde method.args.heads=0"):
        with pytest.raises(RecipeError, match="takes more than 0 there"):
            resolve(word.split())
