"""What a comparison has cost: the same on its screen, in the ledger and by its limit."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.hosted import connect
from support.provider import Provider
from support.provider_faults import Fault

from finetune_gateway import BudgetError, Gateway, evaluation
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.comparison import Comparison
from finetune_gateway.jobs.ledger import Line
from finetune_gateway.reports.check_text import check_text
from finetune_gateway.reports.comparison_markdown import comparison_markdown
from finetune_gateway.reports.comparison_text import comparison_text
from finetune_gateway.reports.junit import junit_xml
from finetune_gateway.reports.ledger_text import ledger_text

BASES = ("base:gpt-4.1-mini-2025-04-14", "base:gpt-4o-2024-08-06")
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"How much is {number} and {number}?"},
            {"role": "assistant", "content": f"{2 * number}"},
        ]
    }
    for number in range(30)
]


@pytest.fixture
def provider(home: Path) -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


def compare(provider: Provider, models: tuple[str, ...] = BASES, **options: Any) -> Comparison:
    backends = [connect(provider, profile="openai")]
    return Gateway().compare(models, ROWS, backends=backends, max_tokens=8, **options)


def lines() -> list[Line]:
    return [*Gateway().costs().charges]


def test_money_of_earlier_runs_is_in_what_a_comparison_has_cost(provider: Provider) -> None:
    """A run that a limit has ended, and the one that goes on: the screen says what the ledger and
    the limit count; and the estimate of both together is that of the whole."""
    whole: list[Any] = []

    def plan(found: Any) -> bool:
        whole.append(found.cost)
        return False

    with pytest.raises(BudgetError):
        compare(provider, confirm=plan)
    first = compare(provider, max_cost_usd="0.003")
    assert first.data.stopped and 0 < (first.data.spent_usd or 0) < Decimal("0.003")
    second = compare(provider)
    assert not second.data.stopped and second.data.asked and second.data.kept
    spent = sum((one.actual_usd or Decimal(0) for one in lines()), Decimal(0))
    assert second.data.spent_usd == spent > (first.data.spent_usd or 0)
    each = [one.spent_usd or Decimal(0) for one in second.data.answers.values()]
    assert sum(each, Decimal(0)) == spent and min(each) > 0
    assert compare(provider).data.spent_usd == spent  # again, and nothing is asked
    high = sum((one.estimated_high_usd or Decimal(0) for one in lines()), Decimal(0))
    expected = sum((one.estimated_usd or Decimal(0) for one in lines()), Decimal(0))
    assert abs(high - whole[0].high) < Decimal("0.0001")
    assert abs(expected - whole[0].expected) < Decimal("0.0001")


def test_requests_without_an_answer_are_said_to_count_at_their_most(provider: Provider) -> None:
    """By a comparison and by a check, in the words of both: else the sum reads as a bill."""
    provider.fault("POST /chat/completions", *(Fault("cut") for _ in range(3)))
    found = compare(provider, BASES[:1])
    assert found.data.unanswered == 3
    spent = found.data.spent_usd or Decimal(0)
    assert 0 < found.data.at_most_usd < spent
    for shown in (comparison_text(found.data, explain=True), comparison_markdown(found.data)):
        assert "3 requests ended without an answer" in " ".join(shown.split())
    assert "at most $" in comparison_text(found.data)
    provider.fault("POST /chat/completions", Fault("cut"))
    report = evaluation.check(
        BASES[0],
        Guide.loads("checks:\n- must: '[0-9]'\n"),
        data=ROWS[:2],
        backend=connect(provider, profile="openai"),
    )
    assert report.unanswered == 1 and report.at_most_usd < (report.spent_usd or 0)
    said = " ".join(check_text(report).split())
    assert "1 request ended without an answer" in said and "at most $" in said


def test_a_month_costs_the_same_in_every_table(provider: Provider) -> None:
    """Of a host's model it is what its answers have cost, as beside the other models."""
    found = compare(provider, monthly_requests=10_000)
    assert found.data.serving is not None
    shown = {way.model: way.monthly_usd for way in found.data.serving.ways if way.where != "own"}
    for model in found.data.models:
        each, month = found.data.answers[model.key].usd_per_answer, shown[model.base_model]
        assert each is not None and month is not None
        assert abs(month.expected - 10_000 * each) < Decimal("0.001")


