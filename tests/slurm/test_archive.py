"""Finished runs are copied to a disk that is not purged, whole and verified; tables are made from there, and launches
go on."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from analysis.__main__ import main as analyse
from recipes.common.errors import DataError, RecipeError
from recipes.resolve import dump
from slurm import launch as launcher
from slurm.after_run import archive, ending
from slurm.after_run.settings import Archive, hand_over
from slurm.local.run_queue import run_all
from slurm.monitoring import events
from slurm.planning import archived_runs
from slurm.planning.requested_runs import requested_runs
from slurm.planning.schedule import Run
from slurm.site_file import Site
from tests.helpers.folders import write_rich_run
from tests.slurm.test_run_queue import Machine, accept, recipes


def finished(folder: Path, seed: int = 0, recipe: str = "glt_ifl") -> Path:
    """A finished run with environments, weights and what nobody needs any more."""
    run = write_rich_run(folder, recipe, seed=seed, words=(f"runs={folder}",))
    (run / "ckpt" / "step-000000060").mkdir(parents=True)
    (run / "ckpt" / "step-000000060" / "suite.pt").write_bytes(bytes(5000))
    (run / "ckpt" / "last.pt").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    (run / "done").write_text(json.dumps({"epochs": 6, "weights": {"last": ["last.pt", digest]}}))
    events.append_event(run, "submitted", job="7")
    events.append_event(run, "start", world=2)
    events.append_event(run, "verdict", verdict="finished")
    return run


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_archive_holds_what_tables_read(tmp_path: Path) -> None:
    """Of a finished run it holds, byte for byte, all but checkpoints, logs and, unless it is wished, weights."""
    run, place = finished(tmp_path / "runs"), tmp_path / "archive"
    place.mkdir()
    hand_over(tmp_path / "runs", {"archive": Archive(str(place))})
    before = content(run)
    ending.after(run, "finished", over=True)
    copy = content(place / run.name)
    del copy[archive.MANIFEST]
    assert copy == {name: data for name, data in before.items() if not name.startswith("ckpt/")}
    assert {name.split("/")[0] for name in copy} == {"recipe.yaml", "meta.json", "metrics.jsonl", "done", *TREES}
    assert [event["event"] for event in events.beside(run)] == ["archived"]


TREES = ("preds", "env", "log")


@pytest.mark.full
def test_tables_of_the_archive_are_those_of_the_runs(tmp_path: Path) -> None:
    """What `python -m analysis` writes of an archive is, file for file, what it writes of the run folders."""
    runs, place = tmp_path / "runs", tmp_path / "archive"
    place.mkdir()
    folders = [finished(runs, 0), finished(runs, 0, "glt_baseline")]
    hand_over(runs, {"archive": Archive(str(place))})
    for run in folders:
        ending.after(run, "finished", over=True)
    for source in (runs, place):
        analyse([f"runs={source}", f"out={tmp_path / f'of {source.name}'}", "only=tables"])
    one, two = content(tmp_path / "of runs"), content(tmp_path / "of archive")
    assert one.keys() == two.keys() and any(name.endswith(".tex") for name in one)
    assert [name for name in one if one[name].replace(bytes(runs), bytes(place)) != two[name]] == []


def test_a_copy_is_made_once_and_completed(tmp_path: Path) -> None:
    """Done again, nothing is copied; with weights wished for later, or a run made again, the copy is made again and
    nothing of the older one is lost; the weights are those that `done` names."""
    run, place = finished(tmp_path / "runs"), tmp_path / "archive"
    with pytest.raises(DataError, match="no folder here"):
        archive.keep(run, Archive(str(place)))
    place.mkdir()
    copy = archive.keep(run, Archive(str(place)))
    assert copy == place / run.name and archive.keep(run, Archive(str(place))) is None
    assert archive.lacking(run, Archive(str(place), weights=True))
    assert archive.keep(run, Archive(str(place), weights=True)) == copy
    assert (copy / "ckpt" / "last.pt").read_bytes() == b"weights" and archive.has_weights(copy)
    stored = json.loads((copy / archive.MANIFEST).read_text())["files"]
    assert {name: hashlib.sha256(data).hexdigest() for name, data in content(copy).items()} == {
        **stored,
        archive.MANIFEST: hashlib.sha256((copy / archive.MANIFEST).read_bytes()).hexdigest(),
    }
    (run / "done").write_text('{"epochs": 7}')  # made again
    archive.keep(run, Archive(str(place)))
    assert json.loads((copy / "done").read_text()) == {"epochs": 7}
    assert sorted(path.name for path in place.iterdir()) == [run.name, f"{run.name}.old-1", f"{run.name}.old-2"]


def test_an_archive_that_is_the_folder_of_the_runs_is_refused(tmp_path: Path) -> None:
    """At the launch and when a run has ended, also under another name: the run with its checkpoints stays in place."""
    run, link = finished(tmp_path / "runs"), tmp_path / "link"
    link.symlink_to("runs")
    before = content(run)
    for place in (str(run.parent), f"{link}/", f"{tmp_path}/runs/../runs"):
        with pytest.raises(DataError, match="is the folder of the runs themselves"):
            archive.keep(run, Archive(place))
        site = Site(own={"archive": Archive(place)})
        with pytest.raises(RecipeError, match="is the folder of the runs themselves"):
            launcher.parse(["data=digits_glt", f"runs={run.parent}", "cluster=local"], site)
    assert content(run) == before and [path.name for path in run.parent.iterdir()] == [run.name]


@pytest.mark.parametrize("fault", ["damaged weights", "no disk", "full disk", "not mounted", "damaged hand-over"])
def test_a_copy_that_fails_is_noted_and_nothing_else_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Whatever keeps a run from being archived stands in its events; no exception, no half copy, and a table can still
    be made of the run."""
    run, place = finished(tmp_path / "runs"), tmp_path / "archive"
    if fault != "not mounted":
        place.mkdir()
    hand_over(tmp_path / "runs", {"archive": Archive(str(place), weights=True)})
    before = {name: data for name, data in content(run).items() if name != "log/events.jsonl"}
    if fault == "damaged weights":
        (run / "ckpt" / "last.pt").write_bytes(b"other")
        before["ckpt/last.pt"] = b"other"
    elif fault == "damaged hand-over":
        (tmp_path / "runs" / ".site.json").write_text("{")
    elif fault.endswith("disk"):

        def refuse(path: Path, data: bytes) -> None:
            if path.name == "test_gbl.npz":
                raise OSError(28 if fault == "full disk" else 5, "No room" if fault == "full disk" else "I/O error")
            path.write_bytes(data)

        monkeypatch.setattr(archive, "write_synced", refuse)
    ending.after(run, "finished", over=True)
    (noted,) = events.beside(run)
    assert noted["event"] == ("notice refused" if fault == "damaged hand-over" else "archive refused")
    assert noted["error"] and (not place.exists() or list(place.iterdir()) == [])
    assert {name: data for name, data in content(run).items() if name != "log/events.jsonl"} == before


