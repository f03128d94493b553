"""Several runs as job arrays: which go together, what is left out, and nothing twice. SLURM itself is met in
tests/system/test_arrays.py.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.common.errors import RecipeError
from recipes.resolve import resolve
from slurm import launch as launcher
from slurm.cluster import batch_job, limits, needs, packed, requeue, submission
from slurm.cluster.array_job import array_job, write_elements
from slurm.monitoring import events, run_state
from slurm.planning.arrays import Array, arrays, numbers_text
from slurm.planning.requested_runs import requested_runs
from slurm.planning.schedule import Run, schedule
from slurm.site_file import Site
from tests.helpers.launching import flags, stub


def run(seed: int, *of: int, nodes: int = 1, **values: bool) -> Run:
    words = [f"slurm.{key}={str(value).lower()}" for key, value in values.items()]
    recipe = resolve(["data=digits_glt", "runs=/runs", f"seed={seed}", f"nodes={nodes}", *words])
    return Run(recipe, tuple(folder(other) for other in of))


def folder(seed: int) -> Path:
    return resolve(["data=digits_glt", "runs=/runs", f"seed={seed}"]).run_folder


def planned(
    runs: list[Run],
    finished: tuple[int, ...] = (),
    queued: tuple[int, ...] = (),
    at_once: int | None = None,
    size: int = 100,
    pack: int = 1,
) -> list[tuple[str, str, int | None]]:
    """(the elements' seeds, `.` where one is left out; the seeds that are waited for; the throttle) of each array."""
    steps = schedule(runs, {folder(seed) for seed in finished}, [folder(seed) for seed in queued])
    waiting = [folder(seed) for seed in queued]
    made = arrays(runs, steps, lambda run: run.recipe.nodes, at_once, waiting, size, pack)
    seeds = {run.folder: str(run.recipe.seed) for run in runs}

    def shown(array: Array) -> str:
        names = ["+".join(seeds[run.folder] for run in element) for element in array.elements]
        kept = [name if number in array.numbers else "." for number, name in enumerate(names)]
        return " ".join(kept) + (" alone" if array.alone else "")

    return [(shown(array), "".join(seeds[path] for path in array.after), array.at_once) for array in made]


def test_runs_of_one_stage_that_ask_for_the_same_are_an_array() -> None:
    """One array for each stage and distinct request; what no other run is like is a plain job."""
    runs = [run(0), run(1), run(2, 0), run(3, nodes=2), run(4, 1), run(5)]
    assert planned(runs) == [("0 1 5", "", None), ("3 alone", "", None), ("2 4", "01", None)]
    assert planned([run(0), run(1, arrays=False), run(2)]) == [("0 2", "", None), ("1 alone", "", None)]


def test_what_is_done_or_queued_is_left_out_and_numbers_stay() -> None:
    """An element keeps its number while others are done or in the queue; a second stage whose first is done does not
    wait for the other elements' first stages."""
    runs = [run(0), run(1), run(2), run(3), run(4, 0), run(5, 1), run(6, 2)]
    assert planned(runs, finished=(0, 3), queued=(1,)) == [
        (". . 2 . alone", "", None),
        ("4 . . alone", "", None),
        (". 5 6", "12", None),
    ]


def test_no_more_than_the_limit_over_all_arrays() -> None:
    """With a limit each array waits for all before it, and is throttled; where all fit there is no limit to set."""
    runs = [run(0), run(1), run(2), run(3, nodes=2), run(4, nodes=2), run(5, nodes=2), run(6, 0)]
    assert planned(runs, at_once=2) == [
        ("0 1 2", "", 2),
        ("3 4 5", "012", 2),
        ("6 alone", "012345", 1),
    ]
    assert planned(runs, queued=(0,), at_once=2)[0] == (". 1 2", "0", 2)
    assert planned(runs, at_once=7) == planned(runs)


def test_larger_tables_become_several_arrays() -> None:
    """No array has more elements than SLURM allows; where it allows none, each run is a job of its own."""
    runs = [run(seed) for seed in range(5)]
    assert planned(runs, size=2) == [("0 1", "", None), ("2 3", "", None), ("4 alone", "", None)]
    assert [shown for shown, _, _ in planned(runs, size=0)] == [f"{seed} alone" for seed in range(5)]


def test_packs_are_of_what_is_to_be_made() -> None:
    """Packed runs share an element, so many each, and none that is done or waits for something else is among them."""
    runs = [run(seed) for seed in range(6)] + [run(6, 0), run(7, 1)]
    assert planned(runs, finished=(0, 2), pack=2) == [("1+3 4+5", "", None), ("6 .", "", None), (". 7", "1", None)]


@pytest.mark.parametrize("numbers, text", [((0, 3, 4, 5, 6, 7), "0,3-7"), ((1,), "1"), ((1, 2, 4), "1-2,4")])
def test_elements_are_written_as_sbatch_takes_them(numbers: tuple[int, ...], text: str) -> None:
    assert numbers_text(numbers) == text


# ---------------------------------------------------------------------------------------------------------- batch file
HOSTILE = ["with space", "a;touch canary;b", "$(touch canary)", "a'b", 'a"b', "ünï", "-n"]


@pytest.mark.parametrize("name", HOSTILE)
def test_an_element_finds_its_run_in_any_folder(name: str, tmp_path: Path) -> None:
    """Run by bash, the batch file of an array goes to the run that was written down for the element, whatever the
    folder of the runs is called; a run that is done is left at once, and one without its first stage is `waiting`."""
    runs_folder = tmp_path / name
    words = ["data=digits_glt", f"runs={runs_folder}"]
    runs = [Run(resolve([*words, f"seed={seed}"]), (runs_folder / "first",)) for seed in range(3)]
    (runs_folder / "first").mkdir(parents=True)
    for one in runs:
        (one.folder / "log").mkdir(parents=True)
    (runs[0].folder / "done").touch()
    array = Array(tuple((one,) for one in runs), (0, 2), at_once=1)
    job = array_job(array, Path(__file__).parents[2])
    write_elements(array, job.folder)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    stub(bin_folder, "srun", f'printf "%s\\0" "$PWD" "$@" >> {shlex.quote(str(tmp_path / "words"))}')
    text = job.text()
    assert flags(text)["array"] == "0,2%1" and flags(text)["job-name"] == job.name
    assert flags(text)["output"] == f"{job.folder}/%a/0/log/%A_%a_0_log.out"

    def element(number: int) -> int:
        variables = {"SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": str(number), "SLURM_JOB_ID": "8"}
        quick = text.replace("-m slurm.cluster.needs", f"-c 'import sys; sys.exit({int(number == 1)})'")
        quick = quick.replace("-m slurm.cluster.requeue", "-c 'import sys; print(*sys.argv[1:])'")
        path = {"PATH": f"{bin_folder}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", quick], cwd=tmp_path, env={**path, **variables}, capture_output=True, text=True, timeout=30
        )
        if number == 2:
            assert done.stdout == f"{runs[2].folder} 0\n", done
        return done.returncode

    assert [element(number) for number in (0, 1, 2)] == [0, 0, 0]
    said = (tmp_path / "words").read_text().split("\0")
    assert said.count("submitit.core._submit") == 1 and said[-2] == str(job.folder / "%a" / "0" / "log")
    link = runs[2].folder / "log" / "6_2_submitted.pkl"
    assert os.readlink(link) == f"{runs[2].folder.name}.pkl"
    assert not (tmp_path / "canary").exists()


