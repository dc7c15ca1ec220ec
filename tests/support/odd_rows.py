"""Rows and files that a training set should not hold, and good ones that only look odd.

Each outcome was decided before the checks were run. What decides: OpenAI's schema of a training
line (openai-openapi at 9a72a42: FineTuneChatRequestInput, FineTunePreferenceRequestInput,
FineTuneReinforcementRequestInput), OpenAI's guides on fine-tuning, RFC 8259 for JSON, RFC 3629
for UTF-8; what none of them forbids and still goes wrong somewhere is a warning.
"""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

Json = dict[str, Any]

A, W, R = "accepted", "warned", "rejected"

BYTES = (
    "data:image/png;base64,"
    + base64.b64encode(
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0\x1f\x15\xc4\x89"
    ).decode()
)
CALL = "messages[1].tool_calls[0]"
ARGUMENTS = f"{CALL}.function.arguments"
CONTENT = "messages[0].content"
ANSWER = "messages[1].content"
PARAMETERS = "tools[0].function.parameters"


class Case(NamedTuple):
    """What is said of a row among good ones, or of a file: outcome for a hosted backend, code,
    path; ``local``: the outcome for training here, where it is another."""

    name: str
    given: Any
    outcome: str
    code: str = ""
    path: str = ""
    local: str = ""


# -- pieces of rows -----------------------------------------------------------------------


def chat(*messages: Any, **more: Any) -> Json:
    return {"messages": list(messages), **more}


def user(content: Any = "What is it?", **more: Any) -> Json:
    return {"role": "user", "content": content, **more}


def answer(content: Any = "It is a lamp.", **more: Any) -> Json:
    return {"role": "assistant", "content": content, **more}


def system(content: Any = "Be brief.", **more: Any) -> Json:
    return {"role": "system", "content": content, **more}


def asked(content: Any) -> Json:
    return chat(user(content), answer())


def said(content: Any) -> Json:
    return chat(user(), answer(content))


def part(**fields: Any) -> Json:
    return chat(user([fields]), answer())


def image(url: Any, **more: Any) -> Json:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def call(name: Any = "find", arguments: Any = '{"q": "x"}', own: Any = "c1", **more: Any) -> Json:
    return {
        "id": own,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
        **more,
    }


def calling(*calls: Any, **more: Any) -> Json:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def result(own: Any = "c1", content: Any = "found", **more: Any) -> Json:
    return {"role": "tool", "tool_call_id": own, "content": content, **more}


def tool(name: Any = "find", schema: Any = None, **more: Any) -> Json:
    schema = (
        {"type": "object", "properties": {"q": {"type": "string"}}} if schema is None else schema
    )
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}


def schema(required: Any = None, **properties: Any) -> Json:
    found: Json = {"type": "object", "properties": properties}
    return found if required is None else {**found, "required": required}


def talk(*middle: Json, tools: Any = None, **more: Any) -> Json:
    """A conversation that uses tools, from the question to the answer."""
    return chat(user(), *middle, answer(), tools=[tool()] if tools is None else tools, **more)


def arguments(given: Any, parameters: Any = None) -> Json:
    return talk(calling(call(arguments=given)), result(), tools=[tool(schema=parameters)])


def offered(parameters: Any) -> Json:
    """A row that offers a tool of these parameters and does not call it."""
    return talk(tools=[tool(schema=parameters)])


def pair(**changes: Any) -> Json:
    """A preference row with some keys changed or, by None, left out."""
    row = {
        "input": chat(user()),
        "preferred_output": [answer("A lamp.")],
        "non_preferred_output": [answer("No idea.")],
        **changes,
    }
    return {key: value for key, value in row.items() if value is not None}


# -- rows among good ones -----------------------------------------------------------------

