"""The node's cache of decoded images changes no pixel, is shared, bounded, and valid after a kill."""

from __future__ import annotations

import errno
import os
import platform
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sharding.images.transforms
from ifl.setup import views
from recipes.common.errors import DataError
from recipes.resolve import resolve
from sharding.cache import decoded_images
from sharding.cache.decoded_images import PixelCache
from sharding.cache.disk_budget import PIXELS, SHARDS, bytes_of_a_node, cache_folder
from sharding.format.dataset import Split
from sharding.images import decoders
from sharding.images.decoders import available
from sharding.images.dice import draw_rng
from sharding.images.transforms import train_pixels
from sharding.open import open_dataset
from sharding.plan.ranks import rank_draws
from sharding.reader import Batch, EvalView, MicroBatches, Reader, TrainView, evaluation_draws
from tests.helpers.nodes import assert_equal, children, on_a_disk_of
from tests.helpers.plans import micro_batches, plan_epoch

VIEW = {"view": TrainView(24, (0.3, 1.0), hflip=True, randaug=True)}


@pytest.fixture(scope="module")
def split(tiny_root: Path) -> Split:
    return open_dataset(tiny_root, "digits_glt").split("glt", "train")


def epochs(crops: MicroBatches, workers: int, number: int = 2) -> list[Batch]:
    """All batches of some epochs, in order; training's, or twice the evaluation."""
    reader, size = Reader(crops, workers), len(crops.split)
    if not isinstance(crops.view, TrainView):
        return [batch for _ in range(number) for batch in reader.read(evaluation_draws(size, 0, 1, 50))]
    plans = [
        plan_epoch([None, np.arange(1.0, size + 1)], size, batch=24, group=6, seed=1, epoch=epoch)
        for epoch in range(number)
    ]
    return [batch for plan in plans for batch in reader.read(rank_draws(plan, micro_batches(24, 6, 0, 1), 1))]


def image_of(sample: int) -> np.ndarray:
    """A picture that can be no other sample's, of a size of its own."""
    return np.random.default_rng(sample).integers(0, 256, (20 + sample % 7, 30 + sample % 11, 3), dtype=np.uint8)


# ---------------------------------------------------------------------------------------------------------- same pixels
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("short_side", [None, 20])
@pytest.mark.parametrize("decoder", available())
def test_training_batches_are_those_without_a_cache(
    split: Split, tmp_path: Path, decoder: str, short_side: int | None, workers: int
) -> None:
    """Bit for bit, while it fills and after, with and without a smaller stored size, which is part of what the pixels
    are.
    """
    options = {"decoder": decoder, "view": replace(VIEW["view"], short_side=short_side)}
    plain = epochs(MicroBatches(split, **options), workers)
    cache = PixelCache(tmp_path, "train", len(split))
    assert_equal(epochs(MicroBatches(split, cache=cache, **options), workers), plain)
    assert len(cache) == len(split), "the first epoch drew every image"
    assert short_side is None or max(min(cache.get(i).shape[:2]) for i in range(len(split))) == short_side


@pytest.mark.parametrize("pixels", ["own", "package"])
def test_a_recipes_randaug_pixels_reach_the_batches(split: Split, tmp_path: Path, pixels: str) -> None:
    """From the recipe's key to the pixels that a worker hands over, with a cache that an earlier run filled with the
    other kind, and without."""
    words = ["recipe=glt_randaug", "data=digits_glt", f"augment.randaug_pixels={pixels}"]
    plan = plan_epoch([None], len(split), batch=24, group=24, seed=1, epoch=0, draws_per_epoch=0.25)
    draws = [part for part in rank_draws(plan, micro_batches(24, 24, 0, 1), 1)]
    kept = ["data.cache=decoded", f"data.cache_folder={tmp_path}"]
    other = resolve([*words[:2], "augment.randaug_pixels=own", *kept])
    list(Reader(views(other, "pillow", {"train": split})["train"], 0).read(draws))
    for recipe, workers in ((resolve(words), 0), (resolve([*words, *kept]), 1)):
        found = list(Reader(views(recipe, "pillow", {"train": split})["train"], workers).read(draws))
        for batch, asked in zip(found, draws, strict=True):
            for image, sample, draw in zip(batch.images, asked.ids.tolist(), asked.draws.tolist(), strict=True):
                wanted = train_pixels(
                    decoders.decoder("pillow").opened(split.read(sample)),
                    draw_rng(1, 0, draw),
                    size=32,
                    crop_scale=(0.6, 1.0),
                    hflip=False,
                    randaug=True,
                    randaug_pixels=pixels,
                )
                assert np.array_equal(image.permute(1, 2, 0).numpy(), wanted)


