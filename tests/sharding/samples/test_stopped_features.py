"""The stage `features` is stopped, by a kill or by damaged images: it goes on, and ends with the same bits."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recipes.common.errors import DataError
from sharding.build import run
from sharding.datasets.samples import features
from sharding.datasets.samples.listed.index import opened, stamps_of_images
from sharding.datasets.samples.stages import features as stage
from sharding.format.dataset import digest_of
from tests.helpers import sources

EACH, PIECE = 13, 8
BY_NETWORK = ("features=resnet18", "weights={}")
BY_PIXELS = ("features=pixels",)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """26 images are four pieces, each of two batches, the last one of one; a network tells in what batch it was."""

    def forward(pixels: np.ndarray) -> np.ndarray:
        sums = pixels.reshape(len(pixels), -1).sum(1, dtype=np.float64)
        batch = np.full(len(sums), sums.sum())
        return np.stack([sums * 1e-6, batch * 1e-9, np.arange(len(sums)) * 1e-3], 1).astype(np.float32)

    monkeypatch.setattr(features, "network", lambda name, weights: forward)
    monkeypatch.setattr(features, "BATCH", 4)
    monkeypatch.setattr(stage, "PIECE", PIECE)


@pytest.fixture()
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are decoded."""
    rows: list[int] = []
    real = stage._Pictures.picture
    monkeypatch.setattr(stage._Pictures, "picture", lambda self, row: rows.append(row) or real(self, row))
    return rows


@pytest.fixture()
def tree(tmp_path: Path) -> Path:
    (tmp_path / "w.pth").write_bytes(b"weights")
    return sources.two_levels(tmp_path / "raw", EACH)


def build(tree: Path, out: Path, how: tuple[str, ...], *words: str) -> Path:
    """Run a build, or a stage of it, and return its work folder."""
    run(
        [
            "data=birds",
            f"source={tree}",
            f"out={out}",
            "workers=1",
            "attributes=clusters",
            "clusters=2",
            "val=1",
            "test_cbl=1",
            "test_gbl=2",
            *(word.format(tree.parent / "w.pth") for word in how),
            *words,
        ]
    )
    return out / "birds" / ".work" / "features"


def array(work: Path) -> bytes:
    return (work / "features.npy").read_bytes()


def data_set(work: Path) -> dict[str, bytes]:
    folder = work.parent.parent
    files = (path for path in folder.rglob("*") if path.is_file() and ".work" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def names(tree: Path, work: Path) -> list[Path]:
    """The images in the order of their features."""
    return [tree / str(name) for name in opened(work.parent / "index").names]


def test_a_kill_costs_a_piece(tree: Path, tmp_path: Path, asked: list[int]) -> None:
    """kill -9 in the third piece: the same command does not decode the images of the first two again, and the array and
    the data set are those of a build in one go, bit for bit.
    """
    child = os.fork()
    if child == 0:  # pragma: no cover
        real: Callable[..., None] = features.save

        def save(path: Path, *rest: object) -> None:
            if len(list(path.parent.glob("*.npy"))) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            real(path, *rest)

        features.save = save  # type: ignore[assignment]
        try:
            build(tree, tmp_path / "out", BY_NETWORK)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    work = build(tree, tmp_path / "out", BY_NETWORK)
    assert asked == list(range(2 * PIECE, 2 * EACH))
    whole = build(tree, tmp_path / "whole", BY_NETWORK)
    assert array(work) == array(whole) and data_set(work) == data_set(whole)
    assert not (work / "pieces").exists()


@pytest.mark.parametrize("how", [BY_NETWORK, BY_PIXELS])
def test_any_number_of_parts_gives_the_same_bits(tree: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    """A network gets the same batches. A part takes over what another number of parts had made."""
    build(tree, tmp_path / "out", how, "stage=index")
    for part in ("2/3", "1/2", "2/2"):
        work = build(tree, tmp_path / "out", how, "stage=features", f"part={part}")
    build(tree, tmp_path / "out", how, "stage=clusters")
    assert array(work) == array(build(tree, tmp_path / "whole", how))


@pytest.mark.parametrize("how", [BY_NETWORK, BY_PIXELS])
def test_damaged_images_are_told_at_once(
    tree: Path, tmp_path: Path, how: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them by one start, those that no principal component is found from among them; once they are repaired, the
    build ends as one of a source that never was damaged.
    """
    monkeypatch.setattr(features, "SAMPLE", 10)
    work = build(tree, tmp_path / "out", how, "stage=index")
    bad = [names(tree, work)[row] for row in (2, 3, 4, 25)]
    whole = {path: path.read_bytes() for path in bad}
    for path in bad:
        path.write_bytes(whole[path][:-200])
    with pytest.raises(DataError) as refused:
        build(tree, tmp_path / "out", how)
    said = str(refused.value)
    assert said.startswith("4 images cannot be taken: ") and all(f"{path}" in said for path in bad)
    for path in bad:
        path.write_bytes(whole[path])
    work = build(tree, tmp_path / "out", how)
    fresh = build(tree, tmp_path / "fresh", how)
    assert array(work) == array(fresh) and data_set(work) == data_set(fresh)


def test_damage_costs_no_other_piece(tree: Path, tmp_path: Path, asked: list[int]) -> None:
    """A damaged image that is replaced costs the features of its own piece; one that is taken out, those of the images
    behind it as well. The result is that of a fresh build.
    """
    work = build(tree, tmp_path / "out", BY_NETWORK, "stage=index")
    bad = [names(tree, work)[row] for row in (10, 20)]
    for path in bad:
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="2 images cannot be taken"):
        build(tree, tmp_path / "out", BY_NETWORK)
    assert len(list((work / "pieces").iterdir())) == 2
    bad[0].write_bytes(sources.of_level(500, 1))
    bad[1].unlink()
    asked.clear()
    build(tree, tmp_path / "out", BY_NETWORK)
    assert asked == list(range(PIECE, 2 * EACH - 1))
    assert array(work) == array(build(tree, tmp_path / "fresh", BY_NETWORK))


def test_a_build_of_an_earlier_version_goes_on(
    tree: Path, tmp_path: Path, asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its whole array is taken over by what it says that it was made from; its parts are made again, which is said."""
    work = build(tree, tmp_path / "out", BY_PIXELS, "stage=index")
    found = opened(work.parent / "index")
    stamps = hashlib.sha256(json.dumps(stamps_of_images(found).tolist()).encode()).hexdigest()
    made = digest_of([found.digest, stamps, ["pixels", 0]])
    work.mkdir()
    for name in ("part-1-of-2", "part-2-of-2"):
        np.save(work / f"{name}.npy", np.zeros((EACH, 3), np.float32))
        (work / f"{name}.made").write_text(made)
    build(tree, tmp_path / "out", BY_PIXELS)
    assert "features: the parts that an earlier version made are made again" in capsys.readouterr().out
    assert (work / "features.made").read_text() == made and not list(work.glob("part-*"))
    asked.clear()
    (work / "finished").unlink()
    build(tree, tmp_path / "out", BY_PIXELS, "long_tail=2")
    assert not asked
