"""Jobs that tasks wait for: one thread looks at all of them, and a cancelled task harms none."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.chaos import until
from support.fleet import KEY, asked, end, running
from support.forks import fork
from support.hosted import MODEL
from support.hostile import breaking, polled_until
from support.provider import CREATE, Fault, Provider
from support.rows import chat_rows

from finetune_gateway import (
    AuthenticationError,
    BackendError,
    FakeBackend,
    Gateway,
    JobFailed,
    JobNotFinished,
    JobStatus,
    OpenAIBackend,
    SpecError,
    aio,
)
from finetune_gateway.aio.calls import HOST_THREADS, MODEL_THREADS, Calls
from finetune_gateway.aio.handle import AHEAD
from finetune_gateway.aio.watcher import Host, Waiter
from finetune_gateway.chat import ChatStream as BlockingStream
from finetune_gateway.jobs.groups import Failure, Group
from finetune_gateway.jobs.many import Answer
from finetune_gateway.settings import deadlines
from finetune_gateway.settings.deadlines import Deadline

CHAT = "POST /chat/completions"
STILL = 999.0  # seconds in which a job of the provider does not go on by itself


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the provider."""
    monkeypatch.setenv(KEY, "sk-test-0123456789abcdef")


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(steps=2, pace=STILL) as provider:
        yield provider


def at(provider: Provider, **options: Any) -> OpenAIBackend:
    """A host that settles quickly."""
    given = {"request_timeout": 30.0, "settle_seconds": 0.03, "poll_seconds": 0.005}
    place = {"base_url": provider.url, "api_key_env": KEY, "profile": "custom"}
    return OpenAIBackend(**{**given, **place, **options})


def test_a_plugin_that_hangs_holds_up_no_other_backend(home: Path, train_file: Path) -> None:
    """Six submits of it wait; a job of another backend is sent, and ends, meanwhile."""
    release = threading.Event()
    hanging: Any = breaking({"check": lambda backend, honest: release.wait(60)})

    async def main() -> None:
        async with aio.Gateway(home) as gateway:
            given = {"model": "m", "backend": hanging}
            stuck = [
                asyncio.create_task(gateway.submit(train_file, **given, seed=number))
                for number in range(6)
            ]
            try:
                async with asyncio.timeout(30):
                    job = await gateway.submit(train_file, model="m", backend=FakeBackend())
                    assert (await job.wait()).status == "succeeded"
                    assert not any(task.done() for task in stuck)
            finally:
                release.set()
                await asyncio.gather(*stuck, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, KeyboardInterrupt])
def test_a_plugin_that_is_cancelled_cancels_no_wait(
    home: Path, train_file: Path, error: type[BaseException]
) -> None:
    """What runs an event loop of its own may raise it: the waits for all other jobs ended too, and
    by a KeyboardInterrupt the whole loop."""

    def cancelled(backend: Any, honest: Any) -> Any:
        raise error

    async def main() -> None:
        async with aio.Gateway(home) as gateway:
            broken: Any = breaking({"poll": cancelled})
            other = await gateway.submit(train_file, model="m", backend=FakeBackend())
            job = await gateway.submit(train_file, model="m", backend=broken)
            ended = await asyncio.gather(other.wait(), job.wait(), return_exceptions=True)
            assert other.status == "succeeded"
            assert isinstance(ended[1], BackendError) and error.__name__ in ended[1].message

    asyncio.run(main())


def test_a_keyboardinterrupt_of_others_ends_no_loop(home: Path, train_file: Path) -> None:
    """A callback and a plug-in raised it in a thread: nobody has pressed Ctrl-C."""

    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    async def main() -> None:
        async with aio.Gateway(home) as gateway:
            given: Any = {"model": "m", "backend": breaking({"start": interrupted})}
            with pytest.raises(BackendError, match="KeyboardInterrupt in a thread"):
                await gateway.submit(train_file, **given, confirm=interrupted)
            job = await gateway.submit(train_file, **given)
            assert "broke: KeyboardInterrupt" in job.phase

    asyncio.run(main())


def test_to_close_waits_for_no_callback_of_a_loop_that_stands_still(
    home: Path, train_file: Path
) -> None:
    """Its coroutine goes on with its loop only, which nobody runs any more."""
    gateway, loop = aio.Gateway(home), asyncio.new_event_loop()

    async def never(plan: Any) -> None:
        loop.stop()
        await asyncio.sleep(600)

    given: Any = {"model": "m", "backend": FakeBackend(), "confirm": never}
    submit = loop.create_task(gateway.submit(train_file, **given))
    loop.run_forever()
    asyncio.run(asyncio.wait_for(gateway.close(), 60))
    submit.cancel()
    loop.run_until_complete(asyncio.gather(submit, return_exceptions=True))
    loop.close()
    assert Gateway(home).jobs() == []


