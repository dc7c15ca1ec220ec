"""The rules about bytes, JSON, formats, the file and the dataset as a whole; see ``rules``."""

from __future__ import annotations

from finetune_gateway.validation.rules import E, N, Rule, W

_BYTES = {
    "utf8_bom": Rule(
        W, W, "the file starts with a UTF-8 byte order mark",
        "Most JSON readers take it as a character of line 1; only Azure requires it.",
        "Nothing to do: it is skipped. To avoid this note, save as UTF-8 without BOM.",
        autofix="Removes the mark.",
    ),
    "bom_inside": Rule(
        E, E, "a byte order mark inside the file",
        "Files were joined without removing their marks, and JSON does not allow it there.",
        "Remove the three bytes EF BB BF at that place.",
        autofix="Removes the mark.",
    ),
    "line_terminator": Rule(
        E, E, "the lines end in CR (old Mac) instead of LF",
        "JSONL is split at LF, so all rows look like one line.",
        r"Convert the line endings: tr '\r' '\n' < old.jsonl > new.jsonl",
        autofix="Writes LF.",
        unread=True,
    ),
    "mixed_line_endings": Rule(
        N, N, "some lines end in CRLF and some in LF",
        "Both are accepted; the mix suggests that files of two systems were joined.",
        "Nothing to do.",
        autofix="Writes LF.",
    ),
    "encoding_utf16": Rule(
        E, E, "the file is UTF-16, not UTF-8", "JSONL for training must be UTF-8.",
        "Convert it: iconv -f UTF-16 -t UTF-8 old.jsonl > new.jsonl",
        autofix="Writes UTF-8.",
        unread=True,
    ),
    "encoding_utf32": Rule(
        E, E, "the file is UTF-32, not UTF-8", "JSONL for training must be UTF-8.",
        "Convert it: iconv -f UTF-32 -t UTF-8 old.jsonl > new.jsonl",
        autofix="Writes UTF-8.",
        unread=True,
    ),
    "encoding_not_utf8": Rule(
        E, E, "the line is not UTF-8",
        "A row that cannot be decoded cannot be trained on; providers call it broken JSON.",
        "Save the file as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 old.jsonl > new.jsonl",
    ),
    "compressed": Rule(
        E, E, "the file is compressed", "Training files must be plain text.",
        "Decompress it and use the .jsonl file inside.",
        unread=True,
    ),
    "not_text": Rule(
        E, E, "the file is binary, not JSON lines", "Training files must be plain text.",
        "Export the data as JSONL: one JSON object per line, UTF-8.",
        unread=True,
    ),
    "no_examples": Rule(
        E, E, "the file has no examples", "There is nothing to train on.",
        "Check the path, and that the export of the file was complete.",
        unread=True,
    ),
    "file_too_large": Rule(
        E, None, "the file is larger than 512 MB", "OpenAI accepts training files up to 512 MB.",
        "Remove rows; a few thousand good ones are usually enough.",
    ),
    "blank_line": Rule(
        W, W, "blank lines between the rows",
        "They are skipped here; other readers stop at them or report an error.",
        "Remove them: grep -v '^[[:space:]]*$' old.jsonl > new.jsonl",
        autofix="Removes them.",
    ),
    "trailing_blank_line": Rule(
        N, N, "blank lines at the end of the file", "They are skipped.", "Nothing to do.",
        autofix="Removes them.",
    ),
    "nul_byte": Rule(
        E, E, "NUL bytes in the line",
        "Typical of a file that was being written when the power or the disk failed.",
        "Remove the line, or restore the file from its source.",
    ),
    "line_too_long": Rule(
        E, E, "a line is longer than 64 MB",
        "No model trains on an example of that size; the rest of the file was not read.",
        "Check that rows end in newlines, or split the example.",
        unread=True,
    ),
}  # fmt: skip

