"""The parameters of tools, with jsonschema as the judge, and what of the arguments fits them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.rule_sets import rules_of

from finetune_gateway import Dataset
from finetune_gateway.findings import Finding
from finetune_gateway.validation.rows.schema import _walk, schema_errors
from finetune_gateway.validation.run import validate

Json = dict[str, Any]

GOOD: Json = {
    "type": "object",
    "properties": {
        "s": {"type": "string", "minLength": 1, "pattern": "^[(]\\((a)?$", "format": "date"},
        "n": {"type": ["number", "null"], "minimum": 0, "multipleOf": 0.5},
        "a": {"type": "array", "items": {"$ref": "#/$defs/one"}, "maxItems": 3.0},
        "t": {"anyOf": [{"type": "string"}, {"const": 5}], "default": [], "examples": [1]},
        "e": {"enum": [], "not": {"type": "null"}, "if": True, "then": {}, "else": False},
        "d": {"type": "object", "patternProperties": {"^x": {}}, "propertyNames": {}},
    },
    "required": ["s"],
    "dependentRequired": {"s": ["n"]},
    "dependentSchemas": {"s": {"title": "a", "description": "b", "readOnly": True}},
    "additionalProperties": False,
    "$defs": {"one": {"type": "integer", "$anchor": "one"}, "two": {"$ref": "#one"}},
}
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    "",
    "(",
    "x",
    [],
    [1],
    ["x", "x"],
    [None],
    [[1], [1]],
    {},
    {"x": 1},
)
# What only draft-07 takes, and what this package looks at beyond the metaschema.
BEYOND = {"items", "$ref", "$id", "$anchor", "$dynamicRef"}


def of(**properties: Any) -> Json:
    """Parameters with these properties."""
    return {"type": "object", "properties": properties}


def found(path: Path, parameters: Any, backend: str = "openai") -> list[Finding]:
    """The errors about tools in a file whose sixth row offers these parameters."""
    row: Json = {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    rows = [*[row] * 5, {**row, "tools": [tool]}, *[row] * 6]
    path.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    report = validate(Dataset.open(path), backends=rules_of(backend))
    return [one for one in report.errors if one.code.startswith("tool")]


def places(schema: Any) -> list[Json]:
    """Every object in a schema that is a schema or a map of them."""
    inner = list(schema.values()) if isinstance(schema, dict) else schema
    own = [schema] if isinstance(schema, dict) else []
    nested = [one for one in inner if isinstance(one, dict | list)]
    return own + [place for one in nested for place in places(one)]


def is_schema(schema: Json) -> bool:
    """What jsonschema says, patterns left out: it reads them as Python does."""
    checker = jsonschema.FormatChecker(formats=())
    try:
        jsonschema.Draft202012Validator.check_schema(schema, format_checker=checker)
    except jsonschema.SchemaError:
        return False
    return True


def test_a_schema_with_every_keyword_is_good(tmp_path: Path) -> None:
    """No keyword of the draft is refused where it is used well."""
    assert is_schema(GOOD)
    assert schema_errors(GOOD) == ()
    assert found(tmp_path / "a.jsonl", GOOD) == []


def test_every_wrong_value_of_every_keyword_is_judged_as_jsonschema_does() -> None:
    """1,000 changed schemas: refused where the metaschema refuses them, and only there."""
    seen = wrong = 0
    for at, place in enumerate(places(GOOD)):
        for key in [key for key in place if key not in BEYOND]:
            for odd in ODD:
                changed = json.loads(json.dumps(GOOD))
                places(changed)[at][key] = odd
                told = [one for one in schema_errors(changed) if one.code == "tool_schema"]
                told = [one for one in told if "has no target" not in one.detail]
                told = [one for one in told if "regular expression" not in one.detail]
                assert bool(told) != is_schema(changed), (key, odd, told)
                seen, wrong = seen + 1, wrong + bool(told)
    assert seen > 500 and wrong > 200


@pytest.mark.parametrize(
    "parameters",
    [
        of(x={"type": "array", "items": [{}, {}]}),
        of(x={"type": "array", "prefixItems": [{}, {}]}),
        {**of(x={"$ref": "#/definitions/a"}), "definitions": {"a": {}}},
        {**of(x={}), "dependencies": {"x": ["y"], "y": {"title": "t"}}},
        of(x={"$ref": "#"}, **{"a b": {"$ref": "#/properties/a%20b"}}),
        of(x={"pattern": "[^]\\p{L}(?<name>a)"}),
        of(**{"type": {"type": "string"}, "required": {}, "$ref": {}}),
        {},
    ],
)
def test_what_older_drafts_and_other_dialects_take_is_no_fault(
    tmp_path: Path, parameters: Json
) -> None:
    """Draft-07's forms, JavaScript's patterns, and properties that are called like keywords."""
    assert found(tmp_path / "a.jsonl", parameters) == []


@pytest.mark.parametrize(
    ("parameters", "path", "said"),
    [
        (None, "", "null, not an object"),
        ({"type": "object", "properties": None}, ".properties", "must be an object"),
        (of(x={"$ref": "#/$defs/x"}), ".properties.x.$ref", "has no target"),
        (of(x={"minimum": "0"}), ".properties.x.minimum", "a number, not '0'"),
        (of(x={"pattern": "(a"}), ".properties.x.pattern", "regular"),
        (of(x={"oneOf": ["a"]}), ".properties.x.oneOf[0]", "must be an object, not a string"),
        ({"type": "object", "required": ["x", "x"]}, ".required", "twice"),
        ({"type": "object", "required": [["x"], ["x"]]}, ".required", "names, not a list"),
        ({"type": "object", "required": ["x", {}, {}]}, ".required", "names, not an object"),
        ({"type": "object", "$defs": {"a": {"type": "strng"}}}, ".$defs.a.type", "strng"),
    ],
)
def test_a_bad_schema_is_an_error_everywhere_with_its_path(
    tmp_path: Path, parameters: Any, path: str, said: str
) -> None:
    """Hosted and local: the row, the place inside the schema, and what is wrong there."""
    for backend in ("openai", "local"):
        (only,) = found(tmp_path / "a.jsonl", parameters, backend)
        assert (only.code, only.line) == ("tool_schema", 6)
        assert only.path == f"tools[0].function.parameters{path}"
        assert said in only.message


@pytest.mark.parametrize("key", ["anyOf", "oneOf", "allOf", "not", "enum"])
def test_a_combination_at_the_top_is_refused_by_hosts_alone(tmp_path: Path, key: str) -> None:
    """OpenAI takes none beside type: object; a template shows it as any other."""
    value: Any = {"required": ["a"]} if key == "not" else [{"required": ["a"]}]
    parameters = {"type": "object", "properties": {"a": {}}, key: value}
    assert [one.code for one in found(tmp_path / "a.jsonl", parameters)] == ["tool_schema_top"]
    assert found(tmp_path / "a.jsonl", parameters, "local") == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {f"p{n}": {"type": "string"} for n in range(100_000)}},
        {"anyOf": [{"$ref": f"#/$defs/{n}"} for n in range(100_000)]},
        {"required": [f"p{n}" for n in range(100_000)] * 2},
        {"properties": {"p" * 100_000: {"properties": {f"{n}" * 90: {} for n in range(9_000)}}}},
        {"properties": {"x": {"pattern": "(" * 1_000_000}}},
    ],
    ids=["wide", "references", "names", "long names", "pattern"],
)
def test_a_huge_schema_is_not_walked_to_its_end(parameters: Json) -> None:
    """At most 10,000 inner schemas are looked at, and 20 errors reported."""
    assert len(schema_errors(parameters)) <= 20
    assert len(list(_walk(parameters))) <= 10_001


def test_a_schema_of_any_depth_ends() -> None:
    """No recursion: 1,000 levels are walked as 10 are, and 5,000 are no schema."""
    for levels in (1_000, 5_000):
        deep: Json = {"type": "strng"}
        for _ in range(levels):
            deep = {"properties": {"x": deep}}
        assert [one.code for one in schema_errors(deep)] == ["tool_schema"]


TEXT: Json = {"type": "string"}
SHIP: Json = {"properties": {"id": TEXT}, "required": ["id"]}
# Each names in ``required`` only what is declared: beside it, around it, or behind a reference.
DECLARED: dict[str, Json] = {
    "branches": {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    "one_of": {"oneOf": [{"properties": {"c": TEXT}, "required": ["a", "c"]}, {"required": ["b"]}]},
    "all_of": {"allOf": [{"properties": {"c": TEXT}}, {"properties": {}, "required": ["a", "c"]}]},
    "cases": {
        "if": {"properties": {"a": {"const": "x"}}, "required": ["a"]},
        "then": {"properties": {"b": {"minLength": 1}}, "required": ["a", "b"]},
        "else": {"properties": {}, "required": ["b"]},
    },
    "deeper": {"allOf": [{"anyOf": [{"properties": {}, "required": ["a"]}, {"required": ["b"]}]}]},
    "not": {"not": {"properties": {"z": TEXT}, "required": ["z", "y"]}},
    "dependent": {"dependentSchemas": {"a": {"properties": {"c": TEXT}, "required": ["b", "c"]}}},
    "draft_07": {"dependencies": {"a": {"properties": {}, "required": ["b"]}, "b": ["a"]}},
    "base": {
        "allOf": [{"$ref": "#/$defs/base"}, {"required": ["a", "id"]}],
        "$defs": {"base": SHIP},
    },
    "mixed_in": {
        "allOf": [{"$ref": "#/definitions/mixed"}],
        "definitions": {"mixed": {"properties": {"c": TEXT}, "required": ["a", "c"]}},
    },
    "anchor": {"$ref": "#base", "required": ["id"], "$defs": {"x": SHIP | {"$anchor": "base"}}},
    "escaped": {"$ref": "#/$defs/a~1b%20c", "required": ["id"], "$defs": {"a/b c": SHIP}},
    "itself": {"properties": {"a": TEXT, "next": {"$ref": "#"}}, "required": ["a"]},
    "outside": {"$ref": "https://example.com/x.json", "required": ["id"]},
    "patterns": {"patternProperties": {"^x_": TEXT}, "required": ["x_1"]},
    "javascript": {"patternProperties": {"^(?<name>x)": TEXT}, "required": ["x_1"]},
    "any_name": {"additionalProperties": TEXT, "required": ["z"]},
    "no_names": {"properties": {"a": {"type": "object", "required": ["z"]}}},
    "two_halves": {
        "allOf": [
            {"properties": {"a": {"properties": {"x": TEXT}}}},
            {"properties": {"a": {"properties": {"y": TEXT}, "required": ["x", "y"]}}},
        ]
    },
}
# A name that nobody declares, and where.
UNDECLARED: tuple[tuple[Json, tuple[str | int, ...]], ...] = (
    ({"required": ["a", "z"]}, ("required",)),
    ({"required": ["a", "z"], "additionalProperties": False}, ("required",)),
    ({"required": ["a", "z"], "additionalProperties": True}, ("required",)),
    ({"required": ["a", "z"], "additionalProperties": {}}, ("required",)),
    ({"anyOf": [{"required": ["a"]}, {"required": ["z"]}]}, ("anyOf", 1, "required")),
    ({"then": {"required": ["z"]}, "if": {}}, ("then", "required")),
    (
        {"properties": {"a": {"properties": {"b": TEXT}, "required": ["z"]}}},
        ("properties", "a", "required"),
    ),
    (
        {"properties": {"a": {"items": {"properties": {"b": TEXT}, "required": ["a"]}}}},
        ("properties", "a", "items", "required"),
    ),
    (
        {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": SHIP | {"required": ["a"]}}},
        ("$defs", "x", "required"),
    ),
)


@pytest.mark.parametrize("name", DECLARED)
def test_what_another_branch_declares_is_declared(name: str) -> None:
    """No warning, in whatever combination the name and its property stand."""
    parameters = of(a=TEXT, b=TEXT) | DECLARED[name]
    assert [one for one in schema_errors(parameters) if one.code == "tool_schema_required"] == []


@pytest.mark.parametrize(("more", "path"), UNDECLARED)
def test_what_no_branch_declares_is_said_once(more: Json, path: tuple[str | int, ...]) -> None:
    """With the place of the list that names it."""
    errors = schema_errors(of(a=TEXT, b=TEXT) | more)
    assert [one.path for one in errors if one.code == "tool_schema_required"] == [path]


def test_schemas_that_refer_to_each_other_end() -> None:
    """References in circles and thousands of branches are looked at once."""
    names = [f"d{n}" for n in range(300)]
    parts = {one: {"allOf": [{"$ref": f"#/$defs/{to}"} for to in names]} for one in names}
    schema = of(a=TEXT, **{one: {"$ref": f"#/$defs/{one}"} for one in names})
    errors = schema_errors(schema | {"$defs": parts, "required": ["z"]})
    assert [one.path for one in errors if one.code == "tool_schema_required"] == [("required",)]
