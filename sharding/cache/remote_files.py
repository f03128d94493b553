"""Files of a remote data set, fetched by http(s) or by a command of the user (`pipe:`). Standard library only.

`https://host/glt` holds NAME/dataset.json and the shards, as a folder would. `pipe:` runs the command of the user's
site file, with {path} replaced by a relative path, and takes what it prints. The command comes only from the site file,
never from a data root.
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
from dataclasses import dataclass
from pathlib import PurePosixPath

from recipes.common.addresses import PIPE
from recipes.common.errors import DataError

STALL_S = 30.0
"""Seconds; a source that sends less than LEAST bytes in this time has failed."""
PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Seconds between two tries. When the last try fails, the error is raised."""
CHUNK = 1 << 20
"""Bytes read at a time."""
LEAST = 1 << 16
"""Bytes that must come within STALL_S."""
LARGEST_SMALL = 1 << 33
"""Most bytes of a file whose size is not recorded."""


class Failed(Exception):
    """One try failed; its text says how."""


@dataclass(frozen=True)
class RemoteOrigin:
    """Where the files of a remote data set come from.

    Attributes:
        root: an http(s) address or `pipe:`.
        command: what `pipe:` means, the site file's command.
    """

    root: str
    command: str | None = None

    def named(self, relative: str) -> str:
        """Return a file's name for messages."""
        if self.root == PIPE:
            return f"{relative}, by the site file's pipe: command,"
        return f"{self.root.rstrip('/')}/{relative}"

    def pieces(self, relative: str) -> Iterator[bytes]:
        """Return the pieces of a file as they arrive.

        Raises:
            Failed: this try failed.
        """
        if self.root == PIPE:
            return _printed((self.command or "").replace("{path}", relative))
        return _downloaded(f"{self.root.rstrip('/')}/{relative}")


def check_origin(origin: RemoteOrigin) -> None:
    """Check that an origin can be used.

    Raises:
        DataError: its address contains a password, `?` or `#`; or it is `pipe:` and the site file has no command.
    """
    root = origin.root
    if root.startswith(PIPE):
        if root != PIPE:
            raise DataError(
                "data.root brings a command of its own, and only the site file's is run: "
                "write it there, under data: root:, and `pipe:` alone elsewhere"
            )
        if "{path}" not in (origin.command or ""):
            raise DataError(
                "data.root=pipe: means the command of the site file, which here names none: "
                "write root: pipe:COMMAND under data: in slurm/site.yaml, with {path} for the file to print"
            )
    elif "@" in root.split("/")[2]:
        raise DataError(
            "data.root holds a user name or password: use an address without, or a pipe: command in the site file"
        )
    elif set("?#") & set(root):
        raise DataError(f"data.root={root} holds ? or #: the address of a folder is legal")


def plain(relative: str) -> str:
    """Return the relative path after checking that it consists of plain names.

    Names that a remote source sends become part of addresses, commands and paths on the node.

    Raises:
        DataError: a name in the path is not plain.
    """
    parts = PurePosixPath(relative).parts
    if (
        not parts
        or not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", part) for part in parts)
        or "/".join(parts) != relative
    ):
        raise DataError(
            f"{relative!r} is not a plain path: letters, digits and _ . - are legal in its names, "
            "and they begin with a letter, digit or _"
        )
    return relative


def fetch(
    origin: RemoteOrigin,
    relative: str,
    begin: Callable[[], Callable[[bytes], object]],
    check: Callable[[], str] = lambda: "",
    tries: int = len(PAUSES_S) + 1,
) -> None:
    """Fetch one file, trying again after pauses.

    Args:
        origin: where it comes from.
        relative: the file's path there.
        begin: called before each try; returns a function that takes each piece of the file and may raise Failed.
        check: called after the last piece; returns what is wrong with the file, or nothing.
        tries: how many tries are made.

    Raises:
        DataError: all tries failed; the sentence names the file and the last cause.
    """
    check_origin(origin)
    cause = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(PAUSES_S[min(attempt, len(PAUSES_S)) - 1])
        try:
            take = begin()
            for piece in _flowing(origin.pieces(plain(relative))):
                take(piece)
            if not (cause := check()):
                return
        except Failed as failed:
            cause = str(failed)
    raise DataError(f"{origin.named(relative)} cannot be fetched: {cause} (tried {tries} times)")


def fetch_small(
    origin: RemoteOrigin, relative: str, wrong: Callable[[bytes], str] = lambda data: "", tries: int = len(PAUSES_S) + 1
) -> bytes:
    """Return the bytes of a small file.

    Args:
        origin: where it comes from.
        relative: the file's path there.
        wrong: called with the whole file; returns what is wrong with it, or nothing.
        tries: how many tries are made.

    Raises:
        DataError: as for `fetch`.
    """
    data = bytearray()

    def begin() -> Callable[[bytes], object]:
        data.clear()

        def take(piece: bytes) -> None:
            if len(data) > LARGEST_SMALL:
                raise Failed("it does not end")
            data.extend(piece)

        return take

    fetch(origin, relative, begin, lambda: wrong(bytes(data)), tries)
    return bytes(data)


def _flowing(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the pieces, and fail when they come too slowly (see `STALL_S`)."""
    since, came = time.monotonic(), 0
    for piece in pieces:
        yield piece
        came += len(piece)
        if came >= LEAST:
            since, came = time.monotonic(), 0
        elif time.monotonic() - since > STALL_S:
            raise Failed(f"only {came} bytes came in {STALL_S:g} s")


def _downloaded(url: str) -> Iterator[bytes]:
    import urllib.error  # imported here, so that the launcher starts faster
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=STALL_S) as answer:
            if (packed := answer.headers.get("Content-Encoding", "identity")).strip().lower() != "identity":
                raise Failed(f"the server sends it packed by {packed}, for which it was not asked")
            said, got = answer.headers.get("Content-Length"), 0
            while piece := answer.read1(CHUNK):  # what has arrived, without waiting for a whole chunk
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
        assert process.stdout is not None
        printed, ready = process.stdout.fileno(), select.poll()
        ready.register(printed, select.POLLIN)
        try:
            while True:
                if not ready.poll(STALL_S * 1000):
                    raise Failed(f"nothing came for {STALL_S:g} s")
                if not (piece := os.read(printed, CHUNK)):
                    break
                yield piece
            if process.wait(STALL_S):
                raise Failed(f"the command ended with {process.returncode}")
        except subprocess.TimeoutExpired:
            raise Failed(f"the command did not end within {STALL_S:g} s of its last byte") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its background processes, too
