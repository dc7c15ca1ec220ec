"""Rows that look odd and are good: nothing may be said about them, by no backend.

``VISION`` alone is for hosted backends: training here reads text only.
"""

from __future__ import annotations

import json

from support.odd_rows import (
    BYTES,
    Json,
    answer,
    arguments,
    call,
    calling,
    chat,
    image,
    offered,
    result,
    schema,
    system,
    talk,
    tool,
    user,
)

# Texts that stand in the question and in the answer. Each is said with what could be mistaken.
TEXTS: dict[str, str] = {
    # scripts, marks, emoji
    "arabic": "مرحبا، كيف حالك اليوم؟",
    "hebrew": "שלום עולם, מה שלומך?",
    "persian_with_non_joiner": "می\u200cخواهم کتاب\u200cها را ببینم",
    "hindi_with_joiners": "क्\u200dष और श्री, नमस्ते दुनिया",
    "bengali": "আমি বাংলায় গান গাই",
    "tamil": "வணக்கம் உலகம்",
    "thai": "สวัสดีชาวโลก วันนี้อากาศดี",
    "khmer": "សួស្តី\u200bពិភពលោក"[:7],
    "chinese": "你好，世界！“引号”和《书名》——破折号……",
    "japanese": "こんにちは、世界。ｶﾀｶﾅと全角ＡＢＣ１２３",
    "korean": "안녕하세요, 세계! ㄱㄴㄷ",
    "russian": "Привет, мир! «Ёлки» — это №1.",
    "ukrainian": "Ґанок, їжак, щось – об’єкт",
    "greek": "Γειά σου Κόσμε· τι κάνεις;",
    "vietnamese": "Tiếng Việt có nhiều dấu: ữ, ặ, ỗ",
    "turkish": "İstanbul'da ığdır, şişe ve çay",
    "french": "À la carte : « Où est l’âne ? » Ça va, Noël, œuvre",
    "portuguese": "Não, a avó está à mão; pão, maçã, Âmbar, São João",
    "german": "Grüße, Äpfel, Öl, Übermut, Straße „so“",
    "icelandic": "Þetta er öxi, Ðað og Æska",
    "swedish": "Åse äter ö-ägg på ån",
    "polish": "Zażółć gęślą jaźń",
    "amharic": "ሰላም ልዑል",
    "georgian": "გამარჯობა მსოფლიო",
    "decomposed": "cafe\u0301 nin\u0303o A\u030angstro\u0308m",
    "zalgo": "h\u0336e\u0335l\u0334l\u0337o\u0338",
    "emoji_family": "👨‍👩‍👧‍👦 and 👩🏽‍🚀 and 🏳️‍🌈",
    "emoji_flags": "🇩🇪🇧🇷 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "emoji_keycaps": "1️⃣ #️⃣ ❤️ ☎️",
    "emoji_alone": "👍",
    "old_scripts": "𒀀𒁀 𓀀𓁀 𐎠𐎡",
    "mathematics": "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, ∑ᵢ αᵢ² ≤ ½, 𝔼[𝒳] ≈ 0 ± ε",
    "chess_and_boxes": "♔♕ ┌──┐ ░▒▓ ①② ™ © ® § ¶ † ‡ • … ‰",
    "currencies": "€5, £6, ¥700, ₹80, ₿0.1, 9 ¢",
    "quotes_and_dashes": "“curly” ‘single’ – en — em … and ½",
    "soft_hyphen": "Donau\u00addampf\u00adschiff",
    "left_to_right_mark": "שלום\u200e (hello)\u200f",
    "line_separators": "one\u2028two\u2029three\u0085four",
    "wide_spaces": "a\u00a0b\u2009c\u3000d",
    "last_character": "\U0010ffff? no: \U0001f9ff",
    # code, markup, JSON in strings
    "json_in_text": '{"messages": [{"role": "user", "content": "hi"}], "n": null}',
    "json_broken_in_text": "{'a': None, \"b\": [1, 2,], }",
    "brackets": "[" * 150 + "x" + "]" * 150,
    "braces": "function f() { return { a: [{}], b: {} }; } // }}}",
    "html": '<div class="s"><br/><p>a &amp; b</p><script>if (a < b && c > d) {}</script></div>',
    "xml": '<?xml version="1.0"?><s:row xmlns:s="urn:x"/>',
    "less_and_pipe": "a <| b, c |> d, x || y, a < b > c, <- | ->, if x<|y|:",
    "fsharp_pipes": "xs |> List.map f <| ys",
    "jinja": "{{ 7*7 }} {% for x in y %}{{ x }}{% endfor %}",
    "template_words": "<user> says <system>; [user] [assistant] ### Instruction: ### Response:",
    "diff": "--- a/x\n+++ b/x\n@@ -1,2 +1,3 @@\n-old\n+new",
    "decorators": "@dataclass\nclass A: ...\n\n@app.route('/x')\ndef f(): ...",
    "at_signs": "meet @ 5, @mention, me@home, user@host:~$ ls, git@github.com:me/it.git, a @ b",
    "css": "@media (min-width: 600px) { .sk-row { margin: -1px; } }",
    "regex": r"^(?:\d{3}-)?\w+@\S+\.[a-z]{2,}$ \b\u0041\x41",
    "latex": "\\frac{a}{b} \\begin{align} x &= y \\\\ \\end{align}",
    "shell": "echo \"$HOME\" | grep -E '^a' > /dev/null 2>&1 && ls",
    "sql": "SELECT * FROM t WHERE a = 'x' AND b IS NOT NULL; -- done",
    "windows_path": "C:\\Users\\me\\new\\table.txt",
    "escapes": 'tab\there, line\nbreak, return\r\n, quote " and \\ and /',
    "base64": "VGhpcyBpcyBhIHRlc3Qgb2YgYmFzZTY0IGVuY29kaW5nLCBub3RoaW5nIG1vcmUu",
    "data_url": "data:text/plain;base64,SGVsbG8=",
    "pem_certificate": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGq me",
    "placeholder_keys": "export OPENAI_API_KEY=sk-... or sk-xxxxxxxxxxxxxxxxxxxxxxxx or <your-key>",
    "long_name": "sk-button-primary-with-a-very-long-class-name",
    # numbers that are no telephone, card or account
    "order": "Order 302-4417765-1234 and invoice 2024-000123, ticket #4815162342",
    "tracking": "Tracking 1Z999AA10123456784 or 9400111899223197428490",
    "hashes": "d41d8cd98f00b204e9800998ecf8427e and 4d7a214614ab2935c943f9e0ff69d22eadbb8f32",
    "uuid": "550e8400-e29b-41d4-a716-446655440000",
    "dates": "2024-01-15T10:30:00.000Z, 15/01/2024 10:30:45, 20240115103045, 1990-2024",
    "epoch": "1700000000 and 1700000000123",
    "versions": "v1.2.3-rc.4+build.567, 10.15.7, 2.0.0-beta.11, Chrome/120.0.6099.109",
    "addresses_of_hosts": "192.168.1.10, 10.0.0.1:8080, 2001:db8::ff00:42:8329, 00:1a:2b:3c:4d:5e",
    "isbn": "ISBN 978-3-16-148410-0, ISSN 2049-3630, DOI 10.1000/182",
    "decimals": "3.14159265358979323846, 1,234,567.89, 1.234.567,89, 6.02214076e23",
    "sums": "123456789 + 987654321 = 1111111110; 2147483647; 18446744073709551615",
    "coordinates": "48.858370, 2.294481; -33.8567844, 151.2152967",
    "wrong_card": "4111 1111 1111 1112 fails the check",
    "wrong_iban": "GB00 WEST 1234 5698 7654 32 fails the check",
    "times": "10:30-11:45, 9-5, 24/7, 1-2-3, 50/50, 7 x 24",
    "matrix": "1 2 3 4\n5 6 7 8\n0.5 0.25 0.125 0.0625",
    "money": "$1,299.99 or 1 299,99 € or 12345678 JPY",
    "measures": "1920x1080, 5-10 km, 100-200-300 ml, 12-345-67",
    "gene": "chr7:140453136-140753336, rs113488022, NM_004333.6",
}

