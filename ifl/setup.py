"""What a run is made of before its first step: ranks, data, model, and the readers of its splits.

`set_up` calls the four builders in this order, and each gives a small dataclass to the next.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ifl.backbones.weights import check_digest
from ifl.clip.head_start import said_of_text, start_from_text
from ifl.distributed.comm import Comm
from ifl.engine import Engine, is_first_on_node, name_of
from ifl.engine import connect as join_ranks
from ifl.evaluator import Evaluator
from ifl.invariance.centers import Centers
from ifl.invariance.invariance import Invariance, Off
from ifl.method import BaseMethod
from ifl.network.backbone import feature_dim_of
from ifl.network.bn_statistics import RunningStatistics, synchronise_groups, without_groups
from ifl.network.frozen_features import FrozenFeatures
from ifl.network.network import Network, build_network
from ifl.saving import run_facts
from ifl.saving.saver import Log, Saver
from ifl.saving.state import State
from ifl.saving.weights import load_run, start_from
from ifl.step import TrainStep, refuse_pollution
from ifl.step_reduction import StepSync
from ifl.supervision.fence import Fence
from ifl.supervision.node_look import NodeLook
from ifl.supervision.node_report import NodeReport
from ifl.supervision.open_files import check_before_connecting, check_before_reading
from ifl.supervision.profiling import NoProfile, Profile
from ifl.supervision.startup_timer import Boot
from ifl.supervision.stragglers import Stragglers
from ifl.supervision.waits import Waits
from ifl.supervision.watchdog import patience_s
from recipes.common.addresses import is_remote
from recipes.common.errors import DataError
from recipes.common.json_text import read_object
from recipes.layers import noted
from recipes.schema import Recipe
from sharding.cache.decoded_images import FILES_OF_A_CACHE, PixelCache
from sharding.cache.disk_budget import cache_folder
from sharding.cache.own_pixels import OwnPixels, are_small
from sharding.cache.prefetcher import Prefetcher
from sharding.cache.remote_shards import NodeCache
from sharding.format.dataset import Dataset, Split
from sharding.images import decoders
from sharding.images.transforms import origin
from sharding.on_device import nvjpeg
from sharding.on_device.device_images import DeviceImages
from sharding.open import open_dataset
from sharding.plan.ahead import Planner
from sharding.plan.epoch import BatchShape, EpochPlan, stream_draws
from sharding.plan.ranks import micro_batches, rank_draws
from sharding.plan.sampling import StreamDraw
from sharding.plan.windowed import ShardWindow
from sharding.reader import Batch, Cache, EvalView, MicroBatches, Reader, Source, TrainView

Beat = Callable[[str], None]
"""Told of progress, in words."""
TEST_SPLITS = ("test_cbl", "test_gbl", "test_glt")


@dataclass(frozen=True)
class Parts:
    """The classes that a training run is made of; a test puts its own in the place of one."""

    engine: type[Engine] = Engine
    reader: type[Reader] = Reader
    centers: type[Centers] = Centers
    reduction: type[StepSync] = StepSync
    state: type[State] = State


USUAL_PARTS = Parts()


@dataclass(frozen=True)
class Ranks:
    """This process among the others.

    Attributes:
        fence: rank 0's claim on the run folder, against an older start of the same run; None elsewhere.
        patience_s: how long a rank waits for the others in a collective, seconds.
        nodes: what was seen of the nodes; empty where nobody looked.
        stragglers: told of the ranks' own times; None where nobody looked.
        tell: called on rank 0 with what others should know of the run: an event's name and its values.
    """

    device: torch.device
    comm: Comm
    fence: Fence | None
    patience_s: float
    nodes: Sequence[NodeReport] = ()
    stragglers: Stragglers | None = None
    tell: Callable[..., object] = lambda event, **values: None


@dataclass(frozen=True)
class Data:
    """The data set of a run.

    Attributes:
        train_split: the training set of the run's edition.
        tests: the names of its test splits.
        fingerprint: of all splits that the run uses.
        counts: int64 [K], training samples of each class.
    """

    dataset: Dataset
    train_split: Split
    tests: list[str]
    fingerprint: str
    counts: np.ndarray


@dataclass(frozen=True)
class Model:
    """The network that is trained, its method and its engine.

    Attributes:
        rank_rows: this rank's canonical rows of every global batch, int64 [B] for each micro-batch.
    """

    method: BaseMethod
    engine: Engine
    statistics: RunningStatistics
    rank_rows: list[np.ndarray]

    @property
    def network(self) -> Network:
        """The network that the engine trains."""
        network = self.engine.network
        assert isinstance(network, Network)
        return network

    def go_on_from(self, state: State) -> None:
        """Take over what a loaded state remembers, and the running statistics that the engine has loaded."""
        self.method.memory = {key: value.to(self.engine.device) for key, value in state.memory.items()}
        state.memory = self.method.memory
        self.statistics.refresh()


class TrainReader:
    """Reads this rank's micro-batches of the training set, and fetches remote shards ahead of them."""

    def __init__(self, reader: Reader, fetcher: Prefetcher | None, rank_rows: list[np.ndarray], seed: int) -> None:
        """Read for the rows `rank_rows`; `fetcher` is given to each node's first rank where the shards are remote."""
        self._reader, self._fetcher, self._rank_rows, self._seed = reader, fetcher, rank_rows, seed

    def read(self, plan: EpochPlan, start: int) -> Iterator[Batch]:
        """Yield the micro-batches of an epoch from step `start` on."""
        batches = self._reader.read(rank_draws(plan, self._rank_rows, self._seed, start=start))
        if self._fetcher is None:
            return batches
        return self._fetcher.follow(plan, start, batches, len(self._rank_rows))


