"""sbatch's options as `slurm.options` holds them: which are refused and why, and what a value may be.

Whether there is an option of a name is asked of sbatch itself, at the launch (slurm/cluster/sbatch_help.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OWN = {
    "account": "account",
    "constraint": "constraint",
    "cpus-per-task": "cpus_per_task",
    "gpus-per-node": "gpus_per_node",
    "mem": "mem",
    "partition": "partition",
    "qos": "qos",
    "signal": "signal_delay_s",
    "time": "time",
}
"""Options that have a key of their own in the `slurm.` section, without quotes or units to get wrong."""
_GPUS = "slurm.gpus_per_node is its key, and tasks and cores follow from it"
_PLACE = "nodes= and tasks_per_node= are its words, and the launcher computes the ranks from them"
_FOUND = "the launcher finds a run and its logs by it"
_QUEUE = "the launcher decides what becomes of a job that ends, and which waits for which"
_SHELL = "`setup:` in the site file is the place for shell and for variables"
_USER = "a job runs as who launches it"
_ANSWER = "it changes what sbatch prints or does, and nothing of the job"
REFUSED: Mapping[str, str] = {
    **{name: f"slurm.{key} is its key" for name, key in OWN.items()},
    **dict.fromkeys(("gpus", "gpus-per-socket", "gpus-per-task", "ntasks-per-gpu"), _GPUS),
    "cpus-per-gpu": "slurm.cpus_per_task is its key",
    "tres-per-task": "slurm.gpus_per_node and slurm.cpus_per_task are its keys",
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node", "tasks-per-node"), _PLACE),
    **dict.fromkeys(("job-name", "output", "error", "open-mode", "input", "chdir", "clusters"), _FOUND),
    "cluster-constraint": _FOUND,
    **dict.fromkeys(("requeue", "no-requeue", "no-kill", "kill-on-invalid-dep", "dependency", "array"), _QUEUE),
    **dict.fromkeys(("wrap", "export", "export-file", "get-user-env"), _SHELL),
    **dict.fromkeys(("uid", "gid"), _USER),
    **dict.fromkeys(("help", "parsable", "quiet", "test-only", "usage", "verbose", "version", "wait"), _ANSWER),
}
"""Options that are the launcher's to set, each with the reason and what to use instead."""
CONTAINER = "the site file's key `container:` is the place for containers"
OF_GPUS = ("gpu-", "mem-per-gpu")
"""Beginnings of options that mean nothing, or are refused by sbatch, in a job without GPUs."""
OF_A_START = ("hold", "begin")
"""Options about when a run's job may start; what that job submits itself starts with it."""
MEMORY = ("mem-per-cpu", "mem-per-gpu")
"""SLURM takes one of these and mem."""
SIGNS = "_ . , : ; = / @ + & | * [ ] ( ) { } ~ ! ^ -"
FORM = re.compile(r"(?! )[A-Za-z0-9_.,:;=/@+&|*\[\](){}~!^ -]{1,1000}(?<! )")
"""What the batch file can hold between single quotes, without a sign that sbatch reads in its lines."""
SHORT = {
    **{"A": "account", "B": "extra-node-info", "C": "constraint", "D": "chdir", "F": "nodefile", "G": "gpus"},
    **{"H": "hold", "J": "job-name", "L": "licenses", "M": "clusters", "N": "nodes", "O": "overcommit"},
    **{"Q": "quiet", "S": "core-spec", "W": "wait", "a": "array", "b": "begin", "c": "cpus-per-task"},
    **{"d": "dependency", "e": "error", "i": "input", "k": "no-kill", "m": "distribution", "n": "ntasks"},
    **{"o": "output", "p": "partition", "q": "qos", "s": "oversubscribe", "t": "time", "v": "verbose"},
    **{"w": "nodelist", "x": "exclude"},
}
"""sbatch's options of one letter."""
OF_ALL_VERSIONS = (
    "account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint container "
    "contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency "
    "distribution error exclude exclusive export export-file extra-node-info get-user-env gid gpu-bind gpu-freq gpus "
    "gpus-per-node gpus-per-socket gpus-per-task gres gres-flags help hint hold ignore-pbs input job-name "
    "kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network "
    "nice no-kill no-requeue nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node "
    "ntasks-per-socket open-mode output overcommit oversubscribe parsable partition prefer priority profile "
    "propagate qos quiet reboot requeue reservation signal sockets-per-node spread-job switches test-only "
    "thread-spec threads-per-core time time-min tmp uid usage use-min-nodes verbose version wait wait-all-nodes wckey "
    "wrap"
)
"""Options of sbatch from 22.05 on; its help leaves some out, as hint where the cluster does not bind tasks."""
OF_SOME_VERSIONS = (
    "consolidate-segments container-id extra oom-kill-step power resv-ports segment spread-segments stepmgr tres-bind "
    "tres-per-task"
)
"""Options that some version has and another has not: they count where no sbatch is here to be asked."""


