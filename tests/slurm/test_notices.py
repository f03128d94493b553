"""A run's end is told to a command or an address, within seconds or not at all; a command's end once."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from recipes.common.errors import RecipeError
from recipes.resolve import resolve
from slurm import site_file
from slurm.after_run import ending, notices, settings
from slurm.after_run.settings import Archive, Notify, archive_of, hand_over, handed_over, notify_of
from slurm.cluster import needs, requeue, submission
from slurm.cluster.sbatch import batch_job, parameters
from slurm.local.run_queue import run_all
from slurm.monitoring import commands, events, run_state
from slurm.planning.schedule import Run
from tests.helpers.launching import refused, stub
from tests.helpers.paths import PROJECT
from tests.slurm.test_run_queue import Machine, accept, recipes

SECRET = "S3CRET"


@contextmanager
def server(answer: int = 200, **headers: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web server of this machine: its address, with a secret in it, and what it was sent."""
    got: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answer)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:
            got.append({"event": "GET"})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/{SECRET}", got
        finally:
            http.shutdown()
            thread.join()


def run_in(runs: Path, name: str = "a-run", done: bool = False) -> Path:
    (runs / name / "log").mkdir(parents=True)
    (runs / name / "recipe.yaml").write_text("schedule: {epochs: 4}\nbatch: {size: 32}")
    if done:
        (runs / name / "done").write_text("{}")
    return runs / name


def teller(folder: Path) -> tuple[list[str], Path]:
    """A command that keeps what it reads, and its file."""
    stub(folder, "tell", f'cat >> "{folder}/told"')
    return [str(folder / "tell")], folder / "told"


