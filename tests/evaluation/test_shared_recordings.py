"""Recordings that two processes ask for, or that somebody has changed by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.hosted import no_crash
from support.provider import Provider
from support.recordings import asked, recorded, rows

from finetune_gateway import DataError, FakeBackend, Gateway, GatewayError, SpecError
from finetune_gateway.errors import JobNotFinished, StoreError
from finetune_gateway.evaluation import Recording, keeping, work
from finetune_gateway.evaluation.planning import RecordPlan
from finetune_gateway.jobs import charges, removal
from finetune_gateway.jobs.pruning import Pruner
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings


def test_a_name_that_was_taken_meanwhile_is_left_alone(home: Path) -> None:
    """Two are asked for at once, under the name that both have by default: the rows of the one that
    began are not replaced by those of the other."""
    with Provider() as provider:

        def answer_late(plan: RecordPlan) -> bool:
            recorded(provider, rows(3), name="x")
            return True

        with pytest.raises(SpecError, match="has been made meanwhile"):
            recorded(provider, rows(5)[3:], name="x", confirm=answer_late)
        assert asked(provider) == {1: 3}
    kept = Recording.load("x")
    assert {one.row for one in kept.answers()} == {one.id for one in kept.prompts()}


def test_a_recording_that_was_made_anew_is_not_written_to(home: Path) -> None:
    """While its price was asked for, another process has removed it and taken its name: no answer
    is bought that lands among other rows."""
    with Provider() as provider:
        recorded(provider, rows(2), name="x")
        (home / "recordings/x/answers.jsonl").unlink()

        def answer_late(plan: RecordPlan) -> bool:
            keeping.remove(Settings.load(), "x")
            recorded(provider, rows(9)[5:], name="x")
            return True

        with pytest.raises(SpecError, match="has been removed and made anew meanwhile"):
            recorded(provider, rows(2), name="x", confirm=answer_late)
        assert asked(provider) == {1: 6}
        kept = Recording.load("x")
        assert {one.row for one in kept.answers()} == {one.id for one in kept.prompts()}


def test_nobody_asks_while_it_is_removed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it bought would be gone with the folder, and its cost with it; and a prune takes nothing
    that somebody went on with since it was listed."""
    with Provider() as provider:
        recorded(provider, rows(1), name="x")
        pruner = Pruner(Store(Settings.load()), lambda record: FakeBackend(), -1, with_fetched=True)
        (item,) = (one for one in pruner.here() if one.kind == "recording")
        pruner.before = 0.0
        pruner.remove(item)
        real = removal.erase

        def ask_meanwhile(path: Path) -> None:
            with pytest.raises(JobNotFinished, match="Another process"):
                recorded(provider, rows(1), name="x")
            real(path)

        monkeypatch.setattr(removal, "erase", ask_meanwhile)
        assert keeping.remove(Settings.load(), "x") > 0


def test_what_a_recording_has_cost_counts_whatever_happens_to_its_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a removal that did not end its limit still knows of it; and what a killed process has
    reserved counts whole where its requests were deleted by hand."""
    with Provider() as provider:
        recorded(provider, rows(4), name="x")
        before = work.spent_already(Store(Settings.load()), Recording.load("x"))
        with monkeypatch.context() as patch:
            patch.setattr(removal, "erase", fail)
            with pytest.raises(StoreError, match="another process is reading"):
                keeping.remove(Settings.load(), "x")
        assert work.spent_already(Store(Settings.load()), Recording.load("x")) == before > 0
        with monkeypatch.context() as patch:
            patch.setattr(charges, "settle", lambda *_: None)  # as killed just before
            recorded(provider, rows(5)[4:], name="y")
        left = Gateway().budget().reserved_usd
        shutil.rmtree(home / "recordings" / "y")
        recorded(provider, rows(6)[5:], name="y")
    assert Gateway().budget().spent_usd > left > 0


def fail(path: Path) -> None:
    raise StoreError("The database: another process is reading it.")


ODD: list[Any] = [None, -1, "", "x", "../../x", [], {}, True, 10**30, "\ud83d"]


def damages(path: Path) -> Iterator[bytes]:
    """The file with its last line changed by hand, field by field."""
    *lines, last = path.read_text().splitlines()
    for name in json.loads(last):
        for odd in ODD:
            changed = json.dumps({**json.loads(last), name: odd})
            yield "".join(f"{line}\n" for line in [*lines, changed]).encode()
        left = {key: value for key, value in json.loads(last).items() if key != name}
        yield "".join(f"{line}\n" for line in [*lines, json.dumps(left)]).encode()


def look(name: str) -> None:
    """All that is read of a recording."""
    recording = Recording.load(name)
    [*recording.answers()], [*recording.errors()], recording.state(), recording.prompts()
    recording.spent("chg-1")
    recording.finish()
    if recording.state().batched:
        keeping.settle(Settings.load(), name, lost=True)


@pytest.mark.chaos
def test_a_recording_that_was_changed_by_hand_is_read_or_refused_in_words(home: Path) -> None:
    """Never with an error of Python, and nothing outside of it is touched."""
    with Provider(refused_words=("parcel 2",)) as provider:
        recorded(provider, rows(3), name="x")
        recorded(provider, rows(2), name="b", batch=True)
    outside = home / "x"
    outside.write_text("mine")
    for path in [*home.glob("recordings/*/*.json*")]:
        if path.stat().st_size == 0 or path.name.startswith("batch-"):
            continue
        before = {one: one.read_bytes() for one in path.parent.iterdir()}
        for changed in damages(path) if path.suffix == ".jsonl" else ():
            path.write_bytes(changed)
            with no_crash(), suppress(GatewayError):
                look(path.parent.name)
            for one, raw in before.items():
                one.write_bytes(raw)
    assert outside.read_text() == "mine"


def test_half_a_character_is_named_before_anything_is_sent(home: Path) -> None:
    """As validate does: no host takes it. In a prompt, a tool or an answer of the data."""
    half = "half \ud83d of it"
    row, tool = rows(1)[0], {"type": "function", "function": {"name": half}}
    said = {"role": "user", "content": half}
    for odd in (
        {"messages": [said]},
        {**row, "tools": [tool]},
        {"prompt": "a", "completion": half},
    ):
        with Provider() as provider, pytest.raises(DataError, match=r"surrogate pair.* line 2\."):
            recorded(provider, [*rows(1), odd])
    assert not [*home.glob("recordings/*")]


def test_a_line_that_was_changed_is_no_bug_of_ours(home: Path) -> None:
    """The file is named; the key of a batch is no path to a file elsewhere."""
    with Provider() as provider:
        recorded(provider, rows(2), name="b", batch=True)
    path = home / "recordings" / "b" / "batches.jsonl"
    changes: list[dict[str, Any]] = [{"event": []}, {"key": "/../../../x"}, {"at": None}]
    for wrong in changes:
        line = json.loads(path.read_text().splitlines()[-1])
        path.write_text(json.dumps({**line, **wrong}) + "\n")
        with pytest.raises(StoreError, match=r"batches\.jsonl, line \d+, has"):
            keeping.settle(Settings.load(), "b", lost=True)
