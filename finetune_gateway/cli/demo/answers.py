"""A model's answers to the held-out prompts of the demo, and how many are as taught."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finetune_gateway.backends.local.builtin import DEMO_KEYS, demo_intents, demo_path
from finetune_gateway.evaluation.comparison import Comparison
from finetune_gateway.evaluation.results import Variant
from finetune_gateway.jobs.handle import ModelHandle

URGENCIES = ("low", "high")
LONGEST = 96  # tokens; the longest answer of the data has 40

# What the data teach, as a behaviour guide: the check that decides the comparison.
GUIDE = """\
format: One JSON object with the keys {keys}, and nothing else.
checks:
  - name: as-taught
    about: One JSON object with exactly the keys {keys}, and allowed values.
    schema: {schema}
"""


@dataclass(frozen=True)
class Question:
    """A prompt that is in no training data, and the intent it should get."""

    prompt: str
    intent: str


@dataclass(frozen=True)
class Answer:
    """A model's answer to a question, and what is wrong with it (empty if nothing is)."""

    question: Question
    text: str
    fault: str

    @property
    def right(self) -> bool:
        """Return True if the answer is as taught, with the right intent."""
        return not self.fault and bool(json.loads(self.text)["intent"] == self.question.intent)


@dataclass(frozen=True)
class Score:
    """How many of the answers are as taught."""

    prompts: int
    kept: int
    intents_right: int

    @property
    def share(self) -> float:
        """Share of the answers that are as taught, 0 to 1."""
        return self.kept / self.prompts

    def document(self) -> dict[str, Any]:
        """Return the score as JSON."""
        return {**asdict(self), "share": self.share}


def load_questions() -> list[Question]:
    """Return the held-out prompts, in the order of their file."""
    rows = [json.loads(line) for line in demo_path("held_out").read_text("utf-8").splitlines()]
    return [_question(row["messages"]) for row in rows]


def _question(messages: list[dict[str, str]]) -> Question:
    return Question(messages[-2]["content"], json.loads(messages[-1]["content"])["intent"])


def guide_text() -> str:
    """Return the behaviour guide of the demo."""
    schema = {
        "type": "object",
        "properties": {
            "intent": {"enum": demo_intents()},
            "urgency": {"enum": [*URGENCIES]},
            "reply": {"type": "string", "pattern": "\\S"},
        },
        "required": [*DEMO_KEYS],
        "additionalProperties": False,
    }
    return GUIDE.format(keys=", ".join(DEMO_KEYS), schema=json.dumps(schema))


def ask(handle: ModelHandle, question: Question) -> Answer:
    """Ask a model a question, in a new conversation."""
    text = handle.chat(question.prompt, max_tokens=LONGEST).text.strip()
    return Answer(question, text, find_fault(text))


def answers_of(
    comparison: Comparison, variant: Variant, questions: Sequence[Question]
) -> tuple[list[Answer], Score]:
    """Return what one of the compared models answered to every question, and how many of the
    answers are as taught."""
    model = next(one.key for one in comparison.data.models if one.variant == variant)
    asked = {row.id: str(row.prompt.messages[-1]["content"]) for row in comparison.rows()}
    texts = {
        asked[one.answer.row]: one.answer.text.strip()
        for one in comparison.answers()
        if one.answer.model == model and one.answer.row in asked
    }
    found = [(question, texts.get(question.prompt, "")) for question in questions]
    answers = [Answer(question, text, find_fault(text)) for question, text in found]
    kept, right = sum(not one.fault for one in answers), sum(one.right for one in answers)
    return answers, Score(len(answers), kept, right)


def find_fault(text: str) -> str:
    """Return why an answer is not as taught; empty if it is.

    As taught means one JSON object with exactly the keys and allowed values.
    """
    try:
        answer = json.loads(text, object_pairs_hook=_refuse_duplicate_keys)
    except ValueError:
        return "not one JSON object"
    if not isinstance(answer, dict):
        return "not one JSON object"
    if set(answer) != set(DEMO_KEYS):
        return f"its keys are not {', '.join(DEMO_KEYS)}"
    if answer["intent"] not in demo_intents():
        return "an intent that is not on the list"
    if answer["urgency"] not in URGENCIES:
        return "urgency is neither low nor high"
    reply = answer["reply"]
    return "" if isinstance(reply, str) and reply.strip() else "reply is not a text"


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; json alone would silently keep the last of two equal keys."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate key")
    return value


def pick_samples(questions: Sequence[Question], count: int) -> list[int]:
    """Return the indices of the first questions that have different intents."""
    first: dict[str, int] = {}
    for index, question in enumerate(questions):
        first.setdefault(question.intent, index)
    return sorted(first.values())[:count]
