"""Opens a built data set, from a folder or from an address.

Needs only numpy (no torch, no webdataset). Every fault on disk is a `DataError` of one sentence.
"""

from __future__ import annotations

import functools
from pathlib import Path

from recipes.common.addresses import is_remote, root_fault
from recipes.common.errors import DataError
from recipes.common.json_text import NotJson, parse_json
from sharding.building.request import data_sets, declared
from sharding.cache.disk_budget import cache_folder as folder_of_node
from sharding.cache.remote_files import RemoteOrigin, fetch_small
from sharding.cache.remote_shards import NodeCache
from sharding.format.dataset import DATASET_FILE, Dataset, changed, misshapen, parse_meta, read_dataset


def build_command(root: Path | str, name: str) -> str:
    """Return the command that builds data set `name` under `root`, and whether it has a builder of its own."""
    if name not in data_sets():
        return (
            f"python -m sharding.build data={name} out={root} source=YOUR_IMAGES (there is no builder of that name, "
            "but images of your own may have it)"
        )
    return f"python -m sharding.build data={name} out={root}" + (
        " source=RAW_DATA" if "source" in declared(name)[0] else ""
    )


def open_dataset(
    root: Path | str,
    name: str,
    cache_folder: str | None = None,
    cache_gb: float | None = None,
    tries: int = 5,
    share: float = 1.0,
    pipe: str | None = None,
) -> Dataset:
    """Open a data set.

    Args:
        root: DATA_ROOT, a folder or an address (see sharding/cache/remote_files.py).
        name: the data set's.
        cache_folder: where a node keeps what it fetches; see `disk_budget.cache_folder`.
        cache_gb: how many GB it keeps there.
        tries: how often a request to an address is made before it fails.
        share: the part of these GB for shards.
        pipe: what the root `pipe:` means, the site file's command.

    Raises:
        DataError: it is missing or damaged; the sentence names the command that builds it.
    """
    if fault := root_fault(root):
        raise DataError(f"data.root={root} is not legal: {fault}")
    if not is_remote(root):
        return read_dataset(Path(root), name, build_command(root, name))
    root, rebuild = str(root), build_command(root, name)
    origin = RemoteOrigin(root, pipe)
    data = fetch_small(origin, f"{name}/{DATASET_FILE}", _damaged, tries)
    meta = parse_meta(data, f"{root.rstrip('/')}/{name}/{DATASET_FILE}", rebuild)
    most_bytes = None if cache_gb is None else cache_gb * 1e9
    source = functools.partial(_node_cache, origin, name, str(meta["fingerprint"]), cache_folder, most_bytes, share)
    return Dataset(root, name, meta, rebuild, source)


def _node_cache(
    origin: RemoteOrigin, name: str, fingerprint: str, folder: str | None, most_bytes: float | None, share: float
) -> NodeCache:
    return NodeCache.made(origin, name, fingerprint, folder_of_node(folder), most_bytes, share)


def _damaged(data: bytes) -> str:
    """Return what is wrong with a fetched dataset.json, so that it is asked for again; empty if nothing is."""
    try:
        meta = parse_json(data)
    except NotJson as error:
        return f"it is not JSON ({error})"
    return "" if misshapen(meta) else changed(meta)
