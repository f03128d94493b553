"""Builds a data set's shards: `python -m sharding.build data=NAME out=DIR [source=DIR] [key=value ...]`.

Building what is already there with the same options does nothing. A killed build leaves nothing that opens, and the same
command goes on with it: finished shards are checked and kept. The bytes depend on the source, the seed and the options
alone, not on the number of processes, parts or machines. DIR/NAME/.work keeps what the stages hand on (features, splits,
records of shards); it may be deleted once the data set is finished.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    from recipes.common.venv import in_environment

    in_environment()  # before the first import that a bare Python lacks

from recipes.common.cli import asks_help
from recipes.common.errors import DataError
from recipes.common.files import disk_refusal
from recipes.common.locks import acquire
from sharding.building.request import HELP, Request, builders, declared, parse


def run(arguments: Sequence[str]) -> None:
    """Builds as `arguments` say. Raises DataError where they, the source or the result are wrong."""
    name, request = parse(arguments)
    request.out.mkdir(parents=True, exist_ok=True)
    with _alone(name, request):
        importlib.import_module(f"sharding.datasets.{name}.build").build(request)


@contextlib.contextmanager
def _alone(name: str, request: Request) -> Iterator[None]:
    """Two builds of one data set would tread on each other's files: parts of one stage may work side by side, nothing else may,
    and no part twice."""
    side_by_side = request.part != (1, 1)
    with contextlib.ExitStack() as locks:
        _lock(
            locks,
            request.out / f".{name}.lock",
            side_by_side,
            f"another build of {name} in {request.out}",
        )
        if side_by_side:
            work = request.out / name / ".work"
            work.mkdir(parents=True, exist_ok=True)
            text = f"part {request.part[0]} of {request.part[1]} of {request.stage}"
            _lock(
                locks,
                work / f"{request.stage}-{request.part[0]}-of-{request.part[1]}.lock",
                False,
                f"{text} of {name} in {request.out}",
            )
        yield


def _lock(locks: contextlib.ExitStack, path: Path, shared: bool, what: str) -> None:
    file = locks.enter_context(open(path, "w"))
    acquire(file, shared, busy=lambda: print(f"{what} is under way: waiting for it", flush=True))


def help_text() -> str:
    """What `--help` prints."""
    lines = [__doc__.strip(), "", *(f"    {f'{key}={value}':<26} {text}" for key, (value, text) in HELP.items()), ""]
    for name in builders():
        takes, stages = declared(name)
        lines.append(
            f"data={name} takes {', '.join(takes)}" + (f"; its stages are {', '.join(stages)}" if stages else "")
        )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit status."""
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
    """What an error of reading or writing is about where Python does not say: an open file that could not be written, below out=."""
    return next((f"a file below {argument}" for argument in arguments if argument.startswith("out=")), "a file")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
