"""The kinds of checks that look at one answer, each by the key it has in a guide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from finetune_gateway.data.json_schema import TooCostly, schema_judge
from finetune_gateway.data.row_access import calls_of, loads_strict, texts_of, tools_of
from finetune_gateway.errors import MissingDependency, SpecError
from finetune_gateway.evaluation import answer_forms as forms
from finetune_gateway.evaluation.checks import reading
from finetune_gateway.evaluation.checks.check import (
    CALLS,
    ScoreFunction,
    failed,
    passed,
    undecided,
)
from finetune_gateway.evaluation.checks.patterns import pattern
from finetune_gateway.evaluation.checks.reading import Keys
from finetune_gateway.evaluation.measures import no_json
from finetune_gateway.evaluation.refusals import phrase_in, refuses
from finetune_gateway.evaluation.results import ComparedAnswer, ComparedRow, Score
from finetune_gateway.text.quoting import MAX_QUOTE, ascii_safe, quoted, shortened
from finetune_gateway.validation.dataset.languages import can_detect, language_detector
from finetune_gateway.validation.rows.arguments import mismatch

Json = dict[str, Any]

MAX_SCHEMA = 1_000_000  # bytes of a schema's file
SHORT = 20  # characters; the language of a shorter text is not known


@dataclass(frozen=True)
class Kind:
    """A kind of check. ``build``: its title and what scores an answer, from the keys of the check,
    its own key and the folder of the guide. ``others``: its other keys."""

    build: Callable[[Keys, str, Path], tuple[str, ScoreFunction]]
    others: tuple[str, ...] = ()
    own_prompts: bool = False  # it needs prompts of its own


def of_text(look: Callable[[str], Score]) -> ScoreFunction:
    """Return what scores the text of answers; one that is calls alone shows nothing."""

    def score(row: ComparedRow, answer: ComparedAnswer) -> Score:
        if answer.tool_calls and not answer.text.strip():
            return undecided(CALLS)
        return look(answer.text)

    return score


# -- JSON ------------------------------------------------------------------------------------


def _json(keys: Keys, key: str, folder: Path) -> tuple[str, ScoreFunction]:
    wanted = keys[key]
    kinds: dict[Any, type | tuple[type, ...]] = {
        None: (dict, list), True: (dict, list), "object": dict, "list": list
    }  # fmt: skip
    if not isinstance(wanted, str | bool | None) or wanted not in kinds:
        raise reading.wrong(keys, key, "true, object or list")
    title = f"A JSON {wanted} alone" if isinstance(wanted, str) else "JSON alone"
    allowed = kinds[wanted]

    def score(row: ComparedRow, answer: ComparedAnswer) -> Score:
        if answer.tool_calls and not answer.text.strip():
            return undecided(CALLS)
        if why := no_json(answer):
            return failed(why)
        fits = isinstance(forms.json_of(answer.text), allowed)
        return passed() if fits else failed(f"not a JSON {wanted}")

    return title, score


def _schema(keys: Keys, key: str, folder: Path) -> tuple[str, ScoreFunction]:
    schema = keys[key]
    if isinstance(schema, str):
        schema = _read_schema(keys, key, folder)
    elif not isinstance(schema, Keys):
        raise reading.wrong(keys, key, "a JSON Schema, or the name of its file")
    try:
        fits = schema_judge(plain(schema))
    except SpecError as exc:
        raise keys.at(key).error(exc.message, exc.hint) from None

    def score(row: ComparedRow, answer: ComparedAnswer) -> Score:
        if answer.tool_calls and not answer.text.strip():
            return undecided(CALLS)
        value = forms.json_of(answer.text)
        try:
            why = no_json(answer) if value is forms.NO_JSON else fits(value)
        except TooCostly as exc:
            return Score(reason=exc.message)
        return failed(why) if why else passed()

    return "JSON that fits its schema", score


def _read_schema(keys: Keys, key: str, folder: Path) -> Any:
    path = folder / Path(keys[key]).expanduser()
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise keys.at(key).error(f"the schema {path} is no file.")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SCHEMA + 1)
        if len(raw) > MAX_SCHEMA:
            raise ValueError("it is larger than 1 MB")
        return loads_strict(raw.decode("utf-8-sig"))
    except OSError as exc:
        raise keys.at(key).error(f"the schema {path} cannot be read: {exc.strerror}.") from None
    except (ValueError, RecursionError) as exc:
        raise keys.at(key).error(f"the schema {path} is no JSON: {exc}.") from None


def plain(value: Any) -> Any:
    """Return a value of a guide in the plain types of JSON."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


