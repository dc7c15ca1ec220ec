"""The short ways to a canonical row, for the most common rows, give what the long way gives."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from support.forms import SIDES

from finetune_gateway.data.canonical import read
from finetune_gateway.data.canonical_row import CanonicalRow
from finetune_gateway.data.formats import format_of
from finetune_gateway.validation.rows.formats import row_defects

Json = dict[str, Any]

ODD_TEXTS = ["", " ", "\u200b", "a", "a\x00b", "\u202e", "<|im_end|>", "{{name}}", "é", "a\n\nb"]


@pytest.mark.parametrize("keys", [("prompt", "completion"), ("prompt", "chosen", "rejected")])
def test_rows_of_texts_are_read_as_by_a_reader(keys: tuple[str, ...]) -> None:
    """The short way for the most common rows gives the same row, paths and defects."""
    for texts in itertools.product(ODD_TEXTS, repeat=len(keys)):
        row = dict(zip(keys, texts, strict=True))
        more = {**row, "a": 1, "b": 2, "c": 3}
        short, long = read(row), read(more)
        assert json.dumps(short.row) == json.dumps(long.row)
        if short.errors:  # a pair without a prompt
            continue
        paths = [path for key in short.row for path in (f"{key}[0]", f"{key}[0].content", key)]
        paths = [path.replace("input[0]", "input.messages[0]") for path in paths]
        assert [short.origin(path) for path in paths] == [long.origin(path) for path in paths]
        assert defects(row, short) == defects(more, long)


ROLES = ["system", "user", "assistant", "tool", "asistant", " user"]
MESSAGES = [{"role": "user", "content": text} for text in ODD_TEXTS]
MESSAGES += [{"role": role, "content": "a"} for role in ROLES]


def beside_their_prompt(asked: Json, good: Json, bad: Json) -> Json:
    return {"prompt": [asked], "chosen": [good], "rejected": [bad]}


def each_with_the_prompt(asked: Json, good: Json, bad: Json) -> Json:
    return {"chosen": [asked, good], "rejected": [asked, bad]}


def texts(asked: Json, good: Json, bad: Json) -> Json:
    pair = (asked, good, bad)
    return {key: one["content"] for key, one in zip(("prompt", *SIDES), pair, strict=True)}


@pytest.mark.parametrize("form", [beside_their_prompt, each_with_the_prompt, texts])
def test_pairs_that_are_only_renamed_are_read_and_judged_as_by_a_reader(
    form: Callable[[Json, Json, Json], Json],
) -> None:
    """The same rows, and defects of the same kinds at the same fields."""
    answers = [{**one, "role": "assistant"} for one in MESSAGES[:4]] + MESSAGES[-4:]
    for asked, good, bad in itertools.product(MESSAGES, answers, answers):
        row = json.loads(json.dumps(form(asked, good, bad)))
        more = {**row, "tools": None, "system": None, "system_prompt": None}
        short, long = read(row), read(more)
        assert json.dumps(short.row) == json.dumps(long.row)
        assert defects(row, short) == defects(more, long)


def defects(row: Json, sent: CanonicalRow) -> set[tuple[str, str]]:
    """Return the codes and fields of a row's defects."""
    row_format = format_of(row)
    assert row_format is not None
    found = row_defects(row, row_format, sent)
    return {(defect.code, defect.path) for defect in found if defect.code != "not_sent"}
