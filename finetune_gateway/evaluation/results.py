"""What a comparison found, as data: its models, rows, answers, scores, figures and verdict.

A ``Comparison`` holds no text of a row or an answer: these are in its folder, ``rows.jsonl`` and
``answers.jsonl``, and ``examples`` of the pages are drawn from there.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

from pydantic import ConfigDict, Field

from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.serving import ServingCosts
from finetune_gateway.evaluation.answer_forms import text_of
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.events import Metric
from finetune_gateway.model import Model

Json = dict[str, Any]

Kind = Literal["hosted", "local", "recorded", "object"]  # who answers
Variant = Literal["tuned", "base", "prompt", "few-shot", "other"]  # what was done to the base
UNDECIDED = "undecided"  # how a reason begins where an answer shows neither
PAIRS = "judge:wins"  # the measure of pairs
NOT_RECORDED = "not recorded"  # of what a recording does not have
AnswerKey = tuple[str, str, int]  # key of the model, id of the row, number of the sample
Better = Literal["higher", "lower", ""]  # which figure is better; "": neither


# -- models ----------------------------------------------------------------------------------


class TrainingFacts(Model):
    """What the training of a compared model cost: estimated before, known after."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    estimated_usd: Range[Decimal] | None = None
    actual_usd: Decimal | None = None
    estimated_seconds: Range[float] | None = None
    actual_seconds: float | None = None
    method: str = ""
    training_type: str | None = None
    rows: int | None = None
    dataset_sha256: str | None = None
    settings: Json = Field(default_factory=dict)  # hyperparameters as they were sent
    prices: tuple[str, ...] = ()  # of training: amount, unit, date, source, as people read them
    metrics: tuple[Metric, ...] = ()  # losses by step
    note: str = ""  # of overfitting, or why there are no losses


class ComparedFacts(Model):
    """One compared model. ``key``: short and unique in its comparison, the key of all figures.
    ``name``: as it was given. ``title``: as people read it. ``fingerprint``: of what its answers
    are kept by (host, account, model, base content)."""

    model_config = ConfigDict(frozen=True, defer_build=True, protected_namespaces=())

    key: str
    name: str
    title: str
    kind: Kind
    variant: Variant
    model: str
    base_model: str
    backend: str = ""
    host: str | None = None  # None: this machine
    job_id: str | None = None
    step: int | None = None
    system_prompt: str | None = None  # that it is asked with where a row has none
    examples: tuple[int, ...] = ()  # lines of the training rows that are shown to it first
    fingerprint: str = ""
    parameters: Json = Field(default_factory=dict)  # sent with each request
    training: TrainingFacts | None = None
    notes: tuple[str, ...] = ()


# -- rows and answers ------------------------------------------------------------------------


class Leak(Model):
    """A row that a compared model was trained on. ``kind``: exact, or near (nearly the same words).
    ``line``: of the training row."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    model: str  # key
    kind: Literal["exact", "near"]
    line: int


class ComparedRow(Model):
    """One row that all models are asked. ``cluster``: rows with the same one are of one
    conversation. ``leaks``: why it is left out of the verdict. ``check``: set for a follow-up that
    a check asks beside the rows of the data; ``opening``: the id of the row that it asks on
    after."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    prompt: Prompt
    cluster: str
    leaks: tuple[Leak, ...] = ()
    check: str = ""
    opening: str = ""

    @property
    def id(self) -> str:
        """The fingerprint of its prompt."""
        return self.prompt.id

    @property
    def reference(self) -> Json | None:
        """What the data answer, the first of them; None if they say nothing."""
        return self.prompt.references[0] if self.prompt.references else None


