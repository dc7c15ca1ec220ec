"""A recording on the disk: what a model answered, with all that it was asked.

In ``recordings/NAME`` of the home folder, for this user alone:

==================  ==============================================================================
``recording.json``  the model, where and when it was asked, with what parameters
``rows.jsonl``      what is asked: messages, tools, and what the data answer
``requests.jsonl``  each request, on the disk before it is sent, with what it can cost at most
``answers.jsonl``   each answer whole, with what it cost
``errors.jsonl``    each request that failed, kept apart: no answer
``batches.jsonl``   what became of batches, if any
==================  ==============================================================================

A request without an answer or an error was in flight when its process died. Everything else about a
recording, also what it cost, follows from these files.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from finetune_gateway.errors import (
    GatewayError,
    NotFoundError,
    SpecError,
    StoreError,
    shown,
    validation_error_text,
)
from finetune_gateway.evaluation.prompts import Prompt, fingerprint_of_all
from finetune_gateway.jobs.journal import damaged, number_of, read_lines
from finetune_gateway.jobs.recordings import PREFIX
from finetune_gateway.jobs.requests import (
    ANSWERS,
    ERRORS,
    Spent,
    State,
    request_id,
    spent_of,
    state_of,
)
from finetune_gateway.model import Model
from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import encodable
from finetune_gateway.tokens.encodings import base_model

Json = dict[str, Any]
M = TypeVar("M", bound=Model)

ABOUT, ROWS = "recording.json", "rows.jsonl"
UNDER_WAY = "a batch is under way at the host: the same command again collects it within a day"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class About(Model):
    """What a recording is of. ``number``: larger than those that were there when it was made: no
    clock says which of two is the newer one. ``parameters``: sent with each request. ``samples``:
    answers to each prompt. ``rows_sha256``: what the set of prompts is recognised by. ``data``:
    where they are from, in words. ``system_fingerprints``: those of the host, and how many answers
    have each."""

    model_config = ConfigDict(defer_build=True, protected_namespaces=())

    version: int = 1
    name: str
    number: int = 0
    created_at: float
    date: str
    model: str
    base_model: str
    backend: str
    host: str
    base_url: str
    job_id: str | None = None
    parameters: Json = Field(default_factory=dict)
    samples: int = 1
    rows: int
    rows_sha256: str
    data: str = ""
    data_sha256: str | None = None
    retires_on: str | None = None
    system_fingerprints: dict[str, int] = Field(default_factory=dict)
    finished_at: float | None = None


class RecordedAnswer(Model):
    """One answer. ``row``: the fingerprint of its prompt; ``message``, ``usage`` and ``logprobs``
    as the host sent them. ``seconds``: from the request to the whole answer; None from a batch."""

    model_config = ConfigDict(defer_build=True, protected_namespaces=(), allow_inf_nan=False)

    id: str
    row: str
    sample: int
    at: float
    message: Json
    finish_reason: str | None = None
    usage: Json = Field(default_factory=dict)
    logprobs: Json | None = None
    system_fingerprint: str | None = None
    model: str | None = None  # as the host names it
    seconds: float | None = None
    usd: Decimal | None = None

    @property
    def text(self) -> str:
        """The text of the answer."""
        content = self.message.get("content")
        return content if isinstance(content, str) else ""

    @property
    def tool_calls(self) -> list[Json]:
        """The calls of the answer, as in OpenAI's messages."""
        calls = self.message.get("tool_calls")
        return [one for one in calls if isinstance(one, dict)] if isinstance(calls, list) else []


class RecordedError(Model):
    """A request that has no answer, and why."""

    model_config = ConfigDict(defer_build=True)

    id: str
    at: float
    message: str
    status: int | None = None
    code: str | None = None
    retryable: bool = False


@dataclass(frozen=True)
class Run:
    """What one call has done. ``again``: requests that were in flight when an earlier process died,
    and were sent again. ``stopped``: why not all was asked; empty if all was. ``beyond``: requests
    that are in no batch, because they could pass the limit. ``under_way``: a batch of it has not
    ended."""

    asked: int = 0
    answers: int = 0
    errors: int = 0
    again: int = 0
    spent_usd: Decimal | None = None
    unanswered: int = 0  # attempts without an answer, which count in it at their most
    stopped: str = ""
    beyond: int = 0
    under_way: bool = False


