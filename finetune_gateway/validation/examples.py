"""For each rule a row that breaks it, and the fixed row: ``examples.toml``.

Shown by ``ftg rules`` and in docs/rules/; a test validates each of them.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict

_REPEATED = re.compile(r"\{([^{}*]+) \*(\d+)\}")


class Example(BaseModel):
    """Rows that break a rule; the fields are explained at the top of ``examples.toml``."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    breaks: str | None = None
    fixed: str | None = None
    shown: str = ""  # what the lines do not show
    without: str = ""
    among: str = "chat"
    first: bool = False  # before the good rows
    times: int = 1
    fixed_times: int | None = None
    end: str = "\n"  # of each line
    name: str = "rows.jsonl"  # of the file
    encoding: str = "utf-8"
    also: tuple[str, ...] = ()
    method: str | None = None
    backend: str | None = None
    model: str | None = None
    against: str | None = None
    like: str | None = None

    def file(self, *, fixed: bool = False) -> bytes:
        """Return a file that breaks the rule, or the fixed one."""
        around = _table()["among"].get(self.among, {"rows": "", "times": 0})
        good = _repeat(around["rows"], around["times"], "\n")
        if fixed:
            text = self.fixed if self.fixed is not None else self.breaks
            return f"{good}{_repeat(text or '', self.fixed_times or self.times)}".encode()
        own = _repeat(self.breaks or "", self.times, self.end)
        return (own + good if self.first else good + own).encode(self.encoding)

    @property
    def remarks(self) -> list[str]:
        """Return what a reader needs to know about the lines."""
        remarks = [self.shown] if self.shown else []
        if self.name != "rows.jsonl":
            remarks.append(f"The file is named {self.name}.")
        if self.times > 1:
            remarks.append(f"{self.times} such rows; {{n}} counts them.")
        if self.fixed_times:
            remarks.append(f"Fixed: {self.fixed_times} such rows.")
        if match := _REPEATED.search(self.breaks or ""):
            remarks.append(f"{match[0]} stands for {match[1]!r}, {match[2]} times.")
        options = {"method": self.row_method, "backend": self.backend, "model": self.model}
        defaults = (None, "sft")
        if flags := [f"--{key} {value}" for key, value in options.items() if value not in defaults]:
            remarks.append(f"Validated with {' '.join(flags)}.")
        if self.also:
            remarks.append(f"Reported with it: {', '.join(self.also)}.")
        return remarks

    @property
    def has_fix(self) -> bool:
        """True if there is a fixed form."""
        return self.fixed is not None or self.fixed_times is not None

    @property
    def row_method(self) -> str | None:
        """The training method the rows are for; None if their format says it."""
        own: str = _table()["among"].get(self.among, {}).get("method", "sft")
        return (own if self.method is None else self.method) or None


def example(code: str) -> Example:
    """Return the example of a rule."""
    return Example.model_validate(_table()[code])


def visible(text: str) -> str:
    """Return the text with symbols for control characters and byte order marks."""
    symbols = {code: 0x2400 + code for code in range(32) if chr(code) != "\n"}
    return text.translate({**symbols, 0xFEFF: "[EF BB BF]"}).strip("\n")


@cache
def _table() -> dict[str, Any]:
    text = (
        resources.files("finetune_gateway.validation").joinpath("examples.toml").read_text("utf-8")
    )
    return tomllib.loads(text)


def _repeat(lines: str, times: int, end: str = "\n") -> str:
    """Return the lines ``times`` times, numbered, with their abbreviations expanded."""
    expanded = _REPEATED.sub(lambda match: match[1] * int(match[2]), lines)
    return "".join(expanded.replace("{n}", str(n + 1)) + end for n in range(times if lines else 0))
