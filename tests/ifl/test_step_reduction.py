"""The step's one reduction, the running statistics and the comparison over ranks, on real processes."""

from __future__ import annotations

import copy
import importlib.util
import math
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ifl.distributed.comm import Comm
from ifl.distributed.consistency import RankMismatch, check_equal, digest
from ifl.invariance.centers import FEATURE_BITS, Centers
from ifl.invariance.class_sums import AddedUp, Gathered
from ifl.invariance.confidence import ConfidenceTable
from ifl.network.bn_statistics import RunningStatistics
from ifl.step_reduction import STATISTIC_BITS, Desynchronised, MicroBatchSums, StepSync
from recipes.resolve import resolve
from tests.helpers.paths import FAULTS, PROJECT
from tests.helpers.ranks import comm_of, my_rank, started

BATCH, GROUPS, CLASSES, DIM = 16, 4, 3, 5
CPU = torch.device("cpu")


def _rows() -> dict[str, torch.Tensor]:
    """A global batch: everything that the groups' micro-batches put into the reduction."""
    generator = torch.Generator().manual_seed(0)
    return {
        "losses": torch.randn(BATCH, generator=generator).exp(),
        "distances": torch.randn(BATCH, generator=generator).exp() * 50,
        "correct": torch.tensor([3, 0, 4, 1]),
        "statistics": torch.randn(GROUPS, 7, generator=generator) * 10,
        "features": torch.randn(BATCH, DIM, generator=generator),
        "labels": torch.randint(0, CLASSES, (BATCH,), generator=generator),
    }


