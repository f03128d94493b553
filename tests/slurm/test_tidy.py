"""What nobody needs any more is shown and removed, and never what a table, a second stage or a run under way needs."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from recipes.common.errors import RecipeError
from slurm import launch as launcher
from slurm.cluster import node_check, submission
from slurm.cluster.batch_job import BatchJob
from slurm.monitoring import events, run_state
from slurm.monitoring.run_state import Job
from slurm.site_file import Site
from slurm.upkeep import removal, superfluous
from slurm.upkeep.superfluous import CHECKPOINTS, CODE, LEFTOVERS, SUBMISSION
from tests.helpers.folders import write_rich_run
from tests.helpers.launching import refused
from tests.slurm.test_archive import content, finished

USED, UNUSED = "0123456789ab", "ba9876543210"
HOURS_AGO = time.time() - 7200


def old(path: Path, data: bytes | None = b"x" * 10) -> Path:
    """A file, or with None a folder, that was written hours ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if data is None else path.write_bytes(data)
    os.utime(path, (HOURS_AGO, HOURS_AGO))
    return path


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, one in the queue, one that failed, one that was set aside, and all that they leave behind."""
    monkeypatch.setattr(run_state, "queue", lambda: {"9": Job("PENDING", 0, "queued-run")})
    runs = tmp_path / "runs"
    done = finished(runs)
    kept = superfluous._kept_steps(done)
    assert kept and not kept & {58, 59, 60}
    for step in (*kept, 59):
        old(done / "ckpt" / f"step-{step:09d}" / "suite.pt", bytes(1000))
    old(done / "ckpt" / "step-000000058.old" / "suite.pt")
    old(done / "preds" / "last" / ".val.npz.host-1.tmp")
    (done / "log" / ".young.host-1.tmp").write_text("at work")
    for name in (f"{done.name}.sh", f"{done.name}.pkl", "7_0_result.pkl", "7_0_log.out"):
        old(done / "log" / name)
    (done / "log" / "7_submitted.pkl").symlink_to(f"{done.name}.pkl")
    aside = runs / f"{done.name}.old-1"
    shutil.copytree(done, aside, symlinks=True)
    for name, job, event in (("queued-run", "9", None), ("failed-run", "8", "failed")):
        shutil.copytree(write_rich_run(tmp_path / "made", seed=1, skill=0.5 if event else 0.4), runs / name)
        shutil.rmtree(tmp_path / "made")
        (runs / name / "done").unlink()
        events.append_event(runs / name, "submitted", job=job, code=USED)
        if event:
            events.append_event(runs / name, event, rank=0, error="E: x")
        old(runs / name / "ckpt" / "step-000000010" / "suite.pt")
        old(runs / name / "ckpt" / "tmp-000000020-abcd", None)
        old(runs / name / "log" / f"{name}.pkl")
    for code in (USED, UNUSED):
        old(runs / ".code" / code / "slurm" / "job.py").chmod(0o444)
    old(runs / ".code" / ".new-abcd_123", None)
    old(runs / ".site.json")
    old(runs / "..site.json.host-1.tmp")
    old(runs / f".{done.name}.a.host-1.tmp", None)
    old(runs / ".check" / "20260102-030405-6", None)
    return runs


def tidy(runs: Path, word: str) -> int:
    return launcher.main([f"tidy={word}", f"runs={runs}"])


def named(items: list[superfluous.Item]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for item in items:
        found.setdefault(item.kind, set()).add((item.root / item.name).as_posix())
    return found


def test_what_is_found_is_removed_and_nothing_else(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a finished run go the checkpoints that are not kept for good, the submission files and old leftovers; of one
    that failed its leftovers; of one in the queue nothing; and code that no unfinished run uses. `show` touches nothing
    and says the same, with the bytes of each kind; afterwards nothing is left to remove."""
    done = next(path.parent for path in runs.glob("glt_ifl-*/done") if "old" not in path.parent.name)
    aside, failed = runs / f"{done.name}.old-1", runs / "failed-run"
    before = content(runs)
    found = superfluous.look(runs, run_state.queue())
    expected = {
        CODE: {f"{runs}/.code/{UNUSED}"},
        CHECKPOINTS: {f"{done}/ckpt/step-{number}" for number in ("000000058.old", "000000059", "000000060")},
        LEFTOVERS: {
            *(f"{folder}/preds/last/.val.npz.host-1.tmp" for folder in (done, aside)),
            f"{failed}/ckpt/tmp-000000020-abcd",
            f"{runs}/.code/.new-abcd_123",
            f"{runs}/..site.json.host-1.tmp",
            f"{runs}/.{done.name}.a.host-1.tmp",
            f"{runs}/.check/20260102-030405-6",
        },
        SUBMISSION: {
            *(f"{done}/log/{name}" for name in (f"{done.name}.sh", f"{done.name}.pkl")),
            *(f"{folder}/log/{name}" for folder in (done, aside) for name in ("7_0_result.pkl", "7_submitted.pkl")),
            f"{aside}/log/{done.name}.pkl",
        },
    }
    assert named(found.items) == expected
    assert tidy(runs, "show") == 0 and content(runs) == before
    shown = capsys.readouterr().out
    assert "checkpoints of finished runs: 3, 6.0 kB not needed any more" in shown
    assert "all is kept of what is queued: queued-run" in shown and "tidy=yes removes this" in shown
    assert tidy(runs, "yes") == 0
    said = capsys.readouterr().out
    assert "checkpoints of finished runs: 3, 6.0 kB removed" in said and f"{done.name}/ckpt/step-000000059" in said
    gone = {path for paths in expected.values() for path in paths}
    left = {name: data for name, data in before.items() if not any(f"{runs}/{name}".startswith(one) for one in gone)}
    assert {name: data for name, data in content(runs).items() if not name.endswith((".launching", "lock"))} == left
    assert superfluous.look(runs, run_state.queue()).items == []


