"""The model card says what the run folder says: its numbers are the tables' numbers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ifl.exported import INPUT
from ifl.model_card import model_card, wilson
from ifl.saving import provenance
from recipes.resolve import load_resolved
from tests.helpers.paths import GOLDEN

NAME = "glt_crt_ifl-digits_glt-glt-s0-e05518f1"


def card(run: Path, ema: float = 0.0) -> str:
    recipe = load_resolved(run / "recipe.yaml")
    recipe.optim.ema = ema
    return model_card(run, "last", recipe, json.loads((run / "meta.json").read_text()), INPUT)


def test_the_numbers_are_the_tables_numbers() -> None:
    """Accuracy by class group and precision of each stored split, as analysis has them."""
    with open(GOLDEN / "out" / "results.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == NAME and row["select"] == "last"]
    lines = [line.split(" | ") for line in card(GOLDEN / "runs" / NAME).splitlines() if line.startswith("| test_")]
    found = {line[0].removeprefix("| "): [cell.rstrip(" |") for cell in line[2:]] for line in lines}
    for split, protocol in (("test_cbl", "clt"), ("test_gbl", "glt")):
        value = {
            (row["subset"], row["metric"]): f"{100 * float(row['value']):.2f}"
            for row in rows
            if row["protocol"] == protocol
        }
        groups = [value[group, "accuracy"] for group in ("overall", "many", "medium", "few")]
        assert [found[split][0], *found[split][2:]] == [*groups, value["overall", "precision"]]
        low, high = map(float, found[split][1].split(" to "))
        assert low < float(groups[0]) < high


def test_data_budget_and_first_stage_are_told() -> None:
    """From recipe.yaml, meta.json and done alone."""
    said = card(GOLDEN / "runs" / NAME)
    recipe = load_resolved(GOLDEN / "runs" / NAME / "recipe.yaml")
    assert "edition `glt`: 10 classes, 4,201 training images, 1,500 of the largest class" in said
    assert f"budget `{recipe.batch.budget}`, seed 0, preset\n  `paper`" in said
    assert f"started from the weights of `{recipe.method.init_from}`" in said
    assert "The last epoch was taken, so no split chose the weights." in said
    science = json.loads(said.partition("```json\n")[2].partition("```")[0])
    averaged = card(GOLDEN / "runs" / NAME, ema=0.99)
    assert "last epoch, the moving average with decay 0.99." in averaged and "moving average" not in said
    assert science["optim"]["lr"] == recipe.optim.lr and "slurm" not in science


def test_a_split_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The others stay."""
    run = tmp_path / NAME
    shutil.copytree(GOLDEN / "runs" / NAME, run)
    (run / "preds" / "last" / "test_cbl.npz").write_bytes(b"no zip")
    assert "- test_cbl cannot be read: " in card(run) and "| test_gbl | " in card(run)


def test_images_of_one_source_are_told(tmp_path: Path) -> None:
    """Of a split with several images of one source the card says that its interval is too narrow; of others nothing."""
    run = tmp_path / NAME
    shutil.copytree(GOLDEN / "runs" / NAME, run)
    for split, images in (("test_cbl", 1), ("test_gbl", 6)):
        with np.load(file := run / "preds" / "last" / f"{split}.npz") as stored:
            arrays = dict(stored)
        np.savez(file, **{**arrays, "source": np.arange(len(arrays["label"])) // images})
    said = card(run)
    samples = len(arrays["label"])
    assert f"- test_gbl: {samples:,} images of {-(-samples // 6):,} sources. The interval takes them as" in said
    assert "- test_cbl" not in said


def test_the_processor_is_named(tmp_path: Path) -> None:
    """By its model as Linux has it; of older runs by its kind."""
    run = tmp_path / NAME
    shutil.copytree(GOLDEN / "runs" / NAME, run)
    meta = json.loads((run / "meta.json").read_text())
    model = {"processor": "x86_64", "processor_model": "AMD EPYC 7763", "cores": 2}
    for machine, said in ((model, "(AMD EPYC 7763, 2 cores)"), ({**model, "processor_model": ""}, "(x86_64 processor")):
        (run / "meta.json").write_text(json.dumps({**meta, "machine": machine}))
        assert said in card(run)


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [("processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD  EPYC\nmodel name\t: B\n", "AMD EPYC"), ("Hart: 1\n", "")],
)
def test_the_processor_s_model_is_that_of_cpuinfo(cpuinfo: str, model: str, tmp_path: Path) -> None:
    """The first one's; empty where Linux names none, and where there is no such file. meta.json has it."""
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert provenance.processor_model(tmp_path / "cpuinfo") == model
    assert provenance.processor_model(tmp_path / "none") == ""
    assert provenance.meta({})["machine"]["processor_model"] == provenance.processor_model()


@pytest.mark.parametrize(
    "right, samples, low, high", [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)]
)
def test_intervals_are_wilson_s(right: int, samples: int, low: float, high: float) -> None:
    """As tables of it have them."""
    assert wilson(right, samples) == pytest.approx((low, high), abs=1e-4)
