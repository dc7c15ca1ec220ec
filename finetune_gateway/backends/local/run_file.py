"""What a run trains, and on which base: two files of its folder. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from finetune_gateway.backends.local.run_folder import RUN_FILE
from finetune_gateway.backends.local.variables import Shell
from finetune_gateway.errors import StoreError, validation_error_text
from finetune_gateway.model import Model
from finetune_gateway.settings import sealed
from finetune_gateway.spec import TrainingSpec

CHAT_TEMPLATE, BASE_FILE = "chat_template.jinja", "base.json"
START = "start"
AGAIN = "Restore it from a copy of yours and run: ftg resume. Or submit it again."


class Origin(BaseModel):
    """The model of an earlier job that a run trains on from (``spec.continue_from``).

    ``adapter``: sha256 of its files, which lie in ``start/``; empty for a model that was trained
    whole, which is the base. ``continued_from``: as in ``HandleData``.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    adapter: dict[str, str] = {}
    continued_from: tuple[str, ...]


class RunFile(BaseModel):
    """run.json: enough to reproduce the run."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    job_id: str
    spec: TrainingSpec
    train_sha256: str
    validation_sha256: str | None = None
    base_revision: str | None = None  # of a model of the hub, as it was checked
    origin: Origin | None = None
    chat_template_sha256: str | None = None  # of the copy of ``spec.chat_template``
    system_prompt: str | None = None
    metadata: dict[str, str] = {}
    tracker: dict[str, str] = {}  # variables of ``spec.report_to`` as they were at the submit
    shell: Shell = Shell()  # of the submit
    versions: dict[str, str]
    created_at: float

    @property
    def continued_from(self) -> list[str]:
        """The base and the trainings before this one; empty if it continues none."""
        return list(self.origin.continued_from) if self.origin else []


class BaseFile(Model):
    """base.json: what the base was recognised by when the run began."""

    revision: str | None = None
    sha256: str | None = None
    weights: str | None = None
    files: dict[str, str] | None = None


def read_run_file(folder: Path) -> RunFile:
    """Return what a run trains. Raises StoreError for a run.json that is gone or damaged."""
    path = folder / RUN_FILE
    try:
        return RunFile.model_validate(sealed.read(path, AGAIN))
    except FileNotFoundError:
        raise StoreError(f"{path} is gone.", hint=AGAIN) from None
    except ValidationError as exc:
        raise StoreError(f"{path} is damaged: {validation_error_text(exc)}.", hint=AGAIN) from None


def base_of(folder: Path) -> dict[str, Any]:
    """Return what the base of a run was recognised by when it began; nothing before that. Raises
    StoreError if that is damaged."""
    path = folder / BASE_FILE
    hint = (
        "If its base has stayed the same, delete this file and run: ftg resume. It is written "
        "anew. Or submit it again."
    )
    try:
        found = sealed.read(path, hint)
        BaseFile.model_validate(found)
    except FileNotFoundError:
        return {}
    except ValidationError as exc:
        raise StoreError(f"{path} is damaged: {validation_error_text(exc)}.", hint=hint) from None
    return found
