"""The events of a run, one per line: what a power cut has taken of them is noticed.

An id is ``RUN-WORKER-NUMBER``; numbers go on from one worker of the run to the next, so a number
that is missing is a line that is lost. A cursor is ``BYTES:WORKER-NUMBER``, of the line that was
read last. Where another line ends there, or none, all is read again: the store keeps an event once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from finetune_gateway.events import Event
from finetune_gateway.settings import files

PART = 1 << 20  # bytes that one read takes, and the line that ends behind them
LOSSES = ("train_loss", "valid_loss")

Reported = tuple[int, str]  # a step, and which of its losses an event has


@dataclass(frozen=True)
class Part:
    """Events in their order, where to go on, and whether there are more by now."""

    events: list[Event]
    cursor: str
    more: bool = False


@dataclass
class Found:
    """What a worker that begins finds in the log: the number of the last line, the ids and losses
    in it, and the bytes of a torn end, which was cut off."""

    number: int = 0
    ids: set[str] = field(default_factory=set)
    losses: set[Reported] = field(default_factory=set)
    torn: int = 0


def read_events(path: Path, cursor: str | None) -> Part:
    """Return the next events after a cursor. An event says so where numbers are missing, and where
    the file cannot be read."""
    try:
        return _read(path, cursor)
    except FileNotFoundError:
        return Part([], cursor or "0")
    except OSError as exc:
        why = f"{path} cannot be read: {exc.strerror or exc}."
        event = Event(id=f"{path.parent.name}-{path.name}", level="warn", message=why)
        return Part([event], cursor or "0")


def _read(path: Path, cursor: str | None) -> Part:
    with path.open("rb") as file:
        start, last = _place(file, cursor)
        at, events, end = start, [], start + PART
        for after, event in _lines(file, start):
            if event is None:
                continue
            events += [*_gap(last, event), event]
            at, last = after, event
            if at >= end:
                break
        more = at >= end and bool(file.readline().endswith(b"\n"))
    return Part(events, f"{at}:{_key(last)}" if last else "0", more)


def _place(file: BinaryIO, cursor: str | None) -> tuple[int, Event | None]:
    """Return where a cursor leads, and the line that ends there; the start of the file for one that
    is not of this file any more."""
    place, _, key = (cursor or "0").partition(":")
    offset = int(place) if place.isdecimal() else 0
    line = _line_before(file, offset)
    last = _event(line) if line else None
    # A cursor of an earlier version has no number.
    return (offset, last) if last and key in ("", _key(last)) else (0, None)


def _line_before(file: BinaryIO, offset: int) -> bytes:
    """Return the line that ends at this offset; empty if none does."""
    size = 4096
    while offset:
        start = max(0, offset - size)
        file.seek(start)
        raw = file.read(offset - start)
        if len(raw) < offset - start or not raw.endswith(b"\n"):
            return b""
        if start == 0 or b"\n" in raw[:-1]:
            return raw[:-1].rpartition(b"\n")[2]
        size *= 8
    return b""


def _lines(file: BinaryIO, start: int) -> Iterator[tuple[int, Event | None]]:
    """Yield whole lines: the offset after each, and its event, None for one that cannot be read."""
    file.seek(start)
    at = start
    while (line := file.readline()).endswith(b"\n"):
        at += len(line)
        yield at, _event(line)


def _event(line: bytes) -> Event | None:
    """Return the event in a line, which may lie behind the zeros of a block that was lost."""
    try:
        return Event.model_validate_json(line.strip(b"\0 \r\n"))
    except ValidationError:
        return None


def _key(event: Event) -> str:
    """Return ``WORKER-NUMBER`` of an event."""
    return "-".join(event.id.rsplit("-", 2)[-2:])


def _number(event: Event | None) -> int:
    number = event.id.rpartition("-")[2] if event else ""
    return int(number) if number.isdecimal() else 0


def _gap(last: Event | None, event: Event) -> list[Event]:
    """Return an event that says which numbers are missing between these two, if any are. An earlier
    version began at 1 with each worker."""
    first, end = _number(last) + 1, _number(event) - 1
    if end < first:
        return []
    run = event.id.rsplit("-", 2)[0]
    lines = f"lines {first:,} to {end:,} are" if end > first else f"line {first:,} is"
    message = f"events.jsonl was damaged: its {lines} lost, or cannot be read any more."
    lost, at = f"{run}-lost-{first}-{end}", event.created_at
    return [Event(id=lost, created_at=at, level="warn", message=message)]


def open_log(path: Path) -> Found:
    """Return what is there, for a worker that goes on with it. A torn end is cut off: the next line
    would be glued to it, and neither could be read."""
    found = Found()
    if not path.is_file():
        return found
    end = 0
    with path.open("rb") as file:
        for after, event in _lines(file, 0):
            end = after
            if event is None:
                found.number += 1
                continue
            found.number = _number(event)
            found.ids.add(event.id)
            found.losses |= losses_of(event.type, event.data)
    found.torn = path.stat().st_size - end
    if found.torn:
        os.truncate(path, end)
    return found


def losses_of(type: str, data: dict[str, object]) -> set[Reported]:
    """Return which losses an event tells of its step."""
    step = data.get("step")
    if type != "metrics" or not isinstance(step, int):
        return set()
    return {(step, name) for name in LOSSES if data.get(name) is not None}


def append(path: Path, event: Event) -> None:
    """Append an event, whole or not at all: if the disk is full, the part that was written is cut
    off. Raises OSError."""
    line = event.model_dump_json().encode() + b"\n"
    descriptor = files.open_private(path, os.O_WRONLY | os.O_APPEND)
    try:
        size = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
