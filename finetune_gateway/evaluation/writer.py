"""Writes down each request of a run before it is sent, and each end after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

from finetune_gateway.backends.openai import wire
from finetune_gateway.backends.openai.async_chat import Answer
from finetune_gateway.errors import BackendError
from finetune_gateway.evaluation import asking
from finetune_gateway.evaluation.asking import Question
from finetune_gateway.evaluation.journal import Journal, read_lines
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.evaluation.recording import ANSWERS, ERRORS, REQUESTS
from finetune_gateway.evaluation.work import Work
from finetune_gateway.jobs.budget import ZERO, dollars
from finetune_gateway.jobs.charges import Charge
from finetune_gateway.text.cleaning import visible

Json = dict[str, Any]
GATHER = 0.2  # seconds for which answers wait for others before they are put on the disk
OnProgress = Callable[[int, int], object]  # called with the requests that are done, and all


@dataclass
class Writer:
    """Writes down each request before it is sent and each end after it, and watches the money."""

    work: Work
    charge: Charge
    prompts: dict[str, Prompt]  # by the id of the request
    done: int  # requests of the recording that have ended
    on_progress: OnProgress | None = None
    asked: int = 0
    answers: int = 0
    errors: int = 0
    stopped: str = ""
    spent: Decimal = ZERO
    on_the_way: Decimal = ZERO
    _attempts: dict[str, int] = field(default_factory=dict)  # of earlier processes
    _freed: asyncio.Event = field(default_factory=asyncio.Event)  # something has ended
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        folder = self.work.recording.folder
        for line in read_lines(folder / REQUESTS):
            self._attempts[line["id"]] = line["attempt"]
        enter = self._stack.enter_context
        self._requests = enter(Journal(folder / REQUESTS))
        # An answer that a power cut takes is asked again: not worth an fsync for each.
        self._answers = enter(Journal(folder / ANSWERS, GATHER))
        self._errors = enter(Journal(folder / ERRORS, GATHER))
        self._limit = self.work.stop_at(self.charge.cost)
        self._all = len(self.work.prompts) * self.work.recording.about.samples
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    async def sending(self, question: Question, attempt: int) -> bool:
        """Write down a request; False if it could pass the limit."""
        most = self._most(question)
        if not await self._has_room(most):
            return False
        self.on_the_way += most
        self.asked += attempt == 1
        line = {
            "id": question.id,
            "attempt": self._number(question, attempt),
            "charge": self.charge.id,
            "usd": self._usd(most),
            "at": time.time(),
        }
        self._requests.write(line)
        await self._requests.flushed()
        return True

    async def _has_room(self, most: Decimal) -> bool:
        """Return True once a request fits below the limit: what is on its way counts at its most,
        and mostly ends at less. False if it does not fit with nothing on its way."""
        if self._limit is None:
            return True
        while self.spent + self.on_the_way + most > self._limit:
            if self.stopped or not self.on_the_way:
                self.stopped = (
                    f"the next request could pass the limit of {dollars(self._limit)} USD"
                )
                self._freed.set()
                return False
            self._freed.clear()
            await self._freed.wait()
        return True

    async def answered(self, question: Question, attempt: int, answer: Answer) -> None:
        """Write down an answer."""
        most = self._most(question)
        usage = wire.object_of(answer.body.get("usage"))
        usd = self.work.costing.prices.of_usage(usage, most)
        self._count(most, usd)
        line = {
            **self._head(question, attempt, usd),
            **answer_fields(answer.body),
            "seconds": round(answer.seconds, 4),
        }
        self._answers.write(line)
        self._answers.flush_soon()
        self.answers += 1
        self._ended()

    async def failed(
        self, question: Question, attempt: int, error: BackendError, *, again: bool
    ) -> None:
        """Write down an error, with what the request may have cost all the same."""
        most = self._most(question)
        usd = most if error.maybe_applied else ZERO
        self._count(most, usd)
        line = {
            **self._head(question, attempt, usd),
            "again": again,
            "retryable": error.retryable or asking.is_for_all(error, question),
            "status": error.status_code,
            "code": error.code,
            "message": visible(error.message),
        }
        self._errors.write(line)
        self._errors.flush_soon()
        if not again:
            self.errors += 1
            self._ended()

    def _head(self, question: Question, attempt: int, usd: Decimal | None) -> Json:
        return {
            "id": question.id,
            "row": self.prompts[question.id].id,
            "sample": int(question.id.rpartition("-")[2]),
            "attempt": self._number(question, attempt),
            "charge": self.charge.id,
            "usd": self._usd(usd),
            "at": time.time(),
        }

    def _number(self, question: Question, attempt: int) -> int:
        """Return which attempt this is, those of earlier processes counted."""
        return self._attempts.get(question.id, 0) + attempt

    def _most(self, question: Question) -> Decimal:
        return self.work.costing.most(self.prompts[question.id]) or ZERO

    def _usd(self, usd: Decimal | None) -> str | None:
        known = self.work.costing.prices.known and usd is not None
        return f"{usd:f}" if known else None

    def _count(self, most: Decimal, usd: Decimal | None) -> None:
        self.on_the_way -= most
        self.spent += usd or ZERO
        self._freed.set()

    def _ended(self) -> None:
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(self.done, self._all)


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
