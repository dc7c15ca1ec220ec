"""Match the arguments of a tool call with the tool's JSON Schema, by jsonschema-rs; our words."""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.json_schema import Mismatch
from finetune_gateway.text.quoting import quoted
from finetune_gateway.validation.rows.schema import matcher, place

Json = dict[str, Any]

_SHOWN = 5  # values of an enum that are named
_BOUNDS = {
    "Minimum": "at least {}",
    "Maximum": "at most {}",
    "ExclusiveMinimum": "more than {}",
    "ExclusiveMaximum": "less than {}",
    "MinLength": "at least {} characters",
    "MaxLength": "at most {} characters",
    "MinItems": "at least {} items",
    "MaxItems": "at most {} items",
    "AdditionalItems": "at most {} items",
    "MinProperties": "at least {} members",
    "MaxProperties": "at most {} members",
}
_OTHERS = {
    "FalseSchema": "is not allowed",
    "Not": "is what 'not' excludes",
    "UniqueItems": "has the same item twice",
    "Contains": "has too few or too many of the items that 'contains' asks for",
    "UnevaluatedItems": "has an item that is not declared",
    "Depth": "is nested too deep",
}


def mismatch(value: Any, schema: Any) -> str:
    """Return in words what of the arguments does not fit the parameters of their tool; "" if
    nothing does for sure. Raises TooCostly."""
    if not isinstance(schema, dict) or not schema:
        return ""
    match = matcher(schema)
    found = match(value) if match else None
    return _in_words(found) if found else ""


def _in_words(error: Mismatch) -> str:
    """Return a mismatch without values of the row."""
    kind, values = error.kind, error.values
    here = place("", error.path) or "the value"
    if kind in ("Required", "PropertyNames"):
        what = "is missing" if kind == "Required" else "has a name that is not allowed"
        return f"{place('', (*error.path, values['property']))} {what}"
    if kind in ("AdditionalProperties", "UnevaluatedProperties"):
        return f"{place('', (*error.path, values['unexpected'][0]))} is not declared"
    if kind in _BOUNDS:
        return f"{here} must be {_BOUNDS[kind].format(_bound(values['limit']))}"
    if kind == "Type":
        return f"{here} must be of the type {' or '.join(values['types'])}, not {error.given}"
    if kind in ("Enum", "Constant"):
        return f"{here} {_allowed(values)}"
    if kind in ("AnyOf", "OneOfNotValid"):
        return f"{here} fits none of its {values['forms']} forms"
    if kind == "OneOfMultipleValid":
        return f"{here} fits more than one of its {values['forms']} forms"
    if kind == "Pattern":
        return f"{here} does not match the pattern {quoted(values['pattern'])}"
    if kind == "MultipleOf":
        return f"{here} must be a multiple of {_bound(values['multiple_of'])}"
    return f"{here} {_OTHERS.get(kind, 'does not fit')}"


def _bound(limit: Any) -> str:
    return quoted(limit).strip("'")


def _allowed(values: Json) -> str:
    options = values["options"] if "options" in values else [values["expected_value"]]
    if not options:
        return "fits nothing: its 'enum' is empty"
    more = ", ..." if len(options) > _SHOWN else ""
    return f"must be one of {', '.join(quoted(one) for one in options[:_SHOWN])}{more}"
