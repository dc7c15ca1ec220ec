"""How rows came out of a file that is not JSON lines, and what was seen on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_LINES = 10  # line numbers kept of one observation
MAX_KINDS = 200  # observations kept
OTHER_FILE = "other_file"  # the rule that a file breaks which holds no rows


@dataclass(slots=True)
class Observation:
    """Something about the file that its rows no longer show.

    ``code``: the rule it is judged by. ``path``: the column. ``blocks``: rows may be wrong, so they
    are used for nothing but a report and a fixed copy.
    """

    code: str
    path: str = ""
    detail: str = ""
    fix: str = ""
    blocks: bool = False
    count: int = 0
    lines: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Reading:
    """What ``container`` the rows came in and from which ``place`` of it: a sheet, a key.

    ``numbering``: what the line of a row is in the user's file: its line, its row (of a sheet, or
    of an array on one line). Row and line are the same number in the file that the rows are written
    to, which is blank in between. ``columns``: the user's columns, and the keys that they are read
    as. ``header``: the columns of a table where none of them is known.
    """

    container: str = "jsonl"
    place: str = ""
    numbering: str = "line"
    observations: dict[tuple[str, str], Observation] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    header: tuple[str, ...] = ()

    @property
    def is_other_file(self) -> bool:
        """True for a file that holds neither rows nor a text to train on."""
        return (OTHER_FILE, "") in self.observations

    def note(
        self,
        code: str,
        line: int | None = None,
        *,
        path: str = "",
        detail: str = "",
        fix: str = "",
        blocks: bool = False,
    ) -> None:
        """Keep an observation; those with one code and one path are counted together."""
        known = self.observations.get((code, path))
        if known is None:
            if len(self.observations) >= MAX_KINDS and not blocks:
                return
            known = self.observations[code, path] = Observation(code, path, detail, fix, blocks)
        known.count += 1
        if line is not None and len(known.lines) < MAX_LINES and line not in known.lines:
            known.lines.append(line)
