"""Several runs on this machine: their order, how many at once, stops and failures, and that company changes no bit."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from recipes.common.errors import RecipeError
from recipes.common.locks import is_free
from recipes.resolve import dump, resolve
from recipes.schema import Recipe
from slurm import reuse, run_folder
from slurm.cluster.submission import submit_all
from slurm.local import process_group, progress, run_queue
from slurm.local.run_queue import run_all
from slurm.monitoring import events
from slurm.planning.schedule import Run
from slurm.site_file import Site
from tests.helpers.launching import launch, stub
from tests.helpers.mini import final, same_bits


def recipes(folder: Path, count: int) -> list[Recipe]:
    return [resolve(["data=digits_glt", f"runs={folder}", f"seed={seed}", "cluster=local"]) for seed in range(count)]


class Machine:
    """Stands in for `LocalRun`: a run takes `looks` looks and ends with a code, both by its seed."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, codes: dict[int, int] | None = None, looks: dict[int, int] | None = None
    ) -> None:
        self.codes, self.looks = codes or {}, looks or {}
        self.started: list[int] = []
        self.under_way: set[int] = set()
        self.most, self.asked = 0, []
        machine = self

        class Fake:
            def __init__(self, run: Run, cores: int, bar: Callable[[], tqdm]) -> None:
                recipe, folder = run.recipe, run.folder
                if machine.codes.get(recipe.seed) == "locked":
                    raise RecipeError(f"{folder} is being trained by another process on this machine")
                self.recipe, self.folder, self.left = recipe, folder, machine.looks.get(recipe.seed, 1)
                self.bar, self.step, self.steps, self.code = bar(), 0, 1, machine.codes.get(recipe.seed, 0)
                machine.started.append(recipe.seed)
                machine.under_way.add(recipe.seed)
                machine.most = max(machine.most, len(machine.under_way))

            def poll(self) -> int | None:
                self.left -= 1
                if self.left == 0 and self.code == "Ctrl-C":
                    signal.raise_signal(signal.SIGINT)
                    return None
                if self.left > 0:
                    return None
                machine.under_way.discard(self.recipe.seed)
                if self.code == 0:
                    (self.folder / "done").touch()
                return self.code

            def stop(self) -> None:
                machine.asked.append(self.recipe.seed)
                self.code, self.left = 99, 1

            def end(self) -> None:
                pass

        for module, name, value in (
            (progress, "LocalRun", Fake),
            (progress, "images_of", lambda run: 100),
            (run_queue, "PAUSE_S", 0),
        ):
            monkeypatch.setattr(module, name, value)


def accept(recipe: Recipe) -> None:
    """The data are there."""


@pytest.mark.parametrize(
    "squeue, sentence",
    [
        (
            "echo '7|RUNNING|N/A|None|{0}|x'",
            "{0} has job 7 in SLURM's queue (RUNNING): `python slurm/status.py cancel={1}`",
        ),
        ("exit 1", "SLURM does not answer (squeue), so nothing was started: {0}"),
        ("echo '7|FAILED|N/A|None|{0}|x'", None),
        (None, None),
    ],
)
def test_no_run_is_started_that_slurm_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squeue: str | None, sentence: str | None
) -> None:
    """cluster=local refuses a run whose job is in the queue, or may be, by the job and the command that ends it; one
    whose job has ended, or a copy on a machine without SLURM, it trains."""
    (recipe,) = recipes(tmp_path, 1)
    folder = recipe.run_folder
    folder.mkdir()
    events.append_event(folder, "submitted", job="7")
    (tmp_path / "bin").mkdir()
    if squeue:
        stub(tmp_path / "bin", "squeue", squeue.format(folder.name))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin" if squeue else str(tmp_path / "bin"))
    machine = Machine(monkeypatch)
    if sentence is None:
        assert run_all([Run(recipe)], accept) == 0 and machine.started == [0]
    else:
        with pytest.raises(RecipeError, match=re.escape(sentence.format(folder.name, folder))):
            run_all([Run(recipe)], accept)
        assert machine.started == []


