"""Which nodes are left out when a job goes back into the queue: few, and not for long.

A node is left out that was found unfit (`node` in log/events.jsonl), and one that was slow (`slow`) where the site
says so. SLURM takes no such list from a job that runs, so it is changed right after the requeue, long before the job
can start again.
"""

import re
import time
from typing import TYPE_CHECKING, NamedTuple

from ifl.supervision.node_events import slow_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any

    Asking = Callable[..., tuple[int, str, str]]
    """Runs a command of SLURM's, and returns its code, output and complaint."""

FORGET_S = 86400.0
"""A node is forgotten after so long: somebody may have mended it."""
SHARE = 0.1
"""Of a partition's nodes, at most this share is left out, and always one."""
OUT = r"down|drain|fail|error|unk|maint|inval|future|reserved|block|.*[*$]"
"""States of nodes that take no job, as sinfo writes them, or not that of everybody: those of a reservation.

An asterisk says that a node does not answer, and a dollar sign that it is reserved to be mended.
"""


def bad_nodes(events: "Sequence[Mapping[str, Any]]", slow_too: bool, now: "float | None" = None) -> "dict[str, str]":
    """Return the nodes of the last day that were found unfit, each with why, the newest first."""
    since = (time.time() if now is None else now) - FORGET_S
    found: dict[str, str] = {}
    for event in reversed(events):
        if event["event"] in ("node", *(("slow",) if slow_too else ())) and event.get("time", 0) >= since:
            found.setdefault(event["node"], reason_of(event))
    return found


def is_of_nodes(event: "Mapping[str, Any]") -> bool:
    """Say whether an event names a bad node, or nodes that were left out."""
    return event["event"] in ("node", "slow") or bool(event.get("excluded"))


def reason_of(event: "Mapping[str, Any]") -> str:
    """Return the end of a sentence about a node, from a `node` or a `slow` event."""
    if event["event"] == "slow":
        return slow_text(**event)
    return str(event["text"])


class Exclusion(NamedTuple):
    """What becomes of the bad nodes.

    Attributes:
        nodes: those that are left out from now on.
        wanted: SLURM's list with those that the user left out; None where it is right already.
        refused: why the run cannot go on without a node; empty where it can.
    """

    nodes: "tuple[str, ...]" = ()
    wanted: "str | None" = None
    refused: str = ""


def choose(bad: "Collection[str]", others: "Collection[str]", partition: int, needed: int) -> "list[str]":
    """Choose from the bad nodes, most urgent first: at most a share, and never so many that too few are left.

    Args:
        bad: the nodes that should be left out.
        others: the partition's nodes that are up and that the user did not leave out.
        partition: how many nodes it has.
        needed: how many the job takes.
    """
    chosen: list[str] = []
    for node in bad:
        few = len(chosen) < max(1, int(SHARE * partition))
        if few and len(set(others) - {*chosen, node}) >= needed:
            chosen.append(node)
    return chosen


def exclusion(
    events: "Sequence[Mapping[str, Any]]", known: "Mapping[str, str]", mine: str, slow_too: bool, ask: "Asking"
) -> Exclusion:
    """Decide which nodes a job is to be left without.

    Args:
        events: the run's.
        known: what scontrol says of the job.
        mine: this start.
        slow_too: whether slow nodes are left out.
        ask: runs scontrol and sinfo.
    """
    bad = bad_nodes(events, slow_too)
    ours = {node for event in events for node in event.get("excluded") or ()}
    if not bad and not ours:
        return Exclusion()
    listed = _hosts(known.get("ExcNodeList", ""), ask)
    theirs = [node for node in listed if node not in ours]
    partition = known.get("Partition", "")
    states = _usable(known, ask)
    others = {node for node, state in states.items() if not re.match(OUT, state)} - set(theirs)
    needed = int(known.get("NumNodes", "1").partition("-")[0] or 1)
    chosen = choose(bad, others, len(states), needed)
    unfit = [e["node"] for e in events if e["event"] == "node" and e["incarnation"] == mine]
    stuck = next((node for node in unfit if len(others - {node}) < needed), None)
    if stuck and states:
        return Exclusion(
            refused=f"node {stuck} {bad.get(stuck, 'is unfit')}, and partition {partition} has no other node that is "
            f"up and has what the job asks for, for a job of {needed}"
        )
    wanted = [*theirs, *chosen]
    return Exclusion(tuple(chosen), ",".join(wanted) if set(wanted) != set(listed) else None)


def _hosts(text: str, ask: "Asking") -> "list[str]":
    """Return the nodes of one of SLURM's lists, such as `r[1-3],s7`."""
    if text in ("", "(null)"):
        return []
    code, said, _ = ask("scontrol", "show", "hostnames", text)
    return text.split(",") if code else said.split()


def _usable(known: "Mapping[str, str]", ask: "Asking") -> "dict[str, str]":
    """Return the states of those nodes of a job's partition that have what it asks for.

    Empty where that cannot be told: then none is left out, for the job might find no node and wait for ever.
    """
    asked = {key: known.get(key, "(null)") for key in ("ReqNodeList", "Reservation", "Features")}
    wanted = re.split("[&,|]", "" if asked["Features"] == "(null)" else asked["Features"])
    plain = all(re.match(r"[\w.-]*$", feature) for feature in wanted)
    if not plain or any(asked[key] not in ("", "(null)") for key in ("ReqNodeList", "Reservation")):
        return {}
    enough = any if "|" in asked["Features"] else all
    code, said, _ = ask("sinfo", "-h", "-N", "-o", "%N %T %f %G %c %m", "-p", known.get("Partition", ""))
    listed = [line.split() for line in ("" if code else said).splitlines()]
    return {
        node: state
        for node, state, features, *rest in (words for words in listed if len(words) == 6)
        if enough(not feature or feature in features.split(",") for feature in wanted)
        and _is_large_enough(known, *rest)
    }


def _is_large_enough(known: "Mapping[str, str]", gres: str, cpus: str, memory: str) -> bool:
    """Say whether a node has the GPUs, cores and memory that a job asks for.

    Args:
        known: what scontrol says of the job.
        gres: the node's generic resources, as sinfo writes them, such as `gpu:a100:4(S:0-1),nvme:1`.
        cpus: its number of cores.
        memory: its memory, MB.
    """
    offered = _gpus(gres)
    for kind, number in _gpus(known.get("TresPerNode", "")):
        if sum(there for own, there in offered if kind in ("", own)) < number:
            return False
    cores = _number(known.get("MinCPUsNode", ""))
    needed = _number(known.get("MinMemoryNode", "")) or cores * _number(known.get("MinMemoryCPU", ""))
    return cores <= _number(cpus) and needed <= _number(memory)


def _gpus(gres: str) -> "list[tuple[str, int]]":
    """Return the GPUs in a list of generic resources, each type with its number; a type that is not said is empty."""
    items = [item.split(":") for item in re.sub(r"\([^)]*\)|\bgres[:/]", "", gres).split(",")]
    return [
        (next((part for part in parts[1:] if not part.isdigit()), ""), int(parts[-1]) if parts[-1].isdigit() else 1)
        for parts in items
        if parts[0] == "gpu"
    ]


def _number(text: str) -> float:
    """Return a number as SLURM writes it, memory in MB: 64, 512M, 1.50G; 0 where it is none."""
    found = re.match(r"(\d+(?:\.\d+)?)([KMGT]?)", text)
    return float(found[1]) * {"K": 2**-10, "G": 2**10, "T": 2**20}.get(found[2], 1) if found else 0.0
