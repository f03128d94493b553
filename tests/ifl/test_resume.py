"""Interrupted runs end as undisturbed ones, bit for bit, and never start anew without a word.

The runs go through the real command, `python slurm/launch.py ... cluster=local nodes=2`, on a tiny data set. What needs
no launch is checked on the checkpoint protocol itself, in a process that is started once.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.helpers.interrupted import (
    STEPS,
    GoOn,
    Start,
    copy_of_killed,
    ending,
    flip_bit,
    in_ranks,
    sha,
    small_engine,
    train_steps,
)
from tests.helpers.ranks import started

# ------------------------------------------------------------------------------------------------------------ launches


def _boots(folder: Path) -> list[int]:
    """The steps at which the run was taken up."""
    return [
        line["step"]
        for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "boot"
    ]


# ---------------------------------------------------------------------------------------------------- tests by launches
def test_killed_runs_end_as_undisturbed_ones(
    undisturbed: dict[str, Any], killed: Path, start: Start, tmp_path: Path
) -> None:
    """kill -9 of a random rank, twice, and the same command again each time: parameters, buffers, optimizer, centers,
    weights, environments, predictions, best epoch and metrics are the undisturbed run's, bit for bit; once more does
    nothing."""
    folder = copy_of_killed(killed, tmp_path / "runs")
    again = start(tmp_path / "runs")
    dice = random.Random(2)
    again.wait_for_step(dice.randrange(26, 36))
    os.kill(again.ranks()[dice.randrange(2)], signal.SIGKILL)
    assert again.finish() not in (0, 99)
    third = start(tmp_path / "runs")
    assert third.finish() == 0, third.text
    assert ending(folder) == undisturbed
    assert all(step > 0 for step in _boots(folder)[1:])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    fourth = start(tmp_path / "runs")
    assert fourth.finish() == 0 and "nothing to do" in fourth.text
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_stopped_twice_within_an_epoch(
    undisturbed: dict[str, Any], start: Start, tiny_root: Path, tmp_path: Path
) -> None:
    """SIGUSR2 to one rank, and Ctrl-C on the terminal (SIGINT to all of the command's process group), stop all ranks
    after the step under way, with code 99 and a checkpoint of that very step; twice in one epoch, then to the end: the
    undisturbed run's bits."""
    for how, step in (("SIGUSR2", STEPS + 1), ("Ctrl-C", STEPS + 6)):
        launch = start(tmp_path)
        launch.wait_for_step(step)
        if how == "SIGUSR2":
            os.kill(launch.ranks()[1], signal.SIGUSR2)
        else:
            os.killpg(launch.process.pid, signal.SIGINT)
        assert launch.finish() == 99, launch.text
        assert not (launch.folder / "done").exists()
    finished, text = in_ranks(tiny_root, tmp_path)
    assert finished, text
    boots = _boots(launch.folder)
    assert len(boots) == 3 and boots[0] == 0 and STEPS < boots[1] < boots[2] < 2 * STEPS, boots
    assert ending(launch.folder) == undisturbed


def test_a_flipped_bit_makes_the_run_fall_back(
    undisturbed: dict[str, Any], killed: Path, go_on: GoOn, tmp_path: Path
) -> None:
    """One flipped bit in the newest checkpoint: the log names it and what is wrong with it, the run goes on from the
    older one and still ends with the undisturbed run's bits."""
    folder = copy_of_killed(killed, tmp_path / "runs")
    *_, older, newest = sorted(folder.glob("ckpt/step-*"))
    model = newest / "engine" / "mp_rank_00_model_states.pt"
    flip_bit(model, model.stat().st_size // 2, 3)
    finished, text = go_on(tmp_path / "runs")
    assert finished and f"{newest.name} is passed over: {model.name} is not what was written" in text, text
    assert int(older.name[5:]) in _boots(folder)
    assert ending(folder) == undisturbed


def test_lost_checkpoints_stop_the_run(killed: Path, go_on: GoOn, tmp_path: Path) -> None:
    """History without a whole checkpoint: an error with a sentence, and nothing is trained or cut."""
    folder = copy_of_killed(killed, tmp_path / "runs")
    for manifest in folder.glob("ckpt/step-*/MANIFEST.json"):
        manifest.unlink()
    before = (folder / "metrics.jsonl").read_bytes()
    finished, text = go_on(tmp_path / "runs")
    assert not finished and "holds no whole checkpoint although the run has made steps" in text, text
    assert (folder / "metrics.jsonl").read_bytes() == before and not (folder / "done").exists()


def test_other_data_are_refused(tiny_root: Path, killed: Path, go_on: GoOn, tmp_path: Path) -> None:
    """Resuming on data of another fingerprint stops with a sentence; the run folder keeps what it had."""
    other = shutil.copytree(tiny_root, tmp_path / "other")
    meta = json.loads((other / "digits_glt" / "dataset.json").read_text())
    meta["class_names"][0] = "nought"
    del meta["digest"]  # which would show the change
    (other / "digits_glt" / "dataset.json").write_text(json.dumps(meta))
    folder = copy_of_killed(killed, tmp_path / "runs")
    before = {path.name for path in (folder / "ckpt").iterdir()}, (folder / "metrics.jsonl").read_bytes()
    finished, text = go_on(tmp_path / "runs", root=other)
    assert not finished and "was trained with data fingerprint" in text, text
    assert ({path.name for path in (folder / "ckpt").iterdir()}, (folder / "metrics.jsonl").read_bytes()) == before


def test_a_crash_of_one_rank_ends_all_and_is_told(tiny_root: Path, start: Start, tmp_path: Path) -> None:
    """A damaged image that rank 1 alone reads: the command ends, and what it prints is that rank's sentence, not what
    the others say about the lost connection."""
    from sharding.open import open_dataset
    from tests.helpers.plans import micro_batches, plan_epoch

    broken = shutil.copytree(tiny_root, tmp_path / "broken")
    split = open_dataset(broken, "digits_glt").split("glt", "train")
    plan = plan_epoch([None, None], len(split), batch=32, group=16, replacement=True, seed=0, epoch=0)
    before, mine = set(plan.ids[:5].flat), micro_batches(32, 16, 1, 2)[0]
    sample = next(int(i) for i in plan.ids[5, mine] if i not in before and i not in plan.ids[5, :16])
    index = split.index
    flip_bit(split.folder / str(index.shard_name[index.shard[sample]]), int(index.offset[sample]) + 40, 2)
    launch = start(tmp_path / "runs", root=broken)
    assert launch.finish() == 1
    assert (
        "rank 1 ended with code 1" in launch.text
        and str(index.key[sample]) in launch.text
        and "is damaged" in launch.text
    )


# -------------------------------------------------------------------------------------------- tests of the protocol


def _digest(engine: Any) -> str:
    momenta = [engine.optimizer.state[p].get("momentum_buffer", torch.zeros(0)) for p in engine.network.parameters()]
    return sha(torch.cat([t.double().flatten() for t in (*engine.network.state_dict().values(), *momenta)]))


def _known(folder: Path, epoch: int) -> dict[str, str]:
    """The best weights of an epoch as a save is told of them."""
    name = f"best-{epoch:04d}.pt"
    return {name: hashlib.sha256(bytes(range(256)) * epoch).hexdigest()}


def _two_checkpoints(folder: Path) -> dict[int, str]:
    """Checkpoints of steps 4 and 8 with a best epoch each; the digests of the engine at both."""
    from ifl.distributed.comm import Comm
    from ifl.saving import checkpoint

    engine, digests = small_engine(), {}
    folder.mkdir(parents=True)
    for step in (4, 8):
        train_steps(engine, 4)
        (folder / f"best-{step:04d}.pt").write_bytes(bytes(range(256)) * step)
        checkpoint.save(
            folder, engine, {"step": step, "tensor": torch.arange(step)}, step, Comm(), _known(folder, step)
        )
        digests[step] = _digest(engine)
    return digests


def damaged_checkpoints(folder: str) -> list[str]:
    """In a rank: whatever happens to the newer of two checkpoints, the older is loaded whole. Returns the
    complaints.
    """
    from ifl.distributed.comm import Comm
    from ifl.saving import checkpoint

    comm, complaints, source = Comm(), [], Path(folder) / "source"
    digests = _two_checkpoints(source)
    files = sorted(str(p.relative_to(source)) for p in (source / "step-000000008").rglob("*") if p.is_file())
    assert len(files) == 4, files  # the engine's, the suite's, the copy of the best weights, the manifest

    def check(what: str, damage: Callable[[Path], None], want: int = 4) -> None:
        place = Path(folder) / "case"
        shutil.copytree(source, place)
        damage(place)
        engine = small_engine(seed=99)
        state = checkpoint.load_newest(place, engine, comm, history=True)
        if state["step"] != want or state["tensor"].tolist() != list(range(want)) or _digest(engine) != digests[want]:
            complaints.append(f"{what}: loaded step {state['step']}, wanted {want}")
        train_steps(engine, 4)  # and the run goes on: the next checkpoint is written, found and whole
        checkpoint.save(
            place, engine, {"step": want + 3, "tensor": torch.arange(want + 3)}, want + 3, comm, _known(place, want)
        )
        if checkpoint.load_newest(place, small_engine(seed=98), comm, history=True)["step"] != want + 3:
            complaints.append(f"{what}: the checkpoint written after it was not found")
        kept = sorted(int(manifest.parent.name[5:]) for manifest in place.glob("step-*/MANIFEST.json"))
        if kept != [want, want + 3]:  # two whole ones: a damaged one takes nobody's place
            complaints.append(f"{what}: {kept} are kept, wanted {[want, want + 3]}")
        shutil.rmtree(place)

    check("nothing", lambda place: None, want=8)
    for what, damage in (
        ("lost", lambda path: path.unlink()),
        ("cut", lambda path: os.truncate(path, 100)),
        ("flipped", lambda path: flip_bit(path, 50, 3)),
    ):
        check(
            f"the best weights are {what}", lambda place, damage=damage: damage(place / "best-0008.pt"), want=8
        )  # and are put back, or the next save would refuse them
    for name in files:
        size = (source / name).stat().st_size
        for offset in (size // 3, size - 2) if name.endswith(".pt") else (0, size // 3, size // 2):
            check(
                f"bit {offset} of {name}",
                lambda place, name=name, offset=offset: flip_bit(place / name, offset, offset % 8),
            )
        check(f"{name} truncated", lambda place, name=name, size=size: os.truncate(place / name, size // 2))
        check(f"{name} empty", lambda place, name=name: os.truncate(place / name, 0))
        check(f"{name} missing", lambda place, name=name: (place / name).unlink())
    check("folder missing", lambda place: shutil.rmtree(place / "step-000000008"))
    check(
        "left over from a crash",
        lambda place: (shutil.copytree(place / "step-000000008", place / "tmp-000000012-ab"), None)[1],
        want=8,
    )
    return complaints


def lost_checkpoints(folder: str) -> list[str]:
    """In a rank: what `load_newest` does where no whole checkpoint is left."""
    from ifl.distributed.comm import Comm
    from ifl.saving import checkpoint

    place, answers = Path(folder) / "lost", []
    _two_checkpoints(place)
    for manifest in place.glob("step-*/MANIFEST.json"):
        flip_bit(manifest, 0)
    for history in (True, False, "gone"):
        if history == "gone":
            shutil.rmtree(place)
        try:
            answers.append(str(checkpoint.load_newest(place, small_engine(), Comm(), history=history is not False)))
        except checkpoint.CheckpointError as error:
            answers.append(f"CheckpointError: {error}")
    return [*answers, str(checkpoint.load_newest(place, small_engine(), Comm(), history=False))]


def test_any_damage_to_the_newest_checkpoint_is_found(tmp_path: Path) -> None:
    """Flipped bits, truncation, emptiness or absence of each file of the newest checkpoint (its manifest and the best
    epoch's weights included): the older one is loaded, whole, and the run can write checkpoints again."""
    assert started(1).run(damaged_checkpoints, str(tmp_path), timeout=120)[0] == []


def test_a_run_with_history_never_starts_anew(tmp_path: Path) -> None:
    """Damaged checkpoints, or none where steps were made, are an error with a sentence; only a new run gets None."""
    damaged, damaged_without_history, gone, new = started(1).run(lost_checkpoints, str(tmp_path))[0]
    for answer in (damaged, damaged_without_history, gone):
        assert answer.startswith("CheckpointError: ") and "holds no whole checkpoint" in answer and "move" in answer
    assert new == "None"
