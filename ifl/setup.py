"""What a run stands on before its first step: ranks, data, network, method and the evaluation of its splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ifl import provenance
from ifl.boot import Boot
from ifl.comm import Comm
from ifl.engine import Engine, connect
from ifl.evaluate import Evaluator
from ifl.fence import Fence
from ifl.method import BaseMethod
from ifl.network import RunningStatistics, build_network, synchronise_groups
from ifl.weights import load_run, start_from
from ifl.watchdog import patience_s
from recipes.schema import Recipe
from sharding.dataset import Dataset, Split, open_dataset
from sharding.plan import micro_batches

TEST_SPLITS = ("test_cbl", "test_gbl", "test_glt")


@dataclass(frozen=True)
class Setup:
    """Attributes:
        fence: rank 0's, against an older start of the same run; None elsewhere.
        counts: int64 [K], training samples of each class.
        mine: this rank's canonical rows of every global batch, micro-batch by micro-batch.
        evaluators: by split, val first.
        belongs: what a checkpoint of this run must say of itself; equal on all ranks.
    """

    device: torch.device
    comm: Comm
    fence: Fence | None
    dataset: Dataset
    train_split: Split
    counts: np.ndarray
    method: BaseMethod
    engine: Engine
    statistics: RunningStatistics
    mine: list[np.ndarray]
    evaluators: dict[str, Evaluator]
    belongs: dict[str, Any]

    @property
    def tests(self) -> list[str]:
        return [name for name in self.evaluators if name != "val"]


def set_up(recipe: Recipe, folder: Path, boot: Boot, fresh: bool) -> Setup:
    """Join the other ranks and make everything ready. A collective.

    Args:
        fresh: the run has no history, so a second stage starts from its first stage's weights.
    """
    patience = patience_s(recipe.log.stuck_after_s)
    boot.part("connect")
    device = connect(patience)
    comm = Comm(patience_s=patience)
    boot.part("data")
    fence = Fence(folder) if comm.rank == 0 else None
    dataset = open_dataset(recipe.data_root, recipe.data.name)
    train_split = dataset.split(recipe.train, "train")
    tests = [name for name in TEST_SPLITS if name in dataset.editions[recipe.train]]
    fingerprint = dataset.fingerprint_of(recipe.train, ["train", "val", *tests])
    counts = np.bincount(train_split.index.label, minlength=dataset.num_classes)

    boot.part("network")
    batch = recipe.batch
    groups = batch.size // batch.bn if batch.bn else 1
    mine = micro_batches(batch.size, batch.bn, comm.rank, comm.size, synchronised=device.type == "cuda", streams=recipe.streams if batch.bn_by == "mix" else 1)
    network, method = build_network(recipe, counts)
    if fresh and recipe.method.init_from:
        start_from(network, method, load_run(folder.parent / recipe.method.init_from, "last"))
    if batch.bn and comm.size > groups:
        network = synchronise_groups(network, comm.size, groups, patience)
    engine = Engine(network, recipe.optim, batch.size, max(map(len, mine)), len(mine), device)
    method.to(device)
    statistics = RunningStatistics(network)
    if statistics.normalises and not batch.bn:
        raise ValueError(f"batch.bn=0 is for a network without batch normalisation, and {recipe.model.name} has it: set batch.bn to the samples of a group")
    evaluators = {
        name: Evaluator(dataset.split(recipe.train, name), comm, image_size=recipe.data.image_size, test_resize=recipe.data.test_resize, workers=recipe.data.workers,
                        device=device, persistent=name == "val")
        for name in ("val", *tests)
    }
    belongs = {"hash": recipe.hash8, "data_fingerprint": fingerprint, "decoder": provenance.decoder()}
    return Setup(device, comm, fence, dataset, train_split, counts, method, engine, statistics, mine, evaluators, belongs)
