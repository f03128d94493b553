"""What `check=nodes` prints of the nodes: a table, a line a node, and below it what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from ifl.supervision.node_report import NodeReport, Rates

HEAD = ("node", "device", "answer", "all-reduce GB/s", "folder MB/s", "disk MB/s", "clock s", "versions", "verdict")
APART = 5
"""A node whose rate is so many times lower than the others' is named, whatever the site wants."""
HARMLESS = ("locks",)
"""Kinds of faults that a cluster may have."""


def is_fit(report: NodeReport) -> bool:
    """Say whether nothing is wrong with a node."""
    return all(fault.kind in HARMLESS for fault in report.faults)


def table(reports: Sequence[NodeReport]) -> str:
    """Return the table, and a sentence for each thing that is to be known; rates are those of writing/reading."""
    rows = [HEAD, *map(_row, reports)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    said = [f"node {report.node} {fault.text}" for report in reports for fault in report.faults]
    return "\n".join([*lines, *said, *_apart(reports)])


def _row(report: NodeReport) -> tuple[str, ...]:
    kinds = {fault.kind for fault in report.faults}
    verdict = "unfit" if report.hard else "ok" if is_fit(report) else "look at it"
    return (
        report.node,
        "-" if "device" in kinds else report.device,
        "-" if "device" in kinds else "wrong" if "answer" in kinds else "right",
        "-" if report.allreduce_gb_s is None else f"{report.allreduce_gb_s:.2f}",
        _rates(report.folder),
        _rates(report.disk),
        f"{report.clock_s:+.1f}",
        "differ" if "versions" in kinds else "equal",
        verdict,
    )


def _rates(rates: Rates | None) -> str:
    return "-" if rates is None else f"{rates.write_mb_s:.0f}/{rates.read_mb_s:.0f}"


def _apart(reports: Sequence[NodeReport]) -> list[str]:
    """Name nodes whose rates are far below the others'; it may be chance, so it is no verdict."""
    said = []
    for key, called in (("folder", "the shared folder"), ("disk", "its own disk")):
        rates = {report.node: getattr(report, key) for report in reports if getattr(report, key)}
        for node, own in rates.items():
            others = [other.write_mb_s for name, other in rates.items() if name != node]
            if others and own.write_mb_s * APART < median(others):
                said.append(
                    f"node {node} writes {called} at {own.write_mb_s:g} MB/s and the others at {median(others):g}: "
                    "if it stays so, look.disk_mb_s and look.folder_mb_s of the site file leave such a node out"
                )
    return said
