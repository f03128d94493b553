"""How fast R ranks train together, and how often they should save: a small discrete-event model.

`python -m slurm.scaling image_s=0.0003 [gradient_bytes=... any of Assumptions but evaluate_s]` prints what it predicts
for 1 to 1,024 ranks.

A step, event by event: each rank waits for its batch, computes (lognormal in time), and sends; the suite's reduction
leaves when the last rank has ended its forward pass, each bucket of gradients when the last rank has computed it; the
link carries one message at a time. A run: work is kept up to the newest checkpoint when an interruption comes (Poisson)
or, where a warning came early enough, up to the interruption.

Everything is drawn from fixed seeds: the same question has the same answer. `batch.size` is global, so the scaling is
strong: R ranks share one batch, as sharding.plan.epoch allows it.
"""

if __name__ == "__main__":
    from recipes.common.venv import in_environment

    in_environment()  # before the first import that a bare or an older Python lacks

import math
import sys
from collections import deque
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from recipes.common.cli import key_values
from recipes.common.errors import DataError, PlanError, UserError
from recipes.common.output import ends_told, go_on_unread
from sharding.plan.epoch import BatchShape
from sharding.plan.ranks import micro_batches

INTERRUPTIONS = 10_000
"""A run of more than so many interruptions is taken for one that never ends."""
POSITIVE = {
    "image_s",
    "cores",
    "buckets",
    "link_bytes_s",
    "node_bytes_s",
    "loader_images_s",
    "prefetch",
    "limit_s",
    "save_s",
}
"""Assumptions that cannot be zero."""


@dataclass(frozen=True)
class Assumptions:
    """What the model is fitted by, with where each default comes from.

    Attributes:
        image_s: seconds of computing an image on one rank, forward and backward: from a run's images/s.
        fixed_s: seconds of a step that do not shrink with a rank's share (launches, optimizer): assumed;
            tests/bench/scaling.py measures it on CPUs.
        jitter: coefficient of variation of a rank's computing time: tests/bench/scaling.py found 0.04 to 0.06.
        forward: share of the computing before the last backward pass: a backward pass is two forward passes'
            arithmetic.
        cores: ranks of a node that compute at full speed at the same time; fewer than its ranks where these share CPU
            cores.
        norms: layers whose statistics are reduced, in the forward and the backward pass, where ranks share a group:
            ResNeXt-50's.
        gradient_bytes: ResNeXt-50's: 25.03 M parameters, reduced as float32.
        buckets: messages of gradients, each sent when it is computed; ZeRO stage 0 sends one after the backward pass.
        suite_bytes: the suite's one reduction, sent before the last backward pass: the function `suite_bytes`, for
            1,000 classes of 2,048 features, 256 images.
        latency_s: seconds of a message between two ranks: InfiniBand or RoCE with NCCL, assumed.
        link_bytes_s: bytes a second between nodes: a 100 Gb/s link at 80 %.
        node_bytes_s: bytes a second inside a node: NVLink, a fourth of what an A100 has, as NVIDIA
            DeepLearningExamples' 8 GPUs reach.
        loader_images_s: images a second of a rank's loader: tests/bench of the loader.
        loader_jitter: coefficient of variation of the time in which it makes a batch: assumed.
        prefetch: batches that it may be ahead: 2 for each of data.workers=2.
        evaluate_s: one rank's seconds for an epoch's evaluation, which ranks share: from a run's `done`.
        interruptions_h: interruptions of a node in an hour: assumed, one a day.
        grace_s: seconds of warning before one; 0: none, and the steps since the newest checkpoint are lost.
        limit_s: time limit of a job in seconds, which warns in time.
        queue_s: seconds from an interruption to the next start: assumed.
        boot_s: seconds from a start to its first step: `boot` in metrics.jsonl; 15 s at most is the aim.
        save_s: seconds of a checkpoint, during which nothing trains: ResNeXt-50's 300 MB at 100 MB/s of a shared disk,
            assumed; tests/bench/safety.py measures 100 MB here.
    """

    image_s: float
    fixed_s: float = 0.005
    jitter: float = 0.05
    forward: float = 1 / 3
    cores: float = math.inf
    norms: int = 53
    gradient_bytes: float = 100.1e6
    buckets: int = 1
    suite_bytes: float = 4.1e6
    latency_s: float = 20e-6
    link_bytes_s: float = 10e9
    node_bytes_s: float = 150e9
    loader_images_s: float = math.inf
    loader_jitter: float = 0.2
    prefetch: int = 4
    evaluate_s: float = 0.0
    interruptions_h: float = 1 / 24
    grace_s: float = 0.0
    limit_s: float = math.inf
    queue_s: float = 120.0
    boot_s: float = 15.0
    save_s: float = 3.0

    @property
    def warned(self) -> bool:
        """Whether an interruption leaves the time to save."""
        return self.grace_s > 0 and self.grace_s >= self.save_s


