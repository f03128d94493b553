"""Packs a planned data set into shards, on any number of processes and machines: resumable, always the same bytes.

A shard is a pure function of its slice of the plan, of the build's options and of the raw images. It is written under
another name, made durable and renamed. Its digest and a record of what it was made from go to NAME/.work/shards. A
later start reads every recorded shard, keeps those that are whole and made from the same plan and raw images, and
writes the others. The last stage does the same after all parts are done. The index is read from the tars themselves;
index.npz and dataset.json are written last.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import disk_refusal, file_digest, replacing, sync_folder, whole_file
from sharding.building.keys import digest64
from sharding.building.notices import ENOUGH, Damaged, Notices, add_damaged
from sharding.building.process_pool import in_order
from sharding.building.source_stamps import Origin, Raw, any_changed, refreshed
from sharding.format.dataset import DATASET_FILE, Split, digest_of
from sharding.format.index import INDEX_FILE, Index, by_class_and_group, save_index
from sharding.format.shards import (
    LEGAL_KEY,
    LEGAL_KEYS,
    Sample,
    index_of_shard,
    is_own,
    joined,
    shard_name,
    write_shard,
)
from sharding.images.damage import doubts
from sharding.images.decoders import decode
from sharding.images.encoding import StoredSize
from sharding.progress import ProgressBar

WORK = ".work"
"""Folder beside the splits, for what a build's stages leave for each other."""
SHARD_SAMPLES = 1000
STATISTICS_IMAGES = 10_000


@dataclass(frozen=True)
class Planned:
    """One image of the plan: the fields of its `Sample`, and `where` its raw image is.

    `where` is picklable. It is not part of the plan's identity: a source may be moved.
    """

    key: str
    source: str
    where: Raw
    label: int
    group: int
    attribute: int = -1
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[Any, ...]:
        """What the image's bytes in the shard depend on, besides the build's options."""
        return self.key, self.source, self.label, self.group, self.attribute, dict(self.extra)


class Images(Sequence[Planned]):
    """A split's images that are made when they are asked for, so that millions of them take no memory."""

    @abstractmethod
    def keys(self) -> Iterator[str]:
        """Yield the images' keys in their order, without the images."""


Render = Callable[[Planned, bytes], tuple[bytes, Mapping[str, Any]]]
"""A picklable function from a planned image and its raw bytes to its JPEG bytes and more entries for its KEY.json. It
raises ValueError or OSError with a sentence about what is wrong with the image.
"""


@dataclass(frozen=True)
class Copies:
    """A `Render` that keeps the source's bytes, or encodes them again as the stored size says."""

    stored: StoredSize

    def __call__(self, planned: Planned, data: bytes) -> tuple[bytes, Mapping[str, Any]]:
        """Return the JPEG bytes, and what was done to the source's.

        Raises:
            ValueError: the image is bad.
        """
        return self.stored(data)


@dataclass(frozen=True)
class _Shard:
    root: Path  # of the data set
    folder: Path  # of the split
    record: Path
    plan: str  # digest of what the shard is made from
    number: int
    first: int
    images: tuple[Planned, ...]

    @property
    def path(self) -> Path:
        return self.folder / shard_name(self.number)


@dataclass(frozen=True)
class _Made:
    """A finished shard: its index, whether it was kept or made, and what is odd about its images (words -> names)."""

    index: Index
    state: str
    doubtful: Mapping[str, Sequence[str]]
    relative: str


_KEPT, _CHANGED, _OTHER, _UNRECORDED, _NEW = "kept", "changed", "other", "unrecorded", "new"
_SAID = {
    _KEPT: "{} of {} shards were there already, checked and kept",
    _CHANGED: "{} of {} shards were made again because their source changed",
    _OTHER: "{} of {} shards were made again because their images, or words of the command, are others than before",
    _UNRECORDED: "{} of {} shards were made again because an earlier version did not record what they were made from",
}