@dataclass(frozen=True)
class Readers:
    """What reads images.

    Attributes:
        evaluators: by split, val first.
        decoder: the decoder on which all ranks agree.
        training: reads the training set; None where nothing is trained.
    """

    evaluators: dict[str, Evaluator]
    decoder: str
    training: TrainReader | None


@dataclass(frozen=True)
class Setup:
    """Everything that a run has before its first step."""

    recipe: Recipe
    folder: Path
    ranks: Ranks
    data: Data
    model: Model
    readers: Readers

    @property
    def identity(self) -> dict[str, str]:
        """What a checkpoint of this run must say of itself; equal on all ranks."""
        return {
            "hash": self.recipe.hash8,
            "data_fingerprint": self.data.fingerprint,
            "decoder": self.readers.decoder,
        }

    @property
    def train_reader(self) -> TrainReader:
        """The training set's reader, in a run that trains."""
        assert self.readers.training is not None, "this was set up for evaluation alone"
        return self.readers.training

    @property
    def runs_on(self) -> dict[str, Any]:
        """What a start runs on."""
        return {"world": self.ranks.comm.size, "device": name_of(self.ranks.device)}

    @property
    def looked(self) -> dict[str, Any]:
        """What was seen of the nodes, for the line of a start; empty where nobody looked."""
        return {"nodes": [node.plain() for node in self.ranks.nodes]} if self.ranks.nodes else {}

    def facts(self, steps: int) -> dict[str, Any]:
        """Return what meta.json says of the run itself; `steps`: of an epoch."""
        return {
            **self.runs_on,
            "hash": self.recipe.hash8,
            "data_fingerprint": self.data.fingerprint,
            "class_names": self.data.dataset.class_names,
            "class_groups": self.data.dataset.class_groups,
            "class_counts": self.data.counts.tolist(),
            "decoder": self.readers.decoder,
            "steps_per_epoch": steps,
            "network": self.model.network.about,
            **run_facts.code(self.recipe),
            **noted(self.recipe.data.name, self.data.dataset.meta),
            **run_facts.of_the_data(self.data.dataset),
            **run_facts.own_recipes(self.recipe),
            **run_facts.network(self.recipe),
            **run_facts.weights(self.recipe),
            **said_of_text(self.recipe, self.data.dataset.class_names),
        }

    def fetched(self) -> dict[str, float]:
        """Return what the node's cache has fetched so far; empty where the data are not remote."""
        cache = self.data.dataset.cache
        return cache.counts() if isinstance(cache, NodeCache) else {}


