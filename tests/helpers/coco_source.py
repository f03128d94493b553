"""Sources for the tests of mscoco_glt in COCO's own formats: images, instances JSON, COCO-Attributes' joblib pickle.

Also plain attribute vectors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np
from PIL import Image

SIZES = {
    "person": 65000,
    "car": 7666,
    "truck": 5654,
    "motorcycle": 5524,
    "sheep": 5428,
    "horse": 5323,
    "cow": 5183,
    "broccoli": 5074,
    "elephant": 4973,
    "dog": 4969,
    "giraffe": 4889,
    "pizza": 4851,
    "bus": 4808,
    "zebra": 4788,
    "cat": 4773,
    "cake": 4701,
    "banana": 4649,
    "bird": 4578,
    "train": 4337,
    "donut": 4164,
    "boat": 3949,
    "airplane": 3648,
    "sandwich": 3636,
    "bicycle": 3368,
    "orange": 3305,
    "carrot": 3043,
    "apple": 2821,
    "hot dog": 1966,
    "bear": 1358,
}
"""The data set's classes, in the order of its class ids, with their objects in COCO 2014 (188,426 together)."""

ATTRIBUTES = 204


def vectors(classes: Sequence[int], seed: int) -> np.ndarray:
    """Make attribute values float64 [N, 204] in 0 to 1 for objects of `classes` [N].

    They are sparse and long-tailed in every class; some attributes are frequent in most classes, some in few. An object
    has about 8 attributes on average, some objects have none.
    """
    rng = np.random.default_rng(seed)
    classes = np.asarray(classes)
    present = np.zeros((len(classes), ATTRIBUTES), bool)
    for k in np.unique(classes).tolist():
        rank = np.argsort(
            np.argsort(np.arange(ATTRIBUTES) + np.random.default_rng([seed, k]).normal(0, 40, ATTRIBUTES))
        )
        chance = np.minimum(0.7, 1.5 / (1 + rank))
        members = np.flatnonzero(classes == k)
        present[members] = rng.random((len(members), ATTRIBUTES), np.float32) < chance
    present[rng.random(len(classes)) < 0.02] = False
    level = rng.integers(0, 3, present.shape, np.uint8)
    return np.where(present, 0.6 + 0.2 * level, 0.25 * level)  # 0.5 itself is not present


def write(root: Path, per_class: Sequence[int] | dict[str, int], seed: int = 0, per_image: int = 3) -> Path:
    """Fill `root` with train2014/, val2014/, annotations/ and cocottributes_py3.jbl; return the path of the latter.

    Each of the 29 classes has `per_class` objects.

    Images hold up to `per_image` objects of any classes at random places; some are grayscale. Patch ids are not
    annotation ids; every image has one more annotation that has no patch, and there is a category without any.
    """
    counts = list(per_class.values()) if isinstance(per_class, dict) else list(per_class)
    rng = np.random.default_rng([seed, 1])
    classes = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    categories = [
        {"id": 3 * k + 1, "name": name, "supercategory": "thing"} for k, name in enumerate([*SIZES, "toaster"])
    ]
    documents = {"train2014": ([], []), "val2014": ([], [])}
    patches: dict[int, int] = {}
    for name in documents:
        (root / name).mkdir(parents=True)
    for first in range(0, len(classes), per_image):
        image_id = 1000 + 7 * (first // per_image)
        part = "val2014" if image_id % 3 == 0 else "train2014"
        images, annotations = documents[part]
        width, height = rng.integers(60, 260, 2).tolist()
        file = f"COCO_{part}_{image_id:012d}.jpg"
        colour = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(colour).resize((width, height), Image.Resampling.BICUBIC)
        (picture.convert("L") if image_id % 5 == 0 else picture).save(root / part / file, quality=90)
        images.append(
            {
                "license": 1,
                "file_name": file,
                "coco_url": "",
                "height": height,
                "width": width,
                "date_captured": "",
                "flickr_url": "",
                "id": image_id,
            }
        )
        end = min(first + per_image, len(classes))
        for i in range(first, end + 1):  # the last one has no patch
            x, y = rng.uniform(0, width - 12), rng.uniform(0, height - 12)
            w, h = rng.uniform(8, width - x), rng.uniform(8, height - y)
            annotation_id = 50000 + 3 * i + (i == end)
            annotations.append(
                {
                    "segmentation": [[x, y, x + w, y, x + w, y + h]],
                    "area": w * h / 2,
                    "iscrowd": 0,
                    "image_id": image_id,
                    "bbox": [round(x, 2), round(y, 2), round(w, 2), round(h, 2)],
                    "category_id": categories[int(classes[i]) if i < end else -1]["id"],
                    "id": annotation_id,
                }
            )
            if i < end:
                patches[900000 - i] = annotation_id
    (root / "annotations").mkdir()
    for part, (images, annotations) in documents.items():
        text = json.dumps(
            {"info": {}, "images": images, "licenses": [], "annotations": annotations, "categories": categories}
        )
        (root / "annotations" / f"instances_{part}.json").write_text(text)
    return attribute_file(root / "cocottributes_py3.jbl", patches, vectors(classes, seed))


def attribute_file(path: Path, patches: dict[int, int], values: np.ndarray) -> Path:
    """Write COCO-Attributes' dictionary with the original's keys.

    `patches` maps patch to annotation id; `values` [N, 204] are their vectors in this order.
    """
    joblib.dump(
        {
            "ann_vecs": dict(zip(patches, values, strict=True)),
            "patch_id_to_ann_id": patches,
            "attributes": [{"id": 10 + a, "name": f"attribute {a}"} for a in range(values.shape[1])],
            "split": {patch: "train2014" if i % 2 else "val2014" for i, patch in enumerate(patches)},
        },
        path,
    )
    return path