_JSON = {
    "json_array_not_jsonl": Rule(
        E, E, "the file is one JSON array, not JSON lines",
        "Each line must be one object.",
        "Convert it: ftg validate old.jsonl --fix new.jsonl",
        autofix="Writes one row per line.",
        unread=True,
    ),
    "pretty_printed": Rule(
        E, E, "an object spans several lines", "Each line must be one complete object.",
        "Convert it: ftg validate old.jsonl --fix new.jsonl",
        autofix="Writes one row per line.",
        unread=True,
    ),
    "json_extra_data": Rule(
        E, E, "more than one JSON value on the line",
        "Newlines between the objects are missing, so all but the first would be lost.",
        "Put each object on its own line: jq -c . old.jsonl > new.jsonl",
        autofix="Writes one row per line.",
        unread=True,
    ),
    "json_syntax": Rule(
        E, E, "the line is not valid JSON", "A row that cannot be parsed cannot be trained on.",
        "Fix the line; write rows with a JSON library rather than by hand.",
    ),
    "json_truncated": Rule(
        E, E, "the line ends in the middle of a JSON value",
        "The export or the download stopped early, or a string has a raw line break.",
        "Export the file again, or remove the line.",
    ),
    "json_smart_quotes": Rule(
        E, E, "curly quotes instead of straight ones",
        'JSON allows only the straight quote "; word processors replace it.',
        'Replace the curly quotes around keys and values with ".',
    ),
    "json_single_quotes": Rule(
        E, E, "single quotes instead of double ones",
        "This is how Python prints a dict; JSON requires double quotes.",
        "Write rows with json.dumps(row), not str(row).",
    ),
    "json_python_literal": Rule(
        E, E, "a Python or JavaScript word instead of a JSON one",
        "JSON has only true, false and null.",
        "Write rows with json.dumps(row), not str(row).",
    ),
    "json_comment": Rule(
        E, E, "a comment in the JSON", "JSON has no comments.", "Remove the comment.",
    ),
    "json_control_char": Rule(
        E, E, "a raw control character inside a string",
        "JSON requires line breaks and tabs in strings as \\n and \\t.",
        "Write rows with a JSON library, which escapes them.",
    ),
    "json_nan": Rule(
        E, E, "NaN or Infinity, which JSON does not have",
        "Python writes and reads them; almost no other reader does.",
        "Write null or omit the key; json.dumps(row, allow_nan=False) finds them.",
    ),
    "json_number": Rule(
        E, E, "a number that is too large",
        "It would silently become infinity or stop the reader.",
        "Write it as a string, or correct it.",
    ),
    "json_duplicate_key": Rule(
        E, E, "the same key twice in one object",
        "Readers keep one of the two silently, so data is lost.",
        "Keep one of them.",
    ),
    "lone_surrogate": Rule(
        E, E, "half of a surrogate pair",
        "It is not a character, cannot be written as UTF-8 and breaks tokenizers; "
        "usually a text was cut in the middle of an emoji.",
        "Remove the \\ud8xx escape, or write the whole character.",
    ),
    "control_char": Rule(
        W, W, "a control character in a text",
        "It is allowed when escaped, but breaks many text tools, and a model learns to write it; "
        "\\f and \\b are often LaTeX with a missing backslash.",
        "Remove it, or double the backslash if one was intended.",
    ),
    "json_too_deep": Rule(
        E, E, "nested deeper than 100 levels", "Readers fail on it.",
        "Flatten the row.",
    ),
    "not_json": Rule(
        E, E, "the line is not JSON", "Each line must be one JSON object.",
        'Convert the data to rows such as {"messages": [...]}, one per line.',
    ),
    "row_not_object": Rule(
        E, E, "the line is JSON, but not an object",
        "Each row must be an object with keys.",
        'Wrap it: {"messages": [...]}.',
    ),
}  # fmt: skip

