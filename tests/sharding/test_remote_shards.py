"""Data from afar: the same bytes as from the folder whatever the server does, each shard fetched once a node, within
the node's bytes, and never a hang.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ifl import setup
from recipes.common.errors import DataError
from recipes.common.locks import is_free, locked
from recipes.resolve import resolve
from sharding.cache import remote_files
from sharding.cache.decoded_images import PixelCache
from sharding.cache.prefetcher import Prefetcher
from sharding.format.dataset import Dataset, FetchAhead, Split
from sharding.format.index import load_index, save_index
from sharding.open import open_dataset
from sharding.plan.ranks import rank_draws
from sharding.plan.shard_schedule import last_use, shard_arrivals
from sharding.reader import MicroBatches, Reader, TrainView
from tests.helpers.digits import twentieth
from tests.helpers.nodes import assert_equal, children, on_a_disk_of
from tests.helpers.plans import micro_batches, plan_epoch
from tests.helpers.ranks import RankFailure, started
from tests.helpers.remote_server import FAULTS, Server
from tests.helpers.train_loop import BN_BATCH, IFL, final_arrays, loop_recipe, trained

VIEW = {"view": TrainView(32, (0.3, 1.0), hflip=True)}


@pytest.fixture(scope="session")
def tiny_root(digits_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A twentieth of digits_glt in many shards: 14 of the training set."""
    return twentieth(digits_root, tmp_path_factory.mktemp("many"), shard_samples=16)


@pytest.fixture
def server(tiny_root: Path) -> Iterator[Server]:
    made = Server(tiny_root)
    yield made
    made.server.shutdown()
    for thread in threading.enumerate():
        if thread.name == "ahead":
            thread.join(10)
    made.server.server_close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "PAUSES_S", (0.01, 0.02, 0.03, 0.04))


