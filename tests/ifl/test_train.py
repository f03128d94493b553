"""The train loop: equal to a plain torch loop to the bit, and the same on one rank and on two.

All runs go through `ifl.train.train` with the real plan, reader and checkpoints, in processes that are started once.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recipes.resolve import resolve
from recipes.schema import Ifl, Recipe, Schedule
from sharding.images.decoders import ORDER, available
from tests.helpers.ranks import RankFailure, started
from tests.helpers.train_loop import BN_BATCH, IFL, STEPS, final_arrays, loop_recipe, offer, trained

# --------------------------------------------------------------------------------------------------- in the processes


def plain_loop(recipe: str, root: str) -> dict[str, Any]:
    """In a rank: the same training as a loop of a few lines in plain torch, with nothing of the suite's but the plan,
    the reader, the network, and (checked against formulas elsewhere) the move of the centers."""
    from ifl.invariance.centers import Centers
    from ifl.method import Output, Task, load_method
    from ifl.network.backbone import build_backbone
    from ifl.network.network import Network
    from sharding.open import open_dataset
    from sharding.plan.ranks import Draws
    from sharding.reader import MicroBatches, TrainView
    from tests.helpers.plans import plan_epoch

    offer("plain")
    r = Recipe.model_validate_json(recipe)
    split = open_dataset(Path(root), "digits_glt").split("glt", "train")
    labels, size, group = split.index.label, r.batch.size, r.batch.bn or r.batch.size
    torch.manual_seed(r.seed)
    backbone = build_backbone(r.model)
    head = load_method("ce", Task(np.bincount(labels, minlength=10), backbone.feature_dim, 1)).head()
    network = Network(backbone, head, r.data.mean, r.data.std)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    running = {id(n): (n.running_mean.double().clone(), n.running_var.double().clone()) for n in norms}
    for n in norms:
        n.momentum = 1.0  # after a forward pass the buffers hold the group's own statistics
    sgd = torch.optim.SGD(
        network.parameters(), lr=r.optim.lr, momentum=r.optim.momentum, weight_decay=r.optim.weight_decay
    )
    centers = Centers(10, backbone.feature_dim, "l2", r.ifl.center_lr, r.seed) if r.ifl else None
    plan = plan_epoch(
        [None] * r.streams,
        len(labels),
        batch=size,
        group=r.batch.bn,
        draws_per_epoch=r.batch.draws_per_epoch,
        replacement=r.batch.replacement,
        seed=r.seed,
        epoch=0,
    )
    assert plan.steps == STEPS
    images = MicroBatches(
        split,
        TrainView(32, r.augment.crop_scale, r.augment.hflip, r.augment.randaug),
    )
    losses = []
    for step in range(STEPS):
        sgd.zero_grad()
        noted, features, seen, loss_of_step = {id(n): [] for n in norms}, [], [], 0.0
        for first in range(0, size, group):
            rows = np.arange(first, first + group)
            batch = images[Draws(plan.ids[step, rows], step * size + rows, plan.streams[rows], r.seed, 0)]
            output = Output(*network(batch.images))
            loss = F.cross_entropy(output.logits_BK, batch.labels, reduction="sum")
            loss_of_step += loss.item()
            if centers:
                loss = loss + r.ifl.alpha[0] * (output.features_BD - centers.centers_KD[batch.labels]).square().sum()
            (loss / size if size & (size - 1) else loss * (1 / size)).backward()
            features.append(output.features_BD.detach())
            seen.append(batch.labels)
            for n in norms:
                noted[id(n)].append((n.running_mean.double().clone(), n.running_var.double().clone()))
        sgd.step()
        if centers:
            centers.move(centers.class_sums(torch.cat(features), torch.cat(seen), size)[0], size)
        running = {
            key: tuple(0.9 * old + 0.1 * sum(g[i] for g in groups) / len(groups) for i, old in enumerate(running[key]))
            for key, groups in noted.items()
        }
        losses.append(loss_of_step / size)
    return {
        "parameters": {name: p.detach().numpy() for name, p in network.named_parameters()},
        "centers": centers.centers_KD.numpy() if centers else None,
        "losses": losses,
        "running": {
            f"{name}.{part}": running[id(m)][i].numpy()
            for name, m in network.named_modules()
            if id(m) in running
            for i, part in enumerate(("running_mean", "running_var"))
        },
    }


def newest_of_damaged(recipe: str, folder: str, damaged: str) -> list[str | int]:
    """In a rank: flip one bit of the newest checkpoint's file `damaged` (rank 0 does), then load: the step loaded."""
    from ifl.distributed.comm import Comm
    from ifl.engine import Engine
    from ifl.method import Task, load_method
    from ifl.network.backbone import build_backbone
    from ifl.network.bn_statistics import RunningStatistics
    from ifl.network.network import Network
    from ifl.saving import checkpoint

    offer("plain")
    r, comm, ckpt = Recipe.model_validate_json(recipe), Comm(), Path(folder) / "ckpt"
    names = sorted(path.name for path in ckpt.glob("step-*"))
    path = next((ckpt / names[-1]).rglob(damaged))
    if comm.rank == 0:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    comm.gather_objects(None, "cpu")
    backbone = build_backbone(r.model)
    network = Network(
        backbone,
        load_method("ce", Task(np.ones(10, dtype=np.int64), backbone.feature_dim, 1)).head(),
        r.data.mean,
        r.data.std,
    )
    engine = Engine(network, r.optim, r.batch.size, 1, 1, torch.device("cpu"))
    RunningStatistics(network)
    state = checkpoint.load_newest(ckpt, engine, comm, history=True)
    if comm.rank == 0:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    comm.gather_objects(None, "cpu")
    return [int(names[-1][5:]), int(names[-2][5:]), state["epoch"] * STEPS + state["step"]]


