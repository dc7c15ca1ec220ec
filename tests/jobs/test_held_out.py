"""From 50 rows on a tenth is held out: which rows, who gets them, what is said and what is paid."""

from __future__ import annotations

import json
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.provider import Provider
from support.rows import chat_rows

from finetune_gateway import FakeBackend, Gateway, Job, OpenAIBackend
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import DataError, PrivateDataError, SpecError
from finetune_gateway.jobs import schema
from finetune_gateway.jobs.records import JobRecord, StoredFile, row_of
from finetune_gateway.preparation import hold_out, split
from finetune_gateway.validation.dataset import near_duplicates

Json = dict[str, Any]

MODEL = "gpt-4.1-mini-2025-04-14"
CLI = ("--model", MODEL, "--backend", "openai", "--train-price", "1")
WORDS = (
    *("alpha", "bravo", "delta", "echo", "golf", "hotel", "india"),
    *("juliet", "kilo", "lima", "mike", "oscar", "papa", "quebec"),
)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def host(provider: Provider) -> OpenAIBackend:
    return OpenAIBackend(base_url=provider.url, profile="custom", api_key=provider.api_key)


def write(path: Path, rows: list[Json]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def submit(file: Any, backend: Any, **options: Any) -> Job:
    price: Json = {} if isinstance(backend, FakeBackend) else {"train_price": 1}
    return Gateway().submit(file, model=MODEL, backend=backend, **{**price, **options})


def lines(file: StoredFile | None) -> list[bytes]:
    assert file is not None
    return Path(file.path).read_bytes().splitlines()


def uploads(provider: Provider) -> list[list[bytes]]:
    return [provider.world.content(name).splitlines() for name in provider.world.files]


def long_rows(count: int) -> list[Json]:
    """Chat rows that share no more than a few words."""
    return [
        {"messages": [
            {"role": "user", "content": " ".join(f"{word}{row * 7 + n}" for n, word in
             enumerate(WORDS)) + "?"},
            {"role": "assistant", "content": f"It is {WORDS[row % 14]}{row}, {row * 31}."},
        ]}
        for row in range(count)
    ]  # fmt: skip


def in_form(method: str, prompt: str, answer: str, worse: str) -> Json:
    """A row of one question for a method; the texts of ``pretrain`` have none."""
    asked = {"role": "user", "content": prompt}
    said, other = ({"role": "assistant", "content": text} for text in (answer, worse))
    if method == "dpo":
        return {"input": {"messages": [asked]}, "preferred_output": [said],
                "non_preferred_output": [other]}  # fmt: skip
    if method == "kto":
        return {"messages": [asked, said], "label": bool(len(answer) % 2)}
    return {"text": f"{prompt} {answer}"} if method == "pretrain" else {"messages": [asked, said]}


# -- which rows ------------------------------------------------------------------------------------


def test_a_host_gets_nine_tenths_and_the_rest_stays_here(
    home: Path, tmp_path: Path, provider: Provider
) -> None:
    """The rows of a job that a host trains: 54 are sent, 6 are in a private file here, none is in
    both, and the price is that of the 54. A job on this machine holds out the same rows."""
    file = write(tmp_path / "train.jsonl", chat_rows(60))
    all_rows = file.read_bytes().splitlines()
    quote = Gateway().estimate(file, model=MODEL, backend=host(provider), train_price=1)
    job = submit(file, host(provider))
    kept = job.record.held_out
    assert kept is not None and job.record.validation is None
    assert (job.record.train.rows, kept.rows) == (54, 6)
    assert uploads(provider) == [lines(job.record.train)]
    assert sorted([*lines(job.record.train), *lines(kept)]) == sorted(all_rows)
    assert stat.S_IMODE(Path(kept.path).stat().st_mode) == 0o600
    assert quote.rows is not None and (quote.rows.trained, quote.rows.held_out) == (54, 6)
    priced = Gateway().estimate(
        Path(job.record.train.path), model=MODEL, backend=host(provider), train_price=1,
        validation_split=0,
    )  # fmt: skip
    assert quote.billed_tokens == priced.billed_tokens and quote.cost_usd == priced.cost_usd
    here = submit(file, FakeBackend(), n_epochs=2, suffix="mine").record
    assert here.validation and here.validation.sha256 == kept.sha256 and here.held_out is None


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (49, {}, (49, None, None)),
        (50, {}, (45, None, 5)),
        (60, {"validation_split": 0}, (60, None, None)),
        (60, {"validation": chat_rows(3)}, (60, 3, None)),
        (60, {"validation_split": 0, "validation": chat_rows(3)}, (60, 3, None)),
        (60, {"validation_split": 0.25}, (45, 15, None)),
    ],
)
def test_a_tenth_only_if_nothing_else_is_asked(
    rows: int, options: Json, expected: Any, home: Path, provider: Provider
) -> None:
    """Below 50 rows, with a validation file and with 0 nothing is held out; a share that is asked
    for is sent as the validation file."""
    record = submit(chat_rows(rows), host(provider), **options).record
    files = (record.train, record.validation, record.held_out)
    assert tuple(file and file.rows for file in files) == expected
    assert len(uploads(provider)) == sum(file is not None for file in files[:2])


