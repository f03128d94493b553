"""CIFAR's archives in their exact original format, with as many images as a test wants."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


def python2_pickle(value: Any) -> bytes:
    """Pickle as Python 2's cPickle did with protocol 2: text and the bytes of arrays as byte strings, all memoised."""
    memo = 0

    def put() -> bytes:
        nonlocal memo
        memo += 1
        return b"q" + bytes([memo - 1]) if memo <= 256 else b"r" + struct.pack("<I", memo - 1)

    def code(one: Any) -> bytes:
        if isinstance(one, dict):
            begin = b"}" + put() + b"("
            return begin + b"".join(code(key) + code(item) for key, item in one.items()) + b"u"
        if isinstance(one, list):
            begin = b"]" + put() + b"("
            return begin + b"".join(map(code, one)) + b"e"
        if isinstance(one, np.ndarray):
            return array(one)
        if isinstance(one, str | bytes):
            data = one.encode() if isinstance(one, str) else one
            return (
                (b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))) + data + put()
            )
        return b"K" + bytes([one]) if 0 <= one < 256 else b"J" + struct.pack("<i", one)

    def array(one: np.ndarray) -> bytes:
        made = b"cnumpy.core.multiarray\n_reconstruct\n" + put() + b"cnumpy\nndarray\n" + put()
        made += b"K\0\x85" + put() + code("b") + b"\x87" + put() + b"R" + put()
        shape = b"".join(map(code, one.shape)) + bytes([0x84 + one.ndim]) + put()
        kind = b"cnumpy\ndtype\n" + put() + code("u1") + b"K\0K\1\x87" + put() + b"R" + put()
        kind += b"(K\3" + code("|") + b"NNN" + (b"J" + b"\xff" * 4) * 2 + b"K\0t" + put() + b"b"
        return made + b"(K\1" + shape + kind + b"\x89" + code(one.tobytes()) + b"t" + put() + b"b"

    return b"\x80\x02" + code(value) + b"."


def cifar10(count: int, python: bool = True) -> tuple[dict[str, bytes], np.ndarray, list[int]]:
    """Return the files of CIFAR-10 with `count` images a batch, the pixels uint8 [6 count, 3, 32, 32], the labels."""
    rng = np.random.default_rng(10)
    pixels, labels = rng.integers(0, 256, (6 * count, 3072), np.uint8), rng.integers(0, 10, 6 * count).tolist()
    names = [f"class{i}" for i in range(10)]
    files: dict[str, bytes] = {}
    for number, batch in enumerate([*BATCHES, "test_batch"]):
        part = slice(number * count, (number + 1) * count)
        if python:
            content = {
                "batch_label": f"batch {number}",
                "labels": labels[part],
                "data": pixels[part],
                "filenames": [f"{i}.png" for i in range(count)],
            }
            files[batch] = python2_pickle(content)
        else:
            records = np.concatenate([np.array(labels[part], np.uint8)[:, None], pixels[part]], 1)
            files[f"{batch}.bin"] = records.tobytes()
    if python:
        files["batches.meta"] = python2_pickle({"num_cases_per_batch": count, "label_names": names, "num_vis": 3072})
    else:
        files["batches.meta.txt"] = ("\n".join(names) + "\n\n").encode()
    folder = "cifar-10-batches-py" if python else "cifar-10-batches-bin"
    return {f"{folder}/{name}": data for name, data in files.items()}, pixels.reshape(-1, 3, 32, 32), labels


def cifar100(count: int, python: bool = True) -> tuple[dict[str, bytes], np.ndarray, list[int], list[int]]:
    """Return the files of CIFAR-100, `count` images each of train and test, pixels, fine and coarse labels."""
    rng = np.random.default_rng(100)
    pixels = rng.integers(0, 256, (2 * count, 3072), np.uint8)
    fine, coarse = rng.integers(0, 100, 2 * count).tolist(), rng.integers(0, 20, 2 * count).tolist()
    names = {"fine_label_names": [f"f{i}" for i in range(100)], "coarse_label_names": [f"c{i}" for i in range(20)]}
    files: dict[str, bytes] = {}
    for number, split in enumerate(("train", "test")):
        part = slice(number * count, (number + 1) * count)
        if python:
            content = {"data": pixels[part], "coarse_labels": coarse[part], "fine_labels": fine[part]}
            files[split] = python2_pickle(content)
        else:
            labels = np.array([coarse[part], fine[part]], np.uint8).T
            files[f"{split}.bin"] = np.concatenate([labels, pixels[part]], 1).tobytes()
    if python:
        files |= {"meta": python2_pickle(names), "file.txt~": b""}
    else:
        files |= {f"{name}.txt": ("\n".join(lines) + "\n").encode() for name, lines in names.items()}
    folder = "cifar-100-python" if python else "cifar-100-binary"
    return {f"{folder}/{name}": data for name, data in files.items()}, pixels.reshape(-1, 3, 32, 32), fine, coarse


def archive(path: Path, files: dict[str, bytes]) -> Path:
    """Pack files to a .tar.gz as the authors did: the folder first."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        folder = tarfile.TarInfo(next(iter(files)).split("/")[0])
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
