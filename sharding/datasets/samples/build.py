"""samples: a data set of any labelled images, cut into the suite's editions by a few words.

    python -m sharding.build data=birds source=/data/birds out=DIR long_tail=100 attributes=clusters

`source` is a folder of class folders, an archive of one, lists of paths and labels, a table, WebDataset shards, or the
original files of CIFAR and of the MNIST family; sharding/sources has a file for each. docs/your-data.md explains the
words.

Stages: `index` (finds the images), `features` and `clusters` (with attributes=clusters), `split`, `pack`, `finish`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.common.files import file_digest
from sharding.building.packing import WORK, Copies, channel_statistics, finish, pack, remove_others, source_changed
from sharding.building.request import Request, Unbuilt
from sharding.building.samples_words import file_of
from sharding.datasets.samples.equal_images import doubt_two_labels
from sharding.datasets.samples.listed.arrays import Listed
from sharding.datasets.samples.listed.index import listed, write_names
from sharding.datasets.samples.listed.plan import plan_of
from sharding.datasets.samples.splits import FOLDERS
from sharding.datasets.samples.stages import features
from sharding.datasets.samples.stages.split import Decided, decided
from sharding.datasets.samples.values import suggested
from sharding.format.dataset_json import finish_dataset, is_built
from sharding.images.encoding import StoredSize

TAKES = (
    "source",
    "format",
    "columns",
    "images",
    "classes",
    "long_tail",
    "head",
    "groups",
    "attributes",
    "features",
    "weights",
    "clusters",
    "attribute_tail",
    "val",
    "test_cbl",
    "test_gbl",
    "seed",
    "resize_short",
    "quality",
    "workers",
    "preview",
)
STAGES = {"index": False, "features": True, "clusters": True, "split": False, "pack": True, "finish": False}
ONLY_FOR = {"attributes=clusters": ("features", "clusters")}
VERSION = 1  # raise it with any change of the bytes: it is part of the recorded build options


def build(request: Request) -> None:
    """Build `out/NAME` from `source=`, or the requested stage of it; do nothing if the same build exists already.

    Raises:
        DataError: something is wrong with the source or the words; one sentence.
    """
    folder = request.out / request.name
    work = folder / WORK
    work.mkdir(parents=True, exist_ok=True)
    found = listed(request.samples, work, request.processes, must_be_kept=request.part != (1, 1))
    options = _options(request, found)
    base = Path(found.base) if found.base else None
    built = not request.stage and is_built(request.out, request.name, options)
    if built and not source_changed(folder, base, found.files) and not features.source_changed(request, found, work):
        print(f"{request.name} is already in {folder}: nothing to do")
        return
    if request.only_asks:
        raise Unbuilt
    if request.does("index") or request.does("finish"):  # what they say of the images must be so today
        found = listed(request.samples, work, request.processes, each=True)
        options["images"] = found.digest
    if request.does("index"):
        _say_index(found)
    made = decided(request, found, work)
    if request.stage == "index":
        write_names(found, work)
    if made is not None and (request.does("pack") or request.does("finish")):
        _pack(request, made, options)


def _options(request: Request, found: Listed) -> dict[str, Any]:
    """Return what the bytes depend on: the images, the seed and the words; a file counts by its content."""
    words = request.samples
    chosen = {
        word: value if (path := file_of(word, value)) is None else {"sha256": file_digest(path)}
        for word, value in (
            ("long_tail", words.long_tail),
            ("head", words.head),
            ("groups", words.groups),
            ("attributes", words.attributes),
            ("val", words.val),
            ("test_cbl", words.test_cbl),
            ("test_gbl", words.test_gbl),
            ("attribute_tail", words.attribute_tail and ":".join(map(str, words.attribute_tail))),
            *([("features", words.features), ("clusters", words.clusters)] if words.attributes == "clusters" else []),
            ("weights", features.network_weights(request)),
        )
        if value is not None
    }
    return {
        "builder": "samples",
        "version": VERSION,
        "seed": request.seed,
        "images": found.digest,
        **chosen,
        **StoredSize(request.resize_short, request.quality).options,
    }


def _say_index(found: Listed) -> None:
    given = [int((found.split == number).sum()) for number in (1, 2, 3)]
    splits = ", ".join(
        f"{count:,} given as {name}" for name, count in zip(("train", "val", "test"), given, strict=True) if count
    )
    print(f"{len(found):,} images of {len(found.classes):,} classes" + (f", {splits}" if splits else ""))
    print("".join(f"{line}\n" for line in found.notices().lines()), end="")


def _pack(request: Request, made: Decided, options: dict[str, Any]) -> None:
    """Run the stages `pack` and `finish`."""
    out, stored = request.out / request.name, StoredSize(request.resize_short, request.quality, any_image=True)
    notices = made.images.listed.notices()
    plan = plan_of(made.images, made.editions, made.rows)
    workers = request.processes_for(sum(map(len, plan.values())))
    bytes_of = {"builder": "samples", "version": VERSION, **stored.options}
    indices = pack(out, plan, Copies(stored), options=bytes_of, workers=workers, part=request.part, notices=notices)
    if not request.does("finish"):
        return
    doubt_two_labels(indices, made.classes, notices)
    finish(out, indices)
    remove_others(out, FOLDERS - plan.keys())
    statistics = {
        edition: channel_statistics(out / splits["train"], indices[splits["train"]], workers)
        for edition, splits in made.editions.items()
    }
    sides = made.images.listed.said["sizes"]
    values = suggested(sides, statistics["glt"], len(plan["glt/train"]), request.resize_short)
    notes = {"plan": {folder: images.counts().tolist() for folder, images in plan.items()}, **made.notes}
    finish_dataset(
        request.out,
        request.name,
        class_names=made.classes,
        class_groups=made.images.groups,
        editions=made.editions,
        statistics=statistics,
        options=options,
        notes=notices.added_to(notes),
        values=values.nested(),
        kind=values.kind,
    )
    features.keep_finished(request, out / WORK)
    for relative, images in plan.items():
        print(f"{relative}: {len(images):,} images")
    for line in (*made.sentences, *notices.lines()):
        print(line)
    print("recipes on it start from these values (data/NAME.yaml and the command's words come after them):")
    for value in values.values:
        print(f"  {value}")
    print(f"{request.name}: {sum(map(len, plan.values())):,} images in {out}")
