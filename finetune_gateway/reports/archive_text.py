"""What ``ftg migrate fetch`` says: what is saved and where, and what is not, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from finetune_gateway.jobs.fetched import Piece
from finetune_gateway.migration.archived import Archive, ArchivedJob
from finetune_gateway.reports.output import format_bytes, format_count, format_table, wrap_text

STATES = {"not_visible": "not visible", "failed": "not now"}
COLUMNS = ("training", "validation", "result", "events", "checkpoints")
MOST_NAMED = 3  # fine-tunes that a reason is said to be of
WHY = {
    "scope": "the key lacks the permission",
    "key": "the key may not do that",
    "free_account": "free accounts may not download training files",
    "purpose": "the host lets no files of that purpose be downloaded",
    "not_there": "no such file for these keys: deleted, or of another project",
    "other": "refused",
}


def archive_document(archive: Archive) -> dict[str, Any]:
    """Return what is kept as JSON."""
    return {
        **archive.model_dump(mode="json"),
        "counts": dict(archive.counts),
        "complete": archive.complete,
    }


def archive_text(archive: Archive, *, paths: bool) -> str:
    """Return a table of the fine-tunes, and what is saved in all. ``paths``: where each file
    lies."""
    parts = [_table(archive.jobs), *(map(_paths, archive.jobs) if paths else ()), _total(archive)]
    return "\n\n".join(part for part in parts if part)


def _table(jobs: Sequence[ArchivedJob]) -> str:
    head = ("FINE-TUNE", *(name.upper() for name in COLUMNS))
    rows = [(job.name, *(_cell(job, kind) for kind in COLUMNS)) for job in jobs]
    return format_table(head, rows) if rows else ""


def _cell(job: ArchivedJob, kind: str) -> str:
    states = dict.fromkeys(piece.state for piece in job.pieces if piece.kind == kind)
    return ", ".join(STATES.get(state, state) for state in states) or "-"


def _paths(job: ArchivedJob) -> str:
    return "\n".join([f"{job.name}:", *(f"  {path}" for path in job.paths.values())])


def _total(archive: Archive) -> str:
    saved = {
        piece.content: piece.bytes or 0
        for job in archive.jobs
        for piece in job.pieces
        if piece.state == "saved"
    }
    new = sum(job.changed for job in archive.jobs)
    tunes, size = format_count(len(archive.jobs), "fine-tune"), format_bytes(sum(saved.values()))
    pieces = format_count(archive.counts["saved"], "piece")
    return f"Saved: {pieces} of {tunes}, {size}, {new:,} of them now, in {archive.folder}"


def not_saved_text(archive: Archive) -> str:
    """Return what is not saved, each reason once; empty if all is."""
    lines = [*_missing(archive), *_refused(archive)]
    if archive.stopped:
        left = format_count(archive.left, "fine-tune")
        lines.append(f"Stopped with {left} to go: {archive.stopped} Run it again to go on.")
    if not archive.whole_list:
        lines.append("The host did not list all of its jobs: run it again, or name a job.")
    return "\n".join(wrap_text(line, "  ", "") for line in lines)


def _missing(archive: Archive) -> Iterator[str]:
    """Yield a line for each reason: of which fine-tunes what is missing."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for job in archive.jobs:
        for piece in job.pieces:
            if piece.state != "saved":
                kinds = groups.setdefault((piece.state, _why(piece)), {})
                kinds.setdefault(job.name, []).append(piece.kind)
    for (state, why), jobs in groups.items():
        every = dict.fromkeys(kind for found in jobs.values() for kind in found)
        named = ", ".join([*jobs][:MOST_NAMED])
        more = f" and {len(jobs) - MOST_NAMED:,} more" if len(jobs) > MOST_NAMED else ""
        what = f"{', '.join(every)} of {named}{more}"
        yield f"{STATES.get(state, state).capitalize()}: {what}: {why}."


def _why(piece: Piece) -> str:
    if piece.state == "gone":
        return "the host has none" if piece.id is None else "deleted at the host"
    words = WHY.get(piece.why, "")
    if piece.why in ("not_there", "free_account", "purpose"):
        return words
    return ": ".join(part for part in (words, piece.reason.rstrip(".")) if part)


def _refused(archive: Archive) -> Iterator[str]:
    for one in archive.refused:
        why = f"it lacks {one.scope}" if one.scope else one.reason
        yield f"{one.key} was refused {', '.join(one.kinds)}: {why.rstrip('.')}."
