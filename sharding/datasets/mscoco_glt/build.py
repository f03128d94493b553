"""mscoco_glt: MSCOCO-GLT (Tang et al., ECCV 2022) from COCO 2014 and COCO-Attributes.

It has crops of 188,426 objects, 29 classes and 204 attributes.

    python -m sharding.build data=mscoco_glt source=COCO out=DIR
                             [attributes=FILE] [seed=N] [resize_short=N] [quality=N] [scale=X] [workers=N]
    python -m sharding.build data=mscoco_glt annotation=GLT.json,CBL.json prefix=OLD=NEW out=DIR
                             the authors' splits and crops
    python -m sharding.build data=mscoco_glt annotation=GLT.json,CBL.json source=COCO out=DIR
                             their splits, crops cut here

COCO holds annotations/, train2014/ and val2014/. cocottributes_py3.jbl is expected there, too; otherwise give it, or
the .npz made from it, with attributes=.

Crops are cut and encoded as in the paper: squares of the object and its surroundings, JPEG of Pillow's default quality
(`QUALITY`); resize_short= makes them smaller. The paper splits objects, not images: `source` of a sample is its object
(COCO-Attributes' patch), and an image can have objects in several splits. The build prints how many images do and
records it in dataset.json under `notes`; KEY.json has each object's image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recipes.common.errors import DataError, one_line
from recipes.common.files import file_digest
from sharding.building.notices import Notices, sentences
from sharding.building.packing import (
    WORK,
    Copies,
    Planned,
    Render,
    channel_statistics,
    finish,
    pack,
    planned_counts,
    raw_digests,
    source_changed,
)
from sharding.building.raw_files import Place
from sharding.building.request import Request, Unbuilt
from sharding.building.source_stamps import Origin, Raw
from sharding.datasets.mscoco_glt.annotations import Authors, read_authors
from sharding.datasets.mscoco_glt.attributes import Attributes, load_arrays, plain_arrays
from sharding.datasets.mscoco_glt.objects import FOLDERS, Objects, crop, read_objects
from sharding.datasets.mscoco_glt.splits import PAPER, class_group, split, unevenness
from sharding.format.dataset import digest_of, read_dataset
from sharding.format.dataset_json import finish_dataset, is_built
from sharding.format.index import load_npz, save_npz
from sharding.images.encoding import StoredSize, encoded

NAME = "mscoco_glt"
TAKES = ("source", "attributes", "annotation", "prefix", "seed", "resize_short", "quality", "scale", "workers")
STAGES = {"attributes": False, "split": False, "pack": True, "finish": False}
VERSION = 1  # raise it with any change of the bytes: it is part of the recorded build options
QUALITY = 75
"""Default JPEG quality of the crops: Pillow's default, with which the paper's crops were written."""


def build(request: Request) -> None:
    """Build `out/mscoco_glt`, or the requested stage of it; do nothing if the same build exists already.

    Stages: `attributes` (turns the pickle into arrays), `split` (assigns objects to splits), `pack` (crops into shards,
    in parts), `finish` (index, statistics, dataset.json).

    Raises:
        DataError: something is wrong with the source, the attribute file or the authors' files; one sentence.
    """
    _check(request)
    folder = Path(request.out) / NAME
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    if not request.stage and _is_built_of_what_is_gone(request):
        print(f"{NAME} is already in {folder}, and source={request.source} is gone: nothing to do")
        return
    attributes = None
    if request.source and (request.does("attributes") or request.does("split")):
        attributes = _attributes(request)
    if request.does("split"):
        options = _options(request, attributes)
        built = not request.stage and is_built(request.out, NAME, options)
        if built and not source_changed(folder, request.source, _authors_crops(request)):
            print(f"{NAME} is already in {folder}: nothing to do")
            return
        if request.only_asks:
            raise Unbuilt
        dealt = _deal(request, attributes)
        dealt = replace(dealt, notes=_twins(dealt).added_to(dealt.notes))
        _save(folder / WORK / "split.npz", dealt, options)
    if request.does("pack") or request.does("finish"):
        _pack(request, *_load(folder / WORK / "split.npz", request))


def _pack(request: Request, dealt: Dealt, options: Mapping[str, Any]) -> None:
    """Run the stages `pack` and `finish`."""
    folder = Path(request.out) / NAME
    plan = planned(dealt, request.source)
    render: Render = Copies(StoredSize(request.resize_short, request.quality))
    if request.source:
        render = Crops(request.resize_short, request.quality or QUALITY)
    workers, notices = request.processes, Notices()
    indices = pack(folder, plan, render, options=options, workers=workers, part=request.part, notices=notices)
    if not request.does("finish"):
        return
    finish(folder, indices)
    if request.source:  # else the raw images are crops, and two objects of a photo may have the same
        _doubt_copies(dealt, {relative: raw_digests(folder, relative, indices[relative]) for relative in plan}, notices)
    editions: dict[str, dict[str, str]] = {}
    for relative in dealt.relatives:
        edition, _, split_name = relative.partition("/")
        editions.setdefault(edition, {})[split_name] = relative
    statistics = {
        edition: channel_statistics(folder / splits["train"], indices[splits["train"]], workers)
        for edition, splits in editions.items()
    }
    notes = notices.added_to(
        {
            **dealt.notes,
            **_notes(dealt),
            "plan": planned_counts(plan, len(dealt.names)),
            # two large objects of a photo can have the same crop once clipped to it, and the paper splits objects
            "duplicates": "warning",
        }
    )
    finish_dataset(
        request.out,
        NAME,
        class_names=dealt.names,
        class_groups=[class_group(k) for k in range(len(dealt.names))],
        editions=editions,
        statistics=statistics,
        options=options,
        notes=notes,
    )
    _report(dealt, notes, folder)


def _report(dealt: Dealt, notes: Mapping[str, Any], folder: Path) -> None:
    """Print what was built, and how many images are in several splits."""
    for relative, rows in dealt.rows():
        print(f"{relative}: {len(rows)} objects")
    for edition, count in notes.get("images_in_several_splits", {}).items():
        print(
            f"{count} of {notes['images'][edition]} images have objects in several splits of edition {edition}: the "
            "paper splits objects, not images"
        )
    print(f"{NAME}: {len(dealt.key)} images in {folder}")
    for sentence in sentences(notes):
        print(sentence)


def _check(request: Request) -> None:
    if not request.source and not request.annotation:
        raise DataError(
            "source= is missing; legal is the folder that holds annotations/, train2014/ and val2014/ of COCO 2014, "
            "or annotation= with the authors' split files"
        )
    if request.attributes and not request.source:
        raise DataError(
            f"attributes={request.attributes} cannot be used without source=: crops that are there already need no "
            "attributes"
        )
    if request.annotation and (request.scale != 1 or request.seed):
        raise DataError("seed= and scale= cannot be used with annotation=: the authors' files say what goes where")
    if request.prefix and (request.source or not request.annotation):
        raise DataError("prefix= maps the paths of crops that are there already: it needs annotation= and no source=")


def _options(request: Request, attributes: Attributes | None) -> dict[str, Any]:
    """Return all that the bytes depend on: the given options, and digests of the files that are read."""
    return {
        **_words(request),
        "files": {name: _digest(path) for name, path in _files(request).items()},
        "attributes": "" if attributes is None else _digest_of_arrays(attributes),
    }


def _is_built_of_what_is_gone(request: Request) -> bool:
    """Return whether the source is gone, and the finished data set was made by these words and other files."""
    source, attributes = request.source, _attribute_file(request)
    if source is None or source.exists():
        return False
    try:
        made = read_dataset(request.out, NAME).meta["build"]
    except DataError:
        return False
    before = made.get("files", {})
    options = {
        **_words(request),
        "files": {
            name: before.get(name) if path.is_relative_to(source) else _digest(path)
            for name, path in _files(request).items()
        },
        "attributes": made.get("attributes")
        if attributes.is_relative_to(source)
        else _digest_of_arrays(_attributes(request)),
    }
    return is_built(request.out, NAME, options)


def _attribute_file(request: Request) -> Path:
    return request.attributes or Path(request.source or "") / "cocottributes_py3.jbl"


def _attributes(request: Request) -> Attributes:
    return plain_arrays(_attribute_file(request), Path(request.out) / NAME / WORK / "coco_attributes.npz")


def _files(request: Request) -> dict[str, Path]:
    """Return the files that decide the splits, by the names under which their digests are recorded."""
    annotations = request.source / "annotations" if request.source else None
    files = [annotations / f"instances_{folder}.json" for folder in FOLDERS] if annotations else []
    return {path.name: path for path in files} | {f"annotation {n}": path for n, path in enumerate(request.annotation)}


def _words(request: Request) -> dict[str, Any]:
    return {
        "builder": NAME,
        "version": VERSION,
        "seed": request.seed,
        "scale": request.scale,
        "crops": "cut here" if request.source else "the authors'",
        "splits": "the authors'" if request.annotation else "ours",
        **StoredSize(request.resize_short, request.quality).options,
    }


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); source= is a folder with annotations/, train2014/ and "
            "val2014/ of COCO 2014, annotation= names the authors' files"
        ) from None


def _digest_of_arrays(attributes: Attributes) -> str:
    arrays = attributes.patch.astype("<i8"), attributes.annotation.astype("<i8"), np.packbits(attributes.present)
    return digest_of([attributes.name.tolist(), *(array.tobytes().hex() for array in arrays)])


# ----------------------------------------------------------------------------------------------------- what goes where
@dataclass(frozen=True, eq=False)
class Dealt:
    """The result of stage `split`: N samples of all splits, one split after the other, in the order of writing.

    For the authors' crops, without COCO, `box` and `size` are 0, `annotation` and `image` -1, and A is 0.

    Attributes:
        relatives: folder of each split, EDITION/SPLIT.
        names: classes by id [K].
        notes: findings for dataset.json.
        split: row in `relatives`, int64 [N].
        key: patch ids, text [N].
        label: class ids, int64 [N].
        attribute: attribute groups, int64 [N].
        score: attribute_score, float64 [N].
        file: the image in the source folder, or the crop's path, text [N].
        box: left, top, width and height in the image, float64 [N, 4].
        size: width and height of the image, int64 [N, 2].
        annotation: ids of COCO's instances, int64 [N].
        image: ids of COCO's images, int64 [N].
        present: which attributes the object has, bool [N, A].
    """

    relatives: list[str]
    names: list[str]
    notes: dict[str, Any]
    split: np.ndarray
    key: np.ndarray
    label: np.ndarray
    attribute: np.ndarray
    score: np.ndarray
    file: np.ndarray
    box: np.ndarray
    size: np.ndarray
    annotation: np.ndarray
    image: np.ndarray
    present: np.ndarray

    def rows(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each split's folder and its rows, int64 [n]."""
        for number, relative in enumerate(self.relatives):
            yield relative, np.flatnonzero(self.split == number)


