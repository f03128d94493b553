"""Every file of ours that is read back: whatever became of its bytes, the answer is its content or one sentence that
names it, and never a traceback.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.inputs.runs import Run
from analysis.inputs.runs import load_run as load_analysed
from recipes.common.errors import DataError, UserError
from recipes.common.json_text import parse_json, read_object
from recipes.resolve import load_resolved
from sharding.building.foreign_json import Entry, read_foreign, real_number, text, whole_number
from sharding.cache.remote_shards import NodeCache
from sharding.datasets.imagenet_glt import annotations, archive, clustering, features
from sharding.datasets.mscoco_glt.annotations import SPLITS, read_authors
from sharding.datasets.mscoco_glt.attributes import Attributes, load_arrays, save_arrays
from sharding.datasets.mscoco_glt.splits import class_group
from sharding.format.dataset import read_dataset
from sharding.format.dataset_json import is_built
from sharding.format.index import load_index
from slurm import site_file, status
from slurm.cluster import requeue
from slurm.local.process_group import _new_lines
from slurm.monitoring import events, run_state
from slurm.planning.cost import measured
from tests.helpers import folders, toy

WRECKS = (
    b"",
    b"\xff\xfe",
    b"\x00" * 64,
    b"[" * 1_100,
    b'{"step": ' + b"9" * 5000 + b"}",
    b'{"step": 1e999, "kind": NaN}',
    b'{"step": {"step": []}, "kind": "\\ud800"}',
    b"null",
    b"[1]",
    gzip.compress(b"{}"),
)
"""Contents that no flip makes."""
FLIPS = 15
"""For each file."""


@dataclass(frozen=True)
class Kind:
    """A file, and what reads it.

    Attributes:
        path: the file.
        read: returns its content as something that can be compared.
        vouched: whether a digest in the file vouches for its content.
    """

    path: Path
    read: Callable[[], Any]
    vouched: bool = False


def data_set(folder: Path) -> dict[str, Kind]:
    root = toy.build(folder).parent
    built = read_dataset(root, "toy").meta

    def meta() -> Any:
        is_built(root, "toy", built["build"])
        return read_dataset(root, "toy").meta

    train = root / "toy" / "glt" / "train"
    return {
        "dataset.json": Kind(root / "toy" / "dataset.json", meta, vouched=True),
        "index": Kind(train / "index.npz", lambda: load_index(train).fingerprint, vouched=True),
    }


def of_imagenet(folder: Path) -> dict[str, Kind]:
    """The split file, the listing, the features and the clusters of one class."""
    (folder / "raw" / "n00000001").mkdir(parents=True)
    (folder / "raw" / "n00000001" / "a.JPEG").write_bytes(b"jpg")
    images = archive.list_classes(folder / "raw", folder, 1)["n00000001"]
    (folder / "clusters").mkdir()
    identity = clustering._identity("w", 0)
    names = np.array(images.names)
    features.save(folder, images, np.ones((1, 8), np.float16), "w", [images.place(0).traced()[1]])
    assert features.read(folder, images, "w") is not None
    np.savez(folder / "clusters" / "n00000001.npz", ranks=np.zeros(1, int), names=names, identity=identity)
    assert clustering.read(folder, images, "w", 0) is not None
    rows = [annotations.Rows(np.array([f"n00000001/{i}.JPEG"]), *np.zeros((3, 1), int)) for i in range(5)]
    splits = dict(zip(annotations.SPLITS.values(), rows, strict=True))
    annotations.write(folder / "split.json", annotations.Annotation("glt", ("n00000001",), (0,), splits, {}))

    def split_file() -> Any:
        found = annotations.read(folder / "split.json")
        return vars(found) | {"splits": {name: rows.source.tolist() for name, rows in found.splits.items()}}

    return {
        "split file": Kind(folder / "split.json", split_file, vouched=True),
        "listing": Kind(
            folder / "source" / "n00000001.npz",
            lambda: archive.list_classes(folder / "raw", folder, 1)["n00000001"].names,
            vouched=True,
        ),
        "features": Kind(folder / "n00000001.npz", lambda: _listed(features.read(folder, images, "w"))),
        "clusters": Kind(
            folder / "clusters" / "n00000001.npz", lambda: _listed(clustering.read(folder, images, "w", 0))
        ),
    }


def _listed(array: np.ndarray | None) -> list[Any]:
    return [] if array is None else array.tolist()


def of_coco(folder: Path) -> dict[str, Kind]:
    """The authors' split file and the arrays of the attributes."""
    document: dict[str, Any] = {"id2cat": {str(k): f"class {k}" for k in range(29)}}
    for number, name in enumerate(SPLITS):
        document[name] = {
            "label": {f"{number}": number},
            "frequency": {f"{number}": class_group(number)},
            "attribute": {f"{number}": 0},
            "path": {f"{number}": f"{number}.jpg"},
        }
    (folder / "authors.json").write_text(json.dumps(document))
    arrays = folder / "arrays.npz"
    save_arrays(arrays, Attributes(np.arange(3), np.arange(3), np.eye(3, dtype=bool), np.array(["a", "b", "c"]), "s"))
    return {
        "authors": Kind(folder / "authors.json", lambda: read_authors([folder / "authors.json"]).key.tolist()),
        "attributes": Kind(arrays, lambda: load_arrays(arrays).patch.tolist(), vouched=True),
    }


