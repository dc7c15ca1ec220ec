"""Rows of other services and logs are read where nothing is lost, or named with the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.paths import SHARED_DATA
from support.services import ASK, CONTENTS, CONVERSE, LED, RESPONSE, ROWS, SAY, SYSTEM, chatgpt

import finetune_gateway as gateway
from finetune_gateway import FakeBackend
from finetune_gateway.data.canonical import canonical, read
from finetune_gateway.data.formats import format_of

Json = dict[str, Any]


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


def test_keys_that_stay_here_are_named_in_their_order() -> None:
    """A report reads the same in each run, whatever the order of a set."""
    keys = [f"parameter_{n}" for n in range(8)]
    row = {"request": {"messages": [ASK], **dict.fromkeys(keys, 1)}, "response": RESPONSE}
    assert [one for one in read(row).others if "parameter" in one] == [
        f"request.{key}" for key in keys
    ]


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
    "a batch that failed": (
        {"custom_id": "1", "body": {"messages": [ASK]},
         "response": {"status_code": 400, "body": {"error": {"message": "x"}}}},
        "response.status_code", "failed",
    ),
    "a batch that was cancelled": (
        {"custom_id": "1", "params": {"messages": [ASK]}, "result": {"type": "canceled"}},
        "result.type", "failed",
    ),
    "a failed call of a proxy": (
        {"status": "failure", "messages": [ASK], "response": "RateLimitError"}, "status", "failed"
    ),
    "a run with an error": (
        {"inputs": {"messages": [ASK]}, "outputs": {"messages": [ASK]}, "error": "x"},
        "error", "failed",
    ),
    "events of a stream": (
        {"request": {"messages": [ASK]}, "response": 'data: {"choices": []}\n\ndata: [DONE]'},
        "response", "pieces",
    ),
    "chunks of a stream": (
        {"messages": [ASK], "choices": [{"delta": {"content": "Ye"}}]}, "choices[0]", "pieces"
    ),
    "a stored answer": (
        {"id": "c", "object": "chat.completion", "choices": RESPONSE["choices"]},
        "", "without its request",
    ),
    "a piece": (
        {"id": "c", "object": "chat.completion.chunk", "choices": [{"delta": {}}]}, "", "piece"
    ),
    "columns of an example": (
        {"inputs": {"question": "Is it?", "context": "Night."}, "outputs": {"answer": "Yes."}},
        "inputs.context", "prompt",
    ),
    "documents": (
        {"message": "Is it?", "chat_history": [], "documents": [{"text": "Night."}], "text": "Yes"},
        "documents", "message",
    ),
    "examples of a context": (
        {"examples": [{"input": {"content": "a"}, "output": {"content": "b"}}], "messages": [
            {"author": "user", "content": "Is it?"}, {"author": "bot", "content": "Yes."}]},
        "examples", "context",
    ),
    "a file of Claude's app": (
        {"chat_messages": [{"sender": "human", "text": "See.", "files": [{"file_name": "a"}]},
                           {"sender": "assistant", "text": "Yes."}]},
        "chat_messages[0].files", "text",
    ),
    "ChatGPT's export": ({"title": "t", "mapping": {"a": {}}}, "", "each path"),
    "a branch in ChatGPT's export": (
        chatgpt(
            {"id": "a", "children": ["b", "c"], "role": "user"},
            {"id": "b", "parent": "a", "role": "assistant"},
            {"id": "c", "parent": "a", "role": "assistant"},
        ),
        "", "current_node",
    ),
    "a tool of ChatGPT": (
        chatgpt(
            {"id": "a", "children": ["b"], "role": "user"},
            {"id": "b", "parent": "a", "children": ["c"], "role": "assistant", "recipient": "web"},
            {"id": "c", "parent": "b", "role": "assistant"},
        ),
        "mapping[1].message.recipient", "leave this conversation out",
    ),
    "a trace": ({"gen_ai.input.messages": "[]"}, "", "OpenTelemetry"),
    "a call that is no JSON": (
        {"messages": [{"type": "human", "content": "Is it?"}, {
            "type": "ai", "content": "", "invalid_tool_calls": [{"name": "n", "args": "{"}]}]},
        "messages[1].invalid_tool_calls", "JSON",
    ),
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
    assert not report.ok


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
    ("langchain dicts", "messages[0].content", "messages[0].data.content"),
    ("langchain tools", "messages[1].tool_calls[0].function.arguments",
     "messages[1].tool_calls[0].args"),
    ("langsmith run", "messages[0].content", "inputs.messages[0][0].kwargs.content"),
    ("langsmith run", "messages[1].content", "outputs.generations[0][0].message.kwargs.content"),
    ("helicone texts", "messages[1].content", "request_body.messages[1].content"),
    ("litellm payload", "tools[0].function.name", "model_parameters.tools[0].function.name"),
    ("cohere history", "messages[1].content", "chat_history[1].message"),
    ("batch of anthropic", "messages[2].content", "result.message.content[0].text"),
    ("palm", "messages[1].content", "output_text"),
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
