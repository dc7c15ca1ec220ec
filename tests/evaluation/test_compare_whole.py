"""Whole comparisons, and every figure of them once more from the data and the answers alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.hosted import MODEL, connect
from support.provider import Provider
from support.recordings import TOOL
from support.rederive import rederive
from support.rederived import derived

from finetune_gateway import ChatReply, Gateway, Job, evaluation
from finetune_gateway.evaluation.comparison import Comparison
from finetune_gateway.evaluation.results import Difference

Json = dict[str, Any]
SHOP = "You answer for a parcel service."


def parcel_rows(count: int, first: int = 0) -> list[Json]:
    """Texts, numbers and calls, and now and then a second turn of the conversation before."""
    rows: list[Json] = []
    for number in range(first, first + count):
        asked = [{"role": "user", "content": f"Where is parcel {number} now?"}]
        reply: Json = {"role": "assistant", "content": f"Parcel {number} is on its way."}
        if number % 4 == 1:
            asked[0]["content"] = f"What do {number} stamps cost at 2 each?"
            reply["content"] = f"{number} * 2 = {number * 2}\n#### {number * 2}"
        more: Json = {}
        if number % 4 == 2:
            call = {"name": "track", "arguments": json.dumps({"parcel": number})}
            made = {"id": "c", "type": "function", "function": call}
            reply, more = {"role": "assistant", "tool_calls": [made]}, {"tools": [TOOL]}
        if number % 4 == 3 and len(rows) > 2:
            asked = [*rows[-3]["messages"][1:], {"role": "user", "content": f"And then, {number}?"}]
        rows.append({"messages": [{"role": "system", "content": SHOP}, *asked, reply], **more})
    return rows


def write(path: Path, rows: Sequence[Json]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


class Hosted:
    """Fine-tunes at a provider that know the answers of a file: each is right in a share of its
    rows, and so is their base."""

    def __init__(self, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PARCEL_KEY", provider.api_key)
        self.provider, self.host = provider, provider.root.partition("//")[2]
        key = {"api_key": None, "api_key_env": "PARCEL_KEY"}
        self.backend = connect(provider, profile="openai", poll_seconds=0.05, **key)

    def tuned(self, train: Path, data: Path, base: float, **shares: float) -> list[Job]:
        """Return a job for each share. Both sides know the rows of ``data``."""
        knows = {f":{name}:": {"file": str(data), "right": right} for name, right in shares.items()}
        self.provider.world.planted = {**knows, "gpt-": {"file": str(data), "right": base}}
        jobs = [
            Gateway().submit(train, model=MODEL, backend=self.backend, suffix=name)
            for name in shares
        ]
        for job in jobs:
            job.wait(timeout=60)
        return jobs

    def compare(self, models: Sequence[Any], data: Path, **options: Any) -> Comparison:
        keys = {self.host: "PARCEL_KEY"}
        return Gateway().compare(models, data, key_envs=keys, **options)


@pytest.fixture
def hosted(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosted]:
    with Provider() as provider:
        yield Hosted(provider, monkeypatch)


def untuned(name: str) -> list[str]:
    """Its base: bare, with the system prompt of the training, with a row of it."""
    return [f"{way}:{name}" for way in ("base", "prompt", "few-shot:1")]


def pair(comparison: Comparison, first: str, second: str) -> Difference:
    """The difference of two models in what decides."""
    by = comparison.verdict.measure
    found = [one for one in comparison.data.differences if one.measure == by]
    return next(one for one in found if {one.first, one.second} == {first, second})


class Longer:
    """A judge that likes what is shown first, unless the other answer is twice as long."""

    def chat(self, messages: list[Json], **sampling: Any) -> ChatReply:
        shown = re.findall(r"(?s)<answer [12] \w+>\n(.*?)\n</answer", messages[-1]["content"])
        better = "2" if len(shown[-1]) > 2 * len(shown[-2]) else "1"
        return ChatReply(text=json.dumps({"better": better, "reason": "so"}))


def test_every_figure_is_derived_again(hosted: Hosted, tmp_path: Path) -> None:
    """Two fine-tunes that are right as often, their base, and a recording: all figures follow from
    the data and the answers, and the two can't be told apart."""
    train = write(tmp_path / "train.jsonl", parcel_rows(20))
    data = write(tmp_path / "held_out.jsonl", parcel_rows(32, 100))
    first, second = hosted.tuned(train, data, base=0.2, first=0.85, second=0.85)
    kept = evaluation.record(first.result().model, data, backend=hosted.backend, name="r")
    names = [first, second, kept, *untuned(first.id)[::2]]
    comparison = hosted.compare(names, data, by="normalized_match", judge=Longer())
    found = derived(data, comparison)
    assert found["wrong"] == [] and found["given"] == {}
    assert sum(found["checked"].values()) > 800 and found["checked"]["page"] > 60
    assert found["checked"]["judge"] and found["checked"]["difference"] > 40
    keys = [model.key for model in comparison.data.models]
    same = pair(comparison, *keys[:2])
    assert same.better == "" and same.rows_needed and not comparison.verdict.decided
    assert "an't tell" in comparison.verdict.text
    assert pair(comparison, keys[0], keys[3]).better == keys[0]
    assert changes_unseen(data, comparison) == []


