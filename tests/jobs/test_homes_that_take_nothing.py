"""A home on a full disk, and one that can be read alone: what is there is shown, what would be
written fails in words, and nothing is lost."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
from support.disks import fill
from support.modes import read_only
from support.records import record
from support.rows import chat_rows

from finetune_gateway import Gateway, JobStatus
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.cli import main
from finetune_gateway.events import Event

USES = (
    ["list"],
    ["costs"],
    ["config"],
    ["prices"],
    ["doctor"],
    ["backends"],
    ["report", "cmp-abc"],
)
OF_ALL = (["list", "--json"], ["list", "--costs"], ["costs", "--json"])
OF_ONE = (["status"], ["logs"], ["events"], ["metrics"], ["checkpoints"])
WRITES = (["pause"], ["resume"], ["rm", "--yes"], ["cancel", "--yes"])


def a_home(home: Path) -> tuple[str, str]:
    """A home with two local jobs that have ended: one that was seen to, and one that was not."""
    store = Gateway(home).store
    ids = []
    for _ in range(2):
        job = record(backend="local", status=JobStatus.RUNNING, step="sent")
        store.add(job.model_copy(update={"provider_id": job.id}))
        queue = Queue(store.settings)
        queue.add(job.id)
        queue.folder(job.id).mkdir(parents=True)
        text = Event(id=f"{job.id}-1-1", message="an event").model_dump_json()
        (queue.folder(job.id) / "events.jsonl").write_text(f"{text}\n")
        with store.transaction() as db:
            db.execute("UPDATE runs SET status = 'failed', error = 'why' WHERE id = ?", (job.id,))
        ids.append(job.id)
    Gateway(home).job(ids[0]).refresh()
    return ids[0], ids[1]


def kept(home: Path) -> dict[str, bytes]:
    """What is there, but the store, which SQLite may move into place."""
    files = (path for path in home.rglob("*") if path.is_file() and "sqlite3" not in path.name)
    return {str(path): path.read_bytes() for path in files if "locks" not in path.parts}


def judge(home: Path, data: Path, ids: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """What commands say here."""
    before = kept(home)
    for words in OF_ALL:
        assert main(words) == 0, capsys.readouterr()
    capsys.readouterr()
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(job_id in listed for job_id in ids)
    for job_id in ids:
        for words in OF_ONE:
            assert main([*words, job_id]) == 0, (words, capsys.readouterr())
            said = capsys.readouterr()
            assert "Traceback" not in said.err and "a bug" not in said.err
            assert job_id == ids[0] or "is shown as last seen" in said.err, words
        for words in WRITES:
            code = main([words[0], job_id, *words[1:]])
            said = capsys.readouterr()
            ended = job_id == ids[0] and words[0] in ("pause", "cancel")
            assert code or ended, (words, said)
            assert "Traceback" not in said.err and "a bug" not in said.err, said.err
    model = ["--model", "builtin/tiny", "--backend", "local"]
    for words in (["submit", str(data), "--yes", *model], ["estimate", str(data), *model]):
        assert main(words) == 1
        said = capsys.readouterr()
        assert "broke" not in said.err and "hint:" in said.err, said.err
    assert before.items() <= kept(home).items()


def rows(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(12)))
    return path


def test_a_home_on_a_full_disk(
    tiny_disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With room again all is as it was, and goes on."""
    home = tiny_disk / "home"
    monkeypatch.setenv("FTG_HOME", str(home))
    ids = a_home(home)
    ballast = fill(tiny_disk, 0)
    judge(home, rows(tmp_path), ids, capsys)
    ballast.unlink()
    assert [str(Gateway(home).job(one).refresh().status) for one in ids] == ["failed"] * 2


def test_a_home_that_can_only_be_read(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as another user's."""
    ids = a_home(home)
    with read_only(home):
        judge(home, rows(tmp_path), ids, capsys)
    # Connections of one process share what SQLite has mapped, and a map made then stays read-only.
    gc.collect()
    assert [str(Gateway(home).job(one).refresh().status) for one in ids] == ["failed"] * 2


@pytest.mark.parametrize("below", ["", "home"])
def test_a_home_that_is_a_file(
    below: str, tmp_path: Path, train_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is kept there, and what would be is refused by the name of that file: no setting or
    price is looked for in it."""
    there = tmp_path / "a file"
    there.write_text("words")
    for words in (*USES, ["submit", str(train_file), "--model", "m", "--backend", "fake"]):
        code = main(["--home", str(there / below), *words])
        said = capsys.readouterr()
        assert "editor" not in said.err and "Errno" not in f"{said.out}{said.err}", said
        if words[0] in ("list", "submit", "doctor"):
            assert code, words
            what = " ".join(f"{said.out}{said.err}".split())
            assert "a file is a file, where" in what and "Set FTG_HOME or --home" in what
    assert there.read_text() == "words"
