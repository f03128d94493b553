"""The class centers: the formulas, and the same bits on 1, 2, 3 and 4 ranks whichever way the sums travel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ifl.distributed.fixed_point import to_fixed, to_float
from ifl.invariance.centers import FEATURE_BITS, Centers
from ifl.invariance.class_sums import AddedUp, Gathered, gather_is_smaller
from ifl.step_reduction import MicroBatchSums, StepSync
from tests.helpers.ranks import comm_of, started

DISTANCES = ("l2", "cosine")
CLASSES, DIM, SEED = 6, 5, 11
Batch = tuple[np.ndarray, np.ndarray, list[int]]


def _features(rows: int, seed: int, dim: int = DIM) -> np.ndarray:
    """float32 [rows, dim] of very different sizes, so that the order of a float sum would show."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, dim)) * 10.0 ** rng.integers(-4, 3, (rows, 1))).astype(np.float32)


def _batches(ranks: int) -> dict[str, list[Batch]]:
    """Named sequences of global batches (features, labels, rows of each rank); the rows of all ranks are the batch."""
    rng = np.random.default_rng(1)
    cut = lambda rows: [len(part) for part in np.array_split(np.arange(rows), ranks)]  # noqa: E731
    duplicated = np.repeat(_features(4, 5), 3, axis=0)
    return {
        "mixed": [
            (_features(22, step), rng.integers(0, CLASSES - 1, 22), cut(22)) for step in range(4)
        ],  # class 5 never occurs
        "classes on some ranks only": [(_features(12, 9), np.sort(rng.integers(0, CLASSES, 12)), cut(12))],
        "duplicates": [(duplicated, np.repeat([2, 2, 0, 3], 3), cut(12))],
        "empty ranks": [(_features(1, 4), np.array([3]), cut(1)), (_features(2, 7), np.array([1, 1]), cut(2))],
        "wide": [(_features(7, 3, 300), np.array([0, 1, 0, 1, 2, 2, 2]), cut(7))],
    }


def _step(sync: StepSync, features: np.ndarray, labels: np.ndarray, halves: int = 1) -> Any:
    """One reduction of this rank's rows, in one or more micro-batches."""
    for part in np.array_split(np.arange(len(labels)), halves):
        none = torch.zeros(len(part))
        sync.add(
            MicroBatchSums(
                losses_B=none,
                correct=torch.tensor(0),
                statistics=torch.zeros(0),
                targets=[(1.0, torch.from_numpy(labels[part]))],
                distances_B=none,
                features_BD=torch.from_numpy(features[part]),
            )
        )
    sync.start((0, 0), save=False, stop=False)
    return sync.wait()


def moved_centers(size: int, only: str | None = None) -> dict[tuple[str, str, str], np.ndarray] | None:
    """In a rank: the centers after each case's batches, by (distance, transport, case); None outside the first
    `size`.
    """
    comm = comm_of(size)
    if comm is None:
        return None
    result = {}
    for case, batches in _batches(size).items():
        for distance in DISTANCES:
            for transport in ("gather", "fixed point"):
                centers = Centers(CLASSES, batches[0][0].shape[1], distance, 0.5, SEED)
                for features, labels, rows in batches:
                    way = (Gathered if transport == "gather" else AddedUp)(centers, comm, len(labels))
                    sync = StepSync(comm, len(labels), way, torch.device("cpu"))
                    first = sum(rows[: comm.rank])
                    mine = slice(first, first + rows[comm.rank])
                    totals = _step(sync, features[mine], labels[mine], halves=2)
                    assert totals.bad == 0
                    centers.move(totals.class_sums, len(labels))
                result[distance, transport, case] = centers.centers_KD.numpy().copy()
    return result


def bad_values(size: int, transport: str) -> tuple[int, np.ndarray] | None:
    """In a rank: `bad` and the class sums of a batch with values that cannot be added up, all in the last rank's
    rows.
    """
    comm = comm_of(size)
    if comm is None:
        return None
    features = np.ones((8, 4), dtype=np.float32)
    features[5, 0], features[6, 1], features[6, 2], features[7, 3], features[7, 0] = (
        np.nan,
        np.inf,
        -np.inf,
        2.0**40,
        -(2.0**30),
    )
    mine = np.array_split(np.arange(8), size)[comm.rank]
    way = (Gathered if transport == "gather" else AddedUp)(Centers(2, 4, "l2", 0.5, 0), comm, 8)
    sync = StepSync(comm, 8, way, torch.device("cpu"))
    totals = _step(sync, features[mine], np.zeros(8, dtype=np.int64)[mine])
    return totals.bad, totals.class_sums.numpy()


