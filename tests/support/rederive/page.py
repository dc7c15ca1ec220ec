"""The numbers of a report in Markdown, held against what was derived, to the digits shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from support.rederive.checked import Checked

Json = dict[str, Any]
Figures = Mapping[str, Mapping[str, list[float]]]  # measure -> model -> mean, low, high, n

ANSWERS = {  # a line of the report: what it is of the answers, and the factor of its unit
    "tokens read per answer": ("prompt_tokens", 0),
    "tokens written": ("completion_tokens", 0),
    "per answer": ("usd_per_answer", 0),
    "first token, median": ("first_token_seconds", 0),
    "first token, 95%": ("first_token_seconds", 1),
    "whole answer, median": ("seconds", 0),
    "whole answer, 95%": ("seconds", 1),
    "tokens per second": ("tokens_per_second", 0),
    "answers that were timed": ("timed", 0),
    "answers": ("answers", 0),
    "no answer": ("errors", 0),
    "refused": ("refusals", 0),
}


def check_page(markdown: str, data: Json, figures: Figures, answers: Json, found: Checked) -> None:
    """Each cell of the tables says what was derived for its model."""
    keys = [model["key"] for model in data["models"]]
    titles = {_label(one): one for one in data["measures"]}
    for label, cells in _rows(markdown):
        if len(cells) != len(keys) or any(re.search("passed|failed|not judged", c) for c in cells):
            continue  # checks have a table of their own
        for key, cell in zip(keys, cells, strict=True):
            where = f"{label} of {key}"
            if label in titles and key in figures[titles[label]["name"]]:
                factor = 100 if titles[label]["share"] else 1
                *limits, n = figures[titles[label]["name"]][key]
                _same(cell, [*(factor * one for one in limits), n], where, found)
            elif label in ANSWERS:
                name, place = ANSWERS[label]
                value = answers[key][name]
                value = value[place] if isinstance(value, list) else value
                _same(cell, [] if value is None else [float(value)], where, found)
            elif label.endswith(" requests a month"):
                usd, requests = answers[key]["usd_per_answer"], label.split()[0].replace(",", "")
                _same(cell, [] if usd is None else [int(requests) * float(usd)], where, found)


def _label(measure: Json) -> str:
    return f"{measure['title']} ({measure['unit']})" if measure["unit"] else str(measure["title"])


def _rows(markdown: str) -> Iterator[tuple[str, list[str]]]:
    for line in markdown.splitlines():
        cells = [cell.strip().replace("\\", "") for cell in line.strip("| ").split(" | ")]
        if line.startswith("|") and len(cells) > 1:
            yield cells[0], cells[1:]


def _same(cell: str, values: list[float], where: str, found: Checked) -> None:
    """The numbers of a cell are these, rounded as they are shown; in ms if it says so."""
    factor = 1000.0 if " ms" in cell else 1.0
    shown = re.findall(r"-?\d[\d,]*(?:\.\d+)?", cell)
    if not values:
        found.same("page", where, shown, [])
        return
    found.counts["page"] += 1
    right = len(shown) == len(values)
    for text, value in zip(shown, values, strict=False):
        decimals = len(text.partition(".")[2])
        right = right and abs(float(text.replace(",", "")) - factor * value) <= 0.51 * 10**-decimals
    if not right:
        found.wrong.append(f"page {where}: shown {cell}, derived {values}")
