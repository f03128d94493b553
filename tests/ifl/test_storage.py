"""Disks that fail: at every call of a save, to every rank, by refusal, by a kill in mid-write, by a flipped bit. The
newest whole checkpoint is taken, on all ranks the same, and the run says in one sentence what happened."""

from __future__ import annotations

import builtins
import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.interrupted import STEPS, Launch, copy_of_killed, ending, flip_bit, small_engine, train_steps
from tests.helpers.ranks import started

CALLS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")
BEST = "best-{:04d}.pt"
BEST_12 = hashlib.sha256(b"best" * 100).hexdigest()


class Killed(BaseException):
    """The process ends here."""


class File:
    """An open file whose writes count: `reach` is told of each before it is made."""

    def __init__(self, file: Any, reach: Callable[[str], None]) -> None:
        self.file, self.reach = file, reach

    def write(self, data: Any) -> int:
        try:
            self.reach("write")
        except BaseException:
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            raise
        return self.file.write(data)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class Disk:
    """Counts the calls that change the disk below `folder`: opening for writing, each write, fsync, rename, mkdir,
    unlink. The call `fatal` is not done (a write is half done): it ends the process (`refusal` None: no later call is
    done either), or is refused with that errno. Which calls were done stands in `done`."""

    def __init__(self, folder: Path, fatal: int, refusal: int | None) -> None:
        self.folder, self.fatal, self.refusal = str(folder), fatal, refusal
        self.calls: list[str] = []
        self.done: list[str] = []
        self.dead = False

    def reach(self, what: str) -> None:
        if not self.dead:
            self.calls.append(what)
        if self.dead or len(self.calls) == self.fatal:
            if self.refusal is not None:
                raise OSError(self.refusal, os.strerror(self.refusal))
            self.dead = True
            raise Killed

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        originals = {name: getattr(os, name) for name in CALLS}
        open_file, disk = builtins.open, self

        def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not str(path).startswith(disk.folder) or not set(mode) & set("wax+"):
                return open_file(path, mode, *args, **kwargs)
            disk.reach("open")
            return File(open_file(path, mode, *args, **kwargs), disk.reach)

        def counted(name: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                disk.reach(name)
                result = originals[name](*args, **kwargs)
                disk.done.append(name)
                return result

            return call

        builtins.open = opened
        for name in CALLS:
            setattr(os, name, counted(name))
        try:
            yield
        finally:
            builtins.open = open_file
            for name, original in originals.items():
                setattr(os, name, original)


def _mortal() -> Any:
    """A `Comm` in which a rank's death is seen by the others when they next wait for it, as a lost connection is."""
    from ifl.distributed.comm import Comm

    class Mortal(Comm):
        def gather_objects(self, value: Any, device: Any, alive: bool = True) -> list[Any]:
            parts = super().gather_objects((alive, value), device)
            if not all(there for there, _ in parts):
                raise Killed
            return [part for _, part in parts]

    return Mortal()


def _content(engine: Any) -> str:
    """Digest of all that an engine would write, over the ranks."""
    from ifl.distributed.comm import Comm

    files = {name: hashlib.sha256(data).hexdigest() for name, data in engine.save().items()}
    return hashlib.sha256(json.dumps(Comm().gather_objects(files, "cpu"), sort_keys=True).encode()).hexdigest()


def _known(epoch: int) -> dict[str, str]:
    """The best weights of an epoch as a save is told of them."""
    return {BEST.format(epoch): BEST_12 if epoch == 12 else hashlib.sha256(bytes(range(256)) * epoch).hexdigest()}


def _checkpoints(folder: Path, zero: int = 0) -> dict[int, str]:
    """Checkpoints of steps 4 and 8, each with its best epoch; what the engine held at both."""
    from ifl.distributed.comm import Comm
    from ifl.saving import checkpoint

    comm, engine, contents = Comm(), small_engine(zero=zero), {}
    if comm.rank == 0:
        folder.mkdir(parents=True)
    comm.gather_objects(None, "cpu")
    for step in (4, 8):
        train_steps(engine, 4)
        if comm.rank == 0:
            (folder / BEST.format(step)).write_bytes(bytes(range(256)) * step)
        checkpoint.save(folder, engine, {"step": step, "tensor": torch.arange(step)}, step, comm, _known(step))
        contents[step] = _content(engine)
    return contents


def failing_saves(folder: str, victim: int, refusal: int | None, again: bool, zero: int = 0) -> tuple[list[str], int]:
    """In a rank: a save of step 12 (or of step 8 `again`) with its best epoch, failing on rank `victim` at each of its
    calls to the disk in turn. Returns the complaints and the number of calls."""
    from ifl.distributed.comm import Comm
    from ifl.saving import checkpoint
    from ifl.saving.storage import StorageError
    from recipes.common.files import write_whole

    comm, mortal, complaints = Comm(), _mortal(), []
    place, step = Path(folder) / f"{victim}-{refusal}-{again}-{zero}", 8 if again else 12
    contents = _checkpoints(place / "source", zero)
    engine, other = small_engine(seed=5, zero=zero), small_engine(seed=6, zero=zero)
    checkpoint.load_newest(place / "source", engine, comm, history=True)
    train_steps(engine, 2)
    contents[12] = _content(engine)
    for number in range(1, 200):
        ckpt = place / str(number) / "ckpt"
        if comm.rank == 0:
            shutil.copytree(place / "source", ckpt)
        comm.gather_objects(None, "cpu")
        disk, outcome = Disk(ckpt, number if comm.rank == victim else -1, refusal), "saved"
        try:
            with disk.failing():
                if comm.rank == 0:
                    write_whole(ckpt / BEST.format(12), b"best" * 100)
                mortal.gather_objects(None, "cpu")
                checkpoint.save(
                    ckpt, engine, {"step": 12, "tensor": torch.arange(12)}, step, mortal, _known(12), milestones=[4]
                )
        except StorageError as error:
            outcome = str(error)
        except (Killed, OSError):  # alone, so the others hear of it when they wait for this rank
            outcome = "killed"
            if len(disk.calls) >= number and comm.rank == victim:
                with contextlib.suppress(Killed):
                    mortal.gather_objects(None, "cpu", alive=False)
        calls, done = comm.gather_objects((disk.calls, disk.done), "cpu")[victim]
        if len(calls) < number:
            return (
                complaints if number > (5 if victim else 20) else [f"only {number - 1} calls were seen: {calls}"]
            ), number - 1

        def check(right: bool, what: str, number: int = number, calls: list[str] = calls) -> None:
            if not right:
                complaints.append(f"call {number} ({calls[number - 1]}): {what}")

        outcomes = comm.gather_objects(outcome, "cpu")
        check(len(set(outcomes)) == 1, f"the ranks ended differently: {outcomes}")
        if outcome not in ("saved", "killed"):
            check(
                os.strerror(refusal).lower() in outcome
                and "the newest checkpoint is step-" in outcome
                and "launch again when" in outcome
                and "\n" not in outcome,
                outcome,
            )
            check(not list(ckpt.glob("tmp-*")), "a half-written checkpoint was left")
        torn = [path.name for path in checkpoint._complete(ckpt) if checkpoint._fault(path, comm.rank, comm.size)]
        check(not torn, f"{torn} look whole and are not")
        want = 12 if (done.count("rename") >= (2 if again else 1) and victim == 0) or outcome == "saved" else 8
        state = checkpoint.load_newest(ckpt, other, comm, history=True)
        check(state["step"] == want and _content(other) == contents[want], f"loaded {state['step']}, wanted {want}")
        checkpoint.save(ckpt, engine, {"step": 13, "tensor": torch.arange(13)}, 13, comm, _known(want), milestones=[4])
        names = {path.name for path in ckpt.iterdir()}
        # Two and the milestone; where the last save was the same step's, what it was renamed to may be the one before.
        check(
            {"step-000000004", "step-000000013"} < names
            and len([n for n in names if n.startswith("step-")]) in (2, 3)
            and not [n for n in names if "tmp" in n or "old" in n],
            str(names),
        )
        check(
            checkpoint.load_newest(ckpt, other, comm, history=True)["step"] == 13, "the next checkpoint was not found"
        )
        comm.gather_objects(None, "cpu")
    return [*complaints, "a save never came to its end"], 200


def damaged_views(folder: str, offsets: int, cuts: int, zero: int) -> tuple[list[str], int]:
    """In a rank: each rank sees the checkpoints through a copy of its own, and one bit of one file (or its end) is
    damaged in one copy. Whatever a rank reads: all ranks fall back to the older checkpoint. Returns complaints and
    injections."""
    from ifl.distributed.comm import Comm
    from ifl.saving import checkpoint

    comm, complaints, count = Comm(), [], 0
    contents = _checkpoints(Path(folder) / f"source-{zero}", zero)
    view = Path(folder) / f"view-{zero}-{comm.rank}"
    shutil.copytree(Path(folder) / f"source-{zero}", view)
    other = small_engine(seed=6, zero=zero)
    newest = view / "step-000000008"
    files = [str(path.relative_to(view)) for path in sorted(newest.rglob("*")) if path.is_file()]
    names = comm.from_first(files, "cpu")
    for rank in range(comm.size):
        for name in names:
            if f"zero_pp_rank_{1 - rank}_" in name:
                continue  # the other rank's, which this one does not read
            whole = (view / name).read_bytes()
            faults = [("bit", (len(whole) - 1) * i // (offsets - 1)) for i in range(offsets)] + [
                ("cut", len(whole) * i // cuts) for i in range(cuts)
            ]
            for kind, offset in faults:
                if comm.rank == rank:
                    flip_bit(view / name, offset, (offset + rank) % 8) if kind == "bit" else os.truncate(
                        view / name, offset
                    )
                state = checkpoint.load_newest(view, other, comm, history=True)
                count += 1
                if state["step"] != 4 or (count % 10 == 0 and _content(other) != contents[4]):
                    complaints.append(f"{kind} {offset} of {name} on rank {rank}: step {state['step']}")
                if comm.rank == rank:
                    (view / name).write_bytes(whole)
    comm.gather_objects(None, "cpu")
    if checkpoint.load_newest(view, other, comm, history=True)["step"] != 8:
        complaints.append("undamaged, the newest is not taken")
    return complaints, count


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("refusal", [None, errno.EIO, errno.ENOSPC])
def test_a_save_that_fails_at_any_call_leaves_the_last_checkpoint(
    tmp_path: Path, refusal: int | None, again: bool
) -> None:
    """A kill, an I/O error and a full disk at each call of a save, of a new step and of one that has a checkpoint: the
    newest whole checkpoint is taken and the next save works and clears away what is left; a refusal is one sentence."""
    complaints, points = started(1).run(failing_saves, str(tmp_path), 0, refusal, again)[0]
    assert complaints == []
    print(f"{points} calls")


@pytest.mark.full
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("victim", "zero"), [(0, 0), (0, 1), (1, 1)])  # with ZeRO 0 rank 1 writes nothing
@pytest.mark.parametrize("refusal", [None, errno.EIO, errno.ENOSPC])
def test_the_same_on_two_ranks(tmp_path: Path, refusal: int | None, victim: int, zero: int, again: bool) -> None:
    """Whichever of two ranks is killed or refused, with ZeRO 0 and 1: both load the same newest whole checkpoint, and
    both raise the same sentence."""
    answers = started(2).run(failing_saves, str(tmp_path), victim, refusal, again, zero, timeout=300)
    assert [complaints for complaints, _ in answers] == [[], []]
    print(f"{answers[0][1]} calls")


@pytest.mark.full
@pytest.mark.parametrize("zero", [0, 1])
def test_any_flipped_bit_or_cut_end_on_any_rank_makes_all_fall_back(tmp_path: Path, zero: int) -> None:
    """One bit at 20 offsets and an end cut off at 50 of every file, in the view of one of two ranks: found before use,
    and both take the same older checkpoint."""
    answers = started(2).run(damaged_views, str(tmp_path), 20, 50, zero, timeout=600)
    assert [complaints for complaints, _ in answers] == [[], []]
    print(f"{answers[0][1]} damages")


# ------------------------------------------------------------------------------------------------------------ retention
def kept_checkpoints(folder: str) -> list[list[str]]:
    """In a rank: what is there after the saves of steps 2, 4, ... 12 with milestones 4 and 8; after a fall-back to
    8.
    """
    from ifl.distributed.comm import Comm
    from ifl.saving import checkpoint

    place, comm, engine, there = Path(folder) / "ckpt", Comm(), small_engine(), []
    place.mkdir()
    (place / "notes").mkdir()  # not ours
    shutil.copytree(place, place / "step-backup")
    for step in range(2, 13, 2):
        checkpoint.save(place, engine, {"step": step}, step, comm, milestones=[4, 8])
    there.append(sorted(path.name for path in place.iterdir()))
    for step in (10, 12):
        flip_bit(place / f"step-{step:09d}" / "suite.pt", 100)
    there.append([str(checkpoint.load_newest(place, engine, comm, history=True)["step"])])
    checkpoint.save(place, engine, {"step": 9}, 9, comm, milestones=[4, 8])
    there.append(sorted(path.name for path in place.iterdir()))
    return there


def test_the_last_two_and_the_milestones_are_kept(tmp_path: Path) -> None:
    """Retention keeps the last two and the milestones', a milestone is a checkpoint to fall back to, and folders that
    are not ours are left alone."""
    last, fallback, after = started(1).run(kept_checkpoints, str(tmp_path))[0]
    assert last == ["notes", *(f"step-{step:09d}" for step in (4, 8, 10, 12)), "step-backup"]
    assert fallback == ["8"]
    assert after == ["notes", *(f"step-{step:09d}" for step in (4, 8, 9)), "step-backup"]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ([], [12, 16]),
        (["ifl=null"], []),
        (["log.keep=[0,0.5]"], [0, 10]),
        (["log.keep=[]"], []),
        (["ifl=null", "log.keep=[0.999]"], [19]),
    ],
)
def test_kept_epochs_follow_from_the_recipe(words: list[str], kept: list[int]) -> None:
    """By default the epochs of `ifl.milestones`, else those of `log.keep`; in a repeated recipe too."""
    from recipes.resolve import resolve

    recipe = resolve(["recipe=glt_ifl", "data=digits_glt", "schedule.epochs=20", *words])
    assert (
        recipe.kept_epochs == kept
        and recipe.run_name
        == resolve(
            ["recipe=glt_ifl", "data=digits_glt", "schedule.epochs=20", *(w for w in words if "keep" not in w)]
        ).run_name
    )


