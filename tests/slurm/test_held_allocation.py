"""`cluster=here`: which commands are refused, and what starts a run's ranks in an allocation."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.common.errors import RecipeError
from recipes.resolve import resolve
from recipes.schema import PROJECT
from slurm.cluster import held_allocation
from slurm.cluster.held_allocation import Allocation, step_script
from slurm.planning.schedule import Run
from slurm.site_file import Site
from slurm.starting.container import Container
from tests.helpers.launching import refused, stub

HELD = Allocation("17", 2, "r[1-2]", 4, within_step=False)
DIGITS = ["data=digits_glt", "cluster=here"]


def answer(folder: Path, text: str, code: int = 0) -> dict[str, str]:
    """Variables of a shell in job 17, in which scontrol says a text."""
    stub(folder, "scontrol", f"echo '{text}'; exit {code}")
    return {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "17", "SLURM_JOB_CPUS_PER_NODE": "4(x2),2"}


def test_outside_of_an_allocation_it_is_refused() -> None:
    """The sentence names what gives an allocation, and the other ways to run."""
    assert refused(*DIGITS) == (
        "cluster=here runs in an allocation, and this shell is in none: `salloc` or an interactive job gives one; "
        "cluster=slurm submits a job and cluster=local runs on this machine"
    )


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("JobId=17 JobState=CANCELLED NumNodes=2 NodeList=r[1-2]", r"job 17, is over or not there yet \(CANCELLED\)"),
        ("JobId=17 JobState=PENDING NumNodes=1-2 NodeList=(null)", r"is over or not there yet \(PENDING\)"),
        ("", r"is over or not there yet \(unknown\)"),
    ],
)
def test_an_allocation_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, sentence: str) -> None:
    """A shell outlives its allocation: the sentence says what became of it, and what to do."""
    variables = answer(tmp_path, said)
    monkeypatch.setenv("PATH", variables["PATH"])
    with pytest.raises(RecipeError, match=sentence):
        held_allocation.held(variables)


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More nodes, or more cores of a node, than the allocation has: one sentence with what is legal, before anything is
    started; what fits passes, and where SLURM says no number of cores it is asked."""
    variables = answer(tmp_path, "JobId=17 JobState=RUNNING NumNodes=3 NumCPUs=10 NodeList=r[1-2,9]")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert held_allocation.held(variables) == Allocation("17", 3, "r[1-2,9]", 2, within_step=False)

    def ask(*words: str) -> object:
        recipe = resolve([*DIGITS, f"runs={tmp_path}", f"data.root={tmp_path}", *words])
        return held_allocation.beginner([Run(recipe)], Site())

    with pytest.raises(RecipeError, match=r"^nodes=4 .* job 17 with 3: at most nodes=3 is legal here$"):
        ask("nodes=4", "slurm.cpus_per_task=1")
    with pytest.raises(RecipeError, match=r"the 2 CPUs .* at most slurm.cpus_per_task=1 is legal here$"):
        ask("slurm.cpus_per_task=2", "tasks_per_node=2")
    with pytest.raises(RecipeError, match=r"at most tasks_per_node=2 is legal here$"):
        ask("slurm.cpus_per_task=1", "tasks_per_node=4")
    assert ask("slurm.cpus_per_task=2", "nodes=3")
    monkeypatch.delenv("SLURM_JOB_CPUS_PER_NODE")
    assert ask("slurm.cpus_per_task=99")


@pytest.mark.parametrize(("step", "within"), [("", False), ("0", True), ("4294967290", False), ("x", False)])
def test_a_step_s_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, within: bool) -> None:
    """A shell under `srun --pty` holds its job's cores; one that salloc starts in an interactive step does not."""
    variables = answer(tmp_path, "JobState=RUNNING NumNodes=1 NodeList=r1")
    monkeypatch.setenv("PATH", variables["PATH"])
    assert held_allocation.held({**variables, "SLURM_STEP_ID": step}).within_step is within


def script(folder: Path, site: Site, held: Allocation, *words: str) -> tuple[str, list[str]]:
    """The script of a step, and the words of srun and what follows it."""
    recipe = resolve([*DIGITS, f"runs={folder / 'my runs'}", f"data.root={folder / 'data'}", *words])
    text = step_script(Run(recipe, command=("launch.py", "a 'b' $(c)")), site, held)
    return text, shlex.split(next(line for line in text.splitlines() if line.startswith("exec ")))[1:]


def test_the_step_asks_for_what_the_recipe_says(tmp_path: Path) -> None:
    """Nodes, tasks, cores and GPUs of the step are the recipe's, whatever the shell holds; it has them for itself, and
    shares them only from within a step that holds all."""
    _, words = script(tmp_path, Site(), HELD, "nodes=2", "slurm.gpus_per_node=2", "slurm.cpus_per_task=3")
    assert words[:2] == ["srun", "--jobid=17"] and {
        *("--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=3", "--gpus-per-node=2", "--exact"),
        *("-K1", "--export=ALL", "--mem=0"),
    } < set(words)
    assert words[-5:-3] == ["-m", "slurm.job"] and words[-2:] == ["launch.py", "a 'b' $(c)"]
    _, words = script(tmp_path, Site(), replace(HELD, within_step=True), "slurm.gpus_per_node=0")
    assert "--overlap" in words and "--exact" not in words and "--gres=none" in words
    assert not [word for word in script(tmp_path, Site(), HELD)[1] if word.startswith("--g")]


def test_the_step_has_modules_setup_and_container_as_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the job's order; the code is the project itself, with the folders of GLT_PATH as they are, and all of them are
    seen in a container. A line that fails ends it before srun, with the line."""
    own = tmp_path / "own"
    (own / "recipes").mkdir(parents=True)
    monkeypatch.setenv("GLT_PATH", str(own))
    site = Site(setup=("export A='x y'",), own={"container": Container("apptainer", "/a.sif")})
    text, words = script(tmp_path, site, HELD, "slurm.modules=[gcc]")
    lines = text.splitlines()
    order = ["module load gcc || node_lacks 'fails at `module load gcc`'", "export A='x y'", f"export GLT_PATH={own}"]
    assert [lines.index(line) for line in order] == sorted(lines.index(line) for line in order)
    inside = words[words.index("apptainer") :]
    bound = [bind.partition(":")[0] for bind in inside if f"{bind.partition(':')[0]}:" * 2 == f"{bind}:"]
    assert all(
        any(Path(folder).is_relative_to(place) for place in bound) for folder in (own, tmp_path / "my runs", PROJECT)
    )
    assert f"PYTHONPATH={PROJECT}" in inside and inside[-2:] == ["launch.py", "a 'b' $(c)"]
    failing = script(tmp_path, Site(setup=("false",)), HELD)[0]
    ran = subprocess.run(["bash", "-c", failing], capture_output=True, text=True)
    said = f"{os.uname().nodename} fails at setup line 1 of the site file, so the job ends: false\n"
    assert (ran.returncode, ran.stderr) == (1, said)
