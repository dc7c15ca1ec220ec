"""Rows as columns of ids and labels: of each method, kept by content, the same from the disk."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.backends.local.encoded_cache import code_sha256, dates, key_of
from finetune_gateway.backends.local.encoding import EncodedRows, encode_rows
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.row_table import RowTable
from finetune_gateway.backends.local.run import Run, write_json
from finetune_gateway.backends.local.run_file import RunFile
from finetune_gateway.errors import DataError
from finetune_gateway.estimation.batch_plan import plan_batches
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.chat_template import IGNORED, ChatTemplate
from finetune_gateway.tokens.text_tokenizer import TextTokenizer
from finetune_gateway.tokens.training_rows import encode_row

Row = dict[str, Any]


def a_run(home: Path, rows: list[Row], method: Any = "sft", **options: Any) -> Run:
    """A run of its own on these rows; nothing trains it."""
    settings = Settings(home).create()
    name = f"run-{len(list(settings.runs.glob('*')))}"
    folder = settings.runs / name
    (folder / "data").mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / "train.jsonl").write_text(lines, "utf-8")
    spec = TrainingSpec.build(model="builtin/tiny", method=method, **options)
    file = RunFile(job_id=name, spec=spec, train_sha256="", versions={}, created_at=time.time())
    write_json(folder / "run.json", file.model_dump(mode="json"))
    Queue(settings).add(name)
    return Run(settings, name, 0)


def told(run: Run) -> list[Row]:
    """What the run has said, without what tells two runs apart."""
    lines = (run.folder / "events.jsonl").read_text("utf-8").splitlines()
    return [
        {name: json.loads(line)[name] for name in ("message", "level", "data")} for line in lines
    ]


def pair(good: str, bad: str) -> Row:
    return {
        "input": {"messages": [{"role": "user", "content": "Where is my parcel?"}]},
        "preferred_output": [{"role": "assistant", "content": good}],
        "non_preferred_output": [{"role": "assistant", "content": bad}],
    }


def unpaired(answer: str, label: bool) -> Row:
    return {
        "messages": [
            {"role": "user", "content": "Where is my parcel?"},
            {"role": "assistant", "content": answer},
        ],
        "label": label,
    }


ROWS: dict[str, list[Row]] = {
    "sft": chat_rows(6),
    "dpo": [pair("On Tuesday.", "No idea."), pair("Same.", "Same."), pair("Yes", "Yes, now")],
    "kto": [unpaired("On Tuesday.", True), unpaired("No idea.", False)],
    "pretrain": [{"text": "It is here. " * 9}, {"text": ""}, {"text": "It comes on Tuesday."}],
}
LIMIT = 32


@pytest.fixture
def template(tiny_tokenizer: Path) -> ChatTemplate:
    return ChatTemplate.load(tiny_tokenizer)


def columns(found: EncodedRows) -> dict[str, list[Any]]:
    return {name: found.rows[name][:] for name in found.rows.column_names}


# -- the columns of each method ------------------------------------------------------------


def test_the_columns_of_pairs(home: Path, template: ChatTemplate) -> None:
    """Whole sequences, labels where they differ; an equal pair is left out and named."""
    run = a_run(home, ROWS["dpo"], "dpo")
    found = encode_rows(run, run.train, template, LIMIT)
    wanted = [encode_row(template, ROWS["dpo"][at]) for at in (0, 2)]
    assert columns(found) == {
        "chosen_ids": [chosen.input_ids for chosen, _ in wanted],
        "chosen_labels": [chosen.labels for chosen, _ in wanted],
        "rejected_ids": [rejected.input_ids for _, rejected in wanted],
        "rejected_labels": [rejected.labels for _, rejected in wanted],
    }
    every = [one for sides in wanted for one in sides]
    assert found.tokens == sum(one.length for one in every)
    assert found.trained == sum(one.trained for one in every)
    assert (found.truncated, found.dropped) == (0, 1)
    [said] = told(run)
    assert "1 pair dropped (nothing to compare: line 2)" in said["message"]
    assert said["data"]["dropped_lines"] == [2] and said["level"] == "warn"


def test_the_columns_of_unpaired_rows(home: Path, template: ChatTemplate) -> None:
    run = a_run(home, ROWS["kto"], "kto")
    found = columns(encode_rows(run, run.train, template, LIMIT))
    assert found["label"] == [True, False]
    for ids, labels, length in zip(
        found["input_ids"], found["labels"], found["prompt_length"], strict=True
    ):
        assert set(labels[:length]) == {IGNORED} and labels[length] == ids[length]
        assert ids[:length] == template.prompt_ids(ROWS["kto"][0]["messages"][:1])


def test_texts_are_packed_into_pieces(home: Path, tiny_tokenizer: Path) -> None:
    """By the tokenizer alone; all but the first token of a piece is trained, an empty text left
    out."""
    texts = TextTokenizer.load(tiny_tokenizer)
    run = a_run(home, ROWS["pretrain"], "pretrain")
    found = encode_rows(run, run.train, texts, LIMIT)
    stream = [id for row in ROWS["pretrain"] for id in texts.ids(row["text"])]
    parts = [stream[at : at + LIMIT] for at in range(0, len(stream), LIMIT)]
    assert len(parts) > 1
    assert columns(found) == {
        "input_ids": parts,
        "labels": [[IGNORED, *part[1:]] for part in parts],
    }
    assert (found.tokens, found.trained) == (len(stream), len(stream) - len(parts))
    [said] = told(run)
    assert f"2 texts in {len(parts)} pieces" in said["message"]
    assert said["data"]["dropped_lines"] == [2]
    short = encode_rows(run, run.train, texts, len(stream) - 1)  # a token alone trains nothing
    assert columns(short)["input_ids"] == [stream[:-1]]


@pytest.mark.parametrize(
    ("method", "rows", "words"),
    [
        ("dpo", [pair("Same.", "Same.")], "no pair has anything to compare"),
        ("pretrain", [{"text": ""}], "no row has a text"),
        ("kto", [unpaired("word " * 50, True)], "no row has a token to train"),
    ],
)
def test_a_file_of_which_nothing_is_left(
    home: Path, template: ChatTemplate, method: str, rows: list[Row], words: str
) -> None:
    """The error says so, each time; nothing is kept."""
    run = a_run(home, rows, method)
    for _ in range(2):
        with pytest.raises(DataError, match=words):
            encode_rows(run, run.train, template, 8)
    assert not run.settings.encoded.exists()


def test_a_row_that_the_template_refuses_is_named(home: Path, template: ChatTemplate) -> None:
    run = a_run(home, [pair("a", "b"), {**pair("a", "b"), "preferred_output": "x"}, {}], "dpo")
    with pytest.raises(DataError, match=r"train\.jsonl line 3"):
        encode_rows(run, run.train, template, LIMIT)


@pytest.mark.usefixtures("tiny_at_home")
@pytest.mark.parametrize("method", ROWS)
def test_what_is_counted_is_what_is_trained(
    home: Path, template: ChatTemplate, method: str
) -> None:
    """The counter's tokens, the plan's trained tokens and steps, and the tokens that a preview
    marks are those of the columns."""
    rows = [*ROWS[method], *(ROWS[method][:1] * 9)]
    run = a_run(home, rows, method, max_length=LIMIT, n_epochs=1)
    found = encode_rows(run, run.train, template, LIMIT)
    backend = LocalBackend()
    counter = backend.counter(run.spec)
    for row in rows:
        counter.add(row)
    stats = counter.stats()
    plan = plan_batches(run.spec, stats, LIMIT)
    assert plan.trained.low == plan.trained.expected == found.trained
    assert plan.steps == -(-len(found.rows) // 8)
    words = backend.estimate(run.spec, stats).assumptions
    unit = {"dpo": "pair", "pretrain": "piece"}.get(method, "row")
    assert any(f"Memory: one {unit} at a time" in one for one in words)
    previews = [backend.preview_renderer(run.spec).preview(row) for row in rows]
    ids = [token.id for one in previews for token in one.tokens if token.trained]
    labels = [
        id
        for row in found.rows
        for name in ("labels", "chosen_labels", "rejected_labels")
        for id in row.get(name, ())
    ]
    if method == "pretrain":  # the first token of a piece has no label
        assert ids == [id for row in found.rows for id in row["input_ids"]]
        assert labels.count(IGNORED) == len(found.rows)
    else:
        assert ids == [id for id in labels if id != IGNORED]


@pytest.mark.usefixtures("tiny_at_home")
def test_a_check_says_what_training_leaves_out(home: Path) -> None:
    """A pair whose difference is beyond the limit, and no text: texts are cut into pieces."""
    long = "It comes by noon, as we said when you asked us yesterday. " * 2
    rows = [*ROWS["dpo"][:1] * 10, pair(long + "Yes.", long + "No.")]
    report = gateway.validate(
        rows, model="builtin/tiny", backend="local", method="orpo", max_length=LIMIT
    )
    assert {(one.code, one.line) for one in report.warnings} == {
        ("row_cut", 11),
        ("nothing_to_compare", 11),
        ("duplicates", 2),
    }
    [cut] = [one for one in report.warnings if one.code == "row_cut"]
    assert cut.message.startswith("2 of 22 sequences are longer than 32 tokens")
    texts = [{"text": f"{number}: {long}"} for number in range(10)]
    report = gateway.validate(
        texts, model="builtin/tiny", backend="local", method="pretrain", max_length=LIMIT
    )
    assert report.ok and not report.warnings and report.tokens is not None
    assert report.tokens["trained"] == report.tokens["total"]


# -- kept by content -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ROWS)
def test_what_is_kept_is_what_was_made(home: Path, template: ChatTemplate, method: str) -> None:
    """The same table, counts and events in the next run; the file is for this user alone."""
    made = encode_rows(first := a_run(home, ROWS[method], method), first.train, template, LIMIT)
    [path] = first.settings.encoded.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    path_before = (path.stat().st_ino, path.stat().st_mtime_ns)
    read = encode_rows(later := a_run(home, ROWS[method], method), later.train, template, LIMIT)
    assert [one for one in first.settings.encoded.iterdir()] == [path]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == path_before
    assert read.rows.table.equals(made.rows.table)
    assert columns(read) == columns(made)
    counts = ("tokens", "trained", "truncated", "dropped")
    assert [getattr(read, name) for name in counts] == [getattr(made, name) for name in counts]
    assert told(later) == told(first)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_made_again(home: Path, template: ChatTemplate, damage: str) -> None:
    run = a_run(home, ROWS["kto"], "kto")
    made = encode_rows(run, run.train, template, LIMIT)
    [path] = run.settings.encoded.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    broken = {
        "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "cut": whole[:middle],
        "empty": b"",
    }
    path.write_bytes(broken[damage])
    assert columns(encode_rows(run, run.train, template, LIMIT)) == columns(made)
    [again] = run.settings.encoded.iterdir()
    assert again.read_bytes() == whole


def test_what_the_ids_depend_on_makes_another_file(
    home: Path, template: ChatTemplate, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """Data, limit, whose tokens are trained, template, switches, a date that the template writes:
    one file each, and the same again none."""
    rows = ROWS["sft"]
    dated = tmp_path / "dated.jinja"
    dated.write_text("{# strftime_now('%Y') #}" + template.source)
    other = ChatTemplate.load(tiny_tokenizer, dated)
    runs = [
        (a_run(home, rows), template, LIMIT),
        (a_run(home, rows[1:]), template, LIMIT),
        (a_run(home, rows), template, LIMIT + 1),
        (a_run(home, rows, train_on="last_assistant"), template, LIMIT),
        (a_run(home, rows), other, LIMIT),
        (a_run(home, rows), template.with_switches({"brief": True}), LIMIT),
    ]
    for number, (run, source, limit) in enumerate(runs, 1):
        for _ in range(2):
            encode_rows(run, run.train, source, limit)
            assert len(list(run.settings.encoded.iterdir())) == number
    day = 1_700_000_000.0  # in 2023
    assert dates(other.source, day) == ["2023"] and dates(template.source, day) == []
    assert dates("{{ strftime_now(form) }}", day) == [day]
    llama = '{% if strftime_now is defined %}{{ strftime_now("%d %b %Y") }}{% endif %}'
    assert dates(llama, day) == ["14 Nov 2023"]
    assert dates("{% set now = strftime_now %}", day) == [day]
    later = day + 366 * 86_400
    assert key_of(other, day, {}) != key_of(other, later, {})
    assert key_of(template, day, {}) == key_of(template, later, {})
    assert len(code_sha256()) == 64


def test_a_home_that_cannot_keep_it_is_no_reason_to_stop(
    home: Path, template: ChatTemplate, capfd: pytest.CaptureFixture[str]
) -> None:
    run = a_run(home, ROWS["kto"], "kto")
    run.settings.encoded.write_text("a file where the folder should be")
    assert len(encode_rows(run, run.train, template, LIMIT).rows) == 2
    assert "the encoded rows are not kept" in capfd.readouterr().err


def test_a_table_of_rows_is_read_as_datasets_reads_it() -> None:
    """Rows, slices, columns and rows by lot are those of ``datasets``, of several batches too."""
    values = [{"ids": list(range(at)), "n": at} for at in range(1, 8)]
    parts = [pa.Table.from_pylist(values[:3]), pa.Table.from_pylist(values[3:])]
    rows = RowTable(pa.concat_tables(parts))
    other = rows.for_trl()
    assert [rows[at] for at in range(7)] == list(rows) == list(other) == values
    assert rows[2:5] == other[2:5] and rows["ids"] == other["ids"][:]
    assert list(rows.shuffled(5, 4)) == list(other.shuffle(seed=5).select(range(4)))
    assert rows.add_column("m", [0.5] * 7)[6] == {**values[6], "m": 0.5}
    with pytest.raises(IndexError):
        rows[7]
