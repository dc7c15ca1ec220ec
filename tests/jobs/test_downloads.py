"""A model that its host gives as files: whole here or not at all, never over a file of the user."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.records import record
from support.safetensors import weights

from finetune_gateway import FakeBackend, Gateway, ModelHandle
from finetune_gateway.backend import Artifact, HandleData
from finetune_gateway.errors import (
    BackendError,
    GatewayError,
    SpecError,
    StoreError,
    UnsupportedError,
)
from finetune_gateway.events import Checkpoint, Result, Snapshot
from finetune_gateway.jobs import archives

FILES = {
    "adapter_config.json": b'{"peft_type": "LORA"}',
    "adapter_model.safetensors": weights("w"),
}


def artifact(name: str, raw: bytes, **changes: Any) -> Artifact:
    known = {"kind": "adapter", "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    return Artifact(name=name, **{**known, **changes})


class Hosting(FakeBackend):
    """Gives files. ``asked``: their names; ``broken``: what it gives in the place of one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[str] = []
        self.broken: dict[str, bytes | Exception] = {}

    def download(self, artifact: Artifact, handle: HandleData, folder: Path) -> None:
        self.asked.append(artifact.name)
        (folder / "beside.tmp").write_bytes(b"left over")
        raw = self.broken.get(artifact.name, FILES.get(artifact.name, b""))
        if isinstance(raw, Exception):
            raise raw
        (folder / artifact.name).write_bytes(raw)


def handle(backend: Hosting, **changes: Any) -> ModelHandle:
    artifacts = [artifact(name, raw) for name, raw in FILES.items()]
    known = {"kind": "hosted", "model": "fake:1", "base_model": "acme/base", "backend": "fake"}
    made = ModelHandle.model_validate(
        {**known, "artifacts": artifacts, "system_prompt": "Be brief.", **changes}
    )
    made.attach(backend)
    return made


def test_a_model_is_brought_here(home: Path, tmp_path: Path) -> None:
    """Its files, a handle that any process loads, and nothing else; again it is not asked for."""
    backend, folder = Hosting(), tmp_path / "new" / "model"
    switches = {"enable_thinking": False}
    found = handle(backend, job_id="ftg-1", chat_template_kwargs=switches).download(folder)
    assert found.chat_template_kwargs == switches
    assert {path.name for path in folder.iterdir()} == {
        *FILES, "finetune_gateway.json", "manifest.json",
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert all((folder / name).read_bytes() == raw for name, raw in FILES.items())
    assert (found.kind, found.backend, found.model) == ("adapter", "local", str(folder))
    assert (found.base_model, found.system_prompt) == ("acme/base", "Be brief.")
    assert (found.job_id, found.backend_options, found.artifacts) == ("ftg-1", {}, [])
    assert handle(backend, job_id="ftg-1").download(folder) == ModelHandle.load(folder)
    assert backend.asked == [*FILES]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"x" * len(weights("w")),
        b"short",
        BackendError("The host is down.", backend="fake"),
        OSError("x"),
    ],
)
def test_a_file_that_is_not_what_was_said_is_no_model(
    home: Path, tmp_path: Path, raw: bytes | Exception
) -> None:
    """Nothing is at the place; the next call asks for that file alone."""
    backend, folder = Hosting(), tmp_path / "model"
    backend.broken = {"adapter_model.safetensors": raw}
    with pytest.raises(BackendError):
        handle(backend).download(folder)
    assert not folder.exists()
    backend.broken = {}
    handle(backend).download(folder)
    assert backend.asked == [*FILES, "adapter_model.safetensors"]
    assert (folder / "adapter_model.safetensors").read_bytes() == FILES["adapter_model.safetensors"]


