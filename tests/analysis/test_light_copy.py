"""The light part of runs makes the same tables as the runs, and leaves out what only pictures, checkpoints and logs
need.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from analysis.__main__ import main
from analysis.inputs.light_copy import copy_run
from recipes.resolve import load_resolved, resolve
from tests.helpers.paths import PROJECT
from tests.helpers.tables import write_run

GOLDEN = PROJECT / "tests" / "golden" / "runs"


@pytest.fixture()
def runs(tmp_path: Path) -> Path:
    """Two finished runs, one of them with environments of three rebuilds, and one that is not finished."""
    names = sorted(path.name for path in GOLDEN.iterdir() if (path / "done").exists())[:3]
    for name in names:
        shutil.copytree(GOLDEN / name, tmp_path / "runs" / name)
        (tmp_path / "runs" / name / "ckpt").mkdir()
        (tmp_path / "runs" / name / "ckpt" / "last.pt").write_bytes(bytes(1000))
    (tmp_path / "runs" / names[2] / "done").unlink()
    shutil.rmtree(tmp_path / "runs" / names[0] / "env", ignore_errors=True)
    (tmp_path / "runs" / names[0] / "env").mkdir()
    for epoch in (3, 14, 19):
        np.savez_compressed(
            tmp_path / "runs" / names[0] / "env" / f"epoch-{epoch:03d}.npz",
            ids=np.arange(4),
            labels=np.arange(4),
            attributes=np.zeros(4, int),
            weights=np.eye(2, 4) + epoch,
            extreme_classes=np.arange(1),
            extremes=np.zeros((1, 2, 6), int),
            thumbnails=np.zeros((1, 2, 6, 8, 8, 3), np.uint8),
        )
    return tmp_path / "runs"


def test_light_runs_make_the_same_tables(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of finished runs alone; weights of all rebuilds to the bit, pictures of none."""
    finished = sorted(path.parent.name for path in runs.glob("*/done"))
    main(["light", f"runs={runs}", f"out={tmp_path / 'light'}"])
    assert (
        capsys.readouterr().out.startswith("2 runs, ")
        and sorted(path.name for path in (tmp_path / "light").iterdir()) == finished
    )
    assert not list((tmp_path / "light").rglob("ckpt")) and sorted(
        path.name for path in (tmp_path / "light" / finished[0] / "env").iterdir()
    ) == ["epoch-003.npz", "epoch-014.npz", "epoch-019.npz"]
    with np.load(tmp_path / "light" / finished[0] / "env" / "epoch-019.npz") as arrays:
        assert sorted(arrays.files) == ["attributes", "ids", "labels", "weights"] and np.array_equal(
            arrays["weights"], np.eye(2, 4) + 19
        )
    recipe = load_resolved(tmp_path / "light" / finished[0] / "recipe.yaml")
    assert (recipe.runs, recipe.data.root) == (None, None) and recipe.hash8 == load_resolved(
        runs / finished[0] / "recipe.yaml"
    ).hash8
    meta = runs / finished[1] / "meta.json"
    told = json.loads(meta.read_text())
    meta.write_text(
        json.dumps({**told, "argv": ["launch.py", "runs=/scratch/me", "data.root=/data", "train=glt"]}, indent=1)
    )
    main(["light", f"runs={runs}", f"out={tmp_path / 'light'}"])
    assert json.loads((tmp_path / "light" / finished[1] / "meta.json").read_text()) == {
        **told,
        "argv": ["launch.py", "train=glt"],
    }, "no places of the machine"
    shutil.rmtree(next(path for path in runs.iterdir() if path.name not in finished))
    for folder in (runs, tmp_path / "light"):
        main([f"runs={folder}", f"out={tmp_path / 'out' / folder.name}", "table=digits_clt_glt", "only=tables"])
    for path in (tmp_path / "out" / "light").glob("digits_clt_glt.*"):
        assert path.read_bytes() == (tmp_path / "out" / "runs" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    "place", ["/short", f"/{'a folder of Jane Doe/' * 9}runs", f"/it's: {'#1 ' * 50}", '/a "b" \\ c\n\nd ' * 9, " "]
)
def test_no_part_of_a_place_stays(place: str, tmp_path: Path) -> None:
    """However long and strange a folder's name is, the copy's recipe and meta.json are the run's without it."""
    run = write_run(tmp_path / "runs", "glt_ifl")
    recipe = {**resolve(["recipe=glt_ifl", "data=digits_glt"]).model_dump(mode="json"), "runs": place}
    for section, key in (("data", "root"), ("data", "cache_folder"), ("method", "text")):
        recipe[section] = {**recipe[section], key: place}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    meta = json.loads((run / "meta.json").read_text())
    words = ["launch.py", f"runs={place}", "recipe=glt_ifl", f"data.root={place}", "seed=1"]
    (run / "meta.json").write_text(json.dumps({**meta, "argv": words}, indent=1))
    copy_run(run, tmp_path / "light", thumbnails=False)
    for section, key in (("data", "root"), ("data", "cache_folder"), ("method", "text")):
        recipe[section][key] = None
    assert yaml.safe_load((tmp_path / "light" / run.name / "recipe.yaml").read_text()) == {**recipe, "runs": None}
    copied = json.loads((tmp_path / "light" / run.name / "meta.json").read_text())
    assert copied == {**meta, "argv": ["launch.py", "recipe=glt_ifl", "seed=1"]}


def test_pictures_of_the_runs_named_stay(runs: Path, tmp_path: Path) -> None:
    """And a run that is not there is named."""
    name = sorted(path.parent.name for path in runs.glob("*/done"))[0]
    main(["light", f"runs={runs}", f"out={tmp_path / 'light'}", f"thumbnails={name}"])
    with np.load(tmp_path / "light" / name / "env" / "epoch-019.npz") as arrays:
        assert arrays["thumbnails"].shape == (1, 2, 6, 8, 8, 3)
    with pytest.raises(ValueError, match="thumbnails=nobody: no finished run"):
        main(["light", f"runs={runs}", f"out={tmp_path / 'light'}", "thumbnails=nobody"])
    with pytest.raises(ValueError, match="no finished run in it"):
        main(["light", f"runs={tmp_path / 'light' / name}", f"out={tmp_path / 'x'}"])


def test_light_runs_of_the_best_epoch_are_asked_for(tmp_path: Path) -> None:
    """Its predictions are copied beside the last epoch's by `select=best` alone."""
    run = write_run(tmp_path / "runs")
    for words, selects in (([], ["last"]), (["select=best"], ["best", "last"])):
        main(["light", f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'light'}", *words])
        assert sorted(path.name for path in (tmp_path / "light" / run.name / "preds").iterdir()) == selects


@pytest.mark.parametrize("out", ["runs", "linked", "runs/../runs", "inside"])
def test_light_never_replaces_the_runs_themselves(runs: Path, tmp_path: Path, out: str) -> None:
    """Where the copies would lie in the place of the runs, by whatever path, or inside one, nothing is touched."""
    (tmp_path / "linked").symlink_to(runs)
    (tmp_path / "inside").symlink_to(sorted(runs.glob("*/done"))[0].parent)
    before = sorted(path for path in runs.rglob("*"))
    with pytest.raises(ValueError, match="a folder other than runs="):
        main(["light", f"runs={runs}", f"out={tmp_path / out}"])
    assert sorted(path for path in runs.rglob("*")) == before
