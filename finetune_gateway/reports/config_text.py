"""Settings of the home folder, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_gateway.reports.output import format_table
from finetune_gateway.settings.config import Value


def setting_document(value: Value) -> dict[str, Any]:
    """Return a setting as JSON."""
    return {"key": value.key.name, "value": value.text, "from": value.origin}


def settings_text(values: Sequence[Value]) -> str:
    """Return a table of settings and where each comes from."""
    rows = [(value.key.name, value.text or "-", _origin(value)) for value in values]
    return format_table(("KEY", "VALUE", "FROM"), rows, right="VALUE")


def _origin(value: Value) -> str:
    if value.origin == "environment":
        return f"environment ({value.key.variable})"
    unset = value.origin == "default" and value.value is None
    return f"default: {value.key.unset}" if unset else value.origin
