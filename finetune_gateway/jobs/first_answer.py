"""The first answer of a new model, which its host may still be starting.

tenacity is imported here, at the top: only a job that has succeeded needs this module.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import tenacity

from finetune_gateway.backend import NOT_DEPLOYED, Backend, ChatReply
from finetune_gateway.backend.seam import time_limit
from finetune_gateway.errors import BackendError, asked_wait
from finetune_gateway.jobs.handle import PROBE_TOKENS, ModelHandle
from finetune_gateway.settings.deadlines import Deadline, DeadlinePassed

# OpenAI's guide: a new model can answer "model not found" or time out for some minutes.
READY_SECONDS = 600.0


def first_answer(
    handle: ModelHandle, backend: Backend, longest_wait: Callable[[], float], deadline: Deadline
) -> ChatReply:
    """Chat once with the system prompt of the training data; retry while the provider is still
    starting the model. ``longest_wait``: returns how long the host may let us wait, in seconds.

    Raises BackendError, DeadlinePassed after the deadline: nobody waits for the answer any more.
    """
    first, longest = backend.capabilities().poll_seconds
    backoff = tenacity.wait_exponential(multiplier=first, exp_base=1.5, max=longest)
    jitter = tenacity.wait_random(0, first / 4)

    def wait(state: tenacity.RetryCallState) -> float:
        asked = asked_wait(state.outcome.exception() if state.outcome else None)
        return (asked or backoff(state)) + jitter(state)

    def may_be_starting(exc: BaseException) -> bool:
        asked = asked_wait(exc)
        return _may_be_starting(exc) and (not asked or asked <= longest_wait())

    def sleep(seconds: float) -> None:
        deadline.sleep(seconds)
        if deadline.over:
            raise DeadlinePassed

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_be_starting),
        wait=wait,
        sleep=sleep,
        stop=tenacity.stop_after_delay(READY_SECONDS),
        reraise=True,
    )
    ask = partial(handle.chat, "Hello.", max_tokens=PROBE_TOKENS)
    with time_limit(READY_SECONDS):
        reply: ChatReply = retrying(ask)
    return reply


def _may_be_starting(exc: BaseException) -> bool:
    """Return True for errors that a new model gives for some minutes, 404 among them."""
    if not isinstance(exc, BackendError) or exc.code == NOT_DEPLOYED:
        return False
    return exc.status_code == 404 or exc.retryable or exc.maybe_applied