def test_commands_and_arrays_stay_while_they_are_needed(runs: Path) -> None:
    """What was noted of a command goes when all its runs are finished, or gone, and the folder of a job array when no
    run of it is unfinished; without SLURM's answer arrays stay. What a killed submission left goes anyhow."""
    (done,) = (path.parent for path in runs.glob("glt_ifl-*/done") if "old" not in path.parent.name)
    lists = {"ready": [done.name], "waits": [done.name, "queued-run"], "begun": [done.name, "none"], "gone": ["none"]}
    for name, of_runs in lists.items():
        line = json.dumps({"command": name, "runs": of_runs})
        old(runs / ".commands" / f"{name}.jsonl", f"{line}\n".encode())
        for number, run in enumerate(of_runs):
            link = runs / ".arrays" / name / str(number) / "0"
            link.parent.mkdir(parents=True)
            link.symlink_to(Path("..", "..", "..", run))
        old(runs / ".arrays" / name / f"{name}.sh")
        os.utime(runs / ".arrays" / name, (HOURS_AGO, HOURS_AGO))
    left = old(runs / ".arrays" / ".glt_ifl-x2-0123abcd.4567cdef", None)
    (runs / ".commands" / "young.jsonl").write_text(json.dumps({"command": "c", "runs": [done.name]}) + "\n")
    found = named(superfluous.look(runs, run_state.queue()).items)
    of_commands = {f"{runs}/.commands/{name}.jsonl" for name in ("ready", "gone")}
    of_arrays = {f"{runs}/.arrays/{name}" for name in ("ready", "begun", "gone")}
    assert of_commands | of_arrays <= found[SUBMISSION] and str(left) in found[LEFTOVERS]
    assert not any("waits" in name or "young" in name for names in found.values() for name in names)
    unasked = {name for names in named(superfluous.look(runs, None).items).values() for name in names}
    assert of_commands <= unasked and not of_arrays & unasked
    assert tidy(runs, "yes") == 0
    assert sorted(path.name for path in (runs / ".arrays").iterdir()) == ["waits"] and (done / "done").exists()
    assert sorted(path.stem for path in (runs / ".commands").iterdir()) == ["begun", "waits", "young"]


def test_what_second_stages_and_tables_need_stays(runs: Path) -> None:
    """Weights, kept epochs' checkpoints, predictions, environments, logs and events of a finished run are there."""
    (done,) = (path.parent for path in runs.glob("glt_ifl-*/done") if "old" not in path.parent.name)
    assert tidy(runs, "yes") == 0
    there = content(done)
    assert {"recipe.yaml", "meta.json", "metrics.jsonl", "done", "ckpt/last.pt", "log/7_0_log.out"} <= there.keys()
    assert "log/events.jsonl" in there and run_state.missing_weights(done) == ""
    steps = {int(path.name.removeprefix("step-")) for path in done.glob("ckpt/step-*")}
    assert steps == superfluous._kept_steps(done) and sum(name.startswith("preds/") for name in there) == 6


