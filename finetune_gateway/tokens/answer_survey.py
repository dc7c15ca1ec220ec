"""How a chat template writes answers, found by planting one, rendering it and reading it back: the
first format that gives the same is taken."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from finetune_gateway.errors import DataError
from finetune_gateway.tokens.call_formats import FORMATS, CallFormat
from finetune_gateway.tokens.template_answers import (
    CHANNELS,
    AnswerReader,
    Channels,
    TemplateReader,
)
from finetune_gateway.tokens.template_rows import Message, Tools
from finetune_gateway.tokens.template_survey import (
    ANSWER,
    ASK,
    BESIDE,
    REASONING,
    REPLY,
    SECOND,
    TOOL,
    Survey,
    call,
    tool,
)
from finetune_gateway.tokens.template_turns import THINK, Turn, TurnRenderer

# Nested, with quotes, beyond ASCII: what formats differ in.
_FIRST = call(TOOL, place='Zürich "5"', days=3, direct=True, seat={"row": [1, "x"], "at": {"y": 2}})
_SECOND = call(SECOND, place="a\nb", days=0)
NAME_MARK = 16  # characters before the name of a tool that show a call
_TYPES = {"place": "string", "days": "integer", "direct": "boolean", "seat": "object"}


def _tools() -> list[dict[str, Any]]:
    made = [tool(TOOL), tool(SECOND)]
    properties = {key: {"type": name, "description": "A value"} for key, name in _TYPES.items()}
    for one in made:
        one["function"]["parameters"]["properties"] = properties
    return made


def template_reader(renderer: TurnRenderer, survey: Survey) -> TemplateReader:
    """Return the reader of a template's answers: with its marks of reasoning, and the first format
    that reads a planted call as it was."""
    plain = _turn(renderer, [ASK, REPLY])
    thinks = _turn(renderer, [ASK, {**REPLY, "reasoning_content": REASONING}])
    reader = TemplateReader(renderer, think=(*_think(thinks), *THINK))
    turns = [turn for turn in (plain, thinks) if turn is not None]
    calls = None if "calls" in survey.losses else _planted_calls(renderer)
    written = [*turns, *([calls] if calls is not None else [])]
    marks = " ".join(mark for pair in reader.think for mark in pair)
    found = {mark for turn in written for mark in _special(renderer, turn.label.text)}
    stops = renderer.stops | set(survey.turn_ends.values())
    markup = frozenset((found | set(_special(renderer, marks))) - stops)
    reader = replace(reader, markup=markup, padding=_padding(reader.think, turns))
    if plain is not None:
        reader = _framed(reader, plain, survey)
    formats: tuple[Channels | CallFormat, ...] = (*CHANNELS, *FORMATS)
    for one in formats:
        if isinstance(one, Channels) and not _channels_read(one, turns):
            continue
        tried = replace(reader, format=one)
        if calls is not None and _reads(tried, calls, renderer, survey):
            return tried
        if isinstance(one, Channels):  # its texts are read, also if its calls are not written
            reader = tried
    return replace(reader, unread=_before_name(calls.label.text) if calls is not None else "")


def _before_name(label: str) -> str:
    """Return the end of what a planted turn writes before the name of the tool it calls; an empty
    string if that is too short to be told from a text."""
    before = label.partition(TOOL)[0].rpartition(BESIDE)[2].strip()[-NAME_MARK:]
    return before if len(before) > 2 else ""


def _turn(renderer: TurnRenderer, messages: list[Message], tools: Tools = None) -> Turn | None:
    try:
        return renderer.turns(messages, tools, [len(messages) - 1])[0][0]
    except DataError:
        return None


def _planted_calls(renderer: TurnRenderer) -> Turn | None:
    """Return a turn with two calls, text beside them and reasoning, or with as much of it as the
    template takes."""
    for count in (2, 1):
        for beside in (BESIDE, ""):
            for reasoning in ({}, {"reasoning_content": REASONING}):
                message = {
                    "role": "assistant", "content": beside,
                    "tool_calls": [_FIRST, _SECOND][:count], **reasoning,
                }  # fmt: skip
                turn = _turn(renderer, [ASK, message], _tools())
                if turn is not None and TOOL in turn.label.text:
                    return turn
    return None


def _special(renderer: TurnRenderer, text: str) -> list[str]:
    return [one for one in renderer.special.pattern.findall(text) if one]


def _think(turn: Turn | None) -> list[tuple[str, str]]:
    """Return what the template writes around reasoning, if that is not in the list of known."""
    text = "" if turn is None else turn.prompt.text[-40:] + turn.label.text
    if REASONING not in text or ANSWER not in text:
        return []
    before, _, after = text.partition(REASONING)
    mark = r"<[^<>\s]+>|\[/?[A-Z_]+\]"
    opens = re.search(rf"({mark})\s*$", before)
    closes = re.match(rf"\s*({mark})", after.partition(ANSWER)[0])
    if closes is None:
        return []
    if opens is not None and opens[1] != closes[1]:
        return [(opens[1], closes[1])]
    return [(closes[1].replace("</", "<"), closes[1])] if closes[1].startswith("</") else []


def _padding(think: Iterable[tuple[str, str]], turns: list[Turn]) -> str:
    """Return the line breaks that a template writes after a block."""
    closes = "|".join(re.escape(ends.strip()) for _, ends in think)
    found = (re.search(rf"(?:{closes})(\n*)", turn.label.text) for turn in turns[::-1])
    return next((match[1] for match in found if match), "\n\n")


def without_stop(text: str, renderer: TurnRenderer, survey: Survey) -> str:
    """Return a label without the token that ends it."""
    for stop in (*renderer.stops, *survey.turn_ends.values()):
        text = text.removesuffix(stop)
    return text


def _framed(reader: TemplateReader, plain: Turn, survey: Survey) -> TemplateReader:
    """Return a reader that knows what stands before and after the text of an answer."""
    raw, prompt = without_stop(plain.label.text, reader.renderer, survey), plain.prompt.text
    close = reader.opened_by(prompt)
    closes = close is None or close in raw.partition(ANSWER)[0]
    reader = replace(reader, closes=closes)
    thought = reader.thought(raw, prompt, ended=True)
    body = thought[1] if thought is not None else ""
    if ANSWER not in body:
        return reader
    opening, _, ending = body.partition(ANSWER)
    return replace(reader, opening=opening, ending=ending)


def _channels_read(one: Channels, turns: list[Turn]) -> bool:
    """Return True if the template writes its answers as such messages."""
    labels = [turn.label.text for turn in turns if "<|message|>" in turn.label.text]
    answers = [one.read(label, {}) for label in labels]
    wanted = [REASONING if REASONING in label else None for label in labels]
    return bool(labels) and all(
        answer.text == ANSWER and answer.reasoning == reasoning
        for answer, reasoning in zip(answers, wanted, strict=True)
    )


def writes_calls(renderer: TurnRenderer, survey: Survey) -> bool:
    """Return True if a template writes calls of tools."""
    return "calls" not in survey.losses and _planted_calls(renderer) is not None


def reads_planted(reader: AnswerReader, renderer: TurnRenderer, survey: Survey) -> bool:
    """Return True if a reader gives planted calls back as they were."""
    calls = None if "calls" in survey.losses else _planted_calls(renderer)
    return calls is not None and _reads(reader, calls, renderer, survey)


def _reads(reader: AnswerReader, turn: Turn, renderer: TurnRenderer, survey: Survey) -> bool:
    """Return True if a planted turn is read as it was."""
    label = without_stop(turn.label.text, renderer, survey)
    answer = reader.read(label, turn.prompt.text, _tools())
    planted = [one["function"] for one in (_FIRST, _SECOND) if one["function"]["name"] in label]
    calls = [{"name": one.name, "arguments": one.arguments} for one in answer.calls]
    reasoning = REASONING if REASONING in label else None
    beside = BESIDE if BESIDE in label else ""
    in_reasoning = beside and answer.reasoning == beside  # gpt-oss writes the text as reasoning
    texts = (answer.text, answer.reasoning) == (beside, reasoning)
    return calls == planted and (texts or bool(in_reasoning and not answer.text))