def spelled(options: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return options by their names as sbatch spells them, `mail-type` for mail_type.

    A name that is there in both spellings stays, to be refused.
    """
    found = {}
    for name, value in options.items():
        usual = name.replace("_", "-") if isinstance(name, str) else name
        found[name if usual != name and usual in options else usual] = value
    return found


def refused(name: str) -> str:
    """Say why an option is not to be set, in words that end a sentence; empty where it may be."""
    return CONTAINER if name.startswith("container") else REFUSED.get(name, "")


def checked_name(name: str) -> str:
    """Return the name of an option.

    Raises:
        ValueError: it is none, or one that is not to be set.
    """
    if reason := refused(name):
        raise ValueError(reason)
    if "_" in name and re.fullmatch("[a-z0-9_-]{1,64}", name):
        raise ValueError(f"{name.replace('_', '-')} is there, too, and once is legal")
    if not re.fullmatch("[a-z][a-z0-9-]{0,63}", name):
        raise ValueError("a long option of sbatch is, without its dashes, such as reservation or mail-type")
    return name


def checked_value(value: Any) -> Any:
    """Return an option's value: a text, or true for an option that takes none; None where it is not to be set.

    Raises:
        ValueError: it is nothing that a batch file can hold.
    """
    if value is None or value is False or value == "false":
        return None
    if value is True or value == "true":
        return True
    text = str(value) if type(value) is int else value
    if isinstance(text, list | dict):
        raise ValueError("one text is legal, such as END,FAIL; quote one that begins with [ or {")
    if not isinstance(text, str):
        raise ValueError("a text is legal; quote a number with a point")
    if not FORM.fullmatch(text):
        raise ValueError(
            f"only letters, digits, inner spaces and {SIGNS} are legal, 1000 at most; true is, for an option without "
            "a value"
        )
    return text


def shown(options: Mapping[str, Any]) -> str:
    """Return options as YAML in one line."""
    import yaml  # the schema is loaded without it

    return yaml.safe_dump(dict(options), default_flow_style=True, width=2000).strip()


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are to be set."""
    return {name: value for name, value in options.items() if value is not None}


def on_one_node(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without a list of several nodes, all of which a job would have to get."""
    several = ("nodefile", *(["nodelist"] if re.search(r"[,\[ ]", str(options.get("nodelist", ""))) else []))
    return {name: value for name, value in options.items() if name not in several}


def mapping(options: Any) -> Any:
    """Return options as they are.

    Raises:
        ValueError: they are no mapping.
    """
    if not isinstance(options, dict):
        raise ValueError("a mapping of sbatch's long options is legal, such as {reservation: ml, exclusive: true}")
    return options


# ---------------------------------------------------------------------------------------------------------------- GPUs
MOST_GPUS = 64


def gpus_of_a_node(value: Any) -> int | str:
    """Read the GPUs of a node: a number, or a type and a number, such as a100:4.

    Raises:
        ValueError: it is neither.
    """
    form = re.fullmatch(r"(?:([A-Za-z][A-Za-z0-9_.-]{0,63}):)?([0-9]{1,3})", value) if isinstance(value, str) else None
    number = int(form[2]) if form else value
    least = 1 if form and form[1] else 0
    if type(number) is not int or not least <= number <= MOST_GPUS:
        raise ValueError(f"a number from 0 to {MOST_GPUS} is legal, or a type and a number, such as a100:4")
    return f"{form[1]}:{number}" if form and form[1] else number


def number_of(gpus: int | str) -> int:
    """Return the number in `gpus_per_node`."""
    return int(str(gpus).rpartition(":")[2])


def gpus_in(gres: str) -> int | None:
    """Count the GPUs that a node gets by `gres`, such as gpu:a100:4,nvme:1; None where it speaks of none."""
    found = [item.split(":") for item in gres.split(",") if item.split(":")[0] == "gpu"]
    return sum(int(parts[-1]) if re.fullmatch("[0-9]{1,3}", parts[-1]) else 1 for parts in found) if found else None


def with_gpus(gres: str, number: int) -> str | None:
    """Return `gres` with so many GPUs, of the type that it names first, and what else it holds; None for nothing."""
    items = gres.split(",")
    kinds = [item.split(":")[1:] for item in items if item.split(":")[0] == "gpu"]
    kind = [part for part in (kinds[0] if kinds else []) if not part.isdigit()][:1]
    others = [item for item in items if item.split(":")[0] != "gpu"]
    return ",".join([*([":".join(["gpu", *kind, str(number)])] if number and kinds else []), *others]) or None
