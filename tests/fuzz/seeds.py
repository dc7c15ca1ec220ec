"""Small files of our own that the fuzzers begin with, and the words they put in."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]

USER: Json = {"role": "user", "content": "Where is parcel 7?"}
ANSWER: Json = {"role": "assistant", "content": "In Utrecht, and it comes on Monday."}
SYSTEM: Json = {"role": "system", "content": "Be brief. Ne dis rien de plus. 你好 😀"}
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Finds a parcel",
        "parameters": {
            "type": "object",
            "properties": {"id": {"type": "integer"}, "way": {"enum": ["road", "sea"]}},
            "required": ["id"],
        },
        "strict": True,
    },
}
CALL: Json = {
    "id": "c1",
    "type": "function",
    "function": {"name": "find", "arguments": '{"id": 7, "way": "road"}'},
}
NESTED: Json = {  # a schema with what tools are described with
    "type": "object",
    "$defs": {"id": {"type": ["integer", "null"], "minimum": 1, "exclusiveMaximum": 9}},
    "properties": {
        "id": {"$ref": "#/$defs/id"},
        "tags": {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 3},
        "pair": {"prefixItems": [{"const": 1}, {"enum": ["a", True]}], "items": False},
        "way": {"anyOf": [{"type": "string"}, {"allOf": [{"type": "number"}]}]},
        "more": {"oneOf": [{"nullable": True}, {"additionalProperties": {"$ref": "#"}}]},
    },
    "additionalProperties": False,
}
NESTING: Json = {
    "id": "c2",
    "type": "function",
    "function": {
        "name": "find",
        "arguments": '{"id": 7, "tags": ["a"], "pair": [1, "a"], "way": 2, "more": {"id": null}}',
    },
}
TALK: list[Json] = [
    SYSTEM,
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "Utrecht"},
    {**ANSWER, "weight": 1},
]
IMAGE: Json = {
    "role": "user",
    "name": "jo",
    "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
    ],
}
TURNS: list[Json] = [
    {"from": "human", "value": "Where is parcel 7?"},
    {"from": "function_call", "value": '{"name": "find", "arguments": {"id": 7}}'},
    {"from": "observation", "value": "Utrecht"},
    {"from": "gpt", "value": "In Utrecht."},
]

ROWS: list[Json] = [
    {"messages": [USER, ANSWER]},
    {"messages": [SYSTEM, USER, {**ANSWER, "weight": 0}, USER, ANSWER], "id": 3},
    {"messages": TALK, "tools": [TOOL], "parallel_tool_calls": False},
    {
        "messages": [USER, {"role": "assistant", "tool_calls": [NESTING]}],
        "tools": [{"type": "function", "function": {"name": "find", "parameters": NESTED}}],
    },
    {"messages": [IMAGE, {**ANSWER, "refusal": None, "name": "bot"}]},
    {"messages": [{"role": "developer", "content": "x"}, USER, ANSWER]},
    {
        "messages": [
            USER,
            {"role": "assistant", "function_call": {"name": "find", "arguments": "{}"}},
            {"role": "function", "name": "find", "content": "Utrecht"},
            ANSWER,
        ],
        "functions": [TOOL["function"]],
    },
    {"messages": [USER], "reference": {"answer": 4}},
    {
        "input": {"messages": [USER], "tools": [TOOL], "parallel_tool_calls": True},
        "preferred_output": [ANSWER],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    },
    {"prompt": "Where is it?", "completion": " In Utrecht."},
    {"prompt": [USER], "completion": [ANSWER], "label": True},
    {"messages": [USER, ANSWER], "label": False},
    {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away", "score": 1.5e3},
    {"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "No."}]},
    {"conversations": TURNS, "tools": '[{"name": "find", "parameters": {}}]', "system": "Be kind."},
    {"conversations": TURNS[:1], "chosen": TURNS[3], "rejected": {"from": "gpt", "value": "No."}},
    {
        "instruction": "Add",
        "input": "1 and 2",
        "output": "3",
        "history": [["Who?", "Me."]],
        "system": "S",
    },
    {"text": "Call me Ishmael. Some years ago"},
    {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}},
    {
        "messages": [
            USER,
            {**ANSWER, "content": "jane@example.org, 4111 1111 1111 1111, <|im_end|>"},
        ]
    },
]
LINES = [json.dumps(row, ensure_ascii=bool(number % 2)) for number, row in enumerate(ROWS)]

FILES: list[bytes] = [
    *[line.encode() for line in LINES],
    "\n".join(LINES[:3]).encode() + b"\n",
    ("\ufeff" + "\r\n".join(LINES[:2])).encode(),
    json.dumps(ROWS[:2]).encode(),
    json.dumps(ROWS[:2], indent=1).encode(),
    "\n\n".join(LINES[7:9]).encode(),
    LINES[0].replace("Utrecht", "Utre\ncht").encode(),
    "".join(LINES[:2]).encode(),
    "\r".join(LINES[:2]).encode(),
    LINES[0].encode("utf-16"),
    LINES[0].encode("utf-32-le"),
    b"prompt,completion\na,b\n",
    b'{"a": [1, -0.5e+10, true, false, null, "\\u00e9\\ud83d\\ude00\\n", {}, []]}',
    b'{"a": 1, "a": NaN, "b": 1e999, "c": "\\ud800", "d": "\\u0000"}',
]

WORDS: list[bytes] = sorted(
    {
        *(word.encode() for line in LINES for word in line.split('"') if 0 < len(word) < 40),
        b"\\ud83d", b"\\u0000", b"\\u202e", b"\\ufeff", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b",
        b"NaN", b"-Infinity", b"1e999", b"1e-999", b"-0", b"true", b"null", b"\r\n", b"\n", b"{}",
        b"[]", b'""', b"//", b"\xe2\x80\x9c", b"\xe2\x80\xa8", b"\x00", b"None", b"\\",
        b'"\\"{}\\""', b"data:image/png;base64,iVBORw0KGgo=", b"http://127.0.0.1/", b"$ref", b"#",
        b"anyOf", b"additionalProperties", b"pattern", b"weight_value", b"function_call", b"tool",
    }
)  # fmt: skip