_FORMATS = {
    "format_prompt_completion": Rule(
        N, N, "prompt/completion rows",
        "They are treated as one user turn and one answer.", "Nothing to do.",
        autofix="Writes chat rows.",
    ),
    "format_alpaca": Rule(
        N, N, "Alpaca rows", "They are treated as one user turn and one answer.", "Nothing to do.",
        autofix="Writes chat rows.",
    ),
    "format_sharegpt": Rule(
        N, N, "ShareGPT rows", "They are treated as chat: human is user, gpt is assistant.",
        "Nothing to do.",
        autofix="Writes chat rows.",
    ),
    "format_text": Rule(
        N, N, "plain text rows", "The model learns to continue the text.", "Nothing to do.",
    ),
    "format_preference": Rule(
        N, N, "preference pairs in OpenAI's form", "Each row has a better and a worse answer.",
        "Nothing to do.",
    ),
    "format_trl_preference": Rule(
        N, N, "preference pairs as chosen/rejected",
        "They are treated as preferred_output and non_preferred_output.", "Nothing to do.",
        autofix="Writes OpenAI's form.",
    ),
    "format_unpaired_preference": Rule(
        N, N, "answers with a label (KTO)", "The label says if the answer is good.",
        "Nothing to do.",
    ),
    "mixed_formats": Rule(
        E, E, "rows of different formats in one file", "A job takes one format.",
        "Convert the rows, or split the file by format.",
        autofix="Writes all rows that can be converted as chat.",
    ),
    "unknown_format": Rule(
        E, E, "no known training format",
        "Known keys: messages; prompt and completion; instruction and output; conversations; text; "
        "input, preferred_output and non_preferred_output; chosen and rejected.",
        'Convert each row to {"messages": [...]}.',
    ),
    "not_convertible": Rule(
        E, E, "a row that cannot be read as a conversation without loss",
        "Rows of this format are trained and sent as OpenAI's chat or preference rows.",
        "Change the field, or remove it.",
    ),
    "not_sent": Rule(
        N, N, "keys that are not part of the example",
        "Only the conversation is counted, trained and sent.", "Nothing to do.",
        autofix="Keeps them in the chat or preference rows that it writes.",
    ),
    "missing_output": Rule(
        E, E, "an Alpaca row without 'output'", "There is no answer to learn.",
        "Add the answer, or remove the row.",
    ),
    "missing_prompt": Rule(
        E, E, "a row without its prompt", "There is no question to answer.",
        "Add it, or remove the row.",
    ),
    "missing_completion": Rule(
        E, E, "a row without 'completion'", "There is no answer to learn.",
        "Add it, or remove the row.",
    ),
    "empty_text": Rule(
        E, E, "an empty text", "It has nothing to learn.", "Remove the row.",
    ),
}  # fmt: skip

_DATASET = {
    "too_few_examples": Rule(
        E, W, "fewer rows than a job needs",
        "OpenAI refuses fewer than 10 and sees gains from 50 to 100.", "Add examples.",
    ),
    "template_refuses": Rule(
        None, E, "a row the model's chat template refuses",
        "The model does not support such a conversation.",
        "Change the row, or use another template.",
    ),
    "example_too_long": Rule(
        E, E, "an example longer than the model's context",
        "It would be truncated at its end, where the answer is.",
        "Shorten or split it.",
    ),
    "duplicates": Rule(
        W, W, "rows that repeat an earlier row", "They count twice in training.",
        "Keep one of each.",
        autofix="Keeps the first of each.",
    ),
    "near_duplicates": Rule(
        W, W, "rows that differ from an earlier one only in case, spaces or the order of keys",
        "They count twice in training.", "Keep one of each.",
    ),
    "pii": Rule(
        W, W, "personal data",
        "A hosted job would upload it, and a model can repeat its training data.",
        "Mask or remove it.",
    ),
    "pii_reserved": Rule(
        N, N, "personal data that stands for nobody",
        "Names kept for examples (example.com, .test), test numbers of cards and 555-01xx do not "
        "stop a job.",
        "Nothing to do.",
    ),
    "secret": Rule(
        W, W, "something that looks like a key or password",
        "A hosted job would upload it, and a model can repeat its training data.",
        "Revoke it and remove it from the data.",
    ),
    "special_tokens_in_text": Rule(
        W, W, "a special token in a text",
        "Unless it is encoded as plain text, it ends the turn or starts another; "
        "OpenAI has refused files with it (\"message contains an invalid token\").",
        "Remove it. Local training encodes it as plain text, except in rows of text alone.",
    ),
    "bidi_control": Rule(
        W, W, "characters that change the direction of text",
        "A person reads something else than the model.", "Remove them.",
    ),
    "invisible_char": Rule(
        W, W, "an invisible character in a text",
        "It cannot be seen, but it is trained; tag characters and several variation selectors in "
        "a row can carry hidden instructions.",
        "Remove it.",
    ),
    "mojibake": Rule(
        W, W, "text decoded with the wrong encoding",
        "UTF-8 was read as Windows-1252 or another code page; the model would learn the damage.",
        "Decode the source as UTF-8; the package ftfy repairs such text.",
    ),
    "replacement_char": Rule(
        W, W, "the replacement character U+FFFD",
        "A character was lost when the text was decoded.", "Decode the source again.",
    ),
    "too_many_findings": Rule(
        W, W, "more kinds of findings than are listed", "Only the first 1,000 kinds are kept.",
        "Fix those listed and validate again.",
        unread=True,
    ),
}  # fmt: skip

