"""Columns of the user's own names, read as the keys of a format: ``--map question=prompt``.

Rows are written anew with the keys that formats know, each on its line; findings speak of the
user's columns. ``translation.en`` is the key ``en`` of the object in the column ``translation``,
unless a column has that name. No role of a column is guessed: ``suggested`` is for the text of a
finding.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

from finetune_gateway.data.cells import cell_value, truth
from finetune_gateway.data.column_names import ANSWERS, as_option, is_plain, is_turn, normalized
from finetune_gateway.data.dataset import Dataset, Line
from finetune_gateway.data.reading import Reading
from finetune_gateway.data.row_access import dumped, loads_strict
from finetune_gateway.errors import DataError, SpecError, shown
from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.spool import new_folder
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]
D = TypeVar("D", bound=Dataset)

KEYS = (
    "prompt", "completion", "system", "messages", "conversations", "tools", "chosen", "rejected",
    "label", "text", "instruction", "input", "output", "history",
)  # fmt: skip
_TEXTS = frozenset(KEYS) - {"messages", "conversations", "tools", "label", "history"}
_EXAMPLE = "--map question=prompt,answer=completion, or columns={'question': 'prompt', ...}"
_SHOWN = 12  # columns in a message
_TYPED = (
    "csv", "excel", "parquet", "datasets-folder",
    "datasets", "pandas", "polars", "arrow", "columns",
)  # fmt: skip
_ABOUT_NAMES = ("header_unknown", "header_missing")  # answered by a map

# Columns whose names say what they are, the surest first.
_ASKED = (
    "question", "query", "problem", "user", "human", "source", "input", "article", "document",
    "dialogue", "context",
)  # fmt: skip
_ANSWERED = (
    "answer", "response", "sql", "solution", "assistant", "bot", "gpt", "reply", "target",
    "summary", "highlights", "output",
)  # fmt: skip


_DEPTH = 3  # objects in each other that are looked into, to say what is there
_ABOUT_ROWS = frozenset({"meta", "metadata", "_meta", "info", "extra", "extra_info"})
_NO_TEXT = frozenset({"system", "system_prompt", "role", "from", "chat", "messages", "answers"})
# The same in other languages.
_TRANSLATED = {
    "frage": "question", "antwort": "answer", "anweisung": "instruction", "eingabe": "input",
    "ausgabe": "output", "kontext": "context", "pregunta": "question", "respuesta": "answer",
    "instrucción": "instruction", "entrada": "input", "salida": "output", "réponse": "answer",
    "reponse": "answer", "domanda": "question", "risposta": "answer", "pergunta": "question",
    "resposta": "answer", "vraag": "question", "antwoord": "answer", "pytanie": "question",
    "odpowiedź": "answer", "вопрос": "question", "ответ": "answer", "问题": "question",
    "回答": "answer", "答案": "answer", "指令": "instruction", "输入": "input", "输出": "output",
    "質問": "question", "질문": "question", "답변": "answer",
}  # fmt: skip


def check(columns: object) -> dict[str, str]:
    """Return a map of columns to keys. Raises SpecError for what is none: an unknown key, or two
    columns for one."""
    if not isinstance(columns, Mapping) or not columns:
        raise SpecError(
            f"columns must say which column is which key, not {shown(columns)}.", hint=_EXAMPLE
        )
    taken: dict[str, str] = {}
    for column, key in columns.items():
        if not isinstance(column, str) or not isinstance(key, str) or not column:
            raise SpecError(
                f"A column and its key are names, not {shown(column)} and {shown(key)}.",
                hint=_EXAMPLE,
            )
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1, 0.6)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise SpecError(
                f"The column {quoted(column)} cannot be {quoted(key)}: no format is made of that.",
                hint=f"{meant}One of: {', '.join(KEYS)}.",
            )
        if key in taken:
            raise SpecError(
                f"The columns {quoted(taken[key])} and {quoted(column)} cannot both be {key!r}.",
                hint="A question in two columns: map them to instruction and input, with the "
                "answer as output. Others: join them in the file.",
            )
        taken[key] = column
    return dict(columns)


class Renaming:
    """Renames the columns of the rows of one dataset. ``columns``: as ``check`` returns them."""

    def __init__(self, columns: Mapping[str, str], dataset: Dataset) -> None:
        self._columns = columns
        self._inside = [column for column in columns if "." in column]
        self._name = dataset.name
        self._typed = dataset.container in _TYPED  # a text may stand for a list
        self.reading = replace(dataset.reading, observations={**dataset.reading.observations})
        self._renamed: dict[tuple[str, ...], dict[str, str]] = {}
        self.seen: dict[str, None] = {}  # columns of all rows
        self.found: dict[str, str] = {}  # the columns that were mapped, as the file writes them

    def row(self, row: Json, line: int) -> Json:
        """Return a row with the keys that its columns are mapped to. Raises SpecError if it has
        such a key already."""
        own, row = row, reduce(_lifted, self._inside, row)
        names = tuple(row)
        renamed = self._renamed.get(names)
        if renamed is None:
            if len(self._renamed) > 1000:  # rows of very many sets of keys
                self._renamed.clear()
            renamed = self._renamed[names] = self._of(row)
            if len(self.seen) < 1000:
                self.seen |= dict.fromkeys([*own, *(inside(own) if self._inside else ())])
            self.found |= renamed
        if not renamed:
            return own
        self._require_free(row, renamed, line)
        given = {renamed.get(name, name): value for name, value in self._in_order(row, renamed)}
        for key in _TEXTS & given.keys():
            if type(given[key]) in (int, float):  # as it stands in a table: a class, a result
                given[key] = dumped(given[key])
        if self._typed:
            self._read_cells(given, renamed, line)
        return given

    def _require_free(self, row: Json, renamed: dict[str, str], line: int) -> None:
        for column, key in renamed.items():
            if key in row and key not in renamed and row[key] is not None:
                raise SpecError(
                    f"{self._name}: line {line} has a {key!r} already, so its column "
                    f"{quoted(column)} cannot be that.",
                    hint=f"Map {key!r} to another key too, or remove it from the rows.",
                )

    def _read_cells(self, given: Json, renamed: dict[str, str], line: int) -> None:
        """Read the lists that the texts of mapped columns stand for, and the label of an answer."""
        for column, key in renamed.items():
            if isinstance(given[key], str):
                given[key], is_python = cell_value(key, given[key])
                if is_python:
                    self.reading.note("cell_python", line, path=column)
        if isinstance(label := given.get("label"), str) and not ANSWERS.isdisjoint(given):
            given["label"] = truth(label)

    def _of(self, row: Json) -> dict[str, str]:
        """Return which columns of a row become which keys. A column is meant by its very name, else
        by the same apart from case and spaces."""
        exact = {column: key for column, key in self._columns.items() if column in row}
        for column, key in self._columns.items():
            if column in exact:
                continue
            like = [
                name for name in row if name not in exact and normalized(name) == normalized(column)
            ]
            if len(like) > 1:
                raise SpecError(
                    f"{self._name}: the column {quoted(column)} may be "
                    f"{' or '.join(map(quoted, like))}.",
                    hint="Write it as the file does.",
                )
            if like:
                exact[like[0]] = key
        return exact

    def _in_order(self, row: Json, renamed: dict[str, str]) -> Iterator[tuple[str, Any]]:
        """Yield the columns of a row, without an empty one whose place is taken."""
        taken = set(renamed.values())
        return ((name, row[name]) for name in row if name in renamed or name not in taken)

    def done(self) -> Reading:
        """Return how the file was read, its columns included."""
        if not self.seen:  # nothing could be read: what is wrong with the file comes first
            return replace(self.reading, columns=dict(self._columns))
        if not self.found:
            return self.reading
        observations = self.reading.observations
        for key in [key for key in observations if key[0] in _ABOUT_NAMES]:
            del observations[key]
        self.reading.note("columns_mapped", detail=f"{in_words(self.found)}, as you say")
        return replace(self.reading, columns=self.found)

    def require_found(self) -> None:
        """Raise SpecError for a column that no row has; one of a table may be empty in all rows."""
        columns = dict.fromkeys(self.reading.header) | self.seen
        known = {normalized(name) for name in (*self.found, *self.reading.header)}
        missing = [name for name in self._columns if normalized(name) not in known]
        if not missing or not self.seen:
            return
        shown = ", ".join(map(quoted, list(columns)[:_SHOWN]))
        more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
        raise SpecError(
            f"{self._name} has no column {' and no '.join(map(quoted, missing))}.",
            hint=f"Its columns: {shown}{more}.",
        )


def _lifted(row: Json, column: str) -> Json:
    """Return a row with a value that stands inside an object as a column, ``translation.en``, and
    without it there; the row itself if it has such a column, or no such value."""
    if any(normalized(name) == normalized(column) for name in row):
        return row
    for name, value in row.items():
        if not isinstance(value, dict) or not column.startswith(f"{name}."):
            continue
        key = column.removeprefix(f"{name}.")
        held = _lifted(value, key)
        if key not in held:
            continue
        left = {one: text for one, text in held.items() if one != key}
        return {
            **{
                one: left if one == name else text
                for one, text in row.items()
                if one != name or left
            },
            column: held[key],
        }
    return row


def inside(row: Mapping[str, Any], depth: int = _DEPTH) -> Json:
    """Return the values that stand inside the objects of a row, by names like ``translation.en``;
    what describes a row, and messages, are no such objects."""
    values: Json = {}
    for name, held in row.items():
        if not isinstance(held, dict) or normalized(name) in _ABOUT_ROWS or is_turn(held):
            continue
        within = inside(held, depth - 1) if depth > 1 else {}
        values |= {f"{name}.{key}": value for key, value in (held | within).items()}
    return values


def mapped(
    dataset: D, columns: object, *, spool: Path | None = None, folder: Path | None = None,
    required: bool = True,
) -> D:  # fmt: skip
    """Return a dataset with its columns read as the keys of a format; its lines stay. A line that
    is no JSON object stays as it is, for the check to say what is wrong with it.

    The rows are written below ``spool`` (default: the home folder) for as long as something reads
    them, or to ``folder``, to stay. ``required``: False leaves a file alone that has none of the
    columns. Raises SpecError for a map that does not fit the file.
    """
    renaming = Renaming(check(columns), dataset)
    folder, stays = folder or new_folder(spool or Settings.load().spool), folder is not None
    with files.storing("The rows cannot be written", folder):
        path, digest = files.write_by_content(
            folder,
            (_renamed(line, renaming) for line in dataset.lines()),
            lambda digest: f"{Path(dataset.name).stem}-{digest[:16]}.jsonl",
            fsync=False,
        )
    made = type(dataset)(
        path, dataset.name, dataset.container, dataset.source, digest, renaming.done()
    )
    if not stays:
        made.for_a_while()
    made.given = dataset
    if not required and not renaming.found:
        return dataset
    renaming.require_found()
    return made


def _renamed(line: Line, renaming: Renaming) -> bytes:
    if line.cut:
        raise DataError(f"Line {line.number} is longer than 64 MB.", hint="Split the example.")
    raw = line.body
    try:
        row = loads_strict(raw.decode()) if raw.strip() else None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        return line.raw + line.end
    before = line.raw[: len(line.raw) - len(raw)]  # a byte order mark
    renamed = renaming.row(row, line.number)
    return before + (raw if renamed is row else dumped(renamed).encode()) + line.end


def in_words(columns: Mapping[str, str]) -> str:
    """Return ``'question' is read as 'prompt', 'answer' as 'completion'``."""
    first, *others = ((quoted(column), quoted(key)) for column, key in columns.items())
    return ", ".join([f"{first[0]} is read as {first[1]}", *(f"{c} as {k}" for c, k in others)])


# A time, a number, a hash or a UUID.
_MARK = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ].*)?\Z|[\d.,:+-]+\Z|(?:[0-9a-f]{8,}-?)+\Z", re.IGNORECASE
)
_QUOTED = re.compile(r"'([^'\n]{1,80})'")


def users_path(path: str, columns: Mapping[str, str]) -> str:
    """Return a path in the user's own row of a path in a renamed one."""
    names = {key: column for column, key in columns.items()}
    key = re.split(r"[.\[]", path, maxsplit=1)[0]
    return path.replace(key, names[key], 1) if key in names else path


