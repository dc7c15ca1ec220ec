"""A training file, read as rows with their line numbers.

Streams: memory does not grow with the file. Reads rows and nothing else: what makes a row good is
in ``validation``. The public class, which can also validate and convert, is ``dataset.Dataset``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

import msgspec

from finetune_gateway.data import containers, content
from finetune_gateway.data.column_names import with_path
from finetune_gateway.data.content import Content
from finetune_gateway.data.locations import existing, is_dataset, not_there, url_of
from finetune_gateway.data.memory import container_of_object, object_rows
from finetune_gateway.data.reading import Reading
from finetune_gateway.data.row_access import loads_strict
from finetune_gateway.data.streams import Stream, stream_of
from finetune_gateway.errors import DataError
from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.spool import new_folder, remove_with

Kind = Literal["chat", "preference", "unpaired_preference", "prompt_completion", "text", "unknown"]
Rows = Iterable[dict[str, Any]] | Mapping[str, Sequence[Any]]  # or a dict of columns
Bytes = IO[bytes] | IO[str] | bytes | bytearray | memoryview
Rewrite = Callable[[dict[str, Any]], dict[str, Any]]

BOM = b"\xef\xbb\xbf"
CHUNK = 1 << 20  # bytes read at a time
JSON_LINES = Content("jsonl", "")  # by the name of the file
_AS_LINES = (JSON_LINES, Content("jsonl"))  # they need not be written in UTF-8
MAX_LINE = 64 << 20  # bytes; a longer line is not a training example and would fill the memory


def _never(head: bytes) -> bool:
    return False


def _loads(raw: bytes) -> Any:
    """Return the value of a line that was checked, in half the time of ``json``."""
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:  # a number or a text that msgspec has no value for
        return json.loads(raw)


@dataclass(frozen=True)
class Line:
    """One line of a file: its number (from 1), offset and bytes, without the newline.

    ``cut``: it is longer than 64 MB, and ``raw`` only its beginning. ``flagged``: a detector may
    find something in its texts. ``leftovers``: an export may have left something half done in them.
    """

    number: int
    offset: int
    raw: bytes
    cut: bool = False
    end: bytes = b"\n"  # its line end
    flagged: bool = True
    leftovers: bool = True

    @property
    def body(self) -> bytes:
        """The bytes without a byte order mark, which may stand at the beginning of a file."""
        return self.raw.removeprefix(BOM) if self.number == 1 else self.raw


@dataclass(frozen=True)
class Row:
    """One parsed example and the line it came from."""

    line: int
    data: dict[str, Any]


class Dataset:
    """A JSONL file of examples.

    ``container``: the form the rows came in: jsonl, json-array, json-object, csv, excel, text,
    parquet, datasets-folder, datasets, pandas, polars, arrow, columns or rows; ``reading``: more.

    >>> Dataset.open("train.jsonl").fingerprint        # sha256 of the bytes
    >>> Dataset.open([{"messages": [...]}, ...])       # rows from memory, spooled to a file
    """

    def __init__(
        self,
        path: Path,
        name: str | None = None,
        container: str = "jsonl",
        source: Path | None = None,
        sha256: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        self.path = path
        self.sha256 = sha256  # of a copy: it was known when it was written
        self.name = name or path.name  # for messages
        self.container = container
        self.reading = reading or Reading(container)
        # The user's file, if they have one: a copy has a name, and its file is named too.
        self.source = source or (path if container == "jsonl" and name is None else None)
        # Called with the bytes read and the size of the file while lines are read.
        self.on_progress: Callable[[int, int], None] | None = None
        self._reads: Dataset | None = None  # whose file this is, while anything reads it
        self.given: Dataset | None = None  # with the user's own columns, if they were renamed

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        spool: Path | None = None,
        folder: Path | None = None,
    ) -> Self:
        """Open a path or a URL, an open file, bytes, or rows in memory: dicts, columns, a table.

        A file is read as what it holds, whatever its name; only one named ``.jsonl`` is taken at
        its word, so that a check says what is wrong with it.
        Other forms, and what can be read only once, are first written as JSON lines below ``spool``
        (default: the home folder), for as long as there is a Dataset that reads them. ``folder``:
        write them there instead, and leave them. Raises NotFoundError, DataError if it cannot be
        read, MissingDependency where the extra for its container or its store is not installed.
        """
        if isinstance(source, cls):
            return source
        if isinstance(source, Dataset):
            same = cls(source.path, source.name, source.container, source.source)
            same.reading, same._reads, same.given = source.reading, source, source.given
            return same
        held = JSON_LINES
        if isinstance(source, str | os.PathLike) and (_is_file(source) or url_of(source) is None):
            if source == "":
                raise DataError("The path of the data is empty.", hint="Name the JSONL file.")
            path = Path(source) if _is_file(source) else existing(Path(source))
            held = _content(path)
            if (not held.container or held in _AS_LINES) and path.is_file():
                reading = containers.reading_of(path, held) if held != JSON_LINES else None
                return cls(path, reading=reading)
        if folder is not None:
            return cls._written(source, folder, held)
        return cls._written(source, new_folder(spool or Settings.load().spool), held).for_a_while()

    @classmethod
    def _written(cls, source: Any, folder: Path, held: Content) -> Self:
        """Write to ``folder`` what is not a file of JSON lines."""
        if stream := stream_of(source, folder):
            return cls._streamed(stream, folder)
        if not isinstance(source, str | os.PathLike):
            reading = Reading(container_of_object(source), numbering="row")
            with closing(object_rows(source, reading.container, reading)) as rows:
                written, digest = containers.spooled(rows, folder, "rows", by_line=False)
            return cls(written, None, reading.container, sha256=digest, reading=reading)
        path = Path(source)
        if held.container and held not in _AS_LINES:
            return cls._of(containers.written(path, held, path, folder), path.name, path)
        copy = cls(path).copied(files.folder(folder))  # a pipe
        held = content.content_of(copy.path, path)
        copy.reading = containers.reading_of(path, held)
        if not held.container or held in _AS_LINES:
            return copy
        try:
            return cls._of(containers.written(copy.path, held, path, folder), path.name, path)
        finally:
            copy.path.unlink(missing_ok=True)

    @classmethod
    def _streamed(cls, stream: Stream, folder: Path) -> Self:
        name = Path(stream.name)
        with files.storing("The data cannot be written", folder), closing(stream.chunks) as chunks:
            path, digest = files.write_by_content(
                files.folder(folder),
                chunks,
                lambda digest: f"{name.stem[:40]}-{digest[:16]}{name.suffix[:12] or '.jsonl'}",
                fsync=False,
            )
        is_named = name.suffix.lower() in content.JSON_LINES
        held = JSON_LINES if is_named else content.content_of(path, name)
        if not held.container or held in _AS_LINES:
            reading = None if is_named else containers.reading_of(name, held)
            return cls(path, stream.name, "jsonl", stream.file, digest, reading)
        try:
            return cls._of(containers.written(path, held, name, folder), stream.name, stream.file)
        finally:
            path.unlink(missing_ok=True)

    @classmethod
    def _of(cls, written: tuple[Path, str, Reading], name: str, source: Path | None) -> Self:
        path, digest, reading = written
        return cls(path, name, reading.container, source, digest, reading)

    def by_content(self, spool: Path | None = None) -> Dataset:
        """Return the dataset of a file read as what it holds, even if its name promises JSON lines;
        this one if that is JSON lines, or nothing that is known."""
        if self.is_spooled or not self.path.is_file():
            return self
        held = content.content_of(self.path, Path(self.name))
        if held.container in ("jsonl", "", "text"):
            return self
        if held == Content("json-array"):  # --fix takes it from there
            return self
        folder = new_folder(spool or Settings.load().spool)
        written = containers.written(self.path, held, self._shown, folder)
        return self._of(written, self.name, self.source).for_a_while()

    def for_a_while(self) -> Self:
        """Remove the file when nothing reads it any more; return this dataset."""
        remove_with(self, self.path)
        return self

    @property
    def is_spooled(self) -> bool:
        """True if we have written the rows as JSON lines, so that blank lines are ours."""
        return self.container != "jsonl"

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self.path.stat().st_size

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the file as it is now, in hexadecimal."""
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def lines(self) -> Iterator[Line]:
        r"""Yield the lines, split at \n only: ``str.splitlines`` would also split at a raw U+2028
        inside a string. A line over 64 MB is cut, and the last one."""
        offset = number = reported = 0
        size = self.size if self.on_progress else 0
        with self.path.open("rb") as file:
            while raw := file.readline(MAX_LINE + 1):
                number += 1
                if len(raw) > MAX_LINE:
                    yield Line(number, offset, raw[:200], cut=True)
                    return
                body = raw.rstrip(b"\r\n")
                yield Line(number, offset, body, end=raw[len(body) :])
                offset += len(raw)
                if self.on_progress and offset - reported >= CHUNK:
                    reported = offset
                    self.on_progress(offset, size)

    def rows(self) -> Iterator[Row]:
        """Yield the rows; blank lines are skipped. Raises DataError at the first line that is not
        a JSON object; ``validate`` lists all of them."""
        for number, raw in self.examples():
            yield Row(number, self.parse(number, raw))

    def examples(self) -> Iterator[tuple[int, bytes]]:
        """Yield number and bytes of each line that is not blank, without a byte order mark. Raises
        DataError for rows that were not read for certain."""
        self.require_certain()
        for line in self.lines():
            if line.cut:
                raise self._refused(line.number, "is longer than 64 MB")
            if line.body.strip():
                yield line.number, line.body

    def require_certain(self) -> None:
        """Raise DataError if what was seen when the rows were read forbids their use."""
        for one in self.reading.observations.values():
            if one.blocks:
                where = f"line {one.lines[0]}: " if one.lines else ""
                fix = one.fix or "Run: ftg validate old.jsonl"
                hint = with_path(fix, self.source, self.reading.columns)
                raise DataError(f"{self._shown}: {where}{one.detail}.", hint=hint)

    def system_prompt(self) -> str | None:
        """Return the system prompt that all rows share, or None if they differ or have none."""
        prompt = SharedSystemPrompt()
        for row in self.rows():
            prompt.add(system_prompt_of(row.data))
            if not prompt.shared:
                break
        return prompt.text

    def copied(self, folder: Path, refused: Callable[[bytes], object] = _never) -> Self:
        """Return a copy of the file in ``folder``, named by its hash, with the same line numbers.

        Only what a check would read: nothing after a line of more than 64 MB, and no more than the
        beginning of a file that is ``refused`` by it. Raises StoreError when it cannot be written,
        DataError or NotFoundError when the file cannot be read any more.
        """
        path, digest = self._write(folder, self._readable(refused))
        return type(self)(path, self.name, self.container, self.source, digest, self.reading)

    def rewritten(self, folder: Path, rewrite: Rewrite) -> Dataset:
        """Return a copy in ``folder`` with each row of this copy, a validated one, rewritten.

        Raises StoreError when it cannot be written, DataError if this copy has changed.
        """
        path, digest = self._write(folder, self._rewritten(rewrite))
        return Dataset(path, self.name, "jsonl", self.source, digest)

    def _write(self, folder: Path, chunks: Iterable[bytes]) -> tuple[Path, str]:
        with files.storing(f"{self.source or self.path} cannot be copied", folder):
            # Not synced: most copies are for a while.
            return files.write_by_content(
                folder, chunks, lambda digest: f"{digest}.jsonl", fsync=False
            )

    def _chunks(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except FileNotFoundError:
            raise not_there(self._shown) from None
        except OSError as exc:
            raise DataError(
                f"{str(self._shown)!r} cannot be read: {exc.strerror or exc}.",
                hint="It was there a moment ago; check the path.",
            ) from None

    def _readable(self, refused: Callable[[bytes], object]) -> Iterator[bytes]:
        """Yield the chunks of the file as far as a check reads them."""
        unfinished, head = 0, b""  # unfinished: the bytes of the last line so far
        for chunk in self._chunks():
            yield chunk
            unfinished = len(chunk) - chunk.rfind(b"\n") - 1 + unfinished * (b"\n" not in chunk)
            if unfinished > MAX_LINE or (not head and refused(chunk)):
                return
            head = head or chunk

    def _rewritten(self, rewrite: Rewrite) -> Iterator[bytes]:
        """Yield the rewritten rows, many at once. msgspec writes one in a sixth of the time of
        ``json``."""
        digest = hashlib.sha256()
        mark = b"\xef\xbb\xbf"
        with self.path.open("rb") as file:
            while lines := file.readlines(CHUNK):
                digest.update(b"".join(lines))
                lines[0], mark = lines[0].removeprefix(mark), b""
                rows = [rewrite(_loads(line)) for line in lines if not line.isspace()]
                yield b"\n".join([*map(msgspec.json.encode, rows), b""])
        if digest.hexdigest() != self.sha256:
            raise DataError(
                f"The copy of {self.name} was changed while it was checked.",
                hint="Submit it again; nothing was sent.",
            )

    def parse(self, number: int, raw: bytes) -> dict[str, Any]:
        """Return the row of a line. Raises DataError if it is not a JSON object (RFC 8259)."""
        try:
            data = loads_strict(raw.decode())
        except (ValueError, RecursionError) as exc:
            raise self._refused(number, f"is not valid JSON: {str(exc)[:200]}") from None
        if not isinstance(data, dict):
            raise self._refused(number, "is not a JSON object")
        return data

    def _refused(self, number: int, why: str) -> DataError:
        hint = "Validate it: the report has all lines that are wrong."
        if self.source is not None:
            hint = f"Run: ftg validate {shlex.quote(str(self.source))}"
        return DataError(f"{self._shown}: line {number} {why}.", hint=hint)

    @property
    def _shown(self) -> Path:
        """The user's file, for messages; what has none has a name."""
        return self.source or Path(self.name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"on_progress": None}  # of this process

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r})"


