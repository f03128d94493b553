"""A run's evaluator on SLURM (`log.eval=job`): what its job asks for, who submits it, and when it leaves."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from recipes.common.errors import RecipeError
from recipes.layers import Layer
from recipes.resolve import resolve
from slurm import evaluator, site_file
from slurm.cluster import requeue
from slurm.cluster.array_job import array_job
from slurm.cluster.held_allocation import Allocation, evaluator_script, step_script
from slurm.cluster.sbatch import batch_job, begins_evaluator, evaluator_job
from slurm.monitoring import events, run_state
from slurm.nodes.remarks import remarks
from slurm.planning.arrays import Array
from slurm.planning.schedule import Run
from slurm.site_file import Site
from slurm.starting.rank_start import RankStart
from tests.helpers.launching import flags, launch, stub
from tests.helpers.paths import PROJECT

WORDS = ["data=digits_glt", "log.eval=job", "nodes=2", "slurm.gpus_per_node=a100:4", "slurm.mem=480G"]
SLURM = """case "$0 $1 $2" in
*sbatch*) printf '%s\\n' "$*" "start ${{GLT_START-none}}" "gpu ${{CUDA_VISIBLE_DEVICES-none}}" \\
    "job ${{SLURM_JOB_ID-none}}" "partition ${{SBATCH_PARTITION-none}}" "account ${{SBATCH_ACCOUNT-none}}" > {0}/asked
  if [ -e {0}/refuse ]; then echo 'sbatch: error: QOS limit' >&2; exit 1; fi;;
*squeue*) cat {0}/queue 2> /dev/null;;
*"show job"*) [ -e {0}/said ] || {{ echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1; }}
  cat {0}/said;;