def changes_unseen(data: Path, comparison: Comparison) -> list[str]:
    """Change one figure of each kind after the other; return those that would not be seen."""
    path = comparison.folder / "comparison.json"
    whole = path.read_text("utf-8")
    unseen = []
    for change in CHANGES:
        shown = json.loads(whole)
        place, name = change(shown)
        value = place[name]
        more = value + 1 if isinstance(value, int) else float(value or 0) + 0.01
        place[name] = not value if isinstance(value, bool) else more
        path.write_text(json.dumps(shown), "utf-8")
        if not rederive(data, comparison.folder).wrong:
            unseen.append(name)
    path.write_text(whole, "utf-8")
    return unseen


def figure_of(shown: Json) -> Json:
    figures: Json = next(iter(shown["figures"].values()))
    found: Json = next(iter(figures.values()))["interval"]
    return found


def answers_of(shown: Json) -> Json:
    found: Json = next(iter(shown["answers"].values()))
    return found


CHANGES: Sequence[Callable[[Json], tuple[Json, str]]] = (
    lambda shown: (figure_of(shown), "high"),
    lambda shown: (shown["differences"][3]["interval"], "low"),
    lambda shown: (shown["differences"][0], "adjusted_p"),
    lambda shown: (shown["differences"][0], "rows_needed"),
    lambda shown: (answers_of(shown), "tokens_per_second"),
    lambda shown: (answers_of(shown), "usd_per_answer"),
    lambda shown: (shown["verdict"], "decided"),
    lambda shown: (shown["serving"]["ways"][0]["monthly_usd"], "expected"),
    lambda shown: (shown["serving"]["break_even"][0]["expected"]["spans"][-1], "first"),
)


# -- on data of others -----------------------------------------------------------------------


def split(source: Path, folder: Path, held_out: int) -> tuple[Path, Path]:
    """Rows to train on, and others that are asked."""
    lines = source.read_text("utf-8").splitlines(keepends=True)
    train, data = folder / "train.jsonl", folder / "held_out.jsonl"
    train.write_text("".join(lines[:40]), "utf-8")  # few: a machine of two cores trains on them
    data.write_text("".join(lines[-held_out:]), "utf-8")
    return train, data


@pytest.mark.chaos
@pytest.mark.shared
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name, by",
    [
        ("fireworks_text2sql/text2sql_dataset.jsonl", "normalized_match"),
        ("foundry_gsm8k_chat/chat_train.jsonl", "final_number"),
        ("foundry_stock_toolcall/stock_toolcall_training.jsonl", "tool_arguments"),
    ],
)
def test_every_figure_on_data_of_others(
    hosted: Hosted, shared: Path, tmp_path: Path, name: str, by: str
) -> None:
    """With models of this machine too: base, prompt, few-shot, LoRA and full beside two hosted
    fine-tunes without a real difference and a recording."""
    train, data = split(shared / "data" / name, tmp_path, 40)
    first, second = hosted.tuned(train, data, base=0.2, first=0.8, second=0.8)
    local = [
        Gateway().submit(
            train, model="builtin/tiny", backend="local", max_steps=2, training_type=kind
        )
        for kind in ("lora", "full")
    ]
    for job in local:
        job.wait(timeout=900)
    kept = evaluation.record(first.result().model, data, backend=hosted.backend, name="r")
    models = [first, second, kept, *local, *untuned(local[0].id), f"base:{first.id}"]
    comparison = hosted.compare(models, data, max_tokens=200)
    found = derived(data, comparison)
    print(json.dumps(found))
    print(comparison.verdict.text)
    assert found["wrong"] == [] and found["given"] == {}
    assert comparison.verdict.measure == by
    keys = [model.key for model in comparison.data.models]
    assert pair(comparison, keys[0], keys[1]).better == "" and not comparison.verdict.decided
    assert pair(comparison, keys[0], keys[3]).better == keys[0]
    assert "an't tell" in comparison.verdict.text
