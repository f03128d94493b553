"""Mixup: what is mixed is a function of the seed alone and the same on any number of ranks; centers count each label by
its share.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ifl.invariance.centers import FEATURE_BITS, Centers
from ifl.invariance.class_sums import AddedUp, Gathered
from ifl.mixup import lam_of_step, mix, partners
from ifl.step_reduction import MicroBatchSums, StepSync
from recipes.common.errors import RecipeError
from recipes.declarations import declaration
from recipes.resolve import resolve
from tests.helpers import mini
from tests.helpers.mini import IFL, METHODS
from tests.helpers.plans import micro_batches
from tests.helpers.ranks import comm_of, started

CLASSES, DIM, BATCH = 5, 4, 12


def _batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 [B, D] of very different sizes, and two labels of each row."""
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((BATCH, DIM)) * 10.0 ** rng.integers(-3, 3, (BATCH, 1))).astype(np.float32)
    return features, rng.integers(0, CLASSES - 1, BATCH), rng.integers(0, CLASSES - 1, BATCH)


def mixed_sums(size: int, gathers: bool, distance: str, share: float) -> np.ndarray | None:
    """In a rank: the class sums of a batch with two labels a row, its rows cut among the first `size` ranks."""
    comm = comm_of(size)
    if comm is None:
        return None
    way = (Gathered if gathers else AddedUp)(Centers(CLASSES, DIM, distance, 0.5, 0), comm, BATCH, targets=2)
    sync = StepSync(comm, BATCH, way, torch.device("cpu"))
    for part in np.array_split(np.array_split(np.arange(BATCH), size)[comm.rank], 2):
        features, first, second = (torch.from_numpy(column[part]) for column in _batch())
        none = torch.zeros(len(part))
        targets = [(share, first), (1 - share, second)]
        sync.add(MicroBatchSums(none, torch.tensor(0), torch.zeros(0), targets, none, features))
    sync.start((0, 0), save=False, stop=False)
    totals = sync.wait()
    assert totals.bad == 0
    return totals.class_sums.numpy()


