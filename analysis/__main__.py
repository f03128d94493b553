"""`python -m analysis runs=DIR out=DIR`: from run folders to tables and figures."""

if __name__ == "__main__":
    from recipes.common.venv import in_environment

    in_environment()  # before the first import that a bare or an older Python lacks

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.inputs.runs import GROUPINGS, Run, load_runs
from recipes.common import search_path
from recipes.common.cli import Fault, asks_help, key_values, nearest
from recipes.common.output import ends_told, go_on_unread
from recipes.table_layout import SELECTS, Layout, available, data_names, find_layout, is_open, load_layout, open_tables

if TYPE_CHECKING:
    from analysis.claims.verdicts import Judged
    from analysis.tables.cells import Table
    from analysis.tables.ledger import Line

HELP = """\
python -m analysis runs=DIR out=DIR [table=NAME|PATH,...] [data=NAME,...] [groups=thirds|shots] [select=last|best] \
[seeds=0,1,2] [later=yes] [pair=RECIPE] [only=tables]
python -m analysis explain runs=DIR table=NAME row=ROW column=COLUMN [data=NAME,...] [groups=thirds|shots] \
[select=last|best] [seeds=0,1,2]
python -m analysis progress run=RUN_FOLDER out=DIR
python -m analysis light runs=DIR out=DIR [select=last|best] [thumbnails=RUN,...]
python -m analysis bundle runs=DIR out=FILE.zip [anonymous=yes] [license=DATA:NAME,...] [table=NAME|PATH,...] \
[data=NAME,...] [groups=thirds|shots] [select=last|best] [seeds=0,1,2]
python -m analysis results runs=DIR out=FILE
python -m analysis sweep runs=DIR [recipe=NAME,...] [data=NAME,...] [select=last|best] [out=DIR]
python -m analysis tuned runs=DIR [table=NAME|PATH,...] [data=NAME,...] [grid=...] [select=last|best] [seeds=0,1,2] \
[out=DIR]

Reads every run folder in `runs`, recomputes the metrics from its stored predictions, prints the
tables and writes to `out`:
  results.csv                  one line for each run, protocol, subset and metric
  NAME.tex .md .csv            each table (LaTeX: \\input it; packages booktabs and graphicx); \
the CSV has intervals and tests
  NAME.tabular.tex             its tabular alone, for a float of your own
  NAME_stacked.tex             the same with one protocol above the other, for a narrow column
  NAME_paper.tex               beside the paper's numbers: paper, ours, difference (same data only)
  NAME_gains.tex               what IFL adds to each method: paper, ours
  NAME_verdicts.tex .md .csv   each of the paper's claims that the layout names: reproduced, not reproduced, undecided
  NAME_shape.tex               how many of the paper's gains ours agrees with in sign, and with the order of methods
  shape.csv rankings.csv       every gain; Kendall's tau of every column
  classes.csv                  counts by class and attribute group of the runs in these tables
  ledger.csv .tex .md          what each row, each table and all runs cost: images, hours of all starts, energy
  problems.txt                 every run and cell that is missing, left out or damaged, and why
  figure5.pdf .png, ...        the figures, those of one method without and with IFL among them
  report.tex report.pdf        tables and figures as one document
  index.html                   the same as one page that needs nothing else: it sorts, and shows \
what stands behind each number

`explain` prints what stands behind one cell: runs, seeds, commits, counts, interval, test, the paper's number.
`progress` draws how one run goes, finished or not: losses, alpha, learning rate, images/s, waits, \
restarts; it prints what log.profile measured.
`light` copies what tables and figures need of each finished run, to lie beside a paper; with select=best what \
tables of the best epoch need, too; pictures only of the runs in `thumbnails`.
`bundle` writes a zip for the reviewers of a paper's artifact: light runs, tables, recipes, environment, checklist; \
with anonymous=yes without users, hosts, folders, addresses and accounts.
`sweep` prints runs with what differs between them and their accuracy on val and test; sweep.csv in out=.
`tuned` chooses each row's values on val alone and prints the table of the chosen runs, with how many values each row
was given; in out=: NAME_tuned.tex, NAME_tuned.csv and NAME_tuned_values.csv.
`results` writes a page of results on the runs' data set: docs/results-fashion.md is that of examples/fashion_glt.

  table    layouts in recipes/tables, or paths of yours (default: all that a row of these runs stands in)
  data     the data sets of open layouts, side by side; without table=, all open layouts
  groups   by what classes are many, medium and few, where a data set knows both (default: its own way)
  select   the last epoch or the best on val (default: as the table says)
  seeds    the seeds to average over (default: as the table says)
  pair     the recipe that is shown in depth, without and with IFL (default: the first of the table, at equal images \
where it has them)
  only     tables: no figures, report and page, which take most of the time
  later    yes: later papers' numbers, too, in NAME_paper.tex
  grid     the values to choose among, as given to the launcher (default: those of all runs of a row)
  row      a row's label, recipe or number from 1
  column   PROTOCOL.SUBSET.METRIC, such as glt.overall.accuracy, or a number from 1
"""
KEYS = ("runs", "out", "table", "data", "groups", "select", "seeds", "later", "pair", "only")
MANY = 4
"""Of more runs that are left out for one reason, only the first is named on the screen."""
BUNDLE = ("runs", "out", "anonymous", "license", "table", "data", "groups", "select", "seeds")
EXPLAIN = ("runs", "table", "row", "column", "data", "groups", "select", "seeds")


