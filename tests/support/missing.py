"""Names that an older commit has not: its run of today's tests gets a ``Missing`` for each.

A file of tests imports what it needs at its top. Without this, one name that came later would keep
all of its tests from being run on an older commit, also those that do not use it.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from typing import Any

PACKAGE = "finetune_gateway"


class Missing(list[Any]):
    """Stands for a name that is not there: a test that uses it ends with NameError, which shows
    nothing. While tests are collected it is an empty list: of the cases of a test, say."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _use(self, *args: object, **named: object) -> Any:
        raise NameError(f"{self._name} is not there yet")

    __call__ = __getitem__ = _use

    def __getattr__(self, name: str) -> Any:
        self._collected()
        raise AttributeError(name)

    def __iter__(self) -> Iterator[Any]:
        self._collected()
        return super().__iter__()

    def __len__(self) -> int:
        self._collected()
        return super().__len__()

    def __contains__(self, item: object) -> bool:
        self._collected()
        return super().__contains__(item)

    def _collected(self) -> None:
        if "PYTEST_CURRENT_TEST" in os.environ:
            self._use()


def tolerant(source: str) -> str:
    """Return a module's text in which each name that is imported from the package at the top may be
    missing. The rest, and the number of each line, stay as they are."""
    lines = source.split("\n")
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            assert node.end_lineno is not None
            taken = [_taken(str(node.module), alias) for alias in node.names]
            rest = [""] * (node.end_lineno - node.lineno)
            lines[node.lineno - 1 : node.end_lineno] = ["; ".join(taken), *rest]
    return "\n".join(lines)


def _taken(module: str, alias: ast.alias) -> str:
    own = alias.asname or alias.name
    return (
        f"{own} = __import__('support.missing', fromlist=['_']).taken({module!r}, {alias.name!r})"
    )


def taken(module: str, name: str) -> Any:
    """Return what ``from module import name`` gives, or a Missing."""
    there: dict[str, Any] = {}
    try:
        exec(f"from {module} import {name}", there)
    except ImportError:
        return Missing(f"{module}.{name}")
    return there[name]
