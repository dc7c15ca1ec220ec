"""Special tokens in texts: those of published tokenizers, each with a family and a source."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re

import pytest
from families import sources

import finetune_gateway as gateway
from finetune_gateway.validation.special_tokens import FAMILIES, HINTS, described, find

ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
TOKENS = {
    token.replace("{n}", "12").replace("{x}", "tool\u2581sep"): family
    for family in FAMILIES
    for token in family.tokens.split()
}
# What a template writes with a special token's form, and is text to its tokenizer.
WRITTEN = re.compile(
    r"<\|/?[A-Za-z_][A-Za-z_0-9:]*\|>|<\uff5c[^\uff5c<>{}'\"]+\uff5c>|\[/?[A-Z]{2,}_[A-Z_]+\]"
    r"|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_[a-z]+>"
)


def test_each_token_is_found_and_has_a_family_and_a_source() -> None:
    """Alone and in a text; a hint stands in each, so that no row with one is passed over."""
    assert len({family.models for family in FAMILIES}) == len(FAMILIES)
    for token, family in TOKENS.items():
        assert list(find(f"It is {token} here.")) == [token]
        assert any(hint in token for hint in HINTS), token
        assert len(family.source) > 12, family.models


@pytest.mark.parametrize(
    "text",
    [
        "<|foo|>", "<|start_of_nothing|>", "a <| b |> c", "xs |> List.map f", "<||>",
        "<|tool_bar|>",
        "It costs <s>40</s> 30 euros.", "<p><s>old</s> and <s>older</s></p>", "[IMG]a.png[/IMG]",
        "Dear <NAME>,", "INSTALL", "[ARGS]", "<image>", "<sep>", "1 < s > 2", "<tool_call>",
    ],
)  # fmt: skip
def test_ordinary_text_has_none(text: str) -> None:
    """Operators of languages, struck-out text, marks of forums, tokens that are words elsewhere."""
    assert list(find(text)) == []


def test_the_mark_of_a_sequence_is_none_of_struck_out_text() -> None:
    """An end without its begin, and a begin before an instruction."""
    assert list(find("That is all.</s>")) == ["</s>"]
    assert list(find("<s>[INST] Hi [/INST] Hello </s>")) == ["<s>", "[INST]", "[/INST]", "</s>"]
    assert list(find("<s>old</s> and done</s>")) == ["</s>"]


def test_a_finding_names_whose_token_it_is() -> None:
    """By the families of the table, three at most."""
    rows = [ROW] * 11 + [
        {"messages": [{"role": "user", "content": "a <turn|> b"}, ROW["messages"][1]]}
    ]
    report = gateway.validate(rows, backend="openai", quality=False)
    (found,) = [one for one in report.findings if one.code == "special_tokens_in_text"]
    assert "The special token '<turn|>' of Gemma 4 in messages[0].content." in found.message
    assert described("</s>") == "'</s>' of Llama 2, Mistral, Phi-3 and 2 more"


def test_what_tiktoken_has_is_known() -> None:
    """All special tokens of OpenAI's encodings."""
    text = inspect.getsource(importlib.import_module("tiktoken_ext.openai_public"))
    names = set(re.findall(r'"(<\|[a-z0-9_]+\|>)"', text))
    assert len(names) > 15
    assert [name for name in names if list(find(name)) != [name]] == []


def test_what_the_templates_of_trl_write_is_known() -> None:
    """Each token of the templates that are installed with TRL."""
    pytest.importorskip("trl")
    names = set(itertools.chain(*(WRITTEN.findall(one.text) for one in sources.trl())))
    assert len(names) > 40
    assert sorted(name for name in names if list(find(name)) != [name]) == []
