"""A rank that makes no progress says where it stands and ends, and the whole run with it; a slow one, or one that was
suspended, goes on.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ifl.supervision.watchdog import SAVER, Watchdog, boot_limit_s, patience_s
from recipes.schema import Log
from tests.helpers.interrupted import Launch, Start, ending
from tests.helpers.paths import FAULTS, PROJECT

LIMIT_S = 5
STEPS_ALONE = ("batch.draws_per_epoch=64", "log.save_every_steps=null")
"""Words of a run that is in an epoch's steps for minutes, whenever a busy machine comes to disturb it: it neither saves
nor evaluates before."""
SCRIPT = """
import sys, time
from ifl.supervision.watchdog import Watchdog
watchdog = Watchdog({limit}, 3, lambda message: {on_stuck})
{body}
print("alive")
"""


def _script(
    body: str, on_stuck: str = "print(f'noted: {message}', flush=True)", limit: float = 0.6
) -> subprocess.Popen:
    """A process under a watchdog: `body`, and `alive` at its end."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(limit=limit, on_stuck=on_stuck, body=body)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_silence_ends_the_process_with_a_sentence_and_stacks() -> None:
    """Half a second after the limit: exit code 1, the same sentence printed and noted, the stack of every thread."""
    process = _script(
        "def waits_for_ever():\n    time.sleep(60)\nwatchdog.progressed('epoch 3, step 17'); waits_for_ever()"
    )
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    sentence = re.search(r"^Stuck: rank 3 made no progress for 1 s in epoch 3, step 17$", err, re.MULTILINE)
    assert sentence and out == f"noted: {sentence[0]}\n"
    assert "in waits_for_ever" in err


@pytest.mark.parametrize(
    "section, body, code",
    [
        ("boot, network", "time.sleep(60)", 99),
        ("epoch 1, step 7", "torch.utils.data.dataloader.wait()", 99),
        ("epoch 1, step 7", "time.sleep(1)", 0),
    ],
    ids=["a start", "a batch", "a save"],
)
def test_a_stop_is_heard_while_nothing_comes(section: str, body: str, code: int, tmp_path: Path) -> None:
    """Asked to stop in a start, or while it waits for a batch, a rank soon leaves with a sentence; anywhere else, as in
    a save, it has its time.
    """
    place = tmp_path / "torch" / "utils" / "data"
    place.mkdir(parents=True)
    (place / "dataloader.py").write_text("import time\ndef wait():\n    time.sleep(60)\n")
    script = f"""
import sys, time
sys.path[:0] = [{str(PROJECT)!r}, {str(tmp_path)!r}]
from ifl.supervision import watchdog
watchdog.LEAVE_BOOT_S = watchdog.LEAVE_WAIT_S = 0.2
{"import torch.utils.data.dataloader" if "torch" in body else ""}
leaving = watchdog.Leaving(lambda: True, lambda message: print(message, flush=True), 99)
watchdog.Watchdog(5, 3, print, leaving).progressed({section!r})
{body}
"""
    process = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, timeout=30)
    assert process.returncode == code, process.stderr
    if code:
        assert process.stdout.startswith(f"Stopped: rank 3 was asked to stop in {section}, ") and (
            process.stdout.endswith("the run goes on from its last checkpoint, if it has one\n")
        )


def test_slow_progress_is_progress() -> None:
    """Beats without a word, each within the limit, keep a process alive for many times the limit; a start has
    longer.
    """
    process = _script(
        "watchdog.progressed('epoch 0, step 0')\nfor _ in range(8):\n    time.sleep(0.3); "
        "watchdog.progressed()\nwatchdog.progressed('boot, load'); time.sleep(1.5)",
        limit=1.0,
    )
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "alive\n", "")


def test_a_suspended_process_is_not_stuck() -> None:
    """SIGSTOP for three times the limit, then SIGCONT: the pause does not count."""
    process = _script(
        "watchdog.progressed('epoch 0, step 0')\nprint('go', flush=True)\nfor _ in range(8):\n    time.sleep(0.3); "
        "watchdog.progressed()",
        limit=1.0,
    )
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "alive\n", "")


@pytest.mark.full
def test_last_words_that_hang_do_not_hold_it_up() -> None:
    """What is noted goes to a disk, which may be why there is no progress: the process ends all the same, 5 s later."""
    process = _script("watchdog.progressed('saving'); time.sleep(60)", on_stuck="time.sleep(60)")
    began = time.monotonic()
    _, err = process.communicate(timeout=40)
    assert process.returncode == 1 and "Stuck: rank 3" in err and time.monotonic() - began < 15


def test_the_watchdog_speaks_before_a_collective_gives_up() -> None:
    """A rank's patience with the others is longer than its own longest limit, for the least, the default and a large
    value.
    """
    for limit in (5.0, Log().stuck_after_s, 86400.0):
        assert patience_s(limit) > boot_limit_s(limit) + 60 and boot_limit_s(limit) >= limit


# ------------------------------------------------------------------------------------------------------------ real runs
def _events(launch: Launch) -> list[dict[str, Any]]:
    return [
        event
        for event in map(json.loads, (launch.folder / "log" / "events.jsonl").read_text().splitlines())
        if event["event"] == "failed"
    ]


def _ends_after(launch: Launch, pid: int) -> float:
    """Stop a process in its tracks; seconds until the command has ended with code 1."""
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    assert launch.finish() == 1, launch.text
    return time.monotonic() - began