def suite_bytes(batch: int, classes: int, features: int) -> float:
    """Return the bytes of the suite's reduction, counted as for a sum over ranks.

    It sends class sums as int64, or gathers the features, which is half of a sum's way (ifl/step_reduction.py).
    """
    return 2.0 * batch * (features + 2) if 4 * batch < 8 * classes else 8.0 * classes * (features + 1)


# -------------------------------------------------------------------------------------------------------------- a step
def reduction_s(given: Assumptions, size: float, ranks: int, nodes: int) -> float:
    """Return the seconds of a sum of `size` bytes over the ranks.

    A ring moves 2 (R - 1) / R of them over its slowest link; a tree's messages wait twice log2 R times.
    """
    speed = given.node_bytes_s if nodes == 1 else given.link_bytes_s
    return 2 * math.ceil(math.log2(ranks)) * given.latency_s + 2 * (ranks - 1) / ranks * size / speed


def step_s(
    given: Assumptions,
    batch: int,
    group: int,
    ranks: int,
    nodes: int,
    streams: int = 1,
    steps: int = 200,
    seed: int = 0,
) -> float:
    """Return the seconds of a step, the mean of `steps` after as many as the loader is ahead.

    Args:
        given: the model's assumptions.
        batch: rows of the global batch.
        group: rows of a batch-normalisation group; 0 where there are none.
        ranks: equally many on each node.
        nodes: how many there are.
        streams: that a batch is drawn from.
        steps: that are counted.
        seed: of all draws.

    Raises:
        PlanError: the ranks cannot share the batch.
    """
    micro_batches(BatchShape(batch, group, streams), 0, ranks, synchronised=True)
    share, random, warm = batch / ranks, np.random.default_rng(seed), given.prefetch + 1
    sharing = max(1, ranks * group // batch)  # ranks that take a group's statistics together
    norms_s = 2 * given.norms * reduction_s(given, 0, sharing, nodes)
    computing = (given.fixed_s + share * given.image_s) * _lognormal(random, given.jitter, (warm + steps, ranks))
    # Cores are never idle while a rank waits for one: a node's ranks end with the longest, or with all work done.
    of_node = computing.reshape(warm + steps, nodes, -1)
    of_node *= np.maximum(1.0, of_node.sum(2, keepdims=True) / given.cores / of_node.max(2, keepdims=True))
    computing = of_node.reshape(warm + steps, ranks) + norms_s
    loading = share / given.loader_images_s * _lognormal(random, given.loader_jitter, (warm + steps, ranks))
    suite, bucket = (
        reduction_s(given, size, ranks, nodes) for size in (given.suite_bytes, given.gradient_bytes / given.buckets)
    )
    clock, since, loaded = 0.0, 0.0, np.zeros(ranks)
    taken: deque[np.ndarray] = deque([loaded], maxlen=given.prefetch)
    for step in range(warm + steps):
        if step == warm:
            since = clock
        # The loader makes a batch when the one `prefetch` before it was taken.
        loaded = np.maximum(loaded, taken[0]) + loading[step]
        start = np.maximum(clock, loaded)
        taken.append(start)
        forward, last = start + given.forward * computing[step], float((start + computing[step]).max())
        clock = last
        if ranks > 1:
            free = float(forward.max()) + suite
            for part in range(1, given.buckets + 1):
                ready = (
                    last
                    if part == given.buckets
                    else float((forward + (1 - given.forward) * computing[step] * part / given.buckets).max())
                )
                free = max(free, ready) + bucket
            clock = max(clock, free)
    return (clock - since) / steps


def _lognormal(random: np.random.Generator, variation: float, shape: tuple[int, int]) -> np.ndarray:
    """Draw factors of mean 1 and this coefficient of variation."""
    square = math.log1p(variation**2)
    return random.lognormal(-square / 2, math.sqrt(square), shape)


# --------------------------------------------------------------------------------------------------------------- a run
def run_s(given: Assumptions, work_s: float, every_s: float, nodes: int, trials: int = 200, seed: int = 0) -> float:
    """Return the mean seconds of a run, interruptions included.

    It has `work_s` seconds of training and evaluation and saves every `every_s` of them. The answer is infinite where
    it hardly ever gets from one checkpoint to the next.
    """
    random = np.random.default_rng(seed)
    mean_s = 3600 / (given.interruptions_h * nodes) if given.interruptions_h else math.inf
    left, wall = np.full(trials, float(work_s)), np.zeros(trials)
    for _ in range(INTERRUPTIONS):
        struck = random.exponential(mean_s, trials) if given.interruptions_h else np.full(trials, math.inf)
        up = np.minimum(struck, given.limit_s)
        warned = (struck > given.limit_s) | given.warned
        room = np.maximum(up - given.boot_s, 0.0)
        needed = left + given.save_s * np.maximum(np.ceil(left / every_s) - 1, 0)
        ends = needed <= room
        cycles = np.floor(np.where(ends, 0.0, room) / (every_s + given.save_s))
        kept = np.where(
            warned,
            np.minimum(np.maximum(np.where(ends, 0.0, room) - (cycles + 1) * given.save_s, cycles * every_s), left),
            cycles * every_s,
        )
        going = left > 0
        wall += np.where(going, np.where(ends, given.boot_s + needed, up + given.queue_s), 0.0)
        left = np.where(ends, 0.0, left - kept)
        if not (left > 0).any():
            return float(wall.mean())
    return math.inf


def best_every_s(given: Assumptions, nodes: int, work_s: float = 30 * 86400.0) -> float:
    """Return the seconds between two checkpoints with which a long run is shortest.

    33 are tried, from an eighth to the eightfold of `young_daly_s`; all meet the same interruptions. The answer is
    infinite where nothing is ever lost.
    """
    middle = young_daly_s(given, nodes)
    if not math.isfinite(middle) or given.warned:
        return math.inf
    tried = middle * 2.0 ** np.linspace(-3, 3, 33)
    length = min(work_s, 200 * 3600 / (given.interruptions_h * nodes))  # 200 interruptions tell as much as more
    return float(min(tried, key=lambda every_s: run_s(given, length, every_s, nodes, trials=50)))


def young_daly_s(given: Assumptions, nodes: int) -> float:
    """Return Young's first-order answer: sqrt(2 x seconds of a save x mean seconds between interruptions)."""
    return math.sqrt(2 * given.save_s * 3600 / (given.interruptions_h * nodes)) if given.interruptions_h else math.inf


# ------------------------------------------------------------------------------------------------------------- a table
def most_ranks(batch: int, group: int, streams: int) -> int:
    """Return the most ranks that may share a batch."""
    return batch // streams if group else batch


def _read(words: list[str], batch: int) -> Assumptions:
    """Read the assumptions of a command; the others have their defaults, those of a batch; but `image_s` has none."""
    # What an evaluation takes changes neither a step nor an interval.
    usual = {field.name: field.default for field in fields(Assumptions) if field.name != "evaluate_s"}
    values = key_values(words, list(usual))
    if "image_s" not in values:
        raise DataError("image_s= is missing; image_s=SECONDS, such as image_s=0.0003, would be legal")
    given = {key: _number(key, text, usual[key]) for key, text in values.items()}
    return Assumptions(**{"suite_bytes": suite_bytes(batch, 1000, 2048), **given})


def _number(key: str, text: str, usual: Any) -> Any:
    """Return what a word gives, a whole number where the assumption `usual` is one.

    Raises:
        DataError: it is no number, or one that the model cannot use.
    """
    kind = int if type(usual) is int else float
    try:
        number = kind(text)
        usable = number > 0 if key in POSITIVE else number >= 0
        usable = usable and (math.isfinite(number) or usual == math.inf)
    except ValueError:
        usable = False
    if not usable:
        what = "a whole number" if kind is int else "a number"
        raise DataError(f"{key}={text} is not legal; {what} {'above 0' if key in POSITIVE else 'from 0'} is")
    return number


def main(words: list[str]) -> None:
    """Print what the model predicts for two batches and up to 1,024 ranks."""
    for batch in (256, 65_536):
        own = _read(words, batch)
        print(f"a batch of {batch:,} in groups of 128, two environments, nodes of 8:")
        alone = batch / step_s(own, batch, 128, 1, 1, 2)
        for ranks in (1, 4, 8, 64, 1024):
            nodes = -(-ranks // 8)
            try:
                rate = batch / step_s(own, batch, 128, ranks, nodes, 2)
            except PlanError:
                print(f"{ranks:6,} ranks: not legal, {most_ranks(batch, 128, 2)} at most")
                continue
            print(
                f"{ranks:6,} ranks: {rate:12,.0f} images/s, efficiency {rate / ranks / alone:.2f}, "
                f"{batch / ranks:,.0f} images each; best to save every {best_every_s(own, nodes) / 60:.0f} min"
                f" (Young and Daly: {young_daly_s(own, nodes) / 60:.0f}) at {own.interruptions_h * nodes * 24:.0f} "
                "interruptions a day"
            )


if __name__ == "__main__":
    go_on_unread()
    try:
        sys.exit(ends_told("slurm.scaling", lambda: main(sys.argv[1:])))
    except UserError as error:
        sys.exit(f"slurm.scaling: {error}")
