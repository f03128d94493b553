"""The archive: copies of finished runs on a disk that is not purged, and the way back.

A copy is made beside its place, every file verified against its source, and then renamed: it is whole or not there.
`ARCHIVED.json` in it holds each file's sha256. A run of the same name that was made again takes the place, and the
older copy becomes NAME.old-N. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from recipes.common.errors import DataError
from recipes.common.files import file_digest, named, sync_folder, unfinished, write_json, write_synced
from recipes.common.json_text import read_object
from recipes.folders import LIGHT, place_aside
from slurm.after_run.settings import Archive
from slurm.monitoring.events import read

MANIFEST = "ARCHIVED.json"
MORE = ("preds/best/*.npz",)
"""What an archive holds besides a run's light part, so that tables may say `select=best`."""
REMEDY = "put a whole copy of the run folder in its place, or make the run again with again=yes"

DISPLACES = "is the folder of the runs themselves, where a copy would displace its run: another folder is legal"


def keep(folder: Path, archive: Archive) -> Path | None:
    """Copy a finished run into the archive; returns the copy, None where it was there.

    Raises:
        OSError: the archive cannot be written, or the run not be read.
        DataError: the archive is not there or holds the run itself, or a file is not what was written.
    """
    place = Path(archive.folder)
    if not place.is_dir():
        raise DataError(f"{place} is no folder here: an archive is not made, for its disk may not be mounted")
    if is_folder_of(folder, archive):
        raise DataError(f"{place} {DISPLACES}")
    target, done = place / folder.name, file_digest(folder / "done")
    names = _files(folder, archive.weights)
    if _is_copy(target, done, names):
        return None
    digests = _copied(folder, place, target, names)
    if digests["done"] != done:
        raise DataError(f"{folder} was made again while it was copied")
    return target


def is_folder_of(run: Path, archive: Archive) -> bool:
    """Say whether the archive is the very folder that a run is in, under whatever name."""
    return os.path.realpath(archive.folder) == os.path.realpath(run.parent)


def lacking(folder: Path, archive: Archive) -> bool:
    """Say whether a finished run has no whole copy in the archive yet."""
    try:
        files = _files(folder, archive.weights)
        return not _is_copy(Path(archive.folder) / folder.name, file_digest(folder / "done"), files)
    except (OSError, DataError):
        return False


def archived(folder: Path, archive: Archive | None) -> Path | None:
    """Return the archive's copy of a run that its folder no longer tells to be finished; None where there is none.

    A run that again=yes has made new since, also where it waits yet, is not the archived one.
    """
    if archive is None or (folder / "done").exists():
        return None
    copy = Path(archive.folder) / folder.name
    try:
        marked = (copy / MANIFEST).is_file()
        since = read_object(copy / MANIFEST, {"time": float})["time"] if marked else (copy / "done").stat().st_mtime
    except (OSError, DataError):
        return None
    newer = any(event.get("time", 0) > since for event in read(folder))
    return copy if (copy / "recipe.yaml").is_file() and not newer else None


def put_back(copy: Path, folder: Path) -> Path | None:
    """Copy a run from the archive to its place; what a purge has left there is set aside, under the name returned.

    Raises:
        OSError: a file cannot be read or written.
        DataError: the copy is not what was written.
    """
    stored = read_object(copy / MANIFEST, {"files": dict}, REMEDY)["files"] if (copy / MANIFEST).exists() else {}
    names = list(stored) or [path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()]
    if wrong := next((name for name in names if Path(name).is_absolute() or ".." in Path(name).parts), None):
        raise DataError(f"{copy / MANIFEST} is damaged (it names {wrong}); {REMEDY}")
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    left = place_aside(folder) if folder.exists() else None
    digests = _copied(copy, folder.parent, folder, names, manifest=False, expected=stored)
    assert "done" in digests, "an archived run is finished"
    return left


def has_weights(copy: Path) -> bool:
    """Say whether a copy in the archive holds its last epoch's weights."""
    return all((copy / name).is_file() for name in _weights(copy))


def _files(folder: Path, weights: bool) -> list[str]:
    light = [path for pattern in (*LIGHT, *MORE) for path in sorted(folder.glob(pattern)) if path.is_file()]
    return [*(path.relative_to(folder).as_posix() for path in light), *(_weights(folder) if weights else {})]


def _weights(folder: Path) -> dict[str, str]:
    """Return the file of the last epoch's weights, with its sha256; none where the run evaluates another's."""
    last = read_object(folder / "done", {}).get("weights", {})
    found = last.get("last") if isinstance(last, dict) else None
    return {f"ckpt/{found[0]}": str(found[1])} if isinstance(found, list) and len(found) == 2 else {}


def _is_copy(target: Path, done: str, names: Iterable[str]) -> bool:
    """Say whether a folder of the archive is a whole copy of this very run, with these files."""
    try:
        stored = read_object(target / MANIFEST, {"files": dict})["files"]
    except DataError:
        return False
    needed = [
        name for name in names if not name.startswith("log/")
    ]  # which grows after the end, by a note of this, too
    return stored.get("done") == done and all(name in stored and (target / name).is_file() for name in needed)


def _copied(
    source: Path,
    parent: Path,
    target: Path,
    names: Iterable[str],
    manifest: bool = True,
    expected: dict[str, str] | None = None,
) -> dict[str, str]:
    """Copy files, verify them, and give their folder its name; returns each file's sha256.

    Args:
        source: where they are.
        parent: of the copy, where it is made.
        target: the copy's name; what is there is set aside.
        names: the files, relative to `source`.
        manifest: whether the copy gets one.
        expected: the sha256 that files must have.
    """
    temporary = unfinished(parent / target.name)
    shutil.rmtree(temporary, ignore_errors=True)
    expected = {**_weights(source), **(expected or {})}
    try:
        temporary.mkdir(mode=0o700)
        digests = {name: _copy_file(source / name, temporary / name, expected.get(name)) for name in names}
        if manifest:
            about = {"from": str(source), "time": round(time.time(), 1), "files": digests}
            write_json(temporary / MANIFEST, about)
        for inner in [*(path for path in temporary.rglob("*") if path.is_dir()), temporary]:
            sync_folder(inner)
        if target.exists():
            target.rename(place_aside(target))
        temporary.rename(target)
        sync_folder(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return digests


def _copy_file(source: Path, copy: Path, expected: str | None) -> str:
    """Copy a file, read the copy back and compare; returns the sha256.

    Raises:
        DataError: the source is not what was written, or the copy is not the source.
    """
    copy.parent.mkdir(parents=True, exist_ok=True)
    with named(source):
        data = source.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if expected is not None and digest != expected:
        raise DataError(f"{source} is not what was written; {REMEDY}")
    write_synced(copy, data)
    if file_digest(copy) != digest:
        raise DataError(f"{copy} is not what was copied: its disk may be damaged")
    return digest