# -------------------------------------------------------------------------------------------------------------- helper


def _run(ranks: int, recipe: Recipe, folder: Path, **options: Any) -> list[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    return started(ranks).run(trained, recipe.model_dump_json(), str(folder), **options)


def _losses(folder: Path) -> list[float]:
    return [
        line["method_loss"]
        for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "train"
    ]


def _close(one: dict[str, np.ndarray], two: dict[str, np.ndarray], rtol: float, atol: float) -> None:
    assert one.keys() == two.keys()
    for key, value in one.items():
        np.testing.assert_allclose(two[key], value, rtol=rtol, atol=atol, err_msg=key)


# -------------------------------------------------------------------------------------------------------------- tests
@pytest.mark.parametrize("ifl", [False, True], ids=["ce", "ifl"])
@pytest.mark.parametrize("norm", [True, False], ids=["bn", "no bn"])
def test_five_steps_equal_a_plain_torch_loop(tiny_root: Path, tmp_path: Path, ifl: bool, norm: bool) -> None:
    """Parameters and centers have the same bits as after a loop of a few lines in plain torch (one rank, fp32,
    momentum, weight decay, four micro-batches a step with batch normalisation); losses and running statistics agree."""
    words = (BN_BATCH if norm else ("batch.size=32", "batch.bn=0")) + (IFL if ifl else ())
    recipe = loop_recipe(tiny_root, "glt_ifl" if ifl else "glt_baseline", *words, model=None if norm else "plain")
    mine = _run(1, recipe, tmp_path)[0]
    assert mine["finished"]
    plain = started(1).run(plain_loop, recipe.model_dump_json(), str(tiny_root))[0]
    final = final_arrays(tmp_path)
    for name, want in plain["parameters"].items():
        assert final[f"network.{name}"].tobytes() == want.tobytes(), name
    if ifl:
        assert final["centers"].tobytes() == plain["centers"].tobytes()
    assert len(_losses(tmp_path)) == STEPS
    np.testing.assert_allclose(_losses(tmp_path), plain["losses"], rtol=1e-6)
    assert bool(plain["running"]) == norm
    for name, want in plain["running"].items():
        np.testing.assert_allclose(final[f"network.{name}"], want, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_nodes_cache_changes_no_bit(tiny_root: Path, tmp_path: Path) -> None:
    """Two ranks share a cache of decoded images, empty at first and full the second time: parameters, centers and
    weights end with the bits of a run without one.
    """
    words = (*BN_BATCH, *IFL, "data.cache_short_side=24", "data.decoder=pillow")
    kept = ("data.cache=decoded", f"data.cache_folder={tmp_path / 'cache'}")
    finals = []
    for name, more in (("without", ()), ("filling", kept), ("full", kept)):
        recipe = loop_recipe(tiny_root, "glt_ifl", *words, *more, epochs=2)
        assert all(answer["finished"] for answer in _run(2, recipe, tmp_path / name))
        finals.append(final_arrays(tmp_path / name))
    assert all(
        finals[0].keys() == other.keys()
        and all(finals[0][key].tobytes() == value.tobytes() for key, value in other.items())
        for other in finals[1:]
    )
    assert len(list((tmp_path / "cache").glob("pixels-*/"))) == 1 + 4, (
        "the training pictures, and the crops of val and three tests"
    )


def test_a_run_keeps_the_decoder_that_it_began_with(tiny_root: Path, tmp_path: Path) -> None:
    """The best that both ranks have, noted in meta.json; where it is missing later, or would be another, all ranks stop
    with a sentence. A pinned one is another run's name."""
    recipe = loop_recipe(tiny_root, "glt_ifl", *BN_BATCH, *IFL)
    _run(2, recipe, tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert meta["decoder"] == available()[0] != "pillow"
    assert loop_recipe(tiny_root, "glt_ifl", *BN_BATCH, *IFL, "data.decoder=pillow").hash8 != recipe.hash8
    missing = [
        (name, f"began with the decoder {name}, and keeps it, and ranks 0, 1 of 2 lack it; all ranks have")
        for name in ORDER
        if name not in available()
    ]
    for stored, complaint in (
        ("pillow 13.0.0 libjpeg 6.2", "was begun by older code"),
        ("pillow", "was trained with decoder"),
        *missing[:1],
    ):
        (tmp_path / "meta.json").write_text(json.dumps({**meta, "decoder": stored}))
        with pytest.raises(RankFailure, match=complaint):
            _run(2, recipe, tmp_path)


@pytest.mark.parametrize("size", [32, 15])
def test_two_ranks_equal_one_without_batch_normalisation(tiny_root: Path, tmp_path: Path, size: int) -> None:
    """Half the rows on each of two ranks (8 and 7 of 15 as well): parameters and centers after five steps differ by the
    order of float sums alone. 15 rows of 10 classes travel as features, 32 as sums. The rate is small, so that a unit
    that a rounding switches on moves little."""
    words = (f"batch.size={size}", "batch.bn=0", "optim.lr=0.01", *IFL)
    recipe = loop_recipe(tiny_root, "glt_ifl", *words, model="plain")
    for ranks in (1, 2):
        answers = _run(ranks, recipe, tmp_path / str(ranks))
        assert all(answer["finished"] for answer in answers)
    one, two = final_arrays(tmp_path / "1"), final_arrays(tmp_path / "2")
    _close(one, two, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(_losses(tmp_path / "2"), _losses(tmp_path / "1"), rtol=1e-5)
    for answer in answers[1:]:
        for key, value in answers[0]["network"].items():
            assert answer["network"][key].tobytes() == value.tobytes(), f"{key} differs between ranks"


def test_groups_on_one_rank_or_two_agree(tiny_root: Path, tmp_path: Path) -> None:
    """With batch normalisation in 4 groups, one rank with all and two with 2 each agree tightly over two epochs, in
    parameters, running statistics, centers, environment weights and losses; and so does ZeRO stage 1. Ranks are equal
    to each other to the last bit."""
    words = (*BN_BATCH, "ifl.milestones=[0]", "ifl.alpha=[0.02]", "optim.lr=0.0005")
    recipe = loop_recipe(tiny_root, "glt_randaug_ifl", *words, epochs=2)
    zero = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"zero": 1})})
    for name, ranks, r in (("one", 1, recipe), ("two", 2, recipe), ("zero", 2, zero)):
        answers = _run(ranks, r, tmp_path / name)
        assert all(answer["finished"] for answer in answers)
        for answer in answers[1:]:
            for key, value in answers[0]["network"].items():
                assert answer["network"][key].tobytes() == value.tobytes(), f"{key} differs between ranks ({name})"
    one = final_arrays(tmp_path / "one")
    assert {"centers", "weights.1", "network.backbone.stem.1.running_var"} <= one.keys()
    _close(one, final_arrays(tmp_path / "two"), rtol=1e-4, atol=1e-5)
    _close(final_arrays(tmp_path / "two"), final_arrays(tmp_path / "zero"), rtol=1e-4, atol=1e-5)
    for name in ("two", "zero"):
        assert len(_losses(tmp_path / name)) == 2 * STEPS
        np.testing.assert_allclose(_losses(tmp_path / name), _losses(tmp_path / "one"), rtol=1e-4)


