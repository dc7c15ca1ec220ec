"""For each rule a row that breaks it, and the row mended: ``examples.toml``.

Shown by ``ftg rules`` and in docs/rules/; a test validates every one of them.
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
    """What breaks a rule; see the head of ``examples.toml``."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    breaks: str | None = None
    mended: str | None = None
    shown: str = ""  # what cannot be seen in the lines
    without: str = ""
    among: str = "chat"
    first: bool = False  # it stands before the good rows
    times: int = 1
    mended_times: int | None = None
    end: str = "\n"  # of each line
    encoding: str = "utf-8"
    also: tuple[str, ...] = ()
    method: str = ""
    backend: str | None = None
    model: str | None = None
    against: str | None = None
    like: str | None = None

    def file(self, *, mended: bool = False) -> bytes:
        """The bytes of a whole file that breaks the rule, or of the mended one."""
        around = _table()["among"].get(self.among, {"rows": "", "times": 0})
        good = _written(around["rows"], around["times"], "\n")
        if mended:
            text = self.mended if self.mended is not None else self.breaks
            return f"{good}{_written(text or '', self.mended_times or self.times)}".encode()
        own = _written(self.breaks or "", self.times, self.end)
        return (own + good if self.first else good + own).encode(self.encoding)

    @property
    def remarks(self) -> list[str]:
        """What one has to know to read the lines."""
        told = [self.shown] if self.shown else []
        if self.times > 1:
            told.append(f"{self.times} such rows; {{n}} counts them.")
        if self.mended_times:
            told.append(f"Mended: {self.mended_times} such rows.")
        if found := _REPEATED.search(self.breaks or ""):
            told.append(f"{found[0]} stands for {found[1]!r} so many times.")
        given = {"method": self.trained_by, "backend": self.backend, "model": self.model}
        usual = (None, "sft")
        if options := [f"--{key} {value}" for key, value in given.items() if value not in usual]:
            told.append(f"Checked with {' '.join(options)}.")
        if self.also:
            told.append(f"Found with it: {', '.join(self.also)}.")
        return told

    @property
    def can_be_mended(self) -> bool:
        """Whether there is a mended form."""
        return self.mended is not None or self.mended_times is not None

    @property
    def trained_by(self) -> str:
        """The method the rows are for."""
        own: str = _table()["among"].get(self.among, {}).get("method", "sft")
        return self.method or own


def example(code: str) -> Example:
    """The example of a rule."""
    return Example.model_validate(_table()[code])


def visible(text: str) -> str:
    """The text with signs for control characters and marks, which are not seen otherwise."""
    signs = {code: 0x2400 + code for code in range(32) if chr(code) != "\n"}
    return text.translate({**signs, 0xFEFF: "[EF BB BF]"}).strip("\n")


@cache
def _table() -> dict[str, Any]:
    text = (
        resources.files("finetune_gateway.validation").joinpath("examples.toml").read_text("utf-8")
    )
    return tomllib.loads(text)


def _written(lines: str, times: int, end: str = "\n") -> str:
    """The lines ``times`` over, counted, with what is abbreviated in them."""
    whole = _REPEATED.sub(lambda found: found[1] * int(found[2]), lines)
    return "".join(whole.replace("{n}", str(n + 1)) + end for n in range(times if lines else 0))
