"""Reads the answers of a recording: of a model that may not answer any more."""

from __future__ import annotations

from finetune_gateway.evaluation.answers.planning import Target
from finetune_gateway.evaluation.prompts import Prompt, fingerprint
from finetune_gateway.evaluation.recording import RecordedAnswer
from finetune_gateway.evaluation.results import NOT_RECORDED, ComparedAnswer
from finetune_gateway.jobs.requests import request_id
from finetune_gateway.text.cleaning import whole


def answers_of(target: Target) -> list[ComparedAnswer]:
    """Return what a recording has of each answer that is wanted; one that it does not have is an
    error. A row is known by its prompt with its tools, else by its messages alone. Raises
    StoreError."""
    recording = target.model.recording
    assert recording is not None  # for the type checker
    prompts = recording.prompts()
    by_messages = {_messages(prompt): prompt.id for prompt in reversed(prompts)}
    known = {prompt.id for prompt in prompts}
    found = {(one.row, one.sample): one for one in recording.answers()}
    errors = {one.id: one.message for one in recording.errors()}
    answers = []
    for (model, row, sample), key in target.wanted.items():
        prompt = target.prompts[key]
        recorded = prompt.id if prompt.id in known else by_messages.get(_messages(prompt), "")
        answer = ComparedAnswer(model=model, row=row, sample=sample, kept=True)
        if one := found.get((recorded, sample)):
            answers.append(answer.model_copy(update=_fields(one)))
        else:
            reason = errors.get(request_id(recorded, sample), NOT_RECORDED)
            answers.append(answer.model_copy(update={"error": reason}))
    return answers


def _messages(prompt: Prompt) -> str:
    return fingerprint(prompt.messages)


def _fields(one: RecordedAnswer) -> dict[str, object]:
    return {
        "message": one.message,
        "finish_reason": one.finish_reason,
        "prompt_tokens": whole(one.usage.get("prompt_tokens")),
        "completion_tokens": whole(one.usage.get("completion_tokens")),
        "seconds": one.seconds,
        "usd": one.usd,
    }