def test_a_run_that_another_command_has_finished_meanwhile_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A queue looks for finished runs when it begins, and comes to a run hours later: its start would cut the finished
    run's lines, and end it a second time."""
    (recipe,) = recipes(tmp_path, 1)
    run_folder.prepare(recipe, recipe.run_folder)
    (recipe.run_folder / "done").touch()
    before = {path: path.read_bytes() for path in recipe.run_folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(run_queue, "finished_of", lambda runs: frozenset())  # as it was when the queue began
    monkeypatch.setattr(process_group, "_start", lambda *args: pytest.fail("ranks were started"))
    assert run_all([Run(recipe)], accept) == 0
    assert f"{recipe.run_folder} is finished: nothing to do" in capsys.readouterr().out
    after = {path: path.read_bytes() for path in recipe.run_folder.rglob("*") if path.is_file()}
    assert before.items() <= after.items() and is_free(recipe.run_folder / "lock")


@pytest.mark.parametrize(("tasks", "checkpoint", "threads"), [(1, True, 1), (1, False, 4), (2, True, 2)])
def test_a_run_goes_on_with_the_threads_that_it_had(tmp_path: Path, tasks: int, checkpoint: bool, threads: int) -> None:
    """With others floats are added in another order. The last run of a queue began with its share of the cores, and
    would have all of them when the same command goes on with it; with other ranks, or from the start, it has them."""
    recipe = resolve(["data=digits_glt", "cluster=local", f"tasks_per_node={tasks}", f"runs={tmp_path}"])
    run_folder.prepare(recipe, recipe.run_folder)
    events.append_event(recipe.run_folder, "start", world=1, threads=1)
    events.append_event(recipe.run_folder, "start", world=1)  # of an earlier version, say
    events.append_event(recipe.run_folder, "start", world=1, threads=1)
    if checkpoint:
        (recipe.run_folder / "ckpt" / "step-000000007").mkdir(parents=True)
        (recipe.run_folder / "ckpt" / "step-000000007" / "MANIFEST.json").write_text("{}")
    assert process_group.threads_of(Run(recipe), 4) == threads


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_a_finished_run_without_its_weights_says_what_is_needed(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where ckpt/ was emptied the run is finished all the same, and the launcher says what it is lost for and how to
    have it again; export= and eval= refuse before anything is loaded.
    """

    def said() -> str:
        if cluster == "local":
            assert run_all([Run(recipe)], accept) == 0
        else:
            submit_all([Run(recipe)], None, Site(), accept)
        return capsys.readouterr().out

    (recipe,) = recipes(tmp_path, 1)
    folder = recipe.run_folder
    folder.mkdir()
    (folder / "recipe.yaml").write_text(dump(recipe))
    (folder / "done").write_text('{"weights": {"last": ["last.pt", "0"], "best": ["best-0001.pt", "1"]}}')
    lost = said()
    assert lost.startswith(f"{folder} is finished: nothing to do; the weights ckpt/last.pt are gone")
    assert lost.endswith("make a run again (by its command with again=yes, which keeps the old folder beside it)\n")
    for words in ([f"export={folder}", "select=best", "out=file"], [f"eval={folder}", "select=best"]):
        with pytest.raises(RecipeError, match=r"the weights ckpt/best-0001\.pt are gone"):
            reuse.parse(words, Site())
    (folder / "ckpt").mkdir()
    (folder / "ckpt" / "best-0001.pt").touch()
    assert said().endswith("; select=best still works\n")
    (folder / "ckpt" / "last.pt").touch()
    assert said() == f"{folder} is finished: nothing to do\n"


def test_many_runs_without_their_weights_say_once_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table on light copies has a line for all that lack the same, with the first names and a count."""
    asked = recipes(tmp_path, 5)
    for recipe in asked:
        recipe.run_folder.mkdir()
        (recipe.run_folder / "done").write_text('{"weights": {"last": ["last.pt", "0"]}}')
    (asked[0].run_folder / "ckpt").mkdir()
    (asked[0].run_folder / "ckpt" / "last.pt").touch()
    assert run_all([Run(recipe) for recipe in asked], accept) == 0
    whole, light = capsys.readouterr().out.splitlines()
    assert whole == f"{asked[0].run_folder} is finished: nothing to do"
    names = ", ".join(recipe.run_name for recipe in asked[1:4])
    assert light.startswith(f"{names} and 1 more are finished: nothing to do; the weights ckpt/last.pt are gone, which")


def test_one_after_another_and_the_independent_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs follow one another in the order of their needs; when one fails, what needs it is not started, the rest is,
    and the exit code is the failure's. The last lines say what became of each that was to be made."""
    made = recipes(tmp_path, 5)
    folders = [recipe.run_folder for recipe in made]
    machine = Machine(monkeypatch, {1: 1})
    folders[4].mkdir()
    (folders[4] / "done").touch()
    runs = [
        Run(made[2], (folders[1],)),
        Run(made[1]),
        Run(made[3], (folders[0], folders[4])),
        Run(made[0]),
        Run(made[4]),
    ]
    assert run_all(runs, accept) == 1
    assert machine.started == [1, 0, 3] and machine.most == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{folders[4]} is finished: nothing to do" and said[-4:] == [
        f"finished: {folders[3]}",
        f"finished: {folders[0]}",
        f"not started, needs {folders[1].name}: {folders[2]}",
        f"failed: {folders[1]}",
    ]


def test_a_run_trained_elsewhere_stops_the_others_as_little_as_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of several that another process trains is named, and what does not need it goes on; asked for alone it is
    refused.
    """
    made = recipes(tmp_path, 3)
    machine = Machine(monkeypatch, {0: "locked"})
    assert run_all([Run(made[0]), Run(made[1], (made[0].run_folder,)), Run(made[2])], accept) == 2
    assert machine.started == [2]
    assert f"{made[0].run_folder} is being trained by another process" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="another process"):
        run_all([Run(made[0])], accept)


def test_nothing_is_foretold_before_the_first_training_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that trains nothing, such as zero-shot, tells no pace of those that do."""
    Machine(monkeypatch)
    monkeypatch.setattr(progress, "images_of", lambda run: 10**9 * run.recipe.seed)
    assert run_all([Run(recipe) for recipe in recipes(tmp_path, 3)], accept) == 0
    ends = [line for line in capsys.readouterr().out.splitlines() if " of 3, " in line]
    assert ["about" in line for line in ends] == [False, True, True]


def test_all_that_are_not_finished_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The account at the end shortens the finished runs alone: each that failed has a line with its folder."""
    made = recipes(tmp_path, 8)
    Machine(monkeypatch, dict.fromkeys(range(4), 1))
    assert run_all([Run(recipe) for recipe in made], accept) == 1
    names = ", ".join(recipe.run_name for recipe in made[4:7])
    assert capsys.readouterr().out.splitlines()[-5:] == [
        f"finished: {names} and 1 more",
        *(f"failed: {recipe.run_folder}" for recipe in made[:4]),
    ]


def test_a_stop_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a run was stopped after a save, no other is started."""
    made = recipes(tmp_path, 2)
    Machine(monkeypatch, {0: 99})
    assert run_all([Run(recipe) for recipe in made], accept) == 99
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"stopped: {made[0].run_folder}",
        f"not started: {made[1].run_folder}",
    ]


