"""The texts of what a plug-in returns and raises, as they are stored and shown: without the keys
that it was given or may have read by itself, and without what steers a terminal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Set
from dataclasses import replace
from enum import Enum
from typing import Any

from finetune_gateway.backend.capabilities import Capabilities
from finetune_gateway.backend.health import Health
from finetune_gateway.backend.rebuilt import Wrong, rebuilt
from finetune_gateway.backend.secret_values import of_environment, texts
from finetune_gateway.errors import GatewayError
from finetune_gateway.events import Result, Snapshot
from finetune_gateway.model import Model
from finetune_gateway.text.cleaning import encodable, visible
from finetune_gateway.text.redaction import holds, redact, without

# Calls whose answer is kept as it is, to find a job or a file again: with a key in it, it is none.
KEPT_WHOLE = frozenset(
    ("place", "account", "start", "find", "upload", "find_upload", "find_uploads", "deploy")
)
JSON = frozenset({"data", "metrics"})  # fields that are printed as JSON, which escapes by itself


def holds_key(name: str, answer: Any, keys: Set[str]) -> bool:
    """Return True for the answer of such a call with a key in it."""
    if name not in KEPT_WHOLE:
        return False
    whole = "\n".join(text for _, text in texts("", answer)).encode(errors="replace")
    return any(holds(whole, key) for key in keys | of_environment())


def writable(answer: Any) -> Any:
    """Return a checked answer with texts that UTF-8 can hold: a host cuts its log in the middle of
    a character, and half of one would break each poll."""
    if isinstance(answer, dict) and any(isinstance(one, Snapshot) for one in answer.values()):
        return {job: writable(one) for job, one in answer.items()}
    if not isinstance(answer, Snapshot | Result | Health):
        return answer
    return changed(answer, encodable)


def cleaned(name: str, answer: Any, keys: Set[str]) -> Any:
    """Return the checked answer of a call with texts that can be stored and shown."""
    if name == "display_name":
        return text_of(answer, keys)
    if isinstance(answer, dict) and any(isinstance(one, Snapshot) for one in answer.values()):
        return {job: cleaned(name, one, keys) for job, one in answer.items()}
    if isinstance(answer, Snapshot | Result | Health):
        whole = answer.model_dump_json().encode()
        inside = [key for key in keys | of_environment() if holds(whole, key)]
        return changed(answer, lambda text: _without(text, inside), shown=True)
    if isinstance(answer, Capabilities):
        notes, reason = answer.notes, answer.unknown_model_reason
        return replace(
            answer,
            notes=tuple(text_of(note, keys) for note in notes),
            unknown_model_reason=text_of(reason, keys),
        )
    return answer


def text_of(text: str, keys: Set[str] = frozenset()) -> str:
    """Return a text of a plug-in's, such as the name that it goes by."""
    return visible(_without(text, keys | of_environment()))


# Attributes of our errors that the rest reads without a look, and what each is.
ATTRIBUTES: dict[str, Any] = {
    **dict.fromkeys(("backend", "option", "job_id", "variable", "url", "scope"), str),
    **dict.fromkeys(("code", "param", "request_id"), str | None),
    **dict.fromkeys(("maybe_applied", "retryable", "not_there"), bool),
    "status_code": int | None,
    "retry_after": float | None,
}


def clean_error(exc: GatewayError, keys: Set[str], *, in_doubt: bool = False) -> GatewayError:
    """Return an error of a plug-in with plain texts and numbers, also without what looks like a
    key: errors are stored. ``in_doubt``: where it does not say so, it may have been applied."""
    message, hint = (_words(getattr(exc, name, "")) for name in ("message", "hint"))
    exc.message = redact(text_of(message or f"It raised {type(exc).__name__}.", keys))
    exc.hint = redact(text_of(hint, keys))
    exc.args = (exc.message, *exc.args[1:])
    for name in ATTRIBUTES.keys() & vars(exc).keys():
        setattr(exc, name, _attribute(name, getattr(exc, name), in_doubt))
    return exc


def _words(value: Any) -> str:
    """Return a text for what an error says: a host's own JSON of it, too."""
    return str.__str__(value if issubclass(type(value), str) else str(value))


def _attribute(name: str, value: Any, in_doubt: bool) -> Any:
    """Return an attribute of an error; for what it cannot be, what says nothing."""
    try:
        found = rebuilt(ATTRIBUTES[name], value)
    except Wrong:
        nothing: dict[Any, Any] = {bool: in_doubt and name == "maybe_applied", str: ""}
        return nothing.get(ATTRIBUTES[name])
    return None if name == "retry_after" and found is not None and found < 0 else found


def changed(value: Any, change: Callable[[str], str], *, shown: bool = False) -> Any:
    """Return a value with all its texts changed; those that are ``shown`` can be shown."""
    if isinstance(value, str) and not isinstance(value, Enum):
        return visible(change(value)) if shown else change(value)
    if isinstance(value, Model):
        fields = {**value.__dict__, **(value.model_extra or {})}
        return value.model_copy(
            update={
                name: changed(one, change, shown=shown and name not in JSON)
                for name, one in fields.items()
            }
        )
    if isinstance(value, dict):
        return {change(name): changed(one, change, shown=shown) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [changed(one, change, shown=shown) for one in value]
    return value


def _without(text: str, keys: Collection[str]) -> str:
    for key in keys:
        text = without(text, key)
    return text