def test_test_crops_are_those_without_a_cache(split: Split, tmp_path: Path) -> None:
    """Kept as they are shown."""
    options = {"view": EvalView(24, 28)}
    cache = PixelCache(tmp_path, "test", len(split))
    assert_equal(epochs(MicroBatches(split, cache=cache, **options), 2), epochs(MicroBatches(split, **options), 2))
    assert len(cache) == len(split) and cache.get(0).shape == (24, 24, 3)


def test_later_epochs_decode_nothing(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do they read a shard."""
    cache = PixelCache(tmp_path, "train", len(split))
    first = epochs(MicroBatches(split, cache=cache, **VIEW), 0, number=1)
    monkeypatch.setattr(Split, "read", lambda self, i: pytest.fail(f"sample {i} was read again"))
    assert_equal(
        epochs(MicroBatches(split, cache=PixelCache(tmp_path, "train", len(split)), **VIEW), 0, number=1),
        first,
    )


def test_a_recipe_names_its_pixels(tiny_root: Path, tmp_path: Path) -> None:
    """Another stored size, decoder or test view is another cache; the same one is shared with later runs; without
    `cache` the node has none.
    """
    split = open_dataset(tiny_root, "digits_glt").split("glt", "train")

    def folders(*words: str, decoder: str = "pillow") -> list[str]:
        recipe = resolve(
            ["recipe=glt_ifl", "data=digits_glt", "data.cache=decoded", f"data.cache_folder={tmp_path}", *words]
        )
        return [crops.cache.folder.name for crops in views(recipe, decoder, {"train": split, "val": split}).values()]

    base = folders()
    assert folders("optim.lr=3") == base and len(set(base)) == 2
    assert folders("data.cache_short_side=20")[0] != base[0] and folders("data.cache_short_side=20")[1] == base[1]
    assert all(mine != theirs for mine, theirs in zip(folders(decoder="simplejpeg"), base, strict=True))
    assert folders("data.test_resize=40")[1] != base[1] and folders("data.test_resize=40")[0] == base[0]
    made = decoders.decoder("pillow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders, "_made", lambda name: replace(made, version="another"))
        assert all(mine != theirs for mine, theirs in zip(folders(), base, strict=True)), (
            "another version of the decoder"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "__version__", "another")
        assert all(mine != theirs for mine, theirs in zip(folders(), base, strict=True)), "another torch, which resizes"
    with pytest.MonkeyPatch.context() as patch:
        code = Path(sharding.images.transforms.__file__).read_text()
        patch.setattr(sharding.images.transforms, "__file__", str(tmp_path / "views.py"))
        (tmp_path / "views.py").write_text(f"# A comment.\n{code}")
        assert folders() == base, "a comment"
        (tmp_path / "views.py").write_text(code.replace('mode="bilinear"', 'mode="bicubic"'))
        assert all(mine != theirs for mine, theirs in zip(folders(), base, strict=True)), "other code"
    assert not any(
        isinstance(crops.cache, PixelCache)
        for crops in views(resolve(["recipe=glt_ifl", "data=digits_glt"]), "pillow", {"train": split}).values()
    )
    with pytest.raises(DataError, match=r"^data.cache_gb=1e-05 does not even hold the test crops"):
        folders("data.cache_gb=1e-5")


# --------------------------------------------------------------------------------------------------------------- shared
def test_processes_fill_one_cache(tmp_path: Path) -> None:
    """Four processes put overlapping samples; what anyone put, all see, each image whole and its own."""
    samples = 400
    PixelCache(tmp_path, "k", samples)

    def work(k: int) -> None:
        cache = PixelCache(tmp_path, "k", samples)
        for sample in range(k * 60, k * 60 + 220):
            if cache.get(sample) is None:
                cache.put(sample, image_of(sample))

    watching = PixelCache(tmp_path, "k", samples)
    for pid in children(4, work):
        assert os.waitpid(pid, 0)[1] == 0
    assert len(watching) == 400 and all(np.array_equal(watching.get(sample), image_of(sample)) for sample in range(400))
    with pytest.raises(ValueError, match="read-only"):
        watching.get(0)[0, 0, 0] = 1


def test_a_kill_leaves_only_whole_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes killed before, in and after the writing of an image's pixels, of its place and of either half of its
    entry: what is there then is right, and the next one goes on."""
    samples, real, calls = 40, os.pwrite, [0]

    def deadly(file: int, data: bytes, place: int) -> int:
        calls[0] += 1
        if calls[0] == dies_at:
            real(file, bytes(data)[: len(data) // 2], place) if half and len(data) > 8 else None  # 8 bytes come at once
            os.kill(os.getpid(), signal.SIGKILL)
        return real(file, data, place)

    def work(_: int) -> None:
        monkeypatch.setattr(os, "pwrite", deadly)
        cache = PixelCache(tmp_path, "k", samples)
        for sample in range(samples):
            if cache.get(sample) is None:
                cache.put(sample, image_of(sample))

    seen = []
    for death in [(at, half) for at in range(1, 12) for half in (False, True)]:
        dies_at, half = death  # `deadly` reads them
        assert os.waitpid(children(1, work)[0], 0)[1] == signal.SIGKILL
        cache = PixelCache(tmp_path, "k", samples)
        seen.append(len(cache))
        assert all(
            np.array_equal(found, image_of(sample))
            for sample in range(samples)
            if (found := cache.get(sample)) is not None
        )
    assert 0 < seen[-1] < samples and seen == sorted(seen)
    dies_at = 0
    assert os.waitpid(children(1, work)[0], 0)[1] == 0
    assert all(
        np.array_equal(PixelCache(tmp_path, "k", samples).get(sample), image_of(sample)) for sample in range(samples)
    )


def test_runs_in_step_keep_an_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one process writes an image another leaves it alone, and so does one that came too late: the place is not
    used twice. A claim ends with its process.
    """
    cache, real = PixelCache(tmp_path, "k", 10), decoded_images._write

    def work(die: bool) -> None:
        mine = PixelCache(tmp_path, "k", 10)
        monkeypatch.setattr(
            decoded_images,
            "_write",
            lambda file, *rest: (
                os.kill(os.getpid(), signal.SIGKILL) if die and file == mine._files["pixels"] else real(file, *rest)
            ),
        )
        mine.put(3, image_of(3))

    def meanwhile(file: int, *rest: object) -> None:
        if file == cache._files["pixels"]:
            assert os.waitpid(children(1, lambda _: work(die=False))[0], 0)[1] == 0
        real(file, *rest)

    monkeypatch.setattr(decoded_images, "_write", meanwhile)
    cache.put(3, image_of(3))
    monkeypatch.setattr(decoded_images, "_write", real)
    work(die=False)
    assert decoded_images._number(cache._files["end"]) == image_of(3).nbytes and np.array_equal(
        cache.get(3), image_of(3)
    )
    os.pwrite(cache._files["entries"], bytes(16), 3 * 16)
    assert os.waitpid(children(1, lambda _: work(die=True))[0], 0)[1] == signal.SIGKILL and cache.get(3) is None
    cache.put(3, image_of(3))
    assert (
        np.array_equal(cache.get(3), image_of(3))
        and decoded_images._number(cache._files["end"]) == 3 * image_of(3).nbytes
    )


def test_an_entry_that_is_being_written_is_not_there_yet(tmp_path: Path) -> None:
    """Its place without its size, as another processor may see it."""
    cache = PixelCache(tmp_path, "k", 10)
    os.pwrite(cache._files["entries"], (1).to_bytes(8, "little"), 3 * 16)
    assert cache.get(3) is None


# -------------------------------------------------------------------------------------------------------------- bounded
def test_it_keeps_within_its_bytes(split: Split, tmp_path: Path) -> None:
    """A third of the pixels fits: the cache holds that and no more, and the batches are still the same."""
    whole = PixelCache(cache_folder(str(tmp_path / "whole")), "k", len(split))
    plain = epochs(MicroBatches(split, cache=whole, **VIEW), 2)
    most = sum(whole.get(i).nbytes for i in range(len(split))) // 3
    small = PixelCache(tmp_path, "k", len(split), most)
    assert_equal(epochs(MicroBatches(split, cache=small, **VIEW), 2), plain)
    assert 0.2 * len(split) < len(small) < 0.5 * len(split)
    assert sum(found.nbytes for i in range(len(split)) if (found := small.get(i)) is not None) <= most
    assert (small.folder / "pixels").stat().st_blocks * 512 <= most + 4096 * 2


@pytest.mark.parametrize("part", ["allowed", "end", "pixels", "entries"])
def test_a_full_disk_ends_the_filling_and_not_the_run(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    """Whichever file meets it. One line says so; the rest is decoded each time."""
    plain, cache, written = (
        epochs(MicroBatches(split, **VIEW), 0),
        PixelCache(tmp_path, "k", len(split)),
        [0],
    )
    real = os.pwrite

    def refuses(file: int, data: bytes, place: int) -> int:
        if file == cache._files[part]:
            written[0] += 1
            if written[0] > (0 if part == "allowed" else 20):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data, place)

    monkeypatch.setattr(os, "pwrite", refuses)
    assert_equal(epochs(MicroBatches(split, cache=cache, **VIEW), 0), plain)
    assert len(cache) == {"allowed": 0, "end": 20, "pixels": 20, "entries": 10}[part]
    assert (
        capsys.readouterr().err
        == f"{cache.folder} takes no more (No space left on device): the rest is decoded each time\n"
    )


FULL = """
import sys
from pathlib import Path
import numpy as np
from sharding.cache.decoded_images import PixelCache
test, train = (PixelCache(Path(sys.argv[1]), kind, 20000, 50e6) for kind in ("test", "train"))
picture, sample = np.full((100, 100, 3), 7, np.uint8), 0
while train.takes_more:
    train.put(sample, picture)
    sample += 1
assert 60 < len(train) < sample and all((train.get(k) == 7).all() for k in range(len(train)))
assert test.get(15000) is None and len(test) == 0
late = PixelCache(Path(sys.argv[1]), "late", 20000, 50e6)
late.put(3, picture)
assert late.get(3) is None and not late.takes_more, "a start on a full disk"
print("alive")
"""


def test_a_full_file_system_ends_no_process(tmp_path: Path) -> None:
    """A real one, in memory as /dev/shm is: entries can be read though no page is left."""
    done = on_a_disk_of(4, tmp_path / "disk", FULL)
    assert (
        done.returncode == 0
        and done.stdout == "alive\n"
        and done.stderr.count("takes no more (No space left on device)") == 2
    ), done.stderr


def test_the_node_s_bytes_do_not_creep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine tenths of what is there and free, however often a run is started; of a smaller budget than before nothing
    more is kept than it holds.
    """
    usage, disk = shutil.disk_usage(tmp_path), 10 << 20
    for folder in ("pixels-k", "shards/set/glt"):
        (tmp_path / folder).mkdir(parents=True)
    for pixels, shards in ((0, 0), (4, 0), (4, 3)):
        for file, size in (("pixels-k/pixels", pixels), ("shards/set/glt/x.tar", shards)):
            (tmp_path / file).write_bytes(bytes(size << 20))
        left = usage._replace(free=disk - (pixels + shards << 20))
        monkeypatch.setattr(shutil, "disk_usage", lambda path, left=left: left)
        assert bytes_of_a_node(tmp_path, PIXELS, None, 1.0) == round(0.9 * (disk - (shards << 20))) and bytes_of_a_node(
            tmp_path, SHARDS, None, 1.0
        ) == round(0.9 * (disk - (pixels << 20)))
        assert (
            bytes_of_a_node(tmp_path, PIXELS, None, 0.5)
            == bytes_of_a_node(tmp_path, SHARDS, None, 0.5)
            == round(0.45 * disk)
        ), "each its half, however much is filled"
        assert bytes_of_a_node(tmp_path, SHARDS, 30, 0.5) == 15
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "pixels-k")
    cache = PixelCache(tmp_path, "k", 10, 1e6)
    cache.put(3, image_of(3))
    again = PixelCache(tmp_path, "k", 10, 1e5)
    assert again.get(3) is not None, "others have it open"
    del cache, again
    assert PixelCache(tmp_path, "k", 10, 2e6).get(3) is not None
    assert PixelCache(tmp_path, "k", 10, 1e5).get(3) is None


def test_a_folder_that_is_removed_ends_the_filling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever tidies up: what is kept is still read, no more comes, and the run goes on."""
    monkeypatch.setattr(decoded_images, "STEP", 1)
    cache = PixelCache(tmp_path, "k", 10)
    cache.put(3, image_of(3))
    shutil.rmtree(cache.folder)
    cache.put(4, image_of(4))
    assert np.array_equal(cache.get(3), image_of(3)) and cache.get(4) is None and not cache.takes_more


def test_all_kinds_share_the_node_s_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that are open together keep within them, what was set aside for one included; one that nobody has open makes
    room, and that of a living worker does not.
    """
    monkeypatch.setattr(decoded_images, "STEP", 4000)
    size, most = image_of(0).nbytes, 10 * image_of(0).nbytes  # 7 x 11 samples later there is one of the same size
    same = [sample for sample in range(10000) if image_of(sample).nbytes == size][:40]

    def filled(cache: PixelCache, samples: list[int]) -> PixelCache:
        for sample in samples:
            cache.put(sample, image_of(sample))
        return cache

    aside = PixelCache(tmp_path, "aside", 10000, most, set_aside=3 * size)
    first = filled(PixelCache(tmp_path, "first", 10000, most), same)
    assert len(first) == 7 and len(filled(aside, same)) == 3 and not first.takes_more
    second = PixelCache(tmp_path, "second", 10000, most)
    assert len(filled(second, same)) == 0, "both others are open"
    pid = children(1, lambda _: signal.pause())[0]  # has all three open
    del first, second
    assert len(filled(PixelCache(tmp_path, "third", 10000, most), same)) == 0
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    fourth = filled(PixelCache(tmp_path, "fourth", 10000, most), same)
    assert len(fourth) == 7 and all(np.array_equal(fourth.get(sample), image_of(sample)) for sample in same[:7])
    assert sum((path / "pixels").stat().st_blocks * 512 for path in tmp_path.glob("pixels-*/")) <= most + 3 * 4096
    assert len(PixelCache(tmp_path, "first", 10000, most)) == 0, "it made room"


# ---------------------------------------------------------------------------------------------------------- not trusted
def test_what_was_written_before_a_crash_of_the_machine_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another boot id the caches of all kinds are removed; another node's, where the folder is shared, stay."""
    PixelCache(tmp_path, "k", 10).put(3, image_of(3))
    PixelCache(tmp_path, "other", 10).put(4, image_of(4))
    with monkeypatch.context() as patch:
        patch.setattr(platform, "node", lambda: "elsewhere")
        PixelCache(tmp_path, "k", 10).put(5, image_of(5))
    assert (
        np.array_equal(PixelCache(tmp_path, "k", 10).get(3), image_of(3)) and len(list(tmp_path.glob("pixels-*/"))) == 3
    )
    real = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *args, **kwargs: "another boot" if self.name == "boot_id" else real(self, *args, **kwargs),
    )
    assert PixelCache(tmp_path, "k", 10).get(3) is None and len(list(tmp_path.glob("pixels-*/"))) == 2


def test_a_file_system_that_cannot_is_said(tmp_path: Path) -> None:
    """A limit on the size of files, for one: a sentence with the keys, and not a signal."""

    def work(_: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(DataError, match=r"cannot hold a cache of decoded images .File too large.: another folder"):
            PixelCache(tmp_path, "k", 10, 1e6)

    assert os.waitpid(children(1, work)[0], 0)[1] == 0


def test_foreign_and_impossible_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one sentence that names the key."""
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"^data.cache_folder=.*/file/x cannot be made"):
        cache_folder(str(tmp_path / "file" / "x"))
    assert cache_folder(str(tmp_path / "new")).stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(DataError, match="belongs to another user"):
        cache_folder(str(tmp_path))