def of_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Kind]:
    run = folders.write_rich_run(folder)
    begun = folder / "begun"
    begun.mkdir()
    for event, more in (
        ("submitted", {"job": "7"}),
        ("start", {}),
        ("failed", {"rank": 0, "error": "E: x"}),
        ("verdict", {"verdict": "requeue", "ends": []}),
    ):
        events.append_event(begun, event, **more)
    shutil.copytree(begun / "log", run / "log")
    (run / "counts.json").write_text('{"shards": 1, "bytes": 2, "waited_s": 0.5}')
    (folder / "site.yaml").write_text("partition: gpu\ndata: {root: /data}\nsetup: [module load cuda]\n")
    monkeypatch.setattr(run_state, "queue", lambda: {})
    monkeypatch.setenv("GLT_SITE", str(folder / "site.yaml"))

    def analysed() -> Run:
        try:
            return load_analysed(run)
        except ValueError as error:  # which the tables show beside the run's name
            raise DataError(f"{run}: {error}") from None

    def predicted() -> Any:
        try:
            return analysed().predictions("last", "val")["prediction"].tolist()
        except ValueError as error:
            raise DataError(f"{run}: {error}") from None

    def shown() -> Any:
        """The status, which one damaged run must not end, and what the others make of the run."""
        status.line_of(run, {})
        return load_resolved(run / "recipe.yaml"), run_state.recipe_of(run)

    def decided() -> Any:
        """What the batch script and the launcher decide by the events."""
        noted = events.read(begun)
        return requeue.decide(begun, cancelled=False), run_state.state_of(begun, noted, {}), noted

    def logged() -> Any:
        status.line_of(run, {})
        measured(run.parent, "digits_glt")
        next(_new_lines(run / "metrics.jsonl"))
        return analysed().metrics(), run_state.metric_lines(run)

    return {
        "recipe": Kind(run / "recipe.yaml", shown),
        "recipe of a table": Kind(run / "recipe.yaml", analysed),
        "meta": Kind(run / "meta.json", lambda: (status.line_of(run, {}), run_state.meta_of(run))),
        "meta of a table": Kind(run / "meta.json", analysed),
        "done": Kind(run / "done", lambda: (read_object(run / "done", {}), measured(run.parent, "digits_glt"))),
        "metrics": Kind(run / "metrics.jsonl", logged),
        "events": Kind(begun / "log" / "events.jsonl", decided),
        "end": Kind(run / "log" / "events.jsonl", lambda: analysed().ended()),
        "predictions": Kind(run / "preds" / "last" / "val.npz", predicted, vouched=True),
        "counts": Kind(run / "counts.json", lambda: NodeCache("http://x", "x", run, 1).counts()),
        "site": Kind(folder / "site.yaml", site_file.load),
    }


