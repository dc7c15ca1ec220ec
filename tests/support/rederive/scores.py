"""What an answer scores, from its words and those of the data. Imports nothing of the gateway."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from typing import Any

Json = dict[str, Any]
DECLINES: list[str] = []  # phrases of answers that decline: a list that the gateway publishes


def score(measure: str, row: Json, answer: Json) -> float | None:
    """The score of an answer, from what it says; None if it is not judged."""
    if measure == "reference_loss":
        return number(answer["loss"])
    if answer["error"] or answer["finish_reason"] == "content_filter":
        return None
    if measure in ("seconds", "usd", "completion_tokens"):
        return number(answer[measure])
    said = answer["message"].get("content") or ""
    references = row["prompt"]["references"]
    wanted = [one for ref in references if (one := (ref.get("content") or "").strip())]
    if measure == "characters":
        return float(len(said))
    if measure == "refusal":
        calls = answer["message"].get("tool_calls")
        return float(not calls and any(one in folded(said.strip()[:300]) for one in DECLINES))
    if measure in ("tool_names", "tool_arguments"):
        return judged_calls(measure, row, answer)
    if not wanted:
        return None
    judges: dict[str, Callable[[str, str], bool]] = {
        "exact_match": lambda given, right: given.strip() == right,
        "normalized_match": lambda given, right: plain(given) == plain(right),
        "final_number": lambda given, right: last_number(given) == last_number(right) is not None,
    }
    if measure == "final_number":
        wanted = [one for one in wanted if "####" in one and last_number(one) is not None]
    return float(any(judges[measure](said, one) for one in wanted)) if wanted else None


def number(value: Any) -> float | None:
    return None if value is None else float(value)


def folded(words: str) -> str:
    words = unicodedata.normalize("NFC", words).casefold()
    for mark in "\u2019\u2018\u02bc`":
        words = words.replace(mark, "'")
    return " ".join(words.split())


def plain(words: str) -> str:
    words = unicodedata.normalize("NFKC", words).casefold()
    words = words.translate(str.maketrans("\u2019\u2018\u201c\u201d\u2013\u2014", "''\"\"--"))
    return bare(" ".join(words.split()))


def bare(words: str) -> str:
    cut = words.rstrip(".!?;:,\u2026").strip()
    for mark in ("**", '"', "'", "`", "*", "_"):
        inner = cut[len(mark) : -len(mark)]
        wrapped = cut.startswith(mark) and cut.endswith(mark) and len(cut) >= 2 * len(mark)
        if wrapped and mark not in inner:
            cut = inner.strip()
            break
    return cut if cut == words else bare(cut)


def last_number(words: str) -> Fraction | None:
    head, mark, tail = words.rpartition("####")
    pattern = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
    after = re.findall(pattern, tail) if mark else []
    every = after[:1] or re.findall(pattern, words)[-1:]
    return Fraction(every[0].replace(",", "")) if every else None


def judged_calls(measure: str, row: Json, answer: Json) -> float | None:
    references = row["prompt"]["references"]
    wanted = [calls(one) for one in references]
    if not references or not (any(wanted) or row["prompt"]["beside"].get("tools")):
        return None
    made = calls(answer["message"])
    if measure == "tool_names":
        made, wanted = names(made), [names(one) for one in wanted]
    return float(made in wanted)


def calls(message: Json) -> list[tuple[str, str]]:
    listed = [one["function"] for one in message.get("tool_calls") or []]
    return sorted((one["name"], text(arguments(one["arguments"]))) for one in listed)


def arguments(written: str) -> Any:
    try:
        return json.loads(written or "{}")
    except ValueError:
        return written


def names(made: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted((name, "") for name, _ in made)


def text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
