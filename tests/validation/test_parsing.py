"""The strict line parser: what it takes, what it refuses, and the name it gives to a fault."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_gateway.data.row_access import MAX_DEPTH, is_too_deep
from finetune_gateway.findings import walk
from finetune_gateway.validation.json.parsing import BadLine, decode, escape_defects, parse

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)


def fault(text: str) -> BadLine:
    """The refusal of a line."""
    with pytest.raises(BadLine) as caught:
        parse(text)
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        "{}", " {} ", "[]", '""', "null", "-0", "1e5", "1E-2", "0.5", '"\\u00e9"', '"\\/"',
        '{"":0}', '{"a":{"a":1}}', '[1,[2,[3]]]', '"\u2028"', '"\x7f"', '\t{"a":\r\n1}',
        '"\\ud83d\\ude00"', "[" * MAX_DEPTH + "]" * MAX_DEPTH, '"' + "[" * 500 + '"',
    ],
)  # fmt: skip
def test_valid_json_is_taken(text: str) -> None:
    """What RFC 8259 allows is parsed to what json itself makes of it."""
    assert parse(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("{“a”: 1}", "json_smart_quotes", "column 2"),
        ("{'a': 1}", "json_single_quotes", "column 2"),
        ('{"a": None}', "json_python_literal", "None"),
        ('{"a": True}', "json_python_literal", "True"),
        ('{"a": undefined}', "json_python_literal", "undefined"),
        ('{"a": 1,}', "json_syntax", "comma"),
        ("[1, 2,]", "json_syntax", "comma"),
        ("{a: 1}", "json_syntax", "without quotes"),
        ('{"a": 1},', "json_syntax", "a comma after the row"),
        ('{"a": "he "said" so"}', "json_syntax", "not escaped"),
        ('{"a": "\\x41"}', "json_syntax", "backslash"),
        ('{"a":\u00a01}', "json_syntax", "U+00A0"),
        ('{"a": 01}', "json_syntax", "column"),
        ('{"a": 1} {"b": 2}', "json_extra_data", "2 JSON values"),
        ('{"a": 1}\\n{"b": 2}', "json_extra_data", "backslash"),
        ('{"a": 1}\r{"b": 2}\r{"c": 3}', "line_terminator", "3 rows"),
        ('{"a": 1} // why', "json_comment", "// why"),
        ('{"a": /* x */ 1}', "json_comment", "/* x"),
        ("# title", "json_comment", "title"),
        ('{"a": "x\ty"}', "json_control_char", "tab"),
        ('{"a": NaN}', "json_nan", "NaN"),
        ('{"a": -Infinity}', "json_nan", "-Infinity"),
        ('{"a": 1e999}', "json_number", "1e999"),
        ('{"a": ' + "9" * 5000 + "}", "json_number", "4,300"),
        ('{"a": "x', "json_truncated", "not closed"),
        ('{"a": [1, ', "json_truncated", "unfinished"),
        ("[" * 101 + "]" * 101, "json_too_deep", ""),
        ('{"a":' * 200_000, "json_too_deep", ""),
        ("prompt,completion", "not_json", "CSV"),
        ('"prompt","completion"', "not_json", "CSV"),
        ("a\tb", "not_json", "TSV"),
        ("- role: user", "not_json", "YAML"),
        ("role: user", "not_json", "YAML"),
        ("<html>", "not_json", "HTML"),
        ("Call me Ishmael, he said.", "not_json", "plain text"),
        ("\0\0\0", "nul_byte", "3 NUL"),
        ('{"a": "\0"}', "nul_byte", "column 8"),
        ("\ufeff{}", "bom_inside", "column 1"),
    ],
)
def test_every_fault_has_its_name(text: str, code: str, says: str) -> None:
    """A refused line is refused under the code of its defect, with the place."""
    found = fault(text)
    assert found.defect.code == code
    assert says in found.defect.detail
    assert len(found.defect.detail) < 300


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"a": 1, "a": 2}', "a"),
        ('{"m": [{"c": 1}, {"c": 1, "c": 2}]}', "m[1].c"),
        ('{"x y": {"k": 0, "k": 0}}', '["x y"].k'),
    ],
)
def test_a_duplicate_key_is_named_with_its_path(text: str, path: str) -> None:
    """json keeps the last of two silently; here the place is named."""
    found = fault(text)
    assert (found.defect.code, found.defect.path) == ("json_duplicate_key", path)


def test_an_infinite_weight_is_a_wrong_weight() -> None:
    """1e999 becomes inf in json; at a weight it is reported as one."""
    assert fault('{"messages": [{"weight": 1e999}]}').defect.code == "weight_value"


@pytest.mark.parametrize(
    ("literal", "code"),
    [
        ("\\ud83d", "lone_surrogate"),
        ("\\uDE00 x", "lone_surrogate"),
        ("\\u0000", "control_char"),
        ("\\frac", "control_char"),
        ("\\u001b", "control_char"),
    ],
)
def test_escapes_that_hide_no_character(literal: str, code: str) -> None:
    """Lone surrogates and control characters come in as escapes and are found with their path."""
    text = f'{{"m": [{{"c": "a {literal} b"}}]}}'
    assert [(one.code, one.path) for one in escape_defects(text, parse(text))] == [(code, "m[0].c")]


@pytest.mark.parametrize("literal", ["\\ud83d\\ude00", "\\\\u0000", "\\n\\t\\r", "\\\\frac"])
def test_harmless_escapes_are_left_alone(literal: str) -> None:
    """Whole pairs, escaped backslashes and white space say nothing."""
    text = f'{{"c": "{literal}"}}'
    assert not list(escape_defects(text, parse(text)))


def test_a_byte_that_is_not_utf8_is_placed() -> None:
    """The offset in the file and the column are reported, and what the byte would be elsewhere."""
    with pytest.raises(BadLine) as caught:
        decode(b'{"a": "caf\xe9"}', 100)
    assert caught.value.defect.code == "encoding_not_utf8"
    assert "byte 110 " in caught.value.defect.detail and "'é'" in caught.value.defect.detail


@given(VALUES)
def test_what_json_writes_is_read_back(value: object) -> None:
    """Any value that strict JSON can hold survives, and nothing is called a fault."""
    text = json.dumps(value, allow_nan=False)
    assert parse(text) == value
    assert not is_too_deep(text)


@given(st.text() | st.text(alphabet="{}[]\",:\\ \t\r\n0123456789eE+-.truefalsn/#'“\0"))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text raises anything but BadLine, and what is taken is strict JSON."""
    try:
        value = parse(text)
    except BadLine as exc:
        assert exc.defect.code
        return
    assert value == json.loads(text)
    assert all(math.isfinite(leaf) for _, leaf in walk(value) if isinstance(leaf, float))


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(raw: bytes) -> None:
    """No bytes raise anything but BadLine."""
    try:
        parse(decode(raw))
    except BadLine as exc:
        assert len(exc.defect.detail) < 400
