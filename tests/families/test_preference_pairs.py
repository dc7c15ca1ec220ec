"""Preference pairs under real templates, judged by transformers, and faults that are planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from families.judge import Trained
from families.made import Families
from families.pairs import KINDS, judge, pair_faults, planted

from finetune_gateway.tokens.training_rows import encode_row

FAMILIES = ("qwen3", "llama3_2", "gptoss")
OUTCOMES = {"right": "w", "lost": "L", "refused": "-", "wrong": "WRONG"}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_compared_is_what_serving_asks_for(family: Families, name: str) -> None:
    """By the original template through transformers, in token ids."""
    found = {kind: judge(family(name), planted(kind)) for kind in KINDS}
    letters = {kind: OUTCOMES[verdict.outcome] for kind, verdict in found.items()}
    assert letters == dict.fromkeys(KINDS, "w") | LOST.get(name, {}), found


# What a template drops is named: Llama 3.2 writes no reasoning.
LOST = {"llama3_2": {"reasoning": "L"}}


def everything(sides: list[Trained]) -> list[Trained]:
    return [replace(one, labels=list(one.input_ids)) for one in sides]


def nothing(sides: list[Trained]) -> list[Trained]:
    return [replace(one, labels=[-100] * len(one.labels)) for one in sides]


def late(sides: list[Trained]) -> list[Trained]:
    """Leave out the first token that is compared."""
    return [
        replace(
            one,
            labels=[
                -100 if at == next(i for i, x in enumerate(one.labels) if x != -100) else label
                for at, label in enumerate(one.labels)
            ],
        )
        for one in sides
    ]


def other_prompt(sides: list[Trained]) -> list[Trained]:
    chosen, rejected = sides
    return [chosen, replace(rejected, input_ids=[rejected.input_ids[1], *rejected.input_ids[1:]])]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (everything, "a token that both begin with is compared"),
        (nothing, "nothing is compared"),
        (late, "the first token that differs is not compared"),
        (other_prompt, "the sides differ within the prompt"),
    ],
)
def test_the_judge_of_pairs_sees_a_planted_fault(
    family: Families, change: Callable[[list[Trained]], list[Trained]], said: str
) -> None:
    pair, qwen = planted("texts"), family("qwen3")
    template = qwen.template(False)
    right = [
        Trained(one.input_ids, one.labels, one.turns) for one in encode_row(template, pair.row)
    ]
    lost = [frozenset[str](), frozenset[str]()]
    serving = qwen.serving(template)
    assert list(pair_faults(serving, template, pair, right, lost)) == []
    assert said in "; ".join(pair_faults(serving, template, pair, change(right), lost))
