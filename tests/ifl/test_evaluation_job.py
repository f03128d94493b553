"""`log.eval=job` changes when epochs are judged and by whom, and nothing else of a run.

The runs are those of the tests of interruptions; an evaluator stands beside two ranks, does not, or is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ifl.evaluation.verdicts import Claim, Presence, Replaced, Verdicts, expect, withdraw
from ifl.run_log import Metrics
from recipes.resolve import resolve
from slurm.local.process_group import LocalRun
from slurm.monitoring import events
from tests.helpers.interrupted import EPOCHS, STEPS, Launch, Start, ending, in_ranks
from tests.helpers.ranks import started

JOB = "log.eval=job"
VERDICT = {"val_accuracy": 0.5, "scores": {"val": {}}}


def judged(folder: str) -> int:
    """Be the evaluator of a run, in a process that exists already."""
    from ifl.evaluation.__main__ import main

    deadline = time.monotonic() + 100
    return main(Path(folder), lambda: time.monotonic() > deadline)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------ the same run
def test_a_run_with_an_evaluator_is_the_same_run(undisturbed: dict[str, Any], tiny_root: Path, tmp_path: Path) -> None:
    """Checkpoint, best epoch, weights, predictions and scores are those of log.eval=inline, bit for bit, and the lines
    stand in an order of epochs; the verdicts are the evaluator's, which leaves when the run is finished."""
    folder = _with_an_evaluator(tiny_root, tmp_path)
    assert ending(folder) == undisturbed
    assert sorted(path.name for path in (folder / "eval").glob("epoch-*")) == [
        f"epoch-{epoch:03d}.json" for epoch in range(EPOCHS - 1)
    ]
    evaluated = [line["step"] for line in lines(folder) if line["kind"] == "eval"]
    steps = [line["step"] for line in lines(folder) if line["kind"] in ("train", "eval")]
    assert evaluated == sorted(evaluated) and steps == sorted(steps)
    assert not (folder / "eval" / "evaluator.json").read_bytes()


def _with_an_evaluator(root: Path, runs: Path, *words: str) -> Path:
    """Train with an evaluator beside the ranks, and return the run's folder."""
    evaluator: list[Any] = []
    waiting = threading.Thread(target=lambda: evaluator.append(_beside(runs)))
    waiting.start()
    finished, text = in_ranks(root, runs, JOB, *words)
    waiting.join()
    assert finished, text
    assert evaluator == [[0]]
    return next(runs.glob("glt_randaug_ifl-*"))


def test_an_evaluator_judges_the_moving_average(tiny_root: Path, tmp_path: Path) -> None:
    """With `optim.ema` the weights that it is given are the average and not the parameters, to the bit, and the run is
    that of log.eval=inline."""
    words = ("optim.ema=0.9", "schedule.epochs=2", "log.keep=[0]")
    finished, text = in_ranks(tiny_root, tmp_path / "inline", *words)
    assert finished, text
    folder = _with_an_evaluator(tiny_root, tmp_path / "job", *words)
    assert ending(folder) == ending(next((tmp_path / "inline").glob("glt_randaug_ifl-*")))
    checkpoint = folder / "ckpt" / f"step-{STEPS:09d}"
    judged = torch.load(checkpoint / "best-0000.pt", weights_only=True)
    verdict = Verdicts(folder).read(0, hashlib.sha256((checkpoint / "best-0000.pt").read_bytes()).hexdigest())
    scored = [line for line in lines(folder) if line["kind"] == "eval" and line["epoch"] == 0]
    assert verdict is not None and verdict["scores"]["val"].items() <= scored[0].items() and scored[0]["split"] == "val"
    engine = torch.load(checkpoint / "engine" / "mp_rank_00_model_states.pt", weights_only=False)
    average, own = engine["moving_average"], engine["module"]
    assert average and all(torch.equal(judged[name], tensor) for name, tensor in average.items())
    assert not any(torch.equal(own[name], tensor) for name, tensor in average.items())
    assert all(torch.equal(judged[name], own[name]) for name in own.keys() - average.keys())


