"""Pairs and other rows that say the same in every form."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

ASK = "Please explain in some detail how a heat pump works in winter."
GOOD = "It moves heat from outside air into the house by a refrigerant cycle."
BAD = "No idea, please ask somebody else at the shop."
SYSTEM = "You are a helpful engineer and you are brief."
USER = {"role": "user", "content": ASK}
CHOSEN, REJECTED = {"role": "assistant", "content": GOOD}, {"role": "assistant", "content": BAD}
FROM_USER = {"from": "human", "value": ASK}
SIDES = {"chosen": GOOD, "rejected": BAD}
LISTS = {"chosen": [CHOSEN], "rejected": [REJECTED]}
FULL = {"chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]}
TURNS = {"chosen": {"from": "gpt", "value": GOOD}, "rejected": {"from": "gpt", "value": BAD}}
BARE: Json = {"messages": [USER]}
PAIR = {"input": BARE, "preferred_output": [CHOSEN], "non_preferred_output": [REJECTED]}

PAIRS: dict[str, Json] = {
    "openai": PAIR,
    "prompt + strings": {"prompt": ASK, **SIDES},
    "prompt list + lists": {"prompt": [USER], **LISTS},
    "messages + dicts": {"messages": [USER], "chosen": CHOSEN, "rejected": REJECTED},
    "conversations + turns": {"conversations": [FROM_USER], **TURNS},
    "conversations + strings": {"conversations": [FROM_USER], **SIDES},
    "instruction + strings": {"instruction": ASK, "input": "", **SIDES},
    "blank instruction, input + strings": {"instruction": "", "input": ASK, **SIDES},
    "input + strings": {"input": ASK, **SIDES},
    "prompt inside of both lists": FULL,
    "prompt + full lists": {"prompt": ASK, **FULL},
    "prompt list + full lists": {"prompt": [USER], **FULL},
    "conversation + strings": {"conversation": [FROM_USER], **SIDES},
    "query + strings": {"query": ASK, **SIDES},
    "ultrafeedback_binarized": {"prompt": ASK, **FULL, "messages": FULL["chosen"]},
}
WITH_SYSTEM = [name for name in PAIRS if name != "openai"]
COUNTS = (54, 26)  # tokens in all, and trained
SYSTEM_TOKENS = 14
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
