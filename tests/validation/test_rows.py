"""``validate``: every class of fault, judged per backend, grouped, bounded, and never raising."""

from __future__ import annotations

import bz2
import gzip
import json
import re
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.rule_sets import LOCAL, OPENAI

import finetune_gateway
from finetune_gateway import Dataset
from finetune_gateway.data import dataset as dataset_module
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Defect, Report
from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.validation.collector import MAX_GROUPS, Findings
from finetune_gateway.validation.rules import COMMON, RULES, RuleSet, families
from finetune_gateway.validation.run import validate

Json = dict[str, Any]

PACKAGE = Path(finetune_gateway.__file__).parent
PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"


def good(number: int) -> Json:
    """A row with nothing wrong."""
    return {
        "messages": [
            {"role": "user", "content": f"What is {number} plus one?"},
            {"role": "assistant", "content": f"{number + 1}."},
        ]
    }


def written(tmp_path: Path, lines: Iterable[str | bytes], end: str = "\n") -> Dataset:
    """A file of these lines."""
    path = tmp_path / "rows.jsonl"
    raw = [line.encode() if isinstance(line, str) else line for line in lines]
    path.write_bytes(b"".join(line + end.encode() for line in raw))
    return Dataset.open(path)


def report_on(tmp_path: Path, *rows: Json | str | bytes, **options: Any) -> Report:
    """The report on ten good rows with these put in from line 6 on."""
    lines = [json.dumps(good(number)) for number in range(10)]
    odd = [json.dumps(row) if isinstance(row, dict) else row for row in rows]
    return validate(written(tmp_path, [*lines[:5], *odd, *lines[5:]]), **options)


def said(report: Report) -> dict[str, tuple[str, int | None, str]]:
    """Severity, line and path of each finding by its code."""
    return {one.code: (one.severity, one.line, one.path) for one in report.findings}


def chat(*messages: Json, **more: Any) -> Json:
    """A row of these messages."""
    return {"messages": list(messages), **more}


def user(content: Any = "Hello, who are you?", **more: Any) -> Json:
    return {"role": "user", "content": content, **more}


def answer(content: Any = "A machine.", **more: Any) -> Json:
    return {"role": "assistant", "content": content, **more}


def call(name: str = "find", arguments: Any = '{"q": "x"}', own: Any = "c1", **more: Any) -> Json:
    function = {"name": name, "arguments": arguments}
    return {"id": own, "type": "function", "function": function, **more}


def calling(*calls: Any) -> Json:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def result(own: str = "c1", content: Any = "found") -> Json:
    return {"role": "tool", "tool_call_id": own, "content": content}


