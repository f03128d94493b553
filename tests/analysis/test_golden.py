"""Tables of real runs, kept: `python -m tests.analysis.test_golden` writes them anew after a wanted change; read the
difference before it is committed.

`tests/golden/runs` are six real runs of one seed on digits_glt (baseline, IFL and cRT; the last epoch's test
predictions alone).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from analysis.__main__ import make_tables
from analysis.inputs.runs import load_runs
from recipes.table_layout import load_layout
from tests.helpers.paths import GOLDEN

TABLES = ("digits_clt_glt", "digits_overall")


def contents(runs: Path = GOLDEN / "runs") -> dict[str, str]:
    found, unreadable = load_runs(runs)
    assert not unreadable
    return make_tables(found, [load_layout(GOLDEN / "tables" / f"{name}.yaml") for name in TABLES])[1]


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return contents()


def test_tables_of_real_runs_are_those_kept(made: dict[str, str]) -> None:
    """Every file made of the kept runs is the kept file, byte for byte."""
    kept = {file.name: file.read_text(encoding="utf-8") for file in (GOLDEN / "out").iterdir()}
    assert made.keys() == kept.keys()
    for name, content in made.items():
        assert content == kept[name], name


def test_preempted_and_resumed_runs_give_the_same_tables(tmp_path: Path, made: dict[str, str]) -> None:
    """What preemptions leave in a run folder (steps written twice, boots, requeues, a torn line, old checkpoints)
    changes nothing.
    """
    shutil.copytree(GOLDEN / "runs", tmp_path / "runs")
    for number, path in enumerate(sorted((tmp_path / "runs").iterdir())):
        boot = {"kind": "boot", "epoch": 0, "step": 0, "world": 1, "seconds": 1.5}
        step = {"kind": "train", "epoch": 1, "step": 130, "loss": 1.0, "alpha": 0.0}
        lines = [
            boot,
            step,
            {**boot, "epoch": 1, "step": 118, "world": 2},
            step,
            {**step, "step": 140},
            {**boot, "epoch": 1, "step": 118},
            step,
        ]
        (path / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines[: 3 + number]) + '{"kind": "tr'
        )
        events = [
            {"event": "start"},
            {"event": "failed", "rank": 0, "error": "killed"},
            {"event": "verdict", "verdict": "requeue"},
            {"event": "finished"},
        ]
        (path / "log").mkdir()
        (path / "log" / "events.jsonl").write_text(
            "".join(json.dumps({"incarnation": "1", "step": 0, **event}) + "\n" for event in events)
        )
        (path / "ckpt" / "step-000000118").mkdir(parents=True)
        recipe = yaml.safe_load((path / "recipe.yaml").read_text())
        (path / "recipe.yaml").write_text(
            yaml.safe_dump({**recipe, "nodes": 4, "cluster": "slurm"})
        )  # resumed on another number of nodes
        meta = json.loads((path / "meta.json").read_text())
        (path / "meta.json").write_text(json.dumps({**meta, "world": 4}))
    assert contents(tmp_path / "runs") == made


if __name__ == "__main__":
    shutil.rmtree(GOLDEN / "out", ignore_errors=True)
    (GOLDEN / "out").mkdir()
    for name, content in contents().items():
        (GOLDEN / "out" / name).write_text(content, encoding="utf-8", newline="\n")
