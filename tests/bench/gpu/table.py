"""The findings as a page of Markdown: every number in it is one of the JSON's, rounded."""

from __future__ import annotations

from typing import Any


def shown(value: float | None) -> str:
    """A number with three digits or more, none of them lost before the point."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def promised(entry: dict[str, Any]) -> str:
    """What was wanted of the median, and whether it holds."""
    if "met" not in entry:
        return ""
    wanted = [
        f"{word} {shown(entry[key])}"
        for key, word in (("least", "at least"), ("most", "at most"))
        if entry.get(key) is not None
    ]
    return f"{' and '.join(wanted)}: {'met' if entry['met'] else '**missed**'}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    if not rows:
        return []
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def _figures(entry: dict[str, Any]) -> list[str]:
    return [shown(entry["median"]), shown(entry["min"]), shown(entry["max"]), shown(entry["n"])]


def markdown(result: dict[str, Any]) -> str:
    """Write the whole page; `result` as `__main__.py` puts it together."""
    lines = [
        f"# The suite on {result['machine'].get('device', 'an unknown device')}, size {result['size']}",
        "",
        f"`{result['command']}`, {result['began']}, {shown(result['seconds'])} s.",
        ", ".join(f"{key} {value}" for key, value in result["machine"].items()),
        "",
        "Median, smallest and largest of n rounds in which the rows of a section took turns; ratios are of the same",
        "rounds. Memory is the most that tensors took, in GB.",
        "",
    ]
    for name, section in result["sections"].items():
        lines += [f"## {name}", ""]
        lines += _table(
            ["what", "median", "min", "max", "n", "unit", "GB", "wanted"],
            [
                [row["what"], *_figures(row), row["unit"], shown(row["memory_gb"]), promised(row)]
                for row in section["rows"]
            ],
        )
        lines += _table(
            ["what", "against", "ratio", "min", "max", "n", "wanted"],
            [[row["what"], row["against"], *_figures(row), promised(row)] for row in section["ratios"]],
        )
        lines += [f"- {note}" for note in section["notes"]]
        lines += [f"- Left out: {gap['what']} ({gap['why']})" for gap in section["left_out"]]
        lines += [f"- {shown(section['seconds'])} s", ""]
    return "\n".join(lines)
