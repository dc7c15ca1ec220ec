"""Writes the lines of a folder of requests: see ``requests``, which reads them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from finetune_gateway.errors import BackendError, GatewayError
from finetune_gateway.jobs.journal import Journal, read_lines
from finetune_gateway.jobs.requests import ANSWERS, ERRORS, REQUESTS
from finetune_gateway.text.cleaning import visible

Json = dict[str, Any]
GATHER = 0.2  # seconds for which answers wait for others before they are put on the disk


@dataclass
class Lines:
    """The journals of a folder. ``rows``: the fingerprint of the prompt of each request, by its id.
    ``marks``: what stands in each line: the charge, and whose run it is."""

    folder: Path
    rows: Mapping[str, str]
    marks: Json
    _attempts: dict[str, int] = field(default_factory=dict)  # of earlier processes
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        for line in read_lines(self.folder / REQUESTS):
            self._attempts[line["id"]] = line["attempt"]
        enter = self._stack.enter_context
        self.requests = enter(Journal(self.folder / REQUESTS))
        # An answer that a power cut takes is asked again: not worth an fsync for each.
        self.answers = enter(Journal(self.folder / ANSWERS, GATHER))
        self.errors = enter(Journal(self.folder / ERRORS, GATHER))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def sent(self, key: str, attempt: int, usd: Decimal | None) -> None:
        """Write down a request, before it is sent. ``attempt``: of this process, from 1."""
        self.requests.write(self._line(key, attempt, usd))

    def answered(self, key: str, attempt: int, usd: Decimal | None, answer: Json) -> None:
        """Write down an answer, as ``answer_fields`` has it."""
        self.answers.write({**self._head(key, attempt, usd), **answer})

    def failed(
        self,
        key: str,
        attempt: int,
        usd: Decimal | None,
        error: GatewayError,
        *,
        again: bool = False,
        retryable: bool = False,
    ) -> None:
        """Write down an error. ``again``: it is asked once more by this process; ``retryable``: by
        the next one."""
        said = {"again": again, "retryable": retryable, "message": visible(error.message)}
        if isinstance(error, BackendError):
            said |= {"status": error.status_code, "code": error.code}
        self.errors.write({**self._head(key, attempt, usd), **said})

    def sync(self) -> None:
        """Put all lines on the disk. Raises StoreError."""
        for journal in (self.requests, self.answers, self.errors):
            journal.sync()

    def _head(self, key: str, attempt: int, usd: Decimal | None) -> Json:
        line = self._line(key, attempt, usd)
        return {**line, "row": self.rows[key], "sample": int(key.rpartition("-")[2])}

    def _line(self, key: str, attempt: int, usd: Decimal | None) -> Json:
        number = self._attempts.get(key, 0) + attempt  # those of earlier processes counted
        money = None if usd is None else f"{usd:f}"
        return {"id": key, "attempt": number, **self.marks, "usd": money, "at": time.time()}
