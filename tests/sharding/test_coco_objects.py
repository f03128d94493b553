"""COCO-Attributes read without running it, COCO's annotations joined with it, and the crop of an object: every rule and
every refusal.
"""

from __future__ import annotations

import collections
import functools
import gzip
import io
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from PIL import Image

from recipes.common.errors import DataError
from sharding.datasets.mscoco_glt.attributes import (
    ORIGINAL,
    Attributes,
    load_arrays,
    main,
    plain_arrays,
    read_pickle,
    save_arrays,
)
from sharding.datasets.mscoco_glt.objects import crop, crop_box, read_objects
from sharding.images.decoders import decode
from sharding.images.encoding import encoded
from tests.helpers import coco_source

COUNTS = [9, 8] + [4] * 26 + [3]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of 124 objects."""
    root = tmp_path_factory.mktemp("coco")
    coco_source.write(root, COUNTS)
    return root


@pytest.fixture(scope="module")
def attributes(source: Path) -> Attributes:
    return plain_arrays(source / "cocottributes_py3.jbl", source / "arrays.npz")


@pytest.fixture()
def copy(source: Path, tmp_path: Path) -> Path:
    """The folder again, to be damaged."""
    shutil.copytree(source, tmp_path / "coco")
    return tmp_path / "coco"


# ----------------------------------------------------------------------------------------------------- attribute file
def test_the_file_becomes_plain_arrays(source: Path, attributes: Attributes) -> None:
    """Patches in the file's order, their annotations, and which values are above 0.5 (0.5 is not), as joblib itself
    reads them.
    """
    content = joblib.load(source / "cocottributes_py3.jbl")
    assert attributes.patch.tolist() == list(content["ann_vecs"])
    assert attributes.annotation.tolist() == [content["patch_id_to_ann_id"][patch] for patch in content["ann_vecs"]]
    assert (
        (attributes.present == (np.stack(list(content["ann_vecs"].values())) > 0.5)).all()
        and attributes.present.any()
        and not attributes.present.all()
    )
    assert attributes.name.tolist() == [entry["name"] for entry in content["attributes"]]
    assert (np.stack(list(content["ann_vecs"].values())) == 0.5).any()


def test_the_arrays_are_taken_directly(
    source: Path, attributes: Attributes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """attributes=FILE.npz needs no pickle; a pickle read once is not read again, one that changed is; the same arrays
    give the same bytes.
    """
    direct = plain_arrays(source / "arrays.npz", tmp_path / "none.npz")
    assert direct.patch.tolist() == attributes.patch.tolist() and not (tmp_path / "none.npz").exists()
    save_arrays(tmp_path / "again.npz", direct)
    assert (tmp_path / "again.npz").read_bytes() == (source / "arrays.npz").read_bytes()
    capfd.readouterr()
    plain_arrays(source / "cocottributes_py3.jbl", source / "arrays.npz")
    assert capfd.readouterr().out == ""
    coco_source.attribute_file(tmp_path / "other.jbl", {1: 2}, np.ones((1, 204)))
    shutil.copy(source / "arrays.npz", tmp_path / "stale.npz")
    assert len(plain_arrays(tmp_path / "other.jbl", tmp_path / "stale.npz")) == 1
    assert "is not the published file" in capfd.readouterr().out and len(ORIGINAL) == 64


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_everything_plain_is_read(tmp_path: Path, protocol: int) -> None:
    """Any protocol's containers, numbers, text, bytes and arrays of every plain type, order and byte order come out as
    joblib's own reading gives them.
    """
    content = {
        "ints": [1, -2, 2**40, 2**80],
        "floats": (0.5, float("inf")),
        "text": "Ä",
        "bytes": b"\x00\xff",
        "none": None,
        "truth": [True, False],
        "set": {1, 2},
        "frozen": frozenset({3}),
        "ordered": collections.OrderedDict(a=1),
        "scalars": [np.int64(4), np.float32(0.25), np.bool_(True)],
        "arrays": [
            np.arange(6.0).reshape(2, 3),
            np.asfortranarray(np.arange(6).reshape(2, 3)),
            np.arange(3, dtype=">i2"),
            np.array(["a", "bc"]),
            np.zeros((0, 3)),
            np.array(True),
        ],
    }
    joblib.dump(content, tmp_path / "plain.jbl", protocol=protocol)
    found, wanted = read_pickle(tmp_path / "plain.jbl"), joblib.load(tmp_path / "plain.jbl")
    for mine, theirs in zip(found.pop("arrays"), wanted.pop("arrays"), strict=True):
        assert mine.shape == theirs.shape and mine.dtype.kind == theirs.dtype.kind and (mine == theirs).all()
    assert found == wanted


class _Runs:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _hidden_in_objects(mark: Path) -> Any:
    return np.array([_Runs(os.mkdir, str(mark))], dtype=object)


def _by_state(mark: Path) -> Any:
    return _Built(mark)


class _Built(dict):
    """Asks for a state, and for `dict` of another module."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.mark = str(mark)