def _beside(runs: Path) -> list[Any]:
    """Evaluate the run that comes into `runs`, in a further process."""
    while not (found := list(runs.glob("*/recipe.yaml"))):
        time.sleep(0.01)
    return started(1).run(judged, str(found[0].parent))


def test_without_an_evaluator_the_ranks_judge(undisturbed: dict[str, Any], tiny_root: Path, tmp_path: Path) -> None:
    """Where none comes, weights and lines wait in the checkpoints; a run that was stopped meanwhile and goes on with
    log.eval=inline has the undisturbed run's bits, though its epochs were judged by other ranks, later."""
    finished, text = in_ranks(tiny_root, tmp_path, JOB, stop_at=STEPS + 7)
    assert not finished, text
    folder = next(tmp_path.glob("glt_randaug_ifl-*"))
    assert all(line["step"] <= STEPS for line in lines(folder)), "lines of the next epoch wait for the verdict"
    assert not any(line["kind"] == "eval" for line in lines(folder))
    newest = sorted(folder.glob("ckpt/step-*"))[-1]
    suite = torch.load(newest / "suite.pt", weights_only=True)
    assert [epoch for epoch, _ in suite["unjudged"]] == [0] and suite["metrics_held"][0] == 0
    assert (newest / "best-0000.pt").exists(), "the checkpoint holds the weights that wait"
    (folder / "ckpt" / "best-0000.pt").unlink()
    finished, text = in_ranks(tiny_root, tmp_path)
    assert finished, text
    assert ending(folder) == undisturbed


@pytest.mark.full
def test_an_evaluator_that_never_comes(undisturbed: dict[str, Any], tiny_root: Path, tmp_path: Path) -> None:
    """After log.eval_wait_s without a sign of it the ranks judge all epochs, and say so once."""
    finished, text = in_ranks(tiny_root, tmp_path, JOB, "log.eval_wait_s=1")
    assert finished, text
    assert text.count("the evaluator is not there or silent for 1 s: this run evaluates by itself") == 1
    assert ending(next(tmp_path.glob("glt_randaug_ifl-*"))) == undisturbed


def _evaluator_of(launch: Launch) -> int:
    """Return the process id of a command's evaluator, once it has claimed the run."""
    while launch.process.poll() is None:
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, StopIteration):
                words = (path / "cmdline").read_text().split("\0")
                if "ifl.evaluation" in words and str(launch.folder) in words:
                    while not (launch.folder / "eval" / "evaluator.json").exists():
                        time.sleep(0.005)
                    return int(path.name)
        time.sleep(0.02)
    raise AssertionError(launch.text)


@pytest.mark.full
@pytest.mark.parametrize("after", [0, 1])
def test_a_killed_evaluator_is_not_missed(
    undisturbed: dict[str, Any], start: Start, tmp_path: Path, after: int
) -> None:
    """kill -9 of the evaluator before its first verdict, or before its second: the launcher says so and starts it
    again, and the run ends with the same bits."""
    launch = start(tmp_path, JOB, "log.eval_wait_s=600")
    process = _evaluator_of(launch)
    while len(list(launch.folder.glob("eval/epoch-*.json"))) < after:
        assert launch.process.poll() is None, launch.text
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    assert launch.finish() == 0, launch.text
    assert re.search(r"the evaluator ended with -9 .* and is started again", launch.text)
    assert [event["event"] for event in events.read(launch.folder)] == ["start", "finished"]
    assert len(list(launch.folder.glob("eval/epoch-*.json"))) == EPOCHS - 1
    assert ending(launch.folder) == undisturbed


@pytest.mark.full
def test_killed_runs_with_evaluators_end_as_undisturbed_ones(
    undisturbed: dict[str, Any], start: Start, tmp_path: Path
) -> None:
    """kill -9 of a rank, then of evaluator and rank together; the same command each time, then to the end: the same
    bits, and no process is left behind."""
    for step, also_evaluator in ((STEPS - 3, False), (STEPS + 6, True)):
        launch = start(tmp_path, JOB)
        process = _evaluator_of(launch)
        launch.wait_for_step(step)
        if also_evaluator:
            os.kill(process, signal.SIGKILL)
        os.kill(launch.ranks()[1], signal.SIGKILL)
        assert launch.finish() not in (0, 99)
    last = start(tmp_path, JOB)
    assert last.finish() == 0, last.text
    assert ending(last.folder) == undisturbed