def told(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


# ----------------------------------------------------------------------------------------------------------- the key
@pytest.mark.parametrize(
    "value, said",
    [
        (f"ftp://h/{SECRET}", "begins with neither http:// nor https://"),
        (f"https:///{SECRET}", "has no host"),
        (f"https://h:{SECRET}/x", "a port that is no number"),
        (f"https://me:{SECRET}@h/x", "a user or password"),
        (f"https://h/{SECRET} x", "holds a blank"),
        (f"https://h/{SECRET}\n", "holds a blank"),
        (f"https://h/{SECRET}ü", "not ASCII"),
        ("", "neither"),
        ([], "notify is empty"),
        (None, "notify is empty"),
        ({"command": SECRET}, "notify is a mapping"),
        (7, "no text but a value of another kind"),
        (["tell", 7], "word 2 of the command is no text"),
        (["tell", None], "word 2 of the command is empty"),
        (["tell", [SECRET]], "word 2 of the command is a list"),
        (["tell", f"{SECRET}\0"], "word 2 of the command is text with NUL"),
        ([" ", SECRET], "first word is empty"),
        (["./tell", SECRET], "a path from a folder"),
    ],
)
def test_what_is_no_target_is_refused_without_its_words(value: object, said: str) -> None:
    """A sentence that names file and key says what is wrong and what would be legal, and quotes nothing of a value that
    may hold a secret."""
    with pytest.raises(RecipeError) as error:
        notify_of(value, Path("/my/site.yaml"))
    sentence = str(error.value)
    assert sentence.startswith("/my/site.yaml: notify") and said in sentence and SECRET not in sentence
    assert "http:// or https:// is" in sentence or "is legal" in sentence


def test_legal_targets_and_archives() -> None:
    """A command's words stay as they are, whatever they hold; `~` is the user's folder; archives are whole paths."""
    words = ["tell", "a b", "$(touch x)", "'", '"', "ü", "line\nbreak", "7"]
    assert notify_of(words, Path("s")) == Notify(command=tuple(words))
    assert notify_of("https://h.org:8080/x?y=z", Path("s")) == Notify(address="https://h.org:8080/x?y=z")
    assert notify_of(["~/tell"], Path("s")).command == (os.path.expanduser("~/tell"),)
    assert archive_of("/a b/c", Path("s")) == Archive("/a b/c")
    assert archive_of({"folder": "/a", "weights": True}, Path("s")) == Archive("/a", True)
    for value, said in (
        ("relative", "whole path"),
        ("", "whole path"),
        (7, "archive=7"),
        (["/a"], "archive="),
        ({"folder": 7}, "whole path"),
        ({"weights": True}, "whole path"),
        ({"folder": "/a\nb"}, "whole path"),
        ({"folder": "/a", "weights": "yes please"}, "true or false"),
        ({"folder": "/a", "wieghts": True}, "did you mean weights?"),
    ):
        with pytest.raises(RecipeError, match=r"/site\.yaml: archive") as error:
            archive_of(value, Path("/site.yaml"))
        assert said in str(error.value)


def test_the_site_file_brings_both_and_the_launcher_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are read with the site file; a slip ends the command with one sentence that hides the address."""
    site = tmp_path / "site.yaml"
    site.write_text(f"notify: https://h/{SECRET}\narchive: /project/archive\npartition: gpu\n")
    monkeypatch.setenv("GLT_SITE", str(site))
    found = site_file.load()
    assert found.own == {"notify": Notify(address=f"https://h/{SECRET}"), "archive": Archive("/project/archive")}
    assert found.slurm == {"partition": "gpu"}
    site.write_text(f"notify: htps://h/{SECRET}\n")
    sentence = refused("data=digits_glt", "cluster=dry", GLT_SITE=str(site))
    assert sentence.startswith(f"{site}: notify") and SECRET not in sentence


@pytest.mark.parametrize(
    "text, said",
    [
        ("clusters: {alpha: {notify: 'https://h/S3CRET'}, beta: 3}", "clusters.beta is not legal"),
        ("clusters:\n  alpha: {notify: 'https://h/S3CRET'}\n  beta:\n", "clusters.beta is not legal"),
        ("clusters: ['https://h/S3CRET']", "clusters is not legal"),
        ("clusters: {alpha: {for: {notify: 'https://h/S3CRET'}}}", "clusters.alpha: for.notify is not legal"),
        ("for: {notify: 'https://h/S3CRET'}", "for.notify is not legal"),
        ("partition: gpu\nnotify: https://h/S3CRET: x\n", "mapping values are not allowed here (line 2)"),
        ("partition: gpu\nnotify: 'https://h/S3CRET\n", "while scanning a quoted scalar (line 2)"),
        ("notify: [tell, S3CRET\npartition: gpu\n", "(line 1)"),
    ],
)
def test_a_slip_around_it_does_not_quote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    """What is wrong elsewhere in the file, or in its YAML, is said by key or line, and no value beside it is shown."""
    site = tmp_path / "site.yaml"
    site.write_text(text)
    monkeypatch.setenv("GLT_SITE", str(site))
    with pytest.raises(RecipeError) as error:
        site_file.load()
    assert said in str(error.value) and str(site) in str(error.value) and SECRET not in str(error.value)


def test_jobs_find_it_in_a_file_that_only_its_user_reads(tmp_path: Path) -> None:
    """What a launch hands over is read back, by its user alone, follows the site file, and is gone with it."""
    own = {"notify": Notify(address=f"https://h/{SECRET}"), "archive": Archive("/a", True), "other": 7}
    hand_over(tmp_path, own)
    assert handed_over(tmp_path) == settings.AtTheEnd(own["notify"], own["archive"])
    assert stat.S_IMODE((tmp_path / settings.WANTED).stat().st_mode) == 0o600
    hand_over(tmp_path, {"notify": Notify(command=("tell",))})
    assert handed_over(tmp_path) == settings.AtTheEnd(Notify(command=("tell",)))
    hand_over(tmp_path, {})
    assert os.listdir(tmp_path) == [] and handed_over(tmp_path) == settings.AtTheEnd()


# ----------------------------------------------------------------------------------------------------------- a notice
def test_a_launch_that_submits_nothing_reaches_the_jobs_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the runs are in the queue already, `notify:` that the site file says since then holds for them."""
    run = Run(resolve(["data=digits_glt", f"runs={tmp_path / 'runs'}"]))
    run.folder.mkdir(parents=True)
    stub(tmp_path, "sbatch", "exit 1")
    stub(tmp_path, "squeue", f"echo '7|PENDING|N/A|None|x|{run.folder}/log/x.sh'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    own = {"notify": Notify(command=("tell",))}
    submission.submit_all([run], None, site_file.Site(own=own), lambda _: None)
    assert "is queued: nothing to do" in capsys.readouterr().out
    assert handed_over(run.folder.parent) == settings.AtTheEnd(own["notify"])


def test_a_command_that_waits_for_another_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Launches, tidying and a look at nodes hold one lock in a folder of runs; whoever waits for it says for whom."""

    def second() -> None:
        with submission.alone(tmp_path):
            pass

    said, deadline = "", time.monotonic() + 30
    with submission.alone(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        while not said and time.monotonic() < deadline:
            said = capsys.readouterr().err
    waiting.join()
    assert said == f"another command submits into {tmp_path} or tidies it: waiting for it\n"


def test_an_address_gets_the_line(tmp_path: Path) -> None:
    """The notice says which run ended how, and in words that a chat service shows."""
    run = run_in(tmp_path)
    (run / "metrics.jsonl").write_text('{"kind": "eval", "split": "val", "accuracy": {"overall": 0.5}}\n')
    with server() as (address, got):
        hand_over(tmp_path, {"notify": Notify(address=address)})
        ending.after(run, "finished", over=True)
        assert [(one["event"], one["run"], one["folder"], one["text"]) for one in got] == [
            ("finished", "a-run", str(run), "a-run: finished, 50.0 % on val")
        ]
        ending.after(run, "finished", over=True)
        assert len(got) == 1, "a run is told once to be finished, though its job is started again"
    assert [(e["event"], e["of"], e["to"]) for e in events.beside(run)] == [("notified", "finished", "127.0.0.1")]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_refusal(tmp_path: Path, code: int) -> None:
    """Where an address answers with another, the line has reached nobody; it is noted as refused, and no other address
    is asked."""
    run = run_in(tmp_path)
    with server() as (other, got), server(code, Location=other) as (address, _):
        hand_over(tmp_path, {"notify": Notify(address=address)})
        ending.after(run, "finished", over=True)
    (event,) = events.beside(run)
    assert (event["event"], event["error"]) == ("notice refused", f"it answers {code}") and not got


@pytest.mark.parametrize("kind", ["dead", "hanging", "dripping", "refusing", "unknown host", "not http"])
def test_a_refused_address_is_noted_in_time_and_without_its_secret(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither a dead address nor a server that hangs, drips or refuses takes longer than the limit or raises; the
    run's events say why, and nothing says the address."""
    monkeypatch.setattr(notices, "LIMIT_S", 0.4)
    run = run_in(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listening, server(404) as (refusing, _):
        port = listening.getsockname()[1]

        def talk() -> None:
            with listening.accept()[0] as connection:
                if kind == "not http":
                    connection.sendall(b"\0\1\2\n")
                for _ in range(20 if kind == "dripping" else 0):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nX: y\r\n"[:1])
                    time.sleep(0.1)

        if kind in ("dripping", "not http"):
            threading.Thread(target=talk, daemon=True).start()
        with socket.create_server(("127.0.0.1", 0)) as closed:
            dead = closed.getsockname()[1]
        address = {
            "dead": f"http://127.0.0.1:{dead}/{SECRET}",
            "refusing": refusing,
            "unknown host": f"http://no-such-host.invalid/{SECRET}",
        }.get(kind, f"http://127.0.0.1:{port}/{SECRET}")
        hand_over(tmp_path, {"notify": Notify(address=address)})
        began = time.monotonic()
        ending.after(run, "finished", over=True)
        assert time.monotonic() - began < 1.5
    (noted,) = events.beside(run)
    assert noted["event"] == "notice refused" and noted["of"] == "finished"
    assert {"refusing": "404", "dead": "refused"}.get(kind, "") in noted["error"] and noted["error"]
    assert SECRET not in json.dumps(noted) + "".join(capfd.readouterr())


def test_a_command_that_fails_hangs_or_is_missing_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that reads gets the line, and no shell reads its words; another is ended in time, with its children, and
    noted without what it was called with or says."""
    monkeypatch.setattr(notices, "LIMIT_S", 0.4)
    run = run_in(tmp_path / "runs")
    stub(tmp_path, "fail", f"echo {SECRET} >&2; exit 3")
    stub(tmp_path, "hang", f"sleep 60 & echo $! > {tmp_path}/child; wait")
    stub(tmp_path, "deaf", "exec <&-; exit 0")
    words, file = teller(tmp_path)
    for command, error in (
        ([*words, f"$(touch {tmp_path}/canary)"], None),
        ([str(tmp_path / "fail"), SECRET], "it ended with code 3"),
        ([str(tmp_path / "hang"), SECRET], "it took longer than 0.4 s and was ended"),
        ([str(tmp_path / "none"), SECRET], "it cannot be started: No such file or directory"),
        ([str(tmp_path / "deaf")], None),
    ):
        hand_over(tmp_path / "runs", {"notify": Notify(command=tuple(command))})
        began = time.monotonic()
        ending.after(run, "stuck", over=False)
        assert time.monotonic() - began < 1.5
        noted = events.beside(run)[-1]
        assert (noted.get("error"), noted["to"]) == (error, Path(command[0]).name)
    assert [one["event"] for one in told(file)] == ["stuck"] and not (tmp_path / "canary").exists()
    assert SECRET not in (run / "log" / "events.jsonl").read_text()
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split():
            break
        time.sleep(0.02)
    else:
        raise AssertionError("the command's child lives on")


def test_notes_do_not_change_a_runs_state(tmp_path: Path) -> None:
    """What was done after an end stands in the events, and no state, verdict or reason depends on it."""
    run = run_in(tmp_path)
    events.append_event(run, "verdict", verdict="give up")
    for event in events.BESIDE:
        events.append_event(run, event, of="given up", error="x")
    assert run_state.state_of(run, events.read(run), {}) == "gave up" and run_state.is_over(events.read(run))
    assert [event["event"] for event in events.beside(run)] == list(events.BESIDE)


# ------------------------------------------------------------------------------------------------- who tells of what
FAILED, STUCK = "DataError: shard x is damaged", "Stuck: rank 1 made no progress for 20 s in epoch 1, step 7"


@pytest.mark.parametrize(
    "noted, code, done, word, error",
    [
        ([], 0, True, "finished", ""),
        ([("failed", FAILED)], 1, False, "failed", FAILED),
        ([("failed", STUCK)], 1, False, "stuck", STUCK),
        ([], 137, False, "failed", ""),
        ([("stopped", None)], 99, False, None, ""),
        ([("old", STUCK), ("old", STUCK), ("failed", FAILED)], 1, False, "given up", FAILED),
        ([("failed", "Fenced: another token")], 1, False, None, ""),
    ],
)
def test_the_batch_script_tells_how_a_start_ended(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    noted: list[tuple[str, str | None]],
    code: int,
    done: bool,
    word: str | None,
    error: str,
) -> None:
    """Finished, failed, given up and stuck are told, the last by what a watchdog said, each with this start's own
    sentence; a stop on a signal and a start that was replaced are not. A failed start is told before its job goes
    back, for SLURM then ends the script."""
    words, file = teller(tmp_path)
    run = run_in(tmp_path / "runs", done=done)
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    for number, (event, sentence) in enumerate(noted):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(number))
        values = {"rank": 1, "error": sentence} if sentence else {}
        events.append_event(run, "failed" if event == "old" else event, **values)
        if event == "old":
            events.append_event(run, "verdict", verdict="requeue")
    stub(
        tmp_path,
        "scontrol",
        f'[ "$1" = show ] && echo JobState=RUNNING Restarts=0 || cp "{file}" "{file}.before"; exit 0',
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(requeue.time, "sleep", lambda _: None)
    hand_over(tmp_path / "runs", {"notify": Notify(command=tuple(words))})
    if word != "finished":  # one real process is enough
        monkeypatch.setattr(ending, "start", lambda *words, over: ending.after(*words, over))
    requeue.main(run, code)
    assert [(one["event"], one["error"], one["job"]) for one in told(file)] == ([(word, error, "5")] if word else [])
    assert (tmp_path / "told.before").exists() == (word in ("failed", "stuck"))


def test_a_job_that_cannot_come_back_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused requeue, and a first stage that is not there, end the run for its command, too."""
    words, file = teller(tmp_path)
    runs = tmp_path / "runs"
    first, second = run_in(runs, "first"), run_in(runs, "second")
    commands.note_launch([first, second], ["launch.py", "table=t", f"data.root=/{SECRET}"])
    hand_over(runs, {"notify": Notify(command=tuple(words))})
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    stub(tmp_path, "scontrol", '[ "$1" = show ] && echo JobState=RUNNING || { echo denied >&2; exit 1; }')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    events.append_event(first, "stopped")
    monkeypatch.setattr(ending, "start", lambda *words, over: ending.after(*words, over))
    assert requeue.main(first, 99) == 99
    monkeypatch.setattr(needs, "SEEN_S", 0)
    assert needs.main(second, [first]) == 1
    last = told(file)[-1]
    assert [one["event"] for one in told(file)] == ["given up", "all ended"]
    assert (last["command"], last["ends"], last["not_finished"], last["runs"]) == (
        "table=t",
        {"given up": 1, "waiting": 1},
        ["first", "second"],
        2,
    )
    assert last["text"] == "table=t: all of 2 runs have ended, 1 given up, 1 waiting"


@pytest.mark.parametrize("when", ["before the requeue", "while SLURM is asked"])
def test_a_job_that_is_cancelled_while_its_failure_is_told_stays_cancelled(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not put back, for SLURM would take a cancelled job, and nobody is told that it was given up: the run's
    state and its command's count say that it was cancelled."""
    words, file = teller(tmp_path)
    run, other = run_in(tmp_path / "runs", "first"), run_in(tmp_path / "runs", "second")
    commands.note_launch([run, other], ["launch.py", "table=t"])
    commands.note_end(other, "finished")
    hand_over(tmp_path / "runs", {"notify": Notify(command=tuple(words))})
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    cancels = f"touch {tmp_path}/cancelled"
    stub(
        tmp_path,
        "scontrol",
        f'if [ "$1" = show ]; then [ -e {tmp_path}/cancelled ] && echo JobState=CANCELLED || echo JobState=RUNNING; '
        f"else {cancels}; touch {tmp_path}/requeued; echo Job is completing >&2; exit 1; fi",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def told_slowly(*words: Any, over: bool) -> None:
        ending.after(*words, over)
        if when == "before the requeue":
            (tmp_path / "cancelled").touch()

    monkeypatch.setattr(ending, "start", told_slowly)
    events.append_event(run, "start")
    events.append_event(run, "failed", rank=0, error="E: once")
    assert requeue.main(run, 1) == 1
    assert (tmp_path / "requeued").exists() == (when != "before the requeue")
    verdicts = [event["verdict"] for event in events.read(run) if event["event"] == "verdict"]
    assert verdicts == ["requeue", "cancelled"]
    assert [one["event"] for one in told(file)] == ["failed", "all ended"]
    assert told(file)[-1]["ends"] == {"finished": 1, "cancelled": 1}


@pytest.mark.parametrize("folder", ["runs", "a b's $(touch canary)"])
def test_a_job_that_starts_again_after_the_end_does_what_was_not_done(tmp_path: Path, folder: str) -> None:
    """Where SLURM starts the job of a finished run again its batch script tells the end that was not told, and
    leaves with 0; so it does where the code is gone."""
    words, file = teller(tmp_path)
    runs = tmp_path / folder
    run = run_in(runs, done=True)
    hand_over(runs, {"notify": Notify(command=tuple(words))})
    recipe = resolve(["data=digits_glt", f"runs={tmp_path}"])
    for code in (PROJECT, tmp_path / "gone"):
        line = "\n".join(parameters(recipe, run, code)["setup"])
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(["bash", "-c", f"{line}\nexit 7"], cwd=tmp_path, env=variables, capture_output=True)
        assert done.returncode == 0
        if folder != "runs":
            break
    assert [one["event"] for one in told(file)] == ["finished"] and not (tmp_path / "canary").exists()


def test_a_local_launch_tells_while_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """cluster=local tells each run's end and the command's, with one that failed and one that is therefore not
    started, and ends with the code that it ends with anyway; the secret is in the file for jobs alone, and printed
    nowhere."""
    runs = tmp_path / "runs"
    Machine(monkeypatch, codes={1: 1})
    zero, one, two = (Run(recipe, command=("launch.py", "seeds=0,1,2")) for recipe in recipes(runs, 3))
    with server() as (address, got):
        code = run_all(
            [zero, one, replace(two, needs=(one.folder,))], accept, 2, own={"notify": Notify(address=address)}
        )
    assert code == 1 and sorted(notice["event"] for notice in got) == ["all ended", "failed", "finished"]
    (last,) = (notice for notice in got if notice["event"] == "all ended")
    assert (last["command"], last["ends"]) == ("seeds=0,1,2", {"finished": 1, "failed": 1, "waiting": 1})
    holding = [path for path in runs.rglob("*") if path.is_file() and SECRET in path.read_text()]
    assert holding == [runs / settings.WANTED] and SECRET not in "".join(capfd.readouterr())


# --------------------------------------------------------------------------------------------------- a command's end
def test_the_last_end_is_told_once_over_many_processes(tmp_path: Path) -> None:
    """Of processes that share nothing but the folder, each ending one run of a command, exactly one is told that it
    was the last; as often as that is tried."""
    code = (
        "import sys; from pathlib import Path; from slurm.monitoring.commands import note_end\n"
        "sys.stdin.read(1)\n"
        "for turn in range(25):\n"
        "    print(len(note_end(Path(sys.argv[1]) / str(turn) / sys.argv[2], 'finished')))"
    )
    names = [f"run-{number}" for number in range(4)]
    for turn in range(25):
        commands.note_launch([tmp_path / str(turn) / name for name in names], ["x", "table=t"])
    processes = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path, name], stdin=-1, stdout=-1, text=True, cwd=PROJECT)
        for name in names
    ]
    with ThreadPoolExecutor(4) as pool:
        counts = [out.split() for out, _ in pool.map(lambda process: process.communicate("x"), processes)]
    assert [sum(map(int, turn)) for turn in zip(*counts, strict=True)] == [1] * 25


def test_a_command_is_the_same_in_parts_and_again(tmp_path: Path) -> None:
    """Launched again, in another order and with runs that finished meanwhile, a command is one; those that gave up have
    to end anew, and then its end is told anew. A torn line is passed over."""
    a, b = run_in(tmp_path, "a"), run_in(tmp_path, "b")
    commands.note_launch([a], ["x", "recipe=r"])
    assert commands.commands(tmp_path) == [], "one run is no command of several"
    commands.note_launch([a, b], ["x", "table=t", "seeds=0,1", "nodes=4"])
    assert commands.note_end(a, "given up") == []
    (only,) = commands.note_end(b, "finished")
    assert (only.label, only.counts) == ("table=t seeds=0,1", {"finished": 1, "given up": 1})
    assert commands.note_end(a, "given up") == []
    (b / "done").write_text("{}")
    commands.note_launch([b, a], ["x", "table=t", "seeds=0,1"])
    (file,) = commands.files(tmp_path)
    with open(file, "ab") as out:
        out.write(b'{"run": "a", "en')
    (command,) = commands.commands(tmp_path)
    assert (command.ends, command.told) == ({"b": "finished"}, False)
    assert [one.counts for one in commands.note_end(a, "finished")] == [{"finished": 2}]


def test_what_finished_unnoticed_counts(tmp_path: Path) -> None:
    """A run whose job was killed between `done` and its word is finished for its command at the next end."""
    a, b = run_in(tmp_path, "a"), run_in(tmp_path, "b")
    commands.note_launch([a, b], ["x", "table=t"])
    (a / "done").write_text("{}")
    assert [one.counts for one in commands.note_end(b, "given up")] == [{"finished": 1, "given up": 1}]


def test_a_finished_run_is_told_by_a_python_that_setup_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that comes back after its run's end does what SLURM gave the last start no time for, and leaves with 0
    before any rank starts; also where its Python is there only behind the setup lines."""
    recipe = resolve(["data=digits_glt", "recipe=glt_baseline", f"runs={tmp_path / 'my runs'}"])
    folder = run_in(recipe.run_folder.parent, recipe.run_folder.name, done=True)
    command, file = teller(tmp_path)
    hand_over(folder.parent, {"notify": Notify(command=tuple(command))})
    stub(tmp_path, "glt-python", f'exec {sys.executable} "$@"')
    setup = [f"export PATH={tmp_path}:$PATH"]
    text = batch_job(Run(recipe), PROJECT, setup, own={"python": "glt-python"}).text()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for _ in range(2):  # once more after it was told
        ended = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert [notice["event"] for notice in told(file)] == ["finished"]
