"""Data come as files that are open, bytes, columns, iterators and URLs, in every verb that takes
data: the same rows as from a path, read once, and what cannot be read is said in words."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.cli import Ftg
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway import DataError, Dataset, Gateway, MissingDependency
from finetune_gateway.data.locations import url_of, without_secrets
from finetune_gateway.data.memory import is_row
from finetune_gateway.errors import GatewayError, NotFoundError, StoreError

Json = dict[str, Any]

CHATS = chat_rows(12)
RAW = "".join(json.dumps(row) + "\n" for row in CHATS).encode()
MODEL = "gpt-4.1-mini-2025-04-14"
COLUMNS = {"prompt": ["Where?", "When?"], "completion": ["Here.", "Now."]}


@pytest.fixture
def memory() -> Iterator[Any]:
    """An object store of this process, with the rows in bucket/train.jsonl."""
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/train.jsonl", RAW)
    store.pipe("/bucket/table.csv", b"prompt,completion\nWhere?,Here.\nWhen?,Now.\n")
    yield store
    store.rm("/bucket", recursive=True)


def named(data: bytes, name: str) -> io.BytesIO:
    file = io.BytesIO(data)
    file.name = name
    return file


FORMS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: RAW,
    "bytearray": lambda: bytearray(RAW),
    "memoryview": lambda: memoryview(RAW),
    "binary file": lambda: io.BytesIO(RAW),
    "text file": lambda: io.StringIO(RAW.decode()),
    "gzip file": lambda: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(RAW))),
    "JSON array": lambda: json.dumps(CHATS).encode(),
    "columns": lambda: {"messages": [row["messages"] for row in CHATS]},
    "generator": lambda: (row for row in CHATS),
    "iterator": lambda: map(dict, CHATS),
    "URL": lambda: "memory://bucket/train.jsonl",
    "Path of a URL": lambda: Path("memory://bucket/train.jsonl"),
}


def rows_of(data: Any, folder: Path) -> list[Json]:
    return [row.data for row in Dataset.open(data, spool=folder).rows()]


def refusal(data: Any, folder: Path, kind: type[GatewayError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        Dataset.open(data, spool=folder)
    return str(caught.value)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(form: str, tmp_path: Path, memory: object) -> None:
    assert rows_of(FORMS[form](), tmp_path) == CHATS


@pytest.mark.parametrize(
    "form",
    [
        "generator",
        "URL",
        *(pytest.param(one, marks=pytest.mark.chaos) for one in ("text file", "columns")),
    ],
)
def test_every_verb_reads_what_can_be_read_once(
    form: str, home: Path, tmp_path: Path, memory: object
) -> None:
    make, verbs = FORMS[form], Gateway(home)
    assert verbs.validate(make(), model=MODEL, against=make()).rows == 12
    assert len(verbs.preview(make(), model=MODEL)) == 3
    assert verbs.estimate(make(), model=MODEL, validation=make()).n_epochs == 8
    assert len(verbs.options(make(), [(MODEL, None), ("builtin/tiny", None)])) == 2
    first = verbs.submit(make(), model="any", backend="fake", validation=make())
    assert verbs.submit(make(), model="any", backend="fake", validation=make()).id == first.id
    assert first.result().kind == "hosted"
    dataset = gateway.Dataset.open(make())
    assert dataset.fix(tmp_path / "fixed.jsonl").report.ok
    dataset.convert("trl", tmp_path / "trl.jsonl")
    parts = dataset.split(0.3, folder=tmp_path / "parts")
    assert sum(len(list(part.rows())) for part in parts) == 12
    others = [verbs.submit(chat_rows(24)[12:], model=name, backend="fake") for name in "ab"]
    compared = verbs.compare([job.result() for job in others], make())
    assert compared.data.data.rows == 12


def test_a_submit_that_goes_on_from_latest_reads_once(home: Path) -> None:
    """Before it is started, it is looked for among the jobs, with the same rows."""
    verbs = Gateway(home)
    verbs.submit(CHATS, model="any", backend="fake").wait()
    second = verbs.submit(io.BytesIO(RAW), backend="fake", continue_from="latest").wait()
    again = verbs.submit(io.BytesIO(RAW), backend="fake", continue_from="latest")
    assert again.id == second.id


# -- open files --------------------------------------------------------------------------------


def test_a_file_is_read_from_where_it_stands_and_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(RAW)
    with path.open("rb") as file:
        whole = Dataset.open(file, spool=tmp_path)
        assert (whole.name, whole.source) == ("train.jsonl", path)
        file.seek(0)
        file.readline()
        rest = Dataset.open(file, spool=tmp_path)
        assert not file.closed
        assert [row.data for row in rest.rows()] == CHATS[1:]
        assert (rest.name, rest.source) == ("train.jsonl", None)  # its lines are not the file's
    assert "read of closed file" in refusal(file, tmp_path)


def test_a_file_at_its_end_is_named_and_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    file = named(b"", "export.jsonl")
    assert rows_of(file, tmp_path) == []
    file.write(RAW)
    assert "export.jsonl stands at its end" in refusal(file, tmp_path)
    file.seek(0)
    assert rows_of(file, tmp_path) == CHATS
    assert "Call seek(0) first" in refusal(file, tmp_path)


def test_the_name_of_a_file_says_what_it_is_read_as(tmp_path: Path) -> None:
    """As of a file on the disk: what is named .jsonl is taken at its word."""
    table = b"prompt,completion\nWhere?,Here.\n"
    assert Dataset.open(named(table, "table.csv"), spool=tmp_path).container == "csv"
    assert gateway.validate(named(table, "table.jsonl")).ok is False
    prose = Dataset.open(named(b"A line.\nAnother.\n", "/tmp/notes.txt"), spool=tmp_path)
    assert (prose.container, prose.name) == ("text", "notes.txt")
    report = gateway.validate(RAW[:-30])
    assert report.errors[0].line == 12


class Upload:
    """A file as servers of ASGI hand it over."""

    filename = "upload.jsonl"

    async def read(self, size: int = -1) -> bytes:
        return b""


class Numbers:
    def read(self, size: int = -1) -> int:
        return 7


class Torn(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raise ConnectionResetError("connection reset by peer")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            Upload(),
            "upload.jsonl is read asynchronously, which a dataset cannot wait for. Pass the",
        ),
        (Numbers(), "data cannot be read: its read() gives a int. Pass a file that gives bytes"),
        (Torn(), "data cannot be read: connection reset by peer. Open it again."),
        (io.TextIOWrapper(io.BytesIO(b'{"text": "\xe9"}')), "it was opened as text, and 'utf-8'"),
        (
            gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(RAW)[:-9])),
            "Compressed file ended before",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_in_words(
    file: Any, words: str, tmp_path: Path
) -> None:
    assert words in refusal(file, tmp_path)


@pytest.mark.parametrize("broken", [b"PAR1" + b"0" * 100 + b"PAR1", b'[{"a": 1}, nonsense'])
def test_an_error_of_what_has_no_file_names_no_file(broken: bytes, tmp_path: Path) -> None:
    """Our copy of it is gone when the error is read, and tells where a service keeps its files."""
    assert str(tmp_path) not in (words := refusal(broken, tmp_path)) and "data cannot be" in words


# -- iterators ---------------------------------------------------------------------------------


def test_an_iterator_that_was_used_up_is_named(tmp_path: Path) -> None:
    generator = (row for row in CHATS)
    assert rows_of(generator, tmp_path) == CHATS
    assert "The generator is used up" in refusal(generator, tmp_path)
    mapped = map(dict, CHATS)
    assert rows_of(mapped, tmp_path) == CHATS
    assert "it may have been read before" in refusal(mapped, tmp_path)
    assert rows_of((row for row in CHATS[:0]), tmp_path) == []  # a new one may be empty


def test_the_rest_of_a_generator_that_failed_is_not_taken_for_all(tmp_path: Path) -> None:
    def rows() -> Iterator[Any]:
        yield CHATS[0]
        yield "no row"
        yield CHATS[1]

    generator = rows()
    with pytest.raises(DataError, match="row 2 is a str") as kept:
        Dataset.open(generator, spool=tmp_path)
    assert "used up" in refusal(generator, tmp_path)
    assert kept.value.__traceback__ is not None  # it holds on to all that it has passed


def test_a_generator_of_another_thread_and_an_asynchronous_one_are_named(tmp_path: Path) -> None:
    begun, done = threading.Event(), threading.Event()

    def slow() -> Iterator[Json]:
        begun.set()
        done.wait(60)
        yield CHATS[0]

    generator = slow()
    reader = threading.Thread(target=lambda: list(generator))
    reader.start()
    begun.wait(60)
    try:
        assert "another thread" in refusal(generator, tmp_path)
    finally:
        done.set()
        reader.join()

    async def rows() -> Any:
        yield CHATS[0]

    assert "[row async for row in rows]" in refusal(rows(), tmp_path)


# -- mappings ----------------------------------------------------------------------------------


def test_a_mapping_is_a_table_of_columns(tmp_path: Path) -> None:
    given: dict[str, list[Any]] = {**COLUMNS, "note": [None, "late"]}
    table = Dataset.open(given, spool=tmp_path)
    assert table.container == "columns"
    assert [row.data for row in table.rows()] == [
        {"prompt": "Where?", "completion": "Here."},  # a cell that is missing is no key
        {"prompt": "When?", "completion": "Now.", "note": "late"},
    ]
    asked = gateway.Dataset.open(
        {"question": ("a", "b"), "answer": ("c", "d")},
        columns={"question": "prompt", "answer": "completion"},
    )
    assert asked.validate().rows == 2
    texts = {"messages": [json.dumps(row["messages"]) for row in CHATS]}
    assert rows_of(texts, tmp_path) == CHATS


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({}, "The mapping is empty"),
        (CHATS[0], "is a single row, not a dataset. Pass a list of rows: [row]"),
        ({"prompt": "a", "completion": "b"}, "is a single row"),
        ({"prompt": ["a", "b"], "completion": ["c"]}, "'prompt' 2, 'completion' 1"),
        ({"prompt": ["a"], 3: ["c"]}, "The name of a column is a text, not 3."),
        (
            {"test": CHATS, "train": CHATS},
            "in parts: 'test', 'train'. Pass one of them: data['train'], and validation=data['te",
        ),
    ],
)
def test_a_mapping_that_is_no_table_is_refused_in_words(
    mapping: Any, words: str, tmp_path: Path
) -> None:
    assert words in refusal(mapping, tmp_path)


def test_splits_and_frames_of_libraries(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    rows = [{"prompt": p, "completion": c} for p, c in zip(*COLUMNS.values(), strict=True)]
    train = datasets.Dataset.from_list(rows)
    parts = datasets.DatasetDict({"train": train, "held": train})
    assert "data['train'], and validation=data['held']" in refusal(parts, tmp_path)
    for table in (parts["train"], pandas.DataFrame(rows), pyarrow.Table.from_pylist(rows)):
        assert rows_of(table, tmp_path) == rows
    odd = pandas.DataFrame([{**row, "read": "x"} for row in rows])  # not taken for a file
    assert rows_of(odd, tmp_path) == [{**row, "read": "x"} for row in rows]


def test_a_polars_frame_is_read_as_rows(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    rows = [{"prompt": p, "completion": c} for p, c in zip(*COLUMNS.values(), strict=True)]
    assert rows_of(polars.DataFrame(rows), tmp_path) == rows
    assert "collect()" in refusal(polars.DataFrame(rows).lazy(), tmp_path)


def test_a_preview_of_one_row_and_of_columns() -> None:
    assert gateway.preview(CHATS[0], model=MODEL).ok
    assert is_row(CHATS[0])
    assert not is_row(COLUMNS)
    assert len(gateway.preview({"messages": [CHATS[0]["messages"]]}, model=MODEL)) == 1


# -- URLs --------------------------------------------------------------------------------------


def test_a_text_that_is_rows_is_not_repeated(tmp_path: Path) -> None:
    words = refusal(RAW.decode(), tmp_path, NotFoundError)
    assert "it looks like rows" in words
    assert "parcel" not in words


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://me:hunter22@169.254.169.254/x?sig=c2VjcmV0", "is not fetched"),
        ("https://localhost/train.jsonl", "urllib.request.urlopen(url)"),
        ("simplecache::http://localhost/x", "is not read: only s3://"),
        ("sftp://me:hunter22@host/x", "fsspec.open(url).open()"),
        ("file:///etc/passwd", "Write the path itself."),
        ("memory://bucket", "is a folder, not a file."),
    ],
)
def test_addresses_are_refused_that_a_service_must_not_ask(
    url: str, words: str, tmp_path: Path, memory: object
) -> None:
    refused = refusal(url, tmp_path)
    assert words in refused
    assert "hunter22" not in refused
    assert "c2VjcmV0" not in refused


def test_what_is_not_in_a_store_and_a_store_without_its_package(
    tmp_path: Path, memory: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "There is no 'memory://bucket/no'" in refusal(
        "memory://bucket/no", tmp_path, NotFoundError
    )
    monkeypatch.setitem(sys.modules, "s3fs", None)
    error = refusal("s3://bucket/train.jsonl", tmp_path, MissingDependency)
    assert error == (
        "Reading s3:// needs packages that are not installed. "
        "Run: pip install 'finetune-gateway[fsspec]'"
    )
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert "[fsspec]" in refusal("memory://bucket/train.jsonl", tmp_path, MissingDependency)


class Store(fsspec.AbstractFileSystem):  # type: ignore[misc]  # fsspec is not typed
    """A store whose answers are wrong in ways that stores are."""

    protocol = "memory"
    cachable = False
    size = len(RAW)
    free = ""

    def info(self, path: str, **options: object) -> Json:
        return {"name": path, "type": "file", "size": self.size}

    def _open(self, path: str, *args: object, **options: object) -> io.BytesIO:
        if self.free:
            raise RuntimeError(self.free)
        return io.BytesIO(RAW)


def test_a_download_is_checked_for_its_size_and_says_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("memory", Store, clobber=True)
    try:
        assert rows_of("memory://b/t.jsonl", tmp_path) == CHATS
        monkeypatch.setattr(Store, "size", len(RAW) + 9)
        assert f"has {len(RAW) + 9:,} bytes, and {len(RAW):,} came" in refusal(
            "memory://b/t.jsonl", tmp_path
        )
        monkeypatch.setattr(Store, "size", 1 << 60)
        assert "more than are free" in refusal("memory://b/t.jsonl", tmp_path, StoreError)
        monkeypatch.setattr(Store, "size", None)  # a store that does not say
        assert rows_of("memory://b/t.jsonl", tmp_path) == CHATS
        monkeypatch.setattr(
            Store, "free", "403 for AKIAKEY9 of memory://AKIAKEY9:hush22@b/t?sig=9f8e"
        )
        words = refusal("memory://AKIAKEY9:hush22@b/t?sig=9f8e", tmp_path)
        assert "cannot be read: RuntimeError: '403 for" in words
        assert not [secret for secret in ("AKIAKEY9", "hush22", "9f8e") if secret in words]
    finally:
        from fsspec.implementations.memory import MemoryFileSystem

        fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)
    assert not list(tmp_path.rglob("*.jsonl"))  # nothing is left of what was not whole


def test_what_is_a_url_and_what_of_it_is_shown(tmp_path: Path) -> None:
    assert url_of("s3://bucket/a//b") == "s3://bucket/a//b"
    assert url_of(Path("s3://bucket/key")) == "s3://bucket/key"
    assert url_of("data/s3.jsonl") is None
    assert url_of(tmp_path / "x.jsonl") is None
    assert url_of("C:/data/train.jsonl") is None
    for plain in ("s3://bucket/a:b/key@2", "abfss://box@me.dfs.net/k", "hf://datasets/a/b@main/c"):
        assert without_secrets(plain) == plain
    assert without_secrets("s3://AKIAKEY9:sec/r/et@bucket/k") == "s3://***bucket/k"
    assert without_secrets("https://ghp_token@host/k") == "https://***host/k"
    assert without_secrets("abfs://box:sig@me.dfs.net/k#x") == "abfs://***me.dfs.net/k#***"


def test_the_command_line_reads_urls(ftg: Ftg, tmp_path: Path, memory: object) -> None:
    url = "memory://bucket/train.jsonl"
    assert json.loads(ftg("validate", url, "--json").stdout)["rows"] == 12
    assert ftg("convert", url, "--to", "trl", "-o", str(tmp_path / "trl.jsonl")).returncode == 0
    assert ftg("split", url, "-o", str(tmp_path / "parts")).returncode == 0
    assert ftg("preview", url, "--model", MODEL).returncode == 0
    estimate = ftg("estimate", url, "--model", MODEL, "--json")
    assert json.loads(estimate.stdout)[0]["rows"]["trained"] == 12
    submit = ftg(
        "submit", url, "--model", "any", "--backend", "fake", "--validation-file", url, "--yes"
    )
    assert submit.returncode == 0, submit.stderr
    refused = ftg("validate", "https://me:hunter22@host/x.jsonl")
    assert refused.returncode == 3
    assert "hunter22" not in refused.stdout + refused.stderr
    assert "is not fetched" in refused.stderr


def test_a_file_that_is_open_makes_the_job_of_its_path(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(RAW)
    sources = (path, RAW, io.BytesIO(RAW), io.StringIO(RAW.decode()))
    jobs = {Gateway(home).submit(one, model="any", backend="fake").id for one in sources}
    assert len(jobs) == 1


_HUGE = """
import io, itertools, resource, sys
import fsspec
from finetune_gateway import Dataset

