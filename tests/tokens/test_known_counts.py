"""The real data sets kept beside the checkout: what is known of them is what the report says, and
nothing is said of them that is not so.

Each warning in the tables was looked at by hand and is true: an address or a number that somebody
wrote, an e with an accent decoded wrongly, rows that are there twice.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.paths import SHARED

import finetune_gateway as gateway
from finetune_gateway.findings import Finding, Report
from finetune_gateway.spec import AnyMethod

pytestmark = pytest.mark.shared

TOYS = "openai_cookbook_toy_chat/toy_chat_fine_tuning.jsonl"
STOCKS = "foundry_stock_toolcall/stock_toolcall_{}.jsonl"
GSM8K = "foundry_gsm8k_chat/chat_{}.jsonl"
WIKISQL = "mlx_wikisql_text/{}.jsonl"
CALLS = "llamafactory_glaive_toolcall_en/glaive_toolcall_en_demo.json"
PAIRS = "llamafactory_dpo_en/dpo_en_demo.json"
LABELS = "llamafactory_kto_en/kto_en_demo.json"
WEB = "llamafactory_plain_text/c4_demo.jsonl"

# file: (method, rows, {warning: in how many rows})
GOOD: dict[str, tuple[str, int, dict[str, int]]] = {
    "fastchat_sharegpt/dummy_conversation.json": (
        "sft",
        500,
        {"boilerplate_answer": 1},  # 32 rows answer "Are you GPT-4?" and the like in the same words
    ),
    "fireworks_text2sql/text2sql_dataset.jsonl": ("sft", 100, {}),
    GSM8K.format("train"): ("sft", 449, {}),
    GSM8K.format("validation"): ("sft", 50, {}),
    "foundry_orca_dpo/validation.jsonl": ("dpo", 284, {"mojibake": 3}),
    STOCKS.format("training"): ("sft", 86, {}),
    STOCKS.format("validation"): ("sft", 10, {}),
    PAIRS: (
        "dpo",
        300,
        {
            "control_char": 1,
            "duplicates": 5,
            "invisible_char": 2,
            "literal_newline": 6,
            "mojibake": 1,
        },
    ),
    CALLS: (
        "sft",
        300,
        {
            "duplicates": 35,
            "tool_args_schema": 1,
        },
    ),
    LABELS: ("kto", 300, {"literal_newline": 1, "mojibake": 2, "special_tokens_in_text": 2}),
    WEB: ("pretrain", 300, {"invisible_char": 3, "pii": 13, "replacement_char": 4}),
    "llamafactory_plain_text/wiki_demo.txt": ("pretrain", 30, {}),
    WIKISQL.format("train"): ("pretrain", 1000, {"duplicates": 1, "near_duplicates": 1}),
    WIKISQL.format("valid"): ("pretrain", 100, {}),
    WIKISQL.format("test"): ("pretrain", 100, {}),
    "self_instruct_seed/quoref_Find_Answer.jsonl": ("sft", 200, {"special_tokens_in_text": 200}),
    "together_coqa/small_coqa_10.jsonl": ("sft", 10, {}),
}
# All kinds of findings on sets that are clean, notes too; the rows of each have been read.
CLEAN: dict[str, set[str]] = {
    GSM8K.format("train"): set(),
    GSM8K.format("validation"): set(),
    "fireworks_text2sql/text2sql_dataset.jsonl": set(),
    STOCKS.format("training"): set(),
    STOCKS.format("validation"): {"few_examples"},
    "together_coqa/small_coqa_10.jsonl": {"few_examples"},
    "foundry_orca_dpo/validation.jsonl": {"format_preference", "mojibake"},
    WIKISQL.format("train"): {"format_text", "duplicates", "near_duplicates", "similar_rows"},
    WIKISQL.format("valid"): {"format_text"},
    WIKISQL.format("test"): {"format_text"},
    "llamafactory_plain_text/wiki_demo.txt": {"format_text"},
}
# These are no training files: prompts to be asked, answers of another shape.
OTHERS = {
    "fastchat_mtbench/question.jsonl": (80, "unknown_format"),
    "fastchat_mtbench/gpt-4.jsonl": (30, "unknown_format"),
}


@pytest.fixture(scope="module")
def said() -> Any:
    """``said(file, method)``: the report on a data set, made once."""
    if not SHARED.is_dir():
        pytest.skip("the data sets are not beside the checkout")

    @cache
    def report(name: str, method: AnyMethod = "sft", against: str = "") -> Report:
        path = SHARED / "data" / name
        if against:
            return gateway.validate(path, method=method, against=SHARED / "data" / against)
        return gateway.validate(path, method=method, quality=True)

    return report


def figures(report: Report) -> dict[str, Any]:
    assert report.quality is not None
    return report.quality


def finding(report: Report, code: str) -> Finding:
    (found,) = [one for one in report.findings if one.code == code]
    return found


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_is_accepted_with_true_warnings_alone(name: str, said: Any) -> None:
    """No error on any real set, and of warnings those that are so."""
    method, rows, warnings = GOOD[name]
    report = said(name, method)
    assert (report.ok, report.rows, report.errors) == (True, rows, [])
    counts: dict[str, int] = {}
    for one in report.warnings:
        counts[one.code] = counts.get(one.code, 0) + one.count
    assert counts == warnings


@pytest.mark.parametrize("name", CLEAN)
def test_clean_sets_show_few_kinds_of_findings(name: str, said: Any) -> None:
    """Four at most, and these alone. Similar rows are looked for where rensa is installed."""
    kinds = {one.code for one in said(name, GOOD[name][0]).findings}
    optional = {"similar_rows", "near_duplicates_unseen"}
    assert kinds - optional == CLEAN[name] - optional and len(kinds) <= 4


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_training_file_is_refused_by_its_shape(name: str, said: Any) -> None:
    """One error for all its rows, and the right one."""
    rows, code = OTHERS[name]
    (error,) = said(name).errors
    assert (error.code, error.count, error.line) == (code, rows, 1)


@pytest.mark.parametrize(("part", "calls"), [("training", 36), ("validation", 5)])
def test_calls_without_a_result(part: str, calls: int, said: Any) -> None:
    """All calls of the stock set end their rows."""
    found = figures(said(STOCKS.format(part)))["tool_calls"]
    assert found == {"calls": calls, "unanswered": calls, "results": 0}


def test_a_last_line_without_a_line_end_is_a_row(said: Any, shared: Path) -> None:
    """The validation part of the stock set lacks it, and that is no fault."""
    assert not (shared / "data" / STOCKS.format("validation")).read_bytes().endswith(b"\n")
    report = said(STOCKS.format("validation"))
    assert (report.rows, report.warnings) == (10, [])


def test_calls_and_results(said: Any) -> None:
    """211 of each, all answered, and 35 rows that are there twice."""
    report = said(CALLS)
    assert figures(report)["turns"]["tool"] == 211
    assert figures(report)["tool_calls"] == {"calls": 211, "unanswered": 0, "results": 211}
    assert finding(report, "duplicates").count == 35


def test_turns_before_a_pair(said: Any) -> None:
    """The last turn is the user's in all, nothing is answered before in 194, 5 repeat."""
    report = said(PAIRS, "dpo")
    assert figures(report)["last_turns"] == {"user": 300}
    assert figures(report)["single_turn"] == 194
    assert finding(report, "duplicates").count == 5


