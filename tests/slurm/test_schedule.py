"""Several runs of one command: their order, their lanes, and nothing twice. The queue itself is tested in
test_slurm.py.
"""

from __future__ import annotations

import re
import shlex
import threading
import time
from pathlib import Path

import pytest

from recipes.common.errors import RecipeError
from recipes.resolve import resolve
from slurm.cluster import submission
from slurm.cluster.batch_job import ID_S
from slurm.monitoring import events
from slurm.planning.requested_runs import requested_runs
from slurm.planning.schedule import Run, Step, schedule, tree
from slurm.site_file import Site
from tests.helpers.launching import launch, refused, stub


def run(name: str, *needs: str) -> Run:
    """A run in the folder /runs/... of the seed `name`; needs are seeds as well."""
    recipe = resolve(["data=digits_glt", "runs=/runs", f"seed={name}"])
    return Run(recipe, tuple(folder(need) for need in needs))


def folder(name: str) -> Path:
    return resolve(["data=digits_glt", "runs=/runs", f"seed={name}"]).run_folder


def places(steps: list[Step]) -> dict[str, tuple[str, str]]:
    """seed -> (seeds that must be finished, seeds that must have left the queue), in order."""

    def seed(path: Path) -> str:
        return re.search(r"-s(\d+)-", path.name)[1]

    return {seed(step.run.folder): ("".join(map(seed, step.finished)), "".join(map(seed, step.left))) for step in steps}


# --------------------------------------------------------------------------------------------------------------- words
def seeds_and_limit(*words: str) -> tuple[list[int], int | None]:
    runs, at_once = requested_runs(["data=digits_glt", *words], Site())[:2]
    return [r.recipe.seed for r in runs], at_once


def test_seeds_make_one_run_each() -> None:
    """`seeds=0,1,2` is the command with each seed; without it there is one run."""
    assert seeds_and_limit("seeds=0,1,22", "nodes=2") == ([0, 1, 22], None)
    assert seeds_and_limit("seed=3", "max_jobs=4") == ([3], 4)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["seeds=0,0"], "distinct whole numbers"),
        (["seeds="], "distinct whole numbers"),
        (["seeds=0,"], "distinct"),
        (["seeds=a"], "distinct"),
        (["seeds=-1"], "distinct"),
        (["seeds=0,1.5"], "distinct"),
        (["seeds=1,01"], "distinct"),
        (["seeds=0,1", "seed=0"], "do not go together"),
        (["max_jobs=0"], "1 to 999999"),
        (["max_jobs=two"], "1 to 999999"),
        (["max_jobs=1000000"], "1 to 999999"),
        (["seeds=0,4294967296"], "seed=4294967296"),
        (["seeds=1", "max_jobs=1.5"], "max_jobs=1.5"),
    ],
)
def test_bad_seeds_and_limits_are_one_sentence(words: list[str], sentence: str) -> None:
    """What is no list of distinct seeds or no number of jobs is refused before anything is made."""
    assert sentence in refused("data=digits_glt", "cluster=dry", *words)


# --------------------------------------------------------------------------------------------------------------- order
def test_without_a_limit_runs_are_independent() -> None:
    """Runs that need nothing wait for nothing."""
    assert places(schedule([run("0"), run("1"), run("2")], (), ())) == {"0": ("", ""), "1": ("", ""), "2": ("", "")}


def test_lanes_hold_at_most_so_many() -> None:
    """With two at once, run i waits until all of its lane before it have left: 2 for 0, 3 for 1, 4 for 0 and 2."""
    steps = schedule([run(str(i)) for i in range(5)], (), (), 2)
    assert places(steps) == {"0": ("", ""), "1": ("", ""), "2": ("", "0"), "3": ("", "1"), "4": ("", "02")}


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("queued", [[], ["3"], ["3", "1", "4", "0"]])
def test_never_more_than_the_limit_in_any_order_of_ends(at_once: int, queued: list[str]) -> None:
    """However long runs take, no new run starts while as many as the limit are under way: simulated with every run
    ending at a different moment, also when more than the limit were under way before."""
    runs = [run(str(i)) for i in range(7)]
    steps = schedule(runs, (), [folder(seed) for seed in queued], at_once)
    assert {step.run.folder for step in steps} == {r.folder for r in runs} - {folder(seed) for seed in queued}
    for slow in runs:  # this one never ends
        active, ended, waiting = {folder(seed) for seed in queued}, set(), list(steps)
        while True:
            started = next((step for step in waiting if ended.issuperset(step.left)), None)
            if started:
                assert len(active) < at_once, (
                    f"{started.run.folder.name} starts beside {sorted(path.name for path in active)}"
                )
                waiting.remove(started)
                active.add(started.run.folder)
                continue
            ends = sorted(active - {slow.folder})
            if not ends:
                break
            active.remove(ends[-1])
            ended.add(ends[-1])
        assert all(slow.folder in step.left for step in waiting), "what waits, waits for the one that never ends"


