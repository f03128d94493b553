"""All use of DeepSpeed.

DeepSpeed owns the parameters, their gradients' reduction, the optimizer and its checkpoint files. It is told where a
step ends (`last`), so micro-batches may be of any number and size; the loss is divided by the global batch here.
"""

if __name__ == "__main__":
    from recipes.common.venv import in_environment

    in_environment()  # before the first import that a bare or an older Python lacks

import io
import logging
import math
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ifl.method import Output
from ifl.optimisation.ema import MovingAverage
from ifl.optimisation.groups import groups_of
from ifl.optimisation.optimisers import make_optimiser
from ifl.supervision.node_events import DEVICE
from ifl.supervision.node_report import Fault, NodeFault, node_name
from recipes.common.addresses import free_port
from recipes.common.errors import RunError
from recipes.common.output import go_on_unread
from recipes.schema import Optim

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

AVERAGE = "moving_average"
"""Under this name the checkpoint holds it."""
CPU_PIECE = 32
"""Samples that a CPU takes through the network at once for predictions in float32: up to 1.5 times as fast as with
256, whose activations leave its caches. Even pieces have more than half as many (or are the whole batch): with fewer
than 16 samples libraries add up in another order, and confidences may differ in their last bits."""
RENDEZVOUS = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


def connect(patience_s: float, gpus: int = 0) -> torch.device:
    """Join the other ranks (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) and return this rank's device.

    Without these variables the process is the only rank.

    Args:
        patience_s: how long to wait for the others in any collective, seconds.
        gpus: how many of a node the recipe asked SLURM for.

    Raises:
        RunError: there are fewer GPUs than that, or than the node's ranks need.
    """
    refuse_missing_gpus(gpus)
    programs_of_the_environment_first()
    if "RANK" not in os.environ:
        os.environ.update(RENDEZVOUS, MASTER_PORT=str(free_port()))
    _deepspeed().init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo",
        auto_mpi_discovery=False,
        verbose=False,
        timeout=timedelta(seconds=patience_s),
    )
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device())


def refuse_missing_gpus(asked: int) -> None:
    """Refuse to train on the CPU where SLURM gave this node GPUs, and with two ranks on one GPU.

    Args:
        asked: how many GPUs of a node the recipe asked SLURM for.

    Raises:
        NodeFault: torch sees none, or fewer than the node's ranks need.
        RunError: there are more ranks than GPUs.
    """
    given = int(os.environ.get("SLURM_GPUS_ON_NODE") or asked)
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or 1)
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # SLURM may show each rank its own GPUs alone.
    wanted = min(given, ranks, ranks if visible is None else len(visible.split(",")))
    if seen < wanted:
        text = (
            f"has {given} GPUs for this job and torch {torch.__version__} sees {seen}"
            f" (CUDA_VISIBLE_DEVICES={visible}): look at its driver and at which torch is installed; "
            "slurm.gpus_per_node=0 trains on CPUs"
        )
        raise NodeFault({node_name(): Fault(DEVICE, text)})
    if 0 < max(given, seen) < ranks:
        raise RunError(
            f"{ranks} ranks of {platform.node()} would share {max(given, seen)} GPUs, and a GPU takes one: "
            f"{max(given, seen)} tasks on a node are legal"
        )


def name_of(device: torch.device) -> str:
    """Return what a device is called in logs: `cpu`, or `cuda` and the GPU's name."""
    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def is_first_on_node() -> bool:
    """Return whether this rank is the first on its node; it does the work that a node needs done only once."""
    return local_rank() == 0


def local_rank() -> int:
    """Return this rank's number on its node; 0 for a process that is the only rank."""
    return int(os.environ.get("LOCAL_RANK", "0"))


