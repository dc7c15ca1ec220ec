"""The page of ``ftg validate --html``: what is on it, that it is safe, bounded and clickable."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from support.browser import Browser

import finetune_gateway as gateway
from finetune_gateway import Dataset
from finetune_gateway.errors import SpecError, StoreError
from finetune_gateway.findings import Finding, Report
from finetune_gateway.reports import validation_page as report_page
from finetune_gateway.reports.html_text import Piece, excerpt
from finetune_gateway.reports.layout import fragment
from finetune_gateway.reports.validation_page import page

HOSTED = "gpt-4.1-mini-2025-04-14"
SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
MAIL = "jane.doe@example.org"
PHONE = "415-555-2671"
KEY = "sk-" + "aB3dE5gH7jK9mN1pQ3sT5v"
BLOCK = f"-----BEGIN PRIVATE KEY-----\n{'MIIEvQIBADANBgkq' * 40}\n-----END PRIVATE KEY-----"


def chat(*texts: str, role: str = "assistant") -> dict[str, Any]:
    """A row in which user and assistant speak by turns."""
    roles = ["user", role] * len(texts)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]}


def written(path: Path, *rows: Any) -> Path:
    """Rows as JSON lines; a string is a line as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    return path


def good(count: int) -> list[dict[str, Any]]:
    return [chat(f"Where is parcel {i}?", f"Parcel {i} comes on Tuesday.") for i in range(count)]


def ftg(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "finetune_gateway", "validate", *map(str, args)],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip


def page_of(*rows: Any, folder: Path, **options: Any) -> str:
    dataset = Dataset.open(written(folder / "data.jsonl", *rows))
    return page(gateway.validate(dataset), dataset, **options)


def text_of(html: str) -> str:
    """What a reader sees of some HTML."""
    return unescape(re.sub(r"<[^>]*>", "", html))


def row_of(html: str, line: int) -> str:
    """The article of a row."""
    return html.partition(f'id="row-{line}"')[2].partition("</article>")[0]


def marked(html: str) -> list[str]:
    """The texts that are marked in some HTML."""
    return [text_of(one) for one in re.findall(r"<mark[^>]*>(.*?)</mark>", html, re.DOTALL)]


# -- through the command -------------------------------------------------------------------


def test_the_command_writes_the_page(home: Path, tmp_path: Path) -> None:
    """One file with the verdict, the figures, the findings and their rows; stdout is as ever."""
    bad = chat("Where is it?", "")
    data = written(tmp_path / "train.jsonl", *good(12), bad)
    out = tmp_path / "report.html"
    done = ftg(data, "--html", out, "--model", HOSTED, "--json")
    assert done.returncode == 3 and f"Wrote {out}." in done.stderr
    report = Report.model_validate_json(done.stdout)
    html = out.read_text(encoding="utf-8")
    seen = text_of(html)
    assert "train.jsonl" in seen and "Rejected." in seen
    for finding in report.findings:
        assert finding.message in seen and f'id="rule-{finding.code}"' in html
    assert marked(row_of(html, 13)) == ["empty text"]
    assert f"The limit of {HOSTED} is 65,536; no row is longer." in seen
    assert not re.search(r"<(script|img|link|iframe|object|base)\b|https?://|@import|url\(", html)
    assert "default-src 'none'" in html and "@media print" in html


def test_an_existing_file_is_kept(home: Path, train_file: Path, tmp_path: Path) -> None:
    """Without --force; the data itself is never replaced, and a folder that is not there said."""
    out = tmp_path / "report.html"
    out.write_text("mine")
    done = ftg(train_file, "--html", out)
    assert done.returncode == SpecError.exit_code and "--force" in done.stderr
    assert out.read_text() == "mine" and done.stdout == ""
    assert ftg(train_file, "--html", out, "--force", "-q").returncode == 0
    assert out.read_text().startswith("<!doctype html>")
    before = train_file.read_bytes()
    done = ftg(train_file, "--html", train_file, "--force")
    assert done.returncode == SpecError.exit_code and train_file.read_bytes() == before
    done = ftg(train_file, "--html", tmp_path / "gone" / "a.html")
    assert done.returncode == StoreError.exit_code and "cannot be written" in done.stderr


def test_the_page_of_a_fixed_file(home: Path, tmp_path: Path) -> None:
    """With --fix the page is that of the copy."""
    human = {"messages": [{"role": "human", "content": "a"}, {"role": "gpt", "content": ""}]}
    data = written(tmp_path / "bad.jsonl", *good(12), human)
    done = ftg(data, "--fix", tmp_path / "better.jsonl", "--html", tmp_path / "r.html", "-q")
    assert done.returncode == 3
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "better.jsonl" in html and "unknown_role" not in html
    assert marked(row_of(html, 13)) == ["empty text"]


