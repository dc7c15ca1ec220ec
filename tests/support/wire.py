"""Requests to the provider without a client between, and the contract's schemas."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator
from support.provider import Provider
from support.provider_memory import JSON as JSON


def ask(
    provider: Provider, path: str, key: str | None = None, *, post: Any = None, **query: Any
) -> httpx.Response:
    """Send one request, a POST if there is a body."""
    method = "GET" if post is None else "POST"
    headers = {"Authorization": f"Bearer {key or provider.api_key}"}
    url = provider.url + path
    # No certificates are read, which would take ten times as long as the request.
    return httpx.request(
        method, url, headers=headers, params=query, json=post, verify=False, trust_env=False
    )


def error(answer: httpx.Response) -> tuple[int, str | None, str]:
    said = answer.json()["error"]
    return answer.status_code, said["code"], said["message"]


@functools.cache
def contract(shared: Path) -> JSON:
    """Return the schemas of the OpenAPI document."""
    yaml = importlib.import_module("yaml")  # no stubs are installed for it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = yaml.load((shared / "contract/openai.yaml").read_text("utf-8"), loader)
    return {"components": document["components"]}


def assert_valid(shared: Path, name: str, body: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", **contract(shared)}
    wrong = [fault.message for fault in Draft202012Validator(schema).iter_errors(body)]
    assert not wrong, (name, wrong, body)