def tool(name: str = "find", **schema: Any) -> Json:
    parameters = schema or {"type": "object", "properties": {"q": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def talk(*middle: Json, tools: Any = None, **more: Any) -> Json:
    """A row that uses tools, from the question to the answer."""
    return chat(user(), *middle, answer(), tools=[tool()] if tools is None else tools, **more)


def image(url: Any, count: int = 1) -> Json:
    return chat(user([{"type": "image_url", "image_url": {"url": url}}] * count), answer())


def arguments(value: Any) -> Json:
    return talk(calling(call(arguments=value)), result())


FOUND: list[tuple[Json, str, str]] = [
    # C: fields
    ({"foo": 1}, "missing_messages", "messages"),
    ({"Messages": []}, "missing_messages", "messages"),
    ({"messages": []}, "empty_messages", "messages"),
    ({"messages": None}, "type_error", "messages"),
    ({"messages": "[]"}, "type_error", "messages"),
    (chat("hi", answer()), "type_error", "messages[0]"),  # type: ignore[arg-type]  # no message
    (chat({"content": "x"}, answer()), "missing_role", "messages[0].role"),
    (chat({"role": None, "content": "x"}, answer()), "type_error", "messages[0].role"),
    (chat({"role": "user"}, answer()), "missing_content", "messages[0].content"),
    (chat(user(None), answer()), "missing_content", "messages[0].content"),
    (chat(user({"a": 1}), answer()), "type_error", "messages[0].content"),
    (chat(user(), answer(), answer("b", name=3)), "type_error", "messages[2].name"),
    # D: roles and their order
    (chat({"role": "User", "content": "x"}, answer()), "unknown_role", "messages[0].role"),
    (chat({"role": "user ", "content": "x"}, answer()), "unknown_role", "messages[0].role"),
    (chat(user(), answer(), user("And now?")), "last_not_assistant", "messages[2]"),
    (chat(user()), "no_assistant", "messages"),
    (chat({"role": "system", "content": "x"}), "no_assistant", "messages"),
    (chat(user(), answer("")), "empty_assistant", "messages[1].content"),
    (chat(user(), answer(" \n\u00a0")), "empty_assistant", "messages[1].content"),
    (chat(user(), answer("\u200b\u2060")), "empty_assistant", "messages[1].content"),
    (chat(user(), answer(None)), "empty_assistant", "messages[1].content"),
    # E: tools
    (arguments({"q": "x"}), "tool_args_type", "messages[1].tool_calls[0].function.arguments"),
    (arguments(""), "tool_args_json", "messages[1].tool_calls[0].function.arguments"),
    (arguments("{'q': 1}"), "tool_args_json", "messages[1].tool_calls[0].function.arguments"),
    (arguments('{"q": NaN}'), "tool_args_json", "messages[1].tool_calls[0].function.arguments"),
    (arguments("[1]"), "tool_args_object", "messages[1].tool_calls[0].function.arguments"),
    (talk(calling(call(own=None)), result()), "tool_id_missing", "messages[1].tool_calls[0].id"),
    (
        talk(calling(call(), call()), result()),
        "tool_id_duplicate",
        "messages[1].tool_calls[1].id",
    ),
    (talk(calling(call())), "tool_result_missing", "messages[1].tool_calls[0].id"),
    (
        talk(calling(call(), call(own="c2")), result("c2")),
        "tool_result_missing",
        "messages[1].tool_calls[0].id",
    ),
    (talk(result("c9")), "tool_result_orphan", "messages[1].tool_call_id"),
    (
        talk(calling(call()), result(), result()),
        "tool_result_orphan",
        "messages[3].tool_call_id",
    ),
    (
        talk(calling(call("fnd")), result()),
        "tool_undeclared",
        "messages[1].tool_calls[0].function.name",
    ),
    (
        talk(calling(call(type="tool")), result()),
        "tool_type",
        "messages[1].tool_calls[0].type",
    ),
    (chat(user(tool_calls=[call()]), answer()), "tool_calls_role", "messages[0].tool_calls"),
    (talk(tools=" "), "tools_json", "tools"),
    (talk(tools='[{"type": "function"}]'), "tools_json", "tools"),
    (talk(tools=[{"name": "f"}]), "type_error", "tools[0]"),
    (talk(tools=[tool("find it")]), "tool_name", "tools[0].function.name"),
    (talk(tools=[tool("x" * 65)]), "tool_name", "tools[0].function.name"),
    (talk(tools=[tool(type="string")]), "tool_schema", "tools[0].function.parameters.type"),
    (
        talk(tools=[tool(type="object", properties={"q": {"type": "text"}})]),
        "tool_schema",
        "tools[0].function.parameters.properties.q.type",
    ),
    (
        talk(tools=[tool(type="object", properties={"q": {"type": "array"}})]),
        "tool_schema_items",
        "tools[0].function.parameters.properties.q",
    ),
    (talk(tools=[tool(f"t{n}") for n in range(129)]), "tools_too_many", "tools"),
    (talk(parallel_tool_calls="yes"), "type_error", "parallel_tool_calls"),
    (talk(functions=[{"name": "f"}]), "tools_and_functions", "functions"),
    # F: weights
    (chat(user(weight=1), answer()), "weight_role", "messages[0].weight"),
    (chat(user(), answer(weight="1")), "weight_value", "messages[1].weight"),
    (chat(user(), answer(weight=0.5)), "weight_value", "messages[1].weight"),
    (chat(user(), answer(weight=True)), "weight_value", "messages[1].weight"),
    (chat(user(), answer(weight=None)), "weight_value", "messages[1].weight"),
    (chat(user(), answer(weight=0)), "nothing_to_learn", "messages"),
    # G: parts and images
    (chat(user([]), answer()), "part_field", "messages[0].content"),
    (chat(user(["x"]), answer()), "type_error", "messages[0].content[0]"),
    (chat(user([{"type": "text"}]), answer()), "part_field", "messages[0].content[0]"),
    (chat(user([{"text": "x"}]), answer()), "part_type", "messages[0].content[0].type"),
    (chat(user([{"type": "video"}]), answer()), "part_type", "messages[0].content[0].type"),
    (
        chat(user([{"type": "image_url", "image_url": PNG}]), answer()),
        "part_field",
        "messages[0].content[0]",
    ),
    (
        chat(user(), answer([{"type": "image_url", "image_url": {"url": PNG}}])),
        "image_role",
        "messages[1].content[0]",
    ),
    (
        chat(user(), answer([{"type": "text", "text": " "}])),
        "empty_assistant",
        "messages[1].content",
    ),
    (chat(user(), answer(), images=["a.png"]), "image_path", "images[0]"),
    *(
        (image(url), "image_path", "messages[0].content[0].image_url.url")
        for url in ("cat.png", "../x/cat.png", "file:///etc/passwd", "C:\\cat.png", "")
    ),
    *(
        (image(url), "image_url_forbidden", "messages[0].content[0].image_url.url")
        for url in (
            "http://example.com/a.png",
            "ftp://example.com/a.png",
            "https://localhost/a.png",
            "https://10.0.0.7/a.png",
            "https://169.254.169.254/latest",
            "https://[::1]/a.png",
            "https://2130706433/a.png",
            "https://127.1/a.png",
            "https://metadata.google.internal/a.png",
            "https://me:secret@example.com/a.png",
            "https://[oops/a.png",
        )
    ),
    *(
        (image(url), "image_data", "messages[0].content[0].image_url.url")
        for url in (
            "data:image/svg+xml;base64,PHN2Zz4=",
            "data:image/png,plain",
            "data:image/png;base64,/9j/AAAA",
            "data:image/png;base64,iVBORw0KGgo*",
        )
    ),
]

WARNED: list[tuple[Json, str, str]] = [
    (chat(user(), answer(), source="crm"), "unknown_key", "source"),
    (chat(user(note=1), answer()), "unknown_key", "messages[0].note"),
    (chat(user(""), answer()), "empty_content", "messages[0].content"),
    (
        chat({"role": "developer", "content": "x"}, user(), answer()),
        "developer_role",
        "messages[0]",
    ),
    (chat(user(), {"role": "system", "content": "x"}, answer()), "system_not_first", "messages[1]"),
    (chat(user(), user("And this?"), answer()), "same_role_twice", "messages[1]"),
    (chat(user(), answer(), answer("Yes.")), "same_role_twice", "messages[2]"),
    (chat(answer("Hi."), user(), answer()), "assistant_first", "messages[0]"),
    (chat({"role": "system", "content": "x"}, answer()), "no_user", "messages"),
    (chat(user(), calling(call()), result(), answer()), "tools_missing", "tools"),
    (
        arguments(json.dumps(json.dumps({"q": "x"}))),
        "tool_args_double_encoded",
        "messages[1].tool_calls[0].function.arguments",
    ),
    (talk(tools=[]), "tools_empty", "tools"),
    (talk(tools=[tool(), tool()]), "tool_duplicate", "tools[1].function.name"),
    (
        talk(calling(call()), result(), calling(call()), result()),
        "tool_id_reused",
        "messages[3].tool_calls[0].id",
    ),
    (
        talk(tools=[tool(type="object", properties={}, required=["q"])]),
        "tool_schema_required",
        "tools[0].function.parameters.required",
    ),
    (
        chat(user(), answer(), parallel_tool_calls=True),
        "parallel_without_tools",
        "parallel_tool_calls",
    ),
    (chat(user(), answer(), functions=[{"name": "f"}]), "deprecated_functions", "functions"),
    (
        chat(user(), {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}),
        "deprecated_functions",
        "messages[1].function_call",
    ),
    (chat(user(name="Jane Doe"), answer()), "name_chars", "messages[0].name"),
    # J: what texts hold
    (chat(user("Write to jane@acme-mail.org"), answer()), "pii", "messages[0].content"),
    (chat(user("Ring (212) 555-2147 at noon"), answer()), "pii", "messages[0].content"),
    (chat(user("Ring +44 20 7946 0958"), answer()), "pii", "messages[0].content"),
    (chat(user("Pay 4111-2222-3333-4448"), answer()), "pii", "messages[0].content"),
    (chat(user("Amex 378282246310013"), answer()), "pii", "messages[0].content"),
    (chat(user("IBAN GB82 WEST 1234 5698 7654 32"), answer()), "pii", "messages[0].content"),
    (chat(user("SSN 078-05-1120"), answer()), "pii", "messages[0].content"),
    (chat(user("key sk-proj-" + "a1B2" * 8), answer()), "secret", "messages[0].content"),
    (chat(user("AKIAIOSFODNN7EXAMPLE"), answer()), "secret", "messages[0].content"),
    (chat(user("-----BEGIN RSA PRIVATE KEY-----"), answer()), "secret", "messages[0].content"),
    (chat(user("x <|im_end|> y"), answer()), "special_tokens_in_text", "messages[0].content"),
    (chat(user(), answer("[INST] z [/INST]")), "special_tokens_in_text", "messages[1].content"),
    (chat(user("a \u202e b"), answer()), "bidi_control", "messages[0].content"),
    (chat(user("don\u00e2\u20ac\u2122t"), answer()), "mojibake", "messages[0].content"),
    (chat(user("caf\u00c3\u00a9"), answer()), "mojibake", "messages[0].content"),
    (chat(user("a \ufffd b"), answer()), "replacement_char", "messages[0].content"),
    (chat(user("hid\u200bden"), answer()), "invisible_char", "messages[0].content"),
    (chat(user("a\u0007b"), answer()), "control_char", "messages[0].content"),
]

ACCEPTED: list[Json] = [
    talk(calling(call()), result()),
    talk(calling(call(), call(own="c2")), result(), result("c2")),
    talk(calling(call(), call(own="c2")), result("c2"), result()),  # OpenAI matches by id
    chat(user(), calling(call()), tools=[tool()]),  # ends with the call that is to be learnt
    chat(user(), calling(call()), tools=[tool()], parallel_tool_calls=False),
    chat(user(), {"role": "assistant", "refusal": "No."}),
    chat(user(), answer("A.", weight=0), user("B?"), answer("C.", weight=1)),
    chat(user([{"type": "text", "text": "Hi."}]), answer([{"type": "text", "text": "Ho."}])),
    image(PNG),
    image("https://example.com/cat.png"),
    chat(user("cafe\u0301 \u2028 \u0627\u0644\u0639"), answer()),
    chat(user("\U0001f468\u200d\U0001f469\u200d\U0001f467"), answer()),  # a family, by joiners
    chat(user("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"), answer()),
    chat(user("5 + 3 = 8, 3.1415926535, 2024-01-15, 1-1000181-1, 10.0.0.1"), answer()),
    chat(user("Order 4111 1111 1111 1112; f(x) = [x]; a <b> c; me@home"), answer()),
    chat(user("\u00c0 la carte, \u00e2ge, \u00c3o, na\u00efve"), answer()),
    talk(tools=[tool(type="object", properties={"q": {"anyOf": [{"type": "null"}, True]}})]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "code", "path"), FOUND)
def test_an_error_is_named_with_its_place(row: Json, code: str, path: str, tmp_path: Path) -> None:
    """A row OpenAI would refuse is an error at line 6, with the path of the field."""
    report = report_on(tmp_path, row, backends=OPENAI)
    assert said(report)[code] == ("error", 6, path)
    assert report.outcome == "rejected"


@pytest.mark.parametrize(("row", "code", "path"), WARNED)
def test_a_doubt_is_a_warning_with_its_place(
    row: Json, code: str, path: str, tmp_path: Path
) -> None:
    """A row that trains, but likely not as meant, is a warning and nothing worse."""
    report = report_on(tmp_path, row, backends=OPENAI)
    assert said(report)[code] == ("warning", 6, path)
    assert report.outcome == "warned"


@pytest.mark.parametrize("row", ACCEPTED)
def test_good_rows_raise_no_alarm(row: Json, tmp_path: Path) -> None:
    """A good row, however unusual, is accepted without a word."""
    assert report_on(tmp_path, row, backends=OPENAI).findings == []


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "no_examples"),
        (b"\n \n\t\r\n", "no_examples"),
        (b"\xef\xbb\xbf", "no_examples"),
        ('{"a": 1}\n'.encode("utf-16"), "encoding_utf16"),
        ('{"a": 1}\n'.encode("utf-16-le"), "encoding_utf16"),
        ('{"a": 1}\n'.encode("utf-16-be"), "encoding_utf16"),
        ('{"a": 1}\n'.encode("utf-32"), "encoding_utf32"),
        ('{"a": 1}\n'.encode("utf-32-be"), "encoding_utf32"),
        (gzip.compress(b'{"a": 1}\n', mtime=0), "compressed"),
        (bz2.compress(b'{"a": 1}\n'), "compressed"),
        (b"PK\x03\x04rest", "compressed"),
        (b"\x28\xb5\x2f\xfdrest", "compressed"),
        (b"PAR1\0\0\0", "not_text"),
        (b"SQLite format 3\0", "not_text"),
        (b"\x80\x04\x95pickle", "not_text"),
        (b"\x89PNG\r\n\x1a\n", "not_text"),
        (bytes(range(1, 32)) * 20, "not_text"),
        (b'{"a": 1}\r{"a": 2}\r', "line_terminator"),
        (b"prompt,completion\na,b\n", "not_json"),
        (b"- role: user\n  content: x\n", "not_json"),
        (b'[{"messages": []}]\n', "json_array_not_jsonl"),
        (b'[\n{"messages": []},\n{"messages": []}\n]\n', "json_array_not_jsonl"),
        (b"[\n", "json_array_not_jsonl"),
        (b'{\n "messages": [\n ]\n}\n', "pretty_printed"),
        (b'{"a": 1}{"a": 2}\n', "json_extra_data"),
        (b"1\ntrue\nnull\n", "row_not_object"),
        (b'[{"role": "user", "content": "x"}]\n', "row_not_object"),
    ],
)
def test_a_file_that_is_no_jsonl_is_told_apart(raw: bytes, code: str, tmp_path: Path) -> None:
    """Bytes, encodings, other formats: one finding says what the file is."""
    path = tmp_path / "file.jsonl"
    path.write_bytes(raw)
    report = validate(Dataset.open(path))
    assert [one.code for one in report.errors] == [code]
    assert not report.ok and report.outcome == "rejected"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"messages": "caf\xe9"}', "encoding_not_utf8"),
        (b"\0" * 40, "nul_byte"),
        (b'{"messages": [', "json_truncated"),
        (b'{"messages": [{"role": "user", "content": "a\nb"}]}', "json_control_char"),
        (b"\xef\xbb\xbf{}", "bom_inside"),
        (b'{"messages":' * 5000, "json_too_deep"),
        (b"[1, 2]", "row_not_object"),
    ],
)
def test_a_broken_line_is_found_among_good_ones(line: bytes, code: str, tmp_path: Path) -> None:
    """One bad line is one error at line 6; the rows around it are read all the same."""
    report = report_on(tmp_path, line)
    assert said(report) == {code: ("error", 6, "")}
    assert report.rows == 11