ATTACKS = {
    "call": lambda mark: _Runs(os.mkdir, str(mark)),
    "eval": lambda mark: _Runs(eval, f"__import__('os').mkdir({str(mark)!r})"),
    "object array": _hidden_in_objects,
    "partial": lambda mark: functools.partial(os.mkdir, str(mark)),
    "getattr": lambda mark: _Runs(getattr, Path, "home"),
    "state": _by_state,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_malicious_pickle_runs_nothing(attack: str, source: Path, tmp_path: Path) -> None:
    """A file that asks for any call, import or state, inside a whole COCO-Attributes dictionary, is refused in one
    sentence, and nothing of it ran.
    """
    mark, bad = tmp_path / "ran", tmp_path / "bad.jbl"
    joblib.dump(joblib.load(source / "cocottributes_py3.jbl") | {"extra": ATTACKS[attack](mark)}, bad)
    with pytest.raises(DataError, match=r"bad.jbl is refused: its pickle asks for .*nothing of it was run"):
        read_pickle(bad)
    assert not mark.exists()
    if attack in ("call", "eval", "object array"):  # the attack is a real one
        joblib.load(bad)
        assert mark.exists()


def test_the_reading_process_refuses_too(tmp_path: Path) -> None:
    """Through the process of its own: a call is refused with the same sentence, a request for 8 GiB ends by the
    process's limit; no arrays are left.
    """
    joblib.dump({"ann_vecs": _Runs(os.mkdir, str(tmp_path / "ran"))}, tmp_path / "bad.jbl")
    with pytest.raises(
        DataError, match=r"^[^\n]*bad.jbl is refused: its pickle asks for posix.mkdir, [^\n]*nothing of it was run$"
    ):
        plain_arrays(tmp_path / "bad.jbl", tmp_path / "out.npz")
    (tmp_path / "bomb.jbl").write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**33) + b"x.")
    with pytest.raises(DataError, match=r"^[^\n]*bomb.jbl needs more memory than 8 times its size[^\n]*$"):
        plain_arrays(tmp_path / "bomb.jbl", tmp_path / "out.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jbl", "bomb.jbl"]


@pytest.mark.parametrize("packing", ["zlib", "gzip", "bz2", "xz", "lzma"])
def test_a_packed_file_is_said_to_be_packed(packing: str, tmp_path: Path) -> None:
    """What joblib wrote with compress= is no damaged file: the sentence says how to unpack it."""
    joblib.dump({"ann_vecs": {}}, tmp_path / "packed.jbl", compress=(packing, 3))
    said = {"bz2": "bzip2"}.get(packing, packing)
    with pytest.raises(DataError, match=f"packed.jbl is packed by {said}, and only the unpacked file is read: joblib"):
        read_pickle(tmp_path / "packed.jbl")


