"""Keys of samples, made from the names of their files and different for different files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

_ILLEGAL = re.compile(r"[^A-Za-z0-9_-]")
_EXTENSION = re.compile(r"\.(jpe?g|png)$")


def plain_key(source: str) -> str:
    """Return a file's name without folders and extension; `_` replaces all but letters, digits, _ and -."""
    return _ILLEGAL.sub("_", source.rpartition("/")[2].rpartition(".")[0])


def loose_name(name: str) -> str:
    """Return what names have in common that differ in case or an image's extension alone: the name without either.

    By it a builder counts such files of its source, and sharding.verify finds samples that may be one image twice.
    """
    return _EXTENSION.sub("", name.casefold())


def unique_keys(editions: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, str]:
    """Choose a key for each source of a data set: the plain one, or that and a digest of the source.

    A digest is added where several sources of a split have the same key, which shards cannot hold. It is also added
    where keys in two splits of an edition differ only in case, which sharding.verify takes for one image in both. All
    other keys are plain, so data sets that need no digests keep their bytes.

    Args:
        editions: edition -> split -> its sources, each unique in the edition.

    Returns:
        source -> key.
    """
    keys = {
        source: plain_key(source) for splits in editions.values() for sources in splits.values() for source in sources
    }
    alike: set[str] = set()
    for splits in editions.values():
        met: dict[str, list[tuple[str, str]]] = {}
        for split, sources in splits.items():
            for source in sources:
                met.setdefault(loose_name(keys[source]), []).append((split, source))
        for found in met.values():
            if len({split for split, _ in found}) > 1 or len({keys[source] for _, source in found}) < len(found):
                alike.update(source for _, source in found)
    return {
        source: f"{key}-{hashlib.sha256(source.encode()).hexdigest()[:16]}" if source in alike else key
        for source, key in keys.items()
    }
