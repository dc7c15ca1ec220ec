"""What is left to ask of a recording, what it costs, and the money that is taken for it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from finetune_gateway.errors import BudgetError, JobNotFinished, SpecError, StoreError
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.evaluation.asking import Question
from finetune_gateway.evaluation.costing import Costing
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.evaluation.recording import Recording
from finetune_gateway.evaluation.subjects import Subject
from finetune_gateway.jobs import charges, recordings
from finetune_gateway.jobs.budget import ZERO, dollars
from finetune_gateway.jobs.charges import Charge
from finetune_gateway.jobs.journal import read_lines, writing_alone
from finetune_gateway.jobs.requests import BATCHES, OVER, REQUESTS, State, commit
from finetune_gateway.jobs.store import Store

Json = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What there is to ask of a recording, and what that costs. ``limit``: the user's own, in USD,
    for the recording as a whole; ``already``: what its earlier runs have spent. ``cap``: of the
    month."""

    recording: Recording
    subject: Subject
    prompts: list[Prompt]
    costing: Costing
    limit: Decimal | None
    cap: Decimal | None
    batch: bool = False
    already: Decimal = ZERO

    @property
    def left(self) -> Decimal | None:
        """What may still be spent by the limit."""
        return None if self.limit is None else max(ZERO, self.limit - self.already)

    def questions(self, state: State) -> list[tuple[Question, Prompt]]:
        """Return the requests that are left."""
        return [
            (Question(key, self.body(prompt, sample)), prompt)
            for key, prompt, sample in self.recording.questions(self.prompts)
            if key not in state.done
        ]

    def body(self, prompt: Prompt, sample: int) -> Json:
        """Return a request: the prompt and the parameters; each sample has a seed of its own."""
        parameters = dict(self.recording.about.parameters)
        if "seed" in parameters:
            parameters["seed"] += sample
        return {**prompt.asked, **parameters}

    def cost(self, left: list[tuple[Question, Prompt]]) -> Range[Decimal] | None:
        """Return what these requests cost; None if no price is known."""
        return self.costing.cost([(prompt, 1) for _, prompt in left])

    def reserved(self, cost: Range[Decimal] | None) -> Decimal:
        """Return what is taken of the month: the high estimate, or the limit below it."""
        high = cost.high if cost else ZERO
        return high if self.left is None else min(high, self.left)

    def require_within(self, cost: Range[Decimal] | None) -> None:
        """Raise BudgetError if the limit is below even the low estimate, or if there is a limit or
        a cap and no price is known."""
        require_within(
            cost, self.limit, self.cap, self.already, model=self.subject.model,
            what="the recording", add=self.costing.prices.add,
        )  # fmt: skip

    def stop_at(self, cost: Range[Decimal] | None) -> Decimal | None:
        """Return the amount that is never passed: the limit, or what was taken of a month that has
        a cap."""
        return self.left if self.cap is None else self.reserved(cost)

    def within(self, left: list[tuple[Question, Prompt]]) -> list[tuple[Question, Prompt]]:
        """Return the first of these requests that cannot pass the limit together, for a batch: it
        cannot be stopped. Raises BudgetError if there is none."""
        limit, total = self.left, ZERO
        for at, (_, prompt) in enumerate(left):
            total += self.costing.most(prompt) or ZERO
            if limit is not None and total > limit:
                if at:
                    return left[:at]
                raise BudgetError(
                    f"One answer may cost {dollars(total)} USD, and {dollars(limit)} of the limit "
                    "are left.",
                    hint="Raise --max-cost, or lower --max-tokens.",
                )
        return left


def require_within(
    cost: Range[Decimal] | None,
    limit: Decimal | None,
    cap: Decimal | None,
    already: Decimal,
    *,
    model: str,
    what: str,
    add: str = "",
) -> None:
    """Raise BudgetError if the limit, for all of ``what``, is below even the low estimate, or if
    there is a limit or a cap and no price of the model is known; ``add``: the command that adds
    it."""
    if cost is None:
        if limit is None and cap is None:
            return
        raise BudgetError(
            f"No price is known for answers of {model!r}, so a limit cannot be checked.",
            hint=f"Add it, for a million tokens: {add}",
        )
    if limit is not None and cost.low > max(ZERO, limit - already):
        spent = f", of which {dollars(already)} are spent" if already else ""
        raise BudgetError(
            f"The answers cost at least {dollars(cost.low)} USD, over the limit of "
            f"{dollars(limit)}{spent}.",
            hint=f"Raise --max-cost, which is for {what} as a whole, or ask fewer rows: --rows N.",
        )