def test_needs_come_first() -> None:
    """A run comes after what it needs, wherever it stands in the list; a need that is finished is no condition, one in
    the queue is.
    """
    runs = [run("5", "4"), run("4", "3"), run("3"), run("2", "8"), run("1", "9")]
    steps = schedule(runs, {folder("8")}, [folder("9")])
    assert places(steps) == {"3": ("", ""), "4": ("3", ""), "5": ("4", ""), "2": ("", ""), "1": ("9", "")}


def test_finished_and_queued_runs_are_not_started_again() -> None:
    """Of three runs, one finished and one in the queue, the third alone is left."""
    assert places(schedule([run("0"), run("1"), run("2")], {folder("0")}, [folder("1")], 1)) == {"2": ("", "1")}


def test_a_need_from_nowhere_is_refused() -> None:
    """A run that needs one that is neither finished, queued nor launched is refused by name, before anything starts."""
    with pytest.raises(RecipeError, match=r"needs .*-s1-.* neither finished nor in the queue nor part"):
        schedule([run("0", "1")], (), ())
    with pytest.raises(AssertionError, match="need each other"):
        schedule([run("0", "1"), run("1", "0")], (), ())


def test_the_tree_shows_every_run_once(tmp_path: Path) -> None:
    """Each run stands once, indented under what it starts after, with the reason; a settled one with its state."""
    steps = schedule([run("0"), run("1"), run("2"), run("3", "0"), run("4")], {folder("4")}, [], 2)
    lines = tree(steps, {folder("4"): "finished"}).splitlines()
    names = {seed: folder(seed).name for seed in "01234"}
    assert lines == [
        f"/runs/{names['4']}  finished",
        f"/runs/{names['0']}",
        f"  /runs/{names['2']}  after {names['0']} has left the queue",
        f"/runs/{names['1']}",
        f"  /runs/{names['3']}  after {names['0']} is finished and {names['1']} has left the queue",
    ]


def test_dry_shows_the_tree_and_makes_nothing(tmp_path: Path) -> None:
    """`cluster=dry` for several runs prints the site file, the cost (here there are no data to count), the tree and the
    batch file of one, and makes no file.
    """
    result = launch(
        "data=digits_glt",
        f"data.root={tmp_path / 'none'}",
        "seeds=0,1,2",
        "max_jobs=1",
        "slurm.arrays=false",
        "cluster=dry",
        f"runs={tmp_path / 'runs'}",
    )
    assert result.returncode == 0 and result.stderr == "" and list(tmp_path.iterdir()) == []
    lines = result.stdout.splitlines()
    assert (
        lines[0] == "# site file: none"
        and "cost unknown" in lines[1]
        and [len(line) - len(line.lstrip()) for line in lines[2:5]] == [0, 2, 4]
        and lines[5] == ""
        and lines[6].startswith("# batch file of glt_baseline-digits_glt-glt-s0-")
    )


# --------------------------------------------------------------------------------------------------------------- slurm
SBATCH = """n=$(( $(cat {0}/n 2>/dev/null || echo 100) + 1 )); echo $n > {0}/n
grep -oE -- '--(dependency|kill-on-invalid-dep)=.*' "$1" | tr '\\n' ' ' > {0}/deps.$n
if [ "$n" = "$(cat {0}/refuse 2>/dev/null)" ]; then echo 'sbatch: error: QOS limit' >&2; exit 1; fi
sed -n 's/^#SBATCH --job-name=//p' "$1" > {0}/name.$n; echo "$1" > {0}/file.$n
echo $n >> {0}/queue; echo "Submitted batch job $n" """
SQUEUE = """for n in $(cat {0}/queue 2>/dev/null); do
echo "$n|PENDING|N/A|None|$(cat {0}/name.$n)|$(cat {0}/file.$n)"; done"""


