"""The fast ways give what the slow ones give: rows taken unseen, files checked in parts, counts."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import signal
import subprocess
import sys
import unicodedata
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.rows import chat_rows
from support.rule_sets import LOCAL

from finetune_gateway import Dataset, Gateway, TrainingSpec, cli
from finetune_gateway.data.row_access import blank, dumped
from finetune_gateway.data.row_content import folded_text, outline
from finetune_gateway.findings import Report
from finetune_gateway.text.regex import searcher
from finetune_gateway.tokens import encodings
from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.tokens.encodings import TextCounter
from finetune_gateway.tokens.local_counter import LocalCounter
from finetune_gateway.validation import detectors, parallel, scan
from finetune_gateway.validation import run as checks
from finetune_gateway.validation.duplicates import MAY_FOLD, SETTLED, DuplicateFinder
from finetune_gateway.validation.fast_path import FastPath, PlainRows, Prefilter
from finetune_gateway.validation.file_bytes import FLAGGED, UNSURE, Lines, Range, cut

Json = dict[str, Any]

# What a look, a rule or the parser stops at, or just does not.
PIECES = (
    "jane@example.org", "a@b", "@media", "é@x.de", "4111 1111 1111 1111", "2147483647",
    "+44 20 7946 0958", "(212) 555-0147", "GB82 WEST 1234 5698 7654 32", "078-05-1120",
    "call me at 5551234567", "sk-proj-abcdefghij0123456789ABCD", "eyJ", "AKIAIOSFODNN7EXAMPLE",
    "rk_test_abcdefghij0123456789", "-----BEGIN RSA PRIVATE KEY-----", "<|endoftext|>", "<s>",
    "[/INST]", "<\uff5cUser\uff5c>", "\u202e", "\u200b", "\ufeff", "\ufffd", "\u00e2\u20ac\u2122",
    "\u00c3\u00a9", "\U000e0041", "\u00a0", "\u2028", "\u3164", "\x7f", "\x00", "\x1b", "\b", "/",
    "\\", '"', "\n", "\t", "\r", " ", "", "naïve", "你好", "😀", "Straße", "e\u0301", "\ufb01",
    "\u212a", 'a", "role": "user', "]", '], "', "NaN", "weight", "4111111111111111",
    "Привет".encode().decode("cp1251"), "锟斤拷", "caf\u221a\u00a9", "h\u221a\u2202n",
    "f\u251c\u255d", "\u0393\u00c7\u00d6", "don\u201a\u00c4\u00f4t", "\u0420", "\u0421\u201a",
    "\u221a", "\u251c", "\U000e0101", "\U000e0101\U000e0152",
    "pwd: hunter2isGr8!x", "my password is\thunter2isGr8!x", 'Password="hunter2isGr8!x"',
    "my PassWord: hunter2isGr8!x", "pwd", "AWS_SECRET_ACCESS_KEY=" + "wJalrXUtnF" * 4,
    '"SecretAccessKey": "' + "wJalr/UtnF" * 4, "AccountKey=" + "aB3/xYz09K" * 8 + "aB3/xY==",
    "12345678:AA" + "xYz09Kq_-aB" * 3, ":AA",
    "hooks.slack.com/services/T01234567/B01234567/aB3xYz09KqaB3xYz",
    "tel\u00e9fono ", "5551234567", "\u2026", "t\u00e9l\u00e9phone: 0123456789", '{"to": "a@b.de"}',
    "{name}", "<NAME>", "[Your Name]", "&amp;", "Hi.\\nThere", "User: hi Bot: ho", "<think>", "`x`",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=12), max_size=4).map(" ".join) | (
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join)
)
ROLES = st.sampled_from(("system", "user", "assistant", "user", "assistant", "tool", "developer"))
CALLS = st.lists(
    st.fixed_dictionaries(
        {"id": TEXTS, "type": st.just("function"),
         "function": st.fixed_dictionaries({"name": st.just("f"), "arguments": TEXTS})}
    ),
    max_size=2,
)  # fmt: skip
MESSAGE: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {"role": ROLES, "content": TEXTS},
    optional={
        "weight": st.sampled_from((0, 1, 2)), "name": st.just("x"), "tool_calls": CALLS,
        "tool_call_id": TEXTS,
    },
)  # fmt: skip
PLAIN: st.SearchStrategy[list[Json]] = st.tuples(TEXTS, TEXTS, TEXTS).map(
    lambda texts: [
        {"role": role, "content": text}
        for role, text in zip(("system", "user", "assistant"), texts, strict=True)
    ]
)
ROWS: st.SearchStrategy[Json] = (PLAIN | st.lists(MESSAGE, max_size=4)).map(
    lambda messages: {"messages": messages}
)
WRITTEN = st.tuples(ROWS, st.booleans(), st.sampled_from(((", ", ": "), (",", ":")))).map(
    lambda given: json.dumps(given[0], ensure_ascii=given[1], separators=given[2])
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A row as bytes, often with a small damage."""
    raw = draw(WRITTEN).encode("utf-8", "surrogatepass")
    if draw(st.booleans()):
        return raw
    place = draw(st.integers(0, len(raw)))
    junk = draw(
        st.sampled_from(
            (b'"role": "user", ', b'"rol\\u0065": "user", ', b'"content": "x", ', b"\\u0040",
             b'{"role": "user", "content": "x", "content": "y"}, ', b', "messages": []', b"NaN",
             b"\xff", b"\x00", b"\\ud83d", b"\\ud83d\\ude00", b"\\b", b"\\/", b"\t", b" ", b"1",
             b"}", b"[")
        )
    )  # fmt: skip
    return raw[:place] + junk + raw[place + draw(st.integers(0, 2)) :]