@asynccontextmanager
async def running_jobs(
    home: Path, provider: Provider, count: int
) -> AsyncIterator[tuple[aio.Gateway, list[aio.Job], list[str]]]:
    """Yield a Gateway, its running jobs, and their ids at the provider."""
    blocking = Gateway(home)
    made = running(provider, blocking.store, count)
    blocking.store.close()
    async with aio.Gateway.over(blocking) as gateway:
        yield gateway, await gateway.jobs(), made


def watching(gateway: aio.Gateway) -> bool:
    """True while the thread is there that looks at jobs."""
    return gateway._watcher._thread is not None


# -- the whole of a job ------------------------------------------------------------------


def test_a_job_of_a_host_from_submit_to_chat(home: Path) -> None:
    """Its events come in order and once, its model answers, whole and in pieces."""

    async def main(provider: Provider) -> None:
        async with aio.Gateway(home) as gateway:
            job = await gateway.submit(chat_rows(12), model=MODEL, backend=at(provider))
            numbers = [event.number async for event in job.watch()]
            assert numbers == [event.number for event in await job.events()] == sorted(numbers)  # type: ignore[type-var]
            assert len(numbers) > 2 and job.status is JobStatus.SUCCEEDED
            heard: list[int | None] = []
            model = await job.result(20, on_event=lambda one, event: heard.append(event.number))
            assert heard == numbers and model.ready and model.job_id == job.id
            reply = await model.chat("Where is my parcel?")
            stream = model.stream("Where is my parcel?")
            pieces = [piece async for piece in stream]
            assert len(pieces) > 1 and "".join(pieces) == reply.text
            assert stream.reply is not None and stream.reply.text == reply.text
            assert (await job.to_dict())["status"] == "succeeded" and await job.metrics()
        assert not watching(gateway)

    with Provider(steps=2) as provider:
        asyncio.run(main(provider))


@pytest.mark.chaos
def test_a_training_on_this_machine(home: Path, tiny_folder: Path) -> None:
    """A tiny model is trained by a process, watched, and asked in this one."""

    async def main() -> None:
        async with aio.Gateway(home) as gateway:
            job = await gateway.submit(chat_rows(12), model=str(tiny_folder), max_steps=2)
            kinds = {type(event).__name__ async for event in job.watch(300)}
            model = await job.result(300)
            assert kinds and model.kind == "adapter"
            stream = model.stream("Where is my parcel?", max_tokens=8)
            assert [piece async for piece in stream] and stream.reply is not None
            replies = await asyncio.gather(*(model.chat("Hello.", max_tokens=4) for _ in range(4)))
            assert len({reply.text for reply in replies}) == 1

    asyncio.run(main())


def test_what_there_is_no_model_of_is_raised(home: Path) -> None:
    """A failed job, in the words of the blocking call."""

    async def main() -> None:
        async with aio.Gateway(home) as gateway:
            backend = FakeBackend([{"status": "failed", "error": "no memory"}])
            job = await gateway.submit(chat_rows(12), model="m", backend=backend)
            assert (await job.wait(20)).status is JobStatus.FAILED
            with pytest.raises(JobFailed, match=f"Job {job.id} failed"):
                await job.result(20)

    asyncio.run(main())


# -- one watcher -------------------------------------------------------------------------


def test_one_thread_looks_at_all_jobs(home: Path, provider: Provider) -> None:
    """12 tasks wait for 12 jobs: the host is asked for its list, and each job is polled when it
    has ended; there is one connection, and the thread goes with the last task."""

    async def main() -> None:
        async with running_jobs(home, provider, 12) as (gateway, jobs, made):
            waits = [asyncio.create_task(job.wait(60)) for job in jobs]
            await asyncio.to_thread(until, lambda: asked(provider)["list"] >= 4)
            assert not any(wait.done() for wait in waits)
            polled = asked(provider)["job"]
            end(provider, *made)
            await asyncio.gather(*waits)
            assert {job.status for job in jobs} == {JobStatus.SUCCEEDED}
            assert asked(provider)["job"] == polled + 12
            await asyncio.to_thread(until, lambda: not watching(gateway))

    asyncio.run(main())
    assert provider.server.accepted <= 2


