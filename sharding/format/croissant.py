"""Writes `croissant.json` beside dataset.json: what a data set holds, in the vocabulary that search engines and loaders
of data sets share (Croissant 1.0, JSON-LD).

It names every shard with its digest, the fields of a sample, the splits of each edition and the classes. Nothing here
reads it. It stays true when the folder is copied, for all addresses in it count from its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.common.files import write_whole
from recipes.common.json_text import parse_json
from sharding.format.dataset import read_dataset
from sharding.format.index import Index
from sharding.format.shards import FIELDS

CROISSANT_FILE = "croissant.json"
NO_LICENCE = "Its licence is not stated: the build was given no license=."
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{
        word: f"cr:{word}"
        for word in (
            *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet"),
            *("format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
            *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField"),
            "transform",
        )
    },
}
"""What the words mean, as the vocabulary's definition lists them."""


def describe_again(
    folder: Path, meta: Mapping[str, Any], indices: Mapping[str, Index], license: str | None = None
) -> None:
    """Write a data set's croissant.json.

    Where no licence is given, one that it states already stays if the data set has the same bytes: of other images
    nobody stated it.

    Args:
        folder: the data set's.
        meta: as for `croissant`; so are the next two.
        indices: of each split.
        license: of the images.
    """
    text = croissant(meta, indices, license or licence_of(folder, meta["fingerprint"]))
    write_whole(folder / CROISSANT_FILE, text)


def state_licence(folder: Path, license: str) -> None:
    """Write the licence of a finished data set into its croissant.json.

    Raises:
        DataError: it is not there, or damaged.
    """
    dataset = read_dataset(folder.parent, folder.name)
    of = {
        relative: (edition, split) for edition, splits in dataset.editions.items() for split, relative in splits.items()
    }
    describe_again(
        folder, dataset.meta, {relative: dataset.split(*where).index for relative, where in of.items()}, license
    )


