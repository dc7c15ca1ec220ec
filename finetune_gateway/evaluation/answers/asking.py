"""Ask what a plan has left, and return all answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_gateway.data.row_access import as_dict
from finetune_gateway.errors import GatewayError
from finetune_gateway.evaluation.answers import hosted, local, recorded
from finetune_gateway.evaluation.answers.planning import AskPlan, Target
from finetune_gateway.evaluation.answers.spending import Payers
from finetune_gateway.evaluation.lines import Lines
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.recording import read_line
from finetune_gateway.evaluation.results import AnswerKey, AnswerTable, ComparedAnswer
from finetune_gateway.jobs.budget import ZERO
from finetune_gateway.jobs.requests import ANSWERS
from finetune_gateway.text.cleaning import whole

Json = dict[str, Any]


@dataclass
class AskResult:
    """What one call has asked and found.

    ``answers``: all that the plan wants, by key of the model, id of the row and sample; of one that
    could not be had its ``error`` says why. ``asked``: requests that were sent, ``again`` of them
    in flight when an earlier process died; ``kept``: those that had an answer already. ``stopped``:
    why not all was asked, such as a limit. ``ended``: what ended a model early, by its key: a key
    that is refused, a model that is not there. ``payers``: the key of the model that pays for a
    request, by the folder of its answers and its id: of several that want it the first.
    """

    answers: dict[AnswerKey, ComparedAnswer] = field(default_factory=dict)
    asked: int = 0
    again: int = 0
    kept: int = 0
    spent_usd: Decimal = ZERO
    payers: Payers = field(default_factory=dict)
    stopped: str = ""
    ended: dict[str, GatewayError] = field(default_factory=dict)


@dataclass
class _Progress:
    """Counts the requests that have ended."""

    plan: AskPlan
    all: int
    done: int = 0

    def __call__(self, model: EvaluatedModel) -> None:
        self.done += 1
        if self.plan.how.on_progress is not None:
            self.plan.how.on_progress(self.done, self.all, model.title)


def ask(plan: AskPlan) -> AskResult:
    """Ask what is left, keep each answer as it comes, and return all that the plan wants.

    Raises BudgetError before anything is sent, AuthenticationError for a host without a key,
    JobNotFinished while another process asks one of the models, StoreError. Ctrl-C and a kill lose
    nothing: the same call again asks the rest.
    """
    with _writing(plan) as ready:
        ready.require_within()
        asked = AskResult(kept=ready.kept, again=ready.again)
        progress = _Progress(ready, sum(len(target.left) for target in ready.targets))
        unkept = {target.model.key: local.Unkept() for target in ready.targets if not target.kept}
        with _going_on():
            if ready.hosted:
                _ask_hosts(ready, progress, asked)
            for target in ready.targets:
                if target.left and target.costing is None:
                    _ask_here(ready, target, unkept, progress, asked)
        for target in ready.targets:
            _read(ready, target, unkept, asked)
            if target.kept is not None:
                for (name, _, _), key in target.wanted.items():
                    asked.payers.setdefault((target.kept.folder, key), name)
    return asked


def known(plan: AskPlan) -> AnswerTable:
    """Return the answers that ``ask`` would not ask for: they are here already, or cannot be had.
    Raises StoreError."""
    found = AskResult()
    for target in plan.targets:
        if target.kept is None and target.model.kind != "recorded":
            continue
        _read(plan, target, {}, found)
        left = {*target.left}
        for key, request in target.wanted.items():
            if request in left:
                del found.answers[key]
    return found.answers


def require_free(plan: AskPlan) -> None:
    """Raise JobNotFinished, before anything is sent, while another process asks one of the
    models."""
    with _writing(plan):
        return


@contextmanager
def _going_on() -> Iterator[None]:
    """Say of Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt as exc:
        exc.add_note("What was answered is kept; the same command goes on.")
        raise