def pack(
    folder: Path,
    plan: Mapping[str, Sequence[Planned]],
    render: Render,
    *,
    options: Mapping[str, Any],
    workers: int,
    shard_samples: int = SHARD_SAMPLES,
    part: tuple[int, int] = (1, 1),
    notices: Notices | None = None,
) -> dict[str, Index]:
    """Write the shards of a data set's splits and return their indices; `finish` writes the index files.

    Args:
        folder: the data set's folder.
        plan: relative folder of each split -> its images in order; `Images` are made a shard at a time.
        render: makes an image's bytes; runs in the workers.
        options: everything besides the plan that the bytes depend on.
        workers: number of processes.
        shard_samples: number of images in a shard.
        part: (I, N): write only every N-th shard, from the I-th on; the indices then hold only these.
        notices: collects which images are odd, also those in shards that were there already.

    Returns:
        Relative folder -> index of its shards.

    Raises:
        Damaged: images cannot be rendered; all shards without one of them are finished and kept.
        DataError: an image, which the sentence names, cannot be read, or a shard cannot be written; the shards finished
            by then are kept.
    """
    folder = Path(folder)
    _check_keys(plan)
    for relative in plan:
        (folder / relative).mkdir(parents=True, exist_ok=True)
        (folder / WORK / "shards" / relative).mkdir(parents=True, exist_ok=True)
    mine = (
        shard
        for number, shard in enumerate(_shards(folder, plan, options, shard_samples))
        if number % part[1] == part[0] - 1
    )
    sizes = _shard_sizes(plan, shard_samples)[part[0] - 1 :: part[1]]
    found: dict[str, list[Index]] = {relative: [] for relative in plan}
    states: Counter[str] = Counter()
    doubtful: dict[str, dict[str, None]] = {}  # words -> names in the order of the plan, each once
    text = "packing" + (f", part {part[0]} of {part[1]}" if part != (1, 1) else "")
    with ProgressBar(sum(sizes), text, "img", smoothing=0.05) as bar:
        for made in _all_made(render, mine, workers):
            found[made.relative].append(made.index)
            states[made.state] += 1
            for words, names in made.doubtful.items():
                doubtful.setdefault(words, {}).update(dict.fromkeys(names))
            bar.update(len(made.index))
    for state, sentence in _SAID.items():
        if states[state]:
            print(sentence.format(states[state], len(sizes)))
    for words, several in doubtful.items():
        if notices is not None:
            notices.doubt(words, *several)
    return {relative: joined(indices) for relative, indices in found.items() if indices}


def source_changed(folder: Path, source: Path | None, elsewhere: Iterable[str] = ()) -> bool:
    """Return whether the raw images of the finished shards in `folder` may have changed, and print it.

    Only names, sizes and times of files are compared; packing again compares the bytes. Missing files are skipped: a
    finished data set does not need them.

    Args:
        folder: the data set's folder.
        source: the folder or archive that records' files count from now; None where there is none.
        elsewhere: the source's files that are recorded by their whole paths.
    """
    shards = sorted(folder.glob("[!.]*/[!.]*/shard-*.tar"))
    changed, unrecorded, others = False, [], set(elsewhere)
    for path in shards:  # one after the other: the records of millions of images do not fit into the memory
        relative = path.relative_to(folder)
        known = _origins(_record(folder / WORK / "shards" / f"{relative}.json"))
        changed = changed or any_changed(source, known or [], others)
        unrecorded += [str(relative)] if known is None else []
    if unrecorded:
        named = ", ".join(unrecorded[:3]) + (", ..." if len(unrecorded) > 3 else "")
        print(
            f"{len(unrecorded)} of {len(shards)} shards have no record of what they were made from ({named}), so that "
            "a change of the source is not noticed there: deleted, they are made again by the same command"
        )
    if changed:
        print("its source has other files, sizes or times than recorded: what was made from other bytes is made again")
    return changed


def raw_digests(folder: Path, relative: str, index: Index) -> list[str]:
    """Return the hex sha256 of the raw image of each sample of a finished split, as its shards' records have them."""
    records = (_record(folder / WORK / "shards" / relative / f"{name}.json") for name in index.shard_name.tolist())
    return [origin.sha256 for record in records for origin in _origins(record) or ()]


def finish(folder: Path, indices: Mapping[str, Index]) -> None:
    """Write each split's index.npz and remove shards of an older plan and partial files; files of others stay."""
    for relative, index in indices.items():
        _remove_own(folder / relative, keep=set(index.shard_name.tolist()))
        save_index(folder / relative, index)
        sync_folder(folder / relative)


def remove_others(folder: Path, splits: Iterable[str]) -> None:
    """Remove splits that an earlier build with other words wrote, and their records; files of others stay.

    Args:
        folder: the data set's.
        splits: folders that a build of it may write, and this one does not.
    """
    for relative in splits:
        _remove_own(folder / relative)
        shutil.rmtree(folder / WORK / "shards" / relative, ignore_errors=True)
        with contextlib.suppress(OSError):  # there is none, or others have files in it
            (folder / relative).rmdir()
            (folder / relative).parent.rmdir()


def _remove_own(split: Path, keep: Collection[str] = ()) -> None:
    """Remove the files of a split that builds write, but those to keep."""
    for path in split.glob("*"):
        if is_own(path.name) and path.name not in keep:
            path.unlink()


