"""What Python code does, as digests in which comments, docstrings and layout do not count. Standard library only."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Collection
from typing import Any


def meaning(source: bytes, aside: Collection[str] = ()) -> Any:
    """Return a file's syntax tree as lists without docstrings, the same under every Python that reads the file.

    Args:
        source: the file's content.
        aside: names at top level to which an assignment does not count.

    Raises:
        SyntaxError: it is no Python.
    """
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not (isinstance(node, ast.Assign) and _names(node) <= set(aside))]
    return _plain(tree)


def _names(node: ast.Assign) -> set[str]:
    return {ast.unparse(target) for target in node.targets}


def digest(value: Any) -> str:
    """Return the sha256 of lists, mappings and plain values, as 64 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _plain(node: Any) -> Any:
    """Return a syntax tree as lists; empty fields do not count, of which newer Pythons have more."""
    if isinstance(node, list):
        return [_plain(entry) for entry in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
        fields["body"] = node.body[1:]
    return [type(node).__name__, {key: _plain(value) for key, value in fields.items() if value not in (None, [])}]