def _raw(*opcodes: bytes) -> bytes:
    return b"\x80\x02" + b"".join(opcodes) + b"."


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(_raw(b"cos\nsystem\n", b"X\x04\x00\x00\x00true", b"\x85R"), id="global"),
        pytest.param(_raw(b"(X\x04\x00\x00\x00trueios\nsystem\n"), id="inst"),
        pytest.param(_raw(b"cbuiltins\nset\n", b"}X\x01\x00\x00\x00aK\x01sb"), id="state of a class"),
        pytest.param(
            _raw(b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n", b"}X\x04\x00\x00\x00readK\x01sb"),
            id="state of the header's class",
        ),
        pytest.param(_raw(b"cnumpy\nndarray\n", b"K\x03\x85R"), id="ndarray"),
        pytest.param(_raw(b"X\x02\x00\x00\x00idQ"), id="persistent id"),
        pytest.param(_raw(b"\x82\x01"), id="extension"),
        pytest.param(_raw(b"cbuiltins\nset.__class__\n"), id="dotted name"),
    ],
)
def test_opcodes_reach_nothing(code: bytes, tmp_path: Path) -> None:
    """Opcodes by hand: a name, an instance, states of classes, numpy's own constructor, persistent ids, extension
    codes.
    """
    (tmp_path / "raw.jbl").write_bytes(code)
    with pytest.raises(DataError, match=r"raw.jbl is (refused|cut off)"):
        read_pickle(tmp_path / "raw.jbl")


def test_an_array_cannot_claim_what_the_file_has_not(tmp_path: Path) -> None:
    """A header of a petabyte is refused before anything of the size is asked for."""
    joblib.dump({"a": np.zeros(1000)}, tmp_path / "big.jbl", protocol=2)
    data = (tmp_path / "big.jbl").read_bytes()
    assert data.count(b"M\xe8\x03") == 1  # the shape
    (tmp_path / "big.jbl").write_bytes(data.replace(b"M\xe8\x03", b"\x8a\x07" + struct.pack("<q", 10**15)[:7]))
    with pytest.raises(DataError, match="longer than the rest of the file"):
        read_pickle(tmp_path / "big.jbl")


def test_truncation_anywhere_is_one_sentence(source: Path, tmp_path: Path) -> None:
    """A file that ends early is never taken for a whole one, wherever it ends."""
    data = (source / "cocottributes_py3.jbl").read_bytes()
    for end in [0, 1, 2, 10, 200, len(data) // 3, len(data) // 2, len(data) - 1000, len(data) - 1]:
        (tmp_path / "cut.jbl").write_bytes(data[:end])
        with pytest.raises(DataError, match=r"cut.jbl is cut off, damaged or no joblib pickle"):
            read_pickle(tmp_path / "cut.jbl")


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda c: c.pop("ann_vecs"), "it lacks ann_vecs"),
        (
            lambda c: c["ann_vecs"].update({str(next(iter(c["ann_vecs"]))): next(iter(c["ann_vecs"].values()))}),
            "twice, as its entries 0 and",
        ),
        (lambda c: c.update(ann_vecs={}), "not empty"),
        (
            lambda c: c["ann_vecs"].update({7: np.ones(203)}),
            "ann_vecs of patch 7 is not a vector of 204 numbers in 0 to 1",
        ),
        (lambda c: c["ann_vecs"].update({7: np.full(204, 1.5)}), "patch 7"),
        (lambda c: c["ann_vecs"].update({7: np.full(204, np.nan)}), "patch 7"),
        (lambda c: c["ann_vecs"].update({7: "x"}), "patch 7"),
        (lambda c: c["ann_vecs"].update({"seven": np.ones(204)}), "id 'seven'"),
        (lambda c: c["patch_id_to_ann_id"].update({7: -1}), "id -1"),
        (lambda c: c.update(attributes=[{"id": 1}]), "not legal .'name'."),
        (lambda c: c["attributes"][0].update(name="red\ud800"), "attribute's name is not legal"),
    ],
)
def test_another_dictionary_is_refused(
    change: Callable[[dict[str, Any]], Any],
    sentence: str,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Keys, vectors and ids that COCO-Attributes does not have: one sentence, status 2, no arrays."""
    content = joblib.load(source / "cocottributes_py3.jbl")
    change(content)
    joblib.dump(content, tmp_path / "other.jbl")
    assert main([str(tmp_path / "other.jbl"), str(tmp_path / "out.npz"), "0" * 64]) == 2
    error = capsys.readouterr().err
    assert (
        "is not COCO-Attributes' file" in error
        and sentence.replace(".'name'.", "('name')") in error
        and error.count("\n") == 1
    )
    assert not (tmp_path / "out.npz").exists()


def test_files_that_are_not_the_attribute_file(tmp_path: Path) -> None:
    """A missing file, git's stand-in, a folder, and an .npz of something else."""
    with pytest.raises(DataError, match=r"none.jbl cannot be read .No such file"):
        plain_arrays(tmp_path / "none.jbl", tmp_path / "out.npz")
    (tmp_path / "lfs.jbl").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{ORIGINAL}\nsize 1261766525\n"
    )
    with pytest.raises(DataError, match="git's stand-in for a large file"):
        plain_arrays(tmp_path / "lfs.jbl", tmp_path / "out.npz")
    with pytest.raises(DataError, match=r"cannot be read .Is a directory"):
        plain_arrays(tmp_path, tmp_path / "out.npz")
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(DataError, match=r"other.npz cannot be used as arrays of COCO-Attributes: it lacks patch"):
        load_arrays(tmp_path / "other.npz")
    np.savez(tmp_path / "objects.npz", patch=np.array([{}], object), annotation=0, present=0, name=0, sha256="")
    with pytest.raises(DataError, match=r"objects.npz cannot be used"):
        load_arrays(tmp_path / "objects.npz")


