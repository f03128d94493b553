"""The reader does the I/O of the plan and decides nothing: the same batches with any number of workers, ranks and
restarts, and no sample is ever skipped.
"""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.common import retries
from recipes.common.errors import DataError
from sharding.format.dataset import Split
from sharding.format.index import Index
from sharding.images.decoders import decoder
from sharding.images.dice import draw_rng
from sharding.images.transforms import eval_pixels, train_pixels
from sharding.open import open_dataset
from sharding.plan.epoch import EpochPlan
from sharding.plan.ranks import Draws, rank_draws
from sharding.reader import (
    Batch,
    EvalView,
    MicroBatches,
    Reader,
    TrainView,
    assembled,
    augmented,
    decoded,
    evaluation_draws,
    planned_samples,
)
from tests.helpers.batches import assert_equal
from tests.helpers.plans import micro_batches, plan_epoch

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # three workers on fewer cores are meant

SEED = 5
PILLOW = decoder("pillow")
VIEW = {"crop_scale": (0.3, 1.0), "hflip": True, "randaug": True}


@pytest.fixture(scope="module")
def split(tiny_root: Path) -> Split:
    return open_dataset(tiny_root, "digits_glt").split("glt", "train")


@pytest.fixture(scope="module")
def crops(split: Split) -> MicroBatches:
    return MicroBatches(split, TrainView(32, **VIEW))


def plan_of(split: Split, epoch: int = 0, *, window: int = 0, units: float = 0.25) -> EpochPlan:
    """Two streams, batches of 24 rows in groups of 6; the second stream's weights change with the epoch."""
    weights = np.random.Generator(np.random.PCG64(epoch)).random(len(split))
    return plan_epoch(
        [None, weights],
        len(split),
        batch=24,
        group=6,
        draws_per_epoch=units,
        seed=SEED,
        epoch=epoch,
        shards=split.index.shard,
        window=window,
    )


def by_hand(split: Split, draws: Draws) -> Batch:
    """What a batch must be: one plain loop over the planned samples, without webdataset and loaders."""
    pixels = []
    for sample, draw in zip(draws.ids, draws.draws, strict=True):
        view = train_pixels(
            PILLOW.opened(split.read(int(sample))), draw_rng(draws.seed, draws.epoch, int(draw)), size=32, **VIEW
        )
        pixels.append(np.moveaxis(view, 2, 0))
    labels = [int(split.index.label[sample]) for sample in draws.ids]
    return Batch(
        torch.tensor(np.stack(pixels)), torch.tensor(labels), torch.tensor(draws.ids), torch.tensor(draws.streams)
    )


def image(batches: Iterable[Batch]) -> list[np.ndarray]:
    """Pixels of single rows, in order."""
    return [row for batch in batches for row in batch.images.numpy()]


# ------------------------------------------------------------------------------------------------------ equals the plan
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_reader_equals_plan(split: Split, crops: MicroBatches, workers: int) -> None:
    """With 0, 1 and 3 workers the batches are the plan's, in its order: ids, labels, streams and every pixel equal a
    plain loop; over two epochs with one reader (its workers persist) though the weights change between them."""
    reader = Reader(crops, workers)
    rows = micro_batches(24, 6, 0, 1)
    processes = []
    for epoch in (0, 1):
        asked = list(rank_draws(plan_of(split, epoch), rows, SEED))
        assert len(asked) > 4 * (workers + 1)  # more than the workers can hold in advance
        assert_equal(reader.read(iter(asked)), (by_hand(split, draws) for draws in asked))
        processes.append({process.pid for process in multiprocessing.active_children()})
    assert processes[0] == processes[1] or not workers


def test_batches_are_compact_bytes(split: Split, crops: MicroBatches) -> None:
    """A batch holds contiguous uint8 [M, 3, H, W] and int64 [M] columns: nothing is normalised or widened before the
    device.
    """
    batch = crops[next(rank_draws(plan_of(split), micro_batches(24, 6, 0, 1), SEED))]
    assert (
        batch.images.dtype == torch.uint8
        and batch.images.shape == (6, 3, 32, 32)
        and batch.images.is_contiguous(memory_format=torch.channels_last)
    )
    for column in batch[1:]:
        assert column.dtype == torch.int64 and column.shape == (6,)
    assert batch.streams.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("window", [0, 2])