_TEXTS = ("relatives", "names", "notes")


def _deal(request: Request, attributes: Attributes | None) -> Dealt:
    """Split by our rules, or by the authors' files."""
    objects = None
    if request.source is not None and attributes is not None:
        objects = read_objects(request.source, attributes)
    if objects is not None and objects.left_out:
        print(f"{objects.left_out} patches of the attribute file have no annotation in COCO 2014 and are left out")
    notes = {
        "attribute_names": attributes.name.tolist() if attributes is not None else [],
        "patches_left_out": objects.left_out if objects is not None else 0,
    }
    if objects is not None:
        notes = objects.notices.added_to(notes)
    if request.annotation or objects is None:  # `_check` made sure that one of the two is given
        return _as_authors(read_authors(request.annotation, request.prefix), objects, notes)
    editions = {edition: sizes.times(request.scale) for edition, sizes in PAPER.items()}
    found = split(objects.label, objects.present, objects.names, request.seed, editions)
    parts = {f"{edition}/{name}": part for edition, named in found.items() for name, part in named.items()}
    number = np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()])
    rows, attribute, score = (
        np.concatenate([getattr(part, name) for part in parts.values()]) for name in ("rows", "attribute", "score")
    )
    return Dealt(
        relatives=list(parts),
        names=objects.names,
        notes=notes,
        split=number,
        key=objects.patch[rows].astype(str),
        label=objects.label[rows],
        attribute=attribute,
        score=score,
        **_of_objects(objects, rows),
    )


