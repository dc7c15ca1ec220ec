"""The keywords of the verbs: typed once for ``Gateway`` and ``api``, with what ``help`` shows.

Knows names, types and defaults. What a verb does with them is said in ``gateway``.
"""

from __future__ import annotations

import inspect
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast

from finetune_gateway import spec
from finetune_gateway.backend import JOB_TAG, Backend
from finetune_gateway.data.dataset import Source
from finetune_gateway.errors import SpecError, shown
from finetune_gateway.jobs.file_checks import OnProgress
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.permits import refusing_coroutines
from finetune_gateway.jobs.planning import Plan
from finetune_gateway.jobs.scheduling import After, At
from finetune_gateway.model import exact_keywords
from finetune_gateway.settings.arguments import require_function
from finetune_gateway.spec import AnyMethod, CallFormat, TrainingOptions, TrainingSpec, TrainOn

if TYPE_CHECKING:
    # The type checker alone: only a comparison needs them.
    from finetune_gateway.backends.openai.backend import OpenAIBackend
    from finetune_gateway.evaluation.checks import Guide
    from finetune_gateway.evaluation.comparing import ComparePlan
    from finetune_gateway.migration.running import MigrationPlan

Money = Decimal | float | str  # USD; a text may begin with $

# OpenAI's specification: 16 pairs, of which one is our tag.
MAX_PAIRS, MAX_KEY, MAX_VALUE = 15, 64, 512

# Keywords whose value is called, and with what.
FUNCTIONS = {
    "confirm": ("the plan",),
    "on_progress": ("what is done", "all of it"),
    "wait": ("the job",),
}
# The same of verbs that ask models.
OF_MODELS = FUNCTIONS | {
    "on_progress": ("the requests done", "all of them", "the model"),
    "on_wait": ("the seconds", "the reason"),
}

F = TypeVar("F", bound=Callable[..., Any])


class RowOptions(TypedDict, total=False):
    """The keywords that say how a row is read and which of its tokens are trained, as ``validate``
    and ``preview`` take them."""

    columns: Mapping[str, str] | None
    train_on: TrainOn
    max_length: int | None
    chat_template: str | None
    chat_template_kwargs: dict[str, bool | int | str] | None
    call_format: CallFormat | None


class ValidateOptions(RowOptions, total=False):
    """The keywords of ``validate``."""

    model: str | None
    backend: str | Backend | None
    method: AnyMethod | None
    quality: bool | None
    against: Source | None
    like: Source | None
    ignore: str | Iterable[str]
    on_progress: OnProgress | None


class PreviewOptions(RowOptions, total=False):
    """The keywords of ``preview`` beside ``model``."""

    backend: str | Backend | None
    rows: Collection[int] | None
    method: AnyMethod | None


class AdviseOptions(TypedDict, total=False):
    """The keywords of ``advise``."""

    preferences: Source | None
    columns: Mapping[str, str] | None
    comparison: str | None
    model: str | Sequence[str] | None
    backend: str | Sequence[str] | None
    private: bool
    on_progress: OnProgress | None


class PlanOptions(TrainingOptions, total=False):
    """The keywords of ``plan`` and ``estimate`` beside ``model`` and ``backend``."""

    validation: Source | None
    validation_split: float | None
    columns: Mapping[str, str] | None
    train_price: Money | None


class StartOptions(PlanOptions, total=False):
    """The keywords of ``plan``, and those that say when a job begins."""

    priority: int | None
    after: After | None
    at: At | None


class SubmitOptions(StartOptions, total=False):
    """The keywords of ``submit`` beside ``model``."""

    backend: str | Backend | None
    max_cost_usd: Money | None
    confirm: Callable[[Plan], bool] | None
    allow_pii: bool
    allow_secrets: bool
    allow_loss: bool
    allow_longer: bool
    allow_oversize: bool
    again: bool
    metadata: Mapping[str, str] | None


