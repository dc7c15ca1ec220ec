"""The functions of these modules, each of which is imported when a row first needs it: few files
do, and all take 4 ms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

_MODULES: dict[str, Callable[[], ModuleType]] = {
    "anthropic": lambda: import_module("finetune_gateway.data.services.anthropic"),
    "batch": lambda: import_module("finetune_gateway.data.services.batch"),
    "bedrock": lambda: import_module("finetune_gateway.data.services.bedrock"),
    "claude_export": lambda: import_module("finetune_gateway.data.services.claude_export"),
    "cohere": lambda: import_module("finetune_gateway.data.services.cohere"),
    "encoded": lambda: import_module("finetune_gateway.data.services.encoded"),
    "evals": lambda: import_module("finetune_gateway.data.services.evals"),
    "foreign": lambda: import_module("finetune_gateway.data.services.foreign"),
    "gemini": lambda: import_module("finetune_gateway.data.services.gemini"),
    "langchain": lambda: import_module("finetune_gateway.data.services.langchain"),
    "logs": lambda: import_module("finetune_gateway.data.services.logs"),
    "palm": lambda: import_module("finetune_gateway.data.services.palm"),
    "responses": lambda: import_module("finetune_gateway.data.services.responses"),
}


@dataclass(frozen=True, slots=True)
class Function:
    """A function of one argument. It can be pickled, as a format in a worker's result is."""

    module: str
    name: str

    def __call__(self, value: Any) -> Any:
        return getattr(_MODULES[self.module](), self.name)(value)


class _Service:
    """The functions of a module."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Function:
        return Function(self._module, name)


anthropic, bedrock, gemini, palm = map(_Service, ("anthropic", "bedrock", "gemini", "palm"))
batch, evals, logs, responses_api = map(_Service, ("batch", "evals", "logs", "responses"))
claude_export, cohere, encoded = map(_Service, ("claude_export", "cohere", "encoded"))
foreign, langchain = _Service("foreign"), _Service("langchain")
