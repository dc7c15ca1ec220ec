"""What leaving a host reads, for the fuzzer of hosts: lists, files, chats from an event loop,
batches, bills, and Azure's management plane. Each with a real answer, or one as its source has it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.azure_management import GROUP, REGION, RESOURCE, SUBSCRIPTION, AzureManagement
from support.provider_server import Host

from finetune_gateway import OpenAIBackend
from finetune_gateway.backends.openai import (
    archive,
    async_chat,
    azure_token,
    batches,
    inventory,
    organization,
    pacing,
)
from finetune_gateway.backends.openai.management import Account, Management
from finetune_gateway.errors import BackendError

Reading = tuple[str, Callable[[], object], dict[str, Any], Host | None]

MODEL = "ft:gpt-4.1-mini-2025-04-14:acme::1"
JOB = "ftjob-1"
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
LINE = {"custom_id": "r1", "response": {"status_code": 200, "body": {"choices": [{"message": {}}]}}}
PACES = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1ms"}
DEPLOYMENT = {
    "name": "ours",
    "sku": {"name": "Standard", "capacity": 1},
    "properties": {"model": {"name": MODEL}, "provisioningState": "Succeeded"},
}
LISTED = {
    "model": {
        "name": "gpt-4.1", "version": "1", "lifecycleStatus": "Legacy",
        "capabilities": {"fineTune": "true"}, "deprecation": {"fineTune": "2027-04-14T00:00:00Z"},
    }
}  # fmt: skip


def listed(*items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"object": "list", "data": [*items], "has_more": False, **more}


def readings(backend: OpenAIBackend, folder: Path, azure: AzureManagement) -> Iterator[Reading]:
    """Yield an endpoint, a call that reads its answer, an answer, and whose it is if it is not the
    provider's."""
    requests = folder / "requests.jsonl"
    requests.write_bytes(batches.request_line("r1", {"model": MODEL, **CHAT}))
    count = inventory.RequestCount()
    job, file = {"id": JOB, "status": "succeeded"}, {"id": "file-1", "filename": requests.name}
    model = {"id": MODEL, "shutdown_date": None, "owned_by": "acme"}
    chat = {"choices": [{"message": {"content": "Hi"}}], "usage": {"prompt_tokens": 3}}
    batch = {
        "id": "batch_1", "status": "completed", "metadata": {batches.TAG: "key"},
        "input_file_id": "file-1", "errors": {"data": [{"code": "bad", "message": "No."}]},
    }  # fmt: skip
    paid = {"line_item": MODEL, "amount": {"value": 1.5, "currency": "usd"}}
    used = {"model": MODEL, "num_model_requests": 3}
    bucket = {"start_time": 1_790_000_000, "results": [paid | used]}
    content = "GET /files/*/content"
    host = [
        ("GET /fine_tuning/jobs", lambda: inventory.jobs(backend, count), listed(job)),
        ("GET /files", lambda: inventory.files(backend, count), listed(file)),
        ("GET /models", lambda: inventory.models(backend, count), listed(model)),
        ("GET /models/*", lambda: inventory.model(backend, MODEL, count), model),
        ("GET /fine_tuning/jobs/*/checkpoints",
         lambda: inventory.checkpoints(backend, JOB, count), listed({"id": "c1"})),
        ("GET /fine_tuning/jobs/*/events",
         lambda: [*archive.events(backend, JOB)], listed({"id": "e1"})),
        ("GET /chat/completions",
         lambda: [*archive.stored_completions(backend, MODEL, "chatcmpl-0")], listed(chat)),
        ("GET /chat/completions/*/messages",
         lambda: archive.stored_messages(backend, "chatcmpl-1"), listed(*CHAT["messages"])),
        (content, lambda: refused(lambda: archive.download(backend, "file-1", b"".join)), LINE),
        (content, lambda: [*batches.results(backend, batch | {"output_file_id": "file-2"})], LINE),
        ("POST /files", lambda: batches.upload(backend, requests), file),
        ("GET /files", lambda: batches.find_upload(backend, requests), listed(file)),
        ("POST /batches", lambda: batches.create(backend, "file-1", "key"), batch),
        ("GET /batches", lambda: batches.find(backend, "key", "file-1"), listed(batch)),
        ("GET /batches", lambda: batches.find(backend, "key", "file-9"), listed({"id": "b"})),
        ("GET /files/*", lambda: batches.require_sight(backend, "file-1"), file),
        ("GET /batches/*", lambda: batches.refusal_of(batches.retrieve(backend, "batch_1")),
         batch | {"status": "failed"}),
        ("POST /chat/completions", lambda: asyncio.run(ask(backend)), chat),
        ("GET /organization/costs",
         lambda: organization.costs(backend, count, 0), listed(bucket, next_page="p")),
        ("GET /organization/usage/completions",
         lambda: organization.usage(backend, count, 0), listed(bucket)),
    ]  # fmt: skip
    yield from ((*one, None) for one in host)
    account = Account(SUBSCRIPTION, GROUP, RESOURCE)
    plane = Management(address=azure.url, token=lambda: azure.token, poll_seconds=0.01)
    managed: list[tuple[str, Callable[[], object], dict[str, Any]]] = [
        ("GET deployments", lambda: plane.wait(account, "ours", MODEL, longest=0.05), DEPLOYMENT),
        ("GET deployments", lambda: plane.deploy(account, "ours", MODEL), DEPLOYMENT),
        ("PUT deployments", lambda: plane.deploy(account, "ours", MODEL), DEPLOYMENT),
        ("GET deployments", lambda: plane.delete(account, "ours", MODEL), DEPLOYMENT),
        (f"GET {REGION}", lambda: plane.models(SUBSCRIPTION, REGION), {"value": [LISTED]}),
    ]
    for endpoint, read, answer in managed:
        yield endpoint, read, answer, azure


def refused(read: Callable[[], object]) -> object:
    """Read, and name the refusal if there is one, as a fetch does."""
    try:
        return read()
    except BackendError as exc:
        archive.refusal_of(exc)
        raise


async def ask(backend: OpenAIBackend) -> object:
    async with async_chat.session(backend, MODEL, connections=1) as chat:
        answer = await chat.ask(CHAT)
        return answer.choice


async def ask_streamed(backend: OpenAIBackend) -> None:
    async with async_chat.session(backend, MODEL, connections=1, streamed=True) as chat:
        for _ in range(2):  # what the first answer says of streams holds for the second
            answer = await chat.ask(CHAT)
            json.dumps(answer.body).encode()


def settings(folder: Path) -> None:
    """What no host sends: headers of limits, and Azure's own command, signed in or not."""
    pace = pacing.Pace(0.01, on_wait=lambda seconds: None)
    for left, until in (("0", "1ms"), ("x", "1h2m"), ("0", "9" * 400), ("0", ""), ("0", "1 day")):
        names = ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
        pace.look(200, dict(zip(names, (left, until), strict=True)))
        pace.look(429, {"retry-after": until})
        pace.wait()
    if shutil.which("az") is None:
        for text in ("echo token", "echo no >&2; exit 1", "echo a b"):
            program = folder / "az"
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(0o700)
            try:
                azure_token._checked(azure_token._from_cli(str(program)))
            except BackendError as exc:
                json.dumps(exc.message)
