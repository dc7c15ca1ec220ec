"""What ``ftg rm`` and ``ftg prune`` say: what goes, and what stays where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.removal import Removed
from finetune_gateway.reports.output import format_bytes, format_count, wrap_text


def removed_document(removed: Sequence[Removed]) -> dict[str, Any]:
    """Return what was removed as JSON."""
    return {"removed": [one.model_dump(mode="json") for one in removed]}


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
    local = ", its model among them" if job.record.result and not job.record.hosted else ""
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
