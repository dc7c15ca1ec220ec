"""What serving asks with, and what the template writes: by transformers and the original template.

Nothing here is the package's: the judge would not see faults that it shares.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from families.planted import ESCAPED, Json, planted
from jinja2 import TemplateError
from transformers import AutoTokenizer

# How a message is given: arguments of calls as an object or a string, content as text or parts.
FORMS = tuple((arguments, parts) for parts in (False, True) for arguments in ("object", "string"))


class Refused(Exception):
    """The template raises an error."""


class Serving:
    """One model folder with its original template and its switches."""

    def __init__(self, folder: Path, switches: Json | None = None) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.source: str = self.tokenizer.chat_template
        self.switches = dict(switches or {})
        self.arguments, self.parts = FORMS[0]
        self.special = {
            token.content: id
            for id, token in self.tokenizer.added_tokens_decoder.items()
            if token.special
        }
        config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        self.published = {*config["eos_token_id"], self.tokenizer.eos_token_id}
        self.by_length = sorted(self.special, key=len, reverse=True)
        self._choose_form()

    def _choose_form(self) -> None:
        """Take the first form in which the template writes a question, and an argument once."""
        row = planted("call")
        question, (_, value) = row.heard[0], row.said[1]
        forms: list[tuple[bool, bool, int]] = []
        for self.arguments, self.parts in FORMS:
            asks = calls = False
            try:
                asks = question in self.text(row.messages[:1], None, ask=True)
                text = self.text(row.messages, row.tools)
                calls = any(value + escaped in text for escaped in ESCAPED)
            except Refused:
                pass
            forms.append((not asks, not calls, len(forms)))
        self.arguments, self.parts = FORMS[min(forms)[-1]]

    # -- rendering -----------------------------------------------------------------------

    def text(self, messages: Sequence[Json], tools: Any, *, ask: bool = False) -> str:
        """Return what the template writes. Raises Refused."""
        return str(self._apply(messages, tools, ask, tokenize=False))

    def ids(self, messages: Sequence[Json], tools: Any, *, ask: bool = False) -> list[int]:
        """Return the token ids of what it writes. Raises Refused."""
        return list(self._apply(messages, tools, ask, tokenize=True, return_dict=False))

    def marks(self, messages: Sequence[Json], tools: Any) -> tuple[list[int], list[int]]:
        """Return the token ids, and 1 where generation blocks are. Raises Refused."""
        found = self._apply(
            messages, tools, False, tokenize=True, return_dict=True,
            return_assistant_tokens_mask=True,
        )  # fmt: skip
        return list(found["input_ids"]), list(found["assistant_masks"])

    def _apply(self, messages: Sequence[Json], tools: Any, ask: bool, **options: Any) -> Any:
        served = [self._message(message) for message in messages]
        try:
            return self.tokenizer.apply_chat_template(
                served, tools=tools, add_generation_prompt=ask, **options, **self.switches
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as exc:
            raise Refused(" ".join(str(exc).split())) from None

    def _message(self, message: Json) -> Json:
        """Return a message as a server gives it to a template."""
        served = {key: value for key, value in message.items() if key != "weight"}
        if served["role"] == "developer":
            served["role"] = "system"
        if served["content"] is None:
            served["content"] = ""
        if self.parts:
            served["content"] = [{"type": "text", "text": served["content"]}]
        if "tool_calls" in served and self.arguments == "object":
            served["tool_calls"] = [_with_object(call) for call in served["tool_calls"]]
        return served

    # -- tokens --------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def written(self, ids: Sequence[int]) -> str:
        """Return the text of tokens in the middle of a conversation: that of their pieces, since a
        decoder of SentencePiece removes a space at the beginning."""
        tokenizer = self.tokenizer.backend_tokenizer
        if "ByteLevel" in str(tokenizer.decoder):
            return str(tokenizer.decode(list(ids), skip_special_tokens=False))
        anchor = tokenizer.token_to_id("a")
        return str(tokenizer.decode([anchor, *ids], skip_special_tokens=False))[1:]


def _with_object(call: Json) -> Json:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}


@lru_cache(maxsize=4)
def serving(folder: Path, switches: str) -> Serving:
    """Return it for switches that are written as JSON; the last are kept."""
    return Serving(folder, json.loads(switches))