class CompareOptions(TypedDict, total=False):
    """The keywords of ``compare``."""

    checks: str | Path | Guide | None
    columns: Mapping[str, str] | None
    code: Sequence[str | Path]
    judge: Any
    by: str | None
    rows: int | None
    seed: int
    samples: int
    temperature: float | str | None
    max_tokens: int | None
    at_once: int
    max_cost_usd: Money | None
    monthly_requests: int | None
    examples: Source | None
    backends: Sequence[OpenAIBackend]
    key_envs: Mapping[str, str] | None
    allow_http: bool
    allow_pii: bool
    allow_secrets: bool
    confirm: Callable[[ComparePlan], bool] | None
    on_progress: Callable[[int, int, str], object] | None
    on_wait: Callable[[float, str], object] | None
    command: str


class MigrateOptions(TypedDict, total=False):
    """The keywords of ``migrate`` beside ``model`` and ``to``."""

    at_least: Mapping[str, float] | None
    at_most: Mapping[str, float] | None
    max_drop: Mapping[str, float] | None
    against: str | None
    data: Source | None
    checks: str | Path | Guide | None
    code: Sequence[str | Path]
    max_tokens: int | None
    max_cost_usd: Money | None
    to_options: Mapping[str, Any] | None
    backends: Sequence[OpenAIBackend]
    allow_pii: bool
    allow_secrets: bool
    allow_loss: bool
    allow_longer: bool
    allow_oversize: bool
    confirm: Callable[[MigrationPlan], bool] | None
    dry_run: bool
    wait: Callable[[Job], object] | None
    on_progress: Callable[[int, int, str], object] | None
    on_wait: Callable[[float, str], object] | None
    command: str


# -- values of a wrong type --------------------------------------------------------------


def require_backend(value: object) -> None:
    """Raise SpecError for what is neither the name of a backend nor one. An empty text is a name
    that no backend has: a job must not go elsewhere because a variable is empty."""
    if not isinstance(value, str | Backend):
        raise SpecError(
            f"backend must be a name or a backend object, not {shown(value)}.",
            hint="Like backend='local' or backend=LocalBackend().",
        )


def require_bool(name: str, value: object) -> None:
    """Raise SpecError for text such as 'no', which Python takes for true."""
    try:
        known = value in (True, False)
    except Exception:  # a Decimal or an array, which cannot be compared
        known = False
    if not known:
        raise SpecError(f"{name} must be True or False, not {shown(value)}.")


def listed(value: Any, one: Any, name: str) -> list[Any]:
    """Return one value as a list, and several as they are. Raises SpecError for neither."""
    if isinstance(value, one):
        return [value]
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise SpecError(f"{name} must be a name or a list of names, not {shown(value)}.")
    found = list(value)
    for wrong in (each for each in found if not isinstance(each, one)):
        raise SpecError(f"{name} is a list of names: {shown(wrong)} is none.")
    return found


