"""A comparison with a judge, from the questions to the figures: what it is paid, what is kept."""

from __future__ import annotations

import html
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

from finetune_gateway import BudgetError, ChatReply, Comparison, Gateway
from finetune_gateway.cli import main
from finetune_gateway.reports.comparison_markdown import comparison_markdown
from finetune_gateway.reports.comparison_page import page
from finetune_gateway.reports.comparison_text import comparison_text

Json = dict[str, Any]
JUDGE = "gpt-4o-2024-08-06"
BASE = "gpt-4.1-mini-2025-04-14"
SHOWN = re.compile(r"<answer [12] ([0-9a-f]{12})>\n(.*?)\n</answer [12] \1>", re.S)
ROWS = [{"prompt": f"Where is parcel {number}?", "completion": "Here."} for number in range(12)]


class Says:
    """A model that gives the same kind of answer to all."""

    def __init__(self, text: str) -> None:
        self.text = text

    def chat(self, messages: list[Json], **sampling: Any) -> ChatReply:
        return ChatReply(text=f"{self.text} ({messages[-1]['content']})", finish_reason="stop")


class Echoes(Says):
    """A model that gives the same answer to all."""

    def chat(self, messages: list[Json], **sampling: Any) -> ChatReply:
        return ChatReply(text=self.text, finish_reason="stop")


MODELS = [Says("It is in Kraków and comes on Tuesday"), Says("No idea")]


def verdict(choose: Callable[[str, str], bool]) -> Callable[[Json], str]:
    """Return a judge that looks at the two answers; True: the first one is better."""

    def answer(body: Json) -> str:
        [(_, first), (_, second)] = SHOWN.findall(body["messages"][-1]["content"])
        return json.dumps({"reason": "So.", "better": "1" if choose(first, second) else "2"})

    return answer


@pytest.fixture
def provider(home: Path) -> Iterator[Provider]:
    """The host of the judge."""
    with Provider() as provider:
        yield provider


def compare(provider: Provider, **options: Any) -> Comparison:
    backends = [connect(provider, profile="openai")]
    return Gateway().compare(MODELS, ROWS, judge=JUDGE, backends=backends, **options)


def test_a_hosted_judge_is_priced_paid_once_and_kept_for_its_user_alone(
    provider: Provider,
) -> None:
    """Both orders of each pair; the verdict names the better model, and each reason is kept."""
    provider.world.answer_with = verdict(lambda first, second: "Kraków" in first)
    with pytest.raises(BudgetError):
        compare(provider, max_cost_usd="0.000001")
    assert not provider.world.asked
    priced: list[Decimal] = []

    def note(plan: Any) -> bool:
        priced.append(plan.cost.high)
        return True

    found = compare(provider, confirm=note)
    facts = found.data.judge
    assert facts is not None and (facts.pairs, facts.unread) == (12, 0)
    assert facts.agreement is not None and facts.agreement.mean == 1
    assert facts.spent_usd and facts.spent_usd <= priced[0] and facts.spent_usd > priced[0] / 100
    assert sum(provider.world.asked.values()) == 24
    assert found.verdict.decided and found.verdict.measure == "judge:wins"
    assert found.verdict.best == (found.data.models[0].key,)
    assert all("longer" in text for text in facts.warnings)  # it is longer too
    kept = found.folder / "judgements.jsonl"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [one["reason"] for one in found.judgements()] == ["So."] * 24
    again = compare(provider)
    assert again.data.spent_usd == 0 and again.verdict == found.verdict
    assert sum(provider.world.asked.values()) == 24


@pytest.mark.parametrize("limit", ["max_cost_usd", "monthly_usd"])
def test_a_judge_without_a_price_is_refused_before_a_row_is_paid(
    provider: Provider, limit: str
) -> None:
    """The judge comes last: whether its price is known is seen before the models are asked."""
    asked: dict[str, Any] = {
        "models": [BASE, MODELS[0]],
        "data": ROWS,
        "judge": f"{provider.url}#mystery-judge",
        "backends": [connect(provider, profile="openai")],
        "allow_http": True,
    }
    own = Decimal(5)
    with (
        Gateway().use(monthly_usd=own if limit == "monthly_usd" else None) as gateway,
        pytest.raises(BudgetError, match="No price is known for answers of 'mystery-judge'"),
    ):
        gateway.compare(**asked, max_cost_usd=own if limit == "max_cost_usd" else None)
    assert not provider.world.asked
    plans: list[Any] = []

    def no(plan: Any) -> bool:
        plans.append(plan)
        return False

    with pytest.raises(BudgetError, match="not confirmed"):  # without a limit a yes is enough
        Gateway().compare(**asked, confirm=no)
    assert plans[0].cost is None and plans[0].sends and not provider.world.asked


