"""The rows of a comparison as the page's script reads them: what was asked, the reference, all
answers with their scores. Texts are bounded, masked, and nothing in them is hidden.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from finetune_gateway.evaluation.comparison import ScoredAnswer
from finetune_gateway.evaluation.results import ComparedAnswer, ComparedRow, ComparisonData, Leak
from finetune_gateway.reports.comparison_view import (
    check_measure,
    checks,
    figured,
    letters,
    titles,
)
from finetune_gateway.reports.html_text import short_text

Json = dict[str, Any]

MOST_ROWS = 5_000  # on a page
MOST_CHARS = 30_000_000  # of all answers on it, about; a browser takes seconds for more
ANSWER_CHARS = 6_000  # shown of an answer
TITLE_CHARS = 200
PROMPT_CHARS = 4_000  # shown of a message
REASON_CHARS = 240


def document(
    data: ComparisonData, rows: Sequence[ComparedRow], answers: Iterable[ScoredAnswer]
) -> Json:
    """Return what the script of the page is given. Keys are short: each stands in every row."""
    deciding, others = figured(data)
    measures = [*deciding, *checks(data), *others]
    by_row: dict[str, dict[str, list[ScoredAnswer]]] = {}
    for one in answers:
        by_row.setdefault(one.answer.row, {}).setdefault(one.answer.model, []).append(one)
    names, keys = titles(data), [model.key for model in data.models]
    shown = rows[: shown_count(rows, by_row)]
    scored = [one.name for one in measures]
    drawn = [
        _row(row, names, [by_row.get(row.id, {}).get(key, []) for key in keys], scored)
        for row in shown
    ]
    return {
        "models": [
            {"key": one.key, "title": shown_text(f"{letter} {one.title}", TITLE_CHARS)}
            for one, letter in zip(data.models, letters(data).values(), strict=True)
        ],
        "measures": [
            {
                "name": one.name,
                "title": shown_text(one.title, TITLE_CHARS),
                "share": one.share and one.better != "",  # else neither is met nor failed
                "unit": "" if one.share else one.unit,
            }
            for one in measures
        ],
        "examples": _examples(data, [row.id for row in shown]),
        "rows": drawn,
    }


def shown_count(
    rows: Sequence[ComparedRow], by_row: Mapping[str, Mapping[str, Sequence[ScoredAnswer]]]
) -> int:
    """Return how many of the first rows fit on a page."""
    room = MOST_CHARS
    for count, row in enumerate(rows[:MOST_ROWS]):
        answers = (one.answer for of in by_row.get(row.id, {}).values() for one in of)
        room -= sum(min(len(answer.text), ANSWER_CHARS) for answer in answers)
        if room < 0:
            return max(1, count)
    return min(len(rows), MOST_ROWS)


def packed(document: Json) -> str:
    """Return a document compressed, in letters. A browser paints a page before it reads that: 3 MB
    of JSON in the page itself would hold up the first paint by as long again (bench/report_page).
    """
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), mtime=0)).decode()


def _examples(data: ComparisonData, ids: Sequence[str]) -> Json:
    """Return the places of the rows that are examples of a check, by its name and the model."""
    places = {row: place for place, row in enumerate(ids)}
    examples = {}
    for name, figures in data.checks.items():
        measure = check_measure(data, name)
        examples[measure.name if measure else name] = {
            key: [places[row] for row in figure.examples if row in places]
            for key, figure in figures.items()
        }
    return examples


def _row(
    row: ComparedRow,
    names: Mapping[str, str],
    answers: Sequence[Sequence[ScoredAnswer]],
    measures: Sequence[str],
) -> Json:
    lines = ", ".join(f"{line:,}" for line in row.prompt.lines[:4])
    more = ", ..." if len(row.prompt.lines) > 4 else ""
    drawn: Json = {
        "n": f"line {lines}{more}" if lines else "a follow-up",
        "p": [[_role(one), _message(one)] for one in row.prompt.messages],
        "a": [[_answer(one, measures) for one in of_model] for of_model in answers],
    }
    if row.prompt.beside:
        drawn["b"] = shown_text(", ".join(sorted(row.prompt.beside)), REASON_CHARS)
    if row.reference is not None:
        drawn["r"] = shown_text(said(row.reference), ANSWER_CHARS)
    if row.leaks:
        drawn["l"] = [_leak(leak, names) for leak in row.leaks]
    if row.check:
        drawn["c"] = shown_text(row.check, TITLE_CHARS)
    return drawn


def _leak(leak: Leak, names: Mapping[str, str]) -> str:
    near = "nearly the same as " if leak.kind == "near" else ""
    title = shown_text(names.get(leak.model, leak.model), TITLE_CHARS)
    return f"{near}line {leak.line:,} of what {title} was trained on"


def _answer(one: ScoredAnswer, measures: Sequence[str]) -> Json:
    answer = one.answer
    drawn: Json = {"s": [_value(one, name) for name in measures]}
    reasons = {
        place: shown_text(one.scores[name].reason, REASON_CHARS)
        for place, name in enumerate(measures)
        if name in one.scores and one.scores[name].reason and not answer.error
    }
    if reasons:
        drawn["w"] = reasons
    if answer.error:
        return {**drawn, "e": shown_text(answer.error, REASON_CHARS)}
    drawn["t"] = shown_text(said(answer.message), ANSWER_CHARS)
    if about := ", ".join(_about(answer)):
        drawn["i"] = shown_text(about, REASON_CHARS)
    if one.turns:
        drawn["u"] = {
            shown_text(name, TITLE_CHARS): [*map(_turn, turns)] for name, turns in one.turns.items()
        }
    return drawn


def _value(one: ScoredAnswer, name: str) -> float | None:
    score = one.scores.get(name)
    return None if score is None or score.value is None else float(f"{score.value:.4g}")


def _about(answer: ComparedAnswer) -> Iterator[str]:
    if answer.finish_reason not in (None, "stop", "tool_calls"):
        yield f"ended by {answer.finish_reason}"
    if answer.note:
        yield answer.note
    if answer.sample:
        yield f"sample {answer.sample + 1}"
    if answer.completion_tokens is not None:
        yield f"{answer.completion_tokens:,} tokens"
    if answer.seconds is not None:
        yield f"{answer.seconds:.2g} s"


def _turn(message: Json) -> list[str]:
    return [_role(message), _message(message)]


def _role(message: Json) -> str:
    return shown_text(str(message.get("role", "")), TITLE_CHARS)


def _message(message: Json) -> str:
    return shown_text(said(message), PROMPT_CHARS)


def said(message: Json) -> str:
    """Return the text of a message, and its calls a line each."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [text for part in parts if (text := _part(part))]
    refusal = message.get("refusal")
    calls = message.get("tool_calls")
    calls = calls if isinstance(calls, list) else [message.get("function_call")]
    texts += [refusal] if isinstance(refusal, str) and refusal else []
    return "\n".join([*texts, *(_call(one) for one in calls if isinstance(one, dict))])


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    text = part.get("text") or part.get("refusal")
    return text if isinstance(text, str) else f"[{part.get('type', 'a part')}]"


def _call(call: Json) -> str:
    function = call.get("function") if isinstance(call.get("function"), dict) else call
    arguments = function.get("arguments", "") if isinstance(function, dict) else ""
    name = function.get("name", "") if isinstance(function, dict) else ""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f"calls {name}({text})"


@lru_cache(maxsize=4096)
def shown_text(text: str, limit: int) -> str:
    """Return a text as the page shows it: what does not print by its name, personal data and keys
    masked, and after ``limit`` characters how many more there are."""
    shown = "".join(piece.text for piece in short_text(text, limit))
    left = len(text) - limit
    return f"{shown}\n[... {left:,} more characters ...]" if left > 0 else shown
