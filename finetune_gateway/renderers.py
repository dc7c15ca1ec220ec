"""Where results are rendered: name -> "module:function" of the room ``reports``; and what else of
later rooms a result is turned into.

A class of results is defined long before the code that renders it, so its methods name that code
here and import it when they are called.
"""

from __future__ import annotations

import os
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from finetune_gateway.model import exact_methods

RENDERERS = {
    "Comparison.to_html": "finetune_gateway.reports.comparison_page:write",
    "Job.live": "finetune_gateway.reports.live_notebook:LiveCurve",
    "Job.to_html": "finetune_gateway.reports.job_page:write",
    "Job.to_dict": "finetune_gateway.reports.job_text:job_document",
    "ModelHandle.box": "finetune_gateway.reports.chat_box:bundle",
    "ModelHandle.card": "finetune_gateway.reports.model_card:card",
    "ModelHandle.export": "finetune_gateway.exports.export:export",
    "ModelHandle.client": "finetune_gateway.backends.openai.handle_client:client",
    "ModelHandle.pull": "finetune_gateway.backends.local.pulling:pull",
    "ModelHandle.push": "finetune_gateway.backends.local.pushing:push",
    "Report.to_html": "finetune_gateway.reports.validation_page:write",
    # How a result is shown in a Python session: one line, and a table in notebooks.
    "Advice": "finetune_gateway.reports.notebook:advice",
    "Archive": "finetune_gateway.reports.notebook:archive",
    "Budget": "finetune_gateway.reports.notebook:budget",
    "Comparison": "finetune_gateway.reports.notebook:comparison",
    "Estimate": "finetune_gateway.reports.notebook:estimate",
    "Inventory": "finetune_gateway.reports.notebook:inventory",
    "Job": "finetune_gateway.reports.notebook:job",
    "Ledger": "finetune_gateway.reports.notebook:ledger",
    "ModelHandle": "finetune_gateway.reports.notebook:model_handle",
    "Option": "finetune_gateway.reports.notebook:option",
    "Plan": "finetune_gateway.reports.notebook:plan",
    "Preview": "finetune_gateway.reports.notebook:preview",
    "Report": "finetune_gateway.reports.notebook:report",
    "Sequence": "finetune_gateway.reports.notebook:sequence",
}


def renderer(name: str) -> Callable[..., Any]:
    """Return the function that renders this, imported now."""
    module, _, attribute = RENDERERS[name].partition(":")
    function: Callable[..., Any] = getattr(import_module(module), attribute)
    return function


def in_notebook() -> bool:
    """Return True in a cell of a notebook, not in a thread beside it or IPython in a terminal."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel") and threading.current_thread() is threading.main_thread()


class Shown:
    """A result that shows itself in one line, and in notebooks as a small table."""

    def __repr__(self) -> str:
        name = self._shown_as()
        return f"{name}({renderer(name)(self).text()})"

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        name = self._shown_as()
        html: str = renderer(name)(self).html(name)
        return html

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """Return what a notebook shows of it beside line and table: a chat box of a model."""
        box = f"{self._shown_as()}.box"
        found: dict[str, Any] = renderer(box)(self) if box in RENDERERS and in_notebook() else {}
        return found

    def _shown_as(self) -> str:
        """Return the name of this class, or of the base that RENDERERS has."""
        return next(base.__name__ for base in type(self).__mro__ if base.__name__ in RENDERERS)


@exact_methods
class Pictured(Shown):
    """A result that is also written as a page of its own."""

    @property
    @abstractmethod
    def id(self) -> str:
        """Its name."""

    def to_html(
        self, path: str | os.PathLike[str], *, force: bool = False, no_rows: bool = False
    ) -> None:
        """Write it as one HTML page that loads nothing.

        ``no_rows``: without any text of the rows and the answers. Raises SpecError when the file
        exists and is not a page of ours, unless ``force`` is set, StoreError when it cannot be
        written.
        """
        write = renderer(f"{self._shown_as()}.to_html")
        write(self, path, force=force, no_rows=no_rows)

    def report(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        force: bool = False,
        no_rows: bool = False,
    ) -> Path:
        """Write its page as ``to_html`` does, and return where it is: by default ``ID.html`` in the
        current folder, for this user alone."""
        to = path or f"{self.id}.html"
        write = renderer(f"{self._shown_as()}.to_html")
        written: Path = write(self, to, force=force, no_rows=no_rows, private=path is None)
        return written
