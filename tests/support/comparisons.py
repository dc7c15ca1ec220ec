"""Comparisons for tests and benches of what is drawn from one: rows, answers, scores and figures of
support requests, made by seed. Figures are true of the scores; intervals are roughly so.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.serving import serving_costs
from finetune_gateway.estimation.traffic import Traffic
from finetune_gateway.evaluation.comparison import Comparison, ScoredAnswer
from finetune_gateway.evaluation.prompts import Prompt, fingerprint
from finetune_gateway.evaluation.results import (
    AnswerFigures,
    CheckFigure,
    ComparedAnswer,
    ComparedFacts,
    ComparedRow,
    ComparisonData,
    DataFacts,
    Difference,
    Interval,
    JudgeFacts,
    Leak,
    Measure,
    MeasureFigure,
    Score,
    TrainingFacts,
    Variant,
    Verdict,
)
from finetune_gateway.events import Metric

Json = dict[str, Any]

INTENTS = ("track", "refund", "invoice", "return", "address")
THINGS = ("parcel", "order", "invoice", "lamp", "red chair", "subscription", "voucher")
REPLIES = (
    "Your {thing} is on its way and comes on Tuesday.",
    "We have refunded the {thing}; it takes three to five days until you see it on your account.",
    "I am sorry to hear that. Please send the {thing} back, the label is in your inbox.",
)
MEASURES = (
    Measure(name="exact_match", title="exact match", share=True,
            about="The answer is the reference, letter by letter."),
    Measure(name="json_valid", title="valid JSON", share=True, about="It is one JSON value."),
    Measure(name="reference_loss", title="reference loss", unit="nats per token", better="lower",
            about="How surprising the reference is to the model."),
    Measure(name="length", title="length", unit="words", better="", decides=False,
            about="Words of the answer."),
    Measure(name="check:keys", title="keys", share=True, about="Its keys are intent and reply."),
    Measure(name="check:calm", title="calm", share=True, about="No capital letters in a row."),
)  # fmt: skip
# key, title, variant, kind, share of answers that are right
MODELS: tuple[tuple[str, str, Variant, str, float], ...] = (
    ("tuned", "support-lora (builtin/tiny)", "tuned", "local", 0.93),
    ("hosted", "ft:gpt-4.1-mini-2025-04-14:acme:support:Bx7", "tuned", "hosted", 0.9),
    ("prompt", "prompt:gpt-4.1-mini-2025-04-14", "prompt", "hosted", 0.62),
    ("few", "few-shot:4:gpt-4.1-mini-2025-04-14", "few-shot", "hosted", 0.7),
    ("base", "base:builtin/tiny", "base", "local", 0.05),
)
REPEATS = "ftg compare ftg-7kq3 ft:gpt-4.1-mini-2025-04-14:acme:support:Bx7 --data held_out.jsonl"

# Texts that a page must not obey: markup, the end of a script, what turns text around.
HOSTILE = (
    """</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>"'&{{ 7*7 }}\u202eevil"""
)


def comparison(
    folder: Path,
    rows: int = 40,
    models: int = 5,
    *,
    seed: int = 1,
    said: Callable[[int, str], str] | None = None,
    **data: Any,
) -> Comparison:
    """A comparison of so many rows and models. ``said``: what a model (key)
    answers to a row, instead. ``data``: other values of its data."""
    chance = random.Random(seed)
    asked = [_row(place, chance, models) for place in range(rows)]
    answered = [
        _scored(row, place, model, chance, said)
        for model in MODELS[:models]
        for place, row in enumerate(asked)
    ]
    found = _data(asked, answered, models)
    return Comparison(folder, found.model_copy(update=data), asked, answered)


