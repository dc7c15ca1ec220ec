"""Proxies: none to this machine, each named where it does not work, and no key for them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Ftg
from support.hosted import SPEC, connect
from support.provider import Provider
from support.wiretap import Wiretap

from finetune_gateway import BackendError, OpenAIBackend, SpecError
from finetune_gateway.backend import DataFile
from finetune_gateway.price_updates import hf_jobs
from finetune_gateway.settings import clock
from finetune_gateway.settings.network import is_loopback, proxy_for

KEY = "gpu-canary-0123456789"
AWAY = "https://gpu.example/v1"
NO_FILE = DataFile(Path("none"), "0" * 64, 1, 1, remote_id="file-1")
PASSWORD = "pa55word"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    for kind in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{kind}_proxy", raising=False)
        monkeypatch.delenv(f"{kind}_proxy".upper(), raising=False)


@pytest.fixture
def tap() -> Iterator[Wiretap]:
    with Wiretap() as tap:
        yield tap


@pytest.fixture
def closed() -> str:
    """An address of this machine where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_no_proxy_is_used_to_this_machine(
    tap: Wiretap, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """By its address and by its name, with a proxy that works and with one that cannot."""
    with Provider() as provider:
        named = provider.url.replace("127.0.0.1", "localhost")
        for proxy in (f"http://{tap.address}", "socks9://nowhere:1"):
            monkeypatch.setenv(variable, proxy)
            for url in (provider.url, named):
                assert connect(provider, base_url=url).find_upload(NO_FILE) is None
        assert len(provider.requests) == 4 and tap.connections == 0
        monkeypatch.setenv("HF_ENDPOINT", provider.url)
        with pytest.raises(BackendError, match="did not answer: .*401"):
            hf_jobs.gpu_hours(clock.today())
        assert len(provider.requests) == 5 and tap.connections == 0


def test_a_proxy_sees_no_key(tap: Wiretap, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for a tunnel to the host; what goes through it is encrypted."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://{tap.address}")
    with pytest.raises(BackendError, match=r"through the proxy .*HTTPS_PROXY.*404") as caught:
        OpenAIBackend(base_url=AWAY, api_key=KEY).start("job-1", SPEC, NO_FILE, None)
    assert tap.heard.startswith(b"CONNECT gpu.example:443 ") and KEY.encode() not in tap.heard
    assert not caught.value.maybe_applied and "NO_PROXY=gpu.example" in caught.value.hint


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("form", ["http://{}", "{}", "socks9://{}", "http://{}9999"])
def test_a_proxy_that_does_not_work_is_named(
    closed: str, monkeypatch: pytest.MonkeyPatch, variable: str, form: str
) -> None:
    """Dead, or none that can be used: its variable, its address, no password."""
    monkeypatch.setenv(variable, form.format(f"user:{PASSWORD}@{closed}"))
    with pytest.raises(BackendError) as caught:
        OpenAIBackend(base_url=AWAY, api_key=KEY).start("job-1", SPEC, NO_FILE, None)
    shown = f"***@{closed}"
    assert shown in caught.value.message and f"({variable})" in caught.value.message
    assert variable in caught.value.hint and not caught.value.maybe_applied
    assert PASSWORD not in str(caught.value) and "user:" not in str(caught.value)


def test_doctor_tries_each_proxy(
    tap: Wiretap, closed: str, monkeypatch: pytest.MonkeyPatch, ftg: Ftg
) -> None:
    """It connects, sends nothing, and shows no password."""
    monkeypatch.setenv("HTTP_PROXY", f"http://{tap.address}")
    monkeypatch.setenv("HTTPS_PROXY", f"user:{PASSWORD}@{closed}")
    monkeypatch.setenv("ALL_PROXY", f"socks9://user:{PASSWORD}@{closed}")
    done = ftg("doctor")
    told = " ".join(done.stdout.split())
    assert f"http://{tap.address} (HTTP_PROXY) takes connections" in told
    assert f"http://***@{closed} (HTTPS_PROXY) cannot be used: " in told
    assert f"socks9://***@{closed} (ALL_PROXY) cannot be used: " in told
    assert done.returncode == 0 and PASSWORD not in told and tap.heard == b""


EXCEPTIONS = [
    # NO_PROXY, address, does it go around the proxy?
    ("*", AWAY, True),
    ("gpu.example", AWAY, True),
    ("example", AWAY, True),
    ("other.example, GPU.example", AWAY, True),
    ("gpu.example:443", "https://gpu.example:443/v1", False),
    ("gpu.example:8443", "https://gpu.example:8443/v1", True),
    ("gpu.example:8443", AWAY, False),
    (".gpu.example", AWAY, False),
    (".example", AWAY, True),
    ("*.example", AWAY, True),
    ("pu.example", AWAY, False),
    ("10.0.0.0/8", "https://10.1.2.3/v1", True),
    ("10.1.2.3", "https://10.1.2.3:8000/v1", True),
    ("10.0.0.0/8", "https://11.1.2.3/v1", False),
    ("fd00::/8", "https://[fd00::1]/v1", True),
    ("", AWAY, False),
]


@pytest.mark.parametrize(("exceptions", "url", "around"), EXCEPTIONS)
def test_what_goes_around_a_proxy(
    monkeypatch: pytest.MonkeyPatch, exceptions: str, url: str, around: bool
) -> None:
    """NO_PROXY: names with all below them, names below one, addresses, networks."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", exceptions)
    assert (proxy_for(url) is None) == around


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True), ("LOCALHOST", True), ("127.0.0.1", True), ("127.8.8.8", True),
        ("::1", True), ("::ffff:127.0.0.1", True), ("localhost.example", False),
        ("0.0.0.0", False), ("10.0.0.1", False), ("2130706433", False), ("", False),
    ],
)  # fmt: skip
def test_this_machine(host: str, here: bool) -> None:
    """Only what certainly does not leave it."""
    assert is_loopback(host) == here


HERE = [
    "localhost",
    "localhost.",
    "x.localhost",
    "127.1",
    "0x7f.1",
    "2130706433",
    "0.0.0.0",
    "[::]",
]


@pytest.mark.parametrize("host", HERE)
def test_no_spelling_of_this_machine_goes_to_a_proxy(
    tap: Wiretap, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A plain proxy would read the key. A host that only begins so is another one."""
    monkeypatch.setenv("HTTP_PROXY", f"http://{tap.address}")
    assert proxy_for(f"http://{host}:8000/v1") is None
    assert proxy_for(f"http://{host.strip('[]:')}.example/v1") is not None


def test_the_hub_is_not_asked_by_plain_http(tap: Wiretap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the settings name it; a password of a mirror is in no message."""
    monkeypatch.setenv("HTTP_PROXY", f"http://{tap.address}")
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:{PASSWORD}@mirror.example")
    with pytest.raises(SpecError, match="not encrypted") as caught:
        hf_jobs.gpu_hours(clock.today())
    assert PASSWORD not in str(caught.value) and tap.connections == 0
    monkeypatch.setenv("FTG_HOSTS_ALLOW_HTTP", "mirror.example")
    with pytest.raises(BackendError, match=r"mirror.example/.* through the proxy") as failed:
        hf_jobs.gpu_hours(clock.today())
    assert PASSWORD not in str(failed.value) and tap.connections == 1


def test_what_the_sdk_reads_from_the_environment_is_openais(
    tap: Wiretap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPENAI_CUSTOM_HEADERS and OPENAI_ADMIN_KEY are not told to another host."""
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: canary-team\nAuthorization: canary-auth")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "canary-admin")
    with pytest.raises(BackendError):
        OpenAIBackend(base_url=tap.url, api_key=KEY).poll("ftjob-1", None)
    assert KEY.encode() in tap.heard and b"canary-t" not in tap.heard
    assert b"canary-auth" not in tap.heard and b"canary-admin" not in tap.heard
