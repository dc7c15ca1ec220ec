"""A judge of answers: in pairs, each in both orders, and by the rubrics of a guide.

>>> questions = judge_prompts(rows, answers, pairs, guide=guide, seed=seed)
>>> said = ask([question.prompt for question in questions if question.prompt])
>>> judgements = read_verdicts(questions, said)     # said: answers by the id of the prompt
>>> facts(judgements, rows, "gpt-5.1")              # how far it can be trusted
>>> figures(judgements, models, rows)               # its measures, with figures and differences
>>> rubric_scores(judgements)                       # of the guide's checks: pass or fail

``judge:wins`` is 1 where both orders say that a model's answer is better, 0 where both say so of
the other one, and 0.5 else: a judge that always says "the first" gives ties alone. What cannot be
read is counted, and is no verdict. Only the first sample of each answer is judged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from finetune_gateway.evaluation import judge as asked
from finetune_gateway.evaluation import statistics
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.checks.check import PREFIX
from finetune_gateway.evaluation.judge import MAX_TOKENS, JudgeQuestion
from finetune_gateway.evaluation.missing_scores import alike
from finetune_gateway.evaluation.results import (
    PAIRS,
    AnswerTable,
    ComparedAnswer,
    ComparedFacts,
    ComparedRow,
    Difference,
    Measure,
    MeasureFigure,
    Score,
)
from finetune_gateway.evaluation.verdicts import UNREAD, Judgement, Pair, facts, pairs_of

__all__ = [
    "MAX_TOKENS", "Judged", "Judgement", "JudgeQuestion", "facts", "figures", "judge_prompts",
    "read_verdicts", "rubric_scores",
]  # fmt: skip

PASS = 0.75  # of the way up a scale, from which on an answer passes a rubric: 4 of 1 to 5
NO_VERDICT = "no verdict of the judge"
SAME = "the answers are the same"
WINS = Measure(
    name=PAIRS,
    title="Preferred by the judge",
    by="what the judge prefers",
    share=True,
    about="Shown in both orders: 1 if both say that it is better, 0 if both prefer the other "
    "answer, 0.5 if they say neither or contradict each other.",
)
LIKE = Measure(
    name="judge:wins_like_length",
    title="Preferred by the judge, at like length",
    share=True,
    decides=False,
    about="The same, of pairs whose longer answer is at most 1.25 times as long as the other.",
)


# -- questions -------------------------------------------------------------------------------


def judge_prompts(
    rows: Sequence[ComparedRow],
    answers: AnswerTable,
    pairs: Sequence[tuple[str, str]],
    *,
    guide: Guide | None = None,
    seed: int = 0,
    for_price: bool = False,
) -> list[JudgeQuestion]:
    """Return what a judge is asked of these answers: of each pair of models both orders, and each
    rubric of the guide of each answer.

    Rows that a compared model was trained on are not judged, nor answers that are missing. Equal
    answers are a tie without a question, unless ``for_price``: then the answers are stand-ins, and
    each counts. ``answers``: to the rows, and to what checks ask on their own.
    """
    words = guide.text if guide is not None else ""
    models = [*dict.fromkeys(key for key, _, _ in answers)]
    questions: list[JudgeQuestion] = []
    for row in _judged_rows(rows):
        for pair in pairs:
            found = asked.answers_of(row, pair, answers)
            if found is not None:
                salt = [seed, *(pair if for_price else ())]
                questions += _both_orders(row, found, words, salt, ask_same=for_price)
    for rubric in guide.rubrics if guide is not None else ():
        for row in _judged_rows(rubric.openings(rows)):
            for key in models:
                found = asked.answers_of(row, [key], answers)
                salt = [seed, *([key] if for_price else [])]
                if found is not None:
                    questions.append(asked.rubric_question(row, found[0], rubric, words, salt))
    return questions


def _judged_rows(rows: Sequence[ComparedRow]) -> list[ComparedRow]:
    return [row for row in rows if not row.leaks]


def _both_orders(
    row: ComparedRow, pair: list[ComparedAnswer], guide: str, salt: list[object], *, ask_same: bool
) -> Iterator[JudgeQuestion]:
    for order, (first, second) in enumerate((pair, pair[::-1])):
        question = asked.pair_question(row, first, second, guide, [*salt, order])
        same = asked.answer_text(first.message) == asked.answer_text(second.message)
        yield replace(question, prompt=None) if same and not ask_same else question


def read_verdicts(
    questions: Iterable[JudgeQuestion], said: Mapping[str, ComparedAnswer]
) -> list[Judgement]:
    """Return the verdict of each question; ``said``: what the judge answered, by the id of the
    prompt. One that is missing, failed or cannot be read says so, and is never guessed."""
    return [_judgement(question, said) for question in questions]


def _judgement(question: JudgeQuestion, said: Mapping[str, ComparedAnswer]) -> Judgement:
    found = Judgement(
        row=question.row,
        first=question.first,
        second=question.second,
        rubric=question.rubric,
        scale=question.scale,
        lengths=question.lengths,
    )
    if question.prompt is None:
        return found.model_copy(update={"better": "tie", "reason": SAME, "asked": False})
    answer = said.get(question.prompt.id)
    if answer is None or answer.error:
        problem = f"{NO_VERDICT}: {answer.error}" if answer else f"{NO_VERDICT}: it was not asked"
        return found.model_copy(update={"problem": problem, "asked": answer is not None})
    return found.model_copy(update=_verdict(question, answer.text))


def _verdict(question: JudgeQuestion, reply: str) -> dict[str, object]:
    """Return the fields of a verdict; one that cannot be read keeps what was said."""
    if question.rubric:
        score, reason = asked.read_score(reply, question.scale)
        if score is not None:
            return {"score": score, "reason": reason}
    else:
        better, reason = asked.read_better(reply)
        if better is not None:
            return {"better": better, "reason": reason}
    return {"problem": UNREAD, "reason": reason or reply}


# -- figures ---------------------------------------------------------------------------------


@dataclass
class Judged:
    """The measures of a judge, with the figures of each model and the differences of pairs."""

    measures: list[Measure] = field(default_factory=list)
    figures: dict[str, dict[str, MeasureFigure]] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)


def figures(
    judgements: Sequence[Judgement],
    models: Sequence[ComparedFacts],
    rows: Mapping[str, ComparedRow],
) -> Judged:
    """Return what a judge says of the models. Raises MissingDependency without scipy."""
    judged = Judged()
    keys = [model.key for model in models]
    if pairs := _worth_counting(pairs_of(judgements)):
        _add(judged, WINS, *_wins(pairs), keys, rows)
        alike = [pair for pair in pairs if pair.judged and pair.of_like_length]
        _add(judged, LIKE, *_wins(alike), keys, rows)
    for name in dict.fromkeys(one.rubric for one in judgements if one.rubric):
        given = [one for one in judgements if one.rubric == name]
        _add(judged, _rubric_measure(given[0]), *_scores(given), keys, rows)
    return judged


def _worth_counting(pairs: list[Pair]) -> list[Pair]:
    """Return the pairs; where nothing that was asked has a verdict, without those that are equal
    and so were not asked: half of each would read as a judge's figure."""
    asked = [pair for pair in pairs if pair.asked]
    return asked if asked and not any(pair.judged for pair in asked) else pairs


