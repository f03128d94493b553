"""Keys of samples, made from the names of their files and different for different files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sharding.images.any_image import is_image

_ILLEGAL = re.compile(r"[^A-Za-z0-9_-]")


def plain_key(source: str) -> str:
    """Return a file's name without folders and extension; `_` replaces all but letters, digits, _ and -."""
    name = source.rpartition("/")[2]
    return _ILLEGAL.sub("_", name.rpartition(".")[0] or name)


def told_apart(source: str) -> str:
    """Return the key of a source whose plain one will not do: that and a digest of the source."""
    return f"{plain_key(source)}-{hashlib.sha256(source.encode()).hexdigest()[:16]}"


def digest64(text: str) -> int:
    """Return a digest of 8 bytes, by which millions of texts are compared in little memory."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def loose_name(name: str) -> str:
    """Return what names have in common that differ in case or an image's extension alone: the name without either.

    By it a builder counts such files of its source, and sharding.verify finds samples that may be one image twice.
    """
    return (os.path.splitext(name)[0] if is_image(name) else name).casefold()


def unique_keys(editions: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, str]:
    """Choose a key for each source of a data set: the plain one, or that and a digest of the source.

    A digest is added where several sources of a split have the same key, which shards cannot hold. It is also added
    where keys in two splits of an edition differ only in case, which sharding.verify may take for one image. All
    other keys are plain, so data sets that need no digests keep their bytes.

    Args:
        editions: edition -> split -> its sources, each unique in the edition.

    Returns:
        source -> key.
    """
    numbers: dict[str, int] = {}
    rows = [
        [np.array([numbers.setdefault(source, len(numbers)) for source in sources]) for sources in splits.values()]
        for splits in editions.values()
    ]
    alike = not_alone(numbers, len(numbers), rows)
    return {source: told_apart(source) if alike[row] else plain_key(source) for source, row in numbers.items()}


def not_alone(sources: Iterable[str], count: int, editions: Iterable[Sequence[np.ndarray]]) -> np.ndarray:
    """Find the sources whose plain key will not do, as `unique_keys` says, in 17 bytes for each.

    Args:
        sources: the sources, once through.
        count: their number N.
        editions: of each edition, of each split the rows of its sources, int64 [n].

    Returns:
        bool [N].
    """
    exact, loose = np.empty(count, np.uint64), np.empty(count, np.uint64)
    for row, source in enumerate(sources):
        key = plain_key(source)
        exact[row], loose[row] = digest64(key), digest64(loose_name(key))
    alike = np.zeros(count, bool)
    for splits in editions:
        split = np.repeat(np.arange(len(splits)), [len(mine) for mine in splits])
        if not len(split):
            continue
        rows = np.concatenate(splits).astype(np.int64)
        order = np.lexsort((exact[rows], loose[rows]))
        rows, split = rows[order], split[order]
        follows = np.r_[False, loose[rows[1:]] == loose[rows[:-1]]]
        same = follows & np.r_[False, exact[rows[1:]] == exact[rows[:-1]]]
        begins = np.flatnonzero(~follows)
        several = np.minimum.reduceat(split, begins) != np.maximum.reduceat(split, begins)
        meets = several | np.logical_or.reduceat(same, begins)
        alike[rows[np.repeat(meets, np.diff(np.r_[begins, len(rows)]))]] = True
    return alike
