"""A backend in memory that plays a script: for docs, tests and authors of backends.

It trains nothing, sends nothing and costs nothing, and says so. ``poll`` depends only on the script
and the cursor, so any process can continue where another one stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError

from finetune_gateway import methods
from finetune_gateway.backend import (
    NEUTRAL,
    Backend,
    Capabilities,
    ChatReply,
    DataFile,
    HandleData,
    Intent,
    Usage,
)
from finetune_gateway.chat import require_sampling
from finetune_gateway.errors import BackendError, SpecError, shown, validation_error_text
from finetune_gateway.estimation.estimate import Estimate, Range, epochs_of
from finetune_gateway.events import Checkpoint, Event, JobStatus, Result, Snapshot
from finetune_gateway.model import exact_methods
from finetune_gateway.settings.arguments import list_of, mapping_of
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.counter import HostedCounter

if TYPE_CHECKING:
    from finetune_gateway.tokens.stats import TokenStats

PREFIX = "fake-"
FREE = Decimal(0)
STEPS = 5
START = 1_700_000_000.0  # time of the first scripted event; the same each time
METHODS = frozenset(methods.METHODS) - {"reinforcement"}
TRAINING_TYPES = frozenset({"lora", "qlora", "full"})


@exact_methods
class FakeBackend(Backend):
    """Plays ``script``, one snapshot per poll, and then repeats the last one.

    ``script``: snapshots, or dicts of their fields; by default a run of five steps that succeeds.
    ``answer``: the model's answer; by default an echo. ``faults``: errors to raise, in order, by
    the name of the method, such as ``{"start": [BackendError("...", maybe_applied=True)]}``; with
    ``maybe_applied`` the call still takes effect.

    ``started``, ``metadata`` (by job id) and ``uploaded`` hold what this object has received.
    """

    name: ClassVar[str] = "fake"

    def __init__(
        self,
        script: Sequence[Snapshot | Mapping[str, Any]] | None = None,
        answer: str | None = None,
        faults: Mapping[str, Sequence[BackendError]] | None = None,
    ) -> None:
        self.script = None if script is None else _snapshots(script)
        self.answer = answer
        self.started: list[tuple[str, TrainingSpec, DataFile, DataFile | None]] = []
        self.metadata: dict[str, dict[str, str]] = {}
        self.uploaded: list[DataFile] = []
        self._faults = {
            call: list_of(errors, Exception, f"faults[{call!r}]")
            for call, errors in mapping_of(faults, "faults").items()
        }
        self._cancelled: set[str] = set()
        self._paused: set[str] = set()
        self._ended: set[str] = set()  # of which a poll has said so
        self._resumes: dict[str, int] = {}

    def options(self) -> dict[str, Any]:
        """Return the script and the answer. Faults belong to this object alone."""
        options: dict[str, Any] = {} if self.answer is None else {"answer": self.answer}
        if self.script is not None:
            options["script"] = [snapshot.model_dump(mode="json") for snapshot in self.script]
        return options

    def capabilities(self, model: str | None = None) -> Capabilities:
        """Accept every setting of a spec except reinforcement; nothing is trained."""
        return Capabilities(
            hosted=False,
            rules="trl",
            methods=METHODS,
            training_types=TRAINING_TYPES,
            options=frozenset(TrainingSpec.model_fields) - NEUTRAL - {"backend_params"},
            notes=("Trains nothing: it plays a script.",),
            resumes=frozenset({JobStatus.PAUSED, JobStatus.CANCELLED}),
            poll_seconds=(0.002, 0.05),
            takes_metadata=True,
            pauses=True,
        )

    def counter(self, spec: TrainingSpec) -> HostedCounter:
        """Return a counter that counts as OpenAI's chat models do."""
        return HostedCounter(spec.model)

    def estimate(
        self, spec: TrainingSpec, tokens: TokenStats, validation: TokenStats | None = None
    ) -> Estimate:
        """Return an estimate of zero: nothing is trained."""
        _, epochs, _, rule = epochs_of(spec, tokens.rows)
        return Estimate(
            backend=self.name,
            model=spec.model,
            method=spec.method,
            training_type=spec.training_type,
            n_epochs=epochs,
            n_epochs_rule=rule,
            tokens=tokens,
            validation_tokens=validation.billed if validation else None,
            cost_usd=Range(low=FREE, expected=FREE, high=FREE),
            data_leaves_machine=False,
            assumptions=["Free: the fake backend trains nothing."],
        )

    def upload(self, file: DataFile) -> str:
        """Keep the file in ``uploaded``; return an id made from its content."""
        self.uploaded.append(file)
        self._fail("upload")
        return _file_id(file)

    def find_upload(self, file: DataFile) -> str | None:
        """Return the id of a file that this object has received."""
        self._fail("find_upload")
        return _file_id(file) if any(f.sha256 == file.sha256 for f in self.uploaded) else None

    def start(
        self,
        job_id: str,
        spec: TrainingSpec,
        train: DataFile,
        validation: DataFile | None,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Keep the job in ``started``; return ``fake-<job_id>``."""
        self.started.append((job_id, spec, train, validation))
        self.metadata[job_id] = dict(metadata or {})
        try:
            self._fail("start")
        except BackendError as exc:
            if not exc.maybe_applied:
                self.started.pop()
            raise
        return PREFIX + job_id

    def find(self, intent: Intent) -> str | None:
        """Return the id of a job that this object has started."""
        self._fail("find")
        known = any(started[0] == intent.job_id for started in self.started)
        return PREFIX + intent.job_id if known else None

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        """Return the snapshot number ``cursor`` of the script; after its end the last one."""
        self._fail("poll")
        script = _default_script(provider_id) if self.script is None else self.script
        last = len(script) - 1
        step = min(int(cursor or 0), last)
        if provider_id in self._cancelled and not script[step].status.final:
            return Snapshot(status=JobStatus.CANCELLED, raw_status="cancelled", cursor=cursor)
        if provider_id in self._paused and not script[step].status.final:
            return Snapshot(status=JobStatus.PAUSED, raw_status="paused", cursor=cursor)
        if script[step].status.final:
            self._ended.add(provider_id)
        return script[step].model_copy(update={"cursor": str(min(step + 1, last))})

    def cancel(self, provider_id: str) -> None:
        """Let polls of this object say ``cancelled`` from now on, unless the job has ended."""
        self._fail("cancel")
        if provider_id not in self._ended:
            self._cancelled.add(provider_id)

    def pause(self, provider_id: str) -> None:
        """Let polls of this object say ``paused`` until it is resumed, unless the job has ended."""
        self._fail("pause")
        self._paused.add(provider_id)

    def resume(self, provider_id: str, attempt: int) -> None:
        """Let a paused or cancelled job of this object go on with the script."""
        self._fail("resume")
        self._paused.discard(provider_id)
        if attempt > self._resumes.get(provider_id, 0):
            self._resumes[provider_id] = attempt
            self._cancelled.discard(provider_id)

    def open(self, handle: HandleData) -> FakeChat:
        """Return a model that echoes, or gives ``answer``."""
        self._fail("open")
        return FakeChat(handle.model, self.answer)

    def _fail(self, call: str) -> None:
        errors = self._faults.get(call)
        if errors:
            raise errors.pop(0)


class FakeChat:
    """Gives the same answer to the same messages, and says that nothing was trained."""

    def __init__(self, model: str, answer: str | None) -> None:
        self.model = model
        self.answer = answer

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        """Return the scripted answer, or an echo of the last message."""
        require_sampling(sampling)
        text = self._text(messages)
        words = sum(len(str(message.get("content") or "").split()) for message in messages)
        usage = Usage(prompt_tokens=words, completion_tokens=len(text.split()))
        return ChatReply(text=text, finish_reason="stop", usage=usage)

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]:
        """Yield the same answer word by word."""
        require_sampling(sampling)
        first, *others = self._text(messages).split(" ")
        yield first
        yield from (f" {word}" for word in others)

    def _text(self, messages: list[dict[str, Any]]) -> str:
        if self.answer is not None:
            return self.answer
        message = str(messages[-1].get("content") or "") if messages else ""
        return f"[{self.model}, a fake that trained nothing] You said: {message}"


def _file_id(file: DataFile) -> str:
    return f"fake-file-{file.sha256[:16]}"


def _default_script(provider_id: str) -> list[Snapshot]:
    """Return a run: validating, queued, five steps with a falling loss, succeeded."""
    job_id = provider_id.removeprefix(PREFIX)
    model = f"fake:{job_id}"
    starts = [
        _report(provider_id, JobStatus.VALIDATING_FILES, 0, "Checking the files (fake)."),
        _report(provider_id, JobStatus.QUEUED, 1, "Waiting for nothing (fake)."),
    ]
    steps = [_step(provider_id, model, step) for step in range(1, STEPS + 1)]
    end = _report(provider_id, JobStatus.SUCCEEDED, STEPS + 2, "Nothing was trained (fake).")
    result = Result(kind="hosted", model=model)
    return [*starts, *steps, end.model_copy(update={"result": result, "trained_tokens": 0})]


def _report(provider_id: str, status: JobStatus, number: int, message: str) -> Snapshot:
    event = Event(id=f"{provider_id}-{number}", created_at=START + number, message=message)
    return Snapshot(status=status, raw_status=status.value, events=[event])


def _step(provider_id: str, model: str, step: int) -> Snapshot:
    loss = round(2.0 / (1 + step), 3)
    event = Event(
        id=f"{provider_id}-{step + 1}",
        created_at=START + step + 1,
        type="metrics",
        message=f"Step {step}/{STEPS}: training loss={loss}",
        data={"step": step, "total_steps": STEPS, "train_loss": loss},
    )
    point = Checkpoint(id=f"{provider_id}-at-{step}", step=step, model=f"{model}:step-{step}")
    return Snapshot(
        status=JobStatus.RUNNING,
        raw_status="running",
        events=[event],
        checkpoints=[point] if step == STEPS else [],
    )


def _snapshots(script: object) -> list[Snapshot]:
    """Return the snapshots of a script. Raises SpecError for one that is none."""
    if isinstance(script, str) or not isinstance(script, Sequence) or not script:
        wrong = f"is no list of snapshots: {shown(script)}" if script else "is empty"
        raise SpecError(f"The script {wrong}.", hint="Give it at least one snapshot.")
    try:
        return [Snapshot.model_validate(one) for one in script]
    except ValidationError as exc:
        raise SpecError(f"The script has no snapshot: {validation_error_text(exc)}.") from None
