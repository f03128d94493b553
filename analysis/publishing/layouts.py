"""Layouts as a bundle has them: each in a file that needs no other, and no place of the machine that made it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from analysis.inputs.runs import Run
from analysis.publishing.anonymous import cleaned
from recipes.common.errors import RecipeError
from recipes.folders import DIGESTS, checked_digest, make_absolute
from recipes.table_layout import Layout, Row


def standalone(layout: Layout, runs: Iterable[Run], names: Mapping[str, str] | None) -> Layout:
    """Return a layout that says alone what it means, wherever it is read.

    Files that it sets have their digests beside them, and rows the counts that files of data sets say.

    Args:
        layout: the table's.
        runs: those that were read, before names were taken out of them: they know the digests of files that are gone.
        names: what must not be told, with what stands in its place; None where the bundle is not anonymous.

    Raises:
        ValueError: nobody knows what a file holds.
    """
    known = {place: digest for run in runs for place, digest in run.noted.files.items()}
    data = dict.fromkeys(column.data for column in layout.columns)

    def elsewhere(row: Row) -> Row:
        tried = {name: count for name in data if (count := row.tried_on(name)) > 1 or name in row.tried}
        return row.model_copy(update={"set": _values(row.set, known, names), "tried": tried})

    update = {"like": None, "set": _values(layout.set, known, names), "rows": list(map(elsewhere, layout.rows))}
    return layout.model_copy(update=update)


def layout_file(layout: Layout) -> bytes:
    """Return the file of a layout, without what is left to a default."""
    content = layout.model_dump(exclude={"name"}, exclude_defaults=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()


def _values(values: Mapping[str, Any], known: Mapping[str, str], names: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the values of a `set` with the digests of their files, and cleaned."""
    told: dict[str, Any] = {}
    for key, value in values.items():
        told[key] = value if names is None else cleaned(value, names)
        if key in DIGESTS and value is not None:
            told[DIGESTS[key]] = _digest(key, value, known)
    return told


def _digest(key: str, place: str, known: Mapping[str, str]) -> str:
    """Return the digest of the file of a key: as it is here, else as a run of it notes it."""
    section, _, leaf = key.partition(".")
    tree: dict[str, Any] = {section: {leaf: place}}
    make_absolute(tree)
    path: str = tree[section][leaf]
    try:
        return known[path] if path in known and not Path(path).exists() else checked_digest(key, Path(path), None)
    except RecipeError as error:
        raise ValueError(f"a layout's set: {error}") from None
