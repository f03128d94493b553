"""What was seen of a node, and what is wrong with it. No torch.

A hard fault leaves the node out of the next start: no device that can be used, a wrong answer, a folder that cannot be
written, or a limit of the site's that it does not reach. Everything else is a remark.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from ifl.supervision.node_limits import CLOCK_S, NodeLimits
from recipes.common.errors import RunError
from recipes.common.json_text import Kind, wrong_kinds

FULL_FOLDER = "full"
"""The kind of a fault of the shared folder, which has no room, and not of the node."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a node.

    Attributes:
        kind: device, answer, folder, full, disk, rate, clock, versions or locks.
        text: the end of a sentence that begins with the node.
        hard: whether the node is left out.
    """

    kind: str
    text: str
    hard: bool = True


class NodeFault(RunError):
    """Nodes that nothing is trained on.

    Attributes:
        faults: of each such node its first hard fault.
        witness: the rank that is to note it; None: the one that raises it.
    """

    def __init__(self, faults: dict[str, Fault], witness: int | None = None) -> None:
        self.faults, self.witness = faults, witness
        super().__init__("; ".join(f"node {node} {fault.text}" for node, fault in faults.items()))


@dataclass(frozen=True)
class Rates:
    """MB/s at which a folder was written and read, and whether it has locks (flock)."""

    write_mb_s: float
    read_mb_s: float
    locks: bool

    @property
    def lowest(self) -> float:
        """The slower of the two."""
        return min(self.write_mb_s, self.read_mb_s)


@dataclass
class Seen:
    """What one rank has seen; the first rank of a node looks at its folders for all.

    Attributes:
        clock: seconds since 1970 at a moment that all ranks share.
        versions: of Python, the packages and our code.
    """

    node: str
    rank: int
    device: str
    folder: Rates | None = None
    disk: Rates | None = None
    clock: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


@dataclass
class NodeReport:
    """A node's line.

    Attributes:
        clock_s: seconds by which its clock is ahead of the others'.
        allreduce_gb_s: what all nodes reach together; None where there is one rank, or where it was not tried.
    """

    node: str
    ranks: list[int]
    device: str
    folder: Rates | None
    disk: Rates | None
    clock_s: float
    allreduce_gb_s: float | None
    versions: dict[str, str]
    faults: list[Fault]

    @property
    def hard(self) -> Fault | None:
        """The first fault that leaves it out."""
        return next((fault for fault in self.faults if fault.hard), None)

    def plain(self) -> dict[str, Any]:
        """Return plain values, for a line of JSON."""
        return asdict(self)


_RATES: Mapping[str, Kind] = {"write_mb_s": float, "read_mb_s": float, "locks": bool}
_FAULT: Mapping[str, Kind] = {"kind": str, "text": str, "hard": bool}
_REPORT: Mapping[str, Kind] = {
    **{"node": str, "ranks": list, "device": str, "folder": (dict, type(None)), "disk": (dict, type(None))},
    **{"clock_s": float, "allreduce_gb_s": (float, type(None)), "versions": dict, "faults": list},
}
"""What `plain` gives, and of which type that is."""


def report_of(values: Any) -> NodeReport:
    """Return what `plain` gave.

    Raises:
        ValueError: the values are something else.
    """
    of_node = _checked(values, _REPORT)
    faults = [Fault(**_checked(fault, _FAULT)) for fault in of_node["faults"]]
    rates = {key: None if (held := of_node[key]) is None else Rates(**_checked(held, _RATES)) for key in _FOLDERS}
    return NodeReport(**{**of_node, **rates, "faults": faults})


def _checked(values: Any, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Return an object's values of these keys.

    Raises:
        ValueError: it is no object, or a value is missing or of another kind.
    """
    if wrong := wrong_kinds(values, kinds):
        raise ValueError(wrong)
    return {key: values[key] for key in kinds}


