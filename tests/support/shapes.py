"""A row of each popular shape, and what is sent of it."""

from __future__ import annotations

import json
from typing import Any

from support.forms import ASK, BAD, CHOSEN, GOOD, PAIR, REJECTED, SYSTEM, TOOL, USER

Json = dict[str, Any]

ASKED, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
MORE = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
SAID = {"role": "system", "content": SYSTEM}
CHAT: Json = {"messages": [ASKED, ANSWER]}
LONG: Json = {"messages": [ASKED, ANSWER, *MORE]}
LED: Json = {"messages": [SAID, ASKED, ANSWER]}
FUNCTION: Json = {"name": "find", "parameters": {"type": "object"}}
TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def moss(**more: str) -> Json:
    marked = {"Human": "<|Human|>: Hi<eoh>\n", "MOSS": "<|MOSS|>: Hello<eom>\n"}
    idle = {
        "Commands": "<|Commands|>: None<eoc>\n",
        "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
    }
    return {"meta_instruction": SYSTEM, "chat": {"turn_1": {**marked, **idle, **more}}}


def hh(answer: str) -> str:
    return f"\n\nHuman: {ASK}\n\nAssistant: {answer}"


# The name of the format, a row, and what is sent of it.
SHAPES: dict[str, tuple[str, Json, Json]] = {
    "dolly": (
        "instruction-response",
        {"instruction": "Hi", "context": "", "response": "Hello", "category": "open_qa"},
        CHAT,
    ),
    "dolly with context": (
        "instruction-response",
        {"instruction": "Sum up.", "context": "Once.", "response": "Hello"},
        {"messages": [{"role": "user", "content": "Sum up.\n\nOnce."}, ANSWER]},
    ),
    "gpteacher": (
        "instruction-response", {"instruction": "Hi", "input": "", "response": "Hello"}, CHAT
    ),
    "a system text beside": (
        "instruction-response", {"system": SYSTEM, "instruction": "Hi", "response": "Hello"}, LED
    ),
    "prompt and response": ("prompt-response", {"prompt": "Hi", "response": "Hello"}, CHAT),
    "ms-swift": (
        "query-response",
        {"query": "Why?", "response": "So.", "history": [["Hi", "Hello"]]},
        LONG,
    ),
    "self-instruct": (
        "self-instruct",
        {"id": "seed_1", "instruction": "Hi", "instances": [{"input": "", "output": "Hello"}]},
        CHAT,
    ),
    "firefly": (
        "rounds",
        {
            "conversation_id": 7,
            "conversation": [
                {"human": "Hi", "assistant": "Hello"}, {"human": "Why?", "assistant": "So."},
            ],
        },
        LONG,
    ),
    "xtuner": (
        "rounds", {"conversation": [{"system": SYSTEM, "input": "Hi", "output": "Hello"}]}, LED
    ),
    "belle": ("rounds", {"conversations": [{"human": "Hi", "assistant": "Hello"}]}, CHAT),
    "coig": ("rounds", {"conversations": [{"question": "Hi", "answer": "Hello"}]}, CHAT),
    "moss": ("moss", moss(), LED),
    "a text in a template": (
        "chat-text", {"messages": "### Human: Hi\n### Assistant: Hello"}, CHAT
    ),
    "cohere": (
        "cohere",
        {"messages": [{"role": "System", "content": SYSTEM}, {"role": "User", "content": "Hi"},
                      {"role": "Chatbot", "content": "Hello"}]},
        LED,
    ),
    "a system text beside messages": ("openai-chat", {"system": SYSTEM, **CHAT}, LED),
    "an empty system text": ("openai-chat", {"system_prompt": None, **CHAT}, CHAT),
    "turns under messages": ("sharegpt", {"messages": TURNS}, CHAT),
    "turns under conversation": ("sharegpt", {"conversation": TURNS}, CHAT),
    "messages under conversations": ("sharegpt", {"conversations": CHAT["messages"]}, CHAT),
    "messages under conversation": ("sharegpt", {"conversation": CHAT["messages"]}, CHAT),
    "a system text by another name": (
        "prompt-completion", {"system_message": SYSTEM, "prompt": "Hi", "completion": "Hello"}, LED
    ),
    "a system text beside a pair": (
        "openai-preference",
        {"system": SYSTEM, **PAIR},
        {**PAIR, "input": {"messages": [SAID, USER]}},
    ),
    "a system text in the input": (
        "openai-preference",
        {**PAIR, "input": {"system": SYSTEM, "messages": [USER]}},
        {**PAIR, "input": {"messages": [SAID, USER]}},
    ),
    "tools beside a pair": (
        "openai-preference",
        {**PAIR, "tools": [TOOL]},
        {**PAIR, "input": {"messages": [USER], "tools": [TOOL]}},
    ),
    "a worse answer beside messages": (
        "rejected-response", {"messages": [USER, CHOSEN], "rejected_response": BAD}, PAIR
    ),
    "worse messages beside messages": (
        "rejected-response",
        {"messages": [USER, CHOSEN], "rejected_messages": [USER, REJECTED]},
        PAIR,
    ),
    "a worse answer beside a query": (
        "rejected-response", {"query": ASK, "response": GOOD, "rejected_response": BAD}, PAIR
    ),
    "preferred and dispreferred": (
        "named-pair", {"prompt": ASK, "preferred": GOOD, "dispreferred": BAD}, PAIR
    ),
    "accepted and rejected": (
        "named-pair", {"prompt": ASK, "accepted": GOOD, "rejected": BAD}, PAIR
    ),
    "numbered answers": (
        "choice",
        {"prompt": ASK, "response_0": BAD, "response_1": GOOD, "better_response_id": 1},
        PAIR,
    ),
    "numbered answers beside messages": (
        "choice",
        {
            "messages": [{"role": "user", "content": ASK}],
            "response_0": BAD, "response_1": GOOD, "better_response_id": 1,
        },
        PAIR,
    ),
    "answers with letters": (
        "choice",
        {"prompt": ASK, "response_a": GOOD, "response_b": BAD, "winner": "model_a"},
        PAIR,
    ),
    "two responses": (
        "rejected-response",
        {"prompt": ASK, "chosen_response": GOOD, "rejected_response": BAD},
        PAIR,
    ),
    "hh-rlhf with its prompt": (
        "hh-rlhf",
        {"prompt": f"\n\nHuman: {ASK}\n\nAssistant:", "chosen": f" {GOOD}", "rejected": f" {BAD}"},
        PAIR,
    ),
    "hh-rlhf with its prompt twice": (
        "hh-rlhf",
        {"prompt": f"\n\nHuman: {ASK}\n\nAssistant:", "chosen": hh(GOOD), "rejected": hh(BAD)},
        PAIR,
    ),
    "xlam": (
        "function-calls",
        {
            "query": "Hi",
            "tools": json.dumps([{"name": "find", "description": "Find.", "parameters": {
                "q": {"type": "str", "description": "What"}, "n": {"type": "int, optional"}}}]),
            "answers": json.dumps([{"name": "find", "arguments": {"q": "Hi"}}]),
        },
        {
            "messages": [ASKED, {"role": "assistant", "tool_calls": [{
                "id": "call_1", "type": "function",
                "function": {"name": "find", "arguments": '{"q": "Hi"}'}}]}],
            "tools": [{"type": "function", "function": {
                "name": "find", "description": "Find.", "parameters": {
                    "type": "object", "required": ["q"],
                    "properties": {"q": {"type": "string", "description": "What"},
                                   "n": {"type": "integer"}}}}}],
        },
    ),
    "roles for calls": (
        "tool-turns",
        {
            "messages": [
                ASKED, {"role": "tool_call", "content": '{"name": "find", "arguments": {}}'},
                {"role": "tool_response", "content": "1"}, ANSWER,
            ],
            "tools": json.dumps([TOOL]),
        },
        {
            "messages": [
                ASKED,
                {"role": "assistant", "tool_calls": [{
                    "id": "call_1", "type": "function",
                    "function": {"name": "find", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "call_1", "content": "1"},
                ANSWER,
            ],
            "tools": [TOOL],
        },
    ),
    "hh-rlhf": ("hh-rlhf", {"chosen": hh(GOOD), "rejected": hh(BAD)}, PAIR),
    "intel orca": (
        "trl-preference",
        {"system": SYSTEM, "question": ASK, "chosen": GOOD, "rejected": BAD},
        {**PAIR, "input": {"messages": [SAID, USER]}},
    ),
    "sides with messages": (
        "trl-preference",
        {"prompt": ASK, "chosen": {"messages": [USER, CHOSEN]},
         "rejected": {"messages": [USER, REJECTED]}},
        PAIR,
    ),
    "two outputs": ("output-pair", {"instruction": ASK, "input": "", "output": [GOOD, BAD]}, PAIR),
    "bare functions as tools": (
        "prompt-completion",
        {"prompt": "Hi", "completion": "Hello", "tools": [{"type": "function", **FUNCTION}]},
        {**CHAT, "tools": [TOOL]},
    ),
}  # fmt: skip
