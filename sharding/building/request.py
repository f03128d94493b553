"""What a user asks a builder for: the options of `python -m sharding.build`, checked. Standard library only.

A builder, sharding/datasets/NAME/build.py, says in literals which options it takes and which stages it has. They are
read without running it. A stage with True may be done in parts by any number of processes or machines:

    TAKES = ("source", "seed", "workers")
    STAGES = {"features": True, "split": False, "pack": True, "finish": False}
    WITHOUT = {"annotation": ("features",)}         stages that an option makes unnecessary
    ONLY_FOR = {"attributes=clusters": ("features",)}   stages that are unnecessary without these words

A data set without a builder of its name is made by the builder `samples`, of any labelled images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from recipes.common.cli import key_values, nearest
from recipes.common.errors import DataError
from recipes.declarations import literals
from recipes.values import argument
from sharding.building import samples_words
from sharding.building.samples_words import Samples

DATASETS = Path(__file__).resolve().parent.parent / "datasets"
_BUILDER = re.compile(r"^def build\(request: Request\) -> None:", re.MULTILINE)
_ALWAYS = ("data", "out")
_ANY = ("license",)
"""Options that every builder takes besides."""
SAMPLES = "samples"
"""The builder of any labelled images."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,99}")
_WORTH_A_PROCESS = 500
"""Images for which it pays to start one more process."""
_SLIP = 2
"""A name with so few letters wrong, missing or too many is taken for a slip of a builder's name."""


class Unbuilt(Exception):
    """There is something to build; raised for a request that only asks."""


@dataclass(frozen=True)
class Request:
    """One build: each field is the option of the same name (see `HELP`), with its default.

    `name` is the option data=. `samples` holds those that only the builder `samples` reads, or reads in its own way.
    Of one that `only_asks` a builder with stages says that all is there, or raises `Unbuilt`; it builds nothing.
    """

    out: Path
    name: str = ""
    builder: str = ""
    source: Path | None = None
    seed: int = 0
    annotation: tuple[Path, ...] = ()
    prefix: tuple[tuple[str, str], ...] = ()
    attributes: Path | None = None
    weights: Path | None = None
    resize_short: int | None = None
    quality: int | None = None
    scale: float = 1.0
    workers: int = 0
    stage: str = ""
    part: tuple[int, int] = (1, 1)
    preview: Path | None = None
    license: str | None = None
    samples: Samples = field(default_factory=Samples)
    only_asks: bool = False

    @property
    def processes(self) -> int:
        """The number of processes to work with: `workers`, or one for each core that this process may use."""
        return self.workers or len(os.sched_getaffinity(0))

    def processes_for(self, images: int) -> int:
        """Return the number of processes for so many images: `processes`, unless few of them would pay."""
        return self.workers or min(self.processes, 1 + images // _WORTH_A_PROCESS)

    def does(self, stage: str) -> bool:
        """Return whether this stage is part of what was asked for."""
        return self.stage in ("", stage)


HELP = {
    "data": ("NAME", "which data set; one without a builder of its own is made of source=, any labelled images"),
    "out": ("DIR", "where data sets lie (DATA_ROOT); the build goes to DIR/NAME"),
    "builder": ("samples", "the builder of any labelled images, also where NAME is nearly another builder's"),
    "source": ("PATH", "the raw data, a folder or an archive; samples also takes PATH,PATH and train:PATH,val:PATH"),
    "seed": ("N", "everything random in the build (default 0); the same seed gives the same bytes"),
    "annotation": (
        "FILE[,FILE]",
        "the authors' split files in place of our own splitting; an edition without a file is not built",
    ),
    "prefix": ("OLD=NEW[,OLD=NEW]", "in the paths of the split files, OLD in front becomes NEW"),
    "attributes": ("FILE", "the attribute file; of samples none|column|clusters (default none)"),
    "weights": ("FILE", "the network's weights (default: torch's cache of downloads)"),
    "resize_short": ("N", "store images with their shorter side at most N pixels (default: the original bytes)"),
    "quality": (
        "N",
        "JPEG quality of images that are encoded again, 1 to 95 (default 90, mscoco_glt's crops 75); alone, all "
        "images are",
    ),
    "scale": ("X", "X times the paper's counts in each class, 0 < X <= 1, to try things on a smaller source"),
    "workers": ("N", "processes (default: one a core); the bytes do not depend on it"),
    "stage": ("NAME", "only this stage of the build"),
    "part": (
        "I/N",
        "only the I-th of N parts of the stage, I from 1; parts may be done at the same time, on any machines",
    ),
    "preview": ("FILE", "also draw a contact sheet to this PNG"),
    "license": (
        "TEXT",
        "the images' licence for croissant.json, such as CC-BY-4.0 or an address; of a data set that is there, too",
    ),
    **samples_words.HELP,
}


def _number(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,19}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low}" + (f" to {high} is" if high < 2**63 - 1 else " is"))
        return int(text)

    return read


