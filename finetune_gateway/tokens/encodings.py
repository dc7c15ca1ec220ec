"""Which encoding a model uses, and how many tokens a text has in it.

Vocabularies come from the wheel of splintr, or from tiktoken's cache on this machine: nothing here
uses the network. Counting whole rows is in ``counter``.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from threading import Thread
from typing import Protocol, cast

from finetune_gateway.errors import NotFoundError

APPROXIMATE = "approximation: UTF-8 bytes / 4"
DEFAULT_ENCODING = "o200k_base"  # of the models that can still be trained on OpenAI

# The first match wins. A table of our own, because tiktoken 0.14 resolves "ft:gpt-4.1-..." to
# cl100k_base by its prefix "ft:gpt-4".
_ENCODINGS = (
    (re.compile(r"gpt-oss-.+"), "o200k_harmony"),
    (re.compile(r"(chatgpt-4o|gpt-4o|gpt-4\.1|gpt-4\.5|gpt-5|o1|o3|o4)([-.].+)?"), "o200k_base"),
    (re.compile(r"(gpt-4|gpt-3\.5|gpt-35)(-.+)?"), "cl100k_base"),
    (re.compile(r"(davinci|babbage)-002"), "cl100k_base"),
)

# Counting a repeated system prompt once is 3.2x faster on rows with one 6 kB prompt and costs
# nothing on others (measured). Bounded in entries and in characters, so memory stays flat.
_CACHE_ENTRIES = 20_000
_CACHE_CHARS = 16_000_000

# A token never spans a letter and the space after it in these encodings, so a long text can be
# counted in pieces cut there. splintr needs up to 80 bytes of memory per byte of one word
# (measured).
_CUT = re.compile("[A-Za-z](?= )")
_PIECE = 1 << 16  # characters
_MAX_WORD = 1 << 21  # characters; a longer stretch without a cut is split, and its count inexact

# toktok returns counts without lists of ids and takes half the time of splintr, but 0.4 s to load.
# It follows Unicode 17; tiktoken treats the letters that are new in it differently.
_LARGE = 64_000_000  # bytes
_bytes_read: Counter[str] = Counter()  # by family of encodings, in this process
NEW_LETTERS = r"[^\p{Age=16.0}]"
_SAMPLES = (
    "Don't I'll WE'VE 12345 a1b2 \u00e9\u0301 \u4e2d\u6587 \U0001f468\u200d\U0001f469 \u05d0\u0628",
    " \n\n\t x  \r\n", "<|endoftext|> [INST]", "-" * 300, " " * 300, "camelCaseABCDef_x/y\\z...",
)  # fmt: skip


class Vocabulary(Protocol):
    """The tokens of one encoding, as splintr's Tokenizer has them."""

    def encode_ordinary(self, text: str) -> list[int]: ...

    def encode_flat(self, text: str) -> bytes: ...

    def encode_batch_flat(self, texts: list[str]) -> tuple[bytes, bytes]: ...

    def decode_token_bytes(self, id: int) -> bytes: ...


def base_model(model: str) -> str:
    """Return the base behind a fine-tune's name, or the name itself.

    ``ft:gpt-4.1-mini-2025-04-14:org::id`` (OpenAI), ``gpt-4.1-mini-2025-04-14.ft-0a1b``
    (Azure).
    """
    name = model.split(":")[1] if model.startswith("ft:") else model
    return name.split(".ft-")[0]


def encoding_for(model: str) -> str | None:
    """Return tiktoken's name of a hosted model's encoding, or None if it is not known."""
    name = re.sub(r"^openai[/.]", "", base_model(model))
    for pattern, encoding in _ENCODINGS:
        if pattern.fullmatch(name):
            return encoding
    return None


def family_of(encoding: str) -> str:
    """Return the encoding that counts ordinary text the same way: o200k_harmony only adds special
    tokens to o200k_base."""
    return encoding.replace("o200k_harmony", "o200k_base")


def approximate_tokens(text: str) -> int:
    """Return UTF-8 bytes / 4, for models whose encoding is not known.

    Off by -29 % to +30 % per row on mixed text (5th and 95th percentile) and by -54 % on
    chemical formulas (measured against o200k_base). Never reported as exact.
    """
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4


# -- vocabularies ------------------------------------------------------------------------


@cache
def load_vocabulary(encoding: str) -> Vocabulary:
    """Return the vocabulary of an encoding: splintr's (0.05 s), else tiktoken's from its cache.

    Raises NotFoundError if neither has it.
    """
    family = family_of(encoding)
    with suppress(ImportError, ValueError):  # not installed, or an encoding it lacks
        splintr = importlib.import_module("splintr")
        return cast(Vocabulary, splintr.Tokenizer.from_pretrained(family))
    # Imported here: only an encoding that splintr lacks needs it.
    from finetune_gateway.tokens.cached_vocabulary import CachedVocabulary

    return CachedVocabulary.load(family)


@cache
def _engine(encoding: str) -> Vocabulary:
    """Return the vocabulary with its tables built. splintr builds them for the first text of 64
    bytes or more (0.14 s); before a process forks, they should be built once."""
    vocabulary = load_vocabulary(encoding)
    # Unlike encode_flat, this lets other threads run.
    vocabulary.encode_batch_flat([_SAMPLES[3]])
    return vocabulary