def test_several_tasks_wait_for_one_job(home: Path, provider: Provider) -> None:
    """In two loops of two threads, one of them for its events: all get the end of it, and each
    event once."""

    async def main() -> None:
        async with running_jobs(home, provider, 1) as (gateway, [job], made):

            async def numbers() -> list[int | None]:
                return [event.number async for event in job.watch()]

            other = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(numbers())))
            waits = [asyncio.create_task(job.wait()), asyncio.create_task(job.wait(60))]
            here = asyncio.create_task(numbers())
            await asyncio.to_thread(until, lambda: asked(provider)["job"] >= 3)
            end(provider, *made)
            await asyncio.gather(*waits)
            seen = [event.number for event in await job.events()]
            assert await here == await other == seen and len(seen) > 1

    asyncio.run(main())


def test_a_wait_for_several_says_which_have_not_ended(home: Path, provider: Provider) -> None:
    """Three of four end; the fourth is named when the time is up, and goes on."""
    stop = threading.Event()
    changed: set[str | None] = set()

    async def main() -> None:
        async with running_jobs(home, provider, 4) as (gateway, jobs, made):

            async def note(job: aio.Job) -> None:
                changed.add(job.provider_id if job.status.final else None)
                if {*made[:3]} <= changed:
                    stop.set()

            end(provider, *made[:3])
            [failure] = await gateway.wait(jobs, 60, on_change=note, stop=stop)
            assert isinstance(failure.error, JobNotFinished)
            [late] = failure.jobs
            assert late.provider_id in made[3:] and late in jobs
            end(provider, *made)
            assert await gateway.wait(jobs + jobs) == [] == await gateway.wait([])
            assert await gateway.refresh(jobs) == [] == await gateway.refresh()

    asyncio.run(main())


def test_what_no_waiting_ends_is_raised_in_each_task(home: Path, provider: Provider) -> None:
    """A host that refuses the key: both waits say so, and the others go on."""

    async def main() -> None:
        async with running_jobs(home, provider, 2) as (gateway, jobs, made):
            provider.keys.clear()
            waits = [asyncio.create_task(job.wait(60)) for job in jobs]
            for wait in waits:
                with pytest.raises(BackendError, match="401|key"):
                    await wait

    asyncio.run(main())


def test_a_job_that_came_during_a_pass_is_not_forgotten(home: Path, provider: Provider) -> None:
    """The pass has asked for it too, and found what no waiting ends: its task hears of that."""

    async def main() -> None:
        async with running_jobs(home, provider, 2) as (gateway, jobs, made):
            first, second = (job.blocking for job in jobs)
            host = Host(Group(first.backend, first.backend.capabilities()), True)
            waiters = [Waiter(job, send=True) for job in (first, second)]
            for waiter in waiters:
                host.wait.add(waiter.job, host.group)
                host.waiters[waiter.job.id] = [waiter]
            refused = AuthenticationError("No such key.", backend="openai", status_code=401)
            answer = Answer([Failure([first, second], refused)])
            assert host.after({first.id}, answer) is None
            deadline = Deadline(10)
            for waiter in waiters:
                with pytest.raises(AuthenticationError, match="No such key"):
                    await waiter.news(deadline, deadline.end)

    asyncio.run(main())


# -- the end of a wait -------------------------------------------------------------------


def test_a_cancelled_wait_leaves_the_job(home: Path, provider: Provider) -> None:
    """Nothing is cancelled at the host; nobody looks any more; the next wait ends as usual."""

    async def main() -> None:
        async with running_jobs(home, provider, 1) as (gateway, [job], made):
            for begin in (job.wait, job.result):
                wait = asyncio.create_task(begin())
                await asyncio.to_thread(until, lambda: watching(gateway))
                wait.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await wait
                await asyncio.to_thread(until, lambda: not watching(gateway))
            assert provider.posts["/fine_tuning/jobs/*/cancel"] == 0
            end(provider, *made)
            assert (await job.result(60)).ready

    asyncio.run(main())


def test_a_cancelled_submit_leaves_the_job_whole(home: Path, provider: Provider) -> None:
    """The task ends while the create is on its way: the job is stored as sent, once."""
    provider.fault(CREATE, Fault("slow", seconds=STILL))

    async def main() -> None:
        async with aio.Gateway(home) as gateway:
            submit = asyncio.create_task(
                gateway.submit(chat_rows(12), model=MODEL, backend=at(provider))
            )
            await asyncio.to_thread(until, lambda: provider.sleeping == 1)
            submit.cancel()
            with pytest.raises(asyncio.CancelledError):
                await submit
            provider.wake()

    asyncio.run(main())
    [job] = Gateway(home).jobs()
    assert not job.record.unsent and [one["id"] for one in provider.jobs] == [job.provider_id]


