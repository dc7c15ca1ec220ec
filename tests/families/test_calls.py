"""Calls of all chat templates at hand, 200 made up ones each: those of TRL's wheel, and others that
lie below ``build/families``. Prints how many are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.answers import family, faults, trl_folder

from finetune_gateway.errors import GatewayError
from finetune_gateway.tokens.answer_survey import writes_calls

DOWNLOADED = Path(__file__).parents[2] / "build" / "families"
ANSWERS = 200
NOT_READ = {"MiniMax-M3"}  # nested tags that leave out null and the types of what is in them


def templates() -> dict[str, str]:
    """Return the names of all templates by their text: some are in several archives."""
    paths = [*trl_folder().glob("*.jinja"), *DOWNLOADED.rglob("*.jinja")]
    return {
        path.read_text(encoding="utf-8"): path.stem
        for path in sorted(paths)
        if not path.stem.endswith("_training")
    }


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_calls_of_every_template_are_read_as_they_were_written() -> None:
    """Nested arguments, quotes, beyond ASCII, two calls, text beside; none of it in the text while
    it comes."""
    wrong: list[str] = []
    unread: set[str] = set()
    formats: dict[str, int] = {}
    for text, name in templates().items():
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