# ------------------------------------------------------------------------------------------------------------- oracle
def literal_move(
    centers: list[list[float]], features: np.ndarray, labels: np.ndarray, distance: str, lr: float
) -> list[list[float]]:
    """One step by the formulas, in plain Python: the gradient of the batch's mean distance, class by class.

    L2: C_k - (2 lr / B) sum (C_k - x).  Cosine: C_k + (lr / B) sum (x^ - (x^ . c^) c^) / |C_k|, hats of length 1.
    """
    batch, result = len(labels), []
    for k, center in enumerate(centers):
        rows = [[float(v) for v in features[i]] for i in range(batch) if labels[i] == k]
        if distance == "l2":
            slope = [math.fsum(2 * (c - x[d]) for x in rows) for d, c in enumerate(center)]
        else:
            length = math.sqrt(math.fsum(c * c for c in center))
            unit = [c / length for c in center]
            slope = [0.0] * len(center)
            for x in rows:
                x_length = math.sqrt(math.fsum(v * v for v in x))
                x_unit = [v / x_length for v in x]
                cosine = math.fsum(a * b for a, b in zip(x_unit, unit, strict=True))
                slope = [s - (a - cosine * b) / length for s, a, b in zip(slope, x_unit, unit, strict=True)]
        result.append([c - lr / batch * s for c, s in zip(center, slope, strict=True)])
    return result


def _sums(centers: Centers, features: np.ndarray, labels: np.ndarray, batch: int | None = None) -> torch.Tensor:
    sums, bad = centers.class_sums(torch.from_numpy(features), torch.from_numpy(labels), batch or len(labels))
    assert bad == 0
    return sums


# -------------------------------------------------------------------------------------------------------------- tests
def test_start_is_standard_normal_and_depends_on_the_seed_alone() -> None:
    """Centers start from N(0, 1) by the run's seed, whatever torch's global generator stands at."""
    torch.manual_seed(1)
    first = Centers(200, 50, "l2", 0.5, 3).centers_KD
    torch.manual_seed(2)
    assert torch.equal(first, Centers(200, 50, "l2", 0.5, 3).centers_KD)
    assert not torch.equal(first, Centers(200, 50, "l2", 0.5, 4).centers_KD)
    assert abs(first.mean().item()) < 0.05 and abs(first.std().item() - 1) < 0.05
    assert first.dtype == torch.float32 and not isinstance(first, torch.nn.Parameter) and not first.requires_grad


@pytest.mark.parametrize("distance", DISTANCES)
def test_class_sums_are_the_literal_sums(distance: str) -> None:
    """Sum and count of each class's rows, to half a unit of the fixed point; padding (label -1) counts nowhere;
    padding, rows in any order and any split give the same bits."""
    features, labels = _features(40, 2), np.random.default_rng(3).integers(-1, CLASSES - 1, 40)
    labels[:3] = -1
    features[0] = np.nan  # whatever stands in padding
    centers = Centers(CLASSES, DIM, distance, 0.5, SEED)
    sums = _sums(centers, features, labels, 64)
    for k in range(CLASSES):
        rows = [features[i].astype(np.float64) for i in range(40) if labels[i] == k]
        if distance == "cosine":
            rows = [x / math.sqrt(math.fsum(x * x)) for x in rows]
        want = [math.fsum(x[d] for x in rows) for d in range(DIM)]
        tolerance = len(rows) * (2.0**-FEATURE_BITS + (6e-8 * 4 if distance == "cosine" else 0))
        np.testing.assert_allclose(to_float(sums[k, :-1], FEATURE_BITS).numpy(), want, rtol=0, atol=tolerance + 1e-12)
        assert sums[k, -1] == len(rows) * 2**FEATURE_BITS
    order = np.random.default_rng(4).permutation(40)
    assert torch.equal(sums, _sums(centers, features[order], labels[order], 64))
    assert torch.equal(sums, sum(_sums(centers, features[[i]], labels[[i]], 64) for i in range(40)))
    assert torch.equal(sums, _sums(centers, features[labels >= 0], labels[labels >= 0], 64))