# -- texts -----------------------------------------------------------------------------------


def _must(keys: Keys, key: str, folder: Path) -> tuple[str, ScoreFunction]:
    patterns = compiled(keys, key)

    def look(text: str) -> Score:
        missing = next((one for one, found in patterns if not found(text)), None)
        return passed() if missing is None else failed(f"does not match {missing}")

    return f"Matches {_listed(patterns)}", of_text(look)


def _must_not(keys: Keys, key: str, folder: Path) -> tuple[str, ScoreFunction]:
    patterns = compiled(keys, key)

    def look(text: str) -> Score:
        there = next((one for one, found in patterns if found(text)), None)
        return passed() if there is None else failed(f"matches {there}")

    return f"Does not match {_listed(patterns)}", of_text(look)


def compiled(keys: Keys, key: str) -> list[tuple[str, Callable[[str], bool]]]:
    """Return the patterns of a key, as written and ready to search."""
    try:
        return [(one, pattern(one)) for one in reading.texts_at(keys, key)]
    except SpecError as exc:
        if exc.message.startswith(str(keys.place.path)):
            raise
        raise keys.at(key).error(exc.message, exc.hint) from None


def _contains(keys: Keys, key: str, folder: Path) -> tuple[str, ScoreFunction]:
    wanted = reading.texts_at(keys, key)

    def look(text: str) -> Score:
        missing = next((one for one in wanted if one not in text), None)
        return passed() if missing is None else failed(f"does not contain {quoted(missing)}")

    return f"Contains {_some(wanted)}", of_text(look)


def _not_contains(keys: Keys, key: str, folder: Path) -> tuple[str, ScoreFunction]:
    unwanted = reading.texts_at(keys, key)

    def look(text: str) -> Score:
        there = next((one for one in unwanted if one in text), None)
        return passed() if there is None else failed(f"contains {quoted(there)}")

    return f"Does not contain {_some(unwanted)}", of_text(look)


def _listed(patterns: Sequence[tuple[str, Any]]) -> str:
    first = shortened(ascii_safe(patterns[0][0]), MAX_QUOTE)
    return first + (f" and {len(patterns) - 1} more" if len(patterns) > 1 else "")


def _some(texts: Sequence[str]) -> str:
    return quoted(texts[0]) + (f" and {len(texts) - 1} more" if len(texts) > 1 else "")


UNITS = ("chars", "words", "tokens")
BOUNDS = tuple(f"{bound}_{unit}" for unit in UNITS for bound in ("min", "max"))


def _length(keys: Keys, key: str, folder: Path) -> tuple[str, ScoreFunction]:
    given = reading.keys_at(keys, key)
    given.refuse_others(BOUNDS, "length")
    bounds = {name: reading.count_at(given, name) for name in BOUNDS if name in given}
    if not bounds:
        raise keys.at(key).error("length has no bound.", f"It takes: {', '.join(BOUNDS)}.")
    for unit in UNITS:
        low, high = bounds.get(f"min_{unit}", 0), bounds.get(f"max_{unit}")
        if high is not None and low > high:
            raise given.at(f"max_{unit}").error(f"max_{unit} is below min_{unit}.")

    def score(row: ComparedRow, answer: ComparedAnswer) -> Score:
        text = answer.text.strip()
        if answer.tool_calls and not text:
            return undecided(CALLS)
        sizes = {
            "chars": len(text),
            "words": len(text.split()),
            "tokens": answer.completion_tokens,
        }
        for name, bound in bounds.items():
            side, _, unit = name.partition("_")
            size = sizes[unit]
            if size is None:
                return Score(reason="its tokens were not counted")
            if (size < bound) if side == "min" else (size > bound):
                return failed(f"{size:,} {unit}; {name} is {bound:,}")
        return passed()

    return ", ".join(f"{name} {bound:,}" for name, bound in bounds.items()), score


# -- language --------------------------------------------------------------------------------

SAME = "same"  # as the question


def _language(keys: Keys, key: str, folder: Path) -> tuple[str, ScoreFunction]:
    wanted = [one.lower() for one in reading.texts_at(keys, key)]
    odd = next((one for one in wanted if one != SAME and not one.isalpha()), None)
    if odd is not None:
        raise keys.at(key).error(f"{quoted(odd)} is no code of a language.", "Like en, de, ja.")
    title = "In the language of the question" if wanted == [SAME] else f"In {' or '.join(wanted)}"

    def score(row: ComparedRow, answer: ComparedAnswer) -> Score:
        allowed = [one if one != SAME else _language_of(_question(row)) for one in wanted]
        if allowed == [None]:
            return undecided("the language of the question is not clear")
        text = _words_of(answer.text)
        if answer.tool_calls and not text:
            return undecided(CALLS)
        known = _language_of(text)
        if known is None:
            return undecided("its language is not clear")
        return passed() if known in allowed else failed(f"in {known}")

    return title, score


