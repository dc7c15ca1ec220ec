"""The same verbs, awaited: ``from finetune_gateway import aio``.

    async with aio.Gateway() as gateway:
        job = await gateway.submit("train.jsonl", model="builtin/tiny")
        model = await job.result()
        print((await model.chat("Where is my parcel?")).text)

The functions work on a default Gateway, as those of ``finetune_gateway`` do. What blocks runs in
threads, whose number is bounded; one thread looks at all jobs that are waited for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import cache, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from finetune_gateway import api
from finetune_gateway.aio.gateway import Failure, Gateway
from finetune_gateway.aio.handle import ChatStream, ModelHandle
from finetune_gateway.aio.job import Job
from finetune_gateway.gateway import Gateway as BlockingGateway

__all__ = [
    "ChatStream",
    "Failure",
    "Gateway",
    "Job",
    "ModelHandle",
    "advise",
    "budget",
    "compare",
    "costs",
    "estimate",
    "get_job",
    "list_jobs",
    "migrate",
    "preview",
    "prune",
    "refresh_jobs",
    "remove_jobs",
    "resume_all",
    "submit",
    "validate",
    "wait_for_jobs",
]

P = ParamSpec("P")
R = TypeVar("R")


def _on_default(
    verb: Callable[Concatenate[Gateway, P], Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return a verb of Gateway as a function on the default one."""

    @wraps(verb)
    async def call(*args: P.args, **given: P.kwargs) -> R:
        return await verb(_default(), *args, **given)

    shown = inspect.signature(verb)
    vars(call)["__signature__"] = shown.replace(parameters=[*shown.parameters.values()][1:])
    return call


def _in_thread(function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return a function of ``finetune_gateway`` as one that is awaited."""

    @wraps(function)
    async def call(*args: P.args, **given: P.kwargs) -> R:
        return await _default().call(function, *args, **given)

    return call


def _default() -> Gateway:
    return _gateway(api.default())


@cache
def _gateway(blocking: BlockingGateway) -> Gateway:
    return Gateway.over(blocking)


validate = _on_default(Gateway.validate)
preview = _in_thread(api.preview)  # of one row too
estimate = _on_default(Gateway.estimate)
advise = _on_default(Gateway.advise)
submit = _on_default(Gateway.submit)
compare = _on_default(Gateway.compare)
migrate = _on_default(Gateway.migrate)
get_job = _on_default(Gateway.job)
list_jobs = _on_default(Gateway.jobs)
refresh_jobs = _on_default(Gateway.refresh)
resume_all = _on_default(Gateway.resume_all)
wait_for_jobs = _on_default(Gateway.wait)
remove_jobs = _on_default(Gateway.remove)
prune = _on_default(Gateway.prune)
budget = _on_default(Gateway.budget)
costs = _on_default(Gateway.costs)
