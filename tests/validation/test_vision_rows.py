"""Rows with images, for models that are tuned on them and for others: said before any upload."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.provider import Provider

import finetune_gateway as gateway
from finetune_gateway import Gateway, OpenAIBackend
from finetune_gateway.errors import DataError
from finetune_gateway.estimation import profiles
from finetune_gateway.findings import Report
from finetune_gateway.validation.rules import RULES

PART = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": f"Which cat is {n}?"}, PART]},
            {"role": "assistant", "content": f"Cat number {n} of the house."},
        ]
    }
    for n in range(12)
]
MINI = "gpt-4.1-mini-2025-04-14"
VERDICTS = [
    # OpenAI's guide names one model; Azure's page says that there are two only.
    ("openai", "gpt-4o-2024-08-06", "accepted", ""),
    ("openai", "ft:gpt-4o-2024-08-06:acme::1", "accepted", ""),
    ("openai", MINI, "warned", "image_model"),
    ("openai", "gpt-4.1-nano", "warned", "image_model"),
    ("azure", "gpt-4o-2024-08-06", "accepted", ""),
    ("azure", "gpt-4.1", "accepted", ""),
    ("azure", MINI, "rejected", "image_model"),
    ("azure", "gpt-oss-20b", "rejected", "image_model"),
    # Of these hosts no source says anything.
    ("nebius", "Qwen/Qwen3-32B", "accepted", ""),
    ("custom", MINI, "accepted", ""),
    ("local", "builtin/tiny", "rejected", "image_local"),
    # Without a backend the known ones are judged for the model.
    (None, "gpt-4o-2024-08-06", "accepted", ""),
    (None, MINI, "rejected", "image_model"),
    (None, None, "accepted", ""),
]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as host:
        yield host


def grave(report: Report) -> set[str]:
    return {one.code for one in (*report.errors, *report.warnings)}


@pytest.mark.parametrize(("backend", "model", "outcome", "code"), VERDICTS)
def test_the_model_decides(
    home: Path, backend: str | None, model: str | None, outcome: str, code: str
) -> None:
    """An error where a source says that such a model is refused, else a warning or nothing."""
    report = gateway.validate(ROWS, backend=backend, model=model, quality=False)
    assert (report.outcome, grave(report)) == (outcome, {code} - {""})


def test_without_a_backend_the_finding_names_who_refuses(home: Path) -> None:
    """Azure refuses the model for images, OpenAI only does not name it."""
    (one,) = gateway.validate(ROWS, model=MINI, quality=False).errors
    assert (one.code, one.backends, one.count) == ("image_model", ["azure"], 12)


def test_estimate_and_submit_say_the_same(
    home: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is uploaded, and the error has the report."""
    monkeypatch.setenv("FTG_TODAY", "2026-12-01")
    backend = OpenAIBackend(base_url=provider.url, profile="azure", api_key=provider.api_key)
    for call in (gateway.estimate, Gateway().submit):
        with pytest.raises(DataError) as caught:
            call(ROWS, model=MINI, backend=backend)
        report = caught.value.report
        assert isinstance(report, Report) and {one.code for one in report.errors} == {"image_model"}
    assert provider.requests == [] and Gateway().jobs() == []


def test_a_plan_says_which_command_shows_the_warning(
    monkeypatch: pytest.MonkeyPatch, ftg: Ftg, tmp_path: Path
) -> None:
    """Without the model nothing would be said of the images."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    done = ftg("submit", str(path), "--model", MINI, "--backend", "openai", "--dry-run")
    assert f"ftg validate rows.jsonl --backend openai --model {MINI}" in " ".join(
        (done.stdout + done.stderr).split()
    )


def test_options_side_by_side_are_judged_each_for_its_model(home: Path) -> None:
    """A refusal of one model is none of the other, in whatever order."""
    models = (MINI, "gpt-4o-2024-08-06", "gpt-4.1-nano")
    found = gateway.estimate(ROWS, model=models, backend="azure")
    assert [one.error is None for one in found] == [False, True, False]


def test_rows_for_reinforcement_have_no_images_at_openai(home: Path) -> None:
    """Its own error says so; of other hosts none does."""
    rows = [row | {"answer": "a cat"} for row in ROWS]
    for backend, code in (("openai", {"image_reinforcement"}), ("custom", set[str]())):
        report = gateway.validate(rows, method="reinforcement", backend=backend, quality=False)
        assert {one.code for one in report.errors} == code


def test_the_rule_names_the_models_of_the_profiles() -> None:
    """Its words and the facts that decide are the same, and each has its source."""
    for name in ("openai", "azure"):
        images = profiles.load_profile(name).images
        assert images and all(model in RULES["image_model"].why for model in images.models)
        assert RULES["image_model"].families[name].source == images.source
