"""Encodings by model, and the tokens of single texts in them.

The vocabularies are in the wheel of splintr, so nothing here needs a network. Knows nothing of
rows (``tokens``).
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from threading import Thread
from typing import Protocol, cast

APPROXIMATE = "approximation (UTF-8 bytes / 4)"
USUAL = "o200k_base"  # of the models that can still be trained on OpenAI

# First match wins. tiktoken 0.14 resolves "ft:gpt-4.1-..." to cl100k_base by its prefix
# "ft:gpt-4"; hence our own table, asked with the base name.
_ENCODINGS = (
    (re.compile(r"gpt-oss-.+"), "o200k_harmony"),
    (re.compile(r"(chatgpt-4o|gpt-4o|gpt-4\.1|gpt-4\.5|gpt-5|o1|o3|o4)([-.].+)?"), "o200k_base"),
    (re.compile(r"(gpt-4|gpt-3\.5|gpt-35)(-.+)?"), "cl100k_base"),
    (re.compile(r"(davinci|babbage)-002"), "cl100k_base"),
)

# A repeated system prompt is counted once: 3.2x faster on rows with one 6 kB prompt, no cost
# on others (measured). Bounded in entries and in characters, so memory stays flat.
_CACHE_ENTRIES = 20_000
_CACHE_CHARS = 16_000_000

# Between a letter and a space no token of either encoding begins or ends otherwise, so a long text
# can be counted in pieces there. splintr needs up to 80 bytes for each byte of one word (measured).
_CUT = re.compile("[A-Za-z](?= )")
_PIECE = 1 << 16  # characters
_MAX_WORD = 1 << 21  # characters without a cut; what is longer is counted in pieces, not exactly


# toktok makes no list of ids and takes half the time of splintr, but 0.4 s to begin with. It knows
# Unicode 17; tiktoken takes the letters that are new there for something else.
_LARGE = 64_000_000  # bytes of rows
_read: Counter[str] = Counter()  # by encoding, in the files this process has counted
NEW_LETTERS = r"[^\p{Age=16.0}]"
_CANARIES = (
    "Don't I'll WE'VE 12345 a1b2 \u00e9\u0301 \u4e2d\u6587 \U0001f468\u200d\U0001f469 \u05d0\u0628",
    " \n\n\t x  \r\n", "<|endoftext|> [INST]", "-" * 300, " " * 300, "camelCaseABCDef_x/y\\z...",
)  # fmt: skip


class _Engine(Protocol):
    def encode_ordinary(self, text: str) -> list[int]: ...

    def encode_flat(self, text: str) -> bytes: ...

    def encode_batch_flat(self, texts: list[str]) -> tuple[bytes, bytes]: ...


def base_model(model: str) -> str:
    """The base behind a fine-tuned name, or the name itself.

    ``ft:gpt-4.1-mini-2025-04-14:org::id`` (OpenAI), ``gpt-4.1-mini-2025-04-14.ft-0a1b``
    (Azure).
    """
    name = model.split(":")[1] if model.startswith("ft:") else model
    return name.split(".ft-")[0]


def encoding_for(model: str) -> str | None:
    """The tiktoken name of a hosted model's encoding, or None when it is not known."""
    name = re.sub(r"^openai[/.]", "", base_model(model))
    for pattern, encoding in _ENCODINGS:
        if pattern.fullmatch(name):
            return encoding
    return None


def approximate_tokens(text: str) -> int:
    """UTF-8 bytes / 4: an approximation for models whose encoding is not known.

    Off by -29 % to +30 % per row on mixed text (5th and 95th percentile), and by -54 % on
    chemical formulas (measured against o200k_base). Never called exact.
    """
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4


_begun: list[Thread] = []


def begin(encoding: str) -> None:
    """Load an encoding beside what else this process does, such as its imports: most of it is done
    without the interpreter's lock. The next counter waits for it."""
    _begun.append(Thread(target=_engine, args=(encoding,)))
    _begun[-1].start()


def _loaded(encoding: str) -> _Engine:
    # Waited for even where it is another encoding: with a second thread no process can be copied.
    while _begun:
        _begun.pop().join()
    return _engine(encoding)