# -------------------------------------------------------------------------------------------------------------- tests
def test_share_is_beta_distributed_and_a_function_of_the_seed() -> None:
    """One seed gives one share; over seeds the shares have the moments of Beta(a, a): mean 1/2, variance 1 / (4 (2a +
    1)).
    """
    for alpha in (0.2, 1.0, 4.0):
        shares = np.array([lam_of_step(alpha, seed) for seed in range(4000)])
        assert shares[7] == lam_of_step(alpha, 7) and ((shares >= 0) & (shares <= 1)).all()
        assert abs(shares.mean() - 0.5) < 0.03 and abs(shares.var() - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_rows_are_mixed_with_their_partners() -> None:
    """Each row is share * itself + (1 - share) * its partner's pixels, in float, and labels go with them."""
    images = torch.randint(0, 256, (8, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(8)
    given = torch.tensor([3, 0, 1, 2, 7, 4, 6, 5])
    mixed, [(share, own), (rest, partner)] = mix(images, labels, 0.3, given)
    assert (share, rest) == (0.3, 0.7) and torch.equal(own, labels) and torch.equal(partner, given)
    for row in range(8):
        want = 0.3 * images[row].double() + 0.7 * images[partner[row]].double()
        np.testing.assert_allclose(mixed[row], want, rtol=1e-5, atol=1e-3)
    whole, targets = mix(images, labels, 1.0, given)
    assert torch.equal(whole, images.float()) and [part for part, _ in targets] == [1.0, 0.0]


@pytest.mark.parametrize(
    "words",
    [
        ("recipe=glt_mixup",),
        ("recipe=glt_mixup_ifl",),
        ("recipe=glt_mixup_ifl", "data=digits_glt"),
        ("recipe=glt_mixup_ifl", "ifl.environments=3", "batch.size=258", "batch.bn=129"),
    ],
    ids=" ".join,
)
def test_partners_are_the_same_on_any_number_of_ranks_that_may_share_a_group(words: tuple[str, ...]) -> None:
    """The global batch's pairs are equal on all numbers of ranks that the recipe allows, also where ranks share a
    group; no row is its own partner, each is that of one row, of its group; other steps give other pairs, and over
    steps a row meets every environment. Any other number of ranks is refused, and the legal ones are named."""
    recipe = resolve(words)
    size, group, streams = recipe.batch.size, recipe.batch.bn, recipe.streams

    def pairs(ranks: int, step: int) -> np.ndarray:
        partner = np.full(size, -1)
        for rank in range(ranks):
            for rows in micro_batches(size, group, rank, ranks, synchronised=True, streams=streams):
                partner[rows] = rows[partners(rows, recipe, 5, step).numpy()]
        return partner

    groups = size // group
    legal = [1, *(groups * sharing for sharing in range(1, 33) if recipe.mixup_blocks % sharing == 0)]
    assert max(legal) == groups * recipe.mixup_blocks and group // recipe.mixup_blocks >= 16
    alone = pairs(1, 3)
    assert (
        sorted(alone) == list(range(size))
        and (alone != np.arange(size)).all()
        and (alone // group == np.arange(size) // group).all()
    )
    for ranks in legal[1:]:
        assert np.array_equal(pairs(ranks, 3), alone)
    met = {int(pairs(1, step)[0]) // (group // streams) for step in range(20)}
    assert met == set(range(streams)) and not np.array_equal(pairs(1, 4), alone)
    for ranks in (max(legal), 2 * max(legal)):
        if ranks in legal:
            assert resolve([*words, f"nodes={ranks}"]).tasks == ranks
        else:
            with pytest.raises(
                RecipeError,
                match=rf"which {ranks} tasks cannot share whole: [0-9, ]*{max(legal)} tasks are legal here$",
            ):
                resolve([*words, f"nodes={ranks}"])


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_centers_count_each_label_by_its_share(distance: str) -> None:
    """Sums of features and of shares equal a float64 oracle; both transports give the same bits, on 1, 2 and 3
    ranks.
    """
    share = 0.37
    features, *labels = _batch()
    rows = features.astype(np.float64)
    if distance == "cosine":
        rows = rows / np.sqrt((rows**2).sum(1, keepdims=True))
    want = np.zeros((CLASSES, DIM + 1))
    for part, of in zip((share, 1 - share), labels, strict=True):
        for row in range(BATCH):
            want[of[row], :-1] += part * rows[row]
            want[of[row], -1] += part
    assert math.isclose(want[:, -1].sum(), BATCH)
    found = [
        answer
        for size in (1, 2, 3)
        for gathers in (True, False)
        for answer in started(4).run(mixed_sums, size, gathers, distance, share)[:size]
    ]
    np.testing.assert_allclose(found[0] * 2.0**-FEATURE_BITS, want, rtol=1e-6, atol=1e-6)
    assert not found[0][CLASSES - 1].any()  # no row has this class
    for sums in found[1:]:
        assert np.array_equal(sums, found[0])


def test_mixup_moves_centers_as_the_mixed_loss_would() -> None:
    """A move by such sums is an SGD step on share * mean distance to the one + (1 - share) * mean distance to the other
    label's centers.
    """
    share, centers = 0.37, Centers(CLASSES, DIM, "l2", 0.5, 3)
    features, first, second = (torch.from_numpy(column) for column in _batch())
    parameter = torch.nn.Parameter(centers.centers_KD.double().clone())
    loss = sum(
        part * (features.double() - parameter[of]).square().sum(1).mean()
        for part, of in ((share, first), (1 - share, second))
    )
    torch.optim.SGD([parameter], lr=0.5).zero_grad()
    loss.backward()
    sums, bad = centers.class_sums(
        features.repeat(2, 1),
        torch.cat([first, second]),
        2 * BATCH,
        torch.tensor([share] * BATCH + [1 - share] * BATCH),
    )
    centers.move(sums, BATCH)
    assert bad == 0
    np.testing.assert_allclose(centers.centers_KD, (parameter - 0.5 * parameter.grad).detach(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("words", [(), IFL], ids=["ce", "ifl"])
def test_mixup_trains_the_same_on_one_rank_and_two_and_resumes(
    mini_root: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """With several groups a step: the first step's loss has the same bits on 1 and 2 ranks, later ones agree; a stop in
    the middle of an epoch and a resume end with the bits of an undisturbed run; and without mixup the losses are
    others."""
    words = ("augment.mixup=1", "optim.lr=0.001", "optim.weight_decay=0", *words)
    one, two = (mini.recipe_of(mini_root, tmp_path / name, *words) for name in ("one", "two"))
    broken = mini.recipe_of(mini_root, tmp_path / "broken", *words)
    plain = mini.recipe_of(mini_root, tmp_path / "plain", *words, "augment.mixup=null")
    assert started(1).run(mini.trained, str(one.run_folder)) == [True]
    assert started(2).run(mini.trained, str(two.run_folder)) == [True, True]
    assert started(2).run(mini.trained, str(broken.run_folder), stop_at=5) == [False, False]
    assert started(2).run(mini.trained, str(broken.run_folder)) == [True, True]
    assert started(1).run(mini.trained, str(plain.run_folder)) == [True]
    losses = [[line["method_loss"] for line in mini.lines(recipe.run_folder, "train")] for recipe in (one, two, plain)]
    assert losses[0][0] == losses[1][0] and losses[0][0] != losses[2][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    whole, resumed = mini.final(two.run_folder), mini.final(broken.run_folder)
    assert mini.same_bits(whole, resumed) == []


def test_what_cannot_be_mixed_is_refused_with_its_reason() -> None:
    """Methods that refuse mixup do so before anything starts, in the words of their file; so is a batch without groups,
    whose slices would mix otherwise on another number of ranks.
    """
    refusing = [name for name in METHODS if "mixup" in declaration(name).REFUSES]
    for name in refusing:
        with pytest.raises(RecipeError, match="cannot be combined with mixup: ") as caught:
            resolve(
                [
                    "recipe=glt_randaug",
                    "data=digits_glt",
                    f"method.name={name}",
                    "augment.mixup=1",
                    *(["method.init_from=glt_baseline"] if declaration(name).TRAINS == "head" else []),
                ]
            )
        assert declaration(name).REFUSES["mixup"] in str(caught.value)
    with pytest.raises(RecipeError, match="mixup forms pairs inside a batch-normalisation group"):
        resolve(["recipe=glt_baseline", "data=digits_glt", "augment.mixup=1", "batch.bn=0"])
    with pytest.raises(RecipeError, match="across environments"):
        resolve(["recipe=glt_ifl", "data=digits_glt", "augment.mixup=1", "batch.bn_by=env"])
