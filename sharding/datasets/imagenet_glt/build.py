"""imagenet_glt: ImageNet-GLT (Tang et al., ECCV 2022) from the training images of ILSVRC2012.

It has 1,000 classes and three attribute groups in each.

    python -m sharding.build data=imagenet_glt source=ILSVRC2012_img_train.tar out=DIR
                             [weights=FILE] [seed=N] [resize_short=N] [quality=N]
    python -m sharding.build data=imagenet_glt source=DIR annotation=LT.json,BL.json out=DIR [prefix=OLD=NEW]
                             the authors' splits

`source` is the downloaded archive, which is not unpacked, or a folder of class folders. Attributes are clusters of a
ResNet-50's features, as in the paper; the counts and the long tail are in splits.py. The paper depends on the order of
folders and on an unseeded k-means; here a seed decides. Use annotation= for a comparison image by image.

Stages: `index` (finds the images), `features` (on a GPU if possible), `clusters`, `split`, `pack`, `finish`. Splits are
kept in DIR/imagenet_glt/.work/{glt,cbl}.json, in the authors' format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import file_digest
from sharding.building.dice import Dice
from sharding.building.keys import unique_keys
from sharding.building.packing import (
    WORK,
    Copies,
    Planned,
    channel_statistics,
    finish,
    pack,
    planned_counts,
    source_changed,
)
from sharding.building.request import Request, Unbuilt
from sharding.datasets.imagenet_glt import clustering, features
from sharding.datasets.imagenet_glt.annotations import Annotation, Rows, read, write
from sharding.datasets.imagenet_glt.archive import Classes, ClassImages, list_classes
from sharding.datasets.imagenet_glt.splits import CLASSES, Part, class_group, class_order, split
from sharding.format.dataset_json import finish_dataset, is_built
from sharding.images.backbones import weights_file
from sharding.images.encoding import StoredSize

NAME = "imagenet_glt"
TAKES = ("source", "weights", "annotation", "prefix", "seed", "resize_short", "quality", "scale", "workers")
STAGES = {"index": False, "features": True, "clusters": True, "split": False, "pack": True, "finish": False}
WITHOUT = {"annotation": ("features", "clusters")}
VERSION = 1  # raise it with any change of the bytes: it is part of the recorded build options
IMAGES = 1_281_167
"""Number of images in ILSVRC2012's training set."""


def build(request: Request) -> None:
    """Build `out/imagenet_glt`, or the requested stage of it; do nothing if the same build exists already.

    Raises:
        DataError: something is wrong with the source, the weights or the split files; one sentence.
    """
    source = _checked_source(request)
    if request.annotation and request.stage in ("features", "clusters"):
        print(f"stage={request.stage} has nothing to do where annotation= says what goes where")
        return
    folder = request.out / NAME
    work = folder / WORK
    work.mkdir(parents=True, exist_ok=True)
    weights = None if request.annotation else weights_file(request.weights)
    splitting = _splitting(request, weights)
    options = {**splitting, **StoredSize(request.resize_short, request.quality).options}
    if not request.stage and is_built(request.out, NAME, options) and not _source_changed(request, source):
        print(f"{NAME} is already in {folder}: nothing to do")
        return
    if request.only_asks:
        raise Unbuilt
    classes = list_classes(source, work, request.processes)
    if not request.annotation and request.scale == 1:  # else the split files, or the source itself, say what is needed
        _check_classes(classes, source)
    if request.stage == "index":
        print("".join(f"{line}\n" for line in classes.notices().lines()), end="")
    if request.stage in ("clusters", "split", "pack", "finish") and weights is not None:
        _check_unchanged(request, list(classes.values()), work, splitting)
    if weights is not None:
        _attributes(request, list(classes.values()), work, weights, splitting)
    if not any(map(request.does, ("split", "pack", "finish"))):
        return
    made_from = splitting | _clusters(request, list(classes.values()), work, splitting)
    if request.does("split"):
        for annotation in [read(path, request.prefix) for path in request.annotation] or _ours(
            request, list(classes.values()), work, splitting
        ):
            write(
                work / f"{annotation.edition}.json",
                Annotation(annotation.edition, annotation.classes, annotation.groups, annotation.splits, made_from),
            )
    if request.does("pack") or request.does("finish"):
        _pack(request, _splits(work, request, splitting, made_from), classes, options)


def _checked_source(request: Request) -> Path:
    """Check that the options go together, and return the source."""
    if request.source is None:
        raise DataError("source= is missing; legal is ILSVRC2012_img_train.tar, or the folder of its class folders")
    if request.annotation and (request.weights or request.scale != 1):
        raise DataError("weights= and scale= cannot be used with annotation=: the authors' files say what goes where")
    if request.prefix and not request.annotation:
        raise DataError("prefix= maps the paths of split files: it needs annotation=")
    return request.source


def _source_changed(request: Request, source: Path) -> bool:
    """Return whether the source may have changed since the finished data set was made from it."""
    folder = request.out / NAME
    return source_changed(folder, source) or (
        not request.annotation and features.source_changed(source, folder / WORK, request.processes)
    )


