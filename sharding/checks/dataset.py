"""Checks that a data set's parts agree: dataset.json, indices, files in the folders, and samples across splits."""

from __future__ import annotations

import json
import math
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.errors import DataError, one_line
from recipes.common.json_text import NotJson, parse_json
from sharding.building.keys import loose_name
from sharding.building.notices import ALIKE, DOUBTFUL, LEFT_OUT, sentences
from sharding.checks.report import Findings, first_difference
from sharding.format.dataset import DATASET_FILE, DIGEST, META_KEYS, changed, digest_of, misshapen
from sharding.format.index import INDEX_FILE, Index, load_index, save_index
from sharding.format.shards import index_of_shards

SHARD = "shard-*.tar"
Meeting = tuple[tuple[str, int], tuple[str, int]]
"""Two samples, (folder, row) each."""


def read_meta(folder: Path, found: Findings) -> dict[str, Any] | None:
    """Read `folder/dataset.json`; None, with a finding, if it cannot be used."""
    try:
        data = (folder / DATASET_FILE).read_bytes()
    except FileNotFoundError:
        found.add(
            DATASET_FILE,
            "the file is missing, so the build was not finished; the shards were checked against their indices alone",
        )
        return None
    try:
        content = parse_json(data)
    except NotJson as error:
        found.add(DATASET_FILE, one_line(f"the file is damaged {error}"), error.offset)
        return None
    if wrong := misshapen(content):
        found.add(DATASET_FILE, one_line(f"the file cannot be used: {wrong}"))
        return None
    meta: dict[str, Any] = content
    written = (json.dumps(meta, indent=1, sort_keys=True) + "\n").encode()
    if data != written:
        position = first_difference(data, written)
        found.add(
            DATASET_FILE,
            f"the file's text is not the one that a build writes, from byte offset {position} on",
            position,
        )
    return meta


def check_notices(notes: Any, warnings: Findings) -> None:
    """Repeat what the build had to say about its source."""
    try:
        for sentence in sentences(notes or {}):
            warnings.add(DATASET_FILE, f"by the build, {sentence}")
    except (AttributeError, KeyError, TypeError):  # written by another program, whose notes have another form
        warnings.add(DATASET_FILE, f"notes.{LEFT_OUT} or notes.{DOUBTFUL} is not what a build writes")


def check_digest(meta: Mapping[str, Any], warnings: Findings) -> None:
    """Warn where dataset.json has lost its digest, without which a change of its text may go unseen.

    Sets of the first versions have none. It came with `notes.plan`; and an entry that no build writes is what damage
    has made of the key.
    """
    foreign = sorted(meta.keys() - META_KEYS)
    if DIGEST not in meta and (foreign or "plan" in meta.get("notes", {})):
        instead = f", and {foreign[0]!r}, which no build writes" if foreign else ""
        warnings.add(
            DATASET_FILE, one_line(f"the file has no digest of its own{instead}: a change in it may be unseen")
        )


def split_folders(folder: Path, meta: Mapping[str, Any] | None) -> list[str]:
    """List the splits' folders relative to `folder`, sorted: those named by dataset.json, else those that exist."""
    if meta is not None:
        return sorted(meta["splits"])
    return sorted(
        {
            str(path.parent.relative_to(folder))
            for pattern in (INDEX_FILE, SHARD)
            for path in folder.glob(f"[!.]*/[!.]*/{pattern}")
        }
    )


def read_index(folder: Path, relative: str, recorded: str | None, found: Findings) -> Index | None:
    """Read a split's index and check it against its recorded fingerprint.

    A damaged index is named to the byte and, if the shards can be read, replaced by an index made from them. Otherwise
    the result is None, with findings.
    """
    place, path = f"{relative}/{INDEX_FILE}", folder / relative / INDEX_FILE
    try:
        index = load_index(folder / relative)
    except DataError as error:
        return _rebuilt(folder, relative, recorded, str(error).replace(f"{folder}/", ""), found)
    if recorded is not None and index.fingerprint != recorded:
        found.add(
            place, f"the index has fingerprint {index.fingerprint[:12]}, {DATASET_FILE} records {str(recorded)[:12]}"
        )
    position = _first_other_byte(path, index)
    if position is not None:
        found.add(
            place,
            f"the file's bytes are not those that this index is stored as, from byte offset {position} on",
            position,
        )
    return index