def test_an_element_reads_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run needs is beside it; where that is not finished, `waiting` is noted and nothing else happens."""
    monkeypatch.setattr(needs, "SEEN_S", 0.0)
    words = ["data=digits_glt", f"runs={tmp_path}"]
    one = Run(resolve(words), (tmp_path / "first run",))
    (one.folder / "log").mkdir(parents=True)
    array = Array(((one,),), (0,))
    write_elements(array, tmp_path / run_state.ARRAYS / "x")
    assert needs.main(one.folder, []) == 1
    assert [(event["event"], event["needs"]) for event in events.read(one.folder)] == [("waiting", ["first run"])]
    (tmp_path / "first run").mkdir()
    (tmp_path / "first run" / "done").touch()
    assert needs.main(one.folder, []) == 0 and len(events.read(one.folder)) == 1


def test_packed_runs_have_their_share(tmp_path: Path) -> None:
    """With pack=2 on a node of four GPUs each run asks for two, trains with two processes, and the job asks for all;
    the steps take their share of cores and GPUs, and the memory is the job's."""
    words = ["data=digits_glt", f"runs={tmp_path}", "slurm.gpus_per_node=4", "slurm.cpus_per_task=3", "slurm.mem=9G"]
    runs, _, _, pack = requested_runs([*words, "seeds=0,1", "pack=2"], Site())
    assert [(one.recipe.slurm.gpus_per_node, one.recipe.tasks) for one in runs] == [(2, 2), (2, 2)] and pack == 2
    text = array_job(Array((tuple(runs),), (0,)), tmp_path).text()
    asked = flags(text)
    named = ("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem", "array")
    assert [asked[name] for name in named] == ["1", "4", "4", "3", "9G", "0"]
    (step,) = [line for line in text.splitlines() if line.startswith("srun")]
    share = {"--exact", "--mem=0", "--ntasks=2", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=3", "-K1"}
    assert share <= set(shlex.split(step))


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["pack=0"], "pack=0 is not legal"),
        (["pack=x;y"], "pack=x;y is not legal"),
        (["pack=65"], "from 1 to 64"),
        (["pack=2", "nodes=2"], "has nodes=2"),
        (["pack=3", "slurm.gpus_per_node=4"], "slurm.gpus_per_node. evenly: 1, 2, 4 are legal"),
        (["pack=2", "cluster=local"], "use max_jobs=2"),
        (["pack=2", "slurm.arrays=false"], "do not go together"),
    ],
)
def test_what_cannot_be_packed_is_refused(words: list[str], sentence: str) -> None:
    """In one sentence, before anything is made."""
    with pytest.raises(RecipeError, match=sentence) as error:
        requested_runs(["data=digits_glt", "seeds=0,1", *words], Site())
    assert "\n" not in str(error.value)


