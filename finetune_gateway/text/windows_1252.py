"""Text in Windows-1252, the usual one of Western Windows and Excel, recognised by what it says.

The bytes of other code pages are letters of this one too, so the letters decide: they stand in
words that are written so, never between two letters that no Western word has.
"""

from __future__ import annotations

import codecs
import re

from finetune_gateway.text.regex import LazyPattern

HANDLER = "ftg-windows-1252"  # an error handler: bytes that are not UTF-8 are read as Windows-1252

_WORD = LazyPattern(r"[^\W\d_]+")
_LETTERS = frozenset("àâäáãåæçèéêëìíîïñòóôöõøœùúûüýÿßšžÀÂÄÁÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖÕØŒÙÚÛÜÝŸŠŽ")
_ALONE = frozenset("àáâèéêìíòóôöøùúåÀÁÂÈÉÊÌÍÒÓÔÖØÙÚÅ")  # words of one letter
_SIGNS = frozenset("€…–—‘’“”„‚•™«»‹›¡¿§©®°±²³·¹º¼½¾×÷£¥¢ªµ¶†‡‰\xa0\xad")
# Signs that a word cannot go on after, and those that it cannot begin after.
_INSIDE = LazyPattern("[a-zß-ÿ][¡¿§©®±¹³²¼½¾£¥¢ªµ¶„‚†‡‰€«][a-zß-ÿ]", re.IGNORECASE)
_LOW_QUOTE = LazyPattern(r"\w[„‚]")  # they open
_LATE = LazyPattern(r"[ìù](?=[^\W\d_])|ø.*?[ìè]|[ìè].*?ø", re.DOTALL)


def read_windows_1252(raw: bytes) -> str | None:
    """Return the text of a line that is not UTF-8, if it reads as Windows-1252; else None.

    Words of one accented letter and of ASCII letters beside accented ones are such texts; Cyrillic,
    Greek and Asian pages give words without an ASCII letter, Central European ones and DOS signs
    inside words.
    """
    try:
        text = raw.decode("utf-8", HANDLER)
    except UnicodeDecodeError:  # 81, 8D, 8F, 90 and 9D stand for nothing
        return None
    odd = {char for char in text if "\x80" <= char <= "\xff" or char in _SIGNS or char in _LETTERS}
    if not odd <= _LETTERS | _SIGNS:
        return None
    if _INSIDE.search(text) or _LOW_QUOTE.search(text) or _LATE.search(text):
        return None
    return text if all(map(_is_western, _WORD.findall(text))) else None


def _is_western(word: str) -> bool:
    """Return True if a word is written as Western ones are, as far as its letters say."""
    if word.isascii() or word in _ALONE:
        return True
    if not any(char.isascii() for char in word) and not _LETTERS.isdisjoint(word):
        return False
    return not any(
        later in _LETTERS and later.isupper() and earlier.islower()
        for earlier, later in zip(word, word[1:], strict=False)
    )


def _decoded(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252"), error.end


codecs.register_error(HANDLER, _decoded)