def licence_of(folder: Path, fingerprint: str | None = None) -> str | None:
    """Return the licence that a data set's croissant.json states; None where it states none or cannot be read.

    Args:
        folder: the data set's.
        fingerprint: that of the data set of which it must be stated; None: of any.
    """
    try:
        said = parse_json((folder / CROISSANT_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(said, dict) or fingerprint not in (None, said.get("identifier")):
        return None
    found = said.get("license")
    return found if isinstance(found, str) else None


def croissant(meta: Mapping[str, Any], indices: Mapping[str, Index], license: str | None = None) -> str:
    """Return the text of croissant.json; the same data set gives the same bytes.

    Args:
        meta: the content of dataset.json.
        indices: of each split, by its folder relative to the data set's.
        license: of the images; None where nobody stated it.
    """
    files: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = [_classes(meta), _splits(meta)]
    for relative, index in sorted(indices.items()):
        files += _shards(relative, index) + _members(relative, index)
        records += _samples(relative, len(index))
    said = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": meta["name"],
        "description": _description(meta, license),
        **({"license": license} if license else {}),
        "identifier": meta["fingerprint"],
        "distribution": files,
        "recordSet": records,
    }
    return json.dumps(said, indent=1, ensure_ascii=False) + "\n"


def _description(meta: Mapping[str, Any], license: str | None) -> str:
    """Say in sentences what the data set is."""
    images = sum(entry["samples"] for entry in meta["splits"].values())
    build = meta["build"]
    made = f" Built by {build['builder']}." if isinstance(build.get("builder"), str) else ""
    return (
        f"{meta['name']}: {images:,} images of {len(meta['class_names'])} classes in WebDataset shards, for "
        f"long-tailed recognition. Editions: {', '.join(sorted(meta['editions']))}.{made} "
        f"Fingerprint {meta['fingerprint']}." + ("" if license else f" {NO_LICENCE}")
    )


def _shards(relative: str, index: Index) -> list[dict[str, Any]]:
    """Describe each tar of a split with its digest."""
    rows = zip(index.shard_name.tolist(), index.shard_size.tolist(), index.shard_sha256, strict=True)
    return [
        {
            "@type": "cr:FileObject",
            "@id": f"{relative}/{name}",
            "name": f"{relative}/{name}",
            "contentUrl": f"{relative}/{name}",
            "contentSize": f"{size} B",
            "encodingFormat": "application/x-tar",
            "sha256": digest.tobytes().hex(),
        }
        for name, size, digest in rows
    ]


def _members(relative: str, index: Index) -> list[dict[str, Any]]:
    """Describe the three members that each sample has in a split's tars."""
    inside = [{"@id": f"{relative}/{name}"} for name in index.shard_name.tolist()]
    kinds = {"jpg": "image/jpeg", "cls": "text/plain", "json": "application/json"}
    return [
        {
            "@type": "cr:FileSet",
            "@id": f"{relative}/{ending}",
            "name": f"{relative}/{ending}",
            "containedIn": inside[0] if len(inside) == 1 else inside,
            "encodingFormat": form,
            "includes": f"*.{ending}",
        }
        for ending, form in kinds.items()
    ]


def _samples(relative: str, count: int) -> list[dict[str, Any]]:
    """Describe the samples of a split in record sets with a common key: images, labels, and all that is known of each.

    They are different members of the tars. Of mlcroissant 1.1 the first two can be loaded; it does not read JSON inside
    of tars, so the third one is a description.
    """
    content = {"extract": {"fileProperty": "content"}}
    fields = {
        "images": ("jpg", [("image", "sc:ImageObject", "the image", content)]),
        "labels": ("cls", [("label", "sc:Integer", FIELDS["label"][1], content)]),
        "annotations": (
            "json",
            [(name, kind, said, {"extract": {"jsonPath": f"$.{name}"}}) for name, (kind, said) in FIELDS.items()],
        ),
    }
    described = []
    for what, (ending, own) in fields.items():
        files = {"fileSet": {"@id": f"{relative}/{ending}"}}
        named = {"extract": {"fileProperty": "filename"}, "transform": {"regex": rf"^(.*)\.{ending}$"}}
        key = ("key", "sc:Text", "name of the sample, unique in its split", named)
        sources = [(name, kind, said, files | where) for name, kind, said, where in (key, *own)]
        described.append(_record_set(f"{relative}/{what}", f"{what} of the {count:,} samples of {relative}", sources))
    return described


def _record_set(name: str, said: str, fields: list[tuple[str, str, str, dict[str, Any]]]) -> dict[str, Any]:
    """Return a record set; of each field its name, type, meaning and source."""
    described = [
        {"@type": "cr:Field", "@id": f"{name}#{field}", "name": field, "description": about, "dataType": kind}
        | {"source": source}
        for field, kind, about, source in fields
    ]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "description": said, "field": described}


def _classes(meta: Mapping[str, Any]) -> dict[str, Any]:
    rows = zip(meta["class_names"], meta["class_groups"], strict=True)
    values = [{"label": label, "name": name, "group": group} for label, (name, group) in enumerate(rows)]
    kinds = {"label": "sc:Integer", "name": "sc:Text", "group": "sc:Integer"}
    return _inline("classes", "the classes by id", values, kinds)


def _splits(meta: Mapping[str, Any]) -> dict[str, Any]:
    values = [
        {"edition": edition, "split": split, "folder": relative, "samples": meta["splits"][relative]["samples"]}
        for edition, splits in sorted(meta["editions"].items())
        for split, relative in sorted(splits.items())
    ]
    said = "the folder of each edition's split, with which the names of its record sets begin; editions may share one"
    kinds = {"edition": "sc:Text", "split": "sc:Text", "folder": "sc:Text", "samples": "sc:Integer"}
    return _inline("splits", said, values, kinds)


def _inline(name: str, said: str, values: list[dict[str, Any]], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return a record set whose values stand in the file."""
    fields = [
        {"@type": "cr:Field", "@id": f"{name}#{field}", "name": field, "dataType": kind}
        for field, kind in kinds.items()
    ]
    data = [{f"{name}#{field}": value for field, value in row.items()} for row in values]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "description": said, "field": fields, "data": data}
