"""Runs that build on other runs (second stages, later judgements), methods with a memory, centers that start from class
means, and a method from elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ifl.method import Task, load_method
from ifl.network.network import build_network
from ifl.saving.checkpoint import CheckpointError
from ifl.saving.weights import start_from
from recipes.common.errors import RecipeError
from recipes.declarations import Declaration, declaration, declared_in, forms_in
from recipes.resolve import resolve
from recipes.schema import Recipe
from sharding.open import open_dataset
from slurm.run_folder import prepare
from tests.helpers import mini, shipped
from tests.helpers.mini import METHODS
from tests.helpers.paths import PROJECT
from tests.helpers.plans import plan_epoch
from tests.helpers.ranks import started

MEMORY = '''
"""A method with a memory, for tests."""
import torch
import torch.nn.functional as F

from ifl.method import BaseMethod, Output, Rows


class Method(BaseMethod):
    def __init__(self, task):
        super().__init__(task)
        sums_N2 = torch.zeros(task.samples, 2, dtype=torch.float64)
        self.memory = {"sums_N2": sums_N2, "order": torch.zeros((), dtype=torch.float64)}

    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        return F.cross_entropy(output.logits_BK, rows.labels, reduction="none")

    def notes(self, output: Output, rows: Rows) -> torch.Tensor:
        return torch.stack([rows.labels + 0.5, rows.ids * 0.25 - rows.epoch], dim=1)

    def remember(self, ids_G, labels_G, notes_GC):
        assert notes_GC.dtype == torch.float64 and torch.equal(notes_GC[:, 0], labels_G + 0.5)
        sums = self.memory["sums_N2"].index_add(0, ids_G, notes_GC)
        order = self.memory["order"] * 0.5 + (notes_GC[:, 1] * torch.arange(len(ids_G))).sum()
        self.memory = {"sums_N2": sums, "order": order}
'''


def run(recipe: Recipe, ranks: int = 2, **options: object) -> bool | str:
    """Train; the ranks' one answer."""
    (answer,) = set(started(ranks).run(mini.trained, str(recipe.run_folder), **options))
    return answer


