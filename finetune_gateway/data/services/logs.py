"""Logged requests with their answers: each part may be of any service.

Logs like these are documented by
https://docs.aws.amazon.com/bedrock/latest/userguide/model-invocation-logging.html,
https://docs.litellm.ai/docs/proxy/logging_spec, https://langfuse.com/docs/observability/data-model,
https://docs.langchain.com/langsmith/run-data-format.
"""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services import langchain
from finetune_gateway.data.services.exchange import (
    ASKED,
    answer,
    inner,
    opened,
    refuse_failed,
    request,
)
from finetune_gateway.data.services.turn import tools

Json = dict[str, Any]

REQUESTS = (
    "request", "request_body", "requestBody", "body", "messages", "prompt", "input", "inputs",
    "modelInput", "kwargs", "proxy_server_request",
)  # fmt: skip
ANSWERS = (
    "response", "response_body", "responseBody", "response_obj", "modelOutput", "completion",
    "choices", "output", "outputs", "expectedOutput", "expected_output", "message",
)  # fmt: skip
_TEXTS = ("response", "completion")  # keys that hold the answer as a text, beside messages
_ANSWERED = frozenset(
    {"choices", "candidates", "output", "content", "output_text", "message", "completion", "error"}
    | {"generations", "messages", "results", "generation", "text", "response", "answer"}
)
_FAILURES = ("failure", "failed", "error", "ERROR")


def is_log(row: Json) -> bool:
    """Return True for a request beside its answer."""
    asked, answered = _keys(row)
    if not asked or not answered or "label" in row or "instruction" in row:
        return False
    request, answer = inner(row[asked], "")[0], inner(row[answered], "")[0]
    formed = isinstance(answer, list) or (
        isinstance(answer, dict)
        and (not _ANSWERED.isdisjoint(answer) or langchain.is_message(answer))
    )
    if asked == "messages":
        return _is_open(request) and (formed or (answered in _TEXTS and isinstance(answer, str)))
    if isinstance(request, dict):
        return not request.keys().isdisjoint(ASKED) and isinstance(answer, str | dict | list)
    if asked == "prompt" and answered == "completion":  # TRL's
        return False
    if _is_open(request):
        return formed or isinstance(answer, str)
    return isinstance(request, str) and formed and not isinstance(row.get("output"), list)


def _keys(row: Json) -> tuple[str, str]:
    asked = next((key for key in REQUESTS if key in row), "")
    return asked, next((key for key in ANSWERS if key in row and key != asked), "")


def _is_open(messages: Any) -> bool:
    """Return True for messages without an answer at the end: with one they are a chat row."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(last, list):
        return _is_open(last)
    closed = langchain.is_answer(last) or (
        isinstance(last, dict) and last.get("role") in ("assistant", "model")
    )
    return isinstance(last, dict) and not closed


def _failure(row: Json) -> str:
    """Return the field that says that a request failed, or ""."""
    for key in ("error", "error_str"):
        if row.get(key):
            return key
    for key in ("status", "level"):
        if row.get(key) in _FAILURES:
            return key
    code = row.get("status_code")
    return "status_code" if type(code) is int and code >= 400 else ""


def read(reader: Reader) -> Json:
    """Read a request and its answer, each as the service writes it."""
    row = reader.row
    asked, answered = _keys(row)
    reader.used |= {asked, answered}
    if failure := _failure(row):
        refuse_failed(reader, failure, inner(row[answered], "")[0])
        return {"messages": []}
    if asked == "messages":
        beside = {key: row[key] for key in ("system", "tools") if key in row}
        reader.used |= beside.keys()
        made = request(reader, {"messages": row["messages"], **beside}, "")
    else:
        made = request(reader, *opened(reader, row[asked], asked))
        if "tools" not in made:
            made |= reader.tools()
    if "tools" not in made:
        made |= _tools_beside(reader)
    if answered == "choices":
        said = answer(reader, {"choices": row["choices"]}, "", made["messages"])
    else:
        said = answer(reader, *opened(reader, row[answered], answered), made["messages"])
    return {**made, "messages": [*made["messages"], *said]}


# Where logs keep the tools of a request apart from its messages: LiteLLM, Langfuse, LangSmith.
_BESIDE = (("model_parameters",), ("modelParameters",), ("extra", "invocation_params"))


def _tools_beside(reader: Reader) -> Json:
    for keys in _BESIDE:
        value: Any = reader.row
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, dict) and value.get("tools"):
            return tools(reader, value["tools"], ".".join((*keys, "tools")))
    return {}