Values = dict[str, dict[tuple[str, ...], float]]  # model -> row, and what else tells it apart
Unjudged = dict[str, Counter[str]]


def _wins(pairs: Iterable[Pair]) -> tuple[Values, Unjudged]:
    """Return what each model gets of each pair; two models share the pairs of both alone."""
    values: Values = defaultdict(dict)
    unjudged: Unjudged = defaultdict(Counter)
    for pair in pairs:
        where = (pair.row, pair.one, pair.other)
        if not pair.judged:
            reason = next((one.problem for one in pair.verdicts if one.problem), NO_VERDICT)
            unjudged[pair.one][reason] += 1
            unjudged[pair.other][reason] += 1
            continue
        values[pair.one][where] = pair.wins
        values[pair.other][where] = 1 - pair.wins
    return values, unjudged


def _scores(judgements: Iterable[Judgement]) -> tuple[Values, Unjudged]:
    values: Values = defaultdict(dict)
    unjudged: Unjudged = defaultdict(Counter)
    for one in judgements:
        if one.score is None:
            unjudged[one.first][one.problem] += 1
        else:
            values[one.first][one.row,] = one.score
    return values, unjudged


def _rubric_measure(one: Judgement) -> Measure:
    low, high = one.scale
    return Measure(
        name=f"judge:{one.rubric}",
        title=f"Judged by {one.rubric}",
        unit=f"of {high}",
        about=f"The judge's score by this rubric, from {low} to {high}.",
    )


def _add(
    judged: Judged,
    measure: Measure,
    values: Values,
    unjudged: Unjudged,
    keys: Sequence[str],
    rows: Mapping[str, ComparedRow],
) -> None:
    judged.measures.append(measure)
    judged.figures[measure.name] = {
        key: _figure(measure, values.get(key, {}), unjudged.get(key, Counter()), rows)
        for key in keys
    }
    scores = {
        key: {"|".join(where): score for where, score in values[key].items()}
        for key in keys
        if values.get(key)
    }
    if measure.decides and len(scores) > 1:
        clusters = {
            "|".join(where): rows[where[0]].cluster for found in values.values() for where in found
        }
        compared = statistics.compare_all(measure, scores, clusters)
        judged.differences += [one for one in compared if one.interval is not None]


def _figure(
    measure: Measure,
    values: Mapping[tuple[str, ...], float],
    unjudged: Counter[str],
    rows: Mapping[str, ComparedRow],
) -> MeasureFigure:
    unjudged = alike(unjudged)
    if not values:
        why = unjudged.most_common(1)[0][0] if unjudged else "there was nothing to judge"
        return MeasureFigure(empty=f"not judged: {why}", unjudged=dict(unjudged))
    clusters = [rows[where[0]].cluster for where in values]
    interval = statistics.mean([*values.values()], clusters, share=measure.share)
    return MeasureFigure(interval=interval, unjudged=dict(unjudged))


def rubric_scores(judgements: Iterable[Judgement]) -> dict[tuple[str, str], dict[str, Score]]:
    """Return what rubrics say of answers as checks, by model and row, then by the name of the
    measure: 1 from three quarters of the scale on (4 of 1 to 5), 0 below; not judged without a
    verdict."""
    found: dict[tuple[str, str], dict[str, Score]] = defaultdict(dict)
    for one in judgements:
        if one.rubric:
            found[one.first, one.row][f"{PREFIX}{one.rubric}"] = _as_check(one)
    return dict(found)


def _as_check(one: Judgement) -> Score:
    if one.score is None:
        return Score(reason=one.problem)
    low, high = one.scale
    passes = one.score >= low + PASS * (high - low)
    return Score(value=float(passes), reason=f"{one.score:.0f} of {high}: {one.reason}")