@pytest.mark.parametrize("distance", DISTANCES)
def test_move_is_the_literal_move(distance: str) -> None:
    """Ten moves equal the formulas in float64, to float32's accuracy; a class without rows stays to the bit."""
    centers = Centers(CLASSES, DIM, distance, 0.5, SEED)
    start = centers.centers_KD.clone()
    want = start.double().tolist()
    for step in range(10):
        features, labels = _features(24, 20 + step), np.random.default_rng(step).integers(0, CLASSES - 1, 24)
        centers.move(_sums(centers, features, labels), 24)
        want = literal_move(want, features, labels, distance, 0.5)
    np.testing.assert_allclose(centers.centers_KD.numpy(), want, rtol=2e-6, atol=2e-6)
    assert torch.equal(centers.centers_KD[CLASSES - 1], start[CLASSES - 1])
    assert not torch.allclose(centers.centers_KD[0], start[0], atol=1e-3)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_batch_smaller_than_the_classes_moves_its_own_alone(distance: str) -> None:
    """With the batch's labels, fewer than the classes and some of them twice, the centers get the same bits as without;
    with more, too.
    """
    for classes, batch in ((40, 24), (10, 24)):
        plain, told = Centers(classes, DIM, distance, 0.5, SEED), Centers(classes, DIM, distance, 0.5, SEED)
        for step in range(5):
            features, labels = _features(batch, step), np.random.default_rng(step).integers(0, classes // 2, batch)
            plain.move(_sums(plain, features, labels), batch)
            told.move(_sums(told, features, labels), batch, torch.from_numpy(labels))
        assert torch.equal(plain.centers_KD, told.centers_KD) and len(set(labels.tolist())) < batch


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("lr", [0.5, 0.05])
def test_move_equals_sgd_on_the_mean_distance(distance: str, lr: float) -> None:
    """Centers move as torch.optim.SGD moves an nn.Parameter under the batch's mean distance."""
    centers = Centers(CLASSES, DIM, distance, lr, SEED)
    parameter = torch.nn.Parameter(centers.centers_KD.double().clone())
    sgd = torch.optim.SGD([parameter], lr=lr)
    for step in range(10):
        features, labels = _features(24, 40 + step), np.random.default_rng(step).integers(0, CLASSES, 24)
        x, y = torch.from_numpy(features), torch.from_numpy(labels)
        given = centers.distances(x, y)
        rows = x.double()
        per_row = (
            (rows - parameter[y]).square().sum(1) if distance == "l2" else 1 - F.cosine_similarity(rows, parameter[y])
        )
        np.testing.assert_allclose(given.numpy(), per_row.detach().numpy(), rtol=1e-5, atol=2e-6)
        sgd.zero_grad()
        per_row.mean().backward()
        sgd.step()
        centers.move(_sums(centers, features, labels), 24)
    np.testing.assert_allclose(centers.centers_KD.numpy(), parameter.detach().numpy(), rtol=2e-6, atol=2e-6)


def test_centers_have_the_same_bits_on_any_number_of_ranks() -> None:
    """Given the same features: one result on 1, 2, 3 and 4 ranks, on every rank and for both transports, to the last
    bit, with classes absent on some ranks, empty ranks, duplicates and padding; and it is the formulas' result."""
    ranks = started(4)
    one, *others = ranks.run(moved_centers, 1)
    assert others == [None] * 3
    for size in (2, 3, 4):
        answers = ranks.run(moved_centers, size)
        assert [answer is not None for answer in answers] == [rank < size for rank in range(4)]
        for rank, answer in enumerate(answers[:size]):
            for key, centers in answer.items():
                assert centers.tobytes() == one[key].tobytes(), f"{key} on rank {rank} of {size}"
    for (distance, transport, case), centers in one.items():
        assert centers.tobytes() == one[distance, "gather", case].tobytes(), (distance, transport, case)
        batches = _batches(1)[case]
        want = Centers(CLASSES, batches[0][0].shape[1], distance, 0.5, SEED).centers_KD.double().tolist()
        for features, labels, _ in batches:
            want = literal_move(want, features, labels, distance, 0.5)
        np.testing.assert_allclose(centers, want, rtol=2e-6, atol=2e-6, err_msg=f"{distance} {transport} {case}")


@pytest.mark.parametrize("transport", ["gather", "fixed point"])
def test_what_cannot_be_added_up_is_counted(transport: str) -> None:
    """NaN, both infinities and values out of range are `bad` on every rank, once each, and count as 0 in the sums."""
    want = np.array([[6, 7, 7, 7]]) * 2**FEATURE_BITS
    for size in (1, 3, 4):
        for bad, sums in started(4).run(bad_values, size, transport)[:size]:
            assert bad == 5
            assert np.array_equal(sums[:1, :-1], want) and sums[0, -1] == 8 * 2**FEATURE_BITS and not sums[1].any()


def test_sums_at_the_limit_are_exact_and_beyond_it_bad() -> None:
    """Values just inside the stated limit add up without wrapping round; the limit itself is refused."""
    terms, bits = 1024, FEATURE_BITS
    limit = 2.0 ** (62 - bits) / terms
    inside = torch.full((terms,), np.nextafter(np.float32(limit), np.float32(0)).item())
    fixed, bad = to_fixed(inside, bits, terms)
    assert bad == 0 and fixed.sum().item() == terms * int(inside[0].item()) * 2**bits + terms * int(
        (inside[0].item() % 1) * 2**bits
    )
    assert fixed.sum().item() > 2**61
    for value in (limit, -limit, 1e30, math.inf, -math.inf, math.nan):
        fixed, bad = to_fixed(torch.tensor([1.0, value]), bits, terms)
        assert bad == 1 and fixed.tolist() == [2**bits, 0]
    half = torch.tensor([0.3, 0.7, -0.7, 0.1], dtype=torch.float64)
    assert (to_float(to_fixed(half, bits, terms)[0], bits) - half).abs().max() <= 2.0 ** -(bits + 1)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_of_distances_by_finite_differences(distance: str) -> None:
    """The distances' gradient is the slope in the features; none flows into the centers."""
    centers = Centers(CLASSES, DIM, distance, 0.5, SEED)
    labels = torch.tensor([0, 3, 3, 5])
    features = torch.randn(4, DIM, generator=torch.Generator().manual_seed(1)).requires_grad_()
    centers.distances(features, labels).sum().backward()
    assert not centers.centers_KD.requires_grad and centers.centers_KD.grad is None
    step = 2.0**-6
    for i in range(4):
        for d in range(DIM):
            shift = torch.zeros(4, DIM)
            shift[i, d] = step
            with torch.no_grad():
                slope = (centers.distances(features + shift, labels) - centers.distances(features - shift, labels)) / (
                    2 * step
                )
            assert slope[i].item() == pytest.approx(features.grad[i, d].item(), abs=2e-3, rel=2e-3)
            assert not slope[[j for j in range(4) if j != i]].any()


def test_l2_distance_is_clamped() -> None:
    """Squared L2 lies in [1e-12, 1e12], and a clamped row has no gradient."""
    centers = Centers(2, 3, "l2", 0.5, 0)
    features = torch.stack([centers.centers_KD[0], torch.full((3,), 1e7), centers.centers_KD[1] + 1]).requires_grad_()
    distances = centers.distances(features, torch.tensor([0, 0, 1]))
    assert distances.tolist() == pytest.approx([1e-12, 1e12, 3.0], rel=1e-5)
    distances.sum().backward()
    assert not features.grad[:2].any()
    assert features.grad[2].tolist() == pytest.approx([2.0, 2.0, 2.0], rel=1e-5)


def test_smaller_transport_is_chosen() -> None:
    """What moves fewer bytes is chosen: B rows of float32 against K rows of int64, whatever their length."""
    assert gather_is_smaller(256, 1000) and not gather_is_smaller(256, 29)
    for batch, classes in ((1, 1), (19, 10), (20, 10), (21, 10), (128, 64), (127, 64)):
        assert gather_is_smaller(batch, classes) == (batch * 8 * 4 < classes * 8 * 8)
