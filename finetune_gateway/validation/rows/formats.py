"""Defects of a row of any format: what its reader could not read, and what the rules say of its
canonical row, at the fields of the user's row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from finetune_gateway.data import chat_texts, formats
from finetune_gateway.data.beside import is_mark
from finetune_gateway.data.canonical import encoded, is_request, rows_within
from finetune_gateway.data.canonical_row import CanonicalRow
from finetune_gateway.data.cells import LABELS, listed
from finetune_gateway.data.column_names import CONVERSATIONS, is_turn
from finetune_gateway.data.formats import Format
from finetune_gateway.data.row_access import blank
from finetune_gateway.data.row_reader import SYSTEM_KEYS, is_marked
from finetune_gateway.data.shapes import REFERENCES, unread
from finetune_gateway.data.sharegpt import TRAINED
from finetune_gateway.findings import Defect
from finetune_gateway.text.quoting import json_type, quoted
from finetune_gateway.text.regex import LazyPattern
from finetune_gateway.validation import special_tokens
from finetune_gateway.validation.rows.chat import (
    MEDIA,
    chat_defects,
    conversation_defects,
    image_files,
    meant_defect,
    meant_for,
    media_defects,
    media_keys,
)
from finetune_gateway.validation.rows.endings import MARKS, ending_defects
from finetune_gateway.validation.rows.pairs import pair_defects

Json = dict[str, Any]
Defects = Iterator[Defect]

_ONE_FORMAT = "Write them in one format; --fix does: ftg validate old.jsonl --fix new.jsonl"
_TRUTH = "Write true or false; --fix does: ftg validate old.jsonl --fix new.jsonl"
_TRUTH_OR_CLASS = (
    "Write true or false; --fix does. If it is a class, leave it out: "
    "ftg convert old.jsonl --to openai --drop label -o new.jsonl"
)
_CLASSES = (
    "Nothing to do to train on the texts alone. If the label is what a model is to say of them, "
    "add --map text=prompt,label=completion"
)
_MARKED = (
    "Nothing to do to train on all answers. If {0} says which of them are good, "
    "add --map {0}=label (KTO)"
)
# Keys of what a person has said of an answer.
_FEEDBACK = (
    "feedback",
    "user_feedback",
    "thumbs",
    "thumbs_up",
    "vote",
    "liked",
    "is_good",
    "helpful",
)
_LABELS = (
    "Write true or false in each row (KTO), or leave labels out: "
    "ftg convert old.jsonl --to openai --drop label -o new.jsonl"
)
_WRAP = 'Wrap it: {"messages": [...]}; --fix does: ftg validate old.jsonl --fix new.jsonl'
_NAMED = (
    'Write each with its names: {"prompt": ..., "completion": ...}; in pandas: '
    "to_json(orient='records', lines=True)."
)
_SPEAKERS = (
    'Write {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}.'
)
_TOGETHER = (
    'Write both in one row: {"request": {"messages": [...]}, "response": {"choices": [...]}}. '
    "On lines of their own, they belong together by the id of the request."
)
_EACH = (
    'Write one row for each conversation or question in it: {"messages": [{"role": "user", ...}, '
    '{"role": "assistant", ...}]}.'
)
_AS_CHATS = (
    'To train on what is said, write each conversation as {"messages": [...]}, the answers as '
    "assistant; or as a table with the columns conversation_id, role (user or assistant) and "
    "content, a line a message."
)
# As WhatsApp exports a chat: date, comma, time; then a hyphen or in brackets.
_STAMP = LazyPattern(
    r"\u200e?\[?\d{1,4}[./-]\d{1,2}[./-]\d{1,4}, \d{1,2}[:.]\d{2}(?:[:.]\d{2})?"
    r"(?:\s?[AaPp]\.?\s?[Mm]\.?)?(?:\]| -) "
)
_SPEAKER = LazyPattern(
    r"(?:[QA]|Question|Answer|User|Human|Assistant|Customer|Agent|Bot)\s?\d*[:.] [^\n]*\s*"
)
_BY = ("user", "user_id", "author", "sender", "from", "username", "speaker")
_IN = frozenset({"thread_ts", "channel", "channel_id", "room", *CONVERSATIONS}) - {"id"}
# What a part that could not be read leaves behind.
_FOLLOWING = frozenset(
    {
        "assistant_first", "empty_messages", "last_not_assistant", "missing_input",
        "missing_non_preferred", "missing_preferred", "no_assistant", "no_user",
        "nothing_to_learn", "preference_identical", "preference_input_end", "preference_role",
        "preference_turns", "same_role_twice", "tool_id_missing", "tool_result_orphan",
    }
)  # fmt: skip
_MEDIA = frozenset({*MEDIA, "images", "image"})
_MAX_DEPTH = 3  # of objects in lists that are named
_UNANSWERED = ("last_not_assistant", "missing_completion", "missing_output", "no_assistant")


def row_defects(
    row: Json, row_format: Format, sent: CanonicalRow, *, reinforcement: bool = False
) -> Defects:
    """Yield all defects of a row of this format, whose canonical row is ``sent``.

    ``reinforcement``: rows may end with the user and have further keys for the grader.
    """
    if sent.plain and not any(blank(text) for text in row.values()):
        return  # a prompt and a completion: nothing else can be wrong with two texts
    defects = _defects(row, row_format, sent, reinforcement)
    if reinforcement or row.keys().isdisjoint(REFERENCES):
        yield from defects
    else:
        yield from map(_with_reinforcement, defects)


def _defects(row: Json, row_format: Format, sent: CanonicalRow, reinforcement: bool) -> Defects:
    if row_format is formats.CHAT and sent.row is row:
        yield from chat_defects(row, reinforcement=reinforcement)
    elif row_format is formats.PREFERENCE and sent.row is row:
        yield from pair_defects(row)
    else:
        if row_format in formats.SENT_UNCHANGED:
            yield from _rewritten(row)
        for error in sent.errors:
            yield Defect(error.code, error.path, error.reason, error.fix)
        for path, own in sent.filled[:1]:
            what = f"ids of calls and results are filled in, {quoted(own)} first"
            yield Defect("tool_id_filled", path, what)
        yield from _sent_defects(sent)
        if not any(error.code == "unknown_format" for error in sent.errors):
            yield from _beside(row, sent.others)
    if row_format is not formats.CHAT or _says_how_it_ended(row):
        yield from ending_defects(row, logged=row_format not in formats.SENT_UNCHANGED)


def _says_how_it_ended(row: Json) -> bool:
    """Return True for a chat row with other keys than usual: most have none, and take no walk."""
    messages = row["messages"] if isinstance(row["messages"], list) else []
    return not row.keys() <= {"messages", "tools"} or any(
        isinstance(one, dict) and not MARKS.isdisjoint(one) for one in messages
    )


def _rewritten(row: Json) -> Defects:
    """Yield why a row of OpenAI's own formats is not sent as it is."""
    pair_input = row.get("input")
    messages: Any = row.get("messages")
    for at, message in enumerate(messages if isinstance(messages, list) else []):
        for key in TRAINED if is_marked(message) else ():
            if isinstance(message.get(key), bool | int) and message.get("role") == "assistant":
                yield Defect("weight_key", f"messages[{at}].{key}", f"the key {quoted(key)}")
    for key in SYSTEM_KEYS:
        if key in row:
            yield Defect("system_beside", key, f"a system text in {key!r}")
        if isinstance(pair_input, dict) and key in pair_input:
            yield Defect("system_beside", f"input.{key}", f"a system text in {key!r}")
    if "tools" in row and isinstance(pair_input, dict) and "tools" not in pair_input:
        yield Defect("tools_beside", "tools")
    for holder, prefix in ((row, ""), (pair_input, "input.")):
        tools = holder.get("tools") if isinstance(holder, dict) else None
        if isinstance(tools, str):
            what = "not a list" if tools.strip() else "blank"
            yield Defect("tools_json", f"{prefix}tools", f"'tools' is {what}: {quoted(tools)}")


