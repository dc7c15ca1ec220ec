"""What a plug-in raises, and what its models, replies and previews say: plain values, or an error
that names the field."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from support.hostile import Honest, breaking
from support.wrong_kinds import WRONG, Lying, Reached, fields_below, not_plain, variants, with_field

from finetune_gateway import GatewayError, SpecError
from finetune_gateway.backend import BackendError, ChatReply, HandleData, TrainingSpec
from finetune_gateway.backend.answer_texts import ATTRIBUTES
from finetune_gateway.backend.plugin_objects import renderer_of
from finetune_gateway.chat import Usage
from finetune_gateway.findings import Finding
from finetune_gateway.tokens.masks.hosted import HostedRenderer
from finetune_gateway.tokens.masks.preview import Preview, Sequence, Token

SPEC = TrainingSpec(model="m")
HANDLE = HandleData(kind="hosted", model="tuned", base_model="m", backend="hostile")


# -- errors ---------------------------------------------------------------------------------


class Locked(BackendError):
    """Its message cannot be set, and is no text."""

    message = property(lambda self: {"error": "busy"}, lambda self, value: None)


class Bare(GatewayError):
    """Has forgotten to call its base."""

    def __init__(self) -> None:
        pass


def raising(error: BaseException) -> Callable[..., Any]:
    def misbehave(backend: Any, honest: Any) -> Any:
        raise error

    return misbehave


@pytest.mark.parametrize("method", ["start", "poll"])
def test_an_error_of_ours_is_plain_too(method: str) -> None:
    """Whatever a plug-in gives it: a host's JSON as its message, a time-out as a text. A doubt that
    is neither True nor False is one, where something may have been bought."""
    arguments: Any = {"start": ("ftg-1", SPEC, None, None), "poll": ("job-1", None)}[method]
    raised: list[BackendError] = []
    backend = breaking({method: lambda backend, honest: raising(raised[-1])(backend, honest)})
    for case, value in WRONG.items():
        for name in ("message", "hint", *ATTRIBUTES):
            raised.append(BackendError("It is busy.", backend="hostile"))
            setattr(raised[-1], name, value)
            with pytest.raises(BackendError) as caught:
                getattr(backend, method)(*arguments)
            found = caught.value
            assert type(str(found)) is str and not [*not_plain([*vars(found).values()])], case
            wait = found.retry_after
            assert wait is None or (math.isfinite(wait) and wait >= 0), case
            if name == "maybe_applied" and value is not True:
                assert found.maybe_applied is (method == "start"), case


@pytest.mark.parametrize(
    "error",
    [Locked("x"), Bare(), BackendError({"error": "busy"}), SpecError(None)],  # type: ignore[arg-type]
)
def test_an_error_that_cannot_be_read_is_one_in_words(error: GatewayError) -> None:
    with pytest.raises(GatewayError) as caught:
        breaking({"poll": raising(error)}).poll("job-1", None)
    assert type(str(caught.value)) is str and str(caught.value)


# -- objects that are asked many times ------------------------------------------------------

REPLY = ChatReply(
    text="Yes.",
    finish_reason="stop",
    tool_calls=[{"id": "1", "function": {"name": "find", "arguments": "{}"}}],
    usage=Usage(prompt_tokens=3),
)


class Speaking:
    """A model that answers with what it holds."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def chat(self, messages: Any, **sampling: Any) -> Any:
        return self.value

    def chat_many(self, conversations: Any, **sampling: Any) -> Any:
        return [self.value]

    scores = reference_losses = chat_many

    def stream(self, messages: Any, **sampling: Any) -> Any:
        yield "Yes."
        return self.value


