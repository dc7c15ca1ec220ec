"""Re-derives every figure of a comparison from the data and the raw answers, by its own formulas.

    cd tests; python -m support.rederive DATA.jsonl HOME/comparisons/cmp-ID PHRASES.json REPORT.md

Imports nothing of the gateway. ``PHRASES``: of answers that decline (``resources/refusals.json``);
without it refusals are taken as given. ``REPORT``: its numbers are checked too. Prints what was
checked and what was taken as given, and each figure that differs; the exit code is 1 if one does.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

from support.rederive.checked import Checked
from support.rederive.intervals import difference, holm, mean_interval, rows_needed
from support.rederive.judge import check_judge, judged
from support.rederive.page import check_page
from support.rederive.scores import DECLINES, score, text
from support.rederive.serving import check_serving

Json = dict[str, Any]
TRAINING = ("weight", "reasoning_content", "reasoning", "thinking")
GIVEN = ("check",)  # measures whose scores are taken as they are
LEVEL = 0.05


# -- rows ------------------------------------------------------------------------------------


def read_lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def check_rows(data: Path, rows: list[Json], shown: Json, found: Checked) -> None:
    """Each row asks what its lines of the data ask, and is in the cluster of its conversation."""
    lines = data.read_text("utf-8").splitlines()
    asked = [asked_of(json.loads(line)) for line in lines if line.strip()]
    ours = [row for row in rows if not row["check"]]
    for row in ours:
        for line in row["prompt"]["lines"]:
            prompt, answers = asked_of(json.loads(lines[line - 1]))
            found.same("row", f"line {line}", text(row["prompt"]["messages"]), text(prompt))
            known = [text(one) for one in row["prompt"]["references"]]
            found.same(
                "reference", f"line {line}", all(text(one) in known for one in answers), True
            )
    clusters = clusters_of(ours)
    for row in ours:
        found.same(
            "cluster", row["prompt"]["id"][:8], row["cluster"], clusters[row["prompt"]["id"]]
        )
    left = Counter(
        "exact" if any(leak["kind"] == "exact" for leak in row["leaks"]) else "near"
        for row in ours
        if row["leaks"]
    )
    found.same(
        "data", "rows in the file", shown["rows_in_file"], len({text(one) for one, _ in asked})
    )
    found.same("data", "rows", shown["rows"], len(ours))
    found.same("data", "clusters", shown["clusters"], len({row["cluster"] for row in ours}))
    found.same("data", "left out", text(shown["left_out"]), text(dict(left)))


def asked_of(row: Json) -> tuple[list[Json], list[Json]]:
    """What a row of the data asks, and the first of its answers."""
    messages = [{k: v for k, v in one.items() if k not in TRAINING} for one in row["messages"]]
    end = len(messages)
    while messages[end - 1]["role"] == "assistant":
        end -= 1
    return messages[:end], messages[end : end + 1]


def clusters_of(rows: list[Json]) -> dict[str, str]:
    """Rows that begin with all of another row are of its conversation."""
    starts = {text(row["prompt"]["messages"]): row["prompt"]["id"] for row in rows}
    found = {}
    for row in rows:
        messages = row["prompt"]["messages"]
        asked = [
            at for at, one in enumerate(messages, 1) if one["role"] not in ("system", "developer")
        ]
        heads = [starts[text(messages[:at])] for at in asked if text(messages[:at]) in starts]
        found[row["prompt"]["id"]] = heads[0]
    return found


# -- figures ---------------------------------------------------------------------------------


class Answers:
    """The answers of a comparison, with the scores that were derived from them."""

    def __init__(
        self, data: Json, rows: list[Json], lines: list[Json], verdicts: list[Json], found: Checked
    ) -> None:
        self.data, self.found, self.verdicts = data, found, verdicts
        self.rows = {row["prompt"]["id"]: row for row in rows}
        self.lines = [(line["answer"], line["scores"]) for line in lines]
        self.shares = {one["name"]: one["share"] for one in data["measures"]}
        self.scores = {name: self._scores(name) for name in self.shares}
        self.figures: dict[str, dict[str, list[float]]] = {name: {} for name in self.shares}
        self.totals: dict[str, Json] = {}

    def _scores(self, measure: str) -> dict[str, dict[str, float]]:
        """Model -> row and sample -> score, on the rows that no model was trained on."""
        keys = [one["key"] for one in self.data["models"]]
        if measure.startswith("judge:"):
            return judged(measure, self.verdicts, keys)[0]
        counted: dict[str, dict[str, float]] = {key: {} for key in keys}
        for answer, scores in self.lines:
            if measure not in scores:
                continue
            shown = scores[measure]["value"]
            row = self.rows[answer["row"]]
            where = f"{answer['row'][:8]} of {answer['model']}"
            if measure.startswith(GIVEN) or (measure == "refusal" and not DECLINES):
                ours = shown
                self.found.given[f"scores of {measure}"] += 1
            else:
                ours = score(measure, row, answer)
                self.found.same(f"score {measure}", where, shown, ours)
            if ours is not None and not row["leaks"]:
                counted[answer["model"]][f"{answer['row']} {answer['sample']}"] = ours
        return counted

    def clusters(self, places: Iterable[str]) -> list[str]:
        return [self.rows[place.split()[0]]["cluster"] for place in places]

    def check_figures(self) -> None:
        for measure, shown_by in self.data["figures"].items():
            for key, shown in shown_by.items():
                self._check_figure(measure, key, shown)

    def _check_figure(self, measure: str, key: str, shown: Json) -> None:
        where, interval = f"{measure} of {key}", shown["interval"]
        values = self.scores[measure][key]
        unjudged = self._unjudged(measure, key)
        self.found.same("unjudged", where, sum(shown["unjudged"].values()), unjudged)
        if not values or interval is None:
            self.found.same("figure", where, interval, None if not values else "a figure")
            return
        ours = mean_interval([*values.values()], self.clusters(values), self.shares[measure])
        if min(values.values()) >= 0:
            ours[1] = max(0.0, ours[1])
        self.figures[measure][key] = [*ours, len(values)]
        self.found.same("n", where, interval["n"], len(values))
        count = len({*self.clusters(values)})
        self.found.same("conversations", where, interval["clusters"], count)
        self.found.same("interval", where, [interval[one] for one in ("mean", "low", "high")], ours)

    def _unjudged(self, measure: str, key: str) -> int:
        if measure.startswith("judge:"):
            return judged(measure, self.verdicts, [key, *self.data["figures"][measure]])[1][key]
        return sum(
            1
            for answer, scores in self.lines
            if answer["model"] == key
            and not self.rows[answer["row"]]["leaks"]
            and measure in scores
            and scores[measure]["value"] is None
        )

    def check_differences(self) -> None:
        shown = {
            (one["measure"], one["first"], one["second"]): one for one in self.data["differences"]
        }
        for measure in self.data["measures"]:
            if measure["decides"]:
                self._check_measure(measure, shown)

    def _check_measure(self, measure: Json, shown: dict[tuple[str, str, str], Json]) -> None:
        name, share = measure["name"], measure["share"]
        scores = {key: values for key, values in self.scores[name].items() if values}
        derived = []
        for first, second in combinations(scores, 2):
            places = [place for place in scores[first] if place in scores[second]]
            if not places:
                continue
            ones = [scores[first][place] for place in places]
            others = [scores[second][place] for place in places]
            clusters = self.clusters(places)
            found = difference(ones, others, clusters, share)
            derived.append((first, second, ones, others, clusters, found))
        adjusted = holm([found[-1][3] for found in derived])
        for (first, second, ones, others, clusters, found), p in zip(
            derived, adjusted, strict=True
        ):
            one, where = shown.pop((name, first, second)), f"{name}, {first} and {second}"
            interval = one["interval"]
            limits = [interval[word] for word in ("mean", "low", "high")]
            self.found.same("difference", where, limits, found[:3])
            self.found.same("p", where, one["p"], found[3])
            self.found.same("Holm", where, one["adjusted_p"], p)
            told = p < LEVEL and not found[1] <= 0 <= found[2]
            upper = first if found[0] > 0 else second
            lower = second if found[0] > 0 else first
            better = {"higher": upper, "lower": lower, "": ""}[measure["better"]] if told else ""
            self.found.same("better", where, one["better"], better)
            rows = None if told else rows_needed(ones, others, clusters, share, len(derived))
            self.found.same("rows needed", where, one["rows_needed"], rows)
        left = [key for key in shown if key[0] == name]
        self.found.same("differences", name, len(left), 0)

    def check_checks(self) -> None:
        """How many answers passed each check, by their scores."""
        for name, shown_by in self.data["checks"].items():
            for key, shown in shown_by.items():
                values = [
                    scores[f"check:{name}"]["value"]
                    for answer, scores in self.lines
                    if answer["model"] == key and f"check:{name}" in scores
                ]
                passed = sum(value is not None and value >= 1 for value in values)
                counts = [passed, len(values) - values.count(None) - passed, values.count(None)]
                named = [shown[word] for word in ("passed", "failed", "unjudged")]
                self.found.same("check", f"{name} of {key}", named, counts)

    # -- how they answer ---------------------------------------------------------------------

    def check_answers(self) -> None:
        for key, shown in self.data["answers"].items():
            answers = [  # to the rows: what a check asks on is no request of every day
                answer
                for answer, _ in self.lines
                if answer["model"] == key and not self.rows[answer["row"]].get("check")
            ]
            self.totals[key] = self._derived(key, answers)
            for name, value in self.totals[key].items():
                self.found.same("answers", f"{name} of {key}", shown[name], value)

    def _derived(self, key: str, answers: list[Json]) -> Json:
        good = [one for one in answers if not one["error"]]
        errors = Counter(one["error"] for one in answers if one["error"])
        timed = [one for one in good if one["seconds"] is not None]
        spoken = [one for one in timed if one["completion_tokens"]]
        paid = [Fraction(one["usd"]) for one in good if one["usd"] is not None]
        seconds = math.fsum(one["seconds"] for one in spoken)
        refused = self.scores["refusal"][key] if "refusal" in self.scores else {}
        return {
            "answers": len(good),
            "errors": sum(errors.values()),
            "refusals": sum(refused.values()),
            "prompt_tokens": average(good, "prompt_tokens"),
            "completion_tokens": average(good, "completion_tokens"),
            "first_token_seconds": quantiles(good, "first_token_seconds"),
            "seconds": quantiles(good, "seconds"),
            "timed": len(timed),
            "tokens_per_second": sum(one["completion_tokens"] for one in spoken) / seconds
            if seconds
            else None,
            "usd_per_answer": float(sum(paid) / len(paid)) if paid else None,
        }

    def check_prices(self) -> None:
        """What each answer cost, by its tokens and the prices that are shown."""
        prices = dict(price_of(line) for line in self.data["prices"])
        for answer, _ in self.lines:
            if answer["usd"] is None or answer["completion_tokens"] is None:
                continue
            model = next(one for one in self.data["models"] if one["key"] == answer["model"])
            read, written = (price(prices, model, unit) for unit in ("in_mtok", "out_mtok"))
            ours = (read * answer["prompt_tokens"] + written * answer["completion_tokens"]) / 10**6
            self.found.same("usd", answer["row"][:8], answer["usd"], float(ours))

    # -- the verdict -------------------------------------------------------------------------

    def check_verdict(self) -> None:
        shown = self.data["verdict"]
        measure = next(one for one in self.data["measures"] if one["name"] == shown["measure"])
        pairs = [one for one in self.data["differences"] if one["measure"] == measure["name"]]
        figures = self.data["figures"][measure["name"]]
        means = {key: one["interval"]["mean"] for key, one in figures.items() if one["interval"]}
        sign = 1 if measure["better"] == "lower" else -1
        ranked = sorted(means, key=lambda key: sign * means[key])
        beaten = {
            one["first" if one["better"] == one["second"] else "second"]
            for one in pairs
            if one["better"]
        }
        best = [key for key in ranked if key not in beaten]
        decided = len(ranked) > 1 and len(best) == 1
        self.found.same("verdict", "best", shown["best"], best)
        self.found.same("verdict", "decided", shown["decided"], decided)
        if not decided and len(ranked) > 1:
            self.found.same("verdict", "in words", "an't tell" in shown["text"], True)


def average(answers: list[Json], name: str) -> float | None:
    known = [one[name] for one in answers if one[name] is not None]
    return math.fsum(known) / len(known) if known else None


def quantiles(answers: list[Json], name: str) -> list[float] | None:
    """The median, and the smallest value that 95 % are not above."""
    known = sorted(one[name] for one in answers if one[name] is not None)
    if not known:
        return None
    count = len(known)
    middle = (known[(count - 1) // 2] + known[count // 2]) / 2
    return [middle, next(value for at, value in enumerate(known, 1) if 20 * at >= 19 * count)]


def price_of(line: str) -> tuple[tuple[str, str], Fraction]:
    """Model and unit with the amount, as a report writes them: HOST MODEL: $0.4 in_mtok, ..."""
    found = re.match(r"(?:\S+ )*?(\S+): \$(\S+) (\w+)", line)
    assert found is not None, line
    return (found[1], found[3]), Fraction(found[2])


def price(prices: dict[tuple[str, str], Fraction], model: Json, unit: str) -> Fraction:
    fine_tuned = f"ft:{model['base_model']}"
    names = (
        model["model"],
        fine_tuned if model["model"].startswith("ft:") else "",
        model["base_model"],
    )
    return next(prices[name, unit] for name in names if (name, unit) in prices)


# -- all of it -------------------------------------------------------------------------------


def rederive(data: Path, folder: Path, markdown: str = "") -> Checked:
    """Check all figures of the comparison in ``folder``, and of its report, against the data and
    its answers."""
    found = Checked()
    shown = json.loads((folder / "comparison.json").read_text("utf-8"))
    rows = read_lines(folder / "rows.jsonl")
    check_rows(data, rows, shown["data"], found)
    verdicts = read_lines(folder / "judgements.jsonl")
    answers = Answers(shown, rows, read_lines(folder / "answers.jsonl"), verdicts, found)
    answers.check_checks()
    answers.check_figures()
    answers.check_differences()
    answers.check_answers()
    answers.check_prices()
    answers.check_verdict()
    check_serving(shown, found)
    if shown["judge"] is not None:
        clusters = {row["prompt"]["id"]: row["cluster"] for row in rows}
        check_judge(shown["judge"], verdicts, clusters, found)
    if markdown:
        check_page(markdown, shown, answers.figures, answers.totals, found)
    return found
