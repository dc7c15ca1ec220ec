"""The canonical form of a row written for a backend or a library, and whole files of them.

What is written is read back and compared with what it was made from, row by row: a format that
cannot hold a field refuses the row with its line, and nothing is dropped silently.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from finetune_gateway.data import sharegpt
from finetune_gateway.data.containers import dumped
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.formats import canonical, format_of
from finetune_gateway.data.row_access import loads_strict
from finetune_gateway.data.sharegpt import Unfit, as_object, as_string
from finetune_gateway.errors import DataError, SpecError, StoreError
from finetune_gateway.settings.files import atomic_file
from finetune_gateway.text.quoting import hidden, quoted, shortened
from finetune_gateway.validation.json.file_type import BOM

Json = dict[str, Any]

MAX_REFUSED = 10  # refused rows that are named
MAX_WHY = 300  # characters of what is said of one
MAX_CARRIED = 20  # keys that are carried along and named
_KNOWN = frozenset(
    {"messages", "tools", "functions", "parallel_tool_calls", "label", "text"}
    | {"input", "preferred_output", "non_preferred_output"}
)
_INPUT = frozenset({"messages", "tools", "parallel_tool_calls"})


@dataclass(frozen=True)
class Conversion:
    """What ``convert`` has written."""

    out: Path
    to: str
    rows: int
    formats: tuple[str, ...]  # those the rows were in
    notes: tuple[str, ...] = ()  # what the target's readers may trip over


@dataclass(slots=True)
class _Seen:
    """What was seen while rows were written."""

    rows: int = 0
    formats: dict[str, None] = field(default_factory=dict)
    carried: dict[str, int] = field(default_factory=dict)
    weights: int = 0
    refused: list[str] = field(default_factory=list)
    refusals: int = 0


def convert(
    dataset: Dataset, to: str, out: str | os.PathLike[str], *, force: bool = False,
    drop: Collection[str] = (),
) -> Conversion:  # fmt: skip
    """Write a dataset for a target: ``openai``, ``openai-bom``, ``trl``, ``together``,
    ``sharegpt``.

    ``drop``: keys of the rows to leave out. Raises SpecError for an unknown target or an ``out``
    that exists (``force`` replaces it) or is the input, DataError with the lines and fields of
    rows the target cannot hold; nothing is written then.
    """
    if to not in TARGETS:
        raise SpecError(
            f"There is no format {to!r} to write.", hint=f"One of: {', '.join(TARGETS)}."
        )
    path, seen = Path(out), _Seen()
    free(path, dataset, force)
    with whole_file(path) as file:
        if to == "openai-bom":
            file.write(BOM)
        for line in _converted(dataset, to, frozenset(drop), seen):
            file.write(line.encode() + b"\n")
        _raise_refused(seen, dataset, to)
    return Conversion(path, to, seen.rows, tuple(seen.formats), tuple(_notes(seen, to)))


def _converted(dataset: Dataset, to: str, drop: frozenset[str], seen: _Seen) -> Iterator[str]:
    for row in dataset.rows():
        data = {key: value for key, value in row.data.items() if key not in drop}
        try:
            chat = canonical(data)
            yield dumped(written(chat, to))
        except Unfit as exc:
            seen.refusals += 1
            if len(seen.refused) < MAX_REFUSED:
                seen.refused.append(f"line {row.line}: {shortened(hidden(str(exc)), MAX_WHY)}")
            continue
        found = format_of(data)
        seen.formats[found.name if found else ""] = None
        seen.rows += 1
        seen.weights += any("weight" in message for message in chat.get("messages", ()))
        for key in chat.keys() - _KNOWN:
            if key in seen.carried or len(seen.carried) < MAX_CARRIED:
                seen.carried[key] = seen.carried.get(key, 0) + 1


def _raise_refused(seen: _Seen, dataset: Dataset, to: str) -> None:
    if not seen.refusals:
        if not seen.rows:
            raise DataError(f"{dataset.name} holds no rows.", hint="Check the path.")
        return
    count = "1 row" if seen.refusals == 1 else f"{seen.refusals:,} rows"
    more = seen.refusals - len(seen.refused)
    listed = "\n  ".join([*seen.refused, *([f"... and {more:,} more"] if more else [])])
    raise DataError(
        f"{dataset.name}: {count} cannot be written as {to} without loss:\n  {listed}",
        hint="Nothing was written. Change these rows, choose another format, or leave a key "
        "of the rows out with --drop KEY (drop=...).",
    )


def _notes(seen: _Seen, to: str) -> Iterator[str]:
    for key, count in sorted(seen.carried.items()):
        rows = "1 row" if count == 1 else f"{count:,} rows"
        yield f"the key {quoted(key)} of {rows} is carried along; OpenAI may refuse unknown keys"
    if seen.weights and to == "trl":
        yield "TRL's trainers do not look at 'weight': answers with weight 0 would be learnt"
    if seen.weights and to == "sharegpt":
        yield "'weight' is kept in the turns; Axolotl reads it, other readers do not"


# -- one row -----------------------------------------------------------------------------------


def written(row: Json, to: str) -> Json:
    """A canonical row in the form of a target. Raises Unfit for what the target cannot hold."""
    made = TARGETS[to](row)
    if _meaning(canonical(made)) != _meaning(row):
        raise Unfit(_difference(canonical(made), row), f"it would be read differently as {to}")
    return made


def _openai(row: Json) -> Json:
    if "label" in row:
        raise Unfit("label", "OpenAI's formats have no labelled answers (KTO)")
    if "messages" not in row and "preferred_output" not in row:
        raise Unfit("text", "OpenAI trains on conversations, not on plain text")
    return row


def _together(row: Json) -> Json:
    """https://docs.together.ai/docs/fine-tuning/data-preparation: strict about keys and turns."""
    if "label" in row:
        raise Unfit("label", "Together's formats have no labelled answers (KTO)")
    if "text" in row and "messages" not in row:
        _only(row, frozenset({"text"}), "")
    elif "preferred_output" in row:
        _only(row, frozenset({"input", "preferred_output", "non_preferred_output"}), "")
        _only(row["input"], frozenset({"messages", "tools"}), "input.")
        _alternating(row["input"]["messages"], "input.messages")
    else:
        _only(row, frozenset({"messages", "tools"}), "")
        _alternating(row["messages"], "messages")
    return row