FIRST = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'


def report_on(path: Path, **options: Any) -> Report:
    """The report with exact counts."""
    options.setdefault("counter", HostedCounter(None))
    return checks.validate(Dataset(path), **options)


def without_fast_path(path: Path, **options: Any) -> Report:
    """The report of the long way alone."""
    options["workers"] = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FastPath, "take", lambda self, raws, flags=None: PlainRows())
        patch.setattr(Prefilter, "flags_of", lambda self, lines: bytearray(b"\1" * len(lines)))
        patch.setattr(detectors, "prefilters", lambda *_: (("(?s).",),))
        patch.setattr(detectors, "_is_written", lambda *_: True)
        return report_on(path, **options)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(lines(), min_size=1, max_size=12))
@example([b'{"messages": [{"role": "user", "role": "user", "content": "x"}]}'])
@example([FIRST.replace(b'"a"', b'"a", "content": "b"')])
@example([FIRST.replace(b'"role": "user"', b'"rol\\u0065": "tool", "role": "user"')])
@example([FIRST[:-1] + b', "messages": []}'])
@example([FIRST.replace(b'"q"', '"caf\u00c3\\u00a9"'.encode())])
@example([FIRST.replace(b'"q"', '"don\u00e2\\u20ac\u2122t"'.encode())])
@example([FIRST.replace(b'"q"', '"caf\u221a\\u00A9"'.encode())])
@example([FIRST.replace(b'"q"', '"\\u0420\u045f\u0421\\u0402"'.encode())])
@example([FIRST.replace(b'"q"', b'"a\x7fb"')])
@example([FIRST.replace(b'"q"', b'"ja\\ud83dne"')])
@example([FIRST.replace(b'"a"', b'"\\u0007\\u001B"')])
@example([FIRST.replace(b'"q"', b'"\\u20264111111111111111"')])
@example([FIRST.replace(b'"q"', b'"el tel\\u00e9fono 5551234567"')])
@example([FIRST.replace(b'"q"', b'"\\ud800 jane@example.org 4111111111111111"')])
@example([FIRST.replace(b'"q"', json.dumps("\u00d0\u0178\u00d1\u20ac\u00d0\u00b8").encode())])
def test_the_short_way_finds_what_the_long_way_finds(
    tmp_path: Path, given_lines: list[bytes]
) -> None:
    """The same report, counts and repeated rows included, with and without the fast path."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([FIRST, *given_lines, FIRST]) + b"\n")
    for method in ("sft", "reinforcement"):
        assert report_on(path, workers=1, method=method) == without_fast_path(path, method=method)


HALF = b'{"messages": [{"role": "user", "content": "q"}'
REST = b'{"role": "assistant", "content": "a"}]}'


@pytest.mark.parametrize(
    "rows",
    [
        (FIRST + b" " + FIRST, b""),
        (FIRST + b" " + FIRST, b" "),
        (FIRST + FIRST, b"{}"),
        (FIRST + b" " + HALF + b",", REST),
        (FIRST + b" " + HALF, b"," + REST),
        (FIRST + b" " + HALF, REST),
        (HALF + b",", REST + b" " + FIRST),
        (FIRST + b" " + FIRST, FIRST[:-1], b"}"),
        (FIRST + b' {"messages": [{"role": "user", "content": "}', b'{"}]}'),
        (HALF + b",\r", REST + b" " + FIRST),
        (FIRST + b" " + FIRST,),
        (FIRST[:-1] + b", " + FIRST[1:],),  # "messages" twice
        (FIRST[:-1] + b" ,\t" + FIRST[1:],),
    ],
)
def test_a_line_is_one_row(rows: tuple[bytes, ...]) -> None:
    """As many rows as lines are not enough: each line is one whole row, with each key once."""
    for before in ([], [FIRST], [FIRST] * 20, [FIRST + b"\r"], [FIRST + b"\r"] * 20):
        assert len(FastPath("sft").take([*before, *rows, FIRST]).roles) == len(before)


def test_no_blank_text_goes_the_short_way() -> None:
    """Whatever shows nothing is seen in the bytes, however it is written."""
    fast_path = FastPath("sft")
    for text in filter(blank, map(chr, range(sys.maxunicode + 1))):
        for shown in (text, f"{text}\n", f" {text}{text}"):
            for ascii_only in (True, False):
                content = json.dumps(shown, ensure_ascii=ascii_only)
                raw = FIRST.replace(b'"a"', content.encode("utf-8", "surrogatepass"))
                assert not fast_path.take([raw]).roles, raw
                upper = content.upper().replace("\\U", "\\u").replace("\\N", "\\n")
                assert not fast_path.take(
                    [FIRST.replace(b'"a"', upper.encode("utf-8", "replace"))]
                ).roles


def test_most_rows_go_the_short_way() -> None:
    """Plain rows are taken, in any language and however they are written."""
    fast_path = FastPath("sft")
    for text in (
        "How?",
        "Wie heißt du? 你好 “ok” 😀",
        "1990 - 1995",
        "x = a[0]\n\treturn",
        "C:\\bin",
        "Привет, Рівне: связь С–С–С. ГОСТ\u00a0Р",
        "√2 ≤ √π and √∞, 5 ± 2",
        "├── a\n│   └── b",
        "Enter a password: it is needed. Your pwd is safe.",
        "葛\ufe00 你好，世界",
    ):
        for ascii_only in (True, False):
            row = {
                "messages": [
                    {"role": "user", "content": text},
                    {"role": "assistant", "content": "a"},
                ]
            }
            raw = json.dumps(row, ensure_ascii=ascii_only)
            assert bool(fast_path.take([raw.encode()]).roles) is ("\\ud83d" not in raw), raw


@pytest.mark.parametrize("text", ["\ua7ce", base64.b64encode(b"Write to jane@corp.org").decode()])
def test_a_row_that_needs_another_look_is_left_for_it(text: str) -> None:
    """A letter that encodings count differently, and what may be personal data in base64."""
    row = FIRST.replace(b'"q"', json.dumps(text, ensure_ascii=False).encode())
    assert len(FastPath("sft").take([FIRST] * 20 + [row] + [FIRST] * 20).roles) == 20


def test_line_ends_are_seen_on_the_short_way(tmp_path: Path) -> None:
    """Both kinds, many rows of each."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes((FIRST + b"\r\n") * 40 + (FIRST + b"\n") * 40)
    assert "mixed_line_endings" in {one.code for one in report_on(path).findings}