@pytest.mark.full
def test_a_verdict_that_cannot_be_written(undisturbed: dict[str, Any], start: Start, tmp_path: Path) -> None:
    """A disk that refuses the evaluator's file ends the evaluator, also when it is started again: the run ends by
    itself, which events.jsonl says, and is not taken for one that failed."""
    launch = start(tmp_path, JOB)
    _evaluator_of(launch)
    (launch.folder / "eval" / "epoch-000.json" / "taken").mkdir(parents=True)
    assert launch.finish() == 0, launch.text
    assert re.search(r"the evaluator ended with 1 .* and is started again", launch.text)
    assert [event["event"] for event in events.read(launch.folder)] == ["start", "evaluator", "finished"]
    assert "epoch-000.json" in (launch.folder / "log" / "evaluator.log").read_text()
    assert ending(launch.folder) == undisturbed


def test_an_evaluator_is_started_again_three_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that always fails is left then, and the ranks find an empty claim; once the run's ranks have ended none is
    started."""
    ended, going = SimpleNamespace(poll=lambda: 1, returncode=1), SimpleNamespace(poll=lambda: None)
    monkeypatch.setattr(LocalRun, "_begin_evaluator", lambda run: ended)
    (tmp_path / "eval").mkdir()

    def said(ranks: list[Any], looks: int) -> list[str]:
        words: list[str] = []
        run = object.__new__(LocalRun)
        run.folder, run.bar = (
            tmp_path,
            SimpleNamespace(write=lambda text, **_: words.append(text.partition(") and ")[2])),
        )
        run._processes, run._evaluator, run._evaluators = ranks, ended, 1
        for _ in range(looks):
            run._look_at_evaluator()
        return words

    again, alone = "is started again", "does not come back: the run evaluates by itself"
    assert said([going, ended], 6) == [again, again, again, alone]
    assert (tmp_path / "eval" / "evaluator.json").read_bytes() == b""
    assert said([ended, ended], 2) == [alone]


def test_weights_that_are_refused_are_not_waited_for(tmp_path: Path) -> None:
    """Where the disk refuses weights that an evaluator, which is there, is to judge, the run's end does not wait for a
    verdict that will never come, but raises the disk's error."""
    from ifl.evaluation.judge import Judge
    from ifl.saving.state import State
    from ifl.saving.storage import StorageError

    waited: list[str] = []

    def heartbeat(section: str) -> None:
        waited.append(section)
        assert len(waited) < 3, "it waits for ever"

    judge, state = object.__new__(Judge), State(unjudged=[(4, "")])
    judge.apart, judge.heartbeat, judge._waits, judge._was_there, judge._asked = True, heartbeat, True, True, [(4, "")]
    judge.comm = SimpleNamespace(rank=0, gather_objects=lambda value, device: [value])
    judge.run = SimpleNamespace(ranks=SimpleNamespace(device="cpu", fence=None))
    judge.stop = SimpleNamespace(asked=lambda: False)
    judge._verdicts, judge._presence = Verdicts(tmp_path), Presence(tmp_path, 60.0)
    weights = SimpleNamespace(digests={}, error=StorageError("the disk is full"))
    judge.saver = SimpleNamespace(weights=weights)
    with pytest.raises(StorageError, match="the disk is full"):
        judge._settle(state, 0)


def test_an_evaluator_that_would_see_other_pixels_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where its node lacks the run's decoder (on SLURM it may be of another kind, without a GPU), it judges nothing."""
    from ifl.evaluation import __main__ as evaluation

    run = SimpleNamespace(data=SimpleNamespace(fingerprint="f"), readers=SimpleNamespace(decoder="simplejpeg"))
    monkeypatch.setattr(evaluation, "load_resolved", lambda path: None)
    monkeypatch.setattr(evaluation, "ready", lambda *_: run)
    (tmp_path / "meta.json").write_text(json.dumps({"data_fingerprint": "f", "decoder": "nvjpeg"}))
    deadline = time.monotonic() + 2
    assert evaluation.main(tmp_path, lambda: time.monotonic() > deadline) == 1
    assert "is decoded by nvjpeg, and an evaluator here would be by simplejpeg" in capfd.readouterr().err
    assert (tmp_path / "eval" / "evaluator.json").read_bytes() == b""


