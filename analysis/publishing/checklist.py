"""What venues ask about experiments, answered from the runs and the tables made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from analysis.claims import text as claims
from analysis.claims.verdicts import Judged
from analysis.inputs.runs import Run
from analysis.stats.bootstrap import ALPHA, LEVEL, RESAMPLES
from analysis.tables import ledger
from analysis.tables.cells import Table, tried_text
from analysis.tables.presentation import seeds_text

SELECTION = {
    "last": "the predictions after the last epoch: no epoch was selected",
    "best": "the epoch of highest accuracy on val, the first one on ties; no test split selects anything",
}
METHOD = (
    "Interval and p are of Student's t with Satterthwaite's degrees of freedom, at most those of the seeds. The "
    "variance is that over the test samples' sources, as resampling them gives it (samples of one source are one "
    "cluster), plus that over seeds; rows of which one's runs start from the other's are compared pair by pair."
)
PAGE = """\
# Checklist

Answered by a program from the run folders in `runs/`. It says what they hold, and what they do not.

## Seeds and error bars

{seeds}

- Intervals are {level:.0%} intervals: of one seed percentiles of {resamples:,} bootstrap resamples of the test samples'
  sources, which do not hold what another training would give; of several Student's t over seeds and test samples.
- `±` is the sample standard deviation over seeds (n - 1).
- A row is tested against its twin by Student's t over seeds and test samples, with at most the seeds' degrees of
  freedom; one pair of runs by McNemar's exact test (accuracy) or the paired bootstrap. Arrows mean p < {alpha} over
  three seeds or more, uncorrected for the number of cells.
{verdicts}
## Selection and tuning

{selection}
{tried}
- Hyperparameters: every value of every run stands in `runs/*/recipe.yaml`. {apart}
{departures}

## Data

{data}
{licences}

## Compute

{compute}

## Code and environment

- The tables were made by the code {made_by}. The runs were trained at {trained}.
- Packages: {versions}. All pinned packages: `environment/requirements.txt`.
- Licence of the code: {code_licence}.

## Not in the bundle

- Images, weights and rank logs. Runs that did not finish are not in it either.
- Who was asked, societal impact and safeguards: no run folder says that.
"""


def trained_at(runs: Sequence[Run]) -> str:
    """Say at which commits runs were trained, and how many at each, the most first."""
    commits = sorted(run.commit.replace("+changes", " with changes that no commit has") for run in runs)
    counts = Counter(commits)
    said = ", ".join(f"{commit} ({number} run{'s' * (number > 1)})" for commit, number in counts.most_common())
    return f"commit{'s' * (len(counts) > 1)} {said}"


def checklist(
    tables: Sequence[Table],
    judged: Sequence[Judged],
    runs: Sequence[Run],
    lines: Sequence[ledger.Line],
    unfinished: Sequence[Run],
    licences: Mapping[str, str],
    made_by: str,
    code_licence: str,
) -> str:
    """Return the checklist as Markdown.

    Args:
        tables: filled tables.
        judged: the verdicts of those that name claims.
        runs: all that are in the bundle.
        lines: the ledger.
        unfinished: runs beside them that did not finish.
        licences: of data sets, by name, as the command says them.
        made_by: which code made the tables, such as `at commit 0123abc`.
        code_licence: of the project.
    """
    changed = [(run.name, "; ".join(run.departures())) for run in runs]
    departures = [f"- `{name}` differs from its recipe: {what}." for name, what in changed if what]
    every = "- Every run is its recipe, as far as its folder tells."
    return PAGE.format(
        seeds="\n".join(f"- {table.layout.name}: {_seeds(table)}." for table in tables),
        level=LEVEL,
        resamples=RESAMPLES,
        alpha=ALPHA,
        verdicts="".join(f"{line}\n" for each in judged for line in _verdicts(each)),
        selection="\n".join(f"- {table.layout.name}: {SELECTION[table.layout.select]}." for table in tables),
        tried="\n".join(_tried(tables)),
        apart=_apart(tables, runs),
        departures="\n".join(departures) or every,
        data="\n".join(_data(runs)),
        licences="\n".join(_licences(runs, licences)),
        compute="\n".join(f"- {said}" for said in _compute(lines, unfinished)),
        made_by=made_by,
        trained=trained_at(runs),
        versions=" | ".join(versions(runs)) or "not on record",
        code_licence=code_licence,
    )


def _compute(lines: Sequence[ledger.Line], unfinished: Sequence[Run]) -> list[str]:
    """Say what the runs cost, and what those cost besides that did not finish."""
    besides = ledger.sentence(ledger.ledger([], unfinished)).removeprefix("compute: ") if unfinished else "none"
    return [
        f"{ledger.sentence(lines)}.",
        f"Besides, run folders that did not finish and are not in the bundle: {besides}.",
        *ledger.notes(lines),
        "By row: `tables/ledger.csv`.",
    ]


def _apart(tables: Sequence[Table], runs: Sequence[Run]) -> str:
    """Say how many runs no table counts: values that were tried, first stages, other tables' rows."""
    counted = {run.name for table in tables for chosen in table.runs.values() for run in chosen}
    return f"{sum(run.name not in counted for run in runs)} of the {len(runs)} runs are in none of the tables."


def _verdicts(judged: Judged) -> Iterator[str]:
    """Say how a table's claims were judged: the method, then what stands under the verdicts."""
    yield f"- Verdicts in `tables/{judged.name}_verdicts.*`. {METHOD}"
    yield from (f"  - {said}" for said in claims.legend(judged))


def _tried(tables: Sequence[Table]) -> Iterator[str]:
    """Say among how many values val chose those of each row, as layouts and files of data sets state it."""
    for table in tables:
        for data in dict.fromkeys(column.data for column in table.layout.columns):
            tried = table.layout.tried_on(data)
            stated = f"val chose the recipes' values among so many: {tried_text(tried)}"
            none = "no row is on record for which val chose among several values"
            yield f"- {table.layout.name}, on {data}: {stated if max(tried.values()) > 1 else none}."


def versions(runs: Sequence[Run]) -> list[str]:
    """Return the distinct sets of package versions that runs were made with, as their meta.json says them."""
    found = [run.stored("meta.json").get("versions") for run in runs]
    said = (", ".join(f"{name} {number}" for name, number in each.items()) for each in found if isinstance(each, dict))
    return sorted(set(said))


def _seeds(table: Table) -> str:
    """Say which seeds a table asks for, and how many runs its cells have."""
    counts = sorted({len(cell.runs) for line in table.cells for cell in line})
    between = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{seeds_text(table.layout)} asked for; runs behind a number: {between}"


def _data(runs: Sequence[Run]) -> list[str]:
    """Describe each data set and edition that was trained on."""
    of = {(run.data, run.train, run.fingerprint): run for run in runs}
    lines = []
    for (name, train, fingerprint), run in sorted(of.items()):
        images = f", {sum(known.images for known in run.classes):,} training images" if run.classes else ""
        size = f"{len(run.classes)} classes{images}" if run.classes else "classes not on record"
        lines.append(f"- {name}, edition {train}: {size}; fingerprint {fingerprint}.")
    return lines


def _licences(runs: Sequence[Run], licences: Mapping[str, str]) -> list[str]:
    return [
        f"- Licence of {name}: {licences.get(name, f'not on record; `license={name}:NAME` of the command states it')}."
        for name in sorted({run.data for run in runs})
    ]