def _language_of(text: str) -> str | None:
    return _detector()(text) if len(text) >= SHORT else None


@cache
def _detector() -> Callable[[str], str | None]:
    detect = language_detector()
    if detect is None:
        raise MissingDependency("A check of the language", "lang")
    return detect


def _question(row: ComparedRow) -> str:
    asked = [one for one in row.prompt.messages if one.get("role") == "user"]
    return forms.text_of(asked[-1]) if asked else ""


def _words_of(text: str) -> str:
    """Return a text; of JSON the texts of its values: keys say nothing of the language."""
    value = forms.json_of(text)
    return " ".join(_values(value)) if forms.is_structure(value) else text


def _values(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _values(one)]


# -- refusals and calls ----------------------------------------------------------------------


def _refuses(keys: Keys, key: str, folder: Path) -> tuple[str, ScoreFunction]:
    what = reading.text_at(keys, key)
    own = [one.casefold() for one in reading.texts_at(keys, "phrases")] if "phrases" in keys else []

    def score(row: ComparedRow, answer: ComparedAnswer) -> Score:
        said = answer.text.casefold()
        phrase = next((one for one in own if one in said), "") or refuses(answer.message)
        return passed(phrase) if phrase else failed("no phrase of a refusal")

    return f"Refuses: {what}", score


def _does_not_refuse(keys: Keys, key: str, folder: Path) -> tuple[str, ScoreFunction]:
    what = keys[key]
    if what not in (None, True):
        what = reading.text_at(keys, key)

    def score(row: ComparedRow, answer: ComparedAnswer) -> Score:
        phrase = refuses(answer.message)
        if phrase and any(
            phrase_in(text) for one in row.prompt.references for text in texts_of(one)
        ):
            return undecided("the data decline too")
        if not phrase and not answer.text.strip() and not answer.tool_calls:
            return undecided("no text")
        return failed(f"refuses: {phrase}") if phrase else passed()

    return f"Does not refuse: {what}" if isinstance(what, str) else "Does not refuse", score


def _tool_calls(keys: Keys, key: str, folder: Path) -> tuple[str, ScoreFunction]:
    if keys[key] not in (None, True, "valid"):
        raise reading.wrong(keys, key, "true")
    return "Calls offered tools with fitting arguments", _judge_calls


def _judge_calls(row: ComparedRow, answer: ComparedAnswer) -> Score:
    made = calls_of(answer.message)
    if not made:
        references = row.prompt.references
        if references and all(calls_of(one) for one in references):
            return failed("no call, where the data make one")
        return passed() if references else undecided("no call")
    offered = {str(one.get("name")): one.get("parameters") for one in tools_of(row.prompt.beside)}
    try:
        why = next((why for one in made if (why := _call_error(one, offered))), "")
    except TooCostly as exc:
        return Score(reason=exc.message)
    return failed(why) if why else passed()


def _call_error(call: Json, offered: dict[str, Any]) -> str:
    name = str(call.get("name"))
    if name not in offered:
        return f"calls {quoted(name)}, which is not offered"
    written = call.get("arguments")
    value = forms.json_of(written or "{}") if isinstance(written, str) else written
    if not isinstance(value, dict):
        return f"the arguments of {quoted(name)} are no JSON object"
    schema = offered[name]
    if not isinstance(schema, dict):
        return ""
    why = mismatch(value, schema)  # what is wrong with the schema, validate says of the data
    return f"{name}: {why}" if why else ""


def needs_language() -> None:
    """Raise MissingDependency if languages cannot be detected here."""
    if not can_detect():
        raise MissingDependency("A check of the language", "lang")


KINDS: dict[str, Kind] = {
    "json": Kind(_json),
    "schema": Kind(_schema),
    "must": Kind(_must),
    "must_not": Kind(_must_not),
    "contains": Kind(_contains),
    "not_contains": Kind(_not_contains),
    "length": Kind(_length),
    "language": Kind(_language),
    "refuses": Kind(_refuses, ("phrases",), own_prompts=True),
    "does_not_refuse": Kind(_does_not_refuse),
    "tool_calls": Kind(_tool_calls),
}