def test_the_byte_of_a_wrong_encoding_is_told(tmp_path: Path) -> None:
    """The offset counts from the beginning of the file, not of the line."""
    head = len("".join(json.dumps(good(number)) + "\n" for number in range(5)))
    report = report_on(tmp_path, b'{"caf\xe9": 1}')
    assert f"yte {head + 5} of the file" in report.errors[0].message


def test_bom_blank_lines_and_line_ends(tmp_path: Path) -> None:
    """A mark and blank lines are warned of, with the lines as they stand in the file;
    CRLF, a missing last newline and blank lines at the end are not."""
    lines = [json.dumps(good(number)) for number in range(10)]
    marked = validate(written(tmp_path, ["\ufeff" + lines[0], *lines[1:4], "", " ", *lines[4:]]))
    assert said(marked) == {
        "utf8_bom": ("warning", 1, ""),
        "blank_line": ("warning", 5, ""),
    }
    assert marked.findings[1].lines == [5, 6] and marked.rows == 10
    assert validate(written(tmp_path, lines, end="\r\n")).findings == []
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert validate(Dataset.open(tmp_path / "rows.jsonl")).findings == []
    ending = validate(written(tmp_path, [*lines, "", ""]))
    assert ending.outcome == "accepted" and "trailing_blank_line" in said(ending)
    mixed = validate(written(tmp_path, [lines[0] + "\r", *lines[1:]]))
    assert mixed.outcome == "accepted" and "mixed_line_endings" in said(mixed)