def set_up(
    recipe: Recipe,
    folder: Path,
    boot: Boot,
    *,
    fresh: bool,
    trains: bool = True,
    parts: Parts = USUAL_PARTS,
    pipe: str | None = None,
    look: NodeLook | None = None,
) -> Setup:
    """Join the other ranks and make everything ready. A collective.

    Args:
        recipe: the resolved recipe.
        folder: the run folder.
        boot: told which part of the start begins.
        fresh: whether the run has not begun yet; then a second stage starts from its first stage's weights.
        trains: whether the training set's images are needed, besides those of the splits that are evaluated.
        parts: the classes to make things of.
        pipe: the site file's command, by which the data come where their root is `pipe:`.
        look: how the nodes are looked at before anything is loaded; None: they are not.

    Raises:
        NodeFault: a node is not fit to train on.
        DataError: the data set, its cache or the decoder is not what the run needs.
        CheckpointError: the first stage's weights are not there or do not fit.
        Fenced: a newer start of the same job has the run.
    """
    boot.part("connect")
    ranks = connect(recipe, folder, boot, trains, look)
    data = open_data(recipe, pipe)
    boot.part("network")
    # The features that a second stage reads are those of its first stage's backbone, also where it goes on.
    once = trains and recipe.data.features == "once"
    model = build_model(recipe, folder, ranks, data, fresh or once, parts, trains)
    if once:
        boot.part("features")
    readers = build_readers(recipe, folder, ranks, data, model, trains, parts, boot.beat)
    return Setup(recipe=recipe, folder=folder, ranks=ranks, data=data, model=model, readers=readers)


def connect(recipe: Recipe, folder: Path, boot: Boot, trains: bool, look: NodeLook | None = None) -> Ranks:
    """Join the other ranks, and look at the nodes; rank 0 claims the run folder. A collective."""
    patience = patience_s(recipe.log.stuck_after_s)
    check_before_connecting(_workers(recipe))
    # A finished run may be judged again on a machine without the GPUs that its job had.
    gpus = (recipe.slurm.gpus or 0) if trains and recipe.cluster in ("slurm", "here") else 0
    device = join_ranks(patience, gpus)
    comm = Comm(patience_s=patience)
    print(f"rank {comm.rank} of {comm.size} runs on {name_of(device)}", flush=True)
    nodes, stragglers = [], None
    if look:
        boot.part("look")
        nodes = look.at_start(comm, device, name_of(device), is_first_on_node())
        stragglers = look.stragglers(comm, nodes)
    boot.part("data")
    fence = Fence(folder) if comm.rank == 0 else None
    found = Ranks(device=device, comm=comm, fence=fence, patience_s=patience, nodes=nodes, stragglers=stragglers)
    return replace(found, tell=look.tell) if look else found


def open_data(recipe: Recipe, pipe: str | None = None) -> Data:
    """Open the recipe's data set and its training split; `pipe` as for `set_up`."""
    dataset = opened(recipe, pipe)
    train_split = dataset.split(recipe.train, "train")
    tests = [name for name in TEST_SPLITS if name in dataset.editions[recipe.train]]
    return Data(
        dataset=dataset,
        train_split=train_split,
        tests=tests,
        fingerprint=dataset.fingerprint_of(recipe.train, ["train", "val", *tests]),
        counts=np.bincount(train_split.index.label, minlength=dataset.num_classes),
    )