def test_a_failed_run_of_a_pack_counts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run of a pack has its own verdict. The job goes back as long as any is to go on; one that gave up is marked
    as over in that job, is told as such while the others run, and one that finished is finished."""
    for name, value in {"JOB_ID": "9", "ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    words = ["data=digits_glt", f"runs={tmp_path}"]
    runs = [Run(resolve([*words, f"seed={seed}"])) for seed in range(3)]
    for one in runs:
        (one.folder / "log").mkdir(parents=True)
    array, element = Array((tuple(runs),), (0,)), tmp_path / run_state.ARRAYS / "x" / "0"
    write_elements(array, element.parent)
    asked: list[list[str]] = []

    def scontrol(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(words[1:])
        return subprocess.CompletedProcess(words, 0, "JobState=RUNNING Restarts=0", "")

    monkeypatch.setattr(subprocess, "run", scontrol)
    monkeypatch.setattr(requeue.time, "sleep", lambda _: None)
    good, bad, stopped = (one.folder for one in runs)
    (good / "done").touch()
    said = []
    for start in range(3):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(start))
        if start == 0:
            events.append_event(stopped, "stopped")
            assert [packed.end_run(folder, code) for folder, code in ((good, 0), (stopped, 99))] == [0, 99]
        packed.end_run(bad, 1)
        asked.clear()
        said.append((packed.end_job(element), [words for words in asked if words[0] != "show"] == [["requeue", "7_0"]]))
    assert said == [(1, True), (1, True), (1, False)]
    assert [path.name for path in (bad / "log").glob("*.over")] == ["7_0.over"]
    assert not list(stopped.glob("log/*.over")) and not list(good.glob("log/*.over"))
    job = {"7_0": run_state.Job("RUNNING", 0, "x", f"{element}/x.sh")}
    states = [run_state.state_of(folder, events.read(folder), job) for folder in (good, bad, stopped)]
    assert states == ["finished", "gave up", "queued"] and run_state.runs_of(job["7_0"]) == 3


# --------------------------------------------------------------------------------------------------------------- queue
SBATCH = """n=$(( $(cat {0}/n 2>/dev/null || echo 100) + 1 )); echo $n > {0}/n
if [ "$n" = "$(cat {0}/refuse 2>/dev/null)" ]; then echo 'sbatch: error: QOS limit' >&2; exit 1; fi
grep -oE -- '--(dependency|array)=.*' "$1" | tr '\\n' ' ' > {0}/asked.$n
a=$(sed -n 's/^#SBATCH --array=//p' "$1" | tr -d "'"); id=$n; [ -z "$a" ] || id="${{n}}_[$a]"
echo "$id|PENDING|N/A|None|$(sed -n 's/^#SBATCH --job-name=//p' "$1")|$1" >> {0}/queue"""


Launched = tuple[int, str, str]


@pytest.fixture()
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Launched]:
    """The launcher, in this process, with an sbatch and a squeue that keep a list of jobs (101, 102, ...) and what
    each was submitted with; returns its code and what it said."""
    (tmp_path / "bin").mkdir()
    place = shlex.quote(str(tmp_path))
    stub(tmp_path / "bin", "sbatch", SBATCH.format(place))
    stub(tmp_path / "bin", "squeue", f"cat {place}/queue 2>/dev/null; exit 0")
    stub(tmp_path / "bin", "srun", "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("GLT_SITE", "")

    def launch(*words: str) -> Launched:
        code = launcher.main(list(words))
        return (code, *capsys.readouterr())

    return launch


def test_submitting_again_submits_nothing_twice(
    command: Callable[..., Launched], tiny_root: Path, tmp_path: Path
) -> None:
    """Four seeds are one array. The same command again submits nothing, also where the submissions could not be noted
    and a site's plugin renamed the array; what is done is left out, what has left the queue goes again under its old
    number; runs of the same names in another folder are others."""
    words = ["data=digits_glt", f"data.root={tiny_root}", f"runs={tmp_path / 'runs'}", "slurm.gpus_per_node=0"]
    several = [*words, "seeds=0,1,2,3", "max_jobs=2"]

    def submitted(*words: str) -> dict[str, str]:
        before = {path.name for path in tmp_path.glob("asked.*")}
        code, _, complaint = command(*words)
        assert code == 0, complaint
        new = [path for path in sorted(tmp_path.glob("asked.*")) if path.name not in before]
        return {path.name.removeprefix("asked."): path.read_text().strip() for path in new}

    assert submitted(*several) == {"101": "--array=0-3%2"}
    folders = [resolve([*words, f"seed={seed}"]).run_folder for seed in range(4)]
    assert [events.read(path)[-1]["job"] for path in folders] == [f"101_{number}" for number in range(4)]
    for path in folders[1:]:
        (path / "log" / "events.jsonl").unlink()
    queue = tmp_path / "queue"
    queue.write_text(queue.read_text().replace("|None|glt", "|None|project42-glt"))
    assert submitted(*several) == {} and submitted(*words, "seed=3") == {}
    (folders[1] / "done").touch()
    queue.write_text(queue.read_text().replace("101_[0-3%2]", "101_2"))
    assert submitted(*several) == {"102": "--array=0,3%2 --dependency=afterany:101_2"}
    assert submitted(*several[:-2], "seeds=0,1", f"runs={tmp_path / 'other'}") == {"103": "--array=0-1"}


def test_the_users_limit_leaves_what_fits(command: Callable[..., Launched], tiny_root: Path, tmp_path: Path) -> None:
    """Where the association allows fewer jobs, so many elements are submitted as there is room for, and one sentence
    says so; the same command goes on. Where there is no room the sentence is a refusal. Arrays are no larger than
    MaxArraySize."""
    accounting = 'case "$*" in *assoc*) echo "c|me||5||";; esac'
    stub(tmp_path / "bin", "sacctmgr", accounting)
    stub(tmp_path / "bin", "scontrol", "echo ClusterName = c; echo MaxArraySize = 3")
    words = ["data=digits_glt", f"data.root={tiny_root}", f"runs={tmp_path / 'runs'}", "slurm.gpus_per_node=0"]
    (tmp_path / "queue").write_text("7|RUNNING|N/A|None|other|/a/x.sh\n8|FAILED|N/A|None|other|/a/x.sh\n")
    first = command(*words, "seeds=0,1,2,3,4,5,6")
    assert first[0] == 0 and "4 of 7 jobs are submitted: the association's MaxSubmitJobs" in first[1]
    asked = [(tmp_path / f"asked.{job}").read_text().split() for job in (101, 102)]
    assert asked == [["--array=0-2"], ["--array=0"]] and not (tmp_path / "asked.103").exists()
    assert len(list((tmp_path / "runs").glob("[!.]*"))) == 4
    second = command(*words, "seeds=0,1,2,3,4,5,6")
    assert second[0] == 2 and "0 of 3 jobs" in second[2]
    (tmp_path / "queue").write_text("")
    third = command(*words, "seeds=0,1,2,3,4,5,6")
    assert third[0] == 0 and "5 of 7 jobs" in third[1]


def test_again_without_room_for_all_names_the_command_that_goes_on(
    command: Callable[..., Launched], tiny_root: Path, tmp_path: Path
) -> None:
    """Where there is room for some runs of `again=yes` all are set aside, so that the command without it makes the
    others, and the sentence says so; so does a refusal, after which the same command sets nothing aside twice."""
    stub(tmp_path / "bin", "sacctmgr", 'case "$*" in *assoc*) echo "c|me||2||";; esac')
    stub(tmp_path / "bin", "scontrol", "echo ClusterName = c; echo MaxArraySize = 9")
    words = ["data=digits_glt", f"data.root={tiny_root}", f"runs={tmp_path / 'runs'}", "slurm.gpus_per_node=0"]
    folders = [resolve([*words, f"seed={seed}"]).run_folder for seed in range(3)]
    for folder in folders:
        folder.mkdir(parents=True)
        for name in ("recipe.yaml", "done"):
            (folder / name).write_text("{}")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("sys.argv", ["launch.py", "again=yes"])
        sbatch = (tmp_path / "bin" / "sbatch").read_text()
        stub(tmp_path / "bin", "sbatch", "echo Invalid account >&2; exit 1")
        refused = command(*words, "seeds=0,1,2", "again=yes")[2]
        assert refused.endswith("account; once the cause is mended, the same command without again=yes goes on\n")
        (tmp_path / "bin" / "sbatch").write_text(sbatch)
        code, said, _ = command(*words, "seeds=0,1,2", "again=yes")
    assert code == 0 and "; the same command without again=yes goes on with the others when there is room\n" in said
    noted = [[event["event"] for event in events.read(folder)] for folder in folders]
    assert noted == [["new", "new", "submitted"]] * 2 + [["new", "new"]]
    assert len(list((tmp_path / "runs").glob("*.old-1"))) == 3
    (tmp_path / "queue").write_text("")
    (folders[0] / "done").touch()
    assert command(*words, "seeds=0,1,2")[0] == 0 and len(list((tmp_path / "runs").glob("*.old-*"))) == 3
    assert events.read(folders[2])[-1]["event"] == "submitted"


def test_each_account_has_its_own_limit(tmp_path: Path) -> None:
    """Each array meets the limits of its own request; a limit that two accounts meet, as a quality of service's, counts
    the jobs of both; a second stage whose first is left out is left out, too, and nothing waits for what is."""
    words = ["data=digits_glt", f"runs={tmp_path}"]

    def run(account: str, seed: int, *needs: Run) -> Run:
        recipe = resolve([*words, f"seed={seed}", f"slurm.account={account}"])
        return Run(recipe, tuple(need.folder for need in needs))

    a, b = [run("a", seed) for seed in range(3)], [run("b", seed) for seed in range(3, 6)]
    second = [run("b", seed, need) for seed, need in zip(range(6, 9), a, strict=True)]
    behind = tuple(one.folder for one in a)
    planned = [
        Array(tuple((one,) for one in a), (0, 1, 2)),
        Array(tuple((one,) for one in b), (0, 1, 2), behind),
        Array(tuple((one,) for one in second), (0, 1, 2), behind),
    ]

    def kept(live: int, **jobs: int) -> tuple[list[tuple[int, ...]], str]:
        def allowed(one: Run) -> limits.Limits:
            own = [name for name in (str(one.recipe.slurm.account), "qos") if name in jobs]
            return limits.Limits(of_jobs=tuple(limits.Limit(jobs[name], name) for name in own))

        fitting, said = submission._fitting(planned, allowed, live)
        left = {one.folder for array in planned for one in array.runs} - {o.folder for f in fitting for o in f.runs}
        assert not any(left & {*array.after} for array in fitting)
        return [array.numbers for array in fitting], said

    everything = [(0, 1, 2)] * 3
    assert kept(9) == (everything, "") and kept(1, a=4, b=7) == (everything, "")
    found, said = kept(1, a=3, b=7)
    assert found == [(0, 1), (0, 1, 2), (0, 1)]
    assert said.startswith("7 of 9 jobs are submitted: a lets you have 3 in the queue, and 1 are there")
    assert kept(0, b=4)[0] == [(0, 1, 2), (0, 1, 2), (0,)]
    assert kept(0, a=0, b=2)[0] == [(0, 1)]
    found, said = kept(0, a=2, qos=4)
    assert found == [(0, 1), (0, 1)] and "a lets you have 2 and qos lets you have 4 in the queue" in said


def test_an_array_whose_id_is_not_told_is_not_submitted_twice(
    command: Callable[..., Launched], tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where squeue does not show the array that sbatch took, the launcher says so; until it comes up the same command
    submits nothing, and then it is found. A run whose folder's links cannot be made is never handed to SLURM."""
    monkeypatch.setattr(batch_job, "ID_S", 0.0)
    words = ["data=digits_glt", f"data.root={tiny_root}", f"runs={tmp_path / 'runs'}", "slurm.gpus_per_node=0"]
    stub(tmp_path / "bin", "squeue", "exit 0")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / run_state.ARRAYS).write_text("in the way")
    assert command(*words, "seeds=0,1,2")[0] == 2 and not (tmp_path / "asked.101").exists()
    (tmp_path / "runs" / run_state.ARRAYS).unlink()
    code, _, said = command(*words, "seeds=0,1,2")
    assert code == 2 and "does not tell its id" in said
    assert "may be in its queue already" in command(*words, "seeds=0,1,2")[2]
    stub(tmp_path / "bin", "squeue", f"cat {shlex.quote(str(tmp_path))}/queue")
    code, said, _ = command(*words, "seeds=0,1,2")
    assert code == 0 and said.count("are queued: nothing to do") == 1 and not (tmp_path / "asked.102").exists()


