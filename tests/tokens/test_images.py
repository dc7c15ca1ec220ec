"""Tokens of images: sizes from headers that are written here, by the rule computed another way."""

from __future__ import annotations

import base64
import math
import random
import struct
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

import finetune_gateway as gateway
from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.tokens.images import image_size, rule_for

GPT_4O = "gpt-4o-2024-08-06"
Json = dict[str, Any]


# -- headers, as their formats are documented ----------------------------------------------------


def png(width: int, height: int) -> bytes:
    chunk = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + chunk + bytes(4)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(3)


def jpeg(width: int, height: int, *before: bytes, frame: int = 0xC0) -> bytes:
    """With segments before the frame header, such as a camera's."""
    head = b"\xff\xd8\xff\xe0" + struct.pack(">H", 16) + b"JFIF\x00" + bytes(9)
    body = struct.pack(">BHHB", 8, height, width, 3) + bytes(9)
    return head + b"".join(before) + bytes((0xFF, frame)) + struct.pack(">H", 17) + body


def segment(kind: int, size: int) -> bytes:
    return bytes((0xFF, kind)) + struct.pack(">H", size + 2) + b"\xff\xc0" * (size // 2)


def camera(width: int, height: int) -> bytes:
    """A progressive JPEG after 130 kB of notes, in which bytes look like frame headers."""
    notes = (segment(0xE1, 65_000), b"\xff" + segment(0xE2, 65_000), segment(0xDB, 132))
    return jpeg(width, height, *notes, frame=0xC2)


def webp(width: int, height: int) -> bytes:
    """Lossy."""
    body = b"\x10\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(6)
    return b"RIFF" + struct.pack("<I", 28) + b"WEBPVP8 " + struct.pack("<I", 16) + body


def webp_lossless(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    body = b"\x2f" + struct.pack("<I", bits) + bytes(11)
    return b"RIFF" + struct.pack("<I", 28) + b"WEBPVP8L" + struct.pack("<I", 16) + body


def webp_extended(width: int, height: int) -> bytes:
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size


WRITERS: dict[str, Callable[[int, int], bytes]] = {
    "png": png, "gif": gif, "jpeg": jpeg, "camera": camera, "webp": webp,
    "webp_lossless": webp_lossless, "webp_extended": webp_extended,
}  # fmt: skip


def inline(raw: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def part(url: str, detail: str | None = None) -> Json:
    image = {"url": url} | ({"detail": detail} if detail else {})
    return {"type": "image_url", "image_url": image}


# -- the rule, computed in another way -------------------------------------------------------------


def tiles_by_hand(width: int, height: int) -> int:
    """Into a square of 2,048, then the shorter side to 768, then squares of 512: in fractions."""
    sides = [Fraction(width), Fraction(height)]
    for most, of in ((2048, max), (768, min)):
        share = min(Fraction(1), Fraction(most) / of(sides))
        sides = [Fraction(max(1, math.floor(side * share))) for side in sides]
    return math.prod(max(1, math.ceil(side / 512)) for side in sides)


SIZES = [
    (1, 1), (150, 150), (512, 512), (513, 512), (512, 513), (640, 480), (767, 769), (768, 768),
    (1024, 1024), (800, 600), (1025, 768), (1920, 1080), (2048, 768), (768, 2048), (2048, 2048),
    (2048, 4096), (4096, 8192), (4032, 3024), (3000, 1), (16383, 16383), (9999, 700), (300, 5000),
]  # fmt: skip
KINDS = [*WRITERS]
PICTURES = [
    (KINDS[n % len(KINDS)], size, detail)
    for n, (size, detail) in enumerate(
        (size, detail) for size in SIZES for detail in (None, "high", "low", "auto")
    )
]


@pytest.mark.parametrize(("kind", "size", "detail"), PICTURES)
def test_a_picture_is_counted_by_the_size_in_its_header(
    kind: str, size: tuple[int, int], detail: str | None
) -> None:
    """85 at low detail; else 85 and 170 for each tile. Without "high" it may be low."""
    url = inline(WRITERS[kind](*size))
    assert image_size(url) == size
    low, expected, high = rule_for(GPT_4O).tokens(part(url, detail))
    by_hand = 85 + 170 * tiles_by_hand(*size)
    sure = {"low": (85, 85, 85), "high": (by_hand, by_hand, by_hand)}
    assert (low, expected, high) == sure.get(detail or "", (85, by_hand, by_hand))


def test_the_examples_of_the_guide() -> None:
    """1024 x 1024 at high detail is 765, 2048 x 4096 is 1,105, the most is 1,445; patches: 1024 x
    1024 are 1,024, and 1800 x 2400 are 1,452."""
    rule = rule_for("ft:gpt-4o-2024-08-06:acme::1")
    assert rule.of_size((1024, 1024)) == 765 and rule.of_size((2048, 4096)) == 1105
    assert rule.of_size((2048, 768)) == rule.highest == 1445
    assert rule_for("gpt-4.1-2025-04-14") == rule_for("somebody/else") == rule_for(None) == rule
    mini = rule_for("gpt-4.1-mini-2025-04-14")
    assert mini.of_size((1024, 1024)) == math.ceil(1024 * 1.62)
    assert mini.of_size((1800, 2400)) == math.ceil(1452 * 1.62) and mini.highest == 2489
    assert all(mini.of_size(size) <= mini.highest for size in SIZES)
    assert rule_for("gpt-4o-mini").of_size((512, 512)) == 8500


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/cat.png",
        "",
        "data:image/png;base64,",
        "data:image/png," + "A" * 100,
        inline(png(0, 10)),
        inline(jpeg(10, 0)),
        inline(b"\x00" * 64),
        inline(b"\xff\xd8" + b"\xff" * 64),
        inline(b"\xff\xd8\xff\xda" + bytes(64)),
        inline(b"\xff\xd8\xff\xe0\x00\x01" + bytes(64)),
        inline(b"\x89PNG\r\n\x1a\n" + bytes(64)),
        inline(b"RIFF" + bytes(4) + b"WAVEfmt " + bytes(32)),
        inline(webp(3, 3).replace(b"\x9d\x01\x2a", bytes(3))),
        inline(png(3, 3)).replace("iVBO", "iV!O"),
    ],
)
def test_without_a_size_it_is_expected_at_high_detail(url: str) -> None:
    """As one of 1024 x 1024, at most 1,445; at low detail the size does not count."""
    assert image_size(url) is None
    assert rule_for(GPT_4O).tokens(part(url)) == (85, 765, 1445)
    assert rule_for(GPT_4O).tokens(part(url, "low")) == (85, 85, 85)


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_that_is_cut_off_or_damaged_is_no_error(kind: str) -> None:
    """Wherever it ends, whatever a byte becomes: a size within the format, or none."""
    whole, chance = WRITERS[kind](640, 480), random.Random(20)
    for end in [*range(40), *chance.sample(range(len(whole)), min(40, len(whole)))]:
        assert image_size(inline(whole[:end])) in (None, (640, 480))
        assert image_size(inline(whole)[:end]) in (None, (640, 480))
    for _ in range(200):
        broken = bytearray(whole)
        for at in chance.sample(range(min(len(whole), 200)), 3):
            broken[at] = chance.randrange(256)
        size = image_size(inline(bytes(broken)))
        assert size is None or 0 < min(size) <= max(size) < 2**32
        low, expected, high = rule_for(GPT_4O).tokens(part(inline(bytes(broken))))
        assert 85 == low <= expected <= high <= 1445


def test_a_hostile_picture_takes_no_memory() -> None:
    """2 MB of empty segments, or of fill bytes, or a size of 4 billion: read in place, and left
    after a few thousand."""
    pictures = [
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 500_000,
        b"\xff\xd8" + b"\xff" * 2_000_000,
        png(2**32 - 1, 2**32 - 1) + bytes(2_000_000),
    ]
    urls = [inline(picture) for picture in pictures]
    tracemalloc.start()
    try:
        sizes = [image_size(url) for url in urls]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sizes == [None, None, (2**32 - 1, 2**32 - 1)] and most < 100_000
    assert rule_for(GPT_4O).of_size((2**32 - 1, 1)) == 85 + 4 * 170


@pytest.mark.parametrize("image", [None, 5, [], {}, {"url": 5}, {"url": None, "detail": []}, "x"])
def test_an_image_part_of_another_shape_is_counted_too(image: object) -> None:
    """Its finding is another's business."""
    assert rule_for(GPT_4O).tokens({"type": "image_url", "image_url": image}).expected == 765


# -- in rows and estimates ---------------------------------------------------------------------


def row(*parts: Json) -> Json:
    question = {"role": "user", "content": [{"type": "text", "text": "Which one?"}, *parts]}
    return {"messages": [question, {"role": "assistant", "content": "The cat."}]}


def test_a_row_is_billed_with_its_images() -> None:
    """Each by its own size; the range is that of the unknown alone."""
    counter = HostedCounter(GPT_4O)
    bare = counter.measure(row())
    known, unknown = part(inline(png(2048, 768)), "high"), part("https://example.com/cat.png")
    low = part("https://example.com/cat.png", "low")
    for parts, sums in (
        ([known], (1445, 1445, 1445)),
        ([unknown], (85, 765, 1445)),
        ([low], (85, 85, 85)),
        ([known, unknown, low], (1615, 2295, 2975)),
    ):
        found = counter.measure(row(*parts))
        assert found.billed - bare.billed == found.total - bare.total == sums[1]
        assert found.billed_low - bare.billed_low == sums[0]
        assert found.billed_high - bare.billed_high == sums[2]
        assert found.images == len(parts) and not found.exact


def test_an_estimate_says_by_which_rule(home: Any) -> None:
    """The rule, its day and its source; the number of images is kept with the job."""
    rows = [row(part(inline(png(640, 480)), "low")) for _ in range(12)]
    quote = gateway.estimate(rows, model=GPT_4O, backend="openai", n_epochs=1)
    assert quote.tokens and quote.tokens.images == 12
    (said,) = [one for one in quote.assumptions if one.startswith("Images: 85 tokens at low")]
    assert "at most 1,445" in said and "as of 2026-11-29" in said
    plain = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant",
                                                             "content": "Hi"}]}] * 12  # fmt: skip
    other = gateway.estimate(plain, model=GPT_4O, backend="openai", n_epochs=1)
    assert not any(one.startswith("Images") for one in other.assumptions)