@pytest.mark.parametrize("left", ["nothing", "a purged folder"])
def test_what_is_archived_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], left: str
) -> None:
    """The same command after a purge says that the run is archived, puts its folder back, and starts nothing; what the
    purge had left is set aside. A dry run says the same and touches nothing."""
    runs, place, machine = tmp_path / "runs", tmp_path / "archive", Machine(monkeypatch)
    place.mkdir()
    run = finished(runs)
    whole, kept = content(run), Archive(str(place), weights=True)
    archive.keep(run, kept)
    if left == "nothing":
        shutil.rmtree(runs)
    else:
        (run / "done").unlink()
        shutil.rmtree(run / "preds")
    words = ["recipe=glt_ifl", "data=digits_glt", f"runs={runs}"]
    site, before = Site(own={"archive": kept}), content(tmp_path)
    dry = launcher.parse([*words, "cluster=dry"], site)
    assert launcher._show(dry) == 0 and content(tmp_path) == before
    sentence = f"{run.name} is finished and archived in {place}, and not trained again: its folder is put back"
    assert f"# {sentence}" in capsys.readouterr().out
    assert launcher._run_here(launcher.parse([*words, "cluster=local"], site)) == 0
    said = capsys.readouterr().out
    assert sentence in said and "is finished: nothing to do" in said and machine.started == []
    assert content(run) == {name: data for name, data in whole.items() if "step-" not in name}
    aside = runs / f"{run.name}.old-1"
    assert aside.exists() == (left != "nothing") and (f"is in {aside.name} now" in said) == aside.exists()