def _of_objects(objects: Objects, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the fields of `Dealt` that come only from COCO."""
    return {name: getattr(objects, name)[rows] for name in ("file", "box", "size", "annotation", "image", "present")}


def _authors_crops(request: Request) -> list[str]:
    """Return the files of the authors' crops; none where crops are cut here."""
    if request.source is not None:
        return []
    return [Place(path).file for path in read_authors(request.annotation, request.prefix).path.tolist()]


def _as_authors(authors: Authors, objects: Objects | None, notes: dict[str, Any]) -> Dealt:
    """Split as the authors did.

    With `objects`, crops are cut here from the objects with the authors' ids. Otherwise crops are the files at the
    authors' paths.
    """
    count = len(authors.key)
    if objects is None:
        more = {
            "file": authors.path,
            "box": np.zeros((count, 4)),
            "size": np.zeros((count, 2), np.int64),
            "annotation": np.full(count, -1),
            "image": np.full(count, -1),
            "present": np.zeros((count, 0), bool),
        }
    else:
        row_of = {str(patch): row for row, patch in enumerate(objects.patch.tolist())}
        unknown = [key for key in authors.key.tolist() if key not in row_of]
        if unknown:
            raise DataError(
                f"{len(unknown)} ids of the authors' files, {unknown[0]!r} among them, "
                f"are no patches of the attribute file with an annotation in COCO 2014"
            )
        rows = np.array([row_of[key] for key in authors.key.tolist()])
        here, there = np.array(objects.names)[objects.label[rows]], np.array(authors.names)[authors.label]
        for i in np.flatnonzero(here != there)[:1]:
            raise DataError(
                f"id {authors.key[i]} is a {str(there[i])!r} in the authors' files and a {str(here[i])!r} in COCO 2014"
            )
        more = _of_objects(objects, rows)
    return Dealt(
        relatives=authors.relatives,
        names=authors.names,
        notes=notes,
        split=authors.split,
        key=authors.key,
        label=authors.label,
        attribute=authors.attribute,
        score=authors.score,
        **more,
    )


def _twins(dealt: Dealt) -> Notices:
    """Count objects with two ids: the same box of an image file, or the same crop."""
    notices = Notices()
    first: dict[tuple[Any, ...], tuple[str, str]] = {}
    for i, (file, box) in enumerate(zip(dealt.file.tolist(), dealt.box.tolist(), strict=True)):
        edition, _, name = dealt.relatives[dealt.split[i]].partition("/")
        key, other = first.setdefault((edition, file, *box), (str(dealt.key[i]), name))
        if key != dealt.key[i]:
            where = "one split" if name == other else "two splits"
            notices.doubt(
                f"objects under two ids in {where} of edition {edition}", f"{dealt.key[i]} in {name}, {key} in {other}"
            )
    return notices


def _doubt_copies(dealt: Dealt, digests: Mapping[str, Sequence[str]], notices: Notices) -> None:
    """Count photos that are in two splits of an edition as files of the same bytes; `digests` are the splits'."""
    found: dict[tuple[str, str], dict[str, set[str]]] = {}  # edition and digest -> files -> splits
    for relative, rows in dealt.rows():
        edition, _, name = relative.partition("/")
        for file, digest in zip(dealt.file[rows].tolist(), digests[relative], strict=True):
            found.setdefault((edition, digest), {}).setdefault(file, set()).add(name)
    for (edition, _), files in found.items():
        if len(files) > 1 and len(set.union(*files.values())) > 1:
            where = " and ".join(f"{file} in {', '.join(sorted(names))}" for file, names in files.items())
            notices.doubt(f"photos under two names in two splits of edition {edition}", where)


def _save(path: Path, dealt: Dealt, options: Mapping[str, Any]) -> None:
    arrays = {name: np.array(json.dumps(v) if name in _TEXTS else v) for name, v in vars(dealt).items()}
    save_npz(path, {**arrays, "options": np.array(json.dumps(options))})


def _load(path: Path, request: Request) -> tuple[Dealt, dict[str, Any]]:
    """Read the result of stage `split`, and the options with which it was made.

    Raises:
        DataError: the stage has not run, or ran with other options.
    """
    try:
        arrays = load_npz(path)
        options = json.loads(str(arrays.pop("options")))
        fields: dict[str, Any] = {name: json.loads(str(v)) if name in _TEXTS else v for name, v in arrays.items()}
        dealt = Dealt(**fields)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: stage=split comes before stage={request.stage}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(one_line(f"{path} cannot be read ({error}); stage=split writes it again")) from None
    words = _words(request)
    for name in (*words, "resize_short", "quality"):
        if options.get(name) != words.get(name):
            raise DataError(
                f"stage=split was run with {name}={options.get(name)}, stage={request.stage} with another; the same "
                "words are legal"
            )
    if request.stage:
        _check_made_from(request, options, path.parent / "coco_attributes.npz")
    return dealt, options


def _check_made_from(request: Request, options: Mapping[str, Any], arrays: Path) -> None:
    """Check that the files have not changed since stage `split`; missing files are not needed any more.

    Raises:
        DataError: a file changed.
    """
    now = {name: (path, _digest(path)) for name, path in _files(request).items() if path.exists()}
    changed = [path for name, (path, digest) in now.items() if options["files"].get(name, digest) != digest]
    if options["attributes"] and arrays.exists() and options["attributes"] != _digest_of_arrays(load_arrays(arrays)):
        changed.append(arrays)
    if changed:
        raise DataError(f"{changed[0]} changed since stage=split, which comes before stage={request.stage}")


def _notes(dealt: Dealt) -> dict[str, Any]:
    """Return notes on the data: images with objects in several splits of an edition, and how even attributes are.

    They are empty for the authors' crops, without COCO.
    """
    if not dealt.present.shape[1]:
        return {}
    splits_of: dict[str, dict[str, set[str]]] = {}
    for relative, rows in dealt.rows():
        images = splits_of.setdefault(relative.partition("/")[0], {})
        for image in set(dealt.file[rows].tolist()):
            images.setdefault(image, set()).add(relative)
    several = {
        edition: [splits for splits in images.values() if len(splits) > 1] for edition, images in splits_of.items()
    }
    return {
        "images": {edition: len(images) for edition, images in splits_of.items()},
        "images_in_several_splits": {edition: len(found) for edition, found in several.items()},
        "of_these_in_train": {
            edition: sum(f"{edition}/train" in splits for splits in found) for edition, found in several.items()
        },
        "attribute_std": {relative: round(unevenness(dealt.present[rows]), 6) for relative, rows in dealt.rows()},
    }


# ---------------------------------------------------------------------------------------------------------- the images
@dataclass(frozen=True)
class Cut:
    """An object in its image: all that `Crops` needs."""

    place: Place
    annotation: int
    box: tuple[float, float, float, float]
    size: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.place}, annotation {self.annotation}"

    @property
    def path(self) -> str:
        """The image's file."""
        return self.place.path

    @property
    def file(self) -> str:
        """The image's file, relative to the source."""
        return self.place.file

    @property
    def short(self) -> str:
        """The image's name without the folders above the source."""
        return self.place.short

    def traced(self) -> tuple[bytes, Origin]:
        """Read the image's raw bytes, and return them with what they come from."""
        return self.place.traced()


