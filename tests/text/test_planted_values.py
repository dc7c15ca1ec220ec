"""Personal data in eight scripts, disguised and plain; what stands for nobody; hostile texts."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.cli import loaded_after
from support.planted import KINDS, SCRIPTS, Planted, planted

from finetune_gateway.text.pii import detectors, find_pii
from finetune_gateway.validation.detectors import text_defects
from finetune_gateway.validation.fast_path import FastPath

SSN = "a US social security number"


def row_with(text: str, **fields: Any) -> dict[str, Any]:
    user = {"role": "user", "content": text, **fields}
    return {"messages": [user, {"role": "assistant", "content": "Noted."}]}


def kinds_in(row: dict[str, Any], code: str = "", *, escaped: bool = False) -> set[str]:
    """The kinds of private data that are found in a row."""
    defects = text_defects(json.dumps(row, ensure_ascii=escaped), row)
    codes = {code} if code else {"pii", "secret"}
    return {one.kind for one in defects if one.code in codes}


def is_found(value: Planted, *, escaped: bool) -> bool:
    wanted = {value.kind, SSN} if value.kind == "an identity number" else {value.kind}
    return bool(wanted & kinds_in(row_with(value.text), escaped=escaped))


@pytest.mark.parametrize("count", [480, pytest.param(9600, marks=pytest.mark.chaos)])
@pytest.mark.parametrize("escaped", [True, False])
def test_planted_values_are_found_in_every_script_and_disguise(escaped: bool, count: int) -> None:
    """95 of 100 of each kind, script and form, whether the JSON escapes their characters or not;
    and no row with one takes the short way."""
    values, found, all_of = [*planted(count, seed=12)], Counter[str](), Counter[str]()
    for value in values:
        hit = is_found(value, escaped=escaped)
        for name in (value.kind, value.script, value.form, "all"):
            found[name] += hit
            all_of[name] += 1
        raw = json.dumps(row_with(value.text), ensure_ascii=escaped).encode()
        assert not (hit and FastPath("sft").take([raw]).roles), value
    shares = {name: found[name] / count for name, count in all_of.items()}
    print({name: f"{share:.1%} of {all_of[name]}" for name, share in shares.items()})
    assert len(shares) == len(KINDS) + len(SCRIPTS) + 5
    assert min(shares.values()) >= 0.95, shares


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("请把发票发送到maria@acme-shop.com谢谢", "maria@acme-shop.com"),
        ("メールはmaria@acme-shop.co.jpまで", "maria@acme-shop.co.jp"),
        ("maria@acme-shop.co.kr로 보내 주세요", "maria@acme-shop.co.kr"),
        ("ส่งมาที่maria@acme-shop.co.thครับ", "maria@acme-shop.co.th"),
        ("Пишите: мария@почта.рф!", "мария@почта.рф"),
        ("write to müller@bücher.de.", "müller@bücher.de"),
    ],
)
def test_an_address_ends_where_the_sentence_goes_on(text: str, address: str) -> None:
    """In scripts that put no space between words too."""
    assert list(find_pii(text)) == [("an e-mail address", address)]


@pytest.mark.parametrize(
    "text",
    [
        "ann@example.com", "ann@mail.example.org", "ann@shop.test", "a.b@host.invalid",
        "x@y.localhost", "ann (at) example (dot) com", "ａｎｎ＠ｅｘａｍｐｌｅ．ｃｏｍ",
        "ann@example.co.uk", "yourname@yourdomain.com", "boss@company.com", "me@your-company.io",
        "info@mywebsite.org", "your.email@gmail.com", "Call (212) 555-0147 now",
        "Card 4242 4242 4242 4242", "Amex 378282246310005", "Card 4000 0000 0000 9995",
    ],
)  # fmt: skip
def test_what_stands_for_nobody_is_a_note(text: str) -> None:
    """Names kept for examples, test cards, 555-01xx; a real value beside them is not."""
    assert kinds_in(row_with(text)) == set() and kinds_in(row_with(text), "pii_reserved")
    both = f"{text}, or maria@acme-shop.com, (212) 555-2147, 4111 2222 3333 4448"
    assert len(kinds_in(row_with(both))) == 3
    assert not any(
        "example" in one.detail for one in text_defects(json.dumps(row_with(text)), text)
    )


@pytest.mark.parametrize(
    "text",
    [
        "ann@thecompany.com", "ann@company.de", "ann@mycompany-shop.com", "ann@exampleshop.com",
        "ann@yourdomains.com", "your.sister@acme-shop.com", "yours@acme-shop.com", "my@domain.de",
    ],
)  # fmt: skip
def test_a_name_that_only_begins_like_a_placeholder_is_somebody(text: str) -> None:
    """Companies are called so."""
    assert kinds_in(row_with(text)) == {"an e-mail address"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Maria_Lopez", "a name"), ("Jean-Luc Weber", "a name"), ("Anna Maria Weber", "a name"),
        ("王小明", "a name"), ("김민수", "a name"), ("maria_at_acme_com", "an e-mail address"),
        ("user_13812345678", ""), ("user_+49_151_12345678", "a telephone number"),
        ("example_user", ""), ("Support_Agent", ""), ("get_weather", ""), ("用户", ""),
    ],
)  # fmt: skip
def test_a_name_field_can_name_a_person(name: str, kind: str) -> None:
    """In messages of users; a tool or a part somebody plays has a name too."""
    assert kinds_in(row_with("Hi", name=name)) == ({kind} if kind else set())
    tool = {"messages": [{"role": "tool", "name": name, "content": "x"}]}
    assert "a name" not in kinds_in(tool)


def test_national_numbers_of_regions_are_found_where_they_are_asked_for() -> None:
    """In any grouping; dates, sums and ranges are none."""
    text = "Meine Nummer ist 0301234 5678, sonst 2125552368."
    row = row_with(text)
    assert kinds_in(row) == set()
    found = {value for _, value in find_pii(text, ("DE", "US"))}
    assert found == {"0301234 5678", "2125552368"}
    assert [one.kind for one in text_defects(json.dumps(row), row, ("DE",))] == [
        "a telephone number"
    ]
    for other in ("<<1000-200-400=400>>", "2023-05-12 10:20", "$0.75-0.25-0.10", "350@1800-6000"):
        assert list(find_pii(other, ("DE", "US", "GB"))) == []


def test_a_number_that_only_its_plan_can_judge_loads_the_plans(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Rows without one do not (tests/cli/test_commands.py)."""
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(row_with("It is +35 8(9)1-23 4567, thanks")))
    assert "phonenumbers" in loaded_after(env, "validate", str(data))


def seconds_for(piece: str, size: int) -> float:
    """How long a text of so many characters takes."""
    text = piece * (size // len(piece))
    began = time.process_time()
    list(find_pii(text, ("DE",)))
    return time.process_time() - began


def test_no_text_takes_long() -> None:
    """Time grows with the length of a text, whatever it holds: four times for four times as long,
    not sixteen."""
    pieces = (
        "a(at)b", "a at b dot c ", "(at)", " dot ", "a.b-c.", "a@b.", "１", "１-", "\u200b1",
        "+1 2", "(+1)", "1-2345 ", "0 9", "电话", "电话1", "QUJD", "5L2g", "8 9", "电", "1380", "@",
    )  # fmt: skip
    slow = []
    for piece in pieces:
        long = seconds_for(piece, 20_000)
        if long > 0.02 and long > 9 * (short := seconds_for(piece, 5_000)):
            slow.append((piece, short, long))
    assert slow == []
    assert len(detectors()) == len(detectors(("DE",)))