def test_a_line_that_is_no_text_hides_no_other(tmp_path: Path) -> None:
    """A search finds nothing in bytes that are not UTF-8: the lines beside them are read alone."""
    private = FIRST.replace(b'"a"', b'"write to ann.lee@acme.com"')
    lines = [*[FIRST] * 5, private, *[FIRST] * 5, FIRST.replace(b'"a"', b'"\xff"'), *[FIRST] * 5]
    flagged = [flag == FLAGGED for flag in Prefilter().flags_of(lines)]
    assert [place for place, flag in enumerate(flagged) if flag] == [5, 11]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    found = {finding.code: finding.lines for finding in report_on(path).findings}
    assert found["pii"] == [6] and found["encoding_not_utf8"] == [12]


def test_rows_of_a_written_out_array_are_taken_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines between them are no rows: the same report as row by row, with a tenth of the
    calls."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([json.loads(row) for row in rows(400)], indent=2), "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(scan, "_BATCH", 1)
        taken_singly = checks.validate(Dataset.open(path, spool=tmp_path), workers=1)
    plain = [json.loads(FIRST)] * 400
    path.write_text(json.dumps(plain, indent=2), "utf-8")
    calls: list[int] = []
    take = FastPath.take

    def counted(self: FastPath, raws: list[bytes], flags: bytearray | None = None) -> PlainRows:
        calls.append(len(raws))
        return take(self, raws, flags)

    monkeypatch.setattr(FastPath, "take", counted)
    report = checks.validate(Dataset.open(path, spool=tmp_path), workers=1)
    assert report.rows == sum(calls) == 400 and len(calls) < 40
    repeats = report.findings[0]
    lines = path.read_text("utf-8").splitlines()
    begins = [number for number, line in enumerate(lines, 1) if line == "  {"]
    assert repeats.code == "duplicates" and repeats.lines == begins[1:11]
    path.write_text(json.dumps([json.loads(row) for row in rows(400)], indent=2), "utf-8")
    assert checks.validate(Dataset.open(path, spool=tmp_path), workers=1) == taken_singly
    assert taken_singly.findings


# -- files in parts ---------------------------------------------------------------------------


def rows(count: int, seed: int = 0) -> list[str]:
    """Rows of which some repeat, some have faults."""
    chance = random.Random(seed)
    listed = []
    for number in range(count):
        text = chance.choice(["hello there", "Hello  There", f"row {number}", "", "mail a@b.org"])
        row: Json = {
            "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]
        }
        if chance.random() < 0.1:
            row["messages"][1]["weight"] = chance.choice([0, 2])
        listed.append(json.dumps(row))
    return [FIRST.decode(), *listed]