def users_words(text: str, columns: Mapping[str, str]) -> str:
    """Return a sentence about a renamed row with the user's names for the quoted keys in it."""
    names = {key: column for column, key in columns.items()}
    return _QUOTED.sub(lambda match: f"'{names.get(match[1], match[1])}'", text)


# -- what a finding offers ---------------------------------------------------------------------


def suggested(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a map that may be meant by the names of the columns of a row; empty if they say
    nothing. It is only ever shown."""
    texts = {normalized(name): name for name in _texts(row)}
    return _by_names(texts) or _by_names(_words(row)) or _by_names(texts | _numbers(row))


def _numbers(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns with a number that are called an answer, by their normalized names."""
    named = {normalized(name): name for name in row if type(row[name]) in (int, float)}
    return {key: name for key, name in named.items() if _TRANSLATED.get(key, key) in _ANSWERED}


def _words(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of all texts of a row by their last key, but those that are not the only
    ones of theirs."""
    names = [*_texts(row), *_texts(inside(row))]
    last = [normalized(name if name in row else name.rpartition(".")[2]) for name in names]
    return {key: name for key, name in zip(last, names, strict=True) if last.count(key) == 1}


def _by_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return the map that may be meant, of columns by their normalized names."""
    texts = {_TRANSLATED.get(name, name): column for name, column in names.items()}
    answer = next((texts[name] for name in _ANSWERED if name in texts), None)
    asked = next((texts[name] for name in _ASKED if texts.get(name) not in (None, answer)), None)
    if answer is None or asked is None:
        return {}
    if "answer" in texts and "sql" in texts:
        return {}
    if "instruction" in texts:
        beside = next((texts[name] for name in ("input", "context") if name in texts), None)
        more = {beside: "input"} if beside not in (None, answer) else {}
        return {texts["instruction"]: "instruction", **more, answer: "output"}
    if "context" in texts and texts["context"] != asked:
        return {asked: "instruction", texts["context"]: "input", answer: "output"}
    return {asked: "prompt", answer: "completion"}


def _texts(row: Mapping[str, Any]) -> list[str]:
    """Return the names of the columns with a text, except those of tools or the like as JSON."""
    return [
        name
        for name, value in row.items()
        if isinstance(value, str)
        and normalized(name.rpartition(".")[2]) not in ("tools", "functions", "id")
    ]


def offer(row: Mapping[str, Any], constant: Collection[str] = ()) -> str:
    """Return what a finding about a row of no format says of ``--map``; empty for one without
    texts. Columns whose names say nothing are offered if they may be asked and answered: they are
    not ``constant``, and no time or id."""
    row = {name: value for name, value in row.items() if name and is_plain(name)}
    within = {name: value for name, value in inside(row).items() if is_plain(name)}
    known = suggested(row)
    names = _offered(row)
    if not known and len(names) < 2 or not known.keys() <= row.keys():
        row |= within
        names = _offered(row)
    if known:
        left = ", ".join(quoted(name) for name in names if name not in known)
        unless = f" and {left} can be left out," if left else ""
        return f"If its columns mean what they are called,{unless} add {as_option(known)}"
    if len(names) < 2:
        return ""
    names = [name for name in names if name not in constant and not _MARK.match(str(row[name]))]
    if len(names) < 2:
        return ""
    # What its name says is asked is not offered as the answer.
    first = next((name for name in names if _is_asked(name)), names[0])
    second = next((name for name in names if name != first and not _is_asked(name)), "")
    if not second:
        return ""
    return f"Say which column is which, like {as_option({first: 'prompt', second: 'completion'})}"


def _is_asked(name: str) -> bool:
    plain = normalized(name.rpartition(".")[2])
    return _TRANSLATED.get(plain, plain) in _ASKED


def _offered(row: Mapping[str, Any]) -> list[str]:
    """Return the names of the columns that may be asked or answered."""
    return [name for name in _texts(row) if normalized(name.rpartition(".")[2]) not in _NO_TEXT]
