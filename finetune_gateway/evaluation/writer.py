"""Writes down each request of a run before it is sent, and each end after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from finetune_gateway.backends.openai import wire
from finetune_gateway.backends.openai.async_chat import Answer
from finetune_gateway.errors import BackendError
from finetune_gateway.evaluation import asking
from finetune_gateway.evaluation.asking import Question
from finetune_gateway.evaluation.costing import Costing
from finetune_gateway.evaluation.limits import Limit
from finetune_gateway.evaluation.lines import Lines
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.jobs.budget import ZERO

Json = dict[str, Any]
OnProgress = Callable[[int, int], object]  # called with the requests that are done, and all


@dataclass
class Writer:
    """Writes down each request before it is sent and each end after it, and watches the money.

    ``limit``: shared by all who may spend it. ``done``: requests that have ended, of ``all``.
    """

    lines: Lines
    costing: Costing
    limit: Limit
    prompts: dict[str, Prompt]  # by the id of the request
    done: int = 0
    all: int = 0
    on_progress: OnProgress | None = None
    asked: int = 0
    answers: int = 0
    errors: int = 0
    spent: Decimal = ZERO

    def __enter__(self) -> Self:
        self.lines.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.lines.__exit__(*exc)

    async def sending(self, question: Question, attempt: int) -> bool:
        """Write down a request; False if it could pass the limit."""
        most = self._most(question)
        if not await self.limit.take(most):
            return False
        self.asked += attempt == 1
        self.lines.sent(question.id, attempt, self._known(most))
        await self.lines.requests.flushed()
        return True

    async def answered(self, question: Question, attempt: int, answer: Answer) -> None:
        """Write down an answer."""
        most = self._most(question)
        usage = wire.object_of(answer.body.get("usage"))
        usd = self.costing.prices.of_usage(usage, most)
        self._count(most, usd)
        said = {**answer_fields(answer.body), "seconds": round(answer.seconds, 4)}
        if answer.first_seconds is not None:
            said["first_seconds"] = round(answer.first_seconds, 4)
        self.lines.answered(question.id, attempt, self._known(usd), said)
        self.lines.answers.flush_soon()
        self.answers += 1
        self._ended()

    async def failed(
        self, question: Question, attempt: int, error: BackendError, *, again: bool
    ) -> None:
        """Write down an error, with what the request may have cost all the same."""
        most = self._most(question)
        usd = most if error.maybe_applied else ZERO
        self._count(most, usd)
        retryable = error.retryable or asking.is_for_all(error, question)
        self.lines.failed(
            question.id, attempt, self._known(usd), error, again=again, retryable=retryable
        )
        self.lines.errors.flush_soon()
        if not again:
            self.errors += 1
            self._ended()

    def _most(self, question: Question) -> Decimal:
        return self.costing.most(self.prompts[question.id]) or ZERO

    def _known(self, usd: Decimal | None) -> Decimal | None:
        return usd if self.costing.prices.known else None

    def _count(self, most: Decimal, usd: Decimal | None) -> None:
        self.limit.end(most, usd)
        self.spent += usd or ZERO

    def _ended(self) -> None:
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(self.done, self.all)


def answer_fields(body: Json) -> Json:
    """Return what is kept of a host's answer: its first choice, usage and marks of the system."""
    choice = wire.object_of(wire.list_of(body.get("choices"))[0])
    return {
        "message": wire.object_of(choice.get("message")),
        "finish_reason": wire.text_of(choice.get("finish_reason")),
        "logprobs": choice.get("logprobs") if isinstance(choice.get("logprobs"), dict) else None,
        "usage": wire.object_of(body.get("usage")),
        "system_fingerprint": wire.text_of(body.get("system_fingerprint")),
        "model": wire.text_of(body.get("model")),
        "response_id": wire.text_of(body.get("id")),
    }
