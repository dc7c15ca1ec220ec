"""What a host takes, by its dated profile: a job is refused before anything is sent."""

from __future__ import annotations

import time
from datetime import date
from typing import TYPE_CHECKING, ClassVar, Protocol

from finetune_gateway.backend import LIST_LAG, Capabilities
from finetune_gateway.backend.health import Health
from finetune_gateway.backends.openai import request, storage
from finetune_gateway.backends.openai.retries import retried
from finetune_gateway.errors import NotFoundError, SpecError, UnsupportedError
from finetune_gateway.events import JobStatus
from finetune_gateway.methods import OPENAI_WORDS

MAX_BETA = 2  # github.com/openai/openai-openapi, FineTuneDPOHyperparameters

if TYPE_CHECKING:
    import openai

    from finetune_gateway.estimation.profiles import Profile
    from finetune_gateway.spec import TrainingSpec


class Host(Protocol):
    """The part of an OpenAIBackend that is used here."""

    name: ClassVar[str]
    profile_name: str
    profile: Profile
    training: str | None
    request_timeout: float
    settle_seconds: float | None
    poll_seconds: float
    longest_wait: float | None

    @property
    def host(self) -> str: ...

    def today(self) -> date: ...


def capabilities(host: Host, model: str | None) -> Capabilities:
    """Return what the host can do (with this model)."""
    profile, settle = host.profile, host.settle_seconds
    warnings = profile.warnings(model, host.today()) if model else []
    return Capabilities(
        hosted=True,
        rules=profile.rules_of(model),
        methods=frozenset(profile.methods) & OPENAI_WORDS.keys(),
        priced=frozenset(profile.methods) - OPENAI_WORDS.keys(),
        training_types=frozenset(profile.training_types),
        options=frozenset(profile.options | profile.hyperparameters.keys()),
        fixed={"train_on": "assistant"},  # their documented rule, which previews show
        min_rows=profile.min_rows,
        max_file_bytes=profile.max_file_bytes,
        max_context=profile.context(model) if model else profile.max_context,
        no_new_jobs_after=profile.no_new_jobs_after,
        life_cycle=profile.life_cycle(model) if model else None,
        unknown_model_reason=profile.unknown_model_reason(model) if model else "",
        notes=(*profile.notes, *warnings),
        poll_seconds=(host.poll_seconds, 15 * host.poll_seconds),
        settle_seconds=host.request_timeout + LIST_LAG if settle is None else settle,
        takes_metadata=profile.takes_metadata,
        longest_wait=host.longest_wait,
        deletes=storage.kinds(profile),
        resumes=frozenset({JobStatus.PAUSED}),
    )


def check(host: Host, spec: TrainingSpec) -> None:
    """Raise UnsupportedError for a base or host that takes no jobs, NotFoundError for a model that
    the host does not have, SpecError for a suffix that it refuses."""
    profile = host.profile
    refusal = profile.refusal(spec.model, spec.method, host.today())
    if refusal:
        raise UnsupportedError(refusal, backend=host.name, option="model")
    if spec.method not in OPENAI_WORDS:
        raise UnsupportedError(request.unsent(spec.method), backend=host.name, option="method")
    if host.profile_name == "openai" and profile.model(spec.model) is None:
        trainable = profile.trainable(spec.method, host.today())
        raise NotFoundError(
            f"{spec.model!r} cannot be fine-tuned at {host.host}.",
            hint=f"Trainable there: {', '.join(trainable)}.",
        )
    way = profile.training_refusal(spec.model, host.training)
    if way:
        raise UnsupportedError(
            way,
            hint="Choose another: --azure-training (azure_training=...).",
            backend=host.name,
            option="azure_training",
        )
    _check_suffix(profile, spec.suffix or "")
    if spec.beta is not None and spec.beta > MAX_BETA:
        raise SpecError(
            f"beta has to be at most {MAX_BETA} at {host.host}, not {spec.beta:g}.",
            hint="OpenAI's contract says so; 0.1 is usual.",
        )


def _check_suffix(profile: Profile, suffix: str) -> None:
    longest, forbidden = profile.suffix_max_length, profile.suffix_forbidden
    if len(suffix) > longest or any(char in forbidden for char in suffix):
        without = f" and none of {forbidden!r}" if forbidden else ""
        raise SpecError(
            f"{profile.title} does not take the suffix {suffix!r}.",
            hint=f"Use at most {longest} characters{without}.",
        )


def health(host: str, client: openai.OpenAI) -> Health:
    """Return how a host is that lists its models; it raises for one that does not."""
    asked = time.monotonic()
    names = [model.id for model in retried(client.models.list)]
    tuned = sum(model.startswith("ft:") for model in names)
    listed = f"{len(names):,} model{'' if len(names) == 1 else 's'}, {tuned} fine-tuned"
    return Health(
        ok=True,
        detail=f"{host} answers and accepts the key: {listed}",
        latency_s=time.monotonic() - asked,
    )