def _splitting(request: Request, weights: Path | None) -> dict[str, Any]:
    """Return what the splits depend on, so that a stage does not use another build's splits."""
    chosen: dict[str, Any] = {"builder": NAME, "version": VERSION, "seed": request.seed}
    if weights is None:
        for path in request.annotation:
            if not path.is_file():
                raise DataError(
                    f"annotation={path} does not exist; the authors' split file of an edition would be legal"
                )
        return {**chosen, "annotation": sorted(file_digest(path) for path in request.annotation)}
    return {**chosen, "weights": file_digest(weights), **({"scale": request.scale} if request.scale != 1 else {})}


def _check_classes(classes: Classes, source: Path) -> None:
    """Check that the source is all of ILSVRC2012's training set."""
    if len(classes) != CLASSES:
        what = "class folders" if source.is_dir() else "inner class tars"
        raise DataError(
            f"source={source} has {len(classes)} {what} ({min(classes)} to {max(classes)}), ILSVRC2012 has "
            f"{CLASSES}: some are missing or too many (scale= makes a smaller data set of what there is)"
            + "".join(f"; {line}" for line in classes.notices().lines())
        )
    count = sum(map(len, classes.values()))
    if count != IMAGES:
        print(f"the source has {count:,} images, ILSVRC2012's training set has {IMAGES:,}: going on with what there is")


def _check_unchanged(
    request: Request, classes: Sequence[ClassImages], work: Path, splitting: Mapping[str, Any]
) -> None:
    """Check, for a stage that is run alone, that the source has the bytes that features were made from.

    A part looks at every N-th class: all parts together look at all, and so does stage `finish` behind them. Features
    that are gone cannot contradict.

    Raises:
        DataError: a class has other bytes.
    """
    mine = classes[request.part[0] - 1 :: request.part[1]]
    states = features.states(mine, work / "features", splitting["weights"], request.processes)
    for images, state in zip(mine, states, strict=True):
        if state == features.CHANGED:
            raise DataError(
                f"images of class {images.name} changed since stage=features: run it again, and then the stages up to "
                f"stage={request.stage}"
            )


def _attributes(
    request: Request, classes: Sequence[ClassImages], work: Path, weights: Path, splitting: Mapping[str, Any]
) -> None:
    """Run the stages `features` and `clusters`; a part takes every N-th class."""
    numbers = range(request.part[0] - 1, len(classes), request.part[1])
    mine = [classes[number] for number in numbers]
    if request.does("features"):
        features.extract(mine, work / "features", weights, request.processes)
    if request.does("clusters"):
        clustering.cluster_all(mine, numbers, work, splitting["weights"], request.seed, request.processes)


def _ours(
    request: Request, classes: Sequence[ClassImages], work: Path, splitting: Mapping[str, Any]
) -> list[Annotation]:
    """Split both editions by our own rules."""
    ranks = list(clustering.read_all(classes, work, splitting["weights"], request.seed))
    order = class_order([len(images) for images in classes], request.seed).tolist()
    ordered, ranks = [classes[number] for number in order], [ranks[number] for number in order]
    editions, short = split(ranks, request.seed, request.scale, [images.name for images in ordered])
    for sentence in short[:5]:
        print(f"fewer than the paper's counts need: {sentence}")
    if len(short) > 5:
        print(f"fewer than the paper's counts need: {len(short) - 5} more groups")
    names = tuple(images.name for images in ordered)
    groups = tuple(class_group(label, len(ordered)) for label in range(len(ordered)))
    rows = {
        edition: {name: _rows(parts, ordered, ranks) for name, parts in named.items()}
        for edition, named in editions.items()
    }
    return [Annotation(edition, names, groups, splits, splitting) for edition, splits in rows.items()]


def _rows(parts: Sequence[Part], classes: Sequence[ClassImages], ranks: Sequence[np.ndarray]) -> Rows:
    sources = [
        f"{images.name}/{images.names[row]}"
        for images, part in zip(classes, parts, strict=True)
        for row in part.rows.tolist()
    ]
    label = np.repeat(np.arange(len(classes)), [len(part.rows) for part in parts])
    return Rows(
        np.array(sources),
        label,
        np.concatenate([part.attribute for part in parts]),
        np.concatenate([rank[part.rows] for rank, part in zip(ranks, parts, strict=True)]),
    )


def _clusters(
    request: Request, classes: Sequence[ClassImages], work: Path, splitting: Mapping[str, Any]
) -> dict[str, str]:
    """Return the digest of the clusters that our own splits are made from; empty without clusters."""
    if request.annotation:
        return {}
    digest = clustering.digest(classes, work, splitting["weights"], request.seed)
    return {"clusters": digest} if digest else {}


