"""The table of special tokens beside the templates of real models, which pip downloads."""

from __future__ import annotations

import itertools
import re

import pytest
from families import sources

from finetune_gateway.validation.special_tokens import FAMILIES, find

pytestmark = pytest.mark.chaos
# What looks like a special token in a template and is none: marks of think blocks, words between
# bars that a template replaces, tokens that are ordinary text elsewhere.
WRITTEN = re.compile(
    r"<\|/?[A-Za-z_][A-Za-z_0-9:]*\|>|<\uff5c[^\uff5c<>{}'\"]+\uff5c>|\[/?[A-Z]{2,}_[A-Z_]+\]"
    r"|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_[a-z]+>"
)
LEFT_OUT = {"<|NONE|>"}


@pytest.fixture(scope="module")
def templates() -> list[str]:
    """All templates of the archives."""
    archives = (sources.downloaded(one) for one in (sources.AXOLOTL, sources.LLAMA_CPP))
    return [one.text for one in itertools.chain(sources.trl(), *archives)]


def test_each_token_that_a_template_writes_is_in_the_table(templates: list[str]) -> None:
    """Only those in ``LEFT_OUT`` are not."""
    names = {name for text in templates for name in WRITTEN.findall(text)} - LEFT_OUT
    assert len(names) > 150
    assert sorted(name for name in names if list(find(name)) != [name]) == []


def test_families_that_are_read_from_templates_have_no_token_that_none_writes(
    templates: list[str],
) -> None:
    """Of families whose only source is a template."""
    text = "\n".join(templates)
    read = [one for one in FAMILIES if one.source == "its chat template, docs/families.md"]
    named = [token for one in read for token in one.tokens.split() if "{" not in token]
    assert len(named) > 40 and [token for token in named if token not in text] == []
