"""Strict JSON: what RFC 8259 takes is taken, what it refuses is refused, by both ways of reading.

Our own cases always run. The 318 files of JSONTestSuite (github.com/nst/JSONTestSuite, MIT) are
run where FTG_JSON_SUITE names its folder test_parsing, or where it is kept beside the checkout.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.paths import DATA, SHARED
from support.work import assert_linear

from finetune_gateway import Dataset
from finetune_gateway.data.row_access import MAX_DEPTH
from finetune_gateway.findings import Report
from finetune_gateway.validation.json.parsing import BadLine, decode, parse
from finetune_gateway.validation.run import validate

PLACES = (
    Path(os.environ.get("FTG_JSON_SUITE", "none")),
    SHARED / "json_suite" / "test_parsing",
)
SUITE = sorted(path for place in PLACES for path in place.glob("[yni]_*.json"))
# RFC 8259 says only that keys SHOULD be unique (section 4). As a training row such a line is
# refused, under a code of its own, because each reader would keep another of the two.
TWICE = ("y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json")

CASES: dict[str, list[bytes]] = {"y": [], "n": []}
for line in (DATA / "json_cases.txt").read_text("utf-8").splitlines()[1:]:
    outcome, _, written = line.split(" ", 2)
    CASES[outcome].append(ast.literal_eval(written))

DEEP = (
    "[" * MAX_DEPTH + "]" * MAX_DEPTH,
    '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH,
    '[{"a":' * (MAX_DEPTH // 2) + "1" + "}]" * (MAX_DEPTH // 2),
    '"' + "[" * 100_000 + '"',
    '["' + '{\\"' * 10_000 + '"]',
    "[" + "[]," * 10_000 + "[]]",
)
TOO_DEEP = (
    "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
    "[" * 500 + "]" * 500,
    "[" * 100_000,
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 100_000,
    '[{"a":' * 50_000,
    '[{"":' * 50_000 + "\n",
)


def refusal(raw: bytes) -> str:
    """Return the code a line is refused with, "" when it is accepted."""
    try:
        parse(decode(raw))
    except BadLine as exc:
        assert len(exc.defect.detail) < 400
        return exc.defect.code
    return ""


def in_values(raw: bytes) -> list[bytes]:
    """A value by itself, in an array and in an object."""
    return [raw, b"[" + raw + b"]", b'{"a":' + raw + b"}"]


def test_json_is_taken() -> None:
    """Numbers, strings, structures, white space and depth that RFC 8259 allows."""
    texts = [*(one for raw in CASES["y"] for one in in_values(raw)), *map(str.encode, DEEP)]
    assert len(texts) > 200
    assert [raw[:80] for raw in texts if refusal(raw)] == []


def test_what_is_no_json_is_refused() -> None:
    """The same classes, and encodings, that it does not allow."""
    assert len(CASES["n"]) > 200
    assert [raw for raw in CASES["n"] if not refusal(raw)] == []


def test_too_deep_is_said_to_be_too_deep() -> None:
    """Never a RecursionError, nor another reason."""
    assert {refusal(text.encode()) for text in TOO_DEEP} == {"json_too_deep"}


# Lines of n pieces that could be searched again from each piece.
LONG: dict[str, tuple[Callable[[int], str], str]] = {
    "brackets in a string": (lambda n: '"' + "[" * n + '"', ""),
    "escaped quotes": (lambda n: '["' + '{\\"' * n + '"]', ""),
    "escaped surrogates": (lambda n: '{"a":"' + "\\ud800" * n + '"}', ""),
    "empty arrays": (lambda n: "[" + "[]," * n + "[]]", ""),
    "open arrays": (lambda n: "[" * n, "json_too_deep"),
    "open objects": (lambda n: '{"a":' * n, "json_too_deep"),
    "an open string": (lambda n: '["' + '\\"' * n, "json_truncated"),
    "backslashes": (lambda n: '"' + "\\" * n, "json_truncated"),
    "quotes": (lambda n: '"' * n, "not_json"),
    "commas": (lambda n: "[" + "," * n, "json_syntax"),
    "one key": (lambda n: "{" + '"a":1,' * n, "json_truncated"),
    "digits": (lambda n: "[" + "1" * n, "json_number"),
    "NaN": (lambda n: "[" + "NaN," * n + "1]", "json_nan"),
    "words of Python": (lambda n: '{"a": ' + "True, " * n + "}", "json_python_literal"),
    "a comment after spaces": (lambda n: '{"a":1}' + " " * n + "//", "json_comment"),
}


@pytest.mark.parametrize("shape", LONG)
def test_a_long_line_is_read_a_constant_number_of_times(shape: str) -> None:
    """Twice the line is twice the work at most. A million pieces are judged, too: with a search
    of quadratic cost inside ``re`` or ``json`` they would not end before the suite's timeout."""
    line, code = LONG[shape]
    assert_linear(lambda n: refusal(line(n).encode()), 1000)
    assert refusal(line(1_000_000).encode()) == code


