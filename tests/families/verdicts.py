"""A verdict for each kind of row under each template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from families import folders, planted
from families.judge import IGNORED, Judge, Outcome, Trained
from families.planted import Row
from families.serving import Refused, Serving, serving
from families.sources import Source
from families.typed import typed_faults, typed_texts

from finetune_gateway.errors import GatewayError
from finetune_gateway.tokens.chat_template import ChatTemplate, choose_switches

CALL_FORMAT = "hermes"
TYPED = 10  # texts with special tokens in them, for each template


@dataclass(frozen=True)
class Verdict:
    """What was found of one kind of row under one template."""

    outcome: Outcome
    why: str = ""
    hint: str = ""  # of a refusal
    origins: frozenset[str] = frozenset()
    sequences: int = 1
    switches: dict[str, Any] = field(default_factory=dict)
    ends: frozenset[int] = frozenset()  # the tokens with which its labels end


class Family:
    """A template in a model folder, as the package reads it and as transformers does."""

    def __init__(self, folder: Path, source: Source) -> None:
        self.source = source
        self.folder = folders.write_folder(folder, source.text)
        written = "".join(_renderings(Serving(self.folder)))
        if set(folders.special_tokens(written)) - set(folders.special_tokens(source.text)):
            folders.write_folder(folder, source.text, written)
        self._templates: dict[bool, ChatTemplate] = {}

    def template(self, reasons: bool) -> ChatTemplate:
        """Return the template with the switches that a job would choose. Raises GatewayError."""
        if reasons not in self._templates:
            template = ChatTemplate.load(self.folder)
            if switches := choose_switches(template, reasons):
                template = template.with_switches(switches)
            template.check()
            self._templates[reasons] = template
        return self._templates[reasons]

    def added_stops(self) -> list[str]:
        """Return the tokens that are added where the template ends a turn with none."""
        try:
            return sorted(set(self.template(False).survey.turn_ends.values()))
        except GatewayError:
            return []

    def writes_calls(self) -> bool:
        """Return True if transformers writes a call by the original template."""
        row = planted.planted("call")
        try:
            text = Serving(self.folder).text(row.messages, row.tools)
        except Refused:
            return False
        [(_, value)] = row.said.values()
        return value in text

    def with_calls_as_text(self) -> Family:
        """Return the template that is trained and saved where calls are written as text."""
        template = ChatTemplate.load(self.folder, call_format=CALL_FORMAT)
        source = replace(self.source, text=template.source)
        return Family(self.folder.with_name(f"{self.folder.name}-{CALL_FORMAT}"), source)

    def serving(self, template: ChatTemplate) -> Serving:
        """Return what serves it, with the same switches."""
        return serving(self.folder, json.dumps(template.chat_template_kwargs))


def judge(family: Family, row: Row) -> Verdict:
    """Return the verdict of a row."""
    try:
        template = family.template(row.reasons)
        sequences = template.encode(row.row)
        losses = template.losses(row.row)
    except GatewayError as exc:
        return Verdict("refused", exc.message, exc.hint or "")
    trained = [Trained(one.input_ids, one.labels, one.turns) for one in sequences]
    judged = Judge(family.serving(template), row, trained, template.stop_ids, losses)
    faults = found(judged)
    outcome: Outcome = "wrong" if faults else "lost" if losses else "right"
    return Verdict(
        outcome,
        "; ".join(faults or sorted(losses)),
        origins=frozenset(origin for one in sequences for origin in one.origins),
        sequences=len(sequences),
        switches=template.chat_template_kwargs,
        ends=frozenset(_ends(trained)),
    )


def found(judged: Judge) -> list[str]:
    """Return the faults of a row; that transformers refuses it is one."""
    try:
        return list(judged.faults())
    except Refused as exc:
        return [f"transformers refuses it: {exc}"]


def verdicts(family: Family) -> dict[str, Verdict]:
    """Return the verdict of each kind of row."""
    verdicts = {kind: judge(family, planted.planted(kind)) for kind in planted.KINDS}
    faults = [*_stop_faults(family, verdicts), *_typed_faults(family, verdicts)]
    if faults:
        verdicts["plain"] = replace(verdicts["plain"], outcome="wrong", why="; ".join(faults))
    return verdicts


def verdicts_as_text(family: Family) -> dict[str, Verdict]:
    """Return the verdict of each kind of row with tools where calls are written as text."""
    other = family.with_calls_as_text()
    return {kind: judge(other, planted.planted(kind)) for kind in planted.TOOLS}


def _stop_faults(family: Family, verdicts: dict[str, Verdict]) -> Iterator[str]:
    """Yield what is wrong with the tokens that end an answer in chat."""
    if verdicts["plain"].outcome == "refused":
        return
    template = family.template(False)
    serving = family.serving(template)
    if missing := serving.published - template.stop_ids:
        yield f"{serving.written(sorted(missing))!r} is published as a stop, and is none"
    ends = frozenset[int]().union(*(one.ends for one in verdicts.values()))
    if strange := template.stop_ids - serving.published - ends:
        yield f"{serving.written(sorted(strange))!r} stops an answer, and ends none"


def _typed_faults(family: Family, verdicts: dict[str, Verdict]) -> Iterator[str]:
    """Yield what special tokens that are typed change."""
    if verdicts["plain"].outcome == "refused":
        return
    template = family.template(False)
    serving = family.serving(template)
    for text in typed_texts(serving, seed=len(family.source.text), count=TYPED):
        yield from typed_faults(template, serving, text)


def _ends(sequences: list[Trained]) -> Iterator[int]:
    for one in sequences:
        for label, following in zip(one.labels, [*one.labels[1:], IGNORED], strict=True):
            if label != IGNORED and following == IGNORED:
                yield label


# -- generation blocks ---------------------------------------------------------------------

Marks = Literal["equal", "longer", "transformers wrong", "both right", "package wrong", "refused"]


def marks(family: Family, row: Row) -> tuple[Marks, str]:
    """Compare the labels with those of transformers' ``return_assistant_tokens_mask``; where they
    differ, the judge says which is wrong. longer: theirs go on behind the stop, and no further."""
    own = judge(family, row)
    if own.outcome == "refused":
        return "refused", own.why
    template = family.template(row.reasons)
    serving = family.serving(template)
    try:
        ids, mask = serving.marks(row.messages, row.tools)
    except Refused as exc:
        return "refused", str(exc)
    labels = [id if mark else IGNORED for id, mark in zip(ids, mask, strict=True)]
    sequences = template.encode(row.row)
    if [(one.input_ids, one.labels) for one in sequences] == [(ids, labels)]:
        return "equal", ""
    if own.outcome == "wrong":
        return "package wrong", own.why
    theirs = Trained(ids, labels, tuple(row.said))
    losses = template.losses(row.row)
    faults = found(Judge(serving, row, [theirs], template.stop_ids, losses))
    if not faults:
        return "both right", ""
    cut = replace(theirs, labels=_up_to_stops(labels, template.stop_ids))
    left = found(Judge(serving, row, [cut], template.stop_ids, losses))
    return ("transformers wrong", left[0]) if left else ("longer", faults[0])


def _up_to_stops(labels: list[int], stops: frozenset[int]) -> list[int]:
    """Return labels without those that follow a stop in the same label."""
    cut, stopped = [], False
    for label in labels:
        stopped = stopped and label != IGNORED
        cut.append(IGNORED if stopped else label)
        stopped = stopped or label in stops
    return cut


def _renderings(serving: Serving) -> Iterator[str]:
    """Yield what a template writes of a few rows."""
    for kind in ("system", "turns", "tools", "reasonings"):
        row = planted.planted(kind)
        for ask in (False, True):
            try:
                yield serving.text(row.messages, row.tools, ask=ask)
            except Refused:
                continue
