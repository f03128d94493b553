"""Images that decode although bytes of them are lost: named by the build and, for as long as the data set lives, by
verify.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sharding import verify as verify_module
from sharding.building.notices import Notices
from sharding.building.packing import Copies, Planned, finish, pack
from sharding.building.raw_files import Place
from sharding.format.dataset_json import finish_dataset
from sharding.images import damage
from sharding.images.damage import EMPTY, GREY, WARNED, doubts, pixels_and_doubts
from sharding.images.decoders import decode
from sharding.images.encoding import StoredSize
from tests.helpers import sources

KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "quality 1": {"quality": 1},
    "quality 95": {"quality": 95},
    "progressive": {"progressive": True},
    "own Huffman tables": {"optimize": True},
    "restart markers": {"restart_marker_rows": 1},
    "colours in full": {"subsampling": 0},
}


def photo(seed: int, size: tuple[int, int] = (320, 240), **options: Any) -> bytes:
    """A JPEG with the grain of a photograph, which takes several pages."""
    smooth = np.asarray(decode(sources.jpeg(seed, size=size)), np.int64)
    grain = np.random.default_rng(seed).integers(-20, 21, smooth.shape)
    return jpeg(np.clip(smooth + grain, 0, 255), **options)


def jpeg(pixels: np.ndarray, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def without_page(data: bytes, page: int, fill: bytes, size: int = 4096) -> bytes:
    """The image without one page of its bytes, in whose place others stand."""
    start = page * size
    return data[:start] + fill * min(size, len(data) - start) + data[start + size :]


@pytest.mark.parametrize("kind", ["baseline", "quality 95", "progressive", "restart markers", "colours in full"])
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x55"], ids=["zeros", "ones", "a pattern"])
def test_a_lost_page_is_named(kind: str, fill: bytes) -> None:
    """Wherever the page was, and whatever stands in its place: the image is refused, or something is odd about it."""
    data = photo(1, **({"quality": 90} | KINDS[kind]))
    taken = 0
    for page in range(1, len(data) // 4096 + 1):
        damaged = without_page(data, page, fill)
        try:
            decode(damaged)
        except ValueError:
            continue
        taken += 1
        assert doubts(damaged) and doubts(damaged) == pixels_and_doubts(damaged)[1], page
    assert taken or fill == b"\xff"


def test_a_lost_end_is_named() -> None:
    """A file whose end was never written, and reads as zeros: enough of them pass for an image."""
    data = photo(2, quality=95)
    damaged = data[:8192] + bytes(16 * len(data))
    assert decode(damaged).size == (320, 240) and doubts(damaged) == [WARNED, EMPTY]


def test_lost_sectors_are_seen_without_libjpegs_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes alone tell of a lost sector: in a progressive image libjpeg may have nothing to say."""
    monkeypatch.setattr(damage, "_simplejpeg", lambda: None)
    data = photo(3, quality=95)
    assert doubts(without_page(data, 9, b"\0", 512)) == [EMPTY] and doubts(data) == []
    assert doubts(data[:5000] + bytes(512) + data[5512:]) == []  # not where a sector begins
    for neighbour in (data[4607], data[5120]):  # what stands before the sector or after it is what fills it
        assert doubts(without_page(data, 9, bytes([neighbour]), 512)) == [EMPTY]


@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_images_are_not_doubted(kind: str) -> None:
    """Noise, photographs, one colour and half of one, tiny and large, in colour, grey and CMYK: nothing is odd, and the
    pixels are the decoder's.
    """
    rng = np.random.default_rng(0)
    for side in (1, 8, 40, 400):
        pictures = [rng.integers(0, 256, (side, side, 3))]
        pictures += [np.full((side, side, 3), value) for value in (0, 128, 255)]
        pictures.append(np.where(np.arange(side)[:, None, None] < side // 2, pictures[0], 255))
        for number, picture in enumerate(pictures):
            for mode in ("RGB", "L", "CMYK"):
                data = jpeg(picture, mode, **KINDS[kind])
                pixels, odd = pixels_and_doubts(data)
                assert doubts(data) == odd == [], (side, number, mode)
                assert mode == "CMYK" if pixels is None else (pixels == np.asarray(decode(data))).all()
    assert not any(map(doubts, (*sources.odd(5).values(), photo(6, **KINDS[kind]), b"", b"\xff\xd8", b"\xff" * 9)))


def test_plain_grey_at_the_end_is_named() -> None:
    """A damaged image that was encoded again: libjpeg's filling is pixels now, and nothing else tells."""
    picture = np.asarray(decode(photo(7))).copy()
    picture[-80:] = 128
    assert doubts(jpeg(picture)) == [GREY] == pixels_and_doubts(jpeg(picture))[1]


@pytest.fixture()
def source(tmp_path: Path) -> list[Place]:
    """Eight photographs; a page of the one called 5.jpg is lost."""
    (tmp_path / "raw").mkdir()
    for i in range(8):
        data = photo(i)
        (tmp_path / "raw" / f"{i}.jpg").write_bytes(without_page(data, 1, b"\0") if i == 5 else data)
    return [Place(str(tmp_path / "raw" / f"{i}.jpg"), root=str(tmp_path / "raw")) for i in range(8)]


def built(out: Path, places: list[Place], stored: StoredSize) -> list[str]:
    """Build a data set of one split, and return its last lines."""
    notices = Notices()
    plan = {"glt/train": [Planned(f"k-{i}", f"s-{i}", place, 0, 0, 0) for i, place in enumerate(places)]}
    finish(out / "d", pack(out / "d", plan, Copies(stored), options={}, workers=1, shard_samples=4, notices=notices))
    finish_dataset(
        out,
        "d",
        class_names=["a"],
        class_groups=[0],
        editions={"glt": {"train": "glt/train"}},
        statistics={"glt": {"mean": [0.5] * 3, "std": [0.25] * 3}},
        options={},
        notes=notices.added_to({}),
    )
    return notices.lines()


def test_a_damaged_source_is_never_verified_without_a_word(
    source: list[Place], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The build counts and names the raw image, at the start after, too; verify ends well and warns, by shard and key,
    and by the build's word where the image was encoded again and all is smooth.
    """
    lines = built(tmp_path / "kept", source, StoredSize())
    assert lines == [f"1 taken, but doubtful: {words} (5.jpg)" for words in (WARNED, EMPTY)]
    assert built(tmp_path / "kept", source, StoredSize()) == lines
    assert verify_module.main([str(tmp_path / "kept"), "workers=1"]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"d/glt/train/shard-000001.tar: key 'k-5' at byte offset \d+ is among the {WARNED}", said)
    assert f"d/dataset.json: by the build, {lines[0]}" in said and "no problems, 4 warnings" in said
    assert built(tmp_path / "smaller", source, StoredSize(resize_short=100)) == lines
    assert verify_module.main([str(tmp_path / "smaller"), "workers=1"]) == 0
    assert "no problems, 2 warnings" in capsys.readouterr().out


def test_a_whole_source_leaves_no_notes(source: list[Place], tmp_path: Path) -> None:
    """Nothing is added to dataset.json, and verify has nothing to say."""
    assert built(tmp_path, source[:5], StoredSize()) == []
    verdict = verify_module.verify(tmp_path / "d")
    assert (verdict.problems.count, verdict.warnings.count) == (0, 0)