# -------------------------------------------------------------------------------------------------------- second stages
@pytest.fixture(scope="module")
def runs(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """A folder with a finished baseline."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = mini.recipe_of(mini_root, folder)
    assert run(recipe) is True
    return folder, recipe


@pytest.mark.parametrize("frozen", [False, True], ids=["statistics move", "statistics stand"])
@pytest.mark.parametrize("method", ["crt", "lws"])
def test_second_stage_trains_the_head_alone(
    mini_root: Path, runs: tuple[Path, Recipe], method: str, frozen: bool
) -> None:
    """The backbone's parameters keep the first stage's bits; its running statistics do if `frozen_bn` says so, and only
    then; the head moves: cRT's from a new start, LWS' scales from 1 on a classifier that stays. A resume in the middle
    of an epoch ends with the same bits."""
    folder, first = runs
    words = (
        f"method.name={method}",
        f"method.init_from={first.run_name}",
        f"method.args.frozen_bn={str(frozen).lower()}",
    )
    recipe, broken = (
        mini.recipe_of(mini_root, folder, *words),
        mini.recipe_of(mini_root, folder, *words, "recipe=glt_randaug", "augment.randaug=false"),
    )
    assert run(recipe) is True
    assert run(broken, stop_at=5) is False and run(broken) is True
    before, after = mini.final(first.run_folder), mini.final(recipe.run_folder)
    assert mini.same_bits(after, mini.final(broken.run_folder)) == []
    network = {key.removeprefix(".network."): value for key, value in after.items() if key.startswith(".network.")}
    for key, value in network.items():
        same = f".network.{key}" in before and value.tobytes() == before[f".network.{key}"].tobytes()
        if key.startswith("head."):
            assert same == (method == "lws" and key == "head.weight"), key
        else:
            assert same == ("running_" not in key or frozen), key
    assert any("running_mean" in key for key in network)
    if method == "lws":
        assert (network["head.scale_K"] != 1).any() and np.abs(network["head.scale_K"] - 1).max() < 0.9


def test_unfinished_first_stage_is_refused_in_one_sentence(mini_root: Path, tmp_path: Path) -> None:
    """A second stage and a judgement name the run that they lack, and nothing is trained."""
    for words in (
        ("method.name=crt", "method.init_from=glt_ifl"),
        ("method.name=logit_adjust", "method.eval_of=glt_ifl"),
    ):
        recipe = mini.recipe_of(mini_root, tmp_path, *words)
        message = run(recipe)
        assert (
            message.startswith("CheckpointError: ")
            and "glt_ifl-digits_glt-glt-s0-" in message
            and message.endswith("is not finished: this run needs its weights")
            and "\n" not in message
        )
        assert not mini.lines(recipe.run_folder, "train") if (recipe.run_folder / "metrics.jsonl").exists() else True


@pytest.mark.parametrize("key", ["init_from", "eval_of"])
def test_first_stage_of_another_network_is_refused(mini_root: Path, runs: tuple[Path, Recipe], key: str) -> None:
    """Weights of another form are refused by the name of what does not fit."""
    folder, first = runs
    recipe = mini.recipe_of(mini_root, folder, "method.name=ride", f"method.{key}={first.run_name}", "seed=7")
    message = run(recipe)
    assert (
        message.startswith("CheckpointError: the first stage's network is another: ")
        and "must name a run of the same model.name" in message
        and "\n" not in message
    )


@pytest.mark.parametrize(
    "words",
    [("method.name=lws", "method.init_from=glt_ifl"), ("method.name=logit_adjust", "method.eval_of=glt_ifl")],
    ids=["lws", "logit_adjust"],
)
def test_a_cosine_classifier_is_no_linear_one(words: tuple[str, ...]) -> None:
    """LDAM's classifier has the shape of a linear one, and what takes its weights for that is refused by their name."""
    counts = np.array([50, 20, 9, 4])
    ldam, _ = build_network(resolve(["recipe=glt_ldam", "data=digits_glt"]), counts)
    network, method = build_network(resolve(["data=digits_glt", *words]), counts)
    with pytest.raises(CheckpointError, match=r"network is another: head.vectors_KD does not fit"):
        start_from(network, method, ldam.state_dict())


@pytest.mark.parametrize(
    "words, sentence",
    [
        (
            ("recipe=glt_crt", "method.init_from=glt_ride"),
            "method.init_from=glt_ride does not fit: its method ride trains a network of the form experts, and crt",
        ),
        (("recipe=glt_logit_adjust", "method.eval_of=glt_ride"), "takes over a network of the form plain"),
        (("recipe=glt_lws", "method.init_from=glt_ldam"), "trains a classifier of the kind cosine, and lws takes over"),
        (("recipe=glt_logit_adjust", "method.eval_of=glt_tde"), "takes over a classifier of the kind linear"),
        (
            ("recipe=glt_crt", "method.init_from=glt_logit_adjust"),
            "method.init_from=glt_logit_adjust has no weights: it judges those of glt_baseline-digits_glt-glt-s0-",
        ),
        (("recipe=glt_logit_adjust", "method.eval_of=glt_logit_adjust_ifl"), "has no weights: it judges those of"),
    ],
)
def test_a_pair_that_cannot_fit_is_refused_before_its_first_stage(words: tuple[str, ...], sentence: str) -> None:
    """Its form and the kind of its classifier are declared; cRT, which makes a classifier, takes any."""
    with pytest.raises(RecipeError, match=r"^[^\n]+$") as refused:
        resolve(["data=digits_glt", *words])
    assert sentence in str(refused.value)
    assert resolve(["recipe=glt_crt", "data=digits_glt", "method.init_from=glt_ldam"]).method.init_from


@pytest.mark.parametrize("name", [name for name in shipped.METHODS if declaration(name).HEAD])
def test_methods_with_one_kind_of_classifier_have_the_same_weights(name: str) -> None:
    """What `HEAD` says holds: the weights of a linear or cosine classifier have one name and shape in all methods."""
    task = Task(np.array([50, 20, 9, 4]), 6, 10, declaration(name).args("paper"))
    head = load_method(name, task).head().state_dict()
    usual = {
        "linear": ("weight", (4, 6)),
        "cosine": ("vectors_KD", (4, 6)),
        "normalised parts": ("weight_HKD", (2, 4, 3)),
    }
    key, shape = usual[declaration(name).HEAD]
    assert head[key].shape == shape


def test_damaged_first_stage_is_refused(mini_root: Path, runs: tuple[Path, Recipe], tmp_path: Path) -> None:
    """Weights that are not what was written start nothing."""
    _, first = runs
    shutil.copytree(first.run_folder, tmp_path / first.run_name)
    weights = tmp_path / first.run_name / "ckpt" / "last.pt"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    message = run(mini.recipe_of(mini_root, tmp_path, "method.name=crt", f"method.init_from={first.run_name}"))
    assert message.startswith("CheckpointError: ") and "is missing or not what was written" in message


def test_judgement_trains_nothing(mini_root: Path, runs: tuple[Path, Recipe]) -> None:
    """`eval_of` leaves predictions of the last and the best weights, `done` and no checkpoint; with tau 0 they are the
    judged run's own, to the bit; with tau 1 each prediction is the largest adjusted logit's, so rarer classes are
    predicted at least as often."""
    folder, first = runs
    same = mini.recipe_of(
        mini_root, folder, "method.name=logit_adjust", "method.args.tau=0", f"method.eval_of={first.run_name}"
    )
    other = mini.recipe_of(mini_root, folder, "method.name=logit_adjust", f"method.eval_of={first.run_name}")
    for recipe in (same, other):
        assert run(recipe) is True and run(recipe) is True  # again is no error
        assert (recipe.run_folder / "done").exists() and not (recipe.run_folder / "ckpt").exists()
        assert {line["split"] for line in mini.lines(recipe.run_folder, "eval")} == {
            "val",
            "test_cbl",
            "test_gbl",
            "test_glt",
        }
    for path in sorted(first.run_folder.glob("preds/*/*.npz")):
        relative = path.relative_to(first.run_folder)
        with (
            np.load(path) as own,
            np.load(same.run_folder / relative) as judged,
            np.load(other.run_folder / relative) as adjusted,
        ):
            for key in own.files:
                np.testing.assert_array_equal(judged[key], own[key], err_msg=f"{relative} {key}")
            assert (adjusted["prediction"] >= own["prediction"]).all()  # classes stand in the order of their counts
            assert not np.array_equal(adjusted["confidence"], own["confidence"])


def test_runs_that_build_on_others_share_a_hash_over_seeds() -> None:
    """A row's runs of several seeds, editions and data sets are one row: what stands in the name is not in the hash.
    Another first stage is another run.
    """
    for name in ("glt_crt", "glt_logit_adjust"):
        hashes = {resolve([f"recipe={name}", "data=digits_glt", f"seed={seed}"]).hash8 for seed in (0, 1, 2)}
        assert len(hashes) == 1
        source = resolve(["recipe=glt_ifl", "data=digits_glt"]).run_name
        key = "eval_of" if name == "glt_logit_adjust" else "init_from"
        assert resolve([f"recipe={name}", "data=digits_glt", f"method.{key}={source}"]).hash8 not in hashes
        assert (
            resolve([f"recipe={name}", "data=digits_glt", "seed=1", f"method.{key}={source}"]).hash8
            != resolve([f"recipe={name}", "data=digits_glt", f"method.{key}={source}"]).hash8
        )


def test_first_stage_is_that_of_the_same_axes() -> None:
    """Data, edition, seed, preset and budget are the second stage's own, and nothing else of it: not its epochs."""
    recipe = resolve(
        ["recipe=glt_crt_ifl", "data=digits_glt", "train=cbl", "seed=3", "preset=corrected", "batch.budget=matched"]
    )
    first = resolve(
        ["recipe=glt_ifl", "data=digits_glt", "train=cbl", "seed=3", "preset=corrected", "batch.budget=matched"]
    )
    assert recipe.method.init_from == first.run_name and recipe.schedule.epochs != first.schedule.epochs
    assert (
        resolve(["recipe=glt_crt_ifl", "data=digits_glt"]).method.init_from
        == resolve(["recipe=glt_ifl", "data=digits_glt"]).run_name
    )


# --------------------------------------------------------------------------------------------------------------- memory
def test_memory_is_the_global_batchs_on_any_number_of_ranks_and_after_a_resume(mini_root: Path, tmp_path: Path) -> None:
    """A method's notes reach its memory in canonical row order: equal to an oracle from the plan, with the same bits on
    1 and 2 ranks and after a stop in the middle of an epoch, although the method puts new tensors into its memory."""
    file = tmp_path / "remembers.py"
    file.write_text(MEMORY)
    found = {}
    for name, ranks in (("one", 1), ("two", 2), ("broken", 2)):
        recipe = mini.recipe_of(mini_root, tmp_path / name)
        recipe = recipe.model_copy(update={"method": recipe.method.model_copy(update={"name": "remembers"})})
        prepare(recipe, recipe.run_folder)  # `resolve` knows no method from elsewhere
        method = ("remembers", str(file))
        if name == "broken":
            assert run(recipe, ranks, stop_at=5, method=method) is False
        assert run(recipe, ranks, method=method) is True
        found[name] = mini.final(recipe.run_folder)
    labels = open_dataset(mini_root, "digits_glt").split("glt", "train").index.label
    sums, order = np.zeros((32, 2)), 0.0
    for epoch in range(mini.EPOCHS):
        for ids in plan_epoch([None], 32, batch=16, group=8, matched=True, seed=0, epoch=epoch).ids:
            for i in ids:
                sums[i] += labels[i] + 0.5, i * 0.25 - epoch
            order = order * 0.5 + sum((i * 0.25 - epoch) * row for row, i in enumerate(ids))
    for name, tensors in found.items():
        np.testing.assert_array_equal(tensors[".suite.memory.sums_N2"], sums, err_msg=name)
        assert tensors[".suite.memory.order"] == order, name
    assert mini.same_bits(found["two"], found["broken"]) == []


# ------------------------------------------------------------------------------------------------ centers from the data
def test_centers_start_from_class_means(mini_root: Path, tmp_path: Path) -> None:
    """With `center_init: class_means` the centers are, at the end of the epoch before the first milestone, the float64
    means of the features that its steps saw, class by class; a stop in the middle of that epoch changes no bit."""
    words = (
        "ifl.environments=2",
        "ifl.milestones=[2]",
        "ifl.alpha=[0.001]",
        "ifl.center_init=class_means",
        "ifl.center_lr=0",
        "batch.budget=paper",
    )  # rate 0: the centers stay where they are put
    whole, broken = (mini.recipe_of(mini_root, tmp_path / name, *words) for name in ("whole", "broken"))
    (one, two) = started(2).run(seen_features, str(whole.run_folder), 1)
    steps = len(mini.lines(whole.run_folder, "train")) // mini.EPOCHS
    assert (
        run(broken, stop_at=steps + 2 + steps // 2) is False
    )  # the run asks at each step, before the evaluation and at the epoch's end
    assert (
        mini.lines(broken.run_folder, "train")[-1]["epoch"] == 1
        and torch.load(sorted(broken.run_folder.glob("ckpt/step-*"))[-1] / "suite.pt", weights_only=True)["class_means"]
        is not None
    )
    assert run(broken) is True
    final = mini.final(whole.run_folder)
    assert mini.same_bits(final, mini.final(broken.run_folder)) == []
    features, labels = (np.concatenate([one[i], two[i]]) for i in (0, 1))
    assert len(labels) == steps * 16
    for k in range(4):
        np.testing.assert_allclose(
            final[".suite.centers"][k], features[labels == k].astype(np.float64).mean(0), rtol=1e-6, atol=1e-7
        )


def seen_features(folder: str, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """In a rank: train, and the features and labels of this rank's rows in one epoch."""
    from ifl.methods import ce

    kept: list[tuple[np.ndarray, np.ndarray]] = []
    real = ce.Method.losses

    def losses(self: ce.Method, output: object, rows: object) -> torch.Tensor:
        if rows.epoch == epoch:
            kept.append((output.features_BD.detach().numpy().copy(), rows.labels.numpy()))
        return real(self, output, rows)

    ce.Method.losses = losses
    try:
        assert mini.trained(folder) is True
    finally:
        ce.Method.losses = real
    return np.concatenate([f for f, _ in kept]), np.concatenate([y for _, y in kept])


def test_class_means_need_an_epoch_before_the_first_milestone() -> None:
    for words in (["ifl.milestones=[0,1]"], ["ifl.milestones=[]", "ifl.alpha=[]"]):
        with pytest.raises(RecipeError, match="class_means needs an epoch before the first"):
            resolve(["recipe=glt_ifl", "data=digits_glt", "ifl.center_init=class_means", *words])


# --------------------------------------------------------------------------------------------------------- declarations
def _declared(folder: Path, text: str, name: str = "mine") -> Declaration:
    (folder / f"{name}.py").write_text(text)
    return declared_in(folder / f"{name}.py")


def test_declarations_are_read_without_running_the_file(tmp_path: Path) -> None:
    """Literals are taken, everything else of the file is passed over, constants of nearly their names and another kind,
    too; what is absent has its default; presets have arguments of their own.
    """
    declared = _declared(
        tmp_path,
        'raise SystemExit("ran")\nSTREAMS = ("uniform", "class_inverse")\nFORM = "twin"\nARGS = {"a": 1, "b": '
        '{"paper": 0.5, "corrected": 2.0}}\nOTHER = COUNT = print\nHEADS = 3\nLIMIT = 1e-6\nREFUSES = {"ifl": "why"}\n',
    )
    assert (declared.STREAMS, declared.FORM, declared.TRAINS, declared.REFUSES) == (
        ("uniform", "class_inverse"),
        "twin",
        "all",
        {"ifl": "why"},
    )
    assert declared.args("paper") == {"a": 1, "b": 0.5} and declared.args("corrected") == {"a": 1, "b": 2.0}
    assert declaration("absent") == Declaration() and _declared(tmp_path, "", "empty") == Declaration()
    (tmp_path / "model.py").write_text('FORMS = ("plain", "experts")\n')
    assert forms_in(tmp_path / "model.py") == ("plain", "experts", "twin")
    assert forms_in(tmp_path / "empty.py") == ("plain", "twin")
    (tmp_path / "slip.py").write_text('FORM = ("plain", "experts")\n')
    with pytest.raises(RecipeError, match=r"slip\.py, line 1: FORM is read by nobody: did you mean FORMS\?"):
        forms_in(tmp_path / "slip.py")


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("FORM = 'plane'", "FORM=['plane'] is not legal; legal: plain, experts, branches, twin"),
        ("STREAMS = ('unifrom',)", "STREAMS=('unifrom',) is not legal; legal: uniform, class_balanced, class_inverse"),
        ("STREAMS = ()", "STREAMS=() is not legal"),
        ("STREAMS = ('uniform', 'uniform')", "is not legal"),
        ("COUNTS = 'yes'", "COUNTS=['yes'] is not legal; legal: True, False"),
        ("TRAINS = 'tail'", "TRAINS=['tail'] is not legal; legal: all, head, nothing"),
        ("ARGS = dict(a=1)", "ARGS must be a literal, for it is read without running the file"),
        ("FORM = PLAIN", "FORM must be a literal"),
        ("FORM = ['plain']", "FORM=[['plain']] is not legal"),
        ("STREAMS = 5", "STREAMS=5 is not legal"),
        ("a = 1\ndef f(:\n", ", line 2: no legal Python: "),
        ("a = '\0'", "null bytes"),
        ("\n\nARGS = {'a': max(1, 2)}", ", line 3: ARGS must be a literal"),
        ("ARGS: dict[str, float] = {'a': A}", ", line 1: ARGS must be a literal"),
        ("ARGS = ['a']", "ARGS=['a'] is not legal: a mapping such as {'scale': 30.0} is"),
        ("ARGS = {'a': [1, 2]}", "'a': [1, 2] in ARGS is not legal: a finite number, True or False, or a text"),
        ("ARGS = {'a': 1e999}", "'a': inf in ARGS is not legal"),
        ("ARGS = {'a': None}", "'a': None in ARGS is not legal"),
        ("ARGS = {'a': {'paper': 1.0}}", "'a': {'paper': 1.0} in ARGS is not legal"),
        ("ARGS = {'a': {'paper': 1.0, 'corrected': 1}}", "in ARGS is not legal"),
        ("ARGS = {1: 2}", "1: 2 in ARGS is not legal"),
        (
            "ARGS = {'a': 1, 'b': 'x', 'c': {'paper': 0, 'corrected': 1}}\nPOSITIVE = ('b',)",
            "POSITIVE=('b',) is not legal; legal: a",
        ),
        ("REFUSES = ('ifl',)", "REFUSES=('ifl',) is not legal: a mapping of words to their reasons is"),
        ("REFUSES = {'mixxup': 'why'}", "REFUSES=('mixxup',) is not legal; legal: ifl, mixup, legacy_count_order"),
        ("NEEDS = {'groups': 'why'}", "NEEDS=('groups',) is not legal; legal: environments, whole_groups, text"),
        ("NEEDS = {'text': 1}", "NEEDS={'text': 1} is not legal: a mapping of words to their reasons is"),
        ("HEAD = 5", "HEAD=5 is not legal: a word is"),
        ("LIMITS = ('a',)", "LIMITS=('a',) is not legal: a mapping of arguments to their limits is"),
        ("ARGS = {'a': 1}\nLIMITS = {'a': {'min': 0}}", "'a': {'min': 0} in LIMITS is not legal: ge, gt, le, lt with"),
        ("ARGS = {'a': 1}\nLIMITS = {'a': {'ge': '0'}}", "'a': {'ge': '0'} in LIMITS is not legal"),
        ("ARGS = {'a': 1, 'b': 3}\nLIMITS = {'a': {'ge': 2}}", "'a': 1 in ARGS does not keep its LIMITS {'ge': 2}"),
        ("ARGS = {'b': 3}\nLIMITS = {'a': {'ge': 2}}", "LIMITS=('a',) is not legal; legal: b"),
        ("STREAMS = 'uniform'", "STREAMS='uniform' is not legal; legal: uniform, class_balanced"),
        ("ARGS = {'a': 1}\nPOSITIVE = ('a')", "POSITIVE='a' is not legal; legal: a, as in POSITIVE = ('a',)"),
        ("ARGS = {'a': 0.8, 'b': 'x'}\nFRACTIONS = ('b',)", "FRACTIONS=('b',) is not legal; legal: a"),
        ("TRAIN = 'head'", ", line 1: TRAIN is read by nobody: did you mean TRAINS?"),
        ("\nSTREAM = ['uniform']", ", line 2: STREAM is read by nobody: did you mean STREAMS?"),
        ("REFUSE = {'mixup': 'why'}", "did you mean REFUSES?"),
        ("FORMS = 'twin'", "did you mean FORM?"),
        ("COUNT: bool = True", "did you mean COUNTS?"),
    ],
)
def test_wrong_declarations_are_refused_by_file_and_key(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        _declared(tmp_path, text)
    assert str(tmp_path / "mine.py") in str(caught.value) and sentence in str(caught.value)


def test_a_declaration_may_have_a_type(tmp_path: Path) -> None:
    """`ARGS: dict[str, float] = {...}` counts as `ARGS = {...}` does; a name without a value is passed over."""
    assert _declared(tmp_path, "ARGS: dict[str, float] = {'a': 1.5}\nCOUNTS: bool\n").ARGS == {"a": 1.5}


@pytest.mark.parametrize("text", ["FORMS = 'plain'", "FORMS = ('plane',)", "FORMS = ()", "def build(:"])
def test_wrong_forms_of_a_model_are_refused_by_file(tmp_path: Path, text: str) -> None:
    """A model's file that is no Python, or says forms that there are not, is refused in a sentence."""
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(RecipeError, match=r"^[^\n]*mine\.py[^\n]*legal[^\n]*$"):
        forms_in(tmp_path / "mine.py")


def test_every_methods_declaration_is_legal_and_its_reasons_are_sentences() -> None:
    for name in shipped.METHODS:
        declared = declaration(name)
        assert all(reason and "\n" not in reason and not reason.endswith(".") for reason in declared.REFUSES.values())
        assert set(declared.REFUSES) <= {"ifl", "mixup", "legacy_count_order"}
        for key, value in declared.ARGS.items():
            assert not isinstance(value, dict) or (
                set(value) == {"paper", "corrected"} and len({type(v) for v in value.values()}) == 1
            ), f"{name}: {key}"


# ------------------------------------------------------------------------------------------------------------ arguments
@pytest.mark.parametrize(
    "words, sentence",
    [
        (["method.name=ldam", "method.args.scal=3"], "unknown key method.args.scal: did you mean scale?"),
        (["method.args.scale=3"], "unknown key method.args.scale: the method ce has no arguments"),
        (
            ["method.name=ldam", "method.args.scale=large"],
            "method.args.scale=large is not legal: ldam takes a float there, such as 30.0",
        ),
        (["method.name=ldam", "method.args.scale=true"], "method.args.scale="),
        (["method.name=crt", "method.init_from=glt_baseline", "method.args.frozen_bn=1"], "crt takes a bool there"),
        (["method.name=crt"], "method.init_from must name the recipe of its first stage"),
        (["method.name=crt", "method.init_from=glt_baselin"], "did you mean glt_baseline?"),
        (["method.init_from=glt_ifl", "method.eval_of=glt_ifl"], "exclude each other"),
        (["recipe=glt_logit_adjust", "ifl.environments=2"], "ifl cannot be combined with method.eval_of=glt_baseline-"),
        (
            ["recipe=glt_logit_adjust", "augment.mixup=1"],
            "nothing is trained; name glt_mixup in method.eval_of instead",
        ),
        (
            ["recipe=glt_logit_adjust", "augment.randaug=true"],
            "nothing is trained; name glt_randaug in method.eval_of instead",
        ),
        (["method.init_from=glt_randaug"], "names the recipe itself"),
        (["method.name=bbn", "method.legacy_count_order=true"], "cannot be combined with legacy_count_order: "),
    ],
)
def test_wrong_methods_and_arguments_are_refused_in_a_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(RecipeError, match=r"^[^\n]+$") as caught:
        resolve(["recipe=glt_randaug", "data=digits_glt", *words])
    assert sentence in str(caught.value)


def test_arguments_stand_written_out_and_count_only_where_they_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolved recipe holds every argument, by preset; a whole number is taken for a float; saying a default
    changes no hash, another value does, and so a method may gain an argument.
    """
    plain = resolve(["method.name=ldam", "data=digits_glt"])
    assert plain.method.args == declaration("ldam").args("paper") and type(plain.method.args["scale"]) is float
    said = resolve(["method.name=ldam", "data=digits_glt", "method.args.scale=30"])
    assert said == plain and said.hash8 == plain.hash8
    assert resolve(["method.name=ldam", "data=digits_glt", "method.args.scale=16"]).hash8 != plain.hash8
    crt = [resolve(["recipe=glt_crt", "data=digits_glt", f"preset={preset}"]) for preset in ("paper", "corrected")]
    assert [recipe.method.args["frozen_bn"] for recipe in crt] == [False, True]
    assert resolve(["recipe=glt_crt", "data=digits_glt", "method.args.frozen_bn=true"]).hash8 not in {
        recipe.hash8 for recipe in crt
    }
    from recipes import identity, rules, schema

    more = Declaration(ARGS={**declaration("ldam").ARGS, "added": 1})
    for module in (identity, rules, schema):
        monkeypatch.setattr(module, "declaration", lambda name: more)
    later = resolve(["method.name=ldam", "data=digits_glt"])
    assert later.method.args["added"] == 1 and later.hash8 == plain.hash8
    assert resolve(["method.name=ldam", "data=digits_glt", "method.args.added=2"]).hash8 != plain.hash8


def test_legacy_count_order_is_that_of_the_ids_as_text() -> None:
    """With 12 classes: 0, 1, 10, 11, 2, ...: class 2 is taken to have class 10's count, class 4 class 2's. Off, counts
    stand by class id.
    """
    counts = np.arange(12, 0, -1) * 10
    for legacy, want in ((False, counts), (True, counts[[0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]])):
        _, method = build_network(
            resolve(["recipe=glt_ldam", "data=digits_glt", f"method.legacy_count_order={str(legacy).lower()}"]), counts
        )
        assert method.task.class_counts.tolist() == want.tolist()
    for preset in ("paper", "corrected"):
        assert resolve(["recipe=glt_ldam", f"preset={preset}"]).method.legacy_count_order is False


@pytest.mark.parametrize("name", METHODS)
def test_methods_say_whether_they_read_class_counts(name: str) -> None:
    """Other counts of the same classes change a method's tensors if it says COUNTS or refuses their legacy order with a
    reason, and only then; where they change nothing their order is refused, for it would be the same run under another
    name."""
    declared = declaration(name)
    words = [
        "recipe=glt_baseline",
        "data=digits_glt",
        f"method.name={name}",
        *(["ifl.environments=2"] if "environments" in declared.NEEDS else []),
        *(["method.init_from=glt_ifl"] if declared.TRAINS == "head" else []),
    ]
    recipe, counts = resolve(words), np.array([50, 20, 9, 4])
    one, other = (
        {
            key: value
            for key, value in vars(load_method(name, Task(these, 12, 10, recipe.method.args))).items()
            if isinstance(value, torch.Tensor)
        }
        for these in (counts, counts[::-1].copy())
    )
    assert any(not torch.equal(one[key], other[key]) for key in one) == (declared.COUNTS or name == "logit_adjust")
    if declared.COUNTS:
        assert resolve([*words, "method.legacy_count_order=true"]).hash8 != recipe.hash8
    else:
        with pytest.raises(
            RecipeError, match=declared.REFUSES.get("legacy_count_order", "reads no class counts: leave it out")
        ):
            resolve([*words, "method.legacy_count_order=true"])


# ------------------------------------------------------------------------------------------------------------ a new one
def test_adding_a_method_touches_nothing_else(mini_root: Path, tmp_path: Path) -> None:
    """A copy of the project with one file in ifl/methods and one recipe more: the command trains it, with IFL and two
    ranks; no other file of the copy differs.
    """
    copy = tmp_path / "project"
    for room in ("recipes", "sharding", "ifl", "slurm"):
        shutil.copytree(PROJECT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / ".venv").symlink_to(PROJECT / ".venv")
    before = _digests(copy)
    (copy / "ifl" / "methods" / "smooth.py").write_text(
        MEMORY.replace('reduction="none")', 'reduction="none", label_smoothing=self.task.args["smoothing"])').replace(
            "class Method", 'ARGS = {"smoothing": 0.1}\n\n\nclass Method'
        )
    )
    (copy / "recipes" / "my_row.yaml").write_text("method: {name: smooth}\nifl: {environments: 2}\n")
    words = [word for word in mini.WORDS if "epochs" not in word]
    result = subprocess.run(
        [
            sys.executable,
            "slurm/launch.py",
            "recipe=my_row",
            "cluster=local",
            "nodes=2",
            f"data.root={mini_root}",
            f"runs={tmp_path / 'runs'}",
            *words,
            "schedule.epochs=3",
        ],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (folder,) = (tmp_path / "runs").glob("my_row-digits_glt-glt-s0-*")
    assert (folder / "done").exists() and (folder / "env").exists() and ".suite.memory.sums_N2" in mini.final(folder)
    after = _digests(copy)
    assert {name for name in after if after[name] != before.get(name)} == {
        "ifl/methods/smooth.py",
        "recipes/my_row.yaml",
    }


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for room in ("recipes", "sharding", "ifl", "slurm")
        for path in (folder / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


# ------------------------------------------------------------------------------------------------------------- stops
@pytest.mark.full
def test_a_stop_is_heard_wherever_the_run_asks(mini_root: Path, tmp_path: Path) -> None:
    """In a step, before and between the splits of an evaluation, at an epoch's end, before the best epoch's tests:
    stopped at the k-th question, for every k, and started again, a run with environments and centers from class means
    ends with the bits of an undisturbed one and evaluates nothing twice."""
    words = (
        "recipe=glt_ifl",
        "schedule.epochs=3",
        "ifl.milestones=[1]",
        "ifl.alpha=[0.05]",
        "ifl.center_init=class_means",
        "optim.lr=0.03",
    )
    group = started(1)
    whole = mini.recipe_of(mini_root, tmp_path / "whole", *words)
    assert group.run(mini.trained, str(whole.run_folder)) == [True]
    wanted = {key: value for key, value in mini.final(whole.run_folder).items() if key != ".suite.metrics_offset"}
    looks = [(line["epoch"], line["split"]) for line in mini.lines(whole.run_folder, "eval")]
    for question in range(1, 100):
        stopped = mini.recipe_of(mini_root, tmp_path / str(question), *words)
        if group.run(mini.trained, str(stopped.run_folder), stop_at=question) == [True]:
            break
        assert group.run(mini.trained, str(stopped.run_folder)) == [True]
        found = {key: value for key, value in mini.final(stopped.run_folder).items() if key != ".suite.metrics_offset"}
        assert mini.same_bits(wanted, found) == [], question
        assert [(line["epoch"], line["split"]) for line in mini.lines(stopped.run_folder, "eval")] == looks, question
    assert question > 3 * (mini.STEPS + 2) + 3
