"""Azure's management plane: deployments of tuned models, and which models a subscription has.

Another API than training, with another token, which goes to one address alone: no variable and no
file can send it elsewhere. Knows nothing of jobs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx

from finetune_gateway.backends.openai import azure_errors, azure_token
from finetune_gateway.backends.openai.wire import object_of, text_of
from finetune_gateway.errors import BackendError, SpecError, raise_alone
from finetune_gateway.settings.network import is_loopback, proxy_for, whole_answer
from finetune_gateway.text import logs
from finetune_gateway.text.cleaning import visible

ADDRESS = "https://management.azure.com"
API_VERSION = "2024-10-01"
TIMEOUT = 60.0  # seconds
POLL_SECONDS = 5.0
LONGEST_WAIT = 3600.0  # seconds, for a deployment to be made
LONGEST_END = 300.0  # seconds, for one to be deleted
MOST_PAGES = 50
# What the plane calls a state -> what Microsoft's pages call it. Its two words for models that are
# on their way out mean one step more than they say.
STATES = {
    "Preview": "preview",
    "GenerallyAvailable": "open",
    "Stable": "open",
    "Legacy": "legacy",
    "Deprecating": "deprecated",
    "Deprecated": "retired",
}
State = Literal["preview", "open", "legacy", "deprecated", "retired", "unknown"]

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_GROUP = re.compile(r"[\w().-]{1,90}")
_SUBSCRIPTION = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True)
class Account:
    """A resource of Azure OpenAI or Foundry. Raises SpecError for a name that there cannot be."""

    subscription: str
    resource_group: str
    name: str

    def __post_init__(self) -> None:
        for option, value, pattern in (
            ("subscription", self.subscription, _SUBSCRIPTION),
            ("resource-group", self.resource_group, _GROUP),
            ("account", self.name, _NAME),
        ):
            if not pattern.fullmatch(value):
                raise SpecError(
                    f"--{option} {visible(value)!r} cannot be the name of one.",
                    hint="See: az cognitiveservices account list --output table; az account show",
                )

    @property
    def id(self) -> str:
        """Its id, which is its path too."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.CognitiveServices/accounts/{self.name}"
        )


@dataclass(frozen=True)
class Deployment:
    """A deployment as the plane shows it. ``state``: Succeeded, Failed, Canceled, or what else it
    says while it is made."""

    name: str
    model: str
    sku: str
    capacity: int | None
    state: str
    reason: str = ""

    @property
    def ended(self) -> bool:
        """True if its state will not change by itself."""
        return self.state in ("Succeeded", "Failed", "Canceled")


@dataclass(frozen=True)
class ModelFacts:
    """What a subscription is shown of one version of a model in one region."""

    model: str
    version: str
    state: State
    said: str  # the plane's own word for the state
    fine_tunes: bool | None  # None: it does not say
    fine_tune_until: date | None  # training of it ends on this day
    inference_until: date | None
    planned: str  # Planned or Tentative, of these dates; empty: it does not say


