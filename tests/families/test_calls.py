"""Calls of all chat templates that can be had, 200 made up ones each. Prints how many are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import folders, sources
from families.sources import AXOLOTL, LLAMA_CPP, Source
from support.answers import family, faults, token_faults

from finetune_gateway.errors import GatewayError
from finetune_gateway.tokens.answer_survey import writes_calls
from finetune_gateway.tokens.chat_template import ChatTemplate

ANSWERS, FROM_TOKENS = 200, 10
NOT_READ = {"MiniMax-M3"}  # nested tags that leave out null and the types of what is in them


def templates() -> dict[str, Source]:
    """Return the templates by their text: some are in several archives."""
    found = list(sources.trl())
    for archive in (AXOLOTL, LLAMA_CPP):
        try:
            found += sources.downloaded(archive)
        except OSError as exc:
            print(exc)
    return {source.text: source for source in found}


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_calls_of_every_template_are_read_as_they_were_written() -> None:
    """Nested arguments, quotes, beyond ASCII, two calls, text beside; none of it in the text while
    it comes."""
    wrong: list[str] = []
    unread: set[str] = set()
    formats: dict[str, int] = {}
    for text, source in templates().items():
        name = source.name
        try:
            one = family(text)
        except GatewayError:
            continue  # no template for any conversation
        if not writes_calls(one.renderer, one.survey):
            continue
        if one.reader.format is None:
            unread.add(name)
            continue
        formats[one.reader.format.name] = formats.get(one.reader.format.name, 0) + 1
        for seed in range(ANSWERS):
            wrong += [f"{name}: {fault}" for fault in faults(one, seed, 1 if seed < 2 else 41)]
    read = sum(formats.values())
    print(f"of {read + len(unread)} templates that write calls {read} are read: {formats}")
    assert wrong == [] and unread <= NOT_READ


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_calls_are_read_from_the_very_tokens_that_are_trained(tmp_path: Path) -> None:
    """With the special tokens that the family publishes."""
    wrong: list[str] = []
    read = 0
    for number, source in enumerate(templates().values()):
        folder = folders.write_folder(tmp_path / str(number), source.text)
        try:
            template = ChatTemplate.load(folder)
        except GatewayError:
            continue
        if template.answers.format is None:
            continue
        read += 1
        for seed in range(FROM_TOKENS):
            wrong += [f"{source.name}: {fault}" for fault in token_faults(template, seed)]
    print(f"{read} templates are read from tokens")
    assert wrong == [] and read