def _children(pid: int) -> list[int]:
    return [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]


@pytest.mark.parametrize(
    ("nodes", "victim"),
    [
        (2, 1),
        pytest.param(2, 0, marks=pytest.mark.full),
        *(pytest.param(4, rank, marks=pytest.mark.full) for rank in range(4)),
    ],
)
def test_a_stopped_rank_ends_the_run(start: Start, tmp_path: Path, nodes: int, victim: int) -> None:
    """SIGSTOP to one rank in a step: the command ends within the limit and some seconds, no process is left, and what
    is noted is that the others waited for it; the victim says nothing."""
    launch = start(tmp_path, f"nodes={nodes}", "batch.bn=8", f"log.stuck_after_s={LIMIT_S}", *STEPS_ALONE)
    launch.wait_for_step(3)
    seconds = _ends_after(launch, launch.ranks()[victim])
    print(f"{nodes} ranks, rank {victim} stopped: {seconds:.1f} s")
    assert LIMIT_S - 1 < seconds < LIMIT_S + 15
    noted = _events(launch)
    assert noted and victim not in {event["rank"] for event in noted}
    assert re.fullmatch(
        r"Stuck: rank \d made no progress for \d s in epoch \d+, step \d+, waiting for the other ranks",
        noted[0]["error"],
    ), noted[0]
    assert "Thread 0x" in (launch.folder / "log" / f"rank-{noted[0]['rank']}.log").read_text()


@pytest.mark.full
def test_a_stopped_loader_worker_ends_the_run(start: Start, tmp_path: Path) -> None:
    """SIGSTOP to the loader processes of rank 0: it says that it makes no progress itself; the other one waits for
    it.
    """
    launch = start(tmp_path, f"log.stuck_after_s={LIMIT_S}", "schedule.epochs=50", "data.workers=2")
    launch.wait_for_step(3)
    workers = _children(launch.ranks()[0])
    assert workers
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    began = time.monotonic()
    assert launch.finish() == 1, launch.text
    assert time.monotonic() - began < LIMIT_S + 15
    said = {event["rank"]: event["error"] for event in _events(launch)}
    assert 0 in said or 1 in said
    assert "waiting" not in said.get(0, "") and (
        "waiting for the other ranks" in said[1] or "onnection closed" in said[1] if 1 in said else True
    ), said


@pytest.mark.full
def test_a_suspended_run_goes_on(start: Start, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """All ranks suspended for twice the limit and continued, as SLURM does it: the run ends with the undisturbed run's
    bits.
    """
    launch = start(tmp_path, f"log.stuck_after_s={LIMIT_S}")
    launch.wait_for_step(3)
    ranks = launch.ranks().values()
    for sign in (signal.SIGSTOP, signal.SIGCONT):
        for pid in ranks:
            os.kill(pid, sign)
        time.sleep(2 * LIMIT_S if sign == signal.SIGSTOP else 0)
    assert launch.finish() == 0, launch.text
    assert ending(launch.folder) == undisturbed


@pytest.mark.full
@pytest.mark.parametrize("rank", [0, 1])
def test_a_reduction_left_out_ends_the_run(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rank: int
) -> None:
    """One rank leaves out a step's reduction: it says so in that very step, with its place, and the run ends within
    seconds, long before any watchdog; the other rank says the same or that it lost the first."""
    fault = tmp_path / "fault"
    monkeypatch.setenv("PYTHONPATH", str(FAULTS))
    monkeypatch.setenv("GLT_FAULT", str(fault))
    launch = start(tmp_path, "schedule.epochs=50")
    launch.wait_for_step(3)
    fault.write_text(f"skip {rank}")
    began = time.monotonic()
    assert launch.finish() == 1, launch.text
    assert not fault.exists() and time.monotonic() - began < 20
    said = [event["error"] for event in _events(launch) if event["rank"] == rank]
    assert len(said) == 1 and re.search(
        rf"^Desynchronised: rank {rank} reduced with others .*rank {rank} in epoch \d+, step \d+", said[0]
    ), said


def test_a_rank_that_waits_for_its_saver_in_a_collective_waits_for_the_others() -> None:
    """The saver's thread speaks to the other ranks' ones; one that is on the disk waits for nobody."""
    begun, over = threading.Event(), threading.Event()
    code = compile(
        "def call(begun, over):\n    begun.set()\n    over.wait()\n", "/x/torch/distributed/calls.py", "exec"
    )
    namespace: dict[str, Any] = {}
    exec(code, namespace)

    def on_the_disk(begun: threading.Event, over: threading.Event) -> None:
        begun.set()
        over.wait()

    for call, waits in ((namespace["call"], True), (on_the_disk, False)):
        begun.clear()
        over.clear()
        watchdog = Watchdog.__new__(Watchdog)
        with ThreadPoolExecutor(1, SAVER) as pool:
            write = pool.submit(call, begun, over)
            main = threading.Thread(target=write.result)
            main.start()
            begun.wait(10)
            while "concurrent" not in stack_of(main.ident):
                time.sleep(0.001)
            watchdog._watched = main.ident or 0
            found = watchdog._waits_for_others()
            over.set()
        assert found is waits


def stack_of(ident: int | None) -> str:
    return "".join(traceback.format_stack(sys._current_frames()[ident or 0]))
