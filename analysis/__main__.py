"""`python -m analysis runs=DIR out=DIR`: from run folders to tables and figures."""

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from recipes.environment import in_environment

    in_environment()  # before the first import that a bare Python lacks

from recipes.layout import SELECTS, Layout, available, load_layout
from analysis.runs import load_runs
from recipes.words import nearest

HELP = """\
python -m analysis runs=DIR out=DIR [table=NAME,...] [select=last|best] [seeds=0,1,2] [pair=RECIPE]
python -m analysis progress=RUN_FOLDER out=DIR

Reads every run folder in `runs`, recomputes the metrics from its stored predictions, prints the
tables and writes to `out`:
  results.csv                  one line for each run, protocol, subset and metric
  NAME.tex NAME.csv            each table (LaTeX: \\input it; packages booktabs and graphicx)
  figure5.pdf .png, ...        the figures
  report.tex report.pdf        tables and figures as one document
  index.html                   the same as one page that needs nothing else: sorts, and shows what stands behind each number

progress= draws how one run goes, finished or not: losses, alpha, learning rate, images/s, restarts.

  table    layouts in recipes/tables (default: all whose data set occurs among the runs)
  select   the last epoch or the best on val (default: as the table says)
  seeds    the seeds to average over (default: as the table says)
  pair     the method that figures show in depth, without and with IFL (default: the first of the table)
"""
KEYS = ("runs", "out", "table", "select", "seeds", "pair", "progress")


def main(argv: list[str]) -> None:
    """Runs the command line.

    Raises:
        ValueError: an unknown key, a value that is not legal, or nothing to make a table of.
    """
    if not argv or {"-h", "--help", "help"} & set(argv):
        print(HELP, end="")
        return
    options = _parse(argv)
    if "progress" in options:
        from analysis.progress import write_progress

        print(*write_progress(Path(options["progress"]), Path(options["out"])), sep="\n")
        return
    override = _override(options)
    runs, unreadable = load_runs(Path(options["runs"]))
    if not runs:
        said = "".join(f"; {name}: {reason}" for name, reason in unreadable.items())
        raise ValueError(f"runs={options['runs']}: no readable run folder in it{said}")
    layouts = _layouts(options.get("table"), {run.data for run in runs})

    # Only now pandas and matplotlib, so that help and a mistyped key answer at once.
    from analysis import text
    from analysis.frame import tidy
    from analysis.publish import publish
    from analysis.tables import build

    frame, problems = tidy(runs)
    tables = [build(layout.model_copy(update=override), runs, frame, problems) for layout in layouts]
    out = Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    contents = {"results.csv": frame.to_csv(index=False, lineterminator="\n")}
    for table in tables:
        contents |= {f"{table.layout.name}.tex": text.latex(table), f"{table.layout.name}.csv": text.csv(table)}
    for name, content in contents.items():
        (out / name).write_text(content, encoding="utf-8", newline="\n")
    for table in tables:
        print(text.terminal(table), flush=True)
    left_out = [f"{name} is left out: {reason}" for name, reason in unreadable.items()]
    files, remarks = publish(out, tables, runs, [name for name in contents if name.endswith(".tex")], left_out, options.get("pair"))
    files = [*(out / name for name in contents), *files]
    for remark in [*left_out, *remarks]:
        print(remark)
    print(f"{len(runs)} runs read; written:", *(f"  {file}" for file in files), sep="\n")


def _parse(argv: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for argument in argv:
        key, equals, value = argument.partition("=")
        if not equals or key not in KEYS:
            raise ValueError(f"{argument}: not a key=value of this command; {nearest(key, KEYS)} (see --help)")
        if not value or key in options:
            raise ValueError(f"{argument}: {'given twice' if value else 'no value'}; legal is {key}=VALUE once")
        options[key] = value
    if "progress" in options and (more := [key for key in options if key not in ("progress", "out")]):
        raise ValueError(f"{more[0]}= and progress= do not go together; legal is progress=RUN_FOLDER out=DIR (see --help)")
    for key in ("out",) if "progress" in options else ("runs", "out"):
        if key not in options:
            raise ValueError(f"{key}= is missing; legal is {'progress=RUN_FOLDER' if 'progress' in options else 'runs=DIR'} out=DIR (see --help)")
    return options


def _override(options: dict[str, str]) -> dict[str, Any]:
    """The layout's fields that the command line replaces."""
    override: dict[str, Any] = {}
    if "select" in options:
        if options["select"] not in SELECTS:
            raise ValueError(f"select={options['select']}: {nearest(options['select'], SELECTS)}")
        override["select"] = options["select"]
    if "seeds" in options:
        seeds = options["seeds"].split(",")
        if not all(seed.isdecimal() for seed in seeds) or len(set(map(int, seeds))) < len(seeds):
            raise ValueError(f"seeds={options['seeds']}: legal is distinct whole numbers, such as seeds=0,1,2")
        override["seeds"] = [int(seed) for seed in seeds]
    return override


def _layouts(names: str | None, data: set[str]) -> list[Layout]:
    """The layouts named, or all with a column on the data sets of the runs."""
    files = available()
    if names is None:
        layouts = [load_layout(file) for file in files.values()]
        layouts = [layout for layout in layouts if data & {column.data for column in layout.columns}]
        if not layouts:
            raise ValueError(f"recipes/tables has no table on the data of these runs ({', '.join(sorted(data))})")
        return layouts
    for name in names.split(","):
        if name not in files:
            raise ValueError(f"table={name}: no such file in recipes/tables; {nearest(name, files)}")
    return [load_layout(files[name]) for name in dict.fromkeys(names.split(","))]


if __name__ == "__main__":
    try:
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without ± still gets its table
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a folder that cannot be read or written
        sys.exit(f"error: {error.filename or 'a file'}: {error.strerror}")
