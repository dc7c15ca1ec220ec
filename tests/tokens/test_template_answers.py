"""Answers taken apart: calls, text and reasoning, by the format that a template writes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.answers import Family, family, faults, tools, trl_template

from finetune_gateway.tokens.call_arguments import read_value, types_of
from finetune_gateway.tokens.call_formats import FORMATS, CallFormat

# Templates of TRL's wheel, and the format of their calls. tests/families has all others.
CHOSEN = {
    "qwen3": "hermes", "qwen3_6": "qwen3_coder", "llama3_1": "llama3_json", "gemma4_v5": "gemma4",
    "gptoss": "openai", "glm4moe": "glm45", "lfm2_v2": "lfm2_escaped", "lfm2_2_5": "lfm2",
    "deepseekv3": "deepseek_v3", "nemotron_3_nano": "qwen3_coder", "muse_glimmer": "muse",
}  # fmt: skip


@pytest.mark.parametrize("name", CHOSEN)
def test_calls_are_read_as_they_were_written(name: str) -> None:
    """Two at once, nested arguments, quotes, beyond ASCII, text beside; none of it in the text
    while it comes, letter by letter."""
    one = family(trl_template(name))
    assert one.reader.format is not None and one.reader.format.name == CHOSEN[name]
    assert [fault for seed in range(10) for fault in faults(one, seed, 1 if seed == 0 else 7)] == []


@pytest.fixture(scope="module")
def qwen3() -> Family:
    return family(trl_template("qwen3"))


ASKED = "<|im_start|>assistant\n"


def test_templates_without_calls_have_no_format() -> None:
    """A call in an answer is text there, and said to be."""
    reader = family(trl_template("llama3")).reader
    assert reader.format is None
    raw = '<tool_call>\n{"name": "zq_find", "arguments": {}}\n</tool_call>'
    answer = reader.read(raw, ASKED, tools())
    assert answer.text == raw and answer.calls == () and "not read" in str(answer.note)
    assert reader.read("No call.", ASKED, tools()).note is None


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ('Hm <tool_call>\n{"name": "zq_find", "arguments": {"text": \n</tool_call>', None),
        ('Hm <tool_call>\n{"name": "zq_find", "arguments": [1]}\n</tool_call>', None),
        ('Hm <tool_call>\n{"name": 1, "arguments": {}}\n</tool_call>', None),
        ("Hm <tool_call>", None),
        ("Hm <tool_call>\n" + '{"name": "zq_find", "arguments": ' + "[" * 5000, None),
        ('Hm <tool_call>{"name": "a", "arguments": {"a": NaN}}</tool_call>', None),
    ],
)
def test_what_is_no_call_stays_text(qwen3: Family, raw: str, text: str | None) -> None:
    answer = qwen3.reader.read(raw, ASKED, tools())
    assert answer.text == (text or raw) and answer.calls == () and answer.note


def test_of_two_calls_a_whole_one_is_read_and_the_rest_stays_text(qwen3: Family) -> None:
    whole = '<tool_call>\n{"name": "zq_find", "arguments": {"text": "</tool_call>"}}\n</tool_call>'
    answer = qwen3.reader.read(f'{whole}\n<tool_call>\n{{"name": "zq', ASKED, tools())
    assert [one.arguments for one in answer.calls] == [{"text": "</tool_call>"}]
    assert answer.text == '<tool_call>\n{"name": "zq' and answer.note


@pytest.mark.parametrize(
    ("raw", "prompt", "reasoning", "text"),
    [
        ("<think>\nWhy.\n</think>\n\nSo.", ASKED, "Why.", "So."),
        ("Why.\n</think>\n\nSo.", ASKED + "<think>\n", "Why.", "So."),
        ("\n</think>\n\nSo.", ASKED + "<think>\n", None, "So."),
        ("<think>\n\n</think>\n\nSo.", ASKED, None, "So."),
        ("So.", ASKED + "<think>\n\n</think>\n\n", None, "So."),
        ("<think>\n\n</think>\n\n\n So.", ASKED, None, "\n So."),
        ("<think>Why.</think>\nSo.", ASKED, "Why.", "So."),
        ("</think>So.", ASKED, None, "So."),
        ("<think>\nWhy, cut", ASKED, "Why, cut", ""),
        ("  indented", ASKED, None, "  indented"),
        ("a <think> b", ASKED, None, "a <think> b"),
        ("[THINK]Why.[/THINK]So.", ASKED, "Why.", "So."),
    ],
)
def test_reasoning_is_apart_from_the_text(
    qwen3: Family, raw: str, prompt: str, reasoning: str | None, text: str
) -> None:
    """Also where the prompt has opened its block."""
    answer = qwen3.reader.read(raw, prompt, None)
    assert (answer.reasoning, answer.text) == (reasoning, text)
    shown = [qwen3.reader.certain(raw[:end], prompt, None) for end in range(len(raw) + 1)]
    assert all(text.startswith(one) for one in shown)


def test_a_bare_object_is_a_call_only_of_a_tool_that_exists() -> None:
    """An answer in JSON is data where no tools are given, or its name is none of theirs."""
    reader = family(trl_template("llama3_1")).reader
    raw = '{"name": "zq_find", "parameters": {"text": "x"}}'
    assert [one.name for one in reader.read(raw, "", tools()).calls] == ["zq_find"]
    other = raw.replace("zq_find", "Ann")
    for text, given in ((raw, None), (other, tools()), (f"{raw} is it", tools())):
        answer = reader.read(text, "", given)
        assert answer.text == text and answer.calls == ()


@pytest.mark.parametrize(
    ("raw", "schema", "value"),
    [
        ("75001", {"type": "string"}, "75001"),
        ("75001", {"type": "integer"}, 75001),
        ("3.0", {"type": "integer"}, 3),
        ("75001", {"anyOf": [{"type": "null"}, {"type": "string"}]}, "75001"),
        ("null", {"type": ["null", "string"]}, None),
        ("True", {"type": "boolean"}, True),
        ("{'a': None}", {"type": "object"}, {"a": None}),
        ("high", {"enum": ["high", "1"]}, "high"),
        ("1", {"enum": ["high", "1"]}, "1"),
        ("oops", {"type": "integer"}, "oops"),
        ("75001", {}, 75001),
        ("'quoted'", {}, "'quoted'"),
        ("__import__('os')", {}, "__import__('os')"),
    ],
)
def test_a_value_without_quotes_has_the_type_of_its_schema(
    raw: str, schema: dict[str, Any], value: Any
) -> None:
    parameters = {"type": "object", "properties": {"a": schema}}
    types = types_of([{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    assert read_value(raw, types["f"]["a"]) == value


def test_every_format_reads_any_text_without_an_error() -> None:
    """What it cannot read is text; nothing is lost."""
    for one in FORMATS:
        for text in broken_texts(one):
            parsed = one.parse(text, {"zq_find": {}})
            assert parsed.calls or parsed.before == text


def broken_texts(one: CallFormat) -> list[str]:
    """Return texts that begin like a call."""
    tails = ("", "x", "{", "[" * 3000, '{"name": "zq_find"', json.dumps({"a": 1}), one.opens * 50)
    return [f"a {one.opens}{tail}" for tail in tails]
