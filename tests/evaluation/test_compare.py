"""Models compared on the same rows: what is asked, what decides, what is kept and what it costs."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.hosted import connect
from support.provider import Provider

from finetune_gateway import BudgetError, ChatReply, Comparison, Gateway, SpecError
from finetune_gateway.errors import PrivateDataError
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.comparing import ComparePlan

Json = dict[str, Any]


class Model:
    """A model of the user's: any object with ``chat``."""

    def __init__(self, says: Callable[[str], str]) -> None:
        self.says = says
        self.asked = 0

    def chat(self, messages: list[Json], **sampling: Any) -> ChatReply:
        self.asked += 1
        return ChatReply(text=self.says(messages[-1]["content"]))


def sums(count: int = 40) -> list[Json]:
    """Rows with one right answer each."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} plus {3 * n % 7}?"},
                {"role": "assistant", "content": str(n + 3 * n % 7)},
            ]
        }
        for n in range(count)
    ]


def right(question: str) -> str:
    """Return the sum."""
    return str(sum(map(int, re.findall(r"\d+", question))))


def right_when_odd(question: str) -> str:
    """Return the sum of every second one."""
    return right(question) if int(re.findall(r"\d+", question)[0]) % 2 else "No idea."


def judge(says: Callable[[str, str], str]) -> Model:
    """A judge that decides by the two answers as they are shown."""

    def reply(prompt: str) -> str:
        first, second = re.findall(r"(?s)<answer_\w+_\w+>\n(.*?)\n</answer", prompt)[-2:]
        return json.dumps({"better": says(first, second), "reason": "so"})

    return Model(reply)


def test_a_difference_is_called_one_only_if_it_is_none_by_chance(home: Path) -> None:
    """A model that is right twice as often is better; two that answer alike read "can't tell"."""
    models = [Model(right), Model(right_when_odd), Model(right_when_odd)]
    found = Gateway().compare(models, sums())
    assert found.verdict.decided and found.verdict.best == (found.data.models[0].key,)
    pairs = {
        (one.first, one.second): one.better
        for one in found.data.differences
        if one.measure == "normalized_match"
    }
    first, second, third = (model.key for model in found.data.models)
    assert pairs == {(first, second): first, (first, third): first, (second, third): ""}
    alike = Gateway().compare(models[1:], sums())
    assert not alike.verdict.decided and alike.verdict.text.startswith("Can't tell")
    assert alike.verdict.rows_needed


def test_an_error_is_never_a_zero(home: Path) -> None:
    """Rows that a model cannot answer are counted beside its score."""

    def breaks(question: str) -> str:
        if "0 plus" in question:
            raise SpecError("The question is too long.")
        return right(question)

    found = Gateway().compare([Model(breaks)], sums(20))
    (key,) = found.data.answers
    figure = found.data.figures["exact_match"][key]
    assert found.data.answers[key].errors == 2 and figure.unjudged
    assert figure.interval is not None and figure.interval.n == 18 and figure.interval.mean == 1


def test_a_comparison_is_kept_for_its_user_alone(home: Path) -> None:
    """It is read again by its id, with rows, answers and scores; every file is 0600."""
    made = Gateway().compare([Model(right)], sums(12))
    again = Comparison.load(made.id[:8])
    assert again.data == made.data and len(again.rows()) == 12
    assert [one.scores["exact_match"].value for one in again.answers()] == [1.0] * 12
    modes = {stat.S_IMODE(path.stat().st_mode) for path in made.folder.iterdir()}
    assert modes == {0o600}


@pytest.fixture
def provider(home: Path) -> Iterator[Provider]:
    """A host with two models."""
    with Provider() as provider:
        yield provider


BASES = ("base:gpt-4.1-mini-2025-04-14", "base:gpt-4o-2024-08-06")


def test_the_same_comparison_again_asks_and_costs_nothing(provider: Provider) -> None:
    """Its answers are kept by host, account, model and content; the id is the same."""

    def compare(rows: list[Json], **options: Any) -> Comparison:
        backends = [connect(provider, profile="openai")]
        return Gateway().compare(BASES, rows, backends=backends, **options)

    found = compare(sums(10), confirm=lambda plan: plan.left == 20)
    assert found.data.asked == 20 and found.data.spent_usd and not found.data.kept
    again = compare(sums(10), confirm=lambda plan: plan.left == 0)
    assert (again.id, again.data.asked, again.data.kept) == (found.id, 0, 20)
    assert again.data.spent_usd == found.data.spent_usd and again.verdict == found.verdict
    beside: Json = {"backends": [connect(provider, profile="openai")]}
    kept = [*BASES, Model(right)]  # nothing goes to a host: nobody has to say yes
    Gateway().compare(
        kept, sums(10), confirm=lambda plan: plan.left == 10 and not plan.sends, **beside
    )
    more = compare(sums(12))
    assert more.data.asked == 4 and more.data.kept == 20
    assert sum(provider.world.asked.values()) == 24
    ledger = Gateway().costs()
    spent = (found.data.spent_usd or Decimal(0)) + (more.data.spent_usd or Decimal(0))
    assert sum((line.actual_usd or Decimal(0)) for line in ledger.charges) == spent


def test_nothing_is_sent_without_a_yes_or_above_the_limit(provider: Provider) -> None:
    """Nor is private data, of which the compared rows are full."""
    at: Any = {"backends": [connect(provider, profile="openai")]}
    secret = [{"messages": [{"role": "user", "content": "I am jan.kowalski@firma.pl, help me"}]}]
    with pytest.raises(BudgetError):
        Gateway().compare(BASES, sums(10), confirm=lambda plan: False, **at)
    with pytest.raises(BudgetError):
        Gateway().compare(BASES, sums(10), max_cost_usd="0.000001", **at)
    cost: list[Decimal] = []

    def keep(plan: Any) -> bool:
        cost.append(plan.rounds[0][1].cost.low)
        return False

    with pytest.raises(BudgetError):
        Gateway().compare(BASES, sums(10), confirm=keep, **at)
    with pytest.raises(BudgetError, match="over the limit"):  # the rows fit, with the judge not
        Gateway().compare(BASES, sums(10), judge=BASES[0], max_cost_usd=2 * cost[0], **at)
    with pytest.raises(PrivateDataError):
        Gateway().compare(BASES, secret, **at)
    assert not provider.world.asked


def test_the_command_line_compares(
    provider: Provider, ftg: Ftg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan with its price comes first, the answer is short, the page and JSON have all."""
    data, page = tmp_path / "held_out.jsonl", tmp_path / "report.html"
    data.write_text("".join(json.dumps(row) + "\n" for row in sums(10)))
    monkeypatch.setenv("OTHER_KEY", provider.api_key)
    models = [f"{provider.url}#{name.removeprefix('base:')}" for name in BASES]
    host = provider.url.split("/")[2]
    call = ("compare", *models, "--data", str(data), "--key-env", f"{host}=OTHER_KEY")
    wrong = ftg(*call, "--yes", "--by", "beauty")
    assert wrong.returncode == 2 and "exact_match" in wrong.stderr and not provider.world.asked
    refused = ftg(*call)
    assert refused.returncode == 4 and "20 requests to send" in refused.stderr
    assert "Estimated cost" in refused.stderr and not provider.world.asked
    done = ftg(*call, "--yes", "--html", str(page))
    assert done.returncode == 0 and len(done.stdout.splitlines()) <= 6
    assert "held_out.jsonl" in page.read_text()
    whole = json.loads(ftg(*call, "--yes", "--json").stdout)
    assert whole["kept"] == 20 and whole["verdict"]["text"]
    assert whole["spent_usd"] is None  # this host has no prices: what it cost is not known
    nobody = ("http://127.0.0.1:1/v1#nobody", "--key-env", "127.0.0.1:1=OTHER_KEY")
    silent = ftg(*call[:2], *call[3:], *nobody, "--yes")
    assert silent.returncode == 1 and "10 of 10 requests got no answer" in silent.stderr


def test_what_may_change_a_verdict_gives_a_comparison_another_name(provider: Provider) -> None:
    """The checks, the measure that decides, the seed; the same request keeps its name."""
    guide, names = Guide.loads("checks:\n- must: '[0-9]'\n"), list[str]()

    def refuse(plan: ComparePlan) -> bool:
        names.append(plan.id)
        return False

    asked: list[Json] = [{}, {"by": "exact_match"}, {"checks": guide}, {"seed": 1}, {}]
    for options in asked:
        at: Json = {"backends": [connect(provider, profile="openai")], "confirm": refuse}
        with pytest.raises(BudgetError):
            Gateway().compare(BASES, sums(2), **at, **options)
    assert len({*names}) == 4 and names[0] == names[-1]
