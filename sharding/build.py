"""Builds a data set's shards: `python -m sharding.build data=NAME out=DIR [source=DIR] [key=value ...]`.

Building what is already there with the same options does nothing, unless the source changed. A killed build leaves
nothing that opens, and the same command goes on with it: finished shards are checked and kept. The bytes depend on the
source, the seed and the options alone, not on the number of processes, parts or machines. DIR/NAME/.work keeps what the
stages hand on (features, splits, records of shards); it may be deleted once the data set is finished.
"""

if __name__ == "__main__":
    from recipes.common.venv import in_environment

    in_environment()  # before the first import that a bare or an older Python lacks

import contextlib
import importlib
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from recipes.common.cli import asks_help
from recipes.common.errors import DataError
from recipes.common.files import disk_refusal, is_unfinished
from recipes.common.locks import acquire, release
from recipes.common.output import ends_told, go_on_unread
from sharding.building.packing import WORK
from sharding.building.request import HELP, SAMPLES, Request, Unbuilt, builders, declared, parse
from sharding.checks.statistics import spread
from sharding.format.croissant import licence_of, state_licence
from sharding.format.dataset import DATASET_FILE, Dataset
from sharding.open import open_dataset
from sharding.sources.from_samples import Labelled, keep_samples

KEPT = Path(WORK) / "samples"
"""The folder, below a data set's, of images that a program gave."""
_SHEET_CLASSES, _SHEET_IMAGES = 10, 3


def run(arguments: Sequence[str]) -> None:
    """Build the data set that `arguments`, key=value words, ask for.

    Raises:
        DataError: the words, the source or the result are wrong.
        OSError: a folder or file cannot be made or written.
    """
    _build(*parse(arguments))


def _build(name: str, request: Request, samples: Iterable[Labelled | tuple[Any, ...]] | None = None) -> None:
    """Build what a request asks for, of the samples of a program where there are any."""
    request.out.mkdir(parents=True, exist_ok=True)
    with _alone(name, request):
        if samples is not None:
            keep_samples(samples, request.out / name / KEPT)
        before = licence_of(request.out / name)
        _builder(request).build(request)
        _add(name, request)
        if before and not licence_of(request.out / name):
            print(
                f"croissant.json said license={before} of a data set with other bytes, and now says none; the same "
                "command with license= states that of these"
            )


def _add(name: str, request: Request) -> None:
    """Draw the sheet and state the licence that a request asks for, where the data set is there."""
    if request.builder == SAMPLES and request.preview is not None and request.stage in ("", "finish"):
        _draw(open_dataset(request.out, name), request.preview)
    if request.license is not None and (request.out / name / DATASET_FILE).exists():
        state_licence(request.out / name, request.license)


def is_there(arguments: Sequence[str]) -> bool:
    """Say whether the whole build that `arguments` ask for is there, and print so; a sheet and a licence are added.

    Raises:
        DataError: the words or the source are wrong.
        OSError: a folder or file cannot be made or written.
    """
    name, request = parse(arguments)
    if not (request.out / name / DATASET_FILE).exists():
        return False
    with _alone(name, request), contextlib.suppress(Unbuilt):
        _builder(request).build(replace(request, only_asks=True))
        _add(name, request)
        return True
    return False


def _builder(request: Request) -> ModuleType:
    return importlib.import_module(f"sharding.datasets.{request.builder}.build")


def _draw(dataset: Dataset, path: Path) -> None:
    """Draw a contact sheet of some training images by class and attribute group."""
    from sharding.checks.figures import contact_sheet, save_png  # slow to import

    train = dataset.editions["glt"]["train"]
    classes = spread(dataset.meta["splits"][train]["per_class"], _SHEET_CLASSES)
    save_png(contact_sheet(dataset.split("glt", "train"), dataset.meta, train, classes, _SHEET_IMAGES), path)
    print(f"contact sheet: {path}")


