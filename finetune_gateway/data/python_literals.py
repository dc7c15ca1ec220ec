"""Rows as Python prints them: ``{'messages': [...]}``, with True and None.

Only what is JSON in other marks: dicts with different keys that are texts, lists, tuples, texts,
finite numbers, True, False and None. No code runs.
"""

from __future__ import annotations

import ast
import io
import math
import re
import tokenize
import warnings
from typing import Any

MAX_BRACKETS = 100  # open at once
MAX_PIECES = 1_000_000  # texts, and characters outside them: Python takes up to 400 bytes for each
_PIECE = re.compile(
    r"""'[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\s'"]""", re.DOTALL
)


def read_literal(text: str) -> Any:
    """Return the value of a Python literal, also of a list as NumPy prints it, without commas.
    Raises ValueError for anything else."""
    _require_small(text)
    try:
        return _value(_parsed(text))
    except SyntaxError:
        pass
    try:
        return _value(_parsed(_with_commas(text)))
    except SyntaxError as exc:
        raise ValueError(exc.msg) from None


def _parsed(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an unknown escape: not printed by Python
            return ast.parse(text.strip(), mode="eval").body
    except (MemoryError, RecursionError, Warning) as exc:
        raise ValueError(str(exc)) from None


def _require_small(text: str) -> None:
    """Raise ValueError for brackets so deep, or values so many, that a parser may not come back
    from them."""
    level = 0
    for count, piece in enumerate(_PIECE.finditer(text)):
        char = text[piece.start()]
        level += (char in "[{(") - (char in ")}]")
        if level > MAX_BRACKETS or count > MAX_PIECES:
            raise ValueError("nested too deep, or too large")


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return _constant(node.value)
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return _object(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand)
        if type(number) in (int, float):
            return -number
    raise ValueError("not a literal")


def _constant(value: object) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number without an end")
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError("not a value of JSON")
    return value


def _object(node: ast.Dict) -> dict[str, Any]:
    keys = [_value(key) for key in node.keys if isinstance(key, ast.Constant)]
    texts = [key for key in keys if isinstance(key, str)]
    if len(set(texts)) != len(node.keys):
        raise ValueError("keys that are no texts, or the same one twice")
    return dict(zip(texts, map(_value, node.values), strict=True))


def _with_commas(text: str) -> str:
    """Return the text with commas between dicts that follow each other."""
    pieces, last = list[str](), ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline):
            if token.string == "{" and last == "}":
                pieces.append(",")
            if token.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
                pieces.append(token.string)
                last = token.string or last
    except (tokenize.TokenError, SyntaxError) as exc:
        raise ValueError(str(exc)) from None
    joined = " ".join(pieces)
    if "..." in pieces:
        raise ValueError("a part was left out when it was printed")
    return joined