@pytest.mark.parametrize("keep", ["[20]", "[-1]", "[5,25]"])
def test_kept_epochs_that_never_come_are_refused(keep: str) -> None:
    """An epoch that the run does not have is named together with the legal ones."""
    from recipes.common.errors import RecipeError
    from recipes.resolve import resolve

    with pytest.raises(RecipeError, match=r"^log.keep=.* whole epochs from 0 to 19"):
        resolve(["recipe=glt_ifl", "data=digits_glt", "schedule.epochs=20", f"log.keep={keep}"])


# ----------------------------------------------------------------------------------------------- history, no checkpoint
LOST: dict[str, Callable[[Path], object]] = {
    "deleted": lambda ckpt: [shutil.rmtree(path) for path in ckpt.glob("step-*")],
    "folder deleted": shutil.rmtree,
    "folder emptied": lambda ckpt: (shutil.rmtree(ckpt), ckpt.mkdir()),
    "a file in its place": lambda ckpt: (shutil.rmtree(ckpt), ckpt.write_bytes(b"")),
    "garbled": lambda ckpt: [path.write_bytes(os.urandom(200)) for path in ckpt.rglob("*") if path.is_file()],
    "emptied files": lambda ckpt: [path.write_bytes(b"") for path in ckpt.rglob("*") if path.is_file()],
    "no manifests": lambda ckpt: [path.unlink() for path in ckpt.rglob("MANIFEST.json")],
    "no manifests, no metrics": lambda ckpt: [
        path.unlink() for path in [*ckpt.rglob("MANIFEST.json"), *ckpt.parent.glob("metrics.jsonl")]
    ],
    "manifests are folders": lambda ckpt: [(path.unlink(), path.mkdir()) for path in ckpt.rglob("MANIFEST.json")],
    "manifests of another kind": lambda ckpt: [
        path.write_text(text) for path, text in zip(ckpt.rglob("MANIFEST.json"), ("[]", '{"files": 3}'), strict=True)
    ],
    "copies of the best weights deleted": lambda ckpt: [path.unlink() for path in ckpt.glob("step-*/best-*.pt")],
    "a dangling link": lambda ckpt: (shutil.rmtree(ckpt), ckpt.symlink_to("nowhere")),
}


