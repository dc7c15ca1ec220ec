"""A fine-tuned model, as the data of a handle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from finetune_gateway.events import HUB_NAME, Artifact
from finetune_gateway.model import GivenOrStored


class HandleData(GivenOrStored):
    """A fine-tuned model: where it is and what it was made from. JSON in and out.

    It keeps the *name* of the key's environment variable, never its value.
    """

    model_config = ConfigDict(extra="forbid", defer_build=True, protected_namespaces=())

    handle_version: Literal[1] = 1
    kind: Literal["hosted", "adapter", "merged", "reward"]
    model: str  # hosted model id, or absolute folder
    base_model: str
    hub_base: str | None = Field(default=None, pattern=HUB_NAME)  # its name there, if another
    base_revision: str | None = None
    base_sha256: str | None = None  # of the weights of a base in a folder; a hub's has a revision
    base_quantization: Literal["nf4"] | None = None  # how the base was loaded in training
    backend: str
    backend_options: dict[str, Any] = Field(default_factory=dict)
    base_url: str | None = None
    api_key_env: str | None = None
    template_hash: str | None = None  # sha256 of the chat template it was trained with
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)  # switches, as in training
    system_prompt: str | None = None  # of the training data, if all rows have the same one
    job_id: str | None = None
    step: int | None = None  # of a checkpoint of the job
    # The base and the trainings before the job's own: ["builtin/tiny", "sft ftg-7kq3@200"].
    continued_from: list[str] = Field(default_factory=list)
    artifacts: list[Artifact] = Field(default_factory=list)  # its files at its host: ``download``
    dataset_sha256: str | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)  # why it may be of no use, from its training
    created_at: float = Field(default_factory=time.time)  # seconds since the epoch
    ready_at: float | None = None  # when it first answered a chat
    first_answer: str | None = None
    retires_on: str | None = None  # YYYY-MM-DD, from the provider's dated profile
    deploy: str | None = None  # the command that deploys it; None where it answers, or may
    deployment: dict[str, Any] = Field(default_factory=dict)  # that we made for it
    _allows_changed_base: bool = PrivateAttr(default=False)

    @property
    def allows_changed_base(self) -> bool:
        """True if the caller wants an answer on a base that has changed since training. Never
        stored: no file can say it."""
        return self._allows_changed_base

    @property
    def ready(self) -> bool:
        """True once the model has answered a chat."""
        return self.ready_at is not None

    @classmethod
    def _was_stored(cls, values: Mapping[str, Any]) -> bool:
        return "handle_version" in values  # written by ``_dump``

    @model_validator(mode="wrap")
    @classmethod
    def _restore(cls, values: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(values, dict) and cls._was_stored(values):
            return cls._stored(values, read)
        return read(values)

    @model_serializer(mode="wrap")
    def _dump(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is empty and came later: versions that do not know it read the rest."""
        fields: dict[str, Any] = write(self)
        later = (
            *("base_sha256", "deploy", "deployment", "chat_template_kwargs", "warnings", "step"),
            *("continued_from", "artifacts", "hub_base"),
        )
        unused = [name for name in later if not getattr(self, name)]
        return {name: value for name, value in fields.items() if name not in unused} | self._later
