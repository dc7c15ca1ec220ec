"""No page holds data as markup: texts planted in every place that takes one stay texts."""

from __future__ import annotations

import ast
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg

import finetune_gateway
from finetune_gateway import Dataset
from finetune_gateway.findings import Finding, Report
from finetune_gateway.reports.preview_page import page as preview_page
from finetune_gateway.reports.validation_page import page as validation_page
from finetune_gateway.tokens.masks.preview import Preview, Sequence, Token
from finetune_gateway.tokens.token_text import visible

pytest_plugins = ("support.cli",)

PACKAGE = Path(finetune_gateway.__file__).parent
PLANTED = """<script>alert(1)</script><b onclick="x">"'&{{ 7*7 }}{% endif %}"""
FILE_NAME = """<b onclick="x">"'&{{ 7*7 }}.jsonl"""

TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "nav",
        "section",
        "article",
    ),
    *("h1", "h2", "h3", "h4", "p", "div", "span", "a", "b", "i", "br", "wbr", "bdi", "mark"),
    *("code", "pre", "ul", "ol", "li", "table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("figure", "figcaption", "details", "summary"),
    *("svg", "path", "text", "rect", "circle", "polyline", "polygon"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "id", "href", "title", "dir"),
    *("scope", "colspan", "open", "data-name", "role", "aria-label", "aria-hidden"),
    *("viewbox", "preserveaspectratio", "d", "x", "y", "cx", "cy", "r", "width", "height"),
    *("points", "transform", "text-anchor"),
}


