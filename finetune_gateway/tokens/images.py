"""Tokens of images: the size from the header of an inline one, the rule of a model from data.

Nothing is fetched and no image is decoded: a few bytes of its base64 are read, wherever they lie.
"""

from __future__ import annotations

import base64
import binascii
import re
import tomllib
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from functools import cache
from importlib import resources
from math import ceil, floor, sqrt
from typing import NamedTuple

from finetune_gateway.data.row_access import Json
from finetune_gateway.tokens.encodings import base_model

Size = tuple[int, int]  # pixels: width, height

_DATA = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_FIT, _SHORT, _TILE, _PATCH = 2048, 768, 512, 32  # pixels
_MOST_TILES = 8  # of 2048 x 768
# A picture whose size is not known is expected to have 1024 x 1024 pixels, the guide's own example.
_USUAL: Size = (1024, 1024)
_SEGMENTS = 4096  # of a JPEG that are looked at; its size comes after a few

# Frame headers of JPEG (SOF0 to SOF15); C4, C8 and CC are tables and extensions.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers of JPEG without a length


class ImageTokens(NamedTuple):
    """The tokens of an image, or of several."""

    low: int = 0
    expected: int = 0
    high: int = 0


class ImageRule(NamedTuple):
    """How a model counts images: by tiles, or by patches if it has a ``factor``."""

    base: int
    tile: int
    most: int
    factor: Decimal
    as_of: date
    source: str

    def tokens(self, part: Json) -> ImageTokens:
        """Return the tokens of a content part that is an image. Accepts any JSON object."""
        image = part.get("image_url")
        fields = image if isinstance(image, dict) else {"url": image}
        url, detail = fields.get("url"), fields.get("detail")
        if detail == "low" and not self.factor:
            return ImageTokens(self.base, self.base, self.base)
        size = image_size(url) if isinstance(url, str) else None
        least = self.base or ceil(self.factor)
        known = self.of_size(size or _USUAL)
        if size and detail == "high":
            return ImageTokens(known, known, known)
        # A host may take "auto", which is the default, for low detail.
        return ImageTokens(least, known, known if size else self.highest)

    def of_size(self, size: Size) -> int:
        """Return the tokens of an image of this size that is not at low detail."""
        if self.factor:
            return ceil(self.factor * _patches(size, self.most))
        return self.base + self.tile * _tiles(size)

    @property
    def highest(self) -> int:
        """Return the most tokens of one image."""
        return ceil(self.factor * self.most) if self.factor else self.base + self.tile * _MOST_TILES

    def words(self) -> str:
        """Return the rule in a sentence, with its source and day."""
        unknown = f"without one {self.of_size(_USUAL):,} are expected, at most {self.highest:,}"
        low = "" if self.factor else f"{self.base:,} tokens at low detail, else "
        return (
            f"Images: {low}by the size in the header of an inline one; {unknown} "
            f"({self.source}, as of {self.as_of})."
        )


def tokens_of(model: str | None, images: Iterable[Json]) -> ImageTokens:
    """Return the tokens of some content parts that are images, together."""
    rule = rule_for(model)
    sides = zip(ImageTokens(), *map(rule.tokens, images), strict=True)
    return ImageTokens(*map(sum, sides))


def rule_for(model: str | None) -> ImageRule:
    """Return the rule of a hosted model, or of its fine-tune; that of gpt-4o for any other."""
    name = base_model(model or "").removeprefix("openai/")
    rules = _read_rules()
    return next((rule for names, rule in rules if name.startswith(names)), rules[-1][1])


@cache
def _read_rules() -> list[tuple[tuple[str, ...], ImageRule]]:
    text = resources.files("finetune_gateway.tokens").joinpath("images.toml").read_text("utf-8")
    return [
        (
            tuple(row["models"]),
            ImageRule(
                base=row.get("base", 0),
                tile=row.get("tile", 0),
                most=row.get("most", 0),
                factor=Decimal(row.get("factor", 0)),
                as_of=row["as_of"],
                source=row["source"],
            ),
        )
        for row in tomllib.loads(text)["rule"]
    ]