def _scale(text: str) -> float:
    try:
        value: float = argument(text, float)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ValueError("a number above 0 and at most 1 is")
    return value


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise ValueError("I/N with I from 1 to N is, such as part=1/16")
    return number, count


def _prefixes(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(old and separator for old, separator, _ in pairs):
        raise ValueError("OLD=NEW is, such as prefix=/data/ILSVRC/train/=, which takes OLD away")
    return tuple((old, new) for old, _, new in pairs)


def _png(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise ValueError("a .png file in a folder that exists is")
    return path


def _line(text: str) -> str:
    if not text.isprintable() or text != text.strip() or len(text) > 500:
        raise ValueError("a name or an address of up to 500 characters is")
    return text


_READ: dict[str, Callable[[str], Any]] = {
    "out": Path,
    "builder": str,
    "source": Path,
    "seed": _number(0, 2**63 - 1),
    "annotation": lambda text: tuple(map(Path, text.split(","))),
    "prefix": _prefixes,
    "attributes": Path,
    "weights": Path,
    "resize_short": _number(1, 16384),
    "quality": _number(1, 95),
    "scale": _scale,
    "workers": _number(1, 1024),
    "stage": str,
    "part": _part,
    "preview": _png,
    "license": _line,
}
assert set(_READ) == {each.name for each in fields(Request)} - {"name", "samples", "only_asks"}, (
    "words and fields differ"
)
assert set(_READ) | set(samples_words.READ) == set(HELP) - {"data"}, "words and help differ"


def builders() -> list[str]:
    """List the builders: those whose sharding/datasets/NAME/build.py defines `build(request)`."""
    return sorted(
        path.parent.name for path in DATASETS.glob("*/build.py") if _BUILDER.search(path.read_text(encoding="utf-8"))
    )


def data_sets() -> list[str]:
    """List the data sets that have a builder of their own."""
    return [name for name in builders() if name != SAMPLES]


def declared(name: str) -> tuple[tuple[str, ...], Mapping[str, bool]]:
    """Return the options that builder `name` takes besides data= and out=, and its stages in their order."""
    literals = _literals(name)
    return (*literals["TAKES"], *(("stage", "part") if literals["STAGES"] else ()), *_ANY), literals["STAGES"]


def builder_of(words: Mapping[str, str]) -> str:
    """Return the builder of the data set that these words ask for: its own, or `samples`.

    Raises:
        DataError: the data set's name is not legal or nearly a builder's, or builder= is not legal.
    """
    name, chosen = words["data"], words.get("builder", "")
    if chosen not in ("", SAMPLES):
        raise DataError(
            f"builder={chosen} is not legal: {SAMPLES}, of any labelled images, is; another is named by data= alone"
        )
    if not chosen and name in data_sets():
        return name
    if not _NAME.fullmatch(name):
        raise DataError(
            f"data={name} is not legal: a name has lower-case letters, digits and _ only, 100 of them at most, and "
            f"begins with a letter or digit; builders: {', '.join(data_sets())}"
        )
    if not chosen and (close := next((one for one in data_sets() if _edits(name, one) <= _SLIP), None)):
        raise DataError(
            f"there is no builder for data={name}; did you mean {close}? legal: {', '.join(data_sets())}, or "
            f"builder={SAMPLES} for images of your own that are called so"
        )
    return SAMPLES


def _edits(one: str, other: str) -> int:
    """Count the letters that are wrong, missing or too many in one of two names."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row, above = [i], row
        for j, its in enumerate(other, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != its)))
    return row[-1]


def stages_of(arguments: Sequence[str]) -> Mapping[str, bool]:
    """Return the stages of a whole build with these checked arguments, and whether each may be done in parts."""
    words = dict(argument.split("=", 1) for argument in arguments)
    literals = _literals(builder_of(words))
    needless = {stage for word, without in literals["WITHOUT"].items() if word in words for stage in without}
    needless |= {stage for word, mine in literals["ONLY_FOR"].items() if word not in arguments for stage in mine}
    return {stage: parts for stage, parts in literals["STAGES"].items() if stage not in needless}


def stage_names() -> list[str]:
    """List the stages that some builder has."""
    return sorted({stage for name in builders() for stage in _literals(name)["STAGES"]})


def _literals(name: str) -> dict[str, Any]:
    usual: dict[str, Any] = {"TAKES": (), "STAGES": {}, "WITHOUT": {}, "ONLY_FOR": {}}
    return literals(DATASETS / name / "build.py", usual, DataError)


def parse(arguments: Sequence[str]) -> tuple[str, Request]:
    """Read key=value arguments into a data set's name and the request.

    Raises:
        DataError: a key or value is unknown, repeated, empty, missing or not for this data set; one sentence.
    """
    words = key_values(arguments, HELP, texts=("prefix", "license"))
    for key in _ALWAYS:
        if key not in words:
            raise DataError(
                f"{key}= is missing; legal is: data=NAME out=DIR, with NAME one of {', '.join(data_sets())}, or a new "
                "name with source=PATH"
            )
    builder, name = builder_of(words), words.pop("data")
    takes, stages = declared(builder)
    values: dict[str, Any] = {"name": name}
    of_samples: dict[str, Any] = {}
    for key, text in words.items():
        if key not in (*_ALWAYS, "builder", *takes):
            raise DataError(f"{key}={text} cannot be used: {builder} takes {', '.join((*_ALWAYS, *takes))} alone")
        own = builder == SAMPLES and key in samples_words.READ
        read = samples_words.READ[key] if own else _READ[key]
        try:
            (of_samples if own else values)[key] = read(text)
        except ValueError as error:
            raise DataError(f"{key}={text} is not legal; {error}") from None
    if builder == SAMPLES and (wrong := samples_words.fault(Samples(**of_samples), words)):
        raise DataError(f"data={name}: {wrong}")
    request = Request(**{**values, "builder": builder, "samples": Samples(**of_samples)})
    _check_source(request)
    _check_stage(request, stages, words)
    return name, request


def _check_source(request: Request) -> None:
    """Refuse a source in the folder that the build writes, where it could take the source's files for its own.

    The folder that a list's paths start from must be there at the first start, and may be gone later.
    """
    own = Path(os.path.realpath(request.out / request.name))
    for path in (*filter(None, [request.source]), *(path for path, _ in request.samples.source)):
        real = Path(os.path.realpath(path))
        if real.is_relative_to(own) and not real.is_relative_to(own / ".work"):  # where a program's samples are
            raise DataError(f"source={path} lies in {own}, which the build writes; one outside of it would be legal")
    images = request.samples.images
    if images and not images.is_dir() and not own.exists():
        raise DataError(f"images={images} is not legal; a folder that exists is")


def _check_stage(request: Request, stages: Mapping[str, bool], words: Mapping[str, str]) -> None:
    if request.stage and request.stage not in stages:
        raise DataError(f"{request.builder} has no stage={request.stage}; {nearest(request.stage, stages)}")
    if "part" in words and not stages.get(request.stage):
        able = " or ".join(f"stage={stage}" for stage, parts in stages.items() if parts)
        raise DataError(f"part={words['part']} needs {able}: the other stages are one piece")