def _rebuilt(folder: Path, relative: str, recorded: str | None, reason: str, found: Findings) -> Index | None:
    place, path = f"{relative}/{INDEX_FILE}", folder / relative / INDEX_FILE
    try:
        index = index_of_shards(folder / relative, sorted(shard.name for shard in (folder / relative).glob(SHARD)))
    except (
        DataError,
        tarfile.TarError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
    ) as error:  # anything, from damaged shards
        found.add(
            place,
            f"{reason}; nor can its shards be indexed anew, so they were not checked: "
            f"{' '.join(str(error).split()).replace(f'{folder}/', '')}",
        )
        return None
    same = recorded is not None and index.fingerprint == recorded
    position = _first_other_byte(path, index) if same and path.exists() else None
    damage = f" (the first damaged byte is at offset {position})" if position is not None else ""
    verdict = (
        "as recorded, so the index could be made anew from them"
        if same
        else "not the recorded one"
        if recorded is not None
        else "taken instead"
    )
    found.add(
        place,
        f"{reason}{damage}; the index that the shards themselves give is {verdict}",
        -1 if position is None else position,
    )
    return index


def _first_other_byte(path: Path, index: Index) -> int | None:
    """Return the first byte offset at which the file differs from what `index` is stored as, or None."""
    with tempfile.TemporaryDirectory() as folder:
        data, written = path.read_bytes(), save_index(Path(folder), index).read_bytes()
    if data == written:
        return None
    short = min(len(data), len(written))
    different = np.flatnonzero(np.frombuffer(data, np.uint8, short) != np.frombuffer(written, np.uint8, short))
    return int(different[0]) if len(different) else short


def check_meta(folder: Path, meta: Mapping[str, Any], indices: Mapping[str, Index], found: Findings) -> None:
    """Compare dataset.json with the indices: name, classes, counts, fingerprints, statistics, and the build's plan.

    Args:
        folder: the data set's folder.
        meta: the content of dataset.json, as `read_meta` gives it.
        indices: relative folder of each split -> its index.
        found: takes what is wrong.
    """
    plan = _recorded_plan(meta)
    _check_names(folder, meta, plan, found)
    groups = np.array(meta["class_groups"], np.int64)
    for relative, index in indices.items():
        _check_labels(relative, index, groups, found)
        counted = index.counts(len(groups))
        for key, value in counted.items():
            sentence = f"split {relative} has {key} {{}}, its index {{}}"
            _compare(meta["splits"][relative].get(key), value, sentence, found)
        if relative in plan:
            _check_planned(relative, plan[relative], counted, found)
    _check_statistics(meta, found)