def _row(place: int, chance: random.Random, models: int) -> ComparedRow:
    thing, number = chance.choice(THINGS), 1000 + place
    messages = [
        {"role": "system", "content": "You answer for a shop, with one JSON object."},
        {"role": "user", "content": f"Hello, where is my {thing} with the number {number}?"},
    ]
    reply = {
        "intent": chance.choice(INTENTS),
        "reply": chance.choice(REPLIES).format(thing=f"{thing} {number}"),
    }
    prompt = Prompt(
        id=fingerprint({"messages": messages}),
        lines=(place + 1,),
        messages=messages,
        references=[{"role": "assistant", "content": json.dumps(reply)}],
    )
    leaks: tuple[Leak, ...] = ()
    if place % 17 == 9:
        leaks = (Leak(model="tuned", kind="near" if place % 2 else "exact", line=place + 3),)
    return ComparedRow(prompt=prompt, cluster=f"conversation {place // 2}", leaks=leaks)


def _scored(
    row: ComparedRow,
    place: int,
    model: tuple[str, str, Variant, str, float],
    chance: random.Random,
    said: Callable[[int, str], str] | None,
) -> ScoredAnswer:
    key, _, _, kind, right = model
    if key == "hosted" and place % 19 == 4:
        why = "the host answered 429: Rate limit reached"
        answer = ComparedAnswer(model=key, row=row.id, error=why)
        return ScoredAnswer(answer=answer, scores={m.name: Score(reason=why) for m in MEASURES})
    reference = str((row.reference or {})["content"])
    is_right = chance.random() < right
    text = reference if is_right else _wrong(reference, chance, key)
    text = said(place, key) if said else text
    seconds = chance.uniform(0.4, 2.5)
    answer = ComparedAnswer(
        model=key,
        row=row.id,
        message={"role": "assistant", "content": text},
        finish_reason="stop",
        prompt_tokens=48,
        completion_tokens=len(text) // 4,
        first_token_seconds=seconds / 5,
        seconds=seconds,
        usd=Decimal("0.00021") if kind == "hosted" else None,
        loss=None if kind == "hosted" else 2.1 - 1.8 * right,
    )
    return ScoredAnswer(answer=answer, scores=_scores(answer, is_right, kind, right))


def _wrong(reference: str, chance: random.Random, key: str) -> str:
    if key == "base":
        return f"Thank you for asking about your {chance.choice(THINGS)}. WE WILL look into it."
    words = reference.split(" ")
    words[chance.randrange(len(words))] = chance.choice(THINGS)
    return " ".join(words)


def _scores(answer: ComparedAnswer, is_right: bool, kind: str, right: float) -> dict[str, Score]:
    is_json = answer.text.startswith("{")
    loss = Score(reason="a host tells no loss of a text that is given")
    if kind == "local":
        loss = Score(value=2.1 - 1.8 * right)
    keys = Score(value=float(is_json), reason="" if is_json else "not one JSON object")
    calm = Score(value=float("WE WILL" not in answer.text))
    if answer.text.endswith("?"):
        calm = Score(reason="it asks back")
    return {
        "exact_match": Score(value=float(is_right)),
        "json_valid": Score(value=float(is_json)),
        "reference_loss": loss,
        "length": Score(value=float(len(answer.text.split()))),
        "check:keys": keys,
        "check:calm": calm,
    }


# -- figures -------------------------------------------------------------------------------