def test_replies_are_plain_or_an_error_that_names_its_field() -> None:
    """Of a chat, of many, and at the end of a stream; scores too."""
    speaking, reached, said = Speaking(None), Reached(), []
    model: Any = breaking({"open": lambda *_: speaking}).open(HANDLE)
    for case, wrong in WRONG.items():
        for path, reply in [("", wrong), *variants(REPLY, "", wrong, reached)]:
            speaking.value = reply
            asks: dict[str, Callable[[], Any]] = {
                "chat": partial(model.chat, []),
                "chat_many": partial(model.chat_many, [{}]),
                "scores": partial(model.scores, [{}]),
            }
            for name, ask in asks.items():
                found: Any = None
                try:
                    found = ask() if name == "chat" else ask()[0]
                except BackendError as exc:
                    found = exc
                named = isinstance(found, BackendError) and f"{name}() of backend" in str(found)
                if not named and [*not_plain(found)]:
                    said.append(f"{name}: {path} = {case}: {found!r}")
    assert not said and reached == fields_below(ChatReply, set())


def test_the_end_of_a_stream_is_a_plain_reply() -> None:
    good = breaking({"open": lambda *_: Speaking(REPLY)}).open(HANDLE)
    stream: Any = good.stream([])
    assert next(stream) == "Yes."
    with pytest.raises(StopIteration) as end:
        next(stream)
    assert end.value.value == REPLY and end.value.value is not REPLY
    odd = breaking({"open": lambda *_: Speaking(with_field(REPLY, "text", 7))}).open(HANDLE)
    with pytest.raises(BackendError, match=r"stream\(\) of backend 'hostile' must give text as"):
        [*odd.stream([])]


PREVIEW = Preview(
    1,
    sequences=[Sequence(tokens=[Token(1, "a", True, False, "user", "content")], total=1)],
    findings=[
        Finding(
            code="x", severity="note", line=1, path="", message="m", fix="f", backends=[], count=1,
            lines=[1],
        )
    ],
)  # fmt: skip


class Rendering(HostedRenderer):
    """Gives the preview that it holds."""

    found: Any = None

    def preview(self, row: Any, line: int = 1) -> Any:
        return self.found


def test_previews_are_plain_or_an_error_that_names_its_field() -> None:
    renderer = Rendering("gpt-4.1-mini", limit=None)
    guarded: Any = renderer_of(breaking({"preview_renderer": lambda *_: renderer}), SPEC)
    reached: Reached = set()
    said = []
    for case, wrong in WRONG.items():
        for path, preview in [("", wrong), *variants(PREVIEW, "", wrong, reached)]:
            renderer.found = preview
            try:
                if odd := [*not_plain(guarded.preview({}))]:
                    said.append(f"{path} = {case}: {odd}")
            except BackendError as exc:
                if path.rpartition(".")[2].rstrip("[]0") not in str(exc):
                    said.append(f"{path} = {case}: {exc}")
    assert not said and reached == fields_below(Preview, set())


# -- what a class says ----------------------------------------------------------------------


def test_a_name_that_lies_is_a_plain_one() -> None:
    kind: Any = type("Named", (Honest,), {"name": Lying("acme")})
    assert type(kind.name) is str and kind.name == "acme"


@pytest.mark.parametrize("given", [["keys"], "keys", None, {7}])
def test_gateway_options_of_another_kind_are_named(given: Any) -> None:
    with pytest.raises(SpecError, match="class Odd must give .*gateway_options as a"):
        type("Odd", (Honest,), {"gateway_options": given})


def test_a_display_name_may_be_a_text_or_a_method_of_the_class() -> None:
    """Authors write either; it was a function that no message could hold."""
    for given in ("Acme", property(lambda self: "Acme"), lambda self: "Acme"):
        kind: Any = type("Named", (Honest,), {"display_name": given, "__module__": "ftg_hostile"})
        assert kind().display_name == "Acme"
    odd: Any = type("Odd", (Honest,), {"display_name": 7, "__module__": "ftg_hostile"})
    with pytest.raises(BackendError, match=r"display_name\(\) of backend 'hostile' must be"):
        print(odd().display_name)
