"""Files on their way: whole or not at all, results as CSV, and the pace that a host asks for."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_gateway.backends.openai.pacing import Pace, seconds
from finetune_gateway.errors import BackendError
from finetune_gateway.migration.incoming import Incoming, ResultFile, ending_of
from finetune_gateway.migration.stored import StoredLog

ROWS = b'{"messages": [1]}\n' * 50
TABLE = b"step,train_loss,valid_loss\n" + b"1,0.5,\n2,0.25,0.75\n" * 40


def split(raw: bytes, size: int = 7) -> Iterator[bytes]:
    return (raw[at : at + size] for at in range(0, len(raw), size))


def read(file: Incoming | ResultFile, raw: bytes) -> bytes:
    return b"".join(file.read(split(raw)))


def test_a_file_of_another_length_is_asked_for_again() -> None:
    """Cut within a row it never passes; with whole rows, the same twice, it does, with a note."""
    assert read(Incoming(len(ROWS), ".jsonl"), ROWS) == ROWS
    assert read(Incoming(None, ".jsonl"), ROWS[:-5]) == ROWS[:-5]  # the host says no length
    cut = Incoming(len(ROWS), ".jsonl")
    for _ in range(3):
        with pytest.raises(BackendError, match="did not come whole") as caught:
            read(cut, ROWS[:-5])
        assert caught.value.retryable
    other = Incoming(len(ROWS) + 100, ".jsonl")
    with pytest.raises(BackendError):
        read(other, ROWS)
    assert read(other, ROWS) == ROWS and "twice" in other.note


def test_a_file_without_an_end_is_cut_off() -> None:
    came = 0

    def for_ever() -> Iterator[bytes]:
        nonlocal came
        while True:
            came += 1 << 16
            yield b" " * (1 << 16)

    for file in (Incoming(1000, ".jsonl"), ResultFile(1000)):
        came = 0
        with pytest.raises(BackendError, match="does not end"):
            for _ in file.read(for_ever()):
                pass
        assert came < 2 << 20


def test_a_mark_may_be_counted_where_hosts_do() -> None:
    assert read(Incoming(len(ROWS) + 3, ".jsonl", mark=True), ROWS) == ROWS
    with pytest.raises(BackendError):
        read(Incoming(len(ROWS) + 3, ".jsonl"), ROWS)


@pytest.mark.parametrize("form", ["csv", "base64", "base64 in lines"])
def test_results_are_csv(form: str) -> None:
    encode = base64.encodebytes if "lines" in form else base64.b64encode
    file = ResultFile()
    assert read(file, TABLE if form == "csv" else encode(TABLE)) == TABLE
    assert file.ending == ".csv" and bool(file.note) == (form != "csv")


def test_a_result_is_as_long_as_the_host_says_in_either_form() -> None:
    packed = base64.b64encode(TABLE)
    for expected in (len(TABLE), len(packed)):
        assert read(ResultFile(expected), packed) == TABLE
    cut = ResultFile(len(TABLE))
    for _ in range(3):
        with pytest.raises(BackendError, match="did not come whole"):
            read(cut, TABLE[: len(TABLE) // 2 - 3])


def test_odd_results_are_kept_as_they_came_or_not_at_all() -> None:
    for odd in (b"", b"step", b"c3RlcA==", b"\xff\xfe\x00"):
        file = ResultFile()
        assert read(file, odd) == odd and file.ending == ".txt"
    with pytest.raises(BackendError, match="base64"):
        read(ResultFile(), base64.b64encode(TABLE)[:-3])


def test_the_form_of_the_rows_is_in_the_name() -> None:
    names = ("a.JSONL", "b.parquet", "c.csv", "d.exe", None, "")
    assert [*map(ending_of, names)] == [".jsonl", ".parquet", ".csv", *[".jsonl"] * 3]


def test_half_a_line_of_stored_completions_is_cut_off(tmp_path: Path) -> None:
    """A process that was killed goes on after the last whole one."""
    message = {"role": "assistant", "content": "yes"}
    completion = {"id": "chatcmpl-1", "choices": [{"message": message}]}
    record = {"key": "K", "completion": completion, "messages": [{"role": "user", "content": "?"}]}
    path = tmp_path / "stored.raw.jsonl"
    whole = json.dumps(record).encode() + b"\n"
    for rest in (whole[:30], b"\0" * 64 + b"\n", b'{"key": 1}\n'):
        path.write_bytes(whole + rest)
        log = StoredLog(path)
        assert path.read_bytes() == whole
    rows = [json.loads(line) for line in log.conversations()]
    assert rows == [{"messages": [*record["messages"], message]}] and log.rows == 1


PAUSES = {
    "6m0s": 360.0,
    "120ms": 0.12,
    "1h2m3.5s": 3723.5,
    "2": 2.0,
    "": None,
    "soon": None,
    "1s?": None,
    "-3s": None,
}


@pytest.mark.parametrize("text", PAUSES)
def test_pauses_are_read_as_hosts_write_them(text: str) -> None:
    assert seconds(text) == pytest.approx(PAUSES[text])


def test_a_pace_waits_only_as_long_as_it_may() -> None:
    """By the headers of OpenAI and of others, by Retry-After with 429, and never past its limit."""
    waits: list[float] = []
    pace = Pace(1.0, waits.append)
    for status, headers in (
        (200, {"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1s"}),
        (200, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1h"}),
        (200, {"x-ratelimit-remaining-requests": "0"}),
        (500, {"retry-after": "1"}),
    ):
        pace.look(status, headers)
        pace.wait()
    assert waits == []
    pace.look(200, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "20ms"})
    pace.wait()
    pace.look(429, {"retry-after-ms": "20"})
    begun = time.monotonic()
    pace.wait()
    assert time.monotonic() - begun >= 0.015 and len(waits) == 2 and pace.answers == 6
