"""Count the files of the package that a call enters: a reader has to open them to follow it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway import FakeBackend

PACKAGE = str(Path(gateway.__file__).parent)
CO_OPTIMIZED = 0x1  # a flag of functions; bodies of modules and classes are not counted
TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find a parcel.",
        "parameters": {
            "type": "object",
            "properties": {"id": {"type": "string"}},
            "required": ["id"],
        },
    },
}


def tool_rows(count: int) -> list[dict[str, Any]]:
    """Return rows in which the assistant calls a tool and answers from its result."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Where is parcel number {number}?"},
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {
                                "name": "find",
                                "arguments": json.dumps({"id": f"{number}"}),
                            },
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": f"On day {number % 7}."},
                {"role": "assistant", "content": f"Parcel {number} comes on day {number % 7}."},
            ],
            "tools": [TOOL],
        }
        for number in range(count)
    ]


def files_entered(call: Callable[[], object]) -> list[str]:
    """Return the files of the package in which a function runs during the call."""
    codes: set[CodeType] = set()

    def note(frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            codes.add(frame.f_code)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return sorted(
        {
            code.co_filename.removeprefix(PACKAGE).lstrip("/")
            for code in codes
            if code.co_filename.startswith(PACKAGE) and code.co_flags & CO_OPTIMIZED
        }
    )


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def entered_twice(call: Callable[[], object]) -> list[str]:
    """Return the files that the second call in a process enters: work done once is not counted."""
    call()
    return files_entered(call)


def show(what: str, files: list[str]) -> None:
    """Print the list, for ``pytest -s``."""
    print(f"{what}: {len(files)} files")
    print(*(f"  {name}" for name in files), sep="\n")


@pytest.fixture
def chat_file(tmp_path: Path) -> Path:
    return write(tmp_path / "chat.jsonl", chat_rows(60))


def test_validate(home: Path, chat_file: Path) -> None:
    """At most 33 files for 60 chat rows with default options."""
    files = entered_twice(lambda: gateway.validate(chat_file))
    show("validate", files)
    assert len(files) <= 33


@pytest.mark.parametrize("share, most", [(0, 49), (None, 60)])
def test_submit(home: Path, chat_file: Path, share: float | None, most: int) -> None:
    """At most 49 files for 60 chat rows and the fake backend, 2 of them the seam that each call of
    a backend passes, and 11 to hold rows out of the rows."""
    given: dict[str, Any] = {"backend": FakeBackend(), "again": True, "validation_split": share}
    files = entered_twice(lambda: gateway.submit(chat_file, model="m", **given))
    show("submit", files)
    assert len(files) <= most


@pytest.mark.parametrize("kind, most", [("chat", 12), ("tools", 16)])
def test_one_more_row(home: Path, tmp_path: Path, kind: str, most: int) -> None:
    """At most 12 files for a chat row and 16 for a row with tools, besides those that an empty
    file enters."""
    rows = chat_rows if kind == "chat" else tool_rows
    many, none = write(tmp_path / "many.jsonl", rows(60)), write(tmp_path / "none.jsonl", [])
    of_file = entered_twice(lambda: gateway.validate(none))
    files = [name for name in entered_twice(lambda: gateway.validate(many)) if name not in of_file]
    show(f"a {kind} row", files)
    assert len(files) <= most
