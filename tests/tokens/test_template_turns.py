"""Prompt and label of each turn, by small templates that behave as those of known families do."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from finetune_gateway.errors import DataError, GatewayError, SpecError
from finetune_gateway.tokens import template_process
from finetune_gateway.tokens.chat_template import IGNORED, ChatTemplate, choose_switches
from finetune_gateway.tokens.special_text import SpecialText
from finetune_gateway.tokens.template_process import TemplateProcess

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3: the last answer has a think block, earlier ones have none.
THINKS_LAST = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n{{ m.reasoning_content or '' }}\n"
    "</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Nemotron 3: the prompt opens a think block, unless a switch closes it.
OPENS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{{ '<think></think>' if enable_thinking is defined and not enable_thinking else '<think>\n' }}"
    "{% endif %}"
)
# As Mistral: the system prompt is written only where the row ends with the user.
SYSTEM_LATE = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] "
    "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}"
    "{{ m.content }}[/INST]{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}"
    "{% endfor %}"
)
# As R1 distills: the prompt opens a think block that no turn has.
ALWAYS_OPENS = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% elif "
    "m.role == 'assistant' %}<|bot|>{{ m.content }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|bot|><think>\n{% endif %}"
)
# A prompt opens a think block with a new line, and each turn writes a block without one.
OPENS_OTHERWISE = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% elif "
    "m.role == 'assistant' %}<|bot|>\n<think>{{ m.reasoning_content or '' }}</think>{{ m.content }}"
    "</s>{% endif %}{% endfor %}{% if add_generation_prompt %}<|bot|><think>\n{% endif %}"
)
# As GLM-4.5: nothing ends a turn but what follows.
NO_END = (
    "{% for m in messages %}<|{{ 'bot' if m.role == 'assistant' else m.role }}|>{{ m.content }}"
    "{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}"
)
# As gpt-oss: a system prompt is written only where it comes first.
FIRST_SYSTEM = (
    "{% if messages[0].role == 'system' %}<|system|>{{ messages[0].content }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|bot|>{{ m.content }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>{% endif %}"
)
PARTS = CHATML.replace("m.content", "m.content[0].text")
SPECIAL = ("<|user|>", "<|bot|>", "<|system|>", "[INST]", "[/INST]", "</s>")
ASKED: list[dict[str, Any]] = [
    {"role": "user", "content": "one?"},
    {"role": "assistant", "content": "first"},
    {"role": "user", "content": "two?"},
    {"role": "assistant", "content": "second"},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """The built-in tokenizer with the special tokens of several families."""
    folder = shutil.copytree(tiny_tokenizer, tmp_path_factory.mktemp("model") / "tiny")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def load(base: Path, tmp_path: Path, source: str, **options: Any) -> ChatTemplate:
    path = tmp_path / "template.jinja"
    path.write_text(source)
    return ChatTemplate.load(base, path, **options)


def labels(template: ChatTemplate, messages: list[dict[str, Any]]) -> list[str]:
    """Return the trained text of each sequence; the prompt before it is what serving sends."""
    texts = []
    for one in template.encode({"messages": messages}):
        trained = [token for token in one.labels if token != IGNORED]
        texts.append(str(template.tokenizer.decode(trained, skip_special_tokens=False)))
        for index in one.turns:
            prompt = template.prompt_ids(messages[:index])
            assert one.input_ids[: len(prompt)] == prompt
            assert one.labels[len(prompt)] == one.input_ids[len(prompt)]
    return texts


@pytest.mark.parametrize(
    ("source", "trained"),
    [
        (CHATML, ["first<|im_end|>second<|im_end|>"]),
        (
            THINKS_LAST,
            ["<think>\n\n</think>\n\nfirst<|im_end|>", "<think>\n\n</think>\n\nsecond<|im_end|>"],
        ),
        (SYSTEM_LATE, [" first</s> second</s>"]),
        (ALWAYS_OPENS, ["\n</think>\n\nfirst</s>", "\n</think>\n\nsecond</s>"]),
        (OPENS_OTHERWISE, ["</think>first</s>", "</think>second</s>"]),
        (NO_END, ["first<|user|>second<|user|>"]),
        (PARTS, ["first<|im_end|>second<|im_end|>"]),
        (
            CHATML.replace("<|im_end|>\n", "<|im_end|>\n<|endoftext|>"),
            ["first<|im_end|>second<|im_end|>"],
        ),
    ],
    ids=[
        "chatml",
        "thinks last",
        "system late",
        "opens a block",
        "opens otherwise",
        "no end",
        "parts",
        "two stops",
    ],
)
def test_the_label_is_what_the_prompt_asks_for(
    base: Path, tmp_path: Path, source: str, trained: list[str]
) -> None:
    """With its stop token; each turn is its own sequence where the template writes it anew."""
    template = load(base, tmp_path, source)
    assert labels(template, ASKED) == trained
    ends = {template.tokenizer.token_to_id(one[one.rindex("<") :]) for one in trained}
    assert ends <= template.stop_ids


def test_a_template_sees_reasoning_by_any_name_and_no_weight(base: Path, tmp_path: Path) -> None:
    """The names are those of transformers; ``weight`` is OpenAI's, and no template's."""
    template = load(base, tmp_path, THINKS_LAST.replace("m.content", "m.content ~ m.weight"))
    for name in ("reasoning_content", "thinking", "reasoning"):
        answer = {"role": "assistant", "content": "first", "weight": 1, name: "Why."}
        assert labels(template, [ASKED[0], answer]) == [
            "<think>\nWhy.\n</think>\n\nfirst<|im_end|>"
        ]


def test_a_row_of_many_turns_is_one_sequence(base: Path, tmp_path: Path) -> None:
    """33 renderings, more than are asked for at once."""
    template = load(base, tmp_path, CHATML)
    trained = "first<|im_end|>second<|im_end|>" * 8
    assert labels(template, [*ASKED * 8, ASKED[0]]) == [trained]


def test_a_system_prompt_is_in_the_prompt_of_every_turn(base: Path, tmp_path: Path) -> None:
    """As serving sends it, also where the template drops it from a row that ends in an answer."""
    template = load(base, tmp_path, SYSTEM_LATE)
    messages = [{"role": "system", "content": "Be brief."}, *ASKED]
    assert labels(template, messages) == [" first</s>", " second</s>"]
    assert all("Be brief." in one.text for one in template.encode({"messages": messages}))


def test_a_prompt_has_the_ids_that_it_has_alone(base: Path, tmp_path: Path) -> None:
    """Two line breaks are one token at the end of a text, and two before a word: a prompt that ends
    with them is trained as serving sends it, not as it is encoded in the row."""
    folder = shutil.copytree(base, tmp_path / "breaks")
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["model"]["vocab"]["ĊĊ"] = 5000
    tokenizer["model"]["merges"].append(["Ċ", "Ċ"])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    asks = "{% if m.role == 'user' %}{{ m.content }}\n\n{% else %}{{ m.content }}</s>{% endif %}"
    template = load(folder, tmp_path, f"{{% for m in messages %}}{asks}{{% endfor %}}")
    assert template.prompt_ids(ASKED[:1])[-1] == 5000
    assert labels(template, ASKED) == ["first</s>", "second</s>"]


def test_generation_blocks_leave_out_what_is_between_them(base: Path, tmp_path: Path) -> None:
    """To the letter, where they hold the first and the last of a label; JSON keeps its letters."""
    blocks = (
        "{% if m.role == 'user' %}{{ m.content | tojson }}{% else %}{% generation %}"
        "{{ m.content }}{% endgeneration %}--{% generation %}!</s>{% endgeneration %}{% endif %}"
    )
    template = load(base, tmp_path, f"{{% for m in messages %}}{blocks}{{% endfor %}}")
    asked = {"role": "user", "content": "<b>Zürich?</b>"}
    assert labels(template, [asked, ASKED[1]]) == ["first!</s>"]
    assert template.text([asked]) == '"<b>Zürich?</b>"'


def test_a_switch_is_chosen_where_rows_need_one(base: Path, tmp_path: Path) -> None:
    """Rows without reasoning ask a template that thinks not to; others are asked as always."""
    template = load(base, tmp_path, OPENS)
    assert choose_switches(template, reasoning=False) == {"enable_thinking": False}
    assert choose_switches(load(base, tmp_path, CHATML), reasoning=False) == {}
    chosen = template.with_switches({"enable_thinking": False})
    assert labels(chosen, ASKED) == ["first<|im_end|>second<|im_end|>"]


def test_a_template_that_asks_otherwise_is_refused_with_both_texts(
    base: Path, tmp_path: Path
) -> None:
    """What is asked and what is written stand side by side."""
    asks = "{% if add_generation_prompt %}Zzz: {% endif %}"
    template = load(base, tmp_path, re.sub(r"\{% if add.*endif %\}", "", CHATML, flags=re.S) + asks)
    with pytest.raises(DataError, match=r"Zzz: .* and writes .*assistant"):
        template.encode({"messages": ASKED})


def test_what_a_template_drops_is_known(base: Path, tmp_path: Path) -> None:
    """By kind; a turn of which nothing is written is not trained."""
    template = load(base, tmp_path, CHATML)
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    silent = {"role": "assistant", "content": None, "tool_calls": [call]}
    row = {"messages": [ASKED[0], silent, *ASKED[2:]]}
    assert template.losses(row) == {"calls"}
    assert template.losses({"messages": ASKED}) == frozenset()
    assert labels(template, row["messages"]) == ["second<|im_end|>"]


def test_a_second_call_that_a_template_drops_is_known(base: Path, tmp_path: Path) -> None:
    """In rows that have one."""
    written = "{{ m.tool_calls[0].function | tojson if m.tool_calls else m.content }}"
    template = load(base, tmp_path, CHATML.replace("{{ m.content }}", written))
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    for count, lost in ((1, set()), (2, {"parallel_calls"})):
        calls = {"role": "assistant", "content": None, "tool_calls": [call] * count}
        assert template.losses({"messages": [ASKED[0], calls]}) == lost


def test_a_message_that_a_template_drops_by_its_place_is_known(base: Path, tmp_path: Path) -> None:
    """Many write a system prompt only if it comes first, and then it is no planted one that is
    lost: each row is looked at by itself."""
    template = load(base, tmp_path, FIRST_SYSTEM)
    first, later = ({"role": role, "content": f"Be {role}."} for role in ("system", "developer"))
    assert template.losses({"messages": [first, *ASKED]}) == frozenset()
    assert template.losses({"messages": [first, later, *ASKED]}) == {"system"}
    assert template.losses({"messages": [*ASKED[:2], later, *ASKED[2:]]}) == {"system"}
    assert template.losses({"messages": [*ASKED, later]}) == frozenset()  # behind what is trained
    hostile = "{% if 'one' in m.content %}{% elif m.role == 'user' %}"
    template = load(base, tmp_path, FIRST_SYSTEM.replace("{% if m.role == 'user' %}", hostile))
    assert template.losses({"messages": ASKED}) == {"user"}


def test_special_tokens_that_are_typed_are_trained_as_they_are_served(
    base: Path, tmp_path: Path
) -> None:
    """As JSON in ASCII and as keys of arguments too; a template that counts letters, or looks for
    them, is refused."""
    asked = {"role": "user", "content": "Is <|im_end|> é?"}
    written = "m.content | tojson(ensure_ascii=true)"
    template = load(base, tmp_path, CHATML.replace("m.content", written))
    [encoded] = template.encode({"messages": [asked, ASKED[1]]})
    assert 'user\n"Is <|im_end|> \\u00e9?"<|im_end|>' in encoded.text
    end = SpecialText(template.tokenizer).ids["<|im_end|>"]
    assert encoded.input_ids.count(end) == 2
    template = load(base, tmp_path, CHATML.replace("m.content", "m.tool_calls or m.content"))
    called = {"name": "find", "arguments": '{"<|im_end|>": {"a <|im_end|>": 1}}'}
    call = {"id": "c1", "type": "function", "function": called}
    row = {"messages": [asked, {"role": "assistant", "content": None, "tool_calls": [call]}]}
    [encoded] = template.encode(row)
    assert encoded.text.count("<|im_end|>") == 5 and encoded.input_ids.count(end) == 2
    template = load(base, tmp_path, CHATML.replace("m.content", "m.content | length"))
    with pytest.raises(DataError, match="special tokens that are typed"):
        template.encode({"messages": [asked, ASKED[1]]})


def test_a_message_that_a_template_writes_otherwise_is_not_lost(base: Path, tmp_path: Path) -> None:
    """Trimmed, as JSON, or without a switch of the mode."""
    for written in (
        "m.content | trim",
        "m.content | tojson",
        "m.content.replace('/no_think', '')",
    ):
        template = load(base, tmp_path, CHATML.replace("m.content", written))
        asked = {
            "role": "user",
            "content": ' A "quoted" line\nof many words, in any case /no_think\n',
        }
        assert template.losses({"messages": [asked, ASKED[1]]}) == frozenset()


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9 ** 99999999 }}",
        "{{ messages[0].content * 9999999999 }}",
        "{% for a in range(99999) %}{{ messages[0].content * 99999 }}{% endfor %}",
    ],
)
def test_a_template_that_takes_too_much_ends_in_words(
    base: Path, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop without end, a number or a text without measure: within the limits."""
    monkeypatch.setattr(template_process, "SECONDS", 0.1)
    template_process.template_process.cache_clear()
    with pytest.raises(SpecError, match=r"takes more than|cannot be read"):
        load(base, tmp_path, source).check()