@pytest.fixture
def short_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second without bytes is a stall: for tests that wait for one, as on a busy machine it is none."""
    monkeypatch.setattr(remote_files, "STALL_S", 0.5)


def opened(server: Server, folder: Path, gb: float | None = None) -> Dataset:
    return open_dataset(server.url, "digits_glt", str(folder), gb)


def draws_of(split: Split, window: int = 0, start: int = 0, epoch: int = 0) -> list:
    plan = plan_epoch(
        [None], len(split), batch=24, group=6, seed=1, epoch=epoch, shards=split.index.shard, window=window
    )
    return list(rank_draws(plan, micro_batches(24, 6, 0, 1), 1, start=start))


def local(tiny_root: Path) -> Split:
    return open_dataset(tiny_root, "digits_glt").split("glt", "train")


# ----------------------------------------------------------------------------------------------------------- same bytes
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_folder(server: Server, tiny_root: Path, tmp_path: Path, workers: int) -> None:
    """Bit for bit, with and without fetching ahead; the data set's names, classes and fingerprints too; a second epoch
    asks the server for nothing.
    """
    here = local(tiny_root)
    far = opened(server, tmp_path)
    assert far.fingerprint_of("glt", ["train", "val"]) == open_dataset(tiny_root, "digits_glt").fingerprint_of(
        "glt", ["train", "val"]
    )
    split = far.split("glt", "train")
    expected = list(Reader(MicroBatches(here, **VIEW), 0).read(draws_of(here)))
    assert_equal(list(Reader(MicroBatches(split, **VIEW), workers).read(draws_of(split))), expected)
    asked = dict(server.asked)
    assert set(server.shards().values()) == {1} and len(server.shards()) == len(split.index.shard_name)
    assert_equal(
        list(
            Reader(MicroBatches(opened(server, tmp_path).split("glt", "train"), **VIEW), workers).read(draws_of(split))
        ),
        expected,
    )
    assert {**server.asked} == {**asked, "digits_glt/dataset.json": asked["digits_glt/dataset.json"] + 1}


def test_a_node_fetches_each_shard_once(server: Server, tiny_root: Path, tmp_path: Path) -> None:
    """Two processes with two workers each and one that fetches ahead start on an empty cache at the same time."""
    server.bytes_s = 3e6
    here, window = local(tiny_root), 2
    expected = list(Reader(MicroBatches(here, **VIEW), 0).read(draws_of(here, window)))

    def work(rank: int) -> None:
        split = opened(server, tmp_path).split("glt", "train")
        draws = draws_of(split, window)
        plan = plan_epoch(
            [None], len(split), batch=24, group=6, seed=1, epoch=0, shards=split.index.shard, window=window
        )
        batches = Reader(MicroBatches(split, **VIEW), 2).read(draws)
        assert_equal(list(Prefetcher(split).follow(plan, 0, batches, 4) if rank == 0 else batches), expected)

    assert [os.waitpid(pid, 0)[1] for pid in children(2, work)] == [0, 0]
    assert set(server.shards().values()) == {1} and len(server.shards()) == len(here.index.shard_name)
    cache = opened(server, tmp_path).cache
    assert (
        cache.counts()["shards"] == len(server.shards())
        and cache.counts()["bytes"] == here.index.shard_size.sum()
        and cache.counts()["waited_s"] > 0
    )


def test_training_from_afar_ends_with_the_same_bits(server: Server, tiny_root: Path, tmp_path: Path) -> None:
    """Two ranks, two epochs, a window, and a budget of what a step of them needs at once: parameters, centers and
    weights are those of the folder.
    """
    gb = 1.01 * float(np.sort(local(tiny_root).index.shard_size)[-10:].sum()) / 1e9
    more = ("data.shuffle_window=2", "data.decoder=pillow")
    recipe = loop_recipe(tiny_root, "glt_ifl", *BN_BATCH, *IFL, *more, epochs=2)
    _run = lambda recipe, folder: started(2).run(trained, recipe.model_dump_json(), str(folder))  # noqa: E731
    (tmp_path / "here").mkdir()
    (tmp_path / "far").mkdir()
    assert all(answer["finished"] for answer in _run(recipe, tmp_path / "here"))
    far = loop_recipe(
        server.url,
        "glt_ifl",
        *BN_BATCH,
        *IFL,
        *more,
        f"data.cache_folder={tmp_path / 'cache'}",
        f"data.cache_gb={gb}",
        epochs=2,
    )
    assert far.data.root == server.url and far.hash8 == recipe.hash8
    assert all(answer["finished"] for answer in _run(far, tmp_path / "far"))
    one, two = final_arrays(tmp_path / "here"), final_arrays(tmp_path / "far")
    assert one.keys() == two.keys() and all(one[key].tobytes() == two[key].tobytes() for key in one)
    fetched = [
        line
        for line in map(json.loads, (tmp_path / "far" / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "fetched"
    ]
    assert len(fetched) == 2 and fetched[-1]["bytes"] > 1.1 * local(tiny_root).index.shard_size.sum(), (
        "the second epoch fetched again what had made room"
    )


# --------------------------------------------------------------------------------------------------------------- faults
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("short_stalls")
def test_faults_are_tried_again(server: Server, tiny_root: Path, tmp_path: Path, fault: str) -> None:
    """Every file's first answer has the fault (dataset.json's and the index's, too; of stalls, which take their time,
    four shards'), every other shard's second one as
    well: no sample is wrong or lost."""
    here = local(tiny_root)
    names = [f"digits_glt/glt/train/{name}" for name in here.index.shard_name.tolist()]
    faults = {
        **{name: [fault] * (1 + i % 2) for i, name in enumerate(names[: 4 if fault == "stall" else None])},
        "digits_glt/dataset.json": [fault],
        "digits_glt/glt/train/index.npz": [fault],
    }
    injected = sum(map(len, faults.values()))
    server.faults = faults
    split = opened(server, tmp_path).split("glt", "train")
    assert_equal(
        list(Reader(MicroBatches(split, **VIEW), 2).read(draws_of(split))),
        list(Reader(MicroBatches(here, **VIEW), 0).read(draws_of(here))),
    )
    assert not any(server.faults.values()) and sum(server.shards().values()) == len(names) + injected - 2


@pytest.mark.parametrize(
    "fault, cause",
    [
        ("reset", ""),
        ("stall", "nothing came for 0.5 s"),
        ("short", ""),
        ("wrong", "do not have the recorded sha256"),
        ("503", "the server says 503"),
        ("404", "the server says 404"),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.usefixtures("short_stalls")
def test_a_source_that_fails_for_good_ends_the_run(
    server: Server, tiny_root: Path, tmp_path: Path, workers: int, fault: str, cause: str
) -> None:
    """One sentence that names the file and the cause, soon, after five tries."""
    split = opened(server, tmp_path).split("glt", "train")
    shard = f"digits_glt/glt/train/{split.index.shard_name[1]}"
    server.faults = {shard: [fault] * 1000}
    began = time.monotonic()
    with pytest.raises(DataError, match=f"{shard} cannot be fetched: .*{cause}.*tried 5 times"):
        for batch in Reader(MicroBatches(split, **VIEW), workers).read(draws_of(split)):
            del batch
    assert time.monotonic() - began < 20 and not list(tmp_path.rglob(str(split.index.shard_name[1])))


@pytest.mark.full
def test_ranks_end_together_when_a_source_fails(server: Server, tiny_root: Path, tmp_path: Path) -> None:
    """A shard that only one rank's rows need at that step: the run of two ranks ends, with the sentence."""
    index = local(tiny_root).index
    server.faults = {f"digits_glt/glt/train/{index.shard_name[-1]}": ["404"] * 1000}
    recipe = loop_recipe(server.url, "glt_ifl", *BN_BATCH, *IFL, f"data.cache_folder={tmp_path / 'cache'}")
    with pytest.raises(RankFailure, match=f"{index.shard_name[-1]} cannot be fetched: the server says 404"):
        started(2).run(trained, recipe.model_dump_json(), str(tmp_path))


