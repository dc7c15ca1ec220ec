"""Where results are drawn: method -> "module:function" of the room ``reports``.

A class of results is read long before the code that draws it, so its methods name that code here
and import it when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

RENDERERS = {
    "Report.to_html": "finetune_gateway.reports.validation_page:write",
}


def renderer(method: str) -> Callable[..., Any]:
    """Return the function that draws for a method, imported now."""
    module, _, attribute = RENDERERS[method].partition(":")
    function: Callable[..., Any] = getattr(import_module(module), attribute)
    return function
