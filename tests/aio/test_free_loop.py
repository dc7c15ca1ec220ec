"""No verb does its work in the thread of the loop: while it waits, all other tasks go on."""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from support.hostile import breaking

import finetune_gateway as gateway
from finetune_gateway import GatewayError, aio
from finetune_gateway.backend import seam

HELLO = [{"role": "user", "content": "Hello."}]
DISK = {io.open, os.open, os.fsync, os.replace, time.sleep}
# What blocks, by its code: each verb, and each call of a backend.
BLOCKING: dict[CodeType, str] = {
    inspect.unwrap(function).__code__: function.__qualname__
    for cls in (gateway.Gateway, gateway.Job, gateway.ModelHandle)
    for name, function in inspect.getmembers(cls, inspect.isfunction)
    if not name.startswith("_") and function.__module__.startswith("finetune_gateway")
}
BLOCKING[seam._call.__code__] = "a call of a backend"


@contextmanager
def work_of_this_thread() -> Iterator[set[str]]:
    """Gather what is entered in this thread of what blocks, and what it asks of disk and store."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, called: Any) -> None:
        if event == "call" and frame.f_code in BLOCKING:
            found.add(BLOCKING[frame.f_code])
        if event != "c_call":
            return
        of_store = isinstance(called.__self__, sqlite3.Connection | sqlite3.Cursor)
        if of_store or called in DISK:
            found.add(f"{called.__qualname__}() in {frame.f_code.co_qualname}")

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


def verbs(face: Any, last: str = "") -> list[Callable[..., Any]]:
    """What is awaited of a face; the one that ends it comes last."""
    names = [name for name in dir(face) if not name.startswith("_") and name != last]
    found = [getattr(face, name) for name in [*names, last] if name]
    return [one for one in found if inspect.iscoroutinefunction(one)]


async def called(verb: Callable[..., Any], given: dict[str, Any]) -> None:
    """Await a verb with what it needs. That it refuses this is no matter here."""
    parameters = [*inspect.signature(verb).parameters.values()]
    needed = [one for one in parameters if one.default is one.empty]
    positional = [given[one.name] for one in needed if one.kind is one.POSITIONAL_OR_KEYWORD]
    named = {one.name: given[one.name] for one in needed if one.kind is one.KEYWORD_ONLY}
    with suppress(GatewayError):
        await verb(*positional, **named)


def test_no_verb_works_in_the_thread_of_the_loop(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one of Gateway, Job and ModelHandle: what blocks, the store and the disk are asked in
    other threads."""
    monkeypatch.chdir(train_file.parent)  # reports are written there
    plans: list[gateway.Plan] = []
    backend = breaking({})
    options: dict[str, Any] = {"model": "m", "backend": backend, "confirm": plans.append}

    async def main() -> set[str]:
        async with aio.Gateway(home) as tenant:
            with work_of_this_thread() as found:
                await called(lambda: tenant.submit(train_file, **options), {})
                job = await tenant.submit(train_file, model="m", backend=backend)
                model = await job.result(60)
                given: dict[str, Any] = {
                    "data": "not-there.jsonl", "model": "m", "models": [], "to": "fake",
                    "repo": "acme/support",
                    "name": job.id, "backend": "fake", "function": job.blocking.reload,
                    "pairs": [("fake", "m")], "created": None, "path": home / "handle.json",
                    "messages": HELLO, "reference": HELLO[0], "text": "Hello.", "rows": [],
                    "conversations": [{"messages": HELLO}], "plan": plans[0], "job": job,
                    "jobs": [job],
                }  # fmt: skip
                for verb in [
                    aio.budget,  # the functions are the verbs of a default Gateway
                    *verbs(model, "release"),
                    *(one for one in verbs(job, "remove") if one.__name__ != "wait_until"),
                    *verbs(tenant, "close"),
                ]:
                    await called(verb, given)
        return found

    assert asyncio.run(main()) == set()
