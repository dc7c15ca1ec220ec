"""The requests of a folder, and what has become of them: read from the lines that were written.

==================  ==============================================================================
``requests.jsonl``  each request, on the disk before it is sent, with what it can cost at most
``answers.jsonl``   each answer whole, with what it cost
``errors.jsonl``    each request that failed, kept apart: no answer
``batches.jsonl``   what became of batches, if any
==================  ==============================================================================

A request without an answer or an error was in flight when its process died.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_gateway.estimation.estimate import Range
from finetune_gateway.jobs import charges
from finetune_gateway.jobs.budget import CENT_PARTS
from finetune_gateway.jobs.charges import Charge
from finetune_gateway.jobs.journal import read_lines
from finetune_gateway.jobs.store import Store

Json = dict[str, Any]

REQUESTS, ANSWERS, ERRORS, BATCHES = (
    "requests.jsonl", "answers.jsonl", "errors.jsonl", "batches.jsonl",
)  # fmt: skip
REFUSED, COLLECTED, LOST = "refused", "collected", "lost"  # events that end a batch
OVER = REFUSED, COLLECTED, LOST
ID = 32  # characters of a prompt's fingerprint in the id of a request: a batch takes 64


@dataclass
class State:
    """What has become of the requests of a folder, by their ids.

    ``in_flight``: those that were sent last and have neither answer nor error. ``refused``: those
    that the host will not answer, however often it is asked.
    """

    answered: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    in_flight: set[str] = field(default_factory=set)
    batched: set[str] = field(default_factory=set)  # in a batch that has not been collected
    under_way: bool = False  # a batch has not been collected; all of it may be here after a kill

    @property
    def done(self) -> set[str]:
        """Those that are not asked again."""
        return self.answered | self.refused | self.batched


@dataclass(frozen=True)
class Spent:
    """What was spent under one charge. ``usd``: None if no price is known. ``requests``: that were
    written down under it."""

    usd: Decimal | None
    requests: int
    answers: int
    unanswered: int  # counted at their most
    asked_most: Decimal = Decimal(0)  # what the requests could cost, each asked once


@dataclass(frozen=True)
class RequestCost:
    """What one request has cost, all attempts together. ``unanswered``: attempts without an answer
    that count at their most, ``at_most_usd`` of ``usd``."""

    usd: Decimal = Decimal(0)
    unanswered: int = 0
    at_most_usd: Decimal = Decimal(0)

    def __add__(self, other: RequestCost) -> RequestCost:
        return RequestCost(
            self.usd + other.usd,
            self.unanswered + other.unanswered,
            self.at_most_usd + other.at_most_usd,
        )


def request_id(row: str, sample: int) -> str:
    """Return the id of the n-th request of a prompt, by its fingerprint; a batch knows it by it."""
    return f"{row[:ID]}-{sample}"


def state_of(folder: Path, run: str | None = None) -> State:
    """Return what has become of the requests of a folder. ``run``: one of several that write to it;
    what was refused to the others is asked again."""
    state, sent = State(), dict[str, tuple[int, str]]()
    events = batch_events(folder)
    open_batches = {key for key, event in events.items() if event not in OVER}
    state.under_way = bool(open_batches)
    for line in read_lines(folder / REQUESTS):
        sent[line["id"]] = (line["attempt"], line.get("batch") or "")
    ended = set[tuple[str, int]]()
    for line in read_lines(folder / ANSWERS):
        state.answered.add(line["id"])
    for line in read_lines(folder / ERRORS):
        ended.add((line["id"], line["attempt"]))
        again = line["retryable"] or line["again"] or (run is not None and line.get("run") != run)
        (state.failed if again else state.refused).add(line["id"])
    state.refused -= state.answered
    for key, (attempt, batch) in sent.items():
        if key in state.answered or (key, attempt) in ended:
            continue
        if batch in open_batches:
            state.batched.add(key)
        elif not batch:
            state.in_flight.add(key)
    state.failed -= state.answered | state.refused | state.in_flight | state.batched
    return state


def spent_of(folder: Path, charge: str) -> Spent:
    """Return what was spent under a charge, from the requests that were written down: each that
    has no answer and no refusal may have been answered, and counts at its most."""
    sent = [*_sent(folder, {charge})]
    ends = _ends(folder, sent)
    costs = [usd for usd, _ in ends.values()]
    known = [usd for usd in costs if usd is not None]
    usd = sum(known, Decimal(0)) if len(known) == len(costs) else None
    answers = sum(file == ANSWERS for _, file in ends.values())
    unanswered = sum(file != ANSWERS and usd != 0 for usd, file in ends.values())
    most = {line["id"]: _usd(line) for line in sent}
    asked = sum(filter(None, most.values()), Decimal(0))
    return Spent(usd, len(ends), answers, unanswered, asked)


def spent_by_request(folder: Path, charges: Collection[str]) -> dict[str, RequestCost]:
    """Return what each request has cost under these charges, by its id."""
    costs: dict[str, RequestCost] = {}
    for (_, key, _), (usd, file) in _ends(folder, _sent(folder, charges)).items():
        cost = usd or Decimal(0)
        open_ = bool(cost) and file != ANSWERS
        one = RequestCost(cost, int(open_), cost if open_ else Decimal(0))
        costs[key] = costs.get(key, RequestCost()) + one
    return costs


def _sent(folder: Path, charges: Collection[str]) -> Iterator[Json]:
    """Yield the lines of the requests that were sent under these charges; of a batch that the host
    has refused none was."""
    events = batch_events(folder)
    bought = {"", *(key for key, event in events.items() if event != REFUSED)}
    for line in read_lines(folder / REQUESTS):
        if line["charge"] in charges and (line.get("batch") or "") in bought:
            yield line


def _ends(
    folder: Path, sent: Iterable[Json]
) -> dict[tuple[str, str, int], tuple[Decimal | None, str]]:
    """Return what each of these attempts costs, and the file that says how it ended: that of the
    requests for one that has not."""
    ends: dict[tuple[str, str, int], tuple[Decimal | None, str]] = {
        _attempt(line): (_usd(line), REQUESTS) for line in sent
    }
    for file in (ANSWERS, ERRORS):
        for line in read_lines(folder / file):
            attempt = _attempt(line)
            if attempt in ends and ends[attempt][1] == REQUESTS:
                ends[attempt] = _usd(line), file
    return ends


def _attempt(line: Json) -> tuple[str, str, int]:
    return line["charge"], line["id"], line["attempt"]


def _usd(line: Json) -> Decimal | None:
    return None if line.get("usd") is None else Decimal(line["usd"])


def batch_events(folder: Path) -> dict[str, str]:
    """Return the last event of each batch of a folder, by its key."""
    return {line["key"]: line["event"] for line in read_lines(folder / BATCHES)}


def commit(store: Store, charge: Charge, spent: Spent) -> Decimal | None:
    """Settle a charge with what its requests have cost, and return that. Of a run that has not come
    to its end the estimate is that of the requests it has sent: the next run estimates the rest."""
    most = f"; {spent.unanswered:,} without one {charges.AT_MOST}" if spent.unanswered else ""
    at = ", ".join(f"${price.usd} {price.unit} {price.dated}" for price in charge.prices[:2])
    word = "answer" if spent.answers == 1 else "answers"
    basis = f"{spent.answers:,} {word} by the host's usage{most}; {at or 'no price is known'}"
    charges.settle(store, charge.id, spent.usd, basis, _estimate_of_sent(charge, spent))
    return spent.usd


def _estimate_of_sent(charge: Charge, spent: Spent) -> Range[Decimal] | None:
    """Return the part of an estimate that is of the requests which were sent, by what they could
    cost at most; None if that is all of it."""
    cost = charge.cost
    if cost is None or not cost.high or spent.asked_most >= cost.high:
        return None
    ends = (end * spent.asked_most / cost.high for end in (cost.low, cost.expected, cost.high))
    low, expected, high = (end.quantize(CENT_PARTS) for end in ends)
    return Range[Decimal](low=low, expected=expected, high=high)
