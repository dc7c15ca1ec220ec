"""Record what a model answers: priced first, held to its limits, resumable after a kill.

What has been written down decides: a request that has an answer is not sent again, one that was in
flight when its process died is, and is counted.
"""

from __future__ import annotations

from dataclasses import replace

from finetune_gateway.backends.openai import async_chat
from finetune_gateway.errors import BackendError, GatewayError
from finetune_gateway.evaluation import asking
from finetune_gateway.evaluation.asking import OnWait, Question
from finetune_gateway.evaluation.limits import Limit
from finetune_gateway.evaluation.lines import Lines
from finetune_gateway.evaluation.loops import run_in_loop
from finetune_gateway.evaluation.not_there import not_there
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.evaluation.recording import Recording, Run
from finetune_gateway.evaluation.work import (
    Work,
    open_charges,
    reserve,
    settle_all,
    settle_one,
    spent_already,
    writing,
)
from finetune_gateway.evaluation.writer import OnProgress, Writer
from finetune_gateway.jobs.charges import Charge
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings import config

# How an option of the command line leaves out a parameter that a host refuses.
WITHOUT = {
    "logprobs": "--no-logprobs",
    "top_logprobs": "without --top-logprobs",
    "seed": "without --seed",
    "store": "without --store",
    "temperature": "--temperature host",
}


def run(
    store: Store, work: Work, at_once: int, on_progress: OnProgress | None, on_wait: OnWait | None
) -> Recording:
    """Ask what is left, and return what came of it. Holds the lock of the recording.

    Raises BudgetError before anything is sent; the error of the host that ended it early, with what
    is kept; StoreError.
    """
    with writing(store, work.recording):
        settle_all(store, work.recording, open_charges(work.recording))
        work = replace(work, already=spent_already(store, work.recording))
        state = work.recording.state()
        left = work.questions(state)
        if not left:
            return replace(work.recording, run=Run())
        cost = work.cost(left)
        work.require_within(cost)
        charge = reserve(store, work, cost)
        again = sum(question.id in state.in_flight for question, _ in left)
        done = _run(store, work, left, charge, again, at_once, on_progress, on_wait)
        return replace(work.recording, run=done)


def _run(
    store: Store,
    work: Work,
    left: list[tuple[Question, Prompt]],
    charge: Charge,
    again: int,
    at_once: int,
    on_progress: OnProgress | None,
    on_wait: OnWait | None,
) -> Run:
    prompts = {question.id: prompt for question, prompt in left}
    rows = {key: prompt.id for key, prompt in prompts.items()}
    lines = Lines(work.recording.folder, rows, {"charge": charge.id})
    every = len(work.prompts) * work.recording.about.samples
    limit = Limit(work.stop_at(charge.cost), named=work.limit if work.cap is None else None)
    writer = Writer(lines, work.costing, limit, prompts, every - len(left), every, on_progress)
    patience = config.current_value(
        store.settings, "hosts.longest_wait_seconds", work.subject.backend.longest_wait
    ).amount
    ended: BackendError | None = None
    try:
        with writer:
            ended = run_in_loop(
                _ask(work, [one for one, _ in left], writer, at_once, float(patience or 0), on_wait)
            )
    except BaseException as exc:
        exc.add_note(f"{work.recording.title} keeps what was answered; the same command goes on.")
        raise
    finally:
        spent = settle_one(store, work.recording, charge)
        work.recording.finish()
    if ended is not None:
        raise _in_words(ended, work)
    unanswered = work.recording.spent(charge.id).unanswered
    return Run(writer.asked, writer.answers, writer.errors, again, spent, unanswered, limit.stopped)


async def _ask(
    work: Work,
    questions: list[Question],
    writer: Writer,
    at_once: int,
    patience: float,
    on_wait: OnWait | None,
) -> BackendError | None:
    subject = work.subject
    most = work.costing.max_tokens
    async with async_chat.session(subject.backend, subject.model, at_once, most) as session:
        return await asking.ask_many(
            session, questions, writer, at_once=at_once, patience=patience, on_wait=on_wait
        )


# -- what ended it ---------------------------------------------------------------------------------


def _in_words(error: BackendError, work: Work) -> GatewayError:
    """Return the error that ended a run, with what is known of the model, and what to do."""
    go_on = f"{work.recording.title} keeps what was answered; the same command goes on."
    if error.status_code == 404:
        subject, kept = work.subject, f"What was recorded is kept: {work.recording.title}."
        return not_there(error, subject.model, subject.base_model, subject.backend, kept, go_on)
    way = WITHOUT.get((error.param or "").partition(".")[0])
    hint = f"Ask without it, under another name: {way}" if way else f"{error.hint} {go_on}"
    error.hint = hint.strip()
    return error
