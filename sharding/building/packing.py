"""Packs a planned data set into shards: by any number of processes and machines, resumable, the same bytes always.

A shard is a pure function of its slice of the plan, of the build's options and of the raw images. It is written under
another name, made durable and renamed, and a record of what it was made from and of its digest is laid down in
NAME/.work/shards. A later start reads every recorded shard through, keeps those that are whole and of the same plan,
and
writes the others: so does the last stage, which finds all there after parts have worked side by side. The index comes
from the tars themselves, and index.npz and dataset.json are written when everything is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import disk_refusal, file_digest, replacing, sync_folder, whole_file
from sharding.building.process_pool import in_order
from sharding.format.dataset import DATASET_FILE, digest_of
from sharding.format.index import INDEX_FILE, Index, save_index
from sharding.format.shards import Sample, index_of_shard, joined, shard_name, write_shard
from sharding.images.decoders import decode
from sharding.images.encoding import StoredSize
from sharding.progress import ProgressBar

WORK = ".work"
"""Folder beside the splits that holds what a build's stages hand on."""
SHARD_SAMPLES = 1000
STATISTICS_IMAGES = 10_000


@dataclass(frozen=True)
class Planned:
    """One image of the plan: the fields of its `Sample`, and `where` its raw image is.

    `where` is picklable and its `str` names the image in messages. It is not part of the plan's identity: a source may
    be moved.
    """

    key: str
    source: str
    where: Any
    label: int
    group: int
    attribute: int = -1
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[Any, ...]:
        """What the image's bytes in the shard depend on, besides the build's options."""
        return self.key, self.source, self.label, self.group, self.attribute, dict(self.extra)


Render = Callable[[Planned], tuple[bytes, Mapping[str, Any]]]
"""A picklable function from a planned image to its JPEG bytes and more entries for its KEY.json. It raises ValueError
or OSError with a sentence about what is wrong with the image.
"""


@dataclass(frozen=True)
class Copies:
    """A `Render` that keeps the source's bytes, or makes of them what the stored size says."""

    stored: StoredSize

    def __call__(self, planned: Planned) -> tuple[bytes, Mapping[str, Any]]:
        """Return the JPEG bytes, and what was done to the source's.

        Raises:
            ValueError: the image is bad.
            DataError: it cannot be read.
        """
        return self.stored(planned.where.read())


@dataclass(frozen=True)
class _Shard:
    folder: Path  # of the split
    record: Path
    plan: str  # digest of what the shard is made from
    number: int
    first: int
    images: tuple[Planned, ...]

    @property
    def path(self) -> Path:
        return self.folder / shard_name(self.number)


def pack(
    folder: Path,
    plan: Mapping[str, Sequence[Planned]],
    render: Render,
    *,
    options: Mapping[str, Any],
    workers: int,
    shard_samples: int = SHARD_SAMPLES,
    part: tuple[int, int] = (1, 1),
) -> dict[str, Index]:
    """Write the shards of a data set's splits and return their indices; `finish` writes the index files.

    Args:
        folder: the data set's folder.
        plan: relative folder of each split -> its images in order.
        render: makes an image's bytes; runs in the workers.
        options: everything besides the plan that the bytes depend on.
        workers: number of processes.
        shard_samples: number of images in a shard.
        part: (I, N), write only every N-th shard, from the I-th on; the indices then hold these alone.

    Returns:
        Relative folder -> index of its shards.

    Raises:
        DataError: an image, which the sentence names, cannot be rendered, or a shard cannot be written; the shards
            finished by then are kept.
    """
    folder = Path(folder)
    _check_keys(plan)
    (folder / DATASET_FILE).unlink(missing_ok=True)  # an old one would vouch for a mixture of old and new shards
    for relative in plan:
        (folder / relative).mkdir(parents=True, exist_ok=True)
        (folder / relative / INDEX_FILE).unlink(missing_ok=True)
        (folder / WORK / "shards" / relative).mkdir(parents=True, exist_ok=True)
    mine = [
        shard
        for number, shard in enumerate(_shards(folder, plan, options, shard_samples))
        if number % part[1] == part[0] - 1
    ]
    found: dict[str, list[Index]] = {relative: [] for relative in plan}
    kept = 0
    text = "packing" + (f", part {part[0]} of {part[1]}" if part != (1, 1) else "")
    with ProgressBar(sum(len(shard.images) for shard in mine), text, "img", smoothing=0.05) as bar:
        for shard, (index, was_there) in zip(mine, in_order(_made, render, mine, workers), strict=True):
            found[shard.folder.relative_to(folder).as_posix()].append(index)
            kept += was_there
            bar.update(len(shard.images))
    if kept:
        print(f"{kept} of {len(mine)} shards were there already, checked and kept")
    return {relative: joined(indices) for relative, indices in found.items() if indices}


def finish(folder: Path, indices: Mapping[str, Index]) -> None:
    """Write each split's index.npz and remove what does not belong there: shards of an older plan, partial files."""
    for relative, index in indices.items():
        keep = set(index.shard_name.tolist())
        for path in (folder / relative).iterdir():
            if path.name not in keep:
                path.unlink()
        save_index(folder / relative, index)
        sync_folder(folder / relative)