def _recorded_plan(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the recorded plan of the build, relative folder -> images; empty if nothing usable is recorded."""
    notes = meta.get("notes")
    plan = meta["build"].get("plan") or (notes.get("plan") if isinstance(notes, dict) else None)
    return plan if isinstance(plan, dict) else {}


def _check_names(folder: Path, meta: Mapping[str, Any], plan: Mapping[str, Any], found: Findings) -> None:
    """Check the digests, the data set's name, and that editions, splits and plan name the same folders."""
    if wrong := changed(meta):
        found.add(DATASET_FILE, wrong)
    if meta["name"] not in (folder.name, folder.resolve().name):  # a link's name, or that of the folder it leads to
        found.add(DATASET_FILE, f"the data set's name is {meta['name']!r}, its folder's {folder.name!r}")
    named = {relative for splits in meta["editions"].values() for relative in splits.values()}
    for relative in sorted(set(meta["splits"]) - named):
        found.add(DATASET_FILE, f"split {relative} is in no edition")
    for relative in sorted(plan.keys() - meta["splits"].keys()):
        found.add(DATASET_FILE, f"the build planned split {relative}, which is not there")
    stated = {key: meta[key] for key in ("name", "class_names", "class_groups", "editions")}
    fingerprints = {relative: entry.get("fingerprint") for relative, entry in meta["splits"].items()}
    if meta["fingerprint"] != digest_of({**stated, "splits": fingerprints}):
        found.add(
            DATASET_FILE,
            f"the data set's fingerprint {meta['fingerprint'][:12]} is not that of the classes, editions and splits "
            "that the file names",
        )


def _check_labels(relative: str, index: Index, groups: np.ndarray, found: Findings) -> None:
    """Check that each sample's label names a class, and its group is that of its class; `groups` [K] int64."""
    beyond = index.label >= len(groups)
    for row in np.flatnonzero(beyond).tolist():
        found.add(*_row(relative, index, row, f"has label {index.label[row]}; there are {len(groups)} classes"))
    inside = np.flatnonzero(~beyond)
    for row in inside[groups[index.label[inside]] != index.group[inside]].tolist():
        label = index.label[row]
        found.add(*_row(relative, index, row, f"has group {index.group[row]}; its class {label} has {groups[label]}"))


def _check_planned(relative: str, planned: Any, counted: Mapping[str, Any], found: Findings) -> None:
    """Compare a split with the build's plan: a number of samples, a list by class, or one by class and attribute."""
    if not isinstance(planned, list):
        like = counted["samples"]
    elif planned and isinstance(planned[0], list):
        like = counted["per_class_attribute"]
    else:
        like = counted["per_class"]
    _compare(planned, like, f"the build planned {{}} samples for split {relative}, its index has {{}}", found)


def _check_statistics(meta: Mapping[str, Any], found: Findings) -> None:
    """Check that every edition, and nothing else, has the mean and standard deviation of three channels."""
    for edition in sorted(meta["editions"].keys() | meta["statistics"].keys()):
        entry = meta["statistics"].get(edition, {})
        for key in ("mean", "std"):
            values = entry.get(key) if isinstance(entry, dict) else None
            if edition not in meta["editions"] or not _is_three_shares(values):
                found.add(
                    DATASET_FILE,
                    f"statistics of edition {edition}: {key} is {values!r}; three numbers from 0 to 1 for an edition "
                    "that is there would be legal",
                )


def _is_three_shares(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(isinstance(v, int | float) and math.isfinite(v) and 0 <= v <= 1 for v in values)
    )


def _compare(recorded: Any, counted: Any, sentence: str, found: Findings) -> None:
    """Add a finding if the counts differ: `sentence`, with the two counts filled in.

    If both are lists of equal length, it names the first class that differs and how many more differ.
    """
    if recorded == counted and not isinstance(recorded, bool):
        return
    if isinstance(recorded, list) and isinstance(counted, list) and len(recorded) == len(counted):
        wrong = [label for label, (one, two) in enumerate(zip(recorded, counted, strict=True)) if one != two]
        more = f" (and {len(wrong) - 1} more classes)" if len(wrong) > 1 else ""
        found.add(
            DATASET_FILE, sentence.format(recorded[wrong[0]], counted[wrong[0]]) + f", for class {wrong[0]}{more}"
        )
    else:
        found.add(
            DATASET_FILE,
            sentence.format(
                *("a list of " + str(len(value)) if isinstance(value, list) else value for value in (recorded, counted))
            ),
        )


def check_files(folder: Path, relative: str, index: Index | None, found: Findings, doubts: Findings) -> None:
    """Find files that do not belong in a split's folder: shards not in the index, and (as doubts) others."""
    known = {INDEX_FILE, *(index.shard_name.tolist() if index is not None else ())}
    for path in sorted((folder / relative).iterdir()) if (folder / relative).is_dir() else ():
        if index is not None and path.name not in known and path.suffix == ".tar":
            found.add(f"{relative}/{path.name}", "the shard is not in the index")
        elif path.name not in known and path.suffix != ".tar":
            doubts.add(f"{relative}/{path.name}", "the file is no part of a split")


def check_folders(folder: Path, relatives: list[str], doubts: Findings) -> None:
    """Find folders with shards that dataset.json does not name; these are doubts, since nothing reads them."""
    for other in split_folders(folder, None):
        if other not in relatives:
            doubts.add(other, f"the folder holds a split that {DATASET_FILE} does not name")


def folder_pairs(editions: Mapping[str, Mapping[str, str]]) -> dict[tuple[str, str], str]:
    """Map every two splits of one edition, as sorted (folder, folder), to the first edition that has both."""
    pairs: dict[tuple[str, str], str] = {}
    for edition in sorted(editions):
        used = sorted(set(editions[edition].values()))
        pairs |= {(one, two): edition for i, one in enumerate(used) for two in used[i + 1 :] if (one, two) not in pairs}
    return pairs


def check_across(
    meta: Mapping[str, Any], indices: Mapping[str, Index], found: Findings, duplicates: Findings, doubts: Findings
) -> set[Meeting]:
    """Find samples that are in two splits of an edition.

    They have the same source, key or image bytes, or the same class and a source or key that differs only in case, in
    an image's extension or in leading folders. (Images of two classes so named are two: the path of one class's folder
    may end as another's does.) Equal bytes of different sources go to `duplicates`: raw data may hold an image twice.
    Other bytes under a name that the build saw beside the other one, in one folder, go to `doubts`.

    Args:
        meta: the content of dataset.json; its `editions` and `notes` are read.
        indices: relative folder of each split -> its index.
        found: takes what is wrong.
        duplicates: takes the same bytes under two names.
        doubts: takes two names of two files.

    Returns:
        The pairs that went to `doubts`: if they look alike, they are wrong.
    """
    pairs = folder_pairs(meta.get("editions", {}))
    shared, doubted = set[Meeting](), set[Meeting]()
    for what in ("source", "key"):
        columns = {relative: getattr(index, what).tolist() for relative, index in indices.items()}
        for tables, others in _tables(columns, indices):
            for one, two, edition in _meetings(pairs, tables, others):
                (first, a), (second, b) = one, two
                here, there = columns[first][a], columns[second][b]
                if (one, two) in shared:
                    continue
                if what == "source" and _are_two_files(here, there, meta.get("notes")) and _differ(indices, one, two):
                    doubted.add((one, two))
                    doubts.add(first, f"source {here!r} is, but for case or extension, {there!r} in {second}", a)
                    continue
                shared.add((one, two))
                same = f"{what} {here!r}" if here == there else f"{what} {here!r}, as {there!r},"
                keys = (
                    f" (keys {str(indices[first].key[a])!r} and {str(indices[second].key[b])!r})"
                    if what == "source"
                    else ""
                )
                found.add(
                    first, f"{same} is also in {second}{keys}; in edition {edition} it may be in one split only", a
                )
    digests = {
        relative: {digest.tobytes(): row for row, digest in reversed(list(enumerate(index.sha256)))}
        for relative, index in indices.items()
    }
    for one, two, edition in _meetings(pairs, digests, digests):
        (first, a), (second, b) = one, two
        if (one, two) not in shared:
            duplicates.add(
                first,
                f"the image of key {str(indices[first].key[a])!r} is, byte for byte, also that of key "
                f"{str(indices[second].key[b])!r} in {second}, both of edition {edition}",
                int(a),
            )
    return doubted


def _are_two_files(one: str, other: str, notes: Any) -> bool:
    """Return whether the build counted both sources as files of one folder whose names are alike.

    It kept the first names alone; where there are more, its count stands for them.
    """
    try:
        seen = notes[DOUBTFUL][ALIKE]
        counted: bool = seen["count"] > len(seen["first"]) or {one, other} <= set(seen["first"])
    except (KeyError, TypeError):
        return False
    return counted and one.rpartition("/")[0] == other.rpartition("/")[0]


def _differ(indices: Mapping[str, Index], one: tuple[str, int], other: tuple[str, int]) -> bool:
    digests: set[bytes] = {indices[relative].sha256[row].tobytes() for relative, row in (one, other)}
    return len(digests) > 1


_Rows = Mapping[str, Mapping[Any, int]]
"""Folder of a split -> name or digest -> the first row that has it."""


def _tables(names: Mapping[str, Sequence[str]], indices: Mapping[str, Index]) -> Iterator[tuple[_Rows, _Rows]]:
    """Yield the tables that are compared by the names of the splits' rows: equal names, then those alike in a class.

    The latter stand behind their label and a space, in the form that tells no case and no image's extension.
    """
    equal = {relative: _first_rows(mine) for relative, mine in names.items()}
    yield equal, equal
    labelled = {
        relative: [f"{label} {loose_name(name)}" for label, name in zip(index.label.tolist(), mine, strict=True)]
        for (relative, index), mine in zip(indices.items(), names.values(), strict=True)
    }
    alike = {relative: _first_rows(mine) for relative, mine in labelled.items()}
    below = {relative: _first_rows_below(mine) for relative, mine in labelled.items()}
    yield from ((alike, alike), (alike, below), (below, alike))


def _first_rows(names: Sequence[str]) -> dict[str, int]:
    """Map each name to its first row."""
    return {name: row for row, name in reversed(list(enumerate(names)))}


def _first_rows_below(names: Sequence[str]) -> dict[str, int]:
    """Map what is left of labelled names without one, two, ... leading folders to its first row."""
    table: dict[str, int] = {}
    for row, name in enumerate(names):
        label, _, part = name.partition(" ")
        while "/" in part:
            part = part.partition("/")[2]
            table.setdefault(f"{label} {part}", row)
    return table


def _meetings(
    pairs: Mapping[tuple[str, str], str], tables: _Rows, others: _Rows
) -> Iterator[tuple[tuple[str, int], tuple[str, int], str]]:
    """Yield ((folder, row), (folder, row), edition) for every name in the first folder's table and the other's."""
    for (first, second), edition in pairs.items():
        one, two = tables.get(first, {}), others.get(second, {})
        for name in one.keys() & two.keys():
            yield (first, one[name]), (second, two[name]), edition


def _row(relative: str, index: Index, row: int, what: str) -> tuple[str, str, int]:
    """Return place, text and offset of a finding about one sample."""
    place = f"{relative}/{index.shard_name[index.shard[row]]}"
    return place, f"key {str(index.key[row])!r} at byte offset {index.offset[row]} {what}", int(index.offset[row])
