"""The texts of a row, whatever its format: system prompt, prompt and answer.

For rules about the dataset as a whole. Rows that cannot be read are skipped; ``validate`` reports
them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from finetune_gateway.data.canonical import readable
from finetune_gateway.data.dataset import Dataset, Kind, Line, kind_of
from finetune_gateway.data.row_access import as_dict, as_list, calls_of
from finetune_gateway.data.row_content import media_digests

Json = dict[str, Any]

# A character of a script without spaces counts as a word.
_SINGLE = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_AROUND = "".join(char for char in map(chr, range(128)) if not re.match(r"[\w\s]", char))
_WORD = re.compile(rf"[{_SINGLE}]|\w(?:[^\s{_SINGLE}]*\w)?")


@dataclass(frozen=True, slots=True)
class RowText:
    """The texts of one row.

    ``prompt``: everything before the answer except the system prompt, with roles if there are
    several messages. ``answer``: of a preference pair, the better one.
    """

    line: int
    offset: int  # bytes into the file
    kind: Kind
    system: str | None
    prompt: str
    answer: str
    tools: str = ""  # offered in the row, as JSON
    media: str = ""  # what stands for its images, sounds and files
    label: bool | None = None  # of a KTO row
    roles: tuple[str, ...] = ()  # of its turns; of a pair, those of its prompt
    calls: int = 0
    answered_calls: int = 0  # calls with a result

    @property
    def asked(self) -> str:
        """The prompt, and what stands for its images and the like."""
        return f"{self.prompt}\n{self.media}" if self.media else self.prompt

    @property
    def conversation(self) -> str:
        """Prompt and answer; the system prompt is left out because rows share it."""
        return f"{self.prompt}\n{self.answer}" if self.prompt else self.answer


def iter_row_texts(
    dataset: Dataset, lines: Iterable[Line] | None = None, *, counted: bool = True
) -> Iterator[RowText]:
    """Yield the texts of each row that can be read. ``lines``: some of its lines (default: all);
    ``counted``: as for ``extract_row_text``."""
    for line in dataset.lines() if lines is None else lines:
        if not line.cut and (row := parse_leniently(line.raw)):
            text = extract_row_text(row, line.number, line.offset, counted=counted)
            if text:
                yield text


def parse_leniently(raw: bytes) -> Json | None:
    """Return the object on a line, or None.

    All its texts can be written as UTF-8: half of a surrogate pair, an error for ``validate``,
    becomes a question mark.
    """
    try:
        row = _decode(raw.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _decode(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:  # json takes more: NaN, half surrogate pairs, other encodings
        return _encodable(json.loads(raw))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(inner) for key, inner in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value


def extract_row_text(
    row: Json, line: int = 1, offset: int = 0, *, counted: bool = True
) -> RowText | None:
    """Return the texts of a row, or None if it is malformed or has no known format. ``counted``:
    with its tools, label, roles and calls."""
    read = readable(row)
    if read is None:
        return None
    kind = kind_of(read)
    if kind == "text":
        return RowText(line, offset, kind, None, "", str(read["text"]))
    if kind == "preference":
        messages = as_list(as_dict(read.get("input")).get("messages"))
        answer = as_list(read.get("preferred_output"))
    else:
        *messages, last = as_list(read.get("messages")) or [None]
        answer = [last]
    turns = messages if kind == "preference" else [*messages, *answer]
    system, prompt = _system_and_prompt(messages)
    texts = "\n".join(map(message_text, answer))
    media = " ".join(media_digests(read))
    if not counted:
        return RowText(line, offset, kind, system, prompt, texts, media=media)
    label = read.get("label")
    calls = sum(len(calls_of(message)) for message in turns if isinstance(message, dict))
    return RowText(
        line,
        offset,
        kind,
        system,
        prompt,
        texts,
        tools=json.dumps(read["tools"], sort_keys=True) if read.get("tools") else "",
        media=media,
        label=label if isinstance(label, bool) else None,
        roles=tuple(str(as_dict(message).get("role")) for message in turns),
        calls=calls,
        answered_calls=_count_answered(turns) if calls else 0,
    )


def _count_answered(messages: list[Any]) -> int:
    """Return the number of calls whose result a later message holds."""
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


def _system_and_prompt(messages: list[Any]) -> tuple[str | None, str]:
    """Return the system prompt and the other messages as text."""
    system, rest = None, messages
    if messages and as_dict(messages[0]).get("role") in ("system", "developer"):
        system, rest = message_text(messages[0]), messages[1:]
    if len(rest) == 1:
        return system, message_text(rest[0])
    return system, "\n".join(f"{as_dict(one).get('role')}: {message_text(one)}" for one in rest)


def message_text(message: Any) -> str:
    """Return the text of a message and the calls it makes."""
    return "\n".join(text for text in iter_message_texts(as_dict(message)) if text)


def iter_message_texts(message: Json) -> Iterator[str]:
    """Yield the texts of a message: its content, then name and arguments of each call."""
    content = message.get("content")
    if isinstance(content, str):
        yield content
    for part in as_list(content):
        text = as_dict(part).get("text")
        if isinstance(text, str):
            yield text
    for call in as_list(message.get("tool_calls")):
        function = as_dict(as_dict(call).get("function"))
        arguments = function.get("arguments", "")
        if isinstance(arguments, dict):  # for templates of Hugging Face
            arguments = json.dumps(arguments, ensure_ascii=False)
        yield f"{function.get('name', '')} {arguments}"


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case, without the punctuation around them."""
    if text.isascii():  # in half the time of the pattern
        return [word for chunk in text.lower().split() if (word := chunk.strip(_AROUND))]
    return _WORD.findall(unicodedata.normalize("NFC", text).casefold())


@lru_cache(maxsize=8)  # several statistics compare the same texts of a row
def plain_text(text: str) -> str:
    """Return a text without what case and white space say."""
    plain = " ".join(text.casefold().split())
    return plain if plain.isascii() else unicodedata.normalize("NFC", plain)


def text_hash(plain: str) -> int:
    """Return a 64-bit hash of a text, the same in each process."""
    digest = blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@lru_cache(maxsize=8)
def content_hash(*texts: str) -> int:
    """Return a 64-bit hash of some texts that ignores case and white space."""
    return text_hash("\0".join(map(plain_text, texts)))
