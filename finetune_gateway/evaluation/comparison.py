"""A comparison on the disk, in ``comparisons/cmp-ID`` of the home folder, for this user alone:

====================  ============================================================================
``comparison.json``   what was found, without any text: see ``results.ComparisonData``
``rows.jsonl``        the rows that were asked, with those that a check added
``answers.jsonl``     each answer, with what every measure says of it
``judgements.jsonl``  what the judge said, if there was one
====================  ============================================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from finetune_gateway.errors import (
    NotFoundError,
    SpecError,
    StoreError,
    shown,
    validation_error_text,
)
from finetune_gateway.evaluation.recording import read_line
from finetune_gateway.evaluation.results import (
    ComparedAnswer,
    ComparedRow,
    ComparisonData,
    Score,
    Verdict,
)
from finetune_gateway.jobs import compared
from finetune_gateway.jobs.compared import BEGUN
from finetune_gateway.jobs.journal import read_lines
from finetune_gateway.model import Model, exact_methods
from finetune_gateway.renderers import Pictured
from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings

Json = dict[str, Any]
M = TypeVar("M", bound=Model)

PREFIX = "cmp-"
DATA, ROWS, ANSWERS, JUDGEMENTS = (
    "comparison.json", "rows.jsonl", "answers.jsonl", "judgements.jsonl",
)  # fmt: skip


class ScoredAnswer(Model):
    """An answer, with what each measure says of it. ``turns``: what was asked and answered after
    it by checks that ask on, by the name of the check."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    answer: ComparedAnswer
    scores: dict[str, Score] = Field(default_factory=dict)
    turns: dict[str, list[Json]] = Field(default_factory=dict)


@exact_methods
@dataclass(frozen=True, repr=False)
class Comparison(Pictured):
    """What some models answered to the same rows, and which is better as far as one can tell.

    >>> comparison = Comparison.load("cmp-3f9a2c1d")
    >>> comparison.verdict.text
    >>> comparison.to_html("report.html")
    """

    folder: Path
    data: ComparisonData
    _rows: list[ComparedRow] | None = field(default=None, compare=False)
    _answers: list[ScoredAnswer] | None = field(default=None, compare=False)

    @property
    def id(self) -> str:
        """Its name: ``cmp-...``."""
        return self.data.id

    @property
    def verdict(self) -> Verdict:
        """Which model is better, in a paragraph."""
        return self.data.verdict

    def rows(self) -> list[ComparedRow]:
        """Return the rows that were asked, in the order of the data."""
        if self._rows is not None:
            return self._rows
        return [*_read_all(ComparedRow, self.folder / ROWS)]

    def answers(self) -> list[ScoredAnswer]:
        """Return all answers with their scores, model by model."""
        if self._answers is not None:
            return self._answers
        return [*_read_all(ScoredAnswer, self.folder / ANSWERS)]

    def judgements(self) -> Iterator[Json]:
        """Yield what the judge said, one verdict each."""
        yield from read_lines(self.folder / JUDGEMENTS, checked=False)

    # -- on the disk -------------------------------------------------------------------------

    @classmethod
    def load(cls, name: str, home: str | os.PathLike[str] | None = None) -> Self:
        """Return a comparison that was kept; ``latest`` and ``cmp-latest`` are the newest. Raises
        NotFoundError."""
        return cls.at(Settings.load(home), name)

    @classmethod
    def at(cls, settings: Settings, name: str) -> Self:
        """Return a comparison of a home folder, by its id or the beginning of it."""
        if not isinstance(name, str):
            raise SpecError(f"A comparison is named by its id, not by {shown(name)}.")
        known = ids(settings)
        newest = name in ("latest", f"{PREFIX}latest")
        found = known[-1:] if newest else [one for one in known if one.startswith(name)]
        if name in known:
            found = [name]
        if newest and not found:
            raise NotFoundError("There are no comparisons yet.", hint="Run: ftg compare --help")
        if len(found) != 1 or not name:
            what = "There is no comparison" if not found else "More than one comparison begins with"
            some = ", ".join(found or known[-5:])
            raise NotFoundError(
                f"{what} {name!r}.",
                hint=f"There are: {some}." if some else "Make one: ftg compare --help",
            )
        return cls._of_folder(settings.comparisons / found[0])

    @classmethod
    def _of_folder(cls, folder: Path) -> Self:
        try:
            data = ComparisonData.model_validate_json((folder / DATA).read_bytes())
            _require_models(data)
            return cls(folder, data)
        except (OSError, ValueError) as exc:
            why = validation_error_text(exc) if isinstance(exc, ValidationError) else exc
            raise StoreError(
                f"{folder / DATA} cannot be read: {why}.",
                hint=f"Make it again with the same ftg compare, or remove it: ftg rm {folder.name}",
            ) from None


def _require_models(data: ComparisonData) -> None:
    """Raise ValueError for figures of a model that is not in a comparison."""
    named = {key for each in data.figures.values() for key in each}
    named |= {key for one in data.differences for key in (one.first, one.second)}
    if strangers := named - {one.key for one in data.models}:
        raise ValueError(f"its figures are of {shown(min(strangers))}, and no model of it is")


def keep(
    settings: Settings,
    data: ComparisonData,
    rows: Sequence[ComparedRow],
    answers: Sequence[ScoredAnswer],
    judgements: Iterable[Model] = (),
) -> Comparison:
    """Write a comparison down, in place of an earlier one with the same id, and return it. Raises
    StoreError."""
    settings.create()
    folder = settings.comparisons / data.id
    failure = f"{data.id} cannot be kept"
    # The same command in two terminals may end at the same time.
    with (
        files.storing(failure, settings.comparisons),
        files.locking(compared.lock_of(settings, data.id)),
    ):
        files.folder(folder)
        files.write_atomic(folder / BEGUN, data.model_dump_json(indent=1) + "\n", private=True)
        (folder / DATA).unlink(missing_ok=True)  # until all of it is there, there is none
        for name, lines in ((ROWS, rows), (ANSWERS, answers), (JUDGEMENTS, judgements)):
            text = "".join(line.model_dump_json() + "\n" for line in lines)
            files.write_atomic(folder / name, text, private=True)
        _date(folder / BEGUN, settings)
        os.replace(folder / BEGUN, folder / DATA)
    return Comparison(folder, data, [*rows], [*answers])


def _date(path: Path, settings: Settings) -> None:
    """Let a file be later than the comparisons that are kept, whatever the clock says: by this time
    ``ids`` orders them."""
    times = [one.stat().st_mtime_ns for one in settings.comparisons.glob(f"{PREFIX}*/{DATA}")]
    latest = max(times, default=0)
    if path.stat().st_mtime_ns <= latest:
        os.utime(path, ns=(latest + 1, latest + 1))


def ids(settings: Settings) -> list[str]:
    """Return the ids of all comparisons of a home folder, oldest first."""
    found = [path for path in settings.comparisons.glob(f"{PREFIX}*/{DATA}") if path.is_file()]
    return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)]


def _read_all(kind: type[M], path: Path) -> Iterator[M]:
    for line in read_lines(path, checked=False):
        yield read_line(kind, line, path)