_WHOLE_DATASET = {
    "contradictions": Rule(
        W, W, "rows with the same prompt and different answers",
        "The model learns something between the two, and its loss cannot fall.",
        "Keep the better answer, or state in the prompt what makes the difference.",
    ),
    "similar_rows": Rule(
        N, N, "rows that differ from an earlier one in a few words only",
        "They count almost twice, and a random split puts them on both sides.",
        "Keep one of each, or split with 'ftg split', which keeps them on one side.",
    ),
    "near_duplicates_unseen": Rule(
        N, N, "near-duplicates were not checked",
        "Only rows that are equal, apart from case and spaces, were checked.",
        "Run: pip install 'finetune-gateway[dedup]'",
    ),
    "leak": Rule(
        W, W, "rows that are also in the validation or test data",
        "A model cannot be tested on its training data: the results would be too good.",
        "Remove them from one of the two files.",
    ),
    "near_leak": Rule(
        W, W, "rows that are almost the same in the validation or test data",
        "A model cannot be tested on its training data: the results would be too good.",
        "Remove them from one of the two files.",
    ),
    "against_unread": Rule(
        E, E, "validation or test data that could not be read",
        "These lines were not compared, and a job would refuse them.",
        "Validate that file: ftg validate FILE.",
    ),
    "boilerplate_answer": Rule(
        W, W, "the same answer in a large share of the rows",
        "The model learns to give it to any question.",
        "Remove most of these rows, unless the answer should be that common.",
    ),
    "system_prompt_mix": Rule(
        N, N, "some rows have another system prompt, or none",
        "The model answers best with the system prompt it was trained with.",
        "Use one prompt throughout, that of production, unless the mix is intended.",
    ),
    "class_balance": Rule(
        N, N, "classes (short answers) in very different numbers",
        "A model trained on them prefers the common ones; OpenAI's guide to classification asked "
        "for about 100 rows of each class.",
        "Add rows of the rare classes.",
    ),
    "label_one_sided": Rule(
        W, W, "all rows have the same label",
        "KTO learns from the difference between good and bad answers, so it needs both.",
        "Add rows with the other label.",
    ),
    "length_outlier": Rule(
        N, N, "a row far longer than the others",
        "Often an export error; the longest row determines the memory of a batch.",
        "Check it; split it or remove it.",
    ),
    "repetitive_text": Rule(
        N, N, "an answer that repeats itself",
        "A model that learns this does not stop.", "Shorten it, or remove the row.",
    ),
    "language_mix": Rule(
        N, N, "answers in more than one language",
        "The model may switch languages unexpectedly.",
        "Remove unintended languages, or state the language in the prompt.",
    ),
    "few_examples": Rule(
        N, N, "few rows",
        "OpenAI's guide requires at least 10, sees clear gains from 50 to 100, and recommends "
        "starting with 50 good ones.",
        "Add rows, the good ones first.",
    ),
    "template_drops": Rule(
        None, W, "the model's template omits something",
        "The model does not learn what it is not shown.",
        "See the result with 'ftg preview'; use a model whose template writes it, or change the "
        "row.",
    ),
    "row_cut": Rule(
        None, W, "a row longer than the limit of tokens",
        "Its end is cut off, where the answer is.",
        "Raise max_length (--set max_length=N), at most to the model's context, or split the row.",
    ),
    "nothing_to_train": Rule(
        None, W, "a row with no token to train",
        "It is left out.",
        "Raise max_length (--set max_length=N), check the weights of its messages, or use a model "
        "whose template writes its answers.",
    ),
    "nothing_to_compare": Rule(
        None, W, "a pair with nothing to compare",
        "Within max_length both sides are the same tokens, or one has no answer; it is left out.",
        "Raise max_length (--set max_length=N), or see the row with 'ftg preview'.",
    ),
    "template_moves": Rule(
        None, W, "the model's template moves something",
        "The model sees the conversation in a different order.",
        "See the result with 'ftg preview'; change the row, or use another template.",
    ),
    "drift": Rule(
        W, W, "production prompts that the data does not cover",
        "A fine-tuned model answers well what resembles its training data.",
        "Add rows for such prompts.",
    ),
    "drift_length": Rule(
        N, N, "production prompts differ in length from those of the data",
        "A fine-tuned model answers well what resembles its training data.",
        "Add rows with prompts as long as those in production.",
    ),
    "drift_unknown": Rule(
        W, W, "too few production prompts to compare with",
        "A share of a few prompts means nothing.",
        'Use at least 10, one per line: {"prompt": "..."} or {"messages": [...]}.',
    ),
}  # fmt: skip

FILE_GROUPS: dict[str, dict[str, Rule]] = {
    "Bytes and lines": _BYTES,
    "JSON": _JSON,
    "Formats": _FORMATS,
    "Limits and texts": _DATASET,
    "The data as a whole": _WHOLE_DATASET,
}
