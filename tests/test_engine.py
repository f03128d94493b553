"""DeepSpeed's compiled operator, and what the engine says of its tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import started

from recipes.schema import PROJECT, Optim


def test_a_leftover_of_a_killed_build_does_not_hang() -> None:
    """torch leaves a lock file behind when a build is killed, and would wait for it for ever; ours removes it."""
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path(sys.prefix) / "torch_extensions")) / "deepspeed_shm_comm"
    assert cache.is_dir(), "`make test` compiles the operator first"
    (cache / "lock").touch()
    try:
        subprocess.run([sys.executable, "-m", "ifl.engine"], cwd=PROJECT, check=True, timeout=300, capture_output=True)
        assert not (cache / "lock").exists()
    finally:
        (cache / "lock").unlink(missing_ok=True)


def looks(zero: int) -> dict[str, list[bool | int]]:
    """In a rank: whether the engine calls its tensors finite, and their checksum: as they are, and after one bit or value of each kind changed."""
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
    """A NaN or an infinity in the last place of any parameter, buffer or of the momentum is not finite; one flipped bit of a parameter or
    buffer gives another checksum, and is finite."""
    answers = started(1).run(looks, zero)[0]
    sound = answers.pop("as it is")
    assert sound[0] and answers.pop("as it was") == sound and len(answers) == 3 * 9
    for what, (finite, checksum) in answers.items():
        assert finite == what.startswith("bit"), what
        assert (checksum != sound[1]) == ("momentum" not in what), what