# RFC 8259: sections 2 and 3 (grammar), 4 (names should be unique), 6 (numbers), 7 (strings: no raw
# control characters), 8.2 (unpaired surrogates are unpredictable), 9 (a parser may limit depth).
LINES = [
    Case("key_twice_at_top", b'{"messages": [], "messages": []}', R, "json_duplicate_key", "messages"),
    Case("key_twice_role", b'{"messages": [{"role": "user", "role": "system", "content": "a"}]}',
         R, "json_duplicate_key", "messages[0].role"),
    Case("key_twice_written_otherwise", b'{"messages": [{"role": "user", "rol\\u0065": "a"}]}',
         R, "json_duplicate_key", "messages[0].role"),
    Case("key_twice_in_schema",
         b'{"messages": [], "tools": [{"function": {"parameters": {"a": 1, "b": {"c": 1, "c": 2}}}}]}',
         R, "json_duplicate_key", "tools[0].function.parameters.b.c"),
    Case("key_twice_unread", b'{"messages": [], "meta": {"id": 1, "id": 2}}',
         R, "json_duplicate_key", "meta.id"),
    Case("key_twice_third_message",
         b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, '
         b'{"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "content": "d"}]}',
         R, "json_duplicate_key", "messages[3].content"),
    Case("infinity", b'{"messages": [], "score": Infinity}', R, "json_nan", "score"),
    Case("minus_infinity", b'{"messages": [], "scores": [1, -Infinity]}', R, "json_nan", "scores[1]"),
    Case("nan_in_schema", b'{"messages": [], "tools": [{"default": NaN}]}', R, "json_nan", "tools[0].default"),
    Case("nan_small", b'{"messages": nan}', R, "json_python_literal"),
    Case("overflow", b'{"messages": [], "score": -1E+400}', R, "json_number", "score"),
    Case("digits_5000", b'{"messages": [], "score": ' + b"9" * 5000 + b"}", R, "json_number"),
    Case("leading_zero", b'{"messages": [], "score": 007}', R, "json_syntax"),
    Case("plus_sign", b'{"messages": [], "score": +1}', R, "json_syntax"),
    Case("bare_point", b'{"messages": [], "score": .5}', R, "json_syntax"),
    Case("point_at_end", b'{"messages": [], "score": 1.}', R, "json_syntax"),
    Case("hexadecimal", b'{"messages": [], "score": 0x1F}', R, "json_syntax"),
    Case("underscore", b'{"messages": [], "score": 1_000}', R, "json_syntax"),
    Case("high_half", rb'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\uD83D"}]}',
         R, "lone_surrogate", ANSWER),
    Case("low_half", rb'{"messages": [{"role": "user", "content": "\ude00 a"}, {"role": "assistant", "content": "b"}]}',
         R, "lone_surrogate", CONTENT),
    Case("halves_turned", rb'{"messages": [{"role": "user", "content": "\ude00\ud83d"}, {"role": "assistant", "content": "b"}]}',
         R, "lone_surrogate", CONTENT),
    Case("half_in_key", rb'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "\ud83d": 1}',
         R, "lone_surrogate", '["\\ud83d"]'),
    Case("half_in_arguments", rb'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": '
         rb'[{"id": "c", "type": "function", "function": {"name": "find", "arguments": "{\"q\": \"\\ud83d\"}"}}]}], '
         rb'"tools": [{"type": "function", "function": {"name": "find"}}]}', R, "lone_surrogate", ARGUMENTS),
    Case("half_raw", b'{"messages": [{"role": "user", "content": "\xed\xa0\xbd"}]}', R, "encoding_not_utf8"),
    Case("halves_raw_cesu8", b'{"messages": "\xed\xa0\xbd\xed\xb8\x80"}', R, "encoding_not_utf8"),
    Case("overlong_slash", b'{"messages": "\xc0\xaf"}', R, "encoding_not_utf8"),
    Case("overlong_nul", b'{"messages": "\xc0\x80"}', R, "encoding_not_utf8"),
    Case("overlong_three", b'{"messages": "\xe0\x80\xaf"}', R, "encoding_not_utf8"),
    Case("five_bytes", b'{"messages": "\xf8\x88\x80\x80\x80"}', R, "encoding_not_utf8"),
    Case("beyond_unicode", b'{"messages": "\xf4\x90\x80\x80"}', R, "encoding_not_utf8"),
    Case("character_cut", b'{"messages": "caf\xc3"}', R, "encoding_not_utf8"),
    Case("lonely_byte", b'{"messages": "\x80"}', R, "encoding_not_utf8"),
    Case("cp1252_quotes", b'{"messages": "\x93hi\x94"}', R, "encoding_not_utf8"),
    Case("shift_jis", '{"messages": "日本語"}'.encode("shift_jis"), R, "encoding_not_utf8"),
    Case("gbk", '{"messages": "你好"}'.encode("gbk"), R, "encoding_not_utf8"),
    Case("koi8", '{"messages": "привет"}'.encode("koi8_r"), R, "encoding_not_utf8"),
    Case("mark_inside", b'\xef\xbb\xbf{"messages": []}', R, "bom_inside"),
    Case("nul_in_string", b'{"messages": "a\0b"}', R, "nul_byte"),
    Case("nul_after_row", b'{"messages": []}\0\0\0', R, "nul_byte"),
    Case("depth_of_lists", b'{"messages": ' + b"[" * 150 + b"]" * 150 + b"}", R, "json_too_deep"),
    Case("depth_of_both", b'{"messages": ' + b'[{"a":' * 60 + b"1" + b"}]" * 60 + b"}", R, "json_too_deep"),
    Case("depth_bomb", b"[" * 300_000, R, "json_too_deep"),
    Case("depth_unread", b'{"messages": [], "x": ' + b'{"a":' * 120 + b"1" + b"}" * 121, R, "json_too_deep"),
    Case("comma_before_bracket", b'{"messages": [{"role": "user", "content": "a"},]}', R, "json_syntax"),
    Case("comma_after_row", b'{"messages": []},', R, "json_syntax"),
    Case("comma_twice", b'{"messages": [],, "a": 1}', R, "json_syntax"),
    Case("comma_first", b'{, "messages": []}', R, "json_syntax"),
    Case("comma_missing", b'{"messages": [] "tools": []}', R, "json_syntax"),
    Case("colon_missing", b'{"messages" []}', R, "json_syntax"),
    Case("value_missing", b'{"messages": }', R, "json_syntax"),
    Case("bracket_wrong", b'{"messages": [}', R, "json_syntax"),
    Case("bracket_too_many", b'{"messages": []}}', R, "json_syntax"),
    Case("bracket_missing", b'{"messages": [{"role": "user", "content": "a"}}', R, "json_syntax"),
    Case("key_bare", b'{messages: []}', R, "json_syntax"),
    Case("key_is_number", b'{1: []}', R, "json_syntax"),
    Case("quote_inside", b'{"messages": "he said "hi" to me"}', R, "json_syntax"),
    Case("escape_x", rb'{"messages": "\x41"}', R, "json_syntax"),
    Case("escape_quote", rb'{"messages": "it\'s"}', R, "json_syntax"),
    Case("escape_u_short", rb'{"messages": "\u12G4"}', R, "json_syntax"),
    Case("escape_path", rb'{"messages": "C:\Users"}', R, "json_syntax"),
    Case("comment_slashes", b'{"messages": []} // checked', R, "json_comment"),
    Case("comment_inside", b'{"messages": /* none */ []}', R, "json_comment"),
    Case("comment_hash", b'{"messages": [] # none', R, "json_comment"),
    Case("comment_line", b"// the next rows are older", R, "json_comment"),
    Case("comment_line_hash", b"# the next rows are older", R, "json_comment"),
    Case("single_quotes", b"{'messages': [{'role': 'user', 'content': 'a'}]}", R, "json_single_quotes"),
    Case("single_quotes_value", b"""{"messages": 'a'}""", R, "json_single_quotes"),
    Case("backticks", b'{`messages`: []}', R, "json_syntax"),
    Case("smart_single", "{‘messages’: []}".encode(), R, "json_smart_quotes"),
    Case("smart_value", '{"messages": “a”}'.encode(), R, "json_smart_quotes"),
    Case("guillemets", "{«messages»: []}".encode(), R, "json_smart_quotes"),
    Case("python_none", b'{"messages": None}', R, "json_python_literal"),
    Case("python_true", b'{"messages": [], "a": True}', R, "json_python_literal"),
    Case("undefined", b'{"messages": undefined}', R, "json_python_literal"),
    Case("capital_null", b'{"messages": NULL}', R, "json_python_literal"),
    Case("tab_raw", b'{"messages": "a\tb"}', R, "json_control_char"),
    Case("return_raw", b'{"messages": "a\rb"}', R, "json_control_char"),
    Case("escape_raw", b'{"messages": "\x1b[31m"}', R, "json_control_char"),
    Case("separator_raw", b'{"messages": "a\x1cb"}', R, "json_control_char"),
    Case("two_on_a_line", b'{"messages": []}{"messages": []}', R, "json_extra_data"),
    Case("two_with_space", b'{"messages": []} {"messages": []}', R, "json_extra_data"),
    Case("two_with_comma", b'{"messages": []}, {"messages": []}', R, "json_extra_data"),
    Case("two_with_text_n", rb'{"messages": []}\n{"messages": []}', R, "json_extra_data"),
    Case("text_after", b'{"messages": []} done', R, "json_syntax"),
    Case("cut_in_string", b'{"messages": [{"role": "user", "content": "What is', R, "json_truncated"),
    Case("cut_in_list", b'{"messages": [{"role": "user", "content": "a"},', R, "json_truncated"),
    Case("cut_after_colon", b'{"messages":', R, "json_truncated"),
    Case("cut_in_key", b'{"mess', R, "json_truncated"),
    Case("cut_in_escape", b'{"messages": "a\\u00', R, "json_truncated"),
    Case("cut_word", b'{"messages": nul', R, "json_truncated"),
    Case("list_row", b'[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]',
         R, "row_not_object"),
    Case("list_empty", b"[]", R, "row_not_object"),
    Case("list_of_rows", b'[{"messages": []}, {"messages": []}]', R, "json_array_not_jsonl"),
    Case("null_row", b"null", R, "row_not_object"),
    Case("number_row", b"42", R, "row_not_object"),
    Case("string_row", b'"hello"', R, "row_not_object"),
    Case("row_in_string", json.dumps(json.dumps(asked("a"))).encode(), R, "row_not_object"),
    Case("empty_row", b"{}", R, "missing_messages", "messages"),
    Case("text_line", b"Here are some more examples:", R, "not_json"),
    Case("csv_line", b"hi,there,you", R, "not_json"),
    Case("merge_conflict", b"<<<<<<< HEAD", R, "not_json"),
    Case("event_stream", b'data: {"messages": []}', R, "not_json"),
    Case("numbered_line", b'6: {"messages": []}', R, "not_json"),
    Case("fence", b"```json", R, "not_json"),
    Case("record_separator", b'\x1e{"messages": []}', R, "not_json"),
    Case("ellipsis", b"...", R, "not_json"),
    Case("javascript", b'var row = {"messages": []};', R, "not_json"),
    Case("no_break_space", '\u00a0{"messages": []}'.encode(), R, "not_json"),
    Case("ansi_escape", rb'{"messages": [{"role": "user", "content": "\u001b[31mred"}, {"role": "assistant", "content": "b"}]}',
         W, "control_char", CONTENT),
    Case("backspace", rb'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\beta"}]}',
         W, "control_char", ANSWER),
    Case("form_feed", rb'{"messages": [{"role": "user", "content": "\frac12"}, {"role": "assistant", "content": "b"}]}',
         W, "control_char", CONTENT),
    Case("delete", rb'{"messages": [{"role": "user", "content": "a\u007f"}, {"role": "assistant", "content": "b"}]}',
         W, "control_char", CONTENT),
]  # fmt: skip

