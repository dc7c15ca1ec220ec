"""The text of a token, made visible: whitespace, control characters and lone bytes included."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Other characters that do not print are shown as <U+202E>.
SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
_PLAIN = re.compile(r"[!-~]*")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def visible(text: str) -> str:
    """Return the text with nothing hidden: safe for a terminal, and no two spaces look alike.

    A combining mark at the beginning gets a dotted circle, so that it does not combine with the
    token before.
    """
    if _PLAIN.fullmatch(text):
        return text
    shown = "".join(_sign(char) for char in text)
    return f"◌{shown}" if unicodedata.category(text[0]).startswith("M") else shown


def _sign(char: str) -> str:
    if char in SIGNS:
        return SIGNS[char]
    return char if char.isprintable() else f"<U+{ord(char):04X}>"


def decode_bytes(raw: bytes) -> str:
    """Return bytes as text, with ``<0xE2>`` for bytes that are not a whole character."""
    parts: list[str] = []
    while raw:
        try:
            parts.append(raw.decode())
            break
        except UnicodeDecodeError as exc:
            parts.append(raw[: exc.start].decode())
            parts += [f"<0x{byte:02X}>" for byte in raw[exc.start : exc.end]]
            raw = raw[exc.end :]
    return "".join(parts)


def text_by_id(tokenizer: Tokenizer) -> Callable[[int], str]:
    """Return a function from a token's id to its text, for a tokenizer of Hugging Face.

    Its own ``decode`` would drop leading spaces and show half characters as U+FFFD.
    """
    added = {id: token.content for id, token in tokenizer.get_added_tokens_decoder().items()}
    decoder = tokenizer.decoder
    state = json.loads(decoder.__getstate__()) if decoder is not None else {}
    bytes_of = _byte_level if "ByteLevel" in json.dumps(state) else _sentence_piece

    def text(id: int) -> str:
        if id in added:
            return added[id]
        return decode_bytes(bytes_of(tokenizer.id_to_token(id) or ""))

    return text


def _byte_level(piece: str) -> bytes:
    alphabet = _alphabet()
    if all(char in alphabet for char in piece):
        return bytes(alphabet[char] for char in piece)
    return piece.encode()


def _sentence_piece(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()


@cache
def _alphabet() -> dict[str, int]:
    """Return GPT-2's table: each byte as one printable character (openai/gpt-2, src/encoder.py)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    table = {chr(byte): byte for byte in printable}
    hidden = [byte for byte in range(256) if byte not in printable]
    return table | {chr(0x100 + index): byte for index, byte in enumerate(hidden)}