@dataclass(frozen=True, repr=False)
class Recording:
    """What a model answered to the rows of a data set, and ``run``, what the call has done that
    returned it.

    >>> recording = Recording.load("recorded:support-2026-12-01")
    >>> for answer in recording.answers():
    ...     print(answer.row, answer.text, answer.tool_calls)
    """

    folder: Path
    about: About
    run: Run | None = None  # of the call that returned it

    @classmethod
    def load(cls, name: str, home: str | os.PathLike[str] | None = None) -> Self:
        """Return a recording by its name, with or without ``recorded:``. Raises NotFoundError."""
        return cls.at(Settings.load(home), name)

    @classmethod
    def at(cls, settings: Settings, name: str) -> Self:
        """Return a recording of a home folder."""
        found = cls.find(settings, name)
        if found is None:
            raise not_recorded(settings, name)
        return found

    @classmethod
    def find(cls, settings: Settings, name: str) -> Self | None:
        """Return a recording; None if there is none. Raises StoreError for one that is damaged."""
        folder = folder_of(settings, name)
        try:
            about = About.model_validate_json((folder / ABOUT).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as exc:
            raise StoreError(
                f"{folder / ABOUT} cannot be read: {str(exc)[:200]}.",
                hint=f"Put a copy back, or remove it: ftg rm {PREFIX}{plain(name)}",
            ) from None
        return cls(folder, about)

    @classmethod
    def create(cls, settings: Settings, about: About, prompts: list[Prompt]) -> Self:
        """Write down what is going to be asked. Raises StoreError."""
        settings.create()
        folder = folder_of(settings, about.name)
        recording = cls(folder, about)
        with files.storing(f"{PREFIX}{about.name} cannot be kept", folder.parent):
            files.folder(folder)
            lines = "".join(prompt.model_dump_json() + "\n" for prompt in prompts)
            files.write_atomic(folder / ROWS, lines, private=True)
        recording.write_about()  # last: without it there is no recording
        return recording

    def write_about(self) -> None:
        """Write what it is of. Raises StoreError."""
        with files.storing(f"{self.title} cannot be kept", self.folder):
            text = self.about.model_dump_json(indent=2) + "\n"
            files.write_atomic(self.folder / ABOUT, text, private=True)

    @property
    def title(self) -> str:
        """Its name as people write it: ``recorded:NAME``."""
        return f"{PREFIX}{self.about.name}"

    def with_stop(self, reason: str) -> Recording:
        """Return it with why its run has not asked all."""
        return replace(self, run=replace(self.run or Run(), stopped=reason))

    def with_batch_under_way(self) -> Recording:
        """Return it with a batch that its host has not answered yet."""
        return replace(self, run=replace(self.run or Run(), stopped=UNDER_WAY, under_way=True))

    def __repr__(self) -> str:
        count = sum(1 for _ in self.answers())
        return f"Recording({self.title}: {count} answers of {self.about.model})"

    # -- what is in it -----------------------------------------------------------------------

    def prompts(self) -> list[Prompt]:
        """Return what was asked, in the order of the data. Raises StoreError if rows were lost."""
        found = [
            read_line(Prompt, line, self.folder / ROWS) for line in read_lines(self.folder / ROWS)
        ]
        if fingerprint_of_all(found) != self.about.rows_sha256:
            raise StoreError(
                f"The rows of {self.title} are not those that it was made with.",
                hint=f"Put a copy of {self.folder / ROWS} back.",
            )
        return found

    def answers(self) -> Iterator[RecordedAnswer]:
        """Yield the answers, each request's once, in the order in which they came."""
        seen = set[str]()
        for line in read_lines(self.folder / ANSWERS):
            if line["id"] not in seen:
                seen.add(line["id"])
                yield read_line(RecordedAnswer, line, self.folder / ANSWERS)

    def errors(self) -> Iterator[RecordedError]:
        """Yield for each request that has no answer the last error, if there is one."""
        answered = {line["id"] for line in read_lines(self.folder / ANSWERS)}
        last = {line["id"]: line for line in read_lines(self.folder / ERRORS)}
        for key, line in last.items():
            if key not in answered:
                yield read_line(RecordedError, line, self.folder / ERRORS)

    def questions(self, prompts: list[Prompt]) -> Iterator[tuple[str, Prompt, int]]:
        """Yield the id of each request, its prompt and the number of the sample: all first samples,
        then all second ones."""
        for sample in range(self.about.samples):
            for prompt in prompts:
                yield request_id(prompt.id, sample), prompt, sample

    def state(self) -> State:
        """Return what has become of the requests."""
        return state_of(self.folder)

    def spent(self, charge: str) -> Spent:
        """Return what was spent under a charge."""
        return spent_of(self.folder, charge)

    def finish(self) -> None:
        """Write down which systems have answered. Raises StoreError."""
        lines = {line["id"]: line for line in read_lines(self.folder / ANSWERS)}.values()
        prints = (line.get("system_fingerprint") for line in lines)
        texts = (encodable(one) for one in prints if isinstance(one, str) and one)
        self.about.system_fingerprints = dict(Counter(texts))
        self.about.finished_at = time.time()
        self.write_about()


def read_line(kind: type[M], line: Json, path: Path, written: Json | None = None) -> M:
    """Return a line as what it is of. ``written``: the line in the file, if it was converted.
    Raises StoreError for one that was changed."""
    try:
        return kind.model_validate(line)
    except ValidationError as exc:
        why = f"what cannot be read: {validation_error_text(exc)}"
        raise damaged(path, number_of(written or line, path), why) from None


def batch_file(folder: Path, key: str) -> Path:
    """Return the file of requests of a batch, which is there until it has ended."""
    return folder / f"batch-{key}.jsonl"


# -- names -------------------------------------------------------------------------------------


def plain(name: str) -> str:
    """Return a name without ``recorded:``. Raises SpecError for what can be none."""
    found = name.removeprefix(PREFIX)
    if not NAME.fullmatch(found):
        raise SpecError(
            f"A recording cannot be named {shown(found)}.",
            hint="Use at most 100 letters, digits, dots, dashes and underscores.",
        )
    return found


def folder_of(settings: Settings, name: str) -> Path:
    """Return the folder of a recording."""
    return settings.recordings / plain(name)


def not_recorded(settings: Settings, name: str) -> NotFoundError:
    """Return the error for a name that no recording has, with those that are near."""
    every = [f"{PREFIX}{one}" for one in names(settings)]
    near = get_close_matches(f"{PREFIX}{plain(name)}", every, 3, 0.75)
    if near:
        hint = f"Did you mean {' or '.join(near)}?"
    elif every:
        hint = f"There {'is' if len(every) == 1 else 'are'}: {', '.join(every[-5:])}."
    else:
        hint = "Make one: ftg migrate record --help"
    return NotFoundError(f"There is no recording {shown(name)}.", hint=hint)


def names(settings: Settings) -> list[str]:
    """Return the names of all recordings of a home folder, half-made ones too."""
    return sorted(path.name for path in settings.recordings.glob("*") if path.is_dir())


def newest(settings: Settings) -> int:
    """Return the number of the newest recording; 0 without one."""
    numbers = [0]
    for name in names(settings):
        with suppress(GatewayError):  # a damaged one is named where it is used
            found = Recording.find(settings, name)
            numbers += [found.about.number] if found else []
    return max(numbers)


def default_name(model: str, moment: float) -> str:
    """Return the suffix of a fine-tune, else its base, and the day: ``support-2026-12-01``."""
    parts = model.split(":")
    step = f"-{parts[5]}" if len(parts) > 5 else ""
    suffix = parts[3] if model.startswith("ft:") and len(parts) > 3 else ""
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", suffix or base_model(model)).strip("-._")
    day = datetime.fromtimestamp(moment, UTC).date()
    return f"{(word or 'model')[:60]}{step[:20]}-{day}"