def test_damage_to_any_ranks_file_moves_all_ranks_to_the_same_older_checkpoint(tiny_root: Path, tmp_path: Path) -> None:
    """With ZeRO stage 1 each rank has files of its own: one flipped bit in any of them, seen by one rank alone, makes
    both fall back together."""
    recipe = loop_recipe(tiny_root, "glt_ifl", *IFL, "batch.size=32", "batch.bn=0", "optim.zero=1", model="plain")
    assert all(answer["finished"] for answer in _run(2, recipe, tmp_path))
    for damaged in (
        "zero_pp_rank_0_*optim_states.pt",
        "zero_pp_rank_1_*optim_states.pt",
        "mp_rank_00_model_states.pt",
        "suite.pt",
        "MANIFEST.json",
    ):
        for newest, older, loaded in started(2).run(
            newest_of_damaged, recipe.model_dump_json(), str(tmp_path), damaged
        ):
            assert newest == STEPS and older == 4
            assert loaded == older, damaged


def test_bf16_with_zero_1_trains_and_ranks_stay_equal(tiny_root: Path, tmp_path: Path) -> None:
    """bf16 autocast keeps float32 parameters, statistics and centers, equal on both ranks, and is near float32."""
    words = (*BN_BATCH, *IFL, "optim.lr=0.005")
    recipe = loop_recipe(tiny_root, "glt_ifl", *words, "optim.precision=bf16", "optim.zero=1")
    answers = _run(2, recipe, tmp_path / "bf16")
    for key, value in answers[0]["network"].items():
        assert (
            value.dtype == np.float32
            and np.isfinite(value).all()
            and answers[1]["network"][key].tobytes() == value.tobytes()
        ), key
    _run(2, loop_recipe(tiny_root, "glt_ifl", *words), tmp_path / "fp32")
    np.testing.assert_allclose(_losses(tmp_path / "bf16"), _losses(tmp_path / "fp32"), rtol=0.05)
    assert _losses(tmp_path / "bf16") != _losses(tmp_path / "fp32")


