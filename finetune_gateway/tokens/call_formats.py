"""The formats in which models write calls of tools, and one parser of them all.

A format is a few patterns: what a call begins with, how its arguments are written, what ends it.
Their names are those of vLLM's ``--tool-call-parser``, where it has one. Which of them a template
writes is found by trying: ``answer_survey``.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from finetune_gateway.tokens.call_arguments import (
    ArgumentReader,
    Arguments,
    Types,
    as_arguments,
    gemma_object,
    json_object,
    python_arguments,
    read_json,
    tags,
)

LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Call:
    """One call of a tool."""

    name: str
    arguments: Arguments
    id: str | None = None  # as the model writes it, where its format has one

    def as_message(self, *, short: bool = False) -> dict[str, Any]:
        """Return it as OpenAI's messages have it. An id is made where there is none; ``short``:
        nine letters, which Mistral's templates ask for."""
        made = "".join(secrets.choice(LETTERS) for _ in range(9 if short else 24))
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return {
            "id": self.id or (made if short else f"call_{made}"),
            "type": "function",
            "function": {"name": self.name, "arguments": arguments},
        }


ToolTypes = Mapping[str, Types]
# Reads the calls behind the beginning of one: (text, index, beginning, types of the tools).
CallReader = Callable[[str, int, "re.Match[str]", ToolTypes], tuple[list[Call], int]]


@dataclass(frozen=True)
class Parsed:
    """What a text says beside its calls, and the calls."""

    before: str
    calls: tuple[Call, ...] = ()
    after: str = ""
    broken: bool = False  # True if something in it begins like a call and is none


@dataclass(frozen=True)
class CallFormat:
    """How calls are written. All but ``opens`` are patterns."""

    name: str
    opens: str  # what the calls of an answer begin with, literally
    call: str  # the beginning of one; it may have the groups ``name`` and ``id``
    reads: CallReader
    close: str = ""  # the end of one
    start: str = ""  # before the first; a group ``text`` is text beside the calls
    end: str = ""  # after the last
    bare: bool = False  # nothing marks a call: it is the whole answer, and calls a tool that exists
    short_ids: bool = False

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        parts = (self.start, rf"[\s,;]*{self.call}", rf"\s*{self.close}", rf"\s*{self.end}")
        return tuple(re.compile(part, re.DOTALL) for part in parts)

    def parse(self, text: str, types: ToolTypes) -> Parsed:
        """Return the calls of an answer, and its text before and after them. What cannot be read is
        text."""
        if self.bare:
            return self._parse_bare(text, types)
        at = text.find(self.opens)
        while at >= 0:
            calls, inside, end, broken = self._calls(text, at, types)
            if calls:
                rest = text[end:]
                inside = inside.strip()
                before = f"{text[:at].rstrip()}\n{inside}" if text[:at].strip() else inside
                return Parsed(
                    before if inside else text[:at],
                    tuple(calls),
                    rest,
                    broken or self.opens in rest,
                )
            at = text.find(self.opens, at + 1)
        return Parsed(text, broken=self.opens in text)

    def _parse_bare(self, text: str, types: ToolTypes) -> Parsed:
        begins = text.lstrip().startswith(self.opens)
        calls, _, end, _ = self._calls(text, 0, types) if begins else ([], "", 0, False)
        known = all(call.name in types for call in calls)
        if not calls or not known or text[end:].strip():
            return Parsed(text, broken=begins and bool(types) and '"name"' in text)
        return Parsed("", tuple(calls))

    def _calls(self, text: str, at: int, types: ToolTypes) -> tuple[list[Call], str, int, bool]:
        """Return the calls that begin here, the text among them, the index after them, and whether
        there is one that cannot be read."""
        start, call, close, end = self._patterns
        calls: list[Call] = []
        opening = start.match(text, at)
        if opening is None:
            return [], "", at, True
        inside = opening.groupdict().get("text") or ""
        at = opening.end()
        while match := call.match(text, at):
            try:
                made, stop = self.reads(text, match.end(), match, types)
            except (ValueError, RecursionError):
                return calls, inside, at, True
            closing = close.match(text, stop)
            if closing is None and text[stop:].strip():
                return calls, inside, at, True
            calls += made
            at = closing.end() if closing else len(text)
        ending = end.match(text, at)
        return calls, inside, ending.end() if ending else at, ending is None and at < len(text)


# -- readers -------------------------------------------------------------------------------


def _objects(name: str = "name", arguments: str = "arguments", *, ids: bool = False) -> CallReader:
    """Return a reader of JSON objects with a name and arguments: one, or a list of them."""

    def read(text: str, at: int, match: re.Match[str], types: ToolTypes) -> tuple[list[Call], int]:
        value, end = read_json(text, at)
        items = value if isinstance(value, list) else [value]
        return [_from_object(item, name, arguments, ids) for item in items], end

    return read


