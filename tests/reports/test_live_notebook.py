"""A job and a model in a notebook: a curve while a cell waits, a box to chat."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from finetune_gateway import Gateway, ModelHandle
from finetune_gateway.backends.fake import FakeBackend, FakeChat
from finetune_gateway.reports import chat_box, live_notebook
from finetune_gateway.reports.chat_box import ChatBox

Rows = Callable[[int], list[dict[str, Any]]]
KEY = "sk-proj-" + "a1B2c3D4" * 6


def losses(*values: float) -> list[dict[str, Any]]:
    """A job that reports one loss a poll."""
    script: list[dict[str, Any]] = [
        {
            "status": "running",
            "events": [
                {
                    "id": str(step),
                    "created_at": step,
                    "type": "metrics",
                    "message": "",
                    "data": {"step": step, "train_loss": value},
                }
            ],
        }
        for step, value in enumerate(values, 1)
    ]
    return [*script, {"status": "succeeded", "result": {"kind": "hosted", "model": "m"}}]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a notebook shows: the HTML of each picture. IPython and its kernel are stood in for."""
    found: list[str] = []

    def display(html: str, display_id: bool) -> Any:
        found.append(html)
        return SimpleNamespace(update=found.append)

    ipython = ModuleType("IPython")
    shell = SimpleNamespace(kernel=object())
    shows = SimpleNamespace(HTML=str, display=display)
    vars(ipython).update(get_ipython=lambda: shell, display=shows)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr(live_notebook, "EACH_SECONDS", 0.0)
    monkeypatch.setattr(live_notebook, "SHARE", 0)
    return found


def test_a_cell_that_waits_shows_the_curve(home: Any, rows: Rows, shown: list[str]) -> None:
    """In one place, until the job has ended; one that had ended shows nothing more."""
    job = Gateway().submit(rows(12), model="m", backend=FakeBackend(losses(2.0, 1.5, 1.0)))
    job.wait()
    assert len(shown) >= 3 and "<svg" in shown[-1] and "succeeded" in shown[-1]
    assert "running" in shown[0] and len({*shown}) == len(shown)
    before = len(shown)
    job.wait()
    job.result()
    assert len(shown) == before


def test_who_follows_a_job_draws_it(
    home: Any, rows: Rows, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``on_event`` nothing is shown, nor in a terminal with IPython."""
    g, events = Gateway(), []
    job = g.submit(rows(12), model="m", backend=FakeBackend(losses(2.0)))
    job.wait(on_event=lambda _, event: events.append(event))
    vars(sys.modules["IPython"])["get_ipython"] = lambda: SimpleNamespace()
    g.submit(rows(13), model="m", backend=FakeBackend(losses(2.0))).wait()
    assert events and not shown


def test_what_cannot_be_drawn_ends_no_wait(home: Any, rows: Rows, shown: list[str]) -> None:
    del sys.modules["IPython"].display.HTML
    job = Gateway().submit(rows(12), model="m", backend=FakeBackend(losses(2.0)))
    assert job.wait().status == "succeeded" and not shown


def test_a_report_and_a_comparison_hold_their_page(home: Any, rows: Rows, shown: list[str]) -> None:
    """In a notebook alone, in a frame of its own; no row is on it."""
    from support.comparisons import comparison  # of modules not there before (tests/trust.py)

    data = rows(12)
    data[2]["messages"][0]["content"] = f"</iframe><script>x</script> jo@example.com {KEY}"
    results = [Gateway().validate(data), comparison(home, rows=8, models=2)]
    for result, title in zip(results, ("Accepted", "Comparison"), strict=True):
        html = result._repr_html_()
        assert html.count("<iframe") == html.count("</iframe>") == 1 and title in html
        assert "<script" not in html and "&lt;!doctype html&gt;" in html
        assert "jo@example.com" not in html and KEY not in html
    del sys.modules["IPython"]
    assert not any("<iframe" in result._repr_html_() for result in results)


# -- the box -------------------------------------------------------------------------------


class _Widget:
    """The part of the widgets that is used: what is set, and who is called."""

    value, disabled = "", False

    def __init__(self, children: Any = (), **given: Any) -> None:
        self.children = children
        vars(self).update(given)

    def on_click(self, function: Callable[[Any], object]) -> None:
        self.click = lambda: function(self)

    def _repr_mimebundle_(self) -> dict[str, Any]:
        return {"text/plain": "VBox()", "application/vnd.jupyter.widget-view+json": {}}


@pytest.fixture
def widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """ipywidgets, stood in for."""
    module = ModuleType("ipywidgets")
    names = ("HTML", "Text", "Button", "HBox", "VBox", "Layout")
    vars(module).update(dict.fromkeys(names, _Widget))
    module.__spec__ = SimpleNamespace(name="ipywidgets")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "ipywidgets", module)


class _Chat(FakeChat):
    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Any:
        last = messages[-1]["content"]
        if last == "break":
            raise RuntimeError(f"no memory, {KEY}")
        yield f"<script>{len(messages)}</script>"
        while last == "long":
            time.sleep(0.005)
            yield " more"


class Chatting(FakeBackend):
    def open(self, handle: Any) -> FakeChat:
        return _Chat("m", None)


@pytest.fixture
def handle() -> ModelHandle:
    found = ModelHandle(kind="hosted", model="<i>m</i>", base_model="m", backend="fake")
    found.attach(Chatting())
    return found


def test_a_model_is_a_box_to_chat(handle: ModelHandle, widgets: None, shown: list[str]) -> None:
    """What was said is sent along, and shown as text; Stop ends an answer; an error is shown."""
    assert [*handle._repr_mimebundle_()] == ["application/vnd.jupyter.widget-view+json"]
    assert "ipywidgets" not in handle._repr_html_()
    box: Any = ChatBox(handle)

    def said(text: str) -> str:
        box._field.value = text
        box._send.click()
        box.join()
        assert not box._send.disabled and box._stop.disabled
        return str(box._talk.value)

    assert "&lt;script&gt;1&lt;" in said("<b>Hello</b>") and "&lt;b&gt;Hello" in box._talk.value
    assert "&lt;script&gt;3&lt;" in said("Hello")
    assert not {"<script>", "<b>Hello", "<i>m"} & {*box._talk.value.split()}
    broken = said("break")
    assert "RuntimeError: no memory" in broken and KEY not in broken
    box._field.value = "long"
    box._send.click()
    box._send.click()  # one at a time
    box._stop.click()
    box.join()
    assert box._talk.value.count("long") == 1 and not box._send.disabled
    box._anew.click()
    assert "Hello" not in box._talk.value and said(" ") == box._talk.value


def test_without_widgets_a_model_says_how_to_get_the_box(
    handle: ModelHandle, shown: list[str]
) -> None:
    assert handle._repr_mimebundle_() == {}
    assert "pip install ipywidgets" in handle._repr_html_()


def test_a_model_that_gives_no_answers_has_no_box(
    widgets: None, shown: list[str], handle: ModelHandle
) -> None:
    """A reward model, and one without a deployment; nothing has one outside of a notebook."""
    for one in ({"kind": "reward"}, {"deploy": "az"}):
        assert chat_box.bundle(handle.model_copy(update=one)) == {}
    del sys.modules["IPython"]
    assert handle._repr_mimebundle_() == {}