def test_a_place_of_the_user_is_left_alone(home: Path, tmp_path: Path) -> None:
    """A folder with a file, a file, a link, and a model whose file was changed since."""
    backend, folder = Hosting(), tmp_path / "model"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    handle(backend).download(folder)
    (folder / "adapter_config.json").write_text("{}")
    before = backend.asked.copy()
    (tmp_path / ".fresh.part").mkdir()
    (tmp_path / ".fresh.part" / "notes.txt").write_text("mine")
    for place in ("mine", "file", "link", "model", "fresh"):
        with pytest.raises(SpecError, match="nothing was written"):
            handle(backend).download(tmp_path / place)
    assert backend.asked == before and (folder / "adapter_config.json").read_text() == "{}"
    parts = [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
    assert [path.name for part in parts for path in part.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"artifacts": []}, "gives no files"),
        ({"artifacts": [artifact("adapter_config.json", b"")]}, "weights as safetensors"),
        ({"artifacts": [artifact("a.safetensors", b"")]}, "adapter_config.json"),
        (
            {"artifacts": [artifact(n, b"") for n in ("adapter_config.json", "o.safetensors")]},
            "in adapter_model.safetensors",
        ),
        ({"artifacts": [artifact(name, b"", kind="merged") for name in FILES]}, "config.json"),
    ],
)
def test_what_can_be_no_model_here_is_not_asked_for(
    home: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """Pickles, files of no model, none at all."""
    backend = Hosting()
    with pytest.raises(UnsupportedError, match=said):
        handle(backend, **changes).download(tmp_path / "model")
    assert backend.asked == [] and not [*tmp_path.glob("*model*")]


def packed(ending: str, members: dict[str, bytes], **odd: Any) -> bytes:
    """An archive with these members; ``odd``: a link with this name."""
    raw = io.BytesIO()
    if ending == "zip":
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
            for name in odd:
                link = zipfile.ZipInfo(name)
                link.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(link, "/etc/passwd")
        return raw.getvalue()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
        for name in odd:
            about = tarfile.TarInfo(name)
            about.type, about.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(about)
    return raw.getvalue()


def in_archive(backend: Hosting, name: str, raw: bytes) -> ModelHandle:
    backend.broken = {name: raw}
    return handle(backend, artifacts=[artifact(name, raw)])


@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_a_model_in_an_archive_is_unpacked(home: Path, tmp_path: Path, ending: str) -> None:
    """Its files without their folders and without hidden ones; again it is not asked for."""
    members = {f"out/model/{name}": raw for name, raw in FILES.items()}
    raw = packed(ending, {"out/._adapter_config.json": b"", "../..": b"", **members})
    backend, folder = Hosting(), tmp_path / "model"
    found = in_archive(backend, f"adapter.{ending}", raw).download(folder)
    assert found.kind == "adapter" and {path.name for path in folder.iterdir()} == {
        *FILES, "finetune_gateway.json", "manifest.json",
    }  # fmt: skip
    assert all((folder / name).read_bytes() == raw for name, raw in FILES.items())
    in_archive(backend, f"adapter.{ending}", raw).download(folder)
    assert backend.asked == [f"adapter.{ending}"]


@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
@pytest.mark.parametrize(
    ("members", "odd", "said"),
    [
        (FILES, {"adapter_extra.json": 1}, "no plain file"),
        ({**FILES, "a/x.json": b"1", "b/X.json": b"2"}, {}, "no name of its own"),
        ({"adapter_config.json": b"{}"}, {}, "weights as safetensors"),
        ({**FILES, "manifest.json": b"{}"}, {}, "a model here is"),
        (None, {}, "cannot be unpacked"),
    ],
)
def test_an_archive_of_something_else_is_no_model(
    home: Path, tmp_path: Path, ending: str, members: dict[str, bytes] | None,
    odd: dict[str, Any], said: str,
) -> None:  # fmt: skip
    """Links, files of one name, no weights, names of ours, no archive at all."""
    raw = b"no archive" * 99 if members is None else packed(ending, members, **odd)
    folder = tmp_path / "there" / "model"
    with pytest.raises(GatewayError, match=said):
        in_archive(Hosting(), f"adapter.{ending}", raw).download(folder)
    assert not folder.exists() and {path.name for path in tmp_path.iterdir()} <= {"there", "home"}


def test_an_archive_that_is_too_large_fills_no_disk(tmp_path: Path) -> None:
    """It is stopped at what there is room for, whatever its headers say."""
    raw = packed("zip", {"a.safetensors": bytes(10_000_000)})
    (tmp_path / "a.zip").write_bytes(raw)
    assert len(raw) < 20_000
    with pytest.raises(SpecError, match="more than 2,000,000 bytes"):
        archives.unpack(tmp_path / "a.zip", tmp_path, 2_000_000)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_of_two_at_once_one_asks(home: Path, tmp_path: Path) -> None:
    """Each file is asked for once, and both have the model."""
    backend, folder = Hosting(), tmp_path / "model"
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda _: handle(backend).download(folder), range(4))]
    assert {one.model for one in found} == {str(folder)}
    assert sorted(backend.asked) == sorted(FILES)
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["model"]


