"""What an async service does: the verbs of ``finetune_gateway.aio``. Type checkers read it, nobody
runs it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, assert_type

import finetune_gateway as blocking
from finetune_gateway import aio
from finetune_gateway.backend import Backend, ChatReply, Event, GatewayError, JobStatus


async def submit(g: aio.Gateway) -> aio.Job:
    job = await aio.submit("x", model="m", backend="local", n_epochs=3, metadata={"a": "b"})
    assert_type(job, aio.Job)
    assert_type(await g.submit("x", model="m", max_cost_usd="$5"), aio.Job)
    assert_type(await aio.validate("x", method="dpo"), blocking.Report)
    assert_type(await g.plan("x", model="m"), blocking.Plan)
    assert_type(await g.equal_job(await g.plan("x", model="m")), aio.Job | None)
    assert_type(await g.options("x", [("m", None)], lora_r=4), list[blocking.Option])
    assert_type(await aio.advise("x", private=True), blocking.Advice)
    assert_type(await aio.compare(["latest"], rows=3), blocking.Comparison)
    assert_type(await aio.migrate("ft:m", "local", dry_run=True), blocking.Migration)
    assert_type(await g.comparison("latest"), blocking.Comparison)
    assert_type(await g.comparisons(), list[blocking.Comparison])
    await aio.estimate("x", model="m")
    await aio.preview("x", model="m")
    return job


async def follow(g: aio.Gateway, job: aio.Job, stop: threading.Event) -> aio.ModelHandle:
    async def tell(job: aio.Job, event: Event) -> None:
        print(job.id, event.number)

    assert_type(await job.wait(60, stop=stop, on_event=tell), aio.Job)
    async for event in job.watch(60, send=True, after=3, stop=stop, on_poll=print):
        assert_type(event, Event)
    assert_type((job.id, job.provider_id, job.status), tuple[str, str | None, JobStatus])
    assert_type((job.phase, job.error), tuple[str, str | None])
    assert_type((job.metadata, job.actual), tuple[dict[str, str], blocking.Actual | None])
    assert_type(await job.refresh(send=True), aio.Job)
    assert_type(await (await job.reload()).cancel(), aio.Job)
    assert_type(await job.pause(), aio.Job)
    assert_type(await (await job.resume(step="best")).settle(None), aio.Job)
    assert_type(await job.events(after=3, limit=100), list[Event])
    assert_type(await job.metrics(), list[blocking.Metric])
    assert_type(await job.checkpoints(), list[blocking.Checkpoint])
    assert_type(await job.log_path(), Path | None)
    assert_type(await job.to_dict(), dict[str, Any])
    assert_type(await job.report(force=True), Path)
    await job.to_html("page.html")
    assert_type(await job.remove(), blocking.Removed)
    assert_type(await job.handle("best"), aio.ModelHandle)
    failures = await g.wait([job], 60, on_change=print, on_event=tell, stop=stop)
    assert_type(failures, list[aio.Failure])
    assert_type((failures[0].jobs, failures[0].error), tuple[list[aio.Job], GatewayError])
    assert_type(await g.refresh([job]), list[aio.Failure])
    assert_type(await aio.wait_for_jobs([job]) + await aio.refresh_jobs(), list[aio.Failure])
    return await job.result(60, stop=stop, on_event=tell, model=None, step=None)


async def ask(model: aio.ModelHandle) -> None:
    assert_type(await model.chat("Where?", system="", max_tokens=9), ChatReply)
    async with model.stream("Where?") as pieces:
        assert_type(pieces, aio.ChatStream)
        assert_type([piece async for piece in pieces], list[str])
    await pieces.aclose()
    assert_type(pieces.reply, ChatReply | None)
    assert_type(await model.complete("Once"), ChatReply)
    assert_type(model.stream_completion("Once"), aio.ChatStream)
    assert_type(await model.chat_many([{"messages": []}]), list[ChatReply | GatewayError])
    assert_type(await model.score([], system=None), float)
    assert_type(await model.score_many([]), list[float | GatewayError])
    assert_type(await model.reference_loss("x", {"content": "y"}), float)
    assert_type(await model.reference_losses([]), list[float | GatewayError])
    assert_type(await model.save("handle.json", private=True), Path)
    assert_type(await aio.ModelHandle.load("handle.json"), aio.ModelHandle)
    assert_type(await model.download(to="adapter"), aio.ModelHandle)
    assert_type(await model.card(repo="acme/support"), str)
    pushed = await model.push("acme/support", tag="v1")
    assert pushed is None or pushed.commit
    assert_type(await aio.ModelHandle.pull("acme/support"), aio.ModelHandle | None)
    assert_type(await model.merge("whole", others=[(model, 0.5)]), aio.ModelHandle)
    assert_type(await model.export("vllm", "out"), dict[str, Any])
    await model.connect(allow_changed_base=True)
    await model.release()
    assert_type((model.model, model.kind, model.backend), tuple[str, str, str])
    assert_type((model.job_id, model.deploy, model.ready), tuple[str | None, str | None, bool])
    assert_type(model.blocking, blocking.ModelHandle)


async def home(keys: dict[str, str]) -> None:
    async with aio.Gateway("home", keys=keys, monthly_usd=200, timeout=30) as g:
        other = g.use(backends={"gpu": blocking.OpenAIBackend(base_url="https://gpu/v1")})
        await other.close()
        await aio.Gateway("home", http_client=None, proxy="http://proxy").close()
        jobs = await g.jobs(status="running", limit=3)
        assert_type(jobs, list[aio.Job])
        assert_type(await g.job("latest", backend="openai"), aio.Job)
        assert_type(await aio.get_job("latest"), aio.Job)
        assert_type(await aio.list_jobs(backend="local"), list[aio.Job])
        removed: Sequence[blocking.Removed] = await g.removable(jobs)
        assert_type(await g.remove(jobs), list[blocking.Removed])
        assert_type([*removed, *await aio.remove_jobs(jobs)], list[blocking.Removed])
        assert_type(await g.deploy("latest", "support", max_usd_per_hour=4), aio.ModelHandle)
        assert_type(await g.end_deployment("latest"), bool)
        assert_type(await g.budget(), blocking.Budget)
        assert_type(await aio.budget(), blocking.Budget)
        assert_type(await g.resume_all() + await aio.resume_all(), list[aio.Failure])
        assert_type(await aio.costs(since=date(2026, 11, 1)), blocking.Ledger)
        assert_type(await aio.prune(30, remote=True), blocking.Pruned)
        assert_type(await g.retention_days(), float)
        assert_type(await g.backend("openai"), Backend)
        assert_type((await g.open("x")).size, int)
        assert_type(await g.call(len, "x"), int)
        assert_type(aio.Gateway.over(blocking.Gateway()), aio.Gateway)


async def misspelt(g: aio.Gateway, job: aio.Job) -> None:
    await aio.submit("x", model="m", learningrate=1)  # type: ignore[call-arg]
    await g.submit("x", model="m", epochs=3)  # type: ignore[call-arg]
    await job.wait(time_out=3)  # type: ignore[call-arg]
    await job.events(aftr=3)  # type: ignore[call-arg]
    aio.Gateway(key={})  # type: ignore[call-arg]
