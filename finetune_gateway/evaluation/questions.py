"""The questions of a comparison or a check: the rows, what checks ask on, what the judge is asked;
and all that was answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from math import isfinite
from typing import Self

from finetune_gateway.errors import BudgetError, GatewayError, PrivateDataError
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.evaluation import answers as asking
from finetune_gateway.evaluation import judging
from finetune_gateway.evaluation.answers import AskHow, AskPlan, AskResult, Spending
from finetune_gateway.evaluation.answers.local import load
from finetune_gateway.evaluation.answers.planning import total
from finetune_gateway.evaluation.answers.spending import Payers
from finetune_gateway.evaluation.checks import Guide, Outcome, Rounds
from finetune_gateway.evaluation.judging import Judgement, JudgeQuestion
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.evaluation.results import AnswerTable, ComparedAnswer, ComparedRow
from finetune_gateway.evaluation.work import require_within
from finetune_gateway.jobs.store import Store

MOST_ROUNDS = 60  # of a conversation that checks have
SAY = "..."  # stands for an answer that nobody knows yet, where it is priced


@dataclass
class Found:
    """All that was answered. ``outcomes``: of checks, by the key of the model. ``losses``: how
    unlikely a local model finds the reference of a row, by both; ``lossless``: why it does not say.
    ``payers``: see AskResult; ``spent``: in all runs. ``stopped``: why not all was asked."""

    answers: AnswerTable = field(default_factory=dict)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    losses: dict[tuple[str, str], float] = field(default_factory=dict)
    lossless: dict[tuple[str, str], str] = field(default_factory=dict)
    judgements: list[Judgement] = field(default_factory=list)
    asked: int = 0
    again: int = 0
    kept: int = 0
    payers: Payers = field(default_factory=dict)
    spent: Spending = field(default_factory=Spending)
    stopped: str = ""
    ended: dict[str, GatewayError] = field(default_factory=dict)

    @property
    def checked(self) -> AnswerTable:
        """The answers that ended the conversations of checks."""
        return {
            (key, one.row.id, 0): one.answer
            for key, found in self.outcomes.items()
            for one in found
        }

    def add(self, asked: AskResult) -> AnswerTable:
        """Count what one round has asked, and return its answers."""
        self.asked += asked.asked
        self.again += asked.again
        self.kept += asked.kept
        self.payers = asked.payers | self.payers
        self.stopped = self.stopped or asked.stopped
        self.ended |= asked.ended
        return asked.answers


@dataclass(frozen=True)
class QuestionPlan:
    """What is known of all questions before anything is sent. ``rounds``: title of each round with
    its plan; those after the first depend on answers, and are priced with those of the data."""

    judge: EvaluatedModel | None
    rounds: list[tuple[str, AskPlan]]
    limit: Decimal | None
    notes: tuple[str, ...]

    @property
    def cost(self) -> Range[Decimal] | None:
        """What all of it costs; None if a price is not known."""
        return total(plan.cost for _, plan in self.rounds)

    def require_agreed(self, what: str, confirm: Callable[[Self], bool] | None) -> None:
        """Raise BudgetError if the limit, for all of ``what``, is below the low estimate of all
        rounds together, if a price is not known for a limit, or if ``confirm`` says no."""
        for _, plan in self.rounds:
            plan.require_priced()
        if self.left and self.cost is not None:
            spent = self.rounds[0][1].how.limit.spent
            require_within(self.cost, self.limit, None, spent, model="", what=what)
        if confirm is not None and not confirm(self):
            raise BudgetError("Nothing was sent: the price was not confirmed.", hint="Pass --yes.")

    @property
    def left(self) -> int:
        """Requests that are to be sent, as far as they are known."""
        return sum(sum(plan.left.values()) for _, plan in self.rounds)

    @property
    def kept(self) -> int:
        """Requests that were answered in an earlier run."""
        return sum(plan.kept for _, plan in self.rounds)

    @property
    def again(self) -> int:
        """Requests that were in flight when an earlier process died."""
        return sum(plan.again for _, plan in self.rounds)

    @property
    def sends(self) -> bool:
        """True if something goes to a host."""
        return any(plan.sends for _, plan in self.rounds)

    @property
    def allowed(self) -> dict[str, int]:
        """Private data that hosts get to see, each kind and how often."""
        found: dict[str, int] = {}
        for _, plan in self.rounds:
            found |= plan.allowed
        return found


@dataclass(frozen=True)
class Questions:
    """Whom a comparison asks what. ``with_losses``: local models also tell how likely they find the
    references."""

    store: Store
    models: list[EvaluatedModel]
    judge: EvaluatedModel | None
    guide: Guide | None
    rows: list[ComparedRow]
    how: AskHow
    seed: int
    with_losses: bool = False

    @property
    def counted(self) -> list[ComparedRow]:
        """The rows that are asked: one that a model was trained on counts in no figure."""
        return [row for row in self.rows if not row.leaks]

    @property
    def prompts(self) -> list[Prompt]:
        """What they ask."""
        return [row.prompt for row in self.counted]

    # -- before --------------------------------------------------------------------------

    def plan(self, notes: Iterable[str] = ()) -> QuestionPlan:
        """Return all that is known before anything is sent. ``notes``: on the rows."""
        rounds = self._planned_rounds()
        own = dict.fromkeys(note for _, plan in rounds for note in plan.notes)
        return QuestionPlan(self.judge, rounds, self.how.limit.usd, (*own, *notes))

    def _planned_rounds(self) -> list[tuple[str, AskPlan]]:
        """Return each round of questions with its plan. What checks ask on and what the judge is
        asked depends on answers: where they are not here yet, it is priced with those of the data
        in their place."""
        rows = self._plan(dict.fromkeys(self._keys, self.prompts))
        rounds = [("rows", rows)]
        here = asking.known(rows)
        likely = self._likely_answers()
        found = Found(likely | here)
        if self.guide is not None:
            prompts = {key: self._likely_turns(key, found) for key in self._keys}
            if any(prompts.values()):
                rounds.append(("checks", self._plan(prompts, samples=1)))
        if self.judge is not None:
            whole = not any(sum(plan.left.values()) for _, plan in rounds)
            answers = here | found.checked if whole else likely
            asked = self._judge_questions(answers, for_price=not whole)
            rounds.append(("judge", self._plan_judge(asked)))
        return rounds

    @property
    def _keys(self) -> list[str]:
        return [model.key for model in self.models]

    def _plan(self, prompts: Mapping[str, Sequence[Prompt]], samples: int | None = None) -> AskPlan:
        how = self.how if samples is None else replace(self.how, samples=samples)
        models = [model for model in self.models if model.key in prompts]
        return asking.plan(self.store, models, prompts, how)

    def _plan_judge(self, questions: Sequence[JudgeQuestion]) -> AskPlan:
        assert self.judge is not None  # for the type checker
        prompts = [one.prompt for one in questions if one.prompt is not None]
        parameters = {"temperature": 0, "max_tokens": judging.MAX_TOKENS}
        how = replace(self.how, samples=1, parameters=parameters)
        return asking.plan(self.store, [self.judge], {self.judge.key: prompts}, how)

    def _likely_answers(self) -> AnswerTable:
        """Return answers like those of the data, for prices."""
        return {
            (key, row.id, 0): ComparedAnswer(
                model=key, row=row.id, message=row.reference or {"content": SAY}
            )
            for key in self._keys
            for row in self.counted
        }

    def _likely_turns(self, key: str, found: Found) -> list[Prompt]:
        """Return what checks would ask on if each answer that is not here yet were like those of
        the data; and add their outcomes."""
        rounds, prompts = self._rounds(key, found.answers), list[Prompt]()
        said = ComparedAnswer(model=key, row="", message={"content": SAY})
        while pending := rounds.pending():
            prompts += pending
            here = _of_model(key, asking.known(self._plan({key: pending}, samples=1)))
            rounds.take({one.id: said for one in pending} | here)
        found.outcomes[key] = rounds.outcomes()
        return prompts

    def _rounds(self, key: str, answers: AnswerTable) -> Rounds:
        assert self.guide is not None  # for the type checker
        known = {
            row: one for (model, row, sample), one in answers.items() if (model, sample) == (key, 0)
        }
        return Rounds(self.guide.cases(self.counted), known)

    # -- asking --------------------------------------------------------------------------

    def ask(self) -> Found:
        """Ask all of it. Raises BudgetError, AuthenticationError before anything is sent, the error
        that ended it if nobody answered; JobNotFinished, StoreError."""
        found = Found()
        if self.judge is not None and self.judge.backend is not None:
            self.judge.backend.connect()  # its key is missing before the rows are paid for
        asking.require_free(self._plan(dict.fromkeys(self._keys, self.prompts)))
        for models in self._in_turn():
            self._ask_models(models, found)
        _require_an_answer(found)
        if self.judge is not None and not found.stopped:
            self._ask_judge(found)
        found.spent = asking.spending(self.store, self.how.name, found.payers)
        return found

    def _in_turn(self) -> Iterator[list[EvaluatedModel]]:
        """Yield the models that are asked together: all that take no memory here; then those of
        this machine one by one, each with all of its names, so that it is loaded once."""
        here: dict[str, list[EvaluatedModel]] = {}
        for model in self.models:
            if model.kind == "local":
                here.setdefault(model.fingerprint, []).append(model)
        if elsewhere := [model for model in self.models if model.kind != "local"]:
            yield elsewhere
        yield from here.values()

    def _ask_models(self, models: Sequence[EvaluatedModel], found: Found) -> None:
        """Ask some models all but what the judge is asked."""
        keys = [model.key for model in models]
        answers = found.add(asking.ask(self._plan(dict.fromkeys(keys, self.prompts))))
        found.answers |= answers
        if answers and all(one.error for one in answers.values()):
            if self.guide is not None:
                found.outcomes |= {key: self._rounds(key, found.answers).outcomes() for key in keys}
            return
        if self.guide is not None and not found.stopped:
            self._ask_on(keys, found)
        if self.with_losses and models[0].kind == "local":
            self._add_losses(models, found)

    def _ask_on(self, keys: Sequence[str], found: Found) -> None:
        """Have the conversations of checks, a turn of all these models and checks at a time."""
        every = {key: self._rounds(key, found.answers) for key in keys}
        for _ in range(MOST_ROUNDS):
            pending = {key: rounds.pending() for key, rounds in every.items()}
            if not any(pending.values()) or found.stopped:
                break
            answers = _ask_later(found, partial(self._plan, pending, samples=1))
            for key, rounds in every.items():
                rounds.take(_of_model(key, answers))
        found.outcomes |= {key: rounds.outcomes() for key, rounds in every.items()}

    def _add_losses(self, models: Sequence[EvaluatedModel], found: Found) -> None:
        """Add how unlikely a local model finds each reference, under each of its names."""
        handle = models[0].handle  # it answers for all of them
        assert handle is not None  # for the type checker
        having = [row for row in self.counted if row.reference is not None]
        load(handle)
        for model in models:
            asked = [
                {**model.framed(row.prompt).asked, "reference": row.reference} for row in having
            ]
            losses = handle.reference_losses(
                [{key: one.get(key) for key in ("messages", "reference", "tools")} for one in asked]
            )
            for row, loss in zip(having, losses, strict=True):
                if isinstance(loss, GatewayError):
                    found.lossless[model.key, row.id] = loss.message
                elif isfinite(loss):
                    found.losses[model.key, row.id] = loss

    def _ask_judge(self, found: Found) -> None:
        questions = self._judge_questions(found.answers | found.checked)
        answers = _ask_later(found, partial(self._plan_judge, questions))
        assert self.judge is not None  # for the type checker
        said = _of_model(self.judge.key, answers)
        found.judgements = judging.read_verdicts(questions, said)

    def _judge_questions(
        self, answers: AnswerTable, *, for_price: bool = False
    ) -> list[JudgeQuestion]:
        return judging.judge_prompts(
            self.counted,
            answers,
            pairs_of(self._keys),
            guide=self.guide,
            seed=self.seed,
            for_price=for_price,
        )


def _ask_later(found: Found, plan: Callable[[], AskPlan]) -> AnswerTable:
    """Ask a round that shows answers to a host. One that has private data stops it: what was
    answered is paid, and is compared."""
    try:
        return found.add(asking.ask(plan()))
    except PrivateDataError as exc:
        what = exc.message.removeprefix("Nothing was sent: ").rstrip(".")
        found.stopped = f"of what was answered {what}; --allow-pii and --allow-secrets send it"
        return {}


def _of_model(key: str, answers: AnswerTable) -> dict[str, ComparedAnswer]:
    return {row: answer for (model, row, _), answer in answers.items() if model == key}


def _require_an_answer(found: Found) -> None:
    """Raise what ended a model early if nobody has answered anything, the rows or a check."""
    turns = (
        one for outcomes in found.outcomes.values() for each in outcomes for one in each.answers
    )
    if found.ended and all(one.error for one in (*found.answers.values(), *turns)):
        raise next(iter(found.ended.values()))


def pairs_of(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs that a judge compares: all of up to three models, else each with the
    first."""
    if len(keys) > 3:
        return [(keys[0], other) for other in keys[1:]]
    return [(one, other) for at, one in enumerate(keys) for other in keys[at + 1 :]]