def test_pretty_printed_objects_name_their_lines(tmp_path: Path) -> None:
    """Each object over several lines is one row; the first tells which lines it spans."""
    text = "\n".join(json.dumps(good(number), indent=1) for number in range(3))
    report = validate(written(tmp_path, [text]))
    assert [(one.code, one.count) for one in report.findings] == [("pretty_printed", 3)]
    assert "spans lines 1-12" in report.findings[0].message


def test_a_line_over_the_cap_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line above the cap is refused from its beginning, in bounded memory."""
    monkeypatch.setattr(dataset_module, "MAX_LINE", 1 << 20)
    path = tmp_path / "long.jsonl"
    path.write_bytes(b'{"messages": "' + b"x" * (30 << 20) + b'"}\n')
    tracemalloc.start()
    report = validate(Dataset.open(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [one.code for one in report.findings] == ["line_too_long"]
    assert peak < 8 << 20
    with pytest.raises(DataError, match="line 1 is longer"):
        next(Dataset.open(path).rows())


FORMATS: list[tuple[Json, str, str, str]] = [
    ({"prompt": "q", "completion": "a"}, "sft", "prompt-completion", "prompt_completion"),
    ({"instruction": "q", "input": "", "output": "a"}, "sft", "alpaca", "prompt_completion"),
    (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        "sft",
        "sharegpt",
        "chat",
    ),
    ({"text": "Once."}, "pretrain", "text", "text"),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, "dpo", "trl-preference", "preference"),
    (
        {"chosen": [user(), answer("a")], "rejected": [user(), answer("b")]},
        "orpo",
        "trl-preference",
        "preference",
    ),
    (
        {
            "input": {"messages": [user()]},
            "preferred_output": [answer("a")],
            "non_preferred_output": [answer("b")],
        },
        "dpo",
        "openai-preference",
        "preference",
    ),
    (
        {"prompt": "q", "completion": "a", "label": True},
        "kto",
        "unpaired-preference",
        "unpaired_preference",
    ),
    ({**good(0), "label": False}, "kto", "unpaired-preference", "unpaired_preference"),
    (good(0), "sft", "openai-chat", "chat"),
]


@pytest.mark.parametrize(("row", "method", "name", "kind"), FORMATS)
def test_known_formats_are_named_and_accepted(
    row: Json, method: str, name: str, kind: str, tmp_path: Path
) -> None:
    """A format is recognised by its keys, said in a note, and accepted for its method only."""
    dataset = written(tmp_path, [json.dumps(row)])
    report = validate(dataset, method=method, min_rows=1)
    assert (report.outcome, report.format, report.kind) == ("accepted", name, kind)
    other = validate(dataset, method="dpo" if method == "sft" else "sft", min_rows=1)
    assert [one.code for one in other.errors] == ["method_mismatch"]
    assert method.split()[0] in other.errors[0].fix or method == "orpo"
    assert other.errors[0].fix.startswith("Use --method ")


@pytest.mark.parametrize(
    ("row", "method", "code", "path"),
    [
        ({"instruction": "q", "input": ""}, "sft", "missing_output", "output"),
        ({"instruction": "q", "output": " "}, "sft", "empty_assistant", "output"),
        ({"instruction": None, "output": "a"}, "sft", "missing_prompt", "instruction"),
        ({"prompt": "q"}, "sft", "missing_completion", "completion"),
        ({"completion": "a"}, "sft", "missing_prompt", "prompt"),
        ({"prompt": 1, "completion": "a"}, "sft", "type_error", "prompt"),
        ({"text": ""}, "pretrain", "empty_text", "text"),
        ({"text": 5}, "pretrain", "type_error", "text"),
        ({"conversations": []}, "sft", "empty_messages", "conversations"),
        (
            {"conversations": [{"from": "hunan", "value": "q"}]},
            "sft",
            "unknown_role",
            "conversations[0].from",
        ),
        (
            {"conversations": [{"from": "human"}]},
            "sft",
            "missing_content",
            "conversations[0].value",
        ),
        ({"question": "q", "answer": "a"}, "sft", "unknown_format", ""),
        ({"custom_id": "1", "body": {"messages": []}}, "sft", "unknown_format", ""),
        ({}, "sft", "unknown_format", ""),
        ({"prompt": "q", "chosen": "a"}, "dpo", "missing_non_preferred", "rejected"),
        ({"prompt": "q", "rejected": "a"}, "dpo", "missing_preferred", "chosen"),
        ({"chosen": "a", "rejected": "b"}, "dpo", "missing_prompt", "prompt"),
        (
            {"chosen": [user("a"), answer()], "rejected": [user("b"), answer("x")]},
            "dpo",
            "preference_prompt_differs",
            "rejected",
        ),
        ({"prompt": "q", "completion": "a", "label": "yes"}, "kto", "label", "label"),
    ],
)
def test_faults_of_other_formats(
    row: Json, method: str, code: str, path: str, tmp_path: Path
) -> None:
    """Each format has its own needs, told with the field that is missing or wrong."""
    report = validate(written(tmp_path, [json.dumps(row)]), method=method, min_rows=1)
    assert said(report)[code] == ("error", 1, path)


def pair(**changes: Any) -> Json:
    """A preference row in OpenAI's form with some keys changed or, by None, left out."""
    row = {
        "input": {"messages": [user()]},
        "preferred_output": [answer("good")],
        "non_preferred_output": [answer("bad")],
        **changes,
    }
    return {key: value for key, value in row.items() if value is not None}


