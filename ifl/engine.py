"""All use of DeepSpeed.

DeepSpeed owns the parameters, their gradients' reduction, the optimizer and its checkpoint files. It is told where a
step ends (`last`), so micro-batches may be of any number and size; the loss is divided by the global batch here.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    from recipes.environment import in_environment

    in_environment()  # before the first import that a bare Python lacks

import torch
from torch import nn

from ifl.comm import TIMEOUT
from ifl.method import Output
from recipes.schema import Optim

# A cache of our own: a job killed in the middle of a build leaves a lock for which others would wait for ever.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

RENDEZVOUS = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


def connect() -> torch.device:
    """Join the other ranks (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) and return this rank's device.
    Without these variables the process is the only rank."""
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if "RANK" not in os.environ:
        os.environ.update(RENDEZVOUS, MASTER_PORT=str(free_port()))
    if not torch.cuda.is_available():
        load_operator()
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False, verbose=False, timeout=TIMEOUT)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device())


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Engine:
    """A network under training."""

    def __init__(self, network: nn.Module, optim: Optim, batch: int, micro: int, accumulate: int, device: torch.device) -> None:
        import deepspeed

        self.batch, self.device, self.zero = batch, device, optim.zero
        trained = [parameter for parameter in network.to(device).parameters() if parameter.requires_grad]
        sgd = torch.optim.SGD(trained, lr=optim.lr, momentum=optim.momentum or 0.0, weight_decay=optim.weight_decay)
        config = {
            "train_micro_batch_size_per_gpu": micro,
            "gradient_accumulation_steps": accumulate,
            "zero_optimization": {"stage": optim.zero},
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 0.0,  # DeepSpeed's default of 1.0 would scale most steps down without a word
            "communication_data_type": "fp32",  # bf16 gradients lose accuracy as ranks are added
            "torch_autocast": {"enabled": optim.precision == "bf16", "dtype": "bfloat16"},
            "checkpoint": {"tag_validation": "Fail"},
            "steps_per_print": 2**62,
        }
        self.engine, self.optimizer, *_ = deepspeed.initialize(model=network, optimizer=sgd, config=config)
        self.ranks = self.engine.dp_world_size

    @property
    def network(self) -> nn.Module:
        return self.engine.module

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def forward(self, images: torch.Tensor) -> Output:
        features, logits, *parts = (tensor.float() for tensor in self.engine(images))
        return Output(features, logits, tuple(parts))

    def backward(self, loss_sum: torch.Tensor, last: bool) -> None:
        """Gradients of a micro-batch's summed loss; with `last` they are reduced over the ranks. DeepSpeed averages
        over the ranks, and the global batch's mean is wanted, so the sum is scaled by R / B."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss_sum * (self.ranks / self.batch), scale_wrt_gas=False)

    def step(self) -> None:
        """The optimizer's step, after `backward(last=True)`; without it, moves on to the next micro-batch."""
        self.engine.step()

    def save(self, folder: Path) -> None:
        """Write parameters, buffers and optimizer state, each rank its files. Every rank must call it."""
        self.engine.save_checkpoint(str(folder), tag="engine", save_latest=False)

    def load(self, folder: Path) -> None:
        path, _ = self.engine.load_checkpoint(str(folder), tag="engine")
        if path is None:
            raise RuntimeError(f"DeepSpeed found no checkpoint in {folder}")


def load_operator() -> None:
    """Load the small C++ operator of DeepSpeed's CPU backend, compiling it if it is not there.

    torch guards the build by a file that a killed process leaves behind, and everybody then waits for it for ever. Our
    own lock ends with the process that holds it; whoever has it may remove such a leftover.
    """
    from deepspeed.comm.torch import build_shm_op

    cache = Path(os.environ["TORCH_EXTENSIONS_DIR"])
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".glt-lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache.glob("*/lock"):
            leftover.unlink(missing_ok=True)
        build_shm_op()


if __name__ == "__main__":
    if os.environ["DS_ACCELERATOR"] == "cpu":
        load_operator()