@pytest.mark.parametrize("zero", [0, 1])
@pytest.mark.parametrize("what", ["input", "output"])
@pytest.mark.parametrize("rank", [0, 1])
def test_not_a_number_on_one_rank_stops_all_with_a_sentence(
    tiny_root: Path, tmp_path: Path, rank: int, what: str, zero: int
) -> None:
    """A NaN in one rank's input, or in its features and loss, in step 3 stops both in step 3, naming the place; no
    rank's parameters have moved by it and no line or checkpoint of that step exists."""
    recipe = loop_recipe(tiny_root, "glt_ifl", "batch.size=32", "batch.bn=0", f"optim.zero={zero}", *IFL, model="plain")
    answers = _run(2, recipe, tmp_path, nan={"nan_rank": rank, "nan_at": 4, "nan_in": what})
    for answer in answers:
        assert not answer["finished"]
        assert (
            answer["error"].startswith("epoch 0, step 3: ")
            and "not finite" in answer["error"]
            and "optim.lr=0.1" in answer["error"]
        )
        assert all(np.isfinite(value).all() for value in answer["network"].values())
        for key, value in answers[0]["network"].items():
            assert answer["network"][key].tobytes() == value.tobytes()
    assert len(_losses(tmp_path)) == 3
    assert sorted(path.name for path in (tmp_path / "ckpt").glob("step-*")) == ["step-000000000", "step-000000002"]
    assert all(np.isfinite(value).all() for value in final_arrays(tmp_path).values())