class Engine:
    """A network under training."""

    def __init__(
        self, network: nn.Module, optim: Optim, batch: int, micro: int, accumulate: int, device: torch.device
    ) -> None:
        self.batch, self.device, self.zero = batch, device, optim.zero
        self._autocast = optim.precision == "bf16"
        groups = groups_of(network.to(device), optim)
        self._scales = [group.lr_scale for group in groups]
        self._trained = [parameter for group in groups for parameter in group.parameters.values()]
        self._clip, self._last, self.largest_norm = optim.clip, False, torch.zeros((), device=device)
        self.torch_optimizer = make_optimiser(groups, optim, device)
        config = {
            "train_micro_batch_size_per_gpu": micro,
            "gradient_accumulation_steps": accumulate,
            "zero_optimization": {
                "stage": optim.zero,
                "reduce_bucket_size": sum(map(torch.numel, self._trained)),
            },  # its default would take 2 GB
            "zero_allow_untested_optimizer": True,
            # DeepSpeed's default of 1.0 would silently scale most steps down. Without ZeRO `step` clips.
            "gradient_clipping": optim.clip if optim.zero else 0.0,
            "communication_data_type": "fp32",  # bf16 gradients lose accuracy as ranks are added
            "torch_autocast": {
                "enabled": self._autocast,
                "dtype": "bfloat16",
                "lower_precision_safe_modules": [],  # else ZeRO rounds the gradients of their weights to bf16
            },
            "checkpoint": {"tag_validation": "Fail"},
            "steps_per_print": 2**62,
        }
        self.engine, self.optimizer, *_ = _deepspeed().initialize(
            model=network, optimizer=self.torch_optimizer, config=config
        )
        self.average = MovingAverage(network, optim.ema) if optim.ema else None
        self.ranks = self.engine.dp_world_size
        files = self.engine.checkpoint_engine
        files.save, files.makedirs, self.engine._copy_recovery_script = (
            self._collect,
            lambda *_, **__: None,
            lambda folder: None,
        )

    @property
    def network(self) -> nn.Module:
        return self.engine.module

    def set_training(self, training: bool) -> None:
        """Switch between training and evaluation, as `nn.Module.train` and `eval` do."""
        if training:
            self.engine.train()
        else:
            self.engine.eval()

    def set_lr(self, lr: float) -> None:
        """Set the learning rate: `lr` times each parameter group's own factor."""
        for group, scale in zip(self.optimizer.param_groups, self._scales, strict=True):
            group["lr"] = lr * scale

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Evaluate by the moving average of the parameters, where the recipe has one; nothing else changes."""
        if self.average is None:
            yield
        else:
            with self.average.in_place():
                yield

    @contextmanager
    def holding(self, weights: dict[str, torch.Tensor]) -> Iterator[None]:
        """Evaluate by other weights of the network for a while; afterwards it has the bits of its own again."""
        own = self.network.state_dict()
        own.update({name: tensor.clone() for name, tensor in own.items()})  # beside them are torch's own versions
        self.network.load_state_dict(weights)
        try:
            yield
        finally:
            self.network.load_state_dict(own)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return parameters and buffers as they are evaluated: with the moving average, if there is one."""
        state = self.network.state_dict()
        return state if self.average is None else self.average.laid_over(state)

    def forward(self, images: torch.Tensor) -> Output:
        return _output(self.engine(images))

    @torch.inference_mode()
    def predict(self, images: torch.Tensor) -> Output:
        """Compute what `forward` does, without gradients and without what DeepSpeed does around it.

        A CPU is given even pieces of the batch; see `CPU_PIECE`.
        """
        pieces = -(-len(images) // CPU_PIECE) if self.device.type == "cpu" and not self._autocast else 1
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            outputs = [_output(self.network(part)) for part in images.tensor_split(pieces)]
        features, logits, parts = zip(*outputs, strict=True)
        return Output(torch.cat(features), torch.cat(logits), tuple(map(torch.cat, zip(*parts, strict=True))))

    def backward(self, loss_sum: torch.Tensor, last: bool) -> None:
        """Compute the gradients of a micro-batch's summed loss; with `last` they are reduced over the ranks.

        DeepSpeed averages over the ranks, but the mean over the global batch is wanted. So the sum is scaled by R / B.
        """
        self._last = last
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss_sum * (self.ranks / self.batch), scale_wrt_gas=False)

    def step(self) -> None:
        """Make the optimizer's step after `backward(last=True)`; otherwise move on to the next micro-batch.

        Gradients are clipped before by the norm of all of them together. With ZeRO DeepSpeed does that. Without, it
        would take a norm that is not finite for a very large one, and go on.
        """
        if self._last and self._clip and not self.zero:
            norm = torch.nn.utils.clip_grad_norm_(self._trained, self._clip)
            self.largest_norm = torch.maximum(self.largest_norm, norm)
        self.engine.step()
        if self._last and self.average is not None:
            self.average.update()

    def finite(self) -> bool:
        """Return whether this rank's parameters, their moving average, buffers and optimizer state are all finite.

        The gradients of all steps so far must have been finite, too: ZeRO skips other steps silently.
        """
        # `step` counts steps, and may lie on the CPU
        states = self.torch_optimizer.state.values()
        kept = [value for state in states for key, value in state.items() if key != "step"]
        return self.skipped_steps == 0 and are_finite((*self._held(), *kept, self.largest_norm))

    @property
    def skipped_steps(self) -> int:
        """Return how many steps were left out because gradients were not finite."""
        return int(self.engine.skipped_steps)

    def _held(self) -> list[torch.Tensor]:
        """List parameters, buffers and the parameters' moving average."""
        return [*self.network.state_dict().values(), *(self.average.tensors.values() if self.average else ())]

    def checksum(self) -> int:
        """Return the sum of the bits, read as integers, of parameters, buffers and the parameters' moving average.

        It is the same on all ranks, and any single change changes it.
        """
        return int(
            torch.stack(
                [tensor.view(torch.int32).sum() for tensor in self._held() if tensor.dtype == torch.float32]
            ).sum()
        )

    def save(self) -> dict[str, memoryview]:
        """Return the files that this rank has to write, by their paths in a checkpoint's folder."""
        return {path: serialised(part) for path, part in self.parts().items()}

    def parts(self) -> dict[str, Any]:
        """Return what these files hold: parameters, their moving average, buffers and optimizer state themselves.

        Nothing is written here, and nobody waits for the others: the two calls are those of DeepSpeed's
        `save_checkpoint` without its barriers, in which all would wait for the one whose disk refuses.
        """
        self._parts: dict[str, Any] = {}
        more = {AVERAGE: self.average.tensors} if self.average else {}
        self.engine._save_checkpoint(".", "engine", client_state=more)
        if self.engine.save_zero_checkpoint:
            self.engine._save_zero_checkpoint(".", "engine")
        return self._parts

    def _collect(self, state_dict: dict[str, Any], path: str) -> None:
        self._parts[Path(path).as_posix()] = state_dict

    def load(self, folder: Path, ranks: int) -> None:
        """Put back what `ranks` ranks have saved. Every rank must call it."""
        cut_again = self.zero > 0 and ranks != self.ranks
        path, more = self.engine.load_checkpoint(str(folder), tag="engine", load_module_only=cut_again)
        if path is None:
            raise RuntimeError(f"DeepSpeed found no checkpoint in {folder}")
        if self.average:
            self.average.load(more[AVERAGE])
        if cut_again:
            self._load_shards(Path(path).parent, ranks)

    def _load_shards(self, folder: Path, ranks: int) -> None:
        """Put ZeRO's pieces on another number of ranks, which DeepSpeed cannot do.

        ZeRO lays the parameters of a group end to end and cuts them into one piece a rank, and so each tensor that the
        optimizer keeps of them: the pieces are joined and cut again. Single numbers, such as AdamW's count of steps,
        are the same on all ranks.
        """
        files = [folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(ranks)]
        shards = [torch.load(file, map_location="cpu", weights_only=False)["optimizer_state_dict"] for file in files]
        stored = [shard["base_optimizer_state"] for shard in shards]
        states = {}
        for group, piece in enumerate(self.optimizer.single_partition_of_fp32_groups):

            def mine(pieces: list[torch.Tensor], size: int = piece.numel()) -> torch.Tensor:
                whole = torch.cat(pieces)[self.engine.global_rank * size :][:size].to(self.device)
                return F.pad(whole, (0, size - len(whole)))

            assert torch.equal(mine([shard["single_partition_of_fp32_groups"][group] for shard in shards]), piece), (
                "DeepSpeed lays its parameters out otherwise"
            )
            of_group = [state["state"].get(group, {}) for state in stored]
            states[group] = {
                key: mine([state[key] for state in of_group]) if torch.is_tensor(value) and value.dim() else value
                for key, value in of_group[0].items()
            }
        self.torch_optimizer.load_state_dict({"state": states, "param_groups": stored[0]["param_groups"]})


