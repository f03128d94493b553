"""The class tails: published counts, what every curve promises, and the words of `long_tail=`."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.common.errors import DataError
from sharding.building import samples_words
from sharding.building.samples_words import curves
from sharding.datasets.samples import tails
from sharding.datasets.samples.long_tail import LongTail, curve_named, parsed
from sharding.datasets.samples.splits import class_counts
from sharding.datasets.samples.tails import exponential, pareto
from tests.helpers.paths import PROJECT

NAMES = ("dog", "big cat", "a, b")


def test_cifar_10_lt_has_its_published_counts() -> None:
    """5,000 images at ratio 100 over 10 classes are CIFAR-10-LT's 12,406."""
    counts = exponential.counts(5000, 10, 100)
    assert counts == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50] and sum(counts) == 12_406


def test_cifar_100_lt_has_its_published_counts() -> None:
    """500 images at ratio 100 over 100 classes are CIFAR-100-LT's 10,847."""
    counts = exponential.counts(500, 100, 100)
    assert sum(counts) == 10_847 and (counts[0], counts[-1]) == (500, 5)


def test_whole_products_stay_whole() -> None:
    """A product that is whole is not truncated by a rounding: 8^(-1/3) of 8 is 4."""
    assert exponential.counts(8, 4, 8) == [8, 4, 2, 1]


def test_pareto_is_as_its_file_says() -> None:
    """The figures that stand in the curve's file, beside ImageNet-LT's."""
    counts = pareto.counts(1280, 1000, 256)
    assert (sum(counts), sum(n > 100 for n in counts), sum(n < 20 for n in counts)) == (104_345, 349, 163)
    assert (counts[0], counts[-1]) == (1280, 5)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(curves()),
    st.integers(1, 5000),
    st.integers(2, 40),
    st.floats(1, 1000, allow_nan=False),
)
def test_every_curve_falls_from_largest_to_smallest(curve: str, top: int, classes: int, ratio: float) -> None:
    """The first class has `largest`, the last `largest / ratio` truncated, none more than the one before; and no class
    gets fewer where `largest` grows.
    """
    counts = curve_named(curve).counts(top, classes, ratio)
    assert counts[0] == top and abs(counts[-1] - top / ratio) <= 1 and counts[-1] <= top / ratio + 1e-9
    assert all(a >= b for a, b in pairwise(counts))
    assert all(a <= b for a, b in zip(counts, curve_named(curve).counts(top + 1, classes, ratio), strict=True))


def test_curves_are_found_by_their_files() -> None:
    """A file in tails/ is a curve, and says what it is."""
    assert curves() == ["exponential", "pareto"] and all(curve_named(name).SAYS for name in curves())


def test_the_pages_tail_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tail that docs/adding-a-dataset.md shows works as the file that it says, with nothing else."""
    page = (PROJECT / "docs" / "adding-a-dataset.md").read_text()
    (code,) = re.findall(r"```python\n(\"\"\"Counts.*?)```", page, re.DOTALL)
    (tmp_path / "straight_of_the_page.py").write_text(code)
    monkeypatch.setattr(tails, "__path__", [str(tmp_path), *tails.__path__])
    monkeypatch.setattr(samples_words, "TAILS", tmp_path)
    assert "straight_of_the_page" in curves()
    assert parsed("straight_of_the_page:4", NAMES).of(100, 4) == [100, 75, 50, 25]


@pytest.mark.parametrize(
    "word, tail",
    [
        ("none", LongTail()),
        ("100", LongTail("100", "exponential", 100.0)),
        ("pareto:256", LongTail("pareto:256", "pareto", 256.0)),
    ],
)
def test_words_are_read(word: str, tail: LongTail) -> None:
    """`long_tail=` takes none, a ratio, or a curve with a ratio."""
    assert parsed(word, NAMES) == tail


def test_a_file_of_counts_is_read(tmp_path: Path) -> None:
    """Names may hold spaces and commas; a byte order mark, CRLF, comments and empty lines say nothing."""
    file = tmp_path / "counts.csv"
    file.write_bytes("\ufeff# counts\r\ndog,30\r\n\r\nbig cat 20\r\na, b\t7\r\n".encode())
    assert parsed(str(file), NAMES).counts == {"dog": 30, "big cat": 20, "a, b": 7}


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("dog,3\nbig cat,2\n", "lacks 1 of 3 classes, 'a, b' the first; all must be there"),
        ("dgo,3\n", "line 1: there is no class 'dgo'; did you mean 'dog'?"),
        ("dog,3\ndog,3\n", "line 2: class 'dog' stands there twice; once would be legal"),
        ("dog,0\n", "line 1: '0' is not a number of images"),
        ("dog,99999999999999999999\n", "line 1: '99999999999999999999' is not a number of images"),
        ("name,count\n", "line 1: 'count' is not a number of images"),
    ],
)
def test_files_of_counts_that_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    """A file of counts has each class once, with a count above 0; the sentence names the line."""
    file = tmp_path / "counts"
    file.write_text(text)
    with pytest.raises(DataError) as error:
        parsed(str(file), NAMES)
    assert sentence in str(error.value)


# ----------------------------------------------------------------------------------------------- classes of many sizes
def test_largest_is_as_all_classes_can_follow() -> None:
    """The largest class is the largest that all classes can follow, and the sentence names the one that limits it."""
    most = np.array([900, 40, 30])
    counts, note = class_counts(LongTail("9", "exponential", 9.0), most, NAMES)
    assert counts.tolist() == exponential.counts(int(counts[0]), 3, 9) == [122, 40, 13]
    assert not (np.array(exponential.counts(123, 3, 9)) <= most).all()
    assert note == (
        "long_tail=9: 122 images of the largest class to 13 of the smallest, because class 'big cat' has no more than "
        "40 to give"
    )


def test_a_tail_that_ends_in_nothing_names_the_largest_ratio() -> None:
    """A ratio that leaves the smallest class no image is refused with the largest one that leaves it one."""
    most = np.array([50, 50, 50])
    with pytest.raises(DataError, match=r"'a, b', would have none; a ratio of 50 is the largest legal one"):
        class_counts(LongTail("51", "exponential", 51.0), most, NAMES)
    assert class_counts(LongTail("50", "exponential", 50.0), most, NAMES)[0].tolist() == [50, 7, 1]


def test_a_class_that_lacks_what_a_file_wants_is_named() -> None:
    """Counts of a file are kept, or refused with what the class can give."""
    wanted = {"dog": 5, "big cat": 4, "a, b": 3}
    most = np.array([5, 3, 9])
    with pytest.raises(DataError, match="class 'big cat' can give 3 images for training, and 4 are wanted; up to 3"):
        class_counts(LongTail("f", counts=wanted), most, NAMES)
    assert class_counts(LongTail("f", counts={**wanted, "big cat": 3}), most, NAMES)[0].tolist() == [5, 3, 3]