def both_ways(
    path: Path, patch: pytest.MonkeyPatch, *, processes: int = 3, **options: Any
) -> tuple[Report, Report]:
    """The reports of several processes and of one."""
    patch.setattr(checks, "_PARALLEL_BYTES", 1)
    patch.setattr(checks, "_PARALLEL_BYTES_LOCAL", 1)
    reports = [report_on(path, workers=workers, **options) for workers in (processes, 1)]
    return reports[0], reports[1]


def splits(patch: pytest.MonkeyPatch) -> list[bool]:
    """A list to which each check of a file adds whether it was made in parts."""
    split: list[bool] = []
    scan = checks._scan_in_parallel

    def noted(*options: Any) -> Any:
        split.append((found := scan(*options)) is not None)
        return found

    patch.setattr(checks, "_scan_in_parallel", noted)
    return split


ANSWER = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("method", "messages"),
    [
        ("sft", [{"role": "user", "content": "Turn at the point."}, ANSWER]),
        ("sft", [{"role": "user", "content": "mail a@b.org"}, ANSWER]),
        ("dpo", [{"role": "user", "content": ""}, {**ANSWER, "role": "assistent", "weight": 2}]),
        ("sft", []),
    ],
)
def test_a_file_is_split_whatever_its_first_chat_says(
    method: str, messages: list[Json], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its format matters; faults of the first row change no report and cost no speed."""
    path = tmp_path / "first.jsonl"
    path.write_text("\n".join([json.dumps({"messages": messages}), *rows(100)]) + "\n", "utf-8")
    split = splits(monkeypatch)
    several, one = both_ways(path, monkeypatch, processes=2, method=method)
    assert several == one and split == [True, False]


@pytest.mark.parametrize(
    ("before", "split_up"), [(b"\xef\xbb\xbf", True), (b"\n\r\n", True), (b"\n" * 15_000, False)]
)
def test_a_file_is_split_whatever_stands_before_its_first_row(
    before: bytes, split_up: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark that Azure requires, or empty lines, but none that fill a part; a row of another
    format far below gets the line of the first one."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(before + "\n".join([*rows(100), '{"text": "other"}']).encode())
    split = splits(monkeypatch)
    several, one = both_ways(path, monkeypatch, processes=2)
    assert several == one and split == [split_up, False]
    (mixed,) = [finding for finding in one.findings if finding.code == "mixed_formats"]
    assert f"but line {1 + before.count(10)} in openai-chat" in mixed.message


@pytest.mark.parametrize(
    "faults",
    [
        {}, {40: "{"}, {40: '{"a": 1,'}, {40: "{", 41: '"a": 1', 42: "}"}, {30: "", 60: ""},
        {number: "" for number in range(55, 70)}, {99: "", 98: "", 97: ""}, {50: '"open'},
        {20: "{", 40: "{", 60: "{", 80: "{"}, {70: '{"prompt": "q", "completion": "a"}'},
        {50: '{"messages": "' + "x" * 20_000 + '"}'}, {33: "[", 66: "\\u0000"}, {50: "a\r"},
        {number: json.dumps({f"k{number}-{k}": 1 for k in range(18)}) for number in range(10, 90)},
        {number: json.dumps({"messages": [], **{f"k{number}-{k}": 1 for k in range(18)}})
         for number in range(10, 90)},
    ],
)  # fmt: skip
def test_parts_find_what_one_pass_finds(
    faults: dict[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines, groups, order, duplicates across parts and counts are those of one process."""
    listed = rows(100)
    for line, text in faults.items():
        listed[line] = text
    path = tmp_path / "rows.jsonl"
    for end in ("\n", "\r\n"):
        path.write_bytes(end.join(listed).encode() + end.encode() * (len(faults) != 1))
        several, one = both_ways(path, monkeypatch, max_context=30)
        assert several == one
        assert one.tokens is not None and one.tokens["total"] > 0


def test_parts_are_what_processes_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file is really checked in parts, each by a process of its own."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(rows(100)))
    asked: list[Any] = []
    real = parallel.each

    def each(work: Any, parts: Any, here: Any) -> Any:
        asked.extend(parts)
        return real(work, parts, here)

    monkeypatch.setattr(parallel, "each", each)
    both_ways(path, monkeypatch)
    assert [part.part.number for part in asked] == [
        1,
        *sorted(part.part.number for part in asked[1:]),
    ]
    assert len(asked) == 3 and asked[-1].last


def test_a_fresh_interpreter_does_as_well_as_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where forking is not safe the same comes from processes started anew."""
    monkeypatch.setattr(parallel, "_can_fork", lambda: False)
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(rows(60)))
    several, one = both_ways(path, monkeypatch)
    assert several == one


ASKED = {"role": "user", "content": "q"}
WORSE = {"role": "assistant", "content": "b"}
FORMS: dict[str, tuple[str, Json]] = {
    "openai-preference": (
        "dpo",
        {"input": {"messages": [ASKED]}, "preferred_output": [ANSWER],
         "non_preferred_output": [WORSE]},
    ),
    "trl-preference": ("dpo", {"prompt": [ASKED], "chosen": [ANSWER], "rejected": [WORSE]}),
    "prompt-completion": ("sft", {"prompt": "q", "completion": "a"}),
    "unpaired-preference": ("kto", {"prompt": "q", "completion": "a", "label": True}),
    "alpaca": ("sft", {"instruction": "q", "output": "a"}),
    "sharegpt": ("sft", {"conversations": [{"from": "human", "value": "q"},
                                           {"from": "gpt", "value": "a"}]}),
    "text": ("pretrain", {"text": "q"}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "fork"), [*((name, True) for name in FORMS), ("text", False)])
def test_parts_of_any_format_find_what_one_pass_finds(
    name: str, fork: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part knows the format of the first row: it has no note of its own, and a chat among
    the rows is a mixed format wherever it stands."""
    method, row = FORMS[name]
    listed = [json.dumps(row).replace('"q"', f'"row {number}"') for number in range(60)]
    listed[7] = listed[50] = json.dumps(row).replace('"q"', '"mail a@b.org"')
    listed[40], listed[55] = FIRST.decode(), "{"
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(listed))
    monkeypatch.setattr(parallel, "_can_fork", lambda: fork)
    split = splits(monkeypatch)
    several, one = both_ways(path, monkeypatch, processes=2, method=method)
    assert split == [True, False]
    assert several == one and one.format == name
    found = {finding.code: finding.lines for finding in one.findings}
    assert found["mixed_formats"] == [41] and found["pii"] == [8, 51]


