"""From all that was answered to a comparison that is kept: scores, figures, costs, the verdict."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

from finetune_gateway.errors import SpecError, shown
from finetune_gateway.evaluation import assessing, best, costs, judging, measures, missing_scores
from finetune_gateway.evaluation.answers.store import is_kept
from finetune_gateway.evaluation.assessing import CHECKS, FIGURES, Scorer, Scores
from finetune_gateway.evaluation.checks import Guide, Outcome, Skipped
from finetune_gateway.evaluation.checks.rounds import NOT_ENDED
from finetune_gateway.evaluation.comparison import Comparison, ScoredAnswer, keep
from finetune_gateway.evaluation.missing_scores import Unjudged
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.questions import Found, Questions
from finetune_gateway.evaluation.results import (
    NOT_RECORDED,
    UNDECIDED,
    AnswerKey,
    ComparedAnswer,
    ComparedFacts,
    ComparedRow,
    ComparisonData,
    DataFacts,
    Difference,
    JudgeFacts,
    Measure,
    MeasureFigure,
    Score,
)
from finetune_gateway.jobs import compared
from finetune_gateway.jobs.model_names import did_you_mean

Json = dict[str, Any]

# Which measure decides, if the user names none: the first of these that there is.
ORDER = (
    "checks", "judge:wins", "tool_arguments", "json_schema", "final_number", "normalized_match",
    "reference_loss",
)  # fmt: skip
# Begin the reasons of what was not judged because there is no answer: that is counted by itself.
NOT_ANSWERED = "error: ", measures.NO_ANSWER, measures.FILTERED, NOT_ENDED
NO_LOSS = "hosts do not tell how likely a given text is"


def conclude(
    questions: Questions,
    found: Found,
    about: ComparisonData,
    *,
    by: str | None = None,
    requests: int | None = None,
    unpriced: Collection[str] = (),
) -> Comparison:
    """Score what was answered, and keep the comparison. ``about``: what was known before.
    ``unpriced``: models of which no price is known."""
    with_losses = _with_losses(questions, found)
    chosen = measures.choose(questions.counted)
    scored = [*_scored(questions, with_losses, chosen.scorers)]
    scored, rows = _with_outcomes(questions, found, scored)
    facts = [
        model.facts().model_copy(
            update={
                "training": costs.training_facts(model, questions.store),
                "parameters": questions.how.parameters,
            }
        )
        for model in questions.models
    ]
    table = _Table(facts, rows, scored, found.lossless)
    listed = [*_measures(questions, chosen.scorers)]
    for measure in listed:
        table.add(measure)
    table.skip(questions.guide)
    if questions.judge is not None:
        table.add_judge(found)
    refused = {model.key: table.refusals(model.key) for model in facts}
    figures = {}
    for model in facts:
        # Of the rows alone: what a check asks on, such as an attack, is no request of every day.
        own = [one for one in with_losses if one.model == model.key]
        bought = found.spent.of(model.key)
        spent = None if model.key in unpriced else bought.usd
        figure = assessing.answer_figures(own, refused[model.key], found.stopped)
        figures[model.key] = figure.model_copy(
            update={"spent_usd": spent, "unanswered": bought.unanswered}
        )
    measure = _deciding(table, by)
    right = _right(measure, table, questions)
    never = {found.stopped, NOT_RECORDED} - {""}  # nobody chose which rows these are
    left = {
        model.key: assessing.unanswered(
            (one for one in with_losses if one.model == model.key), never
        )
        for model in facts
    }
    judge_stopped = [f"{judging.NO_VERDICT}: {found.stopped}"] if found.stopped else []
    silent = table.unjudged((*NOT_ANSWERED, *judge_stopped))
    table.differences = missing_scores.untold(table.differences, left, silent)
    table.differences = best.with_opposites(
        table.differences, measure, [*_others(measure, table)], named=by is not None
    )
    judge = _judge_facts(questions, found, rows)
    money = costs.money_clauses(figures, {model.key: model.training for model in facts})
    data = about.model_copy(
        update={
            "seconds": time.time() - about.created_at,
            "models": facts,
            "measures": table.measures,
            "figures": table.figures,
            "differences": table.differences,
            "answers": figures,
            "checks": {
                check.name: assessing.check_figures(check.measure.name, facts, scored)
                for check in (questions.guide.checks if questions.guide else ())
            },
            "judge": judge,
            "serving": costs.serving(questions.models, figures, requests, questions.store),
            "verdict": best.verdict(
                measure,
                facts,
                table.figures[measure.name],
                [one for one in table.differences if one.measure == measure.name],
                money,
                left,
                table.figures.get(right.name) if right else None,
                silent[measure.name],
                judge.warnings if judge and measure.name == judging.WINS.name else (),
                right,
                [*_others(measure, table)],
            ),
            "left_out": chosen.left_out,
            "asked": found.asked,
            "asked_again": found.again,
            "kept": found.kept,
            "spent_usd": None if unpriced else found.spent.usd,
            "unanswered": found.spent.unanswered,
            "at_most_usd": found.spent.at_most_usd,
            "stopped": found.stopped,
            "notes": [
                *about.notes,
                *_notes(found, facts),
                *_cut(scored, facts),
                *_unread(questions.judge, judge),
            ],
        }
    )
    return keep(questions.store.settings, data, [*rows.values()], scored, found.judgements)


# -- scores ----------------------------------------------------------------------------------


def _with_losses(questions: Questions, found: Found) -> list[ComparedAnswer]:
    """Return the answers to the rows, those of local models with the loss of the reference."""
    answers = []
    for model in questions.models:
        for row in questions.counted:
            for sample in range(questions.how.samples):
                answer = found.answers.get((model.key, row.id, sample))
                if answer is not None:
                    loss = found.losses.get((model.key, row.id))
                    answers.append(answer.model_copy(update={"loss": loss}))
    return answers


def _scored(
    questions: Questions, answers: Iterable[ComparedAnswer], scorers: Sequence[Scorer]
) -> Iterator[ScoredAnswer]:
    rows = {row.id: row for row in questions.rows}
    every: list[Scorer] = [*scorers, *FIGURES]
    for answer in answers:
        scores = {
            scorer.measure.name: assessing.score_of(scorer, rows[answer.row], answer)
            for scorer in every
        }
        yield ScoredAnswer(answer=answer, scores=scores)


def _with_outcomes(
    questions: Questions, found: Found, scored: Sequence[ScoredAnswer]
) -> tuple[list[ScoredAnswer], dict[str, ComparedRow]]:
    """Return the answers with what checks say of them, those that checks alone have asked at the
    end; and all rows by their ids."""
    rows = {row.id: row for row in questions.rows}
    by_key: dict[AnswerKey, ScoredAnswer] = {_key(one.answer): one for one in scored}
    for outcomes in found.outcomes.values():
        for outcome in outcomes:
            rows.setdefault(outcome.row.id, outcome.row)
            key = (outcome.answer.model, outcome.row.id, 0)
            known = by_key.get(key) or ScoredAnswer(answer=outcome.answer)
            by_key[key] = _with_outcome(known, outcome)
    for (model, row), scores in judging.rubric_scores(found.judgements).items():
        if (one := by_key.get((model, row, 0))) is not None:
            by_key[model, row, 0] = _with_scores(one, scores)
    _add_all_checks(by_key, rows)
    return [*by_key.values()], rows


def _key(answer: ComparedAnswer) -> AnswerKey:
    return answer.model, answer.row, answer.sample


def _with_outcome(one: ScoredAnswer, outcome: Outcome) -> ScoredAnswer:
    check = outcome.case.check
    turns = {**one.turns, check.name: outcome.turns} if outcome.turns else one.turns
    found = _with_scores(one, {check.measure.name: outcome.score})
    return found.model_copy(update={"turns": turns})


def _with_scores(one: ScoredAnswer, scores: Mapping[str, Score]) -> ScoredAnswer:
    return one.model_copy(update={"scores": {**one.scores, **scores}})


def _add_all_checks(by_key: dict[AnswerKey, ScoredAnswer], rows: Mapping[str, ComparedRow]) -> None:
    """Give the answer to each row the score of all checks together, those of the conversations that
    begin with it too: 14 attacks after one row say no more of other rows than that row."""
    begun: dict[AnswerKey, list[AnswerKey]] = defaultdict(list)
    for model, row, sample in by_key:
        begun[model, rows[row].opening or row, sample].append((model, row, sample))
    for opening, keys in begun.items():
        scores = [score for key in keys for score in by_key[key].scores.items()]
        checked = [score for name, score in scores if name.startswith("check:")]
        if checked:
            shown = opening if opening in by_key else keys[0]
            by_key[shown] = _with_scores(by_key[shown], {CHECKS.name: _of_all(checked)})


def _of_all(checked: Sequence[Score]) -> Score:
    """Return the score of all checks of an answer: 0 if one fails; none if one could not be judged,
    since it may fail; what shows neither is left out."""
    judged = [score.value for score in checked if score.value is not None]
    if judged and min(judged) < 1:
        return Score(value=min(judged))
    reasons = [score.reason for score in checked if score.value is None]
    missing = [reason for reason in reasons if not reason.startswith(UNDECIDED)]
    if missing or not judged:
        return Score(reason=[*missing, *reasons][0])
    return Score(value=1)


def _measures(questions: Questions, scorers: Sequence[Scorer]) -> Iterator[Measure]:
    yield from (scorer.measure for scorer in scorers)
    yield from (figure.measure for figure in FIGURES)
    if questions.guide is not None:
        yield CHECKS
        yield from (check.measure for check in questions.guide.checks)


# -- figures ---------------------------------------------------------------------------------


class _Table:
    """The figures of all measures, and the differences in them."""

    def __init__(
        self,
        facts: Sequence[ComparedFacts],
        rows: Mapping[str, ComparedRow],
        scored: Sequence[ScoredAnswer],
        lossless: Mapping[tuple[str, str], str],
    ) -> None:
        self.facts, self.rows, self.scored = facts, rows, scored
        self.lossless = lossless
        self.clusters = {
            assessing.place(one.answer): rows[one.answer.row].cluster for one in scored
        }
        self.measures: list[Measure] = []
        self.figures: dict[str, dict[str, MeasureFigure]] = {}
        self.differences: list[Difference] = []

    def add(self, measure: Measure) -> None:
        """Add a measure of single answers."""
        scores = assessing.gather(measure, self.facts, self.rows, self.scored)
        if measure.name == assessing.LOSS.name:
            scores = self._with_reasons(scores)
        self.measures.append(measure)
        self.figures[measure.name] = assessing.figures(scores, self.clusters)
        self.differences += assessing.differences(scores, self.clusters)

    def _with_reasons(self, scores: Scores) -> Scores:
        """Say why there is no loss: once of hosted models, of local ones by their rows."""
        unjudged: dict[str, Counter[str]] = {key: Counter() for key in scores.unjudged}
        hosts = {model.key for model in self.facts if model.kind != "local"}
        for one in self.scored:
            key, score = one.answer.model, one.scores.get(assessing.LOSS.name)
            if score is not None and score.value is None:
                why = self.lossless.get((key, one.answer.row), score.reason)
                unjudged[key][NO_LOSS if key in hosts else why] += 1
        return replace(scores, unjudged=unjudged)

    def skip(self, guide: Guide | None) -> None:
        """Say why a check of the guide has no figure here."""
        for check in guide.checks if guide else ():
            if isinstance(check, Skipped):
                none = MeasureFigure(empty=check.why)
                self.figures[check.measure.name] = {model.key: none for model in self.facts}

    def add_judge(self, found: Found) -> None:
        """Add what the judge says, of pairs of answers and by rubrics."""
        judged = judging.figures(found.judgements, self.facts, self.rows)
        self.measures += judged.measures
        self.figures |= judged.figures
        self.differences += judged.differences

    def unjudged(self, never: tuple[str, ...]) -> dict[str, dict[str, Unjudged]]:
        """Return what each measure has not judged of the answers of each model. ``never``: begin
        reasons that do not count."""
        return {
            name: {key: Unjudged.of(name, figure, never) for key, figure in figures.items()}
            for name, figures in self.figures.items()
        }

    def leave_empty(self, name: str) -> None:
        """Add a measure of which there is no figure."""
        self.measures.append(Measure(name=name, title=name))
        none = MeasureFigure(empty="not judged: it was not asked")
        self.figures[name] = {model.key: none for model in self.facts}

    def refusals(self, key: str) -> int:
        """Return how many answers of a model decline."""
        found = (one.scores.get("refusal") for one in self.scored if one.answer.model == key)
        return sum(1 for score in found if score is not None and score.value == 1)


def require_measure(by: str | None, questions: Questions) -> None:
    """Raise SpecError, before anything is asked, if there is no such measure."""
    known = [one.name for one in _measures(questions, measures.choose(questions.counted).scorers)]
    if questions.judge is not None:
        rubrics = questions.guide.rubrics if questions.guide is not None else []
        known += [judging.WINS.name, *(f"judge:{rubric.name}" for rubric in rubrics)]
    if by is not None and by not in known:
        near = did_you_mean(by, known)
        raise SpecError(
            f"There is no measure {shown(by)}.", hint=f"{near}There are: {', '.join(known)}."
        )


def _deciding(table: _Table, by: str | None) -> Measure:
    """Return the measure that decides."""
    if by is not None and by not in table.figures:
        table.leave_empty(by)  # nothing was judged by it, such as after a limit
    known = {measure.name: measure for measure in table.measures}
    if by in known:
        return known[by]
    usable = [name for name in ORDER if name in known and _says_something(table.figures[name])]
    first = next(iter(usable), None) or next(name for name in ORDER if name in known)
    return known[first]


def _others(measure: Measure, table: _Table) -> Iterator[tuple[Measure, list[Difference]]]:
    """Yield the other measures that could decide, with their differences."""
    known = {one.name: one for one in table.measures}
    for name in ORDER:
        if name in known and name != measure.name:
            yield known[name], [one for one in table.differences if one.measure == name]


def _right(measure: Measure, table: _Table, questions: Questions) -> Measure | None:
    """Return the measure that says which answers are right, to be named beside one that does not;
    none beside checks where answers are in other words than their references."""
    known = {one.name: one for one in table.measures}
    names = ["normalized_match"]
    if measure.name == CHECKS.name:
        names = ["tool_arguments", "final_number"]
        names += ["normalized_match"] if measures.can_match(questions.counted) else []
    return next((known[name] for name in names if name in known), None)


def _says_something(figures: Mapping[str, MeasureFigure]) -> bool:
    """Return True if models differ at all, or one has more than nothing."""
    means = [one.interval.mean for one in figures.values() if one.interval is not None]
    return len(means) == len(figures) and any(means)


def _judge_facts(
    questions: Questions, found: Found, rows: Mapping[str, ComparedRow]
) -> JudgeFacts | None:
    if questions.judge is None:
        return None
    judge = questions.judge
    compared = [model.title for model in questions.models]
    facts = judging.facts(found.judgements, rows, judge.title, compared)
    bought = found.spent.of(judge.key)
    return facts.model_copy(
        update={"host": judge.host, "spent_usd": bought.usd, "unanswered": bought.unanswered}
    )


def _notes(found: Found, facts: Sequence[ComparedFacts]) -> Iterator[str]:
    titles = {model.key: model.title for model in facts}
    if found.stopped:
        yield f"Not all was asked: {found.stopped.rstrip('.')}."
    for key, error in found.ended.items():
        yield f"{titles.get(key, 'The judge')} was not asked to the end: {error.message}"


def _unread(judge: EvaluatedModel | None, facts: JudgeFacts | None) -> Iterator[str]:
    """Yield how a judge is asked again for verdicts that could not be read."""
    if judge is not None and facts is not None and facts.unread and is_kept(judge):
        name = f"{compared.ANSWERS}{judge.fingerprint[: compared.SHORT]}"
        yield (
            "Verdicts that could not be read are kept, and not asked for again. To ask for all "
            f"verdicts of this judge again, paid again too: ftg rm {name}"
        )


def _cut(scored: Sequence[ScoredAnswer], facts: Sequence[ComparedFacts]) -> Iterator[str]:
    """Yield which models have answers that end at the limit of tokens, before they are done."""
    for model in facts:
        reasons = [one.answer.finish_reason for one in scored if one.answer.model == model.key]
        if cut := reasons.count("length"):
            yield (
                f"{cut:,} of {len(reasons):,} answers of {model.title} are cut at the limit of "
                "tokens (--max-tokens): they may fail for that alone."
            )


def begun(name: str, words: DataFacts, command: str, prices: tuple[str, ...]) -> ComparisonData:
    """Return a comparison of which nothing is known yet."""
    return ComparisonData.model_validate(
        {
            "id": name,
            "created_at": time.time(),
            "command": command,
            "gateway_version": metadata.version("finetune-gateway"),
            "data": words,
            "models": [],
            "measures": [],
            "verdict": {"text": "", "measure": ""},
            "prices": prices,
        }
    )
