"""Fine-tuning at Together, with the client and the types of its own package.

Its jobs keep no metadata: the suffix of the model's name carries our id, so no other is taken. The
address is that of the environment: no job or handle names another one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from functools import cache
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import together
from pydantic import Field

import finetune_gateway.backend as ftg
from finetune_gateway.backend import DataFile as File
from finetune_gateway.backend import TrainingSpec as Spec

PAUSES, TIMEOUT = (5.0, 60.0), 60.0  # seconds: between polls, and for a request
STATUSES = {  # Together's words where ours are others
    "pending": "queued", "compressing": "running", "uploading": "running", "completed": "succeeded",
    "cancel_requested": "cancelling", "error": "failed", "user_error": "failed",
}  # fmt: skip
NAMES = {name: name for name in (  # settings of ours, by Together's names
    "batch_size", "learning_rate", "lora_alpha", "lora_dropout", "lora_r", "lr_scheduler_type",
    "max_grad_norm", "packing", "warmup_ratio", "weight_decay",
)} | {"beta": "dpo_beta", "max_length": "max_seq_length", "seed": "random_seed"}  # fmt: skip

CLIENT = cache(lambda pid, key, address: together.Together(  # one for each key, not after a fork
    api_key=key, base_url=address, max_retries=0, timeout=TIMEOUT))  # fmt: skip


class TogetherParams(ftg.BackendParams):
    n_evals: Annotated[int, Field(ge=0, description="Evaluations on the held-out rows, billed")] = 0
    n_checkpoints: Annotated[int, Field(ge=1, description="Models saved during training")] = 1


class TogetherBackend(ftg.Backend):
    name = "together"
    params = TogetherParams
    gateway_options = frozenset({"keys"})

    def __init__(self) -> None:
        self.address = os.environ.get("TOGETHER_BASE_URL", "https://api.together.ai")
        self.settings = ftg.Settings.load()

    def bind(self, settings: ftg.Settings) -> None:
        self.settings = settings

    def account(self) -> str | None:
        key = self.key("TOGETHER_API_KEY", self.address)
        return self.settings.fingerprint(self.address, key) if key else None

    def capabilities(self, model: str | None = None) -> ftg.Capabilities:
        return ftg.Capabilities(
            hosted=True, methods=frozenset({"sft", "dpo"}), options=frozenset(NAMES) - {"seed"},
            training_types=frozenset({"lora", "full"}), refuses=frozenset({"suffix", "metadata"}),
            rules={"extends": "common", "last_not_assistant": "error"},
            poll_seconds=PAUSES, settle_seconds=TIMEOUT + 10)  # fmt: skip

    def check(self, spec: Spec) -> None:
        self._key()

    def counter(self, spec: Spec) -> ftg.HostedCounter:
        return ftg.HostedCounter(spec.model)

    def estimate(
        self, spec: Spec, tokens: ftg.TokenStats, validation: ftg.TokenStats | None = None
    ) -> ftg.Estimate:
        return ftg.Estimate(
            backend=self.name, model=spec.model, method=spec.method, n_epochs=_epochs(spec),
            n_epochs_rule="1 unless given", tokens=tokens, data_leaves_machine=True)  # fmt: skip

    def models(self) -> list[str]:
        with self.asking() as client:
            return [one.name for one in client.models.list_supported(product="PRODUCT_FINE_TUNING")]

    def health(self) -> ftg.Health:
        with self.asking() as client:
            jobs = len(client.fine_tuning.list().data)
        return ftg.Health(ok=True, detail=f"{self.address} accepts the key: {jobs} jobs")

    def upload(self, file: File) -> str:
        with TemporaryDirectory() as folder, self.asking(doubtful=True) as client:
            os.symlink(file.path.resolve(), named := f"{folder}/{file.sha256}.jsonl")
            return client.files.upload(named, purpose="fine-tune", check=False).id

    def find_upload(self, file: File) -> str | None:
        with self.asking() as client:
            there = client.files.list().data  # each has the name that it was sent with
        return next((one.id for one in there if one.filename == f"{file.sha256}.jsonl"), None)

    def quote(self, spec: Spec, train: File, validation: File | None) -> Decimal | None:
        with self.asking() as client:
            said = client.fine_tuning.estimate_price(
                training_file=train.remote_id or "", model=spec.model, n_epochs=_epochs(spec),
                validation_file=(validation and validation.remote_id) or together.omit,
                n_evals=TogetherParams.of(spec).n_evals,
                training_method={"method": "dpo"} if spec.method == "dpo"
                else {"method": "sft", "train_on_inputs": "auto"},
                training_type={"type": "Full"} if spec.training_type == "full" else together.omit,
            )  # fmt: skip
        if not said.estimation_available and said.unavailable_reason.endswith("not_validated"):
            raise ftg.BackendError("It reads the file.", retryable=True, retry_after=PAUSES[0])
        price = getattr(said, "estimated_total_price", None)
        return Decimal(str(price)) if price else None

    def start(self, job_id: str, spec: Spec, train: File, validation: File | None) -> str:
        given = {NAMES[name]: getattr(spec, name) for name in spec.chosen & NAMES.keys()}
        with self.asking(doubtful=True) as client:
            return client.fine_tuning.create(
                training_file=train.remote_id or "", model=spec.model, suffix=job_id,
                validation_file=validation.remote_id if validation else "",
                n_epochs=_epochs(spec), training_method=spec.method,
                train_on_inputs="auto" if spec.method == "sft" else None,
                lora=spec.training_type != "full", **TogetherParams.of(spec).model_dump(),
                **{name: value for name, value in given.items() if value != "auto"}).id  # fmt: skip

    def find(self, intent: ftg.Intent) -> str | None:
        with self.asking(doubtful=True) as client:
            jobs = client.fine_tuning.list().data
        if found := next((job.id for job in jobs if job.suffix == intent.job_id), None):
            return found
        if any(not job.suffix and job.training_file == intent.train.remote_id for job in jobs):
            raise ftg.BackendError("A job has no suffix.", code=ftg.NOT_SETTLED, maybe_applied=True)
        return None

    def poll(self, provider_id: str, cursor: str | None) -> ftg.Snapshot:
        with self.asking() as client:
            job = client.fine_tuning.retrieve(provider_id)
            events = client.fine_tuning.list_events(provider_id).data or []
        status = ftg.JobStatus.parse(STATUSES.get(job.status, job.status))
        tuned = job.x_model_output_name if status is ftg.JobStatus.SUCCEEDED else None
        return ftg.Snapshot.model_construct(  # figures that can be none are left out for us
            status=status, raw_status=str(job.status), cursor=str(len(events)),
            events=[_event(provider_id, n, e) for n, e in enumerate(events)][int(cursor or 0):],
            error=events[-1].message if status is ftg.JobStatus.FAILED and events else None,
            trained_tokens=job.token_count, place_in_line=job.queue_depth or None,
            cost_usd=Decimal(str(job.total_price or "NaN")) / 10**9,  # nanodollars
            result=ftg.Result(kind="hosted", model=tuned) if tuned else None)  # fmt: skip

    def cancel(self, provider_id: str) -> None:
        if not self.poll(provider_id, None).status.final:
            with self.asking() as client:
                client.fine_tuning.cancel(provider_id)

    def open(self, handle: ftg.HandleData) -> TogetherChat:
        return TogetherChat(self, handle.model)

    @contextmanager
    def asking(self, *, doubtful: bool = False) -> Iterator[together.Together]:
        key = self._key()
        try:
            yield CLIENT(os.getpid(), key, self.address)
        except (together.APIError, ValueError) as exc:
            code = getattr(exc, "status_code", None)  # None: no answer came
            refused = type(exc) is ValueError or 400 <= (code or 0) < 500  # here, or by the host
            kind = ftg.AuthenticationError if code in (401, 403) else ftg.BackendError
            raise kind(f"together: {str(exc).replace(key, '[key]')}", backend=self.name,
                       status_code=code, retryable=code == 429 or not refused,
                       maybe_applied=doubtful and not refused) from None  # fmt: skip

    def _key(self) -> str:
        return self.required_key("TOGETHER_API_KEY", self.address)


class TogetherChat:
    def __init__(self, backend: TogetherBackend, model: str) -> None:
        self.backend, self.model = backend, model

    def chat(self, messages: list[Any], **sampling: Any) -> ftg.ChatReply:
        with self.backend.asking() as client:
            said = client.chat.completions.create(model=self.model, messages=messages, **sampling)
        first, used = said.choices[0], said.usage.model_dump() if said.usage else {}
        text, usage = first.message.content or "", ftg.Usage.model_validate(used)
        return ftg.ChatReply(text=text, finish_reason=first.finish_reason, usage=usage)

    def stream(self, messages: list[Any], **sampling: Any) -> Iterator[str]:
        sampling |= {"model": self.model, "messages": messages, "stream": True}
        with self.backend.asking() as client:
            for piece in client.chat.completions.create(**sampling):
                yield from (one.delta.content for one in piece.choices if one.delta.content)


def _epochs(spec: Spec) -> int:
    return 1 if spec.n_epochs == "auto" else spec.n_epochs


def _event(job: str, n: int, said: Any) -> ftg.Event:
    when, text = said.created_at, {"type": said.type or "message", "message": said.message or ""}
    with suppress(TypeError, ValueError):  # of another form, or none: the time it is seen counts
        when = datetime.fromisoformat(when).timestamp()
    return ftg.Event.model_construct(id=f"{job}-{n}", created_at=when, **text)