def test_what_a_node_kept_and_went_bad_is_fetched_again(server: Server, tiny_root: Path, tmp_path: Path) -> None:
    """A bit of a kept shard, and a kept index that is cut off: the batches are right, and each file was fetched once
    more.
    """
    here = local(tiny_root)
    split = opened(server, tmp_path).split("glt", "train")
    split.read(0)
    kept = split.folder / str(split.index.shard_name[0])
    data = bytearray(kept.read_bytes())
    data[int(split.index.offset[3]) + 20] ^= 1
    kept.write_bytes(data)
    (split.folder / "index.npz").write_bytes(b"PK")
    split = opened(server, tmp_path).split("glt", "train")
    assert_equal(
        list(Reader(MicroBatches(split, **VIEW), 2).read(draws_of(split))),
        list(Reader(MicroBatches(here, **VIEW), 0).read(draws_of(here))),
    )
    assert (
        server.shards()[f"digits_glt/glt/train/{kept.name}"] == 2
        and server.asked["digits_glt/glt/train/index.npz"] == 2
    )


def test_a_lock_ends_where_it_is_let_go(tmp_path: Path) -> None:
    """Also where a process was forked while it was held, and lives on."""
    with locked(tmp_path / "x.lock"):
        pid = children(1, lambda _: time.sleep(30))[0]
    began = time.monotonic()
    with locked(tmp_path / "x.lock"):
        assert time.monotonic() - began < 5 and is_free(tmp_path / "y.lock") and not is_free(tmp_path / "x.lock")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    """Also where that had forked another one while it held it, which lives on."""

    def work(_: int) -> None:
        with locked(tmp_path / "x.lock"):
            (tmp_path / "pid").write_text(str(children(1, lambda _: time.sleep(30))[0]))
            os.replace(tmp_path / "pid", tmp_path / "forked")
            signal.pause()

    pid = children(1, work)[0]
    while not (tmp_path / "forked").exists():
        time.sleep(0.01)
    assert not is_free(tmp_path / "x.lock")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    free = is_free(tmp_path / "x.lock")
    os.kill(int((tmp_path / "forked").read_text()), signal.SIGKILL)
    assert free


