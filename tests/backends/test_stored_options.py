"""A plug-in is asked with options of the user's alone, whatever a handle or a stored job names."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chaos import until
from support.paths import ROOT
from support.plugins import installed
from support.rest_service import KEY, RestService
from support.wiretap import Wiretap

from finetune_gateway import (
    AuthenticationError,
    BackendError,
    Gateway,
    ModelHandle,
    UnboundKeyError,
)
from finetune_gateway.backend import Artifact, Backend
from finetune_gateway.cli import main as ftg_main
from finetune_gateway.registry import load_class

FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture(autouse=True)
def plugin(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of a REST service is installed, and two keys are there."""
    installed(tmp_path / "site", "ftg_rest:RestBackend", "rest")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "example-rest"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-canary-0123456789")
    monkeypatch.setenv("REST_API_KEY", KEY)


@pytest.fixture
def tap() -> Iterator[Wiretap]:
    with Wiretap() as tap:
        yield tap


def handle(**options: Any) -> ModelHandle:
    """A handle as a stranger would write it, with files to download."""
    artifacts = [Artifact(name=name, kind="adapter", bytes=2) for name in FILES]
    return ModelHandle(
        kind="hosted", model="m", base_model="b", backend="rest", backend_options=options,
        job_id="../../outside", artifacts=artifacts,
    )  # fmt: skip


def test_a_strangers_handle_sends_no_key(tap: Wiretap, tmp_path: Path) -> None:
    """Whatever it names, and whatever is done with it; a backend of the user's is the way out."""
    path = handle(url=tap.url, key_env="OPENAI_API_KEY").save(tmp_path / "evil.json")
    actions: list[Any] = [
        lambda: handle(url=tap.url).chat("Hi"),
        lambda: handle(url=tap.url, key_env="OPENAI_API_KEY").chat("Hi"),
        lambda: ModelHandle.load(path).download(tmp_path / "model"),
        lambda: ModelHandle.load(path).download(),
        lambda: ModelHandle.load(path).connect(),
        lambda: Gateway().compare([ModelHandle.load(path)], [{"prompt": "a", "completion": "b"}]),
    ]
    for action in actions:
        with pytest.raises(UnboundKeyError) as caught:
            action()
        assert tap.url in caught.value.message and caught.value.exit_code == 5
        assert "handle.attach(RestBackend(...))" in caught.value.hint
    assert ftg_main(["chat", str(path), "Hi"]) == 5
    assert tap.connections == 0 and not (tmp_path / "outside").exists()
    assert not [*tmp_path.rglob("*.part")]
    own = handle(url="https://rest.example")
    own.attach(load_class("rest")(url=tap.url))  # type: ignore[call-arg]
    with pytest.raises(BackendError, match="says 404"):
        own.chat("Hi")
    assert KEY.encode() in tap.heard


@pytest.mark.parametrize("options", [{}, {"key_env": "REST_API_KEY", "gpu": "A100"}])
def test_what_a_plugin_is_by_itself_needs_no_word(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its class names host and key, and its user has installed it."""
    monkeypatch.delenv("REST_API_KEY")
    with pytest.raises(AuthenticationError, match="REST_API_KEY is not set") as caught:
        handle(**options).chat("Hi")
    assert not isinstance(caught.value, UnboundKeyError)


def test_what_the_user_gave_is_kept(
    tmp_path: Path, home: Path, train_file: Path, tap: Wiretap, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a submit, for jobs and handles of later processes: all options together, until they are
    unset. A stored job whose options were changed is refused."""
    (tmp_path / "host").mkdir()
    with RestService(tmp_path / "host") as service:
        backend: Backend = load_class("rest")(url=service.url)  # type: ignore[call-arg]
        job = Gateway().submit(train_file, model="acme-7b", backend=backend)
        opened = Gateway().job(job.id)
        until(lambda: opened.refresh().status == "succeeded")
        made = handle(**backend.options())
        made.connect()
        assert (home / "backend_options").stat().st_mode & 0o077 == 0
        with pytest.raises(UnboundKeyError):
            handle(**backend.options() | {"key_env": "OPENAI_API_KEY"}).connect()
        with job.store.transaction() as db:
            db.execute(
                "UPDATE jobs SET backend_options = replace(backend_options, ?, ?), "
                "status = 'running', finished_at = NULL", (service.url, tap.url),
            )  # fmt: skip
        for action in (Gateway().job(job.id).refresh, Gateway().job(job.id).cancel):
            with pytest.raises(UnboundKeyError):
                action()
        assert tap.connections == 0
        capsys.readouterr()
        assert ftg_main(["config", "list"]) == 0 and service.url in capsys.readouterr().err
        for said in ("removed", "was not set"):
            assert ftg_main(["config", "unset", "backends.rest"]) == 0
            assert capsys.readouterr().out == f"backends.rest {said}\n"
        with pytest.raises(UnboundKeyError):
            handle(**backend.options()).connect()


@pytest.mark.parametrize(("answer", "code"), [("y", 1), ("n", 5)])
def test_a_terminal_is_asked(
    tap: Wiretap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    """The question names the options; a no sends nothing, a yes is kept."""
    path = handle(url=tap.url).save(tmp_path / "m.json")
    main, side = pty.openpty()
    with open(side, encoding="utf-8") as stdin, open(os.dup(side), "w", encoding="utf-8") as stderr:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stderr", stderr)
        os.write(main, f"{answer}\n".encode())
        assert ftg_main(["chat", str(path), "Hi"]) == code
    shown = " ".join(b"".join(iter(lambda: _piece(main), b"")).decode().split())
    os.close(main)
    monkeypatch.undo()
    assert f"url='{tap.url}'" in shown and "with these options, now and later? [y/N]" in shown
    assert (KEY.encode() in tap.heard) == (answer == "y")
    assert (tmp_path / "home" / "backend_options").exists() == (answer == "y")


def _piece(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its other end is closed
        return b""