def test_global_batches_are_the_same_on_1_2_and_4_ranks(
    split: Split, crops: MicroBatches, workers: int, window: int
) -> None:
    """Step t is the same global batch, pixel for pixel, on 1, 2 and 4 ranks with 0, 1 and 3 workers, and no rank has a
    step more than another.
    """
    plan = plan_of(split, 3, window=window, units=0.1)
    alone = np.stack(image(crops[draws] for draws in rank_draws(plan, micro_batches(24, 6, 0, 1), SEED))).reshape(
        plan.steps, 24, 3, 32, 32
    )
    for ranks in (1, 2, 4):
        together = np.zeros_like(alone)
        seen = np.zeros((plan.steps, 24), dtype=int)
        for rank in range(ranks):
            rows = micro_batches(24, 6, rank, ranks)
            batches = list(Reader(crops, workers).read(rank_draws(plan, rows, SEED)))
            assert len(batches) == plan.steps * len(rows)
            for number, batch in enumerate(batches):
                step, mine = number // len(rows), rows[number % len(rows)]
                together[step, mine] = batch.images.numpy()
                seen[step, mine] += 1
                assert batch.ids.tolist() == plan.ids[step, mine].tolist()
        assert (seen == 1).all()
        assert np.array_equal(together, alone)


def test_augmentation_depends_on_the_draw(split: Split, crops: MicroBatches) -> None:
    """One sample drawn twice in an epoch, or in two epochs, or under two seeds, is seen in different views; the same
    draw always in the same.
    """

    def view(draw: int, epoch: int, seed: int) -> bytes:
        batch = crops[Draws(np.array([3]), np.array([draw]), np.array([0]), seed, epoch)]
        return batch.images.numpy().tobytes()

    assert len({view(0, 0, 0), view(1, 0, 0), view(0, 1, 0), view(0, 0, 1)}) == 4
    assert view(1, 2, 3) == view(1, 2, 3)


# -------------------------------------------------------------------------------------------------------------- resume
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_at_every_step(split: Split, crops: MicroBatches, workers: int) -> None:
    """A new reader that starts at any step t of an epoch gives the uninterrupted epoch's tail, bit for bit; so does a
    third that starts later in the same epoch. What a stopped reader had loaded in advance is lost without a trace."""
    rows = micro_batches(24, 6, 1, 2)
    plan = plan_of(split, 2, units=0.2)
    whole = list(Reader(crops, 0).read(rank_draws(plan, rows, SEED)))
    assert plan.steps >= 3
    for first in range(plan.steps + 1):
        assert_equal(
            Reader(crops, workers).read(rank_draws(plan_of(split, 2, units=0.2), rows, SEED, start=first)),
            whole[first * len(rows) :],
        )
    stopped = Reader(crops, workers).read(rank_draws(plan, rows, SEED, start=1))
    begun = [next(stopped) for _ in rows]  # stops within the epoch, with batches under way
    assert_equal(begun + list(Reader(crops, workers).read(rank_draws(plan, rows, SEED, start=2))), whole[len(rows) :])


# ---------------------------------------------------------------------------------------------------------- evaluation
def test_test_view(split: Split) -> None:
    """The test view is the deterministic centre crop, whatever draw, epoch or seed it is asked with."""
    views = MicroBatches(split, EvalView(24, 28))
    ids = np.arange(0, len(split), 7)
    expected = [np.moveaxis(eval_pixels(PILLOW.opened(split.read(int(i))), size=24, resize=28), 2, 0) for i in ids]
    for seed, epoch, shift in ((0, -1, 0), (4, 9, 100)):
        batch = views[Draws(ids, ids + shift, np.zeros_like(ids), seed, epoch)]
        assert np.array_equal(batch.images.numpy(), np.stack(expected))
        assert batch.labels.tolist() == split.index.label[ids].tolist()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(samples=st.integers(0, 80), ranks=st.integers(1, 4), size=st.integers(1, 33))
def test_evaluation_takes_each_sample_once(samples: int, ranks: int, size: int) -> None:
    """Over 1 to 4 ranks every sample of a split is evaluated exactly once, in batches of at most `size`, also where
    ranks get uneven numbers or none.
    """
    parts = [list(evaluation_draws(samples, rank, ranks, size)) for rank in range(ranks)]
    ids = [sample for part in parts for draws in part for sample in draws.ids.tolist()]
    assert sorted(ids) == list(range(samples))
    assert all(1 <= len(draws.ids) <= size for part in parts for draws in part)
    numbers = [sum(len(draws.ids) for draws in part) for part in parts]
    assert max(numbers) - min(numbers) <= 1