@pytest.mark.parametrize(
    ("row", "severity", "code", "path"),
    [
        (pair(input=None), "error", "missing_input", "input"),
        (pair(input={}), "error", "missing_messages", "input.messages"),
        (pair(input=[user()]), "error", "type_error", "input"),
        (pair(preferred_output=None), "error", "missing_preferred", "preferred_output"),
        (pair(preferred_output=[]), "error", "missing_preferred", "preferred_output"),
        (pair(non_preferred_output=None), "error", "missing_non_preferred", "non_preferred_output"),
        (pair(preferred_output="x"), "error", "type_error", "preferred_output"),
        (pair(preferred_output=[user()]), "error", "preference_role", "preferred_output[0].role"),
        (pair(preferred_output=[answer()] * 2), "error", "preference_turns", "preferred_output"),
        (
            pair(preferred_output=None, preferred_completion=[answer()]),
            "error",
            "preference_key",
            "preferred_completion",
        ),
        (
            {"non_preferred_completion": [answer("bad")]},
            "error",
            "missing_preferred",
            "preferred_output",
        ),
        (
            pair(input={"messages": [user([{"type": "image_url", "image_url": {"url": PNG}}])]}),
            "error",
            "preference_text_only",
            "input.messages[0].content[0]",
        ),
        (
            pair(non_preferred_output=[answer("good")]),
            "error",
            "preference_identical",
            "non_preferred_output",
        ),
        (
            pair(input={"messages": [user(), answer()]}),
            "warning",
            "preference_input_end",
            "input.messages[1]",
        ),
    ],
)
def test_faults_of_preference_pairs(
    row: Json, severity: str, code: str, path: str, tmp_path: Path
) -> None:
    """Both sides, their roles, their prompt: each fault with its place."""
    dataset = written(tmp_path, [json.dumps(row)])
    report = validate(dataset, method="dpo", backends=OPENAI, min_rows=1)
    assert said(report)[code] == (severity, 1, path)


