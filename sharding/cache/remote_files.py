"""Files of a data set that lies elsewhere: behind http(s), or behind a command of the user's own (`pipe:`). Standard library only.

`https://host/glt` holds NAME/dataset.json and the shards under it, as a folder would. `pipe:` runs the command of the user's own site file, which the launcher
hands on in GLT_PIPE, with {path} replaced by such a relative path, and takes what it prints; a root can bring no command of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from recipes.common.addresses import PIPE
from recipes.common.errors import DataError

STALL_S = 30.0
"""A source that sends nothing for so long, or less than LEAST, has failed."""
PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Between two tries; after the last one comes the error."""
CHUNK = 1 << 20
LEAST = 1 << 16
"""Bytes that must come in STALL_S."""
LARGEST_SMALL = 1 << 33
"""Bytes of a file whose size nobody recorded."""
COMMAND = "GLT_PIPE"
"""Environment variable with the site file's command."""


class Failed(Exception):
    """One try failed; its text says how."""


def check_root(root: str) -> None:
    """Raises DataError for an address that cannot be used: with a password in it, with `?` or `#`, or `pipe:` where the site file has no command."""
    if root.startswith(PIPE):
        if root != PIPE:
            raise DataError(
                "data.root brings a command of its own, and only the site file's is run: write it there, under data: root:, and `pipe:` alone elsewhere"
            )
        if "{path}" not in os.environ.get(COMMAND, ""):
            raise DataError(
                "data.root=pipe: means the command of the site file, which here names none: write root: pipe:COMMAND under data: in slurm/site.yaml, with {path} for the file to print"
            )
    elif "@" in root.split("/")[2]:
        raise DataError(
            "data.root holds a user name or password: use an address without, or a pipe: command in the site file"
        )
    elif set("?#") & set(root):
        raise DataError(f"data.root={root} holds ? or #: the address of a folder is legal")


def plain(relative: str) -> str:
    """A relative path of plain names, as it was; what a remote says is put into addresses, commands and the node's own paths. Raises DataError."""
    parts = PurePosixPath(relative).parts
    if (
        not parts
        or not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", part) for part in parts)
        or "/".join(parts) != relative
    ):
        raise DataError(
            f"{relative!r} is no plain path: letters, digits and _ . - are legal in its names, and they begin with a letter, digit or _"
        )
    return relative


def fetch(
    root: str,
    relative: str,
    begin: Callable[[], Callable[[bytes], object]],
    check: Callable[[], str] = lambda: "",
    tries: int = len(PAUSES_S) + 1,
) -> None:
    """Fetch one file, trying again after pauses.

    Args:
        begin: called before each try; what it returns is called with each piece of the file, and may raise Failed.
        check: called after the last piece: what is wrong with the file, or nothing.

    Raises:
        DataError: all tries failed; names the file and the last cause.
    """
    check_root(root)
    cause = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(PAUSES_S[min(attempt, len(PAUSES_S)) - 1])
        try:
            take = begin()
            for piece in _flowing(_pieces(root, plain(relative))):
                take(piece)
            if not (cause := check()):
                return
        except Failed as failed:
            cause = str(failed)
    where = f"{root.rstrip('/')}/{relative}" if root != PIPE else f"{relative}, by the site file's pipe: command,"
    raise DataError(f"{where} cannot be fetched: {cause} (tried {tries} times)")


def fetch_small(
    root: str, relative: str, wrong: Callable[[bytes], str] = lambda data: "", tries: int = len(PAUSES_S) + 1
) -> bytes:
    """A small file, whole; `wrong` says what is wrong with it, or nothing."""
    data = bytearray()

    def begin() -> Callable[[bytes], object]:
        data.clear()

        def take(piece: bytes) -> None:
            if len(data) > LARGEST_SMALL:
                raise Failed("it does not end")
            data.extend(piece)

        return take

    fetch(root, relative, begin, lambda: wrong(bytes(data)), tries)
    return bytes(data)


def _pieces(root: str, relative: str) -> Iterator[bytes]:
    return (
        _printed(os.environ[COMMAND].replace("{path}", relative))
        if root == PIPE
        else _downloaded(f"{root.rstrip('/')}/{relative}")
    )


def _flowing(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, as long as they are not a trickle."""
    since, came = time.monotonic(), 0
    for piece in pieces:
        yield piece
        came += len(piece)
        if came >= LEAST:
            since, came = time.monotonic(), 0
        elif time.monotonic() - since > STALL_S:
            raise Failed(f"only {came} bytes came in {STALL_S:g} s")


def _downloaded(url: str) -> Iterator[bytes]:
    import urllib.error  # here, for the launcher need not wait for them
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=STALL_S) as answer:
            said, got = answer.headers.get("Content-Length"), 0
            while piece := answer.read1(CHUNK):  # what is there, not when all of it is
                got += len(piece)
                yield piece
            if said is not None and got != int(said):
                raise Failed(f"only {got} of {said} bytes came")
    except urllib.error.HTTPError as error:
        raise Failed(f"the server says {error.code} {error.reason}") from None
    except TimeoutError:
        raise Failed(f"nothing came for {STALL_S:g} s") from None
    except urllib.error.URLError as error:
        raise Failed(
            f"nothing came for {STALL_S:g} s" if isinstance(error.reason, TimeoutError) else f"{error.reason}"
        ) from None
    except (OSError, ValueError) as error:  # resets; http.client's errors
        raise Failed(f"{type(error).__name__}: {error}") from None
    except Exception as error:
        if type(error).__module__ == "http.client":
            raise Failed(f"{type(error).__name__}: {error}") from None
        raise


def _printed(command: str) -> Iterator[bytes]:
    with subprocess.Popen(
        ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        ready = select.poll()
        ready.register(process.stdout, select.POLLIN)
        try:
            while True:
                if not ready.poll(STALL_S * 1000):
                    raise Failed(f"nothing came for {STALL_S:g} s")
                if not (piece := os.read(process.stdout.fileno(), CHUNK)):
                    break
                yield piece
            if process.wait(STALL_S):
                raise Failed(f"the command ended with {process.returncode}")
        except subprocess.TimeoutExpired:
            raise Failed(f"the command did not end within {STALL_S:g} s of its last byte") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it left in the background, too
