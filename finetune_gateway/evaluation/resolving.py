"""From the names of a comparison to its models: what each name means, and how it is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.backends.openai.endpoint import checked
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import GatewayError, NotFoundError, SpecError, shown
from finetune_gateway.estimation import profiles
from finetune_gateway.evaluation.answerers import BackendOf, Places, Say
from finetune_gateway.evaluation.model_titles import named
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.recording import Recording, not_recorded
from finetune_gateway.evaluation.results import Variant
from finetune_gateway.evaluation.subjects import Subject, subject_of
from finetune_gateway.jobs import model_names, recordings
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.model_names import Base, OfHost, OfJob
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.network import hidden
from finetune_gateway.text.redaction import redact
from finetune_gateway.tokens.encodings import base_model

MOST_EXAMPLES = 64
FORMS = (
    "JOB, JOB@STEP, ft:..., a handle's file or folder, a base (builtin/tiny, owner/name, "
    "./folder), base:NAME, prompt:NAME, few-shot:N:NAME, https://HOST/v1#MODEL, recorded:NAME"
)
UNKNOWN_TRAINING = "its training rows are not here, so rows that it has seen cannot be marked"
UNTUNED = re.compile(r"(?P<variant>base|prompt|few-shot):(?P<rest>.*)", re.DOTALL)
FORM_WORDS = ("base", "prompt", "few-shot", recordings.PREFIX.rstrip(":"), "https", "http", "ft")
FEW_SHOT = re.compile(r"(?P<shots>[0-9]{1,4}):(?P<name>.+)", re.DOTALL)
URL = re.compile(r"https?://", re.IGNORECASE)


def resolve(
    given: Sequence[Any],
    store: Store,
    *,
    backends: Sequence[OpenAIBackend] = (),
    key_envs: Mapping[str, str] | None = None,
    allow_http: bool = False,
    examples: Dataset | None = None,
    system_prompt: str | None = None,
    own: BackendOf | None = None,
    say: Say = lambda text: None,
) -> list[EvaluatedModel]:
    """Return the models of these names and objects, each with a key and a title of its own.

    Nothing is sent but polls of jobs that run. ``few-shot:`` models have no examples yet: see
    ``examples.with_examples``.

    Arguments:
        given: Names (``FORMS``), and in Python also jobs, handles, recordings, and any object with
            ``chat(messages, **sampling)``.
        backends: Hosts of the user's, used where a model is at one of them.
        key_envs: For a host (``HOST``, ``HOST:PORT``) the variable that holds its key.
        allow_http: Ask hosts beyond this machine without encryption.
        examples: Rows to show first; by default those that the first model was trained on.
        system_prompt: That ``prompt:`` is asked with; by default of the first training with one.
        own: Returns the backend of a job with the keys of its Gateway.
        say: Called with what takes time: building or downloading a base.

    Raises SpecError, NotFoundError and what the models raise; two names of one model are refused.
    """
    places = Places(store, backends, key_envs or {}, allow_http, own, say)
    resolver = _Resolver(places, store, examples, system_prompt)
    found = [resolver.model(one) for one in given]
    models = named([resolver.framed(one) for one in found])
    _require_different(models)
    return models


def subject_at(name: str, backends: Sequence[OpenAIBackend], store: Store) -> Subject:
    """Return the hosted model of a name, as ``subject_of``; and of ``https://HOST/v1#MODEL``, with
    the backends of the user's that are at this address. Raises what that does; SpecError."""
    if not URL.match(name):
        return subject_of(name, backends, store)
    url, model = model_at(name)
    there = [one for one in backends if one.base_url == checked(url)]
    return subject_of(model, there or [Places(store).at_url(url)], store)


def model_at(name: str) -> tuple[str, str]:
    """Return the address and the model of ``https://HOST/v1#MODEL``. Raises SpecError."""
    url, mark, model = name.partition("#")
    if not mark or not model:
        raise SpecError(
            f"{redact(hidden(url))} names a host and no model.",
            hint="Put the model behind it: https://HOST/v1#MODEL",
        )
    return url, model


def resolve_with_judge(
    given: Sequence[Any], judge: Any, store: Store, **options: Any
) -> tuple[list[EvaluatedModel], EvaluatedModel | None]:
    """Return the models, and the judge of their answers if there is one; it may be one of them.
    ``options``: of ``resolve``, which says what is raised."""
    models = resolve(given, store, **options)
    if judge is None:
        return models, None
    (found,) = resolve([judge], store, **options)
    return models, replace(found, key=f"judge {found.key}")