def planned_counts(plan: Mapping[str, Sequence[Planned]], classes: int) -> dict[str, list[list[int]]]:
    """Count a plan's images by class and attribute group: relative folder -> [K][3].

    dataset.json keeps the counts under `notes`: by them sharding.verify sees that the splits hold what was meant,
    whatever their index says.
    """
    counts = {relative: np.zeros((classes, 4), np.int64) for relative in plan}  # the last column: no attribute
    for relative, images in plan.items():
        np.add.at(
            counts[relative], ([planned.label for planned in images], [planned.attribute for planned in images]), 1
        )
    return {relative: table[:, :3].tolist() for relative, table in counts.items()}


def channel_statistics(plan: Sequence[Planned], render: Render, workers: int) -> dict[str, list[float]]:
    """Compute the `mean` and `std` of the stored images' RGB channels in 0..1, [3] each, by exact integer sums.

    All images are read, or STATISTICS_IMAGES at equal steps where there are more.

    Raises:
        DataError: an image, which the sentence names, cannot be rendered.
    """
    count = min(len(plan), STATISTICS_IMAGES)
    chosen = [plan[i * len(plan) // count] for i in range(count)]
    sums = [0] * 7
    with ProgressBar(count, "channel statistics", "img") as bar:
        for found in in_order(_sums, render, (chosen[start : start + 100] for start in range(0, count, 100)), workers):
            sums = [a + b for a, b in zip(sums, found, strict=True)]
            bar.update(min(100, count - bar.n))
    total, squares, pixels = np.array(sums[:3], dtype=object), np.array(sums[3:6], dtype=object), sums[6]
    mean = [float(t / (255 * pixels)) for t in total]
    std = [float(v / (255 * 255 * pixels * pixels)) ** 0.5 for v in squares * pixels - total * total]
    return {"mean": [round(m, 4) for m in mean], "std": [round(s, 4) for s in std]}


def _sums(render: Render, images: Sequence[Planned]) -> list[int]:
    total, squares, pixels = np.zeros(3, np.int64), np.zeros(3, np.int64), 0
    for planned in images:
        image = np.asarray(decode(_rendered(render, planned)[0])).reshape(-1, 3).astype(np.int64)
        total, squares, pixels = total + image.sum(0), squares + (image * image).sum(0), pixels + len(image)
    return [*map(int, total), *map(int, squares), pixels]


def _check_keys(plan: Mapping[str, Sequence[Planned]]) -> None:
    for relative, images in plan.items():
        if not images:
            raise DataError(f"split {relative!r} has no samples; at least one is needed")
        seen: set[str] = set()
        for planned in images:
            if planned.key in seen:
                raise DataError(f"key {planned.key!r} occurs twice in split {relative}; keys are unique in a split")
            seen.add(planned.key)


def _shards(
    folder: Path, plan: Mapping[str, Sequence[Planned]], options: Mapping[str, Any], shard_samples: int
) -> Iterator[_Shard]:
    for relative, images in plan.items():
        for number, first in enumerate(range(0, len(images), shard_samples)):
            some = tuple(images[first : first + shard_samples])
            digest = digest_of([dict(options), relative, first, [planned.identity for planned in some]])
            yield _Shard(
                folder / relative,
                folder / WORK / "shards" / relative / f"{shard_name(number)}.json",
                digest,
                number,
                first,
                some,
            )


def _made(render: Render, shard: _Shard) -> tuple[Index, bool]:
    """Return the shard's index, and whether it was there already. Runs in a worker."""
    try:
        if _is_there(shard):
            return index_of_shard(shard.path), True
        with replacing(shard.path) as temporary:
            write_shard(temporary, (_sample(render, planned) for planned in shard.images), shard.first)
            digest = file_digest(temporary)  # read back from the file
        sync_folder(shard.folder)
        with whole_file(shard.record) as file:
            file.write(json.dumps({"plan": shard.plan, "sha256": digest}).encode())
        index = index_of_shard(shard.path)
    except OSError as error:  # of the disk that is written to; those of raw images are DataErrors by now
        raise DataError(f"shard {shard.path} cannot be written: {disk_refusal(error).lower()}") from None
    if index.shard_sha256[0].tobytes().hex() != digest or len(index) != len(shard.images):
        raise DataError(
            f"shard {shard.path} is not what was written to it a moment ago; the disk or another build changed it"
        )
    return index, False


def _is_there(shard: _Shard) -> bool:
    try:
        record = json.loads(shard.record.read_text())
    except (FileNotFoundError, ValueError):  # none, or half a one after a crash of the machine
        return False
    if not isinstance(record, dict) or record.get("plan") != shard.plan or not shard.path.exists():
        return False
    if file_digest(shard.path) == record.get("sha256"):
        return True
    ProgressBar.write(f"shard {shard.path} does not have its recorded digest: it is written again")
    return False


def _sample(render: Render, planned: Planned) -> Sample:
    jpg, more = _rendered(render, planned)
    return Sample(
        planned.key, planned.source, jpg, planned.label, planned.group, planned.attribute, {**planned.extra, **more}
    )


def _rendered(render: Render, planned: Planned) -> tuple[bytes, Mapping[str, Any]]:
    try:
        return render(planned)
    except DataError:
        raise  # it names the file
    except (ValueError, OSError) as error:
        raise DataError(f"{planned.where}: {error}") from None