# --------------------------------------------------------------------------------------------------- what they tell
def test_only_verdicts_on_the_very_weights_count(tmp_path: Path) -> None:
    """A verdict on other weights of the same epoch counts for nothing, nor does a damaged one; what has a verdict is
    not wanted again; what an older start asks for is not judged."""
    verdicts = Verdicts(tmp_path)
    assert verdicts.next_wanted("now") is None
    verdicts.want([(3, "aa"), (4, "bb")], "now")
    assert verdicts.next_wanted("now") == (3, "aa") and verdicts.next_wanted("later") is None
    verdicts.write(3, "of an older start", VERDICT)
    assert verdicts.read(3, "aa") is None and verdicts.next_wanted("now") == (3, "aa")
    verdicts.write(3, "aa", VERDICT)
    found = verdicts.read(3, "aa")
    assert found is not None and {key: found[key] for key in VERDICT} == VERDICT
    assert verdicts.next_wanted("now") == (4, "bb")
    (tmp_path / "eval" / "epoch-003.json").write_text("{")
    assert verdicts.read(3, "aa") is None


def test_the_newest_evaluator_has_the_run(tmp_path: Path) -> None:
    """An older evaluator leaves, and does not take the newer one's claim with it."""
    older = Claim(tmp_path)
    older.check()
    newer = Claim(tmp_path)
    with pytest.raises(Replaced):
        older.check()
    older.leave()
    newer.check()
    newer.leave()
    with pytest.raises(Replaced):
        newer.check()


def test_who_is_thought_to_be_there(tmp_path: Path) -> None:
    """An evaluator is thought to be coming for a while, and there as long as its claim moves; one that has left is
    not waited for."""
    patience_s = 0.3
    presence = Presence(tmp_path, patience_s)
    assert presence.there()
    time.sleep(patience_s)
    assert not presence.there()
    claim = Claim(tmp_path)
    assert presence.there()
    time.sleep(patience_s)
    assert not presence.there()
    claim.beat()
    assert presence.there()
    withdraw(tmp_path)
    assert not presence.there() and not Presence(tmp_path, patience_s).there()
    expect(tmp_path)
    assert Presence(tmp_path, patience_s).there()


def test_lines_wait_for_the_place_before_them(tmp_path: Path) -> None:
    """Lines behind a place that is kept wait until it is filled, over a restart too; any place may be the first."""
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, 0)
    metrics.write(kind="train", step=1)
    metrics.keep_place(0)
    metrics.write(kind="train", step=2)
    metrics.keep_place(1)
    assert [line["step"] for line in lines(tmp_path)] == [1]
    again = Metrics(path, metrics.offset(), metrics.held())
    again.write(kind="train", step=3)
    again.fill_place(1, [{"kind": "eval", "step": 2}])
    assert [line["step"] for line in lines(tmp_path)] == [1]
    again.fill_place(0, [{"kind": "eval", "step": 1}, {"kind": "eval", "step": 1}])
    assert [(line["kind"], line["step"]) for line in lines(tmp_path)] == [
        ("train", 1),
        *[("eval", 1)] * 2,
        ("train", 2),
        ("eval", 2),
        ("train", 3),
    ]
    assert again.held() == []


@pytest.mark.parametrize("cluster", ["local", "slurm", "here", "dry"])
def test_every_cluster_has_evaluators(cluster: str) -> None:
    """log.eval=job is legal with any cluster; a recipe that trains nothing has no evaluator."""
    words = ["data=digits_glt", JOB, f"cluster={cluster}"]
    assert resolve(["recipe=glt_baseline", *words]).has_evaluator
    assert not resolve(["recipe=glt_baseline", *words, "log.eval=inline"]).has_evaluator
    assert not resolve(["recipe=glt_logit_adjust", *words]).has_evaluator
