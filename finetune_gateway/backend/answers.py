"""What each call of a backend may return: a check for each, which gives the answer as we use it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_gateway.backend.capabilities import REFUSABLE, Capabilities
from finetune_gateway.backend.health import Health
from finetune_gateway.backend.rebuilt import Wrong, built, fields_of, is_number, rebuilt
from finetune_gateway.backend.snapshots import check_poll, check_result, check_statuses
from finetune_gateway.errors import shown
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.model import MOST, Model
from finetune_gateway.settings.money import MOST_USD
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.text.cleaning import encodable
from finetune_gateway.text.redaction import redact
from finetune_gateway.tokens.counter import TokenCounter
from finetune_gateway.tokens.masks.preview import PreviewRenderer

Arguments = tuple[Any, ...]
Check = Callable[[Any, Any, Arguments, dict[str, Any]], Any]

LONGEST_ID = 1000  # characters; names of resources at clouds have up to 300
LONGEST_JSON = 1_000_000  # characters of options
LONGEST_SETTLE = 7 * 24 * 3600.0  # seconds; a job in doubt keeps its share of the budget so long


def _or_none(check: Check) -> Check:
    return lambda value, *args: None if value is None else check(value, *args)


# -- ids ---------------------------------------------------------------------------------


def _identifier(value: Any, *_: Any, path: str = "") -> str:
    if not issubclass(type(value), str):
        what = f"give {path} as" if path else "return"
        raise Wrong(f"must {what} the provider's id as a text, not {shown(value)}")
    text = str.__str__(value)
    if not text.strip() or not text.isprintable() or len(text) > LONGEST_ID:
        raise Wrong(
            f"returned {shown(text)}, which is no id: a line of 1 to {LONGEST_ID} characters"
        )
    return text


def _identifiers(value: Any, *_: Any) -> list[str]:
    if not issubclass(type(value), list | tuple):
        raise Wrong(f"must return a list of ids, not {shown(value)}")
    return [_identifier(one, path=f"[{at}]") for at, one in enumerate(value)]


def _text(value: Any, *_: Any) -> str:
    text = str.__str__(value) if issubclass(type(value), str) else ""
    if not text.strip() or len(text) > LONGEST_ID:
        raise Wrong(f"must be a short text, not {shown(value)}")
    return encodable(text)


# -- what it can do ----------------------------------------------------------------------


def _capabilities(value: Any, *_: Any) -> Capabilities:
    found: Capabilities = rebuilt(Capabilities, value)
    if unknown := sorted(map(shown, found.fixed.keys() - TrainingSpec.model_fields.keys())):
        raise Wrong(f"must name settings in fixed, not {', '.join(unknown)}")
    _check_refuses(found)
    _check_seconds(found)
    for name in ("min_rows", "max_file_bytes", "max_context", "chats_at_once"):
        limit, least = getattr(found, name), int(name == "chats_at_once")
        if limit is not None and not least <= limit <= MOST:
            raise Wrong(f"must give {name} as a whole number from {least}, not {shown(limit)}")
    return found


def _check_refuses(value: Capabilities) -> None:
    if unknown := sorted(map(shown, value.refuses - REFUSABLE)):
        can = ", ".join(sorted(REFUSABLE))
        raise Wrong(f"must refuse one of {can} in refuses, not {', '.join(unknown)}")
    if value.takes_metadata and "metadata" in value.refuses:
        raise Wrong("says both that it takes metadata and that it refuses them")


def _check_seconds(value: Capabilities) -> None:
    _seconds("settle_seconds", value.settle_seconds, LONGEST_SETTLE)
    _seconds("longest_wait", value.longest_wait or 0.0, MOST)
    for number in value.poll_seconds:
        _seconds("poll_seconds", number, LONGEST_SETTLE)


def _seconds(name: str, value: Any, most: float) -> float:
    if not is_number(value) or not 0 <= (seconds := rebuilt(float, value)) <= most:
        raise Wrong(f"must give {name} in seconds from 0 to {most:,.0f}, not {shown(value)}")
    return float(seconds)


def _lifetime(value: Any, *_: Any) -> float:
    return _seconds("the lifetime", value, MOST)


def _names(value: Any, *_: Any) -> list[str]:
    return list(dict.fromkeys(_identifiers(value)))


def _health(value: Any, *_: Any) -> Health:
    """Return a sentence without what looks like a key, and a time that can be."""
    if not issubclass(type(value), Health):
        raise Wrong(f"must return a Health, not {shown(value)}")
    fields = fields_of(Health, value)
    latency = fields.get("latency_s")
    if not is_number(latency) or not 0 <= rebuilt(float, latency) <= MOST:
        fields["latency_s"] = None
    found: Health = built(Health, fields)
    if not (detail := " ".join(found.detail.split())):
        raise Wrong("must say in a sentence in detail how it is")
    return found.model_copy(update={"detail": redact(detail)[:LONGEST_ID]})


def _quote(value: Any, *_: Any) -> Decimal:
    if not is_number(value) or not 0 <= (usd := rebuilt(Decimal, value)) <= MOST_USD:
        raise Wrong(f"must return an amount of USD from 0 to {MOST_USD:,}, not {shown(value)}")
    return Decimal(usd)


def _json(value: Any, *_: Any) -> dict[str, Any]:
    """Return plain JSON that is ours alone: the plug-in may change its own later."""
    if not issubclass(type(value), dict):
        raise Wrong(f"must return a dict with texts as keys, not {shown(value)}")
    found: dict[str, Any] = rebuilt(dict[str, Any], value)
    if (size := len(json.dumps(found))) > LONGEST_JSON:
        raise Wrong(f"must return at most {LONGEST_JSON:,} characters of JSON, not {size:,}")
    return found


# -- before a job ------------------------------------------------------------------------


def _instance(wanted: type) -> Check:
    """Return the check for an object that is asked many times, each by a guard of its own."""

    def check(value: Any, *_: Any) -> Any:
        if not issubclass(type(value), wanted):
            raise Wrong(f"must return a {wanted.__name__}, not {shown(value)}")
        return value

    return check


def _resolve(value: Any, backend: Any, args: Arguments, kwargs: dict[str, Any]) -> TrainingSpec:
    """Return a spec of ours, with the same settings chosen."""
    asked: Any = kwargs.get("spec", args[0] if args else None)
    if value is asked:
        return asked  # type: ignore[no-any-return]
    found: TrainingSpec = rebuilt(TrainingSpec, value)
    found._later = rebuilt(dict[str, Any], value._later)
    chosen = found.model_fields_set
    chosen.clear()
    chosen.update(rebuilt(frozenset[str], value.model_fields_set, "model_fields_set"))
    return found


def _estimate(value: Any, backend: Any, args: Arguments, kwargs: dict[str, Any]) -> Estimate:
    """Return an estimate with finite amounts that are not negative. The capabilities say whether
    the data leave the machine, whatever it says."""
    found: Estimate = rebuilt(Estimate, value)
    for path, amount in _amounts("", found):
        if amount < 0:
            raise Wrong(f"must give {path} as an amount from 0, not {shown(amount)}")
    model = getattr(kwargs.get("spec", args[0] if args else None), "model", None)
    hosted = backend.capabilities().hosted or backend.capabilities(model).hosted
    if hosted and not found.data_leaves_machine:
        return found.model_copy(update={"data_leaves_machine": True})
    return found


def _amounts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every number of an estimate with its name."""
    if isinstance(value, Model):
        for name in type(value).model_fields:
            yield from _amounts(f"{path}.{name}".lstrip("."), getattr(value, name))
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        yield path, value


