"""The sample of bad inputs and the real data sets kept beside the checkout."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.paths import SHARED_DATA
from support.rule_sets import rules_of

from finetune_gateway import Dataset
from finetune_gateway.findings import Report
from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.validation.run import validate

MANIFEST = SHARED_DATA / "bad_inputs" / "manifest.json"
CASES: list[dict[str, Any]] = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else []
OUTCOMES = {"accept": "accepted", "warn": "warned", "reject": "rejected"}

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not CASES, reason="the data sets are not beside the checkout"),
]


def judged(case: dict[str, Any]) -> Report:
    """The report on a case, with the arguments that the manifest gives."""
    args = dict(zip(case["args"][::2], case["args"][1::2], strict=True))
    return validate(
        Dataset.open(SHARED_DATA / "bad_inputs" / case["file"]),
        model=args["--model"],
        backends=rules_of(args["--backend"]),
        method=args.get("--method", "sft"),
        counter=HostedCounter(args["--model"]),
        max_context=65_536,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_a_bad_input_is_judged_as_it_should_be(case: dict[str, Any]) -> None:
    """The outcome, the code, and the line and the path wherever the manifest names one."""
    report = judged(case)
    assert report.outcome == OUTCOMES[case["outcome"]]
    found = {one.code: one for one in report.findings}
    if not case["code"]:
        assert not found
        return
    one = found[case["code"]]
    if line := re.match(r"lines? (\d+)", case["where"]):
        assert one.line == int(line[1])
    if path := re.search(r"(?:^| )(?:\.\.\.)?([a-z_]+[\w.\[\]]*[\]\w])$", case["where"]):
        assert path[1] in (*one.path.split("."), "col", "file", "offset") or path[1] in one.path
    assert len(one.message) < 600


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("foundry_gsm8k_chat/chat_train.jsonl", "sft"),
        ("foundry_gsm8k_chat/chat_validation.jsonl", "sft"),
        ("fireworks_text2sql/text2sql_dataset.jsonl", "sft"),
        ("foundry_stock_toolcall/stock_toolcall_training.jsonl", "sft"),
        ("foundry_stock_toolcall/stock_toolcall_validation.jsonl", "sft"),
        ("together_coqa/small_coqa_10.jsonl", "sft"),
    ],
)
def test_good_data_is_accepted_for_every_backend(name: str, method: str) -> None:
    """No false alarm on real data: neither an error nor a warning."""
    report = validate(Dataset.open(SHARED_DATA / name), method=method)
    assert (report.outcome, report.findings) == ("accepted", [])


@pytest.mark.parametrize(
    ("name", "method", "warnings"),
    [
        ("openai_cookbook_toy_chat/toy_chat_fine_tuning.jsonl", "sft", {"no_user": [4]}),
        ("foundry_orca_dpo/validation.jsonl", "dpo", {"mojibake": [129, 172, 188]}),
        (
            "mlx_wikisql_text/train.jsonl",
            "pretrain",
            {"duplicates": [162], "near_duplicates": [516]},
        ),
    ],
)
def test_real_faults_are_the_only_ones_found(
    name: str, method: str, warnings: dict[str, list[int]]
) -> None:
    """What these sets are known to hold is said, and nothing else."""
    report = validate(Dataset.open(SHARED_DATA / name), method=method)
    assert {one.code: one.lines for one in report.warnings} == warnings
    assert {one.code for one in report.errors} <= {"too_few_examples"}


@pytest.mark.parametrize(
    ("name", "method", "duplicates"),
    [
        ("fastchat_sharegpt/dummy_conversation.json", "sft", 0),
        ("llamafactory_dpo_en/dpo_en_demo.json", "dpo", 5),
        ("llamafactory_glaive_toolcall_en/glaive_toolcall_en_demo.json", "sft", 35),
        ("llamafactory_kto_en/kto_en_demo.json", "kto", 0),
    ],
)
def test_other_formats_are_read(name: str, method: str, duplicates: int, tmp_path: Path) -> None:
    """An array among JSON lines is reported; in a file named .json it is read, its rows have no
    error, and known duplicates."""
    array = tmp_path / "rows.jsonl"
    array.write_bytes((SHARED_DATA / name).read_bytes())
    assert [one.code for one in validate(Dataset.open(array)).errors] == ["json_array_not_jsonl"]
    report = validate(Dataset.open(SHARED_DATA / name, spool=tmp_path), method=method)
    assert not report.errors
    assert sum(one.count for one in report.findings if one.code == "duplicates") == duplicates
