"""Asking a model many prompts, keeping what it answers, and checking how it behaves.

>>> from finetune_gateway import evaluation
>>> recording = evaluation.record("ft:gpt-4.1-mini-2025-04-14:org:support:1", "held_out.jsonl")
>>> evaluation.Recording.load("recorded:support-2026-12-01").answers()
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from finetune_gateway.data.dataset import Source
from finetune_gateway.evaluation.recording import RecordedAnswer, RecordedError, Recording
from finetune_gateway.model import exact_keywords
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.money import parse_usd

if TYPE_CHECKING:
    # The type checker alone: they bring the SDK of hosts.
    from finetune_gateway.backends.openai.backend import OpenAIBackend
    from finetune_gateway.evaluation.checks import Guide
    from finetune_gateway.evaluation.checks.outcome import CheckReport
    from finetune_gateway.evaluation.checks.running import CheckPlan
    from finetune_gateway.evaluation.planning import RecordPlan

__all__ = [
    "RecordedAnswer", "RecordedError", "Recording", "check", "record", "remove", "settle",
    "starter",
]  # fmt: skip

OnProgress = Callable[[int, int], object]
OnWait = Callable[[float, str], object]


@exact_keywords
def record(
    model: str,
    data: Source | None = None,
    *,
    name: str | None = None,
    samples: int | None = None,
    rows: int | None = None,
    seed: int | None = None,
    temperature: float | str | None = None,
    max_tokens: int | None = None,
    logprobs: bool | None = None,
    top_logprobs: int | None = None,
    store: bool | None = None,
    batch: bool = False,
    wait: bool = False,
    at_once: int = 16,
    max_cost_usd: Decimal | float | None = None,
    monthly_usd: Decimal | float | str | None = None,
    backend: OpenAIBackend | list[OpenAIBackend] | None = None,
    allow_pii: bool = False,
    allow_secrets: bool = False,
    confirm: Callable[[RecordPlan], bool] | None = None,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    on_wait: OnWait | None = None,
    home: str | os.PathLike[str] | None = None,
) -> Recording:
    """Ask a hosted model all prompts of a data set, keep its answers, and return the recording;
    ``recording.run`` says what this call did. The same call again goes on where it ended.

    Arguments:
        model: ``ft:...``, a job, the file of a handle, ``https://HOST/v1#MODEL``, or with
            ``backend`` any model of a host.
        data: Rows, or prompts alone. By default the rows that its training has held out, if they
            are here, else a leak-free sample of its training file.
        name: Of the recording; by default the model's suffix and the day.
        samples: Answers to each prompt, 1 by default. With a seed each has its own.
        rows: At most so many rows, drawn by content and seed.
        temperature: 0 by default; of several samples, or for 'host', the host's own.
        max_tokens: Of an answer, 1024 by default.
        logprobs, top_logprobs, seed, store: As the chat API has them; logprobs by default.
        batch: Use the host's batch API: within a day, for less, at OpenAI mostly half.
        wait: With ``batch``, return when it has ended. Otherwise the same call again collects it.
        at_once: Requests on their way to the host at the same time, from all of this process.
        max_cost_usd: Asking stops when the next request could pass it.
        monthly_usd: The budget of the month, like that of a Gateway; by default of the home.
        backend: The host, or one object for each key of it.
        allow_pii, allow_secrets: Send personal data, or keys and passwords, that were found.
        confirm: Called with a RecordPlan before anything is sent; False refuses.
        dry_run: Plan and price it, call ``confirm``, and store and send nothing.

    Raises SpecError, DataError (PrivateDataError), BudgetError before anything is sent,
    BackendError or NotFoundError if the host ends it early: what was answered is kept.
    """
    # Imported here: they bring the SDK of hosts.
    from finetune_gateway.evaluation import planning, steps
    from finetune_gateway.evaluation.resolving import subject_at
    from finetune_gateway.jobs.store import Store

    settings = Settings.load(home)
    jobs = Store(settings)
    given = [] if backend is None else backend
    backends = [*given] if isinstance(given, list | tuple) else [given]
    asked = planning.Request(
        name=name,
        samples=samples,
        rows=rows,
        seed=seed,
        temperature=temperature,
        max_tokens=max_tokens,
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        store=store,
        batch=batch,
        max_cost_usd=None if max_cost_usd is None else parse_usd(max_cost_usd, "max_cost_usd"),
        monthly_usd=None if monthly_usd is None else parse_usd(monthly_usd, "monthly_usd"),
        allow_pii=allow_pii,
        allow_secrets=allow_secrets,
    )
    how = steps.How(wait, at_once, confirm, on_progress, on_wait, dry_run)
    return steps.record(jobs, subject_at(model, backends, jobs), data, asked, how)


@exact_keywords
def check(
    model: Any,
    guide: str | os.PathLike[str] | Guide,
    data: Source | None = None,
    *,
    code: Collection[str | os.PathLike[str]] = (),
    judge: Any = None,
    rows: int | None = None,
    seed: int = 0,
    max_tokens: int | None = None,
    at_once: int = 16,
    max_cost_usd: Decimal | float | str | None = None,
    monthly_usd: Decimal | float | str | None = None,
    key_envs: Mapping[str, str] | None = None,
    backend: OpenAIBackend | list[OpenAIBackend] | None = None,
    allow_http: bool = False,
    allow_pii: bool = False,
    allow_secrets: bool = False,
    confirm: Callable[[CheckPlan], bool] | None = None,
    on_progress: Callable[[int, int, str], object] | None = None,
    on_wait: OnWait | None = None,
    home: str | os.PathLike[str] | None = None,
) -> CheckReport:
    """Ask a model what a behaviour guide asks, and return what its answers show: ``report.ok``,
    ``report.of("json")``. The unit test of a model.

    Arguments:
        model: Any model of ``compare``: a job, ``ft:...``, ``base:NAME``, a handle, or an object
            with ``chat(messages, **sampling)``.
        guide: ``behaviour.yaml``; ``starter`` writes one to begin with.
        data: Rows for the checks without prompts of their own; by default the guide's prompts.
        code: Files of Python whose functions the guide may run; others are skipped.
        judge: The model that decides the rubrics of the guide; without one they are skipped.
        rows: At most so many rows, drawn by content and seed.
        max_tokens: Of an answer, 1024 by default.
        at_once: Requests on their way to the host at the same time.
        max_cost_usd: Asking stops when the next request could pass it.
        monthly_usd: The budget of the month, like that of a Gateway; by default of the home.
        key_envs: For a host the variable that holds its key.
        backend: The host, where it is none of OpenAI's, or an object for each key of it.
        allow_pii, allow_secrets: Send personal data, or keys and passwords, that were found.
        confirm: Called with a CheckPlan before anything is sent; False refuses.

    Raises SpecError that names the line of the guide, DataError (PrivateDataError), BudgetError
    before anything is sent, BackendError, NotFoundError.
    """
    # Imported here: they bring the SDK of hosts.
    from finetune_gateway.evaluation.checks import Guide, running
    from finetune_gateway.jobs.store import Store

    given = [] if backend is None else backend
    asked = running.Request(
        model=model,
        guide=guide if isinstance(guide, Guide) else Guide.load(guide, code=code),
        data=data,
        judge=judge,
        rows=rows,
        seed=seed,
        max_tokens=max_tokens,
        max_cost_usd=max_cost_usd,
        monthly_usd=None if monthly_usd is None else parse_usd(monthly_usd, "monthly_usd"),
        key_envs=key_envs or {},
        backends=[*given] if isinstance(given, list | tuple) else [given],
        allow_http=allow_http,
        allow_pii=allow_pii,
        allow_secrets=allow_secrets,
    )
    how = running.How(at_once, confirm, on_progress, on_wait)
    return running.check(Store(Settings.load(home)), asked, how)


@exact_keywords
def starter(data: Source, name: str | os.PathLike[str] = "behaviour.yaml") -> str:
    """Return the text of a behaviour guide to begin with, from the system prompt, format, lengths
    and languages of a data set: its checks pass on the data's own answers. ``name``: the file it
    will be, for the command in its head. Raises DataError."""
    # Imported here: it reads YAML, and a schema takes a library of its own.
    from finetune_gateway.data.dataset import Dataset
    from finetune_gateway.evaluation.checks import starter as writing

    return writing.starter(Dataset.open(data), os.fspath(name))


@exact_keywords
def settle(name: str, home: str | os.PathLike[str] | None = None, *, lost: bool = False) -> Decimal:
    """Settle what a killed process has reserved for a recording, from the requests that it wrote
    down; return what they cost. ``lost``: also its batches that their host does not have any more,
    at their most. Sends nothing. Raises JobNotFinished while a process is asking."""
    from finetune_gateway.evaluation import keeping

    return keeping.settle(Settings.load(home), name, lost=lost)


@exact_keywords
def remove(name: str, home: str | os.PathLike[str] | None = None) -> int:
    """Remove a recording from this machine for good, and return its bytes: prompts, answers,
    errors. What it cost stays in the ledger. Raises NotFoundError; JobNotFinished while a process
    is asking, or a batch is under way at the host."""
    from finetune_gateway.evaluation import keeping

    return keeping.remove(Settings.load(home), name)
