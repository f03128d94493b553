"""The engine starts where nothing can be compiled, and says of its tensors whether they are finite and the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recipes.resolve import resolve
from recipes.schema import PROJECT, Optim
from slurm.run_folder import prepare
from tests.helpers.ranks import started


def bare(folder: Path) -> dict[str, str]:
    """The environment of a machine that has nothing: no program on PATH, no home, and a folder in which whatever is
    compiled would show.
    """
    (folder / "empty").mkdir()
    return {
        "PATH": str(folder / "empty"),
        "HOME": str(folder / "none"),
        "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
        "GLT_SITE": "",
    }


def test_a_rank_starts_where_nothing_can_be_compiled(tmp_path: Path) -> None:
    """`python -m ifl.engine` opens DeepSpeed's communication without ninja, compiler or headers, also where the folder
    for what is compiled cannot be written; it compiles nothing, and says so.
    """
    result = subprocess.run(
        [sys.executable, "-m", "ifl.engine"],
        cwd=PROJECT,
        env={**bare(tmp_path), "TORCH_EXTENSIONS_DIR": "/dev/null/extensions"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "a rank starts here" in result.stdout and "nothing is compiled" in result.stdout


def test_two_ranks_train_where_no_program_can_be_found(tiny_root: Path, tmp_path: Path) -> None:
    """The main command trains, judges and saves with two ranks though no program at all is on PATH: no ninja, g++, git,
    ps or which.
    """
    words = [
        "recipe=glt_ifl",
        "data=digits_glt",
        f"data.root={tiny_root}",
        "cluster=local",
        "nodes=2",
        "schedule.epochs=2",
        "ifl.milestones=[0]",
        "ifl.alpha=[0.001]",
        f"runs={tmp_path / 'runs'}",
    ]
    result = subprocess.run(
        [sys.executable, "slurm/launch.py", *words],
        cwd=PROJECT,
        env=bare(tmp_path),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (done,) = (tmp_path / "runs").glob("*/done")
    logged = (done.parent / "log" / "rank-0.log").read_text()
    assert logged.startswith("rank 0 of 2 runs on cpu") or torch.cuda.is_available()
    lines = map(json.loads, (done.parent / "metrics.jsonl").read_text().splitlines())
    boot = next(line for line in lines if line["kind"] == "boot")
    meta = json.loads((done.parent / "meta.json").read_text())
    assert meta["device"] == boot["device"] != "" and meta["argv"] == ["slurm/launch.py", *words]
    assert not (tmp_path / "extensions").exists() and not (tmp_path / "none").exists()


def test_the_environment_s_own_programs_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever PATH a rank is started with, the folder of its own Python comes first in it, so that pip's ninja is
    found by torch.
    """
    from ifl.engine import programs_of_the_environment_first

    own = str(Path(sys.executable).parent)
    for path, wanted in (("/usr/bin:/bin", f"{own}:/usr/bin:/bin"), (f"{own}:/bin", f"{own}:/bin"), ("", own)):
        monkeypatch.setenv("PATH", path)
        programs_of_the_environment_first()
        assert os.environ["PATH"] == wanted
    monkeypatch.delenv("PATH")
    programs_of_the_environment_first()
    assert os.environ["PATH"] == own


@pytest.mark.parametrize(
    ("given", "asked", "visible", "seen", "ranks", "sentence"),
    [
        (2, 0, "0,1", 0, 1, "has 2 GPUs for this job and torch .* sees 0 .CUDA_VISIBLE_DEVICES=0,1.*gpus_per_node=0"),
        (None, 2, None, 0, 2, "has 2 GPUs for this job and torch .* sees 0"),
        (4, 4, "0,1,2,3", 3, 4, "has 4 GPUs for this job and torch .* sees 3"),
        (2, 2, "0,1", 2, 4, "4 ranks of .* would share 2 GPUs.* 2 tasks on a node are legal"),
        (None, 0, None, 1, 2, "2 ranks of .* would share 1 GPUs"),
        (None, 0, None, 0, 4, None),
        (4, 4, "0,1,2,3", 4, 4, None),
        (4, 4, "0", 1, 4, None),
        (4, 0, "0,1,2,3", 4, 1, None),
    ],
)
def test_gpus_that_cannot_be_used_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    given: int | None,
    asked: int,
    visible: str | None,
    seen: int,
    ranks: int,
    sentence: str | None,
) -> None:
    """Where SLURM gave a node GPUs, or the recipe asked for some, and torch sees none, or fewer than the node's ranks
    need, nothing is trained on the CPU: one sentence. A rank that is shown its own GPU alone needs no more."""
    from ifl import engine
    from recipes.common.errors import RunError

    variables = {"SLURM_GPUS_ON_NODE": given, "CUDA_VISIBLE_DEVICES": visible, "LOCAL_WORLD_SIZE": ranks}
    for name, value in variables.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    if sentence is None:
        engine.refuse_missing_gpus(asked)
    else:
        with pytest.raises(RunError, match=sentence):
            engine.refuse_missing_gpus(asked)