def _sent_defects(sent: CanonicalRow) -> Defects:
    """Yield the defects of a canonical row with the paths of the user's row."""
    for defect in _by_kind(sent.row):
        path = sent.origin(defect.path)
        if not sent.errors or defect.code not in _FOLLOWING and not _is_known(path, sent):
            yield replace(defect, path=path)


def _is_known(path: str, sent: CanonicalRow) -> bool:
    """Return True if an error of reading is at a path, in it or around it."""
    return any(error.path.startswith(path) or path.startswith(error.path) for error in sent.errors)


def _by_kind(row: Json) -> Defects:
    if "text" in row:
        return _text(row)
    if "preferred_output" in row:
        return pair_defects(row)
    return _labelled(row) if "label" in row else conversation_defects(row)


def other_format(
    row: Json, row_format: Format, line: int, usual: Format, first: int | None, joinable: bool
) -> Defect:
    """Return the defect of a row in another format than the first one. ``joinable``: both can be
    written in one."""
    label = row.get("label", True)
    if (row_format is formats.UNPAIRED) != (usual is formats.UNPAIRED) and type(label) is not bool:
        return Defect("label_class", "label", f"the label is {quoted(label)}")
    if row_format is formats.UNPAIRED and usual.kind in ("chat", "prompt_completion"):
        return Defect("mixed_formats", detail=_both(line, row_format, usual, first), fix=_LABELS)
    detail = _both(line, row_format, usual, first)
    return Defect("mixed_formats", detail=detail, fix=_ONE_FORMAT if joinable else "")


