"""``--backend-param``: settings that one backend alone has."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from finetune_gateway.errors import SpecError, shown

BackendParam = Annotated[
    list[str] | None,
    typer.Option(
        "--backend-param",
        metavar="NAME=VALUE",
        help="A setting of the backend's own; repeatable. Which: ftg backends NAME.",
    ),
]


def parse_backend_params(pairs: list[str] | None) -> dict[str, Any] | None:
    """Return the pairs of ``--backend-param``, each value read as JSON where it is JSON, else as
    text; None without one. Raises SpecError for one without ``=``, and for a name given twice."""
    if not pairs:
        return None
    params: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise SpecError(
                f"--backend-param {shown(pair)} is not NAME=VALUE.",
                hint="Like: --backend-param warmup_steps=10",
            )
        if name in params:
            raise SpecError(f"--backend-param {name} is given twice.", hint="Drop one.")
        params[name] = _value(value)
    return params


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
