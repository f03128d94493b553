"""MSCOCO-GLT's splitting at full size: 188,426 objects of the paper's class sizes with 204 planted attributes, every
count against the paper's tables.

    python -m tests.bench.coco_splitting [out=FOLDER] [seed=0] [read=no]

Also reads a COCO-Attributes pickle and instances files of that size (in FOLDER, 1 GB, written first and deleted at the
end; `read=no` leaves that out), and picks Test-GBL of the smallest class by the literal definition, for the ratio.
Prints times, peak memory and the attributes' std of each split.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sharding.datasets.mscoco_glt.attributes import plain_arrays
from sharding.datasets.mscoco_glt.objects import Objects, read_objects
from sharding.datasets.mscoco_glt.splits import greedy_pick, split, unevenness
from tests.bench.words import values_of
from tests.helpers import coco_source

COUNTS = {
    "glt": {"train": 144573, "val": 2900, "test_glt": 5800, "test_cbl": 5800, "test_gbl": 5800},
    "cbl": {"train": 32132, "val": 1450, "test_cbl": 2900, "test_gbl": 2900},
}
"""Facts of the paper's release; Test-CBL and Test-GBL hold 200 (glt) and 100 (cbl) of each class."""
POOL = [
    64600,
    7266,
    5254,
    5124,
    5028,
    4923,
    4783,
    4674,
    4573,
    4569,
    4489,
    4451,
    4408,
    4388,
    4373,
    3780,
    3128,
    2589,
    2142,
    1773,
    1467,
    1214,
    1005,
    831,
    688,
    569,
    471,
    390,
    323,
]
"""Train-GLT with Test-GLT and val still in it, by class."""


def used() -> float:
    """CPU seconds of this process and its ended children."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def timed(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    wall, cpu = time.perf_counter(), used()
    found = function(*arguments)
    print(
        f"{what}: {time.perf_counter() - wall:.1f} s ({used() - cpu:.1f} s of CPU), peak memory so far "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB",
        flush=True,
    )
    return found


def literal_pick(present: np.ndarray, count: int) -> list[int]:
    """The definition, candidate by candidate, in numpy's float64."""
    taken: list[int] = []
    counts = np.zeros(present.shape[1])
    for _ in range(count):
        best, least = -1, np.inf
        for row in range(len(present)):
            if row not in taken and present[row].any():
                both = counts + present[row]
                std = (both / (both.sum() + 1e-9)).std()
                if std < least:
                    best, least = row, std
        taken.append(best)
        counts += present[best]
    return taken