def lost_histories(folder: str) -> dict[str, str]:
    """In a rank: what `load_newest` says to each way of losing all checkpoints."""
    from ifl.distributed.comm import Comm
    from ifl.run_log import has_history
    from ifl.saving import checkpoint

    _checkpoints(Path(folder) / "source")
    engine, answers = small_engine(), {}
    for what, lose in LOST.items():
        ckpt = Path(folder) / what / "ckpt"
        shutil.copytree(Path(folder) / "source", ckpt)
        (ckpt.parent / "metrics.jsonl").write_text("{}\n")
        lose(ckpt)
        try:
            answers[what] = f"loaded {checkpoint.load_newest(ckpt, engine, Comm(), history=has_history(ckpt.parent))}"
        except checkpoint.CheckpointError as error:
            answers[what] = str(error)
    return answers


def test_history_without_a_checkpoint_stops_with_what_to_do(tmp_path: Path) -> None:
    """However all checkpoints were lost: one sentence that says what to do, and no start from scratch."""
    answers = started(1).run(lost_histories, str(tmp_path))[0]
    assert answers.keys() == LOST.keys()
    for what, answer in answers.items():
        assert (
            "holds no whole checkpoint although the run has made steps" in answer
            and answer.endswith("to start anew")
            and "\n" not in answer
        ), f"{what}: {answer}"
    assert "best-0008.pt is missing" in answers["copies of the best weights deleted"]