@pytest.mark.parametrize(("name", "loads"), [("openai-chat", True), ("trl-preference", False)])
def test_the_engine_for_many_texts_is_loaded_for_rows_that_it_counts(
    name: str, loads: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file of 64 MB; only chat rows are counted many at once."""
    monkeypatch.setattr(encodings, "_LARGE", 1)
    line = json.dumps(FORMS[name][1]) if name in FORMS else FIRST.decode()
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{line}\n" * 12)
    counter = HostedCounter("gpt-4o")
    report_on(path, counter=counter, method="sft" if loads else "dpo")
    assert (counter.text._count_batch is not None) == loads


@pytest.mark.parametrize("fork", [True, False])
def test_a_local_template_counts_alike_in_parts_and_the_short_way(
    fork: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens, trained ones, rows that are too long or that the template refuses: the same from one
    process, from several, and where every row goes the long way."""
    listed = rows(60)
    listed[20] = FIRST.decode().replace('"q"', json.dumps("long " * 900))
    listed[40] = FIRST.decode().replace('"user"', '"system"').replace('"assistant"', '"user"')
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(listed))
    local = Gateway(tmp_path / "home").backend("local")
    rule = local.counter(TrainingSpec.build(model="builtin/tiny"))
    assert isinstance(rule, LocalCounter)
    monkeypatch.setattr(parallel, "_can_fork", lambda: fork)
    found = []
    for way, workers in ((report_on, 1), (report_on, 3), (without_fast_path, 1)):
        counter = rule.fresh()
        monkeypatch.setattr(checks, "_PARALLEL_BYTES_LOCAL", 1 if workers > 1 else 1 << 40)
        report = way(path, counter=counter, max_context=500, backends=LOCAL)
        found.append((report, counter.stats()))
    assert found[0] == found[1] == found[2]
    assert "example_too_long" in {finding.code for finding in found[0][0].findings}
    assert found[0][1].trained > 0


def pid_of(part: int) -> int:
    """The process that works."""
    return os.getpid()


def fail_at(part: int) -> int:
    """Fails for the second part."""
    if part == 2:
        raise OSError(5, "a disk that fails")
    return part


def die_at(part: int) -> int:
    """Is killed at the second part."""
    if part == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return part


