"""What the tests of answers share: models that are asked at a provider, prompts, and a plan."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from support.hosted import connect
from support.provider import Provider
from support.recordings import rows

from finetune_gateway.backend import HandleData
from finetune_gateway.backends.fake import FakeBackend
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.chat import ChatReply
from finetune_gateway.errors import GatewayError, SpecError
from finetune_gateway.evaluation.answers import (
    AskHow,
    AskPlan,
    AskResult,
    Limit,
    ask,
    limit_of,
    plan,
)
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt, prompt_of
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings

RUN = "compare:cmp-00000001"
KEY = "sk-test-0123456789abcdef"  # of a provider
BASES = ("gpt-4.1-mini-2025-04-14", "gpt-4o-2024-08-06")


def prompts(count: int, **row: Any) -> list[Prompt]:
    """Different questions, with answers in the data."""
    found = [prompt_of({**one, **row}, line) for line, one in enumerate(rows(count), 1)]
    return [one for one in found if one is not None]


def hosted(at: Provider | OpenAIBackend, name: str = BASES[0], **fields: Any) -> EvaluatedModel:
    """A model of the provider, as it is compared."""
    host = at if isinstance(at, OpenAIBackend) else connect(at, profile="openai")
    host.bind(Settings.load().create())
    given: dict[str, Any] = {"key": name, "name": name, "title": name, "model": name}
    given |= {"kind": "hosted", "variant": "base", "base_model": name}
    given |= {"host": host.host, "account": host.account()}
    return EvaluatedModel(**{**given, "backend": host, **fields})


def planned(
    models: Sequence[EvaluatedModel],
    rows: Sequence[Prompt],
    limit: Limit | str | None = None,
    **how: Any,
) -> AskPlan:
    """The plan of asking each of the models all rows."""
    most = Limit(Decimal(limit)) if isinstance(limit, str) else (limit or Limit(None))
    store = Store(Settings.load())
    chosen = AskHow(**{"name": RUN, "limit": most, **how})
    return plan(store, models, {model.key: rows for model in models}, chosen)


def answers(
    models: Sequence[EvaluatedModel],
    rows: Sequence[Prompt],
    limit: Limit | str | None = None,
    **how: Any,
) -> AskResult:
    """What came of asking them."""
    return ask(planned(models, rows, limit, **how))


def ask_all(url: str, count: int, limit: str | None = None) -> AskResult:
    """Ask two models of one host; the limit is for all runs of this name."""
    backend = OpenAIBackend(base_url=url, api_key=KEY, profile="openai", request_timeout=5.0)
    models = [hosted(backend, model) for model in BASES]
    most = limit_of(Store(Settings.load()), RUN, None if limit is None else Decimal(limit))
    return answers(models, prompts(count), most)


class Scripted:
    """A model of this machine that keeps what it was asked, and how. ``refuses``: a word that a row
    must not have; ``dies_at``: the number of the batch at which its process is killed."""

    def __init__(self, refuses: str = "", dies_at: int = 0) -> None:
        self.refuses = refuses
        self.dies_at = dies_at
        self.singles: list[str] = []
        self.batches: list[list[str]] = []
        self.warmed: list[str] = []  # what it was asked for one token alone

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        text = str(messages[-1]["content"])
        if sampling.get("max_tokens") == 1:
            self.warmed.append(text)
        if self.refuses and self.refuses in text:
            raise SpecError(f"The conversation has {self.refuses} in it.")
        return ChatReply(text=f"heard: {text}", finish_reason="stop")

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]:
        self.singles.append(str(messages[-1]["content"]))
        text = self.chat(messages).text
        yield from (text[:5], text[5:])

    def chat_many(
        self, conversations: Sequence[Mapping[str, Any]], **sampling: Any
    ) -> list[ChatReply | GatewayError]:
        self.batches.append([str(one["messages"][-1]["content"]) for one in conversations])
        if len(self.batches) == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        found: list[ChatReply | GatewayError] = []
        for one in conversations:
            try:
                found.append(self.chat(one["messages"]))
            except SpecError as exc:
                found.append(exc)
        return found


class ScriptedBackend(FakeBackend):
    """Opens a scripted model, and counts how often it was loaded."""

    def __init__(self, model: Scripted) -> None:
        super().__init__()
        self.model = model
        self.opened = 0

    def open(self, handle: HandleData) -> Any:
        self.opened += 1
        return self.model


def local(model: Scripted, key: str = "tuned", content: str = "abc") -> EvaluatedModel:
    """A model of this machine, as it is compared."""
    handle = ModelHandle(kind="adapter", model=f"/models/{key}", base_model="b", backend="fake")
    handle.attach(ScriptedBackend(model))
    return EvaluatedModel(
        key, key, key, "local", "tuned", handle.model, "b", base_content=content, handle=handle
    )
