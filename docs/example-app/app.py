"""A service that fine-tunes for several tenants: submits, shows progress as it comes, chats.

    TENANTS=tenants.json uvicorn app:from_file --factory --timeout-graceful-shutdown 5

``tenants.json`` has, by the token that a tenant's requests bear, what its Gateway is made with:

    {"token-1": {"home": "homes/1", "keys": {"openai": "sk-..."}, "monthly_usd": 200,
                 "backends": {"openai": {"request_timeout": 20}}}}

A tenant may use the backends that are named there, and no other. One whose home cannot be opened is
answered with 503, and the log says why; the others are served.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import os
import re
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from hmac import compare_digest
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

import finetune_gateway as ftg
from finetune_gateway import aio

MOST_BYTES = 50_000_000  # of the rows of a job
JSON_LINES = re.compile(rb"(\xef\xbb\xbf)?\s{0,99}\{")  # what they begin with
MOST_OF_CHAT = 500_000  # the loop waits while JSON is read
EXAMPLES = [{"prompt": f"Where is parcel {n}?", "completion": f"In van {n}."} for n in range(60)]
SAMPLING = {"max_tokens", "temperature", "top_p", "seed", "stop"}
NOT_NOW = "The service cannot reach your jobs now; its log says why. Try again later."
OURS = (ftg.StoreError, ftg.MissingDependency)  # what they say is for whoever runs the service
SHOWN = {"id", "created_at", "finished_at", "status", "phase", "error", "progress"}
SHOWN |= {"place_in_line", "cost_usd", "quote_usd", "metadata", "result"}
STATUS: Any = {
    OURS: 503,
    ftg.NotFoundError: 404,
    ftg.BudgetError: 402,
    ftg.JobNotFinished: 409,
    ftg.BackendError: 502,
}


def from_file() -> Starlette:
    return service(json.loads(Path(os.environ["TENANTS"]).read_text(encoding="utf-8")))


def service(tenants: Mapping[str, Mapping[str, Any]]) -> Starlette:
    """Return the service for these tenants, by their tokens."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.tenants, app.state.waits = {}, set()
            for number, (token, given) in enumerate(tenants.items(), 1):
                app.state.tenants[token] = None
                try:
                    gateway = await stack.enter_async_context(aio.Gateway(**given))
                    for job in await gateway.jobs():
                        follow(app, job)
                except ftg.GatewayError as exc:  # the others are served all the same
                    logging.error("Tenant %d is not served: %s", number, exc)
                    continue
                app.state.tenants[token] = gateway, frozenset(given.get("backends", ()))
                await warm_up(gateway, given.get("backends", ()))
            yield
            for wait in app.state.waits:  # the jobs go on, and so do the waits at the next start
                wait.cancel()

    routes = [
        Route("/jobs", submit, methods=["POST"]),
        Route("/jobs", list_jobs),
        Route("/jobs/{id}", show),
        Route("/jobs/{id}/events", events),
        Route("/jobs/{id}/cancel", cancel, methods=["POST"]),
        Route("/jobs/{id}/chat", chat, methods=["POST"]),
    ]
    handlers: Any = {ftg.GatewayError: error, HTTPException: refusal}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


async def warm_up(gateway: aio.Gateway, backends: Iterable[str]) -> None:
    """Load modules, tables and vocabularies before the first request: while that is done the loop
    waits, as it does for collections that look through all of it again."""
    for name in backends:
        with suppress(ftg.GatewayError):  # the first submit says what is wrong
            await gateway.plan(EXAMPLES, model="gpt-4.1-mini-2025-04-14", backend=name)
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(0.001)  # seconds that the loop waits for each thread that is at work


async def submit(request: Request) -> JSONResponse:
    """Train on the rows in the body, as JSONL: ``POST /jobs?backend=openai&model=...``."""
    (gateway, backends), asked = tenant(request), request.query_params
    if asked.get("backend") not in backends:
        raise HTTPException(404, f"The backends here are {', '.join(sorted(backends))}.")
    rows = await body(request, MOST_BYTES)  # and no path, which would be one of this machine
    if rows and not JSON_LINES.match(rows):  # a small Parquet file may hold gigabytes
        raise HTTPException(415, "Send the rows as JSON lines: one object a line.")
    given = {name: asked.get(name) for name in ("model", "backend", "suffix", "max_cost_usd")}
    job = await gateway.submit(rows, **given)  # type: ignore[arg-type]  # wrong ones are refused
    follow(request.app, job)
    return JSONResponse(await facts(job), 201)


