"""Events of a run in its folder: what a power cut leaves is read, what it took is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.records import record

from finetune_gateway.backends.local import event_log
from finetune_gateway.backends.local.event_log import read_events
from finetune_gateway.backends.local.run import Run, write_json
from finetune_gateway.backends.local.run_file import RunFile
from finetune_gateway.events import Event, JobStatus, Snapshot
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

RUN = "ftg-run"


def written(path: Path, count: int, worker: int = 1, first: int = 1) -> list[str]:
    """Events of one worker, numbered from ``first``; return their ids."""
    events = [
        Event(id=f"{RUN}-{worker}-{number}", message=f"event {number} of worker {worker}")
        for number in range(first, first + count)
    ]
    for event in events:
        event_log.append(path, event)
    return [event.id for event in events]


def all_read(path: Path, cursor: str | None = None) -> list[Event]:
    """What polls bring, until there is no more."""
    events: list[Event] = []
    while True:
        part = read_events(path, cursor)
        events += part.events
        if not part.more:
            return events
        assert part.cursor != cursor
        cursor = part.cursor


def test_a_log_is_read_in_parts_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is; half a line is left for later, and the same cursor gives the same."""
    path = tmp_path / "events.jsonl"
    assert read_events(path, None) == event_log.Part([], "0")
    ids = written(path, 30)
    monkeypatch.setattr(event_log, "PART", 1000)
    with path.open("ab") as file:
        file.write(b'{"id": "half')
    first = read_events(path, None)
    assert first.more and 0 < len(first.events) < 20
    assert [event.id for event in all_read(path)] == ids
    assert all_read(path, first.cursor) == all_read(path, first.cursor)
    assert [event.id for event in all_read(path, first.cursor)] == ids[len(first.events) :]


@pytest.mark.parametrize("damage", ["cut", "zeros", "other bytes"])
def test_whatever_a_power_cut_leaves_is_read(tmp_path: Path, damage: str) -> None:
    """From each cursor, after damage at each place: no crash, no whole line is missed, an event of
    before comes back at most with the id that it had, and the next worker goes on."""
    whole = tmp_path / "whole.jsonl"
    written(whole, 8)
    raw, path = whole.read_bytes(), tmp_path / "events.jsonl"
    cursors = ["0", *(f"{end}:1-{n}" for n, end in enumerate(ends_of(raw), 1))]
    for at in range(0, len(raw), 47):
        left = damaged(raw, at, damage)
        for cursor in cursors[::2]:
            path.write_bytes(left)
            before = {one.id for one in all_read(path) if "-lost-" not in one.id}
            start = event_log.open_log(path).number + 1
            fresh = written(path, 2, worker=2, first=start)
            known = {f"{RUN}-1-{n}" for n in range(1, cursors.index(cursor) + 1)}
            known |= {event.id for event in all_read(path, cursor)}
            assert before | {*fresh} <= known, (at, cursor)


def ends_of(raw: bytes) -> list[int]:
    """The offset after each line."""
    return [at + 1 for at, byte in enumerate(raw) if byte == 10]


def damaged(raw: bytes, at: int, damage: str) -> bytes:
    if damage == "zeros":
        return raw[:at] + bytes(len(raw) - at)
    if damage == "other bytes":
        return raw[:at] + b"\xff\x00}" + raw[at + 3 :]
    return raw[:at]


def test_another_line_at_the_place_of_a_cursor_is_seen(tmp_path: Path) -> None:
    """A tail that was read and then lost, with lines of the same length in its place by the next
    worker: they are read, not skipped."""
    path = tmp_path / "events.jsonl"
    written(path, 4)
    cursor = read_events(path, None).cursor
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    fresh = written(path, 2, worker=2, first=3)
    kept = path.read_bytes().replace(b" of worker 2", b" of worker 1")
    path.write_bytes(kept.ljust(int(cursor.partition(":")[0])))
    assert {*fresh} <= {event.id for event in all_read(path, cursor)}


def test_lines_that_are_lost_in_the_middle_are_told(tmp_path: Path) -> None:
    """By their numbers; a cursor and events of an earlier version, whose workers each began at 1,
    are no damage."""
    path = tmp_path / "events.jsonl"
    written(path, 9)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], bytes(40), b"\n", lines[6], lines[8]]))
    said = [event.message for event in all_read(path) if event.level == "warn"]
    assert [text.partition("its ")[2] for text in said] == [
        "lines 4 to 6 are lost, or cannot be read any more.",
        "line 8 is lost, or cannot be read any more.",
    ]
    path.unlink()
    ids = written(path, 3) + written(path, 2, worker=2)
    assert [event.id for event in all_read(path)] == ids
    old = str(ends_of(path.read_bytes())[2])
    assert [event.id for event in all_read(path, old)] == ids[3:]


Attempt = Callable[[], Run]


@pytest.fixture
def attempt(home: Path) -> Attempt:
    """``attempt()``: the next worker of a run, before it does anything."""
    folder = home / "runs" / RUN
    folder.mkdir(parents=True)
    spec = TrainingSpec(model="m")
    about = RunFile(job_id=RUN, spec=spec, train_sha256="0", versions={}, created_at=0)
    write_json(folder / "run.json", about.model_dump(mode="json"))

    def begun() -> Run:
        run = Run(Settings(home), RUN, 0)
        run.queue.add(RUN)
        with run.queue.store.transaction() as db:
            db.execute("UPDATE runs SET fence = fence + 1")
        run.fence = run.queue.get(RUN).fence
        return run

    return begun


def test_the_next_worker_says_what_is_lost(attempt: Attempt) -> None:
    """What the store has of the log's lost end, and a torn line; its numbers go on in the file. A
    log that is whole needs no word."""
    first = attempt()
    first.begin()
    for number in range(4):
        first.event(f"event {number}")
    log = first.folder / "events.jsonl"
    second = attempt()
    second.begin()
    second.event("goes on")
    assert [event.id for event in all_read(log)][-1] == f"{RUN}-{second.fence}-5"
    store_events(second, all_read(log))
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:2]) + b'{"id": "torn' + bytes(9))
    third = attempt()
    third.begin()
    said = all_read(log)[2:]
    assert [event.id.rpartition("-")[2] for event in said] == ["3", "4"]
    assert "last 21 bytes of events.jsonl were no whole line" in said[0].message
    assert "lost 3 of the events of before. They are kept in the store" in said[1].message


def store_events(run: Run, events: list[Event]) -> None:
    """As a poll does, of a job that was submitted."""
    store = run.queue.store
    store.add(record(id=RUN, backend="local", provider_id=RUN, status=JobStatus.RUNNING))
    store.apply(RUN, Snapshot(status=JobStatus.RUNNING, events=events), None)
