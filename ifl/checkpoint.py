"""Checkpoints that are whole or not there, verified before use.

A checkpoint is written into `ckpt/tmp-*`: DeepSpeed's files by each rank, everything of ours by rank 0 in `suite.pt`
(plain tensors and numbers). Each rank makes its files durable and hashes them; rank 0 writes MANIFEST.json last and
renames the folder to `step-NNNNNNNNN`. Files beside it that it needs (the best epoch's weights) stand in the manifest
with their hashes, and are kept as long as a checkpoint needs them. There is no pointer to the latest: resuming looks for the newest folder whose
files have the manifest's hashes on all ranks. A run that has history but no such folder stops, it never starts anew.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ifl.comm import Comm
from ifl.engine import Engine
from ifl.fence import Fence
from ifl.files import sha256, sync_folder, write_json

KEEP = 2
MANIFEST = "MANIFEST.json"


class CheckpointError(RuntimeError):
    """The run cannot go on from what is on disk; the message says what is wrong and what to do."""


def _entry(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def _mine(files: list[Path], rank: int) -> list[Path]:
    """DeepSpeed names a rank's ZeRO files `zero_pp_rank_<rank>_...`; all others are rank 0's."""
    owners = {path: int(match[1]) if (match := re.match(r"(?:bf16_)?zero_pp_rank_(\d+)_", path.name)) else 0 for path in files}
    return [path for path in files if owners[path] == rank]


def save(folder: Path, engine: Engine, state: dict[str, Any], step: int, comm: Comm, needs: Sequence[str] = (), fence: Fence | None = None) -> Path:
    """Commit a checkpoint under `folder`. Every rank calls it with the same `state`; the last `KEEP` are kept.

    `needs` names files of `folder` without which the checkpoint is worth nothing. `fence` is rank 0's claim on the run.

    Raises:
        Fenced: on rank 0, before anything is replaced, if a newer start of the run has taken over.
    """
    temporary = folder / comm.from_first(f"tmp-{step:09d}-{secrets.token_hex(4)}", engine.device)
    engine.save(temporary)
    if comm.rank == 0:
        torch.save(state, temporary / "suite.pt")
    comm.gather_objects(None, engine.device)  # all files are there
    hashes = {}
    for path in _mine(sorted(p for p in temporary.rglob("*") if p.is_file()), comm.rank):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        hashes[str(path.relative_to(temporary))] = _entry(path)
    files = {name: entry for part in comm.gather_objects(hashes, engine.device) for name, entry in part.items()}
    final = folder / f"step-{step:09d}"
    if comm.rank == 0:
        for inner in [temporary, *(p for p in temporary.rglob("*") if p.is_dir())]:
            sync_folder(inner)
        write_json(temporary / MANIFEST, {"step": step, "ranks": comm.size, "zero": engine.zero, "files": files, "needs": {name: _entry(folder / name) for name in needs}})
        if fence:
            fence.check()
        if final.exists():  # the same step, damaged, or as it was before the epoch's evaluation
            os.rename(final, folder / f"tmp-old-{secrets.token_hex(4)}")
        os.rename(temporary, final)
        sync_folder(folder)
        complete = _complete(folder)
        kept = [checkpoint for checkpoint in complete if checkpoint.name <= final.name][:KEEP]  # a later one was passed over as damaged
        for old in complete:
            if old not in kept:
                (old / MANIFEST).unlink(missing_ok=True)  # first, so that a half-deleted folder never looks whole
                shutil.rmtree(old, ignore_errors=True)
        for orphan in folder.glob("tmp-*"):
            shutil.rmtree(orphan, ignore_errors=True)
        needed = {name for checkpoint in kept for name in _needs(checkpoint)}
        for path in folder.glob("best-*.pt"):
            if path.name not in needed:
                path.unlink()
    comm.gather_objects(None, engine.device)
    return final


def _complete(folder: Path) -> list[Path]:
    """Folders with a manifest, newest first."""
    return sorted((path.parent for path in folder.glob(f"step-*/{MANIFEST}")), reverse=True)


def _needs(checkpoint: Path) -> list[str]:
    """The files beside a checkpoint without which it is worth nothing; none if its manifest is damaged and it is worth nothing anyway."""
    try:
        return list(json.loads((checkpoint / MANIFEST).read_text())["needs"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _refuse_layout(checkpoint: Path, engine: Engine, comm: Comm) -> None:
    """ZeRO's optimizer state is cut into one part a rank, and DeepSpeed cannot cut it anew."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    if manifest["zero"] != engine.zero or (engine.zero and manifest["ranks"] != comm.size):
        raise CheckpointError(f"{checkpoint} was saved with optim.zero={manifest['zero']} on {manifest['ranks']} ranks, and this start has optim.zero={engine.zero} on "
                              f"{comm.size}: only optim.zero=0 can change its number of ranks, so start it as it was")


def _of_other(name: str, rank: int, ranks: int) -> bool:
    """Whether another present rank reads, and so verifies, this file."""
    shard = re.search(r"zero_pp_rank_(\d+)_", name)
    return shard is not None and int(shard[1]) < ranks and int(shard[1]) != rank


def _fault(checkpoint: Path, rank: int, ranks: int) -> str | None:
    """What is wrong with the files that this rank reads, or None. Files of ranks that
    a smaller world no longer has are verified by all."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        files = {checkpoint / name: entry for name, entry in manifest["files"].items() if not _of_other(name, rank, ranks)}
        files |= {checkpoint.parent / name: entry for name, entry in manifest["needs"].items()}
        for path, entry in files.items():
            if not path.is_file():
                return f"{path.name} is missing"
            if path.stat().st_size != entry["size"] or sha256(path) != entry["sha256"]:
                return f"{path.name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is not readable ({type(error).__name__})"
    return None


def load_newest(folder: Path, engine: Engine, comm: Comm, *, history: bool, belongs: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """Load the newest checkpoint that is whole on all ranks, and return its `state`; None for a new run.

    Args:
        history: whether the run has made steps before.
        belongs: values of the state that must be the same now, such as the data's fingerprint.

    Raises:
        CheckpointError: there is history but no whole checkpoint, or it is another run's.
    """
    names, history = comm.from_first(([path.name for path in _complete(folder)], history), engine.device)
    for name in names:
        faults = comm.gather_objects(_fault(folder / name, comm.rank, comm.size), engine.device)
        if any(faults):
            rank, fault = next((r, f) for r, f in enumerate(faults) if f)
            if comm.rank == 0:
                print(f"checkpoint {folder / name} is passed over: {fault} (seen by rank {rank})", flush=True)
            continue
        _refuse_layout(folder / name, engine, comm)
        state = torch.load(folder / name / "suite.pt", map_location="cpu", weights_only=True)
        for what, now in (belongs or {}).items():
            if state[what] != now:
                words = what.replace("_", " ")
                raise CheckpointError(f"{folder.parent} was trained with {words} {state[what][:12]}, and this is {now[:12]}: a run goes on only with what it began with")
        engine.load(folder / name)
        return state
    if history or names:
        raise CheckpointError(f"{folder} holds no whole checkpoint although the run has made steps: restore one, or move {folder.parent} away to start anew")
    return None