def test_mixed_formats_name_both_and_the_first_line(tmp_path: Path) -> None:
    """The first row that differs is named, with both formats; all of them are one finding."""
    odd = {"prompt": "q", "completion": "a"}
    report = report_on(tmp_path, odd, {"instruction": "q", "output": "a"})
    found = report.errors[0]
    assert (found.code, found.line, found.count) == ("mixed_formats", 6, 2)
    assert "prompt-completion" in found.message and "openai-chat" in found.message


def test_reinforcement_rows_end_with_the_user(tmp_path: Path) -> None:
    """For reinforcement a row has no answer and may hold keys for the grader."""
    lines = [json.dumps({**chat(user(f"{n}?")), "reference": n}) for n in range(10)]
    assert validate(written(tmp_path, lines), method="reinforcement").outcome == "accepted"


def test_backends_are_judged_each_by_its_rules(tmp_path: Path) -> None:
    """A finding names those that would refuse, and is an error if one judged backend does."""
    row = talk(calling(call("other")), result())
    everywhere = report_on(tmp_path, row)
    assert everywhere.errors[0].backends == ["openai", "azure"]
    local = report_on(tmp_path, row, backends=LOCAL)
    assert (local.outcome, local.findings[0].backends) == ("warned", [])
    swapped = talk(calling(call(), call(own="c2")), result("c2"), result())
    assert "tool_result_order" in said(report_on(tmp_path, swapped, backends=LOCAL))