@pytest.mark.parametrize("zero", [0, 1])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("nan_at", "every", "where"),
    [(4, 2, "step 4"), (2, 1000, "step 2"), (5, 1000, "step 5")],
    ids=["before a save", "before a step", "before an evaluation"],
)
def test_a_gradient_that_is_not_finite_is_never_kept(
    tiny_root: Path, tmp_path: Path, nan_at: int, every: int, where: str, rank: int, zero: int
) -> None:
    """The loss of every rank is finite, the gradients of one are not: both ranks stop with the same sentence before the
    next save, step or evaluation, whichever comes first; what is on disk, and nothing else, is what was there
    before."""
    if zero and where == "step 2":
        where = "step 5"  # ZeRO leaves the step out, so the next ones are sound, and the evaluation is the next to ask
    recipe = loop_recipe(
        tiny_root,
        "glt_ifl",
        "batch.size=32",
        "batch.bn=0",
        f"optim.zero={zero}",
        *IFL,
        f"log.save_every_steps={every}",
        model="plain",
    )
    answers = _run(2, recipe, tmp_path, nan={"nan_rank": rank, "nan_at": nan_at, "nan_in": "gradient"})
    assert answers[0]["error"] == answers[1]["error"]
    assert answers[0]["error"].startswith(f"epoch 0, {where}: gradients overflowed in a step since the last checkpoint")
    assert (
        sorted(path.name for path in (tmp_path / "ckpt").iterdir())
        == [f"step-{step:09d}" for step in range(0, nan_at, every)][-2:]
    )
    assert not (tmp_path / "preds").exists() and not any(
        line["kind"] == "eval" for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    )
    held = [torch.load(path, weights_only=False) for path in (tmp_path / "ckpt").rglob("*.pt")]
    tensors = _tensors(held)
    assert len(tensors) >= 7 and all(tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point())


def _tensors(value: Any) -> list[torch.Tensor]:
    """All tensors inside nested plain values."""
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in inner for tensor in _tensors(item)]


@pytest.mark.parametrize(
    ("what", "after", "found"), [("parameters", 2, 4), ("centers", 3, 4), ("weights", STEPS + 2, 8)]
)
def test_a_flipped_bit_on_one_rank_is_found_within_the_digests_steps(
    tiny_root: Path, tmp_path: Path, what: str, after: int, found: int
) -> None:
    """One bit of one rank's parameters, centers or environment weights: with `log.digest_every=4` all four ranks stop
    at the next multiple of 4 and name that rank; of two ranks nobody can say which is right, and the sentence says
    that."""
    words = (
        "batch.size=32",
        "batch.bn=0",
        "ifl.environments=2",
        "ifl.milestones=[0]",
        "ifl.alpha=[0.02]",
        "log.digest_every=4",
    )
    recipe = loop_recipe(tiny_root, "glt_ifl", *words, model="plain", epochs=2)
    for ranks, sentence in (
        (4, "rank 2 differs from the others of 4"),
        (2, "the 2 ranks differ, and no value is that of most of them"),
    ):
        odd = 2 if ranks == 4 else 1
        answers = _run(ranks, recipe, tmp_path / str(ranks), flip=(odd, what, after))
        assert [answer["error"] for answer in answers] == [
            f"parameters, centers and weights after step {found}: {sentence}"
        ] * ranks