def check_metadata(metadata: object) -> dict[str, str]:
    """Return a job's metadata. Raises SpecError for what the contract does not take."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise SpecError(
            f"metadata must be pairs of a key and a text, not {shown(metadata)}.",
            hint="Like metadata={'team': 'support'}.",
        )
    if len(metadata) > MAX_PAIRS:
        raise SpecError(
            f"metadata has {len(metadata)} pairs; at most {MAX_PAIRS} are taken.",
            hint=f"A host takes {MAX_PAIRS + 1}, and {JOB_TAG!r} is one of them.",
        )
    for key, value in metadata.items():
        _check_text("a key of metadata", key, 1, MAX_KEY)
        _check_text(f"metadata {shown(key)}", value, 0, MAX_VALUE)
    if JOB_TAG in metadata:
        raise SpecError(f"{JOB_TAG!r} in metadata is set by the gateway.", hint="Use another key.")
    return dict(metadata)


def _check_text(what: str, value: object, shortest: int, longest: int) -> None:
    if not isinstance(value, str):
        hint = f"Write it as {str(value)!r}." if isinstance(value, int | float) else ""
        raise SpecError(f"{what} must be text, not {shown(value)}.", hint=hint)
    if not shortest <= len(value) <= longest:
        limits = f"{shortest} to {longest}" if shortest else f"at most {longest}"
        raise SpecError(f"{what} must have {limits} characters, not {len(value):,}.")
    odd = next((char for char in value if unicodedata.category(char) in ("Cc", "Cs")), None)
    if odd is not None:
        raise SpecError(f"{what} holds {odd!r}, a control character or half of a character.")


# -- verbs that refuse unknown keywords --------------------------------------------------

# What help says of keywords that several verbs take; those of TrainingSpec speak for themselves.
LINES = {
    "validation": "Held-out rows (default None).",
    "validation_split": "Share of the rows to hold out, 0 for none; None is 0.1 from 50 rows on "
    "(default None).",
    "columns": "Columns of your own names, by the key that each is read as: "
    "{'question': 'prompt', 'answer': 'completion'} (default None).",
    "train_price": "Your own price, in USD per million training tokens (default None).",
    "priority": "On this machine, of the jobs that wait: the largest begins first (default 0).",
    "after": "Jobs of this machine that must have succeeded before it begins (default None).",
    "at": "It begins no earlier: '18:30', a date and time, or a datetime (default None).",
}


def verb(options: type | None = None) -> Callable[[F], F]:
    """Return a decorator for a method that refuses unknown keywords with what was probably meant.

    ``options``: the TypedDict of its ``**options``, whose names and lines ``help`` shows. The
    method raises SpecError when it is called with a keyword that it does not have.
    """

    def decorate(function: F) -> F:
        extra = list(_parameters(options))
        signature = _expanded(inspect.signature(function), extra)
        doc = "\n".join([inspect.getdoc(function) or "", *_lines(extra)])
        return _checked(function, signature, doc)

    return decorate


def like(method: Callable[..., Any]) -> Callable[[F], F]:
    """Return a decorator for a function that does what a method does: ``help`` shows the same,
    unknown keywords are refused alike."""

    def decorate(function: F) -> F:
        parameters = [*inspect.signature(method).parameters.values()][1:]  # without self
        result = inspect.signature(function).return_annotation
        signature = inspect.Signature(parameters, return_annotation=_Text(result))
        return _checked(function, signature, method.__doc__)

    return decorate


def _checked(function: F, signature: inspect.Signature, doc: str | None) -> F:
    """Return the function with this signature and docstring, closed to other keywords."""
    table = OF_MODELS if "on_wait" in signature.parameters else FUNCTIONS
    called = not table.keys().isdisjoint(signature.parameters)
    asking = _with_functions(function, table) if called else function
    checked = exact_keywords(asking, frozenset(signature.parameters) - {"self"})
    vars(checked)["__signature__"] = signature
    checked.__doc__ = doc
    return checked


def _with_functions(function: F, table: Mapping[str, tuple[str, ...]]) -> F:
    """Return the function with arguments that must be functions, of what they are called with, and
    a ``confirm`` that may be no coroutine: one is true, whatever it would say."""

    @wraps(function)
    def asking(*args: Any, **given: Any) -> Any:
        for name, called_with in table.items():
            if given.get(name) is not None:
                require_function(given[name], name, *called_with)
        if given.get("confirm") is not None:
            given["confirm"] = refusing_coroutines(given["confirm"])
        return function(*args, **given)

    return cast(F, asking)


class _Text(str):
    """An annotation that help shows without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _expanded(
    signature: inspect.Signature, extra: Iterable[inspect.Parameter]
) -> inspect.Signature:
    """Return the signature with ``**options`` replaced by the names it stands for."""
    named = [
        one.replace(annotation=_Text(one.annotation)) if one.name != "self" else one
        for one in signature.parameters.values()
        if one.kind is not one.VAR_KEYWORD
    ]
    result = _Text(signature.return_annotation)
    return signature.replace(parameters=[*named, *extra], return_annotation=result)


def _parameters(options: type | None) -> Iterator[inspect.Parameter]:
    """Yield the keys of a TypedDict as keyword parameters, those of TrainingSpec last."""
    fields = TrainingSpec.model_fields
    hints = options.__annotations__ if options else {}
    for name in sorted(hints, key=lambda name: name in fields):
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=fields[name].default if name in fields else None,
            annotation=_Text(hints[name].__forward_arg__),
        )


def _lines(extra: Iterable[inspect.Parameter]) -> Iterator[str]:
    """Yield a section of a docstring with a line on each of these keywords."""
    lines = LINES | spec.option_lines()
    for place, parameter in enumerate(extra):
        yield from [] if place else ["", "Options:"]
        yield f"    {parameter.name}: {lines[parameter.name]}"
