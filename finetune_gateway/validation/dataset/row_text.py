"""What a row says, whatever its format: the system prompt, what is asked, what is answered.

For looks at a dataset as a whole (``survey``, ``similar``, ``drift``). Judges nothing; rows that
cannot be read are left out, ``checks`` names them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from finetune_gateway.data import formats
from finetune_gateway.data.dataset import Dataset, Kind, kind_of
from finetune_gateway.data.row_access import as_dict, as_list, calls_of
from finetune_gateway.data.sharegpt import Unfit

Json = dict[str, Any]

# A character of a script without spaces counts as a word.
_SINGLE = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_SINGLE}]|\w(?:[^\s{_SINGLE}]*\w)?")


@dataclass(frozen=True, slots=True)
class Gist:
    """What one row says. ``prompt`` is all that comes before the answer but for the system
    prompt, roles included; of a pair, ``answer`` is the better one."""

    line: int
    offset: int  # bytes into the file
    kind: Kind
    system: str | None
    prompt: str
    answer: str
    tools: str = ""  # offered in the row
    label: bool | None = None  # of a KTO row
    roles: tuple[str, ...] = ()  # of its turns; of a pair, those of its prompt
    calls: int = 0
    answered: int = 0  # calls with a result

    @property
    def said(self) -> str:
        """Everything but the system prompt, which rows share."""
        return f"{self.prompt}\n{self.answer}" if self.prompt else self.answer


def gists(dataset: Dataset) -> Iterator[Gist]:
    """The gist of each row that can be read."""
    for line in dataset.lines():
        if not line.cut and (row := parsed(line.raw)):
            gist = gist_of(row, line.number, line.offset)
            if gist:
                yield gist


def parsed(raw: bytes) -> Json | None:
    """The object on a line, or None. Its texts can all be written as UTF-8: half a surrogate
    pair, for which ``checks`` refuses the row, is read as a question mark."""
    try:
        row = _value(raw.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _value(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:  # json takes more: NaN, half surrogate pairs, other encodings
        return _writable(json.loads(raw))


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_writable(key): _writable(inner) for key, inner in value.items()}
    return [_writable(one) for one in value] if isinstance(value, list) else value


def gist_of(row: Json, line: int = 1, offset: int = 0) -> Gist | None:
    """What a row says, or None when it is in no format or broken."""
    try:
        read = formats.canonical(row)
    except Unfit:
        return None
    kind = kind_of(read)
    if kind == "text":
        return Gist(line, offset, kind, None, "", str(read["text"]))
    if kind == "preference":
        messages = as_list(as_dict(read.get("input")).get("messages"))
        answer = as_list(read.get("preferred_output"))
    else:
        *messages, last = as_list(read.get("messages")) or [None]
        answer = [last]
    turns = messages if kind == "preference" else [*messages, *answer]
    system, prompt = _asked(messages)
    label = read.get("label")
    return Gist(
        line,
        offset,
        kind,
        system,
        prompt,
        answer="\n".join(map(said_by, answer)),
        tools=json.dumps(read["tools"], sort_keys=True) if read.get("tools") else "",
        label=label if isinstance(label, bool) else None,
        roles=tuple(str(as_dict(message).get("role")) for message in turns),
        calls=sum(len(calls_of(as_dict(message))) for message in turns),
        answered=_answered(turns),
    )


def _answered(messages: list[Any]) -> int:
    """The calls that a later message gives the result of."""
    waiting: Counter[str] = Counter()
    count = 0
    for message in map(as_dict, messages):
        ids = [str(as_dict(call).get("id")) for call in as_list(message.get("tool_calls"))]
        old = as_dict(message.get("function_call")).get("name")
        waiting.update([*ids, *([f"function {old}"] if old else [])])
        own = message.get("tool_call_id")
        if message.get("role") == "function":
            own = f"function {message.get('name')}"
        if isinstance(own, str) and waiting[own] > 0:
            waiting[own] -= 1
            count += 1
    return count


def _asked(messages: list[Any]) -> tuple[str | None, str]:
    """The system prompt, and the rest as text."""
    system, rest = None, messages
    if messages and as_dict(messages[0]).get("role") in ("system", "developer"):
        system, rest = said_by(messages[0]), messages[1:]
    only_user = len(rest) == 1
    lines = [
        said_by(message) if only_user else f"{as_dict(message).get('role')}: {said_by(message)}"
        for message in rest
    ]
    return system, "\n".join(lines)


def said_by(message: Any) -> str:
    """The text of a message and the calls it makes."""
    return "\n".join(piece for piece in pieces(as_dict(message)) if piece)


def pieces(message: Json) -> Iterator[str]:
    """The texts of a message: its content, then name and arguments of each call."""
    content = message.get("content")
    if isinstance(content, str):
        yield content
    for part in as_list(content):
        text = as_dict(part).get("text")
        if isinstance(text, str):
            yield text
    for call in as_list(message.get("tool_calls")):
        function = as_dict(as_dict(call).get("function"))
        yield f"{function.get('name', '')} {function.get('arguments', '')}"


def words(text: str) -> list[str]:
    """The words of a text as spaces part them, but for case and the punctuation around them."""
    plain = text if text.isascii() else unicodedata.normalize("NFC", text)
    return _WORD.findall(plain.casefold())


@lru_cache(maxsize=8)  # several looks ask for the same texts of a row
def key(*texts: str) -> int:
    """64 bits that name some texts, but for case and spaces."""
    plain = "\0".join(" ".join(text.casefold().split()) for text in texts)
    if not plain.isascii():
        plain = unicodedata.normalize("NFC", plain)
    digest = blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