def _only(row: Json, keys: frozenset[str], prefix: str) -> None:
    for key in row:
        if key not in keys:
            raise Unfit(f"{prefix}{key}", f"Together takes no key {key!r} here")


def _alternating(messages: list[Json], path: str) -> None:
    earlier = None
    for index, message in enumerate(messages):
        role = message["role"]
        if role not in ("system", "user", "assistant", "tool"):
            raise Unfit(f"{path}[{index}].role", f"Together does not know the role {role!r:.60}")
        if "function_call" in message:
            raise Unfit(f"{path}[{index}].function_call", "Together takes tool_calls only")
        if role == earlier and role in ("user", "assistant"):
            raise Unfit(f"{path}[{index}]", f"Together refuses two {role} messages in a row")
        earlier = role


def _trl(row: Json) -> Json:
    if "preferred_output" in row:
        return _trl_pair(row)
    if "messages" not in row:
        return row
    messages = _objects(row["messages"], "messages")
    if "label" not in row:
        return {**row, "messages": messages}
    if len(messages) < 2:
        raise Unfit("messages", "there is no prompt before the answer")
    rest = {key: value for key, value in row.items() if key not in ("messages", "label")}
    return {"prompt": messages[:-1], "completion": messages[-1:], "label": row["label"], **rest}


def _trl_pair(row: Json) -> Json:
    given = row["input"]
    for key in given.keys() - _INPUT:
        raise Unfit(f"input.{key}", f"TRL's pairs have no place for {key!r}")
    sides = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
    made = {"prompt": _objects(given["messages"], "input.messages")}
    made |= {name: _objects(row[side], side) for name, side in sides.items()}
    return _with_rest(made, row, "TRL's pairs")


def _with_rest(made: Json, row: Json, what: str) -> Json:
    """The pair with the tools of its input and the keys that are carried along."""
    more = {key: value for key, value in row["input"].items() if key != "messages"}
    known = {"input", "preferred_output", "non_preferred_output"}
    rest = {key: value for key, value in row.items() if key not in known}
    for key in rest.keys() & (made.keys() | more.keys()):
        raise Unfit(key, f"{what} use the key {key!r} for something else")
    return {**made, **more, **rest}


