"""What of the arguments of a call fits the parameters of its tool."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from support.rule_sets import rules_of

from finetune_gateway import Dataset
from finetune_gateway.data import json_schema
from finetune_gateway.findings import Finding
from finetune_gateway.validation.rows.arguments import mismatch
from finetune_gateway.validation.rows.schema import _kept, schema_errors
from finetune_gateway.validation.run import validate

Json = dict[str, Any]

WORD: Json = {"type": "string"}
# The kind of violation, the schema of a parameter, values that fit and that do not, and the words.
KINDS: list[tuple[str, Any, list[Any], list[Any], str]] = [
    ("pattern", {"pattern": "^[A-Z]{3}$"}, ["ABC", 5], ["abc", ""], "does not match the pattern"),
    ("oneOf", {"oneOf": [{"type": "integer"}, {"minimum": 5}]}, [1, 5.5], [5, 7], "more than one"),
    ("oneOf none", {"oneOf": [WORD, {"type": "null"}]}, ["a", None], [5, []], "none of its 2"),
    ("anyOf", {"anyOf": [WORD, {"type": "null"}]}, ["a", None], [5, {}], "none of its 2 forms"),
    ("not", {"not": WORD}, [5, None], ["a", ""], "what 'not' excludes"),
    ("uniqueItems", {"uniqueItems": True}, [[1, 2], "aa"], [[1, 1], [{}, {}]], "same item twice"),
    ("multipleOf", {"multipleOf": 0.01}, [19.99, 1, "a"], [0.005], "a multiple of 0.01"),
    ("minProperties", {"minProperties": 1}, [{"b": 1}, []], [{}], "at least 1 members"),
    ("maxProperties", {"maxProperties": 1}, [{"b": 1}, []], [{"b": 1, "c": 2}], "at most 1"),
    (
        "if/then/else",
        {"if": {"const": "x"}, "then": {"minLength": 2}, "else": {"type": "number"}},
        [5, 1.5],
        ["x", "y"],
        "must be",
    ),
    ("contains", {"contains": {"const": 1}}, [[2, 1], "a"], [[2], []], "'contains'"),
    ("minContains", {"contains": WORD, "minContains": 2}, [["a", "b"]], [["a"]], "'contains'"),
    ("maxContains", {"contains": WORD, "maxContains": 1}, [["a"]], [["a", "b"]], "'contains'"),
    (
        "patternProperties",
        {"patternProperties": {"^n_": {"type": "number"}}},
        [{"n_b": 1, "c": "d"}],
        [{"n_b": "1"}],
        "a.n_b must be of the type number",
    ),
    (
        "propertyNames",
        {"propertyNames": {"pattern": "^[a-z]+$"}},
        [{"b": 1}],
        [{"B": 1}],
        "a.B has a name that is not allowed",
    ),
    (
        "dependentRequired",
        {"dependentRequired": {"card": ["address"]}},
        [{}, {"card": 1, "address": 2}],
        [{"card": 1}],
        "a.address is missing",
    ),
    ("dependencies", {"dependencies": {"b": ["c"]}}, [{"c": 1}], [{"b": 1}], "a.c is missing"),
    (
        "dependentSchemas",
        {"dependentSchemas": {"b": {"required": ["c"]}}},
        [{"c": 1}],
        [{"b": 1}],
        "a.c is missing",
    ),
    ("$ref to an anchor", {"$ref": "#word"}, ["a"], [5], "must be of the type string"),
    ("$ref to an old anchor", {"$ref": "#old"}, ["a"], [5], "must be of the type string"),
    ("$ref with escapes", {"$ref": "#/$defs/a~1b%25~0%20c"}, ["a"], [5], "of the type string"),
    ("$ref to itself", {"$ref": "#/$defs/tree"}, [{"to": {}}], [{"to": {"to": 1}}], "a.to.to"),
    ("empty enum", {"enum": []}, [], [5, None], "its 'enum' is empty"),
    (
        "additionalProperties beside patternProperties",
        {"patternProperties": {"^n_": {}}, "additionalProperties": False},
        [{"n_b": 1}],
        [{"n_b": 1, "c": 1}],
        "a.c is not declared",
    ),
    ("additionalProperties alone", {"additionalProperties": False}, [{}], [{"b": 1}], "a.b is not"),
    ("additionalProperties", {"additionalProperties": WORD}, [{"b": "c"}], [{"b": 1}], "a.b must"),
    (
        "unevaluatedProperties",
        {"allOf": [{"properties": {"b": {}}}], "unevaluatedProperties": False},
        [{"b": 1}],
        [{"c": 1}],
        "a.c is not declared",
    ),
    ("enum", {"enum": ["x", "y", 1]}, ["x", 1.0], ["z", True, None], "must be one of 'x', 'y'"),
    ("const", {"const": {"b": [1]}}, [{"b": [1.0]}], [{"b": 1}, None], "must be one of"),
    ("wrong type", {"type": "integer"}, [5, 5.0], ["5", 5.5, None], "of the type integer, not "),
    ("types", {"type": ["string", "null"]}, ["a", None], [5], "the type null or string, not a nu"),
    ("false", False, [], [5, None], "a is not allowed"),
    ("bounds", {"minimum": 1, "exclusiveMaximum": 3}, [1, 2.9], [0, 3], "must be"),
    ("lengths", {"minLength": 1, "maxLength": 2}, ["a", "\U0001f600b"], ["", "abc"], "characters"),
    ("items", {"items": WORD, "maxItems": 2}, [["a"]], [[5], ["a"] * 3], "a"),
    ("items as a list", {"items": [WORD], "additionalItems": False}, [["a"]], [[5], ["a", 1]], "a"),
    ("a reference into it", {"$ref": "#/$defs/pair/items/0"}, ["a"], [5], "of the type string"),
    ("prefixItems", {"prefixItems": [WORD], "items": {"type": "null"}}, [["a"]], [[5]], "a[0] mus"),
    ("nullable", {"type": "string", "nullable": True, "enum": ["x"]}, ["x", None], [5, "y"], "a"),
    ("nullable forms", {"nullable": True, "oneOf": [WORD, {}]}, [None, 5], ["a"], "more than one"),
    ("nullable reference", {"nullable": True, "allOf": [{"$ref": "#word"}]}, [None, "a"], [5], "a"),
    ("look-ahead", {"pattern": "^(?=.*[0-9])(?!x)"}, ["a1"], ["a", "x1"], "does not match"),
]  # fmt: skip
BESIDE: Json = {
    "$defs": {
        "word": {"$anchor": "word", **WORD},
        "old": {"$id": "#old", **WORD},
        "a/b%~ c": WORD,
        "tree": {"type": "object", "properties": {"to": {"$ref": "#/$defs/tree"}}},
        "pair": {"items": [WORD]},
    }
}


def of(schema: Any) -> Json:
    """Parameters with one property."""
    return {"type": "object", "properties": {"a": schema}, **BESIDE}


def call(schema: Any, arguments: Any) -> Json:
    """A row whose assistant calls a tool with these parameters."""
    function = {"name": "f", "arguments": json.dumps(arguments)}
    asked = {"role": "user", "content": "Hi"}
    called = {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    return {"messages": [asked, called], "tools": [tool]}


def findings(folder: Path, *rows: Json, backend: str = "openai") -> list[Finding]:
    """What is found about the tools of rows."""
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    report = validate(Dataset.open(path), backends=rules_of(backend))
    return [one for one in report.findings if one.code.startswith("tool")]


@pytest.mark.parametrize(("kind", "schema", "good", "bad", "words"), KINDS, ids=lambda _: "")
def test_each_kind_of_violation_is_seen_and_nothing_else(
    kind: str, schema: Any, good: list[Any], bad: list[Any], words: str
) -> None:
    """The 18 kinds that the hand-written check let pass, and their siblings; in words."""
    assert schema_errors(of(schema)) == (), kind
    for value in good:
        assert mismatch({"a": value}, of(schema)) == "", (kind, value)
    for value in bad:
        assert words in mismatch({"a": value}, of(schema)), (kind, value)
    assert mismatch({}, of(schema)) == ""


def test_a_mismatch_names_the_call_and_no_value_of_the_row(tmp_path: Path) -> None:
    """Hosted and local: one warning with the path; values stay where they are."""
    rows = [call(of(schema), {"a": bad[0]}) for _, schema, _, bad, _ in KINDS]
    secret = [call(of({"pattern": "^x", "maxLength": 3}), {"a": "s3cret-value"})]
    for backend in ("openai", "local"):
        found = findings(tmp_path, *rows, *secret, backend=backend)
        assert {(one.code, one.severity, one.path) for one in found} == {
            ("tool_args_schema", "warning", "messages[1].tool_calls[0].function.arguments")
        }
        assert sum(one.count for one in found) == len(rows) + 1
        assert not any("s3cret" in one.message for one in found)


def test_arguments_of_the_answers_of_a_pair_are_judged_too(tmp_path: Path) -> None:
    """In the input and in both answers of a preference row."""
    row = call(of({"multipleOf": 2}), {"a": 3})
    asked, called = row["messages"]
    pair = {
        "input": {"messages": [asked], "tools": row["tools"]},
        "preferred_output": [called],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    }
    assert [one.code for one in findings(tmp_path, pair)] == ["tool_args_schema"]


def test_what_is_outside_a_schema_is_never_fetched(tmp_path: Path) -> None:
    """Over a socket or from a file: nobody asks, and a warning says that calls are not judged."""
    outside = tmp_path / "outside.json"
    outside.write_text('{"type": "integer"}')
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        web = f"http://127.0.0.1:{server.getsockname()[1]}"
        asks: list[Json] = [
            of({"$ref": f"{web}/a.json"}),
            of({"$ref": outside.as_uri()}),
            of({"$ref": "outside.json"}),
            of({"$dynamicRef": f"{web}/a.json#b"}),
            {**of({"$ref": "a.json"}), "$id": f"{web}/b.json"},
            {**of({"$ref": "outside.json"}), "$id": (tmp_path / "b.json").as_uri()},
        ]
        declared = [{**of(WORD), "$schema": uri} for uri in (f"{web}/meta", outside.as_uri(), "b")]
        for schema in asks:
            (only,) = findings(tmp_path, call(schema, {"a": "text"}))
            assert (only.code, only.severity) == ("tool_schema_unread", "warning"), schema
            assert "not fetched" in only.message
        for schema in declared:  # which is read as draft 2020-12
            (only,) = findings(tmp_path, call(schema, {"a": 5}))
            assert only.code == "tool_args_schema"
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    ("schema", "code", "words"),
    [
        ({"pattern": "[^]\\p{L}(?<name>a)"}, "tool_schema_unread", "cannot be used here"),
        ({"pattern": "[\\w-.]+"}, "tool_schema_unread", "cannot be used here"),
        ({"pattern": "(a{900}){900}"}, "tool_schema_unread", "too large"),
        ({"patternProperties": {"a(": {}}}, "tool_schema", "is not a regular expression"),
        ({"pattern": "(" * 100_000}, "tool_schema", "is not a regular expression"),
        ({"$dynamicRef": "#nowhere"}, "tool_schema", "has no target"),
        ({"$id": "not a uri %%%"}, "tool_schema_unread", "cannot be used"),
        ({"$anchor": "0 bad"}, "tool_schema_unread", "cannot be used"),
        ({"const": "\ud800", "description": "\udfff"}, "tool_schema_unread", "cannot be used"),
        ({"enum": [10**400, -(10**400), 1e308]}, "tool_args_schema", "must be one of"),
        ({"minLength": 2**70}, "tool_args_schema", "at least"),
        ({"properties": {f"p{n}": {} for n in range(10_001)}}, "tool_schema_unread", "10,000"),
    ],
)
def test_what_cannot_be_compiled_is_a_finding(
    tmp_path: Path, schema: Json, code: str, words: str
) -> None:
    """Never a crash; what else the schema asks for is still judged where a pattern is left out."""
    (only,) = findings(tmp_path, call(of(schema), {"a": "b"}))
    assert only.code == code and words in only.message


def test_beside_a_pattern_that_cannot_be_used_all_else_is_judged() -> None:
    """A name may match it: nothing is called undeclared."""
    beside: Json = {"patternProperties": {"[\\w-.]": {}}, "additionalProperties": False}
    schema = of({**beside, "pattern": "[\\w-.]", "maxLength": 1, "maxProperties": 1})
    assert mismatch({"a": "b"}, schema) == mismatch({"a": {"b": 1}}, schema) == ""
    assert "at most 1 characters" in mismatch({"a": "bc"}, schema)
    assert "at most 1 members" in mismatch({"a": {"b": 1, "c": 2}}, schema)


def test_a_schema_that_takes_years_does_not_stop_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time doubles with each level: it is ended, said once for each row, and given up; a tree that
    refers to itself is judged."""
    monkeypatch.setattr(json_schema, "SECONDS", 0.05)
    monkeypatch.setattr(json_schema, "MOST_ENDED", 2)
    inside = {"b": {"$ref": "#/$defs/node"}}
    either = [{"properties": {**inside, key: {}}, "required": ["b", key]} for key in "xy"]
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/node"}},
        "$defs": {"node": {"anyOf": [*either, {"type": "null"}]}},
    }
    deep: Any = None
    for _ in range(60):
        deep = {"b": deep}
    rows = [call(schema, {"a": deep})] * 5 + [call(of({"$ref": "#/$defs/tree"}), {"a": {"to": 1}})]
    found = findings(tmp_path, *rows)
    assert {one.code: one.count for one in found} == {
        "tool_schema_unread": 5,
        "tool_args_schema": 1,
    }
    backtracking = {"pattern": r"^(?:(a|aa)+)+(?=c)\1$"}
    assert mismatch({"a": "a" * 5_000}, of(backtracking)) == ""


def test_the_schemas_kept_are_bounded() -> None:
    """200 schemas of 100 parameters each: the last of them are kept, 5,000 parts in all."""
    for number in range(200):
        schema: Json = {"properties": {f"p{number}-{at}": {} for at in range(100)}}
        assert schema_errors({"type": "object", **schema}) == ()
    assert sum(one.size for one in _kept.schemas.values()) == _kept.size <= 5_000
