"""imagenet_glt built from a small planted source, for its own tests and those of its build as a job."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from recipes.common.files import file_digest
from sharding import build
from sharding.datasets.imagenet_glt.archive import list_classes
from tests.helpers import sources

SIZES = {"n00000003": 96, "n00000011": 120, "n00000020": 110, "n00000030": 120, "n00000044": 90}
SCALE = 0.2


def planted_source(folder: Path) -> Path:
    """Write tree/ and train.tar with the same images, a file beside the classes, and a file for the weights.

    CMYK, grayscale and turned images and a PNG are among the images.
    """
    images = sources.images_of(SIZES)
    sources.tree(folder / "tree", images)
    (folder / "tree" / "README.txt").write_text("not an image")
    sources.tar_of_tars(folder / "train.tar", images, {"README.txt": b"not an image"})
    (folder / "weights.pth").write_bytes(b"planted")
    return folder


def words(raw: Path, out: Path, source: str = "tree", *more: str) -> list[str]:
    return [
        "data=imagenet_glt",
        f"source={raw / source}",
        f"out={out}",
        f"weights={raw / 'weights.pth'}",
        f"scale={SCALE}",
        "workers=1",
        *more,
    ]


def plant(raw: Path, out: Path, source: str = "tree") -> None:
    """Write planted features of every class to the place of the features stage."""
    work = out / "imagenet_glt" / ".work"
    work.mkdir(parents=True, exist_ok=True)
    for number, images in enumerate(list_classes(raw / source, work, 1).values()):
        sources.plant(work, images, number, file_digest(raw / "weights.pth"))


def built(raw: Path, out: Path, source: str = "tree", *more: str) -> Path:
    plant(raw, out, source)
    assert build.main(words(raw, out, source, *more)) == 0
    return out


def authors_files(root: Path, folder: Path) -> list[Path]:
    """Write split files as the authors publish them: absolute paths of their machine, and only their entries."""
    files = []
    for edition in ("glt", "cbl"):
        found = json.loads((root / "imagenet_glt" / ".work" / f"{edition}.json").read_text())
        del found["build"], found["digest"]
        for name in ("train", "val", "test_lt", "test_bl", "test_bbl"):
            found[name].pop("cluster", None)
            found[name] = {
                field: {f"/theirs/ILSVRC/train/{path}": value for path, value in entries.items()}
                for field, entries in found[name].items()
            }
        files.append(folder / f"{edition}.json")
        files[-1].write_text(json.dumps(found))
    return files


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    assert build.main(arguments) == 2
    lines = [
        line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("sharding.build: ")
    ]
    assert len(lines) == 1
    return lines[0]


def content(out: Path) -> dict[str, str]:
    """Return a digest of every file of the data set, without the build's own folder."""
    folder = out / "imagenet_glt"
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".work" not in path.parts
    }