def _ask_hosts(plan: AskPlan, progress: _Progress, asked: AskResult) -> None:
    """Ask what is left of hosted models."""
    before = plan.how.limit.spent
    for end in hosted.ask_hosted(plan, plan.hosted, progress):
        _count(asked, end)
    asked.spent_usd = plan.how.limit.spent - before
    asked.stopped = plan.how.limit.stopped


def _ask_here(
    plan: AskPlan,
    target: Target,
    unkept: dict[str, local.Unkept],
    progress: _Progress,
    asked: AskResult,
) -> None:
    """Ask what is left of a model of this machine, or of an object."""
    rows = {key: target.prompts[key].id for key in target.left}
    with ExitStack() as stack:
        log: local.Log = unkept.get(target.model.key) or local.Unkept()
        if target.kept is not None:
            marks = {"charge": "", "run": plan.how.name}
            log = stack.enter_context(Lines(target.kept.folder, rows, marks))
        here = local.Here(target, log, progress, plan.how.at_once)
        try:
            here.ask(_timed(target))
        except GatewayError as exc:  # of the model itself: the others are asked all the same
            asked.ended |= {model.key: exc for model in target.models}
        finally:
            asked.asked += here.asked


def _timed(target: Target) -> Counter[str]:
    """Return how many rows were timed by an earlier call, by the name of the model."""
    lines = target.kept.answers({*target.questions}) if target.kept else {}
    timed = {key for key, line in lines.items() if line.get("seconds") is not None}
    return Counter(name for (name, _, _), key in target.wanted.items() if key in timed)


def _count(asked: AskResult, end: hosted.Ended) -> None:
    """Add how it ended for a hosted model."""
    asked.asked += end.asked
    if end.error is not None:
        error = hosted.in_words(end.error, end.target)
        asked.ended |= {model.key: error for model in end.target.models}


@contextmanager
def _writing(plan: AskPlan) -> Iterator[AskPlan]:
    """Hold the locks of all answers that are added to, and yield the plan as it is then."""
    with ExitStack() as stack:
        for target in sorted(plan.targets, key=lambda one: one.model.fingerprint):
            if target.left and target.kept is not None:
                stack.enter_context(target.kept.writing(target.model))
        targets = tuple(target.refreshed(plan.how.name) for target in plan.targets)
        yield replace(plan, targets=targets)


def _read(plan: AskPlan, target: Target, unkept: dict[str, local.Unkept], asked: AskResult) -> None:
    """Add the answers of a model."""
    if target.model.kind == "recorded":
        found = recorded.answers_of(target)
        asked.answers |= {(one.model, one.row, one.sample): one for one in found}
        asked.kept += sum(not one.error for one in found)
        return
    left = {*target.left}
    if target.kept is not None:
        lines = target.kept.answers({*target.questions})
        errors = target.kept.errors({*target.questions}, plan.how.name)
    else:
        lines, errors = unkept[target.model.key].answers, unkept[target.model.key].errors
    ended = asked.ended.get(target.model.key)
    path = target.kept.folder / ANSWERS if target.kept else Path()
    for (model, row, sample), key in target.wanted.items():
        answer = ComparedAnswer(model=model, row=row, sample=sample)
        if key in lines:
            kept = {"model": model, "row": row, "sample": sample, "kept": key not in left}
            fields = {**answer_of(lines[key]), **kept}
            answer = read_line(ComparedAnswer, fields, path, lines[key])
        else:
            reason = errors.get(key) or (ended.message if ended else asked.stopped)
            answer = answer.model_copy(update={"error": reason or "not asked"})
        asked.answers[model, row, sample] = answer


def answer_of(line: Json) -> Json:
    """Return the fields of an answer that was written down."""
    usage = as_dict(line.get("usage"))
    return {
        "message": line["message"],
        "finish_reason": line.get("finish_reason"),
        "prompt_tokens": whole(usage.get("prompt_tokens")),
        "completion_tokens": whole(usage.get("completion_tokens")),
        "first_token_seconds": line.get("first_seconds"),
        "seconds": line.get("seconds"),
        "usd": line.get("usd"),
        "note": line.get("note") or "",
    }