def test_a_checkpoint_and_a_merged_model_are_brought_here(home: Path, train_file: Path) -> None:
    """A checkpoint beside the result of its job; weights without an adapter as a model of their
    own."""
    names = ("config.json", "model.safetensors")  # what is in them is the same
    files = dict(zip(names, FILES.values(), strict=True))

    class Saving(Hosting):
        def checkpoint(self, provider_id: str, point: Checkpoint) -> Result:
            merged = [artifact(name, raw, kind="merged") for name, raw in files.items()]
            return Result(kind="hosted", model=point.model, artifacts=merged)

    backend = Saving()
    backend.broken = dict(files)
    job = Gateway().submit(train_file, model="m", backend=backend).wait(30)
    found = job.handle("last").download()
    assert (found.kind, found.step) == ("merged", 5)
    assert found.model == str(home / "models" / f"{job.id}@5")
    job.remove()
    assert not Path(found.model).exists()


def test_a_disk_without_room_is_said_before(home: Path, tmp_path: Path) -> None:
    backend = Hosting()
    huge = [artifact(name, raw, bytes=10**15) for name, raw in FILES.items()]
    with pytest.raises(StoreError, match="has room for"):
        handle(backend, artifacts=huge).download(tmp_path / "model")
    assert backend.asked == []


def test_a_backend_without_files_says_so(home: Path, tmp_path: Path) -> None:
    """The default of the contract."""
    given = handle(Hosting())
    given.attach(FakeBackend())
    with pytest.raises(UnsupportedError, match="gives no files"):
        given.download(tmp_path / "model")


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_downloads import FILES, Hosting, handle

class Dying(Hosting):
    def download(self, artifact, handle, folder):
        if artifact.name == "adapter_model.safetensors":
            (folder / artifact.name).write_bytes(FILES[artifact.name][:100])
            os.kill(os.getpid(), 9)
        super().download(artifact, handle, folder)