@pytest.mark.parametrize(("visible", "number"), [("0,1,2,3", 3), ("3", 0)], ids=["all of the node's", "its own alone"])
def test_a_rank_takes_its_gpu_however_slurm_binds_them(
    monkeypatch: pytest.MonkeyPatch, visible: str, number: int
) -> None:
    """Rank 3 of a node takes GPU 3 of the four that it sees, or the one that SLURM shows it."""
    from ifl import engine

    variables = {"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": visible, "LOCAL_WORLD_SIZE": "4", "RANK": "3"}
    for name, value in {**variables, "LOCAL_RANK": "3", "PATH": os.environ["PATH"]}.items():
        monkeypatch.setenv(name, value)
    taken: list[int] = []
    monkeypatch.setattr(engine, "_deepspeed", lambda: SimpleNamespace(init_distributed=lambda **_: None))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(visible.split(",")))
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: taken[-1])
    assert engine.connect(1.0, gpus=4) == torch.device("cuda", number)


def test_a_job_without_usable_gpus_ends_with_1(tiny_root: Path, tmp_path: Path) -> None:
    """A rank of such a job prints the sentence, and no traceback, and trains nothing."""
    if torch.cuda.is_available():
        pytest.skip("this machine has GPUs")
    words = ["data=digits_glt", f"data.root={tiny_root}", f"runs={tmp_path}", "slurm.gpus_per_node=1"]
    recipe = resolve(words)
    prepare(recipe, recipe.run_folder)
    result = subprocess.run(
        [sys.executable, "-m", "slurm.job", str(recipe.run_folder)],
        cwd=PROJECT,
        env={**os.environ, "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1 and "has 1 GPUs for this job and torch" in result.stderr
    assert "Traceback" not in result.stderr and not (recipe.run_folder / "metrics.jsonl").exists()


def looks(zero: int) -> dict[str, list[bool | int]]:
    """In a rank: whether the engine calls its tensors finite, and their checksum: as they are, and after one bit or
    value of each kind changed.
    """
    from ifl.engine import Engine
    from ifl.network.network import Network

    backbone = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    engine = Engine(
        Network(backbone, torch.nn.Linear(4, 3), (0.5,) * 3, (0.25,) * 3),
        Optim(momentum=0.9, zero=zero, ema=0.5),
        8,
        8,
        1,
        torch.device("cpu"),
    )
    engine.backward(engine.forward(torch.ones(8, 3, 8, 8, dtype=torch.uint8)).logits_BK.square().sum(), last=True)
    engine.step()
    momentum = next(iter(engine.torch_optimizer.state.values()))["momentum_buffer"]
    answers: dict[str, list[bool | int]] = {"as it is": [engine.finite(), engine.checksum()]}
    floats = {name: tensor for name, tensor in engine.network.state_dict().items() if tensor.is_floating_point()}
    average = engine.average.tensors["head.weight"]
    for name, tensor in {**floats, "momentum": momentum, "moving average": average}.items():
        flat = tensor.view(-1).numpy()
        for what, value in (
            ("nan", np.nan),
            ("infinity", -np.inf),
            ("bit", (flat[-1:].view(np.int32) ^ 1).view(np.float32)[0]),
        ):
            kept, flat[-1] = flat[-1], value
            answers[f"{what} in {name}"] = [engine.finite(), engine.checksum()]
            flat[-1] = kept
    answers["as it was"] = [engine.finite(), engine.checksum()]
    return answers


def stepped(zero: int) -> list[float]:
    """In a rank: the parameters after a step of two micro-batches in bf16."""
    from ifl.engine import Engine
    from ifl.network.network import Network
    from recipes.schema import Optim

    torch.manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network = Network(backbone, torch.nn.Linear(4, 3, bias=False), (0.5,) * 3, (0.25,) * 3)
    optim = Optim(lr=0.3, momentum=0.0, precision="bf16", zero=zero)
    engine = Engine(network, optim, 8, 4, 2, torch.device("cpu"))
    engine.set_lr(0.3)
    for last in (False, True):
        images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
        engine.backward(engine.forward(images).logits_BK.square().sum(), last)
        engine.step()
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).tolist()


def test_zero_1_rounds_no_gradient_to_bf16() -> None:
    """With precision=bf16 the gradients that micro-batches add up, and ranks reduce, stay float32: a step by ZeRO 1
    has the same bits as one without ZeRO."""
    assert started(1).run(stepped, 1)[0] == started(1).run(stepped, 0)[0]


@pytest.mark.parametrize("zero", [0, 1])
def test_one_value_of_any_tensor_is_seen(zero: int) -> None:
    """A NaN or an infinity in the last place of any parameter, buffer, of the momentum or of the moving average is not
    finite; one flipped bit of all but the momentum gives another checksum, and is finite."""
    answers = started(1).run(looks, zero)[0]
    sound = answers.pop("as it is")
    assert sound[0] and answers.pop("as it was") == sound and len(answers) == 3 * 10
    for what, (finite, checksum) in answers.items():
        assert finite == what.startswith("bit"), what
        assert (checksum != sound[1]) == ("momentum" not in what), what
