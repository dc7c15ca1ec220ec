"""What a judge is asked, and how its verdict is read. The wording is in ``templates/judge_*.txt``.

Answers stand between marks with a tag that is in none of them, so that no answer can close its
mark and speak to the judge. The tag follows from what is asked: the same question is the same
request, which is paid once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from finetune_gateway.data.row_access import as_dict, as_list
from finetune_gateway.evaluation.checks import Rubric
from finetune_gateway.evaluation.prompts import Prompt, fingerprint
from finetune_gateway.evaluation.results import AnswerTable, ComparedAnswer, ComparedRow

if TYPE_CHECKING:
    from jinja2 import Environment

Json = dict[str, Any]
Better = Literal["first", "second", "tie"]

MAX_TOKENS = 512  # of a verdict with its reason
SCALE = (1, 5)
TAG = 12  # characters
MOST_OBJECTS = 100  # places at which one is looked for: a judge may say nothing but "{"
WHICH = "Which answer is better?"
HOW_WELL = "Which score does the answer get?"
CHOICES: dict[str, Better] = {"1": "first", "2": "second", "tie": "tie"}
# Of a reply that is no JSON: the key with its value, once, or always the same.
WRITTEN = {
    "better": re.compile(r"\W?\bbetter\b\W{0,2}\s*[:=]\s*\W{0,3}(?:answer\s+)?(1|2|tie)\b", re.I),
    "score": re.compile(r"\W?\bscore\b\W{0,2}\s*[:=]\s*\W{0,3}(\d{1,3})\b(?!\.\d)", re.I),
}


@dataclass(frozen=True)
class JudgeQuestion:
    """One question to the judge. ``first``: the model whose answer is shown first, or alone.
    ``second``: the other one of a pair. ``rubric``: the name of the check, if it is one.
    ``prompt``: None for equal answers, of which nothing is asked. ``lengths``: in characters."""

    row: str
    first: str
    prompt: Prompt | None
    second: str = ""
    lengths: tuple[int, ...] = ()
    rubric: str = ""
    scale: tuple[int, int] = SCALE


def pair_question(
    row: ComparedRow, first: ComparedAnswer, second: ComparedAnswer, guide: str, salt: Any
) -> JudgeQuestion:
    """Return the question which of two answers is better, in this order."""
    texts = [answer_text(first.message), answer_text(second.message)]
    prompt = _prompt("judge_pair.txt", row, texts, WHICH, salt, guide=guide)
    return JudgeQuestion(row.id, first.model, prompt, second.model, tuple(map(len, texts)))


def rubric_question(
    row: ComparedRow, answer: ComparedAnswer, check: Rubric, guide: str, salt: Any
) -> JudgeQuestion:
    """Return the question how well an answer does by a rubric."""
    low, high = check.scale
    given = {"guide": guide, "rubric": check.rubric, "low": low, "high": high}
    texts = [answer_text(answer.message)]
    prompt = _prompt("judge_rubric.txt", row, texts, HOW_WELL, salt, **given)
    return JudgeQuestion(
        row.id, answer.model, prompt, "", (len(texts[0]),), check.name, check.scale
    )


def _prompt(
    template: str, row: ComparedRow, answers: list[str], question: str, salt: Any, **given: Any
) -> Prompt:
    shown = {
        "conversation": "\n\n".join(map(message_text, row.prompt.messages)),
        "tools": _tools_text(row.prompt.beside),
        "reference": answer_text(row.reference) if row.reference else "",
        "answers": answers,
        "question": question,
    }
    tag = _tag([shown, given, salt])
    messages = [
        {"role": "system", "content": _render(template, {**shown, **given, "tag": tag})},
        {"role": "user", "content": _render("judge_material.txt", {**shown, "tag": tag})},
    ]
    asked = {"messages": messages}
    return Prompt(id=fingerprint(asked), lines=row.prompt.lines, messages=messages)


def _tag(material: list[Any]) -> str:
    """Return a mark that is nowhere in the material."""
    text = json.dumps(material, ensure_ascii=False)
    tags = (fingerprint([number, material])[:TAG] for number in range(100))
    return next(tag for tag in tags if tag not in text)


@cache
def _environment() -> Environment:
    # Imported here: most commands ask no judge.
    import jinja2

    return jinja2.Environment(  # text for a model, no page
        loader=jinja2.PackageLoader("finetune_gateway", "evaluation/templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(template: str, values: Json) -> str:
    return _environment().get_template(template).render(values)


def answers_of(
    row: ComparedRow, keys: Sequence[str], answers: AnswerTable
) -> list[ComparedAnswer] | None:
    """Return the answers of these models to a row; None if one is missing, or is an error."""
    found = [answers.get((key, row.id, 0)) for key in keys]
    usable = [one for one in found if one is not None and not one.error]
    return usable if len(usable) == len(found) else None


# -- what is shown ---------------------------------------------------------------------------


def message_text(message: Json) -> str:
    """Return a message of a conversation with its role."""
    return f"[{message.get('role', 'unknown')}]\n{answer_text(message)}"


def answer_text(message: Json) -> str:
    """Return what a message says: its text, its calls, or that it has refused."""
    calls = [as_dict(as_dict(one).get("function")) for one in as_list(message.get("tool_calls"))]
    parts = [
        _content_text(message.get("content")),
        str(message.get("refusal") or ""),
        *(f"{one.get('name')}({one.get('arguments')})" for one in calls),
    ]
    return "\n".join(part for part in parts if part) or "(empty)"


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [as_dict(part) for part in as_list(content)]
    return "\n".join(str(part.get("text") or f"({part.get('type')})") for part in parts)


def _tools_text(beside: Json) -> str:
    tools = beside.get("tools") or beside.get("functions")
    return json.dumps(tools, ensure_ascii=False, indent=1) if tools else ""


# -- verdicts --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """A verdict as it was read. ``value``: of its key, as written."""

    value: str
    reason: str


def read_better(reply: str) -> tuple[Better | None, str]:
    """Return which answer is better, and the reason; None if the reply does not say."""
    read = _read(reply, "better")
    if read is None:
        return None, ""
    return CHOICES.get(read.value.strip().lower().removeprefix("answer ")), read.reason


def read_score(reply: str, scale: tuple[int, int] = SCALE) -> tuple[float | None, str]:
    """Return a score and its reason; None if the reply does not say one of the scale."""
    read = _read(reply, "score")
    if read is None:
        return None, ""
    try:
        score = float(read.value)
    except ValueError:
        return None, read.reason
    low, high = scale
    fits = low <= score <= high and score.is_integer()
    return (score if fits else None), read.reason


def _read(reply: str, key: str) -> Read | None:
    """Return the verdict of a reply: the JSON object that it is, else one that is in it, else the
    key with a value. What says two things says nothing."""
    whole = _object(reply.strip())
    if whole is not None and key in whole:
        return _as_read(whole, key)
    inside = [one for one in _objects_in(reply) if key in one]
    if inside:
        values = {str(one[key]).strip().lower() for one in inside}
        return _as_read(inside[-1], key) if len(values) == 1 else None
    written = {value.lower() for value in WRITTEN[key].findall(reply)}
    if len(written) != 1:
        return None
    return Read(written.pop(), reply.strip())


def _as_read(found: Json, key: str) -> Read | None:
    value = found[key]
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    return Read(str(value), str(found.get("reason") or ""))


def _object(text: str) -> Json | None:
    try:
        value = json.loads(text, object_pairs_hook=_of_one_mind)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _of_one_mind(pairs: list[tuple[str, Any]]) -> Json:
    """Return an object. Raises ValueError for one that has two values of a key."""
    found = dict(pairs)
    if any(found[key] != value for key, value in pairs):
        raise ValueError("two values of one key")
    return found


def _objects_in(text: str) -> Iterator[Json]:
    """Yield the JSON objects in a text that are not inside another one."""
    decoder = json.JSONDecoder(object_pairs_hook=_of_one_mind)
    at = text.find("{")
    for _ in range(MOST_OBJECTS):
        if at < 0:
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        yield value
        at = text.find("{", end)