_preloads: list[Thread] = []


def preload(encoding: str) -> None:
    """Load an encoding in a thread, during imports: most of the work releases the interpreter's
    lock. The next counter waits for it."""
    _preloads.append(Thread(target=_try_to_load, args=(encoding,)))
    _preloads[-1].start()


def _try_to_load(encoding: str) -> None:
    with suppress(NotFoundError):  # the counter raises it again
        _engine(encoding)


def _wait_and_load(encoding: str) -> Vocabulary:
    # Wait even for another encoding: a process with a second thread cannot be forked.
    while _preloads:
        _preloads.pop().join()
    return _engine(encoding)


@cache
def _load_batch_counter(encoding: str) -> Callable[[list[str]], list[int]] | None:
    """Return toktok's function that counts many texts; None if it is missing, lacks the encoding or
    disagrees on the samples."""
    try:
        toktok = importlib.import_module("toktok")
    except ImportError:
        return None
    count = partial(toktok.batch_count, encoding=family_of(encoding), threads=1)
    engine = _engine(encoding)
    expected = [len(engine.encode_ordinary(text)) for text in _SAMPLES]
    try:
        return count if count(list(_SAMPLES)) == expected else None
    except KeyError:
        return None


# -- counting ----------------------------------------------------------------------------


class TextCounter:
    """Counts the tokens of single texts in one encoding; None means the approximation.

    ``exact`` turns False once a text could not be counted exactly, and stays False until it is
    set to True again. Raises NotFoundError if the vocabulary is not on this machine.
    """

    def __init__(self, encoding: str | None) -> None:
        self.encoding = encoding or APPROXIMATE
        self.exact = encoding is not None
        self.family = family_of(self.encoding)
        self._engine = _wait_and_load(encoding) if encoding else None
        self._max_word = getattr(self._engine, "max_word", _MAX_WORD)
        self._cache: dict[str, int] = {}
        self._cached = self._cache.get
        self._cached_chars = 0
        self._count_batch: Callable[[list[str]], list[int]] | None = None

    def choose_engine(self, size: int) -> None:
        """Use toktok once this process has counted 64 MB, ``size`` more bytes included; it takes
        0.4 s to load."""
        large = _bytes_read[self.family] + size > _LARGE and self._engine is not None
        self._count_batch = _load_batch_counter(self.encoding) if large else None

    def note_bytes_read(self, size: int) -> None:
        """Add the bytes of a counted file to what this process has counted."""
        _bytes_read[self.family] += size

    def __call__(self, text: str) -> int:
        """Return the tokens of ``text``; special tokens in it count as plain text."""
        return self._cached(text) or self.count(text)

    def count(self, text: str) -> int:
        """Return the same without looking the text up in the cache first."""
        engine = self._engine
        if engine is None:
            self.exact = False
            return approximate_tokens(text)
        size = len(text)
        try:
            if size > _PIECE or "<|" in text:
                count = self._count_in_pieces(engine, text)
            else:
                count = len(engine.encode_flat(text)) // 4
        except UnicodeEncodeError:
            return self._count_repaired(engine, text)
        if size <= self._max_word:  # a longer text may be inexact, which must be noted each time
            self._make_room(size)
            self._cache[text] = count
        return count

    def count_each(self, texts: Sequence[str]) -> list[int]:
        """Return the counts of many texts, without the cache. None of them may be empty, hold lone
        surrogates, special tokens or letters of NEW_LETTERS."""
        if not texts:
            return []
        if self._count_batch:
            return self._count_batch(list(texts))
        if self._engine is None or max(map(len, texts)) > _PIECE:
            return [self.count(text) for text in texts]
        encode = self._engine.encode_flat
        return [len(encode(text)) // 4 for text in texts]

    def _make_room(self, size: int) -> None:
        """Empty the cache if it is full, and reserve ``size`` characters of it."""
        if len(self._cache) >= _CACHE_ENTRIES or self._cached_chars > _CACHE_CHARS:
            self._cache.clear()
            self._cached_chars = 0
        self._cached_chars += size

    def _count_in_pieces(self, engine: Vocabulary, text: str) -> int:
        return sum(_count_plain(engine, piece) for piece in self._pieces(text))

    def _pieces(self, text: str) -> Iterator[str]:
        start = 0
        while start < len(text):
            cut = _CUT.search(text, start + _PIECE)
            end = cut.end() if cut else len(text)
            if end - start > self._max_word:
                self.exact, end = False, start + self._max_word
            yield text[start:end]
            start = end

    def _count_repaired(self, engine: Vocabulary, text: str) -> int:
        # Lone surrogates have no UTF-8; replace them as tiktoken's encode_ordinary does.
        self.exact = False
        repaired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self._count_in_pieces(engine, repaired)


def _count_plain(engine: Vocabulary, text: str) -> int:
    """Return the tokens of a piece, special tokens as plain text."""
    # encode_flat takes 4/10 of the time, but reads special tokens as such: they begin with "<|".
    if "<|" in text:
        return len(engine.encode_ordinary(text))
    return len(engine.encode_flat(text)) // 4
