"""TensorBoard and Weights & Biases: what they are told is what metrics.jsonl has, once; off by default; a missing
package is one sentence.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ifl import run_log
from ifl.run_log import Metrics, Monitored, events, open_metrics
from ifl.saving.checkpoint import CheckpointError
from ifl.saving.weights import load_run
from ifl.supervision.fence import Fence
from recipes.common.errors import DataError, RunError
from recipes.resolve import resolve
from recipes.schema import Recipe
from slurm.launch import main as launch


def recipe_of(*words: str) -> Recipe:
    return resolve(["recipe=glt_ifl", "data=digits_glt", *words])


class Told:
    """Stands where DeepSpeed's monitor stands."""

    def __init__(self, tensorboard: bool) -> None:
        self.events: list[Any] = []
        self.tb_monitor = SimpleNamespace(write_events=self.write_events) if tensorboard else None

    def write_events(self, events: list[Any]) -> None:
        self.events += events


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    """TensorBoard is told the lines that are whole; a flipped bit does not end the run that is resumed."""
    path = tmp_path / "metrics.jsonl"
    good = json.dumps({"kind": "train", "step": 3, "loss": 0.5}).encode() + b"\n"
    path.write_bytes(good.replace(b"kind", b"kine") + good.replace(b"loss", b"l\xefss") + b"7\n" + good)
    told = Told(tensorboard=True)
    Monitored(path, path.stat().st_size, told)
    assert told.events == [("train/loss", 0.5, 3)]


def test_a_damaged_done_is_one_sentence(tmp_path: Path) -> None:
    """A run whose `done` is damaged lends no weights, and says which file it is."""
    for content, said in (
        (b'{"weights": \xff}', "is damaged (at byte offset 12: "),
        (b"{}", "lacks weights"),
        (b'{"weights": {"last": 3}}', "is damaged (it names no last weights)"),
    ):
        (tmp_path / "done").write_bytes(content)
        with pytest.raises((CheckpointError, DataError)) as caught:
            load_run(tmp_path, "last")
        assert str(caught.value).startswith(f"{tmp_path / 'done'} ") and said in str(caught.value)


def test_a_run_that_judges_another_lends_no_weights(tmp_path: Path) -> None:
    """Its `done` is whole, and the sentence names the run whose weights it judged."""
    (tmp_path / "done").write_text('{"epochs": 0, "eval_of": "glt_baseline-x"}')
    with pytest.raises(CheckpointError, match=f"^{tmp_path.name} has no weights of its own: it judges those of glt_b"):
        load_run(tmp_path, "last")


def test_a_damaged_claim_is_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FENCE that cannot be read does not keep a start away; one that goes bad later ends it with a sentence."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    for content in (b"\xff", b"[]", b'{"job": "5 ", "restart": "many"}', b'{"job": "5 "}'):
        (tmp_path / "FENCE").write_bytes(content)
        fence = Fence(tmp_path)
        fence.check()
        (tmp_path / "FENCE").write_bytes(content)
        with pytest.raises(RunError, match="FENCE cannot be read"):
            fence.check()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], Told]]:
    """Every monitor that is opened, with its settings; all packages are there."""
    made: list[tuple[dict[str, Any], Told]] = []

    def open_(settings: dict[str, Any]) -> Told:
        made.append((settings, Told("tensorboard" in settings)))
        return made[-1][1]

    monkeypatch.setattr(run_log, "open_monitor", open_)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for name in ("RUN_ID", "NAME", "RESUME", "DIR", "SILENT"):
        monkeypatch.setenv(f"WANDB_{name}", "")
        monkeypatch.delenv(f"WANDB_{name}")
    return made


def test_events_are_the_scalars_of_a_line() -> None:
    """Numbers at their step under kind or split; nested names joined; lists, text and truth values are no scalars."""
    line = {
        "kind": "eval",
        "epoch": 3,
        "step": 40,
        "split": "val",
        "accuracy": {"overall": 0.5, "few": None},
        "attribute": {"accuracy": {"few": 1}},
    }
    assert list(events(line)) == [("val/accuracy/overall", 0.5, 40), ("val/attribute/accuracy/few", 1.0, 40)]
    assert list(events({"kind": "train", "epoch": 2, "step": 7, "loss": 1.5, "ok": True})) == [
        ("train/epoch", 2.0, 7),
        ("train/loss", 1.5, 7),
    ]
    assert list(events({"kind": "centers", "epoch": 2, "step": 7, "norm": [1.0]})) == []


