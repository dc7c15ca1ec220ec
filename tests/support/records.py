"""Jobs as the store keeps them."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune_gateway import Gateway
from finetune_gateway.errors import BudgetError
from finetune_gateway.jobs import planning
from finetune_gateway.jobs.planning import Plan
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


def write_down(g: Gateway, file: Path, **options: Any) -> None:
    """Store the intent of a submit, and no more: as if its process had died then."""

    def confirm(plan: Plan) -> bool:
        intent = planning.intent(plan, g.settings.create().files)
        keep = getattr(planning, "keep", lambda *_: None)  # not there before (tests/trust.py)
        g.store.add(intent, lambda: keep(plan, g.settings.files))
        return False

    with suppress(BudgetError):
        g.submit(file, confirm=confirm, **options)