def _form_near(name: str) -> str:
    """Return the name with the form that its first word was meant to be; else nothing."""
    word, mark, rest = name.partition(":")
    near = get_close_matches(word, FORM_WORDS, 1, 0.7) if mark and rest else []
    return f"{near[0]}:{rest}" if near and near[0] != word else ""


@dataclass
class _Resolver:
    """Resolves one name after another, and keeps what their trainings were like."""

    places: Places
    store: Store
    examples: Dataset | None = None
    system_prompt: str | None = None
    shots: dict[str, int] = field(default_factory=dict)  # of a name

    def model(self, given: Any) -> EvaluatedModel:
        """Return what one name or object means."""
        if isinstance(given, str):
            found = self._of_name(given)
        elif isinstance(given, Job):
            found = self.places.of_job(given.id, given.reload().record, None, given.backend)
        elif isinstance(given, ModelHandle):
            found = self.places.of_handle(given.model, given)
        elif isinstance(given, Recording):
            found = self.places.recorded(given.title, given)
        elif callable(getattr(given, "chat", None)):
            found = self.places.thing(given)
        else:
            raise SpecError(
                f"{shown(given)} is no model.",
                hint=f"Give a name ({FORMS}), a job, a handle, a recording, or an object with "
                "chat(messages, **sampling).",
            )
        self._learn(found)
        if found.variant == "tuned" and not found.training_data:
            found = replace(found, notes=(*found.notes, UNKNOWN_TRAINING))
        return found

    def _of_name(self, name: str) -> EvaluatedModel:
        if not name.strip():
            raise SpecError("A name of a model is empty.", hint=f"Give one of: {FORMS}.")
        if name.startswith(recordings.PREFIX):
            return self.places.recorded(name, self._recording(name))
        untuned = UNTUNED.fullmatch(name)
        if untuned is not None:
            return self._untuned(name, untuned["variant"], untuned["rest"])
        if URL.match(name):
            return self._at_url(name, name, "other")
        if near := _form_near(name):
            raise SpecError(f"{shown(name)} is no form of a model.", hint=f"Did you mean {near}?")
        if host := self._host_with(name):
            return self.places.hosted(name, "other", name, host)
        return self._of_meaning(name, self._meaning(name))

    def _of_meaning(self, name: str, meant: model_names.Meaning) -> EvaluatedModel:
        if isinstance(meant, OfJob):
            return self.places.of_job(name, meant.record, meant.step)
        if isinstance(meant, ModelHandle):
            return self.places.of_handle(name, meant)
        if isinstance(meant, Base):
            return self.places.base_here(name, meant.name, "other")
        return self.places.hosted(name, "tuned", meant.model, self.places.of_host(meant.model))

    def _meaning(self, name: str) -> model_names.Meaning:
        try:
            return model_names.meaning(name, self.store)
        except NotFoundError as exc:
            if self.places.backends and "@" not in name:
                return OfHost(name)  # the host knows its models
            known = [*model_names.known_names(self.store), *_hosted_names()]
            near = model_names.did_you_mean(name, known)
            hint = exc.hint if exc.message.startswith("Several") else f"{near}Models are: {FORMS}."
            raise NotFoundError(exc.message, hint=hint) from None

    def _recording(self, name: str) -> Recording:
        found = Recording.find(self.store.settings, name)
        if found is not None:
            return found
        raise not_recorded(self.store.settings, name)

    def _host_with(self, name: str) -> OpenAIBackend | None:
        """Return the host of a base model that its profile lists; None for any other name."""
        for backend in self.places.backends:
            if backend.profile.model(name) and base_model(name) == name:
                return backend
        known = profiles.load_profile("openai").model(name) and base_model(name) == name
        return self.places.of_host(name) if known else None

    def _at_url(self, name: str, address: str, variant: Variant) -> EvaluatedModel:
        url, model = model_at(address)
        return self.places.hosted(name, variant, model, self.places.at_url(url))

    # -- bases -------------------------------------------------------------------------------

    def _untuned(self, name: str, variant: str, rest: str) -> EvaluatedModel:
        if variant == "few-shot":
            match = FEW_SHOT.fullmatch(rest)
            if match is None or not 0 < int(match["shots"]) <= MOST_EXAMPLES:
                wrong = (
                    "asks for too few examples, or too many"
                    if match
                    else "does not say how many examples"
                )
                raise SpecError(
                    f"{shown(name)} {wrong}.",
                    hint=f"Like few-shot:5:NAME, with 1 to {MOST_EXAMPLES} of them.",
                )
            self.shots[name], rest = int(match["shots"]), match["name"]
            return self._base(name, rest, "few-shot")
        if not rest.strip():
            raise SpecError(f"{shown(name)} names no model.", hint=f"Like {variant}:builtin/tiny")
        return self._base(name, rest, "base" if variant == "base" else "prompt")

    def _base(self, name: str, inner: str, variant: Variant) -> EvaluatedModel:
        """Return the base that is meant by a name: itself, or what a fine-tune was made from."""
        if URL.match(inner):
            return self._at_url(name, inner, variant)
        if host := self._host_with(inner):
            return self.places.hosted(name, variant, inner, host)
        meant = self._meaning(inner)
        if isinstance(meant, Base):
            return self.places.base_here(name, meant.name, variant)
        if isinstance(meant, OfHost):
            model = base_model(meant.model)
            return self.places.hosted(name, variant, model, self.places.of_host(model))
        tuned = self._of_meaning(inner, meant)
        self._learn(tuned)
        if tuned.backend is not None:
            model = tuned.job.spec.model if tuned.job else tuned.base_model
            return self.places.hosted(name, variant, model, tuned.backend)
        if tuned.kind == "local" and tuned.handle is not None:
            return self.places.base_of(name, tuned.handle, variant)
        raise SpecError(f"The base of {shown(inner)} cannot be asked.", hint="Name it itself.")

    # -- how they are asked ------------------------------------------------------------------

    def _learn(self, model: EvaluatedModel) -> None:
        """Keep the system prompt and the rows of the first training that has them."""
        if self.system_prompt is None:
            self.system_prompt = _system_prompt(model)
        if self.examples is None and model.training_data:
            self.examples = Dataset(model.training_data[0])

    def framed(self, model: EvaluatedModel) -> EvaluatedModel:
        """Return a base with the system prompt it is asked with, or without. Raises SpecError if
        there is none, or if there are no rows to show."""
        if model.variant == "base":
            return replace(model, drops=self.system_prompt)
        if model.variant == "prompt" and not self.system_prompt:
            raise SpecError(
                f"There is no system prompt for {shown(model.name)}: none of the compared models "
                "was trained on rows that share one and are known here.",
                hint=f"Ask the base as it is: base:{model.name.partition(':')[2]}. Or compare it "
                "with a job that has one.",
            )
        if model.variant == "few-shot":
            if self.examples is None:
                raise SpecError(
                    f"There are no training rows to show to {shown(model.name)}.",
                    hint="Name a file of rows (--examples FILE), or compare it with a job whose "
                    "training rows are here.",
                )
            shots = self.shots[model.name]
            model = replace(model, shots=shots, examples_from=self.examples)
        if model.variant in ("prompt", "few-shot"):
            return replace(model, system_prompt=self.system_prompt)
        return model


def _system_prompt(model: EvaluatedModel) -> str | None:
    """Return the system prompt of a model's training, if its rows shared one."""
    known = model.job.system_prompt if model.job else None
    known = known or (model.handle.system_prompt if model.handle else None)
    if known or not model.training_data:
        return known
    try:
        return Dataset(model.training_data[0]).system_prompt()
    except GatewayError:  # no rows of chat
        return None


def _hosted_names() -> list[str]:
    return [row.model for row in profiles.load_profile("openai").models]


def _require_different(models: Sequence[EvaluatedModel]) -> None:
    """Raise SpecError for two names of one model that is asked in one way: any difference would be
    chance."""
    seen: dict[tuple[object, ...], EvaluatedModel] = {}
    for model in models:
        asked = (model.fingerprint, model.drops, model.system_prompt, model.shots)
        first = seen.setdefault(asked, model)
        if first is not model:
            raise SpecError(
                f"{shown(first.name)} and {shown(model.name)} are one model, "
                f"asked in the same way: {first.title}.",
                hint="Leave one of them out.",
            )