def test_evaluation_reads_the_right_samples(split: Split) -> None:
    """Ids, labels and pixels that three ranks read belong together and cover the split."""
    views = MicroBatches(split, EvalView(32, 32))
    seen: dict[int, int] = {}
    for rank in range(3):
        for batch in Reader(views, 0).read(evaluation_draws(len(split), rank, 3, 50)):
            for sample, label, pixels in zip(
                batch.ids.tolist(), batch.labels.tolist(), batch.images.numpy(), strict=True
            ):
                assert sample not in seen
                seen[sample] = label
                if sample % 10 == 0:
                    assert np.array_equal(
                        pixels, np.moveaxis(eval_pixels(PILLOW.opened(split.read(sample)), size=32, resize=32), 2, 0)
                    )
    assert [seen[sample] for sample in range(len(split))] == split.index.label.tolist()


# ---------------------------------------------------------------------------------------------------------- webdataset
def test_plain_webdataset_reads_the_shards(split: Split) -> None:
    """A `webdataset.WebDataset` that knows nothing of the index sees the same keys, bytes, labels and metadata, in the
    index's order.
    """
    urls = [str(split.folder / name) for name in split.index.shard_name.tolist()]
    assert len(urls) > 1
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == split.index.key.tolist()
    for i, sample in enumerate(samples):
        assert sample["jpg"] == split.read(i)
        assert int(sample["cls"]) == split.index.label[i]
        assert json.loads(sample["json"])["source"] == split.index.source[i]


def test_webdataset_stages_fit_in_and_after(split: Split, crops: MicroBatches) -> None:
    """Webdataset's own stages can be put between ours (`webdataset.map` on sample dictionaries) and appended after
    them, and see what they should.
    """
    draws = next(rank_draws(plan_of(split), micro_batches(24, 6, 0, 1), SEED))

    def negative(sample: dict) -> dict:
        return {**sample, "pixels": 255 - sample["pixels"]}

    plain = crops[draws]
    between = webdataset.DataPipeline(
        planned_samples(split, draws),
        decoded(split, PILLOW),
        augmented(draws, TrainView(32, **VIEW)),
        webdataset.map(negative),
        assembled,
    )
    assert torch.equal(next(iter(between)).images, 255 - plain.images)
    after = crops.pipeline(draws)
    after.append(webdataset.map(lambda batch: batch._replace(labels=batch.labels + 100)))
    batches = list(after)
    assert (
        len(batches) == 1
        and torch.equal(batches[0].labels, plain.labels + 100)
        and torch.equal(batches[0].images, plain.images)
    )
    first = webdataset.DataPipeline(planned_samples(split, draws))
    assert [(sample["id"], sample["draw"], sample["__key__"]) for sample in first] == [
        (i, d, split.index.key[i]) for i, d in zip(draws.ids, draws.draws, strict=True)
    ]


# -------------------------------------------------------------------------------------------------------------- damage
def copied(split: Split, folder: Path) -> Split:
    shutil.copytree(split.folder, folder)
    return Split(folder, split.index)


def overwrite(split: Split, sample: int, at: int, data: bytes) -> None:
    with open(split.folder / str(split.index.shard_name[split.index.shard[sample]]), "r+b") as file:
        file.seek(int(split.index.offset[sample]) + at)
        file.write(data)


def whole_epoch(split: Split) -> Iterator[Draws]:
    return rank_draws(
        plan_epoch([None], len(split), batch=24, group=6, seed=SEED, epoch=0), micro_batches(24, 6, 0, 1), SEED
    )