# -- the short way -----------------------------------------------------------------------------

GOOD = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Oh"}]}'


def rows_with(value: bytes) -> list[bytes]:
    """Chat rows in which a value stands where a text should, and where nothing should."""
    return [GOOD.replace(b'"Hi"', value), value + GOOD, GOOD.replace(b": [", b": " + value + b"[")]


def both_ways(raw: bytes, path: Path) -> tuple[Report, Report]:
    """The report on a row between good ones, by the short way and by the long one."""
    rows = [GOOD, GOOD.replace(b"Hi", b"Ho"), raw, GOOD.replace(b"Hi", b"Ha")]
    path.write_bytes(b"\n".join(rows))
    long = validate(Dataset(path), min_rows=1, on_row=lambda row, line: None)
    return validate(Dataset(path), min_rows=1), long


def disagreements(values: list[bytes], path: Path) -> list[bytes]:
    """The rows that the two ways judge otherwise, or that pass though they are no JSON."""
    found = []
    for row in dict.fromkeys(row for value in values for row in rows_with(value)):
        if b"\n" in row or len(row) > 2000:
            continue
        short, long = both_ways(row, path)
        if short.findings != long.findings or (short.ok and refusal(row)):
            found.append(row)
    return found


def test_the_short_way_takes_nothing_that_the_long_way_refuses(tmp_path: Path) -> None:
    """A row is judged the same whether or not it was taken unseen."""
    assert disagreements(CASES["y"] + CASES["n"], tmp_path / "rows.jsonl") == []


# -- JSONTestSuite -----------------------------------------------------------------------------

needs_suite = pytest.mark.skipif(
    not SUITE, reason="FTG_JSON_SUITE does not name the folder test_parsing of JSONTestSuite"
)


@needs_suite
def test_json_test_suite() -> None:
    """All 95 that must be accepted are JSON to us, all 188 that must be refused are not, and of
    the 35 that are left free none does harm."""
    codes = {path.name: refusal(path.read_bytes()) for path in SUITE}
    assert len(codes) == 318
    wrong = {name: code for name, code in codes.items() if name[0] == "y" and code}
    assert wrong == dict.fromkeys(TWICE, "json_duplicate_key")
    assert [name for name, code in codes.items() if name[0] == "n" and not code] == []


@needs_suite
def test_json_test_suite_through_the_gate(tmp_path: Path) -> None:
    """Each file as a training file, and what is inside its brackets inside a row."""
    raws = [path.read_bytes() for path in SUITE]
    for raw in raws:
        path = tmp_path / "file.jsonl"
        path.write_bytes(raw)
        assert not validate(Dataset(path)).ok
    inner = [raw.strip()[1:-1] for raw in raws if raw.strip()[:1] == b"["]
    assert disagreements([*raws, *inner], tmp_path / "rows.jsonl") == []
