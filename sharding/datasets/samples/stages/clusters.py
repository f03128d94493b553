"""The stages `features` and `clusters`: `.work/features/features.npy` [N, D], and the clusters of each class by it.

Parts of the stage `features` are put together when the stage `clusters` begins. Features are made again where an image
file has another size or time; their digest says whether anything follows from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from recipes.common.errors import DataError
from recipes.common.files import file_digest, write_whole
from sharding.building.request import Request
from sharding.datasets.samples import clusters, features
from sharding.datasets.samples.listed.arrays import Listed
from sharding.datasets.samples.listed.index import FOLDER, opened, refuse_other_names, stamps_in_order
from sharding.format.dataset import digest_of
from sharding.images import backbones
from sharding.images.any_image import first_frame, flat
from sharding.images.encoding import opened as decoded
from sharding.progress import ProgressBar

PIXELS = "pixels"
_JPEG = b"\xff\xd8"
_MINE = "features"


@dataclass(frozen=True)
class _Pictures:
    """The images of an index, which each process maps into its memory."""

    index: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def picture(self, row: int) -> Image.Image:
        place = opened(self.index).place(row)
        data = place.read()
        try:
            return decoded(data) if data.startswith(_JPEG) else flat(first_frame(data))[0]
        except DataError:
            raise  # it names the file
        except ValueError as error:
            raise DataError(f"{place}: {error}") from None


def clusters_of(request: Request, found: Listed, work: Path) -> np.ndarray | None:
    """Run the two stages as far as they are asked for, and return the rank of each image's cluster, int8 [N].

    Returns:
        None where only these stages, or parts of them, are asked for.

    Raises:
        DataError: an image cannot be decoded, a class has too few images, or an earlier stage has not run.
    """
    words = request.samples
    clusters.refuse_small(found.label, found.classes, words.clusters)
    if words.features.endswith(".npy"):
        refuse_other_names(found, work, Path(words.features))
    if request.does("features"):
        _extract(request, found, work)
    if request.stage in ("index", "features"):
        return None
    path = _features_file(request, found, work)
    how = clusters.Clustering(path, file_digest(path), work / "clusters", request.seed, words.clusters)
    if request.does("clusters"):
        mine = range(request.part[0] - 1, len(found.classes), request.part[1])
        clusters.cluster_all(how, found.label, mine, request.processes_for(len(found) // request.part[1]))
    return None if request.stage == "clusters" else clusters.read_all(how, found.label, found.classes)


# ------------------------------------------------------------------------------------------------------------- features
def _extract(request: Request, found: Listed, work: Path) -> None:
    """Write the features, or one part of them."""
    words = request.samples
    if words.features.endswith(".npy"):
        features.from_file(Path(words.features), len(found))
        return
    made = _made_from(request, found)
    path, parts = work / _MINE / "features.npy", request.part[1]
    (work / _MINE).mkdir(parents=True, exist_ok=True)
    if _is_made(path, made):
        return
    if parts > 1:
        path = _part_file(work, request.part[0], parts)
        if _is_made(path, made):
            return
    rows = np.array_split(np.arange(len(found)), parts)[request.part[0] - 1]
    if not len(rows):  # more parts than images
        return
    pictures = _Pictures(work / FOLDER, len(found))
    workers = request.processes_for(len(rows))
    if words.features == PIXELS:
        batches = features.of_pixels(pictures, features.pixel_axes(pictures, request.seed, workers), rows, workers)
    else:
        weights = backbones.weights_file(request.weights, words.features)
        batches = features.of_backbone(pictures, words.features, weights, rows, workers)
    _made_file(path).unlink(missing_ok=True)
    with ProgressBar(len(rows), "features", "img", smoothing=0.05) as bar:
        features.save(path, _counted(batches, bar), len(rows))
    write_whole(_made_file(path), made)


def _counted(batches: Iterator[np.ndarray], bar: ProgressBar) -> Iterator[np.ndarray]:
    for batch in batches:
        yield batch
        bar.update(len(batch))


def _features_file(request: Request, found: Listed, work: Path) -> Path:
    """Return the file of all features; put it together from the parts where it is not there.

    Raises:
        DataError: features are missing.
    """
    if request.samples.features.endswith(".npy"):
        return Path(request.samples.features)
    path, made = work / _MINE / "features.npy", _made_from(request, found)
    if not _is_made(path, made) and not _put_together(path, made, found, work):
        raise DataError(
            f"{path} is missing or was made from other images: stage=features comes before "
            f"stage={request.stage or 'split'}"
        )
    if request.part == (1, 1):  # else another part of the stage may read them
        for part in (work / _MINE).glob("part-*-of-*.*"):
            part.unlink()
    return path


def _put_together(path: Path, made: str, found: Listed, work: Path) -> bool:
    """Write the file of all features from the parts; return whether they were there."""
    for first in sorted((work / _MINE).glob("part-1-of-*.npy")):
        parts = int(first.stem.rpartition("-")[2])
        files = [_part_file(work, number, parts) for number in range(1, min(parts, len(found)) + 1)]
        if all(_is_made(file, made) for file in files):
            features.save(path, (np.load(file, mmap_mode="r") for file in files), len(found))
            write_whole(_made_file(path), made)
            return True
    return False


def network_weights(request: Request) -> dict[str, str] | None:
    """Return the digest of the weights of a network that gives the features; None where none does."""
    words = request.samples
    if words.attributes != "clusters" or words.features == PIXELS or words.features.endswith(".npy"):
        return None
    return {"sha256": file_digest(backbones.weights_file(request.weights, words.features))}


def _part_file(work: Path, number: int, parts: int) -> Path:
    return work / _MINE / f"part-{number}-of-{parts}.npy"


def _made_file(path: Path) -> Path:
    return path.with_suffix(".made")


def _is_made(path: Path, made: str) -> bool:
    try:
        return path.is_file() and _made_file(path).read_text() == made
    except OSError:
        return False


def _made_from(request: Request, found: Listed) -> str:
    """Return a digest of what the features depend on: the images with sizes and times of their files, and the network.

    The sizes and times are those of today; of files that are gone, none.
    """
    words = request.samples
    stamps = hashlib.sha256()
    for some in stamps_in_order(found):
        stamps.update(json.dumps(some).encode())
    network = [words.features, network_weights(request) or request.seed]
    return digest_of([found.digest, stamps.hexdigest(), network])
