"""What is known of a fine-tune, from what its host shows: until when, in which state, at what cost.

Asks nobody. What cannot be known is None or has a word of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal

from finetune_gateway.backends.openai import endpoint, wire
from finetune_gateway.estimation.estimate import MILLION
from finetune_gateway.estimation.price_table import find_price
from finetune_gateway.estimation.profiles import Profile
from finetune_gateway.methods import OPENAI_WORDS
from finetune_gateway.migration.inventory import (
    Cost,
    FileState,
    FineTune,
    ModelState,
    RemoteFile,
    TunedCheckpoint,
)
from finetune_gateway.migration.key_lists import KeyLists, Seen, is_tuned
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import moment, whole
from finetune_gateway.tokens.encodings import base_model

OUR_WORDS = {word: name for name, word in OPENAI_WORDS.items()}
Shutdown = tuple[date | None, Literal["model", "base"] | None, str]


def fine_tune(seen: Seen, keys: Sequence[KeyLists], settings: Settings, today: date) -> FineTune:
    """Return what is known of a fine-tune. ``keys``: all that were asked."""
    job, host = seen.job, seen.keys[0].host
    base = wire.text_of(job.get("model")) or (base_model(seen.model) if seen.model else None)
    day, whose, source = shutdown(seen, base, keys)
    method = method_of(job)
    tokens = whole(job.get("trained_tokens")) or None  # no job trains nothing
    return FineTune(
        model=seen.model,
        base_model=base,
        method=method,
        job_id=wire.usable_id(job),
        host=host.host,
        profile=host.profile_name,
        keys=tuple(dict.fromkeys(key.variable for key in seen.keys)),
        created_at=moment(job.get("created_at")) or moment((seen.listed or {}).get("created")),
        finished_at=moment(job.get("finished_at")),
        job_status=wire.status_of(job) if job else None,
        raw_status=wire.text_of(job.get("status")),
        model_state=model_state(seen, keys, day, today),
        shutdown_date=day,
        shutdown_from=whose,
        shutdown_source=source,
        days_left=(day - today).days if day else None,
        checkpoints=checkpoints(seen, keys),
        training_file=_file(job.get("training_file"), seen, keys),
        validation_file=_file(job.get("validation_file"), seen, keys),
        result_files=tuple(
            file
            for one in wire.list_of(job.get("result_files"))
            if (file := _file(one, seen, keys))
        ),
        hyperparameters=hyperparameters(job),
        suffix=wire.text_of(job.get("user_provided_suffix")),
        seed=whole(job.get("seed")),
        trained_tokens=tokens,
        cost=training_cost(host.profile, base, method, tokens, settings),
    )


# -- until when --------------------------------------------------------------------------------


def shutdown(seen: Seen, base: str | None, keys: Sequence[KeyLists]) -> Shutdown:
    """Return the day from which a model does not answer, whose day it is, and who says so."""
    host = seen.keys[0].host
    listing = f"the list of models of {host.host}"
    own = stops_on(seen.listed or seen.unlisted or {})
    if own:
        return own, "model", listing
    row = host.profile.model(base) if base else None
    names = [base, *([row.model, *row.aliases] if row else [])]
    listed = (
        key.models[name] for key in keys if key.models for name in names if name in key.models
    )
    day = next((day for one in listed if (day := stops_on(one))), None)
    if day:
        return day, "base", listing
    if row is None or row.retires_on is None:
        return None, None, ""
    return row.retires_on, "base", f"{row.source} (as of {row.as_of})"


def stops_on(model: wire.Json) -> date | None:
    """Return the ``shutdown_date`` of OpenAI, or ``deprecation.inference`` of Azure."""
    text = wire.text_of(model.get("shutdown_date"))
    try:
        if text:
            return date.fromisoformat(text[:10])
    except ValueError:
        return None
    at = moment(wire.object_of(model.get("deprecation")).get("inference"))
    return datetime.fromtimestamp(at, UTC).date() if at else None


# -- what is there -----------------------------------------------------------------------------


def model_state(seen: Seen, keys: Sequence[KeyLists], day: date | None, today: date) -> ModelState:
    """Return whether the model is there, as far as these keys can know."""
    if seen.listed is not None or seen.unlisted is not None:
        return "there"
    if seen.model is None:
        return "unknown"
    if day is not None and day <= today:
        return "retired"
    if seen.is_forbidden:
        return "hidden"
    lists = [key for key in seen.keys if key.models is not None and "models" not in key.cut]
    if not lists or not _lists_fine_tunes(keys):
        return "unknown"
    return "not_visible"


def _lists_fine_tunes(keys: Sequence[KeyLists]) -> bool:
    """Return True if fine-tunes stand in this host's list of models: OpenAI's does."""
    if endpoint.is_openai(keys[0].host.base_url) or keys[0].host.profile_name == "openai":
        return True
    return any(is_tuned(name) for key in keys for name in key.models or {})


def checkpoints(seen: Seen, keys: Sequence[KeyLists]) -> tuple[TunedCheckpoint, ...] | None:
    """Return the checkpoints beside the final model, which the list has as its first."""
    if seen.checkpoints is None:
        return None
    rows = [
        (name, whole(one.get("step_number")))
        for one in seen.checkpoints
        if (name := wire.text_of(one.get("fine_tuned_model_checkpoint")))
    ]
    return tuple(
        TunedCheckpoint(
            model=name, step=step, state="there" if _is_listed(name, keys) else "unknown"
        )
        for name, step in rows
        if name != seen.model
    )


def _is_listed(name: str, keys: Sequence[KeyLists]) -> bool:
    return any(name in (key.models or {}) for key in keys)


def _file(given: object, seen: Seen, keys: Sequence[KeyLists]) -> RemoteFile | None:
    file_id = wire.text_of(given)
    if file_id is None:
        return None
    row = next((key.files[file_id] for key in keys if key.files and file_id in key.files), None)
    if row is None:
        return RemoteFile(id=file_id, state=_absent(file_id, seen, keys))
    name, size = wire.text_of(row.get("filename")), whole(row.get("bytes"))
    return RemoteFile(id=file_id, state="there", name=name, bytes=size)


def _absent(file_id: str, seen: Seen, keys: Sequence[KeyLists]) -> FileState:
    """Return what is known of a file that no list shows. Files belong to a project, and a key
    cannot be asked for its own: one that sees another file of the job is of the right one."""
    others = {one for one in _files_of(seen.job) if one != file_id}
    if any(others & listed.keys() for listed in _whole_lists(keys)):
        return "gone"
    if _whole_lists(seen.keys):
        return "not_visible"
    return "refused" if any("files" in key.refused for key in seen.keys) else "unknown"


def _whole_lists(keys: Sequence[KeyLists]) -> list[dict[str, wire.Json]]:
    return [key.files for key in keys if key.files is not None and "files" not in key.cut]


def _files_of(job: wire.Json) -> Iterator[str]:
    named = (job.get("training_file"), job.get("validation_file"))
    for one in (*named, *wire.list_of(job.get("result_files"))):
        if text := wire.text_of(one):
            yield text


# -- how it was trained ------------------------------------------------------------------------


def method_of(job: wire.Json) -> str | None:
    """Return our word for the method; a job without one is supervised, as all were once."""
    if not job:
        return None
    word = wire.text_of(wire.object_of(job.get("method")).get("type")) or "supervised"
    return OUR_WORDS.get(word, word)


def hyperparameters(job: wire.Json) -> dict[str, Any] | None:
    """Return the hyperparameters as resolved: those of the method, before those of the job, which
    may be null; ``auto`` only where nothing says what became of it."""
    method = wire.object_of(job.get("method"))
    inner = wire.object_of(method.get(str(method.get("type")))).get("hyperparameters")
    found: dict[str, Any] = {}
    for given in (wire.object_of(job.get("hyperparameters")), wire.object_of(inner)):
        for name, value in given.items():
            if value is not None and (value != "auto" or name not in found):
                found[name] = value
    return found or None


def training_cost(
    profile: Profile, base: str | None, method: str | None, tokens: int | None, settings: Settings
) -> Cost | None:
    """Return trained tokens x price; None without either, or where hours are billed."""
    if tokens is None or base is None or method == "reinforcement":
        return None
    row, usual = profile.model(base), profile.usual_training
    names = dict.fromkeys([base, *([row.model, *row.aliases] if row else [])])
    prices = (
        find_price(profile.name, name, "train_mtok", extra=settings.prices, tier=usual)
        for name in names
    )
    price = next((one for one in prices if one), None)
    if price is None:
        return None
    way = f" of {price.tier} training" if price.tier else ""  # the host does not say which it was
    per = f"{price.usd} USD per million{way}, {price.dated}, {price.source}"
    usd = Decimal(tokens) * price.usd / MILLION
    return Cost(usd=usd, estimated=True, source=f"{tokens:,} trained tokens x {per}")
