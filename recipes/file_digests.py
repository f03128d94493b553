"""Files that a recipe names: where one lies is operation, and its digest, written beside it, is science.

So the same file elsewhere is the same run, another file of that name is another one, and a table needs no file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.common.errors import RecipeError
from recipes.common.files import file_digest

DIGESTS = {"method.text": "method.text_sha256"}
"""The field of a file -> the field of its digest, in the same section."""


def note_digests(values: dict[str, Any]) -> None:
    """Write the digests of a recipe's files beside them.

    Raises:
        RecipeError: a file cannot be read, or is not the one whose digest stands there.
    """
    for field, noted in DIGESTS.items():
        section, _, key = field.rpartition(".")
        of_section, digest_key = values[section], noted.rpartition(".")[2]
        if of_section[key] is not None:
            of_section[digest_key] = checked_digest(field, Path(of_section[key]), of_section[digest_key])


def checked_digest(field: str, path: Path, noted: str | None) -> str:
    """Return the sha256 of a file's content; `noted` is what it must be, if anything.

    Raises:
        RecipeError: it cannot be read, or is another file; the sentence names the field.
    """
    try:
        found = file_digest(path)
    except OSError as error:
        raise RecipeError(f"{field}={path} cannot be read: {error.strerror}") from None
    if noted not in (None, found):
        raise RecipeError(
            f"{field}={path} is not the file that the recipe was written with: its sha256 begins with {found[:12]}, "
            f"and that one's with {str(noted)[:12]}; that file, or a new run with {field}=FILE, is legal"
        )
    return found