@pytest.fixture()
def cluster(tmp_path: Path) -> dict[str, str]:
    """An sbatch and a squeue that keep a list of jobs (101, 102, ...) and the dependencies each was submitted with."""
    (tmp_path / "bin").mkdir()
    place = shlex.quote(str(tmp_path))
    for name, script in (("sbatch", SBATCH), ("squeue", SQUEUE)):
        stub(tmp_path / "bin", name, script.format(place))
    stub(tmp_path / "bin", "srun", "exit 1")
    return {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}


def test_submitting_again_submits_nothing_twice(cluster: dict[str, str], tiny_root: Path, tmp_path: Path) -> None:
    """Four seeds, two at once: the third and fourth wait for the first and second. The same command again submits
    nothing; with a fifth seed only that one, behind all but the last; a job that is gone is submitted anew behind the
    others; a finished run is left alone. All share one copy of the code."""
    words = [
        "data=digits_glt",
        f"data.root={tiny_root}",
        f"runs={tmp_path / 'runs'}",
        "slurm.gpus_per_node=0",
        "slurm.arrays=false",
        "max_jobs=2",
    ]

    def submitted(*more: str) -> dict[str, str]:
        before = {path.name for path in tmp_path.glob("deps.*")}
        result = launch(*words, *more, **cluster)
        assert result.returncode == 0, result.stderr
        return {
            path.name.removeprefix("deps."): path.read_text().strip()
            for path in sorted(tmp_path.glob("deps.*"))
            if path.name not in before
        }

    assert submitted("seeds=0,1,2,3") == {
        "101": "",
        "102": "",
        "103": "--dependency=afterany:101",
        "104": "--dependency=afterany:102",
    }
    assert submitted("seeds=0,1,2,3") == {}
    assert submitted("seeds=0,1,2,3,4") == {"105": "--dependency=afterany:101:102:103"}
    (tmp_path / "queue").write_text("102\n104\n105\n")  # 101 and 103 have left
    (resolve([*words[:3], "seed=0"]).run_folder / "done").touch()
    assert submitted("seeds=0,1,2,3,4") == {"106": "--dependency=afterany:102:104"}
    folders = [resolve([*words[:3], f"seed={seed}"]).run_folder for seed in range(5)]
    jobs = {
        path.name: [event["job"] for event in events.read(path) if event["event"] == "submitted"] for path in folders
    }
    assert list(jobs.values()) == [["101"], ["102"], ["103", "106"], ["104"], ["105"]]
    assert len(list((tmp_path / "runs" / ".code").iterdir())) == 1


