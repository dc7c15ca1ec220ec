"""Check a dataset with all rules about files and rows, in one pass and by several processes.

Streams: memory does not grow with the file, except for 20 bytes a row to find repeated rows.
Never raises for what a file holds: everything wrong with it is a ``Finding`` in the ``Report``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice

from finetune_gateway.data import column_names, formats
from finetune_gateway.data.containers import TABLES
from finetune_gateway.data.dataset import Dataset, SharedSystemPrompt
from finetune_gateway.data.reading import OTHER_FILE
from finetune_gateway.findings import Defect, Finding, Report
from finetune_gateway.methods import usual_method
from finetune_gateway.settings import config
from finetune_gateway.text.pii import Regions
from finetune_gateway.tokens.counter import HostedCounter, RowCounter, TokenCounter
from finetune_gateway.tokens.local_counter import LocalCounter
from finetune_gateway.tokens.stats import TokenTotals
from finetune_gateway.validation import parallel
from finetune_gateway.validation.collector import Findings
from finetune_gateway.validation.fast_path import MAX_ROW, FastPath
from finetune_gateway.validation.file_bytes import Lines, OnProgress, Range, cut
from finetune_gateway.validation.json.parsing import BadLine, decode, parse
from finetune_gateway.validation.rows.formats import way_out
from finetune_gateway.validation.rules import RULES, RuleSet
from finetune_gateway.validation.scan import Json, NotSplittable, Scan, Task

MIN_ROWS = 10  # OpenAI's guide on supervised fine-tuning
_PARALLEL_BYTES = 20_000_000  # for smaller files another process costs more than it saves
_PARALLEL_BYTES_LOCAL = 1_000_000  # the same with a local template, which takes 30 times as long
_SAMPLED = 400  # lines of which the columns are looked at
_ROWS_A_VALUE = 20  # a column with fewer values than a row in so many is no answer
_REPEATS = ("duplicates", "near_duplicates")
_LINES_LEFT = "Nothing to do in a running text. Keep one of each if each line is a text by itself."
_FIRST_LINES = 10  # of which one tells the format
_FIRST_BYTES = 1 << 17  # searched before a process forks


def validate(
    dataset: Dataset,
    *,
    model: str | None = None,
    backends: Mapping[str, RuleSet] | None = None,
    method: str | None = None,
    counter: RowCounter | None = None,
    max_context: int | None = None,
    min_rows: int | None = None,
    on_row: Callable[[Json, int], None] | None = None,
    near_duplicates: bool = True,
    as_texts: bool = False,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
    system_prompt: SharedSystemPrompt | None = None,
    regions: Regions | None = None,
    codes: set[str] | None = None,
) -> Report:
    """Return a report on a dataset: what is wrong, where, why, and what to do.

    ``backends``: whose rules count, by ``rules_for`` (default: openai, azure and local).
    ``method``: what the rows are for (default: the usual one of the first row's format).
    ``counter`` and ``on_row`` get each row without errors, ``on_row`` with its line.
    ``max_context``: tokens an example may have; needs a ``counter``.
    ``min_rows``: examples a job needs (default 10).
    ``near_duplicates``: also find rows that differ only in case and white space. ``as_texts``: the
    user has said that texts are trained as they are, chat templates in them included. ``workers``:
    processes for a large file (default: one per processor, at most 4); their number does not
    change the report. ``on_progress`` is called with the bytes read and the size of the file;
    with several processes, from the progress of the first. ``system_prompt`` gets the system
    prompts of the rows without errors. ``regions``: whose national telephone numbers count as
    personal data (default: those of the user's settings). ``codes`` gets the rules that were
    broken, also those that do not count for these backends.
    """
    is_other = (OTHER_FILE, "") in dataset.reading.observations  # its lines say nothing
    task = Task(
        dataset.path,
        method or method_of(dataset),
        backends,
        max_context,
        limit_words=f"{model} takes" if model else "the limit is",
        near_duplicates=near_duplicates,
        as_texts=as_texts,
        part=Range(0, 0 if is_other else sys.maxsize, gaps=dataset.is_spooled),
        regions=config.pii_regions() if regions is None else regions,
    )
    first_format, first_line = _first_format(task)
    task = replace(task, first_format=first_format, first_line=first_line)
    _choose_engine(task, counter)
    scan = None
    if on_row is None and (counter is None or isinstance(counter, TokenCounter)):
        scan = _scan_in_parallel(task, counter, workers, on_progress)
    if scan is None:
        scan = Scan(task, counter, on_row, on_progress)
        scan.read()
    if isinstance(counter, HostedCounter):
        counter.text.note_bytes_read(task.path.stat().st_size)
    if system_prompt is not None:
        system_prompt.join(scan.system_prompt)
    report = scan.report(MIN_ROWS if min_rows is None else min_rows)
    if codes is not None:
        codes |= scan.findings.met | {one.code for one in dataset.reading.observations.values()}
    findings = of_users_columns(report.findings, dataset.reading.columns)
    report = report.model_copy(update={"findings": findings})
    report = _with_reading(report, dataset, backends)
    if dataset.container == "text":
        report = _with_lines_left(report)
    return report.model_copy(update={"findings": with_path(report.findings, dataset)})


def with_path(findings: list[Finding], dataset: Dataset) -> list[Finding]:
    """Return findings whose advice names the user's file in its commands."""
    source, columns = dataset.source, dataset.reading.columns
    if source is None or not any("old.jsonl" in one.fix for one in findings):
        return findings
    return [
        one.model_copy(update={"fix": column_names.with_path(one.fix, source, columns)})
        for one in findings
    ]


def _with_reading(
    report: Report, dataset: Dataset, backends: Mapping[str, RuleSet] | None
) -> Report:
    """Return the report with what was seen when the rows were read from another container."""
    reading, kept = dataset.reading, report.findings
    names = dict.fromkeys(reading.header, "")
    if any(one.code == "unknown_format" and "like --map" in one.fix for one in kept):
        kept = _without_constants(kept, dataset)
        report = report.model_copy(update={"findings": kept})
    if not reading.observations:
        return report
    if reading.container in TABLES:  # a text stands for a row that was not read, which is said here
        kept = [one for one in kept if one.code != "row_not_object"]
    if reading.header and not reading.columns:  # a row of a table lacks the columns without a value
        fix = way_out(names, _constants(dataset))
        named = {"unknown_format": {"fix": fix}} if fix else {}
        kept = [one.model_copy(update=named.get(one.code)) for one in kept]
    findings = Findings(backends)
    for one in reading.observations.values():
        defect = Defect(one.code, one.path, one.detail, one.fix)
        for line in one.lines:
            findings.add(defect, line)
        if one.count > len(one.lines):
            findings.add(defect, count=one.count - len(one.lines))
    report = report.model_copy(update={"findings": kept})
    return report.with_quality(findings.listed(), report.quality)


def _with_lines_left(report: Report) -> Report:
    """Return the report on a plain text with other advice on lines that repeat an earlier one: what
    stands between them may need them."""
    findings = [
        one.model_copy(update={"fix": _LINES_LEFT}) if one.code in _REPEATS else one
        for one in report.findings
    ]
    return report.model_copy(update={"findings": findings})


def _without_constants(findings: list[Finding], dataset: Dataset) -> list[Finding]:
    """Return findings that offer no column as question or answer that has few values."""
    constant = _constants(dataset)
    first = next((row for row in _first_rows(dataset) if formats.format_of(row) is None), None)
    if not constant or first is None:
        return findings
    fix = way_out(first, constant) or RULES["unknown_format"].fix
    return [
        one.model_copy(update={"fix": fix}) if "like --map" in one.fix else one for one in findings
    ]


def _constants(dataset: Dataset) -> frozenset[str]:
    """Return the columns with few values in the first rows: a level, the name of a stream."""
    # Imported here: most files have the keys of their format.
    from finetune_gateway.data.columns import inside

    rows = [*_first_rows(dataset)]
    values: dict[str, set[str]] = {}
    for row in rows:
        for name, value in (inside(row) | row).items():
            values.setdefault(name, set()).add(str(value))
    few = 1 + len(rows) // _ROWS_A_VALUE
    return frozenset(
        name for name, found in values.items() if len(rows) >= MIN_ROWS and len(found) <= few
    )


def _first_rows(dataset: Dataset) -> Iterator[dict[str, object]]:
    """Yield those of the first lines that are rows."""
    for line in islice(dataset.lines(), _SAMPLED):
        try:
            row = None if line.cut else parse(decode(line.body, line.offset))
        except BadLine:
            continue
        if isinstance(row, dict):
            yield row


def of_users_columns(findings: list[Finding], columns: Mapping[str, str]) -> list[Finding]:
    """Return the findings about renamed rows with the user's names of columns."""
    if not columns:
        return findings
    # Imported here: most files have the keys of their format.
    from finetune_gateway.data.columns import users_path, users_words

    return [
        one.model_copy(
            update={
                "path": users_path(one.path, columns),
                "message": users_words(one.message, columns),
                "fix": users_words(one.fix, columns),
            }
        )
        for one in findings
    ]


def method_of(dataset: Dataset) -> str:
    """Return the method that the first readable row of a file is usually for; ``sft`` if none of
    the first lines is a row."""
    for line in islice(dataset.lines(), _FIRST_LINES):
        if line.cut or not line.body.strip():
            continue
        try:
            return usual_method_of(parse(decode(line.body, line.offset)))
        except BadLine:
            continue
    return "sft"


def usual_method_of(row: object) -> str:
    """Return the method that a row is usually for; ``sft`` for what is no row."""
    row_format = formats.format_of(row) if isinstance(row, dict) else None
    return usual_method(row_format.kind) if row_format else "sft"


def _choose_engine(task: Task, counter: RowCounter | None) -> None:
    """Choose how the plain rows of a file are counted: only chat rows are."""
    if isinstance(counter, HostedCounter) and task.first_format == formats.CHAT.name:
        counter.text.choose_engine(task.path.stat().st_size)


def _scan_in_parallel(
    task: Task,
    counter: TokenCounter | None,
    workers: int | None,
    on_progress: OnProgress | None,
) -> Scan | None:
    """Scan the parts of a file in several processes; None if one process has to do it."""
    size = task.path.stat().st_size
    minimum = _PARALLEL_BYTES_LOCAL if isinstance(counter, LocalCounter) else _PARALLEL_BYTES
    if size < minimum:
        return None
    if workers is None:
        workers = parallel.count_workers()
    if workers < 2 or not task.first_format:
        return None
    with task.path.open("rb") as file:
        parts = cut(file.fileno(), size, workers)
    tasks = [
        replace(
            task,
            counter=counter and counter.fresh(),
            part=replace(part, gaps=task.part.gaps),
            last=part is parts[-1],
        )
        for part in parts
    ]
    _prepare_searches(task)
    here = partial(_scan_part, on_progress=_scaled(on_progress, size, len(parts)))
    with closing(parallel.each(_scan_part, tasks, here)) as results:
        try:
            # islice: asking for one more would wait until the processes have ended.
            scan, totals = _join(list(islice(results, len(tasks))))
        except (NotSplittable, parallel.WorkerDied):
            return None
        scan.counter = counter
        for part_totals in totals:
            if counter:
                counter.totals().extend(part_totals)
        scan.finish()
    return scan


def _prepare_searches(task: Task) -> None:
    """Search the first lines as each process will. What is compiled for that, and the states that
    the engine adds while it reads, take 35 ms, which forks have for nothing then."""
    with task.path.open("rb") as file:
        lines = file.read(_FIRST_BYTES).splitlines()
    FastPath(task.method, task.regions).take(lines)


def _scaled(on_progress: OnProgress | None, size: int, parts: int) -> OnProgress | None:
    """Scale one worker's progress to the whole file."""
    if on_progress is None:
        return None
    return lambda done, _: on_progress(min(done * parts, size), size)


def _first_format(task: Task) -> tuple[str, int]:
    """Return the name of the first row's format, which every part has to know, and the row's line;
    no name if it is no row of a known format, or a very long one, which would take long to read
    twice."""
    with task.path.open("rb") as file:
        lines = Lines(file.fileno(), task.part)
        first = next((line for line in lines if line.cut or line.raw.strip()), None)
    if first is None or first.cut or len(first.raw) > MAX_ROW:
        return "", 0
    try:
        row = parse(decode(first.body, first.offset))
    except BadLine:
        return "", 0
    row_format = formats.format_of(row) if isinstance(row, dict) else None
    return (row_format.name, first.number) if row_format else ("", 0)


def _scan_part(task: Task, on_progress: OnProgress | None = None) -> tuple[Scan, TokenTotals]:
    """Scan one part in a process of its own. The result can be pickled."""
    counter = task.counter
    _choose_engine(task, counter)
    scan = Scan(task, counter, None, on_progress)
    scan.read()
    scan.counter = scan.fast_path = scan.on_progress = None
    scan.task = replace(task, counter=None)
    return scan, counter.totals() if counter else TokenTotals()


def _join(parts: list[tuple[Scan, TokenTotals]]) -> tuple[Scan, list[TokenTotals]]:
    whole, totals = parts[0][0], [parts[0][1]]
    for later, later_totals in parts[1:]:
        if whole.stopped:
            break
        whole.join(later)
        totals.append(later_totals)
    return whole, totals
