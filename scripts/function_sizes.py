"""How long functions and files are, room by room.

    python -m scripts.function_sizes                      the package beside this folder
    python -m scripts.function_sizes ../old/finetune_gateway

The body of a function is counted in lines, without its signature and docstring. Lines of code are
those that are neither blank nor comment nor docstring.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).resolve().parents[1] / "finetune_gateway"
LONG_FUNCTION = 50  # lines of its body
LONG_FILE = 450  # lines

Function = ast.FunctionDef | ast.AsyncFunctionDef
NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING, tokenize.ENDMARKER),
    *(tokenize.INDENT, tokenize.DEDENT),
}


@dataclass
class Room:
    """The files of a folder: their lines, and the lengths of their functions."""

    files: int = 0
    lines: int = 0
    code: int = 0
    bodies: list[int] = field(default_factory=list)
    long_files: list[str] = field(default_factory=list)

    def add(self, path: Path) -> None:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        lines = source.count("\n")
        self.files += 1
        self.lines += lines
        self.code += len(code_lines(source) - docstring_lines(tree))
        self.bodies += [body_lines(node) for node in functions(tree)]
        if lines > LONG_FILE:
            self.long_files.append(f"{path.name} ({lines})")

    def row(self, name: str) -> str:
        middle = f"{median(self.bodies):.1f}" if self.bodies else "-"
        long = sum(body > LONG_FUNCTION for body in self.bodies)
        share = f"{100 * long / len(self.bodies):.1f} %" if self.bodies else "-"
        return (
            f"{name:<16}{self.files:>6}{self.lines:>8}{self.code:>8}{len(self.bodies):>11}"
            f"{middle:>8}{share:>9}   {', '.join(self.long_files)}"
        ).rstrip()


def functions(tree: ast.AST) -> Iterator[Function]:
    """Yield every function, methods and functions inside functions included."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def body_lines(function: Function) -> int:
    """Return how many lines follow the signature and the docstring."""
    body = function.body[1:] if _has_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines that hold code; those of docstrings are among them."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        line
        for token in tokens
        if token.type not in NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }


def docstring_lines(tree: ast.AST) -> set[int]:
    """Return the numbers of the lines that docstrings stand on."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, Function | ast.ClassDef | ast.Module) and _has_docstring(node)
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }


def _has_docstring(node: Function | ast.ClassDef | ast.Module) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def rooms(package: Path) -> dict[str, Room]:
    """Return what each folder of the package holds, and the modules of its root, by name."""
    found: dict[str, Room] = defaultdict(Room)
    for path in sorted(package.rglob("*.py")):
        folder, *rest = path.relative_to(package).parts
        found[folder if rest else "(root)"].add(path)
    return dict(sorted(found.items()))


def main(package: Path) -> None:
    total = Room()
    for path in sorted(package.rglob("*.py")):
        total.add(path)
    print(
        f"{'room':<16}{'files':>6}{'lines':>8}{'code':>8}{'functions':>11}{'median':>8}"
        f"{f'>{LONG_FUNCTION}':>9}   files of more than {LONG_FILE} lines"
    )
    for name, room in rooms(package).items():
        print(room.row(name))
    print(total.row("all"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else PACKAGE)