def test_a_second_stage_waits_for_the_first(
    cluster: dict[str, str],
    tiny_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run that needs another is submitted to start after its job has left, new or already in the queue, beside those
    of its lane, whatever SLURM will say of that job's end; its batch script looks for the first stage's `done`. A need
    that is finished is no dependency. The event log keeps what was needed."""
    monkeypatch.setenv("PATH", cluster["PATH"])
    words = ["data=digits_glt", f"data.root={tiny_root}", f"runs={tmp_path / 'runs'}", "slurm.gpus_per_node=0"]
    recipes = [resolve([*words, f"seed={seed}"]) for seed in range(3)]
    first, second, third = (
        Run(recipes[0]),
        Run(recipes[1], (recipes[0].run_folder,)),
        Run(recipes[2], (recipes[0].run_folder,)),
    )
    submission.submit_all([second, first], None, Site(), lambda recipe: None)
    assert (tmp_path / "deps.102").read_text().strip() == "--dependency=afterany:101"
    assert events.read(recipes[1].run_folder)[-1]["needs"] == [recipes[0].run_folder.name]
    submission.submit_all([second, third], 1, Site(), lambda recipe: None)
    assert (tmp_path / "deps.103").read_text().strip() == "--dependency=afterany:101:102"
    for folder in (recipes[1].run_folder, recipes[2].run_folder):
        assert f"[ -e {recipes[0].run_folder}/done ] || " in (folder / "log" / f"{folder.name}.sh").read_text()
    (tmp_path / "queue").write_text("")
    (recipes[0].run_folder / "done").touch()
    submission.submit_all([third], None, Site(), lambda recipe: None)
    assert (tmp_path / "deps.104").read_text().strip() == ""


def test_a_refused_job_leaves_the_others(cluster: dict[str, str], tiny_root: Path, tmp_path: Path) -> None:
    """Where sbatch refuses the second of three, the launcher says so in one sentence and stops; the same command goes
    on with what lacks.
    """
    words = [
        "data=digits_glt",
        f"data.root={tiny_root}",
        f"runs={tmp_path / 'runs'}",
        "slurm.gpus_per_node=0",
        "slurm.arrays=false",
        "seeds=0,1,2",
    ]
    (tmp_path / "refuse").write_text("102")
    result = launch(*words, **cluster)
    second = resolve([*words[:-1], "seed=1"]).run_name
    assert result.returncode == 2
    assert result.stderr.endswith(
        f"launch.py: sbatch refused {second}: sbatch: error: QOS limit; "
        "once the cause is mended, the same command goes on\n"
    )
    again = launch(*words, **cluster)
    assert (
        again.returncode == 0
        and again.stdout.count("job: ") == 2
        and again.stdout.count("is queued: nothing to do") == 1
    )


def test_a_silent_queue_stops_a_second_submission(cluster: dict[str, str], tiny_root: Path, tmp_path: Path) -> None:
    """Where squeue fails, a run that has a job is not submitted again, and the launcher says why."""
    words = ["data=digits_glt", f"data.root={tiny_root}", f"runs={tmp_path / 'runs'}", "slurm.gpus_per_node=0"]
    assert launch(*words, **cluster).returncode == 0
    stub(tmp_path / "bin", "squeue", "exit 1")
    result = launch(*words, **cluster)
    assert (
        result.returncode == 2
        and "SLURM does not answer (squeue)" in result.stderr
        and len(list(tmp_path.glob("deps.*"))) == 1
    )


def test_a_job_that_was_not_noted_is_not_submitted_twice(
    cluster: dict[str, str], tiny_root: Path, tmp_path: Path
) -> None:
    """With the `submitted` event lost (a full disk, Ctrl-C after sbatch) the queue itself says that the run has a job;
    a run of the same name in another folder has none."""
    words = ["data=digits_glt", f"data.root={tiny_root}", f"runs={tmp_path / 'runs'}", "slurm.gpus_per_node=0"]
    assert launch(*words, **cluster).returncode == 0
    (resolve(words).run_folder / "log" / "events.jsonl").unlink()
    again = launch(*words, **cluster)
    assert (
        again.returncode == 0 and "is queued: nothing to do" in again.stdout and len(list(tmp_path.glob("deps.*"))) == 1
    )
    assert "job: 102" in launch(*words, f"runs={tmp_path / 'other'}", **cluster).stdout


def test_a_job_that_the_site_renames_is_not_submitted_twice(
    cluster: dict[str, str], tiny_root: Path, tmp_path: Path
) -> None:
    """A plugin of SLURM's may give a job another name: its id is told at once by the file that sbatch was given, and
    the same command finds it, also where nothing was noted."""
    squeue = SQUEUE.replace("$(cat {0}/name.$n)", "project42-job$n").format(shlex.quote(str(tmp_path)))
    stub(tmp_path / "bin", "squeue", squeue)
    words = ["data=digits_glt", f"data.root={tiny_root}", f"runs={tmp_path / 'runs'}", "slurm.gpus_per_node=0"]
    began = time.monotonic()
    first = launch(*words, **cluster)
    assert "job: 101" in first.stdout and time.monotonic() - began < ID_S
    assert "is queued: nothing to do" in launch(*words, **cluster).stdout
    (resolve(words).run_folder / "log" / "events.jsonl").unlink()
    assert "is queued: nothing to do" in launch(*words, **cluster).stdout
    assert len(list(tmp_path.glob("deps.*"))) == 1


def test_what_is_refused_is_refused_before_the_first_run(tiny_root: Path, tmp_path: Path) -> None:
    """Missing data are found before any of several runs starts."""
    sentence = refused(
        "data=digits_glt", f"data.root={tmp_path / 'none'}", "seeds=0,1", "cluster=local", f"runs={tmp_path / 'runs'}"
    )
    assert "python -m sharding.build" in sentence and not (tmp_path / "runs").exists()


def test_two_launchers_take_turns(tmp_path: Path) -> None:
    """While one submits into a folder of runs another waits, so it sees the first one's jobs; into another folder it
    does not wait.
    """
    done = threading.Event()

    def second(folder: Path) -> None:
        with submission.alone(folder):
            done.set()

    with submission.alone(tmp_path / "runs"):
        waiting = threading.Thread(target=second, args=(tmp_path / "runs",))
        waiting.start()
        assert not done.wait(0.3)
        elsewhere = threading.Thread(target=second, args=(tmp_path / "other",))
        elsewhere.start()
        assert done.wait(10)
        elsewhere.join()
        done.clear()
        assert not done.wait(0.1)
    assert done.wait(10)
    waiting.join()