def build_samples(name: str, out: Path | str, samples: Iterable[Labelled | tuple[Any, ...]], **words: object) -> None:
    """Build a data set of labelled images that a program gives, as `data=NAME source=...` does of files.

    Images that are no files are first written to `out/name/.work/samples`, one at a time. The same samples and words
    give the same bytes, and nothing is made again then.

    Args:
        name: the data set's.
        out: where data sets lie (DATA_ROOT); the build goes to `out/name`.
        samples: `Labelled` or tuples (image, label, attribute, split, source, name), from the third on as far as given;
            an image is the path of a file, its bytes, a PIL image or uint8 pixels [H, W] or [H, W, 3].
        **words: other words of the command, such as long_tail=100, attributes="clusters", seed=1.

    Raises:
        DataError: a sample, the words or the result are wrong, or a worker process that imports the program got here.
        OSError: a folder or file cannot be made or written.
    """
    source = Path(out) / name / KEPT
    given = [f"data={name}", f"out={out}", f"source={source}", "builder=samples", "format=from_samples"]
    _build(*parse([*given, *(f"{key}={value}" for key, value in words.items())]), samples)


@contextlib.contextmanager
def _alone(name: str, request: Request) -> Iterator[None]:
    """Keep other builds of the same data set out until the block ends.

    Two builds would overwrite each other's files. Only different parts of one stage may run side by side.

    Raises:
        DataError: a worker process of a build got here. It would wait for that build, and that build for it.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # what multiprocessing itself asks then
        raise DataError(
            f"data={name}: the program builds where its worker processes import it, too; a build below "
            'if __name__ == "__main__": would be legal, or workers=1'
        )
    side_by_side = request.part != (1, 1)
    work = request.out / name / WORK
    with contextlib.ExitStack() as locks:
        locks.enter_context(
            _locked(request.out / f".{name}.lock", side_by_side, f"another build of {name} in {request.out}")
        )
        if side_by_side:
            work.mkdir(parents=True, exist_ok=True)
            number, parts = request.part
            what = f"part {number} of {parts} of {request.stage} of {name} in {request.out}"
            locks.enter_context(_locked(work / f"{request.stage}-{number}-of-{parts}.lock", False, what))
        else:
            for path in work.rglob(".*.tmp"):
                if is_unfinished(path.name):  # of a build that was killed, for no other is at work
                    path.unlink()
        yield


@contextlib.contextmanager
def _locked(path: Path, shared: bool, what: str) -> Iterator[None]:
    """Hold the lock file `path`; if `what` holds it already, print that and wait."""
    with open(path, "w") as file:
        acquire(file, shared, busy=lambda: print(f"{what} is under way: waiting for it", flush=True))
        try:
            yield
        finally:
            release(file)


def help_text() -> str:
    """Return what `--help` prints."""
    lines = [__doc__.strip(), "", *(f"    {f'{key}={value}':<26} {text}" for key, (value, text) in HELP.items()), ""]
    for name in builders():
        takes, stages = declared(name)
        what = "any other data=NAME" if name == SAMPLES else f"data={name}"
        lines.append(f"{what} takes {', '.join(takes)}" + (f"; its stages are {', '.join(stages)}" if stages else ""))
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    if not arguments or asks_help(arguments):
        print(help_text())
        return 0
    try:
        run(arguments)
    except DataError as error:
        print(f"sharding.build: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a folder that cannot be made or written
        print(f"sharding.build: {error.filename or _where(arguments)}: {disk_refusal(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sharding.build: stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


def _where(arguments: Sequence[str]) -> str:
    """Return a name for the file of an OSError without one: it is an open file below out=."""
    return next((f"a file below {argument}" for argument in arguments if argument.startswith("out=")), "a file")


if __name__ == "__main__":
    go_on_unread()
    raise SystemExit(ends_told("sharding.build", lambda: main(sys.argv[1:])))
