"""What the files of a run's method, model and recipe do, as digests: comments, docstrings and layout do not count."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from recipes.backbones.facts import library_of, version_of
from recipes.common import search_path
from recipes.common.syntax_tree import digest, meaning
from recipes.schema import PROJECT, Recipe
from recipes.yaml_io import load_yaml

ROOMS = ("recipes", "sharding", "ifl", "slurm", "analysis")
"""The folders of the suite's own code."""
ALLOWS_ONLY = ("SMOOTHS", "POSITIVE")
"""Literals of methods that only say which science values are legal: a run of legal ones is the same without them."""
FOLDERS = {"method": search_path.METHODS, "model": search_path.MODELS}


def code_files(recipe: Recipe) -> dict[str, list[Path]]:
    """Return the files of a recipe's method, model and recipe, by these three words.

    Those of the project are relative to it, those of a folder of GLT_PATH absolute. A method's or model's file comes
    with those of its folder that it imports. What is not there is left out.
    """
    found = {
        "method": _with_imports(_file(search_path.METHODS, recipe.method.name)),
        "model": _with_imports(_file(search_path.MODELS, recipe.model.name)),
        "recipe": [path for path in [_file(search_path.RECIPES, recipe.recipe)] if path],
    }
    return {word: paths for word, paths in found.items() if paths}


def _file(kind: str, name: str) -> Path | None:
    path = Path(kind) / f"{name}{'.yaml' if kind == search_path.RECIPES else '.py'}"
    return path if (PROJECT / path).is_file() else search_path.find_own(kind, name)


def code_digests(recipe: Recipe) -> dict[str, str]:
    """Return 16 hex digits of the sha256 of what each of `code_files` does.

    Of a Python file that is its syntax tree without docstrings, of a recipe's its values, of a network of timm or
    torchvision the library's version.
    """
    found = {word: digest(list(map(_content, paths)))[:16] for word, paths in code_files(recipe).items()}
    if library := library_of(recipe.model.name):
        found["model"] = digest([library, version_of(library)])[:16]
    return found


def _with_imports(path: Path | None, known: tuple[Path, ...] = ()) -> list[Path]:
    if path is None or path in known or not (PROJECT / path).is_file():
        return []
    package, found = ".".join(path.parts[-3:-1]), [path]  # such as ifl.methods
    for node in ast.walk(ast.parse((PROJECT / path).read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and path.is_absolute():  # of its own folder
            inner = [node.module] if node.module else [alias.name for alias in node.names]
            names, folder = [name for name in inner if "." not in name], path.parent
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or "", *(f"{node.module}.{name}" for name in modules)]
            names = [name for inside, _, name in (module.rpartition(".") for module in modules) if inside == package]
            folder = Path(package.replace(".", "/"))
        else:
            continue
        for name in names:
            found += _with_imports(folder / f"{name}.py", (*known, *found))
    return found


def _content(path: Path) -> Any:
    if path.suffix == ".py":
        return [path.name, meaning((PROJECT / path).read_bytes(), aside=ALLOWS_ONLY)]
    return [path.name, load_yaml(PROJECT / path)]
