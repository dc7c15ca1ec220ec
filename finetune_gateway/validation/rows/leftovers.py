"""Defects of texts that an export or a template left half done: placeholders, HTML entities, line
breaks as two characters, a dialogue in one field, calls of tools and reasoning as text.

Judges the canonical row; names the fields of the user's row. What may be meant (code, LaTeX, HTML,
a letter to fill in, a placeholder that the prompt has too) is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from finetune_gateway.data import chat_texts
from finetune_gateway.data.call_turns import with_tool_calls
from finetune_gateway.data.calls_in_text import said_and_called
from finetune_gateway.data.canonical_row import CanonicalRow
from finetune_gateway.data.row_access import as_dict, as_list, messages_of
from finetune_gateway.findings import Defect
from finetune_gateway.text.quoting import quoted
from finetune_gateway.text.regex import LazyPattern, searcher

Json = dict[str, Any]
Defects = Iterator[Defect]

# What opens and closes reasoning in a text: as templates write it (tokens/template_turns.py), and
# as people do.
_BLOCKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<mm:think>", "</mm:think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis", "<|end|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)
# The prompt of some models opens the block, so that the answer only closes it.
_UNOPENED = LazyPattern(r"\n\s*</think>\s*\S")
# What a placeholder stands for. Any word would take variables in code and tags for placeholders.
_FIELD = (
    "(?:agent|author|brand|client|company|country|creator|customer|date|developer|email|model|name"
    "|organi[sz]ation|owner|person|phone|product|recipient|sender|team|user|username)"
)
_FIRST = "(?:your|first|last|user|full|model|company|bot)[ _]"
_FIELDS = rf"(?:{_FIRST})?{_FIELD}(?:[ _]name)?"
_CAPITALS = _FIELDS.upper()
_INSERT = r"\[(?:Your|YOUR|Insert|INSERT|Company|COMPANY) [A-Za-z' ]{1,30}\]"
_ENTITY = r"&(?:amp|lt|gt|quot|apos|nbsp|#[0-9]{2,5}|#x[0-9a-fA-F]{2,4});"
_SPEAKER = r"(?:<(?:user|human)>|(?:### ?)?(?:Human|User|Instruction)) ?:"
_UNBROKEN = r'(?:[^"\\]|\\[^n])*'  # no real line break
_LINE_BREAK_LEFT = rf'[a-z.?!:,;)] ?\\\\n(?:\\\\n|[A-Z#-]){_UNBROKEN}"'
# The end of a key that is not "arguments", in which it is right: the engine has no lookbehind.
_NOT_ARGUMENTS = "(?:[^s]|[^t]s|[^n]ts|[^e]nts|[^m]ents|[^u]ments|[^g]uments|[^r]guments)"
_NO_CALL = rf'(?:[\[,]|{_NOT_ARGUMENTS}"[ \t\r]*:)[ \t\r]*"{_UNBROKEN}'


_UNFILLED = rf"\{{\{{ ?(?i:{_FIELDS}) ?\}}\}}|\{{(?i:{_FIELDS})\}}|<(?:{_CAPITALS})>|{_INSERT}"


_CALL_HINT = r'<tool_call>|"(?:\\n| )*(?:<functioncall>|\{(?:\\n| )*\\"(?:name|arguments)\\")'


def _hints(line_break: str) -> tuple[str, ...]:
    return (
        _UNFILLED,
        _ENTITY,
        line_break,
        rf'"(?:\\n| )*{_SPEAKER}',
        _CALL_HINT,
        rf'"(?:\\n| )*(?:{"|".join(re.escape(opened) for opened, _ in _BLOCKS)})',
        "</think>",
    )


# Patterns of which one matches the JSON of every row in which something is found; the others take
# 12 % less time, and match nearly all rows with calls.
HINTS = _hints(_NO_CALL + _LINE_BREAK_LEFT)
HINTS_WITHOUT_CALLS = _hints(_LINE_BREAK_LEFT)
_BUT_CALLS = tuple(hint for hint in HINTS if hint != _CALL_HINT)
_PLACEHOLDER = LazyPattern(
    # Each branch begins with a character as it is: these are searched for at once.
    rf"\{{\{{ ?{_FIELDS} ?\}}\}}|\{{{_FIELDS}\}}|<(?-i:{_CAPITALS})>|\[(?-i:{_INSERT[2:]})",
    re.IGNORECASE,
)
_BRACES = LazyPattern(r"\{\{? ?[A-Za-z_]+ ?\}?\}")  # one at the end of a line is no code
_FENCED = LazyPattern(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_CODE = LazyPattern(
    r"^ *(?:def|class|import|from|return|function|const|let|var|public|private|SELECT|#include)\b"
    r"|[;{}] *$|</|\{%|=>|==|\w\(['\"]|\bf['\"]|\\[A-Za-z]{2,}|= ?['\"]",
    re.MULTILINE,
)
_LETTER = LazyPattern(
    r"\b(?:letter|e-?mail|template|message|resume|invitation|speech|script|form|press|release|policy|sentence|Dear|Sincerely|Regards)\b",
    re.IGNORECASE,
)
_FORM_LENGTH = 500  # characters; longer answers with fields in brackets are forms to fill in
_ENTITIES = LazyPattern(_ENTITY)
_HTML = LazyPattern(
    r"</?[a-z][a-z0-9]*(?: [^<>]*)?/?>|html|xml|entit|escap|encod|href", re.IGNORECASE
)
_LINE_BREAK = LazyPattern(r"[a-z.?!:,;)] ?\\n(?:\\n|[A-Z#-])")
_NOT_A_BREAK = LazyPattern(r"""\\[^nrt"']|["'`(]\\n["'`)]""")
_DIALOGUE = LazyPattern(
    rf"\s*{_SPEAKER}.*?(?:<(?:bot|assistant)>|(?:### ?)?\b(?:Assistant|Bot|AI|GPT|Response)) ?:",
    re.DOTALL,
)
_CALL = LazyPattern(r"\s*<(tool_call|functioncall)>.*", re.DOTALL)
_BY_FIX = (
    "Write it under 'tool_calls', and its result as a message of role tool; --fix does: "
    "ftg validate old.jsonl --fix new.jsonl"
)


def leftover_defects(text: str, row: Json, sent: CanonicalRow) -> Defects:
    """Yield what is left half done in the texts of a row; ``text`` is its JSON, in which one of
    HINTS was found."""
    if searcher(*_BUT_CALLS)(text):
        yield from _in_texts(row, sent)
    else:  # calls, which are often rightly written so
        yield from _calls_as_text(row, sent)


def _calls_as_text(row: Json, sent: CanonicalRow) -> Defects:
    for path, message in _messages(sent.row):
        if message.get("weight") != 0 and _is_call(message):
            where = path if sent.row is row else sent.origin(path)
            yield Defect("call_as_text", where, fix=_as_calls(row, sent))


def _as_calls(row: Json, sent: CanonicalRow) -> str:
    """Return how the calls in a row's texts become calls of tools; "" where that takes a guess."""
    is_written = sent.row is row or not (sent.others or sent.errors)
    return _BY_FIX if is_written and with_tool_calls(sent.row) else ""


def _in_texts(row: Json, sent: CanonicalRow) -> Defects:
    messages = [*_messages(sent.row)]
    asked: str | None = None  # joined for the first answer that needs it
    answers_at = [path for path, one in messages if one.get("role") == "assistant"]
    for path, message in messages:
        written = _text_of(message)
        answers = message.get("role") == "assistant"
        if answers and message.get("weight") == 0:
            continue
        found = [*_in_any(written, answers)]
        if _is_call(message):
            found.append(("call_as_text", ""))
        if answers and _may_be_unfilled(written):
            asked = _asked(messages) if asked is None else asked
            found += [*_in_answer(written, asked)]
        reasons = answers and _may_reason(written)
        if not found and not reasons:
            continue
        where = path if sent.row is row else sent.origin(path)
        for code, detail in found:
            fix = _as_messages(row) if code == "dialogue_in_text" else ""
            fix = _as_calls(row, sent) if code == "call_as_text" else fix
            yield Defect(code, where, detail, fix)
        if reasons:
            yield from _reasoning(written, where, last=path == answers_at[-1])
    plain = sent.row.get("text")
    is_dialogue = isinstance(plain, str) and _DIALOGUE.match(plain)
    if is_dialogue and not chat_texts.is_whole(plain):  # said of the first row (chat_in_text)
        yield Defect("dialogue_in_text", "text")


def _as_messages(row: Json) -> str:
    """Return how a prompt that is a dialogue in a template is read as messages with its answer; ""
    for another row."""
    texts = row.get("prompt"), row.get("completion")
    both = all(isinstance(text, str) for text in texts)
    return chat_texts.way("prompt") if both and chat_texts.is_open(texts[0]) else ""


def _messages(row: Json) -> Iterator[tuple[str, Json]]:
    """Yield the path and the message of what is asked and of what is learned."""
    for index, message in enumerate(messages_of(row.get("messages"))):
        yield f"messages[{index}].content", message
    for index, message in enumerate(messages_of(as_dict(row.get("input")).get("messages"))):
        yield f"input.messages[{index}].content", message
    for index, message in enumerate(messages_of(row.get("preferred_output"), "assistant")):
        yield f"preferred_output[{index}].content", message


def _asked(messages: list[tuple[str, Json]]) -> str:
    """Return the texts of all messages but the answers."""
    return "\n".join(_text_of(one) for _, one in messages if one.get("role") != "assistant")


def _may_be_unfilled(text: str) -> bool:
    """Return False for a text that certainly has no placeholder and no entity: half a surrogate
    pair, which no search reads, is read as a question mark."""
    return searcher(_UNFILLED, _ENTITY)(text.encode("utf-8", "replace"))


def _may_reason(text: str) -> bool:
    """Return False for a text that has no think block at its beginning."""
    return "</think>" in text or text.lstrip()[:1] in ("<", "[")


def _text_of(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    texts = (as_dict(part).get("text") for part in as_list(content))
    return "\n".join(text for text in texts if isinstance(text, str))


def _in_any(text: str, answers: bool) -> Iterator[tuple[str, str]]:
    """Yield the code and detail of what no message should be."""
    if (
        "\\n" in text
        and "\n" not in text
        and _LINE_BREAK.search(text)
        and not _NOT_A_BREAK.search(text)
    ):
        yield "literal_newline", r"a line break is written as the two characters \ and n"
    # An answer may well be a dialogue that was asked for, but not with such marks.
    if _DIALOGUE.match(text) and (not answers or text.lstrip()[0] in "<#"):
        yield "dialogue_in_text", ""


def _in_answer(text: str, asked: str) -> Iterator[tuple[str, str]]:
    """Yield the code and detail of what an answer left unfilled or as HTML."""
    plain = _FENCED.sub("", text)
    if found := _placeholder(plain, asked):
        yield "placeholder_left", f"the answer holds the placeholder {quoted(found)}"
    entity = _ENTITIES.search(plain)
    if entity and not _HTML.search(plain) and not _HTML.search(asked):
        yield "html_entities", f"the answer holds {quoted(entity[0])}"


def _reasoning(text: str, path: str, *, last: bool) -> Defects:
    """Yield that an answer begins with a think block, or with one that does not end."""
    head = text.lstrip()
    opened, closed = next((one for one in _BLOCKS if head.startswith(one[0])), ("", "</think>"))
    if opened and closed not in head:
        fix = f"Write {closed} where the reasoning ends and the answer begins."
        yield Defect("think_unclosed", path, f"{opened} has no {closed}", fix)
    elif opened or _UNOPENED.search(head):
        which = "the last answer" if last else "an earlier answer"
        block = f"{opened}...{closed}" if opened else f"reasoning up to {closed}"
        yield Defect("think_inline", path, f"{which} begins with {block}", kind=which)


def _placeholder(text: str, asked: str) -> str:
    """Return the first placeholder that nobody means, or ""."""
    for match in _PLACEHOLDER.finditer(text):
        found = match[0]
        if "</" + found[1:] in text or found in asked:
            continue
        is_long = len(text) > _FORM_LENGTH
        if found.startswith("[") and (is_long or _LETTER.search(text) or _LETTER.search(asked)):
            continue
        return "" if _CODE.search(_BRACES.sub("", text)) else found
    return ""


def _is_call(message: Json) -> bool:
    """Return True for an answer whose text is a call of a tool, or ends with one."""
    if message.get("role") != "assistant" or message.get("tool_calls"):
        return False
    text = _text_of(message)
    return bool(_CALL.fullmatch(text) or said_and_called(text)[1])
