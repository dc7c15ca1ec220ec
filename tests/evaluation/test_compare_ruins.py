"""A comparison among ruins: hosts that answer what they like, answers with private data, code that
exits, wishes that cannot be met. Nothing is paid in vain, and nothing is called better by it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import work
from support.cli import Ftg
from support.hosted import connect
from support.provider import Fault, Provider

from finetune_gateway import ChatReply, Gateway, SpecError
from finetune_gateway.errors import AuthenticationError
from finetune_gateway.evaluation import judge
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.results import ComparedAnswer
from finetune_gateway.reports.compare_text import plan_text
from finetune_gateway.reports.comparison_markdown import comparison_markdown

Json = dict[str, Any]
BASE = "base:gpt-4.1-mini-2025-04-14"
CHATS = "POST /chat/completions"
NICE = Guide.loads("checks:\n  - name: n\n    must: '[0-9]'\n")


def sums(count: int, answer: str = "") -> list[Json]:
    """Rows with one right answer each."""
    return [
        {"prompt": f"What is {n} plus 1?", "completion": answer or str(n + 1)} for n in range(count)
    ]


def number(messages: list[Json]) -> int:
    """The number that a row asks about."""
    return int(re.findall(r"\d+", messages[-1]["content"])[0])


class Choosy:
    """Answers every third row, each of them right, and none of the others."""

    def chat(self, messages: list[Json], **sampling: Any) -> ChatReply:
        if number(messages) % 3:
            raise SpecError("Too hard.")
        return ChatReply(text=str(number(messages) + 1))


class Filtered(Choosy):
    """The same, by a filter of its host."""

    def chat(self, messages: list[Json], **sampling: Any) -> ChatReply:
        if number(messages) % 3:
            return ChatReply(text="", finish_reason="content_filter")
        return super().chat(messages)


class Honest:
    """Answers all rows, and is wrong in every third."""

    def chat(self, messages: list[Json], **sampling: Any) -> ChatReply:
        return ChatReply(text=str(number(messages) + 1) if number(messages) % 3 else "None.")


@pytest.mark.parametrize("choosy", [Choosy(), Filtered()])
def test_a_model_that_chooses_its_rows_is_better_than_nobody(home: Path, choosy: Any) -> None:
    """It is right wherever it answers, and leaves two rows of three without an answer."""
    found = Gateway().compare([choosy, Honest()], sums(30))
    key = found.data.models[0].key
    assert found.data.figures["normalized_match"][key].interval.mean == 1  # type: ignore[union-attr]
    assert not found.verdict.decided and len(found.verdict.best) == 2
    assert "Of 20 of 30 requests to" in found.verdict.text
    assert found.data.answers[key].errors == 20


class Tired:
    """A judge that likes numbers, and says nothing of all rows but some."""

    def __init__(self, judges: int) -> None:
        self.judges = judges

    def chat(self, messages: list[Json], **sampling: Any) -> ChatReply:
        asked = messages[-1]["content"]
        if int(re.findall(r"What is (\d+) plus", asked)[0]) >= self.judges:
            raise SpecError("Too tired.")
        first, _ = re.findall(r"(?s)<answer [12] \w+>\n(.*?)\n</answer", asked)
        return ChatReply(text=json.dumps({"better": "1" if first.isdigit() else "2"}))


class Right:
    """Answers each row with the number, or with a text."""

    def __init__(self, text: str = "") -> None:
        self.text = text

    def chat(self, messages: list[Json], **sampling: Any) -> ChatReply:
        return ChatReply(text=self.text or str(number(messages) + 1))


@pytest.mark.parametrize("judges", [17, 18])
def test_a_judge_that_fails_on_too_many_pairs_decides_nothing(home: Path, judges: int) -> None:
    """However clear the others are; and no table calls a model best by it."""
    found = Gateway().compare([Right(), Right("Yes.")], sums(20), judge=Tired(judges))
    told = [one for one in found.data.differences if one.measure == "judge:wins" and one.better]
    assert found.verdict.measure == "judge:wins"
    assert found.verdict.decided is bool(told) is (judges == 18)
    assert f"{20 - judges} of 20 answers were not judged (no verdict" in found.verdict.text


def test_an_answer_that_a_check_cannot_judge_does_not_pass_all(home: Path, tmp_path: Path) -> None:
    """It may fail that one."""
    guide, code = tmp_path / "guide.yaml", tmp_path / "own.py"
    guide.write_text(
        "checks:\n  - name: own\n    function: own.py:nice\n  - name: n\n    must: '[0-9]'\n"
    )
    code.write_text("def nice(text, row):\n    return 1 / (int(text) % 2) > 0\n")
    found = Gateway().compare([Right()], sums(10), checks=guide, code=[code])
    (own,), (every,) = (found.data.figures[name].values() for name in ("check:own", "checks"))
    assert every.unjudged == own.unjudged == {"it raised ZeroDivisionError: division by zero": 5}
    assert every.interval is not None and every.interval.n == 5


def test_rows_that_a_model_was_trained_on_are_not_asked(home: Path) -> None:
    """They count in no figure: nobody pays for them. The plan says so, and they are shown."""
    asked, plans = sums(20), list[Any]()
    train = [{"prompt": f"Say {n}.", "completion": f"{n}"} for n in range(10)] + asked[:15]
    job = Gateway().submit(train, model="m", backend="fake", validation_split=0)
    job.wait()

    def agree(plan: Any) -> bool:
        plans.append(plan)
        return True

    found = Gateway().compare([job, Right()], asked, checks=NICE, confirm=agree)
    assert plans[0].left == 10
    assert "15 of them, on which" in plan_text(plans[0], None)
    assert found.data.asked == len(found.answers()) == 10
    assert len(found.rows()) == 20 and "15 of them not asked" in comparison_markdown(found.data)


@pytest.fixture
def provider(home: Path) -> Iterator[Provider]:
    """A host with models."""
    with Provider() as provider:
        yield provider


def test_what_cannot_be_is_refused_before_it_is_paid_for(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measure that there is not; a judge whose key is missing."""
    monkeypatch.delenv("KEY_OF_JUDGE", raising=False)
    asked: Any = {"backends": [connect(provider, profile="openai")]}
    with pytest.raises(SpecError, match="beauty"):
        Gateway().compare([BASE], sums(4), by="beauty", **asked)
    with pytest.raises(SpecError, match="judge:wins"):
        Gateway().compare([BASE], sums(4), by="judge:wins", **asked)
    judged: Any = {"judge": "https://judge.example/v1#j"}
    judged |= {"key_envs": {"judge.example": "KEY_OF_JUDGE"}}
    with pytest.raises(AuthenticationError, match="KEY_OF_JUDGE"):
        Gateway().compare([BASE], sums(4), **judged, **asked)
    assert not provider.world.asked


