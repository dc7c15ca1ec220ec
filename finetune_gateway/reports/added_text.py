"""Models of hosts that were added by name: one that was just added, and all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.reports.output import format_table, wrap_text


def added_text(handle: ModelHandle) -> str:
    """Return what is known of a model that was just added."""
    state = "is ready: it has answered" if handle.ready else "is added, and not ready"
    prompt = handle.system_prompt
    facts = [
        ("base", handle.base_model),
        ("host", str(handle.base_url)),
        ("key", str(handle.api_key_env)),
        ("stops on", handle.retires_on or "not known"),
        ("system prompt", wrap_text(prompt, " " * 17).strip() if prompt else _no_prompt(handle)),
    ]
    return "\n".join([f"{handle.model} {state}", *(f"  {name:<15}{text}" for name, text in facts)])


def _no_prompt(handle: ModelHandle) -> str:
    if handle.dataset_sha256:
        return "none that all rows of its training file share"
    return "not known: its training file was not fetched (ftg migrate fetch)"


def added_rows_text(handles: Sequence[ModelHandle]) -> str:
    """Return a table of the models that were added."""
    rows = [
        (one.model, one.base_model, "yes" if one.ready else "no", one.retires_on or "-")
        for one in handles
    ]
    table = format_table(("ADDED MODEL", "BASE", "HAS ANSWERED", "STOPS ON"), rows)
    return f"{table}\nChat with one: ftg chat MODEL"


def added_document(handle: ModelHandle) -> dict[str, Any]:
    """Return a model that was added as JSON."""
    return {**handle.model_dump(mode="json"), "ready": handle.ready, "added": True}