@pytest.mark.parametrize(
    ("choose", "named", "wins"),
    [
        (lambda first, second: True, "shown first", 0.5),
        (lambda first, second: len(first) > len(second), "longer", 1.0),
    ],
)
def test_a_judge_with_a_habit_is_named(
    provider: Provider, choose: Callable[[str, str], bool], named: str, wins: float
) -> None:
    """One that always says "first" gives ties alone: no model is called better."""
    provider.world.answer_with = verdict(choose)
    found = compare(provider)
    assert found.data.judge is not None
    assert any(named in text for text in found.data.judge.warnings), found.data.judge.warnings
    assert f"But of the judge: it prefers the {'longer answer' if wins == 1 else 'answer'}" in (
        found.verdict.text
    )
    first = found.data.figures["judge:wins"][found.data.models[0].key].interval
    assert first is not None and first.mean == wins
    assert found.verdict.decided == (wins == 1.0)


def test_a_judge_that_is_mostly_silent_decides_nothing(provider: Provider) -> None:
    """By the pairs that it did judge the first model would be better: those may be its choice."""
    choose = verdict(lambda first, second: "Kraków" in first)
    silent = {"parcel 10?", "parcel 11?"}
    provider.world.answer_with = lambda body: (
        "Both." if any(one in str(body["messages"]) for one in silent) else choose(body)
    )
    found = compare(provider)
    assert not found.verdict.decided and len(found.verdict.best) == 2
    assert found.verdict.text.startswith("Can't tell") and found.verdict.rows_needed is None
    assert "2 of 12 answers were not judged" in found.verdict.text
    wins = [one for one in found.data.differences if one.measure == "judge:wins"]
    assert [one.better for one in wins] == [""] and wins[0].p is not None and wins[0].p < 0.05
    silent.remove("parcel 11?")
    assert compare(provider, seed=1).verdict.decided


def test_a_judge_that_right_answers_contradict_decides_nothing_until_it_is_named(
    provider: Provider,
) -> None:
    """It prefers wrong answers: both figures are in one sentence, on the screen, the page and in
    JSON, and no table calls a model better by the judge."""
    provider.world.answer_with = verdict(lambda first, second: "Here" not in first)
    models = [Echoes("Here."), Says("No idea")]
    backends = [connect(provider, profile="openai")]

    def compared(**options: Any) -> Comparison:
        return Gateway().compare(models, ROWS, judge=JUDGE, backends=backends, **options)

    found = compared()
    right, wrong = (model.title for model in found.data.models)
    assert not found.verdict.decided and len(found.verdict.best) == 2
    assert found.verdict.measure == "judge:wins" and found.verdict.short in found.verdict.text
    said = f"by what the judge prefers {wrong} is better than {right} (+100 points, "
    assert found.verdict.text.startswith(f"Can't tell which is better: {said}")
    opposite = "by normalized match the opposite holds (+100 points, "
    for text in (
        found.verdict.text,
        " ".join(comparison_text(found.data).split()),
        comparison_markdown(found.data),
        html.unescape(page(found)),
    ):
        assert opposite in text
    [wins] = [one for one in found.data.differences if one.measure == "judge:wins"]
    assert (wins.better, wins.opposite_by, wins.rows_needed) == ("", "normalized_match", None)
    told = " ".join(comparison_text(found.data, explain=True).split())
    assert "can't tell: A from B, since by normalized match the opposite holds" in told

    named = compared(by="judge:wins").verdict
    assert named.decided and named.text.startswith(f"{wrong} is the best: 100%")
    assert f"; but by normalized match the opposite holds: {right} is better (+100" in named.short
    other = compared(by="normalized_match").verdict
    assert other.decided and other.text.startswith(f"{right} is the best: 100%")
    assert f"; but by what the judge prefers the opposite holds: {wrong} is better" in other.short