@pytest.mark.parametrize("harm", ["other weights", "no weights", "job", "lock", "recipe", "meta", "done", "events"])
def test_runs_in_use_and_damaged_ones_are_left_alone(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    """Where a finished run's weights are gone or damaged its checkpoints stay; of one whose job has not left the queue,
    that a process holds, or that cannot be read, all stays."""
    (done,) = (path.parent for path in runs.glob("glt_ifl-*/done") if "old" not in path.parent.name)
    if harm == "job":
        monkeypatch.setattr(run_state, "queue", lambda: {"7": Job("COMPLETING", 0, done.name)})
    elif harm.endswith("weights"):
        (done / "ckpt" / "last.pt").write_bytes(b"x") if harm == "other weights" else (done / "ckpt/last.pt").unlink()
    elif harm in ("recipe", "meta", "done"):
        file = {"recipe": "recipe.yaml", "meta": "meta.json", "done": "done"}[harm]
        (done / file).write_text("{")
    elif harm == "events":
        (done / "log" / "events.jsonl").unlink()
        (done / "log" / "events.jsonl").mkdir()
    before = content(done)
    with open(done / "lock", "a") as lock:
        if harm == "lock":
            fcntl.flock(lock, fcntl.LOCK_EX)
        code = tidy(runs, "yes")
    said = capsys.readouterr().out
    steps = {name for name in before if name.startswith("ckpt/")}
    assert steps <= content(done).keys(), "no checkpoint is removed"
    if harm not in ("other weights", "no weights", "done"):
        assert {name: data for name, data in content(done).items() if name != "lock"} == before
    if harm in ("recipe", "meta", "events"):
        assert f"all is kept of what is unreadable: {done.name}" in said
        assert (runs / ".code" / UNUSED).exists(), "an unread run may use any code"
    assert code == (1 if harm in ("other weights", "lock") else 0)


def test_code_stays_where_slurm_does_not_answer(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without squeue's word a job may run from any copy; nothing of runs that may be in the queue is removed either."""
    monkeypatch.setattr(run_state, "queue", lambda: None)
    found = superfluous.look(runs, None)
    assert not named(found.items).get(CODE) and any("SLURM does not answer" in sentence for sentence in found.kept)
    assert {item.root.name for item in found.items} & {"queued-run"} == set()


def test_what_others_keep_in_the_folder_is_not_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hidden files and folders whose names are only like those of leftovers stay, in a folder with no run and in a
    run's."""
    theirs = (
        *(".backup.tmp/letters.txt", ".new-laptop/keys", ".tidied-desk/list", "tmp-1/x", ".notes.host-1.tmp/x"),
        *(".code/.new-laptop/keys", ".code/mine/x", ".check/mine/x", ".check/20260102/x"),
        *("a-run/.backup.tmp/x", "a-run/.tidied-desk", "a-run/tmp-1", "a-run/recipe.yaml"),
    )
    for name in theirs:
        old(tmp_path / name, b"{}")
        os.utime((tmp_path / name).parent, (HOURS_AGO, HOURS_AGO))
    before = content(tmp_path)
    assert tidy(tmp_path, "yes") == 0 and "in all 0 B removed" in capsys.readouterr().out
    assert {name: data for name, data in content(tmp_path).items() if name != ".launching"} == before


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "CANCELLED", None])
def test_code_stays_that_a_look_at_nodes_waits_with(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str | None
) -> None:
    """A look whose job is in the queue, or may be, keeps its folder and all code; one that has ended is a leftover."""
    look = runs / ".check" / "20260102-030405-6"
    file = old(look / f"{node_check.NAME}.sh")
    os.utime(look, (HOURS_AGO, HOURS_AGO))
    jobs = {"9": Job("PENDING", 0, "queued-run"), "10": Job(state or "", 0, "renamed", str(file))}
    monkeypatch.setattr(run_state, "queue", lambda: jobs if state else None)
    assert tidy(runs, "yes") == 0
    said, over = capsys.readouterr().out, state == "CANCELLED"
    assert look.exists() is (runs / ".code" / UNUSED).exists() is not over
    why = f"looks at nodes have jobs: {look.name}" if state else "SLURM does not answer (squeue)"
    assert (why in said) is not over


