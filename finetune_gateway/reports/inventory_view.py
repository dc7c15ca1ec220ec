"""A fine-tune of an inventory in words, which the screen and the page share. What is not known is
said to be so."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import groupby

from finetune_gateway.migration.inventory import FineTune, Inventory, KeyView, RemoteFile
from finetune_gateway.reports.output import format_bytes, format_count, wrap_text
from finetune_gateway.settings.money import format_usd
from finetune_gateway.text.cleaning import visible

UNKNOWN = "not known"
STATES = {
    "there": "there",
    "deleted": "deleted",
    "hidden": "hidden from these keys",
    "not_visible": "not visible to these keys: deleted, or hidden from them",
    "retired": "retired",
    "unknown": UNKNOWN,
}
FILES = {
    "there": "there",
    "gone": "gone",
    "not_visible": "not visible to these keys",
    "refused": "refused",
    "unknown": UNKNOWN,
}


def headline(inventory: Inventory) -> str:
    """Return ``12 fine-tunes, as A_KEY and B_KEY see them at api.openai.com``."""
    count = format_count(len(inventory.fine_tunes), "fine-tune")
    looked = [key for key in inventory.keys if not key.admin]
    keys = " and ".join(key.variable for key in looked)
    verb = "see" if len(looked) > 1 else "sees"
    hosts = " and ".join(dict.fromkeys(key.host for key in inventory.keys))
    return f"{count}, as {keys} {verb} them at {hosts}"


def shortfalls(inventory: Inventory) -> Iterator[str]:
    """Yield what the keys were not told, and why."""
    for key in inventory.keys:
        by_scope = {what: _lacking(key, why) for what, why in key.refused.items()}
        for what, why in key.refused.items():
            said = f". It lacks {by_scope[what]}." if by_scope[what] else f": {visible(why)}"
            yield f"{key.variable} was not told the {what}{said}"
        if others := {*key.missing_scopes} - {*by_scope.values()}:
            yield f"{key.variable} lacks {', '.join(sorted(others))}."
        for what in key.cut:
            yield f"The list of {what} of {key.variable} has an end missing: there may be more."
    if inventory.without_model:
        count = format_count(inventory.without_model, "job")
        yield f"{count} ended without a model: left out (--all)."


def _lacking(key: KeyView, why: str) -> str:
    """Return the scope that a refusal names: more of what the host says helps nobody."""
    return next((scope for scope in key.missing_scopes if scope in why), "")


def shortfall_lines(inventory: Inventory) -> Iterator[str]:
    """Yield the same for a screen."""
    return (wrap_text(text) for text in shortfalls(inventory))


def groups(inventory: Inventory) -> Iterator[tuple[str, list[FineTune]]]:
    """Yield the fine-tunes that stop on the same day, with a title; those deleted here apart."""
    for (day, left, deleted), group in groupby(inventory.fine_tunes, key=_stops_with):
        found = [*group]
        text = "deleted" if deleted else stops(day, left)
        yield f"{text[:1].upper()}{text[1:]}: {format_count(len(found), 'fine-tune')}", found


def _stops_with(one: FineTune) -> tuple[date | None, int | None, bool]:
    return one.shutdown_date, one.days_left, one.model_state == "deleted"


def stops(day: date | None, days: int | None) -> str:
    """Return ``stops on 2027-01-14, in 54 days``."""
    if day is None or days is None:
        return "no last day is known"
    if days <= 0:
        return f"stopped on {day}"
    return f"stops on {day}, in {format_count(days, 'day')}"


def stops_by(one: FineTune) -> str:
    """Return whose date it is, and who says so."""
    if one.shutdown_from is None:
        return ""
    whose = "its own date" if one.shutdown_from == "model" else "the date of its base"
    return f"{whose}, by {visible(one.shutdown_source)}"


def model_parts(one: FineTune) -> list[str]:
    """Return the state of the model, its checkpoints, and its last use where that is known."""
    if one.model is None:
        ended = one.job_status is not None and one.job_status.final
        return ["the job names none" if ended else "none yet"]
    return [STATES[one.model_state], checkpoints_text(one), use_text(one)]


def checkpoints_text(one: FineTune) -> str:
    """Return ``2 more checkpoints``."""
    if one.checkpoints is None:
        return "checkpoints not known"
    if not one.checkpoints:
        return "no other checkpoint"
    steps = sorted(point.step for point in one.checkpoints if point.step is not None)
    at = f" (step {', '.join(map(str, steps))})" if steps else ""
    return f"{format_count(len(one.checkpoints), 'checkpoint')} besides{at}"


def job_text(one: FineTune) -> str:
    """Return the job with its status and day, and ours."""
    name, *facts = job_parts(one)
    return f"{name} {', '.join(facts)}" if facts else name


def job_parts(one: FineTune) -> list[str]:
    """Return the same, each by itself."""
    if one.job_id is None and one.job_status is None:
        return ["not visible to these keys"]
    raw = f" ({visible(one.raw_status)})" if one.raw_status not in (None, one.job_status) else ""
    ours = [f"here {one.our_job}"] if one.our_job else []
    return [visible(one.job_id or UNKNOWN), f"{one.job_status}{raw}", f"made {made(one)}", *ours]


def made(one: FineTune) -> str:
    """Return the day on which it was created."""
    return UNKNOWN if one.created_at is None else day_of(one.created_at)


def day_of(moment: float) -> str:
    """Return the day of a time, in UTC as the host's days are."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


