"""Personal data and secrets go to a host only if allowed; what stops a submit is said in full."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.provider import Provider

from finetune_gateway import FakeBackend, Gateway, OpenAIBackend, PrivateDataError

MODEL = "gpt-4.1-mini-2025-04-14"
KEY = "sk-proj-" + "aB3dE5gH7jK9mN1pQ3sT5vX7z"
ADDRESS = "maria.lopez@acme-shop.com"
Rows = Callable[[int], list[dict[str, Any]]]


def private_rows(rows: Rows) -> list[dict[str, Any]]:
    """Twelve rows: an address in lines 3 and 5, a telephone number in 5, a key in 8."""
    data = rows(12)
    data[2]["messages"][0]["content"] = f"Write to {ADDRESS} please."
    data[4]["messages"][0]["content"] = f"Write to {ADDRESS} or call +49 30 901820."
    data[7]["messages"][1]["content"] = f"Your key is {KEY}."
    return data


def hosted(provider: Provider) -> OpenAIBackend:
    return OpenAIBackend(
        base_url=provider.url, profile="custom", api_key=provider.api_key,
        request_timeout=1.0, settle_seconds=0.2, poll_seconds=0.05,
    )  # fmt: skip


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as host:
        yield host


def test_the_error_names_kinds_and_lines_and_ways_out(
    home: Path, rows: Rows, provider: Provider
) -> None:
    """In its text and in its attributes; nothing is sent, and no value is repeated."""
    with pytest.raises(PrivateDataError) as raised:
        Gateway().submit(private_rows(rows), model=MODEL, backend=hosted(provider))
    error, text = raised.value, str(raised.value)
    assert provider.requests == [] and Gateway().jobs() == []
    ((_, found),) = error.found.items()
    assert {(one.code, one.kind, *one.lines) for one in found} == {
        ("pii", "an e-mail address", 3, 5),
        ("pii", "a telephone number", 5),
        ("secret", "a key or token", 8),
    }
    for words in ("an e-mail address in messages[0].content, lines 3, 5", "line 8", error.host,
                  "allow_pii=True", "allow_secrets=True", "--backend local"):  # fmt: skip
        assert words in text
    assert "maria" not in text and KEY[:12] not in text


def test_what_stands_for_nobody_stops_no_submit(home: Path, rows: Rows, provider: Provider) -> None:
    """Names and numbers kept for examples, in texts and in the description of a tool: a note."""
    data = rows(12)
    data[2]["messages"][0]["content"] = "Write to ann@example.com or boss@company.com."
    data[4]["messages"][0]["content"] = "Pay with 4242 4242 4242 4242, or call (212) 555-0142."
    about = "Sends an e-mail to an address like yourname@yourdomain.com, or calls 212-555-0199."
    tool = {"name": "send", "description": about, "parameters": {"type": "object"}}
    data[6]["tools"] = [{"type": "function", "function": tool}]
    job = Gateway().submit(data, model=MODEL, backend=hosted(provider))
    assert job.record.provider_id and job.record.allowed == {}


def test_personal_data_that_is_allowed_takes_no_secret_with_it(
    home: Path, rows: Rows, provider: Provider
) -> None:
    """Each is allowed for itself, and the job remembers what went."""
    data, gateway = private_rows(rows), Gateway()
    for one, stopped in (("allow_pii", {"secret"}), ("allow_secrets", {"pii"})):
        with pytest.raises(PrivateDataError) as raised:
            allowed: dict[str, Any] = {one: True}
            gateway.submit(data, model=MODEL, backend=hosted(provider), **allowed)
        (found,) = raised.value.found.values()
        assert {finding.code for finding in found} == stopped
        assert f"{one}=True" not in raised.value.hint
    assert provider.requests == []
    job = gateway.submit(
        data, model=MODEL, backend=hosted(provider), allow_pii=True, allow_secrets=True
    )
    went = {"an e-mail address": 2, "a telephone number": 1, "a key or token": 1}
    assert gateway.job(job.id).record.allowed == went
    kept_here = gateway.submit(data, model="m", backend=FakeBackend())
    assert kept_here.record.allowed == {}


def test_the_screen_says_why_it_stops_and_status_what_was_allowed(
    ftg: Ftg, rows: Rows, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kinds, lines and flags, also for a validation file."""
    monkeypatch.setenv("OPENAI_API_KEY", provider.api_key)
    train, held_out = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    train.write_text("\n".join(map(json.dumps, rows(12))))
    held_out.write_text("\n".join(map(json.dumps, private_rows(rows)[4:])))
    command = [
        "submit", str(train), "--validation-file", str(held_out), "--model", MODEL, "--yes",
        "--backend", "openai", "--base-url", provider.url, "--profile", "custom",
        "--train-price", "1",
    ]  # fmt: skip
    stopped = ftg(*command)
    assert stopped.returncode == 3 and provider.requests == []
    for words in ("held.jsonl", "An e-mail address", "line 1", "A key or token", "line 4",
                  "--allow-pii", "--allow-secrets"):  # fmt: skip
        assert words in stopped.stderr
    assert max(map(len, stopped.stderr.split("hint:")[0].splitlines())) <= 100
    document = json.loads(ftg(*command, "--json").stdout)
    assert document["error"]["type"] == "PrivateDataError"
    assert document["found"]["held.jsonl"][0]["kind"] == "an e-mail address"
    done = ftg(*command, "--allow-pii", "--allow-secrets")
    assert done.returncode == 0
    shown = " ".join(ftg("status", "latest").stdout.split())
    assert "sent anyway an e-mail address (1 time), a telephone number (1 time)" in shown
