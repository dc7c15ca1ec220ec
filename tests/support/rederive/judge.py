"""What a judge's verdicts come to: what each model wins, and how far the judge can be trusted."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from support.rederive.checked import Checked
from support.rederive.intervals import mean_interval

Json = dict[str, Any]
Scores = dict[str, dict[str, float]]  # model -> place -> score
LIKE_LENGTH = 1.25


def judged(measure: str, verdicts: list[Json], keys: list[str]) -> tuple[Scores, Counter[str]]:
    """The scores of a judge's measure, and how many of each model it has not judged."""
    scores: Scores = {key: {} for key in keys}
    missing: Counter[str] = Counter()
    name = measure.removeprefix("judge:")
    if name not in ("wins", "wins_like_length"):
        for one in verdicts:
            if one["rubric"] == name and one["score"] is not None:
                scores[one["first"]][f"{one['row']} 0"] = one["score"]
            missing[one["first"]] += one["rubric"] == name and one["score"] is None
        return scores, missing
    for (row, first, second), both in pairs(verdicts).items():
        winners = [winner(one) for one in both]
        if len(both) < 2 or None in winners:
            missing.update((first, second) if name == "wins" else ())
            continue
        short, long = sorted(both[0]["lengths"])
        if name == "wins_like_length" and long > LIKE_LENGTH * short:
            continue
        place = f"{row} {first}|{second}"
        decided = winners[0] if winners[0] == winners[1] else ""
        scores[first][place] = {first: 1.0, second: 0.0}.get(str(decided), 0.5)
        scores[second][place] = 1 - scores[first][place]
    return scores, missing


def pairs(verdicts: list[Json]) -> dict[tuple[str, str, str], list[Json]]:
    found: dict[tuple[str, str, str], list[Json]] = defaultdict(list)
    for one in verdicts:
        if one["second"]:
            first, second = sorted((one["first"], one["second"]))
            found[one["row"], first, second].append(one)
    return found


def winner(one: Json) -> str | None:
    said: dict[str | None, str | None] = {"tie": "", None: None}
    said |= {"first": one["first"], "second": one["second"]}
    return said[one["better"]]


def check_judge(
    shown: Json, verdicts: list[Json], clusters: dict[str, str], found: Checked
) -> None:
    """How often both orders agree, and what the judge prefers whatever it says."""
    asked = [
        both
        for both in pairs(verdicts).values()
        if len(both) == 2 and any(one["asked"] for one in both)
        if all(one["better"] for one in both)
    ]
    agree = [winner(both[0]) == winner(both[1]) for both in asked]
    ties = [not same or not winner(both[0]) for same, both in zip(agree, asked, strict=True)]
    decided = [one for both in asked for one in both if winner(one)]
    uneven = [one for one in decided if one["lengths"][0] != one["lengths"][1]]
    firsts = [float(one["better"] == "first") for one in decided]
    found.same("judge", "pairs", shown["pairs"], len(asked))
    found.same("judge", "ties", shown["ties"], sum(ties))
    longer = [
        float((one["better"] == "first") == (one["lengths"][0] > one["lengths"][1]))
        for one in uneven
    ]
    of_pairs = [both[0] for both in asked]
    for name, shares, of in (
        ("agreement", [*map(float, agree)], of_pairs),
        ("first", firsts, decided),
        ("longer", longer, uneven),
    ):
        limits = shown[name] and [shown[name][key] for key in ("mean", "low", "high")]
        of_rows = [clusters[one["row"]] for one in of]
        found.same("judge", name, limits, mean_interval(shares, of_rows, True) if shares else None)