# OpenAI's schema of a line; the cookbook's checks (missing_messages_list, message_missing_key,
# message_unrecognized_key); "Discriminator 'role' is missing in value" (a reported answer).
SCHEMA = [
    Case("messages_null", {"messages": None}, R, "type_error", "messages"),
    Case("messages_string", {"messages": "hello"}, R, "type_error", "messages"),
    Case("messages_number", {"messages": 3}, R, "type_error", "messages"),
    Case("messages_encoded", {"messages": json.dumps([user(), answer()])}, R, "type_error", "messages"),
    Case("messages_empty", {"messages": []}, R, "empty_messages", "messages"),
    Case("messages_nested", {"messages": [[user(), answer()]]}, R, "type_error", "messages[0]"),
    Case("messages_with_null", chat(user(), None, answer()), R, "type_error", "messages[1]"),
    Case("messages_by_index", {"messages": {"0": user(), "1": answer()}}, R, "type_error", "messages"),
    Case("message_empty", chat({}, answer()), R, "missing_role", "messages[0].role"),
    Case("message_singular", {"message": [user(), answer()]}, R, "missing_messages", "messages"),
    Case("messages_space", {"messages ": [user(), answer()]}, R, "missing_messages", "messages"),
    Case("wrapped", {"body": chat(user(), answer())}, R, "missing_messages", "messages"),
    Case("role_missing", chat({"content": "a"}, answer()), R, "missing_role", "messages[0].role"),
    Case("role_capital_key", chat({"Role": "user", "content": "a"}, answer()), R, "missing_role", "messages[0].role"),
    Case("role_null", chat({"role": None, "content": "a"}, answer()), R, "type_error", "messages[0].role"),
    Case("role_list", chat({"role": ["user"], "content": "a"}, answer()), R, "type_error", "messages[0].role"),
    Case("role_number", chat({"role": 1, "content": "a"}, answer()), R, "type_error", "messages[0].role"),
    Case("content_true", asked(True), R, "type_error", CONTENT),
    Case("content_object", asked({"type": "text", "text": "a"}), R, "type_error", CONTENT),
    Case("content_answer_number", said(42), R, "type_error", ANSWER),
    Case("content_answer_object", said({"city": "Rome"}), R, "type_error", ANSWER),
    Case("content_list_of_text", asked(["a", "b"]), R, "type_error", f"{CONTENT}[0]"),
    Case("content_list_empty", asked([]), R, "part_field", CONTENT),
    Case("content_null_user", asked(None), R, "missing_content", CONTENT),
    Case("content_null_system", chat(system(None), user(), answer()), R, "missing_content", CONTENT),
    Case("content_gone_system", chat({"role": "system"}, user(), answer()), R, "missing_content", CONTENT),
    Case("content_gone_answer", chat(user(), {"role": "assistant"}), R, "missing_content", ANSWER),
    Case("content_named_text", chat({"role": "user", "text": "a"}, answer()), R, "missing_content", CONTENT),
    Case("name_number", chat(user(name=7), answer()), R, "type_error", "messages[0].name"),
    Case("refusal_true", chat(user(), answer(refusal=True)), R, "type_error", "messages[1].refusal"),
    Case("tools_object", talk(tools=tool()), R, "type_error", "tools"),
    Case("parallel_string", talk(parallel_tool_calls="true"), R, "type_error", "parallel_tool_calls"),
    Case("functions_empty", chat(user(), answer(), functions=[]), R, "type_error", "functions"),
    Case("name_spaces", chat(user(name="Ada L."), answer()), W, "name_chars", "messages[0].name", A),
    Case("name_null", chat(user(name=None), answer()), W, "null_key", "messages[0].name", A),
    Case("tools_null", chat(user(), answer(), tools=None), W, "null_key", "tools", A),
    Case("key_of_row", chat(user(), answer(), metadata={"id": "7"}), W, "unknown_key", "metadata", A),
    Case("key_of_user", chat(user(refusal="no"), answer()), W, "unknown_key", "messages[0].refusal", A),
    Case("key_empty", {**asked("a"), "": 1}, W, "unknown_key", '[""]', A),
    Case("key_of_message", chat(user(), answer(reasoning_content="hm")), W, "reasoning_key",
         "messages[1].reasoning_content", A),
    Case("key_of_row_text", {**asked("a"), "text": "a"}, W, "unknown_key", "text", A),
    Case("key_weight_of_row", {**asked("a"), "weight": 1}, W, "unknown_key", "weight", A),
    Case("key_with_space", chat({**user(), "name ": "a"}, answer()), W, "unknown_key", 'messages[0]["name "]', A),
]  # fmt: skip

