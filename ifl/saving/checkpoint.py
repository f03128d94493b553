"""Checkpoints that are whole or not there, verified before use.

A checkpoint is written into `ckpt/tmp-*`: DeepSpeed's files by each rank, everything of ours by rank 0 in `suite.pt`
(plain tensors and numbers). Each rank hashes its files in memory and makes them durable; rank 0 writes MANIFEST.json
last and renames the folder to `step-NNNNNNNNN`. It holds a copy of the files beside it that it needs (the best
epoch's weights), from which they are put back where they are lost or damaged; they are kept as long as a checkpoint
needs them. Nothing points to the latest: resuming looks for the newest folder whose files have the manifest's
hashes on all ranks. A run that has history but no such folder stops; it never starts over. If one rank's disk
fails, all ranks raise the same sentence, and the older checkpoints stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from ifl.distributed.comm import Comm
from ifl.engine import Engine, serialised
from ifl.saving.storage import storage_error
from recipes.common.errors import RunError
from recipes.common.files import FULL, file_digest, sync_folder, write_json, write_synced, write_whole
from recipes.common.json_text import parse_json

KEEP = 2
MANIFEST = "MANIFEST.json"


class CheckpointError(RunError):
    """The run cannot go on from what is on disk; the message says what is wrong and what to do."""


class Savable(Protocol):
    """What can be saved: an engine now, or the copy of one in host memory (ifl/saving/snapshot.py) later.

    Attributes:
        zero: ZeRO's stage.
        device: where the ranks' messages about it are made.
    """

    zero: int
    device: torch.device

    def save(self) -> dict[str, memoryview]:
        """Return the files that this rank has to write."""
        ...


class Claim(Protocol):
    """A claim on the run, such as ifl/supervision/fence.py."""

    def check(self) -> None:
        """Raise where nothing may be committed."""
        ...


def save(
    folder: Path,
    engine: Savable,
    state: dict[str, Any],
    step: int,
    comm: Comm,
    needs: Mapping[str, str] | None = None,
    fence: Claim | None = None,
    milestones: Collection[int] = (),
) -> Path:
    """Commit a checkpoint under `folder`. A collective.

    Args:
        folder: the run's `ckpt`; the last `KEEP` checkpoints in it are kept, and those of the steps `milestones`.
        engine: gives its own files.
        state: everything else, the same on all ranks.
        step: optimizer steps so far, which name the checkpoint.
        comm: the ranks.
        needs: files of `folder` without which the checkpoint is useless, with their sha256.
        fence: asked by rank 0 whether it may commit.
        milestones: steps whose checkpoints are kept for good.

    Raises:
        StorageError: on all ranks, if one of them cannot write; no checkpoint is lost, and nothing half-written stays.
        Fenced: on all ranks, before anything is replaced, if a newer start of the run has taken over.
        CheckpointError: on all ranks, if a needed file is not what was written; the next start puts it back.
    """
    files = engine.save()
    if comm.rank == 0:
        files["suite.pt"] = serialised(state)
    mine = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    parts = comm.gather_objects((mine, secrets.token_hex(4)), engine.device)
    entries = {name: entry for part, _ in parts for name, entry in part.items()}
    final, temporary = folder / f"step-{step:09d}", folder / f"tmp-{step:09d}-{parts[0][1]}"
    size = sum(entry["size"] for entry in entries.values())

    def write() -> None:
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            write_synced(temporary / name, data)

    def commit() -> None:
        for inner in [*(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
            sync_folder(inner)
        for name, digest in (needs or {}).items():
            entries[name] = _copy_needed(folder / name, temporary / name, digest)
        shape = {"step": step, "ranks": comm.size, "zero": engine.zero}
        manifest = {**shape, "files": entries, "needs": sorted(needs or {})}
        write_json(temporary / MANIFEST, {**manifest, "sha256": _digest(manifest)})
        if fence:
            fence.check()
        _give_its_name(temporary, final)
        _retain(folder, step, milestones)

    for action in (write, commit) if comm.rank == 0 else (write, lambda: None):
        _together(action, folder, temporary, size, engine, comm)
    return final


def _copy_needed(source: Path, copy: Path, digest: str) -> dict[str, Any]:
    """Put a file that a checkpoint needs into it, and return its entry in the manifest.

    Raises:
        CheckpointError: the file is not what was written.
    """
    data = source.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(
            f"{source} is not what was written: start the run again, and it is put back from the newest checkpoint"
        )
    write_synced(copy, data)
    return {"size": len(data), "sha256": digest}


def _give_its_name(temporary: Path, final: Path) -> None:
    """Make a whole checkpoint visible."""
    if final.exists():
        # The same step, damaged, or as it was before the epoch's evaluation; until this one has its name it may be the
        # only one.
        _remove(_old(final))
        os.rename(final, _old(final))
    os.rename(temporary, final)
    sync_folder(final.parent)


def _together(
    action: Callable[[], None], folder: Path, temporary: Path, size: int, engine: Savable, comm: Comm
) -> None:
    """Do this rank's part of a save. A collective.

    If any rank could not do its own, remove what was written and raise the first one's error on all.
    """
    error: Exception | None = None
    try:
        action()
    except (OSError, RunError) as refusal:
        error = refusal
    error = next((e for e in comm.gather_objects(error, engine.device) if e), None)
    if error is None:
        return
    if comm.rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            error = storage_error(error, folder, size - shutil.disk_usage(folder).free if error.errno in FULL else 0)
    raise comm.from_first(error, engine.device)


def _retain(folder: Path, step: int, milestones: Collection[int]) -> None:
    """Delete what is not needed any more once the checkpoint of `step` exists.

    That is older checkpoints, later ones (they were passed over as damaged), what crashes left behind, and best weights
    that nobody needs.
    """
    past = [checkpoint for checkpoint in _complete(folder) if _step(checkpoint) <= step and checkpoint.suffix == ""]
    kept = past[:KEEP] + [checkpoint for checkpoint in past[KEEP:] if _step(checkpoint) in milestones]
    for path in folder.iterdir():
        if path not in kept and (path.name.startswith("tmp-") or _step(path) >= 0):
            _remove(path)
        elif path.name.endswith(".tmp"):
            path.unlink()
    needed = {name for checkpoint in kept for name in _needs(checkpoint)}
    for path in folder.glob("best-*.pt"):
        if path.name not in needed:
            path.unlink()


def _remove(checkpoint: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        (checkpoint / MANIFEST).unlink()  # first, so that a half-deleted folder never looks whole
    shutil.rmtree(checkpoint, ignore_errors=True)


def _old(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.old")


def _step(path: Path) -> int:
    """Return the step that a checkpoint's name tells, -1 for other names."""
    match = re.fullmatch(r"step-(\d{9,})(\.old)?", path.name)
    return int(match[1]) if match else -1


