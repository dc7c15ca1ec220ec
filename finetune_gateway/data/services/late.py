"""The functions of these modules, which are imported when a row first needs one: few files do, and
the modules take 4 ms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any


@cache
def modules() -> dict[str, ModuleType]:
    """Import all of them; return them by name."""
    from finetune_gateway.data.services import (
        anthropic,
        batch,
        bedrock,
        chatgpt_export,
        claude_export,
        cohere,
        encoded,
        evals,
        foreign,
        gemini,
        langchain,
        logs,
        palm,
        responses,
    )

    return {
        "anthropic": anthropic,
        "batch": batch,
        "bedrock": bedrock,
        "chatgpt_export": chatgpt_export,
        "claude_export": claude_export,
        "cohere": cohere,
        "encoded": encoded,
        "evals": evals,
        "foreign": foreign,
        "gemini": gemini,
        "langchain": langchain,
        "logs": logs,
        "palm": palm,
        "responses": responses,
    }


@dataclass(frozen=True, slots=True)
class Function:
    """A function of one argument. It can be pickled, as a format in a worker's result is."""

    module: str
    name: str

    def __call__(self, value: Any) -> Any:
        return getattr(modules()[self.module], self.name)(value)


class _Service:
    """The functions of a module."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Function:
        return Function(self._module, name)


anthropic, bedrock, gemini, palm = map(_Service, ("anthropic", "bedrock", "gemini", "palm"))
batch, evals, logs, responses_api = map(_Service, ("batch", "evals", "logs", "responses"))
claude_export, cohere, encoded = map(_Service, ("claude_export", "cohere", "encoded"))
chatgpt_export, foreign, langchain = map(_Service, ("chatgpt_export", "foreign", "langchain"))
