"""Chat templates in Go's text/template: equal to Jinja on 20 conversations, by our own reading of
Go and by Go itself, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_gateway import SpecError
from finetune_gateway.exports import go
from finetune_gateway.tokens.go_template import conversations, go_template, literal
from finetune_gateway.tokens.model_folder import read_model_files
from finetune_gateway.tokens.template_process import template_process

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A system prompt in the first turn, no space at the ends of a text, and a token at the start.
LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{% elif m.role == 'user' %}[INST] "
    "{% if messages[0].role == 'system' and loop.index0 == 1 %}<<SYS>>\n{{ messages[0].content }}\n"
    "<</SYS>>\n\n{% endif %}{{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</t>{% endfor %}<assistant>"
)
BRACES = (
    '{% for m in messages %}{{ "{{" }}{{ m.role }}\u00a0"""{{ m.content }}{{ "}}" }}{% endfor %}{'
)
DATED = (
    "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
SYSTEM_LAST = (
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}>"
    "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{{ m.content }}{% endfor %}<assistant>"
)
COUNTED = "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}"


def folder_of(tmp_path: Path, tokenizer: Path, template: str) -> Path:
    """A model folder with this template."""
    (tmp_path / "tokenizer.json").write_bytes((tokenizer / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    about = {"bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    return tmp_path


@pytest.mark.parametrize("template", [CHATML, LLAMA_2, NO_SYSTEM, BRACES, DATED])
def test_go_writes_what_jinja_writes(template: str, tmp_path: Path, tiny_tokenizer: Path) -> None:
    folder = folder_of(tmp_path, tiny_tokenizer, template)
    found = go_template(folder, {}, without="<s>")
    files = read_model_files(folder)
    process = template_process(files.source, 1_700_000_000.0)
    asked = [*conversations()]
    assert len(asked) == 20 and {one[0]["role"] for one in asked} == {"system", "user"}
    wanted = []
    for messages in asked:
        everything = [(list(range(len(messages))), True)]
        [made] = process.render(messages, None, everything, files.special_tokens)
        wanted.append(made if isinstance(made, str) else made.text.removeprefix("<s>"))
    taken = [
        at for at, one in enumerate(asked) if found.system is not None or one[0]["role"] == "user"
    ]
    assert [found.render(asked[at]) for at in taken] == [wanted[at] for at in taken]
    if go.has_go():
        by_go = go.render(found.text, asked)
        assert by_go is not None
        assert [by_go[at] for at in taken] == [wanted[at] for at in taken]


@pytest.mark.parametrize(
    ("template", "said"), [(LLAMA_2, "trims"), (NO_SYSTEM, "no system"), (DATED, "the day")]
)
def test_what_go_cannot_do_is_said(
    template: str, said: str, tmp_path: Path, tiny_tokenizer: Path
) -> None:
    found = go_template(folder_of(tmp_path, tiny_tokenizer, template), {})
    assert any(said in limit for limit in found.limits)


@pytest.mark.parametrize("template", [SYSTEM_LAST, COUNTED])
def test_what_cannot_be_expressed_is_refused(
    template: str, tmp_path: Path, tiny_tokenizer: Path
) -> None:
    with pytest.raises(SpecError, match="cannot be written in Go"):
        go_template(folder_of(tmp_path, tiny_tokenizer, template), {})


def test_a_text_that_means_something_is_quoted() -> None:
    assert literal("plain\n<|x|>") == "plain\n<|x|>"
    assert literal("{{ x }}") == '{{ "{{ x }}" }}'
    assert literal("\u00a0") == '{{ "\\u00a0" }}' and literal("\U000e0001") == '{{ "\\U000e0001" }}'
    assert literal('"""') == '{{ "\\"\\"\\"" }}'