def _complete(folder: Path) -> list[Path]:
    """List the folders with a manifest, newest first."""
    there = [path.parent for path in folder.glob(f"step-*/{MANIFEST}") if _step(path.parent) >= 0]
    return sorted(there, key=lambda path: (_step(path), path.suffix == ""), reverse=True)


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _manifest(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not what was written.
    """
    manifest = parse_json((checkpoint / MANIFEST).read_bytes())
    if not isinstance(manifest, dict) or manifest.pop("sha256", None) != _digest(manifest):
        raise ValueError(f"{checkpoint / MANIFEST} is not what was written")
    return manifest


def _needs(checkpoint: Path) -> list[str]:
    """Return the files beside a checkpoint without which it is useless.

    The list is empty if the manifest is damaged, since the checkpoint is then useless anyway.
    """
    try:
        return list(_manifest(checkpoint)["needs"])
    except (OSError, ValueError):
        return []


def _of_other(name: str, rank: int) -> bool:
    """Say whether only another rank reads, and so verifies, this file."""
    shard = re.search(r"zero_pp_rank_(\d+)_", name)
    return shard is not None and int(shard[1]) != rank


def _fault(checkpoint: Path, rank: int, ranks: int) -> str | None:
    """Return what is wrong with the files that this rank reads, or None.

    Every rank reads all of what another number of ranks has written.
    """
    path = checkpoint / MANIFEST
    try:
        manifest = _manifest(checkpoint)
        files = {
            checkpoint / name: entry
            for name, entry in manifest["files"].items()
            if manifest["ranks"] != ranks or not _of_other(name, rank)
        }
        for path, entry in files.items():
            if not path.is_file():
                return f"{path.name} is missing"
            if path.stat().st_size != entry["size"] or file_digest(path) != entry["sha256"]:
                return f"{path.name} is not what was written"
    except (OSError, ValueError) as error:
        return f"{path.name} is not readable ({type(error).__name__})"
    return None


def load_newest(
    folder: Path, engine: Engine, comm: Comm, *, history: bool, run_identity: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """Load the newest checkpoint that is whole on all ranks, and return its `state`; None for a new run.

    Args:
        folder: the run's `ckpt`.
        engine: takes its own files back.
        comm: the ranks.
        history: whether the run has made steps before.
        run_identity: values of the state that must be the same now, such as the data's fingerprint.

    Raises:
        CheckpointError: there is history but no whole checkpoint, or it is another run's.
    """
    there = any(_step(path) >= 0 for path in folder.glob("step-*"))
    names, history = comm.from_first(([path.name for path in _complete(folder)], history or there), engine.device)
    reasons = []
    for name in names:
        faults = comm.gather_objects(_fault(folder / name, comm.rank, comm.size), engine.device)
        if any(faults):
            rank, fault = next((r, f) for r, f in enumerate(faults) if f)
            reasons.append(f"{name}: {fault}")
            if comm.rank == 0:
                print(f"checkpoint {folder / name} is passed over: {fault} (seen by rank {rank})", flush=True)
            continue
        manifest = _manifest(folder / name)
        if manifest["zero"] != engine.zero:
            raise CheckpointError(
                f"{folder / name} was saved with optim.zero={manifest['zero']}, and this start has "
                f"optim.zero={engine.zero}: start it as it was"
            )
        state = torch.load(folder / name / "suite.pt", map_location="cpu", weights_only=True)
        for what, now in (run_identity or {}).items():
            before = state.get(what, "not recorded")  # older code's checkpoints say less
            if before != now:
                words = what.replace("_", " ")
                raise CheckpointError(
                    f"{folder.parent} was trained with {words} {before[:12]}, and this is {now[:12]}: "
                    "a run goes on only with what it began with"
                )
        engine.load(folder / name, manifest["ranks"])
        if comm.rank == 0:
            for beside in manifest["needs"]:
                if (
                    not (folder / beside).is_file()
                    or file_digest(folder / beside) != manifest["files"][beside]["sha256"]
                ):
                    print(f"{folder / beside} is put back from {name}", flush=True)
                    write_whole(folder / beside, (folder / name / beside).read_bytes())
        return state
    if history:
        why = f" ({'; '.join(reasons)})" if reasons else ""
        raise CheckpointError(
            f"{folder} holds no whole checkpoint although the run has made steps{why}: "
            f"restore one, or move {folder.parent} away to start anew"
        )
    return None
