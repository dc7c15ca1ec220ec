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
CLAUDE: Json = {
    "type": "message", "role": "assistant", "content": [{"type": "text", "text": "Yes."}],
    "stop_reason": "end_turn",
}  # fmt: skip


def dumped(name: str, content: str, **more: Any) -> Json:
    """A message as LangChain dumps it."""
    path = ["langchain", "schema", "messages", name]
    kwargs = {"content": content, "type": name.lower(), **more}
    return {"lc": 1, "type": "constructor", "id": path, "kwargs": kwargs}


BY_HUMAN, BY_AI = dumped("HumanMessage", "Is it dark?"), dumped("AIMessage", "Yes.")


def chatgpt(*nodes: Json) -> Json:
    """A conversation as ChatGPT exports it: nodes by their ids, each with a message by ``role``."""
    texts = {"user": "Is it dark?", "assistant": "Yes.", "system": ""}
    mapping = {
        node["id"]: {
            "parent": None, "children": [], **node,
            "message": node.get("role") and {
                "author": {"role": node["role"]}, "recipient": node.get("recipient", "all"),
                "content": {"content_type": "text", "parts": [texts[node["role"]]]},
            },
        }
        for node in nodes
    }  # fmt: skip
    return {"title": "Lamps", "create_time": 1.5, "mapping": mapping}


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
        "batch",
        {
            "custom_id": "1",
            "body": {"messages": [ASK]},
            "response": {"status_code": 200, "body": RESPONSE},
        },
        CHAT,
    ),
    "batch with its answer": ("batch", {"custom_id": "1", "body": LED}, LED),
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
    "langchain": ("langchain", {"messages": [BY_HUMAN, BY_AI]}, CHAT),
    "langchain dicts": (
        "langchain",
        {"messages": [
            {"type": "system", "data": {"content": "Be brief.", "additional_kwargs": {}}},
            {"type": "human", "data": {"content": "Is it dark?", "type": "human", "name": None}},
            {"type": "ai", "data": {"content": "Yes.", "tool_calls": [], "id": None}},
        ]},
        LED,
    ),
    "langchain tools": (
        "langchain",
        {
            "messages": [
                {"type": "human", "content": "Is it dark?"},
                {"type": "ai",
                 "content": [
                     {"type": "text", "text": "I look."},
                     {"type": "tool_use", "id": "call_1", "name": "lamp", "input": ARGUMENTS},
                 ],
                 "tool_calls": [
                     {"name": "lamp", "args": ARGUMENTS, "id": "call_1", "type": "tool_call"}
                 ]},
                {"type": "tool", "content": '{"on": false}', "tool_call_id": "call_1"},
                {"type": "ai", "content": "Yes."},
            ],
            "tools": TOOLS["tools"],
        },
        TOOLS,
    ),
    "langsmith run": (
        "request-log",
        {"run_type": "llm", "error": None, "inputs": {"messages": [[BY_HUMAN]]},
         "outputs": {"generations": [[{"text": "Yes.", "message": BY_AI}]]}},
        CHAT,
    ),
    "langsmith graph": (
        "request-log", {"inputs": {"messages": [BY_HUMAN]}, "outputs": {
            "messages": [BY_HUMAN, BY_AI]}}, CHAT,
    ),
    "langsmith example": (
        "request-log", {"inputs": {"question": "Is it dark?"}, "outputs": {"answer": "Yes."}}, CHAT
    ),
    "langfuse item": ("request-log", {"input": [ASK], "expectedOutput": "Yes."}, CHAT),
    "langfuse texts": (
        "request-log", {"input": json.dumps([ASK]), "output": json.dumps(SAY), "level": "DEFAULT"},
        CHAT,
    ),
    "helicone texts": (
        "request-log",
        {"request_body": json.dumps({"messages": [SYSTEM, ASK]}),
         "response_body": json.dumps(RESPONSE)},
        LED,
    ),
    "litellm callback": (
        "request-log",
        {"kwargs": {"model": "m", "messages": [ASK]}, "response_obj": RESPONSE}, CHAT,
    ),
    "litellm payload": (
        "request-log",
        {"status": "success", "error_str": None, "messages": TOOLS["messages"][:3],
         "response": RESPONSE, "model_parameters": {"tools": TOOLS["tools"]}},
        TOOLS,
    ),
    "ollama": (
        "request-log",
        {"request": {"messages": [ASK]}, "response": {"message": SAY, "done": True}}, CHAT,
    ),
    "ollama line": ("request-log", {"model": "m", "messages": [ASK], "message": SAY}, CHAT),
    "ollama generate": (
        "request-log",
        {"request": {"prompt": "Is it dark?", "system": "Be brief."},
         "response": {"response": "Yes.", "done": True, "done_reason": "stop"}},
        LED,
    ),
    "cohere chat": (
        "cohere-history",
        {"preamble": "Be brief.", "chat_history": [], "message": "Is it dark?", "text": "Yes."},
        LED,
    ),
    "cohere history": (
        "cohere-history",
        {"chat_history": [{"role": "USER", "message": "Is it dark?"},
                          {"role": "CHATBOT", "message": "Yes."}], "text": "Yes."},
        CHAT,
    ),
    "log of cohere": (
        "request-log",
        {"request": {"message": "Is it dark?", "preamble": "Be brief."},
         "response": {"text": "Yes.", "finish_reason": "COMPLETE"}},
        LED,
    ),
    "log of cohere's second": (
        "request-log",
        {"request": {"messages": [ASK]}, "response": {"message": {
            "role": "assistant", "content": [{"type": "text", "text": "Yes."}]}}},
        CHAT,
    ),
    "batch of anthropic": (
        "batch",
        {"custom_id": "1", "params": {"system": "Be brief.", "messages": [ASK]},
         "result": {"type": "succeeded", "message": CLAUDE}},
        LED,
    ),
    "batch of bedrock": (
        "request-log",
        {"recordId": "1", "modelInput": {"messages": [ASK]}, "modelOutput": CLAUDE}, CHAT,
    ),
    "log of titan": (
        "request-log",
        {"modelInput": {"inputText": "Is it dark?"},
         "modelOutput": {"results": [{"outputText": "Yes.", "completionReason": "FINISH"}]}},
        CHAT,
    ),
    "yandex": (
        "request-log", {"request": [{"role": "user", "text": "Is it dark?"}], "response": "Yes."},
        CHAT,
    ),
    "evals item beside a key": (
        "evals-item", {"item": {"question": "Is it dark?", "answer": "Yes."}, "topic": "t"}, CHAT
    ),
    "palm": ("input-output", {"input_text": "Is it dark?", "output_text": "Yes."}, CHAT),
    "gemini texts": ("input-output", {"text_input": "Is it dark?", "output": "Yes."}, CHAT),
    "watsonx": ("input-output", {"input": "Is it dark?", "output": "Yes."}, CHAT),
    "flan": ("input-output", {"inputs": "Is it dark?", "targets": "Yes."}, CHAT),
    "palm chat": (
        "palm-chat",
        {"context": "Be brief.", "messages": [
            {"author": "user", "content": "Is it dark?"}, {"author": "bot", "content": "Yes."}]},
        LED,
    ),
    "ChatGPT's export": (
        "chatgpt-export",
        chatgpt(
            {"id": "0", "children": ["s"]},
            {"id": "s", "parent": "0", "children": ["a"], "role": "system"},
            {"id": "b", "parent": "a", "role": "assistant"},
            {"id": "a", "parent": "s", "children": ["b"], "role": "user"},
        ),
        CHAT,
    ),
    "claude's app": (
        "claude-export",
        {"uuid": "u", "chat_messages": [
            {"sender": "human", "text": "Is it dark?", "attachments": []},
            {"sender": "assistant", "text": "Yes."}]},
        CHAT,
    ),
}  # fmt: skip
