"""Sentences of messages are apart, where their text is written in several pieces."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import finetune_gateway

PACKAGE = Path(finetune_gateway.__file__).parent
BETWEEN = {tokenize.NL, tokenize.COMMENT}
ENDS = {tokenize.STRING, getattr(tokenize, "FSTRING_END", tokenize.STRING)}
# A piece that ends with a word or a sentence (and no escape), and one that begins with a word.
END = re.compile(r"(?<!\\)[\w.!?,;:)\]}]['\"]+$")
BEGIN = re.compile(r"[a-zA-Z]{0,2}['\"]+[A-Za-z]")
TWO_IN_ONE = re.compile(r"[a-z]{2}[.!?][A-Z][a-z]* [a-z]")


def test_no_two_sentences_or_words_are_glued_together() -> None:
    """Python joins pieces of a text as they are: a space that is forgotten is missed by users."""
    glued = [
        f"{path.relative_to(PACKAGE)}:{found}"
        for path in PACKAGE.rglob("*.py")
        for found in _glued(path.read_text(encoding="utf-8"))
    ]
    assert not glued, glued


def test_glued_sentences_would_be_found() -> None:
    assert [*_glued('x = (\n  "It ended."\n  f"Wait {y}"\n)')] == ["3: 'Wait {y}'"]
    assert [*_glued('x = (\n  f"The {y}"  # why\n  "ended"\n)')] == ["3: 'ended'"]
    assert [*_glued('x = f"It ended.Submit it again: {y}"')] == ["1: It ended.Submit it again: "]
    assert not [*_glued('x = (\n  "It ended. "\n  f"Wait.\\n"\n  "See x.Yz, a.b"\n)')]


def _glued(source: str) -> Iterator[str]:
    lines = source.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    read = [one for one in tokens if one.type not in BETWEEN]
    for one, after in zip(read, read[1:], strict=False):
        begins = after.type == tokenize.STRING or tokenize.tok_name[after.type] == "FSTRING_START"
        if one.type in ENDS and begins:
            (row, column), (next_row, next_column) = one.end, after.start
            rest = lines[next_row - 1][next_column:]
            if END.search(lines[row - 1][:column]) and BEGIN.match(rest):
                yield f"{next_row}: {rest.strip('f').replace(chr(34), chr(39))}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and TWO_IN_ONE.search(str(node.value)):
            yield f"{node.lineno}: {node.value!s}"
