"""The curve of a job in a notebook, drawn again while a cell waits for it.

IPython is there where this is used: the notebook has brought it.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from finetune_gateway.jobs.waiting import Hook
from finetune_gateway.text import logs

EACH_SECONDS = 1.0
SHARE = 20  # a curve is drawn again after so many times of what it took


class LiveCurve(Hook[Any]):
    """Called after each poll of a wait: shows the job as its last value of a cell would be shown,
    in one place. A job that had ended before shows nothing."""

    def __init__(self) -> None:
        super().__init__(None)
        self._display: Any = None
        self._html = ""
        self._next = 0.0

    def call(self, job: Any) -> None:
        """Draw it, if it is time. What goes wrong with that ends no wait."""
        began = time.monotonic()
        final = job.status.final
        if (final and self._display is None) or (not final and began < self._next):
            return
        try:
            self._draw(job)
        except Exception as exc:  # of the notebook, or of the stored metrics
            logs.jobs.warning("the curve of %s is not drawn: %s", job.id, type(exc).__name__)
        now = time.monotonic()
        self._next = now + max(EACH_SECONDS, SHARE * (now - began))

    def _draw(self, job: Any) -> None:
        html = job._repr_html_()
        if html == self._html:
            return
        self._html = html
        shown = sys.modules["IPython"].display
        if self._display is None:
            self._display = shown.display(shown.HTML(html), display_id=True)
        else:
            self._display.update(shown.HTML(html))
