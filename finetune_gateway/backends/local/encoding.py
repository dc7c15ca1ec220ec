"""Rows as columns of token ids and labels, as each method of training takes them.

===================  ============================================================================
sft                  ``input_ids`` and ``labels`` (-100: not trained)
pretrain             the same, of pieces of texts; all is trained but the first token of a piece
dpo, orpo, reward    ``chosen_ids``, ``chosen_labels``, ``rejected_ids``, ``rejected_labels``: whole
                     sequences, with labels where the two are compared
kto                  as sft, with ``label`` and ``prompt_length``, the index of the first label
===================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal

import pyarrow as pa

from finetune_gateway.backends.local.encoded_cache import EncodedCache, key_of
from finetune_gateway.backends.local.row_table import RowTable
from finetune_gateway.backends.local.run import Run
from finetune_gateway.data.dataset import Dataset, kind_of
from finetune_gateway.errors import DataError
from finetune_gateway.tokens.chat_template import IGNORED, ChatTemplate, Encoded, ways_in_words
from finetune_gateway.tokens.text_tokenizer import TextTokenizer, pieces
from finetune_gateway.tokens.training_rows import cut_row, encode_row

BATCH_ROWS = 1000  # rows of an Arrow batch
MAX_LINES = 20  # lines of dropped rows that are named
PAIRS = ("dpo", "orpo", "reward")
SEQUENCE = {"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())}
PAIR = {
    f"{side}_{part}": pa.list_(pa.int32())
    for side in ("chosen", "rejected")
    for part in ("ids", "labels")
}
UNPAIRED = {**SEQUENCE, "label": pa.bool_(), "prompt_length": pa.int32()}


@dataclass(frozen=True)
class EncodedRows:
    """Rows ready to train, and counts of them over all their sequences."""

    rows: RowTable
    tokens: int
    trained: int  # tokens with a label, per epoch
    truncated: int  # sequences cut at max_length
    dropped: int  # rows left out because nothing in them is trained, or nothing is to compare
    given: int  # rows of the file, with those left out; of texts their pieces


@dataclass
class Counts:
    """What is counted while rows are encoded."""

    tokens: int = 0
    trained: int = 0
    truncated: int = 0
    dropped: int = 0
    texts: int = 0  # of pretrain: they are packed into fewer rows, or cut into more
    dropped_lines: list[int] = field(default_factory=list)  # the first of them
    notes: list[str] = field(default_factory=list)  # what the rows need of their template

    def drop(self, line: int) -> None:
        self.dropped += 1
        if len(self.dropped_lines) < MAX_LINES:
            self.dropped_lines.append(line)


def encode_rows(
    run: Run, dataset: Dataset, source: ChatTemplate | TextTokenizer, max_length: int
) -> EncodedRows:
    """Return the rows as the method of the run takes them, by ``training_rows.encode_row``, which
    counts and previews use too. Those that are left out are counted, and their lines named.

    What was encoded before is read from the home folder: ids and counts are the same. Raises
    GatewayError for rows that are not those of the submit, DataError with the line that the
    template refuses, or if no row is left.
    """
    spec = run.spec
    settings = {"method": spec.method, "train_on": spec.train_on, "max_length": max_length}
    key = key_of(source, run.file.created_at, settings)
    kept = EncodedCache(run.settings, run.content_of(dataset), key)
    found = kept.read()
    if found is None:
        counts = Counts()
        if spec.method == "pretrain":
            table = _packed(run, dataset, source, max_length, counts)
        else:
            table = _table(_rows(run, dataset, source, max_length, counts), _columns(spec.method))
        run.content_of(dataset)  # nor was it changed while it was read
        if table.num_rows:
            kept.write(table, asdict(counts))
    else:
        table, counts = found[0], Counts(**found[1])
    if not table.num_rows:
        raise _nothing_left(spec.method, dataset, max_length)
    for text in counts.notes:
        run.event(f"{dataset.name}: {text}")
    _report(run, dataset, table.num_rows, counts)
    rows = RowTable(table.replace_schema_metadata(None))
    left_out = 0 if spec.method == "pretrain" else counts.dropped
    return EncodedRows(
        rows,
        tokens=counts.tokens,
        trained=counts.trained,
        truncated=counts.truncated,
        dropped=counts.dropped,
        given=len(rows) + left_out,
    )


def _rows(
    run: Run,
    dataset: Dataset,
    source: ChatTemplate | TextTokenizer,
    max_length: int,
    counts: Counts,
) -> Iterator[dict[str, Any]]:
    """Yield the rows that are trained: conversations, pairs and unpaired answers."""
    switches = source.chat_template_kwargs if isinstance(source, ChatTemplate) else {}
    for row in dataset.rows():
        run.check()
        pair = kind_of(row.data) == "preference"
        try:
            found = encode_row(source, row.data, train_on=run.spec.train_on)
        except DataError as exc:
            raise DataError(
                f"{dataset.name} line {row.line}: {exc.message}", hint=exc.hint
            ) from None
        new = [text for text in ways_in_words(found, switches) if text not in counts.notes]
        counts.notes += new
        sequences = cut_row(found, max_length, pair=pair)
        counts.truncated += sum(one.truncated for one in sequences)
        for one in [sequences] if pair else ([one] for one in sequences):
            if not one[0].trained:
                counts.drop(row.line)
                continue
            counts.tokens += sum(len(part.input_ids) for part in one)
            counts.trained += sum(part.trained for part in one)
            yield _pair(*one) if pair else _single(one[0], row.data)


def _single(one: Encoded, row: dict[str, Any]) -> dict[str, Any]:
    columns: dict[str, Any] = {"input_ids": one.input_ids, "labels": one.labels}
    if "label" not in row:
        return columns
    first = next(at for at, label in enumerate(one.labels) if label != IGNORED)
    return {**columns, "label": bool(row["label"]), "prompt_length": first}


def _pair(chosen: Encoded, rejected: Encoded) -> dict[str, Any]:
    return {
        "chosen_ids": chosen.input_ids,
        "chosen_labels": chosen.labels,
        "rejected_ids": rejected.input_ids,
        "rejected_labels": rejected.labels,
    }


def _packed(
    run: Run,
    dataset: Dataset,
    source: ChatTemplate | TextTokenizer,
    max_length: int,
    counts: Counts,
) -> pa.Table:
    """Return all texts, one after another, as pieces of ``max_length`` tokens."""

    def texts() -> Iterator[list[int]]:
        for row in dataset.rows():
            run.check()
            [text] = encode_row(source, row.data)
            if not text.input_ids:
                counts.drop(row.line)
            counts.texts += bool(text.input_ids)
            yield text.input_ids

    def rows() -> Iterator[dict[str, Any]]:
        for ids in pieces(texts(), max_length):
            if len(ids) > 1:  # one alone, at the end: nothing comes before it
                counts.tokens += len(ids)
                counts.trained += len(ids) - 1
                yield {"input_ids": ids, "labels": [IGNORED, *ids[1:]]}

    return _table(rows(), SEQUENCE)


def _columns(method: str) -> dict[str, pa.DataType]:
    if method in PAIRS:
        return PAIR
    return UNPAIRED if method == "kto" else SEQUENCE


def _table(rows: Iterator[dict[str, Any]], columns: dict[str, pa.DataType]) -> pa.Table:
    """Return rows as a table, 4 bytes per token: Python's numbers take nine times that."""
    schema, batches = pa.schema(list(columns.items())), []
    while some := list(islice(rows, BATCH_ROWS)):
        batches.append(pa.RecordBatch.from_pylist(some, schema=schema))
    return pa.Table.from_batches(batches, schema)


