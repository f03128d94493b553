"""What the batch script decides after a start, and what the status command says of a run."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.common.errors import RecipeError, StatusError
from recipes.resolve import resolve
from slurm import status
from slurm.cluster import requeue, submission
from slurm.monitoring import events, failure, run_line, run_state
from slurm.nodes.remarks import remarks
from slurm.planning.schedule import Run
from slurm.site_file import Site
from tests.helpers.launching import stub


@pytest.mark.parametrize(
    "steps, stopped, cancelled, done, verdict",
    [
        ([0], True, False, False, "requeue"),
        ([0, 0, 0, 0], True, False, False, "requeue"),
        ([0], False, False, False, "requeue"),
        ([0, 7, 7], False, False, False, "requeue"),
        ([0, 7, 7, 7], False, False, False, "give up"),
        ([0, 0, 0, 7], False, False, False, "requeue"),
        ([0], True, True, False, "cancelled"),
        ([0], True, True, True, "finished"),
    ],
)
def test_verdicts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[int],
    stopped: bool,
    cancelled: bool,
    done: bool,
    verdict: str,
) -> None:
    """A stop by a signal is requeued, a failure unless three starts in a row found the same checkpoint, a
    cancelled or finished job never."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    for number, step in enumerate(steps):
        if number:
            events.append_event(tmp_path, "verdict", verdict="requeue")
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(number))
        (tmp_path / "ckpt" / f"step-{step:09d}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "ckpt" / f"step-{step:09d}" / "MANIFEST.json").write_text("{}")
        events.append_event(tmp_path, "start")
    if stopped:
        events.append_event(tmp_path, "stopped")
    if done:
        (tmp_path / "done").touch()
    assert requeue.decide(tmp_path, cancelled) == verdict


SUBMITTED, START, STOPPED = ("submitted", {"job": "7"}), ("start", {"incarnation": "7.0"}), ("stopped", {})
HERE = ("start", {"incarnation": "local.29500"})


def _verdict(verdict: str) -> tuple[str, dict[str, str]]:
    return ("verdict", {"verdict": verdict})


@pytest.mark.parametrize(
    "noted, jobs, done, state",
    [
        ([], {}, False, "new"),
        ([SUBMITTED], {"7": "PENDING"}, False, "queued"),
        ([SUBMITTED], {"7": "DependencyNeverSatisfied"}, False, "blocked"),
        ([SUBMITTED], {"7": "JobHeldUser"}, False, "held"),
        ([SUBMITTED], {"7": "JobHoldMaxRequeue"}, False, "held"),
        ([SUBMITTED], {"7": "REQUEUE_HOLD"}, False, "held"),
        ([SUBMITTED], {"7": "SPECIAL_EXIT"}, False, "held"),
        ([SUBMITTED, START], {"7": "SUSPENDED"}, False, "suspended"),
        ([SUBMITTED, START], {"7": "PREEMPTED"}, False, "preempted"),
        ([SUBMITTED, START, STOPPED, _verdict("requeue")], {"7": "PREEMPTED"}, False, "preempted"),
        ([SUBMITTED, START, _verdict("give up")], {"7": "PREEMPTED"}, False, "gave up"),
        ([SUBMITTED, START], {"7": "PREEMPTED"}, True, "finished"),
        ([SUBMITTED, START, _verdict("give up")], None, False, "gave up"),
        ([SUBMITTED, START, _verdict("timed out")], {}, False, "timed out"),
        ([SUBMITTED, START], {"7": "RUNNING"}, False, "running"),
        ([SUBMITTED, START], {"7": "COMPLETING"}, False, "running"),
        (
            [SUBMITTED, START, ("failed", {"rank": 1, "error": "E: x"})],
            {"7": "COMPLETING"},
            False,
            "running",
        ),  # a node died: its peers say so, and SLURM takes the job back
        ([SUBMITTED, START, _verdict("requeue")], {"7": "COMPLETING"}, False, "queued"),
        ([SUBMITTED, START, _verdict("give up")], {"7": "COMPLETING"}, False, "gave up"),
        ([SUBMITTED, START, STOPPED], {"7": "PENDING"}, False, "queued"),
        ([SUBMITTED, START], {"8": "RUNNING"}, False, "lost"),
        ([SUBMITTED, START], None, False, "unknown"),
        ([SUBMITTED, START], {"7": "FAILED"}, False, "failed"),
        ([SUBMITTED, START, STOPPED], {"7": "FAILED"}, False, "failed"),
        ([SUBMITTED, START, _verdict("give up")], {"7": "FAILED"}, False, "gave up"),
        ([SUBMITTED, START, _verdict("superseded")], {"7": "RUNNING"}, False, "running"),
        ([SUBMITTED, START, _verdict("superseded")], {}, False, "superseded"),
        ([SUBMITTED], {"7": "CANCELLED"}, False, "cancelled"),
        ([SUBMITTED, START, STOPPED], {"7": "CANCELLED"}, False, "cancelled"),
        ([SUBMITTED, START, _verdict("cancelled"), STOPPED], {}, False, "cancelled"),
        ([SUBMITTED, START, _verdict("cancelled"), SUBMITTED], {"7": "RUNNING"}, False, "running"),
        ([SUBMITTED, _verdict("cancelled"), START, STOPPED], {}, False, "cancelled"),  # on its way out
        ([SUBMITTED, _verdict("cancelled"), HERE, STOPPED], {"7": "CANCELLED"}, False, "stopped"),
        ([SUBMITTED, _verdict("cancelled"), HERE, ("failed", {"rank": 0, "error": "E"})], {}, False, "failed"),
        ([SUBMITTED, START, HERE, STOPPED], {"7": "TIMEOUT"}, False, "stopped"),
        ([SUBMITTED, START, HERE, STOPPED], None, False, "stopped"),
        ([SUBMITTED, START, HERE], None, False, "lost"),
        ([SUBMITTED, HERE, STOPPED, SUBMITTED], {"7": "PENDING"}, False, "queued"),
        ([SUBMITTED, HERE, STOPPED, SUBMITTED], None, False, "unknown"),
        ([SUBMITTED, START, STOPPED], {"7": "TIMEOUT"}, False, "timed out"),
        ([SUBMITTED, START, _verdict("requeue refused")], {}, False, "failed"),
        ([START, ("failed", {"rank": 1, "error": "E: x"})], {}, False, "failed"),
        ([START, STOPPED], None, False, "stopped"),
        ([START, _verdict("give up")], {}, False, "gave up"),
        ([START, _verdict("cancelled")], {}, False, "cancelled"),
        ([SUBMITTED, ("waiting", {})], {"7": "COMPLETED"}, False, "waiting"),
        ([SUBMITTED, ("waiting", {})], None, False, "waiting"),
        ([("submitted", {"job": None})], None, False, "unknown"),
        ([("submitted", {"job": None})], {}, False, "unknown"),  # it may come up yet: not to be submitted again
        ([SUBMITTED, START], {"7": "RUNNING"}, True, "finished"),
    ],
)
def test_states(tmp_path: Path, noted: list, jobs: dict[str, str] | None, done: bool, state: str) -> None:
    """The status command's word for a run follows from the first that knows: done, the queue, the last event; where
    SLURM does not answer it says so. Since a start on this machine neither an earlier job nor its verdict counts."""
    for event, values in noted:
        events.append_event(tmp_path, event, **values)
    if done:
        (tmp_path / "done").touch()
    assert (
        run_state.state_of(
            tmp_path,
            events.read(tmp_path),
            None if jobs is None else {job: run_state.Job(word, name=tmp_path.name) for job, word in jobs.items()},
        )
        == state
    )


def test_the_runs_job_is_known_by_its_batch_file(tmp_path: Path) -> None:
    """A job that waits or runs with a batch file in the run's folder is the run's, though nothing was noted and a
    site's plugin gave it another name; one of a run of this name in another folder is not, nor one that ended, nor one
    that got the noted id anew under another name."""
    mine, name = str(tmp_path / "log" / ".submission_file_x.sh"), tmp_path.name
    (tmp_path / "link").symlink_to(tmp_path)
    for job, state in (
        (run_state.Job("PENDING", 0, name, mine), "queued"),
        (run_state.Job("PENDING", 0, name, f"{tmp_path}/link/log/x.sh"), "queued"),
        (run_state.Job("PENDING", 0, name, "/other/log/x.sh"), "new"),
        (run_state.Job("PENDING", 0, "renamed-by-the-site", mine), "queued"),
        (run_state.Job("FAILED", 0, name, mine), "new"),
    ):
        assert run_state.state_of(tmp_path, [], {"9": job}) == state
    events.append_event(tmp_path, "submitted", job="7")
    noted = events.read(tmp_path)
    assert run_state.state_of(tmp_path, noted, {"7": run_state.Job("RUNNING", 0, "other", "/other/log/x.sh")}) == "lost"
    renamed = {"7": run_state.Job("RUNNING", 0, "renamed-by-the-site", mine)}
    assert run_state.job_of(tmp_path, noted, renamed) == "7"
    wrapped = {"7": run_state.Job("RUNNING", 0, name, "/tmp/copy.sh")}
    assert run_state.job_of(tmp_path, noted, wrapped) == "7"
    assert (
        run_state.job_of(
            tmp_path,
            noted,
            {
                "7": run_state.Job("FAILED", 0, name, mine),
                "10": run_state.Job("RUNNING", 0, name, mine),
                "9": run_state.Job("CANCELLED", 0, name, mine),
            },
        )
        == "10"
    )


@pytest.mark.parametrize("word", ["(null)", "sleep", ""])
def test_a_job_without_a_batch_file_is_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """Of salloc, srun and sbatch --wrap, squeue shows a bare word in the batch file's place; asked from within a run's
    log folder, such a job is not the run's, and `cancel=` does not end it."""
    (tmp_path / "log").mkdir()
    monkeypatch.chdir(tmp_path / "log")
    jobs = {"9": run_state.Job("RUNNING", 0, "interactive", word)}
    assert run_state.job_of(tmp_path, [], jobs) is None and run_state.runs_of(jobs["9"]) == 0
    assert not run_state.is_in(tmp_path / "log", jobs["9"])
    monkeypatch.setattr(run_state, "queue", lambda: jobs)
    with pytest.raises(StatusError, match="has no job in SLURM's queue, it is new"):
        status.cancel(tmp_path)


@pytest.mark.parametrize(
    "reason, state",
    [
        ("JobHeldAdmin", "held"),
        ("JobHoldMaxRequeue", "held"),
        ("DependencyNeverSatisfied", "blocked"),
        ("QOSUsageThreshold", "queued"),
    ],
)
def test_squeue_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, state: str) -> None:
    """A job that waits says by its reason whether it is held; names and paths with signs of their own do not
    mislead.
    """
    stub(tmp_path, "squeue", f"echo '7|PENDING|N/A|{reason}|{tmp_path.name}|/a|b/x.sh'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    events.append_event(tmp_path, "submitted", job="7")
    assert run_state.state_of(tmp_path, events.read(tmp_path), run_state.queue()) == state
    assert run_state.queue()["7"].batch_file == "/a|b/x.sh"


def test_squeue_is_asked_for_all_in_a_fixed_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's jobs of hidden partitions are among those asked for; no variable of the shell reaches squeue; a notice
    of the site's and a moment in another form are no error."""
    script = """case " $* " in *" -a "*) ;; *) exit 0;; esac
echo "This cluster is down on | Monday"
echo "7|RUNNING|in 3 minutes${SLURM_TIME_FORMAT}${SQUEUE_NAMES}${SLURM_CLUSTERS}|None|x|/a/x.sh" """
    stub(tmp_path, "squeue", script)
    for name in ("SLURM_TIME_FORMAT", "SQUEUE_NAMES", "SLURM_CLUSTERS"):
        monkeypatch.setenv(name, "|wrong|")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert run_state.queue() == {"7": run_state.Job("RUNNING", 0.0, "x", "/a/x.sh")}


def test_without_squeue_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without squeue a submitted run that has not ended is unknown, and not lost."""
    monkeypatch.setenv("PATH", str(tmp_path))
    events.append_event(tmp_path, "submitted", job="7")
    assert run_state.state_of(tmp_path, events.read(tmp_path), run_state.queue()) == "unknown"


@pytest.mark.parametrize(
    "word, state", [("CANCELLED", "cancelled"), ("TIMEOUT", "timed out"), ("PREEMPTED", "preempted")]
)
def test_what_slurm_forgets_stays_told(tmp_path: Path, word: str, state: str) -> None:
    """A cancelled, timed-out or preempted job is still told as such when SLURM has forgotten it; it is noted once."""
    events.append_event(tmp_path, "submitted", job="7")
    events.append_event(tmp_path, "stopped")
    for jobs in ({"7": run_state.Job(word, 0, tmp_path.name)}, {"7": run_state.Job(word, 0, tmp_path.name)}, {}):
        assert status.line_of(tmp_path, jobs).state == state
    assert [event["event"] for event in events.read(tmp_path)] == ["submitted", "stopped", "verdict"]


@pytest.mark.parametrize(
    "noted, word, said",
    [
        ([_verdict("give up")], "FAILED", "gave up, and no rank said why; the last verdict is `give up`"),
        ([START], "TIMEOUT", "timed out, and no rank said why"),
        ([("waiting", {})], "COMPLETED", "waiting, and no rank said why; it needs first-run"),
        ([], "DependencyNeverSatisfied", "blocked, and no rank said why; it needs first-run"),
        ([], "FAILED", "failed, and no rank said why"),
    ],
)
def test_why_tells_what_is_known_of_a_silent_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: list, word: str, said: str
) -> None:
    """Of a job that ended without a rank's word `why=RUN` shows the state, the verdict or the need, and the newest
    start's log, also where an earlier start had failed with a sentence."""
    monkeypatch.setenv("SLURM_JOB_ID", "6")
    for earlier in (False, True):
        if earlier:
            events.append_event(tmp_path, "failed", rank=0, error="Old: from an earlier start")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        events.append_event(tmp_path, "submitted", job="7", needs=["first-run"] if word[0] in "CD" else [])
        for event, values in noted:
            events.append_event(tmp_path, event, **values)
        for age, job in ((20, 6), (0, 7)):
            log = tmp_path / "log" / f"{job}_0_log.err"
            log.write_text(f"the last words of job {job}")
            os.utime(log, (time.time() - age,) * 2)
        monkeypatch.setattr(run_state, "queue", lambda: {"7": run_state.Job(word, 0, tmp_path.name)})
        told = failure.why(tmp_path)
        assert said in told and "the last words of job 7" in told and "Old" not in told
        (tmp_path / "log" / "events.jsonl").unlink()
        monkeypatch.setenv("SLURM_JOB_ID", "6")


def test_cancel_asks_for_a_live_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cancel=RUN` ends the run's job by the id in the queue, and none by an id that has ended or is another's now."""
    asked = []
    monkeypatch.setattr(
        status.subprocess,
        "run",
        lambda words, **_: asked.append(words) or subprocess.CompletedProcess(words, 0, "", ""),
    )
    events.append_event(tmp_path, "submitted", job="7")
    for jobs, sentence in (
        ({}, "no job in SLURM's queue, it is lost"),
        ({"7": run_state.Job("FAILED", 0, tmp_path.name)}, "it is failed"),
        ({"7": run_state.Job("RUNNING", 0, "other")}, "no job"),
        (None, "does not answer"),
    ):
        monkeypatch.setattr(run_state, "queue", lambda jobs=jobs: jobs)
        with pytest.raises(StatusError, match=sentence):
            status.cancel(tmp_path)
    assert asked == []
    monkeypatch.setattr(
        run_state, "queue", lambda: {"9": run_state.Job("PENDING", 0, tmp_path.name, str(tmp_path / "log" / "x.sh"))}
    )
    assert "job 9 is being cancelled" in status.cancel(tmp_path) and asked == [["scancel", "9"]]


@pytest.mark.parametrize(
    "file, text",
    [
        ("recipe.yaml", "schedule:\nbatch: {size: 32}"),
        ("recipe.yaml", "just words"),
        ("metrics.jsonl", '{"kind": "train"}\n'),
        ("metrics.jsonl", "7\n"),
        ("meta.json", "[1]"),
    ],
)
def test_a_damaged_run_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str, text: str
) -> None:
    """A run with a damaged file is `unreadable`, and the others have their lines."""
    monkeypatch.setattr(run_state, "queue", lambda: {})
    for name in ("bad", "good"):
        (tmp_path / name / "log").mkdir(parents=True)
        for usual, content in (
            ("recipe.yaml", "schedule: {epochs: 4}\nbatch: {size: 32}"),
            ("meta.json", '{"world": 1, "steps_per_epoch": 10}'),
            ("metrics.jsonl", ""),
            ("log/events.jsonl", ""),
        ):
            (tmp_path / name / usual).write_text(content)
    (tmp_path / "bad" / file).write_text(text)
    assert status.main([f"runs={tmp_path}"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["bad", "unreadable"],
        ["good", "new"],
    ]


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["why=x"], "why=x is no run of {}; there are none"),
        (["cancel=x"], "there are none"),
        (["runs={}/none"], "runs={}/none is no folder"),
        (["watch"], "watch= needs a value"),
        (["why="], "why= needs a value"),
        (["why=a", "cancel=b"], "why= and cancel= do not go together"),
        (["cancel=b", "watch=5"], "cancel= and watch= do not go together"),
        (["wacth=5"], "did you mean watch?"),
    ],
)
def test_slips_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    """A slip in the status command's words ends with one sentence and code 2."""
    assert status.main([f"runs={tmp_path}", *(word.format(tmp_path) for word in words)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and sentence.format(tmp_path) in said.err


def test_a_silent_run_is_stuck(tmp_path: Path) -> None:
    """A running job is stuck when nothing was written for longer than any part of it may take by log.stuck_after_s, and
    not before; a job that has just been started after a long wait in the queue is not."""
    events.append_event(tmp_path, "submitted", job="7")
    (tmp_path / "recipe.yaml").write_text("log: {stuck_after_s: 50}")
    for path in (tmp_path / "log" / "events.jsonl", tmp_path / "log", tmp_path / "recipe.yaml"):
        os.utime(path, (time.time() - 190,) * 2)
    noted, long_ago = events.read(tmp_path), time.time() - 180
    assert run_state.state_of(tmp_path, noted, {"7": run_state.Job("RUNNING", long_ago, tmp_path.name)}) == "stuck"
    assert run_state.state_of(tmp_path, noted, {"7": run_state.Job("RUNNING", time.time(), tmp_path.name)}) == "running"
    (tmp_path / "metrics.jsonl").touch()
    assert run_state.state_of(tmp_path, noted, {"7": run_state.Job("RUNNING", long_ago, tmp_path.name)}) == "running"


def test_a_held_lock_is_a_running_run(tmp_path: Path) -> None:
    """A local run is running while a process holds its folder's lock, and lost when it let go without a word."""
    events.append_event(tmp_path, "start")
    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_state.state_of(tmp_path, events.read(tmp_path), {}) == "running"
    assert run_state.state_of(tmp_path, events.read(tmp_path), {}) == "lost"


LOST = "RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234"

WAITED = "Stuck: rank 0 made no progress for 20 s in epoch 1, step 7, waiting for the other ranks"


@pytest.mark.parametrize(
    "noted, rank, said",
    [
        ([(1, "DataError: shard x is damaged"), (0, LOST)], 1, "DataError: shard x is damaged"),
        ([(0, LOST), (1, "DataError: shard x is damaged")], 1, "DataError: shard x is damaged"),
        (
            [(0, LOST), (1, "DataError: shard x cannot be read: ECONNRESET (Connection reset by peer)")],
            1,
            "rank 1 after step 0: DataError: shard x cannot be read",
        ),
        (
            [(0, LOST), (None, "r1: task 0: Exited with exit code 1", "r2: task 1: Killed")],
            1,
            "rank 1 after step 0, says srun: r2: task 1: Killed",
        ),
        ([(0, LOST), (None, "r1: task 0: Exited with exit code 1")], 1, "rank 1 was silent"),
        (
            [(0, WAITED), (1, LOST), (None, "r2: task 1: Killed")],
            1,
            "rank 1 was silent; rank 0 after step 0: Stuck: rank 0",
        ),
        (
            [(1, "Stuck: rank 1 made no progress for 20 s in saving at epoch 1, step 7"), (0, LOST)],
            1,
            "rank 1 after step 0: Stuck",
        ),
        ([(None, "r[1-2]: tasks 0-1: Killed")], 0, "rank 0-1 after step 0, says srun"),
        (
            [
                (0, "Diverged: epoch 0, step 3"),
                (1, "Diverged: epoch 0, step 3"),
                (None, "r1: task 0: Exited with exit code 1"),
            ],
            0,
            "Diverged",
        ),
    ],
)
def test_why_names_the_rank_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: list, rank: int, said: str
) -> None:
    """`why=RUN` shows, of the newest start that failed, the rank that is the cause and not those that lost it or waited
    for
    it: by its own words, by srun's about who was killed, or else by its silence; and the end of that rank's log."""
    (tmp_path / "log").mkdir()
    (tmp_path / "meta.json").write_text('{"world": 2}')
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    events.append_event(tmp_path, "failed", rank=0, error="Old: from an earlier start")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for who, *errors in noted:
        events.append_event(
            tmp_path, "verdict", verdict="requeue", ends=errors
        ) if who is None else events.append_event(tmp_path, "failed", rank=who, error=errors[0])
    for r in (0, 1):
        (tmp_path / "log" / f"5_{r}_log.err").write_text(f"the last words of rank {r}")
    told = failure.why(tmp_path)
    assert said in told and f"the last words of rank {rank}" in told and "Old" not in told


def test_status_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run's line has its epoch, step, restarts, what its newest start runs on, images/s, last validation accuracy
    and newest log; a torn file does not stop the view; folders of the suite's own are no runs."""
    for name in ("a-run", ".code"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("schedule: {epochs: 4}\nbatch: {size: 32}")
    run = tmp_path / "a-run"
    (run / "meta.json").write_text('{"world": 1, "steps_per_epoch": 10}')
    (run / "metrics.jsonl").write_text(
        '{"kind": "boot", "device": "cuda NVIDIA A100"}\n{"kind": "boot", "device": "cpu"}\n'
        '{"kind": "train", "step": 15, "images_per_s": 64.0}\n{"kind": "eval", "split": "val", "accuracy": '
        '{"overall": 0.5}}\n{"kind": "tr'
    )
    for _ in range(3):
        events.append_event(run, "start")
    for age, name in ((20, "100_0_log.out"), (10, "99_0_log.out"), (0, "99_10_log.out")):
        (run / "log" / name).touch()
        os.utime(run / "log" / name, (time.time() - age,) * 2)
    assert status.main([f"runs={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert (
        shown.splitlines()[1].split()
        == ["a-run", "lost", "1.5/4", "15/40", "2", "cpu", "64", "-", "50.0", str(run / "log" / "99_0_log.out")]
        and ".code" not in shown
    )
    (run / "meta.json").write_text('{"wor')
    assert status.main([f"runs={tmp_path}"]) == 0
    assert status.main(["watch=often"]) == 2 and "watch=often is no number of seconds" in capsys.readouterr().err


def test_a_running_run_that_waits_a_tenth_of_its_time_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest lines of its newest start count; shares below a tenth, runs that run no more, and lines of older code
    say nothing."""
    run = tmp_path / "a-run"
    run.mkdir()
    (run / "recipe.yaml").write_text("schedule: {epochs: 4}\nbatch: {size: 32}")
    (run / "meta.json").write_text('{"world": 1, "steps_per_epoch": 10}')

    def shown(lines: list[dict[str, object]], state: str) -> str:
        monkeypatch.setattr(run_line, "state_of", lambda *_: state)
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert status.main([f"runs={tmp_path}"]) == 0
        return capsys.readouterr().out

    def trained(data_s: float, ranks_s: float, **more: object) -> dict[str, object]:
        return {"kind": "train", "step": 5, "images_per_s": 64.0, "data_wait_s": data_s, "rank_wait_s": ranks_s, **more}

    boot: dict[str, object] = {"kind": "boot", "device": "cpu", "seconds": 3.0}
    waits = [boot, *[trained(9.0, 9.0, seconds=10.0)] * 30, boot, trained(9.9, 0, seconds=10.0)]
    waits += [trained(2.0, 1.5, seconds=10.0), trained(4.0, 0.7, seconds=10.0)] * 5
    told = shown(waits, "running")
    assert "a-run waits 30% of the time for data: docs/loading.md\n" in told
    assert "a-run waits 11% of the time for the slowest rank, as a mean over the ranks: docs/nodes.md\n" in told
    assert " waits " not in shown(waits, "finished")
    assert " waits " not in shown([boot, trained(0.99, 0.99, seconds=10.0)], "running")
    assert " waits " not in shown([boot, trained(9.0, 9.0)], "running")


def test_a_later_evaluation_has_a_state_though_it_takes_no_steps(tmp_path: Path) -> None:
    run = tmp_path / "glt_logit_adjust-a-glt-s0-00000000"
    run.mkdir()
    (run / "recipe.yaml").write_text("schedule: {epochs: 4}\nbatch: {size: 32}")
    (run / "meta.json").write_text('{"world": 1, "steps_per_epoch": 0}')
    (run / "metrics.jsonl").write_text('{"kind": "eval", "split": "val", "accuracy": {"overall": 0.5}}\n')
    (run / "done").write_text("{}")
    line = status.line_of(run, None)
    assert (line.state, line.epoch, line.step, line.val) == ("finished", "-", "-", 0.5)


def test_a_full_disk_does_not_hide_what_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An event that cannot be written is printed and nothing is raised, and the job is then not put back into the
    queue, where its starts could not be counted. An event after a torn line is whole."""
    events.append_event(tmp_path, "start")
    path = tmp_path / "log" / "events.jsonl"
    path.write_bytes(path.read_bytes() + b'{"event": "fai')
    assert events.append_event(tmp_path, "failed", rank=0, error="E: first")
    assert [event["event"] for event in events.read(tmp_path)] == ["start", "failed"]
    asked = []
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda words, **_: (
            asked.append(words[1]) or subprocess.CompletedProcess(words, 0, "JobState=RUNNING Restarts=0", "")
        ),
    )
    monkeypatch.setattr(requeue, "append_event", lambda *_, **__: False)
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    assert requeue.main(tmp_path, 1) == 1 and asked == ["show"]
    path.unlink()
    path.mkdir()  # a folder in its place: root may write to anything else
    assert not events.append_event(tmp_path, "failed", rank=0, error="E: second")
    assert "E: second" in capfd.readouterr().err


def test_without_an_open_file_an_event_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where not even the checkpoints can be listed, what failed is printed and nothing is raised in its place."""

    def refuse(folder: Path) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(events, "newest_step", refuse)
    assert not events.append_event(tmp_path, "failed", rank=0, error="E: first")
    (said,) = capfd.readouterr().err.splitlines()
    assert "events.jsonl: Too many open files; not noted there: {" in said and said.endswith('"error": "E: first"}')


def test_a_start_that_slurm_took_for_dead_leaves_the_queue_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a network cut the old start's batch script finds that its job was started anew, by SLURM's count or by the
    newer one's event, and does not requeue it: that would throw the newer one out."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    events.append_event(tmp_path, "start")
    assert requeue.decide(tmp_path, cancelled=False) == "requeue"
    asked = []
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda words, **_: (
            asked.append(words[1]) or subprocess.CompletedProcess(words, 0, "JobState=RUNNING Restarts=1", "")
        ),
    )
    assert requeue.main(tmp_path, 1) == 1 and asked == ["show"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    events.append_event(tmp_path, "start")
    assert requeue.decide(tmp_path, cancelled=False) == "requeue"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert requeue.decide(tmp_path, cancelled=False) == "superseded"


def test_starts_that_slurm_threw_out_are_no_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of starts without progress only those count towards giving up that ended by themselves, since the user's last
    wish.
    """
    monkeypatch.setenv("SLURM_JOB_ID", "5")

    def start(number: int, failed: bool) -> None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(number))
        events.append_event(tmp_path, "start")
        if failed:
            events.append_event(tmp_path, "verdict", verdict=requeue.decide(tmp_path, cancelled=False))

    for number in range(6):
        start(number, failed=number >= 3)
    assert [event["verdict"] for event in events.read(tmp_path) if event["event"] == "verdict"] == [
        "requeue",
        "requeue",
        "give up",
    ]
    events.append_event(tmp_path, "submitted", job="5")
    start(6, failed=True)
    assert events.read(tmp_path)[-1]["verdict"] == "requeue"


def test_starts_that_were_stopped_are_no_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that a signal ends in its boot has saved nothing and has not failed: one error after two of them is the
    first of three."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    for number, end in enumerate(["stopped", "stopped", "failed", "stopped", "failed", "failed"]):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(number))
        events.append_event(tmp_path, "start")
        events.append_event(tmp_path, end, rank=0, error="E: x")
        verdict = requeue.decide(tmp_path, cancelled=False)
        events.append_event(tmp_path, "verdict", verdict=verdict)
        assert verdict == ("give up" if number == 5 else "requeue")


@pytest.mark.parametrize("saves", [False, True])
def test_a_start_that_takes_longer_than_the_time_limit_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: bool
) -> None:
    """A run that is stopped again and again before anything is saved would come back for ever: it is given up with the
    reason. One that saves in each start is put back as often as it is stopped."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setattr(requeue, "_ask", lambda *_: (0, "JobState=RUNNING", ""))
    verdicts = []
    for number in range(requeue.STOPS + 1):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(number))
        events.append_event(tmp_path, "start")
        if saves:
            (tmp_path / "ckpt" / f"step-{number:09d}").mkdir(parents=True)
            (tmp_path / "ckpt" / f"step-{number:09d}" / "MANIFEST.json").write_text("{}")
        events.append_event(tmp_path, "stopped")
        verdicts.append(requeue.judge(tmp_path, 99, "5")[0])
        if verdicts[-1] == "give up":
            break
    noted = events.read(tmp_path)
    assert verdicts[: requeue.STOPS - 1] == ["requeue"] * (requeue.STOPS - 1)
    assert verdicts[requeue.STOPS - 1 :] == (["requeue"] * 2 if saves else ["give up"])
    told = requeue.TOO_LONG if not saves else ""
    assert failure.last_error(noted) == told and remarks("a", noted) == ([f"a gave up: {told}"] if told else [])


def test_starts_that_end_before_they_begin_are_not_tried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that dies in its imports, or a step that srun cannot start, notes no start; it counts towards giving up
    all the same.
    """
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    verdicts = []
    events.append_event(tmp_path, "submitted", job="5")
    for number in range(3):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(number))
        verdicts.append(requeue.decide(tmp_path, cancelled=False))
        events.append_event(tmp_path, "verdict", verdict=verdicts[-1])
    assert verdicts == ["requeue", "requeue", "give up"]


def test_a_controller_that_is_away_for_a_moment_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """While slurmctld cannot be reached the batch script waits and then requeues; a refusal is final; a node without
    scontrol says so.
    """
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setattr(requeue.time, "sleep", lambda _: None)
    for answers, verdict in (
        (["Unable to contact slurm controller", "Unable to contact slurm controller", ""], "requeue"),
        (["Unexpected message received for job 3", ""], "requeue"),
        (["Access/permission denied"], "requeue refused"),
    ):
        replies = iter(answers)

        def scontrol(words: list[str], replies: Iterator[str] = replies, **_: object) -> subprocess.CompletedProcess:
            complaint = next(replies) if words[1] == "requeue" else ""
            return subprocess.CompletedProcess(words, int(bool(complaint)), "JobState=RUNNING Restarts=0", complaint)

        monkeypatch.setattr(subprocess, "run", scontrol)
        assert requeue.main(tmp_path, 1) == 1 and not list(replies)
        assert events.read(tmp_path)[-1]["verdict"] == verdict
        (tmp_path / "log" / "events.jsonl").unlink()

    def missing(words: list[str], **_: object) -> None:
        raise FileNotFoundError("scontrol")

    monkeypatch.setattr(subprocess, "run", missing)
    assert requeue.main(tmp_path, 1) == 1 and events.read(tmp_path)[-1]["reason"] == "this node has no scontrol"


def test_a_fenced_start_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that found a newer one's claim ends for good: requeued, it would take the run away from the newer one."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    events.append_event(tmp_path, "start")
    events.append_event(tmp_path, "failed", rank=0, error="Fenced: another token")
    assert requeue.decide(tmp_path, cancelled=False) == "superseded"


def test_a_replaced_start_cannot_commit(tmp_path: Path) -> None:
    """Once a newer start has claimed the run folder, the older one's commit is refused and the newer one's is not."""
    from ifl.supervision.fence import Fence, Fenced

    old, new = Fence(tmp_path), Fence(tmp_path)
    new.check()
    with pytest.raises(Fenced, match="newer start"):
        old.check()


def test_a_fence_that_cannot_be_read_is_not_a_newer_start(tmp_path: Path) -> None:
    """A run folder that is gone or a disk that fails stops the commit with its own sentence: nobody has taken over, and
    the run may go on later.
    """
    from ifl.supervision.fence import Fence, Fenced
    from recipes.common.errors import RunError

    fence = Fence(tmp_path)
    (tmp_path / "FENCE").unlink()
    with pytest.raises(RunError, match="FENCE cannot be read") as error:
        fence.check()
    assert not isinstance(error.value, Fenced)


def test_what_a_replaced_start_still_writes_is_not_the_runs(tmp_path: Path) -> None:
    """Metrics lines that an older start writes after a newer one's claim do not reach metrics.jsonl."""
    from ifl.supervision.fence import Fence

    Fence(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as old:
        old.write("before\n")
        old.flush()
        Fence(tmp_path)
        old.write("after\n")
    assert (tmp_path / "metrics.jsonl").read_text() == "before\n"


def test_a_start_cut_off_in_its_boot_does_not_take_the_run_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the starts of one job only a later one may claim the folder; another job may always, and so may a local
    run.
    """
    from ifl.supervision.fence import Fence, Fenced

    def claim(job: str, restart: str) -> Fence:
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restart)
        return Fence(tmp_path)

    newest = claim("5", "1")
    with pytest.raises(Fenced, match="start 1 of this job has the run, and this is start 0"):
        claim("5", "0")
    newest.check()
    claim("4", "0").check()
    monkeypatch.delenv("SLURM_JOB_ID")
    Fence(tmp_path).check()


def test_an_id_that_is_more_than_a_number_is_compared_by_its_number(tmp_path: Path) -> None:
    """squeue writes the ids of arrays and of parts of a job as 8_[0-3%2] and 8+0."""
    jobs = {
        job: run_state.Job("PENDING", name=tmp_path.name, batch_file=f"{tmp_path}/log/x.sh")
        for job in ("7", "108_[0-3%2]", "12+0")
    }
    assert run_state.job_of(tmp_path, [], jobs) == "108_[0-3%2]"


@pytest.fixture
def beta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login node of cluster beta, with an empty queue."""
    (tmp_path / "bin").mkdir()
    stub(tmp_path / "bin", "squeue", "exit 0")
    stub(tmp_path / "bin", "scontrol", "echo 'ClusterName             = beta'")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


def test_a_run_of_another_cluster_is_not_submitted_again(beta: None, tmp_path: Path) -> None:
    """Clusters may share a folder of runs. A run that was submitted on another is `unknown` here until its end is
    noted: neither a launch nor cancel= takes this queue's silence for its end, and the status names the cluster."""
    recipe = resolve(["data=digits_glt", "recipe=glt_baseline", f"runs={tmp_path / 'runs'}"])
    folder = recipe.run_folder
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("{}")
    for cluster, state in (("beta", "lost"), ("alpha", "unknown")):
        events.append_event(folder, "submitted", incarnation=events.LAUNCHER, job="7", needs=[], cluster=cluster)
        events.append_event(folder, "start", incarnation="7.0")
        assert run_state.state_of(folder, events.read(folder), run_state.queue()) == state
    assert remarks("it", events.read(folder)) == [
        "it: its job is on cluster alpha, and the queue of cluster alpha is not asked from here"
    ]
    with pytest.raises(
        RecipeError, match="the queue of cluster alpha is not asked from here, so nothing was submitted"
    ):
        submission.preview([Run(recipe)], None, Site())
    with pytest.raises(StatusError, match=r"has its job on cluster alpha, .*: the same command there cancels it"):
        status.cancel(folder)
    events.append_event(folder, "verdict", incarnation="7.0", verdict="give up")
    assert run_state.state_of(folder, events.read(folder), run_state.queue()) == "gave up"
    assert submission.preview([Run(recipe)], None, Site())[1], "then it may go on here"


def test_where_slurm_does_not_tell_its_name_no_cluster_counts_as_this_one(
    beta: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the controller is busy, squeue may answer and scontrol not: a run of beta is `unknown` on beta, too, and
    not submitted a second time, until SLURM tells; a view that goes on asks again."""
    run = Run(resolve(["data=digits_glt", "recipe=glt_baseline", f"runs={tmp_path / 'runs'}"]))
    run.folder.mkdir(parents=True)
    events.append_event(run.folder, "submitted", incarnation=events.LAUNCHER, job="7", needs=[], cluster="beta")
    events.append_event(run.folder, "start", incarnation="7.0")
    noted, clock = events.read(run.folder), 600.0
    monkeypatch.setattr(run_state.time, "monotonic", lambda: clock)
    stub(tmp_path / "bin", "scontrol", "exit 1")
    assert run_state.state_of(run.folder, noted, run_state.queue()) == "unknown"
    assert remarks("it", noted) == [], "each run of a copy on a machine without SLURM would have a line"
    said = "SLURM does not tell whether this is cluster beta \\(scontrol show config\\), so nothing was submitted"
    with pytest.raises(RecipeError, match=said):
        submission.preview([run], None, Site())
    stub(tmp_path / "bin", "scontrol", "echo 'ClusterName             = beta'")
    clock += 61
    assert run_state.state_of(run.folder, noted, run_state.queue()) == "lost"