def spent_already(store: Store, recording: Recording) -> Decimal:
    """Return what the runs of a recording have cost so far, those too whose name a removal that did
    not end has taken out; of a batch that is under way, what it may cost."""
    total = ZERO
    written = {line["charge"] for line in read_lines(recording.folder / REQUESTS)}
    for charge in charges.of_name(store, recording.title, written):
        if charge.ended or charge.id in open_charges(recording):
            total += charge.held_usd
        else:
            total += recording.spent(charge.id).usd or ZERO
    return total


# -- under the lock ------------------------------------------------------------------------------


@contextmanager
def writing(store: Store, recording: Recording, *, new: bool = False) -> Iterator[None]:
    """Hold the lock of a recording. ``new``: it is to be made. Raises JobNotFinished while another
    process asks for it, SpecError if its name has come to be of another one since it was read."""
    store.settings.create()
    lock = recordings.lock_of(store.settings, recording.about.name)
    with writing_alone(lock, recording.folder) as ours:
        if not ours:
            raise JobNotFinished(
                f"Another process is asking for {recording.title}.", hint="Wait until it has ended."
            )
        _require_same(store, recording, new)
        yield


def _require_same(store: Store, recording: Recording, new: bool) -> None:
    """Raise SpecError for a name that was taken, or whose recording was removed or made anew: its
    rows and answers are none of ours."""
    found = Recording.find(store.settings, recording.title)
    if new and found is not None:
        raise SpecError(
            f"{recording.title} has been made meanwhile. Nothing was sent.",
            hint="The same command again goes on with it, if it is the same; else give another "
            "--name.",
        )
    if not new and (found is None or found.about.created_at != recording.about.created_at):
        done = "removed" if found is None else "removed and made anew"
        raise SpecError(
            f"{recording.title} has been {done} meanwhile. Nothing was done.",
            hint="Run the same command again, or give another --name.",
        )


def settle_all(store: Store, recording: Recording, leave: frozenset[str]) -> Decimal:
    """Settle the charges that dead processes have left, from the requests that they wrote down;
    return what these cost. ``leave``: those of batches, which go on without a process."""
    total = ZERO
    for charge in charges.unsettled(store, recording.title):
        if charge.id not in leave:
            total += settle_one(store, recording, charge) or ZERO
    return total


def open_charges(recording: Recording) -> frozenset[str]:
    """Return the charges of batches that are under way: no process has to live for them."""
    lines = last_lines(recording).values()
    return frozenset(line["charge"] for line in lines if line["event"] not in OVER)


def last_lines(recording: Recording) -> dict[str, Json]:
    """Return all that is known of each batch, by its key."""
    known: dict[str, Json] = {}
    for line in read_lines(recording.folder / BATCHES):
        known[line["key"]] = {**known.get(line["key"], {}), **line}
    for key, one in known.items():
        kinds = {"charge": str, "requests": int}
        kinds |= {"file_id": str} if one["event"] in ("uploaded", "creating") else {}
        kinds |= {"id": str} if one["event"] == "created" else {}
        if not all(isinstance(one.get(name), kind) for name, kind in kinds.items()):
            raise StoreError(
                f"{recording.folder / BATCHES} does not have all that was written down of the "
                f"batch {key}.",
                hint="Was it changed? Put a copy back.",
            )
    return known


def settle_one(store: Store, recording: Recording, charge: Charge) -> Decimal | None:
    """Settle one charge; return what was spent, None if no price is known. One whose requests went
    with an earlier folder of this name counts at all that it reserved."""
    spent = recording.spent(charge.id)
    if charge.created_at < recording.about.created_at and not spent.requests:
        charges.settle(store, charge.id, charge.reserved_usd, "not known: its requests are gone")
        return charge.reserved_usd
    return commit(store, charge, spent)


def new_charge(work: Work, cost: Range[Decimal] | None) -> Charge:
    """Return the charge for a run, not yet stored."""
    about = work.recording.about
    return Charge(
        id=charges.new_id(),
        created_at=time.time(),
        name=work.recording.title,
        backend=about.backend,
        host=about.host,
        model=about.model,
        cost=cost,
        prices=work.costing.prices.rows,
        reserved_usd=work.reserved(cost),
    )


def reserve(store: Store, work: Work, cost: Range[Decimal] | None) -> Charge:
    """Commit what a run may cost. Raises BudgetError; a recording in which nothing was asked yet
    is then removed again."""
    charge = new_charge(work, cost)
    try:
        charges.reserve(store, charge, work.cap)
    except BudgetError:
        if not (work.recording.folder / REQUESTS).exists():
            with suppress(OSError):
                shutil.rmtree(work.recording.folder)
        raise
    return charge
