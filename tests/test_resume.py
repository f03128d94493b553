"""Interrupted runs end as undisturbed ones, bit for bit, and never start anew without a word.

The runs go through the real command, `python slurm/launch.py ... cluster=local nodes=2`, on a tiny data set. What needs
no launch is checked on the checkpoint protocol itself, in a process that is started once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import PROJECT, started

LIMIT_S = 90.0
STEPS, EPOCHS = 14, 3
WORDS = (
    "recipe=glt_randaug_ifl",
    "data=digits_glt",
    "cluster=local",
    "nodes=2",
    f"schedule.epochs={EPOCHS}",
    "batch.size=32",
    "batch.bn=16",
    "optim.momentum=0.9",
    "optim.lr=0.02",
    "ifl.milestones=[0,1]",
    "ifl.alpha=[0.01,0.02]",
    "log.every=3",
    "log.save_every_steps=4",
    "log.digest_every=5",
    "log.eval_test_every=1",
)


# ------------------------------------------------------------------------------------------------------------ launches
class Launch:
    """The command under way, in a session of its own so that nothing of it outlives the test."""

    def __init__(self, root: Path, runs: Path, *words: str) -> None:
        runs.mkdir(parents=True, exist_ok=True)
        self.output = runs / "output.txt"
        self.runs = runs
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        }
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "slurm/launch.py", *WORDS, f"data.root={root}", f"runs={runs}", *words],
                cwd=PROJECT,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env={**environment, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
                start_new_session=True,
            )

    @property
    def folder(self) -> Path:
        return next(self.runs.glob("glt_randaug_ifl-*"))

    def ranks(self) -> dict[int, int]:
        """Process ids of the ranks that run now, by rank."""
        result = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                    variables = dict(
                        item.split("=", 1) for item in (path / "environ").read_text().split("\0") if "=" in item
                    )
                    result[int(variables["RANK"])] = int(path.name)
        return result

    def wait_for_step(self, step: int) -> None:
        """Until metrics.jsonl has a training line of `step` or later."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(StopIteration, OSError):
                lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().split("\n")[:-1]]
                if any(line["kind"] == "train" and line["step"] >= step for line in lines):
                    return
            time.sleep(0.005)
        raise AssertionError(f"the run never came to step {step}:\n{self._text()}")

    def finish(self) -> int:
        """The exit code; fails if it takes too long or leaves a rank behind."""
        try:
            code = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"the command hangs:\n{self._text()}") from None
        left = self._mine()
        self.end()
        assert not left, f"processes {left} outlived the command"
        return code

    def _mine(self) -> list[int]:
        """Processes that name this test's folder in their command and still run."""
        result = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (
                    f"{self.runs}" in (path / "cmdline").read_text()
                    and (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                ):
                    result.append(int(path.name))
        return result

    def end(self) -> None:
        for process in self._mine():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()

    def _text(self) -> str:
        return self.output.read_text()[-4000:]

    @property
    def text(self) -> str:
        return self.output.read_text()


Start = Callable[..., Launch]


@pytest.fixture
def start(tiny_root: Path) -> Iterator[Start]:
    """Starts commands, and ends what is left of them after the test."""
    under_way: list[Launch] = []

    def begin(runs: Path, *words: str, root: Path = tiny_root) -> Launch:
        under_way.append(Launch(root, runs, *words))
        return under_way[-1]

    yield begin
    for launch in under_way:
        launch.end()


def _sha(value: np.ndarray | torch.Tensor) -> str:
    array = np.ascontiguousarray(value.numpy() if isinstance(value, torch.Tensor) else value)
    return hashlib.sha256(str((array.dtype, array.shape)).encode() + array.tobytes()).hexdigest()


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Digests of tensors, and plain values, by dotted name."""
    if isinstance(value, dict):
        return {key: v for name, inner in value.items() for key, v in _flat(f"{prefix}.{name}", inner).items()}
    if isinstance(value, list | tuple):
        return {key: v for i, inner in enumerate(value) for key, v in _flat(f"{prefix}.{i}", inner).items()}
    return {prefix: _sha(value) if isinstance(value, torch.Tensor | np.ndarray) else value}


def ending(folder: Path) -> dict[str, Any]:
    """All of a finished run that must not depend on what happened to it: the last checkpoint's parameters, buffers,
    optimizer state, centers, weights, confidence and numbers; environments; predictions; the best epoch's weights; and
    the training and evaluation lines without their times."""
    assert (folder / "done").exists()
    newest = sorted(folder.glob("ckpt/step-*"))[-1]
    suite = torch.load(newest / "suite.pt", weights_only=True)
    engine = torch.load(newest / "engine" / "mp_rank_00_model_states.pt", weights_only=False)
    result = {
        "newest": newest.name,
        **_flat("suite", {k: v for k, v in suite.items() if k not in ("seconds", "metrics_offset")}),
        **_flat("network", engine["module"]),
        **_flat("optimizer", engine["optimizer"]),
    }
    for path in sorted([*folder.glob("env/*.npz"), *folder.glob("preds/*/*.npz")]):
        with np.load(path) as arrays:
            result |= _flat(str(path.relative_to(folder)), dict(arrays))
    best = json.loads((folder / "done").read_text())["best_epoch"]
    result |= _flat("best", torch.load(folder / "ckpt" / f"best-{best:04d}.pt", weights_only=True))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [
        {k: v for k, v in line.items() if k != "images_per_s"} for line in lines if line["kind"] in ("train", "eval")
    ]
    steps = [(line["kind"], line.get("split"), line["step"]) for line in kept]
    assert len(steps) == len(set(steps)), "a step stands twice in metrics.jsonl"
    return result | {f"line {kind} {split} {step}": line for (kind, split, step), line in zip(steps, kept, strict=True)}


def _boots(folder: Path) -> list[int]:
    """The steps at which the run was taken up."""
    return [
        line["step"]
        for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "boot"
    ]


@pytest.fixture(scope="module")
def undisturbed(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The ending of a run that nothing happened to."""
    launch = Launch(tiny_root, tmp_path_factory.mktemp("undisturbed"))
    assert launch.finish() == 0, launch.text
    result = ending(launch.folder)
    assert result["newest"] == f"step-{STEPS * EPOCHS:09d}"
    assert {
        f"preds/{which}/{split}.npz.prediction"
        for which in ("last", "best")
        for split in ("val", "test_cbl", "test_gbl", "test_glt")
    } <= result.keys()
    assert {
        "suite.centers",
        "suite.weights.1",
        "optimizer.state.0.momentum_buffer",
        "env/epoch-000.npz.weights",
        "env/epoch-001.npz.weights",
    } <= result.keys()
    return result


@pytest.fixture(scope="module")
def killed(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `runs` folder of a run of which one rank was killed with two checkpoints on disk; to be copied."""
    launch = Launch(tiny_root, tmp_path_factory.mktemp("killed"))
    dice = random.Random(1)
    launch.wait_for_step(dice.randrange(12, 20))
    victim = dice.randrange(2)
    os.kill(launch.ranks()[victim], signal.SIGKILL)
    assert launch.finish() not in (0, 99)
    assert f"rank {victim} was killed by SIGKILL" in launch.text
    assert len(list(launch.folder.glob("ckpt/step-*"))) >= 2 and not (launch.folder / "done").exists()
    return launch.runs


def _copy(killed: Path, runs: Path) -> Path:
    """A copy of the killed run; its run folder."""
    shutil.copytree(killed, runs)
    return next(runs.glob("glt_randaug_ifl-*"))


def _flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset % len(data)] ^= 1 << bit
    path.write_bytes(data)


# ---------------------------------------------------------------------------------------------------- tests by launches
def test_killed_runs_end_as_undisturbed_ones(
    undisturbed: dict[str, Any], killed: Path, start: Start, tmp_path: Path
) -> None:
    """kill -9 of a random rank, twice, and the same command again each time: parameters, buffers, optimizer, centers,
    weights, environments, predictions, best epoch and metrics are the undisturbed run's, bit for bit; once more does
    nothing."""
    folder = _copy(killed, tmp_path / "runs")
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


def test_stopped_twice_within_an_epoch(undisturbed: dict[str, Any], start: Start, tmp_path: Path) -> None:
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
    last = start(tmp_path)
    assert last.finish() == 0, last.text
    boots = _boots(last.folder)
    assert len(boots) == 3 and boots[0] == 0 and STEPS < boots[1] < boots[2] < 2 * STEPS, boots
    assert ending(last.folder) == undisturbed


def test_a_flipped_bit_makes_the_run_fall_back(
    undisturbed: dict[str, Any], killed: Path, start: Start, tmp_path: Path
) -> None:
    """One flipped bit in the newest checkpoint: the log names it and what is wrong with it, the run goes on from the
    older one and still ends with the undisturbed run's bits."""
    folder = _copy(killed, tmp_path / "runs")
    *_, older, newest = sorted(folder.glob("ckpt/step-*"))
    model = newest / "engine" / "mp_rank_00_model_states.pt"
    _flip(model, model.stat().st_size // 2, 3)
    launch = start(tmp_path / "runs")
    assert launch.finish() == 0, launch.text
    log = (folder / "log" / "rank-0.log").read_text()
    assert f"{newest.name} is passed over: {model.name} is not what was written" in log
    assert int(older.name[5:]) in _boots(folder)
    assert ending(folder) == undisturbed


def test_lost_checkpoints_stop_the_run(killed: Path, start: Start, tmp_path: Path) -> None:
    """History without a whole checkpoint: exit code other than 0 and a sentence, and nothing is trained or cut."""
    folder = _copy(killed, tmp_path / "runs")
    for manifest in folder.glob("ckpt/step-*/MANIFEST.json"):
        manifest.unlink()
    before = (folder / "metrics.jsonl").read_bytes()
    launch = start(tmp_path / "runs")
    assert launch.finish() not in (0, 99)
    assert "holds no whole checkpoint although the run has made steps" in launch.text
    assert (folder / "metrics.jsonl").read_bytes() == before and not (folder / "done").exists()


def test_other_data_are_refused(tiny_root: Path, killed: Path, start: Start, tmp_path: Path) -> None:
    """Resuming on data of another fingerprint stops with a sentence; the run folder keeps what it had."""
    other = shutil.copytree(tiny_root, tmp_path / "other")
    meta = json.loads((other / "digits_glt" / "dataset.json").read_text())
    meta["class_names"][0] = "nought"
    (other / "digits_glt" / "dataset.json").write_text(json.dumps(meta))
    folder = _copy(killed, tmp_path / "runs")
    before = {path.name for path in (folder / "ckpt").iterdir()}, (folder / "metrics.jsonl").read_bytes()
    launch = start(tmp_path / "runs", root=other)
    assert launch.finish() not in (0, 99)
    assert "was trained with data fingerprint" in launch.text
    assert ({path.name for path in (folder / "ckpt").iterdir()}, (folder / "metrics.jsonl").read_bytes()) == before


def test_a_crash_of_one_rank_ends_all_and_is_told(tiny_root: Path, start: Start, tmp_path: Path) -> None:
    """A damaged image that rank 1 alone reads: the command ends, and what it prints is that rank's sentence, not what
    the others say about the lost connection."""
    from sharding.open import open_dataset
    from sharding.plan.epoch import plan_epoch
    from sharding.plan.ranks import micro_batches

    broken = shutil.copytree(tiny_root, tmp_path / "broken")
    split = open_dataset(broken, "digits_glt").split("glt", "train")
    plan = plan_epoch([None, None], len(split), batch=32, group=16, replacement=True, seed=0, epoch=0)
    before, mine = set(plan.ids[:5].flat), micro_batches(32, 16, 1, 2)[0]
    sample = next(int(i) for i in plan.ids[5, mine] if i not in before and i not in plan.ids[5, :16])
    index = split.index
    _flip(split.folder / str(index.shard_name[index.shard[sample]]), int(index.offset[sample]) + 40, 2)
    launch = start(tmp_path / "runs", root=broken)
    assert launch.finish() == 1
    assert (
        "rank 1 ended with code 1" in launch.text
        and str(index.key[sample]) in launch.text
        and "is damaged" in launch.text
    )


# -------------------------------------------------------------------------------------------- tests of the protocol
def _engine(seed: int = 0, zero: int = 0) -> Any:
    from ifl.engine import Engine
    from ifl.network.network import Network
    from recipes.schema import Optim

    torch.manual_seed(seed)
    backbone = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    return Engine(
        Network(backbone, torch.nn.Linear(4, 3, bias=False), (0.5,) * 3, (0.25,) * 3),
        Optim(momentum=0.9, zero=zero),
        8,
        8,
        1,
        torch.device("cpu"),
    )


def _train(engine: Any, steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        output = engine.forward(torch.randint(0, 256, (8, 3, 8, 8), generator=generator, dtype=torch.uint8))
        engine.backward(output.logits_BK.square().sum(), last=True)
        engine.step()


def _digest(engine: Any) -> str:
    momenta = [engine.optimizer.state[p].get("momentum_buffer", torch.zeros(0)) for p in engine.network.parameters()]
    return _sha(torch.cat([t.double().flatten() for t in (*engine.network.state_dict().values(), *momenta)]))


def _known(folder: Path, epoch: int) -> dict[str, str]:
    """The best weights of an epoch as a save is told of them."""
    name = f"best-{epoch:04d}.pt"
    return {name: hashlib.sha256(bytes(range(256)) * epoch).hexdigest()}


def _two_checkpoints(folder: Path) -> dict[int, str]:
    """Checkpoints of steps 4 and 8 with a best epoch each; the digests of the engine at both."""
    from ifl.distributed.comm import Comm
    from ifl.saving import checkpoint

    engine, digests = _engine(), {}
    folder.mkdir(parents=True)
    for step in (4, 8):
        _train(engine, 4)
        (folder / f"best-{step:04d}.pt").write_bytes(bytes(range(256)) * step)
        checkpoint.save(
            folder, engine, {"step": step, "tensor": torch.arange(step)}, step, Comm(), _known(folder, step)
        )
        digests[step] = _digest(engine)
    return digests


def damaged_checkpoints(folder: str) -> list[str]:
    """In a rank: whatever happens to the newer of two checkpoints, the older is loaded whole. Returns the complaints."""
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
        engine = _engine(seed=99)
        state = checkpoint.load_newest(place, engine, comm, history=True)
        if state["step"] != want or state["tensor"].tolist() != list(range(want)) or _digest(engine) != digests[want]:
            complaints.append(f"{what}: loaded step {state['step']}, wanted {want}")
        _train(engine, 4)  # and the run goes on: the next checkpoint is written, found and whole
        checkpoint.save(
            place, engine, {"step": want + 3, "tensor": torch.arange(want + 3)}, want + 3, comm, _known(place, want)
        )
        if checkpoint.load_newest(place, _engine(seed=98), comm, history=True)["step"] != want + 3:
            complaints.append(f"{what}: the checkpoint written after it was not found")
        kept = sorted(int(manifest.parent.name[5:]) for manifest in place.glob("step-*/MANIFEST.json"))
        if kept != [want, want + 3]:  # two whole ones: a damaged one takes nobody's place
            complaints.append(f"{what}: {kept} are kept, wanted {[want, want + 3]}")
        shutil.rmtree(place)

    check("nothing", lambda place: None, want=8)
    for what, damage in (
        ("lost", lambda path: path.unlink()),
        ("cut", lambda path: os.truncate(path, 100)),
        ("flipped", lambda path: _flip(path, 50, 3)),
    ):
        check(
            f"the best weights are {what}", lambda place, damage=damage: damage(place / "best-0008.pt"), want=8
        )  # and are put back, or the next save would refuse them
    for name in files:
        size = (source / name).stat().st_size
        for offset in (size // 3, size - 2) if name.endswith(".pt") else (0, size // 3, size // 2):
            check(
                f"bit {offset} of {name}",
                lambda place, name=name, offset=offset: _flip(place / name, offset, offset % 8),
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
        _flip(manifest, 0)
    for history in (True, False, "gone"):
        if history == "gone":
            shutil.rmtree(place)
        try:
            answers.append(str(checkpoint.load_newest(place, _engine(), Comm(), history=history is not False)))
        except checkpoint.CheckpointError as error:
            answers.append(f"CheckpointError: {error}")
    return [*answers, str(checkpoint.load_newest(place, _engine(), Comm(), history=False))]


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
