"""Saving without waiting: what is written is what was there at the step's boundary, and nobody goes on where a
checkpoint must be there first."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recipes.common.errors import RunError
from tests.helpers.interrupted import small_engine, train_steps
from tests.helpers.ranks import started
from tests.ifl.test_storage import Disk


def _saver(folder: Path, engine: Any) -> Any:
    """A saver of this rank's engine, whose log keeps nothing."""
    from ifl.distributed.comm import Comm
    from ifl.invariance.invariance import Off
    from ifl.run_log import RunLog
    from ifl.saving.saver import Saver
    from ifl.step import refuse_pollution
    from recipes.resolve import resolve

    return Saver(
        recipe=resolve(["recipe=glt_baseline", "data=digits_glt", "log.save_every_steps=100"]),
        folder=folder,
        steps=10**6,
        engine=engine,
        invariance=Off(),
        comm=Comm().apart(60.0),
        fence=None,
        log=RunLog(),
        identity={},
        refuse_pollution=functools.partial(refuse_pollution, lr=0.1),
        heartbeat=lambda section: None,
    )


def _digests(files: dict[str, memoryview]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def snapshots(zero: int) -> tuple[dict[str, str], dict[str, str], dict[str, str], dict[str, str]]:
    """In a rank: the files as a plain save gives them; those of a snapshot taken then and serialised after two more
    steps; those of a plain save and of a snapshot after them."""
    import torch

    from ifl.engine import serialised
    from ifl.saving.snapshot import HostMemory, Snapshot

    engine, memory = small_engine(zero=zero), HostMemory()
    train_steps(engine, 2)
    Snapshot(engine, {}, memory)  # its memory is used again
    train_steps(engine, 2)
    weights, counts = torch.arange(6.0).double(), torch.arange(4)
    plain = _digests(engine.save())
    engine._parts = {}
    engine.engine.save_checkpoint(".", tag="engine", save_latest=False)  # what older code serialised
    assert plain == _digests({path: serialised(part) for path, part in engine._parts.items()})
    taken = Snapshot(engine, {"weights": [None, weights], "view": weights[2:4], "counts": counts}, memory)
    train_steps(engine, 2)
    weights.zero_()
    counts += 1
    later, after = _digests(taken.save()), _digests(engine.save())
    state = taken.state
    assert torch.equal(state["weights"][1], torch.arange(6.0).double()) and state["weights"][0] is None
    assert torch.equal(state["view"], torch.tensor([2.0, 3.0]).double()) and state["counts"].tolist() == [0, 1, 2, 3]
    return plain, later, after, _digests(Snapshot(engine, {}, memory).save())


@pytest.mark.parametrize("zero", [0, 1])
def test_a_snapshot_is_the_plain_saves_bytes_whatever_comes_after(zero: int) -> None:
    """On two ranks, with ZeRO 0 and 1: a snapshot that is serialised after more steps has, file by file, the bytes that
    a save at its boundary has, which are those of DeepSpeed's own; the memory it lay in serves the next one."""
    for rank, (plain, later, after, following) in enumerate(started(2).run(snapshots, zero)):
        assert later == plain and following == after and bool(plain) == (rank == 0 or zero == 1)
        assert plain.keys() == after.keys() and (after != plain or not plain)


@contextlib.contextmanager
def _writing(write: Callable[[Path, Any], None]) -> Iterator[None]:
    from ifl.saving import checkpoint

    original = checkpoint.write_synced
    checkpoint.write_synced = lambda path, data: (write(path, data), original(path, data))[1]
    try:
        yield
    finally:
        checkpoint.write_synced = original


def waiting(folder: str) -> dict[str, bool]:
    """In a rank whose disk takes .15 s a file: what is there when each call returns."""
    from ifl.saving.state import State

    ckpt, engine, state, seen = Path(folder) / "ckpt", small_engine(), State(), {}

    def there(step: int) -> bool:
        return (ckpt / f"step-{step:09d}" / "MANIFEST.json").exists()

    def save(saver: Any, step: int, **how: bool) -> None:
        train_steps(engine, 1)
        state.step = step
        saver.save(state, **how)

    with _writing(lambda path, data: time.sleep(0.15)):
        with _saver(Path(folder), engine) as saver:
            save(saver, 1)
            seen["the first goes on"] = not there(1) and not saver.due(state)
            save(saver, 2)
            seen["the second waits for the first"] = there(1) and not there(2)
            saver.wait()
            seen["a wait is one"] = there(2)
            save(saver, 3, wait=True)
            seen["a stop waits"] = there(3)
        with contextlib.suppress(KeyError), _saver(Path(folder), engine) as saver:
            save(saver, 4)
            raise KeyError
        seen["a failure waits"] = there(4)
    return seen


def test_a_second_save_and_whatever_ends_a_run_wait_for_the_first(tmp_path: Path) -> None:
    """A save goes on before it is written; the next one, a stop and a failure of the run come after it."""
    seen = started(1).run(waiting, str(tmp_path))[0]
    assert len(seen) == 5 and all(seen.values()), seen


def refused(folder: str, refusal: int) -> list[str]:
    """In a rank: the sentence of a save whose first write is refused to rank 0, at once and in the thread; what is
    there then."""
    from ifl.distributed.comm import Comm
    from ifl.saving import checkpoint
    from ifl.saving.state import State
    from ifl.saving.storage import StorageError

    place, engine, said = Path(folder) / str(refusal), small_engine(), []
    state, comm = State(), Comm()
    if comm.rank == 0:
        place.mkdir()
    comm.gather_objects(None, "cpu")

    def refuse(path: Path, data: Any) -> None:
        if path.name == "suite.pt":
            raise OSError(refusal, os.strerror(refusal), "the disk")

    saver = _saver(place, engine)
    with saver:
        saver.save(state, wait=True)
        with _writing(refuse):
            try:
                checkpoint.save(place / "ckpt", engine, {}, 1, comm)
            except StorageError as error:
                said.append(str(error))
            state.step = 1
            saver.save(state)
            while not saver._write.done():
                time.sleep(0.01)
        if not saver.due(state):
            said.append("the next step does not hear of it")
        try:
            saver.save(state)
        except StorageError as error:
            said.append(str(error))
    return [*said, *sorted(path.name for path in (place / "ckpt").iterdir())]


@pytest.mark.parametrize("refusal", [errno.ENOSPC, errno.EIO])
def test_a_refused_write_ends_the_run_at_the_next_step_as_it_did(tmp_path: Path, refusal: int) -> None:
    """A full or broken disk under the thread: both ranks ask for a save at the next step, which raises the sentence
    that a plain save raises; the checkpoint before is all that is there."""
    for answer in started(2).run(refused, str(tmp_path), refusal):
        plain, threaded, *there = answer
        assert plain == threaded and "the newest checkpoint is step-000000000" in plain, answer
        assert there == ["step-000000000"]


class _Deadly(Disk):
    """A disk at whose call `fatal` the process is killed."""

    def reach(self, what: str) -> None:
        try:
            super().reach(what)
        except BaseException:
            os._exit(9)


def killed_in_the_thread(folder: str) -> list[str]:
    """In a rank: forks that are killed at every fifth call of the thread's write while they train; the complaints."""
    from ifl.distributed.comm import Comm
    from ifl.saving import checkpoint
    from ifl.saving.state import State
    from tests.ifl.test_storage import _content

    comm, engine, source, complaints = Comm(), small_engine(), Path(folder) / "source", []
    source.mkdir()
    train_steps(engine, 2)
    checkpoint.save(source / "ckpt", engine, {"step": 2}, 2, comm)
    contents = {2: _content(engine)}
    train_steps(engine, 2)
    contents[4], parts = _content(engine), engine.parts()
    for number in range(2, 200, 5):
        place = Path(folder) / str(number)
        shutil.copytree(source, place)
        if (child := os.fork()) == 0:
            signal.alarm(20)
            engine.parts = lambda: parts  # a fork has no threads that DeepSpeed could ask the other ranks by
            with _Deadly(place, number, None).failing(), _saver(place, engine) as saver:
                saver.save(State(step=4))
                for parameter in engine.network.parameters():
                    parameter.data += 1
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        other = small_engine(seed=6)
        loaded = checkpoint.load_newest(place / "ckpt", other, comm, history=True)["step"]
        if _content(other) != contents[loaded or 4]:
            complaints.append(f"call {number}: step {loaded} is not what it was")
        if code not in (0, 9):
            return [f"call {number}: the process ended with {code}"]
        if code == 0:
            return complaints if number > 12 and loaded in (0, 4) else [f"ended after {number} calls with {loaded}"]
    return ["no save came to its end"]


def test_a_kill_in_the_threads_write_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """Killed at every fifth call of its disk while the steps go on, a process leaves a whole checkpoint: the one
    before, or the new one with its boundary's bits."""
    assert started(1).run(killed_in_the_thread, str(tmp_path))[0] == []


# --------------------------------------------------------------------------------------- weights beside the checkpoints
@contextlib.contextmanager
def _before_weights(action: Callable[[], object]) -> Iterator[None]:
    """Do something before each file of weights is written."""
    from ifl.saving import kept_weights

    original = kept_weights.write_weights
    kept_weights.write_weights = lambda path, weights: (action(), original(path, weights))[1]
    try:
        yield
    finally:
        kept_weights.write_weights = original


def weights_of_a_boundary(folder: str) -> dict[str, bool]:
    """In a rank, with a moving average, whose weights take .1 s to write: what is there, and what it holds."""
    import io
    from types import SimpleNamespace

    import torch

    from ifl.distributed.comm import Comm
    from ifl.optimisation.ema import MovingAverage
    from ifl.saving.state import State

    comm, engine, state, seen = Comm(), small_engine(), State(), {}
    ckpt = Path(folder) / "ckpt"
    engine.average = MovingAverage(engine.network, 0.5)
    train_steps(engine, 2)
    torch.save(engine.weights(), there := io.BytesIO())
    digest = comm.from_first(hashlib.sha256(there.getvalue()).hexdigest(), "cpu")
    with _before_weights(lambda: time.sleep(0.1)), _saver(Path(folder), engine) as saver:
        saver.weights.begin("best-0000.pt")
        state.best_epoch, state.step = 0, 2
        seen["the run goes on"] = not (ckpt / "best-0000.pt").exists()
        saver.save(state)
        train_steps(engine, 2)
        seen["two are never copied at once"] = saver.weights.begin("last.pt") is None and (
            comm.rank > 0 or (ckpt / "best-0000.pt").exists()
        )
        saver.wait()
        held = torch.load(ckpt / "step-000000002" / "suite.pt", weights_only=True)
        seen["the checkpoint names them"] = held["best_epoch"] == 0 and held["best_sha256"] == digest
        seen["and holds them"] = _sha256(ckpt / "step-000000002" / "best-0000.pt") == digest
        names = saver.written(comm, torch.device("cpu"))
        seen["all ranks know"] = names["best-0000.pt"] == digest and names.keys() == {"best-0000.pt", "last.pt"}
        seen["later ones are others"] = _sha256(ckpt / "last.pt") == names["last.pt"] != digest
        comm.gather_objects(None, "cpu")

        def lost() -> None:
            raise RunError("another start has the run")

        if comm.rank == 0:
            saver.weights._fence = SimpleNamespace(check=lost)
        saver.weights.begin("best-0001.pt")
        try:
            saver.written(comm, torch.device("cpu"))
        except RunError as error:
            seen["a start that lost the run writes none"] = str(error) == "another start has the run"
        comm.gather_objects(None, "cpu")
    return seen | {"nothing else is there": not (ckpt / "best-0001.pt").exists()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_weights_are_those_of_their_boundary_and_there_before_a_checkpoint_needs_them(tmp_path: Path) -> None:
    """On two ranks: weights that are begun have the bytes of the network as it was evaluated then, whatever comes
    after; the next checkpoint waits for them, names and holds them; a start that has lost the run writes none."""
    for seen in started(2).run(weights_of_a_boundary, str(tmp_path)):
        assert len(seen) == 8 and all(seen.values()), seen


def weights_refused(folder: str, refusal: int) -> list[str]:
    """In a rank: what each call says once rank 0's disk has refused weights, and what is there then."""
    from ifl.distributed.comm import Comm
    from ifl.saving.state import State
    from ifl.saving.storage import StorageError

    place, engine, state, said = Path(folder) / str(refusal), small_engine(), State(), []
    comm = Comm()
    if comm.rank == 0:
        place.mkdir()
    comm.gather_objects(None, "cpu")

    def refuse() -> None:
        raise OSError(refusal, os.strerror(refusal), "the disk")

    with _saver(place, engine) as saver:
        saver.save(state, wait=True)
        with _before_weights(refuse):
            saver.weights.begin("best-0000.pt")
            saver.weights.wait()
        asks = comm.gather_objects(saver.due(state), "cpu")
        said.append(str(asks))
        state.step, state.best_epoch = 1, 0
        for call in (lambda: saver.save(state, wait=True), lambda: saver.written(comm, engine.device)):
            try:
                call()
            except StorageError as error:
                said.append(str(error))
    return [*said, *sorted(path.name for path in (place / "ckpt").iterdir())]


@pytest.mark.parametrize("refusal", [errno.ENOSPC, errno.EIO])
def test_refused_weights_end_the_run_as_a_refused_checkpoint_does(tmp_path: Path, refusal: int) -> None:
    """Rank 0 asks for a save at its next step, and both ranks raise one sentence; the checkpoint before is there."""
    first, second = started(2).run(weights_refused, str(tmp_path), refusal)
    asks, by_the_save, by_the_end, *there = first
    assert first == second and asks == "[True, False]" and by_the_save == by_the_end and there == ["step-000000000"]
    assert "the newest checkpoint is step-000000000" in by_the_save
    assert "the disk cannot be written" in by_the_save or "needs" in by_the_save or "the disk;" in by_the_save