def _splits(
    work: Path, request: Request, splitting: Mapping[str, Any], made_from: Mapping[str, Any]
) -> dict[str, Annotation]:
    """Read the result of stage `split`.

    Args:
        work: the build's work folder.
        request: what is asked for.
        splitting: what the splits depend on.
        made_from: the same, and the digest of today's clusters.

    Raises:
        DataError: the stage has not run, or ran with other options, its file is damaged, or the clusters changed since.
    """
    expected = (
        {"glt", "cbl"}
        if not request.annotation
        else {read(path, request.prefix).edition for path in request.annotation}
        if request.stage
        else None
    )
    found = {}
    for edition in ("glt", "cbl"):
        path = work / f"{edition}.json"
        try:
            annotation = read(path) if path.is_file() else None
        except DataError as error:
            raise DataError(f"{error}; stage=split writes it again") from None
        if annotation is None or {**annotation.build, "clusters": ""} != {**splitting, "clusters": ""}:
            continue
        if "clusters" in annotation.build and "clusters" in made_from and annotation.build != made_from:
            raise DataError(f"{path} was made from other clusters: stage=split comes before stage={request.stage}")
        found[edition] = annotation
    lacking = sorted((expected or set()) - set(found))
    if lacking or not found:
        missing = work / f"{lacking[0] if lacking else 'glt'}.json"
        raise DataError(
            f"{missing} is missing or was made with other words: stage=split comes before stage={request.stage}"
        )
    if len({(annotation.classes, annotation.groups) for annotation in found.values()}) > 1:
        raise DataError(
            "the two split files do not name the same classes in the same order; files of one version of the data "
            "set would be legal"
        )
    return found


def _pack(request: Request, editions: Mapping[str, Annotation], classes: Classes, options: Mapping[str, Any]) -> None:
    """Run the stages `pack` and `finish`."""
    folders, rows = _folders(editions)
    plan = _plan(request, next(iter(editions.values())).groups, folders, rows, classes)
    render = Copies(StoredSize(request.resize_short, request.quality))
    out, workers, notices = request.out / NAME, request.processes, classes.notices()
    indices = pack(out, plan, render, options=options, workers=workers, part=request.part, notices=notices)
    if not request.does("finish"):
        return
    finish(out, indices)
    statistics = {
        edition: channel_statistics(out / splits["train"], indices[splits["train"]], workers)
        for edition, splits in folders.items()
    }
    one = next(iter(editions.values()))
    finish_dataset(
        request.out,
        NAME,
        class_names=one.classes,
        class_groups=one.groups,
        editions=folders,
        statistics=statistics,
        options=options,
        notes=notices.added_to({"plan": planned_counts(plan, len(one.classes))}),
    )
    for relative, images in plan.items():
        print(f"{relative}: {len(images):,} images")
    print("\n".join([*notices.lines(), f"{NAME}: {sum(map(len, plan.values())):,} images in {request.out / NAME}"]))


def _plan(
    request: Request,
    groups: Sequence[int],
    folders: Mapping[str, Mapping[str, str]],
    rows: Mapping[str, Rows],
    classes: Classes,
) -> dict[str, list[Planned]]:
    """Plan the images of each split's folder, in the order in which they are packed.

    Raises:
        DataError: the source lacks an image.
    """
    numbers = {f"{name}/{file}": (images, i) for name, images in classes.items() for i, file in enumerate(images.names)}
    sources: dict[str, list[str]] = {relative: mine.source.tolist() for relative, mine in rows.items()}
    for relative in sorted(rows):
        if missing := next((source for source in sources[relative] if source not in numbers), None):
            what = "such image" if missing.partition("/")[0] in classes else f"class {missing.partition('/')[0]}"
            why = classes.why_left_out(missing)
            raise DataError(
                f"split {relative} needs {missing}, and source={request.source} has no {what}"
                + (f": {why}" if why else "")
                + (f" (named by annotation={','.join(map(str, request.annotation))})" if request.annotation else "")
            )
    keys = unique_keys(
        {edition: {relative: sources[relative] for relative in splits.values()} for edition, splits in folders.items()}
    )
    plan = {}
    for stream, relative in enumerate(sorted(rows)):
        order = Dice(request.seed, 10 + stream).permutation(len(rows[relative])).tolist()
        plan[relative] = [_planned(rows[relative], row, groups, numbers, keys) for row in order]
    return plan


def _folders(editions: Mapping[str, Annotation]) -> tuple[dict[str, dict[str, str]], dict[str, Rows]]:
    """Choose each split's folder; tests that are the same in both editions are stored once.

    Returns:
        edition -> split -> folder, and folder -> its rows.
    """
    folders: dict[str, dict[str, str]] = {}
    rows: dict[str, Rows] = {}
    for edition, annotation in editions.items():
        others = [other for name, other in editions.items() if name != edition]
        for name, mine in annotation.splits.items():
            shared = name in ("test_cbl", "test_gbl") and any(mine.same(other.splits[name]) for other in others)
            relative = f"{'shared' if shared else edition}/{name}"
            folders.setdefault(edition, {})[name] = relative
            rows[relative] = mine
    return folders, rows


def _planned(
    rows: Rows,
    row: int,
    groups: Sequence[int],
    numbers: Mapping[str, tuple[ClassImages, int]],
    keys: Mapping[str, str],
) -> Planned:
    source, label = str(rows.source[row]), int(rows.label[row])
    images, i = numbers[source]
    more = {} if rows.cluster[row] < 0 else {"cluster": int(rows.cluster[row])}
    return Planned(keys[source], source, images.place(i), label, groups[label], int(rows.attribute[row]), more)
