"""Names of rows, groups, classes and runs, as short as a table or a figure needs them."""

from __future__ import annotations


def shortened(text: str, most: int = 28, end: int | None = None) -> str:
    """Return a label on one line, its middle left out where it is longer than `most` characters.

    Args:
        text: the label.
        most: characters of what is returned.
        end: how many of them are the label's last; None means a third.
    """
    text, end = " ".join(text.split()), most // 3 if end is None else end
    return text if len(text) <= most else f"{text[: most - end - 1]}…{text[-end:]}"
