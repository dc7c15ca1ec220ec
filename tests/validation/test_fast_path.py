"""The short way for clean rows lets nothing private through."""

from __future__ import annotations

import csv
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import DATA

from finetune_gateway.text import pii_numbers, pii_phones
from finetune_gateway.text.pii import find_pii, number_hints
from finetune_gateway.text.regex import searcher
from finetune_gateway.validation import detectors
from finetune_gateway.validation.detectors import text_defects
from finetune_gateway.validation.fast_path import FastPath

VALUES = DATA / "personal.tsv"


def test_no_row_with_personal_data_is_taken_as_clean() -> None:
    """Whatever the patterns find in a text, the fast path leaves to the full check."""
    with VALUES.open(encoding="utf-8", newline="") as file:
        values = [row[1] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    fast_path, seen = FastPath("sft"), 0
    for value in values:
        for text in (value, f"Please use {value} for this, thanks.", f"{value}, {value}."):
            for ascii_only in (True, False):
                messages = [
                    {"role": "user", "content": text},
                    {"role": "assistant", "content": "Noted."},
                ]
                raw = json.dumps({"messages": messages}, ensure_ascii=ascii_only).encode()
                if list(find_pii(text)):
                    seen += 1
                    assert not fast_path.take([raw]).roles, text
    assert seen > 4 * len(values)


CARD = pii_numbers._CARD.pattern
PATTERNS = (
    CARD, pii_numbers._IBAN.pattern, pii_numbers._SSN, pii_numbers._CHINA.pattern,
    pii_numbers._KOREA.pattern, *pii_phones._PHONES, *pii_phones._CALL, pii_phones._PLUS.pattern,
    *(number.pattern for number, _ in pii_phones._MOBILES),
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_hints_are_in_every_number_that_a_look_finds(pattern: str) -> None:
    """What a pattern matches has one of the hints, whatever its check makes of the digits; but
    telephone numbers have as many digits as their check asks for."""
    hinted, seen = searcher(*number_hints()), 0
    ascii_only = st.characters(min_codepoint=32, max_codepoint=126)

    @settings(max_examples=120, deadline=None, database=None)
    @given(st.from_regex(pattern, alphabet=ascii_only), st.sampled_from("23456"))
    def holds(text: str, network: str) -> None:
        nonlocal seen
        if pattern == CARD:  # no network begins with another digit
            text = re.sub(pattern, lambda match: network + match[0][1:], text)
        for match in re.finditer(pattern, text):
            if pattern not in pii_phones._PHONES or pii_phones._is_phone(match[0]):
                seen += 1
                assert hinted(text), text

    holds()
    assert seen > 5


@pytest.mark.parametrize("pattern", number_hints(("US",)))
def test_the_quick_patterns_match_where_a_hint_of_a_number_does(pattern: str) -> None:
    """So lines without them need no search for the hints, whatever the regions are."""
    quick = [searcher(*patterns) for patterns in detectors.quick_prefilters()]

    @settings(max_examples=40, deadline=None, database=None)
    @given(st.from_regex(pattern))
    def holds(text: str) -> None:
        assert any(search(text.encode("utf-8", "replace")) for search in quick), text

    holds()
    assert detectors.quick_prefilters()[0][:-1] == detectors.prefilters()[0]


def row_of(text: str, *, escaped: bool) -> tuple[bytes, dict[str, object]]:
    """A row with a text, as bytes and as a value."""
    row: dict[str, object] = {
        "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Noted."}]
    }
    return json.dumps(row, ensure_ascii=escaped).encode("utf-8", "surrogatepass"), row


def test_no_character_hides_behind_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every character of the basic plane, escaped or not, the fast path takes only rows that the
    long way, which then looks at each text of a row, has nothing to say about."""
    fast_path, taken = FastPath("sft"), 0
    monkeypatch.setattr(detectors, "prefilters", lambda *_: (("(?s).",),))
    monkeypatch.setattr(detectors, "_is_written", lambda *_: True)
    for number in range(0x80, 0x10000):
        char = chr(number)
        if "\ud800" <= char <= "\udfff":
            continue
        texts = (f"a{char}b", f"a{char}@x.org", f"a@{char}.org", f"t{char}l", f"<{char}User|>")
        for text in texts if number < 0x2100 or number > 0xFF00 else texts[:1]:
            for escaped in (True, False) if number < 0x2100 else (True,):
                raw, row = row_of(text, escaped=escaped)
                if fast_path.take([raw]).roles:
                    taken += 1
                    assert not list(text_defects(raw.decode(), row)), (hex(number), text)
    assert taken > 50_000


@pytest.mark.parametrize("damage", [b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xe2\x82"])
def test_bytes_that_are_no_text_go_the_long_way(damage: bytes) -> None:
    """Inside a string, in a key, behind the row."""
    raw, _ = row_of("aX", escaped=False)
    for broken in (raw.replace(b"X", damage), raw.replace(b"ole", damage, 1), raw + damage):
        assert not FastPath("sft").take([broken]).roles
