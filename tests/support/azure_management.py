"""A stand-in of Azure's management plane: which bases a region has, and deployments of a model.

    with Provider(deployments={}) as provider, AzureManagement(provider) as azure:
        azure.url            # https://management.azure.com in the real world
        azure.token          # what a signed-in client sends as Bearer
        azure.requests       # as they came, with their bodies

Names and values of fields as in azure-mgmt-cognitiveservices 14.1.0; the messages are Azure's own,
as people have posted them. A deployment that has succeeded answers chats of the provider.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from support.provider import Provider
from support.provider_faults import NOT_APPLIED, Answering
from support.provider_memory import ACCOUNT, BASES, JSON
from support.provider_server import Host

SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"
GROUP = "rg-tuning"
RESOURCE = "tuning-eastus2"
REGION = "eastus2"
KIND = "Microsoft.CognitiveServices"
API_VERSIONS = ("2024-10-01", "2025-06-01", "2025-09-01")
SKUS = ("Standard", "GlobalStandard", "DataZoneStandard", "DeveloperTier", "ProvisionedManaged")
DAY = 86400
# What the retirement schedule says (2026-09-02), in the words of the API, where `Deprecating` is
# the documentation's Deprecated and `Deprecated` is retired.
LIFECYCLES = {
    "gpt-4o-2024-08-06": "Deprecating",
    "gpt-4o-mini-2024-07-18": "Deprecating",
    "gpt-4.1-2025-04-14": "Legacy",
    "gpt-4.1-mini-2025-04-14": "Legacy",
}
TUNED_UNTIL, SERVED_UNTIL = "2027-04-14T00:00:00Z", "2027-10-14T00:00:00Z"


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: JSON | None


class ArmError(Exception):
    """A refusal in the error shape of the Resource Manager."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": code, "message": message}}


class ArmHandler(Answering):
    provider: AzureManagement

    def do_GET(self) -> None:
        self.more = {}
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        split = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        sent = {name.lower(): value for name, value in self.headers.items()}
        body = json.loads(raw) if raw else None
        asked = Asked(self.command, unquote(split.path), query, sent, body)
        self.provider.requests.append(asked)
        endpoint = f"{self.command} {split.path.rstrip('/').split('/')[-2]}"
        fault = self.provider.next_fault(endpoint)
        if fault and fault.kind in NOT_APPLIED:
            return self.fail_before(fault)
        status, answer = self.provider.answer(asked)
        if fault:
            return self.fail_after(fault, status, answer)
        self.send(status, answer)

    do_PUT = do_POST = do_DELETE = do_GET


