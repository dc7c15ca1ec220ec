"""A handle in a notebook that has ipywidgets: a box to chat with its model.

Without ipywidgets the handle is a table that says how to get the box. Answers are text: what a
model writes is escaped, and is no HTML of the page.
"""

from __future__ import annotations

import threading
import time
from importlib.util import find_spec
from typing import Any

from finetune_gateway.errors import GatewayError
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.text.redaction import redact

EACH_SECONDS = 0.1  # between two pictures of an answer that is being written


def bundle(handle: ModelHandle) -> dict[str, Any]:
    """Return what a notebook shows of a handle instead of its table; empty if there is no box: it
    gives no answers yet, or ipywidgets is not installed."""
    if handle.kind == "reward" or handle.deploy is not None or find_spec("ipywidgets") is None:
        return {}
    found = ChatBox(handle).widget._repr_mimebundle_()
    # Line and table stay, for a notebook that is read later.
    return {kind: data for kind, data in found.items() if not kind.startswith("text/")}


class ChatBox:
    """A conversation with a model: what was said, a field, and buttons."""

    def __init__(self, handle: ModelHandle) -> None:
        # Imported here: it is there only in some notebooks.
        import ipywidgets as widgets  # type: ignore[import-not-found]  # no dependency of ours

        self.handle = handle
        self.turns: list[dict[str, Any]] = []
        self.problem = ""
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._talk = widgets.HTML()
        self._field = widgets.Text(placeholder="Ask", layout=widgets.Layout(width="26em"))
        self._send, self._stop, self._anew = (
            widgets.Button(description=name, layout=widgets.Layout(width="auto"))
            for name in ("Send", "Stop", "New chat")
        )
        self._stop.disabled = True
        self._send.on_click(lambda _: self.send())
        self._stop.on_click(lambda _: self._stopped.set())
        self._anew.on_click(lambda _: self.begin())
        row = widgets.HBox([self._field, self._send, self._stop, self._anew])
        self.widget = widgets.VBox([self._talk, row])
        self._draw()

    def begin(self) -> None:
        """Forget what was said."""
        self._stopped.set()
        self.join()
        self.turns, self.problem = [], ""
        self._draw()

    def send(self) -> None:
        """Ask what stands in the field. The answer is written by a thread, so that Stop works."""
        text = self._field.value
        if not text.strip() or self._send.disabled:
            return
        self._field.value, self.problem = "", ""
        self._send.disabled, self._stop.disabled = True, False
        self._stopped.clear()
        self._thread = threading.Thread(target=self._answer, args=(text,), daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the answer."""
        if self._thread is not None:
            self._thread.join()

    def _answer(self, text: str) -> None:
        asked = [*self.turns, {"role": "user", "content": text}]
        try:
            self._write(asked)
        except Exception as exc:  # whatever it is, it is shown
            self.turns, self.problem = asked, _words(exc)
        finally:
            self._send.disabled, self._stop.disabled = False, True
            self._draw()

    def _write(self, asked: list[dict[str, Any]]) -> None:
        """Show an answer as it comes, and keep it."""
        self.turns, said, drawn = asked, "", 0.0
        self._draw()
        has_template = self.handle.has_template
        stream = (
            self.handle.stream(asked)
            if has_template
            else self.handle.stream_completion(asked[-1]["content"])
        )
        for piece in stream:
            said += piece
            self.turns = [*asked, {"role": "assistant", "content": said}]
            if self._stopped.is_set():
                stream.close()
                return
            if time.monotonic() - drawn > EACH_SECONDS:
                drawn = time.monotonic()
                self._draw()
        reply = stream.reply
        whole = {"role": "assistant", "content": reply.said if reply else said}
        self.turns = [*asked, whole]

    def _draw(self) -> None:
        # Imported here: it takes the templates.
        from finetune_gateway.reports.layout import fragment

        self._talk.value = str(fragment("notebook.html", "conversation", self))


def _words(exc: Exception) -> str:
    """Return an error as it is shown, with what to do."""
    if isinstance(exc, GatewayError):
        return f"{exc.message} {exc.hint or ''}".strip()
    return redact(f"{type(exc).__name__}: {exc}")
