"""One zip for who reviews the artifact of a paper: light runs, tables, recipes, environment, answers.

The same runs give the same bytes: files in the order of their names, one time for all, no owner.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import tomllib
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from analysis.claims.verdicts import Judged
from analysis.inputs.light_copy import copy_finished_runs
from analysis.inputs.runs import Run, load_run
from analysis.publishing.anonymous import clean, clean_run, left_in, names_of
from analysis.publishing.checklist import checklist, trained_at
from analysis.publishing.layouts import layout_file
from analysis.tables.cells import Table
from analysis.tables.ledger import Line
from recipes.code.checkout import commit, uncommitted
from recipes.common import search_path
from recipes.common.files import write_whole
from recipes.schema import PROJECT
from recipes.table_layout import Layout

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can hold."""
MODE = 0o100644 << 16
MAKES_TABLES = ("analysis", "recipes", "ifl/metrics.py")
"""Where the code lies on which tables depend."""
LAYOUTS = "layouts"
MANIFEST = "MANIFEST.sha256"
TEXTS = (".md", ".csv", ".tex", ".json", ".jsonl", ".yaml", ".txt", "")
README = """\
# {title}

{count} finished runs and the tables made of them.

| folder or file | content |
|---|---|
| `runs/` | of each run: the resolved recipe, provenance, training log, predictions, environments |
| `tables/` | tables (LaTeX, CSV, Markdown), every number with its interval, the ledger of compute |
| `recipes/`, `layouts/` | what was run and how the tables are laid out, as files |
| `environment/` | pinned packages; what the runs were made with |
| `CHECKLIST.md` | seeds, error bars, selection, data and licences, compute, as the runs tell |
| `MANIFEST.sha256` | a digest of each file: `sha256sum -c MANIFEST.sha256` |

The tables again, in a checkout of the code {commit} with this bundle unpacked in BUNDLE:

```text
python -m analysis runs=BUNDLE/runs out=again only=tables{words}
diff -r BUNDLE/tables again
```

They are the same bytes; `again/problems.txt` alone is new. It needs neither the images nor a GPU nor torch.
{changed}
The runs were trained at {trained}; `environment/runs.json` says which at which.
{anonymous}"""
ANONYMOUS = """
User names, hosts, folders, addresses, SLURM accounts and partitions were replaced by PATH, MAIL, ADDRESS, USER, HOST
and ACCOUNT. Commits and the names of classes are as they were.
"""


@dataclass(frozen=True)
class Asked:
    """What the command says besides.

    Attributes:
        layouts: those of the tables, as `standalone` returns them.
        words: what must be said besides to make the tables again, such as `groups=shots`.
        licences: of data sets, by name.
        names: what must not be told, with what stands in its place; None where the bundle is not anonymous.
        unfinished: runs that are not in the bundle, though they cost something.
    """

    layouts: Sequence[Layout]
    words: Sequence[str]
    licences: Mapping[str, str]
    names: Mapping[str, str] | None
    unfinished: Sequence[Run] = ()


@dataclass(frozen=True)
class Code:
    """The code that makes the tables.

    Attributes:
        commit: the one that is checked out; `unknown` where nobody knows it.
        changed: files on which tables depend and which are not as the commit has them.
    """

    commit: str
    changed: tuple[str, ...]

    @classmethod
    def checked_out(cls) -> Code:
        return cls(commit().partition("+")[0], tuple(sorted(uncommitted(MAKES_TABLES))))

    @property
    def named(self) -> str:
        return "that made them (its commit is not known)" if self.commit == "unknown" else f"at commit {self.commit}"

    @property
    def remark(self) -> str:
        return f"The code that made the tables has changes that no commit has, in {', '.join(self.changed)}."


