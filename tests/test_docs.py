"""The docs are true: their Python runs, links lead somewhere, commands and options exist, and the
tour shows the package as it is."""

from __future__ import annotations

import ast
import io
import re
import shlex
import shutil
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
import trust
import typer.main
from support.cli import at_terminal
from test_rooms import ROOMS

import finetune_gateway as gateway
from finetune_gateway.backends.local import builtin
from finetune_gateway.cli.commands import COMMANDS, FAMILIES, split_name
from finetune_gateway.cli.run import load_command
from finetune_gateway.validation.rules import RULES
from scripts.readme_picture import COLUMNS, COMMAND, picture

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Lines with options of other programs, or of the shell's completion.
THEIRS = re.compile(
    r"\baz (account|group|cognitiveservices)|get-access-token|nvidia-smi|tensorboard --"
    r"|systemctl|trackio show|mlflow ui|inspect view|--tool-call-parser|-completion"
    r"|vllm|--max-lora-rank|--lora-modules|hf download|convert_hf_to_gguf|llama-server"
)
EVERYWHERE = {"--home", "--no-color", "--debug", "--json", "--help", "--version"}


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of a page in one language, each with the line its code begins at."""
    text = page.read_text(encoding="utf-8")
    return [
        (text[: found.start()].count("\n") + 2, found[2])
        for found in FENCE.finditer(text)
        if found[1] == language
    ]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=named)
def test_python_runs(
    page: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a page run one after another, offline, beside a file of training data and the
    examples of the repository."""
    shutil.copy(builtin.demo_path("train"), tmp_path / "train.jsonl")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "docs"}
    for line, code in blocks(page, "python"):
        # Newlines in front, so that a traceback names the line of the page.
        exec(compile("\n" * (line - 1) + code, str(page), "exec", dont_inherit=True), space)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link is a file, and its #part a heading of that file."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, part = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        if part:
            assert part in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_to_code_name_what_is_there(page: Path) -> None:
    """A link such as [`Job.wait`](job.py) leads to the file that defines it."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for name, target in re.findall(r"\[`([\w.]+)`\]\(([^)\s#]+\.py)\)", text):
        path = page.parent / target
        if name == path.name:
            continue
        source = path.read_text(encoding="utf-8")
        for part in name.removeprefix(f"{path.stem}.").split("."):
            defined = rf"^\s*(?:async def|def|class) {part}\b|^{part}\b.* = "
            assert re.search(defined, source, re.MULTILINE), f"{name} in {target}"


def anchors(page: Path) -> set[str]:
    """The #parts of a page, as hosts of Markdown make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(page: Path) -> Iterator[list[str]]:
    """Every call of ftg on a page: lines of its shell blocks, and code in its sentences."""
    for _, code in blocks(page, "sh"):
        for line in code.replace("\\\n", " ").splitlines():
            for call in re.split(r"\s(?:&&|\|\|?|;)\s", line):
                words = shlex.split(call, comments=True)
                if words[:1] == ["ftg"]:
                    yield words[1:]
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for code in re.findall(r"`ftg ([^`]+)`", text):
        yield code.split()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_and_options_exist(page: Path) -> None:
    """What a page tells to type can be typed."""
    for words in commands(page):
        name, _ = split_name(words)
        if name.startswith("-"):
            assert name in EVERYWHERE, words
            continue
        if name in FAMILIES and len(words) == 1:
            continue
        assert name in COMMANDS, words
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= options(name) | EVERYWHERE, words


def options(name: str) -> set[str]:
    """The options of a command."""
    app = typer.Typer()
    app.command()(load_command(name))
    items = typer.main.get_command(app).params
    return {option for item in items for option in (*item.opts, *item.secondary_opts)}