def files_text(one: FineTune) -> str:
    """Return ``training there (train.jsonl, 1.2 MiB), validation gone``."""
    return ", ".join(files(one))


def files(one: FineTune) -> list[str]:
    """Return each file with its state."""
    if one.job_id is None:
        return [UNKNOWN]
    named = [("training", one.training_file), ("validation", one.validation_file)]
    named += [("result", file) for file in one.result_files]
    return [f"{word} {_file(file)}" for word, file in named if file] or ["none"]


def _file(file: RemoteFile) -> str:
    about = [visible(file.name)] if file.name else []
    about += [format_bytes(file.bytes)] if file.bytes is not None else []
    return f"{FILES[file.state]} ({', '.join(about)})" if about else FILES[file.state]


def training_text(one: FineTune) -> str:
    """Return the method and the hyperparameters."""
    return ", ".join(training_parts(one))


def training_parts(one: FineTune) -> list[str]:
    """Return the same, each by itself."""
    method = visible(one.method or "method not known")
    if one.hyperparameters is None:
        return [method, "hyperparameters not known"]
    return [method, *(visible(f"{name} {value}") for name, value in one.hyperparameters.items())]


def tokens_text(one: FineTune) -> str:
    """Return the trained tokens."""
    known = one.trained_tokens is not None
    return f"{one.trained_tokens:,} tokens" if known else "tokens not known"


def cost_text(one: FineTune) -> str:
    """Return what its training cost: an estimate is called one."""
    return "cost not known" if one.cost is None else f"about {format_usd(one.cost.usd)} to train"


def billed_text(one: FineTune) -> str:
    """Return what the bill has under its name; empty where it has nothing, or was not asked for."""
    if one.billed is None:
        return ""
    return f"{format_usd(one.billed.usd)} in {visible(one.billed.source)}"


def use_text(one: FineTune) -> str:
    """Return its last use; empty where nobody was asked or told."""
    if one.last_used:
        return f"last used {one.last_used}"
    return f"no use since {one.unused_since}" if one.unused_since else ""


def seen_by(one: FineTune, keys: Sequence[KeyView]) -> str:
    """Return the keys that see it, where not all do."""
    every = {key.variable for key in keys if not key.admin}
    return "" if {*one.keys} == every else f"seen by {', '.join(one.keys)} alone"
