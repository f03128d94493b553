"""Any image that Pillow opens becomes a JPEG by stated rules; builders of published data sets refuse what they did."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sharding.images import any_image
from sharding.images.damage import FRAMES, doubts
from sharding.images.decoders import decode
from sharding.images.encoding import StoredSize
from tests.helpers import sources

ANY = StoredSize(any_image=True)
Picture = Image.Image


def saved(image: Picture, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def ramp(mode: str = "RGB", size: tuple[int, int] = (20, 10)) -> Picture:
    """A smooth image, which a JPEG keeps closely."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    pixels = np.stack([rows * 10, columns * 10, rows * 5 + columns * 5], 2).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def flat(data: bytes) -> Picture:
    return any_image.flat(any_image.first_frame(data))[0]


def half_clear(mode: str) -> Picture:
    """Black, of which the left half is transparent, one column half."""
    image = Image.new(mode, (4, 2), 0)
    image.putalpha(Image.fromarray(np.array([[0, 0, 128, 255]] * 2, np.uint8)))
    return image


WHITE = [255, 255, 127, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_lies_on_white(mode: str, form: str) -> None:
    """By its degree: half of black on white is grey. Grey stays grey where the format has it."""
    if (mode, form) == ("LA", "WEBP"):
        mode = "RGBA"
    image = flat(saved(half_clear(mode), form, **({"lossless": True} if form == "WEBP" else {})))
    assert image.mode == {"RGBA": "RGB", "LA": "L"}[mode]
    assert np.asarray(image.convert("L")).tolist() == [WHITE] * 2


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_palettes_transparent_colour_lies_on_white(form: str) -> None:
    """As does a transparent colour of an image without a palette."""
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    assert np.asarray(flat(saved(image, form))).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert np.asarray(flat(saved(image, form, transparency=1))).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    if form == "PNG":
        assert (
            np.asarray(flat(saved(image.convert("RGB"), form, transparency=(40, 50, 60))))[0, 1].tolist() == [255] * 3
        )
        grey = Image.fromarray(np.array([[7, 9]], np.uint8))
        assert np.asarray(flat(saved(grey, form, transparency=9))).tolist() == [[7, 255]]


def test_one_bit_is_black_and_white() -> None:
    """0 and 255, not 0 and 1."""
    image = Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1")
    assert np.asarray(flat(saved(image, "PNG"))).tolist() == [[0, 255, 255]]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_of_sixteen_bits_the_higher_eight_are_kept(form: str) -> None:
    """Whatever the byte order and Pillow's mode."""
    image = Image.fromarray(np.array([[0, 255, 256, 65535, 0x1234]], np.uint16))
    found, said = any_image.flat(any_image.first_frame(saved(image, form)))
    assert found.mode == "L" and np.asarray(found).tolist() == [[0, 0, 1, 255, 0x12]]
    assert said == ", the higher 8 of 16 bits"


def test_cmyk_and_other_colour_spaces_become_rgb() -> None:
    """A TIFF has many of them."""
    wanted = np.asarray(ramp(), np.int64)
    for mode in ("CMYK", "YCbCr"):
        assert np.abs(np.asarray(flat(saved(ramp(mode), "TIFF")), np.int64) - wanted).max() <= 3, mode


@pytest.mark.parametrize("form", ["BMP", "GIF", "ICO", "JPEG2000", "PPM", "TGA", "TIFF", "WEBP"])
def test_every_format_becomes_a_jpeg(form: str) -> None:
    """The stored JPEG shows the image, and its entry says what was done."""
    data, said = ANY(saved(ramp(), form))
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG" and image.mode == "RGB" and said["stored"].startswith(form[:3])
    if form != "ICO":  # which pads
        assert np.abs(np.asarray(image, np.int64) - np.asarray(ramp(), np.int64)).mean() < 4


def test_a_jpeg_keeps_its_bytes() -> None:
    """With its orientation and profile, which training ignores; also grey and CMYK ones."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in (ramp(), ramp("L"), ramp("CMYK")):
        data = saved(image, "JPEG", exif=exif, icc_profile=b"profile")
        assert ANY(data) == (data, {})
        assert StoredSize(resize_short=10, any_image=True)(data) == (data, {})


def test_a_resized_jpeg_stays_grey() -> None:
    """One channel, of the smaller size and without metadata."""
    data, _ = StoredSize(resize_short=5, any_image=True)(saved(ramp("L"), "JPEG", comment=b"secret"))
    image = Image.open(io.BytesIO(data))
    assert (image.mode, image.size) == ("L", (10, 5)) and b"secret" not in data


def test_small_images_keep_their_colours_in_full() -> None:
    """Of at most 64 pixels: no chroma subsampling; larger ones have half the resolution."""
    for side, layers in ((64, (1, 1)), (65, (2, 2))):
        data, _ = ANY(saved(ramp(size=(side, 8)), "PNG"))
        assert Image.open(io.BytesIO(data)).layer[0][1:3] == layers


def test_grey_is_stored_as_grey_and_read_as_three_channels() -> None:
    """Every decoder gives the same value thrice."""
    data, _ = ANY(saved(ramp("L"), "PNG"))
    assert Image.open(io.BytesIO(data)).mode == "L"
    pixels = np.asarray(decode(data))
    assert pixels.shape == (10, 20, 3) and (pixels == pixels[:, :, :1]).all()


def test_the_first_frame_is_taken_and_counted() -> None:
    """Of a GIF, a WebP and a TIFF of two pages; a still image is not doubtful."""
    black = Image.new("RGB", (20, 10))
    for form in ("GIF", "WEBP", "TIFF", "PNG"):
        several = saved(ramp(), form, save_all=True, append_images=[black])
        assert np.asarray(flat(several)).mean() > 40, form
        assert doubts(several) == [FRAMES], form
        assert doubts(saved(ramp(), form)) == [], form


def test_metadata_are_not_stored() -> None:
    """Neither a GIF's comment nor a profile."""
    data, _ = ANY(saved(ramp(), "GIF", comment=b"secret"))
    assert b"secret" not in data
    data, _ = ANY(saved(ramp(), "PNG", icc_profile=b"secret"))
    assert b"secret" not in data


def huge() -> bytes:
    """A PNG that claims 400 megapixels."""
    data = bytearray(saved(Image.new("1", (8, 8)), "PNG"))
    data[16:24] = (20000).to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


BAD: dict[str, Callable[[], bytes]] = {
    "it begins with b'no image'": lambda: b"no image at all",
    "it is empty": lambda: b"",
    "an image of 32-bit floats": lambda: saved(Image.new("F", (2, 2), 0.5), "TIFF"),
    "32-bit numbers outside of 0 to 65535": lambda: saved(Image.new("I", (2, 2), 70000), "TIFF"),
    "image of 1x1 pixels, which shows nothing": lambda: saved(Image.new("RGB", (1, 1)), "PNG"),
    "image of 1x1 pixels": lambda: saved(Image.new("RGB", (1, 1)), "JPEG"),
    "image of 8001x8001 pixels exceeds": lambda: saved(Image.new("1", (8001, 8001)), "PNG"),
    "far more than the 64000000 pixels": huge,
    "not a whole image that Pillow opens": lambda: saved(ramp(), "PNG")[:-30],
    "not a whole JPEG": lambda: sources.jpeg(1)[:-30],
    "begins with b'%!PS-Ado'": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_images_are_refused(sentence: str) -> None:
    """One sentence. What another program would have to run for, as an EPS, is not opened."""
    with pytest.raises(ValueError) as caught:
        ANY(BAD[sentence]())
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_the_published_sets_take_jpeg_and_png_alone() -> None:
    """Without the switch all is as it was."""
    for form in ("GIF", "WEBP", "BMP"):
        with pytest.raises(ValueError, match="not a whole JPEG or PNG image"):
            StoredSize()(saved(ramp(), form))
    with pytest.raises(ValueError, match="a PNG of 16 bits a channel"):
        StoredSize()(saved(Image.new("I;16", (2, 2)), "PNG"))
    assert StoredSize(any_image=True).options == {}
