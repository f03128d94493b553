"""What was launched as one command, and which of its runs have ended: `RUNS/.commands/ID.jsonl`. Standard library only.

A table or several seeds are one command. ID follows from the names of its runs, so that the same command again is the
same command, from wherever and in however many parts it was launched. A file is only appended to, under its own lock,
which lets each node that takes it see what the others wrote: whoever writes the last run's end knows that it is the
last, and writes `told` with it. So a command's end is told once.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.common.cli import split_word
from recipes.common.json_text import whole_lines
from recipes.common.locks import locked
from slurm.monitoring.run_state import is_finished

FOLDER = ".commands"
SHOWN = ("table", "recipe", "data", "train", "preset", "seed", "seeds", "grid")
"""Words of a command that tell it from others."""


@dataclass
class Command:
    """A command of several runs.

    Attributes:
        label: its words that tell it from others.
        runs: the names of its run folders, in its order.
        launched: when it was last given, seconds since 1970.
        ends: how those have ended that will not come back by themselves.
        told: whether its end has been told.
    """

    label: str = ""
    runs: tuple[str, ...] = ()
    launched: float = 0.0
    ends: dict[str, str] = field(default_factory=dict)
    told: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """How many of its runs have ended how, the finished ones first."""
        words = [self.ends[name] for name in self.runs if name in self.ends]
        return {word: words.count(word) for word in sorted(set(words), key=lambda word: (word != "finished", word))}

    def take(self, line: Mapping[str, Any]) -> None:
        """Go on with a line of the file; what is none of its kinds is passed over."""
        if isinstance(line.get("runs"), list):
            self.runs = tuple(map(str, line["runs"]))
            self.label = str(line.get("command"))
            self.launched = float(line["time"]) if isinstance(line.get("time"), (int, float)) else 0.0
            self.ends = {name: word for name, word in self.ends.items() if word == "finished"}
            self.told = False
        elif isinstance(line.get("run"), str) and isinstance(line.get("end"), str):
            self.ends[line["run"]] = line["end"]
        elif line.get("told") is True:
            self.told = True


def label_of(words: Sequence[str], runs: int) -> str:
    """Return the words of a command that tell it from others."""
    return " ".join(word for word in words if split_word(word)[0] in SHOWN) or f"{runs} runs"


def note_launch(folders: Sequence[Path], words: Sequence[str]) -> None:
    """Note a command of several runs before the first of them is started; those that are finished have ended."""
    if len(folders) < 2:
        return
    runs, names = folders[0].parent, [folder.name for folder in folders]
    identity = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:12]
    (runs / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
    file = runs / FOLDER / f"{identity}.jsonl"
    with locked(file):
        _append(file, {"command": label_of(words, len(names)), "runs": names, "time": round(time.time(), 1)})
        for folder in folders:  # after the line: what finishes from now on finds it
            if is_finished(folder):
                _append(file, {"run": folder.name, "end": "finished"})


def note_end(folder: Path, word: str) -> list[Command]:
    """Note that a run has ended and does not come back by itself.

    Returns:
        The commands whose last run this was. Nobody else is told of them.
    """
    over = []
    for file in files(folder.parent):
        if folder.name not in read(file).runs:
            continue
        with locked(file):
            command = read(file)
            ends = {folder.name: word}
            for name in command.runs:
                if name != folder.name and command.ends.get(name) != "finished" and is_finished(folder.parent / name):
                    ends[name] = "finished"  # its own job could not say so
            for name, end in ends.items():
                if command.ends.get(name) != end:
                    _append(file, {"run": name, "end": end})
                    command.ends[name] = end
            if not command.told and set(command.runs) <= set(command.ends):
                _append(file, {"told": True})
                over.append(command)
    return over


def commands(runs: Path) -> list[Command]:
    """Return the commands of a folder of runs, the newest last."""
    return sorted((command for file in files(runs) if (command := read(file)).runs), key=lambda one: one.launched)


def files(runs: Path) -> list[Path]:
    """List the commands' files."""
    return sorted((runs / FOLDER).glob("*.jsonl"))


def read(file: Path) -> Command:
    """Read a command's file; lines that are none of its kinds are passed over."""
    command = Command()
    for line in whole_lines(file.read_bytes()):
        command.take(line)
    return command


def _append(file: Path, line: Mapping[str, Any]) -> None:
    with open(file, "ab+") as out:
        torn = out.tell() > 0 and os.pread(out.fileno(), 1, out.tell() - 1) != b"\n"
        out.write(b"\n" * torn + json.dumps(line).encode() + b"\n")
