"""Lines of OpenAI's Batch API: the request in one file, its answer in another.

https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services.exchange import answer, request

Json = dict[str, Any]

_NO_ANSWER = "this is a file for the Batch API, with requests; their answers are in another file"
_NO_REQUEST = "these are results of the Batch API, with answers; the requests are in another file"
_JOIN = (
    'Join both files by custom_id: {"request": the body of the request, "response": the response '
    "of the result}."
)


def is_line(row: Json) -> bool:
    """Return True for a request or a result, or both."""
    return isinstance(row.get("body"), dict) or isinstance(row.get("response"), dict)


def read(reader: Reader) -> Json:
    """Read a request, and the result beside it."""
    row = reader.row
    reader.used |= {"custom_id", "method", "url", "body", "response", "error", "id"}
    body, response = row.get("body"), row.get("response")
    read: Json = request(reader, body, "body") if body is not None else {"messages": []}
    inner = response.get("body") if isinstance(response, dict) else None
    if inner is not None:
        reader.lists.setdefault("messages", "response.body")
        read["messages"] += answer(reader, inner, "response.body", read["messages"])
    last = read["messages"][-1] if read["messages"] else {}
    if body is None:
        reader.refuse("", _NO_REQUEST, "unknown_format", _JOIN)
    elif last.get("role") != "assistant":
        reader.refuse("", _NO_ANSWER, "unknown_format", _JOIN)
    return read
