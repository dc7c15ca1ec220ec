"""Which training format a row is written in, told by its keys, and the chat it stands for.

Knows the formats people bring; judges nothing (``checks`` does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_gateway.dataset import Kind
from finetune_gateway.findings import quoted

Json = dict[str, Any]

MAX_KEYS = 8  # keys of an unknown row that are shown


@dataclass(frozen=True, slots=True)
class Format:
    """A known format: its name in the report, the kind of its rows, its note's code, and the
    methods it can be used for."""

    name: str
    kind: Kind
    note: str
    methods: frozenset[str]


_ANSWERS = frozenset({"sft"})
_PAIRS = frozenset({"dpo", "orpo"})

CHAT = Format("openai-chat", "chat", "", frozenset({"sft", "reinforcement"}))
PREFERENCE = Format("openai-preference", "preference", "format_preference", _PAIRS)
TRL_PREFERENCE = Format("trl-preference", "preference", "format_trl_preference", _PAIRS)
UNPAIRED = Format(
    "unpaired-preference",
    "unpaired_preference",
    "format_unpaired_preference",
    frozenset({"kto"}),
)
PROMPT_COMPLETION = Format(
    "prompt-completion", "prompt_completion", "format_prompt_completion", _ANSWERS
)
ALPACA = Format("alpaca", "prompt_completion", "format_alpaca", _ANSWERS)
SHAREGPT = Format("sharegpt", "chat", "format_sharegpt", _ANSWERS)
TEXT = Format("text", "text", "format_text", frozenset({"pretrain"}))

FORMATS = (
    CHAT, PREFERENCE, TRL_PREFERENCE, UNPAIRED, PROMPT_COMPLETION, ALPACA, SHAREGPT, TEXT,
)  # fmt: skip

# The roles of ShareGPT and what they are called today.
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}

_OPENAI_PAIR = (
    "preferred_output",
    "non_preferred_output",
    "preferred_completion",
    "non_preferred_completion",
)


def format_of(row: Json) -> Format | None:
    """The format of a row, or None when no known one fits."""
    if any(key in row for key in _OPENAI_PAIR):
        return PREFERENCE
    if "chosen" in row or "rejected" in row:
        return TRL_PREFERENCE
    if "messages" in row:
        return UNPAIRED if "label" in row else CHAT
    if isinstance(row.get("conversations"), list):
        return SHAREGPT
    return _single_turn(row)


def _single_turn(row: Json) -> Format | None:
    if "instruction" in row:
        return ALPACA
    if "prompt" in row and "completion" in row:
        return UNPAIRED if "label" in row else PROMPT_COMPLETION
    if isinstance(row.get("input"), dict) and "messages" in row["input"]:
        return PREFERENCE
    if isinstance(row.get("prompt"), str) or isinstance(row.get("completion"), str):
        return PROMPT_COMPLETION
    return TEXT if "text" in row else None


def as_chat(row: Json) -> Json:
    """A row of one conversation as OpenAI's chat; a pair, a text or a chat as it is."""
    found = format_of(row)
    if found is PROMPT_COMPLETION:
        return {"messages": _pair_messages(row)}
    if found is ALPACA:
        return {"messages": _alpaca_messages(row)}
    if found is SHAREGPT:
        return {"messages": _sharegpt_messages(row)}
    return row


def _pair_messages(row: Json) -> list[Json]:
    messages: list[Json] = []
    for key, role in (("prompt", "user"), ("completion", "assistant")):
        said = row.get(key)
        # TRL's conversational form holds lists of messages, the plain form holds text.
        messages += said if isinstance(said, list) else [{"role": role, "content": said}]
    return messages


def _alpaca_messages(row: Json) -> list[Json]:
    asked = "\n\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
    turns = [("system", row.get("system")), ("user", asked), ("assistant", row.get("output"))]
    return [{"role": role, "content": text} for role, text in turns if text]


def _sharegpt_messages(row: Json) -> list[Json]:
    messages = [
        {"role": SHAREGPT_ROLES.get(str(turn.get("from")), "user"), "content": turn.get("value")}
        for turn in row["conversations"]
        if isinstance(turn, dict)
    ]
    system = row.get("system")
    return [{"role": "system", "content": system}, *messages] if system else messages


def keys_seen(row: Json) -> str:
    """The keys of a row, quoted, bounded in number and length."""
    shown = ", ".join(quoted(key) for key in list(row)[:MAX_KEYS])
    more = len(row) - MAX_KEYS
    return f"{shown} and {more} more" if more > 0 else shown or "none"