def test_the_ledger_names_a_host_without_a_profile_as_prices_do(provider: Provider) -> None:
    """``custom``, which ``ftg prices set --backend`` takes: "openai" for a server of one's own."""
    Gateway().compare(("base:gpt-4o-2024-08-06",), ROWS[:2], backends=[connect(provider)])
    assert {line.backend for line in lines()} == {"custom"}


def test_what_checks_ask_on_is_no_request_of_every_day(provider: Provider) -> None:
    """An answer costs what one to a row does, by the month too; what the attacks of a check have
    cost is a part of what the comparison has."""
    guide = Guide.loads("checks:\n- stays_in_role: true\n  must_not: secret\n")
    bare, checked = compare(provider), compare(provider, checks=guide)
    for model in checked.data.models:
        one, other = checked.data.answers[model.key], bare.data.answers[model.key]
        assert (
            one.usd_per_answer == other.usd_per_answer and one.prompt_tokens == other.prompt_tokens
        )
        assert one.answers == other.answers == len(ROWS) and not one.errors
    assert checked.data.serving and bare.data.serving
    assert checked.data.serving.ways == bare.data.serving.ways
    assert (checked.data.spent_usd or 0) > 0  # the rows were paid for by the one before


def test_what_a_limit_has_kept_from_being_sent_has_not_failed(provider: Provider) -> None:
    """The screen counts it by itself, and stderr says what stopped it."""
    found = compare(provider, max_cost_usd="0.002")
    unsent = sum(one.not_sent for one in found.data.answers.values())
    assert unsent == sum(one.errors for one in found.data.answers.values()) > 0
    shown = " ".join(comparison_text(found.data).split())
    assert f"{unsent} requests not sent" in shown and "failed" not in shown
    markdown = comparison_markdown(found.data)
    assert "were not sent, and count in no figure" in markdown
    assert "| not sent |" in markdown and re.search(r"no answer \| 0 \|", markdown)


def test_checks_of_a_host_that_answers_nothing_are_not_judged(provider: Provider) -> None:
    """Those of rows, and those with prompts of their own, with the error of the host: skipped reads
    as green where a machine reads it."""
    provider.fault("POST /chat/completions", *(Fault("status", status=500) for _ in range(200)))
    text = "checks:\n- must: '[0-9]'\n- name: own\n  must: yes\n  prompts: [Hello]\n"
    report = evaluation.check(
        BASES[0], Guide.loads(text), data=ROWS[:4], at_once=2,
        backend=connect(provider, profile="openai"),
    )  # fmt: skip
    assert [one.status for one in report.results] == ["not judged", "not judged"]
    assert all("The server is overloaded" in one.note for one in report.results)
    assert not report.ok
    assert junit_xml(report).count("<error") == 2


def test_junit_says_what_of_the_cost_is_the_most_that_it_can_be(provider: Provider) -> None:
    """A request without an answer may have been charged: it is in ``usd`` at its most."""
    provider.fault("POST /chat/completions", *(Fault("error_after") for _ in range(3)))
    report = evaluation.check(
        BASES[0], Guide.loads("checks:\n- must: '[0-9]'\n"), data=ROWS[:4], at_once=2,
        backend=connect(provider, profile="openai"),
    )  # fmt: skip
    assert report.unanswered and 0 < report.at_most_usd < (report.spent_usd or 0)
    said = {
        one.get("name"): one.get("value")
        for one in ET.fromstring(junit_xml(report)).iter("property")
    }
    assert said["unanswered"] == str(report.unanswered)
    assert said["usd_at_most"] == f"{report.at_most_usd:f}"


def test_a_judge_that_answers_nothing_prefers_none(provider: Provider) -> None:
    """Pairs that are equal need no judge: without a verdict on the others their halves are no
    figure of it. What it may have cost is "at most" in the ledger, of the line and of the sum."""
    compare(provider)
    provider.fault("POST /chat/completions", *(Fault("error_after") for _ in range(400)))
    found = compare(provider, judge="base:gpt-4.1-nano-2025-04-14")
    wins = found.data.figures["judge:wins"]
    assert all(one.interval is None for one in wins.values())
    assert not found.verdict.best and "no verdict" in found.verdict.text, found.verdict.text
    assert "no verdict of the judge" in " ".join(comparison_text(found.data).split())
    assert "cost: at most $" in comparison_text(found.data, explain=True)
    shown = ledger_text(Gateway().costs())
    assert shown.count("actual at most $") == 1 and "actual     at most $" in shown
    assert Gateway().costs().totals.at_most
