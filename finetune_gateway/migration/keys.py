"""One key of a host in a long run: its pace, its patience, and what it was refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import tenacity

from finetune_gateway.backends.openai import archive, bounds, inventory, retries, wire
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.backends.openai.pacing import OnWait, Pace
from finetune_gateway.errors import BackendError
from finetune_gateway.settings import config
from finetune_gateway.settings.home import Settings

ROUNDS = 3  # of the three attempts that each request has
LONGEST_WAIT = 3600.0  # seconds that a host may let us wait
FAILURES = 3  # in a row: then the host is left alone
SETTING = "hosts.longest_wait_seconds"
# What a key is refused as such, and not for one file: not asked again with it.
FOR_GOOD = frozenset(("scope", "free_account"))

T = TypeVar("T")


class HostFails(Exception):
    """A host has failed several times in a row. ``error``: the last time."""

    def __init__(self, error: BackendError) -> None:
        super().__init__(str(error))
        self.error = error


class Key:
    """One key of a host. ``refused``: what it was refused as such, with why."""

    def __init__(
        self, host: OpenAIBackend, settings: Settings, on_wait: OnWait | None = None
    ) -> None:
        self.host = host
        self.variable = host.api_key_env
        self.account = host.account() or ""
        self.refused: dict[str, BackendError] = {}
        set_ = config.current_value(settings, SETTING, host.longest_wait)
        self._longest = LONGEST_WAIT if set_.amount is None else float(set_.amount)
        self.pace = Pace(self._longest, on_wait)
        self._files: dict[str, wire.Json] | None = None
        self._failures = 0

    def ask(self, what: str, call: Callable[[], T]) -> T:
        """Return what a call gives, which is repeated while that may help.

        ``what``: a kind of thing; once the key is refused this kind as such, it is not sent again
        in this run. Raises BackendError, and HostFails for one time too many.
        """
        if known := self.refused.get(what):
            raise known
        try:
            with bounds.paced(self.pace):
                given = self._patiently(call)
        except BackendError as exc:
            self._take_note(what, exc)
            raise
        self._failures = 0
        return given

    def _take_note(self, what: str, error: BackendError) -> None:
        refusal = archive.refusal_of(error)
        if refusal in FOR_GOOD or (refusal == "key" and error.status_code != 403):
            self.refused[what] = error
        self._failures = 0 if refusal else self._failures + 1
        if self._failures >= FAILURES:
            raise HostFails(error)

    def _patiently(self, call: Callable[[], T]) -> T:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_pass),
            wait=lambda state: retries.BACKOFF(state),
            stop=tenacity.stop_after_attempt(ROUNDS),
            reraise=True,
        )
        return retrying(call)

    def _may_pass(self, exc: BaseException) -> bool:
        """Return True for an error that may be over soon, or when the host says."""
        if not isinstance(exc, BackendError) or archive.refusal_of(exc) is not None:
            return False
        return exc.retryable and (exc.retry_after or 0.0) <= self._longest

    def files(self) -> dict[str, wire.Json]:
        """Return the files that this key sees, by their ids; empty where it may not list them. They
        are listed once."""
        if self._files is None:
            try:
                listed, _ = self.ask("files", lambda: inventory.files(self.host))
            except BackendError:
                listed = []
            self._files = {file_id: one for one in listed if (file_id := wire.usable_id(one))}
        return self._files
