"""Claims of finetune_gateway.tokens.counter: single texts count as tiktoken counts them."""

from __future__ import annotations

import base64
import hashlib
import importlib
import inspect
import json
import random
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.paths import SHARED

from finetune_gateway.text.regex import searcher
from finetune_gateway.tokens import encodings
from finetune_gateway.tokens.encodings import NEW_LETTERS, TextCounter, base_model, encoding_for
from finetune_gateway.validation.detectors import _ESCAPED

TABLES = SHARED / "tiktoken_cache"
BOTH = pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base"])

NASTY = [
    "",
    " ",
    "\n\n \t\r\n",
    "<|endoftext|> is <|im_start|>plain<|im_end|> text",
    "naïve café — “quotes” … ½ ² №",
    "👩‍👩‍👧‍👦🏳️‍🌈 ‎‏",
    "你好，世界。日本語のテキスト 한국어",
    "مرحبا بالعالم עברית हिन्दी ไทย",
    "a\u0300\u0301\u0302 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢",
    "I'LL we've THEY'RE don't O'Neill's 'tis",
    "1234567890 3.14159 0x7fffffff 1_000_000",
    "def f(x):\n    return {'a': [1, 2, 3]}  # ok\n",
    "https://example.com/?q=%20&x=1#frag",
    "C1CC(=NN1C2=CC=CC=C2)N=NC3=CC=CC=C3",
    "\u2028\u2029\u0085\x00\x1f\ufeff\uffff",
    "word" * 400,
    "\U00010348\U0001f600\U000e0001",
]


@pytest.fixture(scope="module")
def reference() -> Any:
    """tiktoken on the vocabulary files kept beside the checkout."""
    if not TABLES.is_dir():
        pytest.skip("no vocabulary files beside the checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(TABLES))
        tiktoken = importlib.import_module("tiktoken")
        yield {name: tiktoken.get_encoding(name) for name in ("o200k_base", "cl100k_base")}


@BOTH
def test_vocabulary_is_the_one_tiktoken_pins(encoding: str) -> None:
    """Without any network: the bundled ranks hash to the sha256 that tiktoken expects."""
    constructors = importlib.import_module("tiktoken_ext.openai_public")
    source = inspect.getsource(getattr(constructors, encoding))
    pinned = re.search(r'expected_hash="([0-9a-f]{64})"', source)
    assert pinned
    engine: Any = encodings._engine(encoding)
    ranks = {"o200k_base": 199_998, "cl100k_base": 100_256}[encoding]
    digest = hashlib.sha256()
    for rank in range(ranks):
        piece = base64.b64encode(engine.decode_token_bytes(rank))
        digest.update(piece + b" %d\n" % rank)
    assert digest.hexdigest() == pinned[1]


@pytest.mark.shared
@BOTH
@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_nasty_texts_count_as_tiktoken_counts(reference: Any, encoding: str, text: str) -> None:
    """Special tokens, scripts, marks and control characters give tiktoken's count."""
    assert TextCounter(encoding)(text) == len(reference[encoding].encode_ordinary(text))


@pytest.mark.shared
@BOTH
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_text_counts_as_tiktoken_counts(reference: Any, encoding: str, text: str) -> None:
    """Any text, lone surrogates included, gives tiktoken's count."""
    assert TextCounter(encoding)(text) == len(reference[encoding].encode_ordinary(text))


def megabytes() -> dict[str, str]:
    """Inputs of a megabyte that have broken tokenisers before."""
    rng = random.Random(7)
    return {
        "a": "a" * 1_000_000,
        "spaces": " " * 900_000,  # as many as tiktoken bears
        "dashes": "-" * 1_000_000,
        "letters": "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000)),
        "chinese": "".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(330_000)),
        "base64": base64.b64encode(rng.randbytes(750_000)).decode(),
    }


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["a", "dashes", "letters", "chinese", "base64", "spaces"])
def test_a_megabyte_without_a_break_counts_as_tiktoken_counts(reference: Any, kind: str) -> None:
    """Runs that make a piece of a megabyte give tiktoken's count."""
    text = megabytes()[kind]
    expected = len(reference["o200k_base"].encode("".join(text), disallowed_special=()))
    assert TextCounter("o200k_base")(text) == expected


def test_a_megabyte_of_spaces_is_counted() -> None:
    """A million spaces, on which tiktoken 0.14 panics, count as pieces of 128 and one rest."""
    assert TextCounter("o200k_base")(" " * 1_000_000) == 7_813


@BOTH
def test_a_lone_surrogate_is_counted_as_the_replacement_character(encoding: str) -> None:
    """Text that has no UTF-8 is counted, and said not to be exact, each time it is seen."""
    count = TextCounter(encoding)
    assert count("a\ud800b") == TextCounter(encoding)("a\ufffdb")
    assert not count.exact
    count.exact = True
    assert count("\ud83d\ude00") == count("😀")
    assert not count.exact