def main(argv: list[str]) -> None:
    """Run the command line.

    Raises:
        ValueError: a key is unknown, a value is not legal, or there is nothing to make a table of.
    """
    if not argv or asks_help(argv):
        print(HELP, end="")
        return
    if argv[0] in COMMANDS:
        COMMANDS[argv[0]](argv[1:])
        return
    options = _parse(argv, KEYS, ("runs", "out"))
    override = _layout_overrides(options)
    _refuse_flags(options, later="yes", only="tables")
    runs, unreadable = _load_runs(options)
    layouts = [_replaced(layout, override) for layout in _layouts(options, runs)]

    from analysis.tables.matching import fillable

    layouts, empty = fillable(layouts, runs)

    # Only now pandas and matplotlib, so that help and a mistyped key answer at once.
    from analysis.claims import text as claims
    from analysis.figures.methods import refuse_unknown_pair
    from analysis.tables import agreement, ledger, text

    if "pair" in options:
        refuse_unknown_pair(options["pair"], layouts, runs)
    made, contents, judged = make_tables(runs, layouts, later="later" in options)
    lines = _account(made, runs, contents)
    out = Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (out / name).write_text(content, encoding="utf-8", newline="\n")
    print(*map(text.terminal, made), *map(claims.terminal, judged), sep="\n", flush=True)
    left_out = [*empty, *_left_out(unreadable)]
    files: list[Path] = []
    remarks: list[str] = []
    if "only" not in options:
        from analysis.report.write import publish

        other_forms = ("_stacked.tex", ".tabular.tex")
        inputs = [name for name in contents if name.endswith(".tex") and not name.endswith(other_forms)]
        files, remarks = publish(out, made, judged, runs, inputs, left_out, options.get("pair"), lines)
    every = [*empty, *(f"{name} is left out: {reason}" for name, reason in unreadable.items())]
    problems = [*(f"{table.layout.name}: {note}" for table in made for note in table.notes), *every, *remarks]
    (out / "problems.txt").write_text("".join(f"{line}\n" for line in problems), encoding="utf-8", newline="\n")
    files = [*(out / name for name in (*contents, "problems.txt")), *files]
    said = [*filter(None, map(agreement.agreement_sentence, made)), ledger.sentence(lines)]
    for line in [*said, *left_out, *remarks]:
        print(*text.wrap_lines(line), sep="\n")
    print(f"{len(runs)} runs read; written:", *(f"  {file}" for file in files), sep="\n")


