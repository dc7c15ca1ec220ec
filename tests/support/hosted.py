"""What the tests of the hosted backend share: a backend, data, and the way through a job."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.provider import Provider

from finetune_gateway.backend import DataFile
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.events import JobStatus, Snapshot
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.spec import TrainingSpec

if TYPE_CHECKING:
    from finetune_gateway.backend import Intent

MODEL = "gpt-4.1-mini-2025-04-14"
SPEC = TrainingSpec(model=MODEL)
ROW = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}
EVENTS = "GET /fine_tuning/jobs/*/events"
RETRIEVE = "GET /fine_tuning/jobs/*"
LIST = "GET /fine_tuning/jobs"


def connect(provider: Provider, **options: Any) -> OpenAIBackend:
    given = {"base_url": provider.url, "api_key": provider.api_key, "request_timeout": 5.0}
    return OpenAIBackend(**{**given, **options})


def data_file(path: Path, rows: int = 10, start: bytes = b"") -> DataFile:
    raw = start + (json.dumps(ROW) + "\n").encode() * rows
    path.write_bytes(raw)
    return DataFile(path, hashlib.sha256(raw).hexdigest(), rows, len(raw))


def sent(backend: OpenAIBackend, file: DataFile) -> DataFile:
    return dataclasses.replace(file, remote_id=backend.upload(file))


def intent(job_id: str, file: DataFile | None = None, **fields: Any) -> Intent:
    """What a job of this file is looked for by, a minute after it was sent."""
    # Imported here: tests/trust.py runs tests on commits that have none.
    from finetune_gateway.backend import Intent

    train = file or DataFile(Path("none.jsonl"), "0" * 64, 10, 100)
    return Intent(job_id, SPEC, train, **{"sent_at": time.time() - 60, **fields})


def begin(backend: OpenAIBackend, file: DataFile, job_id: str = "job-1", **spec: Any) -> str:
    asked = TrainingSpec(model=MODEL, **spec)
    return backend.start(job_id, asked, sent(backend, file), None)


def poll_until(backend: OpenAIBackend, provider_id: str, status: JobStatus) -> list[Snapshot]:
    shots, cursor = [], None
    for _ in range(20):
        shots.append(backend.poll(provider_id, cursor))
        cursor = shots[-1].cursor
        if shots[-1].status is status:
            return shots
    raise AssertionError(f"never {status}: {[shot.status for shot in shots]}")


def ids(shots: list[Snapshot]) -> list[str]:
    return [event.id for shot in shots for event in shot.events]


def handle_of(model: str) -> ModelHandle:
    return ModelHandle(kind="hosted", model=model, base_model=MODEL, backend="openai")


@contextmanager
def no_crash() -> Iterator[None]:
    """Any exception inside is a failed assertion."""
    try:
        yield
    except Exception as exc:
        raise AssertionError(f"{type(exc).__name__}: {exc!a}") from exc


def wait_for(look: Callable[[], str | None]) -> str | None:
    deadline = time.monotonic() + 5
    while (found := look()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
