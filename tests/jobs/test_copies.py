"""What leaves is what was checked: the data are copied first, and the copy is what is judged,
priced, asked about, hashed again and sent."""

from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.chaos import kill, ready, start
from support.cli import Ftg
from support.disks import plain_failure, short_files
from support.provider import Provider
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway import FakeBackend, Gateway, OpenAIBackend
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import DataError, GatewayError, NotFoundError
from finetune_gateway.jobs.planning import Plan

Json = dict[str, Any]

MODEL = "gpt-4.1-mini-2025-04-14"
PRIVATE = {"messages": [{"role": "user", "content": "My mail is jo.doe@gmail.com"},
                        {"role": "assistant", "content": "Thank you."}]}  # fmt: skip


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def wire(provider: Provider) -> OpenAIBackend:
    return OpenAIBackend(base_url=provider.url, profile="custom", api_key=provider.api_key)


def write(path: Path, rows: list[Json]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def received(provider: Provider) -> list[bytes]:
    """The content of each file that the provider has."""
    return [provider.world.content(name) for name in provider.world.files]


def left(home: Path) -> list[str]:
    """What lies in the folder of copies, and the rows that were written for a while."""
    folders = (home / "files", home / "spool")
    return sorted(path.name for one in folders if one.exists() for path in one.iterdir())


def modes(folder: Path) -> set[str]:
    return {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*") if path.is_file()}


# -- the file changes while the question stands ----------------------------------------------------


@pytest.mark.parametrize("form", ["chat", "prompt_completion", "split"])
def test_a_file_rewritten_while_the_question_stands_changes_nothing(
    form: str, home: Path, tmp_path: Path, provider: Provider
) -> None:
    """The provider gets what was checked, to the byte for chat rows; nothing of the new file."""
    rows = chat_rows(40)
    if form == "prompt_completion":
        rows = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(40)]
    file = write(tmp_path / "train.jsonl", rows)
    before = file.read_bytes()

    def confirm(plan: Plan) -> bool:
        assert modes(home / "files") == {"0o600"}
        write(file, [PRIVATE] * 5_000)
        return True

    options: Json = {"validation_split": 0.2} if form == "split" else {}
    job = Gateway().submit(
        file, model=MODEL, backend=wire(provider), confirm=confirm, train_price=1, **options
    )
    sent = received(provider)
    assert job.provider_id and b"gmail" not in b"".join(sent)
    assert sum(one.count(b"\n") for one in sent) == 40
    if form == "chat":
        assert sent == [before]
    assert left(home) == sorted(Path(one.path).name for one in files_of(job.record))


def files_of(record: Any) -> list[Any]:
    return [one for one in (record.train, record.validation) if one]


# -- the copy changes ------------------------------------------------------------------------------


def test_a_copy_that_changed_is_not_sent(home: Path, train_file: Path, provider: Provider) -> None:
    """The hash is taken again right before the upload: refused in words, 0 requests."""

    class Changing(OpenAIBackend):
        def connect(self) -> None:
            (copy,) = (home / "files").glob("*.jsonl")
            copy.write_bytes(copy.read_bytes().replace(b"a", b"b"))

    backend = Changing(base_url=provider.url, profile="custom", api_key=provider.api_key)
    with pytest.raises(DataError, match="no longer what was checked"):
        Gateway().submit(train_file, model=MODEL, backend=backend, train_price=1)
    assert provider.world.files == {} and provider.world.jobs == {}
    (job,) = Gateway().jobs()
    assert job.status == "failed" and "Nothing was sent" in (job.error or "")
    again = Gateway().submit(train_file, model=MODEL, backend=wire(provider), train_price=1)
    assert again.provider_id and received(provider) == [train_file.read_bytes()]


def test_a_copy_that_is_gone_is_said_in_words(
    home: Path, train_file: Path, provider: Provider
) -> None:
    """No traceback, and nothing is sent."""

    class Removing(OpenAIBackend):
        def connect(self) -> None:
            for copy in (home / "files").glob("*.jsonl"):
                copy.unlink()

    backend = Removing(base_url=provider.url, profile="custom", api_key=provider.api_key)
    with pytest.raises(DataError, match="is gone"):
        Gateway().submit(train_file, model=MODEL, backend=backend, train_price=1)
    assert provider.world.files == {}


def test_a_copy_that_changed_is_not_trained_here(home: Path, train_file: Path) -> None:
    """The same before a local start."""

    class Changing(FakeBackend):
        def connect(self) -> None:
            (copy,) = (home / "files").glob("*.jsonl")
            copy.write_bytes(b"{}\n")

    backend = Changing()
    with pytest.raises(DataError, match="no longer what was checked"):
        Gateway().submit(train_file, model="m", backend=backend)
    assert backend.started == []


# -- nothing is left -------------------------------------------------------------------------------


def declined(provider: Provider, file: Path) -> None:
    backend = wire(provider)
    Gateway().submit(file, model=MODEL, backend=backend, train_price=1, confirm=lambda plan: False)


def interrupted(provider: Provider, file: Path) -> None:
    def confirm(plan: Plan) -> bool:
        raise KeyboardInterrupt

    Gateway().submit(file, model=MODEL, backend=wire(provider), train_price=1, confirm=confirm)


def too_expensive(provider: Provider, file: Path) -> None:
    backend = wire(provider)
    Gateway().submit(file, model=MODEL, backend=backend, train_price=1, max_cost_usd="0.000001")


def beyond_the_month(provider: Provider, file: Path) -> None:
    Gateway(monthly_usd=0.000001).submit(file, model=MODEL, backend=wire(provider), train_price=1)


def private(provider: Provider, file: Path) -> None:
    rows = [*chat_rows(11), PRIVATE]
    Gateway().submit(rows, model=MODEL, backend=wire(provider), train_price=1)


def invalid(provider: Provider, file: Path) -> None:
    rows: list[Json] = [*chat_rows(11), {"messages": []}]
    Gateway().submit(rows, model=MODEL, backend=wire(provider), train_price=1)


@pytest.mark.parametrize(
    "refused", [declined, interrupted, too_expensive, beyond_the_month, private, invalid]
)
def test_a_refused_submit_leaves_no_copy(
    refused: Callable[[Provider, Path], None], home: Path, train_file: Path, provider: Provider
) -> None:
    """Neither in the folder of copies nor of rows from memory; nothing is sent."""
    with pytest.raises((GatewayError, KeyboardInterrupt)):
        refused(provider, train_file)
    assert left(home) == [] and list((home / "locks").glob("submit-*")) == []
    assert provider.world.files == {}


WAITS = """
import sys, time
from finetune_gateway import FakeBackend, Gateway
def confirm(plan):
    print("ready", flush=True)
    time.sleep(60)
Gateway().submit(sys.argv[1], model="m", backend=FakeBackend(), confirm=confirm)
"""


def test_a_later_submit_removes_what_a_killed_one_has_left(home: Path, train_file: Path) -> None:
    """And leaves alone what belongs to a living one."""
    dead, asked, answer = start(WAITS, train_file), threading.Event(), threading.Event()

    def confirm(plan: Plan) -> bool:
        asked.set()
        return not answer.wait(60)

    def submit() -> None:
        with suppress(GatewayError):  # declined
            Gateway().submit(train_file, model="n", backend=FakeBackend(), confirm=confirm)

    alive = threading.Thread(target=submit)
    alive.start()
    try:
        ready(dead)
        assert asked.wait(60)
        assert kill(dead) and len(left(home)) == 2
        old = home / "files" / ".copy.tmp.0123456789ab"  # of a version before
        old.write_bytes(b"x")
        os.utime(old, (0, 0))
        job = Gateway().submit(train_file, model="m", backend=FakeBackend())
        (living,) = [name for name in left(home) if name.startswith(".")]
        assert left(home) == [living, Path(job.record.train.path).name]
    finally:
        answer.set()
        alive.join()


# -- what is sent is what was judged ------------------------------------------------------------


def pair(number: int) -> Json:
    user = {"role": "user", "content": f"Question {number}?"}
    good = {"role": "assistant", "content": f"A good answer to {number}."}
    bad = {"role": "assistant", "content": "No idea."}
    return {
        "prompt": user["content"],
        "chosen": [user, good],
        "rejected": [user, bad],
        "messages": [user, good],
        "score_chosen": 8.0,
    }


FORMS: dict[str, tuple[str, Callable[[int], Json]]] = {
    "ultrafeedback": ("dpo", pair),
    "system": ("sft", lambda n: {"system": "Be brief.", "prompt": f"{n}?", "completion": f"{n}."}),
    "alpaca": ("sft", lambda n: {"instruction": "", "input": f"{n}?", "output": f"{n}."}),
    "kto": ("kto", lambda n: {"prompt": f"{n}?", "completion": f"{n}.", "label": n % 2 == 0}),
    "text": ("pretrain", lambda n: {"text": f"Row {n}.", "url": f"https://example.com/{n}"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_rows_that_are_sent_are_counted_and_accepted(form: str, home: Path) -> None:
    """The report on the user's rows and on the sent file have the same tokens; the job knows the
    system prompt that all rows share."""
    method, make = FORMS[form]
    rows: Any = [make(number) for number in range(12)]
    options: Any = {"method": method, "quality": False}
    own = gateway.validate(rows, **options)
    try:
        job = gateway.submit(rows, model="m", backend=FakeBackend(), method=options["method"])
    except DataError as exc:
        raise AssertionError(f"validate said {own.outcome}, but submit: {exc}") from None
    sent = gateway.validate(job.record.train.path, **options)
    assert own.errors == sent.errors == sent.warnings == []
    assert own.tokens == sent.tokens
    assert job.record.system_prompt == ("Be brief." if form == "system" else None)


def test_a_pair_costs_what_is_sent_of_it(home: Path) -> None:
    """In ShareGPT's form the same as in OpenAI's."""
    turns = {
        "conversations": [{"from": "human", "value": "Why? " * 50}],
        "chosen": {"from": "gpt", "value": "So. " * 50},
        "rejected": {"from": "gpt", "value": "No."},
    }
    openai = {
        "input": {"messages": [{"role": "user", "content": "Why? " * 50}]},
        "preferred_output": [{"role": "assistant", "content": "So. " * 50}],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    }
    costs = [
        gateway.estimate([row] * 12, model=MODEL, backend="openai", method="dpo").cost_usd
        for row in (turns, openai)
    ]
    assert costs[0] == costs[1]


# -- files that are none ---------------------------------------------------------------------------


@pytest.mark.parametrize("becomes", ["gone", "a folder"])
def test_a_file_that_goes_away_before_the_copy(becomes: str, home: Path, train_file: Path) -> None:
    """The error is about the file, not about the disk; it keeps its exit code."""

    def held_out() -> Iterator[Json]:  # read after the training file was opened
        train_file.unlink()
        if becomes == "a folder":
            train_file.mkdir()
        yield from chat_rows(12)

    with pytest.raises(GatewayError) as caught:
        Gateway().submit(train_file, validation=held_out(), model="m", backend=FakeBackend())
    assert isinstance(caught.value, NotFoundError if becomes == "gone" else DataError)
    assert str(train_file) in str(caught.value)
    assert left(home) == []


@pytest.mark.usefixtures("tiny_at_home")
@pytest.mark.parametrize("start", ["model", pytest.param("long line", marks=pytest.mark.chaos)])
def test_of_a_wrong_file_only_its_beginning_is_copied(
    start: str, home: Path, tmp_path: Path, ftg: Ftg
) -> None:
    """A file of many gigabytes, named by mistake, does not fill the disk."""
    file = tmp_path / "train.jsonl"
    size = 80 << 20  # of zeros that need no room
    with file.open("wb") as wrong:
        wrong.write((100).to_bytes(8, "little") + b'{"' if start == "model" else b'{"messages"')
        wrong.truncate(size)
    limit = (1 if start == "model" else 70) << 20
    with short_files(limit):
        error = plain_failure(ftg("submit", str(file), "--model", "builtin/tiny", "--yes"))
    assert "safetensors" in error if start == "model" else "longer than 64 MB" in error
    assert left(home) == []


def test_rows_from_a_pipe_are_read_like_a_file(
    home: Path, train_file: Path, tmp_path: Path
) -> None:
    """By every command, although a pipe can be read only once; the copy is this user's alone."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def piped() -> Path:
        threading.Thread(target=lambda: pipe.write_bytes(train_file.read_bytes())).start()
        return pipe

    mask = os.umask(0)
    try:
        assert gateway.validate(piped()) == gateway.validate(train_file)
    finally:
        os.umask(mask)
    assert (home / "spool").stat().st_mode & 0o777 == 0o700 and modes(home) == {"0o600"}
    costs = [
        gateway.estimate(data, model=MODEL, backend="openai").cost_usd
        for data in (piped(), train_file)
    ]
    assert costs[0] == costs[1]
    job = gateway.submit(piped(), model="m", backend=FakeBackend())
    assert Path(job.record.train.path).read_bytes() == train_file.read_bytes()


@pytest.mark.chaos
@pytest.mark.usefixtures("tiny_at_home")
def test_a_full_disk_is_said_of_rows_that_are_no_json_lines_too(
    home: Path, tmp_path: Path, ftg: Ftg
) -> None:
    """CSV is written as JSON lines first: what is wrong, where, and what to do; nothing is left."""
    file = tmp_path / "rows.csv"
    file.write_text("prompt,completion\n" + "".join(f"{n}?,{n}.\n" for n in range(8_000)))
    for words in (["submit", "--model", "builtin/tiny", "--yes"], ["validate"]):
        with short_files(300_000):
            error = plain_failure(ftg(*words, str(file)))
        assert str(home) in error and "Free some space" in error
    gc.collect()  # an error that was caught may hold its rows
    kept = [path for name in ("files", "spool") for path in (home / name).rglob("*")]
    assert sum(path.stat().st_size for path in kept if path.is_file()) == 0


def test_rows_that_end_in_an_error_are_not_a_full_disk(home: Path) -> None:
    """An iterable may stand on a connection that breaks."""

    def rows() -> Iterator[Json]:
        yield from chat_rows(12)
        raise ConnectionResetError("by peer")

    with pytest.raises(DataError, match="by peer"):
        Gateway().submit(rows(), model="m", backend=FakeBackend())
    assert left(home) == []


def test_a_copy_that_changes_before_its_rows_are_rewritten_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "train.jsonl"
    source.write_text('{"prompt": "Hi", "completion": "Hello"}\n')
    copy = Dataset.open(source).copied(tmp_path)
    copy.path.write_text('{"prompt": "Hi", "completion": "Other"}\n')
    with pytest.raises(DataError, match="changed while it was checked"):
        copy.rewritten(tmp_path, lambda row: row)
