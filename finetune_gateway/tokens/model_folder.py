"""The files of a model folder that chat needs: tokenizer, chat template, tokens that end an answer.

Read with ``tokenizers`` alone, without torch and transformers (``AutoTokenizer`` takes 2 s to
import).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_gateway.errors import NotFoundError, SpecError, StoreError
from finetune_gateway.tokens.calls_as_text import with_calls_as_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class TokenizerFiles:
    """What a model folder says of its tokens."""

    tokenizer: Tokenizer
    special_tokens: dict[str, str]  # bos_token, eos_token, ... as the template sees them
    stop_ids: frozenset[int]  # of generation_config.json, or config.json, and the tokenizer's eos


@dataclass(frozen=True)
class ModelFiles(TokenizerFiles):
    """What a model folder says of its chats."""

    source: str  # of the chat template
    response_template: dict[str, Any] | None = None  # how transformers takes its answers apart


def read_model_files(
    folder: str | Path, chat_template: str | Path | None = None, call_format: str | None = None
) -> ModelFiles:
    """Return the files of a model folder, with the template in the file ``chat_template`` if one is
    given, and with calls as text in this format. Raises NotFoundError, SpecError."""
    folder = Path(folder)
    config = _json(folder / "tokenizer_config.json")
    source = with_calls_as_text(_source(folder, config, chat_template), call_format)
    files = read_tokenizer_files(folder)
    shipped = config.get("response_template")
    return ModelFiles(
        files.tokenizer,
        files.special_tokens,
        files.stop_ids,
        source,
        shipped if isinstance(shipped, dict) else None,
    )


def has_template(folder: str | Path) -> bool:
    """Return True for a model folder with a chat template. Raises SpecError for a broken file."""
    folder = Path(folder)
    return _found_source(folder, _json(folder / "tokenizer_config.json")) is not None


def has_tokenizer(folder: str | Path) -> bool:
    """Return True for a model folder with a tokenizer; an adapter may be without, as its base has
    one."""
    return (Path(folder) / "tokenizer.json").is_file()


def read_tokenizer_files(folder: str | Path) -> TokenizerFiles:
    """Return the tokenizer of a model folder, which needs no chat template. Raises SpecError."""
    folder = Path(folder)
    config = _json(folder / "tokenizer_config.json")
    tokenizer = _tokenizer(folder / "tokenizer.json")
    special = {
        name: token
        for name, value in config.items()
        if name.endswith("_token") and (token := _content(value))
    }
    return TokenizerFiles(tokenizer, special, _stop_ids(folder, special, tokenizer))


def _source(folder: Path, config: dict[str, Any], given: str | Path | None) -> str:
    if given is not None and not Path(given).is_file():
        raise NotFoundError(f"There is no chat template {str(given)!r}.", hint="Check the path.")
    found = _text(Path(given)) if given is not None else _found_source(folder, config)
    if found is not None:
        return found
    raise SpecError(
        f"The model folder {folder} has no chat template.",
        hint="Use the chat (instruct) version of the model, or --set chat_template=FILE. Texts "
        "need none: --method pretrain.",
    )


def _found_source(folder: Path, config: dict[str, Any]) -> str | None:
    """Return the folder's own template, if it has one."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return _text(path)
    inline = config.get("chat_template")
    if isinstance(inline, list):  # named variants, in older files
        inline = {item["name"]: item["template"] for item in inline}.get("default")
    return inline if isinstance(inline, str) else None


def _tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise SpecError(
            f"There is no {path}.",
            hint="Is this a model folder? AutoTokenizer.from_pretrained(...).save_pretrained(...) "
            "writes the file for older models.",
        )
    stat = os.stat(path)
    return _read_tokenizer(str(path), (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=2)
def _read_tokenizer(path: str, stamp: tuple[int, ...]) -> Tokenizer:
    """Return the tokenizer in a file with this ``stamp``: large ones take a second, and a submit
    asks for its own several times. Nobody changes it."""
    # Imported here: only local models need it, and it costs 12 ms.
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _text(path: Path) -> str:
    """Return the text of a file. Raises StoreError if it may not be read, SpecError if it is not
    UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except PermissionError:
        raise StoreError(
            f"{path} cannot be read: permission denied.", hint="Ask for rights on the folder."
        ) from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not UTF-8 text.", hint="Download the model again.") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        text = _text(path)
    except FileNotFoundError:
        return {}
    try:
        data = json.loads(text)
    except ValueError as exc:
        raise SpecError(
            f"{path} is not valid JSON: {exc}.", hint="Download the model again."
        ) from None
    return data if isinstance(data, dict) else {}


def _content(value: Any) -> str | None:
    """Return the text of a special token, written as text or as an object with ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _stop_ids(folder: Path, special: dict[str, str], tokenizer: Tokenizer) -> frozenset[int]:
    declared = _json(folder / "generation_config.json").get("eos_token_id")
    if declared is None:  # 0 is a token
        declared = _json(folder / "config.json").get("eos_token_id")
    ids = set(declared if isinstance(declared, list) else [declared])
    ids.add(tokenizer.token_to_id(special.get("eos_token", "")))
    return frozenset(ids - {None})