def commands_running() -> Iterator[str]:
    """The command lines of all processes of this machine; read here, since a minimal system has no `ps`."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            yield file.read_bytes().replace(b"\0", b" ").decode(errors="replace")


@pytest.mark.usefixtures("short_stalls")
def test_a_trickle_is_given_up(server: Server, tmp_path: Path) -> None:
    """Bytes that never stop coming, and never are many; what a command leaves running is ended, too."""
    for command in (
        "while :; do echo x; sleep .05; done; : {path}",
        f"(sleep 60; touch {tmp_path}/left) & echo {{path}}",
    ):
        began = time.monotonic()
        with pytest.raises(DataError, match=r"cannot be fetched: (only [0-9]+ bytes came in|nothing came for) 0\.5 s"):
            open_dataset("pipe:", "digits_glt", str(tmp_path), tries=1, pipe=command)
        assert time.monotonic() - began < 10
    deadline = time.monotonic() + 5  # the signal is on its way to what the command left
    while any(f"touch {tmp_path}/left" in command for command in commands_running()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.bytes_s, server.piece = 100, 10
    with pytest.raises(DataError, match=r"only [0-9]+ bytes came in 0.5 s"):
        open_dataset(server.url, "digits_glt", str(tmp_path), tries=1)


def test_an_evaluation_s_shards_come_though_few_batches_are_left(server: Server, tmp_path: Path) -> None:
    """A rank of many has few batches, all of which its loader has been asked for at once: its node's shards are fetched
    all the same, until they are used up.
    """
    split = opened(server, tmp_path).split("glt", "train")
    ahead = Prefetcher(split)
    batches = ahead.all(Reader(MicroBatches(split, **VIEW), 2).read(iter(draws_of(split)[:2])))
    next(batches)
    until = time.monotonic() + 20
    while len(server.shards()) < len(split.index.shard_name) and time.monotonic() < until:
        time.sleep(0.01)
    assert set(server.shards().values()) == {1} and len(server.shards()) == len(split.index.shard_name)
    turn = ahead._generation
    list(batches)
    assert ahead._generation == turn + 1, "stopped"


def test_a_body_without_end_is_given_up(tiny_root: Path, tmp_path: Path) -> None:
    """At the first byte more than is recorded, and not when the disk is full."""
    command = f"case {{path}} in *.tar) yes;; *) cat {tiny_root}/{{path}};; esac"
    split = open_dataset("pipe:", "digits_glt", str(tmp_path), pipe=command).split("glt", "train")
    with pytest.raises(DataError, match=r"it has more than the [0-9]+ bytes that the index records"):
        split.read(0)
    assert not list(tmp_path.rglob("*.tar"))


def test_a_damaged_index_or_set_is_refused(server: Server, tiny_root: Path, tmp_path: Path) -> None:
    """By its fingerprint, before anything is trained; so is a path that leaves the set's folder, and a set that is not
    there.
    """
    server.faults = {"digits_glt/glt/train/index.npz": ["wrong"] * 5}
    with pytest.raises(DataError, match=r"index.npz cannot be fetched: it is (damaged|not the index)"):
        opened(server, tmp_path / "a").split("glt", "train")
    with pytest.raises(DataError, match=r"no_such/dataset.json cannot be fetched: the server says 404"):
        open_dataset(server.url, "no_such")
    for path in ("../x", "a/../../x", "/etc/passwd", "a//b", "a b", "-x", "$(x)", ""):
        with pytest.raises(DataError, match="is not a plain path"):
            remote_files.plain(path)


def test_a_packed_answer_is_said_to_be_packed(server: Server, tiny_root: Path, tmp_path: Path) -> None:
    """A server that sends gzip unasked, and a command that prints it: the sentence says so, and not that UTF-8 ends."""
    server.faults = {"digits_glt/dataset.json": ["packed"]}
    with pytest.raises(
        DataError, match=r"dataset.json cannot be fetched: the server sends it packed by gzip, for which"
    ):
        open_dataset(server.url, "digits_glt", str(tmp_path), tries=1)
    server.faults = {"digits_glt/dataset.json": ["plain"]}  # "Identity": the names of encodings have no case
    assert open_dataset(server.url, "digits_glt", str(tmp_path), tries=1).name == "digits_glt"
    command = f"gzip -c {tiny_root}/{{path}}"
    with pytest.raises(DataError, match=r"cannot be fetched: it is not JSON .it is compressed by gzip; the unpacked"):
        open_dataset("pipe:", "digits_glt", str(tmp_path), tries=1, pipe=command)


def test_a_set_that_is_not_what_it_says_is_refused(tiny_root: Path, tmp_path: Path) -> None:
    """A dataset.json of another shape, and shards of other names than those that are kept: one sentence each."""
    shutil.copytree(tiny_root / "digits_glt", tmp_path / "far" / "digits_glt")
    command = f"cat {tmp_path / 'far'}/{{path}}"
    file = tmp_path / "far" / "digits_glt" / "dataset.json"
    right = json.loads(file.read_text())
    del right["digest"]  # which old sets have not, and which would show every change
    for wrong, words in (
        ([], "does not hold an object"),
        ({}, "lacks class_names, "),
        ({**right, "splits": []}, "splits is list"),
        ({**right, "editions": {"glt": {"train": "elsewhere"}}}, "of the split glt/train"),
        ({**right, "editions": {"glt": []}}, "of the split glt/"),
        ({**right, "splits": {name: {"samples": 3} for name in right["splits"]}}, "records no samples and fingerprint"),
    ):
        file.write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=f"digits_glt/dataset.json .*{words}"):
            open_dataset("pipe:", "digits_glt", str(tmp_path / "cache"), pipe=command)
    train = tmp_path / "far" / "digits_glt" / "glt" / "train"
    index = load_index(train)
    save_index(train, index := replace(index, shard_name=np.char.replace(index.shard_name, ".tar", ".data")))
    right["splits"]["glt/train"]["fingerprint"] = index.fingerprint
    file.write_text(json.dumps(right))
    with pytest.raises(DataError, match=r"the shard shard-000000.data of digits_glt/glt/train is not called NAME.tar"):
        open_dataset("pipe:", "digits_glt", str(tmp_path / "cache"), pipe=command).split("glt", "train")


# ----------------------------------------------------------------------------------------------------- kills and budget
def test_a_kill_in_mid_fetch_leaves_nothing_that_counts(server: Server, tiny_root: Path, tmp_path: Path) -> None:
    """Processes killed while they fetch: what is there is whole, its left-over parts make room, and the next process
    goes on.
    """
    server.bytes_s = 2e5
    here = local(tiny_root)
    most = float(here.index.shard_size.sum()) * 1.2 / 1e9

    def work(_: int) -> None:
        split = opened(server, tmp_path, most).split("glt", "train")
        for i in range(0, len(split), 10):
            split.read(i)

    left: list[int] = []
    for attempt in range(4):
        pids = children(2, work)
        had = len(server.asked)
        while not list(tmp_path.rglob("*.part")) or len(server.asked) == had:
            time.sleep(0.005)
        time.sleep(0.02 * attempt)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        left.append(len(list(tmp_path.rglob("*.part"))))
        for path in tmp_path.rglob("*.tar"):
            assert path.read_bytes() == (tiny_root / "digits_glt" / "glt" / "train" / path.name).read_bytes()
    assert sum(left)
    server.bytes_s = None
    split = opened(server, tmp_path, most).split("glt", "train")
    assert_equal(
        list(Reader(MicroBatches(split, **VIEW), 2).read(draws_of(split))),
        list(Reader(MicroBatches(here, **VIEW), 0).read(draws_of(here))),
    )
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("ahead", [False, True])
def test_it_keeps_within_its_bytes(server: Server, tiny_root: Path, tmp_path: Path, ahead: bool) -> None:
    """At every look the shards, those on their way included, take no more than the budget, over two epochs of windows,
    and the batches are right.
    """
    here, window = local(tiny_root), 1
    sizes = np.sort(here.index.shard_size)
    most = int(sizes[-3:].sum())
    assert most < sizes.sum()
    split = opened(server, tmp_path, most / 1e9).split("glt", "train")
    split.remote.source.check_budget(split.index, window, 14)
    seen, ended = [], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            total = 0
            for path in [*tmp_path.rglob("*.tar"), *tmp_path.rglob("*.part")]:
                with contextlib.suppress(FileNotFoundError):
                    total += path.stat().st_size
            seen.append(total)
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    fetcher = Prefetcher(split)
    try:
        for epoch in range(2):
            draws = draws_of(split, window, epoch=epoch)
            plan = plan_epoch(
                [None], len(split), batch=24, group=6, seed=1, epoch=epoch, shards=split.index.shard, window=window
            )
            batches = Reader(MicroBatches(split, **VIEW), 0).read(draws)
            found = list(fetcher.follow(plan, 0, batches, 4) if ahead else batches)
            assert_equal(found, list(Reader(MicroBatches(here, **VIEW), 0).read(draws_of(here, window, epoch=epoch))))
    finally:
        fetcher.stop()
        ended.set()
        watcher.join()
    assert most / 2 < max(seen) <= most


SMALL = """
import os, sys
from pathlib import Path
from tests.sharding.test_remote_shards import *
folder, root, gb = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
opened = open_dataset("pipe:", "digits_glt", str(folder), gb, pipe=f"cat {root}/{{path}}")
here, split = local(Path(root)), opened.split("glt", "train")
ahead = Prefetcher(split)
for epoch in range(2):
    plan = plan_epoch([None], len(split), batch=24, group=6, seed=1, epoch=epoch, shards=split.index.shard, window=1)
    batches = ahead.follow(plan, 0, Reader(MicroBatches(split, **VIEW), 2).read(draws_of(split, 1, epoch=epoch)), 4)
    assert_equal(list(batches), list(Reader(MicroBatches(here, **VIEW), 0).read(draws_of(here, 1, epoch=epoch))))