def _data(
    rows: Sequence[ComparedRow], answered: Sequence[ScoredAnswer], models: int
) -> ComparisonData:
    clean = {row.id: row.cluster for row in rows if not row.leaks}
    keys = [model[0] for model in MODELS[:models]]
    by_model = {key: [one for one in answered if one.answer.model == key] for key in keys}
    figures = {
        measure.name: {key: _figure(measure, by_model[key], clean) for key in keys}
        for measure in MEASURES
    }
    return ComparisonData(
        id="cmp-3f9a2c1d",
        created_at=1_796_000_000.0,
        seconds=412.0,
        command=REPEATS,
        gateway_version="0.1.0",
        data=DataFacts(
            words="the held-out rows of ftg-7kq3",
            sha256="9f2c" * 16,
            rows_in_file=len(rows),
            rows=len(rows),
            clusters=len({row.cluster for row in rows}),
            left_out={"exact": len(rows) - len(clean)} if len(clean) < len(rows) else {},
            warnings=("31 rows begin with the same words: were they written by one generator?",),
        ),
        models=[_facts(*model[:4]) for model in MODELS[:models]],
        measures=[*MEASURES],
        figures=figures,
        differences=[*_differences(figures, keys)],
        answers={key: _answer_figures(by_model[key]) for key in keys},
        checks={name: {key: _check(name, by_model[key]) for key in keys}
                for name in ("keys", "calm")},
        judge=_judge(),
        serving=serving_costs(
            Traffic(requests=100_000, tokens_in=48, tokens_out=31, lengths="as measured here"),
            [("openai", "gpt-4.1-mini-2025-04-14")],
        ),
        verdict=_verdict(figures, keys),
        asked=len(answered) - 7,
        asked_again=2,
        kept=7,
        spent_usd=Decimal("0.31"),
        prices=("gpt-4.1-mini-2025-04-14: $0.40 in and $1.60 out per million tokens, "
                "2026-11-21, https://openai.com/api/pricing",),
    )  # fmt: skip


def _figure(
    measure: Measure, answered: Sequence[ScoredAnswer], clean: dict[str, str]
) -> MeasureFigure:
    counted = [one for one in answered if one.answer.row in clean]
    scores = [one.scores[measure.name] for one in counted]
    values = [score.value for score in scores if score.value is not None]
    unjudged: dict[str, int] = {}
    for score in scores:
        if score.value is None:
            unjudged[score.reason] = unjudged.get(score.reason, 0) + 1
    if not values:
        return MeasureFigure(empty=next(iter(unjudged), "no answers"), unjudged=unjudged)
    mean = sum(values) / len(values)
    wide = 1 / (len(values) ** 0.5) * (1.0 if measure.share else max(1.0, mean) / 4)
    top = 1.0 if measure.share else mean + wide
    interval = Interval(
        mean=mean, low=max(0.0, mean - wide), high=min(top, mean + wide), n=len(values),
        clusters=len({clean[one.answer.row] for one in counted}),
    )  # fmt: skip
    return MeasureFigure(interval=interval, unjudged=unjudged)


def _differences(
    figures: dict[str, dict[str, MeasureFigure]], keys: Sequence[str]
) -> list[Difference]:
    found = []
    for measure in MEASURES:
        if not measure.decides:
            continue
        pairs = [(a, b) for at, a in enumerate(keys) for b in keys[at + 1 :]]
        for first, second in pairs:
            one, other = (figures[measure.name][key].interval for key in (first, second))
            if one is None or other is None:
                continue
            difference = one.mean - other.mean
            wide = (one.high - one.low + other.high - other.low) / 2
            told = abs(difference) > wide
            upper = first if (difference > 0) == (measure.better == "higher") else second
            found.append(
                Difference(
                    measure=measure.name,
                    first=first,
                    second=second,
                    interval=Interval(
                        mean=difference, low=difference - wide, high=difference + wide,
                        n=one.n, clusters=one.clusters,
                    ),
                    p=0.001 if told else 0.4,
                    adjusted_p=0.01 if told else 0.9,
                    better=upper if told else "",
                    rows_needed=None if told else 420,
                )
            )  # fmt: skip
    return found


