"""What ``ftg migrate record`` shows: the plan before the question, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finetune_gateway.evaluation.recording import Recording
from finetune_gateway.jobs.budget import Budget
from finetune_gateway.jobs.permits import kinds_text
from finetune_gateway.reports.asking_text import (
    again_text,
    budget_text,
    estimate_line,
    spent_text,
)
from finetune_gateway.reports.output import format_count, wrap_text
from finetune_gateway.settings.money import format_usd
from finetune_gateway.text.cleaning import visible

if TYPE_CHECKING:
    # The type checker alone: it brings the SDK of hosts.
    from finetune_gateway.evaluation.planning import RecordPlan

SHOWN = 3  # errors


def plan_text(plan: RecordPlan, budget: Budget | None) -> str:
    """Return what is about to happen: which rows are asked, how, and what that costs."""
    return "\n".join(wrap_text(line, "  ", "") for line in _plan_lines(plan, budget))


def _plan_lines(plan: RecordPlan, budget: Budget | None) -> Iterator[str]:
    work, about = plan.work, plan.work.recording.about
    rows = format_count(about.rows, "row")
    yield f"{work.recording.title}: {visible(about.model)} at {about.host}"
    yield f"{rows} of {about.data}: {_asked(plan)}, {_parameters(about.parameters)}"
    if plan.existing:
        yield f"It goes on: answers so far {len(plan.state.answered):,}, left {plan.left:,}."
    if plan.again:
        yield again_text(plan.again)
    if repeated := sum(len(prompt.lines) - 1 for prompt in work.prompts):
        yield f"{format_count(repeated, 'row')} ask the same as another, and are not asked twice."
    yield estimate_line(plan.cost, work.limit, work.already)
    if plan.cost is None:
        yield f"To add its price: {work.costing.prices.add}"
    read, written = work.costing.prices.read, work.costing.prices.written
    if read and written:
        kind = f" by a {read.tier} deployment" if read.tier else ""
        yield (
            f"At ${read.usd} per million tokens read and ${written.usd} written{kind}, "
            f"{read.dated}, {read.source}."
        )
    if not work.costing.exact:
        yield f"The encoding of {visible(about.base_model)} is not known: tokens are approximate."
    if work.batch:
        yield "As a batch, within 24 hours; what expires is not billed, and can be asked again."
    if budget is not None:
        takes = format_usd(work.reserved(plan.cost))
        yield f"{budget_text(budget)}; this reserves {takes}."
    if plan.allowed:
        yield f"Sent as allowed: {kinds_text(plan.allowed)}."


def _asked(plan: RecordPlan) -> str:
    samples = plan.work.recording.about.samples
    times = "asked once" if samples == 1 else f"asked {samples} times"
    tokens = plan.tokens.expected
    return f"each {times}, {tokens:,} tokens to read" if plan.left else f"each {times}"


def _parameters(parameters: dict[str, Any]) -> str:
    warmth = parameters.get("temperature")
    parts = [f"answers of at most {parameters['max_tokens']:,} tokens"]
    parts += ["the host's temperature" if warmth is None else f"temperature {warmth:g}"]
    parts += [f"seed {parameters['seed']}"] if "seed" in parameters else []
    parts += ["log-probabilities"] if parameters.get("logprobs") else []
    parts += ["kept by the host too"] if parameters.get("store") else []
    return ", ".join(parts)


def plan_document(plan: RecordPlan, budget: Budget | None) -> dict[str, Any]:
    """Return a dry run as JSON."""
    cost = plan.cost
    return {
        "dry_run": True,
        "recording": plan.work.recording.title,
        "existing": plan.existing,
        "about": plan.work.recording.about.model_dump(mode="json"),
        "left": plan.left,
        "again": plan.again,
        "cost_usd": cost.model_dump(mode="json") if cost else None,
        "prices": [price.model_dump(mode="json") for price in plan.work.costing.prices.rows],
        "tokens": plan.tokens.model_dump(mode="json"),
        "budget": budget.summary() if budget else None,
        "notes": [*plan.notes],
    }


# -- afterwards --------------------------------------------------------------------------------


def recording_document(recording: Recording) -> dict[str, Any]:
    """Return a recording as JSON, without its texts: what it is of, and its figures."""
    answers, errors = [*recording.answers()], [*recording.errors()]
    run = recording.run
    return {
        "recording": recording.title,
        "folder": str(recording.folder),
        "about": recording.about.model_dump(mode="json"),
        "answers": len(answers),
        "errors": [error.model_dump(mode="json") for error in errors],
        "left": recording.about.rows * recording.about.samples - len(answers),
        "finish_reasons": dict(Counter(one.finish_reason or "none" for one in answers)),
        "with_calls": sum(bool(one.tool_calls) for one in answers),
        "run": None
        if run is None
        else {
            "asked": run.asked,
            "answers": run.answers,
            "errors": run.errors,
            "again": run.again,
            "beyond": run.beyond,
            "spent_usd": None if run.spent_usd is None else f"{run.spent_usd:f}",
            "stopped": run.stopped,
        },
    }


def run_text(recording: Recording, document: dict[str, Any]) -> str:
    """Return what came of a run, for people."""
    return "\n".join(wrap_text(line, "  ", "") for line in _run_lines(recording, document))


def _run_lines(recording: Recording, document: dict[str, Any]) -> Iterator[str]:
    run, about = recording.run, recording.about
    all_ = about.rows * about.samples
    spent = spent_text(run.spent_usd, run.unanswered) if run else ""
    cost = f"; this run cost {spent}" if spent else ""
    calls = document["with_calls"]
    with_calls = f", {calls:,} with calls of tools" if calls else ""
    yield f"{document['answers']:,} of {all_:,} answers{with_calls}{cost}."
    if run is not None and spent and run.unanswered:
        without = format_count(run.unanswered, "request")
        yield f"{without} without an answer, which a host may charge, counted at the most."
    if run is not None and run.again:
        yield again_text(run.again)
    cut = document["finish_reasons"].get("length", 0)
    if cut:
        were = "1 answer was" if cut == 1 else f"{cut:,} answers were"
        yield f"{were} cut at {about.parameters['max_tokens']:,} tokens: --max-tokens N."
    if prints := about.system_fingerprints:
        names = ", ".join(f"{name} ({count:,})" for name, count in [*prints.items()][:SHOWN])
        yield f"system_fingerprint: {names}"
    errors = document["errors"]
    if errors:
        said = Counter(error["message"] for error in errors).most_common(SHOWN)
        yield f"{format_count(len(errors), 'request')} without an answer, kept apart:"
        yield from (f"  {count:,} x {message}" for message, count in said)
    if run is not None and run.beyond:
        yield f"{format_count(run.beyond, 'request')} in no batch: they could pass the limit."
    if run is not None and run.stopped:
        yield f"Not all was asked: {run.stopped}."
    elif document["left"]:
        yield "What may be answered later is asked by the same command again."
    if document["answers"]:
        yield f"The answers are in {document['folder']}/answers.jsonl"