def test_from_python(home: Path, tmp_path: Path) -> None:
    """Report.to_html takes rows in memory too."""
    rows = [*good(10), chat("x", "")]
    out = tmp_path / "report.html"
    report = gateway.validate(rows)
    report.to_html(out, rows)
    assert marked(row_of(out.read_text(encoding="utf-8"), 11)) == ["empty text"]
    report.to_html(out, rows)  # a page of ours is replaced
    out.write_text("mine")
    with pytest.raises(SpecError, match="not a page of ours"):
        report.to_html(out, rows)
    report.to_html(out, rows, force=True)


# -- rows ----------------------------------------------------------------------------------


def test_what_a_finding_names_is_marked_in_each_of_its_rows(tmp_path: Path) -> None:
    """Also where it stands elsewhere than in the first row, which is the one a finding names."""
    role, later = chat("a", "b", role="asistant"), chat("a", "b", "c", "d")
    later["messages"][3]["role"] = "asistant"
    weight = chat("a", "b")
    weight["messages"][1]["weight"] = 7
    missing = {"messages": [{"role": "user"}, {"role": "assistant", "content": "b"}]}
    call = {"id": "c9", "type": "function", "function": {"name": "find", "arguments": "{oops"}}
    calls = chat("a", "b")
    calls["messages"][1]["tool_calls"] = [call]
    html = page_of(*good(10), role, later, weight, missing, calls, folder=tmp_path)
    assert marked(row_of(html, 11)) == ['"asistant"']
    assert marked(row_of(html, 12)) == ['"asistant"'] and "messages[3].role" in row_of(html, 12)
    assert marked(row_of(html, 13)) == ["7"]
    assert marked(row_of(html, 14)) == ["messages[0].content"]
    assert "is not there" in row_of(html, 14)
    assert "{oops" in marked(row_of(html, 15))