def _nothing_left(method: str, dataset: Dataset, max_length: int) -> DataError:
    """Return the error of a file of which nothing can be trained."""
    if method == "pretrain":
        return DataError(f"{dataset.name}: no row has a text.", hint="Check the key text.")
    if method in PAIRS:
        return DataError(
            f"{dataset.name}: no pair has anything to compare within {max_length} tokens.",
            hint="Raise max_length, or check that the two answers of a row differ.",
        )
    return DataError(
        f"{dataset.name}: no row has a token to train after cutting at {max_length} tokens.",
        hint="Raise max_length, or check the weights of the messages.",
    )


def _report(run: Run, dataset: Dataset, rows: int, counts: Counts) -> None:
    """Say how many rows there are, and which were left out."""
    data: dict[str, Any] = {
        "file": dataset.name,
        "rows": rows,
        "tokens": counts.tokens,
        "trained_tokens_per_epoch": counts.trained,
        "truncated_rows": counts.truncated,
        "dropped_rows": counts.dropped,
        "dropped_lines": counts.dropped_lines,
    }
    kind = "pair" if run.spec.method in PAIRS else "row"
    size = _several(rows, kind)
    if counts.texts:
        size = f"{_several(counts.texts, 'text')} in {_several(rows, 'piece')}"
    text = f"{dataset.name}: {size}, {counts.tokens} tokens, {counts.trained} trained per epoch"
    if counts.truncated or counts.dropped:
        cut = _several(counts.truncated, "sequence" if kind == "pair" else "row")
        why = "nothing to compare" if kind == "pair" else "nothing to train"
        text += (
            f"; {cut} cut at max_length, {_several(counts.dropped, kind)} dropped "
            f"({why}{_lines(counts)})"
        )
    level: Literal["warn", "info"] = "warn" if counts.truncated or counts.dropped else "info"
    run.event(text + ".", level=level, data=data)


def _several(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _lines(counts: Counts) -> str:
    """Return ``: lines 3, 9`` of the rows that were dropped; empty if none was."""
    named = [str(line) for line in dict.fromkeys(counts.dropped_lines)]
    more = ", ..." if counts.dropped > len(counts.dropped_lines) else ""
    return f": line{'s' * (len(named) > 1)} {', '.join(named)}{more}" if named else ""
