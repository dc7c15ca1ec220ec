"""Which service's blocks messages have: one pass, which looks only into lists of parts."""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.services.anthropic import BLOCKS
from finetune_gateway.data.services.bedrock import PARTS
from finetune_gateway.data.services.responses import PARTS as RESPONSES_PARTS

Json = dict[str, Any]


def service_of(row: Json) -> str | None:
    """Return the service whose form the messages of a row have; None for OpenAI's own."""
    messages = row.get("messages")
    if not isinstance(messages, list):
        return None
    typeless, only_lists = False, True
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list):
            only_lists = only_lists and content is None
            continue
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else ""
            if kind is None and not PARTS.isdisjoint(part):
                typeless = True
            elif not isinstance(kind, str):
                continue
            elif kind in BLOCKS:
                return "anthropic"
            elif kind in RESPONSES_PARTS:
                return "responses"
    if "schemaVersion" in row or "toolConfig" in row or (typeless and only_lists):
        return "bedrock"
    return "anthropic" if isinstance(row.get("system"), list) else None