def test_off_by_default(tmp_path: Path, opened: list[Any]) -> None:
    """Without a switch there is a plain metrics file and no monitor; the switches are operation and change no run's
    name.
    """
    assert type(open_metrics(recipe_of(), tmp_path, 0)) is Metrics and opened == []
    assert recipe_of("log.tensorboard=true", "log.wandb=glt").run_name == recipe_of().run_name


def test_every_line_is_told_once_over_restarts(tmp_path: Path, opened: list[tuple[dict[str, Any], Told]]) -> None:
    """TensorBoard begins anew at each start with what the checkpoint keeps of metrics.jsonl, so that no step stands
    there twice; old files are gone.
    """
    recipe = recipe_of("log.tensorboard=true")
    first = open_metrics(recipe, tmp_path, 0)
    offset = 0
    for step in (10, 20, 30):
        first.write(kind="train", epoch=0, step=step, loss=1.0 / step)
        if step == 20:
            offset = first.offset()
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.old").write_text("x")
    again = open_metrics(recipe, tmp_path, offset)
    again.write(kind="train", epoch=0, step=30, loss=0.5)
    (settings, one), (_, two) = opened
    assert settings == {"tensorboard": {"enabled": True, "output_path": str(tmp_path), "job_name": "tensorboard"}}
    assert [event for event in one.events if event[0] == "train/loss"] == [
        ("train/loss", 1 / step, step) for step in (10, 20, 30)
    ]
    assert [event for event in two.events if event[0] == "train/loss"] == [
        ("train/loss", 0.1, 10),
        ("train/loss", 0.05, 20),
        ("train/loss", 0.5, 30),
    ]
    assert not (tmp_path / "tensorboard" / "events.old").exists()
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [10, 20, 30]


def test_weights_and_biases_goes_on_with_the_run_of_its_id(
    tmp_path: Path, opened: list[tuple[dict[str, Any], Told]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told new lines only, under an id that a second start shares and another folder does not; a user's own
    variables win.
    """
    import os

    monkeypatch.setenv("WANDB_NAME", "mine")
    ids = []
    for folder in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        folder.mkdir(exist_ok=True)
        monkeypatch.setenv("WANDB_RUN_ID", "")
        monkeypatch.delenv("WANDB_RUN_ID")
        metrics = open_metrics(
            recipe_of("log.wandb=glt"),
            folder,
            (folder / "metrics.jsonl").stat().st_size if (folder / "metrics.jsonl").exists() else 0,
        )
        metrics.write(kind="train", epoch=0, step=10, loss=1.0)
        metrics.offset()
        ids.append(os.environ["WANDB_RUN_ID"])
    assert ids[0] == ids[1] != ids[2] and ids[0].startswith(recipe_of().run_name)
    assert [len([event for event in told.events if event[0] == "train/loss"]) for _, told in opened] == [1, 1, 1]
    assert opened[0][0] == {"wandb": {"enabled": True, "project": "glt", "group": "glt_ifl"}}
    assert os.environ["WANDB_NAME"] == "mine" and os.environ["WANDB_RESUME"] == "allow"


@pytest.mark.parametrize("word, package", [("log.tensorboard=true", "tensorboard"), ("log.wandb=glt", "wandb")])
def test_a_missing_package_is_one_sentence_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], word: str, package: str
) -> None:
    """The launcher refuses with exit code 2 and makes no folder; a job that meets it on its node says the same."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == package else found(name, *more)
    )
    assert launch(["recipe=glt_ifl", "data=digits_glt", "cluster=local", f"runs={tmp_path / 'runs'}", word]) == 2
    said = capsys.readouterr().err
    assert (
        f"log.{package} needs the package {package}, which is not installed" in said
        and said.count("\n") == 1
        and not (tmp_path / "runs").exists()
    )
    with pytest.raises(RunError, match=f"log.{package} needs the package"):
        open_metrics(recipe_of(word), tmp_path, 0)


def test_a_service_that_does_not_start_is_one_sentence(
    tmp_path: Path, opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No account and no internet: the run ends with what to set."""

    def refuse(settings: dict[str, Any]) -> None:
        raise RuntimeError("api_key not configured\n(no-tty)")

    monkeypatch.setattr(run_log, "open_monitor", refuse)
    with pytest.raises(
        RunError,
        match=r"log.wandb=glt: Weights & Biases does not start \(api_key not configured \(no-tty\)\); "
        r"WANDB_MODE=offline",
    ):
        open_metrics(recipe_of("log.wandb=glt"), tmp_path, 0)
