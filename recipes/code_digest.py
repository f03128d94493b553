"""What the files of a run's method, model and recipe do, as digests: comments, docstrings and layout do not count."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from recipes.common.syntax_tree import digest, meaning
from recipes.schema import PROJECT, Recipe
from recipes.yaml_io import load_yaml

ROOMS = ("recipes", "sharding", "ifl", "slurm", "analysis")
"""The folders of the suite's own code."""
FOLDERS = {"method": "ifl/methods", "model": "ifl/models"}


def code_files(recipe: Recipe) -> dict[str, list[Path]]:
    """Return the files of a recipe's method, model and recipe, relative to the project, by these three words.

    A method's or model's file comes with those of its folder that it imports. What is not there is left out.
    """
    found = {
        "method": _with_imports(FOLDERS["method"], recipe.method.name),
        "model": _with_imports(FOLDERS["model"], recipe.model.name),
        "recipe": [Path("recipes") / f"{recipe.recipe}.yaml"],
    }
    found["recipe"] = [path for path in found["recipe"] if (PROJECT / path).is_file()]
    return {word: paths for word, paths in found.items() if paths}


def code_digests(recipe: Recipe) -> dict[str, str]:
    """Return 16 hex digits of the sha256 of what each of `code_files` does.

    Of a Python file that is its syntax tree without docstrings, of a recipe's its values.
    """
    return {word: digest(list(map(_content, paths)))[:16] for word, paths in code_files(recipe).items()}


def _with_imports(folder: str, name: str, known: tuple[Path, ...] = ()) -> list[Path]:
    path = Path(folder) / f"{name}.py"
    if path in known or not (PROJECT / path).is_file():
        return []
    package, found = folder.replace("/", "."), [path]
    for node in ast.walk(ast.parse((PROJECT / path).read_bytes())):
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            inside, _, imported = module.rpartition(".")
            if inside == package:
                found += _with_imports(folder, imported, (*known, *found))
    return found


def _content(path: Path) -> Any:
    if path.suffix == ".py":
        return [path.name, meaning((PROJECT / path).read_bytes())]
    return [path.name, load_yaml(PROJECT / path)]
