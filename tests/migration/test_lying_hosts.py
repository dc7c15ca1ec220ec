"""Hosts and files that lie about sizes, costs and places: what is spent is never told as less, no
list fills the memory, and no manifest leads out of its folder."""

from __future__ import annotations

import json
import shutil
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.hosted import connect
from support.provider import Provider
from support.recordings import CHAT, recorded, rows, tuned

from finetune_gateway import BackendError, BudgetError, migration
from finetune_gateway.backends.openai import archive, bounds, organization
from finetune_gateway.backends.openai.inventory import RequestCount
from finetune_gateway.errors import StoreError
from finetune_gateway.evaluation.costing import Costing, Prices
from finetune_gateway.evaluation.planning import RecordPlan
from finetune_gateway.evaluation.prompts import prompt_of
from finetune_gateway.jobs import fetched
from finetune_gateway.settings.home import Settings

UNTRUE: list[Any] = [
    None, {}, [], {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": 0},
    {"prompt_tokens": -9, "completion_tokens": -9},
    {"prompt_tokens": 10**9, "completion_tokens": 1},
    {"prompt_tokens": "9", "completion_tokens": "9"},
    {"prompt_tokens": 9, "completion_tokens": 1e300},
]  # fmt: skip


def test_a_usage_that_cannot_be_true_costs_the_most(home: Path) -> None:
    with Provider() as provider:
        for usage in UNTRUE:
            provider.fault(CHAT, "overlay", body={"usage": usage})
        kept = recorded(provider, rows(len(UNTRUE)), at_once=1)
    sent = [json.loads(line) for line in (kept.folder / "requests.jsonl").read_text().splitlines()]
    most = {line["id"]: Decimal(line["usd"]) for line in sent}
    assert {one.id: one.usd for one in kept.answers()} == most and all(most.values())
    assert kept.run is not None and kept.run.spent_usd == sum(most.values())


def test_what_cannot_be_counted_is_under_no_limit(home: Path) -> None:
    """A file in a prompt may have a hundred pages."""
    parts = [{"type": "text", "text": "Read it."}, {"type": "file", "file": {"file_id": "file-1"}}]
    data, notes = [{"messages": [{"role": "user", "content": parts}]}], list[str]()

    def read(plan: RecordPlan) -> bool:
        notes.extend(plan.notes)
        return False

    with Provider() as provider:
        with pytest.raises(BudgetError, match="parts of type file cost cannot be told"):
            recorded(provider, data, max_cost_usd="1")
        with pytest.raises(BudgetError, match="not confirmed"):
            recorded(provider, data, confirm=read)
    assert any("without parts of type file" in note for note in notes)


@pytest.mark.parametrize(
    ("model", "read"),
    [("gpt-4o-2024-08-06", 1445), ("gpt-4o-mini-2024-07-18", 48_169), ("gpt-4.1-nano", 3779)],
)
def test_an_image_costs_what_its_model_may_count(model: str, read: int) -> None:
    """A limit is held by the most that a request can cost."""
    text = {"type": "text", "text": "?"}
    image = {"type": "image_url", "image_url": {"url": "https://example.com/1.png"}}
    none, one = (
        prompt_of({"messages": [{"role": "user", "content": [text, *more]}]}, 1)
        for more in ([], [image])
    )
    assert none is not None and one is not None
    costing = Costing(model, Prices(None, None, None), 1)
    assert costing.tokens(one).high - costing.tokens(none).high == read


def test_a_prompt_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages of one stored completion, page after page."""
    monkeypatch.setattr(bounds, "within", partial(bounds.within, size=2_000_000))
    with Provider() as provider:
        for number in range(6):
            message = {"id": f"message-{number}", "content": "x" * 700_000}
            page = {"object": "list", "data": [message], "has_more": True}
            provider.fault("GET /chat/completions/*/messages", "body", body=page)
        with pytest.raises(BackendError, match="cut off after 2 MB"):
            archive.stored_messages(connect(provider), "chatcmpl-1")


def test_a_bill_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """All its pages together, each of which names another one."""
    monkeypatch.setattr(bounds, "within", partial(bounds.within, size=2_000_000))
    with Provider() as provider:
        for number in range(30):
            line = {"results": [{"line_item": "x" * 700_000}]}
            page = {"data": [line], "has_more": True, "next_page": f"page-{number}"}
            provider.fault("GET /organization/costs", "body", body=page)
        with pytest.raises(BackendError, match="cut off after 2 MB"):
            organization.costs(connect(provider), RequestCount(), 1.7e9)
        assert len(provider.requests) < 10


def test_a_manifest_leads_to_no_file_elsewhere(home: Path) -> None:
    """One that came with a copy of somebody's home: what it names is read, and sent when asked."""
    secret = home / "secret.txt"
    with Provider() as provider:
        model = tuned(provider)
        (job,) = migration.fetch(model, connect(provider, profile="openai")).jobs
        settings, folder = Settings.load(), Path(job.folder)
        text = (folder / fetched.MANIFEST).read_text()
        train = job.path("training")
        assert train is not None
        secret.write_bytes(train.read_bytes())
        for place in ("../../../secret.txt", str(secret), "..\\secret.txt", ".hidden"):
            named = text.replace(f'"{train.name}"', json.dumps(place))
            (folder / fetched.MANIFEST).write_text(named)
            assert named != text and fetched.find(settings, model) == []
        (folder / fetched.MANIFEST).write_text(text)
        train.unlink()
        train.symlink_to(secret)
        (manifest,) = fetched.find(settings, model)
        piece = manifest.piece("training")
        assert piece is not None
        found = fetched.path_of(settings, manifest, piece)
        assert found == settings.fetched / fetched.CONTENTS / piece.content


def test_nothing_is_called_removed_whose_rows_may_stay(home: Path, ftg: Ftg) -> None:
    """While the manifest of another fine-tune cannot be read, nobody knows which contents both
    share: the folder was removed, and every row stayed under the name of its content."""
    with Provider() as provider:
        first, second = provider.world.add_fine_tunes(2)
        migration.fetch(None, connect(provider, profile="openai"))
    (damaged,) = (home / "fetched").glob(f"*/{second['id']}/manifest.json")
    damaged.write_text("{")
    refused = ftg("rm", first["id"], "--yes")
    assert refused.returncode == StoreError.exit_code and "manifest.json" in refused.stderr
    assert len([*(home / "fetched").glob("*/*/manifest.json")]) == 2
    shutil.rmtree(damaged.parent)
    assert ftg("rm", first["id"], "--yes").returncode == 0
    assert [*(home / "fetched").rglob("*.*")] == []
