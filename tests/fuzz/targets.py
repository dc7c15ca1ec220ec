"""What is fuzzed, and what must hold for any bytes.

Nothing but findings may come of them: any other end is a bug. Beyond that each input is held to a
second opinion: the parser to msgspec, the short way through the gate to the long one, an accepted
file to what it may hold, a fixed one to having nothing left to fix.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from seeds import LINES, WORDS

from finetune_gateway import Dataset
from finetune_gateway.errors import GatewayError
from finetune_gateway.preparation.convert import TARGETS
from finetune_gateway.preparation.fix import fix
from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.validation.json.parsing import BadLine, decode, escape_defects, parse
from finetune_gateway.validation.run import validate

# Lines that are JSON, and refused all the same: RFC 8259 leaves these to the reader.
OURS = {"json_duplicate_key", "json_number", "weight_value", "json_too_deep"}
METHODS = ("sft", "dpo", "kto", "reinforcement", "pretrain")
GOOD = (LINES[0] + "\n").encode()
MAX_MESSAGE = 1500  # characters of one finding


class Wrong(Exception):
    """Two ways to the same answer do not agree."""


def one_parser(data: bytes) -> None:
    """The parser takes what msgspec takes, and nothing else but halves of surrogate pairs."""
    try:
        text = decode(data)
        value = parse(text)
    except BadLine as exc:
        if exc.defect.code not in OURS and taken(data):
            raise Wrong(f"{exc.defect.code}, but msgspec takes it") from exc
        check_text(exc.defect.detail + exc.defect.path)
        return
    found = list(escape_defects(text, value))
    if not taken(data) and "lone_surrogate" not in [one.code for one in found]:
        raise Wrong("parsed, but msgspec refuses it")
    if json.loads(text) != value:
        raise Wrong("not the value that json reads")


def taken(data: bytes) -> bool:
    """Whether another strict reader takes these bytes."""
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def check_text(text: str) -> None:
    """What is said is short and can be written anywhere."""
    text.encode()
    if len(text) > MAX_MESSAGE:
        raise Wrong(f"a message of {len(text)} characters")


class Gate:
    """The whole gate on one file; the first byte of the input says what for."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rows.jsonl"
        self.out, self.again = folder / "out.jsonl", folder / "again.jsonl"
        self.counter = HostedCounter("gpt-4.1-mini")

    def one(self, data: bytes) -> None:
        """Validate both ways, and fix or convert now and then."""
        choice, body = data[:1].ljust(1, b"\0")[0], data[1:]
        self.path.write_bytes(GOOD * (choice & 1) + body)
        dataset, method = Dataset(self.path), METHODS[(choice >> 1) % 5]
        act = choice >> 5
        counter = self.counter if act == 1 else None
        report = validate(dataset, method=method, counter=counter, min_rows=1)
        slow = validate(dataset, method=method, min_rows=1, on_row=lambda row, line: None)
        if report.findings != slow.findings:
            raise Wrong(f"{report.findings} by the short way, {slow.findings} by the long one")
        for found in report.findings:
            check_text(found.message + found.path + found.fix)
        report.model_dump_json()
        if report.ok:
            self._accepted(dataset)
        if act == 2:
            self._check_fixed(dataset)
        if act == 3:
            with suppress(GatewayError):
                dataset.convert([*TARGETS][choice % len(TARGETS)], self.out, force=True)

    def _accepted(self, dataset: Dataset) -> None:
        for row in dataset.rows():
            json.dumps(row.data, ensure_ascii=False, allow_nan=False).encode()

    def _check_fixed(self, dataset: Dataset) -> None:
        check = partial(validate, min_rows=1)
        with suppress(GatewayError):
            done = fix(dataset, self.out, force=True, check=check)
            again = fix(Dataset(self.out), self.again, force=True, check=check)
            if done.report.ok and again.changes:
                raise Wrong(f"{done.changes}, and fixed again: {again.changes}")


# -- mutations ---------------------------------------------------------------------------------


def restructured(data: bytes, chance: random.Random) -> bytes:
    """The input with a change of the JSON on one of its lines; as it is where there is none."""
    lines = data[1:].split(b"\n")
    at = chance.randrange(len(lines))
    try:
        value = json.loads(lines[at])
    except (ValueError, RecursionError):
        return data
    if not isinstance(value, dict | list):
        return data
    lines[at] = _changed(value, chance)
    return data[:1] + b"\n".join(lines)


def _changed(value: Any, chance: random.Random) -> bytes:
    """The value with one of its members or items taken out, doubled or replaced."""
    places = [*_places(value)]
    if not places:
        return json.dumps(_other(chance)).encode()
    holder, key = chance.choice(places)
    act = chance.randrange(5)
    if act == 0:
        del holder[key]
    elif act == 1 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif act == 2 and isinstance(holder, dict):
        holder[chance.choice(WORDS).decode("utf-8", "replace")] = holder.pop(key)
    else:
        holder[key] = _other(chance)
    return json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _other(chance: random.Random) -> Any:
    """Another value: a plain one, a word, or a piece of another row."""
    pick = chance.randrange(4)
    if pick == 0:
        return chance.choice((None, True, False, 0, 1, -1, 0.5, 10**30, "", [], {}, [[]], [{}]))
    if pick == 1:
        return chance.choice(WORDS).decode("utf-8", "replace")
    row = json.loads(chance.choice(LINES))
    holder, key = chance.choice([*_places(row)])
    return holder[key]
