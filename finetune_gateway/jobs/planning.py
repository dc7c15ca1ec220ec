"""Plan a job before anything is sent: check, count and price its files, for one option or for
several side by side.

Options that count alike share one pass over a file: OpenAI and Azure with four models need one, a
local model with its own template another. Sends nothing.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_gateway import registry
from finetune_gateway.backend import Backend, Schedule
from finetune_gateway.backend.capabilities import AT_ONCE
from finetune_gateway.backend.params import canonical
from finetune_gateway.backend.seam import in_words, name_of, time_limit, within_time, words_of
from finetune_gateway.data import formats
from finetune_gateway.data.canonical import as_sent
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import (
    BackendError,
    BudgetError,
    GatewayError,
    NotFoundError,
    SpecError,
)
from finetune_gateway.estimation.estimate import Estimate, RowCounts
from finetune_gateway.estimation.hosted import at_train_price
from finetune_gateway.findings import Report
from finetune_gateway.jobs import plugins, records
from finetune_gateway.jobs.file_checks import Candidate, FileChecks, OnProgress
from finetune_gateway.jobs.job_files import Files
from finetune_gateway.jobs.records import JobRecord, StoredFile
from finetune_gateway.jobs.store import Store
from finetune_gateway.methods import HOLD_OUT_SHARE
from finetune_gateway.model import reading_document
from finetune_gateway.preparation import hold_out
from finetune_gateway.renderers import Shown
from finetune_gateway.settings import files as disk
from finetune_gateway.settings.files import private_folder, remove_old_temporaries, storing, sync
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.text.cleaning import encodable
from finetune_gateway.tokens.stats import TokenStats

_DAY = 24 * 3600.0

ModelNames = list[str] | tuple[str, ...]
Backends = list[str] | list[Backend] | list[str | Backend] | tuple[str | Backend, ...]


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """Everything known about a job before anything is sent."""

    spec: TrainingSpec
    backend: Backend
    train: Dataset
    validation: Dataset | None  # rows for the backend to evaluate on
    reports: tuple[Report, ...]  # of the training file, then of the validation file
    tokens: TokenStats
    estimate: Estimate
    system_prompt: str | None = None  # shared by all training rows
    files: Files | None = None  # that the data were made into; its ``note`` and ``share``
    held_out: Dataset | None = None  # rows that are kept here
    # Of a submit: the files as they will be sent, in a folder that is removed afterwards; the rows
    # that are kept here; and the plan that an earlier version would have made of the same data.
    sent: tuple[StoredFile, ...] = ()
    kept: StoredFile | None = None
    earlier: Plan | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Name the backend by its class and its options, which have no key in them."""
        return {**self.__dict__, "backend": (type(self.backend), self.backend.options())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        kind, options = state["backend"]
        backend = kind(**options)
        backend.restored = True  # as of a job: whoever has made the pickle
        self.__dict__.update(state, backend=backend)

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        """Return a copy with the same backend."""
        own = {name: value for name, value in self.__dict__.items() if name != "backend"}
        return replace(self, **copy.deepcopy(own, memo))

    def require_confirmed(self, confirm: Callable[[Plan], bool] | None) -> None:
        """Raise BudgetError if a person is to be asked and does not agree."""
        if confirm is not None and not confirm(self):
            raise BudgetError("Nothing was sent: the price was not confirmed.", hint="Pass --yes.")


@dataclass(frozen=True, repr=False)
class Option(Shown):
    """One model on one backend, beside others. It has either an ``estimate``, or the ``error`` that
    says why there is none."""

    backend: str
    model: str
    estimate: Estimate | None = None
    error: GatewayError | None = None
    later: dict[str, Any] = field(default_factory=dict)  # of its document: of a later version

    def document(self) -> dict[str, Any]:
        """Return plain JSON: the estimate's own fields, or ``backend``, ``model`` and ``error``."""
        if self.estimate is not None:
            return self.estimate.model_dump(mode="json")
        assert self.error is not None  # for the type checker: one of the two
        error = {
            "type": type(self.error).__name__,
            "message": self.error.message,
            "hint": self.error.hint,
        }
        error |= self.later.get("error", {})
        return {"backend": self.backend, "model": self.model, **self.later, "error": error}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Option:
        """Return the option of its document, of this version or another. An error is a
        GatewayError with its words, and is written again as what it was."""
        with reading_document(document, "an option"):
            if "error" not in document:
                estimate = Estimate.model_validate(document)
                return cls(estimate.backend, estimate.model, estimate)
            later = {k: v for k, v in document.items() if k not in ("backend", "model")}
            error = GatewayError(document["error"]["message"], hint=document["error"]["hint"])
            return cls(document["backend"], document["model"], error=error, later=later)


def plan(
    candidate: Candidate, files: Files, checks: FileChecks, train_price: Decimal | None = None
) -> Plan:
    """Check, count and price one option. Raises SpecError, and DataError with a report of lines and
    fixes."""
    backend = candidate.backend
    backend.check_model(candidate.spec)
    spec = backend.resolve(candidate.spec, files.whole or files.train)
    candidate = replace(candidate, spec=spec)
    given = files.given(hosted=candidate.limits.hosted)
    _require_held_out(spec, given)
    train, held_out = checks.check_all(candidate, files)
    reports = [train.report]
    if held_out is not None and given is not None:
        reports = [checks.with_leaks(candidate, train.report, files), held_out.report]
    estimate = backend.estimate(spec, train.tokens, held_out.tokens if given and held_out else None)
    if train_price is not None:
        estimate = at_train_price(estimate, train_price)
    counts = RowCounts(
        trained=train.report.rows,
        held_out=held_out.report.rows if held_out and files.whole else 0,
        asked=files.asked,
        note=files.note,
    )
    return Plan(
        spec, backend, files.train, given, tuple(reports), train.tokens,
        estimate.model_copy(update={"rows": counts}), train.system_prompt, files=files,
        held_out=files.held_out if given is None else None,
    )  # fmt: skip


def _require_held_out(spec: TrainingSpec, given: Dataset | None) -> None:
    """Raise SpecError for what goes by the loss on held-out rows, where there are none."""
    wanted = {
        "early_stopping_patience": spec.early_stopping_patience not in ("auto", 0),
        "load_best_model_at_end": spec.load_best_model_at_end is True,
        "eval_steps": spec.eval_steps != "auto",
    }
    named = [name for name, is_wanted in wanted.items() if is_wanted]
    if named and given is None:
        raise SpecError(
            f"{' and '.join(named)} {'go' if named[1:] else 'goes'} by the loss on held-out rows, "
            "and this job has none.",
            hint=f"Hold some out: --validation-split {HOLD_OUT_SHARE:g}, or --validation-file "
            f"FILE. Or leave {' and '.join(named)} out.",
        )


def side_by_side(
    pairs: Sequence[tuple[str | Backend, TrainingSpec]],
    load: Callable[[str | Backend], Backend],
    files: Files,
    train_price: Decimal | None = None,
    on_progress: OnProgress | None = None,
) -> list[Option]:
    """Return an option for each pair of backend and spec, in their order. An error takes the place
    of its option and leaves the others; so does a call of a plug-in that hangs."""
    with time_limit():
        return _side_by_side(pairs, load, files, train_price, on_progress)


def _side_by_side(
    pairs: Sequence[tuple[str | Backend, TrainingSpec]],
    load: Callable[[str | Backend], Backend],
    files: Files,
    train_price: Decimal | None,
    on_progress: OnProgress | None,
) -> list[Option]:
    checks = FileChecks(shared=len(pairs) > 1, on_progress=on_progress)
    options: dict[int, Option] = {}
    candidates: dict[int, Candidate] = {}
    for index, (backend, spec) in enumerate(pairs):
        try:
            candidates[index] = Candidate.of(
                spec, _loaded(backend, load), priced=train_price is not None
            )
        except Exception as exc:  # whatever a plug-in raises: the other options still have figures
            options[index] = Option(_name(backend), spec.model, error=_as_ours(backend, exc))
    for index in _smallest_first(candidates):
        backend, spec = pairs[index]
        by_tokens = not checks.shared or candidates[index].limits.hosted
        try:
            planned = plan(candidates[index], files, checks, train_price if by_tokens else None)
            options[index] = Option(_name(backend), spec.model, estimate=planned.estimate)
        except Exception as exc:  # as above
            options[index] = Option(_name(backend), spec.model, error=_as_ours(backend, exc))
    return [options[index] for index in range(len(pairs))]


def _loaded(backend: str | Backend, load: Callable[[str | Backend], Backend]) -> Backend:
    """Return the backend; the constructor of a plug-in that hangs is cut off."""
    if not isinstance(backend, str) or backend in {*registry.BUILTIN, *registry.HOSTS}:
        return load(backend)
    return within_time(f"Backend {backend!r}", lambda: load(backend))


def _smallest_first(candidates: dict[int, Candidate]) -> list[int]:
    """Return the indices by limit of tokens: a pass with the smallest often holds for others."""
    limits = {index: candidate.limits.max_context for index, candidate in candidates.items()}
    return sorted(candidates, key=lambda index: (limits[index] is None, limits[index] or 0))


def _as_ours(backend: str | Backend, exc: Exception) -> GatewayError:
    """Return the error as one of ours; a plug-in may have raised anything."""
    if isinstance(exc, GatewayError):
        return exc
    message = f"Backend {_name(backend)!r} broke: {words_of(exc)}."
    error = BackendError(message, hint="Report it to its author.", backend=_name(backend))
    error.__cause__ = in_words(exc)
    return error


def _name(backend: str | Backend) -> str:
    if isinstance(backend, str):
        return backend
    try:
        return records.display_name(name_of(backend), backend.options())
    except GatewayError:  # it is one that cannot say even this
        return name_of(backend)


# -- from the plan to the job ------------------------------------------------------------


@contextmanager
def copies_folder(settings: Settings) -> Iterator[Path]:
    """Yield a private folder for the copies of one submit: what is checked, and what is sent. It is
    removed at the end, and those of killed processes first. Raises StoreError."""
    settings.create()
    remove_old_temporaries(settings.files, _DAY)  # of earlier versions
    with ExitStack() as stack:
        with storing("No copy can be made", settings.files):
            made = private_folder(settings.files, settings.locks, "submit")
            folder = stack.enter_context(made)
        yield folder


def with_sent_files(plan: Plan, folder: Path) -> Plan:
    """Return the plan of checked copies with the files as they will be sent, in ``folder``: the
    copies themselves, or one canonical row for each of their rows."""
    part = plan.files is not None and plan.files.whole is not None
    checked = [plan.train, *([plan.validation] if plan.validation else [])]
    sent = [
        _sent_file(dataset, report, report.rows, folder, part=part)
        for dataset, report in zip(checked, plan.reports, strict=True)
    ]
    kept = None
    if plan.held_out is not None:
        counts = plan.estimate.rows
        assert counts is not None  # for the type checker: of the plan's own making
        kept = _sent_file(plan.held_out, plan.reports[0], counts.held_out, folder, part=True)
    return replace(plan, sent=tuple(sent), kept=kept)


def _sent_file(
    dataset: Dataset, report: Report, rows: int, folder: Path, *, part: bool
) -> StoredFile:
    unchanged = report.format in {one.name for one in formats.SENT_UNCHANGED}
    unchanged = unchanged and formats.REWRITTEN.isdisjoint(one.code for one in report.findings)
    if unchanged:
        gaps = part or dataset.is_spooled
        sent = hold_out.without_gaps(dataset, folder) if gaps else dataset
    else:
        sent = dataset.rewritten(folder, as_sent)
    assert sent.sha256 is not None  # for the type checker: it is a copy
    return StoredFile(path=str(sent.path), sha256=sent.sha256, rows=rows, bytes=sent.size)


def with_earlier(plan: Plan, folder: Path, store: Store) -> Plan:
    """Return the plan with the one that an earlier version would have made of the same data, which
    held out only what was asked for: the store may have its job already."""
    known = store.query(
        "SELECT 1 FROM jobs WHERE held_out_share IS NULL AND removed_at IS NULL"
        " AND status NOT IN ('failed', 'cancelled') LIMIT 1"
    )
    if known.fetchone() is None:
        return plan
    files = plan.files and plan.files.as_before(plan.spec.seed, folder)
    if not files:
        return plan
    given = 1 if files.held_out is None else 2
    reports = [*plan.reports, plan.reports[0]][:given]
    before = replace(
        plan, train=files.train, validation=files.held_out, reports=tuple(reports), files=files,
        held_out=None, sent=(), kept=None,
    )  # fmt: skip
    return replace(plan, earlier=with_sent_files(before, folder))


def intent(
    plan: Plan,
    folder: Path,
    *,
    again: bool = False,
    metadata: dict[str, str] | None = None,
    allowed: dict[str, int] | None = None,
    max_cost_usd: Decimal | None = None,
    schedule: Schedule = AT_ONCE,
) -> JobRecord:
    """Return the row of a job, not yet stored, whose files ``keep`` will put in ``folder``.

    Equal plans have the same ``submit_key``, unless ``again``, and whatever their ``metadata`` and
    their ``schedule``.
    ``allowed``: the private data that it may send. ``max_cost_usd``: the limit of the submit.
    Raises StoreError if the files cannot be put on the disk.
    """
    options = plugins.restorable_options(plan.backend)
    with storing("The data cannot be kept", folder):
        for file in _own_files(plan):
            sync(Path(file.path))
    kept = [
        file.model_copy(update={"path": str(folder / f"{file.sha256}.jsonl")})
        for file in _own_files(plan)
    ]
    train, *others = kept[: len(plan.sent)]
    validation = others[0] if others else None
    place = plan.backend.identity()
    variable = {name: options[name] for name in ("api_key_env",) if name in options}
    spec = plan.spec
    same = canonical(spec, plan.backend) if spec.backend_params else spec.canonical()
    work = [train.sha256, validation.sha256 if validation else None, same]
    if plan.spec.chat_template:  # an edited file makes another job
        work.append(_content_hash(plan.spec.chat_template))
    nonce = records.new_job_id() if again else None
    now = time.time()
    earlier = intent(plan.earlier, folder) if plan.earlier and not again else None
    return JobRecord(
        id=records.new_job_id(),
        created_at=now,
        name=encodable(plan.train.name),
        backend=plan.backend.name,
        backend_options=options,
        hosted=plan.backend.capabilities().hosted,
        spec=plan.spec,
        train=train,
        validation=validation,
        held_out=kept[-1] if plan.kept else None,
        held_out_share=plan.files.share if plan.files else None,
        columns=plan.train.reading.columns,
        system_prompt=plan.system_prompt,
        estimate=plan.estimate.model_dump(mode="json"),
        max_cost_usd=max_cost_usd,
        priority=schedule.priority,
        after=schedule.after,
        start_at=schedule.start_at,
        metadata=metadata or {},
        allowed=allowed or {},
        submit_key=_hash([*work, plan.backend.name, place, nonce]),
        old_submit_key=_hash([*work, plan.backend.name, place | variable, nonce]),
        earlier_keys=(earlier.submit_key, earlier.old_submit_key) if earlier else (),
        step_at=now,
    )


def _hash(identity: list[Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _content_hash(path: str) -> str:
    """Return the sha256 of a file that the spec names. Raises NotFoundError."""
    try:
        return disk.sha256_of(path)
    except (OSError, ValueError) as exc:  # no path has a NUL in it
        raise NotFoundError(
            f"{path} cannot be read: {getattr(exc, 'strerror', exc)}.",
            hint="Was it moved just now?",
        ) from None


def keep(plan: Plan, folder: Path, equal: JobRecord | None = None) -> None:
    """Move the files of a plan into ``folder``: before the job is stored that names them, and only
    then; or for the job of an ``equal`` submit. Raises StoreError."""
    if equal is not None and plan.earlier and equal.train.sha256 == plan.earlier.sent[0].sha256:
        plan = plan.earlier
    with storing("The data cannot be kept", folder):
        for path, sha256 in {(file.path, file.sha256) for file in _own_files(plan)}:
            os.replace(path, folder / f"{sha256}.jsonl")
        sync(folder)


def _own_files(plan: Plan) -> list[StoredFile]:
    """Return the files of a plan that are kept in the home: those that are sent come first."""
    return [*plan.sent, *([plan.kept] if plan.kept else [])]