def _from_object(item: Any, name: str, arguments: str, ids: bool) -> Call:
    if not isinstance(item, dict) or not isinstance(item.get(name), str) or arguments not in item:
        raise ValueError("no call")
    identity = item.get("id") if ids else None
    made = identity if isinstance(identity, str) and identity else None
    return Call(item[name], as_arguments(item[arguments]), made)


def _by_name(text: str, at: int, match: re.Match[str], types: ToolTypes) -> tuple[list[Call], int]:
    """Read a list of JSON objects whose only key is the name of the tool."""
    value, end = read_json(text, at)
    pairs = [pair for item in value for pair in item.items()] if isinstance(value, list) else []
    if not pairs:
        raise ValueError("no calls")
    return [Call(name, as_arguments(arguments)) for name, arguments in pairs], end


def _with_name(read_arguments: ArgumentReader) -> CallReader:
    """Return a reader of calls whose name stands in their beginning."""

    def read(text: str, at: int, match: re.Match[str], types: ToolTypes) -> tuple[list[Call], int]:
        name = match["name"].strip()
        arguments, end = read_arguments(text, at, types.get(name, {}))
        return [Call(name, arguments, match.groupdict().get("id"))], end

    return read


def _parameters(start: str, end: str, pad: str = "") -> CallReader:
    """Return a reader of a tag per argument. A value may hold its own closing tag: it ends where
    another argument or the end of the call follows."""
    after = rf"(?={end}\s*(?:{start.partition('(')[0]}|</[\w:｜]*(?:function|invoke)>))"
    return _with_name(tags(rf"\s*{start}{pad}" + r"(?P<value>.*?)" + rf"{pad}{after}{end}"))


def _pairs(suffix: str = "") -> CallReader:
    """Return a reader of a key and a value in a tag each."""
    pair = (
        r"\s*<arg_key>(?P<key>[^<]+)</arg_key>\s*<arg_value>(?P<value>.*?)"
        r"(?=</arg_value>\s*(?:<arg_key>|</tool_call>))</arg_value>"
    )
    for name in ("arg_key", "arg_value", "tool_call"):
        pair = pair.replace(f"{name}>", f"{name}{suffix}>")
    return _with_name(tags(pair))


_XML = _parameters(r"<parameter=(?P<key>[^>\n]+)>", "</parameter>", r"\n?")
_INVOKE = _parameters(r'<parameter name="(?P<key>[^"]+)">', "</parameter>")
_DSML = _parameters(
    r'<｜DSML｜parameter name="(?P<key>[^"]+)" string="(?P<string>true|false)">',
    "</｜DSML｜parameter>",
)

# -- the formats ---------------------------------------------------------------------------

