"""The stage `features`: `.work/features/features.npy` [N, D], in the order of the index.

It is joined from pieces of `PIECE` images when the stage `clusters` begins. Any process or machine makes them, and a
later start takes over those that are there. A piece is named by a digest of what it depends on: the names of its
images, the sizes and times of their files, and the network. Principal components of pixels are those of all images, so
there it depends on all of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from recipes.common.errors import DataError
from recipes.common.files import file_digest, write_whole
from sharding.building.notices import ENOUGH, Damaged, add_damaged
from sharding.building.request import Request
from sharding.datasets.samples import features
from sharding.datasets.samples.listed.arrays import Listed
from sharding.datasets.samples.listed.index import FOLDER, opened, stamps_of_images
from sharding.format.dataset import digest_of
from sharding.images import backbones
from sharding.images.any_image import first_frame, flat
from sharding.images.encoding import opened as decoded
from sharding.progress import ProgressBar

PIXELS = "pixels"
PIECE = 16 * features.BATCH
"""Images of a piece: whole batches, so that a network gets the same ones however often it is stopped."""
_JPEG = b"\xff\xd8"
_MINE = "features"
_OLDER = "part-*-of-*"
"""Parts that an earlier version made."""


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
            raise Damaged({str(place): str(error)}) from None


@dataclass(frozen=True)
class _Wanted:
    """The features of all images of a build.

    Attributes:
        path: of their array.
        made: digest of all that they are made from.
        pieces: the files of their pieces.
        count: N.
    """

    path: Path
    made: str
    pieces: Sequence[Path]
    count: int

    @property
    def is_whole(self) -> bool:
        """Whether the array is there."""
        return self.path.is_file() and _said(_made_file(self.path)) == self.made

    def rows(self, piece: int) -> np.ndarray:
        """Return the rows of a piece, int64 [M]."""
        return np.arange(piece * PIECE, min(self.count, (piece + 1) * PIECE))


def extract(request: Request, found: Listed, work: Path) -> None:
    """Make the features, or those of every N-th piece where a part is asked for.

    Raises:
        Damaged: images cannot be decoded; the pieces without one of them are there.
        DataError: an array of the user's or the weights are not as they must be.
    """
    if request.samples.features.endswith(".npy"):
        features.from_file(Path(request.samples.features), len(found))
        return
    wanted = _wanted(request, found, work)
    if wanted.is_whole:
        return
    mine = range(request.part[0] - 1, len(wanted.pieces), request.part[1])
    todo = [piece for piece in mine if not wanted.pieces[piece].exists()]
    if len(todo) < len(mine):
        print(f"features: {len(mine) - len(todo):,} of {len(mine):,} pieces of {PIECE:,} images were there already")
    if any(wanted.path.parent.glob(_OLDER)):
        print("features: the parts that an earlier version made are made again")
    if todo:
        _make(request, wanted, todo, work)


def _make(request: Request, wanted: _Wanted, todo: Sequence[int], work: Path) -> None:
    wanted.pieces[0].parent.mkdir(parents=True, exist_ok=True)
    rows = np.concatenate([wanted.rows(piece) for piece in todo])
    batches = _batches(request, _Pictures(work / FOLDER, wanted.count), rows)
    damaged: dict[str, str] = {}
    with ProgressBar(len(rows), "features", "img", smoothing=0.05) as bar:
        for piece in todo:
            arrays, before = [], len(damaged)
            for numbers, bad in islice(batches, -(-len(wanted.rows(piece)) // features.BATCH)):
                arrays.append(numbers)
                add_damaged(damaged, bad)
                bar.update(len(numbers))
            if len(damaged) == before:
                features.save(wanted.pieces[piece], arrays, len(wanted.rows(piece)))
            elif len(damaged) >= ENOUGH:
                break
    if damaged:
        raise Damaged(damaged)


def _batches(request: Request, pictures: _Pictures, rows: np.ndarray) -> Iterator[features.Batch]:
    name, workers = request.samples.features, request.processes_for(len(rows))
    if name == PIXELS:
        axes = features.pixel_axes(pictures, request.seed, workers)
        return features.of_pixels(pictures, axes, rows, workers)
    return features.of_backbone(pictures, name, backbones.weights_file(request.weights, name), rows, workers)


def file_of_all(request: Request, found: Listed, work: Path) -> Path:
    """Return the file of all features; join the pieces where it is not there.

    Raises:
        DataError: features are missing.
    """
    if request.samples.features.endswith(".npy"):
        return Path(request.samples.features)
    wanted = _wanted(request, found, work)
    if not wanted.is_whole:
        if not all(piece.exists() for piece in wanted.pieces):
            raise DataError(
                f"{wanted.path} is missing or was made from other images: stage=features comes before "
                f"stage={request.stage or 'split'}"
            )
        _made_file(wanted.path).unlink(missing_ok=True)
        features.save(wanted.path, (np.load(piece, mmap_mode="r") for piece in wanted.pieces), wanted.count)
        write_whole(_made_file(wanted.path), wanted.made)
    if request.part == (1, 1):  # else another part of the stage may read the pieces
        shutil.rmtree(wanted.pieces[0].parent, ignore_errors=True)
        for older in wanted.path.parent.glob(f"{_OLDER}.*"):
            older.unlink()
    return wanted.path


# --------------------------------------------------------------------------------------------------- what it depends on
def network_weights(request: Request) -> dict[str, str] | None:
    """Return the digest of the weights of a network that gives the features; None where none does."""
    words = request.samples
    if not _are_made(request) or words.features == PIXELS:
        return None
    return {"sha256": file_digest(backbones.weights_file(request.weights, words.features))}


def keep_finished(request: Request, work: Path) -> None:
    """Record which images the features of a finished data set were made from, those in no split among them."""
    if _are_made(request):
        write_whole(work / _MINE / "finished", _said(_made_file(work / _MINE / "features.npy")))


def source_changed(request: Request, found: Listed, work: Path) -> bool:
    """Return whether images may have changed since the finished data set's clusters were made, and print it.

    Only names, sizes and times of files are compared. Missing images and a missing record are skipped: a finished data
    set needs neither.
    """
    known = _said(work / _MINE / "finished") if _are_made(request) else ""
    if not known:
        return False
    stamps = stamps_of_images(found)
    changed = bool(stamps[:, 0].all()) and _made_from(request, found, stamps) != known
    if changed:
        print(
            "images that clusters were made from, in a split or not, have other sizes or times: features are made again"
        )
    return changed


def _are_made(request: Request) -> bool:
    """Say whether the build makes features."""
    return request.samples.attributes == "clusters" and not request.samples.features.endswith(".npy")


def _wanted(request: Request, found: Listed, work: Path) -> _Wanted:
    stamps = stamps_of_images(found)
    made, folder = _made_from(request, found, stamps), work / _MINE
    name = request.samples.features
    of_all = made if name == PIXELS else network_weights(request)
    pieces = []
    for first in range(0, len(found), PIECE):
        some = slice(first, first + PIECE)
        names = [str(found.names[row]) for row in range(*some.indices(len(found)))]
        pieces.append(folder / "pieces" / f"{digest_of([name, of_all, names, stamps[some].tolist()])}.npy")
    return _Wanted(folder / "features.npy", made, pieces, len(found))


def _made_from(request: Request, found: Listed, stamps: np.ndarray) -> str:
    """Return a digest of what the features depend on: the images with sizes and times of their files, and the network.

    The sizes and times, int64 [N, 2], are those of today; of files that are gone, none.
    """
    digest = hashlib.sha256()
    for first in range(0, len(stamps), 10_000):
        some = [stamp if any(stamp) else None for stamp in stamps[first : first + 10_000].tolist()]
        digest.update(json.dumps(some).encode())
    network = [request.samples.features, network_weights(request) or request.seed]
    return digest_of([found.digest, digest.hexdigest(), network])


def _made_file(path: Path) -> Path:
    return path.with_suffix(".made")


def _said(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
