"""What a run stands on before its first step: ranks, data, network, method and the evaluation of its splits."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ifl.distributed.comm import Comm
from ifl.engine import Engine, connect
from ifl.evaluator import Evaluator
from ifl.method import BaseMethod
from ifl.network.bn_statistics import RunningStatistics, synchronise_groups
from ifl.network.network import build_network
from ifl.saving.weights import load_run, start_from
from ifl.supervision.fence import Fence
from ifl.supervision.startup_timer import Boot
from ifl.supervision.watchdog import patience_s
from recipes.common.addresses import is_afar
from recipes.common.errors import DataError
from recipes.schema import Recipe
from sharding.cache.decoded_images import PixelCache
from sharding.cache.disk_budget import cache_folder
from sharding.cache.prefetcher import Prefetcher
from sharding.format.dataset import Dataset, Split
from sharding.images import decoders
from sharding.images.transforms import origin
from sharding.open import open_dataset
from sharding.plan.epoch import BatchShape
from sharding.plan.ranks import micro_batches
from sharding.reader import EvalView, MicroBatches, Reader, TrainView

TEST_SPLITS = ("test_cbl", "test_gbl", "test_glt")


@dataclass(frozen=True)
class Setup:
    """Attributes:
    fence: rank 0's, against an older start of the same run; None elsewhere.
    counts: int64 [K], training samples of each class.
    mine: this rank's canonical rows of every global batch, micro-batch by micro-batch.
    reader: of the training set's micro-batches; None where nothing is trained.
    fetcher: of their shards from afar, on each node's first rank.
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
    reader: Reader | None
    fetcher: Prefetcher | None
    evaluators: dict[str, Evaluator]
    belongs: dict[str, Any]

    @property
    def tests(self) -> list[str]:
        return [name for name in self.evaluators if name != "val"]

    def facts(self, recipe: Recipe, steps: int) -> dict[str, Any]:
        """What meta.json says of the run itself; `steps`: of an epoch."""
        return {
            "world": self.comm.size,
            "hash": recipe.hash8,
            "data_fingerprint": self.belongs["data_fingerprint"],
            "class_names": self.dataset.class_names,
            "class_groups": self.dataset.class_groups,
            "class_counts": self.counts.tolist(),
            "decoder": self.belongs["decoder"],
            "steps_per_epoch": steps,
            "network": self.engine.network.size,
        }