class AzureManagement(Host):
    """One subscription with one resource of a region. Settings may be changed while it runs.

    ``fault("PUT deployments", "busy")``: an endpoint is the last collection of its path.
    """

    def __init__(
        self,
        provider: Provider | None = None,  # whose models may be deployed, and answer then
        *,
        token: str = "eyJ0eXAi.management.token",
        looks: int = 2,  # GETs that still show Creating
        end: str = "Succeeded",  # or Failed, Canceled
        may_write: bool = True,  # False: this token may not create deployments
        quota: int | None = None,  # capacity that is left, of each kind
        unsupported: tuple[str, ...] = (),  # models that can't be deployed here
        skus: tuple[str, ...] = SKUS,  # that this region takes
        lists_by: int | None = None,  # models on a page of the list
        idle_days: float = 15.0,  # without a call until a deployment is deleted
        **host: Any,
    ) -> None:
        super().__init__(ArmHandler, **host)
        self.requests: list[Asked] = []
        self.provider = provider
        self.token = token
        self.looks = looks
        self.end = end
        self.may_write = may_write
        self.quota = quota
        self.unsupported = unsupported
        self.skus = skus
        self.lists_by = lists_by
        self.idle_days = idle_days
        self.models = {REGION: [base_model(name, LIFECYCLES[name]) for name in BASES]}
        self.deployments: dict[str, JSON] = {}
        self.later = 0.0  # seconds that have passed by order
        self.called: dict[str, float] = {}  # by deployment: when, on that clock
        self.counted = 0  # charges of the provider that are in it

    @property
    def url(self) -> str:
        return self.root

    @property
    def account_path(self) -> str:
        scope = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
        return f"{scope}/providers/{KIND}/accounts/{RESOURCE}"

    # Time

    def pass_days(self, days: float) -> None:
        """Let time pass: what nobody called for so long is deleted, its model stays; a developer
        deployment ends after a day whatever was called."""
        charges = self.provider.world.charges if self.provider else []
        for charge in charges[self.counted :]:
            self.called[charge.model] = time.time() + self.later
        self.counted = len(charges)
        self.later += days * DAY
        now = time.time() + self.later
        for name, kept in [*self.deployments.items()]:
            idle = now - max(kept["born"], self.called.get(name, 0.0))
            developer = kept["sku"]["name"].lower().startswith("developer")
            if idle > self.idle_days * DAY or (developer and now - kept["born"] > DAY):
                self.remove(name)

    # Answers

    def answer(self, asked: Asked) -> tuple[int, JSON | bytes]:
        try:
            self.authorise(asked)
            parts = asked.path.strip("/").split("/")
            if parts[2:4] == ["providers", KIND] and parts[4:5] == ["locations"]:
                return 200, self.list_models(parts[5], asked.query)
            self.require_account(parts)
            if parts[8:] == []:
                return 200, self.account()
            if parts[8] == "deployments" and len(parts) <= 10:
                return self.on_deployments(asked, parts[9] if len(parts) == 10 else None)
            raise ArmError(404, "InvalidResourceType", "The resource type could not be found.")
        except ArmError as refused:
            return refused.status, refused.body

    def authorise(self, asked: Asked) -> None:
        given = asked.headers.get("authorization", "")
        if not given:
            said = "Authentication failed. The 'Authorization' header is missing."
            raise ArmError(401, "AuthenticationFailed", said)
        if given != f"Bearer {self.token}":
            raise ArmError(401, "InvalidAuthenticationToken", "The access token is invalid.")
        version = asked.query.get("api-version")
        if version is None:
            said = "The api-version query parameter (?api-version=) is required for all requests."
            raise ArmError(400, "MissingApiVersionParameter", said)
        if version not in API_VERSIONS:
            said = f"The api-version '{version}' is invalid. Supported: {', '.join(API_VERSIONS)}."
            raise ArmError(400, "InvalidApiVersionParameter", said)
        if asked.path.split("/")[2] != SUBSCRIPTION:
            said = f"The subscription '{asked.path.split('/')[2]}' could not be found."
            raise ArmError(404, "SubscriptionNotFound", said)

    def require_account(self, parts: list[str]) -> None:
        group, name = parts[3], parts[7] if len(parts) > 7 else ""
        if group != GROUP:
            said = f"Resource group '{group}' could not be found."
            raise ArmError(404, "ResourceGroupNotFound", said)
        if name != RESOURCE:
            said = (
                f"The Resource '{KIND}/accounts/{name}' under resource group '{group}' was not "
                "found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"
            )
            raise ArmError(404, "ResourceNotFound", said)

    def account(self) -> JSON:
        return {
            "id": self.account_path,
            "name": RESOURCE,
            "type": f"{KIND}/accounts",
            "location": REGION,
            "kind": "OpenAI",
            "sku": {"name": "S0"},
            "properties": {
                "endpoint": f"https://{RESOURCE}.openai.azure.com/",
                "provisioningState": "Succeeded",
            },
        }

    def list_models(self, region: str, query: dict[str, str]) -> JSON:
        """The bases of a region, in pages if ``lists_by`` says so."""
        found = self.models.get(region.lower().replace(" ", ""))
        if found is None:
            said = f"No registered resource provider found for location '{region}'."
            raise ArmError(400, "NoRegisteredProviderFound", said)
        start, most = int(query.get("$skip", 0)), self.lists_by or len(found)
        page: JSON = {"value": found[start : start + most]}
        if start + most < len(found):
            place = f"subscriptions/{SUBSCRIPTION}/providers/{KIND}/locations/{region}/models"
            version = query["api-version"]
            page["nextLink"] = f"{self.url}/{place}?api-version={version}&$skip={start + most}"
        return page

    def on_deployments(self, asked: Asked, name: str | None) -> tuple[int, JSON | bytes]:
        with self.lock:
            if name is None:
                return 200, {"value": [self.shown(one) for one in self.deployments]}
            if asked.method == "PUT":
                return self.put(name, asked.body or {})
            if asked.method == "DELETE":
                there = name in self.deployments
                self.remove(name)
                return (200 if there else 204), b""
            if asked.method == "GET":
                return 200, self.look(name)
        said = f"The HTTP method '{asked.method}' is not supported at this resource."
        raise ArmError(405, "HttpMethodNotAllowed", said)

    # Deployments

    def put(self, name: str, body: JSON) -> tuple[int, JSON]:
        model, sku = body["properties"]["model"], body["sku"]
        self.require_deployable(model, sku)
        known = self.deployments.get(name)
        if known and known["properties"]["model"]["name"] != model["name"]:
            said = "The model of a deployment can't be changed; delete the deployment first."
            raise ArmError(400, "CannotChangeDeploymentModel", said)
        born = known["born"] if known else time.time() + self.later
        self.deployments[name] = {"sku": sku, "properties": body["properties"], "born": born}
        self.deployments[name]["looks"] = self.looks
        return (200 if known else 201), self.shown(name)

    def require_deployable(self, model: JSON, sku: JSON) -> None:
        if not self.may_write:
            action = f"{KIND}/accounts/deployments/write"
            said = (
                "The client 'me@example.com' with object id '55555555' does not have "
                f"authorization to perform action '{action}' over scope '{self.account_path}' or "
                "the scope is invalid. If access was recently granted, please refresh your "
                "credentials."
            )
            raise ArmError(403, "AuthorizationFailed", said)
        name, version = model["name"], model.get("version", "")
        if name in self.unsupported or not self.has(name):
            said = (
                f"The model 'Format: {model.get('format')}, Name: {name}, Version: {version}, "
                "Source: ' of account deployment is not supported."
            )
            raise ArmError(400, "DeploymentModelNotSupported", said)
        if sku["name"].lower() not in {one.lower() for one in self.skus}:
            said = (
                f"The specified SKU '{sku['name']}' of account deployment is not supported by the "
                f"model '{name}' version: '{version}'."
            )
            raise ArmError(400, "InvalidResourceProperties", said)
        wanted = int(sku.get("capacity", 1))
        if self.quota is not None and wanted > self.quota:
            kind = f"Tokens Per Minute (thousands) - {name}"
            said = (
                f"This operation require {wanted} new capacity in quota {kind}, which is bigger "
                f"than the current available capacity {self.quota}. The current quota usage is 0 "
                f"and the quota limit is {self.quota} for quota {kind}."
            )
            raise ArmError(400, "InsufficientQuota", said)

    def has(self, model: str) -> bool:
        """Is this a model that the provider's jobs have made? Without a provider all are."""
        if self.provider is None:
            return True
        world = self.provider.world
        owners = {str(job.get("account")) for job in world.jobs.values()}
        for owner in owners:
            ACCOUNT.set(owner)
            if model in world.models():
                return True
        return False

    def look(self, name: str) -> JSON:
        """Show one; with the looks that it takes, it comes to its end."""
        kept = self.deployments.get(name)
        if kept is None:
            said = f"The Resource '{KIND}/accounts/{RESOURCE}/deployments/{name}' was not found."
            raise ArmError(404, "ResourceNotFound", said)
        shown = self.shown(name)
        kept["looks"] -= 1
        return shown

    def shown(self, name: str) -> JSON:
        kept = self.deployments[name]
        state = "Creating" if kept["looks"] > 0 else self.end
        if state == "Succeeded" and self.provider and self.provider.world.deployments is not None:
            self.provider.world.deployments[name] = kept["properties"]["model"]["name"]
        return {
            "id": f"{self.account_path}/deployments/{name}",
            "type": f"{KIND}/accounts/deployments",
            "name": name,
            "sku": kept["sku"],
            "properties": {
                **kept["properties"],
                "provisioningState": state,
                "capabilities": {"chatCompletion": "true"},
                "versionUpgradeOption": "NoAutoUpgrade",
            },
            "etag": '"f8b0"',
        }

    def remove(self, name: str) -> None:
        self.deployments.pop(name, None)
        if self.provider and self.provider.world.deployments:
            self.provider.world.deployments.pop(name, None)


def base_model(name: str, lifecycle: str) -> JSON:
    """A base as the list of a region has it: ``gpt-4.1-mini-2025-04-14`` is name and version."""
    family, version = name[:-11], name[-10:]
    return {
        "kind": "OpenAI",
        "skuName": "S0",
        "model": {
            "format": "OpenAI",
            "name": family,
            "version": version,
            "isDefaultVersion": True,
            "maxCapacity": 3,
            "capabilities": {"fineTune": "true", "inference": "true", "chatCompletion": "true"},
            "finetuneCapabilities": {"fineTune": "true"},
            "deprecation": {
                "fineTune": TUNED_UNTIL,
                "inference": SERVED_UNTIL,
                "deprecationStatus": "Planned",
            },
            "lifecycleStatus": lifecycle,
            "skus": [{"name": "GlobalStandard", "usageName": f"OpenAI.GlobalStandard.{family}"}],
        },
    }