def damaged(whole: bytes, seed: str) -> list[bytes]:
    """The content with a flipped bit, a half of it, and what is none."""
    dice = random.Random(seed)
    found = [*WRECKS, whole[: len(whole) // 2]]
    for _ in range(FLIPS):
        at = dice.randrange(len(whole))
        bit = 7 if dice.random() < 0.3 else dice.randrange(7)
        found.append(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    return found


@pytest.mark.parametrize("room", ["data set", "imagenet", "coco", "run"])
def test_a_damaged_file_is_refused_in_one_sentence_or_read(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same content, or one line that names the file; where no digest vouches for the content, another one too."""
    kinds = {
        "data set": lambda: data_set(tmp_path),
        "imagenet": lambda: of_imagenet(tmp_path),
        "coco": lambda: of_coco(tmp_path),
        "run": lambda: of_a_run(tmp_path, monkeypatch),
    }[room]()
    for name, kind in kinds.items():
        whole, content = kind.path.read_bytes(), kind.read()
        refused = 0
        for data in damaged(whole, name):
            kind.path.write_bytes(data)
            try:
                found = kind.read()
            except UserError as error:
                refused += 1
                assert kind.path.name in str(error) and "\n" not in str(error), (name, str(error))
                str(error).encode()
            else:
                assert not kind.vouched or found == content, (name, data[:200])
        kind.path.write_bytes(whole)
        assert kind.read() == content
        assert refused or name in ("listing", "features", "clusters", "events", "end", "counts"), name


def test_a_deeply_nested_recipe_does_not_crash_the_tables(tmp_path: Path) -> None:
    """The C loader of YAML has no limit of its own, and would take the process with it."""
    run = folders.write_rich_run(tmp_path)
    (run / "recipe.yaml").write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match=r"recipe.yaml cannot be read"):
        load_analysed(run)


@pytest.mark.parametrize(
    "data, said",
    [
        (b'{"a": "\xc3\xa4\xe4"}', "at byte offset 9: byte 0xe4 is no text in UTF-8"),
        ('{"ä": 1, }'.encode(), "at byte offset 10: "),
        (b'\xef\xbb\xbf{"a": }', "at byte offset 9: "),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "'b' is given twice in one object, as its entries 1 and 3"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b"1" * 5000, "a number in it has more than 4300 digits"),
        (rb'{"a": ["\ud800"]}', "at byte offset 8: it holds half of a character"),
        (rb'{"\uD800": 1}', "at byte offset 2: it holds half of a character"),
        (rb'{"a": "\uDbFf\u0041"}', "at byte offset 7: it holds half of a character"),
        (rb'{"a": "\uD83D\uDE00\uDe00"}', "at byte offset 19: it holds half of a character"),
        (rb'{"a": "\\ud800\udc00"}', "at byte offset 14: it holds half of a character"),
    ],
)
def test_the_sentence_says_where(data: bytes, said: str, tmp_path: Path) -> None:
    """A file that is no JSON is named with the byte, which characters of several bytes do not shift."""
    (tmp_path / "meta.json").write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_object(tmp_path / "meta.json", {})
    assert str(caught.value).startswith(f"{tmp_path / 'meta.json'} is damaged ({said}")
    assert parse_json(b'\xef\xbb\xbf{"a": "\xc3\xa4"}') == {"a": "ä"}


def test_only_halves_of_characters_are_refused() -> None:
    """Pairs in either case are characters, and after a backslash of its own `ud800` is text."""
    assert parse_json(rb'["\ud83d\ude00", "\uD83D\uDE00", "\uDBff\udFFF", "\\ud800", "\\\\uD800", "\ud7ff\ue000"]') == [
        "\U0001f600",
        "\U0001f600",
        "\U0010ffff",
        "\\ud800",
        "\\\\uD800",
        "\ud7ff\ue000",
    ]


@pytest.mark.parametrize(
    "value, check, said",
    [
        (True, whole_number, "True, not a whole number from 0 to 9223372036854775807"),
        (float("inf"), whole_number, "inf, not a whole number"),
        (1.5, whole_number, "1.5, not a whole number"),
        ("²", whole_number, "'²', not a whole number"),
        ("9" * 20, whole_number, "not a whole number"),
        (-1, whole_number, "-1, not a whole number"),
        (True, real_number, "True, not a number"),
        (float("nan"), real_number, "nan, not a number from"),
        (10**400, real_number, "not a number from"),
        ("1", real_number, "'1', not a number"),
        ("", text, "'', not a text"),
        ([], text, "list, not a text"),
    ],
)
def test_a_foreign_number_is_checked_where_it_is_read(
    value: Any, check: Callable[[Any], Any], said: str, tmp_path: Path
) -> None:
    """A value that is not what it should be is named with its file, place and key."""
    (tmp_path / "x.json").write_text(json.dumps([{"width": value}]))
    content = read_foreign(tmp_path / "x.json", "legal")
    with pytest.raises(DataError) as caught:
        Entry(tmp_path / "x.json", "images[0]", content[0]).get("width", check)
    assert f"{tmp_path / 'x.json'}: images[0] has the width " in str(caught.value) and said in str(caught.value)
    assert [whole_number(good) for good in (640, 640.0, "640")] == [640] * 3 and real_number(1) == 1.0


def test_a_set_whose_dataset_json_is_damaged_can_be_built_again(tmp_path: Path) -> None:
    """For a build it is as if the set were not there; whoever opens it is told the command."""
    root = toy.build(tmp_path).parent
    path = root / "toy" / "dataset.json"
    whole = path.read_bytes()
    options = json.loads(whole)["build"]
    assert is_built(root, "toy", options)
    for at in (whole.index(b"class 1"), whole.index(b'"samples"') + 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :])
        assert not is_built(root, "toy", options)
        with pytest.raises(DataError, match=f"{path} is damaged .at byte offset {at}: byte 0x[0-9a-f]+ is no text in"):
            read_dataset(root, "toy", "BUILD")
    path.write_bytes(whole.replace(b"class 1", b"class 7"))
    with pytest.raises(DataError, match=r"does not have its own digest: something in it was changed.; run: BUILD"):
        read_dataset(root, "toy", "BUILD")
    without = json.loads(whole)
    del without["digest"]  # sets of before there was one
    path.write_text(json.dumps(without))
    assert read_dataset(root, "toy").meta == without and is_built(root, "toy", options)
    shutil.rmtree(root)