def _both(line: int, row_format: Format, usual: Format, first: int | None) -> str:
    return f"line {line} is in the format {row_format.name}, but line {first} in {usual.name}"


def _labelled(row: Json) -> Defects:
    if not isinstance(row["label"], bool):
        label = str(row["label"]).strip().lower()
        fix = _TRUTH if label in LABELS else ""
        fix = _TRUTH_OR_CLASS if label in ("0", "1") else fix
        yield Defect("label", "label", f"the label is {quoted(row['label'])}", fix)
    yield from conversation_defects(row)


def _text(row: Json) -> Defects:
    if isinstance(row["text"], str) and blank(row["text"]):
        yield Defect("empty_text", "text")


def _beside(row: Json, others: tuple[str, ...]) -> Defects:
    """Yield defects of the keys that are not part of the example."""
    if not others:
        return
    meant = {key: code for key in others if (code := meant_for(key, row.get(key)))}
    yield from (meant_defect(key, code) for key, code in meant.items())
    if not meant and _MEDIA.isdisjoint(others):
        classes = _CLASSES if "text" in row and "label" in others else ""
        marks = [key for key in others if _is_feedback(key, row.get(key))]
        marked = _MARKED.format(marks[0]) if marks else ""
        yield Defect("not_sent", "", _not_sent(others), classes or marked)
        return
    beside = {key: row[key] for key in others if key in row}
    media = media_keys(beside)
    yield from media_defects(media)
    images = [*image_files(beside)]
    yield from images
    named = {*media, *meant, *(one.path.removesuffix("[0]") for one in images)}
    if unsent := [key for key in others if key not in named]:
        yield Defect("not_sent", "", _not_sent(unsent))


def _is_feedback(key: str, value: Any) -> bool:
    """Return True for a key that says of the answer beside it whether it is good."""
    if key == "chosen":
        return is_mark(value)
    if key not in _FEEDBACK:
        return False
    is_word = isinstance(value, str) and value.strip().lower() in LABELS
    return is_word or type(value) is bool


def _not_sent(keys: Sequence[str]) -> str:
    shown = ", ".join(quoted(key) for key in keys[: formats.MAX_KEYS])
    more = len(keys) - formats.MAX_KEYS
    return f"keys that are not part of the example: {shown}{f' and {more} more' * (more > 0)}"