ROWS: dict[str, Json] = {
    **{name: chat(user(text), answer(text)) for name, text in TEXTS.items()},
    "many_turns": chat(*(one for n in range(40) for one in (user(f"{n}?"), answer(f"{n}.")))),
    "long_text": chat(user("A word or two. " * 12_000), answer()),
    "long_answer": chat(user(), answer("\n".join(f"line {n} of the text" for n in range(6_000)))),
    "names": chat(system(name="rules"), user(name="ada_l"), answer(name="bot-2")),
    "weights": chat(user(), answer(weight=0), user("b"), answer("c", weight=1)),
    "weight_written_as_1.0": chat(user(), answer(weight=1.0)),
    "refusal": chat(user(), {"role": "assistant", "refusal": "I cannot help with that."}),
    "refusal_with_null": chat(user(), answer(None, refusal="I cannot help with that.")),
    "refusal_part": chat(user(), answer([{"type": "refusal", "refusal": "No, sorry."}])),
    "refusal_null": chat(user(), answer(refusal=None)),
    "parts": chat(
        system([{"type": "text", "text": "Be brief."}]),
        user([{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]),
        answer([{"type": "text", "text": "Three."}]),
    ),
    "empty_part_beside_text": chat(
        user([{"type": "text", "text": ""}, {"type": "text", "text": "Two."}]), answer()
    ),
    "leading_space": chat(user("  What is it?\n"), answer("\n It is a lamp. ")),
    "one_letter": chat(user("?"), answer("A")),
    "zero": chat(user("1 - 1"), answer("0")),
    "words_of_json": chat(user("null"), answer("NaN")),
    "call": talk(calling(call()), result()),
    "call_at_the_end": chat(user(), calling(call()), tools=[tool()]),
    "call_with_text": talk(calling(call()) | {"content": "Let me look."}, result()),
    "call_with_empty_text": talk(calling(call()) | {"content": ""}, result()),
    "call_without_content": talk(
        {"role": "assistant", "tool_calls": [call()]}, result()
    ),
    "call_no_arguments": arguments("{}"),
    "call_arguments_spread": arguments('{\n  "q": "x"\n}'),
    "call_arguments_foreign": arguments('{"q": "caf\\u00e9 \\ud83d\\ude00 ж"}'),
    "calls_at_once": talk(
        calling(call(), call(own="c2"), call(own="c3")), result(), result("c2"), result("c3")
    ),
    "calls_one_after_another": talk(calling(call()), result(), calling(call(own="c2")), result("c2")),
    "call_weight": talk(calling(call(), weight=0), result()),
    "result_empty": talk(calling(call()), result(content="")),
    "result_json": talk(calling(call()), result(content='{"rows": [], "error": null}')),
    "result_name": talk(calling(call()), result(name="find")),
    "tool_unused": talk(),
    "tools_128": talk(tools=[tool(f"t{n}") for n in range(128)]),
    "tool_without_parameters": talk(tools=[{"type": "function", "function": {"name": "find"}}]),
    "tool_strict": talk(
        tools=[tool(schema={**schema(["q"], q={"type": "string"}), "additionalProperties": False}, strict=True)]
    ),
    "tool_strict_null": talk(tools=[tool(strict=None, description="Finds.")]),
    "tool_name_64": talk(tools=[tool("f" * 64)]),
    "parallel": talk(calling(call()), result(), parallel_tool_calls=False),
    "tools_and_null_functions": talk(tools=[tool()]),
    "schema_empty": offered({}),
    "schema_no_properties": offered({"type": "object", "properties": {}}),
    "schema_ref": arguments(
        '{"q": {"name": "x", "next": {"name": "y"}}}',
        {
            **schema(q={"$ref": "#/$defs/node"}),
            "$defs": {"node": schema(["name"], name={"type": "string"}, next={"$ref": "#/$defs/node"})},
        },
    ),
    "schema_any_of": arguments(
        '{"q": null}', schema(q={"anyOf": [{"type": "string"}, {"type": "null"}], "default": None})
    ),
    "schema_one_of": arguments(
        '{"q": [1, 2.5]}',
        schema(q={"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "number"}}]}),
    ),
    "schema_all_of": arguments('{"q": "x"}', schema(["q"], q={"allOf": [{"type": "string"}, {"maxLength": 9}]})),
    "schema_types": arguments('{"q": null}', schema(q={"type": ["string", "null"]})),
    "schema_enum": arguments('{"q": "b"}', schema(["q"], q={"type": "string", "enum": ["a", "b"]})),
    "schema_enum_mixed": offered(schema(q={"enum": [1, "two", None, True]})),
    "schema_integer_as_float": arguments('{"q": 3.0}', schema(q={"type": "integer", "minimum": 3})),
    "schema_more_keys": arguments('{"q": "x", "z": 1}', schema(q={"type": "string"})),
    "schema_additional": arguments(
        '{"x": 1, "y": 2}', {"type": "object", "additionalProperties": {"type": "integer"}}
    ),
    "schema_pattern": arguments(
        '{"x_1": "a"}',
        {"type": "object", "patternProperties": {"^x_": {"type": "string"}}, "additionalProperties": False},
    ),
    "schema_nested": offered(
        schema(q={"type": "array", "items": schema(["a"], a={"type": "array", "items": {"type": "array", "items": {}}})})
    ),
    "schema_property_named_type": arguments('{"type": "x"}', schema(["type"], type={"type": "string"})),
    "schema_property_named_required": offered(schema(required=None) | {"properties": {"required": {"type": "boolean"}}}),
    "schema_true": offered({"type": "object", "properties": {"q": True}}),
    "schema_format": arguments('{"q": "soon"}', schema(q={"type": "string", "format": "date"})),
    "schema_annotations": offered(
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Q", "examples": [], **schema()}
    ),
    "schema_tuple": arguments(
        '{"q": ["x", 1]}', schema(q={"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]})
    ),
    "schema_not_and_if": offered(schema(q={"not": {"type": "null"}, "if": {}, "then": {}})),
    "schema_circle": arguments('{"q": 1}', {"type": "object", "$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
}  # fmt: skip

VISION: dict[str, Json] = {
    "image": chat(user([{"type": "text", "text": "What is it?"}, image(BYTES)]), answer()),
    "image_alone": chat(user([image(BYTES)]), answer()),
    "image_detail": chat(user([image(BYTES, detail="low")]), answer()),
    "image_address": chat(user([image("https://upload.example.org/a/b.png?w=1&h=2")]), answer()),
    "images_ten": chat(user([image(BYTES)] * 10), answer()),
    "images_in_two_turns": chat(user([image(BYTES)]), answer(), user([image(BYTES)]), answer()),
}

# Lines as they may be written: escapes, spaces, order of keys.
LINES: dict[str, bytes] = {
    "pair_of_halves": rb'{"messages": [{"role": "user", "content": "\ud83d\ude00"}, {"role": "assistant", "content": "\u00e9"}]}',
    "escaped_ascii": rb'{"messages": [{"role": "user", "content": "\u0041 \/ \t"}, {"role": "assistant", "content": "ok"}]}',
    "escaped_key": rb'{"m\u0065ssages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
    "backslash_u": rb'{"messages": [{"role": "user", "content": "\\ud83d is half"}, {"role": "assistant", "content": "b"}]}',
    "order_of_keys": b'{"messages": [{"content": "a", "role": "user"}, {"content": "b", "role": "assistant"}]}',
    "no_spaces": b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}',
    "many_spaces": b' { "messages" : [ { "role" : "user" , "content" : "a" } ,\t{ "role":"assistant" , "content" : "b" } ] } ',
    "non_characters": json.dumps(chat(user("a\uffff"), answer("b\ufffe")), ensure_ascii=False).encode(),
    "quote_at_the_end": rb'{"messages": [{"role": "user", "content": "a \"\\\""}, {"role": "assistant", "content": "b\\"}]}',
    "number_forms": b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1E0}]}',
}  # fmt: skip
