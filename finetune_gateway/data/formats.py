"""Training formats of rows, recognized by their keys.

What a row of each format says is read in ``canonical``, and judged in ``validation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_gateway.data import sharegpt
from finetune_gateway.data.dataset import Kind
from finetune_gateway.methods import methods_for
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]

MAX_KEYS = 8  # keys of an unknown row that are shown


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity: there is one of each
class Format:
    """A known format.

    ``name``: as in reports. ``kind``: of its rows. ``note``: the code of its note, if any.
    ``methods``: the training methods it suits.
    """

    name: str
    kind: Kind
    note: str
    methods: frozenset[str]


def _format(name: str, kind: Kind, note: str = "") -> Format:
    methods = frozenset(methods_for(kind))
    # Reinforcement takes OpenAI's chat rows only, and those have no note.
    return Format(name, kind, note, methods - {"reinforcement"} if note else methods)


CHAT = _format("openai-chat", "chat")
PREFERENCE = _format("openai-preference", "preference", "format_preference")
TRL_PREFERENCE = _format("trl-preference", "preference", "format_trl_preference")
UNPAIRED = _format("unpaired-preference", "unpaired_preference", "format_unpaired_preference")
PROMPT_COMPLETION = _format("prompt-completion", "prompt_completion", "format_prompt_completion")
ALPACA = _format("alpaca", "prompt_completion", "format_alpaca")
SHAREGPT = _format("sharegpt", "chat", "format_sharegpt")
TEXT = _format("text", "text", "format_text")

FORMATS = (
    CHAT, PREFERENCE, TRL_PREFERENCE, UNPAIRED, PROMPT_COMPLETION, ALPACA, SHAREGPT, TEXT,
)  # fmt: skip

SENT_UNCHANGED = (CHAT, PREFERENCE)  # OpenAI's own: they leave byte for byte

SHAREGPT_ROLES = sharegpt.ROLES

_OPENAI_PAIR = frozenset(
    {
        "preferred_output",
        "non_preferred_output",
        "preferred_completion",
        "non_preferred_completion",
    }
)


def format_of(row: Json) -> Format | None:
    """Return the format of a row, or None if it is unknown."""
    if not _OPENAI_PAIR.isdisjoint(row):
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


def by_name(name: str) -> Format:
    """Return the format of this name."""
    return next(one for one in FORMATS if one.name == name)


def no_format_text(row: Json) -> str:
    """Return why the format of a row is not known."""
    keys = quoted_keys(row)
    return f"no known training format has the keys {keys}" if keys else "the row is an empty object"


def quoted_keys(row: Json) -> str:
    """Return the keys of a row, quoted, bounded in number and length."""
    shown = ", ".join(quoted(key) for key in list(row)[:MAX_KEYS])
    more = len(row) - MAX_KEYS
    return f"{shown} and {more} more" if more > 0 else shown
