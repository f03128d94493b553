"""What a shell's variables may say to SLURM's commands and to ranks: as little as possible. Standard library only.

sbatch believes the variables of the shell before the file that it is handed, and squeue and the others take options
from theirs. A shell in an allocation holds that job's variables, a shell of torchrun or a notebook those of a rank.
What recipe, command and site file say must hold in all of them, and a job learns its place from SLURM alone.
"""

import os
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence

REACHING = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
"""Where SLURM is, and who asks: the only variables of its own that stay."""
OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
OF_A_QUESTION = ("SQUEUE_", "SACCT_", "SINFO_", "SCONTROL_", "SCANCEL_")
OF_A_RANK = (
    *("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE"),
)
"""Besides all that begin with TORCHELASTIC_."""
OURS = (
    *("ARRAY_INX", "CLUSTERS", "CONTAINER", "CONTAINER_ID", "DEPENDENCY", "ERROR", "EXPORT", "EXPORT_FILE"),
    *("GET_USER_ENV", "INPUT", "JOB_NAME", "KILL_INVALID_DEP", "NODELIST", "NODES", "NO_KILL", "NO_REQUEUE", "NTASKS"),
    *("NTASKS_PER_NODE", "OPEN_MODE", "OUTPUT", "REQUEUE", "SIGNAL", "TRES_PER_TASK", "WAIT"),
)
"""Options of SBATCH_ variables that the launcher must own: a run is found, started, stopped and put back by them.

They are such that `slurm.options` refuses, too.
"""
BESIDE = {
    "time": ("TIMELIMIT",),
    "cpus_per_task": ("CPUS_PER_TASK", "CPUS_PER_GPU"),
    **dict.fromkeys(("gpus_per_node", "gres"), ("GPUS_PER_NODE", "GPUS", "GPUS_PER_TASK", "GRES")),
    **dict.fromkeys(("mem", "mem_per_cpu", "mem_per_gpu"), ("MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU")),
    **dict.fromkeys(("hint", "threads_per_core", "ntasks_per_core"), ("HINT", "THREADS_PER_CORE", "NTASKS_PER_CORE")),
    "oversubscribe": ("EXCLUSIVE",),
    "switches": ("REQ_SWITCH", "WAIT4SWITCH"),
}
"""Options of ours whose variables have other names, or that SLURM refuses beside others."""


def of_a_rank(variables: "Mapping[str, str]") -> "list[str]":
    """Name the variables by which a rank would learn a place that is not its own."""
    return [name for name in variables if name in OF_A_RANK or name.startswith("TORCHELASTIC_")]


def of_a_job(variables: "Mapping[str, str]") -> "list[str]":
    """Name the variables of a job that the shell is in."""
    return [name for name in variables if name.startswith(OF_A_JOB) and name not in REACHING]


def job_id() -> "str | None":
    """Return the id of the job that this process is in, as squeue writes it: 17, or 17_3 of an array's element.

    An element has a number of its own besides, SLURM_JOB_ID; that of one element is the whole array's.
    """
    array, element = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{element}" if array and element else os.environ.get("SLURM_JOB_ID")


def clean() -> "dict[str, str]":
    """Return this process's variables for a command that asks SLURM, or for what runs outside of any job."""
    variables = dict(os.environ)
    away = {*of_a_rank(variables), *of_a_job(variables)}
    return {name: value for name, value in variables.items() if name not in away and not name.startswith(OF_A_QUESTION)}


def ask(
    words: "Sequence[str]", timeout_s: float, variables: "Mapping[str, str] | None" = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command of SLURM's, in the words that Python 3.6 has for it; `variables` default to `clean()`.

    Raises:
        FileNotFoundError: there is no such command.
        subprocess.TimeoutExpired: it does not answer.
    """
    pipe = subprocess.PIPE
    return subprocess.run(
        words,
        env=variables or clean(),
        stdout=pipe,
        stderr=pipe,
        universal_newlines=True,
        errors="replace",  # names of accounts and nodes are bytes of any encoding
        timeout=timeout_s,
        check=False,
    )


def answer(
    words: "Sequence[str]", timeout_s: float, variables: "Mapping[str, str] | None" = None
) -> "tuple[int, str, str]":
    """Return the exit code, the output and the complaint of a command of SLURM's, as `ask` runs it.

    A command that is not there, or does not answer, has code 1 and says so in the complaint.
    """
    try:
        done = ask(list(words), timeout_s, variables)
    except FileNotFoundError:
        return 1, "", f"this node has no {words[0]}"
    except OSError as error:
        return 1, "", f"{words[0]} does not start ({error.strerror})"
    except subprocess.TimeoutExpired:
        return 1, "", f"no answer for {timeout_s:g} s"
    return done.returncode, done.stdout, done.stderr.strip()


def facts(said: str) -> "Mapping[str, str]":
    """Return what `scontrol show job -o` says of a job; empty where it said nothing."""
    return dict(reversed(re.findall(r"(\w+)=(\S+)", said)))  # the first of a name counts: the user's comment comes late


def for_sbatch(options: "Collection[str]") -> "dict[str, str]":
    """Return this process's variables for sbatch; `options`: those that its file sets, such as `gpus_per_node`."""
    away = overriding(options)
    return {name: value for name, value in clean().items() if name not in away}


def overriding(options: "Collection[str]") -> "list[str]":
    """Name the SBATCH_ variables that would beat the file, or that the launcher must own."""
    names = {*OURS, *(name for option in options for name in BESIDE.get(option, (option.upper(),)))}
    return sorted(name for name in os.environ if name.startswith("SBATCH_") and name[len("SBATCH_") :] in names)


def remarks(options: "Collection[str]") -> "list[str]":
    """Say in a sentence each which variables of this shell are set aside, and which reach sbatch."""
    job = of_a_job(os.environ)
    aside = [*overriding(options), *sorted(of_a_rank(os.environ)), *([f"{len(job)} of a job or step"] if job else [])]
    passed = sorted(f"{name}={os.environ[name]}" for name in for_sbatch(options) if name.startswith("SBATCH_"))
    return [
        *([f"variables of this shell that are set aside: {', '.join(aside)}"] if aside else []),
        *([f"variables of this shell that sbatch gets, below the recipe: {', '.join(passed)}"] if passed else []),
    ]
