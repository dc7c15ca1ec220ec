"""What a plug-in says is stored and shown: without a key that it has read by itself, and without
what steers a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_gateway import BackendError, FakeBackend, Gateway
from finetune_gateway.backend import (
    Capabilities,
    ChatReply,
    Event,
    HandleData,
    Health,
    Result,
    Snapshot,
)

KEY = "acme-4f9Q81xTzPlm20"  # nothing but the name of its variable says that it is one
CLEAR = "\x1b[2J"


class Talking(FakeBackend):
    """Reads its key in the environment, and says it wherever it says anything."""

    name = "talking"
    place_key = account_key = ""

    def options(self) -> dict[str, Any]:
        return {}

    @property
    def display_name(self) -> str:
        return f"Acme {CLEAR}{KEY}"

    def capabilities(self, model: str | None = None) -> Capabilities:
        limits = super().capabilities(model)
        return Capabilities(**{**vars(limits), "notes": (f"{CLEAR}with {KEY}",)})

    def place(self) -> dict[str, Any]:
        return {"host": f"https://acme.example/{self.place_key}"}

    def account(self) -> str | None:
        return f"account {self.account_key}"

    def health(self) -> Health:
        return Health(ok=True, detail=f"It took {KEY}{CLEAR}.")

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        event = Event(id="1", message=f"{CLEAR}Sent {KEY}", data={"sent": [KEY]})
        result = Result(kind="hosted", model=f"model-of-{KEY}", warnings=[f"{KEY} was used"])
        status: Any = "succeeded"
        return Snapshot(status=status, raw_status=KEY, events=[event], cursor="1", result=result)


@pytest.fixture
def talking(home: Path, monkeypatch: pytest.MonkeyPatch) -> Talking:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    return Talking()


def test_a_key_of_the_environment_is_neither_stored_nor_shown(
    talking: Talking, home: Path, train_file: Path
) -> None:
    """In events, errors, results, names, notes; of a model's name the rest is kept."""
    gateway = Gateway()
    job = gateway.submit(train_file, model="m", backend=talking).wait(30)
    said = [job.to_dict(), [one.model_dump() for one in job.events()], talking.health()]
    assert job.status == "succeeded" and job.record.result
    assert job.record.result.model == "model-of-[key]"
    said += [talking.capabilities().notes, talking.display_name]
    assert KEY not in repr(said) and "\x1b" not in "".join(map(str, said[2:]))
    gateway.close()
    assert not [
        one for one in home.rglob("*") if one.is_file() and KEY.encode() in one.read_bytes()
    ]


@pytest.mark.parametrize("where", ["place", "account"])
def test_what_finds_jobs_and_files_again_holds_no_key(
    talking: Talking, where: str, train_file: Path
) -> None:
    """It is stored as it is, so with a key in it nothing is bought."""
    setattr(talking, f"{where}_key", KEY)
    with pytest.raises(BackendError, match=f"{where}\\(\\).*key or password"):
        Gateway().submit(train_file, model="m", backend=talking)
    assert talking.started == []


def test_what_is_no_key_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths, numbers and short words of such variables are parts of other texts."""
    for value in ("/etc/ssl/private/acme.pem", "1700000000000000000", "production"):
        monkeypatch.setenv("ACME_KEY", value)
        error = BackendError(f"It said {value}.")

        class Failing(FakeBackend):
            def health(self) -> Health:
                raise error  # noqa: B023 - called in this turn

        with pytest.raises(BackendError, match=value):
            Failing().health()


HALF = "Training \ud83d"


class Cutting(FakeBackend):
    """Hands on what a host has cut in the middle of a character."""

    name = "cutting"

    def options(self) -> dict[str, Any]:
        return {}

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        event = Event(id="1", message=HALF, data={HALF: [HALF]})
        found = super().poll(provider_id, cursor)
        changes: dict[str, Any] = {"events": [event], "phase": HALF, "raw_status": HALF}
        if found.result is not None:
            changes["result"] = found.result.model_copy(update={"warnings": [HALF]})
        return found.model_copy(update=changes)

    def open(self, handle: HandleData) -> Any:
        return Halves()


class Halves:
    """Answers with halves of characters, some of which come together."""

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        return ChatReply(text=HALF)

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]:
        yield from ("It is \ud83d", "\ude00", " well\ude00", "", "\ud83d")


def test_half_a_character_breaks_no_poll_and_no_answer(home: Path, train_file: Path) -> None:
    """It is stored, and said, as an escape; two halves in two pieces are one character."""
    job = Gateway(home).submit(train_file, model="m", backend=Cutting())
    handle = job.result(30)
    assert [event.message for event in job.events() if event.id.endswith("1")]
    told = json.dumps([job.to_dict(), [one.model_dump() for one in job.events()], handle.warnings])
    assert "Training \\\\ud83d" in told and "\\ud83d" not in told.replace("\\\\ud83d", "")
    assert handle.chat("Hello").text == "Training \\ud83d"
    pieces = list(handle.stream("Hello"))
    assert "".join(pieces) == "It is \U0001f600 well\\ude00\\ud83d"
