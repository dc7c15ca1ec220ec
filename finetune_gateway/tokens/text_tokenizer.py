"""Texts as a local model reads them in continued pretraining: no chat template, a mark at the end.

Special tokens that a text has in it are what they say: such texts may be conversations that were
rendered already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_gateway.errors import SpecError
from finetune_gateway.tokens.model_folder import TokenizerFiles, read_tokenizer_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TextTokenizer:
    """The tokenizer of one model, for texts.

    >>> TextTokenizer.load("./Qwen3-4B-Base").ids("A document.")
    """

    def __init__(self, files: TokenizerFiles) -> None:
        self.files = files

    @classmethod
    def load(cls, folder: str | Path) -> TextTokenizer:
        """Return the tokenizer of a model folder. Raises SpecError."""
        return cls(read_tokenizer_files(folder))

    @property
    def tokenizer(self) -> Tokenizer:
        return self.files.tokenizer

    @cached_property
    def end(self) -> int:
        """The token that ends a text: the tokenizer's eos_token. Raises SpecError without one."""
        found = self.tokenizer.token_to_id(self.files.special_tokens.get("eos_token", ""))
        if found is None:
            raise SpecError(
                "The model's tokenizer has no eos_token, so the end of a text cannot be marked.",
                hint="Name one in its tokenizer_config.json.",
            )
        return found

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end a text: that one, and those of the model's configuration."""
        return self.files.stop_ids | {self.end}

    def check(self) -> None:
        """Raise SpecError unless the end of a text can be marked."""
        _ = self.end

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text: as the tokenizer begins one, and its end. Empty for a text
        without any."""
        if not text:
            return []
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids if ids[-1:] == [self.end] else [*ids, self.end]

    def prompt_ids(self, text: str) -> list[int]:
        """Return the ids of a text that goes on; those of an empty one are the end of another."""
        ids: list[int] = self.tokenizer.encode(text).ids
        ids = ids[:-1] if ids[-1:] == [self.end] else ids
        return ids or [self.end]


def pieces(texts: Iterable[list[int]], length: int) -> Iterator[list[int]]:
    """Yield the ids of all texts, one after another, in pieces of ``length``; the last has what is
    left. Nothing is lost and nothing padded (TRL's packing strategy "wrapped")."""
    left: list[int] = []
    for ids in texts:
        left += ids
        whole = len(left) - len(left) % length
        for start in range(0, whole, length):
            yield left[start : start + length]
        del left[:whole]
    if left:
        yield left
