"""A Gateway as something that is opened and closed: a home folder, and a way to its hosts."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

from finetune_gateway import registry
from finetune_gateway.errors import SpecError, shown
from finetune_gateway.jobs.home_backends import Configured, HomeBackends
from finetune_gateway.jobs.store import Store
from finetune_gateway.model import exact_methods
from finetune_gateway.settings.client_options import (
    AMBIENT,
    ClientOptions,
    HttpClient,
    Keys,
    closed,
    stays_here,
)
from finetune_gateway.settings.home import Settings


@exact_methods
class OpenHome:
    """Opens a home folder; what it shares with another one of this process are tables that nobody
    writes."""

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        *,
        monthly_usd: Decimal | float | None = None,
        backends: Configured | None = None,
        keys: Keys | None = None,
        http_client: HttpClient | None = None,
        proxy: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Open a home folder.

        Arguments:
            home: The folder with its jobs, by default FTG_HOME.
            monthly_usd: What all jobs of a month may cost, by default ``budget.monthly_usd`` of the
                settings.
            backends: Backends by name: an object, or a dict of what the backend of that name is
                built with.
            keys: Keys by the name of a host, of a backend or of a variable; or a function that is
                called with a KeyRequest, for each request, and returns a key or None. Then the
                environment is not read. No key is stored.
            http_client: An httpx2.Client that sends all requests to hosts. You close it.
            proxy: Address of the proxy to hosts; by default as the environment says.
            timeout: Seconds in which a host may send nothing: of backends that are named, and of
                jobs that are opened. A backend object has its own.

        Raises SpecError for what can be none of these, NotFoundError for a backend that is not
        there.
        """
        given = (keys, http_client, proxy, timeout)
        if backends is not None and not isinstance(backends, Mapping):
            raise SpecError(
                f"backends is a mapping of names to backends, not {shown(backends)}.",
                hint="Like backends={'gpu': OpenAIBackend(base_url=...)}.",
            )
        options = ClientOptions(*given) if any(one is not None for one in given) else AMBIENT
        options.checked({*registry.names(), *(backends or {})} if keys is not None else ())
        self._settings = replace(Settings.load(home), client=options)
        self._monthly_usd = monthly_usd
        self._backends = HomeBackends(self._settings, backends)
        self._opening = threading.Lock()
        self._opened: Store | None = None
        self._closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        raise stays_here()

    @property
    def settings(self) -> Settings:
        """The home folder. Raises SpecError once this is closed."""
        if self._closed:
            raise closed()
        return self._settings

    @property
    def store(self) -> Store:
        """Opened on first use: ``validate`` and ``estimate`` write nothing."""
        with self._opening:
            if self._opened is None:
                self._opened = Store(self.settings)
            return self._opened

    def use(
        self,
        *,
        monthly_usd: Decimal | float | None = None,
        backends: Configured | None = None,
        keys: Keys | None = None,
        http_client: HttpClient | None = None,
        proxy: str | None = None,
        timeout: float | None = None,
    ) -> Self:
        """Return another Gateway of the same home, with other keys or time-outs; what is left out
        is as it is here. Each is closed by itself. A key that a backend object was built with stays
        its own."""
        here = self.settings.client
        sent_by = (here.http_client, here.proxy)
        if http_client is not None or proxy is not None:
            sent_by = (http_client, proxy)
        return type(self)(
            self.settings.home,
            monthly_usd=self._monthly_usd if monthly_usd is None else monthly_usd,
            backends=self._backends.configured if backends is None else backends,
            keys=here.keys if keys is None else keys,
            http_client=sent_by[0],
            proxy=sent_by[1],
            timeout=here.timeout if timeout is None else timeout,
        )

    def close(self) -> None:
        """Close the connections to hosts and the store. Whatever is asked of this Gateway or its
        jobs later raises SpecError; jobs go on where they run. A client that you gave stays
        open."""
        self._closed = True
        if self._settings.client is not AMBIENT:
            self._settings.client.ended.set()
        self._backends.close()
        if self._opened is not None:
            self._opened.end_use()

    def __enter__(self) -> Self:
        self.settings  # noqa: B018 - raises if it is closed
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
