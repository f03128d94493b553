"""How far long work is: a bar on a terminal, and in a log a plain line every so many seconds."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

LINE_S = 30.0
"""Between two lines in a log."""
LINE = "{desc}{percentage:.0f}% ({n_fmt} of {total_fmt} {unit}), {rate_fmt}, after {elapsed}, {remaining} left{postfix}"


class _Nowhere:
    """Takes the place of the terminal, whose cursor tqdm would move in a log as well."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


class ProgressBar(tqdm):
    """tqdm's bar where the standard error is a terminal. Elsewhere whole lines, the last one when it is closed."""

    def __init__(self, total: float | None, desc: str, unit: str, **options: Any) -> None:
        """Begin.

        Args:
            total: of units; None where it is not known yet.
            desc: what is done.
            unit: what is counted, as a short word.
            options: others of tqdm's.
        """
        self._in_log, self._last_s = not sys.stderr.isatty(), time.monotonic()
        if self._in_log:
            options |= {"file": _Nowhere(), "bar_format": LINE, "mininterval": LINE_S, "maxinterval": LINE_S}
        super().__init__(total=total, desc=f"{desc}: ", unit=unit, **{"mininterval": 0.5, **options})

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Show how far it is. tqdm asks for it every `mininterval`, for each change of its words, and at the end."""
        if not self._in_log:
            return bool(super().display(msg, pos))
        closing = self.disable  # tqdm sets it before the last one
        if msg is None and (closing or time.monotonic() - self._last_s > 0.9 * LINE_S):
            self._last_s = time.monotonic()
            print(" ".join(str(self).split()), file=sys.stderr, flush=True)  # rates are padded
        return True
