"""The sampling options of local chat: checked, so that each is honoured or refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_gateway.errors import SpecError
from finetune_gateway.tokens.template_rows import Tools

MAX_TOKENS = 512
SEEDS = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Sampling:
    """How an answer is made."""

    max_tokens: int = MAX_TOKENS
    temperature: float = 0.0  # 0 always takes the most likely token
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()  # texts that end the answer and are not in it
    tools: Tools = None


OPTIONS = frozenset(Sampling.__dataclass_fields__)


def read_sampling(given: dict[str, Any]) -> Sampling:
    """Return the options of a chat; None is an option that is not given. Raises SpecError for an
    unknown one, and for a value that cannot be honoured."""
    unknown = given.keys() - OPTIONS
    if unknown:
        raise SpecError(
            f"Local chat does not take {', '.join(sorted(unknown))}.",
            hint=f"It takes: {', '.join(sorted(OPTIONS))}.",
        )
    checks: dict[str, Callable[[Any], Any]] = {
        "max_tokens": _max_tokens, "temperature": _temperature, "top_p": _top_p, "seed": _seed,
        "stop": _stop, "tools": _tools,
    }  # fmt: skip
    chosen = {name: value for name, value in given.items() if value is not None}
    return Sampling(**{name: checks[name](value) for name, value in chosen.items()})


def _max_tokens(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refused("max_tokens", value, "a whole number from 1")
    return value


def _temperature(value: Any) -> float:
    if not _is_number(value) or not 0 <= value <= 2:
        raise _refused("temperature", value, "a number from 0 to 2")
    return float(value)


def _top_p(value: Any) -> float:
    if not _is_number(value) or not 0 < value <= 1:
        raise _refused("top_p", value, "a number above 0, at most 1")
    return float(value)


def _seed(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value not in SEEDS:
        raise _refused("seed", value, "a whole number of 64 bits")
    return value


def _stop(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
        raise _refused("stop", value, "a text or a list of texts")
    if not all(texts):
        raise _refused("stop", value, "texts that are not empty")
    return tuple(texts)


def _tools(value: Any) -> Tools:
    named = isinstance(value, list) and all(_is_tool(tool) for tool in value)
    if not named:
        raise _refused("tools", value, 'a list like [{"type": "function", "function": {...}}]')
    return value or None


def _is_tool(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refused(name: str, value: Any, wanted: str) -> SpecError:
    shown = repr(value)
    shown = f"{shown[:60]}..." if len(shown) > 60 else shown
    return SpecError(f"{name} is {wanted}, not {shown}.", hint=f"Leave {name} out, or change it.")