print("alive", split.remote.source.counts())
"""


@pytest.mark.parametrize("gb", [None, 1])
def test_a_set_larger_than_the_disk_streams_through(tiny_root: Path, tmp_path: Path, gb: float | None) -> None:
    """A real file system that holds a third of the shards, with the default budget and with one that it cannot keep:
    what makes room gives its bytes back at once, though two workers read it."""
    done = on_a_disk_of(
        local(tiny_root).index.shard_size.sum() / 3e6, tmp_path / "disk", SMALL, tiny_root, json.dumps(gb)
    )
    assert done.returncode == 0 and "alive" in done.stdout, done.stderr


def test_what_is_needed_no_more_makes_room_first(server: Server, tmp_path: Path) -> None:
    """Late in an epoch, when the places of what is still needed are larger than their number: not what was fetched
    ahead for later.
    """
    split = opened(server, tmp_path).split("glt", "train")
    cache, relative = split.remote.source, split.remote.relative
    paths = [cache.shard(relative, split.index, shard) for shard in range(3)]
    began = time.time()
    small = replace(cache, most_bytes=int(split.index.shard_size[:3].sum() + 1))
    for turns in (
        {paths[0]: 90, cache.folder / relative / str(split.index.shard_name[3]): 91, paths[2]: 99},
        {paths[0]: 1, cache.folder / relative / str(split.index.shard_name[3]): 2, paths[2]: 4},
    ):
        assert (
            small.fetch_ahead(relative, split.index, 3, FetchAhead(turns, began, lambda: None))
            and paths[0].exists()
            and paths[2].exists()
            and not paths[1].exists()
        )
        (cache.folder / relative / str(split.index.shard_name[3])).unlink()
        cache.shard(relative, split.index, 1)
    only = {paths[0]: 1, paths[1]: 2, cache.folder / relative / str(split.index.shard_name[3]): 3, paths[2]: 4}
    assert not small.fetch_ahead(relative, split.index, 3, FetchAhead(only, 0.0, lambda: None)) and all(
        path.exists() for path in paths
    ), "all are needed, and were fetched for this epoch"


def test_what_another_run_reads_makes_no_room_for_what_is_fetched_ahead(server: Server, tmp_path: Path) -> None:
    """Another set's shards go if they were not read since the epoch began, then what the epoch is done with.

    Only a run that has nothing there takes the room of what another one reads, or it would never begin.
    """
    split = opened(server, tmp_path).split("glt", "train")
    cache, relative, size = split.remote.source, split.remote.relative, int(split.index.shard_size.max())
    cache, other = replace(cache, most_bytes=3 * size), tmp_path / "shards" / "other-0123" / "glt" / "train"
    mine, began = [cache.folder / relative / str(name) for name in split.index.shard_name], time.time() - 100
    other.mkdir(parents=True)

    def read_by_another(name: str, seconds: float) -> None:
        (other / f"{name}.tar").write_bytes(bytes(size))
        os.utime(other / f"{name}.tar", (began + seconds, began + seconds))

    def fetched(shard: int, *before: int) -> tuple[bool, set[str]]:
        turns = {mine[one]: place for place, one in enumerate([*before, shard])}
        got = cache.fetch_ahead(relative, split.index, shard, FetchAhead(turns, began, lambda: None))
        return got, {path.stem for path in other.iterdir()} | {str(mine.index(path)) for path in mine if path.exists()}

    cache.shard(relative, split.index, 0)
    read_by_another("idle", -1)
    read_by_another("in use", 1)
    assert fetched(1) == (True, {"in use", "0", "1"})
    assert fetched(2, 1) == (True, {"in use", "1", "2"})
    assert fetched(3, 1, 2) == (False, {"in use", "1", "2"})
    for shard, name in ((1, "too"), (2, "as well")):
        mine[shard].unlink()
        read_by_another(name, 2)
    assert fetched(3) == (True, {"too", "as well", "3"})


def test_who_fetches_ahead_leaves_what_is_over(server: Server, tmp_path: Path) -> None:
    """Overtaken by the readers it does not fetch for a step that is past."""
    split = opened(server, tmp_path).split("glt", "train")
    plan = plan_epoch([None], len(split), batch=24, group=6, seed=1, epoch=0, shards=split.index.shard, window=1)
    ahead = Prefetcher(split)
    ahead._begin(
        [int(shard) for _, there in shard_arrivals(plan, split.index.shard, 0) for shard in there],
        last := last_use(plan, split.index.shard),
        plan.steps - 1,
    )
    while any(thread.name == "ahead" for thread in threading.enumerate()):
        time.sleep(0.01)
    wanted = {f"digits_glt/glt/train/{name}" for name in split.index.shard_name[last >= plan.steps - 2]}
    assert set(server.shards()) == wanted and len(wanted) < len(split.index.shard_name)


def test_a_full_disk_or_a_folder_that_is_gone_refuses_no_start(
    server: Server, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another set's shards make room for an index; counts of a folder that somebody removed are none."""
    other = tmp_path / "shards" / "other" / "x.tar"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"x")
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.suffix == ".new" and other.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    far = opened(server, tmp_path)
    assert len(far.split("glt", "train")) == len(local(tiny_root)) and not other.exists()
    shutil.rmtree(tmp_path / "shards")
    assert far.cache.counts() == {"shards": 0, "bytes": 0, "waited_s": 0.0}


