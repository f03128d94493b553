"""`cluster=local`: the same job on this machine, one process for each task, with a progress bar."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from recipes.schema import PROJECT, Recipe, RecipeError
from slurm.folder import prepare
from slurm.job import FINISHED, STOPPED

LOCK_S = 1.0
"""How long the folder's lock is asked for: a status view holds it for an instant too."""


def run(recipe: Recipe, folder: Path) -> int:
    """Train in `folder` until it is finished, stopped or failed; returns the exit code.

    Raises:
        RecipeError: another process is training in this folder.
    """
    with open(folder / "lock", "w") as lock:
        _take(lock, folder)
        prepare(recipe, folder)  # not before: the recipe of a run in progress stays as it is
        _compile_operator()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        processes = _start(recipe, folder, lock)
        try:
            return _watch(recipe, folder, processes)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()


def _take(lock: IO[str], folder: Path) -> None:
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                raise RecipeError(f"{folder} is being trained by another process on this machine") from None
            time.sleep(0.05)


def _compile_operator() -> None:
    """DeepSpeed's CPU operator, compiled once and visibly: otherwise every rank would wait for it in silence."""
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path(sys.prefix) / "torch_extensions"))
    if shutil.which("nvidia-smi") is None and not any(cache.rglob("deepspeed_shm_comm.so")):
        print("compiling DeepSpeed's CPU operator (once, a minute or two)", flush=True)
        subprocess.run([sys.executable, "-m", "ifl.engine"], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)


def _start(recipe: Recipe, folder: Path, lock: IO[str]) -> list[subprocess.Popen]:
    """One process for each rank; its output goes to log/rank-R.log. Ranks share the lock: should this process be killed,
    it holds until the last of them has ended."""
    tasks = recipe.tasks
    threads = max(1, len(os.sched_getaffinity(0)) // tasks)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    (folder / "log").mkdir(exist_ok=True)
    for rank in range(tasks):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": tasks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", **os.environ, **{key: str(value) for key, value in variables.items()}, "PYTHONUNBUFFERED": "1"}
        with open(folder / "log" / f"rank-{rank}.log", "a") as log:
            processes.append(subprocess.Popen([sys.executable, "-m", "slurm.job", str(folder)], cwd=PROJECT, env=environment, stdout=log, stderr=log,
                                              stdin=subprocess.DEVNULL, pass_fds=[lock.fileno()]))
    return processes


def _watch(recipe: Recipe, folder: Path, processes: list[subprocess.Popen]) -> int:
    """Draw progress from metrics.jsonl until the processes end. The first that fails ends the others: they would wait
    for it. Ctrl-C is passed on as a request to save and stop."""
    lines = _new_lines(folder / "metrics.jsonl")
    bar = tqdm(total=None, desc="starting", unit="step", dynamic_ncols=True, mininterval=2.0 if not sys.stderr.isatty() else 0.1)
    seen: dict[str, Any] = {}
    interrupted = False
    while any(process.poll() is None for process in processes):
        try:
            _draw(bar, recipe, folder, next(lines), seen)
            if any(process.poll() not in (None, FINISHED, STOPPED) for process in processes):
                time.sleep(1)  # others may be about to say why as well
                break
            time.sleep(0.2)
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            bar.write("saving a checkpoint; the same command goes on from it (Ctrl-C again ends at once)")
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGUSR2)
    _draw(bar, recipe, folder, next(lines), seen)
    bar.close()
    codes = [process.poll() for process in processes]
    bad = [(rank, code) for rank, code in enumerate(codes) if code not in (None, FINISHED, STOPPED)]
    if bad:  # the first to fail says why; what the others say is that they lost it
        log, rank, code = min(((folder / "log" / f"rank-{rank}.log", rank, code) for rank, code in bad), key=lambda entry: entry[0].stat().st_mtime_ns)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        print(f"rank {rank} {how} after step {bar.n}; the same command goes on from the last checkpoint. The end of {log}:", file=sys.stderr)
        print("".join(log.read_text(errors="replace").splitlines(keepends=True)[-15:]), file=sys.stderr)
    elif STOPPED in codes:
        print(f"stopped and saved after step {bar.n}; the same command goes on from there", flush=True)
    return 1 if bad else max(code for code in codes if code is not None)


def _draw(bar: tqdm, recipe: Recipe, folder: Path, lines: list[dict[str, Any]], seen: dict[str, Any]) -> None:
    for line in lines:
        if bar.total is None and (folder / "meta.json").exists():
            bar.total = json.loads((folder / "meta.json").read_text())["steps_per_epoch"] * recipe.schedule.epochs
            bar.set_description(recipe.recipe)
        if bar.n == 0 and line["step"]:
            bar.initial = line["step"] if line["kind"] == "boot" else 0  # a resumed run's ETA counts from here
        if line["kind"] == "train":
            seen.update(epoch=f"{line['epoch'] + 1}/{recipe.schedule.epochs}", loss=f"{line['loss']:.3f}", img_s=f"{line['images_per_s']:.0f}")
        elif line["kind"] == "eval":
            seen[line["split"]] = f"{100 * line['accuracy']['overall']:.1f}%"
        bar.set_postfix(seen, refresh=False)
        bar.update(line["step"] - bar.n)


def _new_lines(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Again and again, the whole lines that were added since the last time; those of earlier starts are passed over."""
    position = path.stat().st_size if path.exists() else 0
    while True:
        lines = []
        if path.exists():
            position = min(position, path.stat().st_size)  # a resumed run cuts the file
            with open(path, "rb") as file:
                file.seek(position)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    position += len(line)
                    if line.startswith(b"{"):
                        lines.append(json.loads(line))
        yield lines