class Management:
    """The management plane, for whoever is signed in.

    ``address`` and ``token`` are for tests: the token of whoever is signed in goes to Azure's own
    address alone.
    """

    def __init__(
        self,
        *,
        address: str = ADDRESS,
        token: Callable[[], str] | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        parts = urlsplit(address)
        here = is_loopback(parts.hostname or "")
        if address != ADDRESS and (token is None or not here):
            raise SpecError(
                f"The management plane is at {ADDRESS}; its tokens go nowhere else.",
                hint="Leave address out.",
            )
        self._address = address
        self._token = token or azure_token.signed_in
        self._poll_seconds = poll_seconds

    # -- deployments -----------------------------------------------------------------------------

    def deploy(
        self, account: Account, name: str, model: str, *, sku: str = "Standard", capacity: int = 1
    ) -> Deployment:
        """Ask for a deployment of a model and return it as it is now; see ``wait``.

        Asking again for the same is harmless: its name is its identity. Raises SpecError for a name
        that has another model or is of another kind, BackendError.
        """
        check_deployment(name, capacity)
        there = self.find(account, name)
        if there is not None and (there.model, there.sku.lower()) != (model, sku.lower()):
            raise SpecError(
                f"{name} is a deployment of {visible(there.model)}, {visible(there.sku)}, which "
                "would be replaced.",
                hint="Choose another (--name NAME), or end that one first (--delete).",
            )
        if there is not None and there.state not in ("Failed", "Canceled"):
            return there
        body = {
            "sku": {"name": sku, "capacity": capacity},
            "properties": {"model": {"format": "OpenAI", "name": model, "version": "1"}},
        }
        answer = self._ask("make the deployment", "PUT", _path(account, name), body)
        return _deployment(answer, name)

    def find(self, account: Account, name: str) -> Deployment | None:
        """Return a deployment; None if there is none of this name. Raises BackendError."""
        try:
            answer = self._ask("look for the deployment", "GET", _path(account, name))
        except BackendError as exc:
            if exc.status_code == 404 and exc.not_there:
                return None
            raise
        return _deployment(answer, name)

    def wait(
        self,
        account: Account,
        name: str,
        model: str,
        *,
        longest: float = LONGEST_WAIT,
        on_state: Callable[[str], object] = lambda state: None,
    ) -> Deployment:
        """Return a deployment of a model once it has been made. ``on_state`` is called with each
        state that is new. Raises BackendError if it fails, is gone, or takes longer than this
        (seconds); SpecError if it has come to be of another model."""
        deadline, last = time.monotonic() + longest, ""
        while True:
            found = self._look(account, name, deadline)
            _require_model(found, model)
            if found.state != last:
                on_state(visible(found.state))
            last = found.state
            if found.ended or time.monotonic() >= deadline:
                break
            time.sleep(self._poll_seconds)
        if found.state != "Succeeded":
            raise azure_errors.not_made(found.name, found.state, found.reason)
        return found

    def _look(self, account: Account, name: str, deadline: float) -> Deployment:
        """Return a deployment, also past answers that are lost or say to come back. Raises
        BackendError."""
        while True:
            try:
                found = self.find(account, name)
            except BackendError as exc:
                pause = max(exc.retry_after or 0.0, self._poll_seconds)
                if not exc.retryable or time.monotonic() + pause >= deadline:
                    raise
                time.sleep(pause)
                continue
            if found is None:
                raise BackendError(f"The deployment {name} is gone.", backend="azure")
            return found

    def delete(self, account: Account, name: str, model: str) -> bool:
        """End a deployment of a model, which stays, and wait until it is gone. Return False if
        there was none. Raises BackendError; SpecError for a deployment of another model, which
        stays too."""
        there = self.find(account, name)
        if there is None:
            return False
        _require_model(there, model)
        self._ask("delete the deployment", "DELETE", _path(account, name))
        self._require_end(account, name)
        return True

    def _require_end(self, account: Account, name: str) -> None:
        """Return once a deployment is gone: a delete that was taken (202) may fail afterwards.
        Raises BackendError if it is still there after a while."""
        deadline = time.monotonic() + LONGEST_END
        while self.find(account, name) is not None:
            if time.monotonic() >= deadline:
                raise BackendError(
                    f"The deployment {name} is still there, and may cost: Azure took the request "
                    "to delete it, and has not done so.",
                    hint=azure_errors.AGAIN_END,
                    backend="azure",
                )
            time.sleep(self._poll_seconds)

    # -- models ----------------------------------------------------------------------------------

    def models(self, subscription: str, region: str) -> list[ModelFacts]:
        """Return the models that this subscription is shown in a region, as ``eastus2``. Raises
        BackendError, SpecError for a subscription or a region that there cannot be."""
        if not _SUBSCRIPTION.fullmatch(subscription) or not re.fullmatch("[a-z0-9]+", region):
            raise SpecError(
                "A subscription is an id like 00000000-0000-0000-0000-000000000000, and a region a "
                "name like eastus2.",
                hint="See: az account show; az account list-locations --output table",
            )
        path = (
            f"/subscriptions/{subscription}/providers/Microsoft.CognitiveServices/locations"
            f"/{region}/models"
        )
        return [facts for one in self._pages(path) if (facts := _facts(one))]

    def _pages(self, path: str) -> Iterator[Any]:
        """Yield the entries of a list. Raises BackendError for a page beyond our address."""
        for _ in range(MOST_PAGES):
            answer = self._ask(azure_errors.LIST_MODELS, "GET", path)
            entries = answer.get("value")
            yield from entries if isinstance(entries, list) else []
            following = text_of(answer.get("nextLink"))
            if not following:
                return
            if not following.startswith(f"{self._address}/"):
                raise azure_errors.foreign_page(following)
            path = following.removeprefix(self._address)
        raise BackendError("The list of models has no end.", backend="azure")

    # -- one call --------------------------------------------------------------------------------

    def _ask(
        self, what: str, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the JSON of an answer. Redirects are not followed: they would get the token."""
        url = f"{self._address}{path}"
        url += "" if "api-version=" in path else f"?api-version={API_VERSION}"
        token = self._token()
        proxy = proxy_for(url)
        try:
            way = httpx.HTTPTransport(proxy=proxy.usable_url if proxy else None)
            with (
                logs.request(method, url, token) as exchange,
                httpx.Client(transport=way, timeout=TIMEOUT, follow_redirects=False) as client,
                client.stream(
                    method, url, json=body, headers={"Authorization": f"Bearer {token}"}
                ) as answer,
            ):
                exchange.answered(answer.status_code, answer.headers)
                raw = whole_answer(answer.iter_bytes())
        except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as exc:
            # Not chained: its request holds the token.
            raise_alone(azure_errors.no_answer(what, method, exc, token, proxy))
        if not answer.is_success:
            raise azure_errors.refused(what, method, answer.status_code, raw, answer.headers, token)
        return azure_errors.decoded(what, raw, token)


def check_deployment(name: str, capacity: int) -> None:
    """Raise SpecError for what no deployment of a tuned model can have."""
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"--name {visible(name)!r} cannot be the name of a deployment.",
            hint="Use up to 64 letters, digits, dots, - and _, with a letter or a digit at both "
            "ends.",
        )
    if capacity < 1:
        raise SpecError(f"--capacity {capacity} is too small.", hint="Use 1 or more.")


def _require_model(found: Deployment, model: str) -> None:
    """Raise SpecError for a deployment of another model: somebody else's, perhaps in use."""
    if found.model != model:
        raise SpecError(
            f"{found.name} is a deployment of {visible(found.model) or 'no model'}, not of "
            f"{visible(model)}.",
            hint="Name the deployment of this model: --name NAME. Nothing was changed.",
        )


def _path(account: Account, name: str) -> str:
    return f"{account.id}/deployments/{quote(name, safe='')}"


def _deployment(answer: dict[str, Any], name: str) -> Deployment:
    properties = object_of(answer.get("properties"))
    sku, model = object_of(answer.get("sku")), object_of(properties.get("model"))
    capacity = sku.get("capacity")
    error = object_of(properties.get("error"))
    return Deployment(
        name=name,
        model=text_of(model.get("name")) or "",
        sku=text_of(sku.get("name")) or "",
        capacity=capacity if isinstance(capacity, int) else None,
        state=text_of(properties.get("provisioningState")) or "unknown",
        reason=" ".join(filter(None, (text_of(error.get("code")), text_of(error.get("message"))))),
    )


def _facts(entry: Any) -> ModelFacts | None:
    """Return the facts in an entry of the list; None for what is no model."""
    model = object_of(object_of(entry).get("model"))
    name = text_of(model.get("name"))
    if name is None:
        return None
    said = text_of(model.get("lifecycleStatus")) or ""
    dates = object_of(model.get("deprecation"))
    fine_tunes = text_of(object_of(model.get("capabilities")).get("fineTune"))
    state: Any = STATES.get(said, "unknown")
    return ModelFacts(
        model=name,
        version=text_of(model.get("version")) or "",
        state=state,
        said=said,
        fine_tunes={"true": True, "false": False}.get((fine_tunes or "").lower()),
        fine_tune_until=_day(dates.get("fineTune")),
        inference_until=_day(dates.get("inference")),
        planned=text_of(dates.get("deprecationStatus")) or "",
    )


def _day(value: Any) -> date | None:
    """Return the day of a moment like 2027-04-14T00:00:00Z; None for anything else."""
    try:
        return date.fromisoformat((text_of(value) or "")[:10])
    except ValueError:
        return None