def _account(made: "list[Table]", runs: list[Run], contents: dict[str, str]) -> "list[Line]":
    """Return the ledger's lines, and add what is written of them to {file name: content}."""
    from analysis.tables import ledger

    lines = ledger.ledger(made, runs)
    written = {"csv": ledger.csv(lines), "md": ledger.markdown(lines), "tex": ledger.latex(lines)}
    contents |= {f"ledger.{kind}": content for kind, content in written.items()}
    return lines


def _refuse_flags(options: dict[str, str], **legal: str) -> None:
    """Refuse keys with another value than the one that each may have."""
    for key, value in legal.items():
        if options.get(key, value) != value:
            raise ValueError(f"{key}={options[key]}: legal is {key}={value}, or leave it out")


def _progress(words: list[str]) -> None:
    """Draw the progress of one run, and print what was waited for and profiled."""
    options = _parse(words, ("run", "out"), ("run", "out"))
    from analysis.figures.progress import write_progress

    files, said = write_progress(Path(options["run"]), Path(options["out"]))
    print(*files, *([said] if said else []), sep="\n")


def _light(words: list[str]) -> None:
    """Copy the light part of finished runs."""
    options = _parse(words, ("runs", "out", "select", "thumbnails"), ("runs", "out"))
    selects = _layout_overrides(options).values()
    from analysis.inputs.light_copy import copy_finished_runs

    thumbnails = options["thumbnails"].split(",") if "thumbnails" in options else ()
    names, size = copy_finished_runs(Path(options["runs"]), Path(options["out"]), thumbnails, selects)
    print(f"{len(names)} runs, {size / 1e6:.1f} MB in {options['out']}")


def _bundle(words: list[str]) -> None:
    """Write the zip for an artifact's reviewers."""
    options = _parse(words, BUNDLE, ("runs", "out"))
    out, override = Path(options["out"]), _layout_overrides(options)
    if out.suffix != ".zip":
        raise ValueError(f"out={out}: legal is the name of a .zip")
    if options.get("anonymous", "yes") != "yes":
        raise ValueError(f"anonymous={options['anonymous']}: legal is anonymous=yes, or leave it out")
    licences = dict(_licence(word) for word in options["license"].split(",")) if "license" in options else {}

    from analysis.publishing import bundle
    from analysis.publishing.layouts import standalone
    from analysis.tables.matching import fillable

    whole, _ = _load_runs(options)
    finished = [run for run in whole if run.finished]
    known = sorted({run.data for run in finished or whole})
    strange = [name for name in licences if name not in known]
    if strange:
        raise ValueError(f"license={strange[0]}: none of these runs is on it; {nearest(strange[0], known)}")
    layouts = [_replaced(layout, override) for layout in _layouts(options, finished or whole)]
    selects = {layout.select for layout in layouts}
    with bundle.copies(Path(options["runs"]), selects, "anonymous" in options) as (folder, names):
        runs, _ = _load_runs({**options, "runs": str(folder)})
        layouts, _ = fillable([standalone(layout, finished, names) for layout in layouts], runs)
        made, contents, judged = make_tables(runs, layouts)
        lines = _account(made, runs, contents)
        unfinished = [run for run in whole if not run.finished]
        again = [f"groups={options['groups']}"] if "groups" in options else []
        asked = bundle.Asked(layouts, again, licences, names, unfinished)
        left = bundle.write_bundle(out, folder, runs, made, judged, contents, lines, asked)
    print(*left, f"{len(runs)} runs, {len(made)} tables, {out.stat().st_size / 1e6:.1f} MB in {out}", sep="\n")


def _licence(word: str) -> tuple[str, str]:
    """Read NAME:LICENCE of `license=`."""
    name, colon, licence = word.partition(":")
    if not name or not colon or not licence:
        raise ValueError(f"license={word}: legal is DATA:NAME, such as license=digits_glt:CC-BY-4.0")
    return name, licence


