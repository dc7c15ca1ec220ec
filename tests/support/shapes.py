"""A row of each popular shape, and what is sent of it."""

from __future__ import annotations

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
    "moss": ("moss", moss(), LED),
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