def build_model(
    recipe: Recipe, folder: Path, ranks: Ranks, data: Data, fresh: bool, parts: Parts, trains: bool = True
) -> Model:
    """Build network and method, a second stage's from its first stage's weights, and put them under DeepSpeed.

    Raises:
        RunError: `model.weights` is not the file of the recipe, or does not fit the network.
        ValueError: `batch.bn` is 0 and the network has batch normalisation.
    """
    batch, comm, device = recipe.batch, ranks.comm, ranks.device
    groups = batch.size // batch.bn if batch.bn else 1
    shape = BatchShape(batch.size, batch.group, recipe.streams, batch.bn_by == "env", batch.group_key)
    rank_rows = micro_batches(shape, comm.rank, comm.size, synchronised=device.type == "cuda" or not batch.bn)
    builds_on = recipe.method.init_from or recipe.method.eval_of  # whose weights take the place of the file's
    if recipe.model.weights_sha256 and (trains or fresh) and not builds_on:
        check_digest(recipe.model.weights, recipe.model.weights_sha256, needed=fresh)
    network, method = build_network(recipe, data.counts, pretrained=fresh)
    if network.left_out:
        named = ", ".join(network.left_out[:3]) + (", ..." if len(network.left_out) > 3 else "")
        print(f"model.train={recipe.model.train} leaves out what the network never calls: {named} (meta.json has all)")
    if fresh and recipe.method.init_from:
        start_from(network, method, load_run(folder.parent / recipe.method.init_from, "last"))
    if fresh:
        start_from_text(network.head, recipe, data.dataset.class_names)
    if batch.bn and comm.size > groups:
        synchronise_groups(network, comm.size, groups, ranks.patience_s)
    engine = parts.engine(network, recipe.optim, batch.size, max(map(len, rank_rows)), len(rank_rows), device)
    method.to(device)
    statistics = RunningStatistics(network)
    if statistics.normalises and not batch.bn:
        raise ValueError(without_groups(recipe.model.name))
    return Model(method=method, engine=engine, statistics=statistics, rank_rows=rank_rows)


def build_readers(
    recipe: Recipe, folder: Path, ranks: Ranks, data: Data, model: Model, trains: bool, parts: Parts, beat: Beat
) -> Readers:
    """Agree on the decoder, and prepare to read the splits; features that are read are computed. A collective."""
    once, device = trains and recipe.data.features == "once", ranks.device
    workers, fetches = 0 if once else _workers(recipe), is_first_on_node() and not once
    decoder = _agreed_decoder(recipe, folder, ranks, trains)
    splits = {"train": data.train_split} if trains else {}
    splits |= {name: data.dataset.split(recipe.train, name) for name in ("val", *data.tests)}
    _check_files(recipe, splits)
    crops: Mapping[str, Source]
    if once:
        frozen = FrozenFeatures(recipe, model.network, data.dataset, decoder, ranks.comm, device, beat)
        crops = frozen.of(splits)
    elif decoder == nvjpeg.NAME:
        crops = device_views(recipe, splits, device)
    else:
        crops = views(recipe, decoder, splits)
    evaluators = {
        name: Evaluator(
            crops[name], ranks.comm, workers=workers, device=device, persistent=name == "val", fetches=fetches
        )
        for name in ("val", *data.tests)
    }
    training = None
    if trains:
        reader, fetcher = parts.reader(crops["train"], workers, pin_memory=device.type == "cuda"), None
        cache = data.dataset.cache
        if isinstance(cache, NodeCache) and not once:
            draws = recipe.batch.size // recipe.streams
            cache.check_budget(data.train_split.index, recipe.data.shuffle_window, draws)
            fetcher = Prefetcher(data.train_split) if fetches else None
        training = TrainReader(reader, fetcher, model.rank_rows, recipe.seed)
    return Readers(evaluators=evaluators, decoder=decoder, training=training)


def _workers(recipe: Recipe) -> int:
    """Return the loader workers of a rank."""
    assert recipe.data.workers is not None, "a resolved recipe names it"
    return recipe.data.workers


def _check_files(recipe: Recipe, splits: dict[str, Split]) -> None:
    """Check that a process may hold the files that it reads: a worker one split's, and a rank without workers all."""
    shards = [split.files for split in splits.values()]
    caches = FILES_OF_A_CACHE * len(splits) if recipe.data.cache == "decoded" else 0
    check_before_reading(_workers(recipe), (max(shards) if _workers(recipe) else sum(shards)) + caches)


