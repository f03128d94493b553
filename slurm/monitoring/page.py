"""The status view as a web page in one file, for a lab's screen or a phone.

It holds no script and loads nothing: the browser reads the file again every so many seconds. Names come from folders
and may hold anything, so all text is escaped.
"""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from pathlib import Path

from recipes.common.files import write_whole
from slurm.monitoring.progress import PART_OF, Progress
from slurm.monitoring.run_line import Status, columns_of, without_alike

COLUMNS = ("run", "state", "epoch", "step", "restarts", "device", "img/s", "left", "val %")
FIRST = ("failed", "unknown", "running", "queued", "done")
"""The order of the page's lines: what somebody may have to do something about comes first."""
STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfa; --text: #1d2126; --soft: #5b6570; --line: #d9dde1;
  --done: #1a7f37; --running: #0b63c5; --queued: #8a6100; --failed: #c0262d; --unknown: #6b4fa0; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --text: #e8eaec; --soft: #a3adb8; --line: #333a41;
  --done: #4cc26a; --running: #66b0ff; --queued: #e0b040; --failed: #ff7b7b; --unknown: #b9a2f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 150rem; padding: 1rem; background: var(--ground); color: var(--text);
  font: clamp(14px, .45rem + .55vw, 26px)/1.45 system-ui, sans-serif; }
h1 { font-size: 1.3em; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1em; margin: 0; overflow-wrap: anywhere; }
.when, .said { color: var(--soft); margin: .1em 0 1em; }
.command { border: 1px solid var(--line); border-radius: .5em; padding: .7em .9em; margin: 0 0 .8em; }
.bar { display: flex; height: .8em; margin: .5em 0; border-radius: .4em; overflow: hidden; background: var(--line); }
.bar span { min-width: 3px; } .command .said { margin: 0; }
.done { --own: var(--done); } .running { --own: var(--running); } .queued { --own: var(--queued); }
.failed { --own: var(--failed); } .unknown { --own: var(--unknown); }
.bar span { background: var(--own); } .state { color: var(--own); font-weight: 600; white-space: nowrap; }
.about { margin: .5em 0 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 500; }
th, td { padding: .25em .9em .25em 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td:first-child { overflow-wrap: anywhere; }
@media (max-width: 46rem) {
  thead { display: none; } table, tbody, tr { display: block; }
  tr { display: flex; flex-wrap: wrap; gap: .1em .9em; padding: .5em 0; border-bottom: 1px solid var(--line); }
  td { border: 0; padding: 0; } td:first-child { flex: 1 0 100%; }
  td[data-name]::before { content: attr(data-name) " "; color: var(--soft); } td.none { display: none; }
}
"""


def write(
    file: Path,
    runs: Path,
    commands: Sequence[Progress],
    statuses: Sequence[Status],
    about: Sequence[str],
    every_s: float,
) -> None:
    """Write the page: a reader sees the old one or the new one whole.

    Args:
        file: where it goes.
        runs: the folder that is shown.
        commands: what was launched as one, the newest last.
        statuses: the runs' lines.
        about: what stands below them, a sentence each.
        every_s: how often the browser reads the file again, seconds.
    """
    write_whole(file, page(str(runs), commands, statuses, about, every_s, time.strftime("%Y-%m-%d %H:%M:%S %Z")))


def page(
    runs: str,
    commands: Sequence[Progress],
    statuses: Sequence[Status],
    about: Sequence[str],
    every_s: float,
    when: str,
) -> str:
    """Return the page's text; see `write`."""
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    shown = sorted(without_alike(statuses), key=lambda status: FIRST.index(PART_OF.get(status.state, "failed")))
    rows = "\n".join(map(_row, shown))
    running = sum(PART_OF.get(status.state) == "running" for status in statuses)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="{max(1, round(every_s))}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{running} of {len(statuses)} runs running</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<h1>{html.escape(runs)}</h1>
<p class="when">as of {html.escape(when)}; this page reads itself again every {max(1, round(every_s))} s</p>
{"".join(_command(command) for command in reversed(commands))}
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
{"".join(f'<p class="about">{html.escape(sentence)}</p>' for sentence in about)}
</body>
</html>
"""


def _command(progress: Progress) -> str:
    """Return a command's part: its words, a bar and its counts."""
    bars = "".join(
        f'<span class="{part}" style="flex:{number}" title="{number} {part}"></span>'
        for part, number in progress.parts.items()
        if number
    )
    said = str(progress).removeprefix(f"{progress.label}: ")
    return (
        f'<section class="command"><h2>{html.escape(progress.label)}</h2><div class="bar">{bars}</div>'
        f'<p class="said">{html.escape(said)}</p></section>\n'
    )


def _row(status: Status) -> str:
    name, state, *rest = columns_of(status)[: len(COLUMNS)]
    others = "".join(
        f'<td data-name="{column}"{" class=none" if cell == "-" else ""}>{html.escape(cell)}</td>'
        for column, cell in zip(COLUMNS[2:], rest, strict=True)
    )
    part = PART_OF.get(state, "failed")
    return f'<tr><td>{html.escape(name)}</td><td class="state {part}">{html.escape(state)}</td>{others}</tr>'