ROW = {"messages": [{"role": "user", "content": "x" * 980}, {"role": "assistant", "content": "y"}]}
LINE = (b'{"text": "' + b"z" * 1010 + b'"}\\n')
MB = 1 << 20


class File(io.RawIOBase):  # of so many bytes, none of which is kept
    def __init__(self, size):
        self.left = size
    def readable(self):
        return True
    def readinto(self, buffer):
        size = min(len(buffer), self.left) // len(LINE) * len(LINE)
        self.left -= size
        buffer[:size] = LINE * (size // len(LINE))
        return size


class Store(fsspec.AbstractFileSystem):
    cachable = False
    def info(self, path, **options):
        return {"name": path, "type": "file", "size": self.size(path)}
    def size(self, path):
        return int(path.rpartition("/")[2]) // len(LINE) * len(LINE)
    def _open(self, path, *args, **options):
        return File(self.size(path))


fsspec.register_implementation("memory", Store, clobber=True)
MAKE = {
    "generator": lambda size: itertools.repeat(ROW, size // 1024),
    "file": lambda size: io.BufferedReader(File(size)),
    "text": lambda size: io.TextIOWrapper(io.BufferedReader(File(size))),
    "URL": lambda size: f"memory://{size}",
}[sys.argv[1]]


def peak(size):
    data = Dataset.open(MAKE(size))
    assert abs(data.size - size) < size / 10, data.size
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


small, large = peak(4 * MB), peak(300 * MB)
print(f"{small:.1f} MB, then {large:.1f} MB")
assert large - small < 16
"""


@pytest.mark.chaos
@pytest.mark.parametrize("form", ["generator", "file", "text", "URL"])
def test_300_mb_take_no_more_memory_than_4(form: str, env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _HUGE, form], env=env, capture_output=True, text=True
    )
    print(form, done.stdout)
    assert done.returncode == 0, done.stderr