handle(Dying()).download(Path(sys.argv[1]))
"""


def test_after_a_kill_the_same_call_goes_on(home: Path, tmp_path: Path) -> None:
    """The place stays free; half a file is asked for again, a whole one is not."""
    folder = tmp_path / "model"
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", KILLED, str(folder), here]
    died = subprocess.run(words, check=False, env=environment)
    assert died.returncode == -signal.SIGKILL and not folder.exists()
    backend = Hosting()
    handle(backend).download(folder)
    assert backend.asked == ["adapter_model.safetensors"]


def test_a_job_has_its_model_in_the_home_folder_until_it_is_removed(home: Path) -> None:
    """For this user alone, and by the name of the job."""
    gateway, backend = Gateway(), Hosting()
    artifacts = [artifact(name, raw) for name, raw in FILES.items()]
    made = Result(kind="hosted", model="fake:1", artifacts=artifacts)
    stored = gateway.store.add(record(status="succeeded", result=made, provider_id="fake-1"))[0]
    job = gateway.job(stored.id, backend=backend)
    found = job.result().download()
    folder = home / "models" / job.id
    assert found.model == str(folder) and folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    again = ModelHandle.model_validate_json(job.result().model_dump_json())
    assert [one.name for one in again.artifacts] == [*FILES]
    job.remove()
    assert not folder.exists()


@pytest.mark.parametrize(
    "artifacts",
    [
        None,
        ["a"],
        [artifact("a.safetensors", b"").model_copy(update={"name": "../a"})],
        [artifact("a.safetensors", b"").model_copy(update={"sha256": "no hash"})],
        [artifact("a.safetensors", b"").model_copy(update={"bytes": -1})],
        [artifact("a.safetensors", b"").model_copy(update={"bytes": float("nan")})],
        [artifact("a.safetensors", b""), artifact("A.safetensors", b"")],
        [artifact("a.safetensors", b"")] * 1_001,
    ],
)
def test_wrong_artifacts_are_not_offered(home: Path, artifacts: Any) -> None:
    """Names that lead elsewhere, no hashes, two that are one file, too many: in words."""
    given = Result(kind="hosted", model="m").model_copy(update={"artifacts": artifacts})
    found = Lying(given).checkpoint("fake-1", Checkpoint(id="1", step=1, model="m"))
    assert (found.model, found.artifacts) == ("m", [])
    assert "Its files cannot be downloaded" in found.warnings[0]


class Lying(FakeBackend):
    """Gives this result, whatever it is asked for."""

    def __init__(self, given: Result) -> None:
        super().__init__()
        self.given = given

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        found = super().poll(provider_id, cursor)
        return found.model_copy(update={"result": self.given if found.status.final else None})

    def checkpoint(self, provider_id: str, point: Checkpoint) -> Result:
        return self.given


def test_wrong_artifacts_hide_no_model(home: Path, train_file: Path) -> None:
    """It is paid, and answers; the handle says what is wrong."""
    given = Result(kind="hosted", model="m").model_copy(update={"artifacts": None})
    job = Gateway().submit(train_file, model="m", backend=Lying(given)).wait(20)
    found = job.handle()
    assert job.status == "succeeded" and found.chat("Hi").text
    assert "Its files cannot be downloaded" in found.warnings[0]


def test_an_adapter_and_a_whole_model_may_have_files_of_one_name(home: Path) -> None:
    """The tokenizer, as real hosts have it."""
    both = [artifact("tokenizer.json", b"", kind=kind) for kind in ("adapter", "merged")]
    given = Result(kind="hosted", model="m", artifacts=both)
    found = Lying(given).checkpoint("fake-1", Checkpoint(id="1", step=1, model="m"))
    assert (found.artifacts, found.warnings) == (both, [])


def test_a_later_version_may_say_more_of_a_file() -> None:
    """It is kept, and written again."""
    document = {**json.loads(artifact("a.json", b"").model_dump_json()), "region": "eu"}
    assert json.loads(Artifact.model_validate(document).model_dump_json()) == document


# -- what is no model, and what is no place -----------------------------------------------------

INDEX = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
CONFIG, ADAPTER = {"config.json": b"{}"}, {"adapter_config.json": b"{}"}


@pytest.mark.parametrize(
    ("kind", "files", "wrong"),
    [
        ("adapter", {**ADAPTER, "adapter_model.safetensors": b""}, "no safetensors file"),
        ("adapter", {**ADAPTER, "adapter_model.safetensors": b"<html></html>"}, "safetensors"),
        ("adapter", {**ADAPTER, "adapter_model.safetensors": weights("w")[:-1]}, "header"),
        ("adapter", {**ADAPTER, "adapter_model.safetensors": weights()}, "no weights"),
        ("adapter", {**FILES, "adapter_config.json": b"<html>"}, "adapter_config.json is no JSON"),
        ("adapter", {**FILES, "adapter_config.json": b"[]"}, "no JSON object"),
        ("merged", {**CONFIG, "model.safetensors.index.json": json.dumps(INDEX).encode(),
                    "model-1-of-2.safetensors": weights("a")}, "missing"),
        ("merged", {**CONFIG, "model.safetensors.index.json": b"<html>"}, "no index"),
    ],
)  # fmt: skip
def test_a_ruin_is_no_model(
    home: Path, tmp_path: Path, kind: str, files: dict[str, bytes], wrong: str
) -> None:
    """Though it is what its host says, by its size and its hash: nothing is at the place."""
    backend = Hosting()
    backend.broken = dict(files)
    given = [artifact(name, raw, kind=kind) for name, raw in files.items()]
    with pytest.raises(BackendError, match=wrong):
        handle(backend, artifacts=given).download(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "place", ["~nobody-has-this-name/x", "a\0b", "x" * 300, "a/\ud800", "/", "", 7, None]
)
def test_a_place_that_is_none_is_named(home: Path, place: Any) -> None:
    """In our words, whoever gives it; without one it is in the home folder, whatever the job."""
    given = handle(Hosting(), job_id="../../outside")
    if place is None:
        assert Path(given.download().model).parent == home / "models"
        return
    with pytest.raises(SpecError, match="nothing was written"):
        given.download(place)


def test_a_place_without_files_is_not_said_to_be_full(home: Path, tmp_path: Path) -> None:
    """A file where a folder should be: space would not help."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError) as caught:
        handle(Hosting()).download(tmp_path / "file" / "model")
    assert "name another folder" in caught.value.hint and "space" not in caught.value.hint


