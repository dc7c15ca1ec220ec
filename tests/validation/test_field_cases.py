"""What people really have: a verdict for each of the small files after public reports that are kept
beside the checkout, with the rule that has to be named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.paths import SHARED_DATA

import finetune_gateway as gateway
from finetune_gateway import Dataset, FakeBackend, Gateway, OpenAIBackend
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Report
from finetune_gateway.validation.run import method_of

FIELD = SHARED_DATA / "field_cases"
A, W, R = "accepted", "warned", "rejected"

# file: outcome, and a rule that is named, for all backends and the method of the rows' format
CASES: dict[str, tuple[str, str]] = {
    "01-parts-in-tool-messages/s-absent.jsonl": (A, ""),
    "01-parts-in-tool-messages/s-empty-part.jsonl": (A, ""),
    "01-parts-in-tool-messages/s-fc-empty-part.jsonl": (W, "deprecated_functions"),
    "01-parts-in-tool-messages/s-null.jsonl": (A, ""),
    "01-parts-in-tool-messages/s-refusal-null.jsonl": (A, ""),
    "01-parts-in-tool-messages/s-space.jsonl": (A, ""),
    "01-parts-in-tool-messages/s-tool-empty-string.jsonl": (A, ""),
    "01-parts-in-tool-messages/s-tool-object.jsonl": (R, "type_error"),
    "01-parts-in-tool-messages/train.jsonl": (W, "tool_parts"),
    "04-txt-with-json-lines/TRAIN.TXT": (A, "container_name"),
    "04-txt-with-json-lines/one.json": (R, "too_few_examples"),
    "04-txt-with-json-lines/pandas-columns.json": (A, "rows_in_columns"),
    "04-txt-with-json-lines/train.csv": (A, "container_name"),
    "04-txt-with-json-lines/train.json": (A, ""),
    "04-txt-with-json-lines/train.jsonl.txt": (A, "container_name"),
    "04-txt-with-json-lines/train.txt": (A, "container_name"),
    "04-txt-with-json-lines/wrapped.json": (A, "rows_under_key"),
    "05-csv-chat-cells/bom.json": (A, ""),
    "05-csv-chat-cells/book-as.jsonl": (R, "not_text"),
    "05-csv-chat-cells/capital-header.csv": (A, "header_names"),
    "05-csv-chat-cells/conversations-repr.csv": (A, "cell_python"),
    "05-csv-chat-cells/cp1252.jsonl": (R, "encoding_not_utf8"),
    "05-csv-chat-cells/excel-semicolon-cp1252.csv": (R, "encoding_not_utf8"),
    "05-csv-chat-cells/excel-unicode-text.txt": (A, "encoding_converted"),
    "05-csv-chat-cells/hash-errors.csv": (W, "spreadsheet_error"),
    "05-csv-chat-cells/messages-json-string.jsonl": (R, "type_error"),
    "05-csv-chat-cells/nan-cells.csv": (W, "no_value"),
    "05-csv-chat-cells/question-answer.csv": (R, "unknown_format"),
    "05-csv-chat-cells/role-content.csv": (R, "conversation_unknown"),
    "05-csv-chat-cells/system-user-assistant.csv": (R, "unknown_format"),
    "05-csv-chat-cells/u16.jsonl": (R, "encoding_utf16"),
    "08-sharegpt-tags-and-order/conversation-singular.jsonl": (A, "format_sharegpt"),
    "08-sharegpt-tags-and-order/custom-tag.jsonl": (R, "unknown_role"),
    "08-sharegpt-tags-and-order/function-call-args-string.jsonl": (A, "format_sharegpt"),
    "08-sharegpt-tags-and-order/function-call-repr.jsonl": (R, "not_convertible"),
    "08-sharegpt-tags-and-order/gpt-first.jsonl": (W, "assistant_first"),
    "08-sharegpt-tags-and-order/messages-with-from.jsonl": (A, "format_sharegpt"),
    "08-sharegpt-tags-and-order/x-bad-args.jsonl": (W, "tool_args_schema"),
    "08-sharegpt-tags-and-order/x-call-text.jsonl": (R, "not_convertible"),
    "08-sharegpt-tags-and-order/x-no-tools.jsonl": (W, "tools_missing"),
    "08-sharegpt-tags-and-order/x-pii-in-call.jsonl": (A, "pii_reserved"),
    "08-sharegpt-tags-and-order/x-undeclared.jsonl": (R, "tool_undeclared"),
    "09-tools-blank-or-string/oa-anthropic-tool.jsonl": (R, "type_error"),
    "09-tools-blank-or-string/oa-flat-tool.jsonl": (R, "type_error"),
    "09-tools-blank-or-string/oa-parameters-string.jsonl": (R, "tool_schema"),
    "09-tools-blank-or-string/sg-blank.jsonl": (W, "tools_missing"),
    "09-tools-blank-or-string/sg-empty.jsonl": (W, "tools_missing"),
    "09-tools-blank-or-string/sg-plain-empty.jsonl": (A, "format_sharegpt"),
    "09-tools-blank-or-string/sg-plain-system-empty.jsonl": (A, "format_sharegpt"),
    "10-dpo-with-tools/axolotl.jsonl": (A, "format_trl_preference"),
    "10-dpo-with-tools/openai-undeclared.jsonl": (R, "tool_undeclared"),
    "10-dpo-with-tools/sft-pc-ok.jsonl": (A, "format_prompt_completion"),
    "10-dpo-with-tools/str-openai-badschema.jsonl": (R, "tool_schema"),
    "10-dpo-with-tools/str-pc-badschema.jsonl": (R, "tool_schema"),
    "10-dpo-with-tools/str-pc-undeclared.jsonl": (R, "tool_undeclared"),
    "10-dpo-with-tools/str-trl-badschema.jsonl": (R, "tool_schema"),
    "10-dpo-with-tools/str-trl-undeclared.jsonl": (R, "tool_undeclared"),
    "10-dpo-with-tools/trl-context.jsonl": (A, "tool_id_filled"),
    "11-think-blocks/key-multi-reasoning_content.jsonl": (W, "reasoning_key"),
    "11-think-blocks/key-reasoning_content.jsonl": (W, "reasoning_key"),
    "11-think-blocks/multi-turn-think.jsonl": (A, "think_inline"),
    "11-think-blocks/one-turn-think.jsonl": (A, "think_inline"),
    "11-think-blocks/unclosed.jsonl": (W, "think_unclosed"),
    "16-cut-answers/all-cut.jsonl": (A, ""),
    "16-cut-answers/half-cut.jsonl": (A, ""),
    "25-request-log-rows/anthropic.jsonl": (A, "system_beside"),
    "25-request-log-rows/bedrock.jsonl": (A, "format_shape"),
    "25-request-log-rows/gemini.jsonl": (A, "format_shape"),
    "25-request-log-rows/request-response.jsonl": (A, "format_shape"),
    "25-request-log-rows/responses-api.jsonl": (A, "format_shape"),
    "26-sharegpt-dpo/lfdpo.jsonl": (A, "format_trl_preference"),
    "26-sharegpt-dpo/mini.jsonl": (A, "format_trl_preference"),
    "26-sharegpt-dpo/same-as-openai.jsonl": (A, "format_preference"),
    "27-truncated-to-nothing/cut.jsonl": (W, "contradictions"),
    "28-alpaca-blank-instruction/cut.jsonl": (A, "format_alpaca"),
    "29-system-column/sys.jsonl": (A, "format_prompt_completion"),
}

# The same with a model to train here, whose template and limit decide.
TRAINED_HERE: dict[str, tuple[str, str]] = {
    "11-think-blocks/key-multi-reasoning_content.jsonl": (W, "template_drops"),
    "11-think-blocks/key-reasoning_content.jsonl": (W, "template_drops"),
    "16-cut-answers/all-cut.jsonl": (R, "nothing_left"),
    "16-cut-answers/half-cut.jsonl": (W, "row_cut"),
    "27-truncated-to-nothing/cut.jsonl": (R, "nothing_left"),
}

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not FIELD.exists(), reason="the data sets are not beside the checkout"),
]


def test_each_file_has_a_verdict() -> None:
    """A file that is added is judged here too."""
    files = {str(path.relative_to(FIELD)) for path in FIELD.glob("*/*")}
    assert files == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_what_people_have_is_judged_as_it_should_be(name: str) -> None:
    """The outcome for all backends, and the rule that says why or how the file is read."""
    report = gateway.validate(FIELD / name)
    outcome, code = CASES[name]
    codes = {one.code for one in report.findings}
    assert (report.outcome, code or None) == (outcome, code if code in codes else None)
    assert all(one.fix for one in report.errors)


@pytest.mark.parametrize("name", TRAINED_HERE)
def test_what_a_model_here_loses_is_named(name: str) -> None:
    """Reasoning that its template leaves out, and answers that its limit cuts away."""
    report = gateway.validate(FIELD / name, model="builtin/tiny", backend="local")
    outcome, code = TRAINED_HERE[name]
    assert report.outcome == outcome
    assert code in {one.code for one in report.findings}


MODEL = "gpt-4.1-mini-2025-04-14"
# Preference pairs, rows of other services, a system column: they are written anew to be sent.
PRICED = [name for name in CASES if name[:2] in ("25", "26", "28", "29")]


def judged(path: Path, backend: Any) -> tuple[Report, dict[str, Any]]:
    """The report for a backend, and the keywords that plan and submit the same."""
    method: Any = method_of(Dataset.open(path))
    asked: dict[str, Any] = {"model": MODEL, "backend": backend, "method": method}
    report = gateway.validate(path, quality=False, **asked)
    return report, asked | {"validation_split": 0}


@pytest.mark.parametrize("name", CASES)
def test_submit_and_convert_say_what_validate_says(name: str, home: Path, tmp_path: Path) -> None:
    """What is planned to be sent, here or to OpenAI, is accepted or refused alike, with the same
    tokens; and so is the file that convert writes."""
    for backend in (FakeBackend(), OpenAIBackend(api_key="sk-none")):
        report, asked = judged(FIELD / name, backend)
        try:
            tokens = Gateway().plan(FIELD / name, **asked).estimate.tokens
        except DataError:
            assert not report.ok
        else:
            assert report.ok and tokens and (report.tokens or {})["total"] == tokens.total
    written = tmp_path / "openai.jsonl"
    try:
        Dataset.open(FIELD / name).convert("openai", written)
    except DataError:
        assert not report.ok
        return
    after, _ = judged(written, backend)
    assert (after.ok, after.tokens) == (report.ok, report.tokens)


@pytest.mark.parametrize("name", PRICED)
def test_what_is_sent_is_what_was_priced(name: str, home: Path, tmp_path: Path) -> None:
    """The file that the job gets holds the tokens of the estimate, and is accepted again."""
    report, asked = judged(FIELD / name, fake := FakeBackend())
    assert report.ok
    gateway.submit(FIELD / name, **asked).wait()
    ((_, _, sent, _),) = fake.started
    path = tmp_path / "sent.jsonl"
    path.write_bytes(sent.path.read_bytes())
    again, _ = judged(path, fake)
    assert (again.ok, again.rows, again.tokens) == (True, report.rows, report.tokens)
