"""The families of a test run, each made once."""

from __future__ import annotations

from pathlib import Path

from families import sources
from families.sources import Source
from families.verdicts import Family

# Mistral's: the system prompt stands in the last question, if a row ends with one.
MISTRAL = """{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}
{%- set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif -%}
{{ bos_token }}
{%- for m in rest %}
    {%- if m.role == 'user' %}
        {%- if loop.last and system is defined %}{{ '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}
        {%- else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}
    {%- elif m.role == 'assistant' %}{{ ' ' + m.content|trim + eos_token }}
    {%- else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}
{%- endfor %}"""  # noqa: E501


# Alpaca's: words that are no special tokens stand before an answer.
ALPACA = """{%- for m in messages %}
    {%- if m.role == 'assistant' %}{{ m.content + eos_token }}
    {%- else %}{{ '### Instruction:\n' + m.content + '\n\n' }}{% endif %}
    {%- if m.role == 'user' and (add_generation_prompt or not loop.last) %}
        {{- '### Response:\n' }}
    {%- endif %}
{%- endfor %}"""
OWN = {"mistral": MISTRAL, "alpaca": ALPACA}


class Families:
    """The families of a test run, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Family] = {}

    def __call__(self, name: str) -> Family:
        if name not in self.made:
            path = sources.trl_folder() / f"{name}.jinja"
            text = OWN.get(name) or path.read_text(encoding="utf-8")
            self.made[name] = Family(self.folder / name, Source("trl", name, text))
        return self.made[name]
