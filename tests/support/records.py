"""Jobs as the store keeps them."""

from __future__ import annotations

import time
from typing import Any

from finetune_gateway.jobs.records import JobRecord, StoredFile, new_job_id
from finetune_gateway.spec import TrainingSpec


def record(**changes: Any) -> JobRecord:
    now = time.time()
    values: dict[str, Any] = {
        "id": new_job_id(),
        "created_at": now,
        "name": "train.jsonl",
        "backend": "fake",
        "backend_options": {},
        "hosted": False,
        "spec": TrainingSpec(model="m"),
        "train": StoredFile(path="/x", sha256="0" * 64, rows=1, bytes=1),
        "submit_key": new_job_id(),
        "step_at": now,
    }
    return JobRecord(**{**values, **changes})
