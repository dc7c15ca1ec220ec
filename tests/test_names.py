"""The package's names are the field's: none of its former private words comes back."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import finetune_gateway

PACKAGE = Path(finetune_gateway.__file__).parent

# Names that have a plain word in their place, by the modules that may not hold them ("" is all).
# Where one is an ordinary word as well, only the rooms are listed in which it meant something else.
FORMER = {
    "": (
        *("Gist", "gists", "gist_of", "said_by", "ALL_LOOKS", "Look", "suspects"),
        *("Frequent", "Systems", "Answers", "Lengths", "makeup"),
        *("Tally", "Said", "_Said", "_Seen", "_said", "_told", "_named"),
        *("Sender", "_admitted", "_admit", "_settle", "_settled", "_doubts", "_readmit"),
        *("Cheaper", "for_good", "Way", "squares", "Feed"),
        *("stranger", "may_see", "hurry", "has_read"),
        *("Told", "Voice", "Asked", "Masker", "HostedMasker", "glyphs", "picking"),
        *("moved", "on_read"),
    ),
    "estimation": ("Place", "Span", "slots"),
    "tokens": ("idle", "capped", "begin"),
    "tokens.encodings": ("rules",),
    "validation.dataset.analysis": ("joined", "apart"),
    "backend": ("called", "use"),
    "backends": ("called", "use"),
}
# The published schema of `validate --json` names its parts by these classes.
PUBLISHED = {"reports.validation_schema": {"Said"}}


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every identifier in a module with its line: defined, read, passed or imported."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, line
            case ast.Name():
                yield node.id, line
            case ast.Attribute():
                yield node.attr, line
            case ast.arg() | ast.keyword():
                yield node.arg or "", line
            case ast.ImportFrom():
                yield from ((word, line) for word in (node.module or "").split("."))
            case ast.alias():
                yield from ((word, line) for word in node.name.split("."))
                yield node.asname or "", line


def former(module: str) -> set[str]:
    """Return the former names that a module may not hold."""
    words = {
        name
        for room, words in FORMER.items()
        if not room or module == room or module.startswith(f"{room}.")
        for name in words
    }
    return words - PUBLISHED.get(module, set())


def left(module: str, source: str) -> list[str]:
    """Return each former name that a module still holds, with its place."""
    words = former(module)
    return [f"{module}:{line} {name}" for name, line in names(ast.parse(source)) if name in words]


def test_no_former_name_is_left() -> None:
    """In definitions, uses, keywords, imports and names of modules; prose is not searched."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found += left(module, path.read_text(encoding="utf-8"))
        found += [f"{module} (module)"] if path.stem in former(module) else []
    assert found == []


def test_a_former_name_would_be_found() -> None:
    """Once for each form; an ordinary word in another room is none."""
    source = "from a.gists import b\nclass Look: ...\ndef f(moved): g(on_read=moved.stranger)\n"
    assert sorted(left("jobs.job", source)) == [
        *("jobs.job:1 gists", "jobs.job:2 Look"),
        *("jobs.job:3 moved", "jobs.job:3 moved", "jobs.job:3 on_read", "jobs.job:3 stranger"),
    ]
    assert left("jobs.job", "slots = Span") == []
    assert left("estimation.serving", "slots = Span") != []


def test_each_file_of_tests_has_a_name_of_its_own() -> None:
    """pytest imports them by that name alone, and refuses the second."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
