"""Answers that are not of the contract end in errors of ours, write nothing outside the home, and
leave a home in which the next fetch goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.provider import Fault, Provider

from finetune_gateway import GatewayError, OpenAIBackend, migration

ENDPOINTS = (
    "GET /fine_tuning/jobs",
    "GET /files",
    "GET /files/*/content",
    "GET /fine_tuning/jobs/*/events",
    "GET /fine_tuning/jobs/*/checkpoints",
    "GET /chat/completions",
    "GET /chat/completions/*/messages",
    "GET /models",
    "POST /chat/completions",
)
SUCCEEDED = {"status": "succeeded", "fine_tuned_model": "ft:x"}
ITEMS: dict[str, list[Any]] = {
    "no objects": [1, None, "x", []],
    "ids of other types": [{"id": 5}, {"id": None}, {"id": ["a"]}],
    "ids that are paths": [
        {"id": "..", **SUCCEEDED},
        {"id": ".hidden", **SUCCEEDED},
        {"id": "a" * 250, **SUCCEEDED},
        {"id": "ftjob-1", **SUCCEEDED, "training_file": "../../etc", "validation_file": "a b"},
    ],
    "fields of other types": [
        {"id": "ftjob-1", "status": 5, "fine_tuned_model": ["x"], "result_files": "abc"},
        {"id": "ftjob-2", **SUCCEEDED, "training_file": {"id": 1}, "result_files": [None, 3]},
        {"id": "c", "fine_tuned_model_checkpoint": 7, "step_number": "x", "choices": [5]},
    ],
    "odd figures": [
        {"id": "e", "type": "metrics", "data": {"step": 1e308 * 10, "train_loss": "NaN"}},
        {"id": "f", "type": "metrics", "data": {"step": True}},
        {"id": "g", "type": "metrics", "data": {"step": 3, "loss": [1]}},
    ],
}
BODIES: dict[str, Any] = {
    **{name: {"data": items, "has_more": False} for name, items in ITEMS.items()},
    "a list": [],
    "nothing": {},
    "no data": {"data": None},
    "more of nothing": {"data": [], "has_more": "yes"},
    "a number": 5,
    "no JSON": b"\xff\xfe{",
    "an error": {"error": {"message": "no"}},
}


@pytest.mark.chaos
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_odd_answers_end_in_errors_of_ours(
    endpoint: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_gateway.migration.adding.COLD_SECONDS", 0.0)
    for name, body in BODIES.items():
        with Provider() as provider:
            monkeypatch.setenv("HOST_PASS", provider.api_key)
            monkeypatch.setenv("FTG_HOME", str(home / name))
            tune = provider.world.add_fine_tune()
            model = tune["fine_tuned_model"]
            provider.world.add_stored(model, [{"role": "user", "content": "?"}])
            host = OpenAIBackend(base_url=provider.url, api_key_env="HOST_PASS")
            provider.fault(endpoint, *[Fault("body", body=body)] * 30)
            calls = (
                partial(migration.fetch, None, host, stored=True),
                partial(migration.add_model, model, host),
            )
            for call in calls:
                try:
                    call()
                except GatewayError as exc:
                    assert exc.message, name
            provider.faults.clear()
            archive = migration.fetch(tune["id"], host, stored=True)
            assert archive.complete, name
            assert {Path(path).parents[2] for path in archive.jobs[0].paths.values()} == {
                home / name / "fetched"
            }


def test_a_key_that_is_shown_no_list_is_named_beside_what_another_has_saved(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For whatever reason: what it would have shown is not saved."""
    shop = "sk-shop-0123456789abcdef"
    monkeypatch.setenv("SHOP_PASS", shop)
    with Provider(keys={shop: "main"}) as provider:
        monkeypatch.setenv("MAIN_PASS", provider.api_key)
        provider.world.add_fine_tune()
        provider.fault("GET /fine_tuning/jobs", Fault("status", status=403))
        names = ("SHOP_PASS", "MAIN_PASS")
        hosts = [OpenAIBackend(base_url=provider.url, api_key_env=name) for name in names]
        archive = migration.fetch(None, hosts)
        assert [(one.key, one.kinds) for one in archive.refused] == [("SHOP_PASS", ("jobs",))]
        assert archive.counts["saved"] and not archive.complete
        assert migration.fetch(None, hosts).complete
