"""Eight data sets, each a clear situation, with what somebody who knows the field would answer.

Made by a seed, without our rules in mind: what is in a row is what a team would have.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

Json = dict[str, Any]

THINGS = (
    *("kettle", "bicycle", "tent", "lamp", "printer", "blender", "jacket", "keyboard", "sofa"),
    *("camera", "drill", "mattress", "backpack", "speaker", "router", "toaster", "guitar"),
)
PROBLEMS = (
    *("makes a strange noise", "stopped working after a week", "arrived in the wrong colour"),
    *("has a scratch on one side", "is smaller than I thought", "came without a manual"),
    *("smells of plastic", "does not fit into the box any more", "gets hot after a minute"),
)
WISHES = (
    *("What can I do?", "How do I clean it?", "Is that normal?", "Can I swap it?"),
    *("Where do I start?", "Who can repair it?", "Should I worry?", "Any advice?"),
)


@dataclass(frozen=True)
class Stated:
    """A data set with its stated answer. ``rows_answer``: how the answer on the rows begins.
    ``options``: of the advice; ``today``: the day on which it is asked."""

    make: Callable[[Random], list[Json]]
    approach: str
    method: str
    rows_answer: str
    place: str
    options: Json = field(default_factory=dict)
    today: str = "2026-12-01"

    def rows(self) -> list[Json]:
        """Return the rows: the same each time."""
        return self.make(Random(7))


def chat(asked: str, answer: str, system: str | None = None) -> Json:
    """One question, one answer."""
    said = [{"role": "system", "content": system}] if system else []
    said += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": said}


def pair(asked: str, better: str, worse: str) -> Json:
    """One preference pair in OpenAI's form."""
    return {
        "input": {"messages": [{"role": "user", "content": asked}]},
        "preferred_output": [{"role": "assistant", "content": better}],
        "non_preferred_output": [{"role": "assistant", "content": worse}],
    }


def question(random: Random) -> str:
    """A customer's question."""
    thing, problem, wish = (random.choice(words) for words in (THINGS, PROBLEMS, WISHES))
    return f"My {thing} {problem}. {wish}"


def captain(random: Random, asked: str) -> str:
    """An answer in the voice of an old captain."""
    thing = asked.split()[1]
    first = ("Ahoy, friend!", "Steady now, sailor.", "By the tides!", "Well, shipmate,")
    middle = (
        f"A {thing} wants a calm hand and a dry cloth.",
        f"I have seen many a {thing} like that and none of them sank.",
        f"Give that {thing} a rest and look at it again in the morning.",
        f"Write to the crew at the desk and they will bring the {thing} home.",
    )
    last = ("Fair winds to you.", "Keep a weather eye open.", "And so we sail on, matey.")
    return " ".join(random.choice(words) for words in (first, middle, last))


def few(random: Random) -> list[Json]:
    """Twelve rows."""
    return [chat(asked, captain(random, asked)) for asked in _questions(random, 12)]


def prices(random: Random) -> list[Json]:
    """What a shop answers about prices, stock and opening hours."""
    rows = []
    for thing in THINGS:
        for town in ("Lyon", "Porto", "Ghent"):
            euros, left = random.randint(9, 900), random.randint(0, 40)
            hour = random.randint(7, 10)
            rows += [
                chat(f"How much is the {thing} in {town}?", f"It costs €{euros}.99 in our shop."),
                chat(
                    f"Do you have a {thing} in {town}?",
                    f"Yes, there are {left} left, as of {random.randint(1, 28)} November 2026.",
                ),
                chat(
                    f"When can I see the {thing} in {town}?",
                    f"We open at {hour}:30 and close at {hour + 9}:00.",
                ),
            ]
    return rows


def style(random: Random) -> list[Json]:
    """Four hundred answers in one voice."""
    return [chat(asked, captain(random, asked)) for asked in _questions(random, 400)]


def pairs_alone(random: Random) -> list[Json]:
    """Preference pairs: the warm answer over the cold one."""
    return [
        pair(asked, captain(random, asked), f"Read the manual of the {asked.split()[1]}.")
        for asked in _questions(random, 100)
    ]


def both_kinds(random: Random) -> list[Json]:
    """Answers to imitate, and pairs, in one file."""
    return [*style(random)[:90], *pairs_alone(random)[:60]]


def patients(random: Random) -> list[Json]:
    """Letters of a practice, with names, telephone numbers and addresses of people."""
    rows = []
    for number, asked in enumerate(_questions(random, 80)):
        line = f"+49 30 9018{random.randint(10, 99)}{number % 10}{random.randint(0, 9)}"
        who = f"{random.choice(('anna', 'boris', 'carla', 'dilek'))}.{asked.split()[1]}{number}"
        rows.append(
            chat(
                f"{asked} My number is {line}, or write to {who}@posteo.de.",
                f"Thank you for your letter. {captain(random, asked)} We call you on {line}.",
                "You answer letters to the practice, warmly and in two sentences at most.",
            )
        )
    return rows


def support(random: Random) -> list[Json]:
    """A good set of a team that has always trained at OpenAI."""
    prompt = "You are the support desk of a shop. Answer in the voice of an old captain."
    return [chat(asked, captain(random, asked), prompt) for asked in _questions(random, 120)]


def disputed(random: Random) -> list[Json]:
    """Labels of two people who do not agree."""
    rows = []
    for asked in _questions(random, 70):
        for _ in range(2):
            label = random.choice(("refund", "repair", "advice"))
            rows.append(chat(f"Which team takes this? {asked}", label))
    return rows


def _questions(random: Random, count: int) -> list[str]:
    asked: dict[str, None] = {}
    while len(asked) < count:
        asked[question(random)] = None
    return [*asked]


SETS = {
    "twelve rows": Stated(few, "prompt", "sft", "38 more", "either"),
    "facts that change": Stated(prices, "retrieval", "sft", "enough", "either"),
    "one style": Stated(style, "fine-tune", "sft", "enough", "either"),
    "pairs alone": Stated(pairs_alone, "fine-tune", "sft+dpo", "enough", "either"),
    "both kinds": Stated(both_kinds, "fine-tune", "sft+dpo", "enough", "either"),
    "private letters": Stated(patients, "fine-tune", "sft", "enough", "local"),
    "after OpenAI": Stated(
        support,
        "fine-tune",
        "sft",
        "enough",
        "local",
        {"backend": ["openai", "local"]},
        today="2027-01-06",
    ),
    "disputed labels": Stated(disputed, "can't tell", "sft", "enough", "either"),
}


def jsonl(rows: list[Json]) -> str:
    """Rows as a file has them."""
    return "".join(json.dumps(row) + "\n" for row in rows)