def test_which_rows_depends_on_content_and_seed_alone(tmp_path: Path, home: Path) -> None:
    """The same rows in another order, with other line ends and empty lines, with another model and
    method; another seed takes others. A share that is asked for takes the same as the default."""
    rows = chat_rows(80)
    file = write(tmp_path / "train.jsonl", rows)
    first = submit(file, FakeBackend()).record
    other = tmp_path / "other.jsonl"
    raw = [line.replace(b'": "', b'":  "') + b" \r\n\n" for line in file.read_bytes().splitlines()]
    other.write_bytes(b"".join(reversed(raw)))
    held_out = {bytes(line) for line in lines(first.validation)}
    same = submit(other, FakeBackend(), n_epochs=5).record
    assert {line.replace(b'":  "', b'": "') for line in lines(same.validation)} == held_out
    in_memory = Gateway().submit(rows, model="any", backend=FakeBackend()).record
    loaded = [json.loads(line) for line in lines(in_memory.validation)]
    assert {json.dumps(row).encode() for row in loaded} == held_out
    assert (
        submit(file, FakeBackend(), validation_split=0.1, n_epochs=3).record.validation is not None
    )
    assert submit(file, FakeBackend(), validation_split=0.1).id == first.id
    assert set(lines(submit(file, FakeBackend(), seed=3).record.validation)) != held_out


@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
def test_rows_of_one_prompt_are_on_one_side(method: str, home: Path) -> None:
    """Three rows each: of preferences and labelled rows also where the prompt is short."""
    long = "" if method != "sft" else " and what does it cost to send it there"
    rows = [
        in_form(method, f"{WORDS[n % 14]} {n}{long}?", f"{WORDS[m]} it {n * m} {WORDS[-m]}", "no")
        for n in range(20)
        for m in range(3)
    ]
    record = submit(rows, FakeBackend(), method=method).record
    prompts = [
        {json.dumps((row.get("input") or row)["messages"][0]) for row in map(json.loads, some)}
        for some in (lines(record.train), lines(record.validation))
    ]
    assert len(lines(record.validation)) == 6 and not prompts[0] & prompts[1]


@pytest.mark.parametrize("method", ["kto", "pretrain"])
def test_labelled_rows_and_texts_are_held_out_alike(method: str, home: Path) -> None:
    """A tenth of them, the same ones each time, and none is lost."""
    asked = [row["messages"][0]["content"] for row in long_rows(60)]
    rows = [in_form(method, asked[n], f"{WORDS[n % 14]} {'x' * n}", "") for n in range(60)]
    plans = [Gateway().plan(some, model=MODEL, backend=FakeBackend(), method=method)  # type: ignore[arg-type]
             for some in (rows, rows[::-1])]  # fmt: skip
    texts = [[json.dumps(row.data) for row in one.validation.rows()] if one.validation else []
             for one in plans]  # fmt: skip
    assert sorted(texts[0]) == sorted(texts[1]) and len(texts[0]) == 6
    trained = [json.dumps(row.data) for row in plans[0].train.rows()]
    assert sorted([*trained, *texts[0]]) == sorted(map(json.dumps, rows))


def test_near_duplicates_are_on_one_side(home: Path) -> None:
    """Of each of 40 rows a copy with one word changed, and one in other case."""
    pytest.importorskip("rensa")
    rows: list[Json] = []
    for number, row in enumerate(long_rows(40)):
        asked, said = row["messages"]
        near = {**asked, "content": asked["content"].replace(f"hotel{number * 7 + 5}", "changed")}
        loud = {**asked, "content": asked["content"].upper()}
        rows += [{**row, "messages": [one, said], "tools": []} for one in (asked, near, loud)]
    rows = [{"messages": row["messages"]} for row in rows]
    record = submit(rows, FakeBackend()).record
    ends = [{json.loads(one)["messages"][1]["content"] for one in lines(file)}
            for file in (record.train, record.validation)]  # fmt: skip
    assert len(lines(record.validation)) == 12 and not ends[0] & ends[1]


