"""What ``ftg migrate fetch`` says: what is saved and where, and what is not, and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from finetune_gateway.jobs.fetched import Piece
from finetune_gateway.migration.archived import Archive, ArchivedJob
from finetune_gateway.reports.output import (
    elide,
    format_bytes,
    format_count,
    format_table,
    terminal_width,
    wrap_text,
)

STATES = {"not_visible": "not visible", "failed": "not now"}
LEAST_NAME = 24  # characters of a name on a narrow screen
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
    if not jobs:
        return ""
    rows = [(job.name, str(job.counts["saved"]), _not_saved(job)) for job in jobs]
    if sys.stdout.isatty():
        left = terminal_width() - max(len(row[2]) for row in rows) - len("SAVED") - 4
        rows = [(elide(row[0], max(left, LEAST_NAME)), row[1], row[2]) for row in rows]
    return format_table(("FINE-TUNE", "SAVED", "NOT SAVED"), rows, right="SAVED")


def _not_saved(job: ArchivedJob) -> str:
    """Return ``validation gone, result refused``, or a dash."""
    states: dict[str, list[str]] = {}
    for piece in job.pieces:
        if piece.state != "saved":
            states.setdefault(STATES.get(piece.state, piece.state), []).append(piece.kind)
    found = (f"{', '.join(dict.fromkeys(kinds))} {state}" for state, kinds in states.items())
    return "; ".join(found) or "-"


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
        lines.append("A list of jobs was not read to its end, so some may be missing.")
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
