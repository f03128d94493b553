"""A run knows the code that made it: edited methods and models are told, and a run is made again beside the old one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ifl.saving import run_facts
from recipes.code import checkout, digest
from recipes.code.digest import code_digests
from recipes.common.errors import RecipeError
from recipes.declarations import declared_in
from recipes.resolve import dump, resolve
from recipes.schema import Recipe
from slurm import launch, status
from slurm.cluster import limits
from slurm.monitoring import events, run_state
from slurm.monitoring.commits import other_commits
from slurm.monitoring.run_state import Job
from slurm.planning import cost, forecast
from slurm.planning.requested_runs import requested_runs
from slurm.planning.schedule import Run
from slurm.run_folder import other_code, prepare, set_aside
from slurm.site_file import Site
from tests.helpers.launching import stub

METHOD = '''"""What it is."""
from ifl.methods.shared import scale
from ifl.method import BaseMethod


class Method(BaseMethod):
    """What it does."""

    def loss(self, x):  # of a row
        return scale * x
'''


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a method of a user's own, and a recipe of it."""
    for folder in ("ifl/methods", "ifl/models", "recipes"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ifl/methods/ce.py").write_text(METHOD)
    (tmp_path / "ifl/methods/shared.py").write_text("scale = 2\n")
    (tmp_path / "ifl/models/small_resnet.py").write_text("WIDTH = 8\n")
    (tmp_path / "recipes/glt_baseline.yaml").write_text("method: {name: ce}\n")
    for module in (digest, checkout):
        monkeypatch.setattr(module, "PROJECT", tmp_path)
    return tmp_path


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return resolve(["data=digits_glt", f"runs={tmp_path}/runs", "cluster=local"])


def test_digests_follow_what_code_does(project: Path, recipe: Recipe) -> None:
    """Comments, docstrings, layout and the literal SMOOTHS change no digest; a statement does, also one of a file that
    is imported.
    """
    before = code_digests(recipe)
    assert set(before) == {"method", "model", "recipe"}
    (project / "ifl/methods/ce.py").write_text(
        METHOD.replace("What it does", "Words").replace("  # of a row", "").replace("scale * x", "(scale  *  x)")
    )
    (project / "recipes/glt_baseline.yaml").write_text("# A comment.\nmethod:\n  name: ce\n")
    assert code_digests(recipe) == before
    with open(project / "ifl/methods/ce.py", "a") as file:
        file.write("SMOOTHS = True\n")
    assert code_digests(recipe) == before, "what only allows another value"
    (project / "ifl/methods/shared.py").write_text("scale = 3\n")
    after = code_digests(recipe)
    assert after["method"] != before["method"] and (after["model"], after["recipe"]) == (
        before["model"],
        before["recipe"],
    )


def test_meta_json_says_what_is_in_no_commit(project: Path, recipe: Recipe) -> None:
    """An edited and an untracked file of the run's own code and of the loop are named, and other methods, models and
    recipes not; in a copy made for a job too, and without git nothing is said."""
    assert run_facts.code(recipe)["uncommitted"] == {}

    def git(*words: str) -> None:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@y", *words]
        subprocess.run(command, cwd=project, check=True, capture_output=True)

    (project / "ifl/step.py").write_text("x = 1\n")
    git("init")
    git("add", "ifl/methods/ce.py", "ifl/step.py", "recipes")
    git("commit", "-m", "x")
    (project / "ifl/methods/ce.py").write_text(METHOD + "\n")
    (project / "sharding").mkdir()
    for name in ("ifl/my_loop.py", "sharding/reading.py", "ifl/methods/other.py", "ifl/models/other.py"):
        (project / name).write_text("")
    (project / "ifl/step.py").write_text("x = 2\n")
    expected = {
        "ifl/step.py": "changed",
        "ifl/my_loop.py": "untracked",
        "sharding/reading.py": "untracked",
        "ifl/methods/ce.py": "changed",
        "ifl/methods/shared.py": "untracked",
        "ifl/models/small_resnet.py": "untracked",
    }
    facts = run_facts.code(recipe)
    assert facts["uncommitted"] == expected and facts["code"] == code_digests(recipe)
    lines = [f"{state} {name}" for name, state in checkout.uncommitted(["ifl", "sharding"]).items()]
    (project / "COMMIT").write_text("\n".join(["0123abc", *lines, "untracked recipes/other.yaml"]) + "\n")
    assert checkout.commit() == "0123abc" and run_facts.code(recipe)["uncommitted"] == expected


def made(recipe: Recipe, **meta: object) -> Path:
    """The folder of a finished run."""
    recipe.run_folder.mkdir(parents=True, exist_ok=True)
    (recipe.run_folder / "recipe.yaml").write_text(dump(recipe))
    (recipe.run_folder / "meta.json").write_text(json.dumps(meta))
    (recipe.run_folder / "done").write_text("{}")
    return recipe.run_folder


def test_a_finished_run_of_other_code_is_told(
    project: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose method was edited since says so at the launch, and how to make it again; one that knows no digests,
    and one of today's code, say nothing."""
    monkeypatch.setenv("GLT_SITE", "")
    words = ["data=digits_glt", f"runs={recipe.run_folder.parent}", "cluster=local"]
    folder = made(recipe, code=code_digests(recipe))
    assert launch.main(words) == 0 and capsys.readouterr().out == f"{folder} is finished: nothing to do\n"
    (project / "ifl/methods/ce.py").write_text(METHOD.replace("scale * x", "x"))
    assert launch.main(words) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{folder.name} began with another ifl/methods/ce.py than there is now: again=yes makes a run again and "
        "keeps the old folder beside it",
        f"{folder} is finished: nothing to do",
    ]
    (folder / "meta.json").write_text("{}")
    assert other_code(recipe, folder) == ""


def own_row(folder: Path, args: str) -> list[str]:
    """Write a method with such arguments, and a recipe of it; returns the words that run it."""
    for where, text in (("ifl/methods/own.py", f"ARGS = {args}\n"), ("recipes/own_row.yaml", "method: {name: own}\n")):
        (folder / "own" / where).parent.mkdir(parents=True, exist_ok=True)
        (folder / "own" / where).write_text(text)
    declared_in.cache_clear()
    return ["recipe=own_row", "data=digits_glt", f"runs={folder}/runs"]


@pytest.mark.parametrize("file", ["meta.json", "ckpt", "done", "recipe.yaml"])
def test_a_run_in_progress_keeps_the_defaults_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """A default of a method that is edited keeps a run's name, so the run does not go on with it; one that has not
    begun is made with it, an argument that was added has its default, and one that was taken out is nobody's."""
    monkeypatch.setenv("GLT_PATH", str(tmp_path / "own"))

    def edited(args: str) -> Recipe:
        return resolve([*own_row(tmp_path, args), "cluster=local"])

    began = edited("{'tau': {'paper': 1.0, 'corrected': 2.0}, 'out': 3}")
    folder = began.run_folder
    prepare(began, folder)
    (folder / file).touch()
    before = (folder / "recipe.yaml").read_text()
    changed = edited("{'tau': {'paper': 1.5, 'corrected': 2.0}}")
    assert changed.run_folder == folder
    if file in ("meta.json", "ckpt"):
        sentence = "began with method.args.tau=1.0, and its default is 1.5 now: the old default in .*own.py goes on"
        with pytest.raises(RecipeError, match=f"{folder.name} {sentence}"):
            prepare(changed, folder)
        assert (folder / "recipe.yaml").read_text() == before
        assert other_code(changed, folder).startswith("began with method.args.tau=1.0")
    prepare(edited("{'tau': {'paper': 1.0, 'corrected': 9.0}, 'added': 1}"), folder)
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["method"]["args"] == {"tau": 1.0, "added": 1}


def test_nothing_is_submitted_where_a_run_began_with_another_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launch of several runs says it of one that has begun, before any is submitted or its folder is made."""
    monkeypatch.setenv("GLT_PATH", str(tmp_path / "own"))
    monkeypatch.setenv("GLT_SITE", "")
    monkeypatch.setattr(launch, "_check_data", lambda *_: None)
    monkeypatch.setattr(cost, "images_of", lambda run: 1000)
    (tmp_path / "bin").mkdir()
    stub(tmp_path / "bin", "squeue", "exit 0")
    stub(tmp_path / "bin", "sbatch", f"touch {tmp_path}/submitted")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    began = resolve([*own_row(tmp_path, "{'tau': 1.0}"), "seed=1"])
    prepare(began, folder := began.run_folder)
    (folder / "meta.json").write_text("{}")
    words = [*own_row(tmp_path, "{'tau': 2.0}"), "slurm.gpus_per_node=0", "seeds=0,1"]
    assert launch.main(words) == 2
    said = capsys.readouterr().err
    assert f"{folder.name} began with method.args.tau=1.0, and its default is 2.0 now" in said
    assert "nothing was submitted" in said and not (tmp_path / "submitted").exists()
    assert list((tmp_path / "runs").glob("own_row*")) == [folder]


def test_the_same_of_many_runs_is_one_line(
    project: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an edit of a method that many finished runs have, a launch has a line for it and a line for their state,
    with the first names and a count; so has a dry run of again=yes."""
    monkeypatch.setenv("GLT_SITE", "")
    for module in (cost, forecast):
        monkeypatch.setattr(module, "images_of", lambda run: 1000)
    code = code_digests(recipe)
    words = ["data=digits_glt", f"runs={recipe.run_folder.parent}"]
    names = [made(resolve([*words, "cluster=local", f"seed={seed}"]), code=code, seed=seed).name for seed in range(5)]
    (project / "ifl/methods/ce.py").write_text(METHOD.replace("scale * x", "x"))
    some = f"{', '.join(names[:3])} and 2 more"
    assert launch.main([*words, "cluster=local", "seeds=0,1,2,3,4"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{some} began with another ifl/methods/ce.py than there is now: again=yes makes a run again and keeps the old "
        "folder beside it",
        f"{some} are finished: nothing to do",
    ]
    assert launch.main([*words, "cluster=dry", "seeds=0,1,2,3,4", "again=yes"]) == 0
    line = f"# {some} are made again, and what is there gets .old-1 behind its name\n"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize("lacking", ["sbatch", "squeue", "room", "data", "local data"])
def test_nothing_is_set_aside_before_something_can_be_made(
    recipe: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    lacking: str,
) -> None:
    """Where nothing can be submitted or started, `again=yes` leaves the finished runs where and as they are."""
    monkeypatch.setenv("GLT_SITE", "")
    monkeypatch.setattr(cost, "images_of", lambda run: 1000)
    monkeypatch.setattr(limits, "limits", lambda slurm: limits.Limits(of_jobs=(limits.Limit(0, "a limit"),)))
    if "data" not in lacking:
        monkeypatch.setattr(launch, "_check_data", lambda *_: None)
    (tmp_path / "bin").mkdir()
    stub(tmp_path / "bin", "squeue", "exit 1" if lacking == "squeue" else "exit 0")
    if lacking != "sbatch":
        stub(tmp_path / "bin", "sbatch", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    words = ["data=digits_glt", f"data.root={tmp_path}", f"runs={tmp_path / 'runs'}", "slurm.gpus_per_node=0"]
    for seed in (0, 1):
        made(resolve([*words, f"seed={seed}"]))
    before = sorted(path.name for path in (tmp_path / "runs").glob("[!.]*/*"))
    cluster, seeds = "local" if lacking == "local data" else "slurm", "seeds=0,1" if lacking == "room" else "seed=0"
    assert launch.main([*words, f"cluster={cluster}", "again=yes", seeds]) == 2
    said = {"sbatch": "no sbatch", "squeue": "SLURM does not answer (squeue), so nothing", "room": "0 of 2 jobs"}
    assert said.get(lacking, "python -m sharding.build") in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "runs").glob("[!.]*/*")) == before
    assert not list((tmp_path / "runs").glob("*.old-*"))


def test_another_commit_is_shown_in_one_line_and_marks_nothing(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launch and the status say which runs were made at another commit than today's, a few by name; of today's
    commit, and where a commit is not known, nothing is said."""
    monkeypatch.setenv("GLT_SITE", "")
    monkeypatch.setattr(checkout, "commit", lambda: "1234567890abcdef+changes")
    monkeypatch.setattr(run_state, "queue", lambda: None)
    folder = made(recipe, commit="c0ffee" * 6, code=code_digests(recipe))
    runs, line = folder.parent, f"the code's commit is 1234567890ab+changes, and c0ffeec0ffee made {folder.name}"
    words = ["data=digits_glt", f"runs={runs}", "cluster=local"]
    assert launch.main(words) == 0
    assert capsys.readouterr().out == f"{line}\n{folder} is finished: nothing to do\n"
    assert status.main([f"runs={runs}"]) == 0 and capsys.readouterr().out.splitlines()[2:] == [line]
    for commit in ("1234567890abcdef+changes", "unknown", None):
        (folder / "meta.json").write_text(json.dumps({"commit": commit} if commit else {}))
        assert other_commits([folder]) == ""
    many = [runs / name for name in "abcde"]
    for other in many:
        other.mkdir()
        (other / "meta.json").write_text('{"commit": "old"}')
    assert (
        other_commits([*many, folder]) == "the code's commit is 1234567890ab+changes, and old made a, b, c and 2 more"
    )


def test_a_dry_run_shows_what_is_made_again(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several runs, too: finished ones are to be made, with the name that the old folder would get, and they count
    in the cost; without again=yes they are finished."""
    monkeypatch.setenv("GLT_SITE", "")
    for module in (cost, forecast):
        monkeypatch.setattr(module, "images_of", lambda run: 1000)
    folder, words = made(recipe), ["data=digits_glt", f"runs={recipe.run_folder.parent}", "seeds=0,1", "cluster=dry"]
    other = folder.with_name(folder.name.replace("-s0-", "-s1-"))
    assert launch.main([*words, "again=yes"]) == 0
    shown = capsys.readouterr().out
    assert f"# {folder.name} is made again, and what is there gets .old-1 behind its name\n" in shown
    assert f"\n  [0] {folder}  made again\n  [1] {other}\n\n# batch file of " in shown
    assert "# 2 runs to make, 2,000 training images" in shown
    assert launch.main(words) == 0
    shown = capsys.readouterr().out
    assert f"\n{folder}  finished\n{other}\n\n# batch file of {other.name}" in shown
    assert "# 1 runs to make, 1,000 training images" in shown
    assert (folder / "done").exists()


def test_again_keeps_the_old_run_beside(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """`again=yes` is for the runs that a command names; an old folder gets the first free number, one under way stays,
    and one that was only prepared is used."""
    monkeypatch.setattr(run_state, "queue", lambda: None)
    words = ["recipe=glt_crt", "data=digits_glt", f"runs={recipe.run_folder.parent}", "again=yes"]
    first, second = requested_runs(words, Site())[0]
    assert (first.again, second.again) == (False, True)
    run = Run(recipe, again=True)
    for number in (1, 2):
        made(recipe)
        for _ in range(2):
            set_aside([recipe])
        assert events.read(recipe.run_folder)[-1]["event"] == "new" and not run.sets_aside
        assert (recipe.run_folder.with_name(f"{recipe.run_name}.old-{number}") / "done").exists()
    folder = made(recipe)
    monkeypatch.setattr(run_state, "state_of", lambda *_: "running")
    with pytest.raises(RecipeError, match="is running, so it is not set aside"):
        set_aside([recipe])
    assert (folder / "done").exists()
    with pytest.raises(RecipeError, match="again=maybe is not legal"):
        requested_runs(["again=maybe"], Site())


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_a_run_under_way_is_not_announced_as_made_again(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cluster: str
) -> None:
    """Where one of the runs of `again=yes` waits in the queue, though held, the refusal is all that is said, and no
    other run is set aside."""
    monkeypatch.setenv("GLT_SITE", "")
    monkeypatch.setattr(cost, "images_of", lambda run: 1000)
    folder = made(recipe)
    other = folder.with_name(folder.name.replace("-s0-", "-s1-"))
    shutil.copytree(folder, other)
    (other / "done").unlink()
    monkeypatch.setattr(
        run_state, "queue", lambda: {"5": Job("JobHeldUser", 0, other.name, str(other / "log" / "x.sh"))}
    )
    words = ["data=digits_glt", f"runs={folder.parent}", "seeds=0,1", f"cluster={cluster}", "again=yes"]
    assert launch.main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and f"again=yes: {other.name} is held, so it is not set aside" in said.err
    assert folder.exists() and other.exists()