# -------------------------------------------------------------------------------------------------------------- objects
def test_objects_are_joined(source: Path, attributes: Attributes) -> None:
    """Each object has its annotation's image, box and class; classes are numbered by size, ties by name."""
    objects = read_objects(source, attributes)
    assert len(objects) == sum(COUNTS) and objects.left_out == 0
    documents = [
        json.loads((source / "annotations" / f"instances_{part}.json").read_text()) for part in ("train2014", "val2014")
    ]
    annotations = {entry["id"]: entry for document in documents for entry in document["annotations"]}
    images = {entry["id"]: entry for document in documents for entry in document["images"]}
    names = {entry["id"]: entry["name"] for entry in documents[0]["categories"]}
    for i in range(len(objects)):
        entry = annotations[int(objects.annotation[i])]
        image = images[entry["image_id"]]
        assert (objects.image[i], objects.box[i].tolist(), objects.size[i].tolist()) == (
            image["id"],
            entry["bbox"],
            [image["width"], image["height"]],
        )
        assert objects.file[i].endswith(image["file_name"]) and (source / objects.file[i]).exists()
        assert objects.names[objects.label[i]] == names[entry["category_id"]]
    assert objects.names == ["person", "car", *sorted(set(coco_source.SIZES) - {"person", "car", "bear"}), "bear"]
    assert np.bincount(objects.label).tolist() == COUNTS
    assert objects.patch.tolist() == attributes.patch.tolist() and (objects.present == attributes.present).all()


def test_the_real_sizes_give_the_papers_order() -> None:
    """By size and name, the 29 classes come in the paper's order of class ids."""
    assert (
        sorted(coco_source.SIZES, key=lambda name: (-coco_source.SIZES[name], name)) == list(coco_source.SIZES)
        and sum(coco_source.SIZES.values()) == 188426
    )