def test_learning_rate_follows_the_papers_cosine() -> None:
    """.1 at epoch 0, .0345 at 60, .0095 at 80, next to 0 at the end of 100 epochs; one value an epoch."""
    from ifl.optimisation.learning_rate import learning_rate

    assert [round(learning_rate(epoch, Schedule(epochs=100), 0.1), 4) for epoch in (0, 50, 60, 80, 99)] == [
        0.1,
        0.05,
        0.0345,
        0.0095,
        0.0,
    ]
    rates = [learning_rate(epoch, Schedule(epochs=100), 0.1) for epoch in range(100)]
    assert all(a > b > 0 for a, b in itertools.pairwise(rates))
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=100)
    for rate in rates:
        assert rate == pytest.approx(sgd.param_groups[0]["lr"], rel=1e-9)
        sgd.step()
        cosine.step()


def test_learning_rate_falls_in_steps() -> None:
    """By gamma from each drop on, as torch's MultiStepLR: BBN's, RIDE's (.6, .8 by .1) and LDAM's (.8, .9 by .01); two
    drops in one epoch count twice.
    """
    from ifl.optimisation.learning_rate import learning_rate

    for drops, gamma in (([60, 80], 0.1), ([80, 90], 0.01), ([3, 3], 0.5), ([], 0.1)):
        sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        steps = torch.optim.lr_scheduler.MultiStepLR(sgd, milestones=drops, gamma=gamma)
        for epoch in range(100):
            assert learning_rate(epoch, Schedule(decay="steps", drops=drops, gamma=gamma), 0.1) == pytest.approx(
                sgd.param_groups[0]["lr"], rel=1e-9
            ), (drops, epoch)
            sgd.step()
            steps.step()


def test_alpha_follows_the_milestones() -> None:
    """0 in epochs 0-59, .001 in 60-79, .005 from 80 on, and 0 without IFL."""
    from ifl.invariance.invariance import Off, center_weight

    ifl = resolve(["recipe=glt_ifl"]).ifl
    assert ifl.milestones == [60, 80] and ifl.alpha == [0.001, 0.005]
    assert [center_weight(epoch, ifl) for epoch in (0, 1, 59, 60, 61, 79, 80, 99)] == [
        0,
        0,
        0,
        0.001,
        0.001,
        0.001,
        0.005,
        0.005,
    ]
    assert Off.alpha == 0
    assert center_weight(0, Ifl(milestones=[0], alpha=[0.3])) == 0.3


def test_environments_act_from_the_epoch_after_a_milestone(tiny_root: Path, tmp_path: Path) -> None:
    """Weights are rebuilt after the training of each milestone's epoch and at no other; the logged rates are the
    schedules'."""
    recipe = loop_recipe(
        tiny_root,
        "glt_ifl",
        *BN_BATCH,
        "ifl.milestones=[1,2]",
        "ifl.alpha=[0.02,0.05]",
        "log.every=1000",
        epochs=4,
        draws=0.3,
    )
    _run(1, recipe, tmp_path)
    assert sorted(path.name for path in (tmp_path / "env").iterdir()) == ["epoch-001.npz", "epoch-002.npz"]
    lines = [
        line
        for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "train"
    ]
    assert [line["alpha"] for line in lines] == [0.0, 0.02, 0.05, 0.05]
    assert [round(line["lr"], 6) for line in lines] == [0.1, 0.085355, 0.05, 0.014645]
    assert lines[0]["center_loss"] == 0 and lines[1]["center_loss"] > 0
    first, second = (np.load(tmp_path / "env" / f"epoch-00{e}.npz")["weights"] for e in (1, 2))
    assert (first[0] == 1).all() and (second[0] == 1).all() and not np.array_equal(first[1], second[1])
    np.testing.assert_array_equal(final_arrays(tmp_path)["weights.1"], second[1])
