"""A job of this machine that has succeeded, as its worker leaves it, without a training: an adapter
beside files that are nobody's business, and what must never be sent of it."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.comparisons import comparison
from support.records import record
from support.rows import chat_rows
from support.safetensors import weights

from finetune_gateway import Gateway, ModelHandle
from finetune_gateway.evaluation import comparison as comparisons
from finetune_gateway.events import Event, JobStatus, Result, Snapshot
from finetune_gateway.jobs.records import JobRecord, StoredFile
from finetune_gateway.settings.files import sha256_of
from finetune_gateway.spec import TrainingSpec

BASE, REVISION = "acme/base-3b", "5d" * 20
SYSTEM = "You are the desk of Zanzibar Lamps; discounts need the word of Mrs Okonkwo."
ANSWER = "Your parcel to Quetzaltenango left at noon."
KEY = "hf_thisIsTheTokenOfTheTest0123456789"


@dataclass(frozen=True)
class Published:
    """The job, and its home."""

    home: Path
    job: JobRecord

    @property
    def folder(self) -> Path:
        return self.home / "runs" / self.job.id / "model"

    @property
    def handle(self) -> ModelHandle:
        return Gateway().job(self.job.id).handle()

    def secrets(self) -> list[bytes]:
        """What may be in nothing that leaves the machine: rows, texts, paths, the machine's name,
        the key."""
        said = [m["content"] for row in chat_rows(12) for m in row["messages"]]
        names = [str(self.home), str(Path.home()), socket.gethostname(), "train.jsonl"]
        return [text.encode() for text in (*said, *names, SYSTEM, "Okonkwo", ANSWER, KEY)]


def publishable(home: Path, tokenizer: Path, *, base: str = BASE, **changes: Any) -> Published:
    """A job with its adapter. ``base``: a name on the Hub, or a folder. ``changes``: of its
    result."""
    gateway = Gateway()
    gateway.settings.create()
    revision = None if Path(base).is_absolute() else REVISION
    spec = TrainingSpec(model=base, learning_rate=2e-4, n_epochs=2, suffix="zanzibar")
    train = home / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(12)), "utf-8")
    kept = StoredFile(path=str(train), sha256=sha256_of(train), rows=12, bytes=1234)
    job = record(
        backend="local", spec=spec, train=kept, system_prompt=SYSTEM, status=JobStatus.RUNNING,
        step="sent",
    )  # fmt: skip
    job = job.model_copy(update={"provider_id": job.id})
    gateway.store.add(job)
    folder = home / "runs" / job.id / "model"
    _fill(folder, tokenizer, base)
    losses = [("train_loss", (2.5, 1.75, 0.875)), ("valid_loss", (2.25, 1.5, 1.0))]
    events = [
        Event(id=f"{name}-{step}", type="metrics", data={"step": step, name: loss})
        for name, values in losses
        for step, loss in enumerate(values, 1)
    ]
    result = Result(
        kind="adapter",
        model=str(folder),
        base_revision=revision,
        base_sha256=None if revision else "ab" * 32,
        template_hash=sha256_of(folder / "chat_template.jinja"),
        first_answer=ANSWER,
        metrics={"step": 3, "train_loss": 0.875},
        warnings=[f"The first answer is {ANSWER!r} over and over: the model is ruined."],
    )
    ended = Snapshot(
        status=JobStatus.SUCCEEDED, events=events, trained_tokens=4321,
        result=result.model_copy(update=changes),
    )  # fmt: skip
    gateway.store.apply(job.id, ended, None)
    gateway.job(job.id).handle().save(folder, private=True)
    return Published(home, gateway.store.get(job.id))


def compared_with_base(published: Published, folder: Path) -> None:
    """Keep a comparison of its model with its base and with others."""
    made = comparison(folder, rows=20, models=5)
    job = published.job
    ours = {"job_id": job.id, "name": job.id, "model": str(published.folder), "title": SYSTEM}
    base = {"base_model": job.spec.model}
    models = [
        one.model_copy(update={"tuned": {**ours, **base}, "base": base}.get(one.key, {}))
        for one in made.data.models
    ]
    data = made.data.model_copy(update={"models": models, "command": f"cd {published.home}"})
    comparisons.keep(Gateway().settings, data, made.rows(), made.answers())


def _fill(folder: Path, tokenizer: Path, base: str) -> None:
    """Write the files of a result, and others that training leaves."""
    shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns("config.json"))
    config = {
        "base_model_name_or_path": base,
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ["q_proj", "v_proj"],
        "revision": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    (folder / "adapter_model.safetensors").write_bytes(weights("lora_A", "lora_B"))
    about = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    about["name_or_path"] = str(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(about), "utf-8")
    template = about.pop("chat_template", "{{ messages }}")
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    for name in ("training_args.bin", "optimizer.pt", "trainer_state.json", "train.jsonl"):
        (folder / name).write_text(f"{SYSTEM} {chat_rows(1)}", "utf-8")
