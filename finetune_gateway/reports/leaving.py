"""The one line below a screen that shows the day on which OpenAI's fine-tuning ends."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import cache

from finetune_gateway.estimation.profiles import load_profile
from finetune_gateway.reports.output import print_message

PAGE = "docs/leaving-openai.md"
LINE = f"Leaving OpenAI in time: ftg migrate; {PAGE}"


def point_out_leaving(text: str, *, quiet: bool = False) -> None:
    """Print where to read on, on stderr, if a text shows one of those days."""
    if shows_the_end(text):
        print_message(LINE, quiet=quiet)


def shows_the_end(text: str) -> bool:
    """Return True if a text has the day on which jobs or models end at OpenAI, or the last one on
    which jobs can be created."""
    return any(day in text for day in _days())


@cache
def _days() -> tuple[str, ...]:
    return tuple(_read_days())


def _read_days() -> Iterator[str]:
    openai = load_profile("openai")
    if openai.no_new_jobs_from is None:
        return
    yield str(openai.no_new_jobs_from)
    yield str(openai.no_new_jobs_from - timedelta(days=1))
    # Models that were shut down before are no reason to leave.
    retired = {row.retires_on for row in openai.models if row.retires_on}
    yield from sorted(str(day) for day in retired if day >= openai.no_new_jobs_from)
