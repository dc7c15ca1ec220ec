"""Claims of tokens.cached_vocabulary: exact counts by tiktoken, and never a download."""

from __future__ import annotations

import base64
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken.load
import tiktoken.registry
from support.paths import SHARED

from finetune_gateway import errors
from finetune_gateway.tokens import cached_vocabulary, encodings
from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.tokens.encodings import TextCounter
from finetune_gateway.tokens.masks.hosted import HostedRenderer

TEXTS = [
    "Where is my parcel? It's 3 days late.",
    " \n\n\t x  \r\n",
    "<|endoftext|> is <|im_start|>plain<|im_end|> text",
    "naïve café 你好，世界 👩‍👩‍👧 مرحبا",
    "word" * 400,
    "x " * 50_000,
]
ROW = {
    "messages": [
        {"role": "user", "content": "Where is my parcel?"},
        {"role": "assistant", "content": "On its way <|endoftext|>."},
    ]
}
MERGES = [b"ab", b"abc", b" a"]


def forget() -> None:
    encodings.load_vocabulary.cache_clear()
    encodings._engine.cache_clear()
    encodings._load_batch_counter.cache_clear()


@pytest.fixture
def no_fast_engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """splintr and toktok cannot be imported, and any download fails the test."""
    for module in ("splintr", "toktok"):
        monkeypatch.setitem(sys.modules, module, None)

    def download(address: str) -> bytes:
        raise AssertionError(f"tiktoken asked the network for {address}")

    monkeypatch.setattr(tiktoken.load, "read_file", download)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    forget()
    yield
    forget()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An encoding ``tiny_base`` of 256 bytes and three merges; its file in tiktoken's cache."""
    tokens = [bytes([byte]) for byte in range(256)] + MERGES
    lines = [b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)]
    data = b"".join(lines)
    digest = hashlib.sha256(data).hexdigest()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(cached_vocabulary.SHA256, "tiny_base", digest)

    def construct() -> dict[str, Any]:
        address = cached_vocabulary._ADDRESS.format("tiny_base")
        return {
            "name": "tiny_base",
            "pat_str": r" ?\w+|\s+|[^\s\w]+",
            "mergeable_ranks": tiktoken.load.load_tiktoken_bpe(address, digest),
            "special_tokens": {"<|endoftext|>": len(tokens)},
        }

    tiktoken.list_encoding_names()  # fills the table of constructors
    constructors = tiktoken.registry.ENCODING_CONSTRUCTORS
    assert constructors is not None
    monkeypatch.setitem(constructors, "tiny_base", construct)
    path = cached_vocabulary.cache_path("tiny_base")
    path.write_bytes(data)
    return path


@pytest.mark.usefixtures("no_fast_engines", "tiny")
def test_an_encoding_of_our_own_is_counted_from_the_cache() -> None:
    """Merges, special tokens as text, lone surrogates, many texts at once."""
    count = TextCounter("tiny_base")
    assert count("abc ab") == 3  # "abc", " a", "b"
    assert count("<|endoftext|>") == len("<|endoftext|>")
    was_exact = count.exact
    assert count("a\ud800b") == count("a\ufffdb") == 5
    assert (was_exact, count.exact) == (True, False)
    assert count.count_each(["abc", "abab"]) == [1, 2]
    vocabulary = encodings.load_vocabulary("tiny_base")
    ids = vocabulary.encode_ordinary("abc ab")
    assert b"".join(map(vocabulary.decode_token_bytes, ids)) == b"abc ab"


@pytest.mark.usefixtures("tiny")
def test_splintr_is_asked_first() -> None:
    """tiktoken counts an encoding that splintr lacks, and only that."""
    forget()
    kinds = [type(encodings.load_vocabulary(name)) for name in ("tiny_base", "o200k_base")]
    assert [kind is cached_vocabulary.CachedVocabulary for kind in kinds] == [True, False]
    large = TextCounter("tiny_base")
    large.choose_engine(1 << 40)  # toktok lacks it too
    assert large.count_each(["abc", "abab"]) == [1, 2]
    forget()


@pytest.mark.usefixtures("no_fast_engines", "tiny")
def test_a_text_too_long_for_tiktoken_is_counted_in_pieces() -> None:
    """A million spaces make tiktoken fail; the count is not called exact."""
    count = TextCounter("tiny_base")
    assert count(" " * 1_100_000) == 1_100_000
    assert not count.exact


@pytest.mark.usefixtures("no_fast_engines")
@pytest.mark.parametrize("content", [None, b"damaged"])
def test_a_missing_file_is_an_error_in_words(tiny: Path, content: bytes | None) -> None:
    """Neither is downloaded nor deleted: the error names the file and the variable."""
    tiny.unlink()
    if content is not None:
        tiny.write_bytes(content)
    with pytest.raises(errors.NotFoundError, match="tiny_base is not on this machine") as caught:
        TextCounter("tiny_base")
    assert str(tiny) in caught.value.message
    assert "TIKTOKEN_CACHE_DIR" in str(caught.value.hint)
    assert tiny.exists() is (content is not None)


@pytest.mark.usefixtures("no_fast_engines")
@pytest.mark.parametrize("folder", ["", None])
def test_without_a_cache_folder_nothing_is_downloaded(
    folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty TIKTOKEN_CACHE_DIR switches tiktoken's cache off; without one it has a default."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    if folder is None:
        monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    else:
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", folder)
    with pytest.raises(errors.NotFoundError, match="o200k_base is not on this machine"):
        HostedCounter("gpt-4.1")


@pytest.mark.usefixtures("no_fast_engines")
def test_a_missing_file_does_not_disturb_a_preload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The thread says nothing; the counter raises."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    encodings.preload("o200k_base")
    with pytest.raises(errors.NotFoundError):
        TextCounter("o200k_base")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", sorted(cached_vocabulary.SHA256))
def test_addresses_and_digests_are_those_of_tiktoken(name: str) -> None:
    """So that tiktoken finds the file that was checked, and does not fetch another."""
    public = importlib.import_module("tiktoken_ext.openai_public")
    source = inspect.getsource(getattr(public, name))
    assert f'"{cached_vocabulary._ADDRESS.format(name)}"' in source
    pinned = re.search(r'expected_hash="([0-9a-f]{64})"', source)
    assert pinned and pinned[1] == cached_vocabulary.SHA256[name]


@pytest.mark.shared
@pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base", "o200k_harmony"])
def test_counts_and_previews_are_those_of_splintr(
    encoding: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """With the fast engines blocked: single texts, whole rows, the tokens of a preview."""
    folder = SHARED / "tiktoken_cache"
    if not folder.is_dir():
        pytest.skip("no vocabulary files beside the checkout")
    model = {"cl100k_base": "gpt-4", "o200k_harmony": "gpt-oss-20b"}.get(encoding, "gpt-4.1")

    def results() -> tuple[object, ...]:
        preview = HostedRenderer(model, limit=None).preview(ROW)
        counter = HostedCounter(model)
        return [TextCounter(encoding)(text) for text in TEXTS], counter.measure(ROW), preview.tokens

    expected = results()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    request.getfixturevalue("no_fast_engines")
    assert results() == expected
    engine = encodings.load_vocabulary(encoding)
    assert isinstance(engine, cached_vocabulary.CachedVocabulary)