def test_a_run_made_again_is_not_the_archived_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """again=yes trains although the archive has the run, and the same command without it then goes on with the new
    training."""
    place = tmp_path / "archive"
    place.mkdir()
    (recipe,) = recipes(tmp_path / "runs", 1)
    kept = Archive(str(place))
    folder = recipe.run_folder
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump(recipe))
    (folder / "done").write_text("{}")
    archive.keep(folder, kept)
    shutil.rmtree(folder)
    (anew,) = archived_runs.marked([Run(recipe, again=True)], kept)
    assert anew.archived is None and anew.is_to_make
    assert archived_runs.marked([Run(recipe)], kept)[0].archived == place / recipe.run_name
    folder.mkdir()
    (folder / "recipe.yaml").write_text(dump(recipe))
    now = events.time.time()
    with monkeypatch.context() as later:
        later.setattr(events.time, "time", lambda: now + 60)
        events.append_event(folder, "submitted", job="8")
    (under_way,) = archived_runs.marked([Run(recipe)], kept)
    assert under_way.archived is None and under_way.is_to_make


def test_what_again_has_not_started_yet_is_not_taken_from_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C in a queue of `again=yes` the command without it makes the runs that wait, one of which a purge had
    taken whole; nothing is put back from the archive."""
    place, kept = tmp_path / "archive", Archive(str(tmp_path / "archive"))
    place.mkdir()
    asked = recipes(tmp_path / "runs", 3)
    for recipe in asked:
        recipe.run_folder.mkdir(parents=True)
        (recipe.run_folder / "recipe.yaml").write_text(dump(recipe))
        (recipe.run_folder / "done").write_text("{}")
        archive.keep(recipe.run_folder, kept)
    shutil.rmtree(asked[2].run_folder)
    now = events.time.time()
    monkeypatch.setattr(events.time, "time", lambda: now + 60)
    Machine(monkeypatch, {0: "Ctrl-C"})
    assert run_all(archived_runs.marked([Run(recipe, again=True) for recipe in asked], kept), accept) == 99
    runs, machine = archived_runs.marked([Run(recipe) for recipe in asked], kept), Machine(monkeypatch)
    assert not any(run.archived for run in runs)
    assert run_all(runs, accept) == 0 and machine.started == [0, 1, 2]


def test_a_second_stage_takes_its_first_from_the_archive(tmp_path: Path) -> None:
    """A first stage that is archived with its weights is put back for a second stage; without them the command is
    refused with one sentence, before anything is started."""
    place, words = tmp_path / "archive", ["recipe=glt_crt", "data=digits_glt", f"runs={tmp_path / 'runs'}"]
    place.mkdir()
    site = Site()
    first, second = requested_runs(words, site).runs
    shutil.copytree(finished(tmp_path / "elsewhere", recipe="glt_baseline"), first.folder, dirs_exist_ok=True)
    (first.folder / "recipe.yaml").write_text(dump(first.recipe))
    for weights in (False, True):
        kept = Archive(str(place), weights)
        assert archive.keep(first.folder, kept)
        folder = tmp_path / f"purged {weights}"
        first.folder.rename(folder)
        if weights:
            marked = archived_runs.marked([first, second], kept)
            assert [run.archived for run in marked] == [place / first.folder.name, None]
            archived_runs.put_back(marked)
            assert (first.folder / "ckpt" / "last.pt").read_bytes() == b"weights"
            assert json.loads((first.folder / "done").read_text())["epochs"] == 6
        else:
            with pytest.raises(RecipeError, match=r"archived in .* without its weights"):
                archived_runs.marked([first, second], kept)
            folder.rename(first.folder)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    """A copy that is not what was written is not put back; the sentence names the file, and no folder is made."""
    place = tmp_path / "archive"
    place.mkdir()
    run = finished(tmp_path / "runs")
    copy = archive.keep(run, Archive(str(place)))
    shutil.rmtree(run)
    (copy / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match=r"metrics\.jsonl is not what was written"):
        archive.put_back(copy, run)
    (copy / archive.MANIFEST).write_text('{"time": 1.0, "files": {"../x": "0"}}')
    with pytest.raises(DataError, match=r"it names \.\./x"):
        archive.put_back(copy, run)
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_same_command_archives_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs that finished before the site file said so, or whose copy failed, are archived by their command."""
    place = tmp_path / "archive"
    place.mkdir()
    Machine(monkeypatch)
    runs = [Run(recipe) for recipe in recipes(tmp_path / "runs", 2)]
    own = {"archive": Archive(str(place))}
    assert run_all(runs, accept) == 0 and list(place.iterdir()) == []
    for run in runs:
        (run.folder / "recipe.yaml").write_text(dump(run.recipe))
        (run.folder / "done").write_text("{}")
    archived_runs.keep_finished(runs, own["archive"])
    assert sorted(path.name for path in place.iterdir()) == sorted(run.folder.name for run in runs)
    archived_runs.keep_finished(runs, own["archive"])
    assert capsys.readouterr().out.count("archived in") == 2
