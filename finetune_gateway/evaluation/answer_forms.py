"""Answers in the forms in which they are compared: text, JSON, calls, the final number."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from finetune_gateway.data.row_access import as_list, calls_of, loads_strict

Json = dict[str, Any]

NO_JSON = object()  # what ``json_of`` returns for a text that is none
DEEPEST = 100  # levels of JSON that are compared
_FENCE = re.compile(r"\A```[\w+-]*[ \t]*\n(.*?)\n?```\Z", re.DOTALL)
_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-"})
_WRAPS = ("**", '"', "'", "`", "*", "_")
_ENDS = ".!?;:,…。！？；：，"
# Thousands by commas, in groups of three, or no commas at all.
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
MARK = "####"  # before the final number, as GSM8K writes it


def text_of(message: Json) -> str:
    """Return the text of a message, that of its parts joined; "" for calls alone."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = (part.get("text") for part in as_list(content) if isinstance(part, dict))
    return "".join(part for part in parts if isinstance(part, str))


def normalized(text: str) -> str:
    """Return a text as ``normalized_match`` compares it.

    Unicode NFKC, case folded, plain quotes and dashes, each run of white space one blank; without a
    Markdown fence around all of it, quotes or stars around all of it, and marks at its end. What is
    inside, such as operators, signs and points of numbers, counts.
    """
    text = unfenced(text)
    text = unicodedata.normalize("NFKC", text).casefold().translate(_PLAIN)
    text = " ".join(text.split())
    while (bare := _bare(text)) != text:
        text = bare
    return text


def _bare(text: str) -> str:
    text = text.rstrip(_ENDS).strip()
    for wrap in _WRAPS:
        inner = text.removeprefix(wrap).removesuffix(wrap)
        if len(text) - len(inner) == 2 * len(wrap) and wrap not in inner:
            return inner.strip()
    return text


def unfenced(text: str) -> str:
    """Return what is inside of a Markdown fence that is all of the text, else the text."""
    found = _FENCE.match(text.strip())
    return found[1] if found else text.strip()


def final_number(text: str) -> Decimal | None:
    """Return the first number after the last ``####``; without that mark the last number of the
    text, and None if it has none."""
    _, mark, tail = text.rpartition(MARK)
    found = _NUMBER.search(tail) if mark else None
    if found is None:
        *_, found = [None, *_NUMBER.finditer(text)]
    return None if found is None else Decimal(found[0].replace(",", ""))


# -- JSON ----------------------------------------------------------------------------------------


def json_of(text: str) -> Any:
    """Return the value of a text that is JSON by RFC 8259, else ``NO_JSON``."""
    try:
        return loads_strict(text.strip())
    except (ValueError, RecursionError):
        return NO_JSON


def is_structure(value: Any) -> bool:
    """Return True for an object or a list; a bare number or word is a text to most readers."""
    return isinstance(value, dict | list)


def canonical(value: Any) -> str:
    """Return a text that is the same for equal JSON values alone: keys sorted, 1.0 as 1."""
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any, depth: int = 0) -> Any:
    if depth > DEEPEST:
        return "..."
    if isinstance(value, dict):
        return {key: _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, depth + 1) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def calls(message: Json) -> Counter[tuple[str, str]]:
    """Return the calls of a message, each as its name and its arguments in canonical form, and how
    often it is made. Their order does not count; arguments that are no JSON stay as they are."""
    return Counter(
        (str(one.get("name")), _arguments(one.get("arguments"))) for one in calls_of(message)
    )


def _arguments(written: Any) -> str:
    value = json_of(written or "{}") if isinstance(written, str) else written
    return str(written) if value is NO_JSON else canonical({} if value is None else value)


# -- shapes --------------------------------------------------------------------------------------


def shape(values: Sequence[Any], *, labels: bool = False) -> Json:
    """Return a JSON Schema that all these values fit: their types, and of objects the keys that
    each of them has, with no others. Deeper than three levels only the type is said.

    ``labels``: also which texts there are, where a few short ones come again and again.
    """
    return _shape(values, 3, labels)


def _shape(values: Sequence[Any], depth: int, labels: bool) -> Json:
    types = _types(values)
    schema: Json = {"type": types[0] if len(types) == 1 else types}
    if labels and (known := _labels(values)):
        schema["enum"] = known
    if depth == 0:
        return schema
    objects = [one for one in values if isinstance(one, dict)]
    if objects:
        schema |= _object_shape(objects, depth, labels)
    items = [item for one in values if isinstance(one, list) for item in one]
    if items:
        schema["items"] = _shape(items, depth - 1, labels)
    return schema


def _labels(values: Sequence[Any]) -> list[str]:
    """Return the texts that these values are, if they are a few short ones; else none."""
    texts = {one for one in values if isinstance(one, str) and len(one.split()) <= LABEL_WORDS}
    often = len(values) >= OFTEN * len(texts)
    if not often or len(texts) > MOST_LABELS or not all(isinstance(one, str) for one in values):
        return []
    return sorted(texts) if all(one in texts for one in values) else []


def _object_shape(objects: Sequence[Json], depth: int, labels: bool) -> Json:
    keys = list(dict.fromkeys(key for one in objects for key in one))
    required = [key for key in keys if all(key in one for one in objects)]
    inner = {
        key: _shape([one[key] for one in objects if key in one], depth - 1, labels) for key in keys
    }
    if len(keys) > MOST_KEYS:  # names are data here, not keys
        return {}
    return {"properties": inner, "required": required, "additionalProperties": False}


MOST_KEYS = 50
LABEL_WORDS, MOST_LABELS, OFTEN = 3, 20, 8  # of one; texts; times each on average
_TYPE_NAMES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)


def _types(values: Iterable[Any]) -> list[str]:
    named = (
        next((name for kind, name in _TYPE_NAMES if isinstance(value, kind)), "null")
        for value in values
    )
    types = list(dict.fromkeys(named))
    return [one for one in types if not (one == "integer" and "number" in types)]