def test_a_command_is_read_however_many_files_are_open(tiny_root: Path, tmp_path: Path) -> None:
    """More than a thousand, as ranks with many connections have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("no process may open so many files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        found = open_dataset("pipe:", "digits_glt", str(tmp_path), pipe=f"cat {tiny_root}/{{path}}")
        assert found.num_classes == 10
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_disk_without_room_for_notes_ends_nothing(
    server: Server, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts and the note for those who wait are lost, and no sample."""
    real = Path.write_text

    def full(self: Path, *words: object, **options: object) -> int:
        if self.suffix in (".tmp", ".failed"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, *words, **options)

    monkeypatch.setattr(Path, "write_text", full)
    split = opened(server, tmp_path).split("glt", "train")
    server.faults = {f"digits_glt/glt/train/{split.index.shard_name[1]}": ["404"] * 5}
    with pytest.raises(DataError, match="the server says 404"):
        split.read(int(np.flatnonzero(split.index.shard == 1)[0]))
    assert [split.read(i) for i in range(0, len(split), 20)] == [
        local(tiny_root).read(i) for i in range(0, len(split), 20)
    ]


@pytest.mark.parametrize("ahead", [False, True])
def test_a_disk_that_fills_up_makes_room(
    server: Server, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    """It takes fewer bytes than were free when the run began: shards that were opened longest ago go, and the batches
    are right. One that takes none is said.
    """
    here, real = local(tiny_root), os.posix_fallocate
    disk = int(np.sort(here.index.shard_size)[-4:].sum())

    def fallocate(file: int, begin: int, size: int) -> None:
        if size + sum(path.stat().st_size for path in tmp_path.rglob("*.tar")) > disk:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, begin, size)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    split = opened(server, tmp_path).split("glt", "train")
    plan = plan_epoch([None], len(split), batch=24, group=6, seed=1, epoch=0, shards=split.index.shard, window=1)
    draws = draws_of(split, window=1)
    batches = Reader(MicroBatches(split, **VIEW), 0).read(draws)
    if ahead:
        batches = Prefetcher(split).follow(plan, 0, batches, 4)
    found = [next(batches) for _ in range(4)]
    time.sleep(0.2)
    assert not ahead or any(thread.name == "ahead" for thread in threading.enumerate()), "it waits for room"
    found += batches
    assert_equal(found, list(Reader(MicroBatches(here, **VIEW), 0).read(draws_of(here, window=1))))
    disk = 0
    with pytest.raises(DataError, match=r"does not take the .* GB of the shard .* \(No space left on device\)"):
        opened(server, tmp_path).split("glt", "val").read(0)


