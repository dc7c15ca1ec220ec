"""The page of a comparison: what is on it, that answers stay texts, its rows, axe."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from support.browser import Browser
from support.comparisons import HOSTILE, comparison

from finetune_gateway.evaluation.results import Verdict
from finetune_gateway.reports import comparison_rows
from finetune_gateway.reports.comparison_page import page, script_hash
from finetune_gateway.reports.comparison_rows import ANSWER_CHARS

DATA = re.compile(r'<script type="application/gzip" id="data">([A-Za-z0-9+/=]*)</script>')


def text_of(html: str) -> str:
    """What a reader sees without the script."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def data_of(html: str) -> dict[str, Any]:
    """What the script of a page is given."""
    found = DATA.search(html)
    assert found
    data: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return data


def until(tab: Browser, condition: str) -> None:
    """Wait for a condition in the page."""
    look = f"(function look() {{ {condition} ? done(1) : setTimeout(look, 5) }})()"
    promise = f"new Promise(done => {look})"
    tab.call("Runtime.evaluate", awaitPromise=True, expression=promise)


def opened(tab: Browser, html: str, folder: Path, **how: Any) -> Browser:
    """A page in a browser, its rows drawn."""
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    tab.open(path, **how)
    until(tab, "!document.getElementById('filters').hidden")
    return tab


def test_the_tables_need_no_script(tmp_path: Path) -> None:
    """Verdict, intervals, rows they count, what is not scored and why, checks, cost, speed, losses,
    the judge and the command are there as they are; no figure stands where there is none."""
    compared = comparison(tmp_path)
    html = page(compared)
    seen, data = text_of(html), compared.data
    assert data.verdict.text in seen and data.command in seen
    assert "38 rows of 20 conversations" in seen and "2 of them not asked" in seen
    assert "2 of 40 requests got no answer" in seen and "2 not scored: the host answered" in seen
    assert "a host tells no loss of a text that is given" in seen
    assert "A from B" in seen and "about 420 rows would do" in seen
    assert "better than C, E" in seen
    for word in ("$1.20 ($0.90 to $1.60)", "$1.31", "first token, median", "overfitting from step"):
        assert word in seen, word
    assert "says the longer answer 71% (60 to 80%)" in seen
    assert html.count("<svg") > 20 and "1 ✓ 39 ✗" in seen and "38 ✓ 2 ?" in seen
    assert f"'sha256-{script_hash()}'" in html


def test_best_is_marked_only_where_one_can_tell(tmp_path: Path) -> None:
    """One that is better than every other one in a tested difference is best; else none is."""
    compared = comparison(tmp_path)
    assert len(re.findall(r'<b class="best">', page(compared))) == 1, "the loss alone"
    told = [one.model_copy(update={"better": ""}) for one in compared.data.differences]
    verdict = Verdict(text="One can't tell.", measure="exact_match")
    html = page(comparison(tmp_path, differences=told, verdict=verdict))
    assert 'class="best"' not in html and '<p class="verdict open">One can&#39;t tell.' in html
    assert "exact match: no two of them apart; about 420 rows would do" in text_of(html)


def test_answers_are_texts(tmp_path: Path, tab: Browser) -> None:
    """Markup, the end of a script and marks of direction do nothing; they are read as they stand,
    personal data and keys masked. A million letters are cut, and their number is said."""
    secret = "jane.doe@example.org"
    answers = [HOSTILE, f"write to {secret}", "x" * 1_000_000]
    compared = comparison(
        tmp_path, rows=3, models=2, said=lambda row, key: answers[row], command=HOSTILE,
        verdict=Verdict(text=HOSTILE, measure="exact_match"),
    )  # fmt: skip
    html = page(compared)
    assert len(re.findall("<script|<img|<!--", html)) == 2
    assert "\u202e" not in html and secret not in html and len(html) < 200_000
    given = data_of(html)["rows"]
    assert given[0]["a"][0][0]["t"] == HOSTILE.replace("\u202e", "<U+202E>")
    left = 1_000_000 - ANSWER_CHARS
    assert given[2]["a"][0][0]["t"].endswith(f"x\n[... {left:,} more characters ...]")
    opened(tab, html, tmp_path)
    tab.js("document.querySelectorAll('summary').forEach(one => one.click())")
    until(tab, "document.querySelectorAll('.answer').length === 6")
    assert "</script><script>alert(1)</script>" in tab.js("document.body.innerText")
    assert tab.said == []


def test_names_are_texts(tmp_path: Path) -> None:
    """Of models, measures, checks, files, hosts and the judge; what they were refused with, too."""
    plain = comparison(tmp_path, rows=8)
    assert plain.data.judge is not None
    named = {"title": HOSTILE, "about": HOSTILE}
    data = plain.data.model_copy(
        update={
            "models": [
                one.model_copy(update={"title": HOSTILE, "name": HOSTILE, "model": HOSTILE,
                                       "host": HOSTILE, "notes": (HOSTILE,)})
                for one in plain.data.models
            ],
            "measures": [one.model_copy(update=named) for one in plain.data.measures],
            "data": plain.data.data.model_copy(update={"words": HOSTILE, "warnings": (HOSTILE,)}),
            "judge": plain.data.judge.model_copy(update={"model": HOSTILE, "warnings": (HOSTILE,)}),
            "notes": [HOSTILE], "prices": (HOSTILE,), "parameters": {"stop": HOSTILE},
            "checks": {HOSTILE: plain.data.checks["keys"]},
        }
    )  # fmt: skip
    html = page(replace(plain, data=data))
    assert len(re.findall("<script|<img|<!--", html)) == 2 and "\u202e" not in html
    assert text_of(html).count("alert(1)") > 40
    given = data_of(html)
    del given["examples"]  # by name; not shown
    assert "\u202e" not in json.dumps(given, ensure_ascii=False)