class Page(HTMLParser):
    """The texts of a page, and what no page has."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.values: list[str] = []
        self.strange: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.strange += [tag] * (tag not in TAGS)
        self.strange += [f"{tag} {name}" for name, _ in attrs if name not in ATTRIBUTES]
        self.strange += [f"{tag} twice" for name, _ in attrs if [*dict(attrs)].count(name) > 1]
        self.values += [value for _, value in attrs if value]
        if tag not in ("meta", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.strange.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.strange.append(f"comment {data}")


def texts_of(html: str) -> str:
    """The texts of a page and its attributes; asserts that it has the tags of pages alone."""
    page = Page(html)
    assert page.strange == [] and page.open == []
    return "".join([*page.texts, *page.values])


def chat(**planted: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": "Where is it?"},
            {"role": "assistant", "content": "Here."} | planted,
        ]
    }


def test_the_validation_page(home: Path, tmp_path: Path) -> None:
    """In rows, keys, roles, tools, broken JSON, findings, figures, the names of file and model."""
    call = {"id": PLANTED, "type": PLANTED, "function": {"name": PLANTED, "arguments": PLANTED}}
    tool = {"type": "function", "function": {"name": PLANTED, "parameters": {PLANTED: PLANTED}}}
    parts = [{"type": "text", "text": PLANTED}, {"type": PLANTED, PLANTED: PLANTED}]
    rows = [
        chat(content=PLANTED),
        chat(role=PLANTED),
        chat(name=PLANTED) | {PLANTED: PLANTED},
        {"messages": [{"role": "user", "content": parts}, PLANTED], "tools": [tool]},
        {"messages": [{"role": "assistant", "tool_calls": [call, PLANTED]}], "tools": [tool]},
        {"input": {"messages": [{"role": PLANTED, "content": PLANTED}]}, PLANTED: []},
        [PLANTED],
    ]
    lines = [*map(json.dumps, rows), '{"messages": [' + PLANTED, PLANTED]
    data = tmp_path / FILE_NAME
    data.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    dataset = Dataset.open(data)
    report = finetune_gateway.validate(dataset, quality=True, against=data)
    planted = Finding(
        code="type_error", severity="error", line=1, path=f"messages[1].{PLANTED}",
        message=PLANTED, fix=PLANTED, backends=[PLANTED], count=9, lines=[*range(1, 10)],
    )  # fmt: skip
    count = {"messages": 3, "tokens": 5}
    tokens = {
        "total": 9, "trained": 3, "encoding": PLANTED, "min": 1, "median": 2, "p95": 3, "max": 4,
        "histogram": [[1, 1, 5], [2, 9, 3]], "roles": {PLANTED: count},
    }  # fmt: skip
    quality = (report.quality or {}) | {
        "languages": {PLANTED: 4},
        "last_turns": {PLANTED: 3},
        "leaks": {PLANTED: {"exact": 1, "near": 2}},
        "classes": [3, 2],
    }
    findings = [planted, *report.findings]
    planted_report = report.model_copy(
        update={"findings": findings, "tokens": tokens, "quality": quality, "format": PLANTED,
                "ignored": {PLANTED: 3}}
    )  # fmt: skip
    text = texts_of(validation_page(planted_report, dataset, model=PLANTED, limit=5))
    assert text.count(PLANTED) > 15
    assert visible(FILE_NAME) in text and f"The limit of {visible(PLANTED)} is 5" in text
    empty = Report(ok=True, format=PLANTED, kind="chat", rows=0)
    assert PLANTED in texts_of(validation_page(empty, dataset))


def test_the_estimate_page(home: Path, ftg: Ftg, train_file: Path, tmp_path: Path) -> None:
    """In the names of the file and the model, and so in warnings, refusals and serving costs."""
    data = tmp_path / FILE_NAME
    data.write_bytes(train_file.read_bytes())
    options = ("--backend", "openai,azure,local,fake", "--model", PLANTED)
    for more in ((), ("--monthly-requests", "1000")):
        done = ftg("estimate", str(data), *options, *more, "--format", "html")
        assert done.returncode == 0, done.stderr
        text = texts_of(done.stdout)
        assert f"Estimates for training on {FILE_NAME}" in text
        assert text.count(PLANTED) >= 5 and "left out: why" in text
        assert ("Serving 1,000 requests" in text) is bool(more)


def test_the_preview_page() -> None:
    """In tokens, roles, notes, findings, and the names of file, model and encoding."""
    tokens = [
        Token(1, PLANTED, True, False, PLANTED, "content"),
        Token(None, f"{PLANTED}\n", False, True, None, "special"),
    ]
    finding = Finding(
        code="type_error", severity="error", line=1, path=PLANTED, message=PLANTED, fix=PLANTED,
        backends=[], count=1, lines=[1],
    )  # fmt: skip
    row = Preview(
        line=1, format=PLANTED, model=PLANTED, encoding=PLANTED, notes=[PLANTED],
        findings=[finding],
        sequences=[Sequence(name, tokens, 2, 1, prompt=1) for name in (PLANTED, "rejected")],
    )  # fmt: skip
    text = texts_of(preview_page(PLANTED, [row]))
    assert text.count(PLANTED) > 6
    assert text.count(visible(PLANTED)) == 3 + 3  # tokens; two titles, a role
    assert "⏎" in text


# -- sources -------------------------------------------------------------------------------

TAG = re.compile(r"</?[a-z][a-z0-9]*(\s[^<>]*)?>|<[a-z][a-z0-9]*\s[a-z-]+=|</?$")


def markup_in(source: str) -> list[str]:
    """F-strings with tags, and calls that escape or vouch for a text."""
    nodes = [*ast.walk(ast.parse(source))]
    # The ``<9`` of ``f"{x:<9}"`` is an f-string too.
    specs = {id(node.format_spec) for node in nodes if isinstance(node, ast.FormattedValue)}
    return [
        f"{ast.unparse(node)[:70]} in line {node.lineno}"
        for node in nodes
        if (isinstance(node, ast.JoinedStr) and id(node) not in specs and _has_tag(node))
        or (isinstance(node, ast.Call) and _vouches(ast.unparse(node.func)))
    ]


def _has_tag(node: ast.JoinedStr) -> bool:
    parts = (value.value for value in node.values if isinstance(value, ast.Constant))
    # The name of a group in a pattern is none.
    return any(TAG.search(str(part).replace("(?P<", "")) for part in parts)


def _vouches(name: str) -> bool:
    return name.rpartition(".")[2] in ("escape", "Markup") and name != "re.escape"


def test_no_code_writes_html() -> None:
    """Tags are in the templates, and these alone escape: no f-string with a tag, no escape(),
    no Markup() in the package; no template calls a text safe."""
    for path in sorted(PACKAGE.rglob("*.py")):
        assert markup_in(path.read_text(encoding="utf-8")) == [], path
    templates = sorted((PACKAGE / "reports" / "templates").iterdir())
    assert len(templates) > 5
    for path in templates:
        assert path.suffix == ".html"
        assert not re.search(r"\|\s*safe|autoescape", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    "source",
    [
        *("f'<b>{x}</b>'", "f'<td class={x}>'", "f'<{tag}>{x}'", "f'{x}</p>'"),
        *("html.escape(x)", "escape(x)", "Markup(x)", "markupsafe.Markup(f'{x}')"),
    ],
)
def test_code_that_writes_html_is_noticed(source: str) -> None:
    """Each form; patterns and placeholders are none."""
    assert len(markup_in(source)) == 1
    assert markup_in("re.escape(x), f'a < {b}', f'<U+{n:04X}>', f'{a} <= {b}', f'{a:<{b}}'") == []
