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
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from recipes.common.cli import asks_help
from recipes.common.errors import DataError
from recipes.common.files import disk_refusal
from recipes.common.locks import acquire, release
from recipes.common.output import ends_told, go_on_unread
from sharding.building.request import HELP, Request, builders, declared, parse
from sharding.format.croissant import state_licence
from sharding.format.dataset import DATASET_FILE


def run(arguments: Sequence[str]) -> None:
    """Build the data set that `arguments`, key=value words, ask for.

    Raises:
        DataError: the words, the source or the result are wrong.
        OSError: a folder or file cannot be made or written.
    """
    name, request = parse(arguments)
    request.out.mkdir(parents=True, exist_ok=True)
    with _alone(name, request):
        importlib.import_module(f"sharding.datasets.{name}.build").build(request)
        if request.license is not None and (request.out / name / DATASET_FILE).exists():
            state_licence(request.out / name, request.license)


@contextlib.contextmanager
def _alone(name: str, request: Request) -> Iterator[None]:
    """Keep other builds of the same data set out until the block ends.

    Two builds would overwrite each other's files. Only different parts of one stage may run side by side.
    """
    side_by_side = request.part != (1, 1)
    with contextlib.ExitStack() as locks:
        locks.enter_context(
            _locked(request.out / f".{name}.lock", side_by_side, f"another build of {name} in {request.out}")
        )
        if side_by_side:
            work = request.out / name / ".work"
            work.mkdir(parents=True, exist_ok=True)
            number, parts = request.part
            what = f"part {number} of {parts} of {request.stage} of {name} in {request.out}"
            locks.enter_context(_locked(work / f"{request.stage}-{number}-of-{parts}.lock", False, what))
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
        lines.append(
            f"data={name} takes {', '.join(takes)}" + (f"; its stages are {', '.join(stages)}" if stages else "")
        )
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