@contextmanager
def copies(runs: Path, selects: Collection[str], anonymous: bool) -> Iterator[tuple[Path, dict[str, str] | None]]:
    """Yield a folder with light copies of all finished runs, and the names that were taken out of them.

    Args:
        runs: the directory that holds the run folders.
        selects: which predictions the tables need, of `last` and `best`.
        anonymous: whether names are taken out; None stands in their place where they are not.

    Raises:
        ValueError: there is no finished run, or one is damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "runs"
        found, _ = copy_finished_runs(runs, out, selects=selects)
        names: dict[str, str] | None = None
        for name in found:
            try:
                load_run(out / name)
            except ValueError as error:
                raise ValueError(f"{name}: {error}; a bundle holds whole runs, so move it out of runs={runs}") from None
        if anonymous:
            names = names_of(runs / name for name in found)
            for name in found:
                clean_run(out / name, names)
        yield out, names


def write_bundle(
    out: Path,
    folder: Path,
    runs: Sequence[Run],
    tables: Sequence[Table],
    judged: Sequence[Judged],
    contents: Mapping[str, str],
    lines: Sequence[Line],
    asked: Asked,
) -> list[str]:
    """Write the zip.

    Args:
        out: the zip.
        folder: the light copies.
        runs: those of `folder`.
        tables: filled from them.
        judged: the verdicts of those that name claims.
        contents: {file name: text} of the tables and the ledger.
        lines: the ledger.
        asked: see `Asked`.

    Returns:
        Sentences about code that no commit has, and about what was to be taken out and still stands somewhere, such
        as a name in a class's name or a path in a label.
    """
    files = {f"runs/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in _files(folder)}
    files |= {f"tables/{name}": text.encode() for name, text in contents.items()}
    files |= _recipes(runs, asked.names)
    files |= {f"{LAYOUTS}/{layout.name}.yaml": layout_file(layout) for layout in asked.layouts}
    files["environment/requirements.txt"] = (PROJECT / "requirements.txt").read_bytes()
    files["environment/runs.json"] = _environment(runs)
    licence = str(_project().get("license", "not stated"))
    code = Code.checked_out()
    places = ",".join(f"BUNDLE/{LAYOUTS}/{layout.name}.yaml" for layout in asked.layouts)
    files["CHECKLIST.md"] = checklist(
        tables, judged, runs, lines, asked.unfinished, asked.licences, code.named, licence
    ).encode()
    files["README.md"] = README.format(
        title=", ".join(table.layout.name for table in tables),
        count=len(runs),
        commit=code.named,
        changed=f"\n{code.remark}\n" * bool(code.changed),
        trained=trained_at(runs),
        words="".join(f" {word}" for word in [*asked.words, f"table={places}"]),
        anonymous=ANONYMOUS if asked.names is not None else "",
    ).encode()
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    files[MANIFEST] = "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()
    write_whole(out, zipped(files))
    uncommitted = [f"{code.remark} Commit them and make the bundle again."] if code.changed else []
    return uncommitted + (_still_there(files, asked.names) if asked.names is not None else [])


def _still_there(files: Mapping[str, bytes], names: Mapping[str, str]) -> list[str]:
    """Say of names, paths from the root and e-mail addresses that stand in texts, in which."""
    found: dict[str, list[str]] = {}
    for name, data in sorted(files.items()):
        if Path(name).suffix in TEXTS:
            for word in left_in(data.decode(errors="replace"), names):
                found.setdefault(word, []).append(name)
    return [
        f"{word} still stands in {places[0]}{f' and {len(places) - 1} more' * (len(places) > 1)}; "
        "look whether it tells who you are"
        for word, places in found.items()
    ]


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of {name: content}, in the order of the names, without times and owners."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr, entry.create_system = MODE, 3
            bundle.writestr(entry, data, zipfile.ZIP_DEFLATED, 9)
    return buffer.getvalue()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _recipes(runs: Sequence[Run], names: Mapping[str, str] | None) -> dict[str, bytes]:
    """Return the files of the recipes, data sets and presets of the runs, where they are here."""
    kinds = ((search_path.RECIPES, {run.recipe for run in runs}), (search_path.DATA, {run.data for run in runs}))
    found = {f"{kind}/{name}.yaml": search_path.find(kind, name) for kind, wanted in kinds for name in wanted}
    presets = {run.preset for run in runs}
    found |= {f"recipes/presets/{name}.yaml": PROJECT / "recipes" / "presets" / f"{name}.yaml" for name in presets}
    texts = {name: path.read_text(encoding="utf-8") for name, path in found.items() if path and path.is_file()}
    if names is not None:
        texts = {name: "".join(clean(line, names) for line in text.splitlines(True)) for name, text in texts.items()}
    return {name: text.encode() for name, text in texts.items()}


def _environment(runs: Sequence[Run]) -> bytes:
    """Return what each run was made with, as JSON."""
    keys = ("commit", "versions", "machine", "device", "world", "decoder", "uncommitted")
    metas = {run.name: run.stored("meta.json") for run in runs}
    said = {name: {key: meta[key] for key in keys if key in meta} for name, meta in metas.items()}
    return (json.dumps(said, indent=1, sort_keys=True) + "\n").encode()


def _project() -> Mapping[str, object]:
    with open(PROJECT / "pyproject.toml", "rb") as file:
        project: dict[str, object] = tomllib.load(file).get("project", {})
    return project
