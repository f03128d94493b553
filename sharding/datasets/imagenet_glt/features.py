"""Features of ILSVRC's images by a pretrained ResNet-50: float16 [n, 2048] for each class, in a file.

They are the output of the network's last average pooling, for Resize(260) + CenterCrop(256) pixels in 0..1. Mean and
standard deviation are not subtracted: the paper's attributes were found so. A batch holds a single class, so that a
class's features do not depend on the other classes of the process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import file_digest, whole_file
from sharding.building.notices import ENOUGH, Damaged, add_damaged
from sharding.building.process_pool import in_order
from sharding.building.raw_files import Place
from sharding.building.source_stamps import Origin, any_changed, refreshed
from sharding.datasets.imagenet_glt.archive import ClassImages, list_classes
from sharding.format.index import kept_arrays
from sharding.images.backbones import PAPER, network
from sharding.images.decoders import picture_of
from sharding.images.encoding import opened
from sharding.images.transforms import eval_pixels
from sharding.progress import ProgressBar

WIDTH = 2048
BATCH = 64
THERE, MISSING, CHANGED, UNRECORDED = "there", "missing", "changed", "unrecorded"
_SAID = {
    THERE: "features of {} of {} classes are there already",
    CHANGED: "features of {} of {} classes are made again because their source changed",
    UNRECORDED: "features of {} of {} classes are made again because an earlier version did not record what they were "
    "made from",
}


def extract(classes: Sequence[ClassImages], folder: Path, weights: Path, workers: int) -> None:
    """Write `folder/CLASS.npz` for each class, unless it was already made from the same images and weights.

    Args:
        classes: the classes to work on.
        folder: for the features; it is made.
        weights: state dict of torchvision's ResNet-50.
        workers: number of processes that decode.

    Raises:
        Damaged: images cannot be decoded; the features of all classes without one of them are there.
        DataError: an image cannot be read, or the weights do not fit; the sentence names the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = file_digest(weights)
    found_states = states(classes, folder, digest, workers)
    for state, sentence in _SAID.items():
        if state in found_states:
            print(sentence.format(found_states.count(state), len(classes)))
    todo = [images for images, state in zip(classes, found_states, strict=True) if state != THERE]
    if not todo:
        return
    forward = _network(weights)
    jobs = (
        tuple(images.place(i) for i in range(start, min(start + BATCH, len(images))))
        for images in todo
        for start in range(0, len(images), BATCH)
    )  # a generator: made as they are needed
    decoded = in_order(_pixels, None, jobs, workers)
    damaged: dict[str, str] = {}
    with ProgressBar(sum(map(len, todo)), "features", "img", smoothing=0.05) as bar:
        for images in todo:
            features = np.empty((len(images), WIDTH), np.float16)
            origins: list[Origin] = []
            for start in range(0, len(images), BATCH):
                batch, of_batch, bad = next(decoded)
                add_damaged(damaged, bad)
                if not bad:
                    features[start : start + len(batch)] = forward(batch)
                origins += of_batch
                bar.update(len(batch))
            if len(origins) == len(images):
                save(folder, images, features, digest, origins)
            elif len(damaged) >= ENOUGH:
                break
    if damaged:
        raise Damaged(damaged)


def save(folder: Path, images: ClassImages, features: np.ndarray, weights: str, origins: Sequence[Origin]) -> None:
    """Write the features of a class, [n, D], and what they were made from; `weights`: hex sha256."""
    with whole_file(folder / f"{images.name}.npz") as file:
        np.savez(
            file,
            features=features,
            names=np.array(images.names),
            weights=weights,
            stamps=np.array([origin.stamp for origin in origins], np.int64),
            digests=np.array([list(bytes.fromhex(origin.sha256)) for origin in origins], np.uint8),
        )