def _with_reinforcement(defect: Defect) -> Defect:
    """Return the defect of a row that has a reference for a grader instead of an answer."""
    if defect.code not in _UNANSWERED:
        return defect
    detail = f"{defect.detail or 'there is no answer'}; this looks like reinforcement data"
    fix = "Use --method reinforcement, or add the answer."
    return replace(defect, detail=detail, fix=fix)


# -- lines that are no row ---------------------------------------------------------------------


def not_object(value: Any) -> Defect:
    """Return the defect of a line that holds another value than an object."""
    if isinstance(value, str) and isinstance(listed(value)[0], dict):
        detail = "the line is an object that was written as a text: it was encoded twice"
        fix = "Write the object itself; --fix does: ftg validate old.jsonl --fix new.jsonl"
        return Defect("row_not_object", detail=detail, fix=fix)
    if isinstance(value, list) and value and all(isinstance(x, str | None) for x in value):
        detail = f"the line is a list of {len(value)} texts, without names"
        return Defect("row_not_object", detail=detail, fix=_NAMED)
    if not isinstance(value, list) or not value or not all(isinstance(x, dict) for x in value):
        return Defect("row_not_object", detail=f"the line is {json_type(value)}, not an object")
    if "role" in value[0] or "from" in value[0]:
        return Defect("row_not_object", detail="the line is a bare list of messages", fix=_WRAP)
    return Defect("json_array_not_jsonl", detail=f"the line is an array of {len(value)} objects")


def unknown_format(row: Json, expected: Format | None) -> Defect:
    """Return the defect of a row of no known format."""
    keys = formats.quoted_keys(row)
    for key in row:
        if key.strip().lower() == "messages":
            return Defect("missing_messages", "messages", f"no 'messages', but {quoted(key)}")
    known = unread(row) or _conversation(row) or _envelope(row) or _half(row)
    known = known or _encoded(row) or _nested(row)
    if known and expected is formats.CHAT:
        return Defect("missing_messages", "messages", f"no 'messages'; {known[0]}", known[1])
    if known:
        return Defect("unknown_format", detail=known[0], fix=known[1])
    if expected is formats.CHAT:
        row_keys = f"the keys are {keys}" if keys else "the row is an empty object"
        return Defect("missing_messages", "messages", f"no 'messages'; {row_keys}")
    return Defect("unknown_format", detail=formats.no_format_text(row), fix=way_out(row))


def chat_as_text(row: Json, *, meant: bool = False) -> Defect | None:
    """Return the defect of a text row that is a conversation in a template, or a message of one, as
    exports of chats and lists of questions and answers have it; None for another text. ``meant``:
    the user has said that all of each text is trained."""
    text = row["text"]
    if not isinstance(text, str):
        return None
    if meant and chat_texts.is_whole(text):
        return Defect("format_text", detail=f"{chat_texts.in_words(text)}; all of it is trained")
    if chat_texts.is_whole(text):
        return Defect("chat_in_text", "text", chat_texts.in_words(text), chat_texts.way("text"))
    by = next((key for key in _BY if key in row), None)
    if by and (row.get("type") == "message" or not _IN.isdisjoint(row)):
        what = f"each row is one message of a chat; who speaks is in {quoted(by)}"
    elif _STAMP.match(text):
        what = "each row is one message of a chat, with its time and who speaks (WhatsApp)"
    elif _SPEAKER.fullmatch(text):
        what = "each row is a question or an answer, with who speaks before it"
    else:
        return None
    return Defect("chat_as_text", "text", what, _AS_CHATS)


def is_message(row: Json) -> bool:
    """Return True for a text row that is a message of a conversation, as ``chat_as_text`` says."""
    found = chat_as_text(row) if formats.format_of(row) is formats.TEXT else None
    return found is not None and found.code == "chat_as_text"


def is_marked_text(row: Json) -> bool:
    """Return True for a text that is a conversation in a template, whose special tokens are all
    marks of the template."""
    said = chat_texts.texts_of(row["text"])
    return bool(said) and not any(special_tokens.find("\n".join(said)))