def test_a_cancelled_answer_is_not_generated(home: Path, provider: Provider) -> None:
    """Who waits for the first answer of a model and is cancelled frees its thread; a stream that
    is left is closed, and the model answers again."""

    async def main() -> None:
        async with running_jobs(home, provider, 1) as (gateway, [job], made):
            end(provider, *made)
            provider.fault(CHAT, Fault("slow", seconds=STILL))
            first = asyncio.create_task(job.result())
            await asyncio.to_thread(until, lambda: provider.sleeping == 1)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            provider.wake()
            model = await job.result(60)
            stream = model.stream("Where is my parcel?")
            async for piece in stream:
                assert piece
                break
            await stream.aclose()
            assert [piece async for piece in stream] == []
            assert (await model.chat("Hello.")).text

    asyncio.run(main())


@pytest.mark.parametrize("way", ["closed", "dropped"])
def test_an_answer_that_nobody_reads_ends(way: str) -> None:
    """An endless one is read no further than a bound, and ends once its stream is left."""
    made, ended = itertools.count(), threading.Event()

    def pieces() -> Iterator[str]:
        try:
            while next(made) < 10 * AHEAD:
                yield "word "
        finally:
            ended.set()

    async def main() -> None:
        stream = aio.ChatStream(lambda: BlockingStream(pieces()), Calls())
        assert await anext(stream) == "word "
        if way == "closed":
            await stream.aclose()
        del stream
        await asyncio.to_thread(until, ended.is_set)

    asyncio.run(main())
    assert next(made) <= AHEAD + 5


def test_a_wait_ends_in_time(home: Path, provider: Provider) -> None:
    """By its timeout, or by a stop token; what is no time is refused."""
    stop = threading.Event()

    async def main() -> None:
        async with running_jobs(home, provider, 1) as (gateway, [job], made):
            with pytest.raises(JobNotFinished, match="after 0.1 s"):
                await job.wait(0.1)
            wait = asyncio.create_task(job.wait(stop=stop))
            await asyncio.to_thread(until, lambda: watching(gateway))
            stop.set()
            with pytest.raises(JobNotFinished, match="stopped"):
                await wait
            assert [event async for event in job.watch(0)]
            with pytest.raises(SpecError, match="timeout cannot be nan"):
                await job.wait(float("nan"))

    asyncio.run(main())


def test_a_wait_ends_while_a_plug_in_does_not_say_whose_job_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ``account`` hangs; once it has returned the job comes to its end."""
    for name in ("FIRST_SECONDS", "LAST_SECONDS"):
        monkeypatch.setattr(deadlines, name, 0.1)
    backend, release = polled_until("account")

    async def main() -> None:
        async with aio.Gateway(home) as gateway:
            job = await gateway.submit(chat_rows(12), model="m", backend=backend)
            release.clear()
            with pytest.raises(JobNotFinished, match="after 0.1 s"):
                await job.wait(0.1)
            assert not release.is_set()
            release.set()
            assert (await job.wait(30)).status is JobStatus.SUCCEEDED

    asyncio.run(main())


def test_to_close_ends_all_waits(home: Path, provider: Provider) -> None:
    """Each with an error that says so; what is asked later raises it too, and the jobs go on."""

    async def main() -> None:
        async with running_jobs(home, provider, 2) as (gateway, jobs, made):
            waits = [asyncio.create_task(job.wait()) for job in jobs]
            await asyncio.to_thread(until, lambda: watching(gateway))
            await gateway.close()
            for wait in waits:
                with pytest.raises(SpecError, match="closed"):
                    await wait
            for call in (gateway.jobs, jobs[0].refresh, jobs[0].wait):
                with pytest.raises(SpecError, match="closed"):
                    await call()

    asyncio.run(main())
    assert provider.posts["/fine_tuning/jobs/*/cancel"] == 0


def test_a_call_that_has_not_begun_ends_with_a_close_as_the_others_do() -> None:
    """It waits for a thread, all of which are asking hosts: it raises what is raised later too, and
    those that have begun end."""

    async def main() -> None:
        calls, answered = Calls(), threading.Event()
        running = threading.Semaphore(0)

        def answer() -> bool:
            running.release()
            return answered.wait()

        begun = [asyncio.create_task(calls.run(answer)) for _ in range(HOST_THREADS)]
        for _ in begun:  # on a busy machine a thread may begin late
            await asyncio.to_thread(running.acquire)
        others = [asyncio.create_task(calls.run(threading.Event().wait, 0.1)) for _ in range(2)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(calls.close())
        raised = await asyncio.gather(*others, return_exceptions=True)
        answered.set()
        await closing
        assert all(await asyncio.gather(*begun))
        assert [(type(one), "closed" in str(one)) for one in raised] == [(SpecError, True)] * 2

    asyncio.run(main())


def test_a_slow_model_holds_up_no_job(home: Path, provider: Provider) -> None:
    """While as many chats wait for their host as there are threads, a submit is done."""

    async def main() -> None:
        async with running_jobs(home, provider, 1) as (gateway, [job], made):
            end(provider, *made)
            model = await job.result(60)
            for _ in range(MODEL_THREADS):
                provider.fault(CHAT, Fault("slow", seconds=STILL))
            chats = [asyncio.create_task(model.chat("Hello.")) for _ in range(MODEL_THREADS)]
            await asyncio.to_thread(until, lambda: provider.sleeping == MODEL_THREADS)
            await gateway.submit(chat_rows(12), model="m", backend=FakeBackend())
            assert not any(chat.done() for chat in chats)
            provider.wake()
            await asyncio.gather(*chats)

    asyncio.run(main())


# -- processes ---------------------------------------------------------------------------

FORKED = """
import asyncio, os, sys
from finetune_gateway import FakeBackend, aio

