"""The user's own metadata: sent where the host takes them, kept, shown, and filtered by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.provider import CREATE, Provider
from support.rows import chat_rows

from finetune_gateway import FakeBackend, Gateway, OpenAIBackend, SpecError

MODEL = "gpt-4.1-mini-2025-04-14"
TAGS = {"team": "support", "ticket": "A-1=2", "größe": ""}
OURS = "ftg_job_id"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(steps=1) as running:
        yield running


def wire(provider: Provider, **options: Any) -> OpenAIBackend:
    given = {"settle_seconds": 0.03, "poll_seconds": 0.005, "profile": "custom", **options}
    return OpenAIBackend(base_url=provider.url, api_key=provider.api_key, **given)


def test_metadata_are_sent_kept_and_shown(home: Path, provider: Provider) -> None:
    """Beside our own tag; another process reads them from the store."""
    job = Gateway().submit(chat_rows(10), model=MODEL, backend=wire(provider), metadata=TAGS)
    assert provider.jobs[0]["request"]["metadata"] == {**TAGS, OURS: job.id}
    assert Gateway(home).job(job.id).metadata == TAGS


def test_metadata_are_sent_after_a_doubt(home: Path, provider: Provider) -> None:
    """A create that was refused for now is sent later with the same metadata, once."""
    provider.fault(CREATE, "reset_before")
    job = Gateway().submit(chat_rows(10), model=MODEL, backend=wire(provider), metadata=TAGS)
    assert not provider.jobs and job.metadata == TAGS
    job.wait(30)
    assert [one["request"]["metadata"] for one in provider.jobs] == [{**TAGS, OURS: job.id}]


def test_metadata_make_no_other_job(home: Path) -> None:
    """The same job with other metadata is the same job; its first metadata stay, and it says so."""
    backend, gateway = FakeBackend(), Gateway()
    first, second, third = (
        gateway.submit(chat_rows(10), model="m", backend=backend, metadata=given)
        for given in (TAGS, {"team": "sales"}, None)
    )
    assert first.id == second.id == third.id and len(backend.started) == 1
    assert second.metadata == TAGS == backend.metadata[first.id]
    assert [event.message for event in second.events()] == [
        "It was submitted again with other metadata; those of the first submit stay."
    ]


def test_a_host_that_takes_none_gets_none(home: Path, provider: Provider) -> None:
    """Nebius documents no metadata of a create: kept here, and a note says so."""
    provider.world.any_model = True
    backend = wire(provider, profile="nebius")
    job = Gateway().submit(chat_rows(10), model="m", backend=backend, metadata=TAGS)
    assert provider.jobs[0]["request"]["metadata"] == {OURS: job.id}
    assert job.metadata == TAGS and "nebius takes no metadata" in job.events()[0].message


@pytest.mark.usefixtures("tiny_at_home")
def test_local_jobs_keep_them_in_the_run_folder(home: Path) -> None:
    job = Gateway().submit(chat_rows(10), model="builtin/tiny", backend="local", metadata=TAGS)
    job.cancel()
    run = json.loads((home / "runs" / job.id / "run.json").read_text("utf-8"))
    assert run["metadata"] == TAGS


def test_jobs_are_found_by_them(home: Path) -> None:
    """All pairs must be there, whole; a key with quotes or a path's signs is only a key."""
    gateway, backend = Gateway(), FakeBackend()
    given: list[dict[str, str]] = [
        {"a": "1"},
        {"a": "1", "b": "x"},
        {"a": "10"},
        {"$.a['\"": "%"},
        {},
    ]
    ids = [
        gateway.submit(chat_rows(10), model="m", backend=backend, again=True, metadata=one).id
        for one in given
    ]

    def found(metadata: dict[str, str]) -> set[int]:
        return {ids.index(job.id) for job in gateway.jobs(metadata=metadata)}

    assert found({"a": "1"}) == {0, 1} and found({"a": "1", "b": "x"}) == {1}
    assert found({"$.a['\"": "%"}) == {3} and found({}) == {0, 1, 2, 3, 4}
    assert found({"a": "2"}) == found({"b": "1"}) == set()
    assert len(gateway.jobs(metadata={"a": "1"}, limit=1)) == 1


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ("team=support", "pairs of a key and a text"),
        ([("a", "b")], "pairs of a key and a text"),
        ({f"k{number}": "v" for number in range(16)}, "16 pairs; at most 15"),
        ({"": "v"}, "1 to 64 characters"),
        ({"k" * 65: "v"}, "1 to 64 characters, not 65"),
        ({"k": "v" * 513}, "at most 512 characters, not 513"),
        ({"epoch": 3}, "metadata 'epoch' must be text, not 3. Write it as '3'."),
        ({"epoch": True}, "must be text"),
        ({"k": None}, "must be text, not None"),
        ({3: "v"}, "a key of metadata must be text"),
        ({OURS: "ftg-x"}, "set by the gateway"),
        ({"k": "a\nb"}, "control character"),
        ({"a\x1b[2J": "b"}, "control character"),
        ({"k": "\ud83d"}, "half of a character"),
    ],
)
def test_bad_metadata_are_refused_in_words(home: Path, metadata: Any, reason: str) -> None:
    """Before any file is read, and for the filter of a list too."""
    for call in (
        lambda: Gateway().submit("no-such-file", model="m", backend="fake", metadata=metadata),
        lambda: Gateway().jobs(metadata=metadata),
    ):
        with pytest.raises(SpecError) as caught:
            call()
        assert reason in str(caught.value) and str(caught.value).isprintable()


def test_the_most_that_the_contract_takes(home: Path, provider: Provider) -> None:
    """15 pairs of the longest key and value; with ours it is 16."""
    most = {f"{number:064}": "ü" * 512 for number in range(15)}
    Gateway().submit(chat_rows(10), model=MODEL, backend=wire(provider), metadata=most)
    assert len(provider.jobs[0]["request"]["metadata"]) == 16


def test_on_the_command_line(ftg: Ftg, tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(10)))
    submit = ("submit", str(data), "--model", "m", "--backend", "fake")
    done = ftg(*submit, "--metadata", "team=support", "--metadata", "note=a=b")
    assert done.returncode == 0
    job = done.stdout.strip()
    again = ftg(*submit, "--metadata", "team=sales")
    assert again.stdout.strip() == job and "keeps the metadata of its first" in again.stderr
    assert "metadata      team=support, note=a=b" in ftg("status", job).stdout
    listed = json.loads(ftg("list", "--json", "--metadata", "note=a=b").stdout)
    assert [one["metadata"] for one in listed] == [{"team": "support", "note": "a=b"}]
    none = ftg("list", "-q", "--metadata", "team=sales")
    assert none.returncode == 0 and not none.stdout
    for words, reason in [
        (["--metadata", "team"], "'team' is not KEY=VALUE"),
        (["--metadata", "a=1", "--metadata", "a=2"], "'a' is given twice"),
        (["--metadata", "=1"], "1 to 64 characters"),
    ]:
        for command in (submit, ("list",)):
            refused = ftg(*command, *words)
            assert refused.returncode == 2 and reason in " ".join(refused.stderr.split())