def _results(words: list[str]) -> None:
    """Write the page of results on a data set."""
    options = _parse(words, ("runs", "out"), ("runs", "out"))
    from analysis.report.results import page

    runs, _ = _load_runs(options)
    Path(options["out"]).write_text(page(runs, options["runs"], options["out"]), encoding="utf-8", newline="\n")
    print(options["out"])


def make_tables(
    runs: list[Run], layouts: list[Layout], later: bool = False
) -> "tuple[list[Table], dict[str, str], list[Judged]]":
    """Fill the tables, judge their claims, and write them and the runs' numbers as text.

    Args:
        runs: what was read.
        layouts: the tables to fill.
        later: whether later papers' numbers are beside the paper's.

    Returns:
        The filled tables, {file name: content}, and the verdicts of those tables that name claims.
    """
    from analysis.claims import text as claims
    from analysis.claims.verdicts import judge
    from analysis.inputs import frame
    from analysis.stats import bootstrap
    from analysis.tables import cells, comparison, text

    numbers, problems = frame.tidy(runs)
    resamples = bootstrap.Resamples()
    made = [cells.fill_table(layout, runs, numbers, problems, resamples) for layout in layouts]
    counted = {(run.name, table.layout.select) for table in made for chosen in table.runs.values() for run in chosen}
    classes = [frame.by_class([run for run in runs if (run.name, select) in counted], select) for select in SELECTS]
    contents = {
        "results.csv": frame.csv(numbers),
        "classes.csv": frame.csv(*classes),
        "shape.csv": comparison.gains_csv(made),
        "rankings.csv": comparison.rankings_csv(made),
    }
    for table in made:
        name = table.layout.name
        contents |= {
            f"{name}.tex": text.latex(table),
            f"{name}.tabular.tex": text.bare_tabular(table),
            f"{name}.csv": text.csv(table),
            f"{name}.md": text.markdown(table),
        }
        contents |= {f"{name}_stacked.tex": text.latex(table, stacked=True)}
        beside = {
            "paper": comparison.paper_and_ours(table, later),
            "gains": comparison.gains(table),
            "shape": comparison.shape_summary(table),
        }
        contents |= {f"{name}_{what}.tex": content for what, content in beside.items() if content}
    judged = [verdicts for verdicts in map(judge, made) if verdicts]
    for verdicts in judged:
        contents |= {
            f"{verdicts.name}_verdicts.tex": claims.latex(verdicts),
            f"{verdicts.name}_verdicts.csv": claims.csv(verdicts),
            f"{verdicts.name}_verdicts.md": claims.markdown(verdicts),
        }
    return made, contents, judged


def _explain(words: list[str]) -> None:
    """Print what is behind one cell."""
    options = _parse(words, EXPLAIN, ("runs", "table", "row", "column"))
    override = _layout_overrides(options)
    runs, _ = _load_runs(options)
    layouts = _layouts(options, runs)
    if len(layouts) > 1:
        raise ValueError(f"table={options['table']}: legal is one table")

    from analysis.inputs import frame
    from analysis.report import explain
    from analysis.tables import cells, matching

    (layout,), _ = matching.fillable([_replaced(layouts[0], override)], runs)
    columns, _ = matching.columns_there(layout, runs)
    there = layout.model_copy(update={"columns": columns})
    asked = [column for column in layout.columns if explain.column_name(column) == options["column"]]
    if asked and not set(asked) & set(columns):
        _, lacking = matching.columns_there(layout.model_copy(update={"columns": asked}), runs)
        raise ValueError(f"column={options['column']}: {'; '.join(lacking)}")
    row, column = explain.find_cell(there, options["row"], options["column"])
    made = cells.fill_table(there, runs, *frame.tidy(runs))
    print(*explain.explanation_lines(explain.explain_cell(made, row, column)), sep="\n")


