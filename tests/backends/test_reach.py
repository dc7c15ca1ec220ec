"""What a plug-in says of its models and of itself: ``ftg models`` and ``ftg doctor``."""

from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from support.acme import Acme
from support.cli import Ftg
from support.plugins import installed
from support.provider import Provider

from finetune_gateway import BackendError, FakeBackend, OpenAIBackend
from finetune_gateway.backend import Health, seam

KEY = "sk-proj-4fJ2kLm9QwErTy7UiOp3AsDfGh5JkLz8"


class Down(Acme):
    def __init__(self) -> None:
        super().__init__()
        self.down = True


class Hangs(Acme):
    """Waits in both calls."""

    name = "hangs"
    never = threading.Event()

    def models(self) -> list[str]:
        self.never.wait(60)
        return []

    def health(self) -> Health:
        self.never.wait(60)
        return super().health()


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two that are well or ill, and one that hangs, for which there is a fifth of a second."""
    installed(tmp_path / "site", "support.acme:Acme")
    installed(tmp_path / "site", "backends.test_reach:Down", "down")
    installed(tmp_path / "site", "backends.test_reach:Hangs", "hangs")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(seam, "SCREEN_SECONDS", 0.2)
    monkeypatch.setattr("finetune_gateway.reports.catalog_text.MODELS_SECONDS", 0.2)


@pytest.mark.usefixtures("plugins")
def test_models_lists_those_of_a_plugin(ftg: Ftg) -> None:
    """Each once, as a table, as JSON, and alone."""
    done = ftg("models", "--backend", "acme")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:]] == [
        ["acme", "acme-small", "sft"],
        ["acme", "acme-large", "sft"],
    ]
    rows = json.loads(ftg("models", "--backend", "acme", "--json").stdout)
    assert [(one["model"], one["methods"]) for one in rows][1] == ("acme-large", ["sft"])
    assert ftg("models", "--backend", "acme", "-q").stdout.split() == ["acme-small", "acme-large"]


def test_a_backend_that_names_no_models_says_so(ftg: Ftg) -> None:
    """It is no error; a name that no backend has is one."""
    done = ftg("models", "--backend", "fake")
    assert (done.returncode, done.stdout) == (0, "")
    assert "fake does not say which models can be trained" in done.stderr
    assert ftg("models", "--backend", "fake", "--json").stdout.strip() == "[]"
    assert ftg("models", "--backend", "fakes").returncode == 102


@pytest.mark.usefixtures("plugins")
def test_models_of_one_that_hangs_are_an_error(ftg: Ftg) -> None:
    """In words, with the name."""
    done = ftg("models", "--backend", "hangs")
    assert done.returncode == 1 and "Backend 'hangs' gave no answer within 0.2 s" in done.stderr


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("name", "state", "said"),
    [
        ("acme", "ok", "api.acme.test answers (0.01 s)"),
        ("down", "error", "api.acme.test refuses the key [key]"),
        ("hangs", "error", "Backend 'hangs' gave no answer within 0.2 s."),
    ],
)
def test_doctor_asks_a_plugin(ftg: Ftg, name: str, state: str, said: str) -> None:
    """Its key and its reach, without the key; one that hangs is cut off."""
    done = ftg("doctor", "--backend", name, "--json")
    checks = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert (checks[name]["state"], checks[name]["found"]) == (state, said)


def test_hosts_of_our_contract_say_how_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the key they answer in a measured time; with another one they refuse it."""
    with Provider() as provider:
        well = OpenAIBackend(base_url=provider.url, api_key=provider.api_key).health()
        assert well.ok and "answers and accepts the key: " in well.detail
        assert well.latency_s is not None and well.latency_s > 0
        with pytest.raises(BackendError, match="key"):
            OpenAIBackend(base_url=provider.url, api_key="sk-other-key").health()
    open_today = OpenAIBackend(profile="openai").models()
    assert "gpt-4.1-mini-2025-04-14" in open_today
    monkeypatch.setenv("FTG_TODAY", "2027-02-01")
    assert OpenAIBackend(profile="openai").models() == []
    assert FakeBackend().health() is None


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("models", None),
        ("models", "acme-small"),
        ("models", ["acme\nsmall"]),
        ("models", [7]),
        ("health", "well"),
        ("health", Health.model_construct(ok="yes", detail="well")),
        ("health", Health.model_construct(ok=True, detail="")),
    ],
)
def test_answers_that_are_none_are_named(method: str, answer: Any) -> None:
    """By the backend and the method."""
    kind: Any = type("Odd", (Acme,), {method: lambda self: answer, "name": "odd"})
    with pytest.raises(BackendError, match=rf"{method}\(\) of backend 'odd'"):
        getattr(kind(), method)()


def test_health_that_cannot_be_is_left_out() -> None:
    """A time that is none, and what looks like a key."""
    odd = Health(ok=True, detail=f"Bearer {KEY} is\nfine", latency_s=float("nan"))
    kind: Any = type("Odd", (Acme,), {"health": lambda self: odd})
    seen = kind().health()
    assert (seen.detail, seen.latency_s) == ("Bearer [key] is fine", None)


def test_health_goes_through_json_and_keeps_what_is_new() -> None:
    """What a later version says beside is written again."""
    document = {"ok": True, "detail": "well", "latency_s": 0.5, "region": "eu"}
    health = Health.model_validate_json(json.dumps(document))
    assert json.loads(health.model_dump_json()) == document
    assert pickle.loads(pickle.dumps(health)) == health
