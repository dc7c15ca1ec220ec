"""Whole files that a training set should not be: bytes, formats, pairs, the data as a whole.

What decides is said in ``odd_rows``.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import random
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

from support.odd_rows import (
    BYTES,
    CONTENT,
    A,
    Json,
    R,
    W,
    answer,
    call,
    calling,
    chat,
    image,
    pair,
    result,
    system,
    tool,
    user,
)


class File(NamedTuple):
    """What is said of a file: outcome for a hosted backend, code, line, path; ``local``: the
    outcome for training here, where it is another."""

    name: str
    raw: bytes
    outcome: str
    code: str = ""
    line: int | None = None
    path: str = ""
    method: str = "sft"
    local: str = ""


def good(number: int) -> Json:
    """A row with nothing wrong."""
    return chat(system("You are terse."), user(f"Question {number}?"), answer(f"Answer {number}."))


GOOD = [json.dumps(good(number)) for number in range(12)]
TEXT = "\n".join(GOOD) + "\n"
RAW = TEXT.encode()


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def many(row: Callable[[int], Any], count: int = 12) -> bytes:
    return lines(*map(row, range(count)))


def numbered(row: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    """The row with its number, for `many`."""
    return lambda n: {**row, "n": n}


def put(*rows: Any, before: bytes = RAW) -> bytes:
    """These rows or lines as line 6 and after, the others around them."""
    head = before.split(b"\n")
    odd = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return b"\n".join([*head[:5], *odd, *head[5:]])


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.jsonl", RAW)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("train.jsonl")
        entry.size = len(RAW)
        archive.addfile(entry, io.BytesIO(RAW))
    return file.getvalue()


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table rows (row text)")
    connection.executemany("insert into rows values (?)", [(row,) for row in GOOD])
    connection.commit()
    raw = connection.serialize()
    connection.close()
    return raw


def text_rows(*texts: Any) -> bytes:
    return lines(
        *({"text": f"Chapter {number}."} for number in range(9)),
        *({"text": text} for text in texts),
    )


PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n"
NOISE = random.Random(0).randbytes(5000)

# RFC 3629; OpenAI's guide: a training file is JSONL in UTF-8, 10 rows at least.
FILES = [
    File("crlf", RAW.replace(b"\n", b"\r\n"), A),
    File("crlf_mixed", RAW.replace(b"\n", b"\r\n", 4), A),
    File("no_last_newline", RAW[:-1], A),
    File("blank_at_end", RAW + b"\n\n", A),
    File("space_around_rows", RAW.replace(b"\n", b" \t\n").replace(b'{"mess', b'  {"mess'), A),
    File("lf_cr", RAW.replace(b"\n", b"\n\r"), A),
    File("mark_first", b"\xef\xbb\xbf" + RAW, W, "utf8_bom", 1),
    File("mark_and_crlf", b"\xef\xbb\xbf" + RAW.replace(b"\n", b"\r\n"), W, "utf8_bom", 1),
    File("mark_twice", b"\xef\xbb\xbf\xef\xbb\xbf" + RAW, R, "bom_inside", 1),
    File("joined_with_marks", b"\xef\xbb\xbf" + RAW + b"\xef\xbb\xbf" + RAW, R, "bom_inside", 13),
    File("blank_first", b"\n" + RAW, W, "blank_line", 1),
    File("blank_inside", put(b"", b"\t \t"), W, "blank_line", 6),
    *(File(f"no_blank_{byte:02x}", put(bytes([byte])), R, "not_json", 6) for byte in (0x0B, 0x0C, 0x1C, 0x1F)),
    File("no_blank_next_line", put("\x85".encode()), R, "not_json", 6),
    File("again_without_spaces", RAW + json.dumps(good(3), separators=(",", ":")).encode() + b"\n",
         W, "duplicates", 13),
    File("again_with_other_order", RAW + json.dumps(good(3), sort_keys=True).encode() + b"\n",
         W, "duplicates", 13),
    File("blank_crlf", put(b"\r").replace(b"\n", b"\r\n"), W, "blank_line", 6),
    File("blank_each_other", RAW.replace(b"\n", b"\n\n"), W, "blank_line", 2),
    File("cr_only", RAW.replace(b"\n", b"\r"), R, "line_terminator", 1),
    File("cr_in_one_place", put((GOOD[0] + "\r" + GOOD[1]).encode()), R, "line_terminator", 6),
    *(File(name.replace("-", "_"), TEXT.encode(name), R, code) for name, code in (
        ("utf-16", "encoding_utf16"), ("utf-16-le", "encoding_utf16"), ("utf-16-be", "encoding_utf16"),
        ("utf-32", "encoding_utf32"), ("utf-32-le", "encoding_utf32"), ("utf-32-be", "encoding_utf32"),
    )),
    File("utf_16_be_mark", b"\xfe\xff" + TEXT.encode("utf-16-be"), R, "encoding_utf16"),
    File("utf_32_be_mark", b"\0\0\xfe\xff" + TEXT.encode("utf-32-be"), R, "encoding_utf32"),
    File("utf_16_with_blank", ("\n" + TEXT).encode("utf-16-le"), R, "encoding_utf16"),
    File("utf_16_foreign", json.dumps({"messages": "привет"}, ensure_ascii=False).encode("utf-16-be"), R,
         "encoding_utf16"),
    File("utf_16_later", put("{}".encode("utf-16-le")), R, "nul_byte", 6),
    File("latin1_last", RAW + b'{"caf\xe9": 1}', R, "encoding_not_utf8", 13),
    File("latin1_first", b'{"caf\xe9": 1}\n' + RAW, R, "encoding_not_utf8", 1),
    File("cut_in_character", RAW + '{"messages": "caf\u00e9'.encode()[:-1], R, "encoding_not_utf8", 13),
    File("ebcdic", TEXT.encode("cp037"), R),
    File("gzip", gzip.compress(RAW), R, "compressed"),
    File("bzip2", bz2.compress(RAW), R, "compressed"),
    File("xz", lzma.compress(RAW), R, "compressed"),
    File("lzma_alone", lzma.compress(RAW, lzma.FORMAT_ALONE), R),
    File("zip", zipped(), R, "compressed"),
    File("tar", tarred(), R, "compressed"),
    File("tar_gz", gzip.compress(tarred()), R, "compressed"),
    File("zstd", b"\x28\xb5\x2f\xfd" + NOISE, R, "compressed"),
    File("7z", b"7z\xbc\xaf\x27\x1c" + NOISE, R, "compressed"),
    File("sqlite", database(), R, "not_text"),
    File("pickle", pickle.dumps(GOOD), R, "not_text"),
    File("pickle_old", pickle.dumps(GOOD, protocol=0), R),
    File("parquet", b"PAR1" + NOISE + b"PAR1", R, "not_text"),
    File("arrow", b"ARROW1\0\0" + NOISE, R, "not_text"),
    File("png", b"\x89PNG\r\n\x1a\n" + NOISE, R, "not_text"),
    File("jpeg", b"\xff\xd8\xff\xe0\0\x10JFIF" + NOISE, R, "not_text"),
    File("gif", b"GIF89a" + NOISE, R, "not_text"),
    File("webp", b"RIFF\x24\0\0\0WEBPVP8 " + NOISE, R, "not_text"),
    File("wave", b"RIFF\x24\0\0\0WAVEfmt " + NOISE, R, "not_text"),
    File("mp4", b"\0\0\0\x18ftypmp42" + NOISE, R, "not_text"),
    File("mp3", b"ID3\x04\0\0\0\0\0\0" + NOISE, R, "not_text"),
    File("pdf", PDF + NOISE, R, "not_text"),
    File("program", b"\x7fELF\2\1\1" + NOISE, R, "not_text"),
    File("windows_program", b"MZ\x90\0\3" + NOISE, R, "not_text"),
    File("numpy", b"\x93NUMPY\1\0v\0" + NOISE, R, "not_text"),
    File("gguf", b"GGUF\3\0\0\0" + NOISE, R, "not_text"),
    File("safetensors", b"\x50\0\0\0\0\0\0\0" + b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}' + NOISE, R,
         "not_text"),
    File("noise", NOISE, R),
    File("old_office", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + NOISE, R, "not_text"),
    File("zeros", b"\0" * 5000, R, "nul_byte", 1),
    File("nul_tail", RAW + b"\0" * 512, R, "nul_byte", 13),
    File("empty", b"", R, "no_examples"),
    File("mark_alone", b"\xef\xbb\xbf", R, "no_examples"),
    File("newlines_alone", b"\n" * 9, R, "no_examples"),
    File("spaces_alone", b" \t \r\n  \n", R, "no_examples"),
    File("end_of_file_mark", RAW + b"\x1a", R, "not_json", 13),
    File("html", b"<!DOCTYPE html>\n<html><body>404</body></html>\n", R, "not_json", 1),
    File("xml", b'<?xml version="1.0"?>\n<rows><row/></rows>\n', R, "not_json", 1),
    File("yaml", b"- messages:\n  - role: user\n    content: hi\n", R, "not_json", 1),
    File("yaml_marked", b"---\nmessages:\n", R, "not_json", 1),
    File("toml", b'title = "rows"\n[[rows]]\nprompt = "a"\n', R, "not_json", 1),
    File("csv", b'prompt,completion\n"hi, you","there"\n', R, "not_json", 1),
    File("csv_semicolons", b"prompt;completion\nhi;there\n", R, "not_json", 1),
    File("tsv", b"prompt\tcompletion\nhi\tthere\n", R, "not_json", 1),
    File("markdown", b"# Examples\n\n| q | a |\n|---|---|\n", R, "json_comment", 1),
    File("prose", b"Once upon a time there was a king.\nHe had three sons.\n", R, "not_json", 1),
    File("lfs_pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", R, "not_json", 1),
    File("not_found", b"404: Not Found", R, "not_json", 1),
    File("answer_of_a_server", b'{"error": {"message": "Not found", "code": 404}}\n', R, "unknown_format", 1),
    File("python", b"rows = [{'messages': []}]\n", R, "not_json", 1),
    File("dicts", b"".join(repr(good(n)).encode() + b"\n" for n in range(12)), R, "json_single_quotes", 1),
    File("array", json.dumps([good(n) for n in range(12)]).encode(), R, "json_array_not_jsonl", 1),
    File("array_spread", json.dumps([good(n) for n in range(12)], indent=2).encode(), R, "json_array_not_jsonl", 1),
    File("array_by_line", b"[\n" + b",\n".join(map(str.encode, GOOD)) + b"\n]\n", R, "json_array_not_jsonl", 1),
    File("array_marked", b"\xef\xbb\xbf[\n" + b",\n".join(map(str.encode, GOOD)) + b"\n]\n", R, "json_array_not_jsonl", 1),
    File("array_cut", b"[\n" + b",\n".join(map(str.encode, GOOD)) + b",\n", R, "json_array_not_jsonl", 1),
    File("array_comma", b"[\n" + b",\n".join(map(str.encode, GOOD)) + b",\n]\n", R, "json_array_not_jsonl", 1),
    File("array_after_blank", b"\n[\n" + b",\n".join(map(str.encode, GOOD)) + b"\n]\n", R, "json_array_not_jsonl", 2),
    File("array_of_arrays", json.dumps([good(n)["messages"] for n in range(12)]).encode(), R, "row_not_object", 1),
    File("arrays_by_line", many(lambda n: good(n)["messages"]), R, "row_not_object", 1),
    File("commas_after_rows", RAW.replace(b"}\n", b"},\n"), R, "json_syntax", 1),
    File("one_object", json.dumps({"data": [good(n) for n in range(12)]}).encode(), R, "unknown_format", 1),
    File("one_object_spread", json.dumps({"data": [good(n) for n in range(12)]}, indent=1).encode(), R,
         "pretty_printed", 1),
    File("pretty", b"\n".join(json.dumps(good(n), indent=4).encode() for n in range(12)), R, "pretty_printed", 1),
    File("pretty_at_6", put(json.dumps(good(20), indent=2).encode()), R, "pretty_printed", 6),
    File("pretty_with_commas", b",\n".join(json.dumps(good(n), indent=1).encode() for n in range(12)), R),
    File("row_over_two_lines", put(GOOD[0].replace('}, {"role": "user"', '},\n{"role": "user"').encode()), R,
         "pretty_printed", 6),
    File("line_break_in_string", put(GOOD[0].replace("Question", "Ques\ntion").encode()), R, "json_control_char", 6),
    File("on_one_line", RAW.replace(b"\n", b""), R, "json_extra_data", 1),
    File("on_one_line_spaced", RAW.replace(b"\n", b" "), R, "json_extra_data", 1),
    File("cut_last", RAW[:-30], R, "json_truncated", 12),
    File("cut_first", GOOD[0][:40].encode() + b"\n" + RAW, R, "json_truncated", 1),
    File("cut_start", RAW[50:], R, "not_json", 1),
    File("rows_in_strings", b"".join(json.dumps(row).encode() + b"\n" for row in GOOD), R, "row_not_object", 1),
    File("long_line", put(json.dumps(chat(user("hm " * 400_000), answer())).encode()), R, "example_too_long", 6,
         local=A),  # no model, no limit
]  # fmt: skip

# Kinds of rows: OpenAI's answers "expected either prompt/completion pairs or chat messages" and
# "the input file is in the fine-tune-chat format, but ... method=dpo"; TRL's formats.
FORMATS = [
    File("sharegpt", many(lambda n: {"conversations": [
        {"from": "human", "value": f"Question {n}?"}, {"from": "gpt", "value": f"Answer {n}."}]}), A, "format_sharegpt", 1),
    File("sharegpt_system", many(lambda n: {"system": "Be brief.", "conversations": [
        {"from": "human", "value": f"Question {n}?"}, {"from": "gpt", "value": f"Answer {n}."}]}), A, "format_sharegpt", 1),
    File("alpaca_input", many(lambda n: {"instruction": "Add one.", "input": f"{n}", "output": f"{n + 1}"}), A,
         "format_alpaca", 1),
    File("prompt_messages", many(lambda n: {"prompt": [user(f"Question {n}?")], "completion": [answer(f"Answer {n}.")]}), A,
         "format_prompt_completion", 1),
    File("text", many(lambda n: {"text": f"Chapter {n}."}), R, "method_mismatch", 1),
    File("text_pretrain", many(lambda n: {"text": f"Chapter {n}."}), A, "format_text", 1, method="pretrain"),
    File("chat_for_dpo", RAW, R, "method_mismatch", 1, method="dpo"),
    File("chat_for_kto", RAW, R, "method_mismatch", 1, method="kto"),
    File("chat_for_pretrain", RAW, R, "method_mismatch", 1, method="pretrain"),
    File("pairs_for_sft", many(lambda n: {"prompt": f"{n}?", "chosen": "a", "rejected": "b"}), R, "method_mismatch", 1),
    File("labels_for_sft", many(lambda n: {"prompt": f"{n}?", "completion": "a", "label": True}), R, "method_mismatch", 1),
    File("mixed_pair", put({"prompt": "q", "completion": "a"}), R, "mixed_formats", 6),
    File("mixed_alpaca", put({"instruction": "q", "output": "a"}), R, "mixed_formats", 6),
    File("mixed_sharegpt", put({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}), R,
         "mixed_formats", 6),
    File("mixed_text", put({"text": "Once."}), R, "mixed_formats", 6),
    File("mixed_preference", put(pair()), R, "mixed_formats", 6),
    File("mixed_label", put({**good(20), "label": True}), R, "mixed_formats", 6),
    File("mixed_chat_among_alpaca", put(good(0), before=many(lambda n: {"instruction": f"{n}?", "output": f"{n}."})), R,
         "mixed_formats", 6),
    File("mixed_last", RAW + lines({"prompt": "q", "completion": "a"}), R, "mixed_formats", 13),
    *(File(f"unknown_{name}", many(numbered(row)), R, "unknown_format", 1) for name, row in (
        ("question", {"question": "q", "answer": "a"}),
        ("turns", {"turns": ["q", "a"]}),
        ("dialogue", {"dialogue": [{"speaker": "A", "utterance": "q"}]}),
        ("context", {"context": "c", "question": "q", "answers": {"text": ["a"]}}),
        ("choices", {"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"message": answer()}]}),
        ("embedding", {"embedding": [0.1, 0.2]}),
    )),
    File("request_without_answer", many(numbered({"request": {"messages": [user()]}, "response": {"choices": []}})), R,
         "missing_completion", 1, "response"),
    File("evals_columns", many(numbered({"item": {"q": "a"}, "sample": {}})), R, "not_convertible", 1, "item"),
    File("input_output", many(lambda n: {"input": f"{n}?", "output": f"{n}."}), A, "format_shape", 1),
    File("query_response", many(lambda n: {"query": f"{n}?", "response": f"{n}."}), A, "format_shape", 1),
    File("alpaca_null", many(lambda n: {"instruction": f"{n}?", "input": None, "output": f"{n}."}), A, "format_alpaca", 1),
    File("alpaca_misspelt", lines({"instruction": "q", "ouput": "a"}), R, "missing_output", 1, "output"),
    File("alpaca_output_null", lines({"instruction": "q", "output": None}), R, "missing_output", 1, "output"),
    File("alpaca_output_empty", lines({"instruction": "q", "output": ""}), R, "empty_assistant", 1, "output", local=W),
    File("alpaca_output_list", lines({"instruction": "q", "output": ["a"]}), R, "type_error", 1, "output"),
    File("alpaca_instruction_null", lines({"instruction": None, "output": "a"}), R, "missing_prompt", 1, "instruction"),
    File("alpaca_instruction_number", lines({"instruction": 4, "output": "a"}), R, "type_error", 1, "instruction"),
    File("prompt_alone", lines({"prompt": "q"}), R, "missing_completion", 1, "completion"),
    File("prompt_empty", put({"prompt": " ", "completion": "a"}, before=many(lambda n: {"prompt": f"{n}?", "completion": f"{n}."})),
         W, "empty_content", 6, "prompt"),
    File("completion_alone", lines({"completion": "a"}), R, "missing_prompt", 1, "prompt"),
    File("completion_null", lines({"prompt": "q", "completion": None}), R, "missing_completion", 1, "completion"),
    File("completion_number", lines({"prompt": "q", "completion": 7}), R, "type_error", 1, "completion"),
    File("completion_empty", lines({"prompt": "q", "completion": " "}), R, "empty_assistant", 1, "completion", local=W),
    File("completion_of_user", lines({"prompt": [user()], "completion": [user()]}), R, "no_assistant", 1,
         "completion"),
    File("completion_list_empty", lines({"prompt": [user()], "completion": []}), R, "empty_messages", 1, "completion"),
    File("prompt_list_role", lines({"prompt": [{"role": "human", "content": "q"}], "completion": [answer()]}), R,
         "unknown_role", 1, "prompt[0].role"),
    File("sharegpt_empty", lines({"conversations": []}), R, "empty_messages", 1, "conversations"),
    File("sharegpt_speaker", lines({"conversations": [{"from": "hooman", "value": "q"}, {"from": "gpt", "value": "a"}]}), R,
         "unknown_role", 1, "conversations[0].from"),
    File("sharegpt_nobody", lines({"conversations": [{"value": "q"}, {"from": "gpt", "value": "a"}]}), R, "missing_role", 1,
         "conversations[0].from"),
    File("sharegpt_named_chat", many(lambda n: {"conversations": [user(f"{n}?"), answer(f"{n}.")]}), A, "format_sharegpt", 1),
    File("sharegpt_silent", lines({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt"}]}), R,
         "missing_content", 1, "conversations[1].value"),
    File("sharegpt_empty_answer", lines({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": ""}]}),
         R, "empty_assistant", 1, "conversations[1].value", local=W),
    File("sharegpt_list", lines({"conversations": [{"from": "human", "value": ["q"]}, {"from": "gpt", "value": "a"}]}), R,
         "type_error", 1, "conversations[0].value"),
    File("sharegpt_texts", lines({"conversations": ["q", "a"]}), R, "type_error", 1, "conversations[0]"),
    File("sharegpt_ends_human", lines({"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "q"}]}),
         R, "last_not_assistant", 1, "conversations[1]", local=W),
    File("text_empty", text_rows(""), R, "empty_text", 10, "text", "pretrain"),
    File("text_blank", text_rows(" \n\u200b"), R, "empty_text", 10, "text", "pretrain"),
    File("text_number", text_rows(7), R, "type_error", 10, "text", "pretrain"),
    File("text_null", text_rows(None), R, "type_error", 10, "text", "pretrain"),
    File("text_list", text_rows(["a"]), R, "type_error", 10, "text", "pretrain"),
    File("text_gone", put({"body": "a"}, before=text_rows("a")), R, "unknown_format", 6, method="pretrain"),
]  # fmt: skip


def pairs(row: Any) -> bytes:
    """This row at line 6 among good pairs."""
    return put(row, before=many(lambda n: pair(input=chat(user(f"Question {n}?")))))


def labels(row: Any) -> bytes:
    """This row at line 6 among good answers with labels."""
    return put(
        row, before=many(lambda n: {"prompt": f"{n}?", "completion": f"{n}.", "label": n % 2 == 0})
    )


def reinforced(row: Any) -> bytes:
    """This row at line 6 among good rows for reinforcement."""
    return put(row, before=many(lambda n: {**chat(user(f"Question {n}?")), "reference": f"{n}"}))


SIDE = "preferred_output"
OTHER = "non_preferred_output"

# OpenAI's guide on preferences: input, preferred_output, non_preferred_output; one assistant
# message on each side; text only. TRL: prompt, chosen, rejected; completion and a boolean label.
PAIRS = [
    File("pair_input_gone", pairs(pair(input=None)), R, "missing_input", 6, "input", "dpo"),
    File("pair_input_text", pairs(pair(input="q")), R, "type_error", 6, "input", "dpo"),
    File("pair_input_list", pairs(pair(input=[user()])), R, "type_error", 6, "input", "dpo"),
    File("pair_input_bare", pairs(pair(input={})), R, "missing_messages", 6, "input.messages", "dpo"),
    File("pair_input_empty", pairs(pair(input=chat())), R, "empty_messages", 6, "input.messages", "dpo"),
    File("pair_input_role", pairs(pair(input=chat({"role": "human", "content": "q"}))), R, "unknown_role", 6,
         "input.messages[0].role", "dpo"),
    File("pair_input_system", pairs(pair(input=chat(system()))), W, "no_user", 6, "input.messages", "dpo"),
    File("pair_input_answered", pairs(pair(input=chat(user(), answer()))), W, "preference_input_end", 6,
         "input.messages[1]", "dpo"),
    File("pair_input_orphan", pairs(pair(input=chat(user(), result()))), R, "tool_result_orphan", 6,
         "input.messages[1].tool_call_id", "dpo", W),
    File("pair_input_tools", pairs(pair(input=chat(user(), tools="[]"))), R, "tools_json", 6, "input.tools", "dpo", W),
    File("pair_better_gone", pairs(pair(preferred_output=None)), R, "missing_preferred", 6, SIDE, "dpo"),
    File("pair_better_empty", pairs(pair(preferred_output=[])), R, "missing_preferred", 6, SIDE, "dpo"),
    File("pair_worse_null", pairs({**pair(), OTHER: None}), R, "missing_non_preferred", 6, OTHER, "dpo"),
    File("pair_worse_empty", pairs(pair(non_preferred_output=[])), R, "missing_non_preferred", 6, OTHER, "dpo"),
    File("pair_better_text", pairs(pair(preferred_output="A lamp.")), R, "type_error", 6, SIDE, "dpo"),
    File("pair_better_object", pairs(pair(preferred_output=answer())), R, "type_error", 6, SIDE, "dpo"),
    File("pair_better_text_inside", pairs(pair(preferred_output=["A lamp."])), R, "type_error", 6, f"{SIDE}[0]", "dpo"),
    File("pair_better_two", pairs(pair(preferred_output=[answer("a"), answer("b")])), R, "preference_turns", 6, SIDE,
         "dpo", W),
    File("pair_worse_user", pairs(pair(non_preferred_output=[user()])), R, "preference_role", 6, f"{OTHER}[0].role", "dpo"),
    File("pair_worse_system", pairs(pair(non_preferred_output=[system()])), R, "preference_role", 6, f"{OTHER}[0].role",
         "dpo"),
    File("pair_worse_roleless", pairs(pair(non_preferred_output=[{"content": "a"}])), R, "missing_role", 6,
         f"{OTHER}[0].role", "dpo"),
    File("pair_better_silent", pairs(pair(preferred_output=[answer("")])), R, "empty_assistant", 6, f"{SIDE}[0].content",
         "dpo", W),
    File("pair_worse_null_content", pairs(pair(non_preferred_output=[answer(None)])), R, "empty_assistant", 6,
         f"{OTHER}[0].content", "dpo", W),
    File("pair_worse_number", pairs(pair(non_preferred_output=[answer(3)])), R, "type_error", 6, f"{OTHER}[0].content",
         "dpo"),
    File("pair_calls_without_tools", pairs(pair(preferred_output=[calling(call())])), W, "tools_missing", 6, "input.tools",
         "dpo"),
    File("pair_calls_unoffered", pairs(pair(input=chat(user(), tools=[tool("look")]), non_preferred_output=[calling(call())])),
         R, "tool_undeclared", 6, f"{OTHER}[0].tool_calls[0].function.name", "dpo", W),
    File("pair_calls_broken", pairs(pair(input=chat(user(), tools=[tool()]), preferred_output=[calling(call(arguments="{"))])),
         R, "tool_args_json", 6, f"{SIDE}[0].tool_calls[0].function.arguments", "dpo"),
    File("pair_old_keys", pairs({"input": chat(user()), "preferred_completion": [answer("a")],
                                 "non_preferred_completion": [answer("b")]}), R, "preference_key", 6,
         "preferred_completion", "dpo"),
    File("pair_image", pairs(pair(input=chat(user([image(BYTES)])))), R, "preference_text_only", 6,
         "input.messages[0].content[0]", "dpo"),
    File("pair_equal", pairs(pair(non_preferred_output=[answer("A lamp.")])), R, "preference_identical", 6, OTHER, "dpo"),
    File("pair_equal_but_space", pairs(pair(non_preferred_output=[answer(" A lamp. ")])), R, "preference_identical", 6,
         OTHER, "dpo"),
    File("pair_other_spaces", pairs(pair(non_preferred_output=[answer("A\n lamp.")])), W, "preference_whitespace", 6,
         OTHER, "dpo"),
    File("pair_key", pairs(pair(margin=0.3)), W, "unknown_key", 6, "margin", "dpo", A),
    File("pair_among_chosen", put(pair(), before=many(lambda n: {"prompt": f"{n}?", "chosen": "a", "rejected": "b"})), R,
         "mixed_formats", 6, method="dpo"),
    File("chosen", many(lambda n: {"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}."}), A,
         "format_trl_preference", 1, method="dpo"),
    File("chosen_gone", lines({"prompt": "q", "rejected": "b"}), R, "missing_preferred", 1, "chosen", "dpo"),
    File("rejected_null", lines({"prompt": "q", "chosen": "a", "rejected": None}), R, "missing_non_preferred", 1,
         "rejected", "dpo"),
    File("rejected_number", lines({"prompt": "q", "chosen": "a", "rejected": 0}), R, "type_error", 1, "rejected", "dpo"),
    File("rejected_equal", many(lambda n: {"prompt": f"Question {n}?", "chosen": f"{n}", "rejected": f"{n}" if n == 5 else "x"}),
         R, "preference_identical", 6, "rejected", "dpo"),
    File("rejected_other_spaces", many(lambda n: {"prompt": f"Question {n}?", "chosen": f"Yes {n}.",
                                                  "rejected": f"Yes\t{n}." if n == 5 else "x"}),
         W, "preference_whitespace", 6, "rejected", "dpo"),
    File("chosen_without_prompt", lines({"chosen": "a", "rejected": "b"}), R, "missing_prompt", 1, "prompt", "dpo"),
    File("chosen_prompt_null", lines({"prompt": None, "chosen": "a", "rejected": "b"}), R, "missing_prompt", 1, "prompt",
         "dpo"),
    File("chosen_prompt_empty", lines({"prompt": "", "chosen": "a", "rejected": "b"}), R, "missing_prompt", 1, "prompt",
         "dpo"),
    File("chosen_prompt_number", lines({"prompt": 5, "chosen": "a", "rejected": "b"}), R, "type_error", 1, "prompt", "dpo"),
    File("chosen_ends_user", lines({"chosen": [user("a"), user("b")], "rejected": [user("a"), answer("b")]}), R,
         "preference_role", 1, "chosen[1].role", "dpo"),
    File("chosen_other_prompt", lines({"chosen": [user("a"), answer("b")], "rejected": [user("c"), answer("d")]}), R,
         "preference_prompt_differs", 1, "rejected", "dpo"),
    File("label_text", labels({"prompt": "q", "completion": "a", "label": "true"}), R, "label", 6, "label", "kto"),
    File("label_one", labels({"prompt": "q", "completion": "a", "label": 1}), R, "label", 6, "label", "kto"),
    File("label_null", labels({"prompt": "q", "completion": "a", "label": None}), R, "label", 6, "label", "kto"),
    File("label_list", labels({"prompt": "q", "completion": "a", "label": [True]}), R, "label", 6, "label", "kto"),
    File("label_gone", labels({"prompt": "q", "completion": "a"}), R, "mixed_formats", 6, method="kto"),
    File("label_no_completion", labels({"prompt": "q", "completion": None, "label": True}), R, "missing_completion", 6,
         "completion", "kto"),
    File("labels_all_true", many(lambda n: {"prompt": f"{n}?", "completion": f"{n}.", "label": True}), W, "label_one_sided",
         method="kto"),
    File("labels_all_false", many(lambda n: {**good(n), "label": False}), W, "label_one_sided", method="kto"),
    File("reinforced_silent", reinforced({"reference": "1"}), R, "missing_messages", 6, "messages", "reinforcement"),
    File("reinforced_empty", reinforced({"messages": [], "reference": "1"}), R, "empty_messages", 6, "messages",
         "reinforcement"),
    File("reinforced_role", reinforced(chat({"role": "human", "content": "q"})), R, "unknown_role", 6, "messages[0].role",
         "reinforcement"),
    File("reinforced_tools", reinforced(chat(user(), tools="find")), R, "type_error", 6, "tools", "reinforcement"),
    File("reinforced_content", reinforced(chat(user(3))), R, "type_error", 6, CONTENT, "reinforcement"),
    File("reinforced_developer", many(lambda n: chat({"role": "developer", "content": "Be brief."}, user(f"Question {n}?"))),
         A, method="reinforcement"),
]  # fmt: skip

# OpenAI's guide: 10 rows at least, 65,536 tokens an example; the rest goes wrong in training.
WHOLE = [
    File("one_row", lines(good(0)), R, "too_few_examples", local=W),
    File("nine_rows", b"".join(row.encode() + b"\n" for row in GOOD[:9]), R, "too_few_examples", local=W),
    File("nine_pairs", many(lambda n: pair(input=chat(user(f"{n}?"))), 9), R, "too_few_examples", method="dpo", local=W),
    File("repeated", RAW + GOOD[3].encode() + b"\n", W, "duplicates", 13),
    File("all_equal", many(lambda n: good(0)), W, "duplicates", 2),
    File("repeated_case", RAW + GOOD[3].replace("Question", "QUESTION").encode(), W, "near_duplicates", 13),
    File("repeated_space", RAW + GOOD[3].replace("Question", " Question ").encode(), W, "near_duplicates", 13),
    File("contradiction", put(chat(system("You are terse."), user("Question 0?"), answer("Nothing.")), before=RAW), W,
         "contradictions", 6),
]  # fmt: skip