def test_what_again_has_begun_goes_on_without_this_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`again=yes` sets all its finished runs aside when the first can start, and the sentences after Ctrl-C name the
    command that makes the rest and none of them twice: it is the one without again=yes."""
    made = recipes(tmp_path, 2)
    for recipe in made:
        recipe.run_folder.mkdir()
        for name in ("recipe.yaml", "done"):
            (recipe.run_folder / name).write_text("{}")
    runs = [Run(recipe, command=("launch.py", "again=yes"), again=True) for recipe in made]

    def refuse(recipe: Recipe) -> None:
        raise RecipeError("no data")

    with pytest.raises(RecipeError, match="no data"):
        run_all(runs, refuse)
    assert not list(tmp_path.glob("*.old-1"))
    Machine(monkeypatch, {0: "Ctrl-C"})
    assert run_all(runs, accept) == 99
    said = "stopping; the same command without again=yes goes on from what is saved (Ctrl-C again ends at once)\n"
    assert said in capsys.readouterr().out and len(list(tmp_path.glob("*.old-1"))) == 2
    assert process_group.goes_on(runs[0]).endswith("the same command without again=yes starts it again")
    machine = Machine(monkeypatch)
    assert run_all([Run(recipe) for recipe in made], accept) == 0 and machine.started == [0, 1]


def test_an_interrupt_asks_all_under_way_to_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C stops every run under way, each saves, and starts no other."""
    made = recipes(tmp_path, 4)
    machine = Machine(monkeypatch, {1: "Ctrl-C"}, {0: 100, 1: 3})
    assert run_all([Run(recipe) for recipe in made], accept, at_once=2) == 99
    assert machine.started == [0, 1] and set(machine.asked) == {0, 1}
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()[-4:]] == [
        "stopped",
        "stopped",
        "not started",
        "not started",
    ]