FORMATS: tuple[CallFormat, ...] = (
    CallFormat("hermes", "<tool_call>", r"<tool_call>\s*(?=\{)", _objects(), "</tool_call>"),
    CallFormat(
        "qwen3_coder", "<tool_call>", r"<tool_call>\s*<function=(?P<name>[^>\n]+)>", _XML,
        r"</function>\s*</tool_call>",
    ),
    CallFormat("llama3_json", "{", r"(?=\{)", _objects(arguments="parameters"), bare=True),
    CallFormat(
        "llama4_json", "<|python_start|>", r"(?=\{)", _objects(arguments="parameters"),
        start=r"<\|python_start\|>(?P<text>.*?)<\|python_end\|>",
    ),
    CallFormat(
        "mistral", "[TOOL_CALLS]", r"\[TOOL_CALLS\]\s*(?=\[\{)", _objects(ids=True), short_ids=True
    ),
    CallFormat(
        "mistral_v11", "[TOOL_CALLS]",
        r"\[TOOL_CALLS\](?P<name>[^\[\]{}\s]+)(?:\[CALL_ID\](?P<id>[^\[\]{}\s]+))?(?:\[ARGS\])?",
        _with_name(json_object), short_ids=True,
    ),
    CallFormat(
        "gemma4", "<|tool_call>", r"<\|tool_call>call:(?P<name>[^{\s]+)", _with_name(gemma_object),
        r"<tool_call\|>",
    ),
    CallFormat(
        "glm45", "<tool_call>", r"<tool_call>(?P<name>[^<>{\n]+)(?=\s*</?(?:arg_key|tool_call)>)",
        _pairs(), "</tool_call>",
    ),
    CallFormat(
        "deepseek_v3", "<｜tool▁calls▁begin｜>",
        r"<｜tool▁call▁begin｜>\w*<｜tool▁sep｜>(?P<name>[^\n<]+)\n```(?:json)?\n",
        _with_name(json_object), "```<｜tool▁call▁end｜>",
        start="<｜tool▁calls▁begin｜>", end="<｜tool▁calls▁end｜>",
    ),
    CallFormat(
        "deepseek_v31", "<｜tool▁calls▁begin｜>",
        r"<｜tool▁call▁begin｜>(?P<name>[^\n<]+)<｜tool▁sep｜>",
        _with_name(json_object), "<｜tool▁call▁end｜>",
        start="<｜tool▁calls▁begin｜>", end="<｜tool▁calls▁end｜>",
    ),
    CallFormat(
        "deepseek_v32", "<｜DSML｜function_calls>", r'<｜DSML｜invoke name="(?P<name>[^"]+)">',
        _DSML,
        "</｜DSML｜invoke>", start="<｜DSML｜function_calls>", end="</｜DSML｜function_calls>",
    ),
    CallFormat(
        "deepseek_v4", "<｜DSML｜tool_calls>", r'<｜DSML｜invoke name="(?P<name>[^"]+)">', _DSML,
        "</｜DSML｜invoke>", start="<｜DSML｜tool_calls>", end="</｜DSML｜tool_calls>",
    ),
    CallFormat(
        "kimi_k2", "<|tool_calls_section_begin|>",
        r"<\|tool_call_begin\|>(?P<id>(?:functions\.)?(?P<name>[^:<\s]+)(?::\d+)?)\s*"
        r"<\|tool_call_argument_begin\|>",
        _with_name(json_object), r"<\|tool_call_end\|>",
        start=r"<\|tool_calls_section_begin\|>", end=r"<\|tool_calls_section_end\|>",
    ),
    CallFormat(
        "minimax_m2", "<minimax:tool_call>", r'<invoke name="(?P<name>[^"]+)">', _INVOKE,
        "</invoke>", start="<minimax:tool_call>", end="</minimax:tool_call>",
    ),
    CallFormat(
        "minimax", "<tool_calls>", r"(?=[\[{])", _objects(), start="<tool_calls>",
        end="</tool_calls>",
    ),
    CallFormat(
        "cohere_command3", "<|START_ACTION|>", r"<\|START_ACTION\|>\s*(?=\[)",
        _objects("tool_name", "parameters"), r"<\|END_ACTION\|>",
    ),
    CallFormat(
        "lfm2", "<|tool_call_start|>[", r"(?P<name>[\w.-]+)\(",
        _with_name(python_arguments(escapes=False)), r"\)",
        start=r"<\|tool_call_start\|>\[", end=r"\]\s*<\|tool_call_end\|>",
    ),
    CallFormat(
        "lfm2_escaped", "<|tool_call_start|>[", r"(?P<name>[\w.-]+)\(",
        _with_name(python_arguments(escapes=True)), r"\)",
        start=r"<\|tool_call_start\|>\[", end=r"\]\s*<\|tool_call_end\|>",
    ),
    CallFormat(
        "seed_oss", "<seed:tool_call>", r"<seed:tool_call>\s*<function=(?P<name>[^>\n]+)>",
        _parameters(r"<parameter=(?P<key>[^>\n]+)>", "</parameter>"),
        r"</function>\s*</seed:tool_call>",
    ),
    CallFormat(
        "apertus", "<|tools_prefix|>", r"(?=\[)", _by_name,
        start=r"<\|tools_prefix\|>", end=r"<\|tools_suffix\|>",
    ),
    CallFormat("gigachat3", "<|function_call|>", r"<\|function_call\|>\s*(?=\{)", _objects()),
    CallFormat(
        "functionary_v31", "<function=", r"<function=(?P<name>[^>\n]+)>(?=\s*\{)",
        _with_name(json_object), "</function>",
    ),
    CallFormat(
        "functionary_v32", ">>>", r">>>(?P<name>[^\s{}<>]+)\n(?=\s*\{)", _with_name(json_object)
    ),
    CallFormat(
        "minicpm5", "<function name=", r'<function name="(?P<name>[^"]+)">',
        _parameters(r'<param name="(?P<key>[^"]+)">', "</param>"), "</function>",
    ),
    CallFormat(
        "solar_open", "<|tool_calls|>",
        r"<\|tool_call:begin\|>(?P<id>[^<]+)<\|tool_call:name\|>(?P<name>[^<]+)"
        r"<\|tool_call:args\|>",
        _with_name(json_object), r"<\|tool_call:end\|>", start=r"<\|tool_calls\|>",
    ),
    CallFormat(
        "hy3", "<tool_calls:opensource>",
        r"<tool_call:opensource>(?P<name>[^<\n]+)<tool_sep:opensource>", _pairs(":opensource"),
        "</tool_call:opensource>",
        start="<tool_calls:opensource>", end="</tool_calls:opensource>",
    ),
    CallFormat("nemotron_json", "<TOOLCALL>", r"<TOOLCALL>\s*(?=\[)", _objects(), "</TOOLCALL>"),
)  # fmt: skip

# The body of a message that is addressed to a tool: ``template_answers`` splits the messages.
MUSE_BODY = CallFormat(
    "muse", "<atem:function_calls>", r'<atem:invoke name="(?P<name>[^"]+)">',
    _parameters(r'<atem:parameter name="(?P<key>[^"]+)">', "</atem:parameter>"), "</atem:invoke>",
    start="<atem:function_calls>", end="</atem:function_calls>",
)  # fmt: skip
