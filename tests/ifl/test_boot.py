"""A rank imports what it uses; and the optimisers that make this so take torch's steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ifl.optimisation.optimisers import eager
from tests.helpers import mini
from tests.helpers.paths import PROJECT

UNUSED = {
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "sympy",
    "torchvision",
    "timm",
    "peft",
    "open_clip",
    "transformers",
    "pandas",
    "sklearn",
    "scipy",
    "matplotlib",
    "hypothesis",
    "submitit",
    "tensorboard",
    "torch.utils.tensorboard",
    "torch.onnx",
    "wandb",
    "cv2",
    "huggingface_hub",
    "safetensors",
    "mlcroissant",
    "requests",
    "analysis",
}
"""What a plain run has no need of: torch.compile and what it needs, libraries of networks, other rooms' packages."""
NAME_ALL = """
import os, sys
from slurm.job import TrainJob
leave = os._exit
def named(code):
    print(*sorted(sys.modules), file=open(sys.argv[2], "w"))
    leave(code)
os._exit = named
TrainJob(sys.argv[1])()
"""


def test_a_plain_run_imports_only_what_it_uses(mini_root: Path, tmp_path: Path) -> None:
    """A rank that trains, evaluates, saves and finishes has imported no compiler and no library of networks."""
    recipe = mini.recipe_of(
        mini_root, tmp_path / "runs", "recipe=glt_ifl", "schedule.epochs=1", "ifl.milestones=[0]", "ifl.alpha=[0.01]"
    )
    command = [sys.executable, "-c", NAME_ALL, str(recipe.run_folder), str(tmp_path / "modules")]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0 and (recipe.run_folder / "done").exists(), ended.stdout + ended.stderr
    imported = set((tmp_path / "modules").read_text().split())
    assert {"torch.distributed", "deepspeed.runtime.engine", "webdataset", "ifl.post_hoc"} <= imported
    assert UNUSED & imported == set()


def steps_of(kind: type[torch.optim.Optimizer], **more: float | bool) -> list[torch.Tensor]:
    """Parameters and state after three steps, a reload and two more."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
    images = torch.randn(6, 5)

    def optimiser() -> torch.optim.Optimizer:
        groups = [{"params": [*part.parameters()], "weight_decay": 0.1 * number} for number, part in enumerate(network)]
        return kind(groups, lr=0.1, **more)

    moved = optimiser()
    for number in range(5):
        moved.zero_grad()
        network(images).square().mean().backward()
        assert moved.step() is None and all(parameter.requires_grad for parameter in network.parameters())
        if number == 2:
            state, moved = moved.state_dict(), optimiser()
            moved.load_state_dict(state)
    state = moved.state_dict()["state"]
    return [*network.parameters(), *(state[one][name] for one in sorted(state) for name in sorted(state[one]))]


@pytest.mark.parametrize("kind, more", [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {"eps": 1e-6})])
def test_an_eager_optimiser_takes_torchs_steps(kind: type[torch.optim.Optimizer], more: dict[str, float]) -> None:
    """Without its wrappers for torch.compile an optimiser moves and keeps the same bits, also after a reload; it is
    made once for each of torch's.
    """
    theirs, ours = steps_of(kind, **more), steps_of(eager(kind), **more)
    assert len(ours) > 4 and all(torch.equal(one, two) for one, two in zip(theirs, ours, strict=True))
    assert eager(kind) is eager(kind) and issubclass(eager(kind), kind) and eager(kind).__name__ == kind.__name__