def write_source(folder: Path, labels: np.ndarray, values: np.ndarray) -> None:
    """Instances files of 886,000 annotations with polygons, as long as COCO's, with one (empty) image for each object
    pair; and the pickle.
    """
    rng = np.random.default_rng(7)
    count = len(labels)
    names = list(coco_source.SIZES)
    (folder / "annotations").mkdir(parents=True)
    polygon = [round(float(v), 2) for v in rng.uniform(0, 640, 60)]
    for number, part in enumerate(("train2014", "val2014")):
        (folder / part).mkdir()
        mine = np.arange(number, count, 2)
        images, annotations = [], []
        for position, i in enumerate(mine.tolist()):
            image = 10 * (i // 4) + number
            if position % 2 == 0:
                name = f"COCO_{part}_{image:012d}.jpg"
                (folder / part / name).touch()
                images.append(
                    {
                        "file_name": name,
                        "id": image,
                        "width": 640,
                        "height": 480,
                        "license": 3,
                        "coco_url": "",
                        "date_captured": "2013-11-14 17:02:52",
                        "flickr_url": "",
                    }
                )
            annotations.append(
                {
                    "segmentation": [polygon],
                    "area": 5000.0,
                    "iscrowd": 0,
                    "image_id": image,
                    "bbox": [100.5, 80.25, 120.0, 99.5],
                    "category_id": int(labels[i]) + 1,
                    "id": 8 * i,
                }
            )
            annotations += [
                {**annotations[-1], "id": 8 * i + 1 + k} for k in range(4 if position % 4 else 3)
            ]  # objects without attributes
        (folder / "annotations" / f"instances_{part}.json").write_text(
            json.dumps(
                {
                    "images": images,
                    "annotations": annotations,
                    "categories": [{"id": k + 1, "name": n} for k, n in enumerate(names)],
                }
            )
        )
    coco_source.attribute_file(folder / "cocottributes_py3.jbl", {1_000_000 + i: 8 * i for i in range(count)}, values)


def main(words: list[str]) -> int:
    asked = values_of(words, {"out": "", "seed": 0, "read": ("yes", "no")}, zero=("seed",))
    seed = asked["seed"]
    names = list(coco_source.SIZES)
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(29), list(coco_source.SIZES.values())))
    values = timed(f"planting {len(labels)} vectors", coco_source.vectors, labels, seed)
    present = values > 0.5
    print(f"{present.sum(1).mean():.1f} attributes an object, {(~present.any(1)).mean():.1%} without any")
    if asked["read"] == "yes":
        folder = Path(tempfile.mkdtemp(dir=asked["out"] or None))
        try:
            timed("writing the source", write_source, folder, labels, values)
            del values
            size = {
                path.name: f"{path.stat().st_size / 1e6:.0f} MB"
                for path in [folder / "cocottributes_py3.jbl", *(folder / "annotations").iterdir()]
            }
            print(f"files: {size}")
            attributes = timed(
                "the pickle to arrays, in its own process",
                plain_arrays,
                folder / "cocottributes_py3.jbl",
                folder / "arrays.npz",
            )
            print(
                "peak memory of that process, at most (what this one had before it began counts too): "
                f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20:.2f} GiB"
            )
            objects: Objects = timed("joining with the instances files", read_objects, folder, attributes)
            assert (
                objects.names == names
                and (objects.label == labels).all()
                and (objects.present == present).all()
                and objects.left_out == 0
            )
            labels, present, names = objects.label, objects.present, objects.names
        finally:
            shutil.rmtree(folder)
    dealt = timed("both editions' splits", split, labels, present, names, seed)
    wrong = 0
    print(f"{'split':16}{'objects':>9}{'published':>11}   std of the attributes' shares: of all, mean over classes")
    for edition, counts in COUNTS.items():
        assert set(dealt[edition]) == set(counts)
        each = {name: np.bincount(labels[part.rows], minlength=29) for name, part in dealt[edition].items()}
        for name, count in counts.items():
            rows = dealt[edition][name].rows
            wrong += len(rows) != count or len(np.unique(rows)) != count
            by_class = np.mean([unevenness(present[rows[labels[rows] == k]]) for k in range(29)])
            print(f"{edition + '/' + name:16}{len(rows):9}{count:11}   {unevenness(present[rows]):.4f}  {by_class:.4f}")
        test = 200 if edition == "glt" else 100
        wrong += each["test_cbl"].tolist() != [test] * 29 or each["test_gbl"].tolist() != [test] * 29
        wrong += (each["train"] + each["val"] + each.get("test_glt", 0)).tolist() != (
            POOL if edition == "glt" else [1158] * 29
        )
        wrong += len(np.unique(np.concatenate([part.rows for part in dealt[edition].values()]))) != sum(counts.values())
        wrong += unevenness(present[dealt[edition]["test_gbl"].rows]) >= unevenness(
            present[dealt[edition]["test_cbl"].rows]
        )
    wrong += not set(dealt["cbl"]["test_gbl"].rows.tolist()) <= set(dealt["glt"]["test_gbl"].rows.tolist())
    bear = present[labels == 28]
    start = time.process_time()
    fast = greedy_pick(bear, 20)
    middle = time.process_time()
    slow = literal_pick(bear, 20)
    end = time.process_time()
    same = sum(a == b for a, b in zip(fast.tolist(), slow, strict=True))
    print(
        f"20 picks of {len(bear)}: {middle - start:.3f} s, candidate by candidate {end - middle:.2f} s, "
        f"{(end - middle) / (middle - start):.0f} times; {same} of 20 picks alike (float ties go by rounding there)"
    )
    print("every count is the published one" if not wrong else f"{wrong} comparisons failed")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