def test_rows_that_are_right_elsewhere_are_refused_where_they_are_not(tmp_path: Path) -> None:
    """Images, and arguments as TRL has them: of the known backends the one that minds least
    decides, and the finding names those that refuse; such a one alone makes it an error."""
    vision = report_on(tmp_path, image(PNG))
    (one,) = (one for one in vision.findings if one.code == "image_local")
    assert (vision.outcome, one.severity, one.backends) == ("accepted", "note", ["local"])
    assert report_on(tmp_path, image(PNG), backends=LOCAL).outcome == "rejected"
    objects = report_on(tmp_path, arguments({"q": "x"}))
    (one,) = objects.warnings
    assert (objects.outcome, one.code, one.backends) == (
        "warned", "tool_args_type", ["openai", "azure"],
    )  # fmt: skip
    assert report_on(tmp_path, arguments({"q": "x"}), backends=OPENAI).outcome == "rejected"


def test_azure_takes_more_images_than_openai(tmp_path: Path) -> None:
    """Ten are OpenAI's limit, 64 Azure's: each finding names whom it is about."""
    for count, refused in ((10, []), (11, ["openai"]), (64, ["openai"]), (65, ["azure", "openai"])):
        report = report_on(tmp_path, image(PNG, count))
        assert sorted(name for one in report.errors for name in one.backends) == refused, count


def test_too_few_rows(tmp_path: Path) -> None:
    """Fewer than ten are refused by hosted backends, warned of locally, and a setting."""
    dataset = written(tmp_path, [json.dumps(good(number)) for number in range(9)])
    assert validate(dataset).errors[0].backends == ["openai", "azure"]
    assert validate(dataset, backends=LOCAL).outcome == "warned"
    assert validate(dataset, min_rows=9).outcome == "accepted"


def test_repeated_rows_are_counted_with_their_lines(tmp_path: Path) -> None:
    """Exact repeats and those that differ in case and spaces are told apart."""
    again = json.dumps(good(1))
    shouted = again.replace("What is", "WHAT  is")
    report = report_on(tmp_path, again, shouted, again)
    found = {one.code: (one.count, one.lines) for one in report.warnings}
    assert found == {"duplicates": (2, [6, 8]), "near_duplicates": (1, [7])}
    assert "line 6 repeats line 2" in report.warnings[0].message


def test_the_same_fault_in_many_rows_is_one_finding(tmp_path: Path) -> None:
    """Thousands of equal defects give one finding with its count and the first ten lines."""
    lines = [json.dumps(chat(user(f"{n}?"), {"role": "bot", "content": "x"})) for n in range(3000)]
    report = validate(written(tmp_path, lines))
    assert [one.code for one in report.findings] == ["unknown_role"]
    assert (report.errors[0].count, report.errors[0].lines) == (3000, list(range(1, 11)))
    assert 'Did you mean "assistant"?' in report.errors[0].fix


def test_a_report_is_bounded(tmp_path: Path) -> None:
    """However many kinds of faults a file holds, a thousand are listed; long data is cut."""
    lines = [json.dumps({**good(n), f"k{n}" + "x" * 5000: 1}) for n in range(1500)]
    report = validate(written(tmp_path, lines))
    assert len(report.findings) == MAX_GROUPS + 1
    assert said(report)["too_many_findings"][0] == "warning"
    assert max(len(one.message) + len(one.path) for one in report.findings) < 700


def test_personal_data_is_masked(tmp_path: Path) -> None:
    """What was found is not repeated in the report."""
    row = chat(user("jane.doe@example.org, 4111 1111 1111 1111, AKIAIOSFODNN7EXAMPLE"), answer())
    text = report_on(tmp_path, row).model_dump_json()
    assert "jane.doe" not in text and "1111" not in text and "IOSFODNN7" not in text


def test_tokens_are_counted_in_the_same_pass(tmp_path: Path) -> None:
    """Good rows are counted and handed on once; a row over the context is an error."""
    seen: list[int] = []
    long = chat(user("word " * 3000), answer())
    bad = chat(user(), answer(""))
    counter = HostedCounter("gpt-4.1-mini")
    report = report_on(
        tmp_path, long, bad, model="gpt-4.1-mini", backends=OPENAI, counter=counter,
        max_context=2000, on_row=lambda row, line: seen.append(line),
    )  # fmt: skip
    assert said(report)["example_too_long"][:2] == ("error", 6)
    assert seen == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert report.tokens == counter.stats().summary()
    assert counter.stats().rows == 11


def test_a_line_is_listed_once(tmp_path: Path) -> None:
    """Two equal defects of one row count twice, and their line is listed once."""
    odd = chat(user(), {"role": "bot", "content": "a"}, {"role": "bot", "content": "b"}, answer())
    (finding,) = [one for one in report_on(tmp_path, odd).findings if one.code == "unknown_role"]
    assert (finding.count, finding.lines) == (2, [6])


