"""The loader's bench measures what it says: its images are the same every time, and its rows do the same work."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from sharding.format.dataset import Split
from sharding.format.index import load_index
from tests.bench.loader.data import make
from tests.bench.loader.measure import cores_s
from tests.bench.loader.pipelines import epoch, imagefolder, ours, webdataset

IMAGES = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    make(folder, IMAGES, shard=4)
    return folder


def digests(root: Path) -> dict[str, str]:
    files = [path for path in root.glob("*/**/*") if path.suffix in (".jpg", ".tar", ".npz")]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_images_are_the_same_every_time(root: Path, tmp_path: Path) -> None:
    """Made twice, both sets have the same bytes: image files, shards and indices."""
    make(tmp_path, IMAGES, shard=4)
    assert digests(tmp_path) == digests(root)
    assert len({digest for path, digest in digests(root).items() if path.endswith(".jpg")}) == 2 * IMAGES


def test_the_shards_hold_the_files_of_the_tree(root: Path) -> None:
    """What our loader and webdataset read from shards is what ImageFolder reads from files."""
    for kind in ("full", "short256"):
        split = Split(root / kind / "glt" / "train", load_index(root / kind / "glt" / "train"))
        assert sorted(split.read(i) for i in range(len(split))) == sorted(
            path.read_bytes() for path in (root / kind / "tree").glob("*/*.jpg")
        )


def test_ours_and_the_peers_give_batches_of_one_kind(root: Path) -> None:
    """The suite's loader, webdataset with Pillow and ImageFolder give an epoch of the same images as batches of the
    same shape and type.
    """
    kinds = set()
    for batches in (
        ours(root / "full", 32, batch=4, workers=1),
        ours(root / "full", 32, cache="40", batch=4, workers=1),
        webdataset(root / "full", 32, batch=4, workers=1),
        imagefolder(root / "full", 32, batch=4, workers=1),
    ):
        for _ in range(2):
            count, images = epoch(batches)
            kinds.add((count, tuple(images.shape), str(images.dtype)))
    assert kinds == {(IMAGES, (4, 3, 32, 32), "torch.uint8")}


def test_the_work_of_children_counts() -> None:
    """A process's seconds of cores hold those of a child that still runs."""
    before = cores_s()
    work = "import time\nwhile time.process_time() < .3: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        assert cores_s() - before >= 0.28  # the clock ticks in hundredths
    finally:
        child.communicate(b"\n")
