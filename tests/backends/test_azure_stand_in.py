"""The stand-ins of Azure's management plane and of its retail prices keep to Azure's shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.azure_management import GROUP, SUBSCRIPTION, AzureManagement
from support.azure_prices import RetailPrices
from support.provider import Provider
from support.provider_memory import BASES
from support.wire import JSON, ask

VERSION = "2024-10-01"
HELLO = [{"role": "user", "content": "Hello"}]
GPT_NANO = "serviceName eq 'Foundry Models' and armRegionName eq 'eastus2'"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(deployments={}) as running:
        yield running


@pytest.fixture
def azure(provider: Provider) -> Iterator[AzureManagement]:
    with AzureManagement(provider) as running:
        yield running


@pytest.fixture
def model(provider: Provider) -> str:
    return str(provider.world.add_fine_tune()["fine_tuned_model"])


def send(azure: AzureManagement, method: str, path: str, **more: Any) -> httpx.Response:
    """Send a signed request; a path that begins with a word is one below the resource."""
    url = azure.url + (path if path.startswith("/") else f"{azure.account_path}/{path}")
    given = {"headers": {"Authorization": f"Bearer {azure.token}"}, "params": {}, **more}
    given["params"] = {"api-version": VERSION, **given["params"]}
    return httpx.request(method, url, verify=False, trust_env=False, **given)


def deployment(model: str, sku: str = "standard", capacity: int = 1) -> JSON:
    named = {"format": "OpenAI", "name": model, "version": "1"}
    return {"sku": {"name": sku, "capacity": capacity}, "properties": {"model": named}}


def put(azure: AzureManagement, model: str, name: str = "mine", **sku: Any) -> httpx.Response:
    return send(azure, "PUT", f"deployments/{name}", json=deployment(model, **sku))


def states(azure: AzureManagement, looks: int = 4) -> list[str]:
    shown = [send(azure, "GET", "deployments/mine").json() for _ in range(looks)]
    return [one["properties"]["provisioningState"] for one in shown]


def refusal(answer: httpx.Response) -> tuple[int, str]:
    said = answer.json()["error"]
    assert {*said} == {"code", "message"}
    return answer.status_code, said["code"]


def test_a_deployment_is_created_and_answers(
    provider: Provider, azure: AzureManagement, model: str
) -> None:
    """201, two looks at Creating, then it answers by its name; the same PUT again is 200."""
    made = put(azure, model)
    assert made.status_code == 201 and made.json()["properties"]["provisioningState"] == "Creating"
    chat = {"model": "mine", "messages": HELLO}
    assert ask(provider, "/chat/completions", post=chat).status_code == 404
    assert states(azure) == ["Creating", "Creating", "Succeeded", "Succeeded"]
    assert ask(provider, "/chat/completions", post=chat).status_code == 200
    assert put(azure, model).status_code == 200
    listed = send(azure, "GET", "deployments").json()["value"]
    assert [one["name"] for one in listed] == ["mine"] and listed[0]["sku"]["name"] == "standard"
    sent = azure.requests[0]
    assert (sent.method, sent.body) == ("PUT", deployment(model))
    assert f"/{SUBSCRIPTION}/resourceGroups/{GROUP}/" in sent.path


def test_a_deployment_is_deleted(provider: Provider, azure: AzureManagement, model: str) -> None:
    """200, and 204 where there is none; it answers no more, and its model stays."""
    put(azure, model)
    states(azure)
    assert send(azure, "DELETE", "deployments/mine").status_code == 200
    assert refusal(send(azure, "GET", "deployments/mine")) == (404, "ResourceNotFound")
    assert send(azure, "DELETE", "deployments/mine").status_code == 204
    chat = {"model": "mine", "messages": HELLO}
    assert ask(provider, "/chat/completions", post=chat).status_code == 404
    assert model in provider.world.models()


@pytest.mark.parametrize("end", ["Failed", "Canceled"])
def test_a_deployment_may_end_otherwise(
    provider: Provider, azure: AzureManagement, model: str, end: str
) -> None:
    azure.end = end
    put(azure, model)
    assert states(azure, 3)[-1] == end and provider.world.deployments == {}


@pytest.mark.parametrize(
    ("setting", "sku", "status", "code"),
    [
        ({"quota": 3}, {"capacity": 4}, 400, "InsufficientQuota"),
        ({"unsupported": "model"}, {}, 400, "DeploymentModelNotSupported"),
        ({"skus": ("GlobalStandard",)}, {}, 400, "InvalidResourceProperties"),
        ({"may_write": False}, {}, 403, "AuthorizationFailed"),
    ],
)
def test_refusals_of_a_deployment(
    azure: AzureManagement, model: str, setting: JSON, sku: JSON, status: int, code: str
) -> None:
    """Nothing is created by any of them."""
    for name, value in setting.items():
        setattr(azure, name, (model,) if value == "model" else value)
    assert refusal(put(azure, model, **sku)) == (status, code)
    assert azure.deployments == {}
    assert refusal(put(azure, "none.ft-1"))[1] in (code, "DeploymentModelNotSupported")


def test_who_asks_and_for_what(azure: AzureManagement) -> None:
    """Without a token, with another one, without a version, and at places that are not there."""
    bare = httpx.get(azure.url + azure.account_path, verify=False, trust_env=False)
    assert refusal(bare) == (401, "AuthenticationFailed")
    other = {"Authorization": "Bearer x"}
    assert refusal(send(azure, "GET", "deployments", headers=other))[0] == 401
    version = {"api-version": "2020-01-01"}
    assert refusal(send(azure, "GET", "deployments", params=version))[0] == 400
    for old, new, code in (
        (SUBSCRIPTION, "other", "SubscriptionNotFound"),
        (GROUP, "other", "ResourceGroupNotFound"),
        ("tuning-eastus2", "other", "ResourceNotFound"),
    ):
        path = azure.account_path.replace(old, new)
        assert refusal(send(azure, "GET", path)) == (404, code)
    assert send(azure, "GET", azure.account_path).json()["location"] == "eastus2"


def test_an_idle_deployment_ends(azure: AzureManagement, provider: Provider, model: str) -> None:
    """After fifteen days without a call, a developer's after one; one that is called lives on."""
    for name, sku in (("idle", "standard"), ("called", "standard"), ("developer", "developertier")):
        put(azure, model, name, sku=sku)
    provider.world.deployments = {"called": model}
    azure.pass_days(2)
    assert [*azure.deployments] == ["idle", "called"]
    azure.pass_days(12)
    ask(provider, "/chat/completions", post={"model": "called", "messages": HELLO})
    azure.pass_days(2)
    assert [*azure.deployments] == ["called"] and model in provider.world.models()


