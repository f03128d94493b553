"""Small folders of labelled images, and what the sources of sharding/sources/ say of them."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from sharding.sources.reading import rows_of
from sharding.sources.rows import Asked, Row

CLASSES = ("barn owl", "Käuzchen", "猫頭鷹")


def picture(number: int) -> bytes:
    """Make a PNG of one colour, a different one for each number."""
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def put(root: Path, *names: str) -> Path:
    """Put a picture of its own at each path below `root`, and return `root`."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return root


def owls(root: Path, each: int = 2) -> Path:
    """Put class folders there."""
    return put(root, *(f"{name}/{number} x.png" for name in CLASSES for number in range(each)))


def asked(*paths: Path, **others) -> Asked:
    """Ask for sources without splits."""
    return Asked(tuple((path, "") for path in paths), paths[0].parent / "work", **others)


def read(*paths: Path, format: str | None = None, **others) -> list[Row]:
    """Read a source to its end."""
    return list(rows_of(asked(*paths, **others), format))


def said(rows: list[Row]) -> set[tuple[str, str, str, bytes]]:
    """Return what rows say: names, labels, splits and bytes."""
    return {(row.name, row.label, row.split, row.where.read()) for row in rows}
