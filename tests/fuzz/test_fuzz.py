"""The fuzzers' first files and changes of them; `make fuzz` goes on from here."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent
CHANGES = 5  # of each file
ANSWERS = 200  # of a host


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the targets, which is not on the path."""
    monkeypatch.syspath_prepend(FOLDER)
    import targets

    yield targets
    for name in ("targets", "seeds", "hosted"):
        sys.modules.pop(name, None)


def inputs(targets: ModuleType) -> Iterator[bytes]:
    """Each first file, then changed again and again; the first byte says what for."""
    chance = random.Random(3)
    for raw in sys.modules["seeds"].FILES:
        data = bytes([chance.randrange(256)]) + raw
        for _ in range(CHANGES):
            yield data
            data = targets.restructured(data, chance)


def test_the_row_parser(targets: ModuleType) -> None:
    """It takes what another strict reader takes, and raises BadLine alone."""
    for data in inputs(targets):
        for line in data[1:].split(b"\n"):
            targets.one_parser(line)


def test_the_gate(targets: ModuleType, tmp_path: Path) -> None:
    """Findings and nothing else, the same ones both ways; what is fixed stays fixed."""
    gate = targets.Gate(tmp_path)
    for data in inputs(targets):
        gate.one(data)


@pytest.mark.parametrize("kind", [{"a": 1}, [["string"]], [{}], 3, None])
def test_what_was_found(targets: ModuleType, tmp_path: Path, kind: object) -> None:
    """Inputs that once led to something else: a tool with a type that is none."""
    row = json.loads(json.dumps(sys.modules["seeds"].ROWS[2]))
    row["tools"][0]["function"]["parameters"]["properties"]["id"]["type"] = kind
    targets.Gate(tmp_path).one(b"\0" + json.dumps(row).encode())


def test_what_a_host_answers(targets: ModuleType, tmp_path: Path) -> None:
    """Typed errors alone come of any answer, and every view of the job works afterwards."""
    hosted = importlib.import_module("hosted")
    fuzzed = hosted.Hosted(tmp_path)
    seeds = [seed for seed in fuzzed.seeds() if seed[1] == 0]  # with a status of 200
    for data in islice(hosted.inputs(seeds, random.Random(7)), ANSWERS):
        try:
            fuzzed.one(data)
        except Exception as exc:
            raise AssertionError(f"{type(exc).__name__}: {exc} after {data!r}") from exc
    fuzzed.close()