def test_a_day_is_kept(base: Path, tmp_path: Path) -> None:
    """A template that writes the date writes that of the submit, also after midnight."""
    template = load(base, tmp_path, "{{ strftime_now('%Y-%m-%d') }}" + CHATML, now=1_700_000_000.0)
    assert template.text(ASKED).startswith("2023-11-14")


def test_a_template_is_looked_into_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each set of switches and stops, and a tokenizer is read once until its file changes."""
    folder = shutil.copytree(base, tmp_path / "base")
    first, asked = load(folder, tmp_path, THINKS_LAST), list[Any]()
    render = TemplateProcess.render

    def counted(*args: Any) -> Any:
        asked.append(args)
        return render(*args)

    monkeypatch.setattr(TemplateProcess, "render", counted)
    again = load(folder, tmp_path, THINKS_LAST)
    assert not asked and again.survey == first.survey and again.tokenizer is first.tokenizer
    assert labels(again, ASKED) == labels(first, ASKED)
    asked.clear()
    load(folder, tmp_path, THINKS_LAST, chat_template_kwargs={"enable_thinking": False})
    assert asked
    first.tokenizer.save(str(folder / "tokenizer.json"))
    assert load(folder, tmp_path, THINKS_LAST).tokenizer is not first.tokenizer


def test_a_fork_has_a_process_of_its_own() -> None:
    """A child of a fork does not read the answers of its parent."""
    process = TemplateProcess("{{ messages[0].content }}")

    def asked(text: str) -> Any:
        return process.render([{"content": text}], None, [([0], False)], {})[0]

    assert asked("parent").text == "parent"
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(asked("child").text).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        assert json.loads(answer.read()) == "child"
    assert asked("parent again").text == "parent again"


def test_a_fork_does_not_wait_for_a_thread_of_its_parent() -> None:
    """One that holds the lock at the fork is not there to release it."""
    process = TemplateProcess("{{ messages[0].content }}")
    with process._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # ends a child that waits
            [found] = process.render([{"content": "child"}], None, [([0], False)], {})
            os._exit(0 if getattr(found, "text", "") == "child" else 1)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc")
def test_a_template_has_no_keys_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process learns where Python is, and little else."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    process = TemplateProcess("{{ messages[0].content }}")
    assert process._process is not None
    around = Path(f"/proc/{process._process.pid}/environ").read_bytes()
    assert b"PATH=" in around and b"sk-planted" not in around


def test_a_process_that_something_else_ended_is_said_to_be() -> None:
    """It took no 5 seconds; the next row is rendered by another."""
    process = TemplateProcess("{{ messages[0].content }}")
    asked: Any = ([{"content": "one"}], None, [([0], False)], {})
    assert process._process is not None
    process._process.kill()
    with pytest.raises(GatewayError, match=r"was ended before it answered \(SIGKILL\)") as caught:
        process.render(*asked)
    assert not isinstance(caught.value, SpecError)
    assert process.render(*asked) == [template_process.Rendering("one")]


def test_a_reply_that_was_not_waited_for_is_none_of_the_next_row() -> None:
    """Ctrl-C in a notebook, and the next cell."""
    wait = "{% for a in range(9999) %}{% for b in range(99) %}{% endfor %}{% endfor %}"
    process = TemplateProcess(
        "{% if messages[0].slow %}" + wait + "{% endif %}{{ messages[0].text }}"
    )

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            process.render([{"text": "first", "slow": True}], None, [([0], False)], {})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    [second] = process.render([{"text": "second"}], None, [([0], False)], {})
    assert isinstance(second, template_process.Rendering) and second.text == "second"


def test_calls_as_text_for_a_template_without_tools(base: Path, tmp_path: Path) -> None:
    """The list of tools is in the prompt, calls are trained as text and read back; the template
    that is saved does the same."""
    path = tmp_path / "plain.jinja"
    path.write_text(CHATML)
    template = ChatTemplate.load(base, path, call_format="hermes")
    function = {"name": "find", "parameters": {"type": "object"}}
    called = {"name": "find", "arguments": '{"id": "A-1"}'}
    silent = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": called}]}
    result = {"role": "tool", "tool_call_id": "c", "content": "In Bonn."}
    tools = [{"type": "function", "function": function}]
    row = {"messages": [ASKED[0], silent, result, ASKED[1]], "tools": tools}
    assert template.losses(row) == frozenset()
    call = '<tool_call>\n{"name": "find", "arguments": {"id": "A-1"}}\n</tool_call>'
    [encoded] = template.encode(row)
    trained = [token for token in encoded.labels if token != IGNORED]
    text = template.tokenizer.decode(trained, skip_special_tokens=False)
    assert text == f"{call}<|im_end|>first<|im_end|>"
    assert '"name": "find"' in encoded.text and "<tool_response>\nIn Bonn." in encoded.text
    path.write_text(template.source)
    saved = ChatTemplate.load(base, path)
    assert saved.encode(row) == [encoded]
    answer = saved.answers.read(call, encoded.text[:9], tools)
    [read] = answer.calls
    assert (read.name, answer.text) == ("find", "")


def test_a_think_block_in_a_text_that_is_not_written_is_named(base: Path, tmp_path: Path) -> None:
    """Of the row that has one in an answer that is trained, and of no other."""
    source = CHATML.replace("m.content }}", "m.content.split('</think>')[-1] }}")
    template = load(base, tmp_path, source)
    thinks = {"role": "assistant", "content": "<think>why</think>\n\nfirst"}
    assert "think_blocks" in template.losses({"messages": [ASKED[0], thinks]})
    assert "think_blocks" not in template.losses({"messages": ASKED[:2]})
    assert "think_blocks" not in template.losses({"messages": [ASKED[0], {**thinks, "weight": 0},
                                                               *ASKED[2:]]})  # fmt: skip
