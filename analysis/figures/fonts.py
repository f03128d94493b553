"""What the fonts of this machine can draw: text in other scripts takes a font that has it, or is written as code
points, so that no figure shows boxes.
"""

from __future__ import annotations

import functools
import logging
import re
from pathlib import Path

import matplotlib
from matplotlib.artist import Artist
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.text import Text

from analysis.labels import shortened

# Else it says of each font of another script that it has no weight "normal".
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
OWN = "DejaVu Sans"
"""The font of all figures, which comes with matplotlib."""

_CODE = re.compile(r"U\+[0-9A-F]{4,6}\b")
NOTE = (
    "figures write U+ and a number for characters that no font of this machine has; a font with them, such as "
    "Debian's fonts-wqy-zenhei for Chinese, Japanese and Korean, draws them"
)


def drawn_label(text: str, most: int = 30, end: int | None = None) -> str:
    """Return a label as figures show it: drawable, and shortened as `analysis.labels.shortened` does."""
    return shortened(drawable(" ".join(text.split())), most, end)


def drawable(text: str) -> str:
    """Write characters that no font here has as `U+` and their code points, apart from each other by a blank."""
    missing = [character != "\n" and family_of(character) is None for character in text]
    if not any(missing):
        return text
    parts = [
        f"U+{ord(character):04X}{' ' * lacks_next}" if lacks else character
        for character, lacks, lacks_next in zip(text, missing, [*missing[1:], False], strict=True)
    ]
    return "".join(parts)


def fit_fonts(drawn: Artist) -> tuple[bool, bool]:
    """Give every text of a figure, or of a part of one, fonts that have all its characters, or replace these.

    No text is maths: a `$` in somebody's label is a dollar. A tick's label is written when it is drawn, so it must have
    been `drawn_label` before.

    Returns:
        Whether another font than our own is used, and whether any text has code points for characters.
    """
    said: list[str] = []
    others = False
    for text in drawn.findobj(Text):
        text.set_parse_math(False)
        text.set_text(drawable(text.get_text()))
        if families := _other_families(text.get_text()):
            text.set_fontfamily([OWN, *families])
            others = True
        said.append(text.get_text())
    return others, any(map(_CODE.search, said))


def _other_families(text: str) -> list[str]:
    """List the families besides our own that a drawable text needs."""
    found = dict.fromkeys(family_of(each) for each in text if not each.isspace())
    return [family for family in found if family is not None and family != OWN]


@functools.cache
def family_of(character: str) -> str | None:
    """Return the family that draws a character, our own first; None where no font of this machine has it."""
    if ord(character) in _characters(findfont(OWN)):
        return OWN
    return next((name for name, file in _others() if ord(character) in _characters(file)), None)


@functools.cache
def _others() -> tuple[tuple[str, str], ...]:
    """List the upright fonts of this machine as (family, file), sorted; matplotlib's own are for maths, or boxes."""
    bundled = Path(matplotlib.get_data_path()).resolve()
    return tuple(
        sorted(
            {
                (font.name, font.fname)
                for font in fontManager.ttflist
                if font.style == "normal"
                and "Emoji" not in font.name
                and bundled not in Path(font.fname).resolve().parents
            }
        )
    )


@functools.cache
def _characters(file: str) -> frozenset[int]:
    """Return the code points that a font file has; none where it cannot be read."""
    try:
        return frozenset(get_font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