class ComparedAnswer(Model):
    """What one model answered to one row, or the ``error`` why not. ``message``: as in OpenAI's
    messages. ``seconds``: from the request to the whole answer; ``first_token_seconds``: to the
    first piece of it; None where it was not measured, as in batches."""

    model_config = ConfigDict(
        allow_inf_nan=False, frozen=True, defer_build=True, protected_namespaces=()
    )

    model: str  # key of the model
    row: str  # id of the row
    sample: int = 0
    message: Json = Field(default_factory=dict)
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token_seconds: float | None = None
    seconds: float | None = None
    usd: Decimal | None = None
    error: str = ""
    kept: bool = False  # answered in an earlier run
    note: str = ""  # what of it could not be read
    loss: float | None = None  # mean negative log-likelihood of the reference, in nats per token

    @property
    def text(self) -> str:
        """Its text, without calls."""
        return text_of(self.message)

    @property
    def tool_calls(self) -> list[Json]:
        """Its calls, as in OpenAI's messages."""
        calls = self.message.get("tool_calls")
        return [one for one in calls if isinstance(one, dict)] if isinstance(calls, list) else []

    @property
    def is_empty(self) -> bool:
        """True for an answer that says nothing: no text, no call, no refusal of its host."""
        said = self.text.strip() or self.tool_calls or self.message.get("refusal")
        return not (self.error or said)


AnswerTable = dict[AnswerKey, ComparedAnswer]


class Measure(Model):
    """Something that is measured of each answer. ``share``: scores are 0 or 1; else numbers.
    ``decides``: a difference in it is tested, and corrected for together with the others."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str  # exact_match, check:json, judge:first, ...
    title: str  # as people read it
    by: str = ""  # in a sentence, where the title does not stand behind "by"
    share: bool = False
    unit: str = ""
    better: Better = "higher"
    decides: bool = True
    about: str = ""  # one sentence: how it is scored

    @property
    def words(self) -> str:
        """How it is called behind "by"."""
        return self.by or self.title.lower()


class Score(Model):
    """What one measure says of one answer. ``value``: None if it was not judged, and ``reason``
    says why; for a judged one it may say what was found."""

    model_config = ConfigDict(allow_inf_nan=False, frozen=True, defer_build=True)

    value: float | None = None
    reason: str = ""


# -- figures ---------------------------------------------------------------------------------


class Interval(Model):
    """A mean with the interval in which the true one lies (95 %). ``n``: scores; ``clusters``:
    conversations they are from."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    mean: float
    low: float
    high: float
    n: int
    clusters: int


class MeasureFigure(Model):
    """A measure of one model. ``interval``: None where there is no figure, and ``empty`` says why.
    ``unjudged``: answers without a score, by the reason: errors and refused requests too."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    interval: Interval | None = None
    empty: str = ""
    unjudged: dict[str, int] = Field(default_factory=dict)

    @property
    def answers(self) -> int:
        """The answers that it is of, judged or not."""
        return (self.interval.n if self.interval else 0) + sum(self.unjudged.values())


class Difference(Model):
    """Two models on the same rows: first minus second, with its interval. ``p``: by the test;
    ``adjusted_p``: corrected for all differences of this measure. ``better``: the key of the
    better model; empty if one can't tell, and then about ``rows_needed`` would do.
    ``opposite_by``: a measure that calls the other one better."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    measure: str
    first: str
    second: str
    interval: Interval | None = None
    p: float | None = None
    adjusted_p: float | None = None
    better: str = ""
    rows_needed: int | None = None
    blocked: bool = False  # by the answers that there are one is better, and many are missing
    opposite_by: str = ""