# ------------------------------------------------------------------------------------------------- what else is written
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[Path, str], None]]:
    """Mounts a file system of a size over a folder, or mounts it anew with another option; taken away after the
    test.
    """
    mounted: list[Path] = []

    def mount(folder: Path, options: str) -> None:
        if folder in mounted:
            subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True
            )
            mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("what", ["metrics", "note", "predictions", "best weights"])
def test_a_refused_write_says_so_and_hides_nothing(tmp_path: Path, what: str) -> None:
    """On a disk that is full or broken each of the run's other writers ends in the same sentence, and a note of a
    failure, which must not hide it, in none."""
    from ifl.run_log import Metrics
    from ifl.saving.storage import StorageError, disk_of, write_arrays
    from recipes.common.files import write_whole
    from slurm.monitoring.events import append_event, read

    (tmp_path / "ckpt" / "step-000000012").mkdir(parents=True)
    (tmp_path / "ckpt" / "step-000000012" / "MANIFEST.json").write_text("{}")
    append_event(tmp_path, "start")
    for refusal in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
        disk = Disk(tmp_path, 2, refusal)  # the first makes a folder or opens a file
        write: dict[str, Callable[[], object]] = {
            "metrics": lambda: Metrics(tmp_path / "metrics.jsonl", 0).write(kind="train"),
            "note": lambda: append_event(tmp_path, "failed", error="the first error"),
            "predictions": lambda: write_arrays(tmp_path / "preds" / "last" / "val.npz"),
            "best weights": lambda: write_whole(tmp_path / "ckpt" / "best-0001.pt", b"weights" * 100),
        }
        with disk.failing(), contextlib.ExitStack() as stack:
            raised = stack.enter_context(pytest.raises(StorageError)) if what != "note" else None
            with disk_of(tmp_path):
                assert write[what]() is False
        assert len(disk.calls) >= 2
        if raised:
            sentence = str(raised.value)
            assert os.strerror(refusal).lower() in sentence or "no space left on device" in sentence
            assert "the newest checkpoint is step-000000012, launch again when" in sentence and "\n" not in sentence
        assert not list(tmp_path.rglob("*.tmp"))
    assert [event["event"] for event in read(tmp_path)] == ["start"]


