"""What the header of an image says before the long work."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from sharding.building.raw_files import Place
from sharding.datasets.samples.listed.headers import Sides, _headers


def test_too_large_images_are_told_from_no_images(tmp_path: Path) -> None:
    """An image of too many pixels is no image that cannot be read, as a file or in an archive."""
    (tmp_path / "text.png").write_bytes(b"text")
    Image.new("1", (20000, 20000)).save(tmp_path / "large.png")
    Image.new("L", (4, 3)).save(tmp_path / "small.png")
    files = [tmp_path / name for name in ("text.png", "large.png", "small.png")]
    as_files = [Place(str(file)) for file in files]
    in_archive = [Place(str(file), 0, file.stat().st_size) for file in files]
    for places in (as_files, in_archive):
        assert _headers(None, places) == ([0], [1], Sides(3, 3, 4))
