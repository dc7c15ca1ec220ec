"""What is awaited has the names, the keywords and the help of what blocks."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway import (
    BudgetError,
    FakeBackend,
    Gateway,
    Job,
    ModelHandle,
    SpecError,
    aio,
    api,
)

# They return at once; of a stream the pieces are awaited, of a watch the events.
PLAIN = {"client", "use", "stream", "stream_completion", "watch"}
# Public there, and not awaited: for others of the package, or reached by ``blocking``.
BLOCKING_ALONE = {
    Gateway: {"settings", "store", "monthly_usd", "model_to_train", "settle_latest"},
    Job: {"record", "backend", "store", "require_on_its_way", "longest_wait",
          "result_by", "resumable"},
    ModelHandle: {"as_messages", "attach", "require_answers", "require_deployed", "has_template",
                  "allows_changed_base", "copy"},
}  # fmt: skip
PAIRS = [(Gateway, aio.Gateway), (Job, aio.Job), (ModelHandle, aio.ModelHandle)]


def public(cls: type) -> set[str]:
    """The names that a class of ours offers, without those of pydantic."""
    ours = [one for one in cls.__mro__ if one.__module__.startswith("finetune_gateway")]
    return {name for one in ours for name in vars(one) if not name.startswith(("_", "model_"))}


def same(name: str, awaited: Callable[..., Any], blocking: Callable[..., Any]) -> None:
    """Names, order, kinds and defaults of the parameters are the same, and so are their types, of
    which a job or a Gateway is an awaited one."""
    assert inspect.signature(awaited) == inspect.signature(blocking).replace(
        return_annotation=inspect.signature(awaited).return_annotation
    ), name


@pytest.mark.parametrize("blocking, awaited", PAIRS)
def test_each_class_has_the_methods_of_the_one_that_blocks(blocking: type, awaited: type) -> None:
    """With the same parameters; each is a coroutine function, except the PLAIN ones."""
    names = {
        name
        for name in public(blocking) - BLOCKING_ALONE[blocking]
        if callable(getattr(blocking, name)) and not isinstance(getattr(blocking, name), type)
    }
    assert names <= public(awaited), names - public(awaited)
    for name in names:
        method, own = getattr(awaited, name), getattr(blocking, name)
        same(name, method, own)
        assert inspect.iscoroutinefunction(method) is (name not in PLAIN), name
        assert inspect.getdoc(method), name


@pytest.mark.parametrize("name", [name for name in aio.__all__ if name.islower()])
def test_each_function_is_that_of_the_package(name: str) -> None:
    """The same names, the same parameters."""
    assert inspect.iscoroutinefunction(getattr(aio, name))
    same(name, getattr(aio, name), getattr(gateway, name))


def test_no_function_is_missing() -> None:
    """Every verb of the package can be awaited."""
    functions = {name for name in gateway.__all__ if inspect.isfunction(getattr(gateway, name))}
    assert functions == {name for name in aio.__all__ if name.islower()}
    assert list(inspect.signature(aio.Gateway).parameters.values()) == list(
        inspect.signature(Gateway).parameters.values()
    )


def test_the_functions_work_on_the_home_of_the_others(home: Path, train_file: Path) -> None:
    """A job that is submitted by one is there for the other; one row is previewed as there."""
    row = chat_rows(1)[0]

    async def main() -> aio.Job:
        assert (await aio.validate(train_file)).ok
        shown = await aio.preview(row, model="gpt-4.1-mini-2025-04-14")
        assert shown == gateway.preview(row, model="gpt-4.1-mini-2025-04-14")
        price = await aio.estimate(train_file, model="m", backend="fake")
        assert price == await asyncio.to_thread(api.estimate, train_file, model="m", backend="fake")
        job = await aio.submit(train_file, model="m", backend=FakeBackend())
        assert await aio.wait_for_jobs([job]) == [] and await aio.refresh_jobs([job]) == []
        assert [one.id for one in await aio.list_jobs()] == [job.id]
        assert (await aio.budget()).spent_usd == 0 and (await aio.costs()).lines
        return await aio.get_job(job.id)

    job = asyncio.run(main())
    assert gateway.get_job(job.id).status == "succeeded"


def test_wrong_keywords_are_refused_as_there(home: Path, train_file: Path) -> None:
    """In the words of the blocking verb; nothing is submitted."""

    async def main(**given: Any) -> None:
        await aio.submit(train_file, model="m", backend=FakeBackend(), **given)

    async def wait(**given: Any) -> None:
        async with aio.Gateway(home) as tenant:
            await tenant.wait([], **given)

    with pytest.raises(SpecError, match="submit has no setting 'epochs'"):
        asyncio.run(main(epochs=3))
    with pytest.raises(SpecError, match="wait has no setting 'timout'. Did you mean timeout?"):
        asyncio.run(wait(timout=3))
    with pytest.raises(SpecError, match="Gateway has no setting 'kyes'. Did you mean keys?"):
        aio.Gateway(home, kyes={})  # type: ignore[call-arg]
    assert inspect.iscoroutinefunction(aio.Job.wait) and inspect.isasyncgenfunction(
        inspect.unwrap(aio.Job.watch)
    )
    with pytest.raises(SpecError, match="n_epochs"):
        asyncio.run(main(n_epochs="many"))
    assert gateway.list_jobs() == []


def test_callbacks_may_be_coroutine_functions(home: Path, train_file: Path) -> None:
    """They run in the loop, and their answer counts; a plain one runs in a thread."""
    places: list[threading.Thread] = []

    async def no(plan: gateway.Plan) -> bool:
        await asyncio.sleep(0)
        places.append(threading.current_thread())
        return False

    def yes(plan: gateway.Plan) -> bool:
        places.append(threading.current_thread())
        return True

    async def follow(done: int, of: int) -> None:
        seen.append(threading.current_thread())

    seen: list[threading.Thread] = []

    async def main() -> None:
        await aio.validate(train_file, on_progress=follow)  # type: ignore[arg-type]
        given: dict[str, Any] = {"model": "m", "backend": FakeBackend()}
        with pytest.raises(BudgetError, match="not confirmed"):
            await aio.submit(train_file, confirm=no, **given)  # type: ignore[arg-type]
        await aio.submit(train_file, confirm=yes, **given)

    asyncio.run(main())
    assert [one is threading.main_thread() for one in places] == [True, False]
    assert {*seen} == {threading.main_thread()}


def test_a_callback_that_raises_stopiteration_holds_up_nobody(home: Path, train_file: Path) -> None:
    """``next`` of what is used up: no task can get one, so its caller waited for ever."""

    async def main() -> None:
        async with asyncio.timeout(10):
            given: dict[str, Any] = {"model": "m", "backend": FakeBackend()}
            await aio.submit(train_file, confirm=lambda plan: next(iter([])), **given)

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(main())


def test_a_coroutine_is_no_yes_where_nothing_is_awaited(home: Path, train_file: Path) -> None:
    """The coroutine that such a function returns is true: it was taken for a yes, and the job was
    sent."""

    async def no(plan: gateway.Plan) -> bool:
        return False

    with pytest.raises(SpecError, match="must be awaited"):
        gateway.submit(train_file, model="m", backend=FakeBackend(), confirm=no)  # type: ignore[arg-type]
    assert gateway.list_jobs() == []
    job = gateway.submit(train_file, model="m", backend=FakeBackend()).wait()
    with pytest.raises(SpecError, match="must be awaited"):
        gateway.prune(0, confirm=no)  # type: ignore[arg-type]
    assert gateway.prune(0, confirm=lambda items: True).removed and job.reload()