def _output(tensors: Iterable[torch.Tensor]) -> Output:
    features, logits, *parts = (tensor.float() for tensor in tensors)
    return Output(features, logits, tuple(parts))


def are_finite(values: Iterable[Any]) -> bool:
    """Return whether all floating-point tensors among some values are finite.

    A sum of squares that is finite shows it, many times as fast on a CPU as the largest value does; the squares of
    finite numbers may overflow, so where it is not, that value decides.
    """
    held = [
        value.detach() for value in values if torch.is_tensor(value) and value.is_floating_point() and value.numel()
    ]
    return not held or any(
        bool(torch.stack(torch._foreach_norm(held, ord=order)).isfinite().all()) for order in (2, math.inf)
    )


def serialised(part: Any) -> memoryview:
    """Return the bytes of a checkpoint's file."""
    buffer = io.BytesIO()
    torch.save(part, buffer)
    return buffer.getbuffer()


def open_monitor(settings: dict[str, dict[str, Any]]) -> Any:
    """Open DeepSpeed's monitor, with `write_events([(name, value, step), ...])`.

    The engine is not given it: it would add its own events at every step.

    Args:
        settings: DeepSpeed's sections `tensorboard` and `wandb`.
    """
    from deepspeed.monitor.config import get_monitor_config
    from deepspeed.monitor.monitor import MonitorMaster

    return MonitorMaster(get_monitor_config(settings))


def _deepspeed() -> ModuleType:
    """Import DeepSpeed quietly, and tell it that none of its compiled operators is available.

    On CPUs it would compile one, `deepspeed_shm_comm`, when it opens its communication. That needs g++, ninja and
    Python's headers on every rank. Only `inference_all_reduce` (tensor-parallel inference) calls this operator, and
    DeepSpeed itself goes on without it where it is missing, as on macOS. Gloo reduces the gradients either way, so a
    run's bits are the same. DeepSpeed has no such operator for GPUs.
    """
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__ = {}  # else DeepSpeed searches for compilers when this is first read
    return deepspeed


def programs_of_the_environment_first() -> None:
    """Put this Python's own bin folder first on PATH.

    When torch compiles code for a user's model, it looks for pip's `ninja` on PATH. make, srun and `.venv/bin/python`
    do not put it there.
    """
    own, path = str(Path(sys.executable).parent), os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != own:
        os.environ["PATH"] = os.pathsep.join([own, *([path] if path else [])])


if __name__ == "__main__":
    go_on_unread()
    device = connect(60.0)
    print(f"a rank starts here: torch {torch.__version__}, device {device}; nothing is compiled")