*) echo "$(basename "$0") $*" >> {0}/done;;
esac; exit 0"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node in job 7, restarted once, whose SLURM notes what is asked of it; returns the folder of the notes."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        stub(folder, name, SLURM.format(shlex.quote(str(folder))))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name, value in {"JOB_ID": "7", "RESTART_COUNT": "1", "NTASKS": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the batch file of its evaluator."""
    folder = tmp_path / "runs" / "a run"
    (folder / "eval").mkdir(parents=True)
    (folder / "eval" / evaluator.FILE).write_text("#!/bin/bash\n#SBATCH --partition=gpu\n")
    return folder


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def noted(run: Path) -> list[str]:
    return [event["text"] for event in events.read(run) if event["event"] == "evaluator"]


# ------------------------------------------------------------------------------------------------------------ the file
def test_it_asks_for_what_one_task_has(tmp_path: Path) -> None:
    """One node, one task, a GPU of the run's type, a task's share of the memory, and the run's cores, limit and
    queue; it writes where it does with cluster=local, and its file does not lie where a run's job has it."""
    recipe = resolve([*WORDS, "slurm.partition=gpu", "slurm.time=600", f"runs={tmp_path}"])
    job = evaluator_job(Run(recipe), tmp_path / "code", Site())
    given = flags(job.text())
    assert {name: given[name] for name in ("nodes", "ntasks-per-node", "gpus-per-node", "mem", "cpus-per-task")} == {
        **{"nodes": "1", "ntasks-per-node": "1", "gpus-per-node": "a100:1", "mem": f"{120 * 1024}M"},
        "cpus-per-task": "8",
    }
    assert (given["time"], given["partition"], given["job-name"]) == ("600", "gpu", f"{recipe.run_name}.eval")
    assert given["output"] == given["error"] == f"{recipe.run_folder}/log/evaluator.log" and "requeue" in given
    assert f"-u -m ifl.evaluation {recipe.run_folder}" in job.text() and "submitit.core" not in job.text()
    assert job.folder == recipe.run_folder / "eval"
    in_queue = {"8": run_state.Job("RUNNING", 0, given["job-name"] or "", str(job.folder / evaluator.FILE))}
    assert run_state.job_of(recipe.run_folder, [], in_queue) is None, "it is not taken for the run's job"


@pytest.mark.parametrize("nodes, kept", [("a,b", False), ("n[1-2]", False), ("a", True)])
def test_it_is_not_bound_to_the_runs_nodes(tmp_path: Path, nodes: str, kept: bool) -> None:
    """sbatch refuses a job of one node with a list of several, so no such list is inherited; nor what delays the run's
    own start. What the site file says for evaluators counts all the same."""
    asked = [f"slurm.options.{option}" for option in (f"nodelist={nodes}", "nodefile=f", "hold=true", "begin=18:00")]
    run = Run(resolve([*WORDS, *asked, "slurm.options.nice=5", f"runs={tmp_path}"]))
    given = flags(evaluator_job(run, tmp_path / "code", Site()).text())
    assert {"nodelist", "nodefile", "hold", "begin", "nice"} & set(given) == {"nice", *(["nodelist"] if kept else [])}
    own = {"evaluator": [Layer("site", {"options": {"nodelist": "c"}})]}
    site = Site(path=tmp_path / "site.yaml", blocks=own)
    assert flags(evaluator_job(run, tmp_path / "code", site).text())["nodelist"] == "c"


def test_what_the_site_file_says_of_evaluators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`for: evaluator` holds over what the run asks for, the command line included, and for the evaluator alone; a
    wrong value is refused with the place that it is from."""
    path = tmp_path / "site.yaml"
    monkeypatch.setenv("GLT_SITE", str(path))
    own = {"partition": "small", "time": "2:00:00", "gpus_per_node": 1, "setup": ["echo e"], "options": {"nice": 5}}
    values = {"partition": "gpu", "setup": ["echo r"], "options": {"comment": "c"}, "for": {"evaluator": own}}
    path.write_text(yaml.safe_dump(values))
    site = site_file.load()
    run = Run(resolve([*WORDS, "slurm.partition=big", f"runs={tmp_path}"], site.slurm, "the site file"))
    text = evaluator_job(run, tmp_path / "code", site).text()
    given = flags(text)
    assert [given[name] for name in ("partition", "time", "gpus-per-node")] == ["small", "120", "1"]
    assert (given["nice"], given["comment"]) == ("5", "c") and "\necho e\n" in text and "\necho r\n" not in text
    own_job = batch_job(run, tmp_path / "code", site.for_run(run.recipe).setup).text()
    assert flags(own_job)["partition"] == "big" and "\necho r\n" in own_job and "nice" not in flags(own_job)
    assert not site.unmet([run.recipe])
    path.write_text(yaml.safe_dump({"for": {"evaluator": {"time": "soon"}}}))
    with pytest.raises(RecipeError, match=r"for.evaluator.*|slurm.time='?soon"):
        evaluator_job(run, tmp_path / "code", site_file.load())
    path.write_text(yaml.safe_dump({"for": {"evaluator/x": {}}}))
    with pytest.raises(RecipeError, match=r"for\.evaluator/x is not legal"):
        site_file.load()


def test_the_runs_job_submits_it_and_takes_it_back(tmp_path: Path) -> None:
    """Beside the ranks' start, after what may end the job before it, and awaited before the end is decided: in a plain
    job, in an array, and for each of packed runs. A run without an evaluator has none of these lines."""
    runs = [Run(resolve([*WORDS, f"runs={tmp_path}", "nodes=1", f"seed={seed}"])) for seed in range(4)]
    texts = {
        "plain": batch_job(runs[0], tmp_path / "code").text(),
        "array": array_job(Array(tuple((run,) for run in runs), (0, 1, 2, 3)), tmp_path / "code").text(),
        "packed": array_job(Array((tuple(runs[:2]), tuple(runs[2:])), (0, 1)), tmp_path / "code").text(),
    }
    for kind, text in texts.items():
        own = runs[0].folder if kind == "plain" else '"$run"'
        assert "-m slurm.evaluator end" in text.partition("-m slurm.evaluator begin")[0]
        order = [f"-m slurm.evaluator begin {own} & evaluator=$!\n", "\nsrun ", '\nwait "$evaluator"\n']
        end = (
            f"-m slurm.cluster.packed run {own} $code" if kind == "packed" else f"-m slurm.cluster.requeue {own} $code"
        )
        places = [text.index(words) for words in [*order, end]]
        assert places == sorted(places) and all(text.count(words) == 1 for words in [*order, end]), kind
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    inline = Run(resolve([*WORDS, "log.eval=inline", f"runs={tmp_path}"]))
    assert "evaluator" not in batch_job(inline, tmp_path / "code").text()


def test_a_job_that_is_cancelled_while_it_waits_for_the_submission_decides_nothing(tmp_path: Path) -> None:
    """SIGTERM after the ranks' end, while SLURM is slow to take the evaluator: the batch script takes the evaluator
    back and ends. It would put the run back into the queue, and SLURM 22.05 takes a job that is being cancelled."""
    recipe = resolve([*WORDS, "nodes=1", f"runs={tmp_path}"])
    lines = batch_job(Run(recipe), tmp_path / "code").text().partition("# teardown\n")[2]
    trap = begins_evaluator(recipe, recipe.run_folder, RankStart("", "echo python"))[0]
    script = f"{trap}\nsleep 60 & evaluator=$!\necho ready\n{lines.replace(RankStart().outside, 'echo python')}"
    shell = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert shell.stdout is not None and shell.stdout.readline() == "ready\n"
    time.sleep(0.3)  # until it waits
    shell.terminate()
    said, code = shell.stdout.readline(), shell.wait(10)
    os.killpg(shell.pid, signal.SIGKILL)
    assert code == 143 and said == f"python -m slurm.evaluator end {recipe.run_folder}\n"


def test_a_dry_run_shows_it(tmp_path: Path) -> None:
    """cluster=dry shows the evaluator's batch file after the run's, with where its lines come from, and writes
    nothing."""
    site = tmp_path / "site" / "site.yaml"
    site.parent.mkdir()
    site.write_text("partition: gpu\nfor: {evaluator: {time: 60, options: {nice: 5}}}\n")
    shown = launch(*WORDS, "cluster=dry", f"runs={tmp_path / 'runs'}", "recipe=glt_baseline", GLT_SITE=str(site))
    assert shown.returncode == 0, shown.stderr
    first, second = shown.stdout.split("#!/bin/bash")[1:]
    assert (flags(first)["nodes"], flags(second)["nodes"]) == ("2", "1")
    assert ".eval, which the run's job submits at each of its starts" in first
    assert f"\n#   {site}: partition\n#   {site}, for.evaluator: nice, time\n#   the command line: gpus" in first
    assert re.search(r"\n#   the launcher, which must own them: .*\bnodes, ntasks-per-node\b", first)
    assert not (tmp_path / "runs").exists()


def test_a_step_beside_the_ranks_in_an_allocation(tmp_path: Path) -> None:
    """With cluster=here it is a step of one task, which shares what the ranks have, with their setup lines."""
    run = Run(resolve([*WORDS, "cluster=here", f"runs={tmp_path}"]))
    site, held = Site(setup=("echo s",)), Allocation("17", 2, "r[1-2]", 64, within_step=False)
    text = evaluator_script(run, site, held)
    words = shlex.split(next(line for line in text.splitlines() if line.startswith("exec ")))
    assert {"--jobid=17", "--nodes=1", "--ntasks=1", "--overlap", "--gpus-per-node=a100:1"} < set(words)
    assert words[-3:] == ["-m", "ifl.evaluation", str(run.folder)] and "\necho s\n" in text
    assert "OMP_NUM_THREADS" in text and "OMP_NUM_THREADS" not in step_script(run, site, held)


# ---------------------------------------------------------------------------------------------------------- in the job
def test_a_start_submits_its_evaluator(node: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told which start it is for, and neither the run's place nor devices nor what the file decides; an earlier
    one's job and claim go, and no other run's."""
    claim = run / "eval" / "evaluator.json"
    claim.write_text("{}")
    (node / "queue").write_text(f"5|{run}/log/a run.sh\n6|{run}/eval/evaluator.sh\n8|{run}2/eval/evaluator.sh\n9|x\n")
    for name, value in {"CUDA_VISIBLE_DEVICES": "3", "SBATCH_PARTITION": "x", "SBATCH_ACCOUNT": "me"}.items():
        monkeypatch.setenv(name, value)
    assert evaluator.begin(run) == 0
    told = ["start 7.1", "gpu none", "job none", "partition none", "account me"]
    assert asked(node) == [str(run / "eval" / evaluator.FILE), *told]
    assert (node / "done").read_text() == "scancel 6\n"
    assert not claim.exists() and not noted(run)


def test_a_refused_evaluator_is_not_waited_for(node: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sbatch refuses it, or the node has none, events.jsonl says so, and the claim is empty: the ranks begin to
    evaluate at once. The state of the run is what it was."""
    (node / "refuse").touch()
    assert evaluator.begin(run) == 1
    assert noted(run) == ["sbatch refused the evaluator (sbatch: error: QOS limit): this run evaluates by itself"]
    assert (run / "eval" / "evaluator.json").read_bytes() == b""
    (node / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(node))
    assert evaluator.begin(run) == 1
    assert "(this node has no sbatch)" in noted(run)[1]
    assert run_state.state_of(run, events.read(run), {}) == "new"
    events.append_event(run, "start")
    assert remarks("a run", events.read(run)) == [f"a run: {noted(run)[1]}"], "the status command tells it"
    events.append_event(run, "start", incarnation="7.2")
    assert remarks("a run", events.read(run)) == []


@pytest.mark.parametrize(
    ("verdict", "stays"),
    [("finished", False), ("give up", False), ("cancelled", False), ("requeue", False), ("superseded", True)],
)
def test_the_end_of_a_start_takes_it_back(node: Path, run: Path, verdict: requeue.Verdict, stays: bool) -> None:
    """Whatever the end of a start is, its evaluator's job goes; that of a newer start stays."""
    (node / "queue").write_text(f"6|{run}/eval/evaluator.sh\n")
    requeue.after(run, verdict, True)
    assert (node / "done").exists() != stays
    (run / "eval" / evaluator.FILE).unlink()
    (node / "done").unlink(missing_ok=True)
    requeue.after(run, verdict, True)
    assert not (node / "done").exists(), "of a run that has no evaluator, nobody is asked"


def test_a_job_without_a_batch_file_is_no_evaluators(node: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of salloc and sbatch --wrap, squeue shows a bare word in the file's place: dismissed from within eval/, they
    stay."""
    monkeypatch.chdir(run / "eval")
    (node / "queue").write_text("8|(null)\n9|sleep\n")
    evaluator.dismiss(run)
    assert not (node / "done").exists()


@pytest.mark.parametrize(
    ("said", "stays"),
    [
        *[("JobState=CANCELLED Restarts=1", False), ("JobState=PENDING Restarts=2", False), (None, False)],
        *[("JobState=RUNNING Restarts=1", False), ("JobState=RUNNING Restarts=2", True)],
    ],
)
def test_a_script_that_slurm_ends_takes_it_back(node: Path, run: Path, said: str | None, stays: bool) -> None:
    """So it goes when a job is cancelled or put back; but not that of a start which runs elsewhere by now."""
    (node / "queue").write_text(f"6|{run}/eval/evaluator.sh\n")
    if said:
        (node / "said").write_text(said)
    assert evaluator.end(run) == 0
    assert (node / "done").exists() != stays


# --------------------------------------------------------------------------------------------------------- on its node
@pytest.mark.parametrize(
    ("said", "on"),
    [
        ("JobId=7 JobState=RUNNING Reason=None Restarts=1 Comment=JobState=FAILED", True),
        ("JobId=7 JobState=SUSPENDED Restarts=1", True),
        ("JobId=7 JobState=RUNNING Restarts=2", False),
        ("JobId=7 JobState=PENDING Restarts=2", False),
        ("JobId=7 JobState=CANCELLED Restarts=1", False),
        ("JobId=7 JobState=COMPLETING Restarts=1", False),
        (None, False),
    ],
)
def test_when_its_start_is_over(node: Path, run: Path, said: str | None, on: bool) -> None:
    """It is for one start of the run's job: when that job has come back, waits, has ended or is forgotten, it is not
    needed; nor when the run is finished or the start has its verdict."""
    if said:
        (node / "said").write_text(said)
    assert evaluator.is_on(run, "7.1") is on
    events.append_event(run, "verdict", verdict="requeue", incarnation="7.0")
    assert evaluator.is_on(run, "7.1") is on
    events.append_event(run, "verdict", verdict="requeue", incarnation="7.1")
    assert not evaluator.is_on(run, "7.1")


def test_where_slurm_does_not_answer_it_stays(node: Path, run: Path) -> None:
    """A controller that is away does not end an evaluator; a finished run does."""
    stub(node, "scontrol", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert evaluator.is_on(run, "7.1")
    (run / "done").touch()
    assert not evaluator.is_on(run, "7.1")


def test_an_evaluator_that_ended_comes_back(node: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its start is over it is put back, so many times; then the run is told that it has none. One that was
    cancelled stays so."""
    monkeypatch.setenv(evaluator.START, "7.1")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (node / "said").write_text("JobState=RUNNING Restarts=1")
    assert evaluator.again(run) == 1 and not noted(run)
    assert (node / "done").read_text() == "scontrol requeue 8\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(evaluator.AGAIN))
    assert evaluator.again(run) == 1 and (node / "done").read_text().count("requeue") == 1
    assert "the evaluator's job 8 ended and does not come back" in noted(run)[0]
    events.append_event(run, "start", incarnation="7.1")
    assert remarks("a run", events.read(run)) == [f"a run: {noted(run)[0]}"], "the status command tells it of the run"
    (node / "said").write_text("JobState=PENDING Restarts=2")
    assert evaluator.again(run) == 0 and len(noted(run)) == 1
    stub(node, "scontrol", '[ $4 = 7 ] && echo JobState=RUNNING Restarts=1 || echo JobState=CANCELLED; echo "$*" >&2')
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert evaluator.again(run) == 1 and "was cancelled" in noted(run)[1]


def test_it_leaves_with_its_start(node: Path, run: Path) -> None:
    """The batch script's own words, in a plain Python: `needed` tells by its code, and `watch` cancels its own job."""
    variables = {**os.environ, evaluator.START: "7.1", "SLURM_JOB_ID": "8"}
    words = ["python3", "-m", "slurm.evaluator"]

    def code(word: str) -> int:
        return subprocess.run(
            [*words, word, str(run)], cwd=Path(evaluator.__file__).parents[1], env=variables
        ).returncode

    (node / "said").write_text("JobState=RUNNING Restarts=1")
    assert code("needed") == 0
    (run / "done").write_text(json.dumps({}))
    assert code("needed") == evaluator.OVER and code("watch") == 0
    assert (node / "done").read_text() == "scancel 8\n"


def _script(run: Run, code: Path, setup: Sequence[str], python: str) -> str:
    """The batch file of a run's evaluator up to the watch beside its step, in whose place it says so."""
    for name in ("log", "eval"):
        (run.folder / name).mkdir(parents=True, exist_ok=True)
    lines = evaluator_job(run, code, Site(setup=tuple(setup), own={"python": python})).text().splitlines()
    watch = next(place for place, line in enumerate(lines) if "-m slurm.evaluator watch" in line)
    return "\n".join([*lines[:watch], "echo step"])


@pytest.fixture
def brought(tmp_path: Path) -> str:
    """A setup line that brings the Python of this name, `glt-python`, without which there is none."""
    stub(tmp_path, "glt-python", f'exec {shlex.quote(sys.executable)} "$@"')
    return f"export PATH={shlex.quote(str(tmp_path))}:$PATH"


def test_its_python_may_come_by_a_setup_line(node: Path, tmp_path: Path, brought: str) -> None:
    """Modules and setup lines come before its first question, so a Python that they bring can ask it: where the start
    is on, the evaluator begins, and where it is over, the job leaves with 0 and says nothing."""
    recipe = resolve(["data=digits_glt", "log.eval=job", f"runs={tmp_path / 'my runs'}"])
    script = _script(Run(recipe), PROJECT, [brought], "glt-python")
    variables = {**os.environ, evaluator.START: "7.1", "SLURM_JOB_ID": "8"}
    (node / "said").write_text("JobState=RUNNING Restarts=1")
    begun = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True)
    assert (begun.returncode, begun.stdout) == (0, "step\n"), begun.stderr
    (node / "said").write_text("JobState=PENDING Restarts=2")
    over = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True)
    assert (over.returncode, over.stdout) == (0, "") and not noted(recipe.run_folder), over.stderr


@pytest.mark.parametrize("wrong", ["a setup line", "its exit", "no such Python", "a Python that breaks down"])
def test_an_evaluator_whose_python_does_not_start_is_told(node: Path, tmp_path: Path, brought: str, wrong: str) -> None:
    """The job ends with 1, and the run's events name its log, for the start that it was for; a job that is cancelled
    meanwhile has nothing to tell."""
    recipe = resolve(["data=digits_glt", "log.eval=job", f"runs={tmp_path / 'my runs'}"])
    setup = {
        "a setup line": [brought, "false"],
        "its exit": [brought, "exit 1"],
        "no such Python": [],
        "a Python that breaks down": [brought],
    }[wrong]
    if wrong == "a Python that breaks down":
        stub(tmp_path, "glt-python", 'case "$*" in *needed*) echo ImportError >&2; exit 1;; esac')
    script = _script(Run(recipe), PROJECT, setup, "glt-python")
    variables = {**os.environ, evaluator.START: "7.1", "SLURM_JOB_ID": "8"}
    ended = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    (event,) = events.read(recipe.run_folder)
    assert (recipe.run_folder / "eval" / "evaluator.json").read_bytes() == b"", "the ranks do not wait for it"
    assert event["incarnation"] == "7.1" and "the evaluator's job 8 ended" in event["text"]
    events.append_event(recipe.run_folder, "start", incarnation="7.1")
    assert remarks("a run", events.read(recipe.run_folder)) == [f"a run: {event['text']}"]
    cancelled = _script(Run(recipe), PROJECT, ["kill $$"], "glt-python")
    assert subprocess.run(["bash", "-c", cancelled], env=variables).returncode == 143
    assert len(noted(recipe.run_folder)) == 1


def test_the_reason_why_there_is_none_is_told_and_not_that_it_is_missed(run: Path) -> None:
    """The ranks only see that it is not there; the status command shows what its job said, where it said something."""
    events.append_event(run, "start", incarnation="7.1")
    missed = {"incarnation": "7.1", "text": "it is not there", "epoch": 3}
    events.append_event(run, "evaluator", **missed)
    assert remarks("a", events.read(run)) == ["a: it is not there"]
    events.append_event(run, "evaluator", incarnation="7.1", text="sbatch refused it")
    events.append_event(run, "evaluator", **missed)
    assert remarks("a", events.read(run)) == ["a: sbatch refused it"]
