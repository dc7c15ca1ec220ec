"""Kept answers on the disk: what a model has answered in any comparison, so that it is asked, and
paid, once.

In ``answers/FINGERPRINT`` of the home folder, for this user alone; the fingerprint is that of host,
account, model and content of the weights:

==================  ==============================================================================
``about.json``      the model, and the jobs for which it was asked
``charges.jsonl``   what was reserved for runs: a killed one is settled by it
``requests.jsonl``  with ``answers.jsonl`` and ``errors.jsonl``: see ``jobs.requests``
==================  ==============================================================================

A request is known by the content of its messages, of what is sent beside them, such as tools, and
of its parameters, and by the number of the sample. What was asked is not in it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from finetune_gateway.errors import JobNotFinished, StoreError, validation_error_text
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt, fingerprint
from finetune_gateway.jobs import compared
from finetune_gateway.jobs.charges import Charge
from finetune_gateway.jobs.compared import ABOUT, CHARGES
from finetune_gateway.jobs.journal import Journal, read_lines, writing_alone
from finetune_gateway.jobs.requests import (
    ANSWERS,
    ERRORS,
    State,
    request_id,
    state_of,
)
from finetune_gateway.jobs.store import Store
from finetune_gateway.model import Model
from finetune_gateway.settings import files

Json = dict[str, Any]


class AboutAnswers(Model):
    """Whose answers are kept. ``jobs``: that it was asked for, as their model or its base."""

    model_config = ConfigDict(defer_build=True, protected_namespaces=())

    version: int = 1
    title: str
    model: str
    base_model: str
    host: str | None = None
    account: str | None = None
    base_content: str = ""
    jobs: list[str] = []
    created_at: float


def key_of(prompt: Prompt, parameters: Json, sample: int) -> str:
    """Return the id of a request: by what is sent, and the number of the sample."""
    return request_id(fingerprint([prompt.asked, parameters]), sample)


def is_kept(model: EvaluatedModel) -> bool:
    """Return True for a model whose content can be told: another one never reads its answers. Of a
    plug-in that is one of a job here."""
    of_job = model.handle is not None and bool(model.base_content)
    return model.kind in ("hosted", "local") or of_job


@dataclass(frozen=True)
class KeptAnswers:
    """The kept answers of one model."""

    store: Store
    name: str  # the fingerprint

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.store.settings.answers / self.name

    def state(self, run: str) -> State:
        """Return what has become of the requests; what was refused to another run is open."""
        return state_of(self.folder, run)

    def answers(self, keys: Collection[str]) -> dict[str, Json]:
        """Return the answers to these requests, as they were written down."""
        found = dict[str, Json]()
        for line in read_lines(self.folder / ANSWERS):
            if line["id"] in keys:
                found.setdefault(line["id"], line)
        return found

    def errors(self, keys: Collection[str], run: str) -> dict[str, str]:
        """Return the last error of each of these requests in this run."""
        lines = (line for line in read_lines(self.folder / ERRORS) if line.get("run") == run)
        return {line["id"]: str(line["message"]) for line in lines if line["id"] in keys}

    @contextmanager
    def writing(self, model: EvaluatedModel) -> Iterator[None]:
        """Hold the lock of these answers, and settle what dead processes have left. Raises
        JobNotFinished while another process asks the same model."""
        settings = self.store.settings.create()
        with writing_alone(compared.lock_of(settings, self.name), self.folder) as ours:
            if not ours:
                raise JobNotFinished(
                    f"Another process is asking {model.title} for answers.",
                    hint="Wait until it has ended, then run the same command again: its answers "
                    "are kept for both.",
                )
            self._write_about(model)
            compared.settle(self.store, self.folder)
            yield

    def _write_about(self, model: EvaluatedModel) -> None:
        """Write down whose answers these are. Raises StoreError."""
        old = self.about()
        jobs = {*(old.jobs if old else ()), *([model.job.id] if model.job else ())}
        if old and jobs == {*old.jobs}:
            return
        about = AboutAnswers(
            title=model.title,
            model=model.model,
            base_model=model.base_model,
            host=model.host,
            account=model.account,
            base_content=model.base_content,
            jobs=sorted(jobs),
            created_at=old.created_at if old else time.time(),
        )
        with files.storing("Answers cannot be kept", self.folder.parent):
            files.folder(self.folder)
            text = about.model_dump_json(indent=2) + "\n"
            files.write_atomic(self.folder / ABOUT, text, private=True)

    def about(self) -> AboutAnswers | None:
        """Return whose answers these are; None if there are none yet. Raises StoreError."""
        try:
            return AboutAnswers.model_validate_json((self.folder / ABOUT).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as exc:
            why = validation_error_text(exc) if isinstance(exc, ValidationError) else exc
            raise StoreError(
                f"{self.folder / ABOUT} cannot be read: {why}.",
                hint=f"Put a copy back, or remove the answers: ftg rm answers:{self.name}",
            ) from None

    # -- money -----------------------------------------------------------------------------------

    def note(self, charge: Charge) -> None:
        """Write down a charge before it is committed, so that a killed run can be settled."""
        with Journal(self.folder / CHARGES) as journal:
            journal.write({"charge": charge.id, "name": charge.name, "at": charge.created_at})
