"""What a step does on a GPU, as far as a CPU can show it: stand-ins for the GPU's streams, and tensors of the device
`meta`, which refuse to be mixed with those of the host or to hand over values.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from ifl.distributed import transfers
from ifl.distributed.comm import Comm, Pending
from ifl.invariance.centers import Centers
from ifl.invariance.class_sums import AddedUp, Gathered
from ifl.method import Output, Rows, Task, load_method
from ifl.step_reduction import MicroBatchSums, StepSync
from recipes.declarations import declaration
from tests.helpers.mini import METHODS

GPU, META = torch.device("cuda"), torch.device("meta")


class Event:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def synchronize(self) -> None:
        self.log.append("host waits for the numbers")


class Stream:
    """A stand-in for a stream, which notes what is asked of it."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def wait_stream(self, other: str) -> None:
        self.log.append(f"own stream waits for the {other} stream")

    def record_event(self) -> Event:
        self.log.append("arrival is marked")
        return Event(self.log)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of a GPU that is not there, in order; its tensors are the host's."""
    log: list[str] = []

    @contextmanager
    def entered(stream: Stream):
        log.append("own stream begins")
        yield
        log.append("own stream ends")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "main")
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: log.append("memory is kept"))
    monkeypatch.setattr(transfers, "_pinned", lambda count, dtype: torch.full((count,), -1, dtype=dtype))
    return log


class Sum(Pending):
    """A sum under way that notes who waits for it."""

    def __init__(self, tensor: torch.Tensor, log: list[str]) -> None:
        super().__init__(tensor)
        self.log = log

    def wait(self) -> torch.Tensor:
        self.log.append("stream waits for the sum")
        return super().wait()


def test_the_first_numbers_are_asked_for_at_once_and_waited_for_alone(log: list[str]) -> None:
    """On a GPU the numbers are copied on a stream of their own, behind the sum, before anything else is asked of the
    device; later the host waits for their arrival and for nothing else."""
    first = transfers.FirstNumbers(GPU)
    first.begin(Sum(torch.arange(5), log), 3)
    assert log == [
        "own stream waits for the main stream",
        "own stream begins",
        "stream waits for the sum",
        "arrival is marked",
        "own stream ends",
        "memory is kept",
    ]
    log.clear()
    assert first.tolist() == [0, 1, 2] and log == ["host waits for the numbers"]


def test_a_step_s_totals_are_the_same_by_either_way(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The reduction gives equal totals with the numbers read early, as on a GPU, and as on a CPU."""

    def totals(first: transfers.FirstNumbers) -> Any:
        sync = StepSync(Comm(), 4, None, torch.device("cpu"))
        sync._first = first
        rows = torch.tensor([0.5, 1.25, 2.0, 4.0])
        sync.begin()
        sync.add(MicroBatchSums(rows, torch.tensor(3), torch.tensor([1.0, 2.0]), [(1.0, torch.arange(4))]))
        sync.start((2, 7), save=True, stop=False)
        found = sync.wait()
        return found.save, found.stop, found.bad, found.loss, found.correct, found.statistics.tolist()

    expected = (True, False, 0, 7.75, 3, [1.0, 2.0])
    assert totals(transfers.FirstNumbers(torch.device("cpu"))) == expected and not log
    assert totals(transfers.FirstNumbers(GPU)) == expected and log


def test_values_go_to_a_gpu_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays and tensors travel from pinned memory, not awaited; on a CPU they stay where they are."""
    asked: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: asked.append("pinned") or tensor)
    array = np.arange(3)
    assert transfers.to_device(array, torch.device("cpu")).data_ptr() == array.ctypes.data and not asked
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, **how: asked.append((device, how)) or tensor)
    for values in (array, torch.arange(3)):
        asked.clear()
        assert transfers.to_device(values, GPU).tolist() == [0, 1, 2]
        assert asked == ["pinned", (GPU, {"non_blocking": True})]


ASKS = {"irm": "which environments are in a group", "lff": "which samples came twice"}
"""Methods whose steps ask the device for values, and what for."""


@pytest.mark.parametrize("name", METHODS)
def test_a_method_s_step_stays_on_its_device(name: str) -> None:
    """A method's head, losses, predictions and notes mix no tensors of the host with those of the device, and ask it
    for no values, but for those methods that must."""
    counts, batch = np.array([9, 5, 3, 2]), 8
    given = declaration(name).ARGS.items()
    args = {key: value["corrected"] if isinstance(value, dict) else value for key, value in given}
    dim = {"experts": 3, "branches": 2, "twin": 2}.get(declaration(name).FORM, 1) * 6
    method = load_method(name, Task(counts, dim, 10, args))
    head = method.head().to(META)
    method.to(META)
    features_BD = torch.empty(batch, dim, device=META)
    labels_B = torch.empty(batch, dtype=torch.int64, device=META)
    out = head(features_BD)
    logits, *parts = out if isinstance(out, tuple) else (out,)
    output, rows = Output(features_BD, logits, tuple(parts)), Rows(labels_B, labels_B, labels_B, 9, labels_B)

    def step() -> None:
        assert method.losses(output, rows).device == META and method.predict(output).device == META
        notes = method.notes(output, rows)
        if notes is not None:
            method.remember(labels_B, labels_B, notes.double())

    if name in ASKS:
        # By which operator: mixed devices, say, would be another error.
        with pytest.raises(NotImplementedError, match=r"^aten::_unique2: "):
            step()
    else:
        step()


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize("way", [AddedUp, Gathered])
def test_ifl_s_step_stays_on_its_device(distance: Any, way: Any) -> None:
    """Distances, class sums and the centers' move mix no devices, and ask for no values."""
    centers = Centers(4, 6, distance, 0.5, 0, META)
    features_BD, labels_B = torch.empty(8, 6, device=META), torch.empty(8, dtype=torch.int64, device=META)
    assert centers.distances(features_BD, labels_B).shape == (8,)
    sums = way(centers, Comm(), 8)
    sums.add(features_BD, [(1.0, labels_B)])
    started = sums.start()
    centers.move(sums.finish(started.sums), 8, labels_B)
    centers.move(torch.empty(4, 7, dtype=torch.int64, device=META), 2, labels_B[:2])
    centers.start_from_means(torch.empty(4, 7, dtype=torch.float64, device=META))
    assert centers.centers_KD.device == META


def test_meta_refuses_what_a_gpu_would() -> None:
    """The stand-in device is strict: mixing it with the host, or asking it for a value, is an error."""
    values = torch.empty(3, device=META)
    with pytest.raises(RuntimeError, match=r"(?i)device"):
        values + torch.ones(3)
    with pytest.raises(RuntimeError, match=r"(?i)meta"):
        values.sum().item()
