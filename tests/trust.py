"""Shows that each test of docs/trust.md fails on the commit before its change, and passes today.

    python tests/trust.py                     against the commit that each row names
    python tests/trust.py --against 3ef40e1   against this commit, all of them
    python tests/trust.py --only doubt        only tests with this in their name or file

Each commit gets a work tree of its own, with today's tests. A test has to fail there by its
assertion: one that ends because it uses a name or a keyword that was not there yet shows nothing.
Prints
number | test | before | now, and ends with 1 if a row does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent)
from support.endings import FAILS, PASSES
from support.missing import tolerant
from support.paths import ROOT

PAGE = "docs/trust.md"
COLUMNS = ("number", "test", "before", "what it shows")
NEW = "new"
DEFINED = re.compile(r"^( *)(class|def) (\w+)", re.MULTILINE)
SAID = {FAILS: "fail by assertion", PASSES: "pass", "is skipped": "are skipped"}

Endings = dict[str, Counter[str]]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    line: int
    number: str
    tests: tuple[str, ...]
    before: str  # a commit, or NEW: the test asks for a thing that was not there at all


def read(text: str) -> tuple[list[Row], list[str]]:
    """Return the rows of the table, and a complaint for each line that is none."""
    rows, wrong = [], []
    for line, cells in _cells(text):
        tests = tuple(re.findall(r"`(test_\w+)`", cells[1] if len(cells) > 1 else ""))
        before = cells[2].strip("`") if len(cells) == len(COLUMNS) else ""
        if len(cells) != len(COLUMNS):
            wrong.append(f"{PAGE}:{line}: {len(cells)} cells, not {' | '.join(COLUMNS)}")
        elif not tests:
            wrong.append(f"{PAGE}:{line}: names no test, like `test_it_holds`")
        elif before != NEW and not re.fullmatch(r"[0-9a-f]{7,40}", before):
            wrong.append(f"{PAGE}:{line}: before is {before!r}: a commit, or {NEW}")
        else:
            rows.append(Row(line, cells[0], tests, before))
    return rows, wrong


def _cells(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of the table, without its head, as cells."""
    for line, raw in enumerate(text.splitlines(), 1):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", raw.strip().strip("|"))]
        if raw.startswith("|") and cells[0] != COLUMNS[0] and set(raw) - set("|- "):
            yield line, cells