# OpenAI's schema names the roles in lower case; guides: a row ends with the answer to learn.
ROLES = [
    Case("role_capital", chat({"role": "User", "content": "a"}, answer()), R, "unknown_role", "messages[0].role"),
    Case("role_shouted", chat(user(), {"role": "ASSISTANT", "content": "a"}), R, "unknown_role", "messages[1].role"),
    Case("role_newline", chat({"role": "system\n", "content": "a"}, user(), answer()), R, "unknown_role",
         "messages[0].role"),
    Case("role_empty", chat({"role": "", "content": "a"}, answer()), R, "unknown_role", "messages[0].role"),
    Case("role_gpt", chat(user(), {"role": "gpt", "content": "a"}), R, "unknown_role", "messages[1].role"),
    Case("role_model", chat(user(), {"role": "model", "content": "a"}), R, "unknown_role", "messages[1].role"),
    Case("role_narrator", chat({"role": "narrator", "content": "a"}, user(), answer()), R, "unknown_role",
         "messages[0].role"),
    Case("role_cyrillic", chat({"role": "us\u0435r", "content": "a"}, answer()), R, "unknown_role", "messages[0].role"),
    Case("role_zero_width", chat({"role": "user\u200b", "content": "a"}, answer()), R, "unknown_role",
         "messages[0].role"),
    Case("role_fullwidth", chat({"role": "ｕｓｅｒ", "content": "a"}, answer()), R, "unknown_role", "messages[0].role"),
    Case("ends_with_user", chat(user(), answer(), user("Sure?")), R, "last_not_assistant", "messages[2]", W),
    Case("ends_with_system", chat(user(), answer(), system()), R, "last_not_assistant", "messages[2]", W),
    Case("ends_with_tool", chat(user(), calling(call()), result(), tools=[tool()]), R, "last_not_assistant",
         "messages[2]", W),
    Case("user_alone", chat(user()), R, "no_assistant", "messages"),
    Case("system_alone", chat(system()), R, "no_assistant", "messages"),
    Case("system_and_user", chat(system(), user()), R, "no_assistant", "messages"),
    Case("answer_empty", said(""), R, "empty_assistant", ANSWER, W),
    Case("answer_space", said(" "), R, "empty_assistant", ANSWER, W),
    Case("answer_lines", said("\n\n\t"), R, "empty_assistant", ANSWER, W),
    Case("answer_wide_space", said("\u3000\u00a0"), R, "empty_assistant", ANSWER, W),
    Case("answer_mark", said("\ufeff"), R, "empty_assistant", ANSWER, W),
    Case("answer_joiners", said("\u200d\u200c"), R, "empty_assistant", ANSWER, W),
    Case("answer_braille_blank", said("\u2800"), R, "empty_assistant", ANSWER, W),
    Case("answer_selector", said("\ufe0f"), R, "empty_assistant", ANSWER, W),
    Case("answer_tags", said("\U000e0041"), R, "empty_assistant", ANSWER, W),
    Case("answer_first_empty", chat(user(), answer(""), user("And?"), answer()), R, "empty_assistant", ANSWER, W),
    Case("answer_null", said(None), R, "empty_assistant", ANSWER, W),
    Case("answer_null_no_calls", chat(user(), answer(None, tool_calls=[])), R, "empty_assistant", ANSWER, W),
    Case("answer_part_empty", said([{"type": "text", "text": ""}]), R, "empty_assistant", ANSWER, W),
    Case("answer_part_invisible", said([{"type": "text", "text": "\u200b"}]), R, "empty_assistant", ANSWER, W),
    Case("user_empty", asked(""), W, "empty_content", CONTENT),
    Case("user_invisible", asked("\u200b"), W, "empty_content", CONTENT),
    Case("user_part_empty", asked([{"type": "text", "text": " "}]), W, "empty_content", CONTENT),
    Case("system_empty", chat(system("  "), user(), answer()), W, "empty_content", CONTENT),
    Case("developer", chat({"role": "developer", "content": "a"}, user(), answer()), W, "developer_role",
         "messages[0]"),
    Case("system_twice", chat(system(), system("Be kind."), user(), answer()), W, "system_not_first", "messages[1]"),
    Case("system_last_but_one", chat(user(), answer(), system(), user("b"), answer()), W, "system_not_first",
         "messages[2]"),
    Case("three_users", chat(user(), user("b"), user("c"), answer()), W, "same_role_twice", "messages[1]"),
    Case("two_answers", chat(user(), answer(), answer("Or not.")), W, "same_role_twice", "messages[2]"),
    Case("answer_after_system", chat(system(), answer("Hello!"), user(), answer()), W, "assistant_first",
         "messages[1]"),
    Case("answer_alone", chat(answer()), W, "no_user", "messages"),
    Case("system_and_answer", chat(system(), answer()), W, "no_user", "messages"),
]  # fmt: skip