async def main(seed):
    job = await aio.submit(sys.argv[1], model="m", backend=FakeBackend(), seed=seed)
    await job.wait(60)
    print(job.status)

asyncio.run(main(1))
child = os.fork()
asyncio.run(main(2 if child else 3))
if child:
    sys.exit(os.waitpid(child, 0)[1])
"""

LEFT = """
import asyncio, sys
from finetune_gateway import OpenAIBackend, aio

async def main():
    backend = OpenAIBackend(base_url=sys.argv[2], api_key_env=sys.argv[3], profile="custom")
    submit = asyncio.create_task(aio.submit(sys.argv[1], model=sys.argv[4], backend=backend))
    await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


STOPPED = """
import asyncio, sys
from finetune_gateway import FakeBackend, aio

async def never(plan):
    loop.stop()
    await asyncio.sleep(600)

loop = asyncio.new_event_loop()
submit = loop.create_task(aio.submit(sys.argv[1], model="m", backend=FakeBackend(), confirm=never))
loop.run_forever()
"""


@pytest.mark.chaos
def test_a_process_whose_loop_was_only_stopped_exits(home: Path, train_file: Path) -> None:
    """A thread that waited for a callback in that loop held it up for ever."""
    command = [sys.executable, "-c", STOPPED, str(train_file)]
    subprocess.run(command, timeout=30, check=True, capture_output=True)
    assert Gateway(home).jobs() == []


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forks, threads
def test_a_fork_has_threads_of_its_own(home: Path, train_file: Path) -> None:
    """Parent and child submit and wait after the fork, with a Gateway that has been used."""

    async def main(seed: int) -> None:
        job = await aio.submit(train_file, model="m", backend=FakeBackend(), seed=seed)
        assert (await job.wait(60)).status is JobStatus.SUCCEEDED

    asyncio.run(main(1))
    end = fork(lambda: asyncio.run(main(2)))
    asyncio.run(main(3))
    end()
    assert len(Gateway(home).jobs()) == 3


@pytest.mark.chaos
def test_parent_and_fork_exit(home: Path, train_file: Path) -> None:
    """Both have submitted and waited after the fork."""
    command = [sys.executable, "-c", FORKED, str(train_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["succeeded"] * 3), done.stderr


@pytest.mark.chaos
def test_a_process_that_exits_has_sent_its_job(
    home: Path, train_file: Path, provider: Provider
) -> None:
    """The main task ends while a create is on its way, and nobody closes the Gateway: the process
    waits for that call, and the job is stored as sent."""
    provider.fault(CREATE, Fault("slow", seconds=1.0))
    command = [sys.executable, "-c", LEFT, str(train_file), provider.url, KEY, MODEL]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        until(lambda: provider.posts["/fine_tuning/jobs"] == 1)
        process.communicate("\n", timeout=60)
    assert process.returncode == 0
    [job] = Gateway(home).jobs()
    assert not job.record.unsent and [one["id"] for one in provider.jobs] == [job.provider_id]
