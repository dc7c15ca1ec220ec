"""What is done with models: asked, checked, compared, saved, taken from a host; and errors. Type
checkers read it, nobody runs it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, assert_never, assert_type

import finetune_gateway as gateway
from finetune_gateway import (
    Archive,
    Backend,
    Capabilities,
    ChatReply,
    ChatStream,
    FineTune,
    GatewayError,
    Inventory,
    JobStatus,
    ModelHandle,
    OpenAIBackend,
    Snapshot,
    evaluation,
    migration,
)
from finetune_gateway.backend import HandleData
from finetune_gateway.backends.openai.management import ModelFacts
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.checks.outcome import CheckReport
from finetune_gateway.migration.moves import MovePlan

# -- a model -----------------------------------------------------------------------------


def ask(handle: ModelHandle) -> Iterator[str]:
    reply = handle.chat("Where?", system="", max_tokens=9, temperature=0.5, top_p=1, seed=1)
    assert_type(reply, ChatReply)
    assert_type((reply.text, reply.said, reply.calls_text), tuple[str, str, str])
    assert_type(reply.usage.prompt_tokens, int)
    pieces = handle.stream([{"role": "user", "content": "Where?"}], stop=["."], tools=[])
    assert_type(pieces, ChatStream)
    yield from pieces
    pieces.close()
    assert_type(pieces.reply, ChatReply | None)
    assert_type(handle.complete("Once", max_tokens=9), ChatReply)
    assert_type(handle.stream_completion("Once"), ChatStream)
    many = handle.chat_many([{"messages": []}], system="x", seed=1)
    assert_type(many, list[ChatReply | GatewayError])
    assert_type(handle.score([], tools=None, system=None), float)
    assert_type(handle.score_many([{"messages": []}], system=None), list[float | GatewayError])
    assert_type(handle.reference_loss("x", {"content": "y"}, tools=[], system=None), float)
    assert_type(handle.reference_losses([{}]), list[float | GatewayError])
    assert_type(handle.as_messages("x", system="y"), list[dict[str, Any]])


def keep(handle: ModelHandle, backend: Backend) -> None:
    assert_type(handle.save("handle.json", private=True), Path)
    assert_type(ModelHandle.load("handle.json"), ModelHandle)
    assert_type(ModelHandle.model_validate_json(handle.model_dump_json()), ModelHandle)
    handle.attach(backend)
    handle.connect(allow_changed_base=True)
    handle.release()
    handle.require_answers()
    handle.require_deployed()
    assert_type((handle.ready, handle.has_template), tuple[bool, bool])
    assert_type(handle.allows_changed_base, bool)
    data: HandleData = handle
    assert_type(data.model, str)


def facts(capabilities: Capabilities, snapshot: Snapshot) -> bool:
    assert_type(capabilities.hosted, bool)
    return snapshot.status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


# -- what it does ------------------------------------------------------------------------


def check(handle: ModelHandle) -> None:
    guide = Guide.load("behaviour.yaml", code=[Path("checks.py")])
    report = evaluation.check(
        handle, guide, "held_out.jsonl", code=["checks.py"], judge="m", rows=3, seed=1,
        max_tokens=9, at_once=4, max_cost_usd="$1", key_envs={"gpu": "KEY"}, backend=None,
        allow_http=True, allow_pii=True, allow_secrets=True, confirm=lambda plan: True,
        on_progress=lambda done, total, model: None, on_wait=lambda seconds, why: None, home=None,
    )  # fmt: skip
    assert_type(report, CheckReport)
    assert_type(report.ok, bool)
    assert_type(evaluation.starter("x"), str)


def record() -> None:
    found = evaluation.record(
        "ft:m", "prompts.jsonl", name="support", samples=3, rows=9, seed=1, temperature="host",
        max_tokens=9, logprobs=True, top_logprobs=5, store=False, batch=True, wait=True,
        at_once=4, max_cost_usd=5, backend=[OpenAIBackend()], allow_pii=True,
        allow_secrets=True, confirm=lambda plan: True, dry_run=True,
        on_progress=lambda done, total: None, on_wait=lambda seconds, why: None, home="home",
    )  # fmt: skip
    assert_type(found, evaluation.Recording)
    [answer, *_] = evaluation.Recording.load("recorded:support").answers()
    assert_type(answer, evaluation.RecordedAnswer)
    assert_type(next(iter(found.errors())), evaluation.RecordedError)
    assert_type(evaluation.settle("support", "home", lost=True), Decimal)
    assert_type(evaluation.remove("support", home="home"), int)


# -- leaving a host ----------------------------------------------------------------------


def leave() -> None:
    here = migration.list_fine_tunes(
        "openai", ["ft:m"], admin=OpenAIBackend(), checkpoints=False, every=True, home=None,
        on_progress=print,
    )  # fmt: skip
    assert_type(here, Inventory)
    assert_type(here.fine_tunes[0], FineTune)
    assert_type(here.fine_tunes[0].name, str)
    saved = migration.fetch(
        ["ft:m"], [OpenAIBackend()], stored=True, home="home", on_progress=None,
        on_wait=lambda seconds: None,
    )  # fmt: skip
    assert_type(saved, Archive)
    assert_type((saved.complete, saved.counts["jobs"]), tuple[bool, int])
    assert_type(migration.add_model("ft:m", "openai", home=None), ModelHandle)
    migration.remove("ft:m", home="home")
    facts: list[ModelFacts] = []
    found = migration.plan(
        "ft:m", "openai", local_models=["owner/name"], azure_url="https://x", azure_models=facts,
        home="home",
    )  # fmt: skip
    assert_type(found, MovePlan)


# -- errors ------------------------------------------------------------------------------


def of_hosts(error: GatewayError) -> int:
    """Every error of a host, by what it says beside its message."""
    match error:
        case gateway.UnboundKeyError():
            return len(error.variable)
        case gateway.MissingScopeError():
            return len(error.scope)
        case gateway.AuthenticationError() | gateway.BackendError():
            assert_type((error.status_code, error.code), tuple[int | None, str | None])
            assert_type((error.maybe_applied, error.retryable), tuple[bool, bool])
            assert_type((error.retry_after, error.request_id), tuple[float | None, str | None])
            assert_type((error.turned_away, error.backend), tuple[bool, str])
            return 5
        case _:
            return exits(error)


def exits(error: GatewayError) -> int:
    """Every other error."""
    match error:
        case gateway.PrivateDataError():
            return len(error.found)
        case gateway.DataError():
            return error.report is not None
        case gateway.UnsupportedError():
            return len(error.option)
        case gateway.MissingDependency():
            return len(error.extra)
        case gateway.JobFailed() | gateway.JobCancelled() | gateway.JobNotFinished():
            return len(error.job_id)
        case gateway.JobRemoved() | gateway.NotFoundError() | gateway.StoreError():
            return 102
        case gateway.BudgetError() | gateway.SpecError():
            return len(error.hint)
        case _:
            assert_type(error.exit_code, int)
            assert_type(pickle.loads(pickle.dumps(error)), Any)
            return error.exit_code


def words(status: JobStatus) -> str:
    """Return a word for each status: a type checker knows them all."""
    match status:
        case JobStatus.VALIDATING_FILES | JobStatus.QUEUED | JobStatus.RUNNING:
            return "goes on"
        case JobStatus.PAUSED | JobStatus.CANCELLING | JobStatus.UNKNOWN:
            return "may go on"
        case JobStatus.SUCCEEDED | JobStatus.FAILED | JobStatus.CANCELLED:
            return "has ended"
        case _:
            assert_never(status)
