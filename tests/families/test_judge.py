"""Templates that people tune most, judged by transformers, and a judge that sees planted faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from families import sources
from families.judge import IGNORED, Judge, Trained
from families.made import Families
from families.page import Line, bounds, letters
from families.planted import KINDS, Row, planted
from families.serving import Serving
from families.typed import typeable, typed_faults
from families.verdicts import Verdict, found, judge, marks
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLES = settings.get_current_profile_name() == "deep" and 2_000 or 15


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("qwen3", "turns", "t"),
        ("qwen3", "reasonings", "t"),
        pytest.param("llama3_2", "tools", "w", marks=pytest.mark.chaos),
        ("llama3_2", "parallel", "-"),
        ("gptoss", "parallel", "L"),
        pytest.param("gptoss", "turns", "t", marks=pytest.mark.chaos),
        ("glm4moe", "plain", "w"),
        pytest.param("gemma3", "system", "w", marks=pytest.mark.chaos),
        pytest.param("phi3", "turns", "w", marks=pytest.mark.chaos),
        ("phi3", "call", "L"),
        ("mistral", "system", "tc"),
        pytest.param("alpaca", "turns", "w", marks=pytest.mark.chaos),
        pytest.param("qwen3_5_think", "plain", "w", marks=pytest.mark.chaos),
        ("nemotron_3_nano", "plain", "w"),
        ("nemotron_3_nano", "reasoning", "tc"),
        ("deepseek_r1_distill", "plain", "b"),
        ("deepseek_r1_distill", "inline", "tb"),
    ],
)
def test_what_is_trained_is_what_serving_asks_for(
    family: Families, name: str, kind: str, expected: str
) -> None:
    """By the original template through transformers, in token ids."""
    verdict = judge(family(name), planted(kind))
    assert letters(verdict) == expected, verdict.why


def test_glm_gets_the_stop_that_its_template_does_not_write(family: Families) -> None:
    """At the end of a row, as in the middle: what follows a turn."""
    template = family("glm4moe").template(False)
    [encoded] = template.encode(planted("plain").row)
    assert template.tokenizer.id_to_token(encoded.labels[-1]) == "<|user|>"


def test_switches_are_chosen_by_what_the_rows_hold(family: Families) -> None:
    """Nemotron 3 thinks unless a switch says no."""
    verdict = judge(family("nemotron_3_nano"), planted("plain"))
    assert verdict.switches == {"enable_thinking": False}
    verdict = judge(family("nemotron_3_nano"), planted("reasonings"))
    assert verdict.switches == {"truncate_history_thinking": False}


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("name", "expected"),
    [("glm4moe_training", "equal"), ("gptoss_training", "transformers wrong")],
)
def test_generation_blocks_are_compared_with_those_of_transformers(
    family: Families, name: str, expected: str
) -> None:
    """They label the header in gpt-oss's."""
    assert marks(family(name), planted("plain"))[0] == expected


# -- faults that are planted -----------------------------------------------------------------

Change = Callable[[Serving, Row, list[Trained]], list[Trained]]


def changed(one: Trained, labels: dict[int, int]) -> Trained:
    return replace(one, labels=[labels.get(i, label) for i, label in enumerate(one.labels)])


def runs(one: Trained) -> Iterator[tuple[int, int]]:
    """Yield where each label begins and ends."""
    padded = [IGNORED, *one.labels, IGNORED]
    edges = [
        i for i in range(1, len(padded)) if (padded[i] != IGNORED) != (padded[i - 1] != IGNORED)
    ]
    yield from ((start - 1, end - 1) for start, end in zip(edges[::2], edges[1::2], strict=True))


def late(_: Serving, __: Row, found: list[Trained]) -> list[Trained]:
    return [changed(one, {start: IGNORED for start, _ in runs(one)}) for one in found]


def without_stop(_: Serving, __: Row, found: list[Trained]) -> list[Trained]:
    return [changed(one, {end - 1: IGNORED for _, end in runs(one)}) for one in found]


def with_header(_: Serving, __: Row, found: list[Trained]) -> list[Trained]:
    return [
        changed(one, {start - 1: one.input_ids[start - 1] for start, _ in runs(one)})
        for one in found
    ]


def everything(_: Serving, __: Row, found: list[Trained]) -> list[Trained]:
    return [replace(one, labels=list(one.input_ids)) for one in found]


def one_turn_less(_: Serving, __: Row, found: list[Trained]) -> list[Trained]:
    return found[1:]


def twice(_: Serving, __: Row, found: list[Trained]) -> list[Trained]:
    return [*found, found[-1]]


def in_history_form(serving: Serving, row: Row, found: list[Trained]) -> list[Trained]:
    """Label the answers where they stand in the whole row."""
    ids = serving.ids(row.messages, row.tools)
    labels = [IGNORED] * len(ids)
    for one in found:
        for start, end in runs(one):
            label = one.labels[start:end]
            word = label[label.index(serving.encode("zq")[0]) :]
            at = next(i for i in range(len(ids)) if ids[i : i + len(word)] == word)
            labels[at : at + len(word)] = word
    return [Trained(ids, labels, tuple(row.said))]


