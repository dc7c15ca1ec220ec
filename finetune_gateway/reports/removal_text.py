"""What ``ftg rm`` and ``ftg prune`` say: what goes, and what stays where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_gateway.jobs.compared import COMPARISON, name_of, title_of
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.pruning import Item, Pruned
from finetune_gateway.jobs.recordings import PREFIX
from finetune_gateway.jobs.removal import Forgotten, Removed
from finetune_gateway.reports.output import format_bytes, format_count, wrap_text
from finetune_gateway.settings.sizes import bytes_of


def removed_document(
    removed: Sequence[Removed],
    forgotten: Sequence[Forgotten] = (),
    recordings: Mapping[str, int] | None = None,
    compared: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return what was removed as JSON."""
    document: dict[str, Any] = {"removed": [one.model_dump(mode="json") for one in removed]}
    if forgotten:
        document["fetched"] = [one.model_dump(mode="json") for one in forgotten]
    if recordings:
        document["recordings"] = [{"name": name, "bytes": n} for name, n in recordings.items()]
    if compared:
        document["compared"] = [{"name": name, "bytes": n} for name, n in compared.items()]
    return document


def to_forget_text(forgotten: Sequence[Forgotten]) -> str:
    """Return what would go of fine-tunes of hosts, a line for each."""
    lines = [
        f"{one.model or one.name}: {format_bytes(one.bytes)} fetched or added here; nothing "
        "changes at the host, which may not keep it."
        for one in forgotten
    ]
    return "\n".join(wrap_text(line, "  ", "") for line in lines)


def forgotten_text(one: Forgotten) -> str:
    """Return the line about a fine-tune of a host that was removed here."""
    return f"{one.model or one.name} removed here"


def to_unrecord_text(folders: Sequence[Path]) -> str:
    """Return which recordings would go, a line for each."""
    lines = [
        f"{PREFIX}{folder.name}: {format_bytes(bytes_of([folder]))} of prompts and answers, which "
        "cannot be recorded again once the model is shut down. Its costs stay, without its name."
        for folder in folders
    ]
    return "\n".join(wrap_text(line, "  ", "") for line in lines)


def to_clear_text(folders: Sequence[Path]) -> str:
    """Return which comparisons and kept answers would go, a line for each."""
    lines = [
        f"{name_of(folder)}, {title_of(folder)}: {format_bytes(bytes_of([folder]))}. "
        f"{_after(folder)}; its costs stay in the ledger."
        for folder in folders
    ]
    return "\n".join(wrap_text(line, "  ", "") for line in lines)


def _after(folder: Path) -> str:
    if folder.name.startswith(COMPARISON):
        return "Answers that are kept stay, until ftg rm answers:MODEL"
    return "To ask again costs again"


def to_remove_text(jobs: Sequence[Job], planned: Sequence[Removed]) -> str:
    """Return what would go, a paragraph for each job."""
    return "\n".join(
        wrap_text(f"{job.id}, {job.status}, {job.record.spec.model}: {_parts(job, one)}", "  ", "")
        for job, one in zip(jobs, planned, strict=True)
    )


def _parts(job: Job, one: Removed) -> str:
    if job.record.removed:
        return "was removed before."
    files = f"{format_bytes(one.bytes)} of files" if one.bytes else "no files"
    trained = one.bytes and job.record.result and not job.record.hosted
    local = ", its model among them" if trained else ""
    shared = _shared(one)
    texts = f"{files}{local}, {format_count(one.events, 'event')}, all other texts.{shared}"
    return f"{texts} Its line of costs stays."


def _shared(one: Removed) -> str:
    if not one.shared_with:
        return ""
    return f" Copies of data that {', '.join(one.shared_with)} needs too stay."


def removed_text(one: Removed) -> str:
    """Return the line about a job that was removed."""
    return f"{one.job_id} removed"


def left_text(removed: Sequence[Removed]) -> str:
    """Return what is not removed, and why; empty if there is nothing."""
    lines = [
        wrap_text(f"Not removed of {one.job_id}: {left}", "  ", "")
        for one in removed
        for left in one.left
    ]
    return "\n".join(lines)


# -- prune -------------------------------------------------------------------------------------


def items_text(items: Sequence[Item]) -> str:
    """Return what would go on this machine, or the one thing at a host."""
    lines = [wrap_text(item_text(item), "    ", "  ") for item in items]
    if items[0].host:
        return lines[0]
    total = format_bytes(sum(item.bytes for item in items))
    return "\n".join([f"On this machine, {total}:", *lines])


def item_text(item: Item) -> str:
    """Return one thing that is pruned, with its bytes."""
    size = format_bytes(item.bytes)
    if item.kind == "copies":
        count = "1 copy" if item.count == 1 else f"{item.count:,} copies"
        return f"{count} of data, {size}"
    if item.kind == "leftovers":
        return f"what killed processes have left, {size}"
    if item.kind == "run":
        count = format_count(item.set_aside, "checkpoint")
        aside = f"; {count} of it set aside as damaged" if item.set_aside else ""
        return f"rows, log and checkpoints of {item.name}, {size}{aside}"
    if item.kind == "fetched":
        return f"what was fetched of {format_count(item.count, 'fine-tune')}, {size}"
    if item.kind == "recording":
        return f"{PREFIX}{item.name}, {size}: it cannot be made again once its model is shut down"
    if item.kind == "compared":
        return f"{item.name}, {size}"
    of = f"of {item.jobs[0]} at {item.host}"
    if item.kind == "file":
        return f"the uploaded file {item.name} {of}, {size}"
    return f"the model {item.name} {of}"


def pruned_document(pruned: Pruned) -> dict[str, Any]:
    """Return what was pruned as JSON."""
    return {**pruned.model_dump(mode="json"), "bytes": pruned.bytes}


def pruned_text(pruned: Pruned, *, dry_run: bool) -> str:
    """Return one line: what went here, and how much at hosts; empty if there is nothing."""
    there = sum(bool(item.host) for item in pruned.removed)
    at_hosts = f"; {format_count(there, 'thing')} deleted at hosts" if there else ""
    if not (pruned.removed or pruned.kept or pruned.failed):
        return ""
    if dry_run:
        return "Nothing was removed: --dry-run."
    return f"{format_bytes(pruned.bytes)} removed here{at_hosts}"


def not_pruned_text(pruned: Pruned) -> str:
    """Return what could not be removed, and why; each reason once."""
    reasons: dict[str, list[str]] = {}
    for one in pruned.failed:
        reasons.setdefault(one.reason, []).append(item_text(one.item))
    lines = [f"Not deleted: {', '.join(items)}. {reason}" for reason, items in reasons.items()]
    lines += [f"Not asked: {reason}" for reason in pruned.unknown]
    return "\n".join(wrap_text(line, "  ", "") for line in lines)