def test_another_base_is_taken(home: Path, tmp_path: Path) -> None:
    """By a second call too, which asks the host for nothing."""
    backend, folder = Hosting(), tmp_path / "model"
    for base, found in (("acme/x", "acme/x"), ("acme/y", "acme/y"), (None, "acme/y")):
        assert handle(backend).download(folder, base=base).base_model == found
    assert backend.asked == [*FILES]


@pytest.mark.parametrize("how", ["symlink", "hard link", "folder", "lock"])
def test_what_lies_in_the_way_is_not_written_through(home: Path, tmp_path: Path, how: str) -> None:
    """A file of the user's that a link in the hidden folder leads to stays as it is."""
    mine, part = tmp_path / "mine", tmp_path / ".model.part"
    mine.write_bytes(b"precious")
    part.mkdir()
    planted = part / ("adapter_model.safetensors" if how != "lock" else ".lock")
    if how in ("symlink", "lock"):
        planted.symlink_to(mine if how == "symlink" else tmp_path / "nowhere")
    elif how == "hard link":
        os.link(mine, planted)
    else:
        planted.mkdir()
    if how == "lock":
        with pytest.raises(SpecError, match="nothing was written"):
            handle(Hosting()).download(tmp_path / "model")
        assert not (tmp_path / "nowhere").exists()
        return
    (part / ".lock").touch()
    handle(Hosting()).download(tmp_path / "model")
    raw = (tmp_path / "model" / "adapter_model.safetensors").read_bytes()
    assert mine.read_bytes() == b"precious" and raw == FILES["adapter_model.safetensors"]


def test_a_file_that_a_plugin_links_is_copied(home: Path, tmp_path: Path) -> None:
    """Its cache keeps its own, with its rights; a folder in place of a file blocks no next call."""
    cache = tmp_path / "cache"
    cache.write_bytes(FILES["adapter_config.json"])
    cache.chmod(0o644)

    class Linking(Hosting):
        def download(self, artifact: Artifact, handle: HandleData, folder: Path) -> None:
            if artifact.name != "adapter_config.json":
                super().download(artifact, handle, folder)
            elif self.asked:
                os.link(cache, folder / artifact.name)
            else:
                self.asked.append("a folder")
                (folder / artifact.name).mkdir()

    given = handle(Linking(), job_id="ftg-1")
    with pytest.raises(BackendError, match="no such file was written"):
        given.download()
    found = Path(given.download().model)
    assert cache.stat().st_mode & 0o777 == 0o644 and cache.stat().st_nlink == 1
    assert (found / "adapter_config.json").read_bytes() == cache.read_bytes()


def test_of_two_models_at_once_one_is_there(home: Path, tmp_path: Path) -> None:
    """The other call says that the place is taken, and nothing is left of it."""
    other = {**FILES, "adapter_model.safetensors": weights("other")}
    meet = threading.Barrier(2)

    class Slow(Hosting):
        def download(self, artifact: Artifact, handle: HandleData, folder: Path) -> None:
            time.sleep(0.05)  # the other waits for the lock
            super().download(artifact, handle, folder)

    def ask(files: dict[str, bytes]) -> str:
        backend = Slow()
        backend.broken = dict(files)
        given = handle(backend, artifacts=[artifact(name, raw) for name, raw in files.items()])
        meet.wait(20)
        try:
            return Path(given.download(tmp_path / "model").model).name
        except SpecError as exc:
            return exc.message.rpartition(": ")[2]

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(ask, (FILES, other))) == ["model", "nothing was written."]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["model"]