def _sweep(words: list[str]) -> None:
    """Print what differs between runs, and their numbers."""
    options = _parse(words, ("runs", "recipe", "data", "select", "out"), ("runs",))
    select = _layout_overrides(options).get("select", "last")
    runs, unreadable = _load_runs(options)
    for key in ("recipe", "data"):
        wanted = options[key].split(",") if key in options else []
        known = sorted({getattr(run, key) for run in runs})
        for name in wanted:
            if name not in known:
                raise ValueError(f"{key}={name}: none of these runs has it; {nearest(name, known)}")
        runs = [run for run in runs if not wanted or getattr(run, key) in wanted]
    if not runs:
        raise ValueError(f"recipe={options['recipe']} data={options['data']}: no run has both")

    from analysis.inputs import frame
    from analysis.sweeps import sweep
    from analysis.tables.presentation import MISSING

    made = sweep.sweep(runs, *frame.tidy(runs), select=select)
    print(sweep.terminal(made, select), *_left_out(unreadable), sep="\n")
    _write(options, {"sweep.csv": frame.csv(made.replace(MISSING, ""))})


def _tuned(words: list[str]) -> None:
    """Choose each row's values on val, and print the table of the chosen runs."""
    options = _parse(words, ("runs", "table", "data", "grid", "select", "seeds", "out"), ("runs",))
    override = _layout_overrides(options)
    runs, unreadable = _load_runs(options)

    from analysis.inputs import frame
    from analysis.sweeps import tuned
    from analysis.tables import cells, matching, text
    from recipes.sweeps.grid import read_grid

    grid = read_grid(options["grid"]) if "grid" in options else None
    if "table" in options:
        layouts = [_replaced(layout, override) for layout in _layouts(options, runs)]
    else:
        named = _data_of(options, runs)
        own = [run for run in runs if not named or run.data in named]
        layouts = tuned.layouts_of(own, override.get("select", "last"), override.get("seeds"))
    layouts, empty = matching.fillable(layouts, runs)
    numbers, problems = frame.tidy(runs)
    contents: dict[str, str] = {}
    for layout in layouts:
        layout = layout.model_copy(update={"name": f"{layout.name}_tuned"})
        searches = tuned.search_all(layout, runs, numbers, grid)
        rows = tuned.chosen_rows(layout, searches)
        chosen = [run for row in rows.values() for run in row.runs]
        table = cells.fill_table(layout, chosen, numbers, problems, chosen=rows)
        print(text.terminal(table), flush=True)
        contents |= {f"{layout.name}.tex": text.latex(table), f"{layout.name}.csv": text.csv(table)}
        contents[f"{layout.name}_values.csv"] = frame.csv(tuned.values_csv(layout, searches))
    for line in [*empty, *_left_out(unreadable)]:
        print(*text.wrap_lines(line), sep="\n")
    _write(options, contents)


def _write(options: dict[str, str], contents: dict[str, str]) -> None:
    """Write {file name: content} into the folder `out`, where the command names one."""
    if "out" not in options:
        return
    out = Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (out / name).write_text(content, encoding="utf-8", newline="\n")
    print("written:", *(f"  {out / name}" for name in contents), sep="\n")


COMMANDS = {
    "explain": _explain,
    "progress": _progress,
    "light": _light,
    "bundle": _bundle,
    "results": _results,
    "sweep": _sweep,
    "tuned": _tuned,
}


def _load_runs(options: dict[str, str]) -> tuple[list[Run], dict[str, str]]:
    groups = options.get("groups")
    if groups is not None and groups not in GROUPINGS:
        raise ValueError(f"groups={groups}: {nearest(groups, GROUPINGS)}")
    runs, unreadable = load_runs(Path(options["runs"]), groups)
    if not runs:
        said = "".join(f"; {line}" for line in _left_out(unreadable))
        raise ValueError(f"runs={options['runs']}: no readable run folder in it{said}")
    return runs, unreadable