def _edit(root: Path, part: str, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "annotations" / f"instances_{part}.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def _first(document: dict[str, Any]) -> dict[str, Any]:
    return document["annotations"][0]


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda d: _first(d).update(bbox=[3, 3, 0, 9]), "has the box .3.0, 3.0, 0.0, 9.0., which has no size"),
        (lambda d: _first(d).update(bbox=[3, 3, 5, -9]), "which has no size"),
        (lambda d: _first(d).update(bbox=[1, 2, 3]), "which has no size"),
        (
            lambda d: _first(d).update(bbox=[float("nan"), 2, 3, 4]),
            "annotations.0. has the bbox nan, not a number from",
        ),
        (lambda d: _first(d).update(bbox=[9999, 3, 5, 9]), "lies outside its image"),
        (lambda d: _first(d).update(bbox="no"), "annotations.0. has the bbox 'no', not a list"),
        (lambda d: _first(d).update(image_id=5), "is of image 5, which the file does not list"),
        (lambda d: _first(d).update(category_id=2), "is of category 2, which the file does not list"),
        (lambda d: d.pop("images"), "instances_train2014.json: the file lacks images"),
        (
            lambda d: d["annotations"].append(d["annotations"][0]),
            r"annotation [0-9]+ occurs twice, in annotations.0. of .*/instances_train2014.json and in annotations.[0-9]"
            r"+. of .*/instances_train2014.json",
        ),
        (lambda d: d.update(annotations=[]), "patches of the attribute file have no annotation in"),
        (
            lambda d: [a.update(category_id=1) for a in d["annotations"]],
            "are of [0-9]+ categories .* COCO-Attributes has 29",
        ),
        (
            lambda d: d["images"].append({**d["images"][0], "file_name": "larger.jpg"}),
            r"image [0-9]+ occurs twice, in images.0. of .* and in images.[0-9]+. of",
        ),
        (
            lambda d: d["images"].append({**d["images"][0], "id": 1014, "file_name": "more.jpg"}),
            "image 1014 occurs twice, in images.* of .*train2014.* and in .*val2014",
        ),
        (lambda d: d["categories"][3].update(id=1), "^category 1 occurs twice, in categories.0. of .* and in categ"),
        (lambda d: d["categories"][3].update(name="person"), "^category 'person' occurs twice, in categories.0. of"),
        (lambda d: d["categories"][0].update(name="man"), "category 1 is 'man' in .*train2014.* and 'person' in .*val"),
        (lambda d: d["images"][0].update(width=float("inf")), "images.0. has the width inf, not a whole number from 1"),
        (lambda d: d["images"][0].update(height=480.5), "images.0. has the height 480.5, not a whole number from 1"),
        (lambda d: d["images"][0].update(height=True), "images.0. has the height True, not a whole number from 1"),
        (lambda d: d["images"][0].update(height=70_000), "has the height 70000, not a whole number from 1 to 65535"),
        (lambda d: d["images"][0].update(id=2**63), "images.0. has the id 9223372036854775808, not a whole number"),
        (lambda d: d["images"].append(7), "images.[0-9]+. is 7, not an object"),
        (lambda d: _first(d).update(bbox=[10**400, 2, 3, 4]), "annotations.0. has the bbox 1000+.*, not a number from"),
    ],
)
def test_bad_annotations_are_one_sentence(
    change: Callable[[dict[str, Any]], Any], sentence: str, copy: Path, attributes: Attributes
) -> None:
    _edit(copy, "train2014", change)
    with pytest.raises(DataError, match=sentence) as caught:
        read_objects(copy, attributes)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files_are_one_sentence(copy: Path, attributes: Attributes) -> None:
    """An image that is not there is named with the annotation that needs it, before anything is written; so are folders
    and files.
    """
    image = next((copy / "train2014").iterdir())
    data = image.read_bytes()
    image.unlink()
    with pytest.raises(DataError, match=f"annotation [0-9]+ in .* is of image .*{image.name}, which is not there"):
        read_objects(copy, attributes)
    image.write_bytes(data)
    shutil.rmtree(copy / "val2014")
    with pytest.raises(
        DataError, match=r"val2014 cannot be read .No such file or directory.; source= is a folder with"
    ):
        read_objects(copy, attributes)
    path = copy / "annotations" / "instances_train2014.json"
    path.write_text(path.read_text()[:5000])
    with pytest.raises(DataError, match=r"instances_train2014.json is no whole JSON file"):
        read_objects(copy, attributes)
    path.unlink()
    with pytest.raises(
        DataError,
        match=r"instances_train2014.json cannot be read .No such file or directory.; source= is a folder with",
    ):
        read_objects(copy, attributes)


def test_a_key_given_twice_is_refused(copy: Path, attributes: Attributes) -> None:
    """Python keeps the last of two values of one key; here the file is refused, with both places."""
    path = copy / "annotations" / "instances_val2014.json"
    path.write_text(path.read_text().replace('"width": ', '"id": 5, "width": ', 1))
    with pytest.raises(
        DataError, match=r"instances_val2014.json is no whole JSON file: 'id' is given twice in one object"
    ):
        read_objects(copy, attributes)
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"instances_val2014.json is no whole JSON file: it is compressed by gzip"):
        read_objects(copy, attributes)