def test_lost_characters(said: Any) -> None:
    """15 of them, in four rows."""
    report = said(WEB, "pretrain")
    assert figures(report)["replacement_characters"] == 15
    assert finding(report, "replacement_char").lines == [11, 94, 109, 165]


def test_toy_rows(said: Any) -> None:
    """Row 4 has no user turn; row 5 is 26,000 characters of one phrase; five rows are too few."""
    report = said(TOYS)
    assert [one.code for one in report.errors] == ["too_few_examples"]
    assert [(one.code, one.lines) for one in report.warnings] == [("no_user", [4])]
    assert finding(report, "repetitive_text").lines == [5]
    assert figures(report)["characters"]["max"] == 26_012  # with the question


@pytest.mark.parametrize(
    ("name", "other", "method"),
    [
        (GSM8K.format("train"), GSM8K.format("validation"), "sft"),
        (WIKISQL.format("train"), WIKISQL.format("valid"), "pretrain"),
        (WIKISQL.format("train"), WIKISQL.format("test"), "pretrain"),
        (WIKISQL.format("valid"), WIKISQL.format("test"), "pretrain"),
    ],
)
def test_no_row_leaks_into_another_part(name: str, other: str, method: str, said: Any) -> None:
    """Neither as it is nor with a word or two changed."""
    report = said(name, method, other)
    none = {"exact": 0, "questions": 0, "near": 0}
    assert figures(report)["leaks"] == {Path(other).name: none}
    assert not {"leak", "near_leak"} & {one.code for one in report.findings}


def test_repeated_rows_of_the_real_splits(said: Any) -> None:
    """One in WikiSQL's training rows, none in GSM8K's."""
    assert finding(said(WIKISQL.format("train"), "pretrain"), "duplicates").lines == [162]
    for part in ("train", "validation"):
        assert not {one.code for one in said(GSM8K.format(part)).findings} & {
            "duplicates",
            "near_duplicates",
        }
