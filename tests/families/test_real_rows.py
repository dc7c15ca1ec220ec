"""Real rows with tools, reasoning and refusals: what a preview calls trained is what the trainer's
batch holds, decoded, for eight families. So it is of pairs and labelled answers, for three."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from families.folders import write_folder
from families.sources import trl
from support.paths import SHARED_DATA
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

import finetune_gateway as gateway
from finetune_gateway.backend import DataFile
from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.backends.local.counting import template_of
from finetune_gateway.backends.local.encoding import encode_rows
from finetune_gateway.backends.local.run import Run
from finetune_gateway.data.canonical import as_sent
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(not SHARED_DATA.exists(), reason="needs ../shared/data"),
]
FAMILIES = (
    "qwen3", "qwen3_5_think", "qwen2_5", "llama3_1", "gemma4_v5", "gptoss", "glm4moe",
    "nemotron_3_nano",
)  # fmt: skip
LIMIT = 2048
CONFIG = {"model_type": "llama", "max_position_embeddings": LIMIT}


def real_rows() -> Iterator[dict[str, Any]]:
    """Yield rows with calls of tools, ShareGPT's among them, and plain ones; every third answer
    gets reasoning, every fourth plain one is a refusal."""
    calls = SHARED_DATA / "foundry_stock_toolcall" / "stock_toolcall_training.jsonl"
    yield from map(json.loads, calls.read_text("utf-8").splitlines()[:30])
    glaive = SHARED_DATA / "llamafactory_glaive_toolcall_en" / "glaive_toolcall_en_demo.json"
    for row in islice(Dataset.open(glaive).rows(), 30):
        yield row.data
    chats = next((SHARED_DATA / "foundry_gsm8k_chat").glob("*train*.jsonl"))
    for number, line in enumerate(chats.read_text("utf-8").splitlines()[:12]):
        row = json.loads(line)
        answer = row["messages"][-1]
        if number % 3 == 0:
            answer["reasoning_content"] = "I add the numbers."
        elif number % 4 == 0:
            answer |= {"refusal": answer["content"], "content": None}
        yield row


def written(folder: Path) -> Path:
    """Write the rows as a job sends them."""
    path = folder / "rows.jsonl"
    path.write_text(
        "".join(json.dumps(as_sent(row)) + "\n" for row in real_rows()), encoding="utf-8"
    )
    return path


def a_run(home: Path, spec: TrainingSpec, data: Path) -> Run:
    """Return a run on the rows of a file; nothing trains it."""
    backend = LocalBackend()
    backend.bind(Settings.load(home))
    raw = data.read_bytes()
    file = DataFile(data, hashlib.sha256(raw).hexdigest(), raw.count(b"\n"), len(raw))
    backend._write_folder(backend.queue.folder("job"), "job", spec, file, None, {})
    backend.queue.add("job")
    return Run(Settings.load(home), "job", backend.queue.get("job").fence)


def batches(home: Path, spec: TrainingSpec, data: Path, folder: Path) -> list[torch.Tensor]:
    """Return the labels of the batches that the trainer makes of the rows that it can read."""
    run = a_run(home, spec, data)
    encoded = encode_rows(run, run.train, template_of(spec, folder), LIMIT)
    collate = DataCollatorForLanguageModeling(pad_token_id=0)
    found = list(encoded.rows)
    return [collate(found[start : start + 4])["labels"] for start in range(0, len(found), 4)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_batch_holds_what_the_preview_shows(home: Path, tmp_path: Path, family: str) -> None:
    """Rows that the template refuses are refused by both."""
    source = next(one for one in trl() if one.name == family)
    folder = write_folder(tmp_path / family, source.text)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    data = written(tmp_path)
    spec = TrainingSpec.build(model=str(folder), max_length=LIMIT)
    spec = LocalBackend().resolve(spec, Dataset(data))
    shown = gateway.preview(data, model=str(folder), rows=range(1, 73), max_length=LIMIT)
    read = [one for one in shown if one.ok]
    assert len(read) >= 40
    kept = [
        f"{line}\n"
        for line, one in zip(data.read_text("utf-8").splitlines(), shown, strict=True)
        if one.ok
    ]
    data.write_text("".join(kept), encoding="utf-8")
    seen = [
        text
        for one in read
        for sequence in one.sequences
        if (text := [token.id for token in sequence.tokens if token.trained])
    ]
    labels = [
        [int(label) for label in row if label != -100]
        for batch in batches(home, spec, data, folder)
        for row in batch
    ]
    assert labels == seen
    tokenizer = template_of(spec, folder).tokenizer
    texts = [tokenizer.decode(row, skip_special_tokens=False) for row in labels]
    assert any("I add the numbers." in text for text in texts) == (family not in NO_REASONING)


NO_REASONING = ("qwen2_5", "llama3_1")
JUDGED = {
    "dpo": "foundry_orca_dpo/validation.jsonl",
    "kto": "llamafactory_kto_en/kto_en_demo.json",
}


@pytest.mark.parametrize("method", JUDGED)
@pytest.mark.parametrize("family", ["qwen3", "llama3_1", "gptoss"])
def test_what_is_compared_is_what_the_preview_shows(
    home: Path, tmp_path: Path, family: str, method: Any
) -> None:
    """Pairs, and answers with a label; what the preview leaves out is left out."""
    source = next(one for one in trl() if one.name == family)
    folder = write_folder(tmp_path / family, source.text)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    rows = [
        as_sent(row.data) for row in islice(Dataset.open(SHARED_DATA / JUDGED[method]).rows(), 40)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = TrainingSpec.build(model=str(folder), method=method, max_length=400)
    spec = LocalBackend().resolve(spec, Dataset(data))
    shown = gateway.preview(data, model=str(folder), rows=range(1, 41), max_length=400)
    seen = [
        [token.id for token in sequence.tokens if token.trained]
        for one in shown
        for sequence in one.sequences
    ]
    run = a_run(home, spec, data)
    encoded = encode_rows(run, run.train, template_of(spec, folder), 400)
    labels = [
        [label for label in row[name] if label != -100]
        for row in encoded.rows
        for name in ("labels", "chosen_labels", "rejected_labels")
        if name in row
    ]
    assert labels == [one for one in seen if one]
    assert 0 < encoded.dropped < 40 and len(encoded.rows) + encoded.dropped == 40
