"""Retries of calls that may be repeated: reads, cancel, chat. Creates and uploads are sent once.

The SDK's own retries are off. They repeat creates too, and sleep up to 120 s if the host asks for
it; our calls are short, and the caller polls again anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import openai
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

ATTEMPTS = 3
LONGEST_WAIT = 5.0  # seconds; a host that asks for more gets no retry
BACKOFF = wait_exponential(multiplier=0.5, max=LONGEST_WAIT) + wait_random(0, 0.25)

T = TypeVar("T")


def retried(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function of the SDK, at most three times. Raises what the last attempt raised."""
    return RETRYING(function, *args, **kwargs)


def _is_retryable(exc: BaseException) -> bool:
    """Return True for a lost connection, a time-out, 408, 409, 429 and 5xx, as the SDK does."""
    if not isinstance(exc, openai.APIStatusError):
        return isinstance(exc, openai.APIConnectionError)
    headers = exc.response.headers
    if headers.get("retry-after") and _seconds(headers["retry-after"]) is None:
        return False
    advice = headers.get("x-should-retry")
    if advice in ("true", "false"):
        return advice == "true"
    return exc.status_code in (408, 409, 429) or exc.status_code >= 500


def _seconds(wait: str) -> float | None:
    """Return the seconds of a Retry-After; None for a date, for a long wait and for nonsense."""
    short = wait.isascii() and wait.isdigit() and len(wait) < 9 and int(wait) <= LONGEST_WAIT
    return float(wait) if short else None


def _wait(state: RetryCallState) -> float:
    """Return the seconds that the host asks for, else an exponential wait with jitter."""
    exc = state.outcome.exception() if state.outcome else None
    wait = exc.response.headers.get("retry-after") if isinstance(exc, openai.APIStatusError) else ""
    seconds = _seconds(wait or "")
    return BACKOFF(state) if seconds is None else seconds


RETRYING = Retrying(
    retry=retry_if_exception(_is_retryable),
    wait=_wait,
    stop=stop_after_attempt(ATTEMPTS),
    reraise=True,
)
