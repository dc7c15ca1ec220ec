"""What a model answers to the held-out prompts of the demo, and how often it does as taught."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finetune_gateway.backends.local.builtin import DEMO_KEYS, demo_intents, demo_path
from finetune_gateway.jobs.handle import ModelHandle

URGENCIES = ("low", "high")
LONGEST = 96  # tokens; the longest answer of the data has 40


@dataclass(frozen=True)
class Question:
    """A prompt nobody was trained on, and the intent it should be given."""

    prompt: str
    intent: str


@dataclass(frozen=True)
class Answer:
    """What a model said to a question, and what is wrong with it ("" when nothing is)."""

    question: Question
    text: str
    fault: str

    @property
    def right(self) -> bool:
        """As taught, and with the right intent."""
        return not self.fault and bool(json.loads(self.text)["intent"] == self.question.intent)


@dataclass(frozen=True)
class Score:
    """How many of the answers do as taught."""

    prompts: int
    kept: int
    intents_right: int
    seconds: float

    @property
    def share(self) -> float:
        """Answers as taught, 0 to 1."""
        return self.kept / self.prompts

    def document(self) -> dict[str, Any]:
        """This as JSON."""
        return {**asdict(self), "share": self.share}


def questions() -> list[Question]:
    """The held-out prompts, in the order of their file."""
    rows = [json.loads(line) for line in demo_path("held_out").read_text("utf-8").splitlines()]
    return [_question(row["messages"]) for row in rows]


def _question(messages: list[dict[str, str]]) -> Question:
    return Question(messages[-2]["content"], json.loads(messages[-1]["content"])["intent"])


def ask(handle: ModelHandle, asked: Sequence[Question]) -> tuple[list[Answer], Score]:
    """Put every question to a model, each in a conversation of its own."""
    started = time.perf_counter()
    answers = []
    for question in asked:
        text = handle.chat(question.prompt, max_tokens=LONGEST).text.strip()
        answers.append(Answer(question, text, fault(text)))
    kept, right = sum(not one.fault for one in answers), sum(one.right for one in answers)
    return answers, Score(len(answers), kept, right, time.perf_counter() - started)


def fault(text: str) -> str:
    """Why an answer is not as taught: one JSON object, exactly the keys, allowed values; "" when
    it is."""
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except ValueError:
        return "not one JSON object"
    if not isinstance(found, dict):
        return "not one JSON object"
    if set(found) != set(DEMO_KEYS):
        return f"its keys are not {', '.join(DEMO_KEYS)}"
    if found["intent"] not in demo_intents():
        return "an intent that is not on the list"
    if found["urgency"] not in URGENCIES:
        return "urgency is neither low nor high"
    reply = found["reply"]
    return "" if isinstance(reply, str) and reply.strip() else "reply is not a text"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different: of two equal ones json keeps the last silently."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def samples(asked: Sequence[Question], count: int) -> list[int]:
    """The places of the first questions that are of different intents."""
    first: dict[str, int] = {}
    for place, question in enumerate(asked):
        first.setdefault(question.intent, place)
    return sorted(first.values())[:count]
