"""Rows of other services and logs are read where nothing is lost, or named with the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.paths import SHARED_DATA

import finetune_gateway as gateway
from finetune_gateway import FakeBackend
from finetune_gateway.data.canonical import canonical, read
from finetune_gateway.data.formats import format_of

Json = dict[str, Any]

SYSTEM = {"role": "system", "content": "Be brief."}
ASK, SAY = {"role": "user", "content": "Is it dark?"}, {"role": "assistant", "content": "Yes."}
CHAT: Json = {"messages": [ASK, SAY]}
LED: Json = {"messages": [SYSTEM, ASK, SAY]}
SCHEMA: Json = {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]}
FUNCTION: Json = {"name": "lamp", "description": "Read a lamp.", "parameters": SCHEMA}
ARGUMENTS = {"room": "hall"}
TOOLS: Json = {
    "messages": [
        ASK,
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "lamp", "arguments": json.dumps(ARGUMENTS)},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"on": false}'},
        SAY,
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
}
RESPONSE = {"choices": [{"index": 0, "message": {**SAY, "refusal": None}}], "model": "m"}
CONVERSE = [
    {"role": "user", "content": [{"text": "Is it dark?"}]},
    {"role": "assistant", "content": [{"text": "Yes."}]},
]
CONTENTS = [
    {"role": "user", "parts": [{"text": "Is it dark?"}]},
    {"role": "model", "parts": [{"text": "Yes."}]},
]

# The name of the format, a row, and what is sent of it.
ROWS: dict[str, tuple[str, Json, Json]] = {
    "anthropic system": ("openai-chat", {"system": "Be brief.", **CHAT}, LED),
    "anthropic system blocks": (
        "anthropic",
        {"system": [{"type": "text", "text": "Be brief."}], "model": "c", **CHAT},
        LED,
    ),
    "anthropic tools": (
        "anthropic",
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "I look."},
                        {"type": "tool_use", "id": "call_1", "name": "lamp", "input": ARGUMENTS},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "call_1", "content": '{"on": false}'}
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
            ],
            "tools": [
                {"name": "lamp", "description": "Read a lamp.", "input_schema": SCHEMA}
            ],
        },
        TOOLS,
    ),
    "converse": (
        "bedrock-converse",
        {
            "schemaVersion": "bedrock-conversation-2024",
            "system": [{"text": "Be brief."}],
            "messages": CONVERSE,
        },
        LED,
    ),
    "converse tools": (
        "bedrock-converse",
        {
            "messages": [
                {"role": "user", "content": [{"text": "Is it dark?"}]},
                {
                    "role": "assistant",
                    "content": [
                        {"text": "I look."},
                        {"toolUse": {"toolUseId": "call_1", "name": "lamp", "input": ARGUMENTS}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"toolResult": {
                            "toolUseId": "call_1", "content": [{"json": {"on": False}}]}}
                    ],
                },
                {"role": "assistant", "content": [{"text": "Yes."}]},
            ],
            "toolConfig": {
                "tools": [
                    {
                        "toolSpec": {
                            "name": "lamp",
                            "description": "Read a lamp.",
                            "inputSchema": {"json": SCHEMA},
                        }
                    }
                ]
            },
        },
        TOOLS,
    ),
    "gemini": (
        "gemini",
        {"systemInstruction": {"parts": [{"text": "Be brief."}]}, "contents": CONTENTS},
        LED,
    ),
    "gemini tools": (
        "gemini",
        {
            "contents": [
                {"role": "user", "parts": [{"text": "Is it dark?"}]},
                {
                    "role": "model",
                    "parts": [
                        {"text": "I look."},
                        {"functionCall": {"name": "lamp", "args": ARGUMENTS}},
                    ],
                },
                {
                    "role": "user",
                    "parts": [{"functionResponse": {"name": "lamp", "response": {"on": False}}}],
                },
                {"role": "model", "parts": [{"text": "Yes."}]},
            ],
            "tools": [
                {
                    "functionDeclarations": [
                        {
                            "name": "lamp",
                            "description": "Read a lamp.",
                            "parameters": {
                                "type": "OBJECT",
                                "properties": {"room": {"type": "STRING"}},
                                "required": ["room"],
                            },
                        }
                    ]
                }
            ],
        },
        TOOLS,
    ),
    "vertex preference": (
        "vertex-preference",
        {
            "contents": CONTENTS[:1],
            "completions": [
                {"score": 1.0, "completion": CONTENTS[1]},
                {"score": 0.0, "completion": {"role": "model", "parts": [{"text": "No."}]}},
            ],
        },
        {
            "input": {"messages": [ASK]},
            "preferred_output": [SAY],
            "non_preferred_output": [{"role": "assistant", "content": "No."}],
        },
    ),
    "responses": (
        "openai-responses",
        {
            "instructions": "Be brief.",
            "input": "Is it dark?",
            "output": [
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "Yes.", "annotations": []}],
                },
            ],
        },
        LED,
    ),
    "responses parts": (
        "openai-responses",
        {
            "messages": [
                {"role": "user", "content": [{"type": "input_text", "text": "Is it dark?"}]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]},
            ]
        },
        CHAT,
    ),
    "responses tools": (
        "openai-responses",
        {
            "input": [
                ASK,
                {"role": "assistant", "content": "I look."},
                {
                    "type": "function_call", "call_id": "call_1", "name": "lamp",
                    "arguments": json.dumps(ARGUMENTS),
                },
                {"type": "function_call_output", "call_id": "call_1", "output": '{"on": false}'},
                {"type": "message", **SAY},
            ],
            "tools": [{"type": "function", **FUNCTION}],
        },
        TOOLS,
    ),
    "log": ("request-log", {"request": {"messages": [ASK]}, "response": RESPONSE}, CHAT),
    "log of tools": (
        "request-log",
        {
            "request": {"messages": TOOLS["messages"][:3], "tools": TOOLS["tools"], "n": 1},
            "response": RESPONSE,
        },
        TOOLS,
    ),
    "log of anthropic": (
        "request-log",
        {
            "request_body": {"system": "Be brief.", "messages": [ASK], "max_tokens": 9},
            "response_body": {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
        },
        LED,
    ),
    "log of gemini": (
        "request-log",
        {
            "request": {"contents": CONTENTS[:1]},
            "response": {"candidates": [{"content": {"parts": [{"text": "Yes."}]}}]},
        },
        CHAT,
    ),
    "log of bedrock": (
        "request-log",
        {
            "schemaType": "ModelInvocationLog",
            "input": {"inputBodyJson": {"messages": CONVERSE[:1]}},
            "output": {"outputBodyJson": {"output": {"message": CONVERSE[1]}}},
        },
        CHAT,
    ),
    "log of responses": (
        "request-log",
        {
            "request": {"input": "Is it dark?", "instructions": "Be brief."},
            "response": {"id": "resp_1", "output": [{"type": "message", **SAY}]},
        },
        LED,
    ),
    "messages and response": ("request-log", {"messages": [SYSTEM, ASK], "response": "Yes."}, LED),
    "messages and completion": ("request-log", {"messages": [ASK], "completion": SAY}, CHAT),
    "messages and choices": (
        "request-log", {"messages": [ASK], "choices": RESPONSE["choices"]}, CHAT
    ),
    "system beside a log": (
        "request-log", {"system": "Be brief.", "messages": [ASK], "response": RESPONSE}, LED
    ),
    "langfuse": ("request-log", {"input": [ASK], "output": SAY}, CHAT),
    "langsmith": (
        "request-log", {"inputs": {"messages": [ASK]}, "outputs": {"messages": [ASK, SAY]}}, CHAT
    ),
    "batch joined": (
        "openai-batch",
        {
            "custom_id": "1",
            "body": {"messages": [ASK]},
            "response": {"status_code": 200, "body": RESPONSE},
        },
        CHAT,
    ),
    "batch with its answer": ("openai-batch", {"custom_id": "1", "body": LED}, LED),
    "evals": ("evals", {"input": [SYSTEM, ASK], "ideal": "Yes."}, LED),
    "evals item": ("evals-item", {"item": {"question": "Is it dark?", "answer": "Yes."}}, CHAT),
    "evals sample": (
        "evals-item", {"item": {"messages": [ASK]}, "sample": {"outputs": [SAY]}}, CHAT
    ),
    "turns in a text": (
        "encoded-turns",
        {"conversations": '[{"from":"human","value":"Is it dark?"},{"from":"gpt","value":"Yes."}]'},
        CHAT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_recognised_and_read(name: str) -> None:
    format_name, row, sent = ROWS[name]

    row_format = format_of(row)

    assert row_format is not None and row_format.name == format_name
    assert (read(row).row, read(row).errors) == (sent, [])
    written = canonical(row)
    assert {key: written[key] for key in sent} == sent


@pytest.mark.parametrize("name", ROWS)
def test_what_is_sent_is_of_openais_own_format(name: str) -> None:
    sent = read(ROWS[name][1]).row
    again = format_of(sent)
    assert again is not None and again.name in ("openai-chat", "openai-preference")


def block(**keys: Any) -> Json:
    answer = {"role": "assistant", "content": [keys, {"type": "text", "text": "Yes."}]}
    return {"messages": [ASK, answer]}


# What cannot be read, where that is, and what the reason or the fix says.
LOST: dict[str, tuple[Json, str, str]] = {
    "citations": (
        {"messages": [ASK, {"role": "assistant", "content": [
            {"type": "text", "text": "Yes.", "citations": [{"cited_text": "y"}]},
            {"type": "thinking", "thinking": ""}]}]},
        "messages[1].content[0].citations", "sources",
    ),
    "hidden thinking": (
        block(type="redacted_thinking", data="x"), "messages[1].content[0]", "encrypted"
    ),
    "a document": (block(type="document", source={}), "messages[1].content[0]", "text of the"),
    "an image at the service": (
        {"messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "file", "file_id": "f"}}]}, SAY]},
        "messages[0].content[0].source", "base64",
    ),
    "a text after a call": (
        block(type="tool_use", id="c", name="lamp", input={}), "messages[1].content[1]", "calls"
    ),
    "an image in a bucket": (
        {"messages": [{"role": "user", "content": [
            {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://b/a"}}}}]},
            CONVERSE[1]]},
        "messages[0].content[0].image.source", "base64",
    ),
    "sound": (
        {"contents": [{"role": "user", "parts": [
            {"fileData": {"mimeType": "audio/mp3", "fileUri": "gs://b/a"}}]}, CONTENTS[1]]},
        "contents[0].parts[0].fileData", "audio/mp3",
    ),
    "a search": (
        {"contents": CONTENTS, "tools": [{"googleSearch": {}}]}, "tools[0].googleSearch", "service"
    ),
    "several answers": (
        {"request": {"messages": [ASK]}, "response": {"choices": [{}, {}]}},
        "response.choices", "one row for each",
    ),
    "a failed request": (
        {"request": {"messages": [ASK]}, "response": {"error": {"message": "x"}}},
        "response", "failed",
    ),
    "a batch without answers": (
        {"custom_id": "1", "url": "/v1/chat/completions", "body": {"messages": [SYSTEM, ASK]}},
        "", "custom_id",
    ),
    "results of a batch": (
        {"custom_id": "1", "response": {"status_code": 200, "body": RESPONSE}},
        "", "custom_id",
    ),
    "several ideals": ({"input": [ASK], "ideal": ["Yes.", "Yes"]}, "ideal", "one row for each"),
    "an item of other columns": ({"item": {"ticket": "t", "kind": "k"}}, "item", "ticket"),
    "a computer": (
        {"input": [ASK, {"type": "computer_call", "id": "c"}, SAY]}, "input[1]", "computer_call"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOST)
def test_what_would_be_lost_is_an_error_with_the_way_out(name: str) -> None:
    row, path, words = LOST[name]

    report = gateway.validate([row])

    found = [finding for finding in report.errors if finding.path == path]
    assert found, [(one.code, one.path) for one in report.findings]
    assert any(words in f"{one.message} {one.fix}" for one in found)
    assert not report.ok and report.format


def test_thinking_is_reasoning_and_images_are_addresses() -> None:
    row = block(type="thinking", thinking="It is night.", signature="s")
    row["messages"][0] = {
        "role": "user",
        "content": [
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": "AA"},
            },
            {"type": "text", "text": "Is it dark?"},
        ],
    }

    sent = read(row)

    assert sent.errors == []
    assert sent.row["messages"][1] == {**SAY, "reasoning_content": "It is night."}
    picture = sent.row["messages"][0]["content"][0]
    assert picture == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    assert sent.others == ("messages[].content[].signature",)
    assert sent.origin("messages[1].reasoning_content") == "messages[1].content[0].thinking"
    url = "messages[0].content[0].image_url.url"
    assert sent.origin(url) == "messages[0].content[0].source.data"


# A row, a path in what is sent, and the field of the row it comes from.
ORIGINS = [
    ("anthropic tools", "messages[1].tool_calls[0].function.arguments",
     "messages[1].content[1].input"),
    ("anthropic tools", "messages[3].content", "messages[3].content[0].text"),
    ("anthropic tools", "tools[0].function.parameters.type", "tools[0].input_schema.type"),
    ("converse", "messages[1].content", "messages[0].content[0].text"),
    ("converse tools", "messages[1].tool_calls[0].function.name",
     "messages[1].content[1].toolUse.name"),
    ("gemini", "messages[2].content", "contents[1].parts[0].text"),
    ("gemini tools", "tools[0].function.parameters",
     "tools[0].functionDeclarations[0].parameters"),
    ("responses tools", "messages[1].tool_calls[0].function.arguments", "input[2].arguments"),
    ("log of tools", "tools[0].function.name", "request.tools[0].function.name"),
    ("log", "messages[1].content", "response.choices[0].message.content"),
    ("log of bedrock", "messages[0].content", "input.inputBodyJson.messages[0].content[0].text"),
    ("langfuse", "messages[0].content", "input[0].content"),
    ("batch joined", "messages[0].content", "body.messages[0].content"),
    ("turns in a text", "messages[1].content", "conversations"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "field"), ORIGINS)
def test_a_finding_names_the_field_of_the_row(name: str, path: str, field: str) -> None:
    assert read(ROWS[name][1]).origin(path) == field


def test_a_system_text_is_counted_and_sent() -> None:
    names = ("converse", "gemini", "log of anthropic", "responses", "evals")
    wanted = gateway.validate([LED]).tokens
    for name in names:
        assert gateway.validate([ROWS[name][1]]).tokens == wanted


def test_what_is_accepted_is_submitted(home: Path, tmp_path: Path) -> None:
    rows = [
        {"system": [{"type": "text", "text": f"Be {n}."}], "messages": [
            {"role": "user", "content": f"Is room {n} dark?"},
            {"role": "assistant", "content": [{"type": "text", "text": f"Yes, {n}."}]}]}
        for n in range(12)
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    backend = FakeBackend()
    gateway.submit(path, model="m", backend=backend)
    gateway.Dataset.open(path).fix(tmp_path / "fixed.jsonl")
    gateway.Dataset.open(path).convert("openai", tmp_path / "converted.jsonl")

    for written in (
        backend.started[0][2].path,
        tmp_path / "fixed.jsonl",
        tmp_path / "converted.jsonl",
    ):
        first = json.loads(Path(written).read_text("utf-8").splitlines()[0])
        assert first["messages"] == [
            {"role": "system", "content": "Be 0."},
            {"role": "user", "content": "Is room 0 dark?"},
            {"role": "assistant", "content": "Yes, 0."},
        ]
        assert "system" not in first


FIELD = SHARED_DATA / "field_cases" / "25-request-log-rows"


@pytest.mark.skipif(not FIELD.is_dir(), reason="shared/data/field_cases is not here")
def test_rows_of_the_field_are_accepted() -> None:
    for path in sorted(FIELD.glob("*.jsonl")):
        report = gateway.validate(path, backend="openai")
        assert not report.errors, (path.name, report.errors)