class AnswerFigures(Model):
    """How one model answers: lengths in tokens, seconds, money. Quantiles are of single answers."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    answers: int = 0
    errors: int = 0
    not_sent: int = 0  # of the errors: what was not asked, such as after a limit
    error_kinds: dict[str, int] = Field(default_factory=dict)  # what was said, and how often
    refusals: int = 0
    empty: int = 0  # answers with neither a text nor a call
    prompt_tokens: float | None = None  # mean of an answer
    completion_tokens: float | None = None
    first_token_seconds: tuple[float, float] | None = None  # median, 95 %
    seconds: tuple[float, float] | None = None
    timed: int = 0  # answers that were timed
    tokens_per_second: float | None = None
    usd_per_answer: Decimal | None = None
    spent_usd: Decimal | None = None  # on this comparison
    unanswered: int = 0  # requests without an answer, which count in it at their most


class Verdict(Model):
    """The answer. ``text``: a paragraph; ``short``: the same without the figures of several models
    that may be the best, for where these stand beside it. ``measure``: by which. ``best``: models
    that none is better than, as far as one can tell. ``decided``: False reads "can't tell"."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    text: str
    short: str = ""
    measure: str
    best: tuple[str, ...] = ()
    decided: bool = False
    rows_needed: int | None = None


class DataFacts(Model):
    """The rows of a comparison. ``words``: where they are from. ``left_out``: rows that a compared
    model was trained on, which no figure of the verdict counts. ``note``: a sentence on them."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    words: str
    sha256: str | None = None
    rows_in_file: int = 0
    rows: int = 0
    clusters: int = 0
    left_out: dict[str, int] = Field(default_factory=dict)  # kind of leak -> rows
    seed: int = 0
    warnings: tuple[str, ...] = ()
    note: str = ""


class CheckFigure(Model):
    """One behaviour check of one model: how many answers passed, failed and were not judged."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    passed: int = 0
    failed: int = 0
    unjudged: int = 0
    examples: tuple[str, ...] = ()  # ids of rows that failed, else passed; at most 20


class JudgeFacts(Model):
    """The judge of a comparison, and how far it can be trusted. ``agreement``: share of pairs in
    which both orders say the same; ``ties``: pairs that no model wins, also for contradicting
    verdicts; ``first``: share of verdicts for the answer shown first; ``longer``: share for the
    longer one of answers of different length."""

    model_config = ConfigDict(frozen=True, defer_build=True, protected_namespaces=())

    model: str
    host: str | None = None
    pairs: int = 0
    agreement: Interval | None = None
    ties: int = 0
    first: Interval | None = None
    longer: Interval | None = None
    unread: int = 0  # verdicts that could not be read
    spent_usd: Decimal | None = None
    unanswered: int = 0  # requests without an answer, which count in it at their most
    warnings: tuple[str, ...] = ()


class ComparisonData(Model):
    """All of a comparison but its texts: JSON in and out; what every report is drawn from."""

    model_config = ConfigDict(defer_build=True, protected_namespaces=())

    version: int = 1
    id: str  # cmp-...
    created_at: float
    seconds: float = 0.0
    command: str = ""  # that repeats it
    gateway_version: str = ""
    data: DataFacts
    models: list[ComparedFacts]
    measures: list[Measure]
    figures: dict[str, dict[str, MeasureFigure]] = Field(default_factory=dict)  # measure -> model
    differences: list[Difference] = Field(default_factory=list)
    answers: dict[str, AnswerFigures] = Field(default_factory=dict)  # model ->
    checks: dict[str, dict[str, CheckFigure]] = Field(default_factory=dict)  # check -> model ->
    judge: JudgeFacts | None = None
    serving: ServingCosts | None = None
    verdict: Verdict
    left_out: dict[str, str] = Field(default_factory=dict)  # measure -> why it does not apply
    stopped: str = ""  # why not all was asked, such as a limit
    asked: int = 0  # requests of this run
    asked_again: int = 0  # of them, in flight when an earlier process died
    kept: int = 0  # answers of earlier runs
    spent_usd: Decimal | None = None  # in all of its runs
    unanswered: int = 0  # requests without an answer: the host may have charged them
    at_most_usd: Decimal = Decimal(0)  # of spent_usd: that of these, the most that they can cost
    prices: tuple[str, ...] = ()  # of answers: model, amount, unit, date, source
    notes: list[str] = Field(default_factory=list)