def test_what_cannot_be_held_out_is_said(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 answers to one prompt are all trained; without the package that finds near-duplicates the
    rest is done, and said."""
    row = in_form("dpo", "The same question?", "a", "b")
    one = [{**row, "preferred_output": [{"role": "assistant", "content": f"{n}"}]}
           for n in range(60)]  # fmt: skip
    plan = Gateway().plan(one, model=MODEL, backend=FakeBackend(), method="dpo")
    assert plan.validation is None and plan.estimate.rows is not None
    assert "nothing is held out: too many rows" in plan.estimate.rows.note
    with pytest.raises(DataError, match="leaves a part"):
        submit(one, FakeBackend(), method="dpo", validation_split=0.1)
    chosen = hold_out.choose(Dataset(write(tmp_path / "one.jsonl", chat_rows(60))), 0.1, seed=0)
    assert chosen.rows == (54, 6)

    with monkeypatch.context() as patch:
        patch.setattr(near_duplicates, "find_spec", lambda name: None)
        lacking = hold_out.choose(Dataset(tmp_path / "one.jsonl"), 0.1, seed=0)
    assert lacking.rows == (54, 6) and "finetune-gateway[dedup]" in lacking.note
    monkeypatch.setattr(hold_out, "NEAR_BYTES", 100)
    large = hold_out.choose(Dataset(tmp_path / "one.jsonl"), 0.1, seed=0)
    assert large.rows == (54, 6) and "not searched in files above" in large.note


# -- what is wrong with them -----------------------------------------------------------------------


@pytest.mark.parametrize(("size", "held"), [(6, 6), (10, 10), (20, 0)])
def test_a_group_larger_than_the_share_is_all_of_it(size: int, held: int, tmp_path: Path) -> None:
    """Up to twice as large: 60 rows, of which so many have one prompt."""
    rows = [in_form("dpo", f"{WORDS[n // size]}?", f"{n}", "b") for n in range(60)]
    chosen = hold_out.choose(Dataset(write(tmp_path / "rows.jsonl", rows)), 0.1, seed=0)
    assert chosen.rows == (60 - held, held)


def test_findings_name_the_lines_of_the_users_file(home: Path, tmp_path: Path) -> None:
    """Errors are those that validate finds, whichever part they are in; private data name their
    line, and stop a submit only where they are sent."""
    rows = chat_rows(60)
    file = write(tmp_path / "train.jsonl", rows)
    held_out = set(lines(submit(file, FakeBackend()).record.validation))
    numbers = [n for n, line in enumerate(file.read_bytes().splitlines()) if line in held_out]
    broken = [dict(row) for row in rows]
    for at in (numbers[2], 40 if 40 not in numbers else 41):
        broken[at] = {"messages": [broken[at]["messages"][0]]}
    write(file, broken)
    report = Gateway().validate(file, model=MODEL, backend="fake", quality=False)
    with pytest.raises(DataError) as caught:
        submit(file, FakeBackend())
    assert caught.value.report and caught.value.report.findings == report.findings
    assert len(report.errors[0].lines) == 2


def test_private_data_stop_only_what_is_sent(
    home: Path, tmp_path: Path, provider: Provider
) -> None:
    """An address in a row that is held out stays here; one in a trained row is refused, with its
    line in the file."""
    rows = chat_rows(60)
    for number in range(0, 60, 2):
        rows[number]["messages"][0]["content"] += f" Write to jo.doe{number}@gmail.com"
    file = write(tmp_path / "train.jsonl", rows)
    with pytest.raises(PrivateDataError) as caught:
        submit(file, host(provider))
    found = [line for finding in caught.value.found["train.jsonl"] for line in finding.lines]
    assert set(found) <= set(range(1, 60, 2)) and len(found) >= 10
    job = submit(file, host(provider), allow_pii=True)
    (sent,) = uploads(provider)
    assert sum(job.record.allowed.values()) == sum(b"gmail" in line for line in sent) < 30


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan"), "some", True])
def test_a_share_that_is_none_is_refused(share: Any, home: Path) -> None:
    """In words, before anything is read."""
    with pytest.raises(SpecError, match="between 0 and 1"):
        submit(chat_rows(60), FakeBackend(), validation_split=share)


# -- an upgrade ------------------------------------------------------------------------------------


def as_version_13(home: Path, record: JobRecord) -> None:
    """Make the store one that the version before held-out rows has written."""
    database = home / "gateway.sqlite3"
    for path in home.glob("gateway.sqlite3*"):
        path.unlink()
    db = sqlite3.connect(database)
    for step in schema.MIGRATIONS[:13]:
        step(db)
    db.execute("PRAGMA user_version = 13")
    columns = [row[1] for row in db.execute("PRAGMA table_info(jobs)")]
    row = row_of(record)
    marks = ", ".join("?" * len(columns))
    db.execute(
        f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({marks})", [row[one] for one in columns]
    )
    db.commit()
    db.close()


@pytest.mark.parametrize("form", ["chat", "prompt_completion"])
def test_a_job_of_an_earlier_version_is_not_bought_again(
    form: str,
    home: Path,
    tmp_path: Path,
    provider: Provider,
    ftg: Ftg,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same submit returns the job that was trained on all rows, and says so; --again starts
    one that holds out, and from then on that one is the same."""
    rows = chat_rows(60)
    if form == "prompt_completion":
        rows = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(60)]
    file = write(tmp_path / "train.jsonl", rows)
    monkeypatch.setenv("OPENAI_API_KEY", provider.api_key)
    old = submit(file, host(provider), validation_split=0)
    as_version_13(home, old.record)
    asked = [*CLI, "--base-url", provider.url, "--profile", "custom", "--yes"]
    ran = ftg("submit", str(file), *asked)
    assert ran.stdout.split() == [old.id] and "It trains on all 60 rows" in ran.stderr
    assert len(provider.world.jobs) == 1
    assert submit(file, host(provider)).id == old.id
    notes = [
        event.message for event in Gateway().job(old.id).events() if event.id == "ftg-note-held-out"
    ]
    assert len(notes) == 1
    assert submit(file, host(provider), validation_split=0).id == old.id
    assert len(provider.world.jobs) == 1
    new = submit(file, host(provider), again=True)
    assert new.record.train.rows == 54 and len(provider.world.jobs) == 2