def read(folder: Path, images: ClassImages, weights: str) -> np.ndarray | None:
    """Read the features of a class, float16 [n, 2048].

    `weights`: hex sha256. The result is None if the features were not made from these images, unchanged, and these
    weights.
    """
    there = _state((folder, weights), images) == THERE
    return _kept(folder, images.name, "features").get("features") if there else None


def states(classes: Sequence[ClassImages], folder: Path, weights: str, workers: int) -> list[str]:
    """Return THERE for each class with usable features, else why they are not usable.

    Images whose files have another size or time than recorded are read again.
    """
    return list(in_order(_state, (folder, weights), classes, 1 if len(classes) < 100 else workers))


def _state(state: tuple[Path, str], images: ClassImages) -> str:
    folder, weights = state
    kept = _kept(folder, images.name, "weights", "names")
    if not kept or str(kept["weights"]) != weights or tuple(kept["names"].tolist()) != images.names:
        return MISSING
    known = _origins(folder, images)
    if known is None:
        return UNRECORDED
    now = refreshed([images.place(i) for i in range(len(images))], known)
    if now is not None and [origin.stamp for origin in now] != [origin.stamp for origin in known]:
        save(folder, images, _kept(folder, images.name, "features")["features"], weights, now)
    return CHANGED if now is None else THERE


def _kept(folder: Path, name: str, *arrays: str) -> dict[str, Any]:
    """Read some arrays of a class's features; empty unless all of them are there."""
    return kept_arrays(folder / f"{name}.npz", *arrays)


def _origins(folder: Path, images: ClassImages) -> list[Origin] | None:
    """Return what a class's features were made from; None if that is not recorded."""
    kept = _kept(folder, images.name, "stamps", "digests")
    if not kept or len(kept["stamps"]) != len(images):
        return None
    return [
        Origin(images.place(i).file, size, mtime_ns, digest.tobytes().hex())
        for i, ((size, mtime_ns), digest) in enumerate(zip(kept["stamps"].tolist(), kept["digests"], strict=True))
    ]


def made_from(folder: Path, name: str) -> str | None:
    """Return a digest of the images that a class's features were made from; None if that is not recorded."""
    kept = _kept(folder, name, "names", "digests")
    if not kept:
        return None
    return hashlib.sha256("/".join(kept["names"].tolist()).encode() + kept["digests"].tobytes()).hexdigest()


def source_changed(source: Path, work: Path, workers: int) -> bool:
    """Return whether images, sizes or times of a class changed since its features were made, and print it.

    A missing source and missing features are skipped: a finished data set needs neither.
    """
    folder = work / "features"
    there = {path.stem for path in folder.glob("*.npz")}
    if not there or not source.exists():
        return False
    try:
        classes = list_classes(source, work, workers)
    except DataError:  # for example an empty mount point
        return False
    changed = not there.issuperset(classes) or any(_differs(source, folder, images) for images in classes.values())
    if changed:
        print("its source has other images, sizes or times than recorded: what was made from other bytes is made again")
    return changed


def _differs(source: Path, folder: Path, images: ClassImages) -> bool:
    kept = _kept(folder, images.name, "names")
    renamed = bool(kept) and tuple(kept["names"].tolist()) != images.names
    return renamed or any_changed(source, _origins(folder, images) or [])


def _pixels(_: None, places: tuple[Place, ...]) -> tuple[np.ndarray, list[Origin], dict[str, str]]:
    """Decode a batch: uint8 [B, 256, 256, 3], what each image comes from, and the damaged ones, which are in neither.

    Runs in a worker.
    """
    images, origins = [np.empty((0, 256, 256, 3), np.uint8)], []
    damaged = {}
    for place in places:
        try:
            data, origin = place.traced()
            images.append(eval_pixels(picture_of(opened(data)), size=256, resize=260)[None])
            origins.append(origin)
        except DataError:
            raise  # the error names the file
        except ValueError as error:
            damaged[str(place)] = str(error)
    return np.concatenate(images), origins, damaged


def _network(weights: Path) -> Callable[[np.ndarray], np.ndarray]:
    return network(PAPER, weights)