@pytest.mark.parametrize("moment", (0, 2, 5))
def test_a_kill_in_the_middle_leaves_what_the_next_call_removes(
    runs: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Ended at any removal, between the new name and the end, it leaves no half checkpoint or code copy under its name;
    the same command then removes the rest."""
    real, left = shutil.rmtree, iter(range(moment))

    def rmtree(name: str, **options: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(name, **options)

    with monkeypatch.context() as killed:
        killed.setattr(removal.shutil, "rmtree", rmtree)
        try:
            tidy(runs, "yes")
        except KeyboardInterrupt:
            assert list(runs.rglob(".tidied-*"))
    for whole in (*runs.glob("*/ckpt/step-*"), *runs.glob(".code/[0-9a-f]*")):
        assert content(whole), whole
    assert tidy(runs, "yes") == 0 and not list(runs.rglob(".tidied-*"))
    assert superfluous.look(runs, run_state.queue()).items == []


def test_a_folder_that_was_replaced_meanwhile_is_not_touched(runs: Path) -> None:
    """Between the look and the removal again=yes may set a run aside and begin it anew: nothing of the new one goes."""
    (done,) = (path.parent for path in runs.glob("glt_ifl-*/done") if "old" not in path.parent.name)
    found = superfluous.look(runs, run_state.queue())
    holder = removal.os.open
    replaced = []

    def opened(path: Path, *flags: int, **options: int) -> int:
        handle = holder(path, *flags, **options)
        if path == done and not replaced:
            replaced.append(done.rename(runs / f"{done.name}.old-9"))
            shutil.copytree(replaced[0], done, symlinks=True)
        return handle

    removal.os.open = opened
    try:
        _, said = removal.remove(found.items)
    finally:
        removal.os.open = holder
    assert replaced and any("was taken up meanwhile" in sentence for sentence in said)
    assert (done / "ckpt" / "step-000000059" / "suite.pt").exists()


def test_nothing_is_submitted_meanwhile(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tidy=yes` holds the lock that submissions hold, so that a copy of code cannot go between its look and a job."""
    seen = []

    def removing(items: list[superfluous.Item]) -> tuple[list[superfluous.Item], list[str]]:
        with open(runs / submission.LAUNCHING, "a") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen.append(items)
        return [], []

    monkeypatch.setattr(removal, "remove", removing)
    assert tidy(runs, "yes") == 0 and seen
    with submission.alone(runs), open(runs / submission.LAUNCHING, "a") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_look_at_nodes_is_submitted_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds that lock, too, from the copy of the code until SLURM has its job."""
    runs, seen = tmp_path / "runs", []

    def submit(job: BatchJob) -> None:
        with open(runs / submission.LAUNCHING, "a") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen.extend((runs / ".code").iterdir())

    monkeypatch.setattr(node_check, "require_sbatch", lambda: None)
    monkeypatch.setattr(BatchJob, "submit", submit)
    with pytest.raises(RecipeError, match="does not tell its job's id"):
        node_check.parse_command(["check=nodes", f"runs={runs}"], Site()).run()
    assert seen


@pytest.mark.parametrize(
    "words, said",
    [
        (["tidy=now"], "tidy=now is not legal: did you mean show? legal: show, yes"),
        (["tidy=YES"], "tidy=YES is not legal: legal: show, yes"),
        (["tidy="], "tidy= has no value"),
        (["tidy=show", "seed=1"], "seed= does not go with tidy="),
        (["tidy=show", "runs=/no/such folder"], "runs=/no/such folder is no folder"),
        (["tidy=show", "runs=s3://x"], "it is an address"),
    ],
)
def test_slips_are_one_sentence(words: list[str], said: str) -> None:
    """A wrong word is told before anything is looked at."""
    with pytest.raises(RecipeError) as error:
        launcher.parse(words, Site())
    assert said in str(error.value)


def test_the_command_is_reached_from_a_shell(tmp_path: Path) -> None:
    """As typed: the launcher refuses a folder that is not there with one sentence and code 2."""
    assert "is no folder" in refused("tidy=yes", f"runs={tmp_path / 'none'}")


@pytest.mark.parametrize(
    "size, text",
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345, "12 kB"), (9.96e9, "10 GB"), (4e15, "4000 TB")],
)
def test_bytes_read_well(size: float, text: str) -> None:
    """Sizes have a unit and two digits at least."""
    assert removal.shown(int(size)) == text
