"""What is measured of a single answer, beside the references of the data.

================  ==================================================================================
exact_match       the text of a reference, white space at both ends aside
normalized_match  the same after ``answer_forms.normalized``; of a reference that is a JSON object
                  or list, the same JSON value
final_number      the number after ``####`` (GSM8K), else the last number of the answer
json_valid        a JSON object or list alone, by RFC 8259; a Markdown fence around it is not JSON
json_schema       has the keys and types that all references have
tool_names        calls the tools that the reference calls, and no others
tool_arguments    the same, with arguments that are equal as JSON
refusal           declines, by its phrases (``refusals``)
completion_tokens, characters
================  ==================================================================================

An answer that a host or a machine did not give is not judged: its score has no value and a reason.
Neither is one that a filter of the host held back. A refusal of the model itself is an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_gateway.data.json_schema import schema_judge
from finetune_gateway.data.row_access import calls_of, tools_of
from finetune_gateway.evaluation import answer_forms as forms
from finetune_gateway.evaluation.refusals import refuses
from finetune_gateway.evaluation.results import ComparedAnswer, ComparedRow, Measure, Score

Json = dict[str, Any]
Rows = Sequence[ComparedRow]
ScoreFunction = Callable[[ComparedRow, ComparedAnswer], Score]

MOST = 0.5  # share of the references that have a form, from which on it is what they are in
LABEL_WORDS = 3  # of a reference that is a label, at most

NO_ANSWER = "no answer"  # with why
FILTERED = "held back by a filter of the host"
NO_JSON = "its reference is no JSON"
NO_REFERENCE = "the data say no answer to this row"


@dataclass(frozen=True)
class Scorer:
    """A measure, and how it is taken of one answer."""

    measure: Measure
    take: ScoreFunction = field(repr=False)

    def score(self, row: ComparedRow, answer: ComparedAnswer) -> Score:
        """Return the score of an answer; without a value if there is nothing to judge."""
        return unjudged(answer) or self.take(row, answer)


@dataclass(frozen=True)
class Standard:
    """The measures that apply to some rows. ``left_out``: the others, with a sentence why."""

    scorers: list[Scorer]
    left_out: dict[str, str]


def unjudged(answer: ComparedAnswer) -> Score | None:
    """Return a score without a value for an answer that nobody gave; None for any other."""
    if answer.error:
        return Score(reason=f"{NO_ANSWER}: {answer.error}")
    if answer.finish_reason == "content_filter":
        return Score(reason=FILTERED)
    return None


def choose(rows: Rows) -> Standard:
    """Return the measures that apply to rows with such references, and why the others do not."""
    scorers: list[Scorer] = []
    left_out: dict[str, str] = {}
    for names, build in _BUILDERS:
        built = build(rows)
        if isinstance(built, str):
            left_out |= dict.fromkeys(names, built)
        else:
            scorers += built
    return Standard(scorers, left_out)


# -- what the references are ---------------------------------------------------------------------


def reference_texts(rows: Rows) -> list[str]:
    """Return the first text that the data answer, of each row that has one."""
    texts = (next(_texts(row), "") for row in rows)
    return [text for text in texts if text]


def json_references(rows: Rows) -> list[Any]:
    """Return the JSON objects and lists that the data answer, if most of them are; else none."""
    texts = reference_texts(rows)
    values = [value for text in texts if forms.is_structure(value := forms.json_of(text))]
    return values if texts and len(values) >= MOST * len(texts) else []


def can_match(rows: Rows) -> bool:
    """Return True if a right answer is the same as its reference: JSON, or a label of few words."""
    texts = reference_texts(rows)
    short = [text for text in texts if len(text.split()) <= LABEL_WORDS]
    return bool(json_references(rows)) or (bool(texts) and len(short) >= MOST * len(texts))


def _texts(row: ComparedRow) -> Iterator[str]:
    for reference in row.prompt.references:
        if text := forms.text_of(reference).strip():
            yield text


# -- texts ---------------------------------------------------------------------------------------


def _matches(rows: Rows) -> list[Scorer] | str:
    if not reference_texts(rows):
        return "No row says in text what the right answer is."
    exact = Measure(
        name="exact_match",
        title="Exact match",
        share=True,
        about="The same text as a reference; white space at both ends does not count.",
    )
    alike = Measure(
        name="normalized_match",
        title="Normalized match",
        share=True,
        about="The same as a reference, whatever the case, white space, quotes around it and marks "
        "at its end; JSON as JSON.",
    )
    return [
        Scorer(exact, _matcher(lambda text, other: text == other)),
        Scorer(alike, _matcher(_alike)),
    ]


def _matcher(same: Callable[[str, str], bool]) -> ScoreFunction:
    def score(row: ComparedRow, answer: ComparedAnswer) -> Score:
        references = [*_texts(row)]
        if not references:
            return Score(reason=NO_REFERENCE)
        text = answer.text.strip()
        if any(same(text, one) for one in references):
            return Score(value=1)
        return Score(value=0, reason=_short_of(answer))

    return score


def _short_of(answer: ComparedAnswer) -> str:
    """Return what may explain an answer that is not right."""
    if answer.finish_reason == "length":
        return "cut at max_tokens"
    if answer.is_empty:
        return "it is empty"
    return f"refusal: {phrase}" if (phrase := refuses(answer.message)) else ""


def _alike(text: str, reference: str) -> bool:
    wanted = forms.json_of(reference)
    if forms.is_structure(wanted):
        given = forms.json_of(forms.unfenced(text))
        return given is not forms.NO_JSON and forms.canonical(given) == forms.canonical(wanted)
    return forms.normalized(text) == forms.normalized(reference)


def _final_number(rows: Rows) -> list[Scorer] | str:
    texts = reference_texts(rows)
    marked = [one for one in texts if forms.MARK in one and forms.final_number(one) is not None]
    if not texts or len(marked) < MOST * len(texts):
        return f"Most references have no number after {forms.MARK}."
    measure = Measure(
        name="final_number",
        title="Final number",
        share=True,
        about=f"The number after {forms.MARK}, or else the last one of the answer, is that of the "
        "reference.",
    )
    return [Scorer(measure, _judge_number)]


def _judge_number(row: ComparedRow, answer: ComparedAnswer) -> Score:
    wanted = {forms.final_number(one) for one in _texts(row) if forms.MARK in one} - {None}
    if not wanted:
        return Score(reason=NO_REFERENCE)
    found = forms.final_number(answer.text)
    if found in wanted:
        return Score(value=1)
    return Score(value=0, reason=_short_of(answer) or (f"{found}" if found is not None else ""))


# -- JSON ----------------------------------------------------------------------------------------


def _json(rows: Rows) -> list[Scorer] | str:
    values = json_references(rows)
    if not values:
        return "Most references are no JSON."
    valid = Measure(
        name="json_valid",
        title="Valid JSON",
        by="valid JSON",
        share=True,
        about="All of the answer is a JSON object or list, without a Markdown fence.",
    )
    schema = Measure(
        name="json_schema",
        title="Fits the JSON schema",
        by="the JSON schema",
        share=True,
        about="It has the keys and types that all references have.",
    )
    return [Scorer(valid, _judge_json), Scorer(schema, _schema_judge(values))]


def _wants_json(row: ComparedRow) -> bool:
    return any(forms.is_structure(forms.json_of(one)) for one in _texts(row))


def _judge_json(row: ComparedRow, answer: ComparedAnswer) -> Score:
    if not _wants_json(row):
        return Score(reason=NO_JSON)
    if why := no_json(answer):
        return Score(value=0, reason=why)
    return Score(value=1)


def no_json(answer: ComparedAnswer) -> str:
    """Return why an answer is no JSON object or list; "" if it is one."""
    if forms.is_structure(forms.json_of(answer.text)):
        return ""
    if why := _short_of(answer):
        return why
    if not answer.text.strip():
        return "no text"
    if forms.is_structure(forms.json_of(forms.unfenced(answer.text))):
        return "JSON in a Markdown fence"
    return (
        "no JSON object or list" if forms.json_of(answer.text) is forms.NO_JSON else "a bare value"
    )


def _schema_judge(values: Sequence[Any]) -> ScoreFunction:
    fits = schema_judge(forms.shape(values))

    def score(row: ComparedRow, answer: ComparedAnswer) -> Score:
        if not _wants_json(row):
            return Score(reason=NO_JSON)
        why = no_json(answer) or fits(forms.json_of(answer.text))
        return Score(value=0 if why else 1, reason=why)

    return score


# -- tool calls ----------------------------------------------------------------------------------


def _tools(rows: Rows) -> list[Scorer] | str:
    if not any(calls_of(one) for row in rows for one in row.prompt.references):
        return "No reference calls a tool."
    names = Measure(
        name="tool_names",
        title="Right tools",
        share=True,
        about="Calls the tools that a reference calls and no others, in any order; none where it "
        "calls none. Rows with tools count.",
    )
    arguments = Measure(
        name="tool_arguments",
        title="Right tools and arguments",
        share=True,
        about="The same, and the arguments are equal as JSON.",
    )
    return [Scorer(names, _judge_names), Scorer(arguments, _judge_arguments)]


def _judge_names(row: ComparedRow, answer: ComparedAnswer) -> Score:
    return _judge_calls(row, answer, lambda calls: sorted(name for name, _ in calls))


def _judge_arguments(row: ComparedRow, answer: ComparedAnswer) -> Score:
    return _judge_calls(row, answer, sorted)


def _judge_calls(
    row: ComparedRow, answer: ComparedAnswer, view: Callable[[list[tuple[str, str]]], Any]
) -> Score:
    if not row.prompt.references:
        return Score(reason=NO_REFERENCE)
    wanted = [[*forms.calls(one).elements()] for one in row.prompt.references]
    if not any(wanted) and not tools_of(row.prompt.beside):
        return Score(reason="it has no tools")
    made = [*forms.calls(answer.message).elements()]
    if any(view(made) == view(one) for one in wanted):
        return Score(value=1)
    named = ", ".join(sorted(name for name, _ in made))
    return Score(value=0, reason=_short_of(answer) or (f"calls {named}" if named else "no call"))


# -- refusals and lengths ------------------------------------------------------------------------


def _refusals(rows: Rows) -> list[Scorer]:
    measure = Measure(
        name="refusal",
        title="Refusals",
        share=True,
        better="",
        decides=False,
        about="Declines, by phrases of 20 languages in its first 300 characters, or marked so.",
    )
    return [Scorer(measure, _judge_refusal)]


def _judge_refusal(row: ComparedRow, answer: ComparedAnswer) -> Score:
    phrase = refuses(answer.message)
    also = any(refuses(one) for one in row.prompt.references)
    reason = f"{phrase}; the reference declines too" if phrase and also else phrase
    return Score(value=1 if phrase else 0, reason=reason)


def _lengths(rows: Rows) -> list[Scorer]:
    tokens = Measure(
        name="completion_tokens",
        title="Length in tokens",
        unit="tokens",
        better="",
        decides=False,
        about="As its host or machine counted them: calls and reasoning too.",
    )
    characters = Measure(
        name="characters",
        title="Length in characters",
        unit="characters",
        better="",
        decides=False,
        about="Of the text, without calls.",
    )
    return [
        Scorer(tokens, _count_tokens),
        Scorer(characters, lambda row, answer: Score(value=len(answer.text))),
    ]


def _count_tokens(row: ComparedRow, answer: ComparedAnswer) -> Score:
    if answer.completion_tokens is None:
        return Score(reason="its tokens were not counted")
    return Score(value=answer.completion_tokens)


_BUILDERS: tuple[tuple[tuple[str, ...], Callable[[Rows], list[Scorer] | str]], ...] = (
    (("tool_names", "tool_arguments"), _tools),
    (("json_valid", "json_schema"), _json),
    (("final_number",), _final_number),
    (("exact_match", "normalized_match"), _matches),
    (("refusal",), _refusals),
    (("completion_tokens", "characters"), _lengths),
)