def test_private_data_in_an_answer_stops_what_would_show_it(provider: Provider) -> None:
    """It is not sent, and what was answered is compared."""
    provider.world.answer_with = lambda body: "Write to jan.kowalski@firma.pl."
    guide = "checks:\n  - name: j\n    json: object\n  - keeps_format: j\n    turns: 1\n"
    backends = [connect(provider, profile="openai")]
    found = Gateway().compare([BASE], sums(4), checks=Guide.loads(guide), backends=backends)
    assert sum(provider.world.asked.values()) == 4
    assert "e-mail" in found.data.stopped and "--allow-pii" in found.data.stopped
    assert found.data.checks["j"][found.data.models[0].key].failed == 4


def test_other_references_are_another_comparison(home: Path) -> None:
    """The same questions with other right answers do not take its place."""
    with Provider() as provider:
        at: Any = {"backends": [connect(provider, profile="openai")]}
        one = Gateway().compare([BASE], sums(2), **at)
        other = Gateway().compare([BASE], sums(2, "No."), **at)
    assert one.id != other.id and one.folder.is_dir() and not other.data.asked


def test_code_that_exits_passes_nothing(ftg: Ftg, home: Path, tmp_path: Path) -> None:
    """A function of a guide that exits with 0 judges nothing; a file that does is an error."""
    guide, code = tmp_path / "guide.yaml", tmp_path / "own.py"
    guide.write_text("checks:\n  - name: own\n    function: own.py:nice\n")
    code.write_text("import sys\n\n\ndef nice(text, row):\n    sys.exit(0)\n")
    found = Gateway().compare([Honest()], sums(3), checks=guide, code=[code])
    (figure,) = found.data.checks["own"].values()
    assert (figure.passed, figure.unjudged) == (0, 3)
    code.write_text("raise SystemExit(0)\n")
    ended = ftg("check", "builtin/tiny", str(guide), "--code", str(code))
    assert ended.returncode == 2 and "cannot be loaded" in ended.stderr


def test_the_text_of_parts_is_a_text() -> None:
    """Some hosts answer with a list of parts."""
    message = {"role": "assistant", "content": [{"type": "text", "text": "42"}]}
    assert ComparedAnswer(model="m", row="r", message=message).text == "42"


def test_an_answer_without_a_message_is_an_error(provider: Provider) -> None:
    """It is no wrong answer."""
    body = {"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]}
    provider.fault(CHATS, *[Fault("body", body=json.dumps(body).encode())] * 9)
    backends = [connect(provider, profile="openai")]
    found = Gateway().compare([BASE], sums(2), backends=backends)
    (figures,) = found.data.answers.values()
    assert (figures.answers, figures.errors) == (0, 2)


def test_a_judge_that_says_nothing_but_braces_is_read_at_once() -> None:
    """Its reply is searched at a few places alone."""
    assert work.calls(lambda: judge.read_better("{" * 20_000)) < 5_000
    assert judge.read_better("{" * 200) == (None, "")
    assert judge.read_better('{"a": 1} {"better": "1"}')[0] == "first"


def test_a_damaged_comparison_is_told_in_plain_words(ftg: Ftg, home: Path) -> None:
    """Without the words of a library, or an address of its pages."""
    found = Gateway().compare([Honest()], sums(3))
    (found.folder / "comparison.json").write_text('{"id": "cmp-1"}')
    ended = ftg("report", found.id)
    assert ended.returncode == 1 and "created_at is missing" in " ".join(ended.stderr.split())
    assert "pydantic" not in ended.stderr
