"""The part of ``BackendContract`` about what a Gateway was given: keys, a client."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn

import pytest

from finetune_gateway.backend import (
    AuthenticationError,
    Backend,
    BackendError,
    Settings,
    UnsupportedError,
)
from finetune_gateway.settings.client_options import ClientOptions
from finetune_gateway.testing.finished_job import FinishedJob
from finetune_gateway.testing.params import ParamsContract

NAMES = frozenset({"keys", "http_client", "proxy", "timeout"})


class Closed:
    """A client that sends nothing, and knows whether it was to send something."""

    def __init__(self) -> None:
        self.wanted = False

    @property
    def is_closed(self) -> bool:
        self.wanted = True
        return True

    def send(self, request: Any, **_: Any) -> NoReturn:
        raise ConnectionError("This client is closed.")


class GatewayOptionsContract(ParamsContract):
    """The tests of ``Backend.gateway_options``, for a hosted backend."""

    def _rebuild(self, backend: Backend, settings: Settings) -> Backend:
        """Return the backend as another process builds it."""
        raise NotImplementedError

    def _given(self, backend: Backend, settings: Settings, **given: Any) -> Backend:
        """Return the backend as a Gateway builds it that was given this."""
        return self._rebuild(backend, replace(settings, client=ClientOptions(**given)))

    def test_what_it_cannot_take_is_refused(self, backend: Backend, settings: Settings) -> None:
        """By a Gateway that was given it: in words, before anything is sent."""
        assert backend.gateway_options <= NAMES
        given = {"keys": {"x.example": "k"}, "http_client": Closed(), "proxy": "http://x.example"}
        if not backend.capabilities().hosted:
            pytest.skip("nothing leaves this machine")
        for name in given.keys() - backend.gateway_options:
            with pytest.raises(UnsupportedError, match=name) as error:
                self._given(backend, settings, **{name: given[name]})
            assert error.value.option == name

    def test_keys_are_those_of_its_gateway(
        self, backend: Backend, settings: Settings, finished: FinishedJob, secret: str
    ) -> None:
        """Not of the environment: another key is another account, and without one nothing is
        sent."""
        if not secret or "keys" not in backend.gateway_options:
            pytest.skip("it needs no key, or takes none of a Gateway")
        other = self._given(backend, settings, keys=lambda _: f"{secret}x")
        assert other.account() not in (None, backend.account())
        none = self._given(backend, settings, keys=lambda _: None)
        assert none.account() is None
        with pytest.raises(AuthenticationError):
            none.poll(finished.provider_id, None)

    def test_requests_go_by_the_client_of_its_gateway(
        self, backend: Backend, settings: Settings, finished: FinishedJob, secret: str
    ) -> None:
        """By no other: nothing is sent where that one is closed."""
        if "http_client" not in backend.gateway_options:
            pytest.skip("it takes no client of a Gateway")
        closed = Closed()
        cut = self._given(backend, settings, http_client=closed)
        with pytest.raises(BackendError):
            cut.poll(finished.provider_id, None)
        assert closed.wanted