def test_bases_of_a_region_with_their_ends(azure: AzureManagement) -> None:
    """In pages; a base that is being deprecated says so in the API's word."""
    path = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.CognitiveServices/locations"
    whole = send(azure, "GET", f"{path}/eastus2/models").json()["value"]
    found = {f"{one['model']['name']}-{one['model']['version']}": one["model"] for one in whole}
    assert {*found} == {*BASES}
    assert found[BASES[0]]["lifecycleStatus"] == "Deprecating"
    assert found[BASES[3]]["lifecycleStatus"] == "Legacy"
    assert found[BASES[3]]["deprecation"] == {
        "fineTune": "2027-04-14T00:00:00Z",
        "inference": "2027-10-14T00:00:00Z",
        "deprecationStatus": "Planned",
    }
    azure.lists_by = 3
    first = send(azure, "GET", f"{path}/eastus2/models").json()
    headers = {"Authorization": f"Bearer {azure.token}"}
    second = httpx.get(first["nextLink"], headers=headers, verify=False, trust_env=False).json()
    assert first["value"] + second["value"] == whole and "nextLink" not in second
    assert refusal(send(azure, "GET", f"{path}/nowhere/models"))[0] == 400


def test_faults_come_here_too(azure: AzureManagement, model: str) -> None:
    azure.fault("PUT deployments", "busy", "error_after", seconds=0)
    assert [put(azure, model).status_code for _ in range(3)] == [429, 500, 200]


# -- prices -----------------------------------------------------------------------------------


def prices(azure: RetailPrices, text: str, **query: str) -> dict[tuple[str, str], float]:
    """Return all meters that a filter finds, page by page, by sku and region."""
    found: dict[tuple[str, str], float] = {}
    url, params = azure.url, {"$filter": text, **query}
    while url:
        page = httpx.get(url, params=params or None, verify=False, trust_env=False).json()
        assert page["Count"] == len(page["Items"]) <= azure.page_size
        found |= {
            (one["skuName"], one["armRegionName"]): one["retailPrice"] for one in page["Items"]
        }
        url, params = page["NextPageLink"], {}
    return found


def test_prices_are_those_that_were_read() -> None:
    """In dollars of one region and in euros of others, over several pages."""
    with RetailPrices(page_size=5) as azure:
        usd = prices(azure, GPT_NANO)
        training = [f"gpt-4.1-nano FT Training {kind}" for kind in ("global", "regional")]
        assert [usd[name, "eastus2"] for name in training] == [0.0015, 0.00165]
        assert usd["gpt 4.1 nano dev ft training glbl", "eastus2"] == 0.00075
        assert usd["gpt-4.1-nano-ft hosting global", "eastus2"] == 1.7
        assert len(usd) == 17 and len(azure.requests) == 4
        text = "serviceName eq 'Foundry Models' and contains(meterName, 'FT Training')"
        eur = prices(azure, text, currencyCode="'EUR'")
        assert sorted(eur.values()) == [0.0044, 0.0053, 0.0058]
        assert eur["gpt-4.1-mini FT Training regional", "swedencentral"] == 0.0053


def test_a_filter_is_exact() -> None:
    """By case; either of two; one that can't be read is refused."""
    with RetailPrices() as azure:
        assert prices(azure, "serviceName eq 'foundry models'") == {}
        both = "armRegionName eq 'westus' or skuName eq 'Standard Text Analysis'"
        assert len(prices(azure, both)) == 2
        assert len(prices(azure, "")) == len(
            [one for one in azure.items if one["currencyCode"] == "USD"]
        )
        wrong = httpx.get(azure.url, params={"$filter": "x > 1"}, verify=False, trust_env=False)
        assert wrong.status_code == 400
        azure.fault("GET /api/retail/prices", "busy", seconds=0)
        assert httpx.get(azure.url, verify=False, trust_env=False).status_code == 429