def _left_out(unreadable: dict[str, str]) -> list[str]:
    """Say which run folders cannot be read and why; of many for the same reason the first alone is named."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in unreadable.items():
        by_reason.setdefault(reason, []).append(name)
    said = []
    for reason, names in by_reason.items():
        if len(names) > MANY:
            said.append(f"{names[0]} and {len(names) - 1} more are left out: {reason}")
        else:
            said += [f"{name} is left out: {reason}" for name in names]
    return said


def _fault(fault: Fault) -> ValueError:
    if fault.kind == "address":
        return ValueError(fault.refusal)
    if fault.kind == "unknown" or "=" not in fault.word:
        return ValueError(
            f"{fault.word}: not a key=value of this command; {nearest(fault.key, fault.legal)} (see --help)"
        )
    return ValueError(f"{fault.word}: {'given twice' if fault.value else 'no value'}; legal is {fault.key}=VALUE once")


def _parse(argv: list[str], keys: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, str]:
    options = key_values(argv, keys, _fault)
    for key in needed:
        if key not in options:
            raise ValueError(f"{key}= is missing; legal is {' '.join(f'{word}=...' for word in needed)} (see --help)")
    return options


def _layout_overrides(options: dict[str, str]) -> dict[str, Any]:
    """Return the layout's fields that the command line replaces."""
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


def _replaced(layout: Layout, override: dict[str, Any]) -> Layout:
    """Return the layout with what the command line replaces; its seeds are then those of all rows."""
    layout = layout.with_seeds(override["seeds"]) if "seeds" in override else layout
    return layout.model_copy(update={"select": override.get("select", layout.select)})


def _data_of(options: dict[str, str], runs: list[Run]) -> list[str]:
    """Return the data sets of `data=`, each of which some run must be on; none where it is not given."""
    known = sorted({run.data for run in runs})
    data = data_names(options["data"]) if "data" in options else []
    strange = [name for name in data if name not in known]
    if strange:
        raise ValueError(f"data={strange[0]}: none of these runs is on it; {nearest(strange[0], known)}")
    return data


def _layouts(options: dict[str, str], runs: list[Run]) -> list[Layout]:
    """Load the layouts named, else the open ones on `data=`, else those that the runs belong to."""
    known, data = sorted({run.data for run in runs}), _data_of(options, runs)
    if "table" in options:
        layouts = [find_layout(name, data, known) for name in dict.fromkeys(options["table"].split(","))]
    elif data:
        layouts = [load_layout(available()[name], data) for name in open_tables()]
    else:
        layouts = _layouts_of(runs, known)
    names = [layout.name for layout in layouts]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"table={options.get('table')}: two tables are called {twice[0]}, and so would be their files")
    recipes = {*search_path.files(search_path.RECIPES), *(run.recipe for run in runs)}
    for layout in layouts:
        layout.refuse_unknown_twins(recipes)
    return layouts


def _layouts_of(runs: list[Run], known: list[str]) -> list[Layout]:
    """Return the layouts that name the data sets of the runs, and the open ones, as far as any of the runs is theirs.

    Where none is, all that name the data sets.
    """
    fixed = [load_layout(file) for file in available().values() if not is_open(file)]
    fixed = [layout for layout in fixed if {column.data for column in layout.columns} & set(known)]
    # Those laid out as the paper's tables come first, in the paper's order.
    fixed.sort(key=lambda layout: (not layout.published, layout.published))
    laid_out = [load_layout(available()[name], known) for name in open_tables()]
    there = {(run.preset, run.recipe, run.budget, run.data, run.train) for run in runs}
    made = [
        layout
        for layout in (*fixed, *laid_out)
        if any((layout.preset, row.recipe, row.budget, *of) in there for row in layout.rows for of in layout.sources)
    ]
    if not made and not fixed:
        raise ValueError(
            f"recipes/tables has no table with a row of these runs, which are on {', '.join(known)}: data={known[0]} "
            f"lays out the open ones on them ({', '.join(open_tables())})"
        )
    return made or fixed


if __name__ == "__main__":
    go_on_unread()
    try:
        # a terminal without ± still gets its table
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        sys.exit(ends_told("error", lambda: main(sys.argv[1:])))
    except ValueError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a folder that cannot be read or written
        sys.exit(f"error: {error.filename or 'a file'}: {error.strerror}")
