"""Rows of Amazon Bedrock's Converse API, which Nova is tuned on: parts without a type.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
https://docs.aws.amazon.com/nova/latest/userguide/fine-tune-prepare-data-understanding.html
"""

from __future__ import annotations

import json
from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services.turn import Turn, drop, of_blocks, tool, walk

Json = dict[str, Any]

PARTS = frozenset(
    {
        "text", "image", "toolUse", "toolResult", "reasoningContent", "document", "video",
        "cachePoint",
    }
)  # fmt: skip


def read(reader: Reader) -> Json:
    """Read a request of Converse, with the answer as its last message."""
    reader.used |= {"schemaVersion", "messages", "system", "toolConfig"}
    drop(reader, {"schemaVersion": reader.row.get("schemaVersion")}, (), "")
    return conversation(reader, reader.row, "")


def conversation(reader: Reader, row: Json, prefix: str) -> Json:
    """Read the messages, system prompt and tools of a request at ``prefix``."""
    messages = walk(reader, row, prefix, message)
    return {"messages": messages, **_tools(reader, row.get("toolConfig"), f"{prefix}toolConfig")}


def message(reader: Reader, one: Any, path: str) -> list[Json]:
    """Return the messages of one of Converse: results of calls become messages."""
    return of_blocks(reader, one, path, _part)


def _part(turn: Turn, part: Json, path: str) -> None:
    drop(turn.reader, part, PARTS, path)
    if "text" in part:
        turn.text(part["text"], path)
    elif isinstance(part.get("image"), dict):
        _image(turn, part["image"], f"{path}.image")
    elif isinstance(part.get("toolUse"), dict):
        turn.call(part["toolUse"], f"{path}.toolUse", ("toolUseId", "name", "input"))
    elif isinstance(part.get("toolResult"), dict):
        result, here = part["toolResult"], f"{path}.toolResult"
        drop(turn.reader, result, {"toolUseId", "content"}, here)
        turn.result(result.get("toolUseId"), _result(turn, result.get("content"), here), here)
    elif isinstance(part.get("reasoningContent"), dict):
        inner = part["reasoningContent"].get("reasoningText")
        here = f"{path}.reasoningContent"
        if isinstance(inner, dict):
            turn.thought(inner.get("text"), f"{here}.reasoningText.text")
        else:
            turn.refuse("redactedContent", here, "Take it out: it is encrypted.")
    elif "cachePoint" not in part:
        turn.refuse(next(iter(part), "an empty part"), path)


def _image(turn: Turn, image: Json, path: str) -> None:
    source = image.get("source")
    data = source.get("bytes") if isinstance(source, dict) else None
    if isinstance(data, str):
        kind = "jpeg" if image.get("format") == "jpg" else image.get("format")
        turn.image(f"data:image/{kind};base64,{data}", f"{path}.source.bytes")
    else:
        fix = "Give the image as base64 (bytes) in the row."
        turn.refuse("an image in a bucket", f"{path}.source", fix)


def _result(turn: Turn, content: Any, path: str) -> Any:
    inner = Turn(turn.reader, "tool", path)
    for at, one in enumerate(content if isinstance(content, list) else []):
        here = f"{path}.content[{at}]"
        if isinstance(one, dict) and "json" in one:
            drop(turn.reader, one, {"json"}, here)
            inner.text(json.dumps(one["json"], ensure_ascii=False), here)
        elif isinstance(one, dict):
            _part(inner, one, here)
    if not isinstance(content, list):
        turn.reader.refuse_type(f"{path}.content", content, "a list of results")
    return inner.messages()[-1]["content"]


def _tools(reader: Reader, config: Any, path: str) -> Json:
    given = config.get("tools") if isinstance(config, dict) else None
    tools: list[Json] = []
    for at, one in enumerate(given if isinstance(given, list) else []):
        spec = one.get("toolSpec") if isinstance(one, dict) else None
        if isinstance(one, dict):
            drop(reader, one, {"toolSpec"}, f"{path}.tools[]")
            if "cachePoint" in one:
                continue
        schema = spec.get("inputSchema") if isinstance(spec, dict) else None
        inner = schema.get("json") if isinstance(schema, dict) else None
        if isinstance(schema, dict):
            drop(reader, schema, {"json"}, f"{path}.tools[].toolSpec.inputSchema")
        here, to = f"{path}.tools[{at}].toolSpec", f"tools[{len(tools)}]"
        tools += tool(reader, spec, here, to, "inputSchema.json", inner)
    if isinstance(config, dict) and config.keys() - {"tools"}:
        drop(reader, config, {"tools"}, path)
    return {"tools": tools} if tools else {}