def make_planner(run: Setup) -> Planner:
    """Make what plans the run's epochs, ahead of their time where it can."""
    recipe, batch, index = run.recipe, run.recipe.batch, run.data.train_split.index

    def draws(weights: Sequence[np.ndarray | None]) -> tuple[StreamDraw, ...]:
        return stream_draws(
            weights,
            len(index),
            draws_per_epoch=batch.draws_per_epoch,
            matched=batch.budget == "matched",
            replacement=bool(batch.replacement),
        )

    shape = BatchShape(batch.size, batch.group, recipe.streams, batch.bn_by == "env")
    window = ShardWindow(index.shard, recipe.data.shuffle_window) if recipe.data.shuffle_window else None
    return Planner(draws, shape, recipe.seed, window)


def make_invariance(run: Setup, parts: Parts) -> Invariance | Off:
    """Make IFL's part of the training, or `Off`, which does nothing."""
    recipe, device = run.recipe, run.ranks.device
    if recipe.ifl is None:
        return Off()
    centers = parts.centers(
        len(run.data.counts),
        feature_dim_of(run.model.network.backbone),
        recipe.ifl.center,
        recipe.ifl.center_lr,
        recipe.seed,
        device,
    )
    labels = run.data.train_split.index.label
    return Invariance(recipe.ifl, centers, labels, recipe.stream_names, run.ranks.comm, device)


def make_step(
    run: Setup, invariance: Invariance | Off, heartbeat: Callable[[], None], parts: Parts, steps: int
) -> TrainStep:
    """Make the training step of this run; `steps`: of an epoch.

    Raises:
        RunError: steps are to be profiled that the run has not.
    """
    recipe, ranks, model = run.recipe, run.ranks, run.model
    profiled, total = recipe.log.profiled, steps * recipe.schedule.epochs
    class_sums = invariance.class_sums(recipe.batch.size, targets=2 if recipe.augment.mixup else 1)
    return TrainStep(
        recipe=recipe,
        comm=ranks.comm,
        labels=run.data.train_split.index.label,
        rank_rows=model.rank_rows,
        engine=model.engine,
        method=model.method,
        statistics=model.statistics,
        row_masks=model.network.row_masks,
        invariance=invariance,
        reduction=parts.reduction(ranks.comm, recipe.batch.size, class_sums, ranks.device),
        heartbeat=heartbeat,
        waits=Waits(recipe.batch.size),
        profile=Profile(profiled, total, run.folder / "log", ranks.comm, ranks.device) if profiled else NoProfile(),
        stragglers=ranks.stragglers,
    )


def make_saver(run: Setup, steps: int, step: TrainStep, log: Log, heartbeat: Callable[[str], None]) -> Saver:
    """Make the saver of this run; `steps`: of an epoch. A collective."""
    return Saver(
        recipe=run.recipe,
        folder=run.folder,
        steps=steps,
        engine=run.model.engine,
        invariance=step.invariance,
        comm=run.ranks.comm.apart(run.ranks.patience_s),
        fence=run.ranks.fence,
        log=log,
        identity=run.identity,
        refuse_pollution=functools.partial(refuse_pollution, lr=run.recipe.optim.lr),
        heartbeat=heartbeat,
    )


def _agreed_decoder(recipe: Recipe, folder: Path, ranks: Ranks, trains: bool) -> str:
    """Return the run's decoder. A collective.

    It is the recipe's, or the one that the run began with, or the best that all ranks have.
    """
    begun, comm, device = folder / "meta.json", ranks.comm, ranks.device
    stored = comm.from_first(
        read_object(begun, {"decoder": str})["decoder"] if comm.rank == 0 and begun.exists() else None, device
    )
    pinned = recipe.data.decoder
    on_device = nvjpeg.NAME in (pinned, stored)
    reason = nvjpeg.lacking(device) if on_device else ""
    offers = comm.gather_objects([*decoders.available(), *([nvjpeg.NAME] if on_device and not reason else [])], device)
    if trains and stored is not None and stored not in (*decoders.ORDER, nvjpeg.NAME):
        raise DataError(
            f"{folder} was begun by older code (its decoder is {stored!r}), whose pixels this code does not "
            "make to the bit: go on with the commit that its meta.json names, or move it away to start anew"
        )
    if not trains and (wanted := pinned or stored) and not all(wanted in names for names in offers):
        if comm.rank == 0:
            print(
                f"{folder.name} was decoded by {wanted}, which is not here: "
                "pixels may be other ones by a few grey levels",
                flush=True,
            )
        pinned = stored = None
    why = (
        f"data.decoder={pinned} is asked for"
        if pinned
        else f"{folder.name} began with the decoder {stored}, and keeps it"
    ) + (f" ({reason})" if reason else "")
    return decoders.agreed(offers, pinned or stored, why)


