"""Answers with calls, made up at random, rendered by real chat templates and read back."""

from __future__ import annotations

import importlib.util
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from finetune_gateway.errors import DataError
from finetune_gateway.tokens.answer_survey import template_reader, without_stop
from finetune_gateway.tokens.chat_template import ChatTemplate
from finetune_gateway.tokens.special_text import SpecialText
from finetune_gateway.tokens.template_answers import TemplateReader
from finetune_gateway.tokens.template_process import TemplateProcess
from finetune_gateway.tokens.template_survey import ASK, Survey, call, survey, tool
from finetune_gateway.tokens.template_turns import Turn, TurnRenderer

Json = dict[str, Any]

# How families write their special tokens, and those that end an answer, of which each has some.
MARKUP = (
    r"<\|[^<>\s{}']{1,40}>|<[\w:/]{1,40}\|>|<｜[^<>\s]{1,40}｜>|\[\|\w+\|\]|\[/?[A-Z_]{3,20}\]"
    r"|</?seed:\w+>|<SPECIAL_\d+>|<(?:start|end)_of_\w+>|\[e~\[|\]~!?b\[?|<s>|</s>|<bos>|<eos>"
)
ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<end_of_turn>", "<turn|>", "<|call|>"),
    *("<|return|>", "<|END_OF_TURN_TOKEN|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "[e~["),
    *("<seed:eos>", "<｜hy_eos:opensource｜>", "[|endofturn|]", "<|role_end|>", "<SPECIAL_12>"),
    *("<|calls|>", "<|eom|>", "</s>"),
)
TEXTS = (
    *("Zürich", '"quoted"', "it's", "a\nb", "тест", "数据", "😀", "{x}", "[1]", "<b>", "</b>", ""),
    *("a, b", "k=v", "50%", "C:\\dir", "true", "75001", "null", " lead", "trail ", "\t", "end\\"),
)
BESIDE = ("", "Let me look.", 'Say "x" and 数据\nthen go')
TYPES = {
    "text": "string", "count": "integer", "direct": "boolean", "rate": "number", "seat": "object",
    "parts": "array",
}  # fmt: skip
NAMES = ("zq_find", "zq_count")


def trl_folder() -> Path:
    """Return the chat templates of TRL's wheel, which is not imported."""
    found = importlib.util.find_spec("trl")
    assert found is not None and found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "chat_templates"


def trl_template(name: str) -> str:
    """Return a chat template of TRL's wheel."""
    return (trl_folder() / f"{name}.jinja").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Family:
    """A template with what is known of it."""

    renderer: TurnRenderer
    survey: Survey
    reader: TemplateReader


def family(template: str) -> Family:
    """Return a template with a tokenizer that has its special tokens, and its reader."""
    process = TemplateProcess(template, 0.0)
    first = _renderer(process, template)
    message = {"role": "assistant", "content": "", "tool_calls": [call(NAMES[0], text="x")]}
    found = first.render([ASK, message], tools(), [(2, False)])[0]
    written = "" if isinstance(found, str) else found.text  # tokens that it puts together
    renderer = _renderer(process, template + written)
    surveyed = survey(renderer)
    return Family(renderer, surveyed, template_reader(renderer, surveyed))


def _renderer(process: TemplateProcess, text: str) -> TurnRenderer:
    """Return a renderer whose tokenizer has the special tokens in a text."""
    tokenizer = Tokenizer(
        models.BPE({one: at for at, one in enumerate(pre_tokenizers.ByteLevel.alphabet())}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = sorted({*re.findall(MARKUP, text), "<s>", "</s>"})
    tokenizer.add_special_tokens(
        [AddedToken(one, special=True, normalized=False) for one in tokens]
    )
    # Muse ends a message with <|eom|>, with which others end a turn.
    ends = [one for one in ENDS if one in text and not (one == "<|eom|>" and "to=self" in text)]
    stops = ends or ["</s>"]
    variables = {"bos_token": "<s>", "eos_token": stops[0]}
    return TurnRenderer(process, SpecialText(tokenizer), stops, variables)


# -- made up -------------------------------------------------------------------------------


def tools() -> list[Json]:
    """Return the declarations of the tools that are called."""
    made = [tool(name) for name in NAMES]
    properties = {key: {"type": name, "description": "A value"} for key, name in TYPES.items()}
    for one in made:
        one["function"]["parameters"]["properties"] = properties
    return made


def calls(chance: random.Random) -> list[Json]:
    """Return one or two calls with nested arguments."""
    made = []
    for _ in range(chance.randint(1, 2)):
        keys = chance.sample([*TYPES], chance.randint(0, len(TYPES)))
        arguments = {key: _value(chance, TYPES[key]) for key in keys}
        made.append(call(chance.choice(NAMES), **arguments))
    return made


def _value(chance: random.Random, kind: str = "", depth: int = 0) -> Any:
    kinds = ("string", "integer", "boolean", "number", "null", "object", "array")
    kind = kind or chance.choice(kinds if depth < 3 else kinds[:3])
    if kind == "string":
        return " ".join(chance.choice(TEXTS) for _ in range(chance.randint(0, 3)))
    if kind == "integer":
        return chance.randint(-(10**6), 10**6)
    if kind == "boolean":
        return chance.random() < 0.5
    if kind == "number":
        return round(chance.uniform(-9, 9), 3)
    if kind == "null":
        return None
    count = chance.randint(0, 3)
    if kind == "object":
        return {f"k{n}": _value(chance, depth=depth + 1) for n in range(count)}
    return [_value(chance, depth=depth + 1) for _ in range(count)]


# -- there and back ------------------------------------------------------------------------


def faults(one: Family, seed: int, step: int = 1) -> Iterator[str]:
    """Yield what is wrong with a made up answer after it was rendered and read: its calls and text,
    and its text while it comes, in pieces of ``step`` characters."""
    chance = random.Random(seed)
    rendered = _rendered(one, calls(chance), chance.choice(BESIDE))
    if rendered is None:
        yield "the template refuses it"
        return
    turn, wanted, text = rendered
    raw, prompt = without_stop(turn.label.text, one.renderer, one.survey), turn.prompt.text
    answer = one.reader.read(raw, prompt, tools())
    read = [{"name": found.name, "arguments": found.arguments} for found in answer.calls]
    if read != wanted:
        yield f"{raw!r} was read as {read}, not {wanted}"
    if text not in (answer.text, answer.reasoning):  # gpt-oss writes it as reasoning
        yield f"{raw!r} was read as {answer.text!r}, not {text!r}"
    before = ""
    for end in range(0, len(raw) + 1, step):
        certain = one.reader.certain(raw[:end], prompt, tools())
        if not answer.text.startswith(certain.rstrip()) or not certain.startswith(before):
            yield f"{raw[:end]!r} shows {certain!r} of {answer.text!r}"
        before = certain.rstrip()


def token_faults(template: ChatTemplate, seed: int) -> Iterator[str]:
    """Yield what is wrong with a made up answer whose trained tokens are decoded and read."""
    chance = random.Random(seed)
    for message in _messages(calls(chance), chance.choice(BESIDE)):
        try:
            encoded = template.encode({"messages": [ASK, message], "tools": tools()})[-1]
        except DataError:
            continue
        ids = [label for label in encoded.labels if label >= 0]
        prompt = template.tokenizer.decode(template.prompt_ids([ASK], tools())[-64:], False)
        raw = template.answers.decode(ids[:-1])
        wanted = _written(message, template.survey, raw)
        if wanted is None:
            continue
        answer = template.answers.read(raw, prompt, tools())
        read = [{"name": found.name, "arguments": found.arguments} for found in answer.calls]
        if ids[-1] not in template.stop_ids:
            yield f"{raw!r} has no end"
        if read != wanted[0] or wanted[1] not in (answer.text, answer.reasoning):
            yield f"{raw!r} was read as {answer}, not {wanted}"
        return
    yield "the template refuses it"


def _rendered(one: Family, made: list[Json], text: str) -> tuple[Turn, list[Json], str] | None:
    """Return the turn, and what was written: calls and text."""
    for message in _messages(made, text):
        try:
            [turn], _ = one.renderer.turns([ASK, message], tools(), [1])
        except DataError:
            continue
        written = _written(message, one.survey, turn.label.text)
        if written is not None:
            return turn, *written
    return None


def _messages(made: list[Json], text: str) -> Iterator[Json]:
    """Yield an answer with less and less, for templates that do not take all of it."""
    for some in (made, made[:1]):
        for beside in (text, ""):
            for reasoning in ({}, {"reasoning_content": "They ask; so I look."}):
                message = {"role": "assistant", "content": beside, "tool_calls": some}
                yield {**message, **reasoning}


def _written(message: Json, survey: Survey, label: str) -> tuple[list[Json], str] | None:
    """Return the calls and the text of an answer that a template writes; None if it writes no call
    beside a text (Nemotron Nano 2)."""
    functions = [found["function"] for found in message["tool_calls"]]
    if functions[0]["name"] not in label:
        return None
    text = "" if "text_beside_calls" in survey.losses else message["content"]
    return functions[:1] if "parallel_calls" in survey.losses else functions, text