def test_rows_are_found_and_compared(tmp_path: Path, tab: Browser) -> None:
    """Each filter shows the rows that it names; a link of the checks opens its examples; words
    that differ from the reference are marked; what is beyond a page is a button away."""
    compared = comparison(tmp_path)
    opened(tab, page(compared), tmp_path)
    shown = "document.getElementById('count').textContent"

    def count(**chosen: str) -> int:
        for name, value in (
            {"find": "", "show": "all", "measure": "", "model": ""} | chosen
        ).items():
            tab.js(
                f"{{ const one = document.getElementById('{name}'); one.value = {value!r};"
                f"one.dispatchEvent(new Event('{'input' if name == 'find' else 'change'}')) }}"
            )
        return int(tab.js(shown).split(" ")[0])

    scored = compared.answers()
    exact = {(one.answer.row, one.answer.model): one.scores["exact_match"].value for one in scored}
    by_row = [[exact[row.id, model.key] for model in compared.data.models]
              for row in compared.rows()]  # fmt: skip
    assert tab.js(shown) == "40 rows, 1 to 20 shown"
    assert count(find="Number 1007?") == 1
    assert count(show="leaks") == sum(bool(row.leaks) for row in compared.rows())
    assert count(show="errors") == 2 == count(show="errors", model="hosted")
    assert count(show="failed", measure="exact_match", model="few") == sum(
        row[3] == 0 for row in by_row
    )
    assert count(show="differ", measure="exact_match") == sum(
        len({*row} - {None}) > 1 for row in by_row
    )
    pages = "document.getElementById('pages').hidden"
    assert tab.js(pages) is False  # 40 rows, 20 on a page
    assert count(find="no such word") == 0
    assert tab.js(pages) is True  # nothing is earlier or later
    tab.js("document.querySelector('a[href=\"#examples/check%3Akeys/few\"]').click()")
    until(tab, "document.querySelector('#list details[open] .answer')")
    failed = compared.data.checks["keys"]["few"].examples
    assert tab.js(shown) == f"{len(failed)} of 40 rows"
    assert tab.js("document.querySelectorAll('#list details[open] .answer').length") == 5
    count()
    tab.click("#all")
    assert tab.js("location.hash") == "#rows"
    tab.click("#after")
    assert tab.js(shown) == "40 rows, 21 to 40 shown"
    place = next(at for at, row in enumerate(by_row[20:]) if row[2] == 0)
    tab.js(f"document.querySelectorAll('#list summary')[{place}].click()")
    until(tab, "document.querySelector('#list details[open] .answer')")
    answer = f"document.querySelectorAll('#list details')[{place}].querySelectorAll('.answer')[2]"
    gone, new = (tab.js(f"{answer}.querySelectorAll('{tag}').length") for tag in ("del", "ins"))
    assert gone >= 1 and new >= 1 and tab.said == []


def test_a_page_holds_what_a_browser_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more rows than that the first ones are on it, and how many is said."""
    monkeypatch.setattr(comparison_rows, "MOST_CHARS", 5_000)
    html = page(comparison(tmp_path))
    shown = len(data_of(html)["rows"])
    assert 1 < shown < 40 and f"Only the first {shown} of 40 rows are on this page." in html


def test_a_page_without_rows(tmp_path: Path) -> None:
    """no_rows leaves out the texts of rows and answers, and the script."""
    html = page(comparison(tmp_path), no_rows=True)
    assert "<script" not in html and "--no-rows" in html
    assert "where is my" not in html and "You answer for a shop" not in html


@pytest.mark.parametrize(
    "width, dark",
    [
        (1280, False),
        (360, True),
        pytest.param(1280, True, marks=pytest.mark.chaos),
        pytest.param(360, False, marks=pytest.mark.chaos),
    ],
)
def test_axe_finds_nothing_serious(tmp_path: Path, tab: Browser, width: int, dark: bool) -> None:
    """Names, contrast, order: on the whole page, with everything unfolded. No part is wider than
    the screen."""
    axe = importlib.util.find_spec("axe_playwright_python")
    if axe is None or axe.origin is None:
        pytest.skip("needs axe-playwright-python")
    opened(tab, page(comparison(tmp_path, rows=10, models=2)), tmp_path, width=width, dark=dark)
    tab.js("for (const one of document.querySelectorAll('details')) one.open = true")
    until(tab, "document.querySelectorAll('.answer').length === 20")
    tab.js((Path(axe.origin).parent / "axe.min.js").read_text(encoding="utf-8") + "; 0")
    found = tab.call(
        "Runtime.evaluate", expression="axe.run()", awaitPromise=True, returnByValue=True
    )["result"]["value"]
    serious = {
        one["id"]: [node["html"][:150] for node in one["nodes"][:3]]
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    }
    assert serious == {} and len(found["passes"]) > 15
    assert tab.js("document.documentElement.scrollWidth") == width