def test_repeated_texts_do_not_make_the_cache_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache stays within its bounds in entries and in characters."""
    monkeypatch.setattr(encodings, "_CACHE_ENTRIES", 10)
    monkeypatch.setattr(encodings, "_CACHE_CHARS", 1_000)
    count = TextCounter("o200k_base")
    for number in range(100):
        count(f"text {number}")
        assert len(count._cache) <= 10
    count("x" * 2_000)
    count("y")
    assert set(count._cache) == {"y"}


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4.1-mini-2025-04-14", "o200k_base"),
        ("ft:gpt-4.1-mini-2025-04-14:org::abc", "o200k_base"),
        ("ft:gpt-4o-2024-08-06:org:suffix:id:ckpt-step-20", "o200k_base"),
        ("gpt-4.1-mini-2025-04-14.ft-0a1b2c", "o200k_base"),
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-5.1", "o200k_base"),
        ("o4-mini-2025-04-16", "o200k_base"),
        ("o1", "o200k_base"),
        ("gpt-oss-20b", "o200k_harmony"),
        ("openai/gpt-oss-120b", "o200k_harmony"),
        ("openai.gpt-oss-20b", "o200k_harmony"),
        ("gpt-4-0613", "cl100k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-3.5-turbo-0125", "cl100k_base"),
        ("gpt-35-turbo", "cl100k_base"),
        ("ft:gpt-3.5-turbo-0613:org::abc", "cl100k_base"),
        ("babbage-002", "cl100k_base"),
        ("Qwen/Qwen3-4B", None),
        ("my-gpt-4o-lookalike", None),
        ("gpt-4omega", None),
        ("gpt-9", None),
        ("", None),
        ("ft:", None),
    ],
)
def test_encoding_is_found_by_the_whole_base_name(model: str, encoding: str | None) -> None:
    """Fine-tuned names resolve to their base; a name that only looks similar to nothing."""
    assert encoding_for(model) == encoding


def test_base_model_of_fine_tuned_names() -> None:
    """OpenAI's and Azure's fine-tuned names give the base; other names stay."""
    assert base_model("ft:gpt-4o-mini-2024-07-18:org:x:1") == "gpt-4o-mini-2024-07-18"
    assert base_model("gpt-4.1-2025-04-14.ft-9") == "gpt-4.1-2025-04-14"
    assert base_model("Qwen/Qwen3-4B") == "Qwen/Qwen3-4B"


ODD = (
    "word", "Word's", "'ll", " ", "  ", "\n", "\r\n", "\t", "12345", "\u00e9", "\u4e2d\u6587",
    "\U0001f600", "/", "'S", "\u017f", "\u0300", "\u200d", "ABC", "aB", "\u3000", "\x00",
    "\u2026", "\u2019s", "_", "-",
)  # fmt: skip


@BOTH
@given(texts=st.lists(st.lists(st.sampled_from(ODD) | st.text(max_size=3), max_size=20)))
@settings(max_examples=150, deadline=None)
def test_the_counter_for_large_files_counts_alike(encoding: str, texts: list[list[str]]) -> None:
    """toktok and splintr, on texts as the screen lets them through."""
    newer = searcher(NEW_LETTERS)
    joined = ["".join(pieces) for pieces in texts]
    plain = [text for text in joined if text and "<|" not in text and not newer(text)]
    slow, fast = TextCounter(encoding), TextCounter(encoding)
    fast.choose_engine(1 << 40)
    assert fast._count_batch is not None
    assert (
        fast.count_each(plain)
        == slow.count_each(plain)
        == [TextCounter(encoding)(text) for text in plain]
    )


def test_every_letter_on_which_the_counters_differ_is_new() -> None:
    """Of all characters, the two split only those otherwise that NEW_LETTERS has."""
    newer, count = searcher(NEW_LETTERS), TextCounter("o200k_base")
    count.choose_engine(1 << 40)
    assert count._count_batch is not None and count._engine is not None
    chars = [chr(code) for code in range(0x80, 0x20000) if not 0xD800 <= code <= 0xDFFF]
    texts = [f"{char}_C" for char in chars]
    differ = [
        char
        for char, text, many in zip(chars, texts, count._count_batch(texts), strict=True)
        if len(count._engine.encode_ordinary(text)) != many
    ]
    assert differ and all(map(newer, differ))
    escaped = [f"x{json.dumps(char)[1:-1]}y" for char in differ if char < "\U00010000"]
    assert all(map(searcher(_ESCAPED), escaped))


def test_a_counter_that_is_missing_or_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the usual one counts on."""
    expected = TextCounter("o200k_base").count_each(["a text", "b"])
    for module in (None, SimpleNamespace(batch_count=lambda texts, **_: [1] * len(texts))):
        monkeypatch.setitem(sys.modules, "toktok", module)
        encodings._load_batch_counter.cache_clear()
        count = TextCounter("o200k_base")
        count.choose_engine(1 << 40)
        assert count._count_batch is None
        assert count.count_each(["a text", "b"]) == expected
    encodings._load_batch_counter.cache_clear()