def test_a_wrapped_arrays_element_is_known_by_its_id_and_name(tmp_path: Path) -> None:
    """Where a site's wrapper hands over another file, what was noted decides, unless the id is another's now."""
    events.append_event(tmp_path, "submitted", job="7_3", array="glt-x9-0")
    noted = events.read(tmp_path)
    for name, job in (("glt-x9-0", "7_3"), (tmp_path.name, None), ("other", None)):
        jobs = {f"7_{number}": run_state.Job("RUNNING", 0, name, "/tmp/copy.sh") for number in range(5)}
        assert run_state.job_of(tmp_path, noted, jobs) == job


@pytest.mark.parametrize(
    "rows, words, jobs",
    [
        (["c|me||5||"], [], 5),
        (["c|me||5|4|normal"], [], 2),
        (["c|me||5||", "c|you||9||"], [], None),
        (["c|me||5||", "c|you||9||"], ["slurm.account=you"], 9),
        (["c|me|gpu|5||", "c|me||9||"], ["slurm.partition=cpu"], 9),
        (["d|me||5||"], [], None),
        (["c|me||||"], ["slurm.qos=normal"], 2),
        (["sacctmgr: error: something", "a|b"], [], None),
        (["c|me||$(x)||"], [], None),
    ],
)
def test_limits_are_those_of_the_request(
    rows: list[str], words: list[str], jobs: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The association of the request's account and partition on this cluster counts, and its quality of service."""
    said = "\n".join(rows)
    script = f'case "$*" in *assoc*) echo {shlex.quote(said)};; *name=normal*) echo 2;; esac'
    stub(tmp_path, "sacctmgr", script)
    stub(tmp_path, "scontrol", "echo 'ClusterName = c'; echo 'SchedulerParameters = a,max_array_tasks=7,b'")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = limits.limits(resolve(["data=digits_glt", *words]).slurm)
    assert (found.array_size, min((limit.jobs for limit in found.of_jobs), default=None)) == (7, jobs)
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    run_state.config_in.cache_clear()
    assert limits.limits(resolve(["data=digits_glt"]).slurm) == limits.Limits()


@pytest.mark.parametrize(
    "shown, ids",
    [
        ("17_[0,3-5%2]", ["17_0", "17_3", "17_4", "17_5"]),
        ("17_3", ["17_3"]),
        ("17_[4]", ["17_4"]),
        ("17+0", ["17+0"]),
        ("17_[0-7,...]", ["17_[0-7,...]"]),
    ],
)
def test_elements_are_told_apart(shown: str, ids: list[str]) -> None:
    """squeue's one line for several elements means each of them."""
    assert run_state._elements(shown) == ids


def test_an_elements_names_are_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start of an element is named by array and number, as its logs are; SLURM_JOB_ID, which for one element is the
    whole array's, would name all."""
    for name, value in {"JOB_ID": "17", "RESTART_COUNT": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert events.incarnation() == "17.2"
    for name, value in {"JOB_ID": "17", "TASK_ID": "0"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_{name}", value)
    assert events.incarnation() == "17_0.2"


def test_an_array_that_is_awaited_whole_is_named_once() -> None:
    """sbatch's list of what a job waits for stays short: behind a thousand elements stands their array's id, and single
    elements where others of their array live that are not awaited."""
    elements = [f"7_{number}" for number in range(1000)]
    assert submission.awaited([*elements, "9", "8_3"], frozenset([*elements, "9", "8_3", "8_4"])) == ["7", "9", "8_3"]
    assert submission.awaited(elements[:2], frozenset(elements[:3])) == elements[:2]
    assert submission.awaited(["10", "10", "7_2"], frozenset(["7_2"])) == ["10", "7_2"]