def test_options_in_messages_exist() -> None:
    """What an error, an event or a help text advises to type is an option of some command."""
    known = EVERYWHERE.union(*map(options, COMMANDS))
    # The options of serving tools, which tests/backends/test_export.py compares with their source.
    others = {ROOT / "finetune_gateway" / "exports" / name for name in ("commands.py", "gguf.py")}
    for path in sorted({*(ROOT / "finetune_gateway").rglob("*.py")} - others):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if THEIRS.search(line):
                continue
            given = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]\b(?!-)", line))
            assert given <= known, f"{path}:{number}: {given - known}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_make_targets_exist(page: Path) -> None:
    """`make x` on a page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    called = re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)
    assert set(called) <= targets


def test_codes_exist() -> None:
    """Every code named in the table of docs/data.md is one a finding can carry."""
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    table = text.partition("## What is checked")[2].partition("\n## ")[0]
    codes = set(re.findall(r"`([a-z_0-9]+)`", table))
    assert codes and codes <= RULES.keys()


def test_the_example_backend_is_shown_whole() -> None:
    """The page and the installable package say the same."""
    page = ROOT / "docs" / "writing-a-backend.md"
    folder = ROOT / "docs" / "example-backend"
    shown = [code for _, code in (*blocks(page, "python"), *blocks(page, "toml"))]
    assert (folder / "ftg_recall.py").read_text(encoding="utf-8") in shown
    assert (folder / "pyproject.toml").read_text(encoding="utf-8") in shown


def test_code_comes_early_in_the_readme() -> None:
    """The first block of code is on the first screen."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text[: text.index("```")].count("\n") < 40


def test_the_picture_in_the_readme_is_what_preview_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads nothing from anywhere, and is what ``scripts.readme_picture`` makes today."""
    shown = (ROOT / "docs" / "images" / "preview.svg").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert shown == picture(at_terminal(monkeypatch, "", *COMMAND).stdout.rstrip())
    assert "url(http" not in shown and "@import" not in shown


def test_the_example_data_are_good() -> None:
    """The file of the first job has no error and no warning, and costs little."""
    report = gateway.validate(ROOT / "examples" / "shop.jsonl")
    assert report.ok and report.rows == 100
    assert {finding.severity for finding in report.findings} <= {"note"}


def test_the_tree_in_the_tour_is_the_tree() -> None:
    """Every module is listed, each with what it is for, and nothing that is not there."""
    page = ROOT / "docs" / "tour.md"
    tree = next(code for _, code in blocks(page, "text") if code.startswith("finetune_gateway/"))
    listed: list[Path] = []
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, comment = line.strip().partition(" ")
        folders[depth:] = [name.rstrip("/")] if name.endswith("/") else []
        if not name.endswith("/"):
            assert comment.strip(), line
            listed.append(Path(*folders, name))
    package = ROOT / "finetune_gateway"
    there = {
        path.relative_to(ROOT)
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(listed) == len(set(listed))
    assert sorted(map(str, listed)) == sorted(map(str, there))


def test_every_room_is_in_the_tour() -> None:
    """The table of rooms has a line for each, in reading order."""
    text = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    table = text.partition("## The rooms")[2].partition("\n## ")[0]
    described = re.findall(r"^\| `(\w+)` \| [^|]*\w", table, re.MULTILINE)
    assert described == [room for room in ROOMS if not room.startswith("__")]


def test_every_room_is_in_the_first_decision() -> None:
    """So has its drawing, also in reading order."""
    text = (ROOT / "docs" / "decisions" / "0001-rooms.md").read_text(encoding="utf-8")
    lines = re.findall(
        r"^(?:\w+)? {3,}(\w.*)", text.partition("```text")[2].partition("```")[0], re.M
    )
    assert " ".join(lines).split() == [room for room in ROOMS if not room.startswith("__")]


# Words and turns of phrase that a reader of English stumbles over.
ODD_WORDS = re.compile(
    r"\b(?:(?:is|are|was) told\b(?! apart)|reckon\w*|mend(?:s|ed|ing)?|foretold|unasked|in all,"
    r"|by and by|of its own accord|but for)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_pages_are_in_plain_english(page: Path) -> None:
    """No page outside its examples has a word that was swept out of the docs."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert ODD_WORDS.findall(text) == []


# Words of docs/schemas/validate.json, which stays as it is.
KEPT = {"A finding that is left, with its lines in the file that was mended."}


@pytest.mark.parametrize("folder", ["finetune_gateway", "tests", "bench", "scripts"])
def test_code_is_explained_in_plain_english(folder: str) -> None:
    """Nor has a docstring or a comment."""
    assert [
        f"{path.relative_to(ROOT)}: {text}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for text in explanations(path.read_text(encoding="utf-8"))
        if ODD_WORDS.search(text) and text not in KEPT
    ] == []


def explanations(source: str) -> Iterator[str]:
    """The docstrings and comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield " ".join((ast.get_docstring(node) or "").split())
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def test_each_promise_has_its_test() -> None:
    """docs/trust.md is a table that `make trust` can read, and each test in it is there once."""
    assert trust.complaints(ROOT) == []
