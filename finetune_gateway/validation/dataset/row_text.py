"""The texts of a row, whatever its format: system prompt, prompt and answer; the words in which two
rows differ, and whether these make two questions of them.

For rules about the dataset as a whole. Rows that cannot be read are skipped; ``validate`` reports
them.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from finetune_gateway.data.canonical import readable
from finetune_gateway.data.dataset import BOM, Dataset, Kind, Line, kind_of
from finetune_gateway.data.row_access import as_dict, as_list, calls_of
from finetune_gateway.data.row_content import media_digests
from finetune_gateway.text.regex import LazyPattern

Json = dict[str, Any]

# A character of a script without spaces counts as a word.
_SINGLE = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_AROUND = "".join(
    char for char in map(chr, range(128)) if not (char.isalnum() or char.isspace() or char == "_")
)
_WORD = LazyPattern(rf"[{_SINGLE}]|\w(?:[^\s{_SINGLE}]*\w)?")

FACT = 6  # distinct words; a shorter answer is a name, a number, a class or a call
FEW_WORDS = 5  # of a question that may well be asked twice
_WORDS = 20_000  # words read of a row
_FEW = 8  # words of which two lists are compared one by one


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
        row = _decode(raw.removeprefix(BOM))
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


# -- the words in which two rows differ ----------------------------------------------------------


def max_difference(count: int) -> int:
    """Return the number of words in which near-duplicates of ``count`` words may differ.

    In a short row each word counts: "the capital of France? Paris" and "of Spain? Madrid" are
    two questions. From 15 words on, three may differ; in long rows 1 %.
    """
    if count < 15:
        return 0 if count < 6 else 1 if count < 10 else 2
    return max(3, count // 100)


@dataclass(frozen=True, slots=True)
class RowWords:
    """A row as it is compared: its text in one case, and its texts as they are."""

    text: str
    row: RowText | None = None

    @property
    def size(self) -> int:
        """Characters in memory: the text, and those of the row."""
        return 2 * len(self.text)

    @classmethod
    def of(cls, row: RowText) -> RowWords:
        return cls(row.conversation[: _WORDS * 8].casefold(), row)

    def answer(self) -> frozenset[str]:
        """Return the words of the answer."""
        return frozenset(words(self.row.answer[: _WORDS * 8])) if self.row else frozenset()


Changes = tuple[list[str], list[str]]  # what one has more often, and the other


@dataclass(frozen=True, slots=True)
class Comparison:
    """In how many words two rows differ, in which, and whether they are near-duplicates."""

    difference: int
    changes: Changes
    near: bool


def compare(one: RowWords, two: RowWords, limit: int) -> Comparison:
    """Compare two rows, which may differ in ``limit`` words.

    Words are split at their boundaries; if too many differ, at spaces.
    """
    changes, chunks = changes_of(one, two)
    difference = difference_of(changes)
    if difference > limit:
        difference = min(difference, chunks)
    near = difference <= limit and not are_other_questions(one, two, changes)
    return Comparison(difference, changes, near)


def changes_of(one: RowWords, two: RowWords) -> tuple[Changes, int]:
    """Return the words in which two rows differ, and the number of chunks (what stands between two
    spaces) that do. No word goes beyond a chunk: the words of equal ones are not looked at."""
    first, second = middles_of(one.text, two.text)
    chunks = _changes(first.split(" "), second.split(" "))
    removed, added = (words(" ".join(part)) for part in chunks)
    return _changes(removed, added), difference_of(chunks)


def _changes(one: list[str], two: list[str]) -> Changes:
    """Return in what two lists differ, in any order."""
    if min(len(one), len(two)) > _FEW:
        first, second = Counter(one), Counter(two)
        return [*(first - second).elements()], [*(second - first).elements()]
    removed, added = [*one], list[str]()  # in a third of the time of counters
    for value in two:
        if value in removed:
            removed.remove(value)
        else:
            added.append(value)
    return removed, added


def middles_of(one: str, two: str) -> tuple[str, str]:
    """Return two texts without the chunks that are the same at both ends: of near-duplicates that
    is nearly all."""
    start = one.rfind(" ", 0, _shared_start(one, two)) + 1
    one, two = one[start:], two[start:]
    shared = _shared_end(one, two)
    space = one.find(" ", len(one) - shared)
    end = len(one) - space if space >= 0 and shared else 0
    return one[: len(one) - end], two[: len(two) - end]


def _shared_start(one: str, two: str) -> int:
    """Return the number of characters that two texts begin with alike. Halving compares slices in
    C; a loop over the characters takes a hundred times as long."""
    same, end = 0, min(len(one), len(two))
    while same < end:
        middle = (same + end + 1) // 2
        if one[same:middle] == two[same:middle]:
            same = middle
        else:
            end = middle - 1
    return same


def _shared_end(one: str, two: str) -> int:
    """Return the number of characters that two texts end with alike."""
    same, end = 0, min(len(one), len(two))
    while same < end:
        middle = (same + end + 1) // 2
        first = one[len(one) - middle : len(one) - same]
        if first == two[len(two) - middle : len(two) - same]:
            same = middle
        else:
            end = middle - 1
    return same


def difference_of(changes: Changes) -> int:
    return max(map(len, changes))


def are_other_questions(one: RowWords, two: RowWords, changes: Changes) -> bool:
    """Return True if the words that differ make two questions: both the prompt and a short answer
    differ, or one word replaces another throughout (a name in the question and the answer). Rows
    with other images are two, too."""
    if one.row is None or two.row is None:
        return False
    if one.row.media != two.row.media:
        return True
    if all(len(set(part)) < len(part) for part in changes):
        return True
    if one.row.answer == two.row.answer or one.row.prompt == two.row.prompt:
        return False
    first, second = one.answer(), two.answer()
    if not (0 < len(first) < FACT and 0 < len(second) < FACT) or first == second:
        return False
    return content_hash(one.row.prompt) != content_hash(two.row.prompt)


def conversation_words(row: RowText) -> list[str]:
    """Return the words of a row without its system prompt, 20,000 at most."""
    return words(row.conversation[: _WORDS * 8])[:_WORDS]