# -- the model, and files ----------------------------------------------------------------


def _chat_model(value: Any, *_: Any) -> Any:
    if not any(callable(getattr(value, name, None)) for name in ("chat", "scores")):
        raise Wrong(f"must return an object with chat and stream, not {shown(value)}")
    return value


def _price(value: Any, *_: Any) -> Price:
    if not issubclass(type(value), Price):
        raise Wrong(f"must return the Price of an hour or None, not {shown(value)}")
    found: Price = rebuilt(Price, value)
    if not found.unit.endswith("_hour"):
        raise Wrong(f"must return the Price of an hour or None, not one of {shown(found.unit)}")
    return found


def _ended(value: Any, *_: Any) -> bool:
    return bool(rebuilt(bool, value))


def _path(value: Any, *_: Any) -> Path:
    if not isinstance(value, os.PathLike):
        raise Wrong(f"must give a Path, not {shown(value)}")
    return Path(rebuilt(str, os.fspath(value)))


def _files(value: Any, *_: Any) -> list[Path]:
    """Return files that are deleted with a job: never a folder that holds the user's own."""
    if not issubclass(type(value), list | tuple):
        raise Wrong(f"must return a list of paths, not {shown(value)}")
    paths = [_path(one) for one in value]
    home = Path.home().resolve()
    for path in paths:
        whole = path.resolve()
        if not path.is_absolute() or whole == home or whole in home.parents:
            raise Wrong(f"names {str(path)!r}, which holds more than one job: it is not deleted")
    return paths


CHECKS: dict[str, Check] = {
    "capabilities": _capabilities,
    "options": _json,
    "identity": _json,
    "place": _json,
    "account": _or_none(_text),
    "display_name": _text,
    "resolve": _resolve,
    "counter": _instance(TokenCounter),
    "preview_renderer": _or_none(_instance(PreviewRenderer)),
    "estimate": _estimate,
    "models": _names,
    "health": _or_none(_health),
    "upload": _or_none(_identifier),
    "upload_lifetime": _or_none(_lifetime),
    "find_upload": _or_none(_identifier),
    "find_uploads": _identifiers,
    "quote": _or_none(_quote),
    "start": _identifier,
    "find": _or_none(_identifier),
    "poll": check_poll,
    "statuses": check_statuses,
    "checkpoint": check_result,
    "deploy": _identifier,
    "deployment_price": _or_none(_price),
    "end_deployment": _ended,
    "open": _chat_model,
    "log_path": _or_none(_path),
    "kept_files": _files,
}
