"""The rows of a comparison when none were named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.records import record
from support.rows import chat_rows

from finetune_gateway import Gateway, SpecError
from finetune_gateway.evaluation.default_rows import default_rows
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.jobs.records import JobRecord, StoredFile
from finetune_gateway.reports.comparison_view import rows_text


def stored(path: Path, count: int) -> StoredFile:
    path.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(count)), encoding="utf-8")
    return StoredFile(path=str(path), sha256="0" * 64, rows=count, bytes=path.stat().st_size)


def compared(job: JobRecord | None, model: str = "m") -> EvaluatedModel:
    paths = [Path(job.train.path)] if job else []
    return EvaluatedModel(
        "key", "n", "t", "hosted", "tuned", model, "b", job=job, training_data=paths
    )


def kept(**fields: Any) -> JobRecord:
    store = Gateway().store
    store.settings.create()
    job = record(**fields)
    store.add(job)
    return job


def test_the_held_out_rows_of_a_job(home: Path, tmp_path: Path) -> None:
    """Its validation file before the rows that were kept here, of the first model that has either;
    the words say whose they are."""
    files = {name: stored(tmp_path / f"{name}.jsonl", n) for n, name in enumerate("abcd", 2)}
    both = kept(train=files["a"], validation=files["b"], held_out=files["c"])
    own = kept(train=files["a"], held_out=files["d"])
    none = kept(train=files["a"])
    store = Gateway().store
    rows = default_rows([compared(None, "base"), compared(both), compared(own)], store)
    assert (len(rows.prompts), rows.words) == (3, f"the held-out rows of {both.id}")
    assert rows.dataset and rows.dataset.path == Path(files["b"].path)
    rows = default_rows([compared(none), compared(own)], store)
    assert (len(rows.prompts), rows.words) == (5, f"the rows that {own.id} has held out")
    with pytest.raises(SpecError, match=f"all that is here are the training rows of {none.id}"):
        default_rows([compared(none)], store)
    with pytest.raises(SpecError, match="none of the models has held-out rows here"):
        default_rows([compared(None)], store)


def test_held_out_rows_are_not_warned_of_for_their_form(home: Path, tmp_path: Path) -> None:
    """They are of the training's data: one sentence says so. The same rows as a file are."""
    path = tmp_path / "train.jsonl"
    rows = [
        {"prompt": f"Please say how much {n} plus {n} is", "completion": f"{2 * n}"}
        for n in range(120)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    job = Gateway().submit(path, model="any-model", backend="fake", n_epochs=1)
    job.result()
    found = Gateway().compare([job])
    assert not found.data.data.warnings and "form of the training rows" in rows_text(found.data)
    held_out = [{"messages": one.prompt.messages} for one in found.rows()]
    named = Gateway().compare([job], held_out)
    assert "one generator" in named.data.data.warnings[0] and not named.data.data.note
