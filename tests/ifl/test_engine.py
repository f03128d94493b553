"""The engine starts where nothing can be compiled, and says of its tensors whether they are finite and the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.schema import PROJECT, Optim
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
    assert len(list((tmp_path / "runs").glob("*/done"))) == 1
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
        Optim(momentum=0.9, zero=zero),
        8,
        8,
        1,
        torch.device("cpu"),
    )
    engine.backward(engine.forward(torch.ones(8, 3, 8, 8, dtype=torch.uint8)).logits_BK.square().sum(), last=True)
    engine.step()
    momentum = next(iter(engine._sgd.state.values()))["momentum_buffer"]
    answers: dict[str, list[bool | int]] = {"as it is": [engine.finite(), engine.checksum()]}
    floats = {name: tensor for name, tensor in engine.network.state_dict().items() if tensor.is_floating_point()}
    for name, tensor in {**floats, "momentum": momentum}.items():
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


@pytest.mark.parametrize("zero", [0, 1])
def test_one_value_of_any_tensor_is_seen(zero: int) -> None:
    """A NaN or an infinity in the last place of any parameter, buffer or of the momentum is not finite; one flipped bit
    of a parameter or buffer gives another checksum, and is finite."""
    answers = started(1).run(looks, zero)[0]
    sound = answers.pop("as it is")
    assert sound[0] and answers.pop("as it was") == sound and len(answers) == 3 * 9
    for what, (finite, checksum) in answers.items():
        assert finite == what.startswith("bit"), what
        assert (checksum != sound[1]) == ("momentum" not in what), what
