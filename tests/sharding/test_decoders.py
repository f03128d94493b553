"""Whatever decodes a run's images, their pixels are the same, and all ranks use the same decoder.

Tried are the decoders that this machine has: `python -m pytest tests/sharding/test_decoders.py -v` says which.
(GLT_TURBOJPEG names another TurboJPEG 3 than the wheel's.)
"""

from __future__ import annotations

import ctypes.util
import io
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from ifl.saving import provenance
from recipes.common.errors import DataError
from sharding.images import decoders, encoding, turbojpeg
from sharding.images.decoders import ORDER, agreed, available, decoder, whole
from sharding.images.dice import draw_rng
from sharding.images.transforms import crop_box, resized, shrunk
from sharding.images.turbojpeg import find_turbojpeg
from tests.helpers.paths import PROJECT

FAST = [name for name in available() if name != "pillow"]
STYLES = {
    "420": {"subsampling": "4:2:0"},
    "422": {"subsampling": "4:2:2"},
    "444": {"subsampling": "4:4:4"},
    "progressive": {"subsampling": "4:2:0", "progressive": True},
    "coarse": {"subsampling": "4:2:0", "quality": 20},
    "restarts": {"subsampling": "4:2:0", "restart_marker_blocks": 5},
}


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth colour with noise on it: all coefficients of a JPEG are in use."""
    rng = np.random.default_rng(width * 1000 + height)
    x, y = np.arange(width) / width, np.arange(height)[:, None] / height
    channels = np.stack([255 * x + 0 * y, 128 + 127 * np.sin(9 * x * y), 255 * y + 0 * x], -1) + rng.normal(
        0, 25, (height, width, 3)
    )
    return Image.fromarray(np.clip(channels, 0, 255).astype(np.uint8)).convert(mode)


def jpeg(image: Image.Image, **style: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **style})
    return buffer.getvalue()


@pytest.mark.parametrize("style", [*STYLES, "440", "411"])
@pytest.mark.parametrize("name", FAST)
def test_pixels_are_pillows_to_the_bit(name: str, style: str) -> None:
    """All pixels, and those of boxes alone: with edges on, beside and between the blocks in which a JPEG is coded, one
    pixel large, of odd sizes. The colours are noise, so that a wrong neighbour shows."""
    fast, pillow, rng = decoder(name), decoder("pillow"), np.random.default_rng(0)
    for width, height in ((83, 70), (33, 47), (16, 16), (7, 5), (1, 1)):
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        data = (
            jpeg(Image.fromarray(noise), **STYLES[style])
            if style in STYLES
            else simplejpeg.encode_jpeg(noise, 95, colorsubsampling=style)
        )
        mine, reference = fast.opened(data), whole(pillow.opened(data))
        assert mine.size == (width, height) and np.array_equal(whole(mine), reference)
        for left, top in (
            (left, top)
            for left in {0, 1, 15, 16, 17, 31, 32, 80, width - 1}
            for top in {0, 1, 15, 16, 17, height - 1}
            if left < width and top < height
        ):
            for right, bottom in {
                (left + 1, top + 1),
                (left + 15, top + 2),
                (left + 16, top + 16),
                (width, height),
                (width - 1, height - 1),
            }:
                if left < right <= width and top < bottom <= height:
                    found = mine.region((left, top, right, bottom))
                    assert found.dtype == np.uint8 and np.array_equal(found, reference[top:bottom, left:right]), (
                        width,
                        height,
                        left,
                        top,
                        right,
                        bottom,
                    )


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("name", FAST)
def test_other_colours_become_the_same_rgb(name: str, mode: str) -> None:
    """Grey and CMYK files, and PNGs, of which ILSVRC has some."""
    fast, pillow = decoder(name), decoder("pillow")
    png = io.BytesIO()
    photo(40, 30).save(png, "PNG")
    for data in (jpeg(photo(40, 30, mode)), png.getvalue()):
        assert np.array_equal(whole(fast.opened(data)), whole(pillow.opened(data)))


@pytest.mark.parametrize("name", available())
def test_what_is_no_image_is_refused_alike(name: str) -> None:
    """Other formats, text and files without an end or of too many pixels: in Pillow's one sentence, whoever decodes."""
    fast = decoder(name)
    gif = io.BytesIO()
    photo(40, 30).save(gif, "GIF")
    for data in (b"", b"hello", gif.getvalue(), jpeg(photo(40, 30))[:200]):
        for read in (lambda data: whole(fast.opened(data)), encoding.opened):
            with pytest.raises(ValueError, match="not a whole JPEG or PNG") as caught:
                read(data)
            assert " object at 0x" not in str(caught.value)
    with pytest.raises(ValueError, match=r"\(5 bytes\): it begins with b'hello'$"):
        fast.opened(b"hello")
    with pytest.raises(ValueError, match=r"\(0 bytes\): it is empty$"):
        fast.opened(b"")
    data = bytearray(jpeg(photo(40, 30)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (9000).to_bytes(2, "big") * 2
    with pytest.raises(ValueError, match="9000x9000 pixels exceeds the limit"):
        fast.opened(bytes(data))


def test_pillows_warnings_do_not_tear_the_progress_bar() -> None:
    """Damaged EXIF data, of which Pillow warns, say nothing about the pixels: a build that meets them is silent."""
    exif = Image.Exif()
    exif[0x010E] = "a description"
    data = bytearray(jpeg(photo(40, 30), exif=exif))
    entries = data.index(b"Exif\0\0") + 14
    data[entries : entries + 2] = b"\xff\xff"
    script = "import sys; from sharding.images.encoding import opened; opened(sys.stdin.buffer.read())"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", script], input=bytes(data), cwd=PROJECT, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    with pytest.warns(UserWarning, match="orrupt EXIF"):
        Image.open(io.BytesIO(data))


@pytest.mark.parametrize("name", FAST)
def test_damaged_but_legal_files_go_to_pillow(name: str) -> None:
    """Bytes between the markers, which libjpeg only warns of: the fast decoder steps back, and the pixels are
    Pillow's.
    """
    fast, data = decoder(name), jpeg(photo(40, 30))
    end = data.rindex(b"\xff\xd9")
    odd = data[:end] + b"\x00\x11\x22" + data[end:]
    assert np.array_equal(whole(fast.opened(odd)), whole(decoder("pillow").opened(odd)))


def pixels_or_refusal(name: str, data: bytes, box: turbojpeg.Box | None = None) -> np.ndarray | str:
    """The pixels of a box, or all; else the sentence that refuses the file."""
    try:
        picture = decoder(name).opened(data)
        return whole(picture) if box is None else picture.region(box)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", FAST)
def test_damage_comes_out_as_with_pillow(name: str) -> None:
    """Bytes changed anywhere and ends cut off: what Pillow decodes has its pixels, as a whole and in part, and what it
    refuses is refused in its words."""
    rng, counts = np.random.default_rng(0), [0, 0]
    for draw in range(300):
        width, height = ((40, 30), (83, 70))[draw % 2]
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        data = bytearray(jpeg(Image.fromarray(noise), **list(STYLES.values())[draw % len(STYLES)]))
        if draw % 5 == 4:
            del data[int(rng.integers(len(data))) :]
        else:
            for at in rng.integers(len(data), size=2):
                data[at] = int(rng.integers(256))
        reference = pixels_or_refusal("pillow", bytes(data))
        mine = pixels_or_refusal(name, bytes(data))
        counts[isinstance(reference, str)] += 1
        if isinstance(reference, str):
            assert mine == reference
            continue
        assert np.array_equal(mine, reference)
        top, left = (int(rng.integers(side)) for side in reference.shape[:2])
        bottom, right = reference.shape[0] - top // 2, reference.shape[1] - left // 2
        assert np.array_equal(
            pixels_or_refusal(name, bytes(data), (left, top, right, bottom)), reference[top:bottom, left:right]
        )
    assert min(counts) > 50


def test_resize_is_pillows_to_two_grey_levels() -> None:
    """Down and up, of any shape: no value differs by more than 2 of 255, on average by less than .1."""
    differences = []
    for draw in range(60):
        width, height = 40 + 7 * draw, 500 - 7 * draw
        image = photo(width, height)
        box = crop_box(width, height, draw_rng(1, 0, draw), (0.08, 1.0))
        mine = resized(np.asarray(image)[box[1] : box[3], box[0] : box[2]], 112, 112)
        differences.append(
            np.abs(mine.astype(int) - np.asarray(image.crop(box).resize((112, 112), Image.Resampling.BILINEAR)))
        )
    assert np.max(differences) <= 2 and np.mean(differences) < 0.1


def test_short_side_is_never_enlarged() -> None:
    """`shrunk` keeps the shape to a pixel, and small pictures as they are."""
    large = decoder("pillow").opened(jpeg(photo(300, 200)))
    assert shrunk(large, 100).size == (150, 100) and shrunk(large, 200) is large and shrunk(large, 201) is large


def test_all_ranks_take_the_best_that_all_have() -> None:
    """In the fixed order, whatever order they say it in; what is wanted must be everywhere."""
    everything, wheels, bare = list(ORDER), ["simplejpeg", "pillow"], ["pillow"]
    assert agreed([everything, everything[::-1]], None, "") == "turbojpeg"
    assert (
        agreed([everything, wheels], None, "") == "simplejpeg"
        and agreed([wheels, bare, everything], None, "") == "pillow"
    )
    assert agreed([everything, wheels], "pillow", "") == "pillow"
    with pytest.raises(
        DataError,
        match=r"^run r began with the decoder turbojpeg, and ranks 1, 2 of 3 lack it; all ranks have simplejpeg, "
        "pillow$",
    ):
        agreed([everything, wheels, wheels], "turbojpeg", "run r began with the decoder turbojpeg")
    with pytest.raises(DataError, match="rank 0 of 1 lacks it"):
        agreed([bare], "simplejpeg", "data.decoder=simplejpeg is asked for")


def test_a_decoder_that_is_not_here_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """So is a library that GLT_TURBOJPEG names and that is none."""
    monkeypatch.setenv("GLT_TURBOJPEG", str(tmp_path / "libturbojpeg.so"))
    with pytest.raises(ImportError, match=r"libturbojpeg.so: cannot open"):
        find_turbojpeg()
    monkeypatch.setattr(
        decoders, "_made", lambda name: "no library" if name == "turbojpeg" else decoders._MAKERS["pillow"]()
    )
    with pytest.raises(
        DataError,
        match=r"^data.decoder=turbojpeg is not on this machine \(no library\); it has torchvision, simplejpeg, pillow$",
    ):
        decoder("turbojpeg")


def test_the_pinned_packages_bring_region_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pylibjxl has a wheel it is what `make venv` makes the first of the chain, before any library of the
    system's, and meta.json will name its version."""
    monkeypatch.delenv("GLT_TURBOJPEG", raising=False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: pytest.fail("the system was asked"))
    if (platform.machine(), sys.platform) == ("x86_64", "linux"):
        turbo, digest = find_turbojpeg()
        assert digest == turbojpeg._version(next(turbojpeg._places())) and "pylibjxl" in turbo._library._name
        assert provenance._version("pylibjxl") != "not installed"


def test_packages_that_are_not_installed_are_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The chain goes on without TurboJPEG and torchvision, and the provenance says what is not there."""
    monkeypatch.delenv("GLT_TURBOJPEG", raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(turbojpeg, "find_spec", lambda name: None)
    monkeypatch.setattr(decoders, "find_spec", lambda name: None)
    decoders._made.cache_clear()
    try:
        assert available() == ["simplejpeg", "pillow"]
        with pytest.raises(DataError, match=r"turbojpeg is not .* .no library libturbojpeg was found.; it"):
            decoder("turbojpeg")
        with pytest.raises(
            DataError, match=r"^data.decoder=torchvision is not on this machine .torchvision is not installed.; it has"
        ):
            decoder("torchvision")
    finally:
        decoders._made.cache_clear()
    assert provenance._version("no-such-package") == "not installed" != provenance._version("numpy")


def test_another_library_is_another_version(tmp_path: Path) -> None:
    """A library is known by its bytes, whether it was loaded by its name or by a path. (Shown with C's own, which is
    everywhere.)
    """
    name = ctypes.util.find_library("c")
    (place,) = {
        line.split(maxsplit=5)[5].strip() for line in Path("/proc/self/maps").read_text().splitlines() if name in line
    }
    assert turbojpeg._version(place) == turbojpeg._version(name)
    (tmp_path / name).write_bytes(Path(place).read_bytes() + b"newer")
    assert turbojpeg._version(str(tmp_path / name)) != turbojpeg._version(place)
    with pytest.raises(OSError, match=r"no-such.so was loaded, and from where is not told"):
        turbojpeg._version("no-such.so")