@cache
def _engine(encoding: str) -> _Engine:
    """The encoder of an encoding; its vocabulary comes from splintr's wheel, 0.05 s. Tables are
    made of the first text of 64 bytes or more, 0.14 s; before a process is copied, they are made
    once."""
    splintr = importlib.import_module("splintr")
    # o200k_harmony adds special tokens only; ordinary text is the same as in o200k_base.
    vocabulary = encoding.replace("o200k_harmony", "o200k_base")
    engine = cast(_Engine, splintr.Tokenizer.from_pretrained(vocabulary))
    engine.encode_batch_flat([_CANARIES[3]])  # unlike encode_flat it lets other threads run
    return engine


@cache
def _together(encoding: str) -> Callable[[list[str]], list[int]] | None:
    """Counts many texts at once with toktok; None where it is missing or does not agree."""
    try:
        toktok = importlib.import_module("toktok")
    except ImportError:
        return None
    plain = encoding.replace("o200k_harmony", "o200k_base")
    count = partial(toktok.batch_count, encoding=plain, threads=1)
    engine = _engine(encoding)
    expected = [len(engine.encode_ordinary(text)) for text in _CANARIES]
    return count if count(list(_CANARIES)) == expected else None


class TextCounter:
    """Counts the tokens of single texts in one encoding; None means the approximation.

    ``exact`` turns False once a text could not be counted exactly, and stays so until it is
    set to True again.
    """

    def __init__(self, encoding: str | None) -> None:
        self.encoding = encoding or APPROXIMATE
        self.exact = encoding is not None
        self.rules = self.encoding.replace("o200k_harmony", "o200k_base")  # equal: counts alike
        self._engine = _loaded(encoding) if encoding else None
        self._cache: dict[str, int] = {}
        self.known = self._cache.get
        self._cached_chars = 0
        self._many: Callable[[list[str]], list[int]] | None = None

    def hurry(self, size: int) -> None:
        """Make ready for a file of ``size`` bytes: with the faster engine where this process has
        read, or is about to read, so much that its 0.4 s are worth it."""
        due = _read[self.rules] + size > _LARGE and self._engine is not None
        self._many = _together(self.encoding) if due else None

    def has_read(self, size: int) -> None:
        """Note that a file of so many bytes was counted."""
        _read[self.rules] += size

    def __call__(self, text: str) -> int:
        """Tokens of ``text``; what looks like a special token in it counts as plain text."""
        return self.known(text) or self.count(text)

    def count(self, text: str) -> int:
        """The same, not looked up first."""
        engine = self._engine
        if engine is None:
            self.exact = False
            return approximate_tokens(text)
        size = len(text)
        try:
            if size > _PIECE or "<|" in text:
                count = self._exactly(engine, text)
            else:
                count = len(engine.encode_flat(text)) // 4
        except UnicodeEncodeError:
            return self._count_repaired(engine, text)
        if size <= _MAX_WORD:  # a longer one may not be exact, which is said each time
            self._make_room(size)
            self._cache[text] = count
        return count

    def each(self, texts: Sequence[str]) -> list[int]:
        """The counts of many texts, none of them empty and all of them of whole characters, without
        special tokens or letters of NEW_LETTERS. None is looked up or remembered."""
        if not texts:
            return []
        if self._many:
            return self._many(list(texts))
        if self._engine is None or max(map(len, texts)) > _PIECE:
            return [self.count(text) for text in texts]
        encode = self._engine.encode_flat
        return [len(encode(text)) // 4 for text in texts]

    def _make_room(self, size: int) -> None:
        """For texts of so many characters that will be remembered."""
        if len(self._cache) >= _CACHE_ENTRIES or self._cached_chars > _CACHE_CHARS:
            self._cache.clear()
            self._cached_chars = 0
        self._cached_chars += size

    def _exactly(self, engine: _Engine, text: str) -> int:
        return sum(_tokens(engine, piece) for piece in self._pieces(text))

    def _pieces(self, text: str) -> Iterator[str]:
        start = 0
        while start < len(text):
            found = _CUT.search(text, start + _PIECE)
            end = found.end() if found else len(text)
            if end - start > _MAX_WORD:
                self.exact, end = False, start + _MAX_WORD
            yield text[start:end]
            start = end

    def _count_repaired(self, engine: _Engine, text: str) -> int:
        # Lone surrogates have no UTF-8; the same replacement as tiktoken's encode_ordinary.
        self.exact = False
        repaired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self._exactly(engine, repaired)


def _tokens(engine: _Engine, text: str) -> int:
    """``encode_flat`` makes no list of numbers, which is 4/10 of the time, but reads special
    tokens as such; all of them begin like this one."""
    if "<|" in text:
        return len(engine.encode_ordinary(text))
    return len(engine.encode_flat(text)) // 4
