"""Convert rows from their canonical form to the format of a backend or a library.

Each converted row is read back and compared with the original. If a format cannot hold a field,
the row is refused with its line; nothing is dropped silently.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from finetune_gateway.data import sharegpt
from finetune_gateway.data.canonical import canonical, converted
from finetune_gateway.data.canonical_row import CHAT_KEYS, PAIR_KEYS
from finetune_gateway.data.column_names import is_plain, with_path
from finetune_gateway.data.dataset import BOM, Dataset
from finetune_gateway.data.formats import format_of, is_label
from finetune_gateway.data.row_access import dumped, loads_strict
from finetune_gateway.data.sharegpt import ConversionError, as_object, as_string
from finetune_gateway.errors import DataError, SpecError, StoreError, shown
from finetune_gateway.settings.arguments import as_path, list_of
from finetune_gateway.settings.files import atomic_file
from finetune_gateway.text.quoting import hidden, quoted, shortened
from finetune_gateway.validation.rows.formats import unknown_format
from finetune_gateway.validation.rules import RULES
from finetune_gateway.validation.text_only import require_text

Json = dict[str, Any]

MAX_REFUSED = 10  # reasons listed in the error
MAX_LINES = 5  # and lines of each
MAX_REASON = 300  # characters of the reason for one
MAX_EXTRA_KEYS = 20  # unknown keys listed in the notes
_KNOWN = CHAT_KEYS | PAIR_KEYS | {"label", "text"}
_TOOL_CALLS = "Let --fix write tool_calls: ftg validate old.jsonl --fix new.jsonl"
_INPUT = CHAT_KEYS - {"functions"}


@dataclass(frozen=True)
class Conversion:
    """The result of ``convert``."""

    out: Path
    to: str
    rows: int
    formats: tuple[str, ...]  # formats of the input rows
    notes: tuple[str, ...] = ()  # what readers of the target format may not expect


@dataclass(slots=True)
class _Counts:
    """Counts over the converted rows."""

    rows: int = 0
    formats: dict[str, None] = field(default_factory=dict)
    extra_keys: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, list[int]] = field(default_factory=dict)  # rows, and the first line
    weights: int = 0
    refused: dict[str, list[int]] = field(default_factory=dict)  # the first lines of each reason
    refusals: int = 0
    # True if the labels of the file are classes: keys like others, also where one may say good.
    classes: bool = False
    has_classes: bool = False  # a label that is one was seen
    has_labels: bool = False  # so was one that says good or bad
    advice: str = ""  # what may help a row that cannot be read: --map with its columns, or the like


def convert(
    dataset: Dataset, to: str, out: str | os.PathLike[str], *, force: bool = False,
    drop: Collection[str] = (),
) -> Conversion:  # fmt: skip
    """Write a dataset in a target format: ``openai``, ``openai-bom``, ``trl``, ``together`` or
    ``sharegpt``.

    ``drop``: keys of the rows to omit. Raises SpecError for an unknown target, or if ``out``
    exists (``force`` replaces it) or is the input; DataError with the lines and fields of rows
    that the target cannot hold. Nothing is written in these cases.
    """
    if not isinstance(to, str) or to not in TARGETS:
        raise SpecError(
            f"There is no format {shown(to)} to write.", hint=f"One of: {', '.join(TARGETS)}."
        )
    path, counts = as_path(out, "out"), _Counts()
    dropped = frozenset(list_of([drop] if isinstance(drop, str) else drop, str, "drop"))
    raise_if_taken(path, dataset, force)
    require_text(dataset)
    with whole_file(path) as file:
        _write(file, dataset, to, dropped, counts)
        if counts.has_classes and counts.has_labels:
            file.seek(0)
            file.truncate()
            counts = _Counts(classes=True)
            _write(file, dataset, to, dropped, counts)
        _raise_refused(counts, dataset, to)
    return Conversion(path, to, counts.rows, tuple(counts.formats), tuple(_notes(counts, to)))


def _write(
    file: IO[bytes], dataset: Dataset, to: str, drop: frozenset[str], counts: _Counts
) -> None:
    if to == "openai-bom":
        file.write(BOM)
    for line in _converted(dataset, to, drop, counts):
        file.write(line.encode() + b"\n")


def _converted(dataset: Dataset, to: str, drop: frozenset[str], counts: _Counts) -> Iterator[str]:
    for row in dataset.rows():
        data = {key: value for key, value in row.data.items() if key not in drop}
        label = {"label": data["label"]} if "label" in data else {}
        counts.has_classes |= bool(label) and not is_label(label["label"])
        if counts.classes:
            data = {key: value for key, value in data.items() if key != "label"}
        try:
            chat, left_out = converted(data)
            counts.has_labels |= _is_labelled(chat)
            made = convert_row(chat, to)
            if counts.classes:
                made |= _as_class(label, to)
                chat |= label
            yield dumped(made)
        except ConversionError as exc:
            counts.refusals += 1
            why, advice = _refusal(data, exc, dataset)
            counts.advice = counts.advice or advice
            reason = shortened(hidden(why), MAX_REASON)
            if reason in counts.refused or len(counts.refused) < MAX_REFUSED:
                lines = counts.refused.setdefault(reason, [])
                lines += [row.line] * (len(lines) < MAX_LINES)
            continue
        row_format = format_of(data)
        counts.formats[row_format.name if row_format else ""] = None
        counts.rows += 1
        counts.weights += any("weight" in message for message in chat.get("messages", ()))
        for key in left_out:
            if key in counts.left_out or len(counts.left_out) < MAX_EXTRA_KEYS:
                counts.left_out.setdefault(key, [0, row.line])[0] += 1
        is_known = _is_labelled(chat) and not counts.classes
        for key in chat.keys() - (_KNOWN if is_known else _KNOWN - {"label"}):
            if key in counts.extra_keys or len(counts.extra_keys) < MAX_EXTRA_KEYS:
                counts.extra_keys[key] = counts.extra_keys.get(key, 0) + 1


def _as_class(label: Json, to: str) -> Json:
    """Return a label that is a class, as a key beside the example. Raises ConversionError."""
    if isinstance(label.get("label"), bool):
        raise ConversionError("label", "true or false, among labels that are classes")
    if label and to == "together":
        raise ConversionError("label", "Together takes no key 'label' here")
    return label


def _refusal(row: Json, error: ConversionError, dataset: Dataset) -> tuple[str, str]:
    """Return why a row cannot be written, and what to do about it if that is known; of a row of
    no format what ``validate`` says of it."""
    if format_of(row) is not None:
        return str(error), with_path(error.fix, dataset.source, dataset.reading.columns)
    defect = unknown_format(row, None)
    fix = defect.fix or RULES[defect.code].fix
    return defect.detail, with_path(fix, dataset.source, dataset.reading.columns)


def _raise_refused(counts: _Counts, dataset: Dataset, to: str) -> None:
    if not counts.refusals:
        if not counts.rows:
            raise DataError(f"{dataset.name} holds no rows.", hint="Check the path.")
        return
    rows = "1 row" if counts.refusals == 1 else f"{counts.refusals:,} rows"
    reasons = [f"{_lines(lines)}: {reason}" for reason, lines in counts.refused.items()]
    more = counts.refusals - sum(map(len, counts.refused.values()))
    cut = f"... and {more:,} more row{'s' * (more > 1)}"
    listed = "\n  ".join([*reasons, *([cut] if more else [])])
    raise DataError(
        f"{dataset.name}: {rows} cannot be written as {to} without loss:\n  {listed}",
        hint=f"Nothing was written. {counts.advice.removesuffix('.')}."
        if counts.advice
        else "Nothing was written. Change these rows, choose another format, or omit a key of the "
        "rows with --drop KEY (drop=...).",
    )


def _lines(lines: list[int]) -> str:
    named = ", ".join(map(str, lines))
    return f"line {named}" if len(lines) == 1 else f"lines {named}"


def _notes(counts: _Counts, to: str) -> Iterator[str]:
    for key, count in sorted(counts.extra_keys.items()):
        rows = "1 row" if count == 1 else f"{count:,} rows"
        drop = f"; --drop {shlex.quote(key)} leaves it out" if is_plain(key) else ""
        yield f"the key {quoted(key)} of {rows} was kept; OpenAI may refuse unknown keys{drop}"
    for key, (count, line) in sorted(counts.left_out.items()):
        rows = "1 row" if count == 1 else f"{count:,} rows"
        yield f"the key {quoted(key)} of {rows} was left out, first in line {line}: no place for it"
    if counts.weights and to == "trl":
        yield "TRL's trainers ignore 'weight': answers with weight 0 would be trained"
    if counts.weights and to == "sharegpt":
        yield "'weight' was kept in the turns; Axolotl reads it, other readers do not"


# -- one row -----------------------------------------------------------------------------------


def convert_row(row: Json, to: str) -> Json:
    """Return a canonical row in a target format. Raises ConversionError if it cannot hold it."""
    converted = TARGETS[to](row)
    read_back = canonical(converted)
    if _meaning(read_back) != _meaning(row):
        path = _difference(read_back, row)
        raise ConversionError(path, f"it would be read differently as {to}")
    return converted


def _is_labelled(row: Json) -> bool:
    """Return True for a row of KTO: a label that is a category, or that stands beside a pair or a
    text, is a key like others."""
    return "label" in row and "messages" in row and is_label(row["label"])


def _openai(row: Json) -> Json:
    if _is_labelled(row):
        raise ConversionError("label", "OpenAI's formats have no labels (KTO)")
    if "messages" not in row and "preferred_output" not in row:
        raise ConversionError("text", "OpenAI trains on conversations, not on plain text")
    return row


def _together(row: Json) -> Json:
    """Return the row, checked for Together's strict rules about keys and turns.

    https://docs.together.ai/docs/fine-tuning/data-preparation
    """
    if _is_labelled(row):
        raise ConversionError("label", "Together's formats have no labels (KTO)")
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
            raise ConversionError(f"{prefix}{key}", f"Together takes no key {key!r} here")


def _alternating(messages: list[Json], path: str) -> None:
    previous = None
    for index, message in enumerate(messages):
        role = message["role"]
        if role not in ("system", "user", "assistant", "tool"):
            raise ConversionError(
                f"{path}[{index}].role", f"Together does not know the role {role!r:.60}"
            )
        if "function_call" in message:
            raise ConversionError(
                f"{path}[{index}].function_call", "Together takes tool_calls only", fix=_TOOL_CALLS
            )
        if role == previous and role in ("user", "assistant"):
            raise ConversionError(
                f"{path}[{index}]", f"Together refuses two {role} messages in a row"
            )
        previous = role


def _trl(row: Json) -> Json:
    if "preferred_output" in row:
        return _trl_pair(row)
    if "messages" not in row:
        return row
    messages = _with_objects(row["messages"], "messages")
    if not _is_labelled(row):
        return {**row, "messages": messages}
    if len(messages) < 2:
        raise ConversionError("messages", "there is no prompt before the answer")
    rest = {key: value for key, value in row.items() if key not in ("messages", "label")}
    return {"prompt": messages[:-1], "completion": messages[-1:], "label": row["label"], **rest}


def _trl_pair(row: Json) -> Json:
    pair_input = row["input"]
    for key in (name for name in pair_input if name not in _INPUT):
        raise ConversionError(f"input.{key}", f"TRL's pairs cannot hold {key!r}")
    sides = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
    pair = {"prompt": _with_objects(pair_input["messages"], "input.messages")}
    pair |= {name: _with_objects(row[side], side) for name, side in sides.items()}
    return _with_other_keys(pair, row, "TRL's pairs")


def _with_other_keys(pair: Json, row: Json, target: str) -> Json:
    """Return the pair with the tools of its input and all other keys of the row."""
    more = {key: value for key, value in row["input"].items() if key != "messages"}
    known = {"input", "preferred_output", "non_preferred_output"}
    rest = {key: value for key, value in row.items() if key not in known}
    for key in rest.keys() & (pair.keys() | more.keys()):
        raise ConversionError(key, f"{target} use the key {key!r} for something else")
    return {**pair, **more, **rest}


def _with_objects(messages: list[Json], path: str) -> list[Json]:
    """Return messages with the arguments of calls as objects, as chat templates need them."""
    return [_object_calls(message, f"{path}[{index}]") for index, message in enumerate(messages)]


def _object_calls(message: Json, path: str) -> Json:
    converted = dict(message)
    if message.get("function_call"):
        converted["function_call"] = _object_function(
            message["function_call"], f"{path}.function_call"
        )
    if message.get("tool_calls"):
        converted["tool_calls"] = [
            {
                **call,
                "function": _object_function(
                    call["function"], f"{path}.tool_calls[{index}].function"
                ),
            }
            for index, call in enumerate(message["tool_calls"])
        ]
    return converted


def _object_function(function: Json, path: str) -> Json:
    return {**function, "arguments": as_object(function.get("arguments"), f"{path}.arguments")}


def _sharegpt(row: Json) -> Json:
    if "preferred_output" in row:
        return _sharegpt_pair(row)
    if "messages" not in row:
        raise ConversionError("text", "ShareGPT holds conversations, not plain text")
    rest = {key: value for key, value in row.items() if key not in ("messages", "tools")}
    converted: Json = {"conversations": sharegpt.turns(row["messages"], "messages")}
    if row.get("tools") is not None:
        converted["tools"] = sharegpt.tools_string(row["tools"])
    return {**converted, **rest}


def _sharegpt_pair(row: Json) -> Json:
    pair_input = dict(row["input"])
    for key in (name for name in pair_input if name not in _INPUT):
        raise ConversionError(f"input.{key}", f"ShareGPT cannot hold {key!r}")
    pair: Json = {"conversations": sharegpt.turns(pair_input["messages"], "input.messages")}
    for name, side in (("chosen", "preferred_output"), ("rejected", "non_preferred_output")):
        if len(row[side]) != 1:
            raise ConversionError(side, "ShareGPT holds one answer for each side")
        pair[name] = sharegpt.turns(row[side], side)[0]
    if pair_input.get("tools") is not None:
        pair_input["tools"] = sharegpt.tools_string(pair_input["tools"])
    return _with_other_keys(pair, {**row, "input": pair_input}, "ShareGPT's pairs")


TARGETS: dict[str, Callable[[Json], Json]] = {
    "openai": _openai,
    "openai-bom": _openai,
    "trl": _trl,
    "together": _together,
    "sharegpt": _sharegpt,
}


# -- comparing ---------------------------------------------------------------------------------


def _meaning(value: Any, key: str = "") -> Any:
    """Return a row in a comparable form: arguments parsed, null keys removed, true distinct from
    1."""
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
    """Return the path of the first difference between two rows."""
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


def raise_if_taken(path: Path, dataset: Dataset, force: bool) -> None:
    """Raise SpecError if the path exists (unless ``force``), is a folder, or is the input."""
    if path.exists() and any(
        one is not None and one.exists() and one.samefile(path)
        for one in (dataset.path, dataset.source)
    ):
        raise SpecError(f"{path} is the input itself.", hint="Choose another file to write.")
    if path.is_dir():
        raise SpecError(f"{path} is a folder.", hint="Choose a file to write.")
    if path.exists() and not force:
        raise SpecError(f"{path} already exists.", hint="Choose another file, or use --force.")


@contextmanager
def whole_file(path: Path, *, private: bool = False) -> Iterator[IO[bytes]]:
    """Open a file that appears only if the block succeeds. Raises StoreError if it cannot be
    written."""
    try:
        with atomic_file(path, private=private) as file:
            yield file
    except OSError as exc:
        raise StoreError(
            f"{path} cannot be written: {exc.strerror or exc}.",
            hint="Choose an existing folder, on a disk with free space.",
        ) from None
