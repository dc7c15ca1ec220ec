"""What a model has written, taken apart: reasoning, text and calls of tools.

``answer_survey`` finds how a template writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from finetune_gateway.tokens.call_arguments import as_arguments, read_json, types_of
from finetune_gateway.tokens.call_formats import (
    FORMATS,
    MUSE_BODY,
    Call,
    CallFormat,
    Parsed,
    ToolTypes,
)
from finetune_gateway.tokens.template_rows import Tools
from finetune_gateway.tokens.template_turns import THINK, TurnRenderer

BROKEN = "The answer holds a call of a tool that cannot be read: it stands in the text."
UNKNOWN = "Calls of tools are not read from this model's answers: they stand in the text."


@dataclass(frozen=True)
class Answer:
    """What a model has written."""

    text: str
    reasoning: str | None = None
    calls: tuple[Call, ...] = ()
    note: str | None = None  # what could not be read


class AnswerReader(Protocol):
    """Takes answers apart. ``prompt``: the end of what was asked, which may open a block."""

    @property
    def short_ids(self) -> bool: ...

    def decode(self, ids: list[int]) -> str:
        """Return the text of an answer with those special tokens that ``read`` looks for."""

    def keeps(self, id: int) -> bool:
        """Return True if ``decode`` writes this token."""

    def read(self, raw: str, prompt: str, tools: Tools) -> Answer:
        """Return a whole answer, taken apart."""

    def certain(self, raw: str, prompt: str, tools: Tools) -> str:
        """Return the text of an answer that goes on, as far as nothing can change it."""


# -- messages within an answer -------------------------------------------------------------


@dataclass(frozen=True)
class Channels:
    """Answers that are several messages, each addressed to somebody (gpt-oss, Muse)."""

    name: str
    call: re.Pattern[str]  # what a header says before a call, with the group ``name``
    thinks: re.Pattern[str]  # what it says before reasoning
    body: CallFormat | None = None  # of a call; None: the arguments as JSON
    ends: tuple[str, ...] = ("<|end|>", "<|eom|>", "<|eot|>", "<|call|>", "<|return|>")
    short_ids: bool = False

    def read(self, raw: str, types: ToolTypes) -> Answer:
        """Return the answer. A message that breaks off is read as far as it goes."""
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[Call] = []
        note = None
        for header, body in self.messages(raw):
            match = self.call.search(header)
            if match is None:
                (thoughts if self.thinks.search(header) else texts).append(body)
                continue
            found = self._call(match["name"], body, types)
            calls += found
            if not found:
                texts.append(f"{header.strip()}\n{body}")
                note = BROKEN
        reasoning = "\n\n".join(thoughts).strip() or None
        return Answer("".join(texts), reasoning, tuple(calls), note)

    def messages(self, raw: str) -> Iterator[tuple[str, str]]:
        """Yield the header and the body of each message. What has no header is text."""
        for part in raw.split("<|start|>"):
            header, found, body = part.partition("<|message|>")
            if not found:
                header, body = "", part
            ends = [at for at in map(body.find, self.ends) if at >= 0]
            body = body[: min(ends)] if ends else body
            if header or body.strip():
                yield header, body

    def certain(self, raw: str) -> str:
        """Return the text so far."""
        start = raw.rfind("<|start|>")
        last = raw[start:] if start >= 0 else raw
        if "<|message|>" not in last:
            if start < 0 and not _begins(raw, ("<|channel|>", "<|message|>", " to=")):
                return raw  # no header: all of it is text
            raw = raw[: max(start, 0)]
        raw = without_half(raw, (*self.ends, "<|start|>"))
        parts = self.messages(raw)
        return "".join(
            body for header, body in parts if not self.call.search(header) and not
            self.thinks.search(header)
        )  # fmt: skip

    def _call(self, name: str, body: str, types: ToolTypes) -> list[Call]:
        if self.body is not None:
            return list(self.body.parse(body, types).calls)
        try:
            value, end = read_json(body, 0)
            return [] if body[end:].strip() else [Call(name, as_arguments(value))]
        except (ValueError, RecursionError):
            return []


CHANNELS = (
    Channels(
        "openai",
        re.compile(r"to=functions\.(?P<name>[^\s<]+)"),
        re.compile(r"<\|channel\|>analysis"),
    ),
    Channels(
        "muse",
        re.compile(r"to=(?!user\b|self\b)(?P<name>[^\s<]+)"),
        re.compile(r"to=self\b"),
        MUSE_BODY,
    ),
)


# -- one text ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TemplateReader:
    """Reads the answers that one template trains and asks for."""

    renderer: TurnRenderer
    format: CallFormat | Channels | None = None  # None: calls are not read
    think: tuple[tuple[str, str], ...] = THINK
    closes: bool = True  # False if an answer may leave the block open that its prompt opens
    padding: str = "\n\n"  # line breaks that the template writes after a block
    opening: str = ""  # what the template writes before the text of an answer
    ending: str = ""  # and after it, before the token that stops it
    markup: frozenset[str] = field(default_factory=frozenset)  # special tokens that are looked for
    unread: str = ""  # what stands before the name in a call, if no format reads the template's

    @property
    def short_ids(self) -> bool:
        return self.format is not None and self.format.short_ids

    # -- tokens --------------------------------------------------------------------------

    @cached_property
    def _dropped(self) -> frozenset[int]:
        ids = self.renderer.special.ids
        return frozenset(id for token, id in ids.items() if token not in self.markup)

    def keeps(self, id: int) -> bool:
        return id not in self._dropped

    def decode(self, ids: list[int]) -> str:
        kept = [id for id in ids if id not in self._dropped]
        return str(self.renderer.special.tokenizer.decode(kept, skip_special_tokens=False))

    # -- reading -------------------------------------------------------------------------

    def read(self, raw: str, prompt: str, tools: Tools) -> Answer:
        types = types_of(tools)
        if isinstance(self.format, Channels):
            return self.format.read(raw, types)
        thought = self.thought(raw, prompt, ended=True)
        assert thought is not None  # for the type checker: an answer that has ended is clear
        reasoning, body = thought
        body = body.removeprefix(self.opening)
        if self.ending and body.endswith(self.ending):
            body = body[: -len(self.ending)]
        if self.format is None:
            is_call = bool(self.unread and self.unread in body) or _like_call(body)
            return Answer(body, reasoning, note=UNKNOWN if tools and is_call else None)
        # A prompt may end with what a call begins with (functionary).
        asked = self.format.opens if self._asks_for_call(raw, prompt) else ""
        parsed = self.format.parse(asked + body, types)
        text = _beside(parsed) if parsed.calls else body
        return Answer(text, reasoning, parsed.calls, BROKEN if parsed.broken else None)

    def certain(self, raw: str, prompt: str, tools: Tools) -> str:
        if isinstance(self.format, Channels):
            return self.format.certain(raw)
        thought = self.thought(raw, prompt, ended=False)
        if thought is None:
            return ""
        body = thought[1]
        if len(body) < len(self.opening) and self.opening.startswith(body):
            return ""
        body = body.removeprefix(self.opening)
        if self.format is not None and self.format.bare:
            return "" if not body.strip() or body.lstrip().startswith(self.format.opens) else body
        opens = (self.format.opens,) if self.format is not None else ()
        if self._asks_for_call(raw, prompt):
            return ""
        if opens and opens[0] in body:
            return body[: body.index(opens[0])]
        return without_half(body, (*opens, self.ending))

    def _asks_for_call(self, raw: str, prompt: str) -> bool:
        """Return True if the prompt begins a call, unless the answer begins as a text does."""
        if self.format is None or isinstance(self.format, Channels) or self.format.bare:
            return False
        return prompt.endswith(self.format.opens) and not (
            self.opening and raw.startswith(self.opening)
        )

    def thought(self, raw: str, prompt: str, *, ended: bool) -> tuple[str | None, str] | None:
        """Return the reasoning of an answer and what follows it; None while that is not clear."""
        text, close = raw, self.opened_by(prompt)
        lead = raw.lstrip()
        for begins, ends in self.think if close is None else ():
            if lead.startswith(begins.strip()):
                text, close = lead[len(begins.strip()) :], ends.strip()
                opened = True
                break
        else:
            opened = False
        closing = {ends.strip() for _, ends in self.think}
        if close is None:
            marks = [*closing, *(begins.strip() for begins, _ in self.think)]
            if not ended and _may_open(lead, marks):
                return None
            return None, _without_leading(text, closing)
        inside, found, body = text.partition(close)
        if not found:
            if not ended:
                return None
            return (inside.strip() or None, "") if opened or self.closes else (None, text)
        if not ended and (_may_open(body.lstrip(), closing) or self.padding.startswith(body)):
            return None
        body = _without_leading(body, closing)
        exact = body.startswith(self.padding)  # else a model that writes as many as it likes
        body = body[len(self.padding) :] if exact else body.lstrip("\n")
        return inside.strip() or None, body

    def opened_by(self, prompt: str) -> str | None:
        """Return what closes the block that a prompt opens; None if it opens none."""
        end = prompt.rstrip()
        found = (ends.strip() for begins, ends in self.think if end.endswith(begins.strip()))
        return next(found, None)


def _without_leading(text: str, marks: Iterable[str]) -> str:
    """Return a text without marks at its beginning."""
    while mark := next((one for one in marks if text.lstrip().startswith(one)), None):
        text = text.lstrip().removeprefix(mark)
    return text


def _may_open(text: str, marks: Iterable[str]) -> bool:
    """Return True if a text is empty, or a mark or the beginning of one."""
    return not text or any(mark.startswith(text) for mark in marks)


def _begins(text: str, marks: Iterable[str]) -> bool:
    """Return True if a text begins with a mark, or may."""
    return any(text.startswith(mark) or mark.startswith(text) for mark in marks)


def without_half(text: str, marks: Iterable[str]) -> str:
    """Return a text without an end that may be the beginning of a mark."""
    marks = [mark for mark in marks if mark]
    longest = max(map(len, marks), default=0)
    for at in range(max(0, len(text) - longest), len(text)):
        if any(mark.startswith(text[at:]) for mark in marks):
            return text[:at]
    return text


def _beside(parsed: Parsed) -> str:
    """Return the text of an answer without its calls."""
    before, after = parsed.before.rstrip(), parsed.after.strip()
    return f"{before}\n{after}" if before and after else before or after


def _like_call(text: str) -> bool:
    return any(one.opens in text for one in FORMATS if not one.bare)