def test_all_data_sets_share_the_node_s_bytes(server: Server, tiny_root: Path, tmp_path: Path) -> None:
    """Another set's shards count, and make room where they were opened longest ago; a shard that another run evicts in
    this moment is no error.
    """
    sizes = local(tiny_root).index.shard_size
    other = tmp_path / "shards" / "other-0123" / "glt" / "train"
    other.mkdir(parents=True)
    for name in "ab":
        (other / f"{name}.tar").write_bytes(bytes(int(sizes.max())))
        os.utime(other / f"{name}.tar", (1, 1 + (name == "b")))
    (other / "gone.tar").symlink_to("nowhere")  # listed, and not there when it is looked at
    split = opened(server, tmp_path, float(3 * sizes.max()) / 1e9).split("glt", "train")
    order = [int(np.flatnonzero(split.index.shard == shard)[0]) for shard in range(3)]
    for read, there in zip(order, [{"a", "b"}, {"b"}, set()], strict=True):
        split.read(read)
        assert {path.stem for path in other.glob("?.tar")} == there


def test_with_both_caches_each_has_half(server: Server, tiny_root: Path, tmp_path: Path) -> None:
    """Of data.cache_gb, and of what is free where it is not given; alone each has all."""
    for words, share in (([], 1.0), (["data.cache=decoded"], 0.5)):
        for gb in (None, 0.01):
            recipe = resolve(
                [
                    "data=digits_glt",
                    f"data.root={server.url}",
                    f"data.cache_folder={tmp_path}",
                    *words,
                    *([f"data.cache_gb={gb}"] if gb else []),
                ]
            )
            far = setup.opened(recipe)
            most = 0.9 * share * shutil.disk_usage(tmp_path).free if gb is None else 1e9 * gb * share
            assert far.cache.most_bytes == pytest.approx(most, rel=0.2)
            crops = setup.views(recipe, "pillow", {"train": far.split("glt", "train")})["train"]
            assert isinstance(crops.cache, PixelCache) == bool(words)
            assert not words or crops.cache.most_bytes == pytest.approx(most, rel=0.2)