# OpenAI's schema of tools and calls; its API: each call is answered before the talk goes on, a
# result answers an open call. Arguments are the model's own words there, so a schema that they
# break is a warning.
TOOLS = [
    Case("arguments_null", arguments(None), R, "tool_args_type", ARGUMENTS, W),
    Case("arguments_list", arguments(["x"]), R, "tool_args_type", ARGUMENTS, W),
    Case("arguments_gone", talk(calling({"id": "c1", "type": "function", "function": {"name": "find"}}), result()),
         R, "tool_args_type", ARGUMENTS, W),
    Case("arguments_space", arguments("  "), R, "tool_args_json", ARGUMENTS),
    Case("arguments_cut", arguments('{"q": "x'), R, "tool_args_json", ARGUMENTS),
    Case("arguments_python", arguments("{'q': None}"), R, "tool_args_json", ARGUMENTS),
    Case("arguments_comma", arguments('{"q": "x",}'), R, "tool_args_json", ARGUMENTS),
    Case("arguments_nan", arguments('{"q": NaN}'), R, "tool_args_json", ARGUMENTS),
    Case("arguments_key_twice", arguments('{"q": "x", "q": "y"}'), R, "tool_args_json", ARGUMENTS),
    Case("arguments_two", arguments('{"q": "x"}{"q": "y"}'), R, "tool_args_json", ARGUMENTS),
    Case("arguments_call", arguments('find(q="x")'), R, "tool_args_json", ARGUMENTS),
    Case("arguments_array", arguments('["x"]'), R, "tool_args_object", ARGUMENTS),
    Case("arguments_number", arguments("3"), R, "tool_args_object", ARGUMENTS),
    Case("arguments_word", arguments('"x"'), R, "tool_args_object", ARGUMENTS),
    Case("arguments_null_text", arguments("null"), R, "tool_args_object", ARGUMENTS),
    Case("arguments_twice", arguments(json.dumps('{"q": "x"}')), W, "tool_args_double_encoded", ARGUMENTS),
    Case("arguments_thrice", arguments(json.dumps(json.dumps('{"q": "x"}'))), W, "tool_args_double_encoded", ARGUMENTS),
    Case("arguments_wrong_type", arguments('{"q": 5}'), W, "tool_args_schema", ARGUMENTS),
    Case("arguments_required", arguments("{}", schema(["q"], q={"type": "string"})), W, "tool_args_schema", ARGUMENTS),
    Case("arguments_enum", arguments('{"q": "c"}', schema(q={"enum": ["a", "b"]})), W, "tool_args_schema", ARGUMENTS),
    Case("arguments_unknown", arguments('{"z": 1}', {**schema(q={"type": "string"}), "additionalProperties": False}),
         W, "tool_args_schema", ARGUMENTS),
    Case("arguments_deep", arguments('{"q": [{"n": "one"}]}', schema(q={"type": "array", "items": schema(n={"type": "integer"})})),
         W, "tool_args_schema", ARGUMENTS),
    Case("arguments_by_ref", arguments('{"q": 1}', {**schema(q={"$ref": "#/$defs/word"}), "$defs": {"word": {"type": "string"}}}),
         W, "tool_args_schema", ARGUMENTS),
    Case("call_id_gone", talk(calling({"type": "function", "function": {"name": "find", "arguments": "{}"}}), result()),
         R, "tool_id_missing", f"{CALL}.id", W),
    Case("call_id_number", talk(calling(call(own=1)), result()), R, "tool_id_missing", f"{CALL}.id", W),
    Case("call_id_empty", talk(calling(call(own="")), result()), R, "tool_id_missing", f"{CALL}.id", W),
    Case("call_ids_equal", talk(calling(call(), call(own="c2"), call()), result(), result("c2")), R,
         "tool_id_duplicate", "messages[1].tool_calls[2].id", W),
    Case("result_id_gone", talk(calling(call()), {"role": "tool", "content": "a"}), R, "tool_id_missing",
         "messages[2].tool_call_id", W),
    Case("result_id_null", talk(calling(call()), result(None)), R, "tool_id_missing", "messages[2].tool_call_id", W),
    Case("result_id_other", talk(calling(call()), result("c2")), R, "tool_result_orphan", "messages[2].tool_call_id", W),
    Case("result_first", chat(user(), result(), calling(call()), tools=[tool()]), R, "tool_result_orphan",
         "messages[1].tool_call_id", W),
    Case("result_twice", talk(calling(call()), result(), result()), R, "tool_result_orphan",
         "messages[3].tool_call_id", W),
    Case("result_after_answer", talk(calling(call()), answer("Wait."), result()), R, "tool_result_orphan",
         "messages[3].tool_call_id", W),
    Case("result_gone", talk(calling(call())), R, "tool_result_missing", f"{CALL}.id", W),
    Case("result_gone_before_user", chat(user(), calling(call()), user("b"), answer(), tools=[tool()]), R,
         "tool_result_missing", f"{CALL}.id", W),
    Case("result_gone_one_of_two", talk(calling(call(), call(own="c2")), result()), R, "tool_result_missing",
         "messages[1].tool_calls[1].id", W),
    Case("result_object", talk(calling(call()), result(content={"t": 1})), R, "type_error", "messages[2].content"),
    Case("result_null", talk(calling(call()), result(content=None)), R, "missing_content", "messages[2].content"),
    Case("result_gone_content", talk(calling(call()), {"role": "tool", "tool_call_id": "c1"}), R, "missing_content",
         "messages[2].content"),
    Case("name_unoffered", talk(calling(call("find_all")), result()), R, "tool_undeclared", f"{CALL}.function.name", W),
    Case("name_case", talk(calling(call("Find")), result()), R, "tool_undeclared", f"{CALL}.function.name", W),
    Case("name_dotted", talk(calling(call("web.find")), result()), R, "tool_name", f"{CALL}.function.name"),
    Case("name_gone", talk(calling(call(None)), result()), R, "tool_name", f"{CALL}.function.name"),
    Case("call_flat", talk(calling({"id": "c1", "type": "function", "name": "find", "arguments": "{}"}), result()), R,
         "type_error", f"{CALL}.function"),
    Case("call_string", talk(calling("find"), result()), R, "type_error", CALL),
    Case("calls_object", talk(answer(None, tool_calls=call()), result()), R, "type_error", "messages[1].tool_calls"),
    Case("call_type_other", talk(calling(call(type="tool")), result()), R, "tool_type", f"{CALL}.type", W),
    Case("calls_of_system", talk(system(tool_calls=[call()])), R, "tool_calls_role", "messages[1].tool_calls"),
    Case("calls_of_tool", talk(calling(call()), result(tool_calls=[call()])), R, "tool_calls_role",
         "messages[2].tool_calls"),
    Case("tools_text", talk(tools=json.dumps([tool()])), R, "tools_json", "tools", local=W),
    Case("tools_of_text", talk(tools=["find"]), R, "type_error", "tools[0]"),
    Case("tool_flat", talk(tools=[{"type": "function", "name": "find"}]), R, "type_error", "tools[0]"),
    Case("tool_bare", talk(tools=[tool()["function"]]), R, "type_error", "tools[0]"),
    Case("tool_retrieval", talk(tools=[{"type": "retrieval"}]), R, "tool_type", "tools[0].type"),
    Case("tool_name_gone", talk(tools=[{"type": "function", "function": {"description": "a"}}]), R, "tool_name",
         "tools[0].function.name"),
    Case("tool_name_space", talk(tools=[tool("find it")]), R, "tool_name", "tools[0].function.name"),
    Case("tool_name_long", talk(tools=[tool("f" * 65)]), R, "tool_name", "tools[0].function.name"),
    Case("tool_name_foreign", talk(tools=[tool("suche_ö")]), R, "tool_name", "tools[0].function.name"),
    Case("tool_description", talk(tools=[tool(description=["a"])]), R, "type_error", "tools[0].function.description"),
    Case("tool_strict", talk(tools=[tool(strict="yes")]), R, "type_error", "tools[0].function.strict"),
    Case("tool_many", talk(tools=[tool(f"t{n}") for n in range(129)]), R, "tools_too_many", "tools", A),
    Case("schema_text", offered("q"), R, "tool_schema", PARAMETERS),
    Case("schema_list", offered([]), R, "tool_schema", PARAMETERS),
    Case("schema_type", offered({"type": "dict"}), R, "tool_schema", f"{PARAMETERS}.type"),
    Case("schema_type_array", offered({"type": "array", "items": {}}), R, "tool_schema", f"{PARAMETERS}.type"),
    Case("schema_property_type", offered(schema(q={"type": "str"})), R, "tool_schema", f"{PARAMETERS}.properties.q.type"),
    Case("schema_property_text", offered(schema(q="string")), R, "tool_schema", f"{PARAMETERS}.properties.q"),
    Case("schema_properties_list", offered({"type": "object", "properties": ["q"]}), R, "tool_schema",
         f"{PARAMETERS}.properties"),
    Case("schema_required_true", offered(schema(q={"type": "string", "required": True})), R, "tool_schema",
         f"{PARAMETERS}.properties.q.required"),
    Case("schema_required_text", offered(schema("q", q={"type": "string"})), R, "tool_schema", f"{PARAMETERS}.required"),
    Case("schema_enum_text", offered(schema(q={"enum": "a|b"})), R, "tool_schema", f"{PARAMETERS}.properties.q.enum"),
    Case("schema_items_gone", offered(schema(q={"type": "array"})), R, "tool_schema_items",
         f"{PARAMETERS}.properties.q", A),
    Case("schema_deep", offered(schema(q={"anyOf": [{"type": "string"}, {"type": "int"}]})), R, "tool_schema",
         f"{PARAMETERS}.properties.q.anyOf[1].type"),
    Case("schema_required_unknown", offered(schema(["z"], q={"type": "string"})), W, "tool_schema_required",
         f"{PARAMETERS}.required"),
    Case("both_forms", talk(functions=[{"name": "find"}]), R, "tools_and_functions", "functions", W),
    Case("old_call_arguments", chat(user(), {"role": "assistant", "function_call": {"name": "f", "arguments": {}}}), R,
         "tool_args_type", "messages[1].function_call.arguments", W),
    Case("old_call_of_user", chat(user(function_call={"name": "f", "arguments": "{}"}), answer()), R,
         "tool_calls_role", "messages[0].function_call"),
    Case("old_result_nameless", chat(user(), {"role": "function", "content": "a"}, answer()), R, "tool_name",
         "messages[1].name"),
    Case("old_call", chat(user(), {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
         {"role": "function", "name": "f", "content": "a"}, answer(), functions=[{"name": "f"}]), W,
         "deprecated_functions", "functions"),
    Case("ids_again", talk(calling(call()), result(), calling(call()), result()), W, "tool_id_reused",
         "messages[3].tool_calls[0].id"),
    Case("tool_twice", talk(tools=[tool(), tool()]), W, "tool_duplicate", "tools[1].function.name"),
    Case("tools_empty", talk(tools=[]), W, "tools_empty", "tools", A),
    Case("calls_without_tools", chat(user(), calling(call())), W, "tools_missing", "tools"),
    Case("calls_empty", chat(user(), answer(tool_calls=[])), W, "tool_calls_empty", "messages[1].tool_calls", A),
    Case("parallel_alone", chat(user(), answer(), parallel_tool_calls=False), W, "parallel_without_tools",
         "parallel_tool_calls", A),
]  # fmt: skip

# OpenAI's schema: weight is the integer 0 or 1, on assistant messages.
WEIGHTS = [
    Case("weight_half", chat(user(), answer(weight=0.5)), R, "weight_value", "messages[1].weight"),
    Case("weight_true", chat(user(), answer(weight=True)), R, "weight_value", "messages[1].weight"),
    Case("weight_false", chat(user(), answer(weight=False)), R, "weight_value", "messages[1].weight"),
    Case("weight_two", chat(user(), answer(weight=2)), R, "weight_value", "messages[1].weight"),
    Case("weight_minus", chat(user(), answer(weight=-1)), R, "weight_value", "messages[1].weight"),
    Case("weight_null", chat(user(), answer(weight=None)), R, "weight_value", "messages[1].weight"),
    Case("weight_list", chat(user(), answer(weight=[1])), R, "weight_value", "messages[1].weight"),
    Case("weight_empty", chat(user(), answer(weight="")), R, "weight_value", "messages[1].weight"),
    Case("weight_of_system", chat(system(weight=0), user(), answer()), R, "weight_role", "messages[0].weight"),
    Case("weight_of_user_zero", chat(user(weight=0), answer()), R, "weight_role", "messages[0].weight"),
    Case("weight_of_tool", talk(calling(call()), result(weight=0)), R, "weight_role", "messages[2].weight"),
    Case("weights_zero", chat(user(), answer(weight=0), user("b"), answer("c", weight=0)), R, "nothing_to_learn",
         "messages"),
    Case("weights_zero_call", talk(calling(call(), weight=0), result(), tools=[tool()])
         | {"messages": [user(), calling(call(), weight=0), result(), answer(weight=0)]}, R, "nothing_to_learn",
         "messages"),
]  # fmt: skip

# OpenAI's schema of content parts; guide on vision: JPEG, PNG or WEBP, 10 images, users only.
PARTS = [
    Case("part_text", asked(["a"]), R, "type_error", f"{CONTENT}[0]"),
    Case("part_null", asked([None]), R, "type_error", f"{CONTENT}[0]"),
    Case("part_typeless", part(text="a"), R, "part_type", f"{CONTENT}[0].type"),
    Case("part_type_null", part(type=None, text="a"), R, "part_type", f"{CONTENT}[0].type"),
    Case("part_type_input", part(type="output_audio", text="a"), R, "part_type", f"{CONTENT}[0].type"),
    Case("part_type_image", part(type="picture", source={}), R, "part_type", f"{CONTENT}[0].type"),
    Case("part_type_video", part(type="video_url", video_url={"url": "x"}), R, "part_type", f"{CONTENT}[0].type"),
    Case("part_type_capital", part(type="Text", text="a"), R, "part_type", f"{CONTENT}[0].type"),
    Case("part_text_null", part(type="text", text=None), R, "part_field", f"{CONTENT}[0]"),
    Case("part_text_object", part(type="text", text={"value": "a"}), R, "part_field", f"{CONTENT}[0]"),
    Case("part_text_list", part(type="text", text=["a"]), R, "part_field", f"{CONTENT}[0]"),
    Case("part_refusal_user", part(type="refusal", refusal="no"), R, "part_type", f"{CONTENT}[0].type"),
    Case("image_flat", part(type="image_url", image_url=BYTES), R, "part_field", f"{CONTENT}[0]"),
    Case("image_gone", part(type="image_url"), R, "part_field", f"{CONTENT}[0]"),
    Case("image_url_gone", part(type="image_url", image_url={"detail": "low"}), R, "part_field", f"{CONTENT}[0]"),
    Case("image_url_null", asked([image(None)]), R, "part_field", f"{CONTENT}[0]"),
    Case("image_detail", asked([image(BYTES, detail="ultra")]), R, "part_field", f"{CONTENT}[0].image_url.detail"),
    Case("image_of_system", chat(system([image(BYTES)]), user(), answer()), R, "image_role", f"{CONTENT}[0]"),
    Case("image_of_answer", said([{"type": "text", "text": "a"}, image(BYTES)]), R, "image_role", f"{ANSWER}[1]"),
    Case("image_of_tool", talk(calling(call()), result(content=[image(BYTES)])), R, "image_role",
         "messages[2].content[0]"),
    Case("images_eleven", asked([image(BYTES)] * 11), R, "image_count", "messages"),
    Case("images_eleven_in_two", chat(user([image(BYTES)] * 6), answer(), user([image(BYTES)] * 5), answer()), R,
         "image_count", "messages"),
    *(Case(f"image_{name}", asked([image(url)]), R, code, f"{CONTENT}[0].image_url.url") for name, url, code in (
        ("http", "http://example.com/cat.png", "image_url_forbidden"),
        ("ftp", "ftp://example.com/cat.png", "image_url_forbidden"),
        ("script", "javascript:alert(1)", "image_url_forbidden"),
        ("localhost", "https://localhost:8080/cat.png", "image_url_forbidden"),
        ("private", "https://192.168.0.10/cat.png", "image_url_forbidden"),
        ("metadata", "https://169.254.169.254/latest/meta-data/", "image_url_forbidden"),
        ("octal", "https://0177.0.0.1/cat.png", "image_url_forbidden"),
        ("mapped", "https://[::ffff:10.0.0.1]/cat.png", "image_url_forbidden"),
        ("nat64", "https://[64:ff9b::a9fe:a9fe]/cat.png", "image_url_forbidden"),
        ("own_nat64", "https://[64:ff9b:1::808:808]/cat.png", "image_url_forbidden"),
        ("6to4", "https://[2002:7f00:1::1]/cat.png", "image_url_forbidden"),
        ("teredo", "https://[2001:0:808:808::f5ff:fffe]/cat.png", "image_url_forbidden"),
        ("compatible", "https://[::10.0.0.1]/cat.png", "image_url_forbidden"),
        ("circled", "https://\u2460\u2461\u2466.0.0.1/cat.png", "image_url_forbidden"),
        ("wide_dots", "https://127\u30020\u30020\u30021/cat.png", "image_url_forbidden"),
        ("escaped", "https://127%2e0.0.1/cat.png", "image_url_forbidden"),
        ("internal", "https://files.internal/cat.png", "image_url_forbidden"),
        ("login", "https://me:word@example.com/cat.png", "image_url_forbidden"),
        ("no_host", "https:///cat.png", "image_url_forbidden"),
        ("file", "file:///home/me/cat.png", "image_path"),
        ("path", "./images/cat.png", "image_path"),
        ("absolute", "/home/me/cat.png", "image_path"),
        ("windows", "C:\\images\\cat.png", "image_path"),
        ("share", "\\\\server\\cat.png", "image_path"),
        ("empty", "", "image_path"),
        ("bare_base64", BYTES.split(",")[1], "image_path"),
        ("cut_png", "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAI=", "image_data"),
        ("headless_png", f"data:image/png;base64,iVBORw0KGgo{'A' * 65}", "image_data"),
        ("pdf", "data:application/pdf;base64,JVBERi0=", "image_data"),
        ("gif", "data:image/gif;base64,R0lGODlh", "image_data"),
        ("svg", "data:image/svg+xml;base64,PHN2Zz4=", "image_data"),
        ("mislabelled", BYTES.replace("png", "jpeg"), "image_data"),
        ("no_data", "data:image/png;base64,", "image_data"),
        ("not_base64", "data:image/png;base64,iVBORw0KGgo$$$$", "image_data"),
        ("cut", BYTES[:-1], "image_data"),
        ("percent", "data:image/png,%89PNG", "image_data"),
    )),
    Case("images_beside", chat(user("<image>a"), answer(), images=["a.png"]), R, "image_path", "images[0]"),
    Case("image_beside", chat(user("<image>a"), answer(), image="a.png"), R, "image_path", "image"),
    Case("audio", asked([{"type": "text", "text": "a"}, {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]),
         W, "part_unsupported", f"{CONTENT}[1]", R),
]  # fmt: skip

# What no schema forbids: personal data, keys, special tokens ("message contains an invalid token"
# is a reported answer of OpenAI's), broken or invisible characters.
TEXTS = [
    *(Case(f"personal_{name}", asked(text), W, "pii", CONTENT) for name, text in (
        ("mail", "Write to maria.lopez@shop.acme-mail.com please."),
        ("mail_plus", "cc: j.doe+orders@acme-mail.co.uk"),
        ("phone", "Call me at (415) 555-2671."),
        ("phone_abroad", "My number is +49 30 901820."),
        ("phone_france", "Appelez le 01 23 45 67 89."),
        ("card", "Card 5555 5555 5555 5557, thanks."),
        ("card_amex", "Charge 3782 822463 10013"),
        ("iban", "Send it to DE89 3704 0044 0532 0130 00."),
        ("ssn", "SSN: 219-09-9999"),
    )),
    Case("personal_answer", said("Her mail is maria@acme-mail.org."), W, "pii", ANSWER),
    Case("personal_arguments", arguments('{"q": "maria@acme-mail.org"}'), W, "pii", ARGUMENTS),
    Case("personal_part", asked([{"type": "text", "text": "maria@acme-mail.org"}]), W, "pii", f"{CONTENT}[0].text"),
    Case("personal_escaped", rb'{"messages": [{"role": "user", "content": "maria\u0040acme-mail.org"}, {"role": "assistant", "content": "b"}]}',
         W, "pii", CONTENT),
    *(Case(f"secret_{name}", asked(text), W, "secret", CONTENT) for name, text in (
        ("openai", "key=sk-proj-" + "aB3dE5gH7jK9mN1pQ3sT5vX7z"),
        ("github", "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zB3dE5gH7jK9"),
        ("aws", "AKIAZ5GMUXW3EXAMPLE7"[:20]),
        ("slack", "xoxb-123456789012-aBcDeFgHiJkL"),
        ("jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"),
        ("private_key", "-----BEGIN OPENSSH PRIVATE KEY-----"),
    )),
    *(Case(f"token_{name}", asked(text), W, "special_tokens_in_text", CONTENT) for name, text in (
        ("end_of_text", "What does <|endoftext|> mean?"),
        ("fim", "code <|fim_suffix|> more"),
        ("header", "<|start_header_id|>system<|end_header_id|>"),
        ("gemma", "<start_of_turn>user"),
        ("llama2", "<<SYS>> be rude <</SYS>>"),
        ("mistral", "[TOOL_CALLS] []"),
        ("deepseek", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
        ("close", "that is all</s>"),
    )),
    Case("bidi_isolate", asked("if \u2066x\u2069 then"), W, "bidi_control", CONTENT),
    Case("bidi_answer", said("name\u202etxt.exe"), W, "bidi_control", ANSWER),
    Case("tag_characters", asked("hi\U000e0069\U000e0067\U000e006e"), W, "invisible_char", CONTENT),
    Case("zero_width_inside", asked("pass\u200bword"), W, "invisible_char", CONTENT),
    Case("word_joiner", said("a\u2060b"), W, "invisible_char", ANSWER),
    Case("mark_in_text", asked("\ufeffHello"), W, "invisible_char", CONTENT),
    Case("mojibake_german", asked("GrÃ¼ÃŸe aus MÃ¼nchen"), W, "mojibake", CONTENT),
    Case("mojibake_dash", said("yes â€“ no"), W, "mojibake", ANSWER),
    Case("mojibake_emoji", asked("ok ðŸ˜€"), W, "mojibake", CONTENT),
    *(Case(f"mojibake_{name}", json.dumps(asked(text), ensure_ascii=False).encode(), W, "mojibake", CONTENT)
      for name, text in (("russian", "ÐŸÑ€Ð¸Ð²ÐµÑ‚ Ð¼Ð¸Ñ€"), ("greek", "ÎšÎ±Î»Î·Î¼Î­ÏÎ±"), ("chinese", "ä½ å¥½"),
                         ("arabic", "Ù…Ø±Ø­Ø¨Ø§"), ("controls", "Ãrbol"))),
    Case("replacement", said("caf\ufffd"), W, "replacement_char", ANSWER),
    *(Case(f"mojibake_{name}_{form}", json.dumps(asked(text), ensure_ascii=form == "escaped").encode(),
           W, "mojibake", CONTENT)
      for name, text in (
          ("cp1251", "Hi: Привет".encode().decode("cp1251")), ("gbk", "锟斤拷"),
          ("mac_roman", "café".encode().decode("mac_roman")),
          ("mac_roman_umlaut", "schön".encode().decode("mac_roman")),
          ("mac_roman_quote", "don\u2019t".encode().decode("mac_roman")),
          ("cp437", "café".encode().decode("cp437")), ("cp850", "café".encode().decode("cp850")),
          ("cp437_umlaut", "für".encode().decode("cp437")),
          ("cp437_dash", "a \u2014 b".encode().decode("cp437")))
      for form in ("raw", "escaped")),
    *(Case(f"control_only_{ord(text[0]):02x}", said(text), R, "empty_assistant", ANSWER, W)
      for text in ("\0", "\a\x1b", "\b", "\x7f", "\x80\x9f")),
    Case("delete_raw", b'{"messages": [{"role": "user", "content": "a\x7fb"}, {"role": "assistant", "content": "c"}]}',
         W, "control_char", CONTENT),
    Case("delete_escaped", rb'{"messages": [{"role": "user", "content": "a\u007fb"}, {"role": "assistant", "content": "c"}]}',
         W, "control_char", CONTENT),
    Case("surrogate_inside_a_word", asked("ja\ud83dne"), R, "lone_surrogate", CONTENT),
    Case("surrogate_answer", said("caf\ude00x and so on"), R, "lone_surrogate", ANSWER),
    Case("selectors_in_a_row", asked("hi\U000e0101\U000e0152\U000e0153"), W, "invisible_char", CONTENT),
]  # fmt: skip