def test_an_image_file_with_two_entries_is_counted(copy: Path, attributes: Attributes) -> None:
    """Two image ids of one file are doubtful: its objects may stand under two ids."""
    _edit(copy, "val2014", lambda d: d["images"].append({**d["images"][0], "id": 5}))
    name = json.loads((copy / "annotations" / "instances_val2014.json").read_text())["images"][0]["file_name"]
    assert read_objects(copy, attributes).notices.lines() == [
        f"1 taken, but doubtful: image files with two entries in an instances file (val2014/{name})"
    ]


def test_few_patches_without_annotation_are_counted(source: Path, attributes: Attributes) -> None:
    """At most one in a hundred patches may have no annotation; it is left out and counted."""
    annotation = attributes.annotation.copy()
    annotation[4] = 1
    objects = read_objects(source, Attributes(attributes.patch, annotation, attributes.present, attributes.name, ""))
    assert objects.left_out == 1 and len(objects) == len(attributes) - 1 and attributes.patch[4] not in objects.patch
    assert objects.notices.lines() == [
        f"1 left out: patches without an annotation in COCO 2014 ({attributes.patch[4]})"
    ]
    annotation[5] = -1
    with pytest.raises(DataError, match="2 of 124 patches of the attribute file have no annotation"):
        read_objects(source, Attributes(attributes.patch, annotation, attributes.present, attributes.name, ""))


# ----------------------------------------------------------------------------------------------------------------- crop
@pytest.mark.parametrize(
    "box, size, wanted",
    [
        ((200, 200, 99, 99), (640, 480), (150, 150, 349, 349)),  # under 100 pixels: 50 on both sides
        ((200, 150, 100, 100), (640, 480), (180, 130, 320, 270)),  # 100 and more: a fifth of its size on both sides
        (
            (200, 100, 200, 50),
            (640, 480),
            (160, -15, 440, 265),
        ),  # each axis by itself, then to a square around the middle: 280 x 150, 65 above and below
        ((0, 0, 50, 50), (640, 480), (0, 0, 100, 100)),  # clipped to the image before it becomes a square
        ((600, 100, 40, 200), (640, 480), (550 - 95, 60, 550 - 95 + 280, 340)),
        ((10, 10, 30, 30), (60, 40), (0, -10, 60, 50)),
        ((10.4, 10.6, 20.2, 300), (100, 480), (-145, 0, 226, 371)),
    ],
)
def test_crop_boxes(box: tuple[float, ...], size: tuple[int, int], wanted: tuple[int, ...]) -> None:
    assert crop_box(box, *size) == wanted


def test_crops_are_square_pixels_of_the_image_on_black() -> None:
    """A crop's pixels are the image's own, black outside; gray images become RGB; a box's crop always has the box in it
    and is a square.
    """
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (40, 60, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    found = np.asarray(crop(buffer.getvalue(), (10, 10, 30, 30), (60, 40)))
    assert (
        found.shape == (60, 60, 3) and (found[10:50] == pixels).all() and not found[:10].any() and not found[50:].any()
    )
    gray = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(gray, "JPEG")
    assert crop(gray.getvalue(), (10, 10, 30, 30), (60, 40)).mode == "RGB"
    for _ in range(300):
        width, height = rng.integers(1, 700, 2).tolist()
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        w, h = rng.uniform(0.01, width - x), rng.uniform(0.01, height - y)
        left, top, right, bottom = crop_box((x, y, w, h), width, height)
        assert (
            right - left == bottom - top > 0
            and left <= round(x)
            and top <= round(y)
            and right >= round(x + w)
            and bottom >= round(y + h)
        )
    with pytest.raises(ValueError, match="the image has 60x40 pixels, its annotation says 61x40"):
        crop(buffer.getvalue(), (10, 10, 30, 30), (61, 40))


def test_the_square_of_an_object_in_an_extreme_image_is_bounded() -> None:
    """A box as wide as a 65500x1 image would be a black square of 13 GB: it is refused before anything is decoded."""
    with pytest.raises(ValueError, match=r"square of 65500x65500 pixels, .* exceeds the limit of 64000000"):
        crop(b"", (0, 0, 65500, 1), (65500, 1))


def test_jpegs_are_pillows() -> None:
    """At quality 75 a crop has the bytes of Pillow's default, which the paper's crops were written with."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 30, 3), np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    assert encoded(image, 75) == buffer.getvalue() and decode(encoded(image, 75)).size == (30, 30)