def test_converted_formats_are_counted_as_chat(tmp_path: Path) -> None:
    """Alpaca and ShareGPT rows are counted as the chat they stand for."""
    rows = [{"instruction": f"What is {n}?", "output": "A number."} for n in range(10)]
    counter = HostedCounter("gpt-4.1-mini")
    validate(written(tmp_path, map(json.dumps, rows)), counter=counter)
    assert counter.stats().trained >= 30


def test_the_json_of_a_report(tmp_path: Path) -> None:
    """The report's JSON has the agreed keys and nothing else."""
    both = {**OPENAI, "azure": RuleSet("openai")}
    report = report_on(tmp_path, chat(user(), answer("")), backends=both)
    found = json.loads(report.model_dump_json())
    parts = ["ok", "format", "kind", "rows", "tokens", "quality", "findings", "ignored"]
    assert list(found) == parts
    assert {key: found[key] for key in ("ok", "format", "kind", "rows", "tokens")} == {
        "ok": False, "format": "openai-chat", "kind": "chat", "rows": 11, "tokens": None,
    }  # fmt: skip
    (one,) = found["findings"]
    assert one.pop("message") and one.pop("fix")
    assert one == {
        "code": "empty_assistant", "severity": "error", "line": 6, "kind": "",
        "path": "messages[1].content", "backends": ["openai", "azure"], "count": 1, "lines": [6],
    }  # fmt: skip


def test_a_report_raises_when_asked(tmp_path: Path) -> None:
    """``raise_for_errors`` carries the report, the line and the fix; warnings do not raise."""
    with pytest.raises(DataError, match="line 6") as caught:
        report_on(tmp_path, {"foo": 1}).raise_for_errors()
    assert caught.value.report is not None and caught.value.hint
    report_on(tmp_path, chat(user(), answer(), note=1)).raise_for_errors()


def test_every_code_is_in_the_table() -> None:
    """Each code that the checks emit has its rule, and each rule is used."""
    sources = [path for path in PACKAGE.rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    emitted = set(re.findall(r'Defect\(\s*"([a-z0-9_]+)"', text))
    assert emitted <= RULES.keys()
    named = set(re.findall(r'"([a-z0-9_]+)"', text)) | {"missing_prompt", "missing_completion"}
    assert RULES.keys() <= named


def test_every_rule_says_what_to_do() -> None:
    """Title, reason and advice are there, in sentences, and bounded."""
    for code, rule in RULES.items():
        assert rule.title and not rule.title.endswith("."), code
        assert rule.why.endswith(".") and rule.fix, code
        counts = any(rule.severity(family) for family in (COMMON, *families()))
        assert counts or code == "image_model", code  # which counts for some models of a host


def test_indices_are_folded_when_grouping() -> None:
    """messages[0] and messages[7] are the same kind of place."""
    findings = Findings(OPENAI)
    for index in range(20):
        findings.add(Defect("missing_role", f"messages[{index}].role"), index + 1)
    (one,) = findings.listed()
    assert (one.count, one.path, len(one.lines)) == (20, "messages[0].role", 10)


SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=8)
KEYS = st.sampled_from(
    [
        "messages", "role", "content", "tool_calls", "function", "name", "arguments", "id", "type",
        "tools", "parameters", "properties", "required", "items", "tool_call_id", "weight", "text",
        "image_url", "url", "prompt", "completion", "input", "preferred_output", "label", "from",
        "non_preferred_output", "chosen", "rejected", "conversations", "value", "instruction",
        "output", "functions", "function_call", "parallel_tool_calls", "images", "refusal", "enum",
    ]
)  # fmt: skip
WORDS = st.sampled_from(["user", "assistant", "tool", "system", "function", "text", "{}", "human"])
TREES = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)
ONE_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@ONE_FILE
@given(rows=st.lists(st.dictionaries(KEYS, TREES, max_size=5), max_size=4), method=st.sampled_from(
    ["sft", "dpo", "kto", "pretrain", "reinforcement"]
))  # fmt: skip
def test_any_row_gives_findings(rows: list[Json], method: str, tmp_path: Path) -> None:
    """Whatever JSON a row holds, the answer is a report with known codes."""
    report = validate(
        written(tmp_path, map(json.dumps, rows)), method=method, counter=HostedCounter("gpt-4.1")
    )
    assert report.rows == len(rows)
    assert {one.code for one in report.findings} <= RULES.keys()
    assert report.model_dump_json()


@ONE_FILE
@given(raw=st.binary(max_size=200) | st.text(alphabet='{}[]",: \n\r\\a1\ufeff').map(str.encode))
def test_any_bytes_give_findings(raw: bytes, tmp_path: Path) -> None:
    """Whatever bytes a file holds, the answer is a report; nothing random is accepted."""
    path = tmp_path / "bytes.jsonl"
    path.write_bytes(raw)
    report = validate(Dataset.open(path))
    assert report.outcome == "rejected"
    assert report.model_dump_json()
