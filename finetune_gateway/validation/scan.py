"""One pass over a file, or a part of it, with all rules about files and rows.

Streams: memory does not grow with the file, except for 20 bytes a row to find repeated rows.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from finetune_gateway.data import formats
from finetune_gateway.data.canonical import read_as
from finetune_gateway.data.canonical_row import CanonicalRow
from finetune_gateway.data.dataset import Line, SharedSystemPrompt, kind_of, system_prompt_of
from finetune_gateway.data.formats import Format
from finetune_gateway.data.row_content import is_example, outline
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Defect, Report
from finetune_gateway.methods import in_words
from finetune_gateway.text.pii_phones import Regions
from finetune_gateway.text.regex import searcher
from finetune_gateway.tokens.counter import HostedCounter, RowCounter, TokenCounter
from finetune_gateway.tokens.local_counter import LocalCounter
from finetune_gateway.validation.collector import Findings
from finetune_gateway.validation.detectors import text_defects
from finetune_gateway.validation.duplicates import DuplicateFinder
from finetune_gateway.validation.fast_path import GROUP, FastPath, PlainRows, Prefilter
from finetune_gateway.validation.file_bytes import (
    FLAGGED,
    HEAD,
    Lines,
    OnProgress,
    Range,
    file_defect,
    read_line,
)
from finetune_gateway.validation.json import multiline
from finetune_gateway.validation.json.parsing import (
    BadLine,
    decode,
    decoded_defects,
    escape_defects,
    parse,
)
from finetune_gateway.validation.rows.formats import (
    chat_as_text,
    is_marked_text,
    not_object,
    other_format,
    row_defects,
    unknown_format,
)
from finetune_gateway.validation.rows.leftovers import HINTS, leftover_defects
from finetune_gateway.validation.rules import RULES, RuleSet

Json = dict[str, Any]

MAX_FILE = 512 << 20  # bytes; OpenAI's limit for a training file
_BATCH = 1024  # rows offered to the fast path at once: each step finds its tables in the cache
_CR, _last_byte = 13, itemgetter(-1)
_SPACE = b" \t\r\n"  # white space of JSON, so no form feed
_KEPT = 10  # line numbers kept of blank lines and of repeated rows


@dataclass(frozen=True, slots=True)
class Task:
    """A file, or a part of it, and what to check it for."""

    path: Path
    method: str
    backends: Mapping[str, RuleSet] | None
    max_context: int | None
    limit_words: str  # the words before the limit in a finding: "gpt-4.1 takes"
    counter: TokenCounter | None = None  # an empty one, for a process of its own
    near_duplicates: bool = True
    as_texts: bool = False  # the user has said that texts are trained as they are
    regions: Regions = ()  # whose national telephone numbers count
    first_format: str = ""  # of the first row, which is at ``first_line``; "" if that is not known
    first_line: int = 0
    part: Range = Range(0, sys.maxsize)
    last: bool = True


class NotSplittable(Exception):
    """The parts cannot be checked separately: a value or a limit spans them."""


class Scan:
    """One pass over a file, or over a part of it."""

    def __init__(
        self,
        task: Task,
        counter: RowCounter | None,
        on_row: Callable[[Json, int], None] | None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.task = task
        self.on_progress = on_progress
        self.findings = Findings(task.backends)
        self.counter = counter
        self.on_row = on_row
        plain = on_row is None and (counter is None or isinstance(counter, TokenCounter))
        self.fast_path = FastPath(task.method, task.regions) if plain else None
        self.format: Format | None = None
        self.format_line = 0
        self.rows = self.objects = self.lookaheads = 0
        self.ends: set[bytes] = set()
        self.blanks: list[int] = []
        self.blank_count = 0
        self.pushed_back: deque[Line] = deque()  # lines read ahead, to be read again
        self.duplicates = DuplicateFinder(task.near_duplicates)
        self.system_prompt = SharedSystemPrompt()
        self.batch = 1  # rows offered to the fast path; doubles as long as it takes all of them
        self.stopped = self.looking_ahead = False
        self.rows_before = int(task.part.start > 0)  # 1: there are rows before this part
        if self.rows_before:
            self._know_format()

    # -- the file --------------------------------------------------------------------------

    def read(self) -> None:
        """Check the beginning of the file, then each line."""
        with self.task.path.open("rb") as file:
            if self.task.part.start == 0 and not self._check_head(file.read(HEAD)):
                self.stopped = True
                return
            if self._may_be_plain():
                self._know_format()
            look = Prefilter(self.task.regions).flags_of
            self._check_lines(Lines(file.fileno(), self.task.part, self.on_progress, look))
        if self.task.part.stop == sys.maxsize:
            self.finish()

    def _know_format(self) -> None:
        """Take the format of the first row as known."""
        self.format = formats.by_name(self.task.first_format)
        self.format_line = self.task.first_line

    def _may_be_plain(self) -> bool:
        """Return True if nothing is said of the format of the first row, so that the fast path may
        take that too."""
        chat = formats.CHAT
        return self.task.first_format == chat.name and self.task.method in chat.methods

    def _check_head(self, head: bytes) -> bool:
        if defect := file_defect(head):
            self.findings.add(defect)
            return False
        size = self.task.path.stat().st_size
        if size > MAX_FILE:
            self.findings.add(Defect("file_too_large", detail=f"the file has {size} bytes"))
        return True

    def _check_lines(self, source: Lines) -> None:
        while not self.stopped:
            self._take_plain_rows(source)
            line = self._next_line(source)
            if line is None:
                return
            if line.cut:
                self.findings.add(Defect("line_too_long"), line.number)
                self.rows += 1
                self.stopped = True
            elif not self._check_line(line, source):
                self.stopped = True

    def _take_plain_rows(self, source: Lines) -> None:
        """Take rows by the fast path, up to the first that needs the full check."""
        if self.fast_path is None or self.format is not formats.CHAT or self.pushed_back:
            return
        while source.more() and source.chunk[source.at]:
            self._take_from_chunk(source, self.fast_path)
            if source.at < len(source.chunk):
                return

    def _take_from_chunk(self, source: Lines, fast_path: FastPath) -> None:
        """Take lines of the chunk by the fast path, up to the first that is flagged or that it does
        not take."""
        flagged = source.flags.find(FLAGGED, source.at)
        end = flagged if flagged >= 0 else len(source.chunk)
        while (at := source.at) < end:
            stop = min(at + self.batch, end)
            rows = fast_path.take(source.chunk[at:stop], source.flags[at:stop])
            count = self._count_plain(rows)
            self.system_prompt.add_plain(rows.roles[:count], rows.texts)
            source.at = taken = at + count
            numbers, offsets = source.numbers[at:taken], source.offsets[at:taken]
            self.duplicates.add_plain(rows.roles[:count], rows.texts, numbers, offsets)
            self._note_taken(source.chunk[at:taken])
            if taken < stop:
                self.batch = GROUP if count else 1
                return
            self.batch = min(2 * self.batch, _BATCH)

    def _count_plain(self, rows: PlainRows) -> int:
        """Count tokens; return the number of rows before the first that is too long."""
        if not isinstance(self.counter, TokenCounter):
            return len(rows.roles)
        limit = self.task.max_context
        return self.counter.add_plain(rows.roles, rows.texts, limit)

    def _note_taken(self, raws: Sequence[bytes]) -> None:
        if not raws:
            return
        self._report_blanks_before_row()
        for last in set(map(_last_byte, raws)):
            self.ends.add(b"\r\n" if last == _CR else b"\n")
        self.rows += len(raws)
        self.objects += len(raws)

    def _next_line(self, source: Iterator[Line]) -> Line | None:
        line = self.pushed_back.popleft() if self.pushed_back else next(source, None)
        if line is None and self.looking_ahead and not self.task.last:
            raise NotSplittable  # the value may go on in the next part
        return line

    def _check_line(self, line: Line, source: Iterator[Line]) -> bool:
        """Check one line; return False if the rest of the file cannot be read."""
        self.ends.add(line.end)
        raw = self._without_bom(line)
        if not raw.strip(_SPACE):
            self._note_blank(line.number)
            return True
        self._report_blanks_before_row()
        self.rows += 1
        try:
            text = decode(raw, line.offset + len(line.raw) - len(raw))
            value = parse(text)
        except BadLine as exc:
            return self._report_bad_line(exc, line, raw, source)
        self._check_value(value, text, raw, line)
        return True

    def _without_bom(self, line: Line) -> bytes:
        if len(line.body) < len(line.raw):
            self.findings.add(Defect("utf8_bom", detail="byte 0: a UTF-8 byte order mark"), 1)
        return line.body

    def _note_blank(self, number: int) -> None:
        self.blank_count += 1
        if len(self.blanks) < _KEPT:
            self.blanks.append(number)

    def _report_blanks_before_row(self) -> None:
        if self.blank_count:
            first = not self.rows + self.rows_before
            self._report_blanks("blank_line", "blank lines before the first row" if first else "")

    def _report_blanks(self, code: str, detail: str = "") -> None:
        for number in self.blanks:
            self.findings.add(Defect(code, detail=detail), number)
        if self.blank_count > len(self.blanks):
            self.findings.add(Defect(code), count=self.blank_count - len(self.blanks))
        self.blanks, self.blank_count = [], 0

    def _report_bad_line(
        self, exc: BadLine, line: Line, raw: bytes, source: Iterator[Line]
    ) -> bool:
        """Report a line that is not JSON, or the value of several lines that it begins."""
        if not exc.unfinished or self.lookaheads >= multiline.MAX_TRIES:
            self.findings.add(exc.defect, line.number)
            return True
        array = self.rows + self.rows_before == 1 and raw.lstrip().startswith(b"[")
        in_string = exc.unfinished == "string"
        self.looking_ahead = True
        span = multiline.look_ahead(
            line, raw, lambda: self._next_line(source), array=array, in_string=in_string
        )
        self.looking_ahead = False
        if span.defect is None:
            self.lookaheads += 1
            self.pushed_back.extendleft(reversed(span.lines))
        self.findings.add(span.defect or exc.defect, line.number)
        for defect, last in () if span.is_whole else multiline.early_end(self.task.path):
            self.findings.add(defect, last)
        return not array

    def join(self, later: Scan) -> None:
        """Add the results of the part that follows. Raises NotSplittable."""
        if not self.rows:
            raise NotSplittable  # the first row is in a later part
        if self.blank_count and later.rows:
            self._report_blanks("blank_line")
        self.lookaheads += later.lookaheads
        if self.lookaheads > multiline.MAX_TRIES or not self.findings.extend(later.findings):
            raise NotSplittable
        self.blanks = (self.blanks + later.blanks)[:_KEPT]
        self.blank_count += later.blank_count
        self.rows += later.rows
        self.objects += later.objects
        self.ends |= later.ends
        self.system_prompt.join(later.system_prompt)
        self.duplicates.extend(later.duplicates)
        self.stopped = later.stopped

    def finish(self) -> None:
        """Report what only the end of the file shows."""
        if self.stopped and not self.rows:
            return
        if not self.rows:
            self.findings.add(Defect("no_examples"))
        elif self.blank_count:
            self._report_blanks("trailing_blank_line")
        if {b"\n", b"\r\n"} <= self.ends:
            self.findings.add(Defect("mixed_line_endings"))
        if "chat_as_text" not in self.findings.met:  # each row is a message: "Yes." may come twice
            self._report_duplicates()

    def _report_duplicates(self) -> None:
        with self.task.path.open("rb") as file:
            groups = [*self.duplicates.first(partial(read_line, file.fileno()), _KEPT)]
        for exact, count, first in groups:
            code = "duplicates" if exact else "near_duplicates"
            rows = "1 row repeats" if count == 1 else f"{count} rows repeat"
            apart = "" if exact else ", apart from case and spaces"
            for line, earlier in first:
                detail = f"{rows} an earlier one{apart}; line {line} repeats line {earlier}"
                self.findings.add(Defect(code, detail=detail), line)
            if count > len(first):
                self.findings.add(Defect(code), count=count - len(first))

    # -- a row -----------------------------------------------------------------------------

    def _check_value(self, value: Any, text: str, raw: bytes, source: Line) -> None:
        line = source.number
        if not isinstance(value, dict):
            self.findings.add(not_object(value), line)
            return
        self.objects += 1
        row_format = formats.format_of(value)
        # For reinforcement a grader may have any key beside the messages.
        own = self.task.method == "reinforcement" and row_format is formats.CHAT
        unchanged = own or formats.is_unchanged(value, row_format)
        sent = CanonicalRow(value) if unchanged else read_as(value, row_format)
        offset = source.offset + len(source.raw) - len(raw)
        if row_format is not None and is_example(value, sent):
            self.duplicates.add([outline(value, sent)], [line], [offset])
        failed = False
        for defect in self._defects(value, row_format, sent, text, source):
            # That the method is another is no fault of the row.
            failed |= self.findings.add(defect, line) and defect.code != "method_mismatch"
        if not failed:
            self._count_row(value, sent.row, line)

    def _defects(
        self, row: Json, row_format: Format | None, sent: CanonicalRow, text: str, line: Line
    ) -> Iterator[Defect]:
        if line.flagged:  # for what the parser finds, too
            yield from escape_defects(text, row)
        if sent.row is not row and not sent.plain:
            yield from decoded_defects(text, sent)
        if row_format is None:
            yield unknown_format(row, self.format)
        else:
            yield from self._defects_by_format(row, row_format, sent, line.number)
        if line.flagged:
            # The marks of a template are not sent of a conversation in a text.
            texts = row_format is formats.TEXT and self.task.as_texts
            is_marked = row_format is formats.CHAT_TEXT or (texts and is_marked_text(row))
            marks = "special_tokens_in_text" if is_marked else ""
            found = text_defects(text, row, self.task.regions)
            yield from (one for one in found if one.code != marks)
        if line.leftovers and row_format is not None and searcher(*HINTS)(text):
            yield from leftover_defects(text, row, sent)

    def _defects_by_format(
        self, row: Json, row_format: Format, sent: CanonicalRow, line: int
    ) -> Iterator[Defect]:
        if self.format is None:
            self.format, self.format_line = row_format, line
            yield from self._first_row_defects(row, row_format, sent)
        if row_format is self.format:
            reinforcement = self.task.method == "reinforcement"
            yield from row_defects(row, row_format, sent, reinforcement=reinforcement)
            return
        joinable = bool(row_format.methods & self.format.methods) and not sent.errors
        yield other_format(row, row_format, line, self.format, self.format_line, joinable)

    def _first_row_defects(
        self, row: Json, row_format: Format, sent: CanonicalRow
    ) -> Iterator[Defect]:
        if row_format is formats.TEXT and (defect := chat_as_text(row, meant=self.task.as_texts)):
            yield defect
        elif row_format.note and all(error.code != "unknown_format" for error in sent.errors):
            yield Defect(row_format.note, detail=row_format.words)
        if self.task.method not in row_format.methods:
            name, method = row_format.name, self.task.method
            detail = f"the rows are in the format {name}, but the method is {method}"
            if row_format is formats.TEXT and self.task.method == "sft":
                detail += " (to train on the whole text, as TRL's sft does, is pretrain here)"
            fix = f"Use --method {in_words(row_format.methods)}."
            yield Defect("method_mismatch", detail=detail, fix=fix)

    def _count_row(self, row: Json, sent: Json, line: int) -> None:
        if self.on_row:
            self.on_row(row, line)
        self.system_prompt.add(system_prompt_of(sent))
        # Without a template, chats have no tokens here: that the method is another is said once.
        counter = self.counter
        is_local = isinstance(counter, LocalCounter)
        unread = is_local and self.task.method == "pretrain" and kind_of(sent) != "text"
        if not counter or unread:
            return
        try:
            if isinstance(counter, LocalCounter):
                counter.tell = partial(self.findings.add, line=line)
            # For reinforcement a row may be in another form than it is sent in.
            if isinstance(counter, HostedCounter) and self.task.method != "reinforcement":
                total = counter.add_sent(sent).total
            else:
                total = counter.add(sent).total
        except DataError as exc:  # a local model's template refuses the row
            self.findings.add(Defect("template_refuses", detail=exc.message, fix=exc.hint), line)
            return
        if self.task.max_context is not None and total > self.task.max_context:
            limit = f"{self.task.limit_words} {self.task.max_context:,}"
            detail = f"an example of {total:,} tokens, but {limit}"
            self.findings.add(Defect("example_too_long", detail=detail), line)

    def report(self, min_rows: int) -> Report:
        """Return the report; a job needs ``min_rows`` rows."""
        if self.objects and self.rows < min_rows:
            count = "1 row" if self.rows == 1 else f"{self.rows} rows"
            detail = f"{count}; a job needs at least {min_rows}"
            self.findings.add(Defect("too_few_examples", detail=detail))
        if isinstance(self.counter, LocalCounter):
            self.findings.reword("row_cut", detail=self.counter.cut_words())
        if "label_class" in self.findings.met:  # true and false are no labels of such a file
            self.findings.reword("label", fix=RULES["label_class"].fix)
        stats = self.counter.stats() if self.counter else None
        if stats and stats.rows and not stats.trained and self.task.method != "reinforcement":
            detail = f"none of {self.rows:,} rows has a token to train"
            self.findings.add(Defect("nothing_left", detail=detail))
        listed = self.findings.listed()
        return Report.model_construct(  # of our own values: see TokenCounter.stats
            ok=all(finding.severity != "error" for finding in listed),
            format=self.format.name if self.format else "unknown",
            kind=self.format.kind if self.format else "unknown",
            rows=self.rows,
            tokens=stats.summary() if stats else None,
            findings=listed,
        )
