"""Rows of other services and of logs, and what is sent of them."""

from __future__ import annotations

import json
from typing import Any

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