def test_a_share_asked_of_an_earlier_version_is_the_same_job(home: Path, tmp_path: Path) -> None:
    """It took other rows; its job is found all the same, and a new home gets exactly the share."""
    file = write(tmp_path / "train.jsonl", long_rows(60))
    parts = split.split(Dataset(file), 0.2, seed=0, folder=tmp_path / "parts")
    old = submit(parts[0].path, FakeBackend(), validation=parts[1].path)
    as_version_13(home, old.record)
    assert submit(file, FakeBackend(), validation_split=0.2).id == old.id
    new = submit(file, FakeBackend(), validation_split=0.2, again=True).record
    assert new.train.rows == 48 and lines(new.validation) != lines(old.record.validation)


# -- what is said, and what is left ----------------------------------------------------------------


def test_every_screen_says_how_many(
    home: Path, tmp_path: Path, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """estimate, the plan of a submit and validate, as text and JSON."""
    file = str(write(tmp_path / "train.jsonl", chat_rows(270)))
    said = "trained on 243, held out 27; --validation-split 0 for all"
    assert f"rows     {said}" in ftg("estimate", file, *CLI).stdout
    several = ftg("estimate", file, *CLI, "--model", "gpt-4.1-2025-04-14").stdout
    assert several.count(f"rows: {said}") == 1
    (quote,) = json.loads(ftg("estimate", file, *CLI, "--json").stdout)
    assert quote["rows"] == {"trained": 243, "held_out": 27, "asked": False, "note": ""}
    whole = ftg("estimate", file, *CLI, "--validation-split", "0").stdout
    assert "held out" not in whole
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    ran = ftg("submit", file, *CLI, "--dry-run", "--json")
    assert f"Rows: {said}" in ran.stderr and "The held-out rows stay here." in " ".join(
        ran.stderr.split()
    )
    assert json.loads(ran.stdout)["estimate"]["rows"]["held_out"] == 27
    assert "trains on about 243 of these rows, and holds out 27" in ftg("validate", file).stdout


def test_the_copy_of_held_out_rows_goes_with_its_job(
    home: Path, tmp_path: Path, provider: Provider
) -> None:
    """It stays while a job needs it, and rm removes it."""
    job = submit(write(tmp_path / "train.jsonl", chat_rows(60)), host(provider))
    kept = Path(job.record.held_out.path) if job.record.held_out else Path()
    Gateway().prune()
    assert kept.is_file()
    job.cancel()
    while not job.refresh().status.final:
        time.sleep(0.01)
    assert job.remove().bytes == sum(file.bytes for file in job.record.files)
    assert not kept.exists()