def test_errors_of_other_kinds_pass_unchanged(tmp_path: Path) -> None:
    """A file that is missing elsewhere, or a lost connection, is no trouble of the run's disk."""
    from ifl.saving.storage import disk_of

    for error in (
        FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/shard.tar"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        OSError("of a loader"),
    ):
        with pytest.raises(type(error)) as raised, disk_of(tmp_path):
            raise error
        assert raised.value is error


# --------------------------------------------------------------------------------------------------------- whole runs
Start = Callable[..., Launch]
Mount = Callable[[Path, str], None]


def _one_sentence(launch: Launch, words: str) -> None:
    """The command ended with 1 and said `words` in a line of its own, without a traceback."""
    assert launch.finish() == 1, launch.text
    assert any(
        words in line and ("newest checkpoint is step-" in line or "there is no checkpoint" in line)
        for line in launch.text.splitlines()
    ), launch.text
    assert "Traceback" not in launch.text, launch.text


@pytest.mark.full
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_run_on_a_failing_disk_keeps_its_checkpoint_and_goes_on(
    killed: Path, undisturbed: dict[str, Any], start: Start, small_disk: Mount, tmp_path: Path, kind: str
) -> None:
    """The disk of the checkpoints gets full or read-only in mid-run: both ranks end with 1 and one sentence, the
    checkpoint that was there is whole, nothing half-written is left; with room again the run ends with the undisturbed
    run's bits."""
    folder = copy_of_killed(killed, tmp_path / "runs")
    shutil.move(folder / "ckpt", tmp_path / "ckpt")
    files = [path for path in (tmp_path / "ckpt").rglob("*") if path.is_file()]
    model = (
        next(path for path in files if path.name == "mp_rank_00_model_states.pt").stat().st_size
    )  # parameters and momentum
    room = (
        sum(-(-path.stat().st_size // 4096) * 4096 for path in files) + 3 * model // 4
    )  # for a best epoch's parameters and no more
    small_disk(folder / "ckpt", f"size={room if kind == 'full' else 2**30}")
    shutil.copytree(tmp_path / "ckpt", folder / "ckpt", dirs_exist_ok=True)
    before = sorted(path.name for path in folder.glob("ckpt/step-*"))
    launch = start(tmp_path / "runs")
    if kind == "read-only":
        launch.wait_for_step(int(before[-1][5:]) + 1)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(subprocess.CalledProcessError):  # busy while a checkpoint is written
                small_disk(folder / "ckpt", "ro")
                break
    _one_sentence(launch, "no space left on device" if kind == "full" else "read-only file system")
    assert sorted(path.name for path in folder.glob("ckpt/step-*"))[-1] >= before[-1]
    assert kind == "read-only" or (not list(folder.glob("ckpt/tmp-*")) and "MB more" in launch.text)
    small_disk(folder / "ckpt", "rw,size=1g")
    again = start(tmp_path / "runs")
    assert again.finish() == 0, again.text
    assert ending(folder) == undisturbed


@pytest.mark.full
def test_a_checkpoint_folder_removed_in_mid_run(killed: Path, start: Start, tmp_path: Path) -> None:
    """`rm -rf ckpt` under a run: it ends with 1 and a sentence that names what is gone; the same command does not begin
    anew.
    """
    folder = copy_of_killed(killed, tmp_path / "runs")
    launch = start(tmp_path / "runs")
    launch.wait_for_step(STEPS + 1)
    shutil.rmtree(folder / "ckpt")
    _one_sentence(launch, "no such file or directory")
    again = start(tmp_path / "runs")
    assert again.finish() == 1 and "holds no whole checkpoint" in again.text and "Traceback" not in again.text, (
        again.text
    )


@pytest.mark.full
def test_a_run_whose_whole_folder_gets_full(
    killed: Path, undisturbed: dict[str, Any], start: Start, small_disk: Mount, tmp_path: Path
) -> None:
    """Not a byte is left for checkpoints, metrics, notes and logs: the command ends with 1 and says why; with room
    again the run ends with the undisturbed run's bits."""
    small_disk(tmp_path / "runs", "size=64m")
    folder = next((Path(shutil.copytree(killed, tmp_path / "runs", dirs_exist_ok=True))).glob("glt_randaug_ifl-*"))
    (tmp_path / "runs" / "output.txt").unlink()
    (tmp_path / "runs" / "output.txt").symlink_to(
        tmp_path / "output.txt"
    )  # what the terminal shows does not lie on that disk
    launch = start(tmp_path / "runs")
    launch.wait_for_step(STEPS + 1)
    with contextlib.suppress(OSError), open(tmp_path / "runs" / "filler", "wb", buffering=0) as filler:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(size))
    assert launch.finish() == 1, launch.text
    assert "no space left on device" in launch.text, launch.text
    (tmp_path / "runs" / "filler").unlink()
    again = start(tmp_path / "runs")
    assert again.finish() == 0, again.text
    assert ending(folder) == undisturbed