def test_budgets_that_cannot_hold_what_is_needed_are_refused(server: Server, tmp_path: Path) -> None:
    """One sentence with the key, what must fit, and what would be legal."""
    split = opened(server, tmp_path, 0.0001).split("glt", "train")
    for window, a_step, what in (
        (0, 14, "the whole training set, which data.shuffle_window=0 needs at once"),
        (1, 14, "3 windows of data.shuffle_window=1 shards"),
        (1, 50, "6 windows of data.shuffle_window=1 shards"),
    ):
        with pytest.raises(DataError, match=f"^data.cache_gb leaves 0.0001 GB for shards, which do not hold {what}"):
            split.remote.source.check_budget(split.index, window, a_step)
    with pytest.raises(DataError, match="which do not even hold shard-0"):
        opened(server, tmp_path, 1e-6).split("glt", "train").read(0)


def test_a_window_starts_before_the_rest_is_there(server: Server, tiny_root: Path, tmp_path: Path) -> None:
    """The first batch of a windowed epoch comes when its own shards are there: fewer than half of the set's."""
    server.bytes_s = 1e6
    split = opened(server, tmp_path).split("glt", "train")
    plan = plan_epoch([None], len(split), batch=24, group=6, seed=1, epoch=0, shards=split.index.shard, window=1)
    fetcher = Prefetcher(split)
    batches = fetcher.follow(
        plan, 0, Reader(MicroBatches(split, **VIEW), 0).read(rank_draws(plan, micro_batches(24, 6, 0, 1), 1)), 4
    )
    next(batches)
    assert 0 < 2 * len(list(tmp_path.rglob("*.tar"))) < len(split.index.shard_name)
    fetcher.stop()


# ------------------------------------------------------------------------------------------------------------ addresses
def test_addresses_that_cannot_be_used_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Passwords are not printed; a command that the site file does not name is not run."""
    with pytest.raises(DataError, match=r"^data.root holds a user name or password") as caught:
        open_dataset("https://me:secret@host/glt", "digits_glt")
    assert "secret" not in str(caught.value)
    with pytest.raises(DataError, match=r"holds \? or #"):
        open_dataset("https://host/glt?key=1", "digits_glt")
    canary = tmp_path / "canary"
    for allowed in ("", "true {path}"):
        with pytest.raises(DataError, match="brings a command of its own, and only the site file's is run"):
            open_dataset(f"pipe:touch {canary} {{path}}", "digits_glt", pipe=allowed)
    monkeypatch.setenv("GLT_PIPE", f"touch {canary} {{path}}")  # no business of a process that nobody handed it to
    for nothing in (None, "", f"touch {canary}"):
        with pytest.raises(DataError, match="the command of the site file, which here names none"):
            open_dataset("pipe:", "digits_glt", pipe=nothing)
    assert not canary.exists()


@pytest.mark.usefixtures("short_stalls")
def test_a_command_of_the_site_file_brings_the_data(tiny_root: Path, tmp_path: Path) -> None:
    """The same batches; one that fails, stalls or prints less is told with its exit code."""
    here = local(tiny_root)
    split = open_dataset("pipe:", "digits_glt", str(tmp_path), pipe=f"cat {tiny_root}/{{path}}").split("glt", "train")
    assert_equal(
        list(Reader(MicroBatches(split, **VIEW), 2).read(draws_of(split))),
        list(Reader(MicroBatches(here, **VIEW), 0).read(draws_of(here))),
    )
    for command, cause in (
        ("false {path}", "the command ended with 1"),
        ("echo x; sleep 60; : {path}", "nothing came for 0.5 s"),
        ("cat /no/such/{path}", "the command ended with 1"),
    ):
        with pytest.raises(
            DataError, match=f"digits_glt/dataset.json, by the site file's pipe: command, cannot be fetched: {cause}"
        ):
            open_dataset("pipe:", "digits_glt", pipe=command)