def planned_counts(plan: Mapping[str, Sequence[Planned]], classes: int) -> dict[str, list[list[int]]]:
    """Count a plan's images by class and attribute group: relative folder -> [K][3].

    dataset.json keeps the counts under `notes`. With them sharding.verify checks that the splits hold what was planned,
    independently of their index.
    """
    counts = {}
    for relative, images in plan.items():
        label, attribute = [planned.label for planned in images], [planned.attribute for planned in images]
        counts[relative] = by_class_and_group(label, attribute, classes)[:, :3].tolist()
    return counts


def channel_statistics(folder: Path, index: Index, workers: int) -> dict[str, list[float]]:
    """Compute the `mean` and `std` of the stored images' RGB channels in 0..1, [3] each, by exact integer sums.

    All images of the split are read, or STATISTICS_IMAGES of them at equal steps if there are more.

    Raises:
        DataError: an image, which the sentence names, is damaged.
    """
    count = min(len(index), STATISTICS_IMAGES)
    chosen = [i * len(index) // count for i in range(count)]
    sums = [0] * 7
    jobs, split = (chosen[start : start + 100] for start in range(0, count, 100)), Split(folder, index)
    with ProgressBar(count, "channel statistics", "img") as bar:
        for found in in_order(_sums, split, jobs, workers):
            sums = [a + b for a, b in zip(sums, found, strict=True)]
            bar.update(min(100, count - bar.n))
    split.close()
    total, squares, pixels = np.array(sums[:3], dtype=object), np.array(sums[3:6], dtype=object), sums[6]
    mean = [float(t / (255 * pixels)) for t in total]
    std = [float(v / (255 * 255 * pixels * pixels)) ** 0.5 for v in squares * pixels - total * total]
    return {"mean": [round(m, 4) for m in mean], "std": [round(s, 4) for s in std]}


def _sums(split: Split, rows: Sequence[int]) -> list[int]:
    total, squares, pixels = np.zeros(3, np.int64), np.zeros(3, np.int64), 0
    for row in rows:
        image = np.asarray(decode(split.read(row))).reshape(-1, 3).astype(np.int64)
        total, squares, pixels = total + image.sum(0), squares + (image * image).sum(0), pixels + len(image)
    return [*map(int, total), *map(int, squares), pixels]


def _check_keys(plan: Mapping[str, Sequence[Planned]]) -> None:
    """Check the keys of each split by digests of 8 bytes: texts are compared where two of these are equal alone."""
    for relative, images in plan.items():
        if not len(images):
            raise DataError(f"split {relative!r} has no samples; at least one is needed")
        digests = np.empty(len(images), np.uint64)
        for row, key in enumerate(_keys(images)):
            if not LEGAL_KEY.fullmatch(key):
                raise DataError(
                    f"key {key!r} of {images[row].where} in split {relative} is not legal; {LEGAL_KEYS} are"
                )
            digests[row] = digest64(key)
        order = np.argsort(digests, kind="stable")
        again = np.flatnonzero(digests[order[1:]] == digests[order[:-1]])
        for first, second in ((images[int(order[i])], images[int(order[i + 1])]) for i in again):
            if first.key == second.key:
                raise DataError(
                    f"key {first.key!r} occurs twice in split {relative}, for {first.where} and {second.where}; keys "
                    "are unique in a split"
                )


def _keys(images: Sequence[Planned]) -> Iterator[str]:
    return images.keys() if isinstance(images, Images) else (planned.key for planned in images)


def _shard_sizes(plan: Mapping[str, Sequence[Planned]], shard_samples: int) -> list[int]:
    """Return the number of images in each shard, in their order."""
    lengths = [len(images) for images in plan.values()]
    return [min(shard_samples, length - first) for length in lengths for first in range(0, length, shard_samples)]


def _shards(
    folder: Path, plan: Mapping[str, Sequence[Planned]], options: Mapping[str, Any], shard_samples: int
) -> Iterator[_Shard]:
    for relative, images in plan.items():
        for number, first in enumerate(range(0, len(images), shard_samples)):
            some = tuple(images[first : first + shard_samples])
            digest = digest_of([dict(options), relative, first, [planned.identity for planned in some]])
            yield _Shard(
                folder,
                folder / relative,
                folder / WORK / "shards" / relative / f"{shard_name(number)}.json",
                digest,
                number,
                first,
                some,
            )


def _all_made(render: Render, shards: Iterable[_Shard], workers: int) -> Iterator[_Made]:
    """Yield the shards, kept or made, but those with images that cannot be taken; at the end these are refused."""
    damaged: dict[str, str] = {}
    for made in in_order(_made, render, shards, workers):
        if isinstance(made, _Made):
            yield made
            continue
        add_damaged(damaged, made.images)
        if len(damaged) >= ENOUGH:
            break
    if damaged:
        raise Damaged(damaged)


def _made(render: Render, shard: _Shard) -> _Made | Damaged:
    """Return the shard, kept or made, or those of its images that are damaged. Runs in a worker."""
    relative = shard.folder.relative_to(shard.root).as_posix()
    with _told(shard, "read"):
        state, record = _state(shard)
        if state == _KEPT:
            return _Made(index_of_shard(shard.path), state, record["doubtful"], relative)
    with _told(shard, "written"):
        try:
            digest, origins, doubtful = _write(render, shard)
        except Damaged as damaged:
            return damaged
        sync_folder(shard.folder)
        _keep_record(shard, digest, origins, doubtful)
    with _told(shard, "read"):
        index = index_of_shard(shard.path)
    if index.shard_sha256[0].tobytes().hex() != digest or len(index) != len(shard.images):
        raise DataError(
            f"shard {shard.path} is not what was written to it a moment ago; the disk or another build changed it"
        )
    return _Made(index, state, doubtful, relative)


@contextlib.contextmanager
def _told(shard: _Shard, what: str) -> Iterator[None]:
    """Say which shard the output disk does not let be read or written; errors of raw images are already DataErrors."""
    try:
        yield
    except OSError as error:
        raise DataError(f"shard {shard.path} cannot be {what}: {disk_refusal(error).lower()}") from None


def _write(render: Render, shard: _Shard) -> tuple[str, list[Origin], dict[str, list[str]]]:
    """Write the shard's tar; return its digest, what its images were made from, and odd ones (words -> names).

    Raises:
        Damaged: images cannot be rendered; all of the shard are looked at, and it is not written.
    """
    origins: list[Origin] = []
    damaged: dict[str, str] = {}
    doubtful: dict[str, list[str]] = {}

    def samples() -> Iterator[Sample]:
        for planned in shard.images:
            try:
                data, origin = planned.where.traced()
                jpg, more = render(planned, data)
            except Damaged as error:
                damaged.update(error.images)
                continue
            except DataError:
                raise  # it names the file
            except (ValueError, OSError) as error:
                damaged[str(planned.where)] = str(error)
                continue
            origins.append(origin)
            for words in doubts(data):
                doubtful.setdefault(words, []).append(planned.where.short)
            extra = {**planned.extra, **more}
            yield Sample(planned.key, planned.source, jpg, planned.label, planned.group, planned.attribute, extra)
        if damaged:
            raise Damaged(damaged)

    with replacing(shard.path) as temporary:
        write_shard(temporary, samples(), shard.first)
        digest = file_digest(temporary)  # read back from the file
        for old in (shard.root / DATASET_FILE, shard.folder / INDEX_FILE):
            old.unlink(missing_ok=True)  # it would seem to describe a mixture of old and new shards
    return digest, origins, doubtful


def _keep_record(shard: _Shard, digest: str, origins: Sequence[Origin], doubtful: Mapping[str, Sequence[str]]) -> None:
    rows = [origin.as_row() for origin in origins]
    record = {"plan": shard.plan, "sha256": digest, "sources": rows, "doubtful": doubtful}
    with whole_file(shard.record) as file:
        file.write(json.dumps(record).encode())


def _record(path: Path) -> dict[str, Any]:
    """Read the record of a shard; empty where there is none."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # missing, or incomplete after a crash of the machine
        return {}
    return record if isinstance(record, dict) else {}


def _origins(record: Mapping[str, Any]) -> list[Origin] | None:
    """Return what a shard was made from; None if its record does not hold what `_keep_record` writes."""
    rows, doubtful = record.get("sources"), record.get("doubtful")
    if not isinstance(rows, list) or not isinstance(doubtful, dict):
        return None
    legal = all(isinstance(row, list) and list(map(type, row)) == [str, int, int, str] for row in rows)
    named = all(isinstance(names, list) and set(map(type, names)) == {str} for names in doubtful.values())
    return [Origin(*row) for row in rows] if legal and named else None


def _state(shard: _Shard) -> tuple[str, dict[str, Any]]:
    """Return the state of the shard on the disk, and its record."""
    record = _record(shard.record)
    if record.get("plan") != shard.plan or not shard.path.exists():
        return _OTHER if record and shard.path.exists() else _NEW, {}
    known = _origins(record)
    if known is None:
        return _UNRECORDED, {}
    now = refreshed([planned.where for planned in shard.images], known)
    if now is None:
        return _CHANGED, {}
    if file_digest(shard.path) != record.get("sha256"):
        ProgressBar.write(f"shard {shard.path} does not have its recorded digest: it is written again")
        return _NEW, {}
    if now != known:
        with _told(shard, "written"):
            _keep_record(shard, record["sha256"], now, record["doubtful"])
    return _KEPT, record
