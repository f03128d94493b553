"""Builds a data set's shards: `python -m sharding.build data=NAME out=DIR [source=DIR] [seed=N] [preview=FILE]`.

    data=NAME     which data set; a builder is a module sharding/NAME.py with `build(out, source, seed, preview)`
    out=DIR       where data sets lie (DATA_ROOT); the build goes to DIR/NAME
    source=DIR    the raw data, for builders that need it
    seed=N        everything random in the build (default 0); the same seed gives the same bytes
    preview=FILE  also draw a contact sheet to this PNG

Building what is already there with the same options does nothing. A killed build leaves nothing that opens.
"""

from __future__ import annotations

import fcntl
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    from recipes.environment import in_environment

    in_environment()  # before the first import that a bare Python lacks

from recipes.words import nearest
from sharding.index import DataError

KEYS = ("data", "out", "source", "seed", "preview")
_BUILDER = re.compile(r"^def build\(out: Path, source: Path \| None, seed: int, preview: Path \| None\)", re.MULTILINE)


def builders() -> list[str]:
    """Names of the data sets that can be built: the modules of this package that define `build`."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py")
                  if path.stem != "build" and _BUILDER.search(path.read_text(encoding="utf-8")))


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """key=value arguments as a dict. Raises DataError for an unknown, repeated, empty or missing key, naming it."""
    values: dict[str, str] = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if key not in KEYS:
            raise DataError(f"unknown key {key!r}; {nearest(key, KEYS)}")
        if not separator or not value:
            raise DataError(f"{argument!r} has no value; {key}=VALUE would be legal")
        if key in values:
            raise DataError(f"key {key!r} is given twice ({values[key]!r} and {value!r}); once would be legal")
        values[key] = value
    for key in ("data", "out"):
        if key not in values:
            raise DataError(f"{key}= is missing; legal is: data=NAME out=DIR, with NAME one of {', '.join(builders())}")
    if values["data"] not in builders():
        raise DataError(f"there is no builder for data={values['data']}; {nearest(values['data'], builders())}")
    if not re.fullmatch(r"[0-9]+", values.get("seed", "0")):
        raise DataError(f"seed={values['seed']} is not legal; a whole number from 0 is")
    return values


def run(arguments: Sequence[str]) -> None:
    """Builds as `arguments` say. Raises DataError where they, the source or the result are wrong."""
    values = parse(arguments)
    name, out = values["data"], Path(values["out"])
    out.mkdir(parents=True, exist_ok=True)
    source = Path(values["source"]) if "source" in values else None
    preview = Path(values["preview"]) if "preview" in values else None
    if preview is not None and (preview.suffix.lower() != ".png" or not preview.parent.is_dir()):
        raise DataError(f"preview={preview} is not legal; a .png file in a folder that exists is")
    with open(out / f".{name}.lock", "w") as lock:  # two builds of one data set would tread on each other's files
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"another build of {name} in {out} is under way: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        importlib.import_module(f"sharding.{name}").build(out, source, int(values.get("seed", "0")), preview)


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    if not arguments or any(a in ("-h", "--help", "help") for a in arguments):
        print(__doc__.strip() + f"\n\nData sets that can be built: {', '.join(builders())}.")
        return 0
    try:
        run(arguments)
    except DataError as error:
        print(f"sharding.build: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a folder that cannot be made or written
        print(f"sharding.build: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