@pytest.mark.parametrize(
    "code, checkpoint, said",
    [
        (
            3,
            None,
            "rank 0 ended with code 3 after step 0; no checkpoint was made yet, so once the cause is mended the same "
            "command starts it again",
        ),
        (3, 7, "ended with code 3 after step 7; the same command goes on from the last checkpoint"),
        (99, 7, "stopped and saved after step 7; the same command goes on from there"),
        (99, None, "stopped; the same command makes it again"),
    ],
)
def test_an_end_says_what_was_saved(
    code: int,
    checkpoint: int | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The step is the newest checkpoint's, whatever was logged; where there is none nothing is said of one; and after
    an error no bar is left."""
    (recipe,) = recipes(tmp_path, 1)

    def start(run: Run, *_: object) -> list[subprocess.Popen[bytes]]:
        if checkpoint is not None:
            step = run.folder / "ckpt" / f"step-{checkpoint:09d}"
            step.mkdir(parents=True)
            (step / "MANIFEST.json").touch()
        (run.folder / "log").mkdir()
        (run.folder / "log" / "rank-0.log").write_text("the last words\n")
        return [subprocess.Popen(["sh", "-c", f"exit {code}"])]

    monkeypatch.setattr(process_group, "_start", start)
    assert run_all([Run(recipe)], accept) == (1 if code == 3 else code)
    out, err = capfd.readouterr()
    assert f"{said}. The end of" in err if code == 3 else out.endswith(f"{said}\n")
    assert code != 3 or err.endswith("the last words\n\n"), err


@settings(max_examples=60, deadline=None)
@given(
    at_once=st.integers(1, 4),
    looks=st.lists(st.integers(1, 5), min_size=7, max_size=7),
    needs=st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda pair: pair[0] < pair[1])),
)
def test_never_more_than_the_limit_and_needs_first(
    tmp_path_factory: pytest.TempPathFactory, at_once: int, looks: list[int], needs: set[tuple[int, int]]
) -> None:
    """Whatever the runs' lengths and needs: at most `at_once` under way, as many as may be, each after what it needs,
    all finished.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = recipes(tmp_path_factory.mktemp("runs"), 7)
        machine = Machine(monkeypatch, looks=dict(enumerate(looks)))
        runs = [
            Run(recipe, tuple(made[first].run_folder for first, second in sorted(needs) if second == recipe.seed))
            for recipe in made[::-1]
        ]
        assert run_all(runs, accept, at_once) == 0
    assert sorted(machine.started) == list(range(7)) and machine.most <= at_once
    assert all(machine.started.index(first) < machine.started.index(second) for first, second in needs)
    if not needs:
        assert machine.most == at_once


@pytest.mark.full
def test_company_changes_no_bit(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs at once end with the bits of each alone, with as many threads; their ends are told, and nothing is done
    twice.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = [
        "recipe=glt_ifl",
        "data=digits_glt",
        f"data.root={tiny_root}",
        "cluster=local",
        "schedule.epochs=2",
        "ifl.milestones=[0,1]",
        "batch.draws_per_epoch=0.5",
    ]
    both = launch(*words, "seeds=0,1", "max_jobs=2", f"runs={tmp_path / 'both'}")
    assert both.returncode == 0, both.stderr
    assert (
        len(re.findall(r"^finished: glt_ifl-.* \([12] of 2, [0-9:]+; about [0-9:]+ left\)$", both.stdout, re.MULTILINE))
        == 2
    )
    again = launch(*words, "seeds=0,1", "max_jobs=2", f"runs={tmp_path / 'both'}")
    assert again.returncode == 0 and again.stdout.count("is finished: nothing to do") == 2
    assert launch(*words, "seed=1", f"runs={tmp_path / 'alone'}").returncode == 0
    name = resolve([*words, "seed=1"]).run_name
    assert same_bits(final(tmp_path / "both" / name), final(tmp_path / "alone" / name)) == []
