"""Answers that a service has cut off, refused or never finished, by the reason that it gives.

https://platform.openai.com/docs/api-reference/chat/object (finish_reason)
https://docs.anthropic.com/en/api/handling-stop-reasons
https://cloud.google.com/python/docs/reference/vertexai/latest/vertexai.generative_models.FinishReason
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html (stopReason)
https://docs.cohere.com/reference/chat (finish_reason)
https://github.com/ollama/ollama/blob/main/docs/api.md (done, done_reason)
https://platform.openai.com/docs/api-reference/responses/object (status, incomplete_details)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune_gateway.findings import Defect, child
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]

_KEYS = (
    "finish_reason", "finishReason", "stop_reason", "stopReason", "done_reason", "completionReason",
)  # fmt: skip
_CUT = frozenset(
    {
        "length", "max_tokens", "max_output_tokens", "model_length", "max_length", "token_limit",
        "model_context_window_exceeded", "error_limit", "timeout",
    }
)  # fmt: skip
_REFUSED = frozenset(
    {
        "content_filter", "content_filtered", "guardrail_intervened", "refusal", "safety",
        "recitation", "blocklist", "prohibited_content", "spii", "image_safety", "model_armor",
        "error_toxic", "language",
    }
)  # fmt: skip
_BROKEN = frozenset(
    {
        "error", "abort", "aborted", "cancelled", "canceled", "user_cancel", "pause_turn",
        "malformed_function_call", "malformed_model_output", "malformed_tool_use", "other",
        "insufficient_system_resource", "failed", "incomplete", "in_progress", "queued",
    }
)  # fmt: skip
_NUMBERS = {2: "max_tokens", 3: "safety", 4: "recitation", 5: "other", 6: "blocklist", 8: "spii"}
_STATUSES = ("failed", "incomplete", "in_progress", "queued", "cancelled")
_IN_CHATGPT = ("finished_partial_completion", "in_progress")  # of a message in its export
# Of the Responses API: what has a status of its own that says how an answer ended.
_WITH_STATUS = ("response", "message", "reasoning", "function_call")
# What a model or a tool has written, and what stands for the request alone.
_NOT_AN_ANSWER = frozenset(
    {
        "arguments", "args", "tools", "functions", "function", "parameters", "schema", "metadata",
        "toolUse", "toolResult", "functionCall", "functionResponse", "toolConfig", "rejected",
        "non_preferred_output", "value",
    }
)  # fmt: skip
_BLOCKS = ("tool_use", "tool_result", "tool_call", "function_call_output")
MARKS = frozenset({*_KEYS, "status", "done", "refusal"})
_HOLDERS = (dict, list)
_MOST = 10_000  # objects and lists of a row that are looked at


def ending_defects(row: Json, *, logged: bool = True) -> Iterator[Defect]:
    """Yield a defect for each answer in a row that did not end as its model meant it.

    ``logged``: False for rows that someone wrote to train on, whose ``refusal`` is to be learned.
    """
    if not _has_mark(row):
        return  # nearly all rows, and without their paths
    left: list[tuple[Any, str]] = [(row, "")]
    for _ in range(_MOST):
        if not left:
            return
        value, path = left.pop()
        if isinstance(value, list):
            left += [
                (one, f"{path}[{at}]")
                for at, one in reversed([*enumerate(value)])
                if isinstance(one, dict | list)
            ]
            continue
        if not MARKS.isdisjoint(value):
            yield from _ending(value, path)
            if logged and isinstance(value.get("refusal"), str) and value["refusal"]:
                yield Defect("answer_refused", child(path, "refusal"), "the model refused")
        if value.get("type") not in _BLOCKS:
            left += [
                (one, child(path, key))
                for key, one in reversed(value.items())
                if isinstance(one, dict | list) and key not in _NOT_AN_ANSWER
            ]


def _has_mark(row: Json) -> bool:
    """Return False if no object in a row has a key that says how an answer ended."""
    left: list[Any] = [row]
    for value in left:  # which grows
        if isinstance(value, dict):
            if not MARKS.isdisjoint(value):
                return True
            value = value.values()
        left += [one for one in value if isinstance(one, _HOLDERS)]
        if len(left) > _MOST:
            return True
    return False


def _ending(value: Json, path: str) -> Iterator[Defect]:
    reasons = {key: _word(value[key]) for key in _KEYS if key in value}
    for key, reason in reasons.items():
        if reason in _CUT:
            yield _defect("answer_cut", path, key, value[key])
        elif reason in _REFUSED:
            yield _defect("answer_refused", path, key, value[key])
        elif reason in _BROKEN:
            yield _defect("answer_cut", path, key, value[key])
    if (
        reasons
        and all(value[key] is None for key in reasons)
        and ("message" in value or _is_message(value))
    ):
        key = next(iter(reasons))
        yield Defect("answer_cut", child(path, key), f"{quoted(key)} is null: it never finished")
    if value.get("done") is False and not {"message", "response"}.isdisjoint(value):
        yield Defect("answer_cut", child(path, "done"), "'done' is false: it never finished")
    if "author" in value and value.get("status") in _IN_CHATGPT:
        yield _defect("answer_cut", path, "status", value["status"])
    if value.get("status") in _STATUSES and _has_status(value):
        yield from _status(value, path)


def _word(reason: Any) -> str:
    """Return a reason in small letters; AI21 has it in an object, Gemini's classes as a number."""
    if isinstance(reason, dict):
        reason = reason.get("reason")
    if type(reason) is int:
        reason = _NUMBERS.get(reason)
    return reason.lower() if isinstance(reason, str) else ""


def _is_message(value: Json) -> bool:
    """Return True for a message of Anthropic's, whose reason is null as long as it is written."""
    return value.get("type") == "message" and "content" in value


def _has_status(value: Json) -> bool:
    kind = value.get("object", value.get("type"))
    return kind in _WITH_STATUS and not {"output", "content", "arguments"}.isdisjoint(value)


def _status(value: Json, path: str) -> Iterator[Defect]:
    details = value.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    code = "answer_refused" if _word(reason) in _REFUSED else "answer_cut"
    why = f" ({quoted(reason)})" if reason else ""
    yield Defect(code, child(path, "status"), f"'status' is {quoted(value['status'])}{why}")


def _defect(code: str, path: str, key: str, reason: Any) -> Defect:
    return Defect(code, child(path, key), f"{quoted(key)} is {quoted(reason)}")
