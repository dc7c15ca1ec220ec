"""Asks all hosted models at the same time, each host as many requests at once as its bound says;
answers are streamed, so that it is known when their first piece came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from finetune_gateway.backends.openai import async_chat
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.errors import BackendError, GatewayError
from finetune_gateway.evaluation import asking
from finetune_gateway.evaluation.answers.planning import AskPlan, Target
from finetune_gateway.evaluation.limits import Limit
from finetune_gateway.evaluation.lines import Lines
from finetune_gateway.evaluation.loops import run_in_loop
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.not_there import not_there
from finetune_gateway.evaluation.writer import Writer
from finetune_gateway.jobs import accounts, charges
from finetune_gateway.jobs.budget import ZERO
from finetune_gateway.jobs.charges import Charge
from finetune_gateway.jobs.requests import commit, spent_of
from finetune_gateway.settings import config


@dataclass(frozen=True)
class Ended:
    """How it ended for one model. ``asked``: requests that were sent; ``error``: what ended it
    early."""

    target: Target
    asked: int
    error: BackendError | None


OnEnd = Callable[[EvaluatedModel], object]  # called with the model of each request that has ended


def ask_hosted(plan: AskPlan, targets: Sequence[Target], on_end: OnEnd) -> list[Ended]:
    """Ask what is left of these, and return how that ended for each. The locks of their answers are
    held. Raises BudgetError before anything is sent."""
    for target in targets:
        backend = backend_of(target)
        backend.remember()
        backend.connect()
        made_by = target.model.job
        accounts.require_key_for(plan.store, made_by.id if made_by else None, backend)
    limit = plan.how.limit
    bought = _reserve(plan, targets)
    within = Limit(limit.left if plan.cap is None else _reserved(bought), named=limit.usd)
    limit.begun = True
    try:
        return run_in_loop(_ask_all(plan, targets, bought, within, on_end))
    finally:
        for target, charge in zip(targets, bought, strict=True):
            assert target.kept is not None  # for the type checker
            commit(plan.store, charge, spent_of(target.kept.folder, charge.id))
        limit.spent += within.spent + within.on_the_way
        limit.stopped = within.stopped


def backend_of(target: Target) -> OpenAIBackend:
    """Return the host of a hosted model."""
    assert target.model.backend is not None  # for the type checker
    return target.model.backend


def _reserved(bought: Sequence[Charge]) -> Decimal:
    return sum((charge.reserved_usd for charge in bought), ZERO)


def _reserve(plan: AskPlan, targets: Sequence[Target]) -> list[Charge]:
    """Commit what may be spent on each of these, together at most what the limit leaves, and return
    it. Raises BudgetError if the month has no room for it."""

    def made(taken: Decimal) -> list[Charge]:
        # Since the plan was made, and while somebody thought about it, another process may have
        # gone on with the same comparison.
        plan.how.limit.others = max(ZERO, taken - plan.how.limit.spent)
        return _charges(plan, targets)

    return [*charges.reserve_all(plan.store, plan.how.name, plan.cap, made)]


def _charges(plan: AskPlan, targets: Sequence[Target]) -> list[Charge]:
    """Return a charge for each of these, noted where its requests will be, not yet committed."""
    costs = [target.cost for target in targets]
    highs = [cost.high if cost else ZERO for cost in costs]
    high, left = sum(highs, ZERO), plan.how.limit.left
    share = Decimal(1) if left is None or left >= high else left / high
    now, bought = time.time(), list[Charge]()
    for target, cost, most in zip(targets, costs, highs, strict=True):
        assert target.costing is not None and target.kept is not None  # for the type checker
        host = backend_of(target)
        charge = Charge(
            id=charges.new_id(),
            created_at=now,
            name=plan.how.name,
            backend=host.profile_name,
            host=host.host,
            model=target.model.model,
            cost=cost,
            prices=target.costing.prices.rows,
            reserved_usd=most * share,
        )
        target.kept.note(charge)
        bought.append(charge)
    return bought


async def _ask_all(
    plan: AskPlan,
    targets: Sequence[Target],
    bought: Sequence[Charge],
    limit: Limit,
    on_end: OnEnd,
) -> list[Ended]:
    tasks = [
        asyncio.create_task(_ask_one(plan, target, charge, limit, on_end))
        for target, charge in zip(targets, bought, strict=True)
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask_one(
    plan: AskPlan, target: Target, charge: Charge, limit: Limit, on_end: OnEnd
) -> Ended:
    how, backend = plan.how, backend_of(target)
    assert target.costing is not None and target.kept is not None  # for the type checker
    prompts = {key: target.prompts[key] for key in target.left}
    rows = {key: prompt.id for key, prompt in prompts.items()}
    lines = Lines(target.kept.folder, rows, {"charge": charge.id, "run": how.name})
    patience = config.current_value(
        plan.store.settings, "hosts.longest_wait_seconds", backend.longest_wait
    ).amount
    opened = async_chat.session(
        backend, target.model.model, how.at_once, target.costing.max_tokens, streamed=True
    )
    with Writer(lines, target.costing, limit, prompts) as writer:
        writer.on_progress = lambda *_: on_end(target.model)
        async with opened as session:
            error = await asking.ask_many(
                session,
                [target.questions[key] for key in prompts],
                writer,
                at_once=how.at_once,
                patience=float(patience or 0),
                on_wait=how.on_wait,
            )
    return Ended(target, writer.asked, error)


def in_words(error: BackendError, target: Target) -> GatewayError:
    """Return what ended a model early, with what is known of one that is not there."""
    model, kept = target.model, "What it has answered is kept."
    if error.status_code != 404:
        return error
    go_on = f"{kept} The same command goes on."
    return not_there(error, model.model, model.base_model, backend_of(target), kept, go_on)