Source = str | os.PathLike[str] | Bytes | Rows | Dataset


def _is_file(path: str | os.PathLike[str]) -> bool:
    """Return True for the path of a file that can be read, as most data are."""
    return os.path.isfile(path) and os.access(path, os.R_OK)


def _content(path: Path) -> Content:
    """Return what a file or folder is read as."""
    if path.is_dir():
        return Content("datasets-folder" if is_dataset(path) else "")
    if not path.is_file() or path.suffix.lower() in content.JSON_LINES:
        return JSON_LINES
    return content.content_of(path)


def kind_of(row: dict[str, Any]) -> Kind:
    """Return the kind of example a row is, by its keys."""
    keys = row.keys()
    sides = {"chosen", "rejected"} & keys  # one alone may be a mark of the answer beside it
    if {"preferred_output", "non_preferred_output"} & keys or len(sides) > ("messages" in keys):
        return "preference"
    if "messages" in keys:
        return "unpaired_preference" if "label" in keys else "chat"
    if "prompt" in keys and "completion" in keys:
        return "unpaired_preference" if "label" in keys else "prompt_completion"
    return "text" if "text" in keys else "unknown"


@dataclass(slots=True)
class SharedSystemPrompt:
    """The system prompt that all rows share: ``text``, None as soon as two differ or one has
    none."""

    text: str | None = None
    shared: bool = True

    def add(self, prompt: str | None) -> None:
        """Add the system prompt of one row."""
        self.shared = self.shared and prompt is not None and self.text in (None, prompt)
        self.text = prompt if self.shared else None

    def add_plain(self, roles: Sequence[tuple[str, ...]], texts: Sequence[str]) -> None:
        """Add rows given as the roles of each, and the texts of all of them in order."""
        place = 0
        for row_roles in roles if self.shared else ():
            if row_roles[0] != "system" or texts[place] != self.text:
                self.add(texts[place] if row_roles[0] == "system" else None)
            place += len(row_roles)

    def join(self, later: SharedSystemPrompt) -> None:
        """Add the rows of a later part of the file."""
        if later.text is not None or not later.shared:
            self.add(later.text)


def system_prompt_of(row: dict[str, Any]) -> str | None:
    """Return the system prompt of a chat row or a preference pair in OpenAI's form, if any."""
    pair_input = row.get("input")
    messages = (pair_input if isinstance(pair_input, dict) else row).get("messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    if not isinstance(first, dict) or first.get("role") not in ("system", "developer"):
        return None
    content = first.get("content")
    return content if isinstance(content, str) else None
