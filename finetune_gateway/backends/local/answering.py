"""An answer while it is generated: its text so far, whether a stop text has come, and the reply.
Imports torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import StoppingCriteria

from finetune_gateway.backend import ChatReply, Usage
from finetune_gateway.backends.local.sampling import Sampling
from finetune_gateway.tokens.call_arguments import as_arguments
from finetune_gateway.tokens.call_formats import Call
from finetune_gateway.tokens.chat_template import ChatTemplate
from finetune_gateway.tokens.template_answers import (
    Answer,
    AnswerReader,
    TemplateReader,
    without_half,
)
from finetune_gateway.tokens.template_rows import REASONING, Tools
from finetune_gateway.tokens.text_tokenizer import TextTokenizer


class Answering(StoppingCriteria):
    """Follows ``generate`` token by token, and stops it at a stop text or when the reader is gone.

    ``pieces`` gets the text as it becomes certain, and None at the end.
    """

    def __init__(
        self,
        reader: AnswerReader,
        source: ChatTemplate | TextTokenizer,
        sampling: Sampling,
        prompt_tokens: int,
        prompt: str,
        before: Sequence[int] = (),
    ) -> None:
        """``prompt``: the end of it. ``before``: its last ids, where an answer goes on with it."""
        self.reader = reader
        self.source = source
        self.sampling = sampling
        self.prompt_tokens = prompt_tokens
        self.prompt = prompt
        self.before = before
        self.stop_ids = source.stop_ids
        self.pieces: SimpleQueue[str | None] = SimpleQueue()
        self.abandoned = False
        self.error: Exception | None = None
        self.restart()

    def restart(self) -> None:
        """Forget what has come."""
        self.shown = ""  # what ``pieces`` got
        self._ids: list[int] = []
        self._raw = ""
        self._decoder = DecodeStream(skip_special_tokens=False)
        for id in self.before:
            self._decoder.step(self.source.tokenizer, id)
        self._stopped = False  # by a stop text

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self.add(input_ids[0, self.prompt_tokens + len(self._ids) :].tolist())
        ends = self._stopped or self.abandoned
        return torch.full((input_ids.shape[0],), ends, device=input_ids.device)

    @property
    def tokens(self) -> int:
        """Return how many tokens it has so far."""
        return len(self._ids)

    @property
    def ended(self) -> bool:
        """True once a token or a text that ends an answer has come."""
        return self._stopped or (bool(self._ids) and self._ids[-1] in self.stop_ids)

    def add(self, ids: list[int]) -> None:
        """Add the next tokens."""
        self._ids += ids
        kept = [id for id in ids if self.reader.keeps(id) and id not in self.stop_ids]
        pieces = [self._decoder.step(self.source.tokenizer, id) for id in kept]
        if not any(pieces):
            return
        self._raw += "".join(piece for piece in pieces if piece)
        certain = self.reader.certain(self._raw, self.prompt, self.sampling.tools)
        text, self._stopped = self._until_stop(certain)
        # Spaces before a call, and the beginning of a stop text, are no part of the answer.
        ready = text if self._stopped else without_half(text, self.sampling.stop).rstrip()
        if len(ready) > len(self.shown):
            self.pieces.put(ready[len(self.shown) :])
            self.shown = ready

    def _until_stop(self, text: str) -> tuple[str, bool]:
        """Return the text before the first stop text, and True if there is one."""
        ends = [at for at in map(text.find, self.sampling.stop) if at >= 0]
        return (text[: min(ends)], True) if ends else (text, False)

    def reply(self) -> ChatReply:
        """Return the whole answer."""
        ids = self._ids
        ended = bool(ids) and ids[-1] in self.stop_ids
        raw = self.reader.decode(ids[:-1] if ended else ids)
        # Half a character at the end is in the whole alone.
        raw = raw if raw.startswith(self._raw) else self._raw
        answer = self.reader.read(raw, self.prompt, self.sampling.tools)
        text, stopped = self._until_stop(answer.text)
        finished = "tool_calls" if answer.calls else "stop"
        short = self.reader.short_ids
        return ChatReply(
            text=text,
            finish_reason=finished if ended or stopped else "length",
            tool_calls=[call.as_message(short=short) for call in answer.calls],
            reasoning=answer.reasoning,
            note=answer.note,
            usage=Usage(prompt_tokens=self.prompt_tokens, completion_tokens=len(ids)),
        )

    def rest(self, text: str) -> str:
        """Return what ``pieces`` did not get of the whole text."""
        return text[len(self.shown) :] if text.startswith(self.shown) else ""


def answer_reader(template: ChatTemplate) -> AnswerReader:
    """Return what takes answers apart: what the model's folder ships for it, if that reads a
    planted call as it was, else our own."""
    shipped = template.files.response_template
    own = template.answers
    if shipped is None:
        return own
    reader = ShippedReader(shipped, own)
    return reader if template.parses(reader) else own


class TextReader:
    """Reads what goes on with a text: all of it is text. ``before``: ids at the end of the prompt:
    whether a word begins with a space depends on what stands before it."""

    short_ids = False

    def __init__(self, tokenizer: Any, before: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.before = list(before)

    def keeps(self, id: int) -> bool:
        return True

    def decode(self, ids: list[int]) -> str:
        text = str(self.tokenizer.decode([*self.before, *ids], skip_special_tokens=False))
        before = str(self.tokenizer.decode(self.before, skip_special_tokens=False))
        return text[len(before) :]

    def read(self, raw: str, prompt: str, tools: Tools) -> Answer:
        return Answer(raw)

    def certain(self, raw: str, prompt: str, tools: Tools) -> str:
        return raw


class ShippedReader:
    """Reads answers as ``response_template`` in tokenizer_config.json says."""

    short_ids = False

    def __init__(self, shipped: dict[str, Any], own: TemplateReader) -> None:
        self.shipped = shipped
        self.own = own

    def keeps(self, id: int) -> bool:
        return self.own.keeps(id)

    def decode(self, ids: list[int]) -> str:
        return self.own.decode(ids)

    def read(self, raw: str, prompt: str, tools: Tools) -> Answer:
        # Imported here: few models ship one.
        from transformers.utils.chat_parsing import parse_response

        try:
            message = parse_response(raw, self.shipped, prefix=prompt, tools=[*(tools or [])])
            functions = [one["function"] for one in message.get("tool_calls") or []]
            calls = [Call(one["name"], as_arguments(one["arguments"])) for one in functions]
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            # Not its words, which may hold the answer.
            kind = type(exc).__name__
            logging.getLogger(__name__).info("response_template cannot read an answer: %s", kind)
            return self.own.read(raw, prompt, tools)
        text = str(message.get("content") or "")
        reasoning = next((str(message[key]) for key in REASONING if message.get(key)), None)
        return Answer(text.rstrip() if calls else text, reasoning, tuple(calls))

    def certain(self, raw: str, prompt: str, tools: Tools) -> str:
        # Where a call begins is known for formats of our own alone.
        return self.own.certain(raw, prompt, tools) if self.own.format is not None else ""
