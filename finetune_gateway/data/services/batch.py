"""Lines of batches: the request in one file, its answer in another.

https://platform.openai.com/docs/guides/batch
https://docs.anthropic.com/en/docs/build-with-claude/batch-processing
"""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services.exchange import answer, refuse_failed, request
from finetune_gateway.data.services.turn import drop

Json = dict[str, Any]

_NO_ANSWER = "this is a file for a batch, with requests; their answers are in another file"
_NO_REQUEST = "these are results of a batch, with answers; the requests are in another file"
_JOIN = (
    "Join both files by custom_id, as here with jq: jq -cs 'group_by(.custom_id)[]|add' "
    "requests.jsonl results.jsonl > joined.jsonl (docs/data.md#batches)."
)


def is_line(row: Json) -> bool:
    """Return True for a request or a result, or both."""
    return any(isinstance(row.get(key), dict) for key in ("body", "params", "response", "result"))


def read(reader: Reader) -> Json:
    """Read a request, and the result beside it."""
    row = reader.row
    reader.used |= {"method", "url", "body", "params", "response", "result", "error"}
    drop(reader, {key: row.get(key) for key in ("method", "url")}, (), "")
    for key, kept in (("response", "body"), ("result", "message")):
        if isinstance(row.get(key), dict):
            drop(reader, row[key], {kept}, key)
    asked = "body" if row.get("body") is not None else "params"
    body = row.get(asked)
    read: Json = request(reader, body, asked) if body is not None else {"messages": []}
    given = row.get("response") is not None or row.get("result") is not None
    if failure := _failure(row):
        refuse_failed(reader, failure, _result(row)[0])
    elif given:
        value, path = _result(row)
        reader.lists.setdefault("messages", path)
        read["messages"] += answer(reader, value, path, read["messages"])
    last = read["messages"][-1] if read["messages"] else {}
    if body is None:
        reader.refuse("", _NO_REQUEST, "unknown_format", _JOIN)
    elif not given and last.get("role") != "assistant":
        reader.refuse("", _NO_ANSWER, "unknown_format", _JOIN)
    return read


def _result(row: Json) -> tuple[Any, str]:
    """Return an answer and its path: OpenAI's in a response, Anthropic's in a result."""
    for key, within in (("response", "body"), ("result", "message")):
        if isinstance(row.get(key), dict):
            return row[key].get(within), f"{key}.{within}"
    return None, "response"


def _failure(row: Json) -> str:
    """Return the field that says that a request failed, or ""."""
    if row.get("error"):
        return "error"
    response, result = row.get("response"), row.get("result")
    code = response.get("status_code", 200) if isinstance(response, dict) else 200
    if code != 200:
        return "response.status_code"
    kind = result.get("type", "succeeded") if isinstance(result, dict) else "succeeded"
    return "" if kind == "succeeded" else "result.type"