def _facts(key: str, title: str, variant: Variant, kind: Any) -> ComparedFacts:
    base = "builtin/tiny" if "tiny" in title else "gpt-4.1-mini-2025-04-14"
    host = "api.openai.com" if kind == "hosted" else None
    training = None
    if variant == "tuned":
        training = TrainingFacts(
            estimated_usd=Range(
                low=Decimal("0.9"), expected=Decimal("1.2"), high=Decimal("1.6")
            ) if host else None,
            actual_usd=Decimal("1.31") if host else None,
            estimated_seconds=Range(low=60.0, expected=90.0, high=140.0),
            actual_seconds=97.0,
            method="sft",
            training_type=None if host else "lora",
            rows=243,
            dataset_sha256="ab12" * 16,
            settings={"n_epochs": 3, "batch_size": 8},
            prices=("$25.00 per million trained tokens, 2026-11-21",) if host else (),
            metrics=_losses(host is not None),
        )  # fmt: skip
    return ComparedFacts(
        key=key, name=title, title=title, kind=kind, variant=variant,
        model=title.partition(":")[2] or title,
        base_model=base, backend="openai" if host else "local", host=host,
        job_id="ftg-7kq3" if variant == "tuned" else None, fingerprint="c0ffee" * 10,
        system_prompt="You answer for a shop, with JSON." if variant == "prompt" else None,
        examples=(3, 17, 88, 120) if variant == "few-shot" else (),
        parameters={"temperature": 0, "max_tokens": 1024}, training=training,
    )  # fmt: skip


def _losses(rises: bool) -> tuple[Metric, ...]:
    falls = [2.0 / (1 + step / 6) for step in range(1, 61)]
    ends = [0.9, 0.6, 0.45, 0.55, 0.6, 0.7] if rises else [0.9, 0.6, 0.45, 0.4, 0.36, 0.34]
    return tuple(
        Metric(
            step=step,
            train_loss=loss,
            valid_loss=ends[step // 10 - 1] if step % 10 == 0 else None,
        )
        for step, loss in enumerate(falls, start=1)
    )


def _answer_figures(answered: Sequence[ScoredAnswer]) -> AnswerFigures:
    good = [one.answer for one in answered if not one.answer.error]
    seconds = sorted(one.seconds or 0.0 for one in good)
    errors: dict[str, int] = {}
    for one in answered:
        if one.answer.error:
            errors[one.answer.error] = errors.get(one.answer.error, 0) + 1
    prices = [one.usd for one in good if one.usd is not None]
    at = (seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.95)])
    return AnswerFigures(
        answers=len(good), errors=len(answered) - len(good), error_kinds=errors,
        refusals=1 if len(good) > 30 else 0,
        prompt_tokens=48.0, completion_tokens=31.4,
        first_token_seconds=(at[0] / 5, at[1] / 5), seconds=at, timed=len(good),
        tokens_per_second=38.2, usd_per_answer=prices[0] if prices else None,
        spent_usd=sum(prices, Decimal(0)) if prices else None,
    )  # fmt: skip


def _check(name: str, answered: Sequence[ScoredAnswer]) -> CheckFigure:
    values = [(one.answer.row, one.scores[f"check:{name}"].value) for one in answered]
    failed = [row for row, value in values if value == 0]
    passed = [row for row, value in values if value == 1]
    return CheckFigure(
        passed=len(passed), failed=len(failed), unjudged=len(values) - len(passed) - len(failed),
        examples=tuple((failed or passed)[:20]),
    )  # fmt: skip


def _judge() -> JudgeFacts:
    agreement = Interval(mean=0.83, low=0.75, high=0.89, n=120, clusters=40)
    first = Interval(mean=0.58, low=0.51, high=0.65, n=240, clusters=40)
    longer = Interval(mean=0.71, low=0.6, high=0.8, n=80, clusters=40)
    return JudgeFacts(
        model="gpt-4.1-2025-04-14", host="api.openai.com", pairs=120,
        agreement=agreement, first=first, longer=longer, unread=2, spent_usd=Decimal("0.12"),
        warnings=("It prefers the longer answer: in 71% of pairs (60 to 80%).",),
    )  # fmt: skip


def _verdict(figures: dict[str, dict[str, MeasureFigure]], keys: Sequence[str]) -> Verdict:
    best = keys[0]
    return Verdict(
        text="support-lora (builtin/tiny) answers best: 93% of its answers are the reference, "
        "against 62% of the prompted gpt-4.1-mini. It costs nothing per answer beyond your own "
        "machine. Between it and the hosted fine-tune one can't tell.",
        measure="exact_match",
        best=(best, "hosted") if "hosted" in keys else (best,),
        decided=len(keys) > 2,
        rows_needed=420,
    )