def _tiles(size: Size) -> int:
    """Return how many tiles of 512 pixels an image touches. It is never made larger."""
    width, height = size
    longest = max(width, height)
    if longest > _FIT:
        width, height = width * _FIT // longest, height * _FIT // longest
    shortest = min(width, height)
    if shortest > _SHORT:
        width, height = width * _SHORT // shortest, height * _SHORT // shortest
    return max(1, -(-width // _TILE)) * max(1, -(-height // _TILE))


def _patches(size: Size, most: int) -> int:
    """Return the patches of 32 pixels of an image, made smaller until there are at most so many."""
    width, height = size
    across, down = -(-width // _PATCH), -(-height // _PATCH)
    if across * down <= most:
        return across * down
    shrink = sqrt(_PATCH * _PATCH * most / (width * height))
    wide, high = width * shrink / _PATCH, height * shrink / _PATCH
    shrink = min(max(1, floor(wide)) / wide, max(1, floor(high)) / high)
    return min(most, ceil(wide * shrink - 1e-9) * ceil(high * shrink - 1e-9))


# -- the size of an inline image ----------------------------------------------------------------


def image_size(url: str) -> Size | None:
    """Return the pixels of a PNG, JPEG, WebP or GIF in a ``data:`` URL, from its header alone; None
    for another address, and where the header is cut off, damaged or says 0."""
    head = _DATA.match(url)
    if head is None:
        return None
    data = _Base64(url, head.end())
    try:
        size = _size(data)
    except (binascii.Error, ValueError, IndexError):
        return None
    return size if size and min(size) > 0 else None


class _Base64(NamedTuple):
    """Bytes in base64 that are decoded only where they are read."""

    text: str
    start: int

    def read(self, at: int, count: int) -> bytes:
        """Return ``count`` bytes from ``at`` on. Raises IndexError if there are fewer."""
        first = self.start + at // 3 * 4
        last = self.start + -(-(at + count) // 3) * 4
        found = base64.b64decode(self.text[first:last], validate=True)[at % 3 : at % 3 + count]
        if len(found) < count:
            raise IndexError(at)
        return found


def _size(data: _Base64) -> Size | None:
    head = data.read(0, 10)
    if head.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _little(head[6:8]), _little(head[8:10])
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        chunk = data.read(12, 12)
        return (_big(chunk[4:8]), _big(chunk[8:])) if chunk.startswith(b"IHDR") else None
    if head.startswith(b"RIFF"):
        return _webp(data.read(8, 22))
    return None


def _webp(head: bytes) -> Size | None:
    """Return the size by the first chunk; ``head``: 22 bytes from ``WEBP`` on (RFC 9649)."""
    kind, body = head[:8], head[12:]
    if kind == b"WEBPVP8X":
        return 1 + _little(body[4:7]), 1 + _little(body[7:10])
    if kind == b"WEBPVP8L" and body[0] == 0x2F:
        bits = _little(body[1:5])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"WEBPVP8 " and body[3:6] == b"\x9d\x01\x2a":
        return _little(body[6:8]) & 0x3FFF, _little(body[8:10]) & 0x3FFF
    return None


def _jpeg(data: _Base64) -> Size | None:
    """Return the size by the first frame header, after tables, thumbnails and comments."""
    at = 2
    for _ in range(_SEGMENTS):
        mark, kind = data.read(at, 2)
        if mark != 0xFF:
            return None
        if kind == 0xFF:  # a fill byte
            at += 1
        elif kind in _BARE:
            at += 2
        elif kind in (0xD9, 0xDA):  # the end, or pixels: there is no frame header
            return None
        elif kind in _FRAMES:
            frame = data.read(at + 5, 4)
            return _big(frame[2:]), _big(frame[:2])
        else:
            length = _big(data.read(at + 2, 2))
            if length < 2:
                return None
            at += 2 + length
    return None


def _big(number: bytes) -> int:
    return int.from_bytes(number, "big")


def _little(number: bytes) -> int:
    return int.from_bytes(number, "little")