def encoded_alone(serving: Serving, _: Row, found: list[Trained]) -> list[Trained]:
    """Encode each label as if it were the beginning of a text."""
    [one] = found
    [(start, end)] = runs(one)
    label = serving.encode(serving.written(one.labels[start:end]))
    ids = [*one.input_ids[:start], *label]
    return [Trained(ids, [IGNORED] * start + label, one.turns)]


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("change", "name", "kind", "said"),
    [
        (late, "qwen3", "turns", "first token is not trained"),
        (without_stop, "qwen3", "turns", "does not end with a stop"),
        (with_header, "qwen3", "turns", "no label of a turn"),
        (everything, "qwen3", "turns", "of another"),
        (one_turn_less, "qwen3", "turns", "is not trained, but the template writes"),
        (twice, "qwen3", "turns", "trained 2 times"),
        (in_history_form, "qwen3", "turns", "another label than the template writes"),
        (encoded_alone, "alpaca", "plain", "another label than the template writes"),
    ],
)
def test_the_judge_sees_a_planted_fault(
    family: Families, change: Change, name: str, kind: str, said: str
) -> None:
    """Each is a fault that some trainer has or had."""
    row, template = planted(kind), family(name).template(False)
    serving = family(name).serving(template)
    right = [Trained(one.input_ids, one.labels, one.turns) for one in template.encode(row.row)]
    check = partial(Judge, serving, row, stop_ids=template.stop_ids)
    assert found(check(right)) == []
    assert said in "; ".join(found(check(change(serving, row, right))))


@pytest.mark.chaos
def test_the_judge_sees_what_is_lost_and_not_said(family: Families) -> None:
    """gpt-oss writes one of two calls."""
    row, template = planted("parallel"), family("gptoss").template(False)
    serving = family("gptoss").serving(template)
    trained = [Trained(one.input_ids, one.labels, one.turns) for one in template.encode(row.row)]
    assert template.losses(row.row) == {"parallel_calls"}
    [fault] = found(Judge(serving, row, trained, template.stop_ids, losses=()))
    assert "not said to be lost: parallel_calls" in fault


@pytest.mark.chaos
def test_the_judge_sees_the_prompt_of_another_switch(family: Families) -> None:
    """Trained without thinking, and asked to think."""
    row, thinks = planted("plain"), family("qwen3_5_think").template(False)
    other = thinks.with_switches({"enable_thinking": False})
    trained = [Trained(one.input_ids, one.labels, one.turns) for one in other.encode(row.row)]
    serving = family("qwen3_5_think").serving(thinks)
    assert "another prompt" in found(Judge(serving, row, trained, other.stop_ids))[0]


def test_what_is_wrong_or_refused_too_often_is_missed(family: Families) -> None:
    """``make families`` ends with 1 then."""
    right = Verdict("right")
    line = Line(family("qwen3"), dict.fromkeys(KINDS, right), {})
    assert bounds([line], {}) == []
    wrong = replace(line, verdicts={**line.verdicts, "turns": Verdict("wrong", "why")})
    refused = replace(line, verdicts={**line.verdicts, "call": Verdict("refused", "why")})
    no_chat = replace(line, verdicts={**line.verdicts, "plain": Verdict("refused", "why")})
    assert bounds([line, wrong], {}) == ["trl/qwen3, turns: why"]
    uncompared = replace(line, pairs={"texts": Verdict("wrong", "why")})
    assert bounds([uncompared], {}) == ["trl/qwen3, pair of texts: why"]
    assert bounds([line, refused], {}) == ["1 of 2 templates refuse rows with tools"]
    assert bounds([line, no_chat], {}) == [
        "trl/qwen3 refuses plain chat", "1 of 2 templates refuse plain chat",
    ]  # fmt: skip
    without = replace(line, as_text={"call": right})
    assert "tools: right, but the template writes no calls" in bounds([without], {})[0]


@pytest.mark.chaos
def test_an_archive_that_cannot_be_had_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on with the others."""
    monkeypatch.setattr(sources, "CACHE", tmp_path)
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", "")):
        monkeypatch.setenv(name, value)
    with pytest.raises(OSError, match="could not download axolotl"):
        list(sources.downloaded(sources.AXOLOTL))


# -- special tokens that are typed -------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen3", "phi3", "alpaca"])
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_special_tokens_that_are_typed_change_nothing_around_them(
    family: Families, name: str, data: st.DataObject
) -> None:
    """With a byte-level tokenizer and with SentencePiece's mark before every text."""
    template = family(name).template(False)
    serving = family(name).serving(template)
    parts = st.one_of(st.sampled_from(typeable(serving)), st.text("a é\n<|/s>", max_size=4))
    text = "".join(["zqtypedx", *data.draw(st.lists(parts, max_size=6)), "zqendx"])
    assert list(typed_faults(template, serving, text)) == []
