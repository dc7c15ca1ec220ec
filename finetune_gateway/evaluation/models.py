"""A model that is compared: which it is, who answers for it, and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_gateway.evaluation import framing
from finetune_gateway.evaluation.prompts import Prompt, fingerprint
from finetune_gateway.evaluation.results import ComparedFacts, Kind, Variant

if TYPE_CHECKING:
    from finetune_gateway.backends.openai.backend import OpenAIBackend
    from finetune_gateway.data.dataset import Dataset
    from finetune_gateway.evaluation.recording import Recording
    from finetune_gateway.jobs.handle import ModelHandle
    from finetune_gateway.jobs.records import JobRecord

Json = dict[str, Any]


@dataclass(frozen=True)
class EvaluatedModel:
    """One model of a comparison.

    ``key``: short and unique in its comparison. ``name``: as it was given. ``title``: as people
    read it. ``host``: None for this machine. ``account``: salted fingerprint of the key, where
    there is one. ``base_content``: what its weights are recognised by; empty for a hosted model,
    whose name says it. ``system_prompt``: put before a row that has none. ``drops``: the system
    prompt of the training, which a base without it is not asked with. ``examples``: line and
    messages of training rows that are shown to it first, ``shots`` of ``examples_from``; they are
    chosen by ``examples.with_examples``, once it is known which rows are compared.

    Who answers: ``handle`` (local and hosted), ``recording``, or ``answers_to``, an object of the
    user's with ``chat``. ``backend``: the host of a hosted one. ``training_data``: the rows it was
    trained on, as far as they are here. ``chats_at_once``: as many as the host of a plug-in takes.
    """

    key: str
    name: str
    title: str
    kind: Kind
    variant: Variant
    model: str
    base_model: str
    host: str | None = None
    account: str | None = None
    base_content: str = ""
    job: JobRecord | None = None
    step: int | None = None
    system_prompt: str | None = None
    drops: str | None = None
    examples: tuple[tuple[int, list[Json]], ...] = ()
    shots: int = 0
    examples_from: Dataset | None = field(default=None, repr=False)
    handle: ModelHandle | None = field(default=None, repr=False)
    backend: OpenAIBackend | None = field(default=None, repr=False)
    recording: Recording | None = field(default=None, repr=False)
    answers_to: Any = field(default=None, repr=False)
    training_data: Sequence[Path] = ()
    chats_at_once: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def at_plugin(self) -> bool:
        """True for a model at the host of a plug-in, whose prices nobody here knows."""
        return self.kind == "object" and self.host is not None

    @property
    def fingerprint(self) -> str:
        """What its answers are kept by: two names of one model have the same. A model of this
        machine is known by its content, wherever it lies."""
        name = "" if self.host is None and self.base_content else self.model
        return fingerprint([self.host, self.account, name, self.base_content])

    def framed(self, prompt: Prompt) -> Prompt:
        """Return what this model is asked for a row: a prompt with an id of its own, where that
        differs; a tuned model is asked the row as it is."""
        if self.variant not in ("base", "prompt", "few-shot"):
            return prompt
        return framing.framed(prompt, self.system_prompt, self.drops, self.examples)

    def facts(self) -> ComparedFacts:
        """Return what a report says of it; what its training cost is added later."""
        return ComparedFacts(
            key=self.key,
            name=self.name,
            title=self.title,
            kind=self.kind,
            variant=self.variant,
            model=self.model,
            base_model=self.base_model,
            backend=self.backend.display_name if self.backend else self._backend_name,
            host=self.host,
            job_id=self.job.id if self.job else None,
            step=self.step,
            system_prompt=self.system_prompt,
            examples=tuple(line for line, _ in self.examples),
            fingerprint=self.fingerprint,
            notes=self.notes,
        )

    @property
    def _backend_name(self) -> str:
        if self.handle is not None:
            return self.handle.backend
        return self.recording.about.backend if self.recording else ""