def _objects(messages: list[Json], path: str) -> list[Json]:
    """Messages with the arguments of their calls as objects, as chat templates want them."""
    return [_object_calls(message, f"{path}[{index}]") for index, message in enumerate(messages)]


def _object_calls(message: Json, path: str) -> Json:
    made = dict(message)
    if message.get("function_call"):
        made["function_call"] = _object_function(message["function_call"], f"{path}.function_call")
    if message.get("tool_calls"):
        made["tool_calls"] = [
            {
                **call,
                "function": _object_function(
                    call["function"], f"{path}.tool_calls[{index}].function"
                ),
            }
            for index, call in enumerate(message["tool_calls"])
        ]
    return made


def _object_function(function: Json, path: str) -> Json:
    return {**function, "arguments": as_object(function.get("arguments"), f"{path}.arguments")}


def _sharegpt(row: Json) -> Json:
    if "preferred_output" in row:
        return _sharegpt_pair(row)
    if "messages" not in row:
        raise Unfit("text", "ShareGPT holds conversations, not plain text")
    rest = {key: value for key, value in row.items() if key not in ("messages", "tools")}
    made: Json = {"conversations": sharegpt.turns(row["messages"], "messages")}
    if row.get("tools") is not None:
        made["tools"] = sharegpt.tools_string(row["tools"])
    return {**made, **rest}


def _sharegpt_pair(row: Json) -> Json:
    given = dict(row["input"])
    for key in given.keys() - _INPUT:
        raise Unfit(f"input.{key}", f"ShareGPT has no place for {key!r}")
    made: Json = {"conversations": sharegpt.turns(given["messages"], "input.messages")}
    for name, side in (("chosen", "preferred_output"), ("rejected", "non_preferred_output")):
        if len(row[side]) != 1:
            raise Unfit(side, "ShareGPT holds one answer for each side")
        made[name] = sharegpt.turns(row[side], side)[0]
    if given.get("tools") is not None:
        given["tools"] = sharegpt.tools_string(given["tools"])
    return _with_rest(made, {**row, "input": given}, "ShareGPT's pairs")


TARGETS: dict[str, Callable[[Json], Json]] = {
    "openai": _openai,
    "openai-bom": _openai,
    "trl": _trl,
    "together": _together,
    "sharegpt": _sharegpt,
}


# -- comparing ---------------------------------------------------------------------------------


def _meaning(value: Any, key: str = "") -> Any:
    """What a row says, in a form that can be compared: arguments parsed, null keys left out,
    true told from 1."""
    if key == "arguments" and isinstance(value, str | dict):
        try:
            return "arguments", _meaning(loads_strict(as_string(value)))
        except (ValueError, RecursionError):
            return "text", value
    if isinstance(value, dict):
        return {k: _meaning(inner, k) for k, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_meaning(inner) for inner in value]
    return type(value).__name__, value


def _difference(one: Any, other: Any, path: str = "") -> str:
    """The path of the first difference of two rows."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**other, **one}:
            if _meaning(one.get(key), key) != _meaning(other.get(key), key):
                return _difference(one.get(key), other.get(key), f"{path}.{key}" if path else key)
    if isinstance(one, list) and isinstance(other, list):
        for index, (left, right) in enumerate(zip(one, other, strict=False)):
            if _meaning(left) != _meaning(right):
                return _difference(left, right, f"{path}[{index}]")
    return path


# -- files -------------------------------------------------------------------------------------


def free(path: Path, dataset: Dataset, force: bool) -> None:
    """Raises SpecError when a file must not be written there."""
    if path.exists() and any(
        one is not None and one.exists() and one.samefile(path)
        for one in (dataset.path, dataset.source)
    ):
        raise SpecError(f"{path} is the input itself.", hint="Name another file to write.")
    if path.is_dir():
        raise SpecError(f"{path} is a folder.", hint="Name a file to write.")
    if path.exists() and not force:
        raise SpecError(f"{path} exists already.", hint="Name another file, or use --force.")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears whole when the block ends well, and not at all when it does not.

    Raises StoreError when it cannot be written there.
    """
    try:
        with atomic_file(path) as file:
            yield file
    except OSError as exc:
        raise StoreError(
            f"{path} cannot be written: {exc.strerror or exc}.",
            hint="Name a file in a folder that exists, on a disk with space.",
        ) from None