async def list_jobs(request: Request) -> JSONResponse:
    """Show the newest jobs of a tenant."""
    jobs = await tenant(request)[0].jobs(limit=100)
    return JSONResponse([{"id": job.id, "status": job.status, "phase": job.phase} for job in jobs])


async def show(request: Request) -> JSONResponse:
    return JSONResponse(await facts(await job_of(request)))


async def events(request: Request) -> StreamingResponse:
    """Send what happens in a job until it has ended, as server-sent events; after the one that a
    browser which connects again has had last."""
    job, last = await job_of(request), request.headers.get("last-event-id", "")
    after = int(last) if re.fullmatch("[0-9]{1,18}", last) else 0  # else it is none of ours

    async def lines() -> AsyncIterator[str]:
        try:
            async with aclosing(job.watch(after=after)) as news:
                async for event in news:
                    yield f"id: {event.number}\ndata: {event.model_dump_json()}\n\n"
            yield f"event: end\ndata: {json.dumps(await facts(job))}\n\n"
        except ftg.GatewayError as exc:  # the answer has begun
            yield f"event: problem\ndata: {json.dumps(words(exc))}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


async def cancel(request: Request) -> JSONResponse:
    job = await job_of(request)
    await job.cancel()
    return JSONResponse(await facts(job))


async def chat(request: Request) -> StreamingResponse:
    """Answer ``{"messages": [...]}`` with the model of a job, in pieces as it writes them."""
    job = await job_of(request)
    try:
        read = await body(request, MOST_OF_CHAT)
        asked = json.loads(read, parse_float=finite, parse_constant=finite)
        messages, sampling = asked["messages"], {one: asked[one] for one in SAMPLING & {*asked}}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise HTTPException(422, 'Send {"messages": [...]} as plain JSON.') from None
    model = await job.result(timeout=30 if job.status.final else 0)
    stream = model.stream(messages, **sampling)
    first = await anext(stream, "")  # awaited here: what is wrong gets a status of its own

    async def pieces() -> AsyncIterator[str]:
        async with stream:
            yield first
            async for piece in stream:
                yield piece

    return StreamingResponse(pieces(), media_type="text/plain")


def follow(app: Starlette, job: aio.Job) -> None:
    """Wait for a job beside all requests, so that what is stored of it stays up to date."""

    def ended(wait: asyncio.Task[Any]) -> None:
        app.state.waits.discard(wait)
        if not wait.cancelled() and (reason := wait.exception()):
            logging.warning("Job %s is watched no longer: %s", job.id, reason)

    wait = asyncio.create_task(job.wait())
    app.state.waits.add(wait)
    wait.add_done_callback(ended)


def tenant(request: Request) -> tuple[aio.Gateway, frozenset[str]]:
    """Return the Gateway of whoever asks, and the backends that it may use."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    for known, found in request.app.state.tenants.items():
        if compare_digest(known.encode(), token.encode()) and scheme.lower() == "bearer":
            if found is None:
                raise HTTPException(503, NOT_NOW)
            return found  # type: ignore[no-any-return]
    how = {"www-authenticate": "Bearer"}
    raise HTTPException(401, "Send your token: Authorization: Bearer TOKEN", how)


async def job_of(request: Request) -> aio.Job:
    return await tenant(request)[0].job(request.path_params["id"])


async def facts(job: aio.Job) -> dict[str, Any]:
    """Return what a tenant sees of a job: its files are below a folder of this machine."""
    return {name: value for name, value in (await job.to_dict()).items() if name in SHOWN}


async def body(request: Request, most: int) -> bytes:
    received = bytearray()
    async for part in request.stream():
        received += part
        if len(received) > most:
            raise HTTPException(413, f"At most {most:,} bytes are taken.")
    return bytes(received)


def finite(text: str) -> float:
    """Read a number of JSON; NaN and 1e400, which Python reads too, no host can be sent."""
    if math.isfinite(number := float(text)):
        return number
    raise ValueError(text)


def words(exc: ftg.GatewayError) -> dict[str, str]:
    """Return what an error says, which is no key and no row; of this machine nothing."""
    if isinstance(exc, OURS):
        logging.error("%s", exc)
        return {"error": NOT_NOW, "hint": ""}
    return {"error": exc.message, "hint": exc.hint}


async def error(request: Request, exc: Any) -> JSONResponse:
    status = next((code for kind, code in STATUS.items() if isinstance(exc, kind)), 422)
    return JSONResponse(words(exc), status)


async def refusal(request: Request, exc: Any) -> JSONResponse:
    return JSONResponse({"error": exc.detail, "hint": ""}, exc.status_code, exc.headers)
