"""Answers taken apart: calls, text and reasoning, by the format that a template writes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.answers import Family, family, faults, tools, trl_template

from finetune_gateway.tokens.call_arguments import read_value, types_of
from finetune_gateway.tokens.call_formats import FORMATS, MUSE_BODY, CallFormat

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
    assert [fault for seed in range(6) for fault in faults(one, seed, 1 if seed == 0 else 7)] == []


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


def test_a_call_in_a_format_that_is_not_known_is_said_to_stay_text() -> None:
    """By what the template writes before the name of a tool."""
    written = "⟦CALL {{ c.function.name }} {{ c.function.arguments | tojson }}⟧"
    reader = family(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        f"{{% for c in m.tool_calls or [] %}}{written}{{% endfor %}}<|im_end|>\n{{% endfor %}}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ).reader
    assert reader.format is None
    raw = "⟦CALL zq_find {}⟧"
    answer = reader.read(raw, ASKED, tools())
    assert answer.text == raw and "not read" in str(answer.note)
    assert reader.read("Shall I CALL?", ASKED, tools()).note is None


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


ARGUMENTS = '{"place": "Zürich", "days": 3}'
HERMES = f'{{"name": "zq_find", "arguments": {ARGUMENTS}}}'
XML = "<parameter=place>\nZürich\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
INVOKE = '<invoke name="zq_find"><parameter name="place">Zürich</parameter>'
INVOKE += '<parameter name="days">3</parameter></invoke>'
DSML = '<｜DSML｜invoke name="zq_find"><｜DSML｜parameter name="place" string="true">Zürich'
DSML += '</｜DSML｜parameter><｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>'
DSML += "</｜DSML｜invoke>"
PAIRS = "<arg_key>place</arg_key><arg_value>Zürich</arg_value>"
PAIRS += "<arg_key>days</arg_key><arg_value>3</arg_value>"
# One call as each format writes it.
EXAMPLES = {
    "hermes": f"<tool_call>\n{HERMES}\n</tool_call>",
    "qwen3_coder": f"<tool_call>\n<function=zq_find>\n{XML}</function>\n</tool_call>",
    "llama3_json": HERMES.replace("arguments", "parameters"),
    "llama4_json": "<|python_start|><|python_end|>" + HERMES.replace("arguments", "parameters"),
    "mistral": f'[TOOL_CALLS] [{HERMES[:-1]}, "id": "abcdefghi"}}]',
    "mistral_v11": f"[TOOL_CALLS]zq_find[CALL_ID]abcdefghi[ARGS]{ARGUMENTS}",
    "gemma4": '<|tool_call>call:zq_find{place:<|"|>Zürich<|"|>,days:3}<tool_call|>',
    "glm45": f"<tool_call>zq_find\n{PAIRS}</tool_call>",
    "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>zq_find\n"
    f"```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek_v31": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>zq_find<｜tool▁sep｜>"
    f"{ARGUMENTS}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek_v32": f"<｜DSML｜function_calls>{DSML}</｜DSML｜function_calls>",
    "deepseek_v4": f"<｜DSML｜tool_calls>{DSML}</｜DSML｜tool_calls>",
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.zq_find:0"
    f"<|tool_call_argument_begin|>{ARGUMENTS}<|tool_call_end|><|tool_calls_section_end|>",
    "minimax_m2": f"<minimax:tool_call>\n{INVOKE}\n</minimax:tool_call>",
    "minimax": f"<tool_calls>\n{HERMES}\n</tool_calls>",
    "cohere_command3": '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "zq_find", '
    f'"parameters": {ARGUMENTS}}}]<|END_ACTION|>',
    "lfm2": "<|tool_call_start|>[zq_find(place='Zürich', days=3)]<|tool_call_end|>",
    "lfm2_escaped": '<|tool_call_start|>[zq_find(place="Zürich", days=3)]<|tool_call_end|>',
    "seed_oss": "<seed:tool_call><function=zq_find><parameter=place>Zürich</parameter>"
    "<parameter=days>3</parameter></function></seed:tool_call>",
    "apertus": f'<|tools_prefix|>[{{"zq_find": {ARGUMENTS}}}]<|tools_suffix|>',
    "gigachat3": f"<|function_call|>{HERMES}",
    "functionary_v31": f"<function=zq_find>{ARGUMENTS}</function>",
    "functionary_v32": f">>>zq_find\n{ARGUMENTS}",
    "minicpm5": '<function name="zq_find"><param name="place">Zürich</param>'
    '<param name="days">3</param></function>',
    "solar_open": "<|tool_calls|><|tool_call:begin|>abc<|tool_call:name|>zq_find"
    f"<|tool_call:args|>{ARGUMENTS}<|tool_call:end|>",
    "hy3": "<tool_calls:opensource><tool_call:opensource>zq_find<tool_sep:opensource>"
    f"{PAIRS.replace('>', ':opensource>')}</tool_call:opensource>"
    "</tool_calls:opensource>",
    "nemotron_json": f"<TOOLCALL>[{HERMES}]</TOOLCALL>",
    "muse": f"<atem:function_calls>{INVOKE.replace('<', '<atem:').replace('<atem:/', '</atem:')}"
    "</atem:function_calls>",
}


def test_every_format_reads_its_own_example() -> None:
    """Which is the first one to write for a new format: no other test asks for it by name."""
    formats = {one.name: one for one in (*FORMATS, MUSE_BODY)}
    assert formats.keys() == EXAMPLES.keys() and len(formats) == len(FORMATS) + 1
    types = {"zq_find": {"place": ("string",), "days": ("integer",)}}
    for name, one in formats.items():
        parsed = one.parse(EXAMPLES[name], types)
        read = [(call.name, call.arguments) for call in parsed.calls]
        assert read == [("zq_find", {"place": "Zürich", "days": 3})], name
        assert not parsed.broken and not (parsed.before + parsed.after).strip(), name


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
