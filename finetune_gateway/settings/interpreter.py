"""Python processes of our own.

``python -c`` and ``python -m`` import from the current folder first. That may be the folder of
somebody else's data, and what lies in it must not run with the user's keys.
"""

from __future__ import annotations

import sys


def module(name: str, *words: str) -> list[str]:
    """Return the command that runs a module of ours as a program."""
    return [sys.executable, "-P", "-m", name, *words]


def script(path: str, *words: str) -> list[str]:
    """Return the command that runs a program of somebody else's, which the user has named: what
    lies beside it is imported first."""
    return [sys.executable, path, *words]


def call(name: str, function: str) -> list[str]:
    """Return the command that calls a function of a module, which is imported from where this
    process imports."""
    path = [entry for entry in sys.path if isinstance(entry, str)]
    code = f"import sys; sys.path[:] = {path!r}; from {name} import {function}; {function}()"
    return [sys.executable, "-P", "-c", code]