def node_name() -> str:
    """Return this node's name, as SLURM calls it where there is SLURM; GLT_NODE says another one."""
    return os.environ.get("GLT_NODE") or os.environ.get("SLURMD_NODENAME") or platform.node()


def by_node(seen: Sequence[Seen], limits: NodeLimits, allreduce_gb_s: float | None) -> list[NodeReport]:
    """Put what the ranks saw together, and compare the nodes with each other and with the limits."""
    clocks = _clocks(seen)
    usual = _usual_versions(seen)
    reports = []
    for node in dict.fromkeys(one.node for one in seen):
        own = [one for one in seen if one.node == node]
        folder, disk = (next((getattr(one, key) for one in own if getattr(one, key)), None) for key in _FOLDERS)
        report = NodeReport(
            node=node,
            ranks=[one.rank for one in own],
            device=own[0].device,
            folder=folder,
            disk=disk,
            clock_s=round(clocks[node], 3),
            allreduce_gb_s=allreduce_gb_s,
            versions=own[0].versions,
            faults=[fault for one in own for fault in one.faults],
        )
        report.faults += [
            *_slow_folders(report, limits),
            *_clock(report, limits, "the others" if len(clocks) > 2 else f"that of {next(iter(clocks))}"),
            *(fault for one in own[:1] for fault in _versions(one, usual)),
            *_unlocked(report),
        ]
        reports.append(report)
    return reports


_FOLDERS = {"folder": "the shared folder", "disk": "its own disk"}


def _slow_folders(report: NodeReport, limits: NodeLimits) -> list[Fault]:
    faults = []
    for key, called in _FOLDERS.items():
        rates, least = getattr(report, key), getattr(limits, f"{key}_mb_s")
        if rates and least is not None and rates.lowest < least:
            faults.append(
                Fault(
                    "rate",
                    f"writes {called} at {rates.write_mb_s:g} and reads it at {rates.read_mb_s:g} MB/s, and "
                    f"look.{key}_mb_s={least:g} is wanted",
                )
            )
    return faults


def _clock(report: NodeReport, limits: NodeLimits, others: str) -> list[Fault]:
    most = CLOCK_S if limits.clock_s is None else limits.clock_s
    if abs(report.clock_s) <= most:
        return []
    way = "ahead of" if report.clock_s > 0 else "behind"
    text = f"has a clock that is {abs(report.clock_s):.1f} s {way} {others}"
    return [Fault("clock", text, hard=limits.clock_s is not None)]


def _clocks(seen: Sequence[Seen]) -> dict[str, float]:
    """Return by how many seconds each node's clock is ahead: of the median, and of two nodes of the first."""
    first = {one.node: one.clock for one in reversed(seen)}
    nodes = list(dict.fromkeys(one.node for one in seen))
    usual = median(first.values()) if len(first) > 2 else first[nodes[0]]
    return {node: first[node] - usual for node in nodes}


def _usual_versions(seen: Sequence[Seen]) -> dict[str, str]:
    """Return what most ranks have of each, the first rank's where as many have another."""
    values = {key: [one.versions.get(key, "") for one in seen] for one in seen for key in one.versions}
    return {key: max(found, key=found.count) for key, found in values.items()}


def _versions(one: Seen, usual: dict[str, str]) -> list[Fault]:
    others = [f"{key} {one.versions.get(key) or 'not at all'}" for key in usual if one.versions.get(key) != usual[key]]
    if not others:
        return []
    wanted = ", ".join(f"{key} {usual[key]}" for key in usual if one.versions.get(key) != usual[key])
    return [Fault("versions", f"has {', '.join(others)}, and the others {wanted}", hard=False)]


def _unlocked(report: NodeReport) -> list[Fault]:
    without = [called for key, called in _FOLDERS.items() if (rates := getattr(report, key)) and not rates.locks]
    text = f"has no locks (flock) in {' and '.join(without)}: leases stand in for them"
    return [Fault("locks", text, hard=False)] if without else []
