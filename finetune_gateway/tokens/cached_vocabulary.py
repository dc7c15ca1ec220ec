"""The vocabulary of an encoding that splintr lacks, by tiktoken, from tiktoken's cache.

tiktoken has no offline switch: it downloads a file that its cache lacks (openai/tiktoken#513). So
the file is checked here first, and tiktoken only loads an encoding it need not download.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_gateway.errors import NotFoundError

if TYPE_CHECKING:
    from tiktoken import Encoding

_ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
# The SHA-256 of each vocabulary file, as tiktoken_ext.openai_public expects it.
SHA256 = {
    "r50k_base": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    "p50k_base": "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
}


class CachedVocabulary:
    """A tiktoken encoding with the methods of splintr's Tokenizer.

    ``max_word``: characters that tiktoken takes at once; it fails on a million spaces.
    """

    max_word = 500_000

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding

    @classmethod
    def load(cls, name: str) -> CachedVocabulary:
        """Return the encoding from tiktoken's cache; never downloads. Raises NotFoundError."""
        path = cache_path(name)
        if not _is_intact(path, SHA256.get(name)):
            raise NotFoundError(
                f"The vocabulary of {name} is not on this machine: splintr lacks it, and "
                f"{path} is missing or damaged.",
                hint="Install splintr-rs, or set TIKTOKEN_CACHE_DIR to a folder that has the file.",
            )
        # Imported here: the fast counters know every encoding in use today.
        import tiktoken

        return cls(tiktoken.get_encoding(name))

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text, encoded in pieces of ``max_word`` characters. Raises
        UnicodeEncodeError for lone surrogates, as splintr does."""
        text.encode()
        ids: list[int] = []
        for start in range(0, len(text), self.max_word):
            piece = text[start : start + self.max_word]
            # encode_ordinary takes special tokens for text too, but panics on a million spaces.
            ids += self._encoding.encode(piece, disallowed_special=())
        return ids

    def encode_flat(self, text: str) -> bytes:
        """Return the ids as 4 bytes each."""
        return array("I", self.encode_ordinary(text)).tobytes()

    def encode_batch_flat(self, texts: list[str]) -> tuple[bytes, bytes]:
        """Return the ids of all texts and how many each has, as 4 bytes each."""
        ids = [self.encode_ordinary(text) for text in texts]
        flat = array("I", [id for each in ids for id in each])
        return flat.tobytes(), array("I", map(len, ids)).tobytes()

    def decode_token_bytes(self, id: int) -> bytes:
        """Return the bytes of one token."""
        return self._encoding.decode_single_token_bytes(id)


def cache_path(name: str) -> Path:
    """Return where tiktoken keeps the vocabulary file of an encoding."""
    default = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
    return Path(folder) / hashlib.sha1(_ADDRESS.format(name).encode()).hexdigest()


def _is_intact(path: Path, sha256: str | None) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False
