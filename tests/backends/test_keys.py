"""A key goes where the user has said that it belongs, and nowhere else: on real sockets."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.hosted import MODEL
from support.provider import Provider
from support.wiretap import Wiretap

import finetune_gateway as gateway
from finetune_gateway import (
    AuthenticationError,
    Gateway,
    ModelHandle,
    OpenAIBackend,
    SpecError,
    UnboundKeyError,
    registry,
)
from finetune_gateway.backend import DataFile
from finetune_gateway.cli import main as ftg_main
from finetune_gateway.jobs.records import row_of
from finetune_gateway.settings import config
from finetune_gateway.settings.home import Settings

SECRETS = {
    "HF_TOKEN": "hf_CanaryOfTheHub0123456789",
    "AWS_SECRET_ACCESS_KEY": "aws/Canary+0123456789abcdefghij",
    "OPENAI_API_KEY": "sk-proj-canary-0123456789",
    "NEBIUS_API_KEY": "neb-canary-0123456789",
    "GPU_KEY": "gpu-canary-0123456789",
}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def tap() -> Iterator[Wiretap]:
    with Wiretap() as tap:
        yield tap


def handle_file(folder: Path, **options: Any) -> Path:
    """A handle as a stranger would write it."""
    made = ModelHandle(
        kind="hosted", model="ft:m", base_model=MODEL, backend="openai", backend_options=options
    )
    folder.mkdir(exist_ok=True)
    return made.save(folder)


def submit(provider: Provider, file: Path, **options: Any) -> gateway.Job:
    given: dict[str, Any] = {
        "base_url": provider.url,
        "api_key_env": "GPU_KEY",
        "poll_seconds": 0.02,
    }
    return Gateway().submit(file, model=MODEL, backend=OpenAIBackend(**given | options))


# What a stranger names


@pytest.mark.parametrize("variable", SECRETS)
def test_a_strangers_handle_sends_no_variable(tap: Wiretap, tmp_path: Path, variable: str) -> None:
    """Not to another machine, not to this one, and not because it says that it may: no connection
    is made, in Python and by ftg chat, and the error names both and the way out."""
    for extra in ({}, {"allow_http": True}, {"profile": "openai"}, {"profile": "nebius"}):
        path = handle_file(tmp_path / "m", base_url=tap.url, api_key_env=variable, **extra)
        with pytest.raises(UnboundKeyError) as caught:
            ModelHandle.load(path.parent).chat("Hello")
        said = f"{variable} is not sent to {tap.address}"
        assert said in caught.value.message and caught.value.exit_code == 5
        assert f"ftg config set keys.{variable} {tap.address}" in caught.value.hint
    assert tap.connections == 0


def test_chat_with_a_strangers_folder_is_refused(
    tap: Wiretap, tmp_path: Path, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 5 without a terminal; the settings are the way out, and only for this pair."""
    handle_file(tmp_path / "m", base_url=tap.url, api_key_env="HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])  # ftg starts without keys
    done = ftg("chat", str(tmp_path / "m"), "Hello")
    assert (done.returncode, done.stdout) == (5, "") and tap.connections == 0
    assert f"HF_TOKEN is not sent to {tap.address}" in " ".join(done.stderr.split())
    assert ftg("config", "set", "keys.HF_TOKEN", tap.address).returncode == 0
    handle_file(tmp_path / "n", base_url=tap.url, api_key_env="AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["AWS_SECRET_ACCESS_KEY"])
    assert ftg("chat", str(tmp_path / "n"), "Hello").returncode == 5 and tap.connections == 0
    assert ftg("chat", str(tmp_path / "m"), "Hello").returncode == 1
    assert SECRETS["HF_TOKEN"].encode() in tap.heard
    assert SECRETS["AWS_SECRET_ACCESS_KEY"].encode() not in tap.heard
    assert ftg("config", "unset", "keys.HF_TOKEN").stdout == "keys.HF_TOKEN removed\n"
    assert ftg("chat", str(tmp_path / "m"), "Hello").returncode == 5


@pytest.mark.parametrize(("answer", "code"), [("y", 1), ("n", 5)])
def test_a_terminal_is_asked(
    tap: Wiretap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    """The question names the variable and the address; a no sends nothing, a yes is kept."""
    handle_file(tmp_path / "m", base_url=tap.url, api_key_env="HF_TOKEN")
    main, side = pty.openpty()
    with open(side, encoding="utf-8") as stdin, open(os.dup(side), "w", encoding="utf-8") as stderr:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stderr", stderr)
        os.write(main, f"{answer}\n".encode())
        assert ftg_main(["chat", str(tmp_path / "m"), "Hello"]) == code
    shown = " ".join(b"".join(iter(lambda: _piece(main), b"")).decode().split())
    os.close(main)
    assert f"Send the key in HF_TOKEN to http://{tap.address}, now and later? [y/N]" in shown
    assert (SECRETS["HF_TOKEN"].encode() in tap.heard) == (answer == "y")
    monkeypatch.undo()
    assert (tmp_path / "home" / "key_hosts").exists() == (answer == "y")


def _piece(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its other end is closed
        return b""


def test_a_stored_job_binds_nothing(tap: Wiretap, train_file: Path) -> None:
    """A row that says another address or variable than the call did is refused, whatever is done
    with the job; the one that the user gave goes on."""
    with Provider(keys={SECRETS["GPU_KEY"]: "main"}) as provider:
        job = submit(provider, train_file)
        assert Gateway().job(job.id).wait(20).result().chat("Hi").text
        changed = {"base_url": tap.url}, {"api_key_env": "HF_TOKEN"}
        for change in changed:
            options = {**job.record.backend_options, **change}
            record = job.reload().record.model_copy(
                update={"id": "ftg-forged", "backend_options": options, "handle": None,
                        "status": gateway.JobStatus.RUNNING, "finished_at": None,
                        "submit_key": "forged"}
            )  # fmt: skip
            before = len(provider.requests)
            forged = _stored(job, record)
            for action in (forged.refresh, forged.wait, forged.cancel, forged.backend.connect):
                with pytest.raises(UnboundKeyError):
                    action()
            assert len(provider.requests) == before and tap.connections == 0


def _stored(job: gateway.Job, record: Any) -> gateway.Job:
    row = row_of(record)
    with job.store.transaction() as db:
        db.execute("DELETE FROM jobs WHERE id = ?", (record.id,))
        names = ", ".join(row)
        db.execute(
            f"INSERT INTO jobs ({names}) VALUES ({', '.join('?' * len(row))})", [*row.values()]
        )
    return Gateway().job(record.id)


# What the user gives


def test_what_was_given_together_is_kept_with_the_job(
    train_file: Path, tmp_path: Path, home: Path, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By --base-url and --api-key-env: later commands, and a replaced key, need no word more. The
    same variable is not sent to a second host, nor another variable to this one."""
    with Provider(keys={SECRETS["GPU_KEY"]: "main", "new-gpu-key": "main"}) as provider:
        given = ["--base-url", provider.url, "--api-key-env", "GPU_KEY", "--train-price", "1"]
        words = ["submit", str(train_file), "--model", MODEL, "--backend", "openai", "--yes"]
        monkeypatch.setenv("GPU_KEY", SECRETS["GPU_KEY"])  # ftg starts without keys
        done = ftg(*words, *given)
        assert done.returncode == 0, done.stderr
        provider.jobs[0]["stage"] = 99  # it has succeeded
        monkeypatch.setenv("GPU_KEY", "new-gpu-key")
        assert Gateway().job(done.stdout.strip()).result().chat("Hi").text
        kept = home / "key_hosts"
        assert kept.read_text() == f"GPU_KEY {provider.url.removesuffix('/v1')}\n"
        assert kept.stat().st_mode & 0o077 == 0
        with Wiretap() as second:
            path = handle_file(tmp_path / "m", base_url=second.url, api_key_env="GPU_KEY")
            with pytest.raises(UnboundKeyError):
                ModelHandle.load(path).chat("Hi")
            path = handle_file(tmp_path / "m", base_url=provider.url, api_key_env="NEBIUS_API_KEY")
            with pytest.raises(UnboundKeyError):
                ModelHandle.load(path).chat("Hi")
            assert second.connections == 0
        assert "neb-canary" not in str(provider.requests)


@pytest.mark.parametrize(("variable", "kept"), [("OPENAI_API_KEY", True), ("GPU_KEY", False)])
def test_a_key_by_value_names_the_variable_that_holds_it(variable: str, kept: bool) -> None:
    """No other variable may go there later: the key of OpenAI is in OPENAI_API_KEY."""
    backend = OpenAIBackend(base_url="https://gpu.example/v1", api_key=SECRETS[variable])
    backend.connect()
    backend.remember()
    stored = registry.restore("openai", backend.options())
    assert stored.options()["api_key_env"] == "OPENAI_API_KEY"
    if kept:
        stored.connect()
        return
    with pytest.raises(UnboundKeyError):
        stored.connect()


def test_a_handle_goes_where_the_call_says(tmp_path: Path) -> None:
    """In Python, a backend of your own is the way out: its address, its variable."""
    with Provider(keys={SECRETS["GPU_KEY"]: "main"}) as provider, Wiretap() as tap:
        handle = ModelHandle.load(handle_file(tmp_path, base_url=tap.url, api_key_env="HF_TOKEN"))
        handle.model = MODEL
        handle.attach(OpenAIBackend(base_url=provider.url, api_key_env="GPU_KEY"))
        assert handle.chat("Hi").text and tap.connections == 0


HOSTS = [
    # variable, address, is it bound by a profile?
    ("OPENAI_API_KEY", "https://api.openai.com/v1", True),
    ("OPENAI_API_KEY", "https://eu.api.openai.com/v1", True),
    ("OPENAI_API_KEY", "https://api.openai.com.evil.example/v1", False),
    ("OPENAI_API_KEY", "https://evilapi.openai.com/v1", False),
    ("OPENAI_API_KEY", "https://contoso.openai.azure.com/openai/v1", False),
    ("AZURE_OPENAI_API_KEY", "https://contoso.openai.azure.com/openai/v1", True),
    ("AZURE_OPENAI_API_KEY", "https://a.b.openai.azure.com/openai/v1", False),
    ("NEBIUS_API_KEY", "https://api.tokenfactory.nebius.com/v1", True),
    ("NEBIUS_API_KEY", "https://api.openai.com/v1", False),
    ("AWS_BEARER_TOKEN_BEDROCK", "https://bedrock-mantle.us-east-1.api.aws/v1", True),
    ("AWS_BEARER_TOKEN_BEDROCK", "https://x.execute-api.us-east-1.api.aws/v1", False),
    ("HF_TOKEN", "https://api.openai.com/v1", False),
]


@pytest.mark.parametrize(("variable", "url", "bound"), HOSTS)
def test_a_profile_binds_its_variable_to_its_hosts(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str, bound: bool
) -> None:
    """Even for a handle; its neighbours in name are other hosts."""
    monkeypatch.setenv(variable, "a-key-0123456789")
    backend = registry.restore("openai", {"base_url": url, "api_key_env": variable})
    if bound:
        backend.connect()
        return
    with pytest.raises(UnboundKeyError):
        backend.connect()


def test_openai_base_url_is_the_users(monkeypatch: pytest.MonkeyPatch, tap: Wiretap) -> None:
    """It binds OPENAI_API_KEY to its own origin, and no other variable."""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://proxy.example/v1")
    registry.restore("openai", {}).connect()
    for url in ("https://proxy.example:8443/v1", "http://proxy.example/v1", tap.url):
        with pytest.raises(UnboundKeyError):
            registry.restore("openai", {"base_url": url}).connect()
    with pytest.raises(UnboundKeyError):
        registry.restore("openai", {"api_key_env": "HF_TOKEN"}).connect()
    assert tap.connections == 0


def test_a_settings_file_of_the_project_binds_nothing(
    tap: Wiretap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings come from the home folder, not from where a command runs or a handle lies."""
    path = handle_file(tmp_path, base_url=tap.url, api_key_env="HF_TOKEN")
    (tmp_path / "config.toml").write_text(f'[keys]\nHF_TOKEN = "{tap.address}"\n')
    (tmp_path / "key_hosts").write_text(f"HF_TOKEN http://{tap.address}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnboundKeyError):
        ModelHandle.load(path).chat("Hi")
    assert tap.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "https://user:sk-hidden-77@api.openai.com/v1",
        "https://@api.openai.com/v1",
        "https://api.openai.com\\@evil.example/v1",
        "https://evil.example\\.api.openai.com/v1",
        "https://api.openai.com\t.evil.example/v1",
        "https://api.openai.com#@evil.example/v1",
        "https://api\u3002openai\u3002com/v1",
        "https://api.openai.com:99999/v1",
        "",
    ],
)
def test_an_address_with_two_readings_is_none(tmp_path: Path, url: str) -> None:
    """User and password, and what one reader takes for another host than the next, are refused,
    whoever gave them."""
    with pytest.raises(SpecError) as caught:
        OpenAIBackend(base_url=url)
    assert "hidden-77" not in str(caught.value)
    path = handle_file(tmp_path, base_url=url, api_key_env="HF_TOKEN")
    with pytest.raises(SpecError):
        ModelHandle.load(path).chat("Hi")


@pytest.mark.parametrize(
    "url",
    ["https://u:{}@h/v1 ", "https://u:{}@h:999999/v1", "https://[u:{}@h/v1", "ht!tps://u:{}@h"]
    + ["https://u:a/{}@h:x", "https://h:x/v1?key={}", "u:{}@h"],
)
def test_what_is_no_address_is_told_without_its_password(home: Path, url: str) -> None:
    """A slip of the hand in one that has a password or a key in it; as a setting, too."""
    url = url.format("pa55word")
    with pytest.raises(SpecError, match="is not a URL") as caught:
        OpenAIBackend(base_url=url)
    assert "pa55word" not in str(caught.value)
    for name in ("keys.GPU_KEY", "hosts.allow_http"):
        with pytest.raises(SpecError, match="cannot be") as caught:
            config.write(Settings(home), name, url.replace(",", ""))
        assert "pa55word" not in str(caught.value)


# Plain http


def test_plain_http_has_to_be_allowed(
    home: Path, monkeypatch: pytest.MonkeyPatch, train_file: Path
) -> None:
    """By the call or the settings; a key by value changes nothing. Nothing is sent before."""
    file = DataFile(train_file, "0" * 64, 10, train_file.stat().st_size)
    with Wiretap() as network:  # what leaves this machine goes through it
        monkeypatch.setenv("HTTP_PROXY", f"http://{network.address}")
        url = "http://gpu.example/v1"
        call: dict[str, Any] = {"base_url": url, "request_timeout": 1.0}
        for key in ("api_key_env", "api_key"):
            there = OpenAIBackend(**{**call, key: "GPU_KEY_0123456789"})
            with pytest.raises(AuthenticationError, match="not encrypted") as caught:
                there.find_upload(file)
            assert "--allow-http" in caught.value.hint and caught.value.code == "plain_http"
        assert network.connections == 0
        allowed = OpenAIBackend(**call, api_key_env="GPU_KEY", allow_http=True)
        with pytest.raises(gateway.BackendError, match="404"):
            allowed.poll("ftjob-1", None)
        assert b"GET http://gpu.example/v1/fine_tuning/jobs/ftjob-1" in network.heard
        stored = registry.restore("openai", allowed.options())
        with pytest.raises(UnboundKeyError):
            stored.connect()
        allowed.remember()
        stored.connect()
        monkeypatch.setenv("FTG_HOSTS_ALLOW_HTTP", "other.example, gpu.example")
        OpenAIBackend(**call, api_key="by-value-0123456789").connect()