def reduced(
    size: int,
    save: tuple[int, ...] = (),
    stop: tuple[int, ...] = (),
    counts: tuple[bool, ...] = (True,) * GROUPS,
    spoil: tuple[str, int] | None = None,
    centers: bool = True,
    gathers: bool = False,
    steps: int = 2,
) -> dict[str, Any] | None:
    """In a rank: the totals of the last of some equal steps; `save` and `stop` name the ranks that ask for it."""
    comm = comm_of(size)
    if comm is None:
        return None
    rows = _rows()
    if spoil:
        rows[spoil[0]].view(-1)[spoil[1]] = math.nan
    way = Gathered if gathers else AddedUp
    sync = StepSync(comm, BATCH, way(Centers(CLASSES, DIM, "l2", 0.5, 0), comm, BATCH) if centers else None, CPU)
    per = BATCH // GROUPS
    for _ in range(steps):
        for group in range(comm.rank * GROUPS // size, (comm.rank + 1) * GROUPS // size):
            part = slice(group * per, (group + 1) * per)
            sync.add(
                MicroBatchSums(
                    losses_B=rows["losses"][part],
                    correct=rows["correct"][group],
                    statistics=rows["statistics"][group],
                    targets=[(1.0, rows["labels"][part])],
                    distances_B=rows["distances"][part] if centers else None,
                    features_BD=rows["features"][part] if centers else None,
                    counts=counts[group],
                )
            )
        sync.start((0, 0), save=comm.rank in save, stop=comm.rank in stop)
        totals = sync.wait()
    result = asdict(totals)
    return {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in result.items()}


def _all_equal(size: int, **options: Any) -> dict[str, Any]:
    """The totals, which must be the same on all of the first `size` ranks."""
    answers = started(4).run(reduced, size, **options)[:size]
    for answer in answers[1:]:
        for key, value in answers[0].items():
            assert np.array_equal(answer[key], value), f"{key} differs between ranks"
    return answers[0]


class _Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.conv, self.second = (
            nn.BatchNorm2d(3, momentum=0.2),
            nn.Conv2d(3, 4, 3, bias=False),
            nn.BatchNorm2d(4, momentum=0.2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.conv(self.first(x)).relu())


def _groups(step: int) -> torch.Tensor:
    """float32 [GROUPS, 4, 3, 8, 8]: a step's images, each group with a mean of its own."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(GROUPS, 4, 3, 8, 8, generator=generator) * (step + 1) + torch.arange(GROUPS).view(-1, 1, 1, 1, 1)


def running_statistics(size: int, refresh_after: int | None = None) -> list[np.ndarray] | None:
    """In a rank: the layers' running statistics after three steps."""
    comm = comm_of(size)
    if comm is None:
        return None
    network = _Normed()
    statistics = RunningStatistics(network)
    sync = StepSync(comm, 4 * GROUPS, None, CPU)
    for step in range(3):
        for group in range(comm.rank * GROUPS // size, (comm.rank + 1) * GROUPS // size):
            network(_groups(step)[group])
            zero = torch.zeros(4)
            sync.add(MicroBatchSums(zero, torch.tensor(0), statistics.group_statistics(), [(1.0, zero.long())]))
        sync.start((0, 0), save=False, stop=False)
        statistics.update(sync.wait().statistics)
        if step == refresh_after:  # as a resume does
            saved = copy.deepcopy(network.state_dict())
            network = _Normed()
            statistics = RunningStatistics(network)
            network.load_state_dict(saved)
            statistics.refresh()
    return [
        layer_part.numpy().copy()
        for layer in (network.first, network.second)
        for layer_part in (layer.running_mean, layer.running_var)
    ]


def out_of_step(size: int, odd: int, ahead: int) -> list[str | None] | None:
    """In a rank: each step's error where rank `odd` leaves out a reduction (`ahead` 1) or makes one twice (-1) after
    the first of two steps.
    """
    comm = comm_of(size)
    if comm is None:
        return None
    sync = StepSync(comm, BATCH, None, CPU)
    errors: list[str | None] = []
    for step in (3, 4):
        sync.add(MicroBatchSums(torch.ones(1), torch.tensor(1), torch.ones(2), [(1.0, torch.zeros(1).long())]))
        sync.start((7, step + (ahead if comm.rank == odd and step == 4 else 0)), save=False, stop=False)
        try:
            sync.wait()
            errors.append(None)
        except Desynchronised as error:
            errors.append(str(error))
    return errors


def compared(odd: int | None, element: int = 4, size: int = 4) -> str | None:
    """In a rank: the error of a comparison of digests in which rank `odd` has one bit of one center flipped."""
    if my_rank() >= size:
        return None
    centers, weights, table = Centers(CLASSES, DIM, "l2", 0.5, 0), [None, np.ones(9)], ConfidenceTable(9)
    if my_rank() == odd:
        bits = centers.centers_KD.view(-1).numpy().view(np.int32)
        bits[element] ^= 1
    try:
        check_equal("centers after step 50", digest(centers.centers_KD, *weights, table.table), comm_of(size))
    except RankMismatch as error:
        return str(error)
    return None


def exchanged() -> tuple[list[Any], Any]:
    """In a rank: plain values of unequal size from all ranks, and rank 0's."""
    rank = my_rank()
    return comm_of(4).gather_objects({"rank": rank, "text": "x" * 1000 * rank}, "cpu"), comm_of(4).from_first(
        [rank] * 5 if rank == 0 else None, "cpu"
    )


def renewed(rounds_otherwise: bool) -> list[np.ndarray | None]:
    """In a rank: the streams' weights after a scoring epoch; where it `rounds_otherwise`, every rank but the first is
    off by a bit, as where its CPU is of another kind."""
    from ifl.invariance import invariance

    ifl, comm, own = resolve(["recipe=glt_ifl", "data=digits_glt"]).ifl, comm_of(2), invariance.stream_weights
    if comm is None:
        return []

    def rounded(*args: Any, **options: Any) -> list[np.ndarray | None]:
        weights = own(*args, **options)
        return [None if w is None else np.nextafter(w, np.inf) if comm.rank else w for w in weights]

    labels = np.arange(40) % 2
    part = invariance.Invariance(
        ifl, Centers(2, 4, "l2", 0.5, 0), labels, ["environment"] * ifl.environments, comm, torch.device("cpu")
    )
    part.begin_epoch(ifl.milestones[0])
    ids = torch.arange(comm.rank, 40, 2)
    part.score(
        ids, torch.from_numpy(labels)[ids], torch.randn(20, 2, generator=torch.Generator().manual_seed(comm.rank))
    )
    state = SimpleNamespace(epoch=ifl.milestones[0], weights=[None] * ifl.environments, class_means=None, memory={})
    with pytest.MonkeyPatch.context() as patch:
        if rounds_otherwise:
            patch.setattr(invariance, "stream_weights", rounded)
        assert part.end_epoch(state)
    return state.weights


# -------------------------------------------------------------------------------------------------------------- tests
def test_ranks_whose_processors_round_otherwise_have_equal_weights() -> None:
    """They are rank 0's: numpy's `log` and `**` differ in last bits between AVX2 and AVX-512."""
    plain, other = (started(4).run(renewed, kind)[:2] for kind in (False, True))
    for weights in (*plain, *other):
        assert weights[0] is None and len(set(weights[1])) > 5
        np.testing.assert_array_equal(weights[1], plain[0][1])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_totals_are_the_sums_over_the_global_batch(size: int) -> None:
    """Losses, distances, right rows, the groups' mean statistics and class sums, on 1, 2 and 4 ranks; a step leaves
    nothing behind for the next."""
    rows, totals = _rows(), _all_equal(size)
    assert totals["loss"] == pytest.approx(rows["losses"].double().sum().item(), abs=1e-5)
    assert totals["center"] == pytest.approx(rows["distances"].double().sum().item(), abs=1e-3)
    assert totals["correct"] == 8 and totals["bad"] == 0 and not totals["save"] and not totals["stop"]
    np.testing.assert_allclose(
        totals["statistics"], rows["statistics"].double().mean(0).numpy(), rtol=0, atol=2.0**-STATISTIC_BITS
    )
    assert (
        totals["class_sums"][:, -1].tolist()
        == (np.bincount(rows["labels"], minlength=CLASSES) * 2**FEATURE_BITS).tolist()
    )
    # every group is a micro-batch on any number of ranks, so all of it is equal to the last bit
    for key, value in _all_equal(1).items():
        assert key in ("own_ns", "data_ns") or np.array_equal(totals[key], value), key  # these: one for each rank
    assert np.array_equal(_all_equal(size, gathers=True)["class_sums"], totals["class_sums"])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_request_of_any_one_rank_reaches_all(size: int) -> None:
    """Save and stop are independent, and each is true everywhere as soon as one rank, or several, asked for it."""
    for rank in range(size):
        totals = _all_equal(size, save=(rank,))
        assert totals["save"] and not totals["stop"]
        totals = _all_equal(size, stop=(rank,), steps=1)
        assert totals["stop"] and not totals["save"]
    totals = _all_equal(size, save=tuple(range(size)), stop=(size - 1,))
    assert totals["save"] is True and totals["stop"] is True


def test_requests_are_not_kept_for_the_next_step() -> None:
    """A flag counts for the step in which it was raised."""
    sync = StepSync(Comm(), 2, None, CPU)
    for wish in (True, False):
        sync.add(MicroBatchSums(torch.ones(2), torch.tensor(1), torch.zeros(0), [(1.0, torch.zeros(2).long())]))
        sync.start((0, 0), save=wish, stop=wish)
        totals = sync.wait()
        assert (totals.save, totals.stop, totals.loss, totals.correct) == (wish, wish, 2.0, 1)


@pytest.mark.parametrize("what", ["losses", "distances", "statistics", "features"])
def test_anything_not_finite_is_bad_on_all_ranks(what: str) -> None:
    """A NaN in one rank's losses, distances, statistics or features is seen by every rank in the same step, by either
    transport, and the rest is summed as if it were 0."""
    for size, gathers in ((1, False), (2, True), (4, False), (4, True)):
        totals = _all_equal(size, spoil=(what, _rows()[what].numel() - 1), gathers=gathers)
        assert totals["bad"] == 1
        assert all(np.isfinite(totals[key]).all() for key in ("loss", "center", "statistics"))


def test_groups_that_do_not_count_move_no_statistics() -> None:
    """Only the counted groups' statistics are averaged; their losses count all the same."""
    rows = _rows()
    for size in (1, 2, 4):
        totals = _all_equal(size, counts=(True, True, False, False))
        np.testing.assert_allclose(
            totals["statistics"], rows["statistics"][:2].double().mean(0).numpy(), rtol=0, atol=2.0**-STATISTIC_BITS
        )
        assert totals["loss"] == pytest.approx(rows["losses"].double().sum().item(), abs=1e-5)


def test_without_centers_there_are_no_class_sums() -> None:
    """A run without IFL reduces the head and the statistics alone."""
    assert _all_equal(2, centers=False)["class_sums"] is None


def test_running_statistics_do_not_depend_on_the_ranks() -> None:
    """They equal a literal average over the step's groups, moved once a step with the layers' momentum, and have the
    same bits for 4 groups on 1, 2 and 4 ranks and after a reload in between."""
    layers = _Normed()
    want = [torch.zeros(3), torch.ones(3), torch.zeros(4), torch.ones(4)]
    for step in range(3):
        noted = []
        for images in _groups(step):
            one = images.double()
            x = (one - one.mean((0, 2, 3), keepdim=True)) / (
                one.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5
            ).sqrt()
            two = torch.conv2d(x, layers.conv.weight.double()).relu()
            noted.append([one.mean((0, 2, 3)), one.var((0, 2, 3)), two.mean((0, 2, 3)), two.var((0, 2, 3))])
        want = [0.8 * old.double() + 0.2 * sum(group[i] for group in noted) / GROUPS for i, old in enumerate(want)]
    first = None
    for size, refresh_after in ((1, None), (2, None), (4, None), (2, 0), (1, 1)):
        for answer in started(4).run(running_statistics, size, refresh_after)[:size]:
            for got, expected in zip(answer, want, strict=True):
                np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
            bits = [part.tobytes() for part in answer]
            first = first or bits
            assert bits == first, f"{size} ranks, reload after step {refresh_after}"


class _Mean(nn.Module):
    """Not batch normalisation, but something that runs: the mean of its inputs."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(2))
        self.register_buffer("other", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.running_mean.lerp_(x.detach().mean(0), self.momentum)
        return x


def test_each_layer_moves_with_its_own_momentum() -> None:
    """Batch normalisation of two momenta, and a layer of another kind with a running buffer, each by its own; its other
    buffers, layers in evaluation mode and the layers' outputs stay as they are. A layer without momentum is refused
    when the network is built."""
    network = nn.Sequential(
        _Mean(0.25), nn.BatchNorm1d(2, momentum=0.1), nn.BatchNorm1d(2, momentum=0.5), still := nn.BatchNorm1d(2)
    )
    still.eval()
    statistics = RunningStatistics(network)
    mean, first, second = torch.zeros(2), torch.zeros(2), torch.ones(2)
    for step in range(3):
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(step)) * 3 + step
        network(x)
        statistics.update(statistics.group_statistics().double())
        variance = x.var(0, unbiased=False)
        mean, first, second = (
            mean.lerp(x.mean(0), 0.25),
            first.lerp(x.mean(0), 0.1),
            second.lerp(variance / (variance + 1e-5) * 8 / 7, 0.5),
        )
        for got, want in (
            (network[0].running_mean, mean),
            (network[1].running_mean, first),
            (network[2].running_var, second),
        ):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert torch.equal(still.running_mean, torch.zeros(2)) and torch.equal(network[0].other, torch.ones(3))
    assert statistics.normalises and not RunningStatistics(nn.Sequential(_Mean(0.5), nn.Linear(2, 2))).normalises
    with pytest.raises(ValueError, match="momentum"):
        RunningStatistics(nn.Sequential(nn.BatchNorm2d(2, momentum=None)))


@pytest.mark.parametrize("odd", [0, 1, 2, 3])
def test_one_flipped_bit_stops_all_ranks_and_names_the_odd_one(odd: int) -> None:
    """The lowest bit of one element of one rank's centers: every rank stops with a message that names that rank."""
    for message in started(4).run(compared, odd):
        assert message == f"centers after step 50: rank {odd} differs from the others of 4"


def test_of_two_ranks_nobody_can_tell_who_is_right() -> None:
    """With two ranks the sentence accuses none."""
    assert (
        started(4).run(compared, 1, size=2)[:2]
        == ["centers after step 50: the 2 ranks differ, and no value is that of most of them"] * 2
    )


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("ahead", [1, -1])
def test_a_collective_left_out_or_made_twice_is_found_in_that_step(size: int, ahead: int) -> None:
    """A rank whose reduction meets the others' of another step: every rank raises in that very step, and says where all
    of them stand.
    """
    for odd in (0, size - 1):
        others = [rank for rank in range(size) if rank != odd]
        for rank, (first, second) in enumerate(started(4).run(out_of_step, size, odd, ahead)[:size]):
            assert first is None and second.startswith(f"rank {rank} reduced with others that are not where it is: ")
            assert f"rank {odd} in epoch 7, step {4 + ahead}" in second
            assert f"rank{'s' * (size > 2)} {', '.join(map(str, others))} in epoch 7, step 4" in second


def test_equal_ranks_go_on() -> None:
    """No difference, no error."""
    assert started(4).run(compared, None) == [None] * 4


def test_digest_sees_centers_weights_and_table() -> None:
    """Any single element changes it, and so does a stream that turns from uniform to weights."""

    def values(center: float = 0.0, weight: float = 0.0, count: int = 0) -> str:
        centers = Centers(2, 2, "l2", 0.5, 0)
        centers.centers_KD[1, 1] += center
        table = ConfidenceTable(3)
        table.table[1, 2] += count
        return digest(centers.centers_KD, None, np.array([1.0, 2.0 + weight]), table.table)

    assert values() == values()
    assert len({values(), values(center=1e-6), values(weight=1e-15), values(count=1)}) == 4
    assert digest(None, None, None) != digest(None, None, np.ones(2))


def test_plain_values_travel() -> None:
    """Values of any size arrive in rank order on all ranks; rank 0's alone as well."""
    for gathered, first in started(4).run(exchanged):
        assert gathered == [{"rank": rank, "text": "x" * 1000 * rank} for rank in range(4)]
        assert first == [0] * 5


def test_statistics_of_synchronised_layers_move() -> None:
    """The layers that synchronise a group over several GPUs give their statistics like plain ones (here in a world of
    one, where they need no GPU), and the count of forwards is no part of the state."""
    import torch
    from torch import nn

    from ifl.network.bn_statistics import RunningStatistics

    torch.manual_seed(0)
    images = torch.randn(8, 3, 4, 4)
    moved = []
    for convert in (lambda net: net, nn.SyncBatchNorm.convert_sync_batchnorm):
        network = convert(nn.Sequential(nn.BatchNorm2d(3)))
        statistics = RunningStatistics(network)
        network(images)
        statistics.update(statistics.group_statistics())
        moved.append(network[0].running_mean)
        assert not any("num_batches_tracked" in name for name in network.state_dict())
    assert torch.equal(moved[0], moved[1]) and moved[0].abs().sum() > 0


def test_large_sums_of_a_healthy_step_are_not_refused() -> None:
    """Whether a step counts as diverged depends on single rows, not on how many of them a rank adds up."""
    import torch

    from ifl.distributed.comm import Comm
    from ifl.step_reduction import MicroBatchSums, StepSync

    sync = StepSync(Comm(), 4096, None, torch.device("cpu"))
    sync.add(
        MicroBatchSums(
            losses_B=torch.full((4096,), 3000.0),
            correct=torch.tensor(0),
            statistics=torch.zeros(2),
            targets=[(1.0, torch.zeros(4096, dtype=torch.int64))],
            distances_B=torch.full((4096,), 3000.0),
        )
    )
    sync.start((0, 0), False, False)
    totals = sync.wait()
    assert totals.bad == 0 and totals.loss == totals.center == 3000.0 * 4096


def test_the_faults_of_the_long_tests_still_reach_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/faults changes the step by name: after a renaming it must fail here, and not in the long tests alone."""
    monkeypatch.setenv("RANK", "0")
    faults, step = _fresh(FAULTS / "sitecustomize.py"), _fresh(PROJECT / "ifl" / "step_reduction.py")
    faults.PATH = str(tmp_path / "fault")
    faults._arm(step)
    comm = Comm()
    sync = step.StepSync(comm, 2, None, CPU)
    sync.add(step.MicroBatchSums(torch.ones(2), torch.tensor(1), torch.zeros(0), [(1.0, torch.zeros(2).long())]))
    monkeypatch.setattr(Comm, "start_sum", lambda *_: pytest.fail("the reduction was not left out"))
    Path(faults.PATH).write_text("skip 0")
    sync.start((0, 0), save=False, stop=False)
    Path(faults.PATH).write_text("exception 0")
    with pytest.raises(RuntimeError, match="a fault was asked for"):
        sync.start((0, 0), save=False, stop=False)
    assert not Path(faults.PATH).exists()


def _fresh(path: Path) -> ModuleType:
    """A module of its own from a file that may be imported already."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_armed", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module