def way_out(row: Json, constant: Collection[str] = ()) -> str:
    """Return what to do about a row of no format by the names of its columns; empty if the rule
    says it. ``constant``: columns with few values, which are neither asked nor answered."""
    # Imported here: most rows have a format.
    from finetune_gateway.data.columns import offer

    offered = offer(row, constant)
    return f'{offered}. Or write each row as {{"messages": [...]}}.' if offered else ""


def _conversation(row: Json) -> tuple[str, str] | None:
    """Return what a row is that is a message or holds some under another key, and the way out."""
    from finetune_gateway.data.column_names import as_option  # most rows have a format

    if is_turn(row) and not any(isinstance(value, dict | list) for value in row.values()):
        what = "this is one message, not a conversation"
        return what, 'Write the messages of a conversation in one row: {"messages": [...]}.'
    for key, value in row.items():
        if not isinstance(value, list) or len(value) < 2:
            continue
        if all(isinstance(one, str) for one in value):
            what = f"{quoted(key)} is a list of texts that does not say who speaks"
            return what, _SPEAKERS
        if all(map(is_turn, value)) and {"role", "content"} <= value[0].keys():
            what = f"{quoted(key)} holds messages"
            return what, f"Read them as messages: {as_option({key: 'messages'})}"
        if all(map(is_turn, value)):
            names = ", ".join(quoted(name) for name in list(value[0])[: formats.MAX_KEYS])
            return f"{quoted(key)} holds turns with the keys {names}", _SPEAKERS
    return None


def _envelope(row: Json) -> tuple[str, str] | None:
    """Return what is in a row that holds rows, and the way out."""
    key, rows = rows_within(row)
    row_format = formats.format_of(rows[0]) if rows else None
    if row_format is None:
        return None
    count = f"{len(rows)} rows" if len(rows) > 1 else "a row"
    count += " as text" if isinstance(row[key], str) else ""
    fix = f"Write what {quoted(key)} holds, one row a line"
    if all((row.keys() - {key}).isdisjoint(one) for one in rows):
        fix += "; --fix does, with the keys beside: ftg validate old.jsonl --fix new.jsonl"
    return f"{quoted(key)} holds {count} in the format {row_format.name}", f"{fix}."


def _half(row: Json) -> tuple[str, str] | None:
    """Return what is in a row that holds a request without its answer, or an answer without its
    request, as logs with a line for each have them; and the way out."""
    for key, value in row.items():
        held = encoded(value) or value
        if not isinstance(held, dict):
            continue
        if is_request(held):
            return f"{quoted(key)} holds a request, and no answer is beside it", _TOGETHER
        if isinstance(held.get("choices"), list):
            return f"{quoted(key)} holds an answer, and its request is not beside it", _TOGETHER
    return None


def _encoded(row: Json) -> tuple[str, str] | None:
    """Return which object a text of a row writes that is no row by itself, and the way out."""
    for key, value in row.items():
        held = encoded(value)
        if isinstance(held, dict) and held and key not in ("tools", "functions"):
            what = (
                f"{quoted(key)} holds an object as text, with the keys {formats.quoted_keys(held)}"
            )
            return what, f"Write what {quoted(key)} holds as a row of a known format."
    return None


def _nested(row: Json) -> tuple[str, str] | None:
    """Return which objects a row without texts of its own holds in lists, and the way out."""
    if way_out({key: value for key, value in row.items() if not isinstance(value, dict)}):
        return None
    shown, holder = list[str](), row
    while key := next((key for key, value in holder.items() if _are_objects(value)), ""):
        held = holder[key]
        count = "an object" if len(held) == 1 else f"{len(held)} objects"
        where = f"{quoted(key)} in them" if shown else quoted(key)
        keys = formats.quoted_keys(held[0])
        shown.append(f"{where} holds {count} with the keys {keys}")
        holder = held[0]
    return ("; ".join(shown[:_MAX_DEPTH]), _EACH) if shown else None


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, dict) and x for x in value)
