"""Takes out of copies of run folders what tells who made them: users, hosts, folders, addresses, accounts.

What says where and by whom is known by its place (`NODES` in any file, the section `slurm` of a recipe) and by its
form (paths from the root, e-mail and network addresses). Names found by place are then replaced wherever else they
stand. Commits stay: they say which code it was, and a published repository may be found by them.
"""

from __future__ import annotations

import getpass
import json
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from recipes.common.json_text import parse_json, whole_lines
from recipes.yaml_io import load_yaml

PATH, MAIL, ADDRESS, USER, HOST, ACCOUNT = "PATH", "MAIL", "ADDRESS", "USER", "HOST", "ACCOUNT"
"""What stands in the place of what was taken out."""
OF_ANYBODY = {
    "root",
    "user",
    "users",
    "admin",
    "guest",
    "ubuntu",
    "debian",
    "home",
    "localhost",
    "node",
    "none",
    "null",
}
"""Names that tell nothing, and words that files need."""
SHORTEST = 3
"""Letters of a name that is looked for wherever it may stand; a shorter one is a part of anything."""
KEPT = {"class_names", "commit", "hash", "data_fingerprint", "versions", "code"}
"""Keys of meta.json whose content stays as it is."""
NODES = {"node", "excluded"}
"""Keys under which nodes are named, one or a list: of the machine in meta.json, a start's and an event's."""

_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*")
_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s\"',;)\]]+")
_FOLDER = re.compile(r"(?:(?<=^)|(?<=[\s\"'=:,(\[]))(?:~[\w.-]*)?/[\w.~-][^\s\"',;)\]]*")
_WHOLE = re.compile(r"^((?:[\w.]+=)?)(?:~[\w.-]*)?/.+$", re.DOTALL)
_ASKS = re.compile(r"^(slurm\.\w+|log\.wandb)=")
"""Words of a launcher's command that say what it asked a cluster for; of these some are names."""
_NAMES = re.compile(r"^(slurm\.account|log\.wandb)=")


def names_of(runs: Iterable[Path]) -> dict[str, str]:
    """Return the names that tell who made these runs, and who works here, with what stands in their place."""
    users, hosts = {getpass.getuser(), Path.home().name}, {socket.gethostname()}
    accounts: set[str | None] = set()
    for run in runs:
        meta = parse_json((run / "meta.json").read_bytes())
        recipe = load_yaml(run / "recipe.yaml")
        hosts |= set(_nodes_of([meta, *(line for path in _logs(run) for line in whole_lines(path.read_bytes()))]))
        asked, log = recipe.get("slurm"), recipe.get("log")
        known = asked if isinstance(asked, Mapping) else {}
        accounts |= {known.get("account"), log.get("wandb") if isinstance(log, Mapping) else None}
        for text in _texts([meta.get("argv"), recipe.get("runs"), recipe.get("data")]):
            users |= set(re.findall(r"(?:/home/|/users/|/Users/|~)([\w.-]+)", text))
            accounts.add(text.partition("=")[2] if _NAMES.match(text) else None)
    hosts |= {host.partition(".")[0] for host in hosts}
    kinds = ((users, USER), (hosts, HOST), (accounts, ACCOUNT))
    found = {str(name): stand_in for names, stand_in in kinds for name in names if name}
    return {
        name: stand_in
        for name, stand_in in sorted(found.items())
        if len(name) >= SHORTEST and name.lower() not in OF_ANYBODY and not name.isdecimal()
    }


def clean(text: str, names: Mapping[str, str]) -> str:
    """Return a text without addresses, paths from the root and names."""
    if whole := _WHOLE.match(text):
        return whole[1] + PATH  # with blanks in it, too
    text = _FOLDER.sub(PATH, _MAIL.sub(MAIL, _ADDRESS.sub(ADDRESS, text)))
    for name in sorted(names, key=len, reverse=True):
        text = _as_a_word(name).sub(names[name], text)
    return text


def left_in(text: str, names: Mapping[str, str]) -> list[str]:
    """List the names that still stand in a text, then its paths from the root and e-mail addresses."""
    found = [name for name in names if name in text and _as_a_word(name).search(text)]
    return list(dict.fromkeys([*found, *_FOLDER.findall(text), *_MAIL.findall(text)]))


def clean_run(run: Path, names: Mapping[str, str]) -> None:
    """Take out of a copy of a run folder what tells who made it; its science values stay."""
    recipe = load_yaml(run / "recipe.yaml")
    if isinstance(log := recipe.get("log"), dict) and "wandb" in log:
        log["wandb"] = None
    recipe |= {"slurm": {}} if "slurm" in recipe else {}
    text = yaml.safe_dump(cleaned(recipe, names), sort_keys=False, allow_unicode=True)
    (run / "recipe.yaml").write_text(text, encoding="utf-8", newline="\n")
    meta = parse_json((run / "meta.json").read_bytes())
    if isinstance(words := meta.get("argv"), list):
        meta["argv"] = [word for word in words if not (isinstance(word, str) and _ASKS.match(word))]
    told = {key: value if key in KEPT else cleaned(value, names) for key, value in meta.items()}
    (run / "meta.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8", newline="\n")
    for path in _logs(run):
        lines = (json.dumps(cleaned(line, names)) for line in whole_lines(path.read_bytes()))
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def cleaned(value: Any, names: Mapping[str, str]) -> Any:
    """Return a value of JSON or YAML with all its texts, and keys, cleaned, and without what `NODES` name."""
    if isinstance(value, str):
        return clean(value, names)
    if isinstance(value, dict):
        keys = (clean(key, names) if isinstance(key, str) and _WHOLE.match(key) else key for key in value)
        told = (_unnamed(each) if key in NODES else cleaned(each, names) for key, each in value.items())
        return dict(zip(keys, told, strict=True))
    return [cleaned(each, names) for each in value] if isinstance(value, list) else value


def _as_a_word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")


def _logs(run: Path) -> list[Path]:
    """Return the files of JSON lines that a run folder has."""
    return [path for path in (run / "metrics.jsonl", *sorted((run / "log").glob("*.jsonl"))) if path.is_file()]


def _unnamed(node: Any) -> Any:
    """Return what is told of a node, or of a list of them: how many."""
    if isinstance(node, list):
        return [HOST] * len(node)
    return node if node is None else HOST


def _nodes_of(value: Any) -> Iterable[str]:
    """Yield the nodes that JSON names under the keys of `NODES`."""
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes_of(each)
    for key in NODES & value.keys() if isinstance(value, dict) else ():
        yield from _texts(value[key])


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
