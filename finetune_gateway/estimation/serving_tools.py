"""The dated table of what serving tools take, and where it was read: ``serving_tools.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from finetune_gateway.errors import SpecError

ToolName = Literal["vllm", "sglang", "ollama", "gguf", "transformers"]
TOOLS: tuple[ToolName, ...] = ("vllm", "sglang", "ollama", "gguf", "transformers")


@dataclass(frozen=True)
class ServingTool:
    """A tool as it was read on a day. An empty list says nothing."""

    title: str
    version: str
    as_of: str
    source: str
    install: str
    adapters: frozenset[str] = frozenset()  # architectures, of Ollama model types, with adapters
    whole_only: frozenset[str] = frozenset()  # architectures that it serves without adapters
    architectures: frozenset[str] = frozenset()  # that it takes whole
    modules: frozenset[str] = frozenset()  # that may have an adapter
    ranks: tuple[int, ...] = ()
    default_rank: int = 0
    pre_tokenizer_text: str = ""
    pre_tokenizers: frozenset[str] = frozenset()  # sha256 of the ids of that text

    @property
    def named(self) -> str:
        """Its name with its version."""
        return f"{self.title} {self.version}"

    def rank_for(self, rank: int) -> int | None:
        """Return the smallest rank that it can be started with for an adapter of this one."""
        return next((one for one in sorted(self.ranks) if rank <= one), None)


@cache
def serving_tools() -> dict[str, ServingTool]:
    """Return the table, by name."""
    place = resources.files("finetune_gateway.estimation").joinpath("serving_tools.toml")
    tables = tomllib.loads(place.read_text("utf-8"))
    return {name: _tool(table) for name, table in tables.items()}


def _tool(table: dict[str, Any]) -> ServingTool:
    sets = ("adapters", "whole_only", "architectures", "modules", "pre_tokenizers")
    fields: dict[str, Any] = {
        name: frozenset(value) if name in sets else value for name, value in table.items()
    }
    return ServingTool(**fields)


def require_tools(names: str) -> tuple[str, ...]:
    """Return the tools of a list such as ``vllm,ollama``. Raises SpecError for an unknown one."""
    found = tuple(dict.fromkeys(one.strip().lower() for one in names.split(",") if one.strip()))
    for name in found or ("",):
        if name not in TOOLS:
            raise SpecError(
                f"No serving tool is called {name!r}.", hint=f"There are: {', '.join(TOOLS)}."
            )
    return found