@pytest.mark.parametrize(
    ("line", "mark"),
    [
        ('{"messages": [{"role": "user" "content": "x"}]}', '"'),
        ('{"messages": [,]}', ","),
        ('{"messages": [{"role": "user", "content": "x"', "ends here"),
        ("{'messages': []}", "'"),
    ],
)
def test_broken_json_is_shown_as_it_stands(line: str, mark: str, tmp_path: Path) -> None:
    """With the place where it breaks."""
    html = page_of(*good(10), line, folder=tmp_path)
    assert marked(row_of(html, 11)) == [mark]
    assert line in text_of(row_of(html, 11))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A byte that is not UTF-8 is marked."""
    data = written(tmp_path / "data.jsonl", *good(10))
    with data.open("ab") as file:
        file.write('{"messages": "ä caf\N{LATIN SMALL LETTER E WITH ACUTE}"}\n'.encode("latin-1"))
    dataset = Dataset.open(data)
    html = page(gateway.validate(dataset), dataset)
    assert marked(row_of(html, 11)) == ["\ufffd"]


def test_rows_of_a_container(home: Path, tmp_path: Path) -> None:
    """A JSON array on one line: the row by its number. A CSV file: by its line."""
    array = tmp_path / "rows.json"
    array.write_text(json.dumps([*good(10), chat("x", "")]))
    table = tmp_path / "rows.csv"
    table.write_text("prompt,completion\n" + "a,b\n" * 10 + "a,\n")
    for path, number, title in ((array, 11, "Row 11"), (table, 12, "Line 12")):
        dataset = Dataset.open(path)
        html = page(gateway.validate(dataset), dataset)
        assert marked(row_of(html, number)) and title in html


# -- safety --------------------------------------------------------------------------------


def test_personal_data_and_keys_are_masked(tmp_path: Path) -> None:
    """In texts, names of keys, arguments, broken JSON, at cuts, and all of a private key."""
    told = f"{MAIL} or\n{PHONE}, {KEY} {BLOCK}"
    key = chat("a", "b") | {MAIL: 1}
    call = chat("a", "b")
    arguments = json.dumps({"to": MAIL, "text": f"call:\n{PHONE}"})
    call["messages"][1]["tool_calls"] = [
        {"id": "c", "type": "function", "function": {"name": "x", "arguments": arguments}}
    ]
    cut = chat("x" * 890 + f" {MAIL}", "")
    broken = json.dumps(chat("a", told))[:-3]
    rows = [chat("a", told), key, call, cut, broken, chat("a", "b", role=MAIL)]
    html = page_of(*good(10), *rows, folder=tmp_path)
    for line in range(11, 17):
        assert row_of(html, line)
    for secret in (MAIL, PHONE, KEY, "jane.d", "IIEvQIBA", "2671"):
        assert secret not in html
    assert "j...g (20 characters)" in html and "(a key)" in html


def drawn(text: str, limit: int, at: int | None = None) -> str:
    """A text of the data as HTML."""
    return str(fragment("text.html", "text", excerpt(text, limit, at)))


def test_nothing_hides_in_a_text() -> None:
    """What does not print is named; joiners inside words of other scripts and emoji stay."""
    assert drawn("a\u202eb\u200b\u200bc", 99).count('class="odd"') == 2
    assert text_of(drawn("a\u202eb\u200b\u200bc", 99)) == "a<U+202E>b<U+200B x2>c"
    for fine in ("naïve café", "👩\u200d👧", "می\u200cخواهم", "日本語\u3000", "❤\ufe0f"):
        assert excerpt(fine, 99) == [Piece(fine)] and drawn(fine, 99) == fine
    assert text_of(drawn("\ud800", 9)) == "<U+D800>"
    assert drawn("\u0301x", 9).startswith("\u25cc")


def test_texts_keep_their_spaces() -> None:
    """The template adds none and takes none away: a text is shown with its spaces."""
    for text in ("  a\n\n b  ", "\n", " a\u202e ", f" {MAIL} ", " ! "):
        assert text_of(drawn(text, 99, 1)) == text_of(drawn(text, 99))
    assert text_of(drawn("  a\n\n b  ", 99, 2)) == "  a\n\n b  "


def test_a_place_in_a_long_text() -> None:
    """What is around a place is shown, the place is marked, the rest is counted."""
    text = "a" * 5000 + "!" + "b" * 5000
    html = drawn(text, 90, 5000)
    assert marked(html) == ["!"] and len(text_of(html)) < 200
    assert "[... 4,970 characters ...]" in html and "[... 4,941 characters ...]" in html


def hostile(count: int) -> Iterator[dict[str, Any]]:
    """Rows with a finding each, many of a kind of their own; some of a megabyte."""
    for number in range(count):
        row = chat(f"question {number} {SCRIPT}", "", role=f"<b>{number % 40}")
        if number % 3 == 0:
            row[f"<i>{number}{SCRIPT}"] = "&" * 500
        if number % (count // 5) == 0:
            row["text"] = "</script>" * 120_000
        elif number < 500:
            row["text"] = "\u202e\u200b" * 500
        yield row


def test_a_hostile_file_gives_a_small_page(tmp_path: Path) -> None:
    """A thousand kinds of findings, texts of a megabyte: some megabytes of page."""
    dataset = Dataset.open(written(tmp_path / "data.jsonl", *hostile(3000)))
    report = gateway.validate(dataset, quality=False)
    assert len(report.findings) > 900
    html = page(report, dataset)
    assert "more kinds of findings" in html
    assert len(html.encode()) < 5_000_000


def test_a_large_file_gives_a_small_page(tmp_path: Path) -> None:
    """20,000 rows of which half are named: the room for rows is used up, not more."""
    path = written(tmp_path / "data.jsonl", *hostile(500), *(chat("a", "") for _ in range(19_500)))
    findings = [
        Finding(
            code="type_error", severity="error", line=kind * 10 + 1, path="messages[0].content",
            message=SCRIPT * 20, fix=SCRIPT * 20, backends=["openai"], count=10,
            lines=list(range(kind * 10 + 1, kind * 10 + 11)),
        )
        for kind in range(1000)
    ]  # fmt: skip
    report = Report(ok=False, format="openai-chat", kind="chat", rows=20_000, findings=findings)
    html = page(report, Dataset.open(path))
    assert 0.9 * report_page.ROW_BYTES < len(html.encode()) < 5_000_000
    assert 50 < html.count('class="row"') <= report_page.ROWS


# -- figures -------------------------------------------------------------------------------


def test_the_lengths_are_drawn(tmp_path: Path) -> None:
    """A column for each bin that holds rows, the limit where it is among them."""
    rows = [chat("word " * (1 + i * i), "yes " * (i + 1)) for i in range(40)]
    dataset = Dataset.open(written(tmp_path / "data.jsonl", *rows))
    report = gateway.validate(dataset)
    assert report.tokens
    filled = [count for _, _, count in report.tokens["histogram"] if count]
    html = page(report, dataset, limit=300)
    wide = html.partition('<svg class="wide"')[2].partition("</svg>")[0]
    titles = re.findall(r"<title>[\d, to]+: ([\d,]+)</title>", wide)
    assert [int(title) for title in titles] == filled and sum(filled) == 40
    assert "limit 300" in wide and f"median {report.tokens['median']:,}" in wide
    assert "longer rows are cut or refused" in html
    for role, counts in report.tokens["roles"].items():
        assert re.search(rf">{role}<.*?>{counts['messages']:,}<.*?>{counts['tokens']:,}<", html)
    bare = {
        name: report.tokens[name] for name in report.tokens if name not in ("histogram", "roles")
    }
    html = page(report.model_copy(update={"tokens": bare}), dataset)
    assert "Tokens per row" in html and '<svg class="wide"' not in html
    assert "Lengths" not in page(report.model_copy(update={"tokens": None}), dataset)


def test_repeats_classes_and_leaks_are_shown(home: Path, tmp_path: Path) -> None:
    """The figures of the dataset as a whole."""
    rows = [
        chat(f"Is {i} large, asked the {i}th man?", "yes" if i % 4 else "no") for i in range(40)
    ]
    data = written(tmp_path / "train.jsonl", *rows, rows[0], rows[1])
    held = written(tmp_path / "held <out>.jsonl", *rows[:3])
    dataset = Dataset.open(data)
    report = gateway.validate(dataset, quality=True, against=held)
    seen = text_of(page(report, dataset))
    assert "equal to an earlier row2" in seen.replace("\n", "")
    assert "also in held" in seen and "2 short answers repeat like classes" in seen
    assert report.quality and report.quality["leaks"]["held <out>.jsonl"]["exact"] == 5
    assert "assistant 42; 42 with one answer" in seen
    short_look = text_of(page(gateway.validate(dataset, quality=False), dataset))
    assert "Not looked at: contradictions, system prompts, classes" in short_look


# -- in a browser --------------------------------------------------------------------------


@pytest.fixture
def shown_page(tmp_path: Path) -> Path:
    """A page with hostile rows; what hides in them would be noticed by the browser."""
    rows = [chat(f"{SCRIPT} {i}", "", role="assistant" if i % 2 else SCRIPT) for i in range(40)]
    wide = chat("x" * 20_000, "\u202eمرحبا " * 40)
    out = tmp_path / "page.html"
    html = page_of(
        *good(30),
        *rows,
        wide | {SCRIPT: SCRIPT},
        "{" + SCRIPT,
        folder=tmp_path,
        model=SCRIPT,
        limit=40,
    )
    out.write_text(html, encoding="utf-8")
    return out


def test_a_click_on_a_line_goes_to_its_row_and_back(tab: Browser, shown_page: Path) -> None:
    """By fragments alone: the row comes into view and is framed; so is the finding."""
    tab.open(shown_page)
    tab.click('.error .lines a[href="#row-40"]')
    assert tab.js("location.hash") == "#row-40"
    assert tab.js("document.querySelector(':target h3').innerText") == "Line 40"
    top = tab.js("document.querySelector(':target').getBoundingClientRect().top")
    assert 0 <= top < tab.js("innerHeight")
    tab.click("#row-40 .tags a")
    assert tab.js("document.querySelector(':target').className").startswith("finding")
    tab.click(".finding h3 a")
    assert tab.js("document.querySelector(':target').innerText") in tab.js("location.hash")
    assert tab.js("document.querySelector(':target').closest('details').open"), (
        "a folded rule opens"
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_fits_and_runs_nothing(
    width: int, dark: bool, tab: Browser, shown_page: Path
) -> None:
    """No sideways scrolling, no request, no script, no dialog; letters stand out in both looks."""
    tab.open(shown_page, width=width, dark=dark)
    assert tab.js("document.documentElement.scrollWidth") <= width
    assert tab.said == [] and tab.js("document.scripts.length + document.images.length") == 0
    assert tab.js("matchMedia('(prefers-color-scheme: dark)').matches") is dark
    visible = f".{'wide' if width > 700 else 'narrow'}"
    assert tab.js(f"document.querySelector('svg{visible}').getBoundingClientRect().width") > 200
    for selector in ("body", ".soft", ".error h3 a", ".warned, .rejected b", "mark", ".odd"):
        assert contrast(tab, selector) >= 4.5, selector


def contrast(tab: Browser, selector: str) -> float:
    """That of the letters of an element to the ground it stands on (WCAG 2)."""
    letters, ground = tab.js(
        f"(() => {{ let one = document.querySelector({json.dumps(selector)});"
        "const letters = getComputedStyle(one).color; let ground = 'rgba(0, 0, 0, 0)';"
        "while (one && ground == 'rgba(0, 0, 0, 0)') {"
        "ground = getComputedStyle(one).backgroundColor; one = one.parentElement }"
        "return [letters, ground] })()"
    )
    light, dark = sorted((luminance(letters), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# -- the shared sets -----------------------------------------------------------------------


@pytest.mark.shared
def test_every_bad_file_has_a_page(home: Path, shared: Path) -> None:
    """Each line that a finding names is a row of the page."""
    for path in sorted((shared / "data" / "bad_inputs").iterdir()):
        if path.name == "manifest.json" or path.is_dir():
            continue
        dataset = Dataset.open(path)
        report = gateway.validate(dataset)
        html = page(report, dataset)
        assert len(html.encode()) < 1_000_000
        for finding in report.findings:
            assert finding.code in html
            for line in finding.lines:
                assert f'id="row-{line}"' in html, (path.name, finding.code)