def test_the_first_screen_says_why_a_half_readable_judge_cannot_tell(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before what it prefers by the length, and no figure is without its interval."""
    monkeypatch.setenv("COLUMNS", "80")
    longer = verdict(lambda first, second: len(first) > len(second))
    provider.world.answer_with = lambda body: (
        "Both." if re.search(r"parcel 1\d", str(body["messages"])) else longer(body)
    )
    found = compare(provider)
    assert found.data.judge is not None
    unread, habit = found.data.judge.warnings
    assert unread.startswith("4 verdicts could not be read") and "longer" in habit
    screen = " ".join(comparison_text(found.data).split())
    assert "judge prefers. Of " in screen and "2 of 12 answers were not judged (the " in screen
    [note] = [one for one in found.data.notes if "ftg rm answers:" in one]
    assert compare(provider).data.judge  # by the answers that are kept
    assert sum(provider.world.asked.values()) == 24
    assert main(["rm", "--yes", note.split()[-1]]) == 0
    assert compare(provider).data.judge and sum(provider.world.asked.values()) == 48
    figures = screen.partition("Preferred by the judge: ")[2].partition(" 12 rows")[0]
    assert figures.count("%") == 4 == 2 * figures.count("% (") and "longer" not in screen
    assert len(comparison_text(found.data).splitlines()) <= 6


def test_empty_answers_are_named(home: Path) -> None:
    """They are answers, and are scored: a host that says nothing at times looks like a worse
    model."""
    silent = Echoes(" \n")
    found = Gateway().compare([silent, Echoes("Here.")], ROWS)
    first, second = (found.data.answers[model.key] for model in found.data.models)
    assert (first.empty, first.answers, second.empty) == (12, 12, 0)
    assert "12 rows, 12 of 24 answers empty. 1 warning" in comparison_text(found.data)
    said = f"A {found.data.models[0].title}: 12 of 12 answers are empty, and are scored like any"
    assert said in " ".join(comparison_text(found.data, explain=True).split())
    assert said in html.unescape(page(found)) and said[2:] in comparison_markdown(found.data)


def test_rows_go_to_a_judge_by_the_rules_of_any_host(provider: Provider) -> None:
    """Private data in an answer stop it too, and a judge that says nothing leaves figures empty."""
    provider.world.answer_with = lambda body: "Both are nice."
    found = compare(provider)
    figure = found.data.figures["judge:wins"][found.data.models[0].key]
    assert figure.interval is None and figure.empty.startswith("not judged")
    assert found.data.judge is not None and found.data.judge.unread == 24
    asked = dict(provider.world.asked)
    leaking = [Says("Ask jan.kowalski@firma.pl"), Says("No")]
    backends = [connect(provider, profile="openai")]
    stopped = Gateway().compare(leaking, ROWS, judge=JUDGE, by="judge:wins", backends=backends)
    assert "e-mail" in stopped.data.stopped and provider.world.asked == asked
    assert stopped.verdict.text.startswith("Can't tell") and not stopped.verdict.decided


def test_a_judge_that_gives_no_verdict_at_all_is_exit_code_1(
    provider: Provider, tmp_path: Path, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a model that answers nothing is; with verdicts it is 0."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    judged = verdict(lambda first, second: "mini" in first)
    judge, says = "gpt-4.1-2025-04-14", ["Both are nice."]
    provider.world.answer_with = lambda body: (
        f"I am {body['model']}." if body["model"] != judge else says[0] or judged(body)
    )
    monkeypatch.setenv("A_KEY", provider.api_key)
    host = provider.url.removeprefix("http://").removesuffix("/v1")
    words = [f"{provider.url}#{name}" for name in ("gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18")]
    words += ["--data", str(rows), "--judge", f"{provider.url}#{judge}", "--yes"]
    words += ["--key-env", f"{host}=A_KEY"]
    done = ftg("compare", *words)
    assert done.returncode == 1 and "No verdict of the judge can be read" in done.stderr
    says[0] = ""
    monkeypatch.setenv("COLUMNS", "80")
    done = ftg("compare", *words, "--seed", "1", "--by", "judge:wins")
    assert done.returncode == 0
    figures = " ".join(done.stdout.split()).partition("Preferred by the judge: ")[2]
    best = f"gpt-4o-mini-2024-07-18 at {host} 100% ("  # and not the beginning and end of both
    assert figures.startswith(best), done.stdout
