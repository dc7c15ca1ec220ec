"""Retries of calls that may be repeated: reads, cancel, chat. Creates and uploads are sent once.

The SDK's own retries are off. They repeat creates too, and sleep up to 120 s if the host asks for
it; our calls are short, and the caller, who learns how long the host asks to wait, polls again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
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

from finetune_gateway.backends.openai.bounds import Endless
from finetune_gateway.text import logs

ATTEMPTS = 3
LONGEST_WAIT = 5.0  # seconds; a host that asks for more gets no retry within a call
LONGEST_ASKED = 604_800.0  # seconds, a week: more is no answer
NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
# What a host answers that does not do what a job was asked to.
REFUSALS = (openai.BadRequestError, openai.ConflictError, openai.UnprocessableEntityError)
BACKOFF = wait_exponential(multiplier=0.5, max=LONGEST_WAIT) + wait_random(0, 0.25)

T = TypeVar("T")


def retried(
    function: Callable[..., T], *args: Any, longest: float = LONGEST_WAIT, **kwargs: Any
) -> T:
    """Call a function of the SDK, at most three times. Raises what the last attempt raised.

    ``longest``: a host that asks to wait more seconds than this gets no retry.
    """
    retrying = Retrying(
        retry=retry_if_exception(lambda exc: _is_retryable(exc, longest)),
        wait=_wait,
        stop=stop_after_attempt(ATTEMPTS),
        before_sleep=_log,
        reraise=True,
    )
    return retrying(function, *args, **kwargs)


def _is_retryable(exc: BaseException, longest: float) -> bool:
    """Return True for a lost connection, a time-out, 408, 409, 429 and 5xx, as the SDK does, and
    for 420 and 425."""
    if not isinstance(exc, openai.APIStatusError):
        endless = isinstance(exc.__cause__, Endless)
        return isinstance(exc, openai.APIConnectionError) and not endless
    headers = exc.response.headers
    asked = asked_wait(headers)
    if asked is None and headers.get("retry-after"):
        return False
    if asked is not None and asked > longest:
        return False
    advice = headers.get("x-should-retry")
    if advice in ("true", "false"):
        return advice == "true"
    return exc.status_code in (408, 409, 420, 425, 429) or exc.status_code >= 500


def _log(state: RetryCallState) -> None:
    """Write why a request is sent again, by the kind of the error alone."""
    exc = state.outcome.exception() if state.outcome else None
    seconds = state.next_action.sleep if state.next_action else 0.0
    why = exc.status_code if isinstance(exc, openai.APIStatusError) else type(exc).__name__
    logs.requests.debug("attempt %d: %s; again in %.2f s", state.attempt_number, why, seconds)


def _wait(state: RetryCallState) -> float:
    """Return the seconds that the host asks for, else an exponential wait with jitter."""
    exc = state.outcome.exception() if state.outcome else None
    asked = asked_wait(exc.response.headers) if isinstance(exc, openai.APIStatusError) else None
    return BACKOFF(state) if asked is None else asked


def backoff(attempt: int) -> float:
    """Return the seconds to wait after the n-th attempt, from 1, where the host does not say."""
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    return BACKOFF(state)


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a host asks to wait, by ``retry-after-ms`` or ``Retry-After`` as
    seconds or as a date. None for nothing, for nonsense, for what is past, for over a week."""
    milliseconds = _number(headers.get("retry-after-ms"))
    text = headers.get("retry-after")
    if milliseconds is not None:
        seconds: float | None = milliseconds / 1000
    else:
        seconds = _number(text) if _number(text) is not None else _until(text, headers)
    return seconds if seconds is not None and seconds <= LONGEST_ASKED else None


def _number(text: str | None) -> float | None:
    return float(text) if text and NUMBER.fullmatch(text) else None


def _until(text: str | None, headers: Mapping[str, str]) -> float | None:
    """Return the seconds to a date, from the host's own time: its clock may differ from ours."""
    then = _date(text)
    now = _date(headers.get("date")) or time.time()
    return then - now if then is not None and then > now else None


def _date(text: str | None) -> float | None:
    if not text:
        return None
    try:
        then = parsedate_to_datetime(text)
        return (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