@pytest.mark.parametrize("fork", [True, False])
def test_an_error_in_a_process_is_an_ordinary_error(
    fork: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a part raises is raised here; a process that dies is told apart from it."""
    monkeypatch.setattr(parallel, "_can_fork", lambda: fork)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    assert len(set(parallel.each(pid_of, [1, 2, 3]))) == 3
    with pytest.raises(OSError, match="a disk that fails"):
        list(parallel.each(fail_at, [1, 2, 3]))
    with pytest.raises(parallel.WorkerDied):
        list(parallel.each(die_at, [1, 2, 3]))


CHECK_PART = checks._scan_part


def dies_elsewhere(task: scan.Task, on_progress: Any = None) -> Any:
    """The real work in the first process; any other one is killed."""
    if os.getpid() != int(os.environ["FIRST_PROCESS"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return CHECK_PART(task)


def test_a_killed_process_does_not_change_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then one process does it all."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(rows(60)))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("FIRST_PROCESS", str(os.getpid()))
    monkeypatch.setattr(checks, "_scan_part", dies_elsewhere)
    several, one = both_ways(path, monkeypatch)
    assert several == one


ENDLESS = """\
import os, sys, time
from finetune_gateway.validation import parallel
def work(part):
    os.write(1, b"%d\\n" % os.getpid())
    while True:  # a signal on the way into a sleep does not end it
        time.sleep(0.05)
list(parallel.each(work, [1, 2]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="forks on Linux only")
def test_ctrl_c_ends_the_processes() -> None:
    """The keys reach all of them; none is left when the first has ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(2)]
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert b"KeyboardInterrupt" in said
    for pid in set(pids) - {process.pid}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# -- lines, repeats, counts -------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
@given(raw=st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"\r", b""])).map(b"".join))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_ranges_give_the_lines_of_the_file(chunk: int, raw: bytes, tmp_path: Path) -> None:
    """Cut anywhere, the parts give each line once, with the number and the offset it has."""
    path = tmp_path / "lines"
    path.write_bytes(raw)
    with pytest.MonkeyPatch.context() as patch, path.open("rb") as file:
        patch.setattr("finetune_gateway.validation.file_bytes.CHUNK", chunk)
        expected = list(Dataset(path).lines())
        assert list(Lines(file.fileno(), Range(0, sys.maxsize))) == expected
        for parts in (1, 2, 3):
            found = [
                line
                for part in cut(file.fileno(), len(raw), parts)
                for line in Lines(file.fileno(), part)
            ]
            assert found == expected
        rows = [line for line in expected if line.raw or line.end != b"\n"]
        assert list(Lines(file.fileno(), Range(0, sys.maxsize, gaps=True))) == rows


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.text(max_size=6), min_size=2, max_size=4), min_size=1, max_size=3),
    st.booleans(),
)
def test_plain_rows_are_compared_as_all_rows_are(rows: list[list[str]], near: bool) -> None:
    """By the texts alone, wherever one ends and the next begins."""
    orders = [("user", "assistant", "user", "assistant")[: len(texts)] for texts in rows]
    places = range(len(rows))
    plain, others = DuplicateFinder(near), DuplicateFinder(near)
    plain.add_plain(orders, [text for texts in rows for text in texts], places, places)
    messages = [
        [{"role": role, "content": text} for role, text in zip(order, texts, strict=True)]
        for order, texts in zip(orders, rows, strict=True)
    ]
    others.add([outline({"messages": one}) for one in messages], places, places)
    rows_written = [dumped({"messages": one}).encode() for one in [*messages, messages[0]]]
    for finder in (plain, others):  # a copy of the first row, by the full check
        finder.add([outline({"messages": messages[0]})], [len(rows)], [len(rows)])
    found = [sorted(one.iter_duplicates(rows_written.__getitem__)) for one in (plain, others)]
    assert found[0] == found[1] and len(rows) in [one.line for one in found[0]]


@given(st.lists(TEXTS | st.text(max_size=6), max_size=8), st.randoms(use_true_random=False))
def test_repeats_are_those_of_the_same_texts(texts: list[str], chance: random.Random) -> None:
    """Rows with one text, or equal apart from case and spaces, are found, and no others, as by
    comparing them all."""
    changes = (str.upper, str.lower, str.title, lambda text: text.replace(" ", " \u00a0"),
               lambda text: unicodedata.normalize("NFD", text))  # fmt: skip
    listed = [*texts, *(chance.choice(changes)(text) for text in texts)]
    listed = [text.encode("utf-8", "replace").decode() for text in listed]
    written = [
        json.dumps({"text": text}, ensure_ascii=chance.random() < 0.3).encode() for text in listed
    ]
    outlines = [outline({"text": text}) for text in listed]
    whole = b"".join(raw + b"\n" for raw in written)
    offsets = [0, *accumulate(len(raw) + 1 for raw in written)][:-1]

    def read(offset: int) -> bytes:
        return whole[offset:].partition(b"\n")[0]

    repeats, exact = DuplicateFinder(), DuplicateFinder(near=False)
    for rows in (repeats, exact):  # in two steps, as the rows of a file come in batches
        rows.add(outlines[:2], [1, 2][: len(written)], offsets[:2])
        rows.add(outlines[2:], range(3, len(written) + 1), offsets[2:])
    found = {one.line: (one.exact, one.earlier) for one in repeats.iter_duplicates(read)}
    first: dict[str, int] = {}
    seen: dict[str, int] = {}
    expected = {}
    for line, text in enumerate(listed, 1):
        fold = folded_text(text)
        if text in seen:
            expected[line] = (True, seen[text])
        elif fold in first:
            expected[line] = (False, first[fold])
        seen.setdefault(text, line)
        first.setdefault(fold, line)
    assert found == expected
    assert {one.line: one.earlier for one in exact.iter_duplicates(read)} == {
        line: earlier for line, (same, earlier) in expected.items() if same
    }


def test_settled_characters_stay_as_they_are() -> None:
    """None of them composes with another, is reordered, or folds to an ASCII one."""
    every = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    settled = set(re.findall(f"[{SETTLED}]", "".join(every[128:])))
    later = {char for one in every for char in unicodedata.normalize("NFD", one)[1:]}
    assert len(settled) > 40_000
    assert later.isdisjoint(settled)
    for char in settled:
        assert not unicodedata.combining(char) and unicodedata.is_normalized("NFC", char)
        assert not any(map(str.isascii, char.casefold())), hex(ord(char))


def test_what_may_fold_to_ascii_has_one_of_a_few_bytes() -> None:
    """A character whose folded form has an ASCII one, and one that makes a letter with it."""
    for one in map(chr, range(128, sys.maxunicode + 1)):
        if one.casefold() == one and unicodedata.is_normalized("NFD", one):
            continue
        first, *makers = [*unicodedata.normalize("NFD", one)]
        folds = any(map(str.isascii, folded_text(one)))
        for char in (*one * folds, *makers * first.isascii()):
            assert not char.strip() or not set(char.encode()).isdisjoint(MAY_FOLD), hex(ord(one))


def test_half_done_texts_are_looked_for_on_the_short_way() -> None:
    """A row is taken if nothing was left in it after all, and others are not."""
    fast_path = FastPath("sft")
    for text, taken in (
        ("Dear {name}, welcome.", False),
        ("Use `{name}` there.", True),
        ("First.\\nSecond.", False),
        ("First.\\nSecond.\nThird.", True),
        ("Ham &amp; eggs", False),
        ("Write &amp; in HTML.", True),
        ("<think>So", False),
    ):
        raw = FIRST.replace(b'"a"', json.dumps(text).encode())
        flag = fast_path.prefilter.flags_of([raw])[0]
        assert flag == UNSURE or text.endswith("Third."), text
        rows = [FIRST, raw, FIRST]
        assert len(fast_path.take(rows).roles) == (3 if taken else 1), text
        assert len(fast_path.take(rows * 10).roles) == (30 if taken else 1), text


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.integers() | st.booleans() | TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=8,
    ),
    st.randoms(use_true_random=False),
)
def test_a_row_written_otherwise_repeats_the_first(value: Any, chance: random.Random) -> None:
    """Spaces between tokens and the order of keys make no other row of it."""

    def shuffled(value: Any) -> Any:
        if isinstance(value, list):
            return [shuffled(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {key: shuffled(value[key]) for key in chance.sample(list(value), len(value))}

    row = {"messages": value, "tools": [1, {"a": "b, c", "d": []}]}
    raws = [
        json.dumps(row).encode(),
        json.dumps(shuffled(row), separators=(" ,", "  : ")).encode(),
        json.dumps({**row, "tools": []}).encode(),
    ]
    repeats = DuplicateFinder()
    repeats.add([outline(json.loads(raw)) for raw in raws], [1, 2, 3], [0, 1, 2])
    read = dict(enumerate(raws))
    assert [*repeats.iter_duplicates(read.__getitem__)] == [(True, 2, 1)]


@pytest.mark.parametrize("large", [False, True])
@settings(max_examples=100, deadline=None)
@given(st.lists(PLAIN | st.lists(MESSAGE, max_size=4), max_size=20), st.integers(8, 60))
def test_plain_rows_add_up_as_one_by_one(large: bool, rows: list[list[Json]], limit: int) -> None:
    """Sums, lengths, roles: those of ``add`` for each row; rows from the first one on that is
    too long are left."""
    plain = [
        [
            one
            for one in row
            if one["role"] in ("system", "user", "assistant")
            and one["content"]
            and "<|" not in one["content"]
        ]
        for row in rows
    ]
    plain = [[{k: one[k] for k in ("role", "content")} for one in row] for row in plain if row]
    plain = [row for row in plain if all(one["role"] != "system" for one in row[1:])]
    fast, slow = HostedCounter(None), HostedCounter(None)
    if large:
        fast.text.choose_engine(1 << 40)
    taken = fast.add_plain(
        [tuple(one["role"] for one in row) for row in plain],
        [one["content"] for row in plain for one in row],
        limit,
    )
    sizes = [slow.add({"messages": row}).total for row in plain[:taken]]
    assert all(size <= limit for size in sizes)
    assert taken == len(plain) or slow.measure({"messages": plain[taken]}).total > limit
    assert fast.stats() == slow.stats()


@pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base"])
@given(
    st.lists(
        st.sampled_from(
            ["word", "Word's", " ", "  ", "\n", "a b", "12345", "é", "中", "😀 x", "<|", "/"]
        ),
        max_size=200,
    ).map("".join)
)
@settings(max_examples=60, deadline=None)
def test_a_text_in_pieces_has_the_tokens_of_the_whole(encoding: str, text: str) -> None:
    """Cut between a letter and a space, the pieces have as many tokens as the text."""
    whole = len(encodings._engine(encoding).encode_ordinary(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "_PIECE", 7)
        assert TextCounter(encoding)(text) == whole


def test_a_word_beyond_all_bounds_is_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bounded memory; and it is said that the count is not exact."""
    monkeypatch.setattr(encodings, "_PIECE", 100)
    monkeypatch.setattr(encodings, "_MAX_WORD", 1_000)
    count = TextCounter("o200k_base")
    for _ in range(2):  # said again when it is seen again
        count.exact = True
        assert count("a" * 4_000) == 500
        assert not count.exact


BEGUN = """\
import sys
from finetune_gateway.tokens import encodings
from finetune_gateway.validation import parallel
encodings.preload("o200k_base")
counter = encodings.TextCounter(sys.argv[1])
print(counter("A text of some words."), parallel._can_fork())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed by Linux")
@pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base"])
def test_an_encoding_begun_beside_the_imports_is_waited_for(encoding: str) -> None:
    """With a second thread no process could be copied: the counter leaves none behind."""
    done = subprocess.run(
        [sys.executable, "-c", BEGUN, encoding], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(TextCounter(encoding)("A text of some words.")), "True"]


@pytest.mark.parametrize(
    ("args", "begun"),
    [
        (["rows.jsonl"], ["o200k_base"]),
        (["rows.jsonl", "--model", "gpt-3.5-turbo"], ["cl100k_base"]),
        (["rows.jsonl", "--model=ft:gpt-4.1-mini:acme::1"], ["o200k_base"]),
        (["rows.jsonl", "--model", "builtin/tiny"], []),
        (["--help"], []),
    ],
)
def test_a_command_that_counts_begins_with_the_encoding_of_its_model(
    args: list[str], begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(encodings, "preload", seen.append)
    cli.main(["validate", *args])
    cli.main(["list", *args])
    assert seen == begun


def test_validate_loads_nothing_of_jobs_and_prices(tmp_path: Path) -> None:
    """They would be a fifth of the time that 1,000 rows take (bench/help_time.py)."""
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "finetune_gateway", "validate", "rows.jsonl"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 3
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    mine = {name.removeprefix("finetune_gateway.") for name in loaded}
    assert "validation.run" in mine
    others = {"estimation", "price_updates", "backends", "preparation", "jobs", "gateway"}
    assert not {name.partition(".")[0] for name in mine} & others


def test_a_dataset_is_read_without_jobs_and_prices(tmp_path: Path) -> None:
    """To import the class, and to read rows, takes nothing of what its methods do with them."""
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    code = (
        "import sys; from finetune_gateway import Dataset;"
        "assert len([*Dataset.open('rows.jsonl').rows()]) == 1; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    mine = {name.partition(".")[2] for name in done.stdout.split() if "finetune_gateway" in name}
    assert "data.dataset" in mine
    others = {"estimation", "backend", "backends", "preparation", "jobs", "gateway", "validation"}
    assert not {name.partition(".")[0] for name in mine} & others


def test_forks_compile_nothing_again(tmp_path: Path) -> None:
    """What the first process of a large file prepares is all that plain rows are searched with."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(40)))
    code = (
        "import sys; from pathlib import Path; from finetune_gateway.text.regex import searcher;"
        "from finetune_gateway.validation import run;"
        "task = run.Task(Path(sys.argv[1]), 'sft', None, None, '', first_format='openai-chat');"
        "run._prepare_searches(task); before = searcher.cache_info().misses;"
        "scan, _ = run._scan_part(task); print(scan.rows, searcher.cache_info().misses - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(rows)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "40 0\n"


def test_a_report_builds_no_schema(tmp_path: Path) -> None:
    """Its values are ours: to check them would take 40 ms in each process."""
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n{"text": "a"}\n')
    code = (
        "from pathlib import Path; from finetune_gateway import Dataset;"
        "from finetune_gateway.findings import Finding, Report;"
        "from finetune_gateway.tokens.counter import HostedCounter;"
        "from finetune_gateway.tokens.stats import TokenStats;"
        "from finetune_gateway.validation import run;"
        "report = run.validate(Dataset(Path('rows.jsonl')), counter=HostedCounter(None));"
        "assert report.findings and report.tokens;"
        "print([c.__name__ for c in (Finding, Report, TokenStats) if c.__pydantic_complete__]);"
        "assert Report.model_validate_json(report.model_dump_json()) == report"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == "[]\n"


def test_nothing_is_found_in_a_word_that_is_passed_over() -> None:
    for patterns in detectors.prefilters(("DE",)):
        assert not [word for word in detectors._WORDS if searcher(*patterns)(word)]
    assert not detectors._WORDS & detectors._NO_TEXT.keys()