def refusal(batches: Iterator[Batch], found: list[Batch]) -> str:
    """The message of the DataError that ends `batches`, one sentence; what came before goes into `found`. The error's
    frames would keep the reader alive until a garbage collection, which would wait some seconds for each worker, so
    they are cleared."""
    with pytest.raises(DataError) as caught:
        for batch in batches:
            found.append(batch)
    message = str(caught.value)
    assert "\n" not in message
    traceback.clear_frames(caught.tb)
    del batches, caught
    return message


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_byte_stops_by_name(split: Split, tmp_path: Path, workers: int) -> None:
    """One flipped bit in one image ends the epoch with a DataError that names shard, key and offset, in the training
    process also where a worker found it; no batch with the sample is handed out, and none is left out before it."""
    bad, victim = copied(split, tmp_path / "train"), len(split) // 2
    overwrite(
        bad,
        victim,
        int(split.index.size[victim]) // 2,
        bytes([split.read(victim)[int(split.index.size[victim]) // 2] ^ 1]),
    )
    asked = list(whole_epoch(split))
    meets = next(number for number, draws in enumerate(asked) if victim in draws.ids)
    found: list[Batch] = []
    message = refusal(Reader(MicroBatches(bad, TrainView(32, **VIEW)), workers).read(iter(asked)), found)
    shard = split.index.shard_name[split.index.shard[victim]]
    assert str(bad.folder / str(shard)) in message and str(split.index.key[victim]) in message
    assert f"offset {split.index.offset[victim]}" in message and "sha256" in message
    assert len(found) == meets
    assert_equal(found, (by_hand(split, draws) for draws in asked[:meets]))


@pytest.mark.parametrize("workers", [0, 2])
def test_undecodable_image_stops_by_name(split: Split, tmp_path: Path, workers: int) -> None:
    """An image whose bytes are the recorded ones but do not decode (damaged before the build) ends the epoch with a
    DataError that names folder and key.
    """
    bad, victim = copied(split, tmp_path / "train"), 3
    data = split.read(victim)[:40].ljust(
        int(split.index.size[victim]), b"\0"
    )  # begins like a JPEG, and holds no picture
    overwrite(bad, victim, 0, data)
    digests = split.index.sha256.copy()
    digests[victim] = np.frombuffer(hashlib.sha256(data).digest(), dtype=np.uint8)
    bad = Split(bad.folder, replace(split.index, sha256=digests))
    assert isinstance(bad.index, Index) and bad.read(victim) == data
    message = refusal(Reader(MicroBatches(bad, TrainView(32, **VIEW)), workers).read(whole_epoch(split)), [])
    assert f"{bad.folder}: sample {split.index.key[victim]} does not decode" in message


@pytest.mark.parametrize("workers", [0, 2])
def test_missing_shard_stops_by_name(
    split: Split, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that vanishes while training runs is a DataError with its name, not an epoch with fewer samples."""
    monkeypatch.setattr(retries, "PAUSES_S", (0.0,))
    bad = copied(split, tmp_path / "train")
    gone = bad.folder / str(split.index.shard_name[1])
    gone.unlink()
    message = refusal(Reader(MicroBatches(bad, TrainView(32, **VIEW)), workers).read(whole_epoch(split)), [])
    assert f"shard {gone} is missing" in message


# ------------------------------------------------------------------------------------------------------------- signals
def test_workers_outlive_warning_signals(split: Split, crops: MicroBatches) -> None:
    """SLURM's warnings (SIGTERM, SIGUSR2) reach every process of a step: the loader's workers ignore them, and the
    epoch goes on with the right batches, so that the ranks can save."""
    before = {process.pid for process in multiprocessing.active_children()}
    reader = Reader(crops, 2)
    asked = list(rank_draws(plan_of(split), micro_batches(24, 6, 0, 1), SEED))
    batches = reader.read(iter(asked))
    found = [next(batches), next(batches)]  # one of each worker: both are past their start
    workers = [process for process in multiprocessing.active_children() if process.pid not in before]
    assert len(workers) == 2
    for name in (signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1, signal.SIGINT):
        for process in workers:
            os.kill(process.pid, name)
    found += list(batches)
    assert_equal(found, (by_hand(split, draws) for draws in asked))
    assert all(process.is_alive() for process in workers)


LEAVING = """
import sys
import types
import numpy as np
import torch
from sharding.plan.ranks import Draws
from sharding.reader import Reader

class Zeros(torch.utils.data.Dataset):
    split = types.SimpleNamespace(files=0)

    def __getitem__(self, draws):
        return torch.zeros(1)

def read():
    one = np.zeros(1, dtype=int)
    reader = Reader(Zeros(), 2)
    batches = reader.read([Draws(one, one, one, 0, 0)] * 9)
    next(batches)
    return reader, batches

if sys.argv[1] == "dropped":
    read()
elif sys.argv[1] == "kept":
    kept = read()
else:
    kept = read()
    raise ValueError("an error elsewhere")
print("end", flush=True)
"""


@pytest.mark.parametrize("how, code", [("dropped", 0), ("kept", 0), ("raised", 1)])
def test_process_with_readers_ends(how: str, code: int) -> None:
    """A process that ends while its reader lives, in mid-epoch or by an error, ends at once: it does not wait for
    workers that ignore the signal it sends them. And it leaves no worker behind."""
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVING, how],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        process.communicate(timeout=25)  # its workers hold the pipes too, so this waits for them as well
        assert process.returncode == code
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_dropped_reader_takes_its_workers_along(split: Split, crops: MicroBatches) -> None:
    """Without a garbage collection a reader that nobody holds ends its workers at once, in mid-epoch too."""
    before = {process.pid for process in multiprocessing.active_children()}
    gc.disable()
    try:
        reader = Reader(crops, 2)
        batches = reader.read(whole_epoch(split))
        next(batches)
        workers = [process for process in multiprocessing.active_children() if process.pid not in before]
        del reader, batches
        assert len(workers) == 2 and not any(process.is_alive() for process in workers)
    finally:
        gc.enable()