def files_of(folder: Path) -> dict[str, list[str]]:
    """Return for each test in the files below ``folder`` where it is: ``path::Class::name``."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        holder = ""  # the class that a method is in
        for indent, kind, name in DEFINED.findall(path.read_text("utf-8")):
            if not indent:
                holder = f"{name}::" if kind == "class" else ""
            if name.startswith("test_"):
                node = f"{path.relative_to(folder.parent)}::{holder}{name}"
                found.setdefault(name, []).append(node)
    return found


def complaints(root: Path) -> list[str]:
    """Return what is wrong with the table: lines that are no row, tests that are not there."""
    rows, wrong = read((root / PAGE).read_text("utf-8"))
    known = files_of(root / "tests")
    for row in rows:
        for test in row.tests:
            count = len(known.get(test, ()))
            if count != 1:
                wrong.append(f"{PAGE}:{row.line}: {count} tests are called {test}")
    return wrong if wrong or rows else [f"{PAGE}: no rows"]


# -- running them ----------------------------------------------------------------------------


@contextmanager
def checkout(root: Path, commit: str) -> Iterator[Path]:
    """Yield a work tree of a commit that has the tests of ``root``."""
    with tempfile.TemporaryDirectory(prefix="before-") as folder:
        tree = Path(folder) / "tree"
        _git(root, "worktree", "add", "-q", "--detach", str(tree), commit)
        try:
            shutil.rmtree(tree / "tests")
            shutil.copytree(root / "tests", tree / "tests")
            for path in (tree / "tests").rglob("*.py"):
                path.write_text(tolerant(path.read_text("utf-8")), "utf-8")
            yield tree
        finally:
            _git(root, "worktree", "remove", "--force", str(tree))


def _git(root: Path, *words: str) -> None:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"git {words[0]}: {done.stderr.strip()} (the whole history is needed)")


def run(tree: Path, nodes: list[str]) -> Endings:
    """Run these tests in a tree, a process for each file, two at a time; return how they ended."""
    files: dict[str, list[str]] = {}
    for node in dict.fromkeys(nodes):
        files.setdefault(node.partition("::")[0], []).append(node)
    ended: Endings = {}
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda some: _run_file(tree, some), files.values()):
            ended |= found
    return ended


def _run_file(tree: Path, nodes: list[str]) -> Endings:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "endings.jsonl"
        report.touch()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "support.endings", "-p"]
        command += ["no:cacheprovider", "--endings", str(report), *nodes]
        here = os.pathsep.join([str(tree), str(tree / "tests")])
        done = subprocess.run(
            command,
            cwd=tree,
            env={**os.environ, "PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
        ended: Endings = {node.rpartition("::")[2]: Counter() for node in nodes}
        for line in report.read_text("utf-8").splitlines():
            told = json.loads(line)
            ended[told["test"]][told["ending"]] += 1
    reason = re.search(r"^E +(\w+(?:Error|Exception)\b.*)", done.stdout, re.MULTILINE)
    for endings in ended.values():
        if not endings:
            endings[f"is not collected: {reason[1] if reason else done.stderr[-200:]}"] += 1
    return ended


def holds_before(ended: Counter[str]) -> bool:
    """Return True if a test shows that something was wrong: one of its cases fails by its
    assertion, and none ends otherwise."""
    return bool(ended[FAILS]) and set(ended) <= {FAILS, PASSES}


def holds_now(ended: Counter[str]) -> bool:
    """Return True if every case of a test passes."""
    return set(ended) == {PASSES}


def told(ended: Counter[str]) -> str:
    """Return in a few words how the cases of a test ended."""
    return ", ".join(f"{count} {SAID.get(how, how)}" for how, count in ended.most_common())


def judge(root: Path, rows: list[Row]) -> int:
    """Run the tests of these rows, print the table, and return how many do not hold."""
    where = {name: nodes[0] for name, nodes in files_of(root / "tests").items()}
    before: dict[tuple[str, str], Counter[str]] = {}
    for commit in sorted({row.before for row in rows} - {NEW}):
        print(f"running on {commit} ...", file=sys.stderr, flush=True)
        asked = [where[test] for row in rows if row.before == commit for test in row.tests]
        with checkout(root, commit) as tree:
            before |= {(commit, test): ended for test, ended in run(tree, asked).items()}
    print("running on today's tree ...", file=sys.stderr, flush=True)
    now = run(root, [where[test] for row in rows for test in row.tests])
    wrong = 0
    print(" | ".join(("number", "test", "before", "now")))
    for row in rows:
        for test in row.tests:
            then = before.get((row.before, test))
            holds = holds_now(now[test]) and (then is None or holds_before(then))
            past = NEW if then is None else f"{row.before}: {told(then)}"
            print(f"{row.number} | {test} | {past} | {told(now[test])}", end="")
            print("" if holds else "  <- DOES NOT HOLD")
            wrong += not holds
    print(f"{sum(len(row.tests) for row in rows)} tests, {wrong} do not hold")
    return wrong


def main(words: list[str], root: Path = ROOT) -> int:
    """Return 0 if every row of the table holds."""
    parser = argparse.ArgumentParser(description="Each promise of docs/trust.md, before and now.")
    parser.add_argument("--against", metavar="COMMIT", help="instead of the commits in the table")
    parser.add_argument("--only", default="", metavar="PART", help="of a test's name or file")
    given = parser.parse_args(words)
    wrong = complaints(root)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if wrong:
        return 1
    where = files_of(root / "tests")
    rows = []
    for row in read((root / PAGE).read_text("utf-8"))[0]:
        tests = tuple(test for test in row.tests if given.only in where[test][0])
        before = given.against if given.against and row.before != NEW else row.before
        rows += [Row(row.line, row.number, tests, before)] if tests else []
    return int(judge(root, rows) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