@dataclass(frozen=True)
class Crops:
    """A `Render` of objects: crops as JPEG of `quality`, at most `resize_short` pixels wide (bilinear, antialiased)."""

    resize_short: int | None
    quality: int

    def __call__(self, planned: Planned, data: bytes) -> tuple[bytes, Mapping[str, Any]]:
        """Return the JPEG bytes, and an empty mapping: they have no more entries.

        Raises:
            ValueError: the image is bad; one sentence.
        """
        assert isinstance(planned.where, Cut), "crops are cut from what `planned` made"
        image = crop(data, planned.where.box, planned.where.size)
        if self.resize_short is not None and image.width > self.resize_short:
            image = image.resize((self.resize_short, self.resize_short), Image.Resampling.BILINEAR)
        return encoded(image, self.quality), {}


def planned(dealt: Dealt, source: Path | None) -> dict[str, Sequence[Planned]]:
    """Plan the images of each split in their order: relative folder -> images.

    Entries of KEY.json besides the fixed ones: attribute_score, and for crops that are cut here image, annotation
    (COCO's ids), box (left, top, width, height in the image), attributes (rows of `attribute_names` in dataset.json).
    """
    return {relative: [_planned(dealt, i, source) for i in rows.tolist()] for relative, rows in dealt.rows()}


def _planned(dealt: Dealt, i: int, source: Path | None) -> Planned:
    label, annotation, box = int(dealt.label[i]), int(dealt.annotation[i]), dealt.box[i].tolist()
    more: dict[str, Any] = {"attribute_score": float(dealt.score[i])}
    where: Raw = Place(str(dealt.file[i]))
    if source is not None:
        where = Cut(
            Place(str(source / str(dealt.file[i])), root=str(source)),
            annotation,
            tuple(box),
            tuple(dealt.size[i].tolist()),
        )
        more |= {
            "image": int(dealt.image[i]),
            "annotation": annotation,
            "box": box,
            "attributes": np.flatnonzero(dealt.present[i]).tolist(),
        }
    return Planned(
        str(dealt.key[i]), f"object-{dealt.key[i]}", where, label, class_group(label), int(dealt.attribute[i]), more
    )