def _share(recipe: Recipe) -> float:
    """Return the share of the node's cache for decoded images; remote shards may take the same share.

    It is a half where a node keeps both, and 1 where it keeps only one of them.
    """
    return 0.5 if recipe.data.cache == "decoded" and is_remote(recipe.data_root) else 1.0


def opened(recipe: Recipe, pipe: str | None = None) -> Dataset:
    """Open the recipe's data set, with the node's cache where it is remote; `pipe` as for `set_up`."""
    data = recipe.data
    return open_dataset(recipe.data_root, data.name, data.cache_folder, data.cache_gb, share=_share(recipe), pipe=pipe)


def device_views(recipe: Recipe, splits: dict[str, Split], device: torch.device) -> dict[str, DeviceImages]:
    """Return the training crops (`train`) and test crops of splits, which are made on `device`."""
    return {name: DeviceImages(split, _view(recipe, name), device) for name, split in splits.items()}


def _view(recipe: Recipe, split: str) -> TrainView | EvalView:
    """Return how the samples of a split of that name are viewed."""
    data = recipe.data
    return TrainView.of(data, recipe.augment) if split == "train" else EvalView(data.image_size, data.test_resize)


def views(recipe: Recipe, decoder: str, splits: dict[str, Split]) -> dict[str, MicroBatches]:
    """Return the training crops (`train`) and test crops of splits.

    They come from the node's cache where the recipe has one, and where the splits are small and this process reads them
    by itself, from its memory once they are decoded.

    Raises:
        DataError: the cache's folder cannot be used, or its bytes do not hold the test crops.
    """
    data = recipe.data
    caches: dict[str, Cache | None] = dict.fromkeys(splits)
    if data.cache == "decoded":
        caches |= _pixel_caches(recipe, decoder, splits)
    elif not data.workers and are_small(splits.values()):  # workers would each keep them once more
        caches |= {name: OwnPixels(split) for name, split in splits.items()}
    return {
        name: MicroBatches(split, _view(recipe, name), decoder=decoder, cache=caches[name])
        for name, split in splits.items()
    }


def _pixel_caches(recipe: Recipe, decoder: str, splits: dict[str, Split]) -> dict[str, PixelCache]:
    """Open the node's caches of decoded images, by split.

    The test crops come first: their size is known, and set aside.
    """
    data, share = recipe.data, _share(recipe)
    place, side, made_by = cache_folder(data.cache_folder), data.image_size, origin(decoder)
    most = None if data.cache_gb is None else data.cache_gb * 1e9
    sizes = {name: len(split) * 3 * side**2 for name, split in splits.items() if name != "train"}
    if most is not None and sum(sizes.values()) > share * most:
        raise DataError(
            f"data.cache_gb={data.cache_gb:g} does not even hold the test crops "
            f"({sum(sizes.values()) / share / 1e9:.3g} GB): more is legal, or data.cache=none"
        )
    caches = {}
    for name in [*sizes, *(splits.keys() - sizes)]:
        split = splits[name]
        view = f"test crop {side} of {data.test_resize}" if name in sizes else f"short side {data.cache_short_side}"
        caches[name] = PixelCache(
            place,
            f"{split.index.fingerprint} {made_by} {view}",
            len(split),
            most,
            share=share,
            set_aside=sizes.get(name, 0),
        )
    return caches
