"""Patterns of a guide.

They are matched in linear time, whatever they are and whatever is said: one that would take years
in ``re``, like ``(a+)+$``, takes microseconds. The price: no look-around, no back-references.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator, core_schema

from finetune_gateway.errors import SpecError, shown
from finetune_gateway.text.cleaning import encodable

Found = Callable[[str], bool]


@lru_cache(maxsize=256)
def pattern(written: str) -> Found:
    """Return a function that is True for texts in which a pattern matches. Raises SpecError for
    one that cannot be used."""
    try:
        schema = core_schema.str_schema(pattern=written, regex_engine="rust-regex")
        matches = SchemaValidator(schema).isinstance_python
    except SchemaError as exc:
        raise SpecError(
            f"the pattern {shown(written)} cannot be used: {_why(exc)}.",
            hint="Patterns are Rust's: no look-around, no back-references; (?i) for any case.",
        ) from None
    return lambda text: bool(matches(encodable(text)))


def _why(exc: SchemaError) -> str:
    lines = str(exc).strip().splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    shown = (errors or lines)[-1].strip()
    for prefix in ("error:", "SchemaError:"):
        shown = shown.removeprefix(prefix).strip()
    return shown.rstrip(".")