def set_up(recipe: Recipe, folder: Path, boot: Boot, fresh: bool, trains: bool = True) -> Setup:
    """Join the other ranks and make everything ready. A collective.

    Args:
        fresh: the run has no history, so a second stage starts from its first stage's weights.
        trains: the training set's images are needed, and not only those of the splits that judge.
    """
    patience = patience_s(recipe.log.stuck_after_s)
    boot.part("connect")
    device = connect(patience)
    comm = Comm(patience_s=patience)
    boot.part("data")
    fence = Fence(folder) if comm.rank == 0 else None
    dataset = opened(recipe)
    train_split = dataset.split(recipe.train, "train")
    tests = [name for name in TEST_SPLITS if name in dataset.editions[recipe.train]]
    fingerprint = dataset.fingerprint_of(recipe.train, ["train", "val", *tests])
    counts = np.bincount(train_split.index.label, minlength=dataset.num_classes)

    boot.part("network")
    batch = recipe.batch
    groups = batch.size // batch.bn if batch.bn else 1
    shape = BatchShape(batch.size, batch.bn, recipe.streams, batch.bn_by == "env")
    mine = micro_batches(shape, comm.rank, comm.size, synchronised=device.type == "cuda")
    network, method = build_network(recipe, counts)
    if fresh and recipe.method.init_from:
        start_from(network, method, load_run(folder.parent / recipe.method.init_from, "last"))
    if batch.bn and comm.size > groups:
        network = synchronise_groups(network, comm.size, groups, patience)
    engine = Engine(network, recipe.optim, batch.size, max(map(len, mine)), len(mine), device)
    method.to(device)
    statistics = RunningStatistics(network)
    if statistics.normalises and not batch.bn:
        raise ValueError(
            f"batch.bn=0 is for a network without batch normalisation, and {recipe.model.name} has it: set batch.bn to the samples of a group"
        )
    decoder = _agreed_decoder(recipe, folder, comm, device, trains)
    crops = views(
        recipe,
        decoder,
        {
            **({"train": train_split} if trains else {}),
            **{name: dataset.split(recipe.train, name) for name in ("val", *tests)},
        },
    )
    evaluators = {
        name: Evaluator(crops[name], comm, workers=recipe.data.workers, device=device, persistent=name == "val")
        for name in ("val", *tests)
    }
    reader = Reader(crops["train"], recipe.data.workers, pin_memory=device.type == "cuda") if trains else None
    fetcher = None
    if trains and dataset.cache is not None:
        dataset.cache.check_budget(train_split.index, recipe.data.shuffle_window, batch.size // recipe.streams)
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            fetcher = Prefetcher(train_split)
    belongs = {"hash": recipe.hash8, "data_fingerprint": fingerprint, "decoder": decoder}
    return Setup(
        device,
        comm,
        fence,
        dataset,
        train_split,
        counts,
        method,
        engine,
        statistics,
        mine,
        reader,
        fetcher,
        evaluators,
        belongs,
    )


def _agreed_decoder(recipe: Recipe, folder: Path, comm: Comm, device: torch.device, trains: bool) -> str:
    """The run's decoder: the recipe's, or the one that the run began with, or the best that all ranks have. A collective."""
    begun = folder / "meta.json"
    stored = comm.from_first(
        json.loads(begun.read_text())["decoder"] if comm.rank == 0 and begun.exists() else None, device
    )
    offers, pinned = comm.gather_objects(decoders.available(), device), recipe.data.decoder
    if trains and stored is not None and stored not in decoders.ORDER:
        raise DataError(
            f"{folder} was begun by older code (its decoder is {stored!r}), whose pixels this code does not make to the bit: "
            "go on with the commit that its meta.json names, or move it away to start anew"
        )
    if not trains and (wanted := pinned or stored) and not all(wanted in names for names in offers):
        if comm.rank == 0:
            print(
                f"{folder.name} was decoded by {wanted}, which is not here: pixels may be other ones by a few grey levels",
                flush=True,
            )
        pinned = stored = None
    why = (
        f"data.decoder={pinned} is asked for"
        if pinned
        else f"{folder.name} began with the decoder {stored}, and keeps it"
    )
    return decoders.agreed(offers, pinned or stored, why)


def _share(recipe: Recipe) -> float:
    """Of a node's bytes, what its decoded images may take, and what its shards from afar may."""
    return 0.5 if recipe.data.cache == "decoded" and is_afar(recipe.data_root) else 1.0


def opened(recipe: Recipe) -> Dataset:
    """The recipe's data set, with the node's cache for what comes from afar."""
    data = recipe.data
    return open_dataset(recipe.data_root, data.name, data.cache_folder, data.cache_gb, share=_share(recipe))


def views(recipe: Recipe, decoder: str, splits: dict[str, Split]) -> dict[str, MicroBatches]:
    """The training crops (`train`) and test crops of splits, from the node's cache where the recipe has one.

    Raises:
        DataError: the cache has no folder, or its bytes do not hold the test crops.
    """
    data, augment = recipe.data, recipe.augment
    caches: dict[str, PixelCache | None] = dict.fromkeys(splits)
    if data.cache == "decoded":
        place, side, share, made_by = cache_folder(data.cache_folder), data.image_size, _share(recipe), origin(decoder)
        most = None if data.cache_gb is None else data.cache_gb * 1e9
        # The test crops first: their size is known, and set aside.
        sizes = {name: len(split) * 3 * side**2 for name, split in splits.items() if name != "train"}
        if most is not None and sum(sizes.values()) > share * most:
            raise DataError(
                f"data.cache_gb={data.cache_gb:g} does not even hold the test crops ({sum(sizes.values()) / share / 1e9:.3g} GB): more is legal, or data.cache=none"
            )
        for name in [*sizes, *(splits.keys() - sizes)]:
            split, view = (
                splits[name],
                f"test crop {side} of {data.test_resize}" if name in sizes else f"short side {data.cache_short_side}",
            )
            caches[name] = PixelCache(
                place,
                f"{split.index.fingerprint} {made_by} {view}",
                len(split),
                most,
                share=share,
                set_aside=sizes.get(name, 0),
            )
    train = TrainView(data.image_size, augment.crop_scale, augment.hflip, augment.randaug, data.cache_short_side)
    test = EvalView(data.image_size, data.test_resize)
    return {
        name: MicroBatches(split, train if name == "train" else test, decoder=decoder, cache=caches[name])
        for name, split in splits.items()
    }
