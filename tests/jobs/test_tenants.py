"""Accounts and tenants in one process: no job, file, price or key of one reaches another."""

from __future__ import annotations

import pickle
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from support.chaos import until
from support.hostile import Honest
from support.provider import Provider
from support.rows import chat_rows

from finetune_gateway import (
    AuthenticationError,
    Backend,
    BackendError,
    FakeBackend,
    Gateway,
    GatewayError,
    JobStatus,
    KeyRequest,
    LocalBackend,
    NotFoundError,
    OpenAIBackend,
    SpecError,
)
from finetune_gateway.jobs.job import Job

MODEL = "gpt-4.1-mini-2025-04-14"
MINE = "sk-test-0123456789abcdef"
THEIRS = "sk-test-other-6789abcdef"  # of another account


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(steps=1, begins=1, keys={THEIRS: "other"}) as provider:
        yield provider


def wire(provider: Provider, key: str, **options: Any) -> OpenAIBackend:
    """A host that settles quickly, with a key by value."""
    given = {"request_timeout": 1.0, "settle_seconds": 0.03, "poll_seconds": 0.005}
    place = {"base_url": provider.url, "profile": "custom", "api_key": key}
    return OpenAIBackend(**{**given, **place, **options})


# -- one object, two homes -----------------------------------------------------------------


def test_an_object_that_two_homes_share_keeps_them_apart(
    tmp_path: Path, train_file: Path, provider: Provider
) -> None:
    """Each Gateway has a copy of its own: jobs, data and queues stay in the home they belong to."""
    first, second = Gateway(tmp_path / "first"), Gateway(tmp_path / "second")
    hosted, local = wire(provider, MINE), LocalBackend()
    job = first.submit(train_file, model=MODEL, backend=hosted)
    other = second.submit(train_file, model=MODEL, backend=hosted, seed=1)
    assert first.submit(train_file, model=MODEL, backend=hosted).id == job.id
    for gateway, own in ((first, job), (second, other)):
        assert [one.id for one in gateway.jobs()] == [own.id]
        assert own.wait(20).status is JobStatus.SUCCEEDED and own.result().ready
        assert own.record.account == gateway.settings.fingerprint(provider.url, MINE)
        assert gateway.backend(hosted) is gateway.backend(hosted) is own.backend
        bound = gateway.backend(local)
        assert isinstance(bound, LocalBackend)
        assert bound.queue.settings.home == gateway.settings.home
    bound = first.backend(local)
    assert isinstance(bound, LocalBackend) and bound.queue.settings.home == tmp_path / "first"


class Keeping(Honest):
    """Keeps what it has made with a key, as an SDK's client does."""

    name = "keeping"
    gateway_options = frozenset({"keys"})

    def __init__(self) -> None:
        super().__init__()
        self.client: str | None = None
        self.clients: dict[str, str] = {}

    @cached_property
    def session(self) -> str:
        return self.required_key("KEEPING_KEY", "https://keeping.example")

    def start(self, job_id: str, *args: Any) -> str:
        self.client = self.client or self.session
        sent_by = {self.client, self.session, self.clients.setdefault("host", self.session)}
        return "-".join(["job", *(key.rpartition("-")[2] for key in sent_by)])  # never a whole key


@pytest.mark.parametrize("given", ["the object", "what another Gateway has of it"])
def test_a_copy_keeps_nothing_of_the_gateway_before(
    tmp_path: Path, train_file: Path, given: str
) -> None:
    """Else the jobs of one tenant are bought with the key of another."""
    backend: Backend = Keeping()
    for name in ("first", "second", "third"):
        keys = {"keeping.example": f"key-of-the-{name}"}
        gateway = Gateway(tmp_path / name, keys=keys)
        job = gateway.submit(train_file, model="m", backend=backend)
        assert job.provider_id == f"job-{name}"
        if given != "the object":
            backend = gateway.backend(backend)


class Market(FakeBackend):
    """A plug-in of which no package is installed."""

    name = "market"


def test_a_job_of_a_class_that_is_not_installed_is_found_by_its_object(
    home: Path, train_file: Path
) -> None:
    """By a Gateway that has it under any name, or for one job; another says what is missing."""
    name = Gateway().submit(train_file, model="m", backend=Market()).id
    with Gateway(backends={"market": Market()}) as gateway:
        [job] = gateway.jobs()
        assert job.wait(30).result().chat("Hi").text
    assert Gateway().job(name, backend=Market()).result().ready
    with pytest.raises(NotFoundError, match=r"No backend named 'market'.*backends=\{NAME: object"):
        Gateway().job(name).backend  # noqa: B018 - loaded when it is first used


def test_an_object_that_cannot_be_copied_is_refused_in_words(tmp_path: Path) -> None:
    """A second Gateway does not take it away from the first."""

    class Single(FakeBackend):
        def __copy__(self) -> FakeBackend:
            raise TypeError("there is one of me")

    backend = Single()
    Gateway(tmp_path / "first").backend(backend)
    with pytest.raises(SpecError, match=r"Single is used by another Gateway.*TypeError"):
        Gateway(tmp_path / "second").backend(backend)


# -- keys ----------------------------------------------------------------------------------


def asked_by(provider: Provider, job: Job) -> set[str]:
    """The keys with which this job was asked for at the host."""
    return {
        headers["authorization"].removeprefix("Bearer ")
        for _, path, headers in provider.requests
        if job.provider_id and job.provider_id in path
    }


@pytest.mark.parametrize("named", [True, False])
def test_each_job_is_asked_for_with_the_key_of_its_account(
    home: Path, train_file: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """Two accounts of one host in one Gateway, keys by value: jobs that are opened by their id find
    the key of their own, whether the backends have names or came with a submit."""
    monkeypatch.setenv("OPENAI_API_KEY", THEIRS)  # of the process, and nobody's business here
    acme, beta = wire(provider, MINE), wire(provider, THEIRS)
    gateway = Gateway(backends={"acme": acme, "beta": beta} if named else None)
    places: list[Any] = ["acme", "beta"] if named else [acme, beta]
    ids = [gateway.submit(train_file, model=MODEL, backend=place).id for place in places]
    assert [job["account"] for job in provider.jobs] == ["main", "other"]
    provider.requests.clear()  # each new key was tried on a job, as it may be of its account
    for one, key in zip(ids, (MINE, THEIRS), strict=True):
        job = gateway.job(one)
        assert job.wait(20).status is JobStatus.SUCCEEDED
        assert asked_by(provider, job) == {key}
    assert gateway.refresh() == [] and provider.posts["/files"] == 2


def by_host(provider: Provider) -> dict[str, str]:
    return {provider.url.split("/")[2]: MINE}


GIVEN: dict[str, Callable[[Provider], Any]] = {
    "host": by_host,
    "variable": lambda provider: {"TENANT_KEY": MINE},
    "name": lambda provider: {"gpu": MINE},
    "function": lambda provider: lambda asked: MINE if asked.variable == "TENANT_KEY" else None,
}


@pytest.mark.chaos
def test_models_are_compared_with_the_keys_of_their_accounts(
    home: Path, train_file: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs of two accounts of one host, in one comparison."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-of-the-process")
    places = {"acme": wire(provider, MINE), "beta": wire(provider, THEIRS)}
    words = ("rivers of Spain", "moons of Mars", "keys of a piano")
    rows = [
        {"messages": [{"role": "user", "content": f"Name {word}."},
                      {"role": "assistant", "content": f"Some {word}."}]} for word in words
    ]  # fmt: skip
    with Gateway(backends=places) as gateway:
        jobs = [
            gateway.submit(train_file, model=MODEL, backend=name).wait(20)
            for name in ("acme", "beta")
        ]
        provider.requests.clear()
        gateway.compare([job.id for job in jobs], rows, max_tokens=8)
        chats = Counter(
            headers["authorization"].removeprefix("Bearer ")
            for _, path, headers in provider.requests
            if path == "/chat/completions"
        )
    assert chats == {MINE: 3, THEIRS: 3}


@pytest.mark.parametrize("how", GIVEN)
def test_keys_are_given_by_value(
    home: Path, train_file: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """By host, by variable, by a name of this Gateway, by a function. The environment counts for
    nothing."""
    for variable in ("TENANT_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(variable, THEIRS)
    place = wire(provider, MINE, api_key=None, api_key_env="TENANT_KEY")
    keys = GIVEN[how](provider)
    with Gateway(keys=keys, backends={"gpu": place}) as gateway:
        job = gateway.submit(train_file, model=MODEL, backend="gpu")
        assert gateway.job(job.id).wait(20).status is JobStatus.SUCCEEDED
        assert gateway.job(job.id).result().chat("hi").text
        assert asked_by(provider, job) == {MINE}
    assert [one["account"] for one in provider.jobs] == ["main"]


def test_a_key_by_value_is_no_variable_in_an_error(
    home: Path, train_file: Path, provider: Provider
) -> None:
    """Another account's: the variable that the job names was not read."""
    mine, theirs = by_host(provider), dict.fromkeys(by_host(provider), THEIRS)
    place = wire(provider, MINE, api_key=None, api_key_env="TENANT_KEY")
    with Gateway(keys=mine) as gateway:
        job = gateway.submit(train_file, model=MODEL, backend=place)
    with (
        Gateway(keys=theirs) as gateway,
        pytest.raises(
            AuthenticationError, match="The key that this Gateway was given for .* belongs to"
        ),
    ):
        gateway.job(job.id).refresh()


def test_a_key_that_was_not_given_is_taken_from_nowhere(
    home: Path, train_file: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from the environment nor from another Gateway; a function that fails says nothing of
    what it knows."""
    monkeypatch.setenv("TENANT_KEY", THEIRS)

    def broken(asked: KeyRequest) -> str:
        raise LookupError(f"no such vault: {MINE}")

    async def later(asked: KeyRequest) -> str:
        return MINE

    cases: list[tuple[Any, str]] = [
        ({"OTHER_KEY": MINE}, "was given no key for 127.0.0.1"),
        (lambda asked: None, "was given no key"),
        (lambda asked: 7, "gives int for 127.0.0.1"),
        (broken, "has raised LookupError"),
        (lambda asked: sys.exit(MINE), "has raised SystemExit"),
        (later, "gives coroutine for 127.0.0.1"),
        (
            {"TENANT_KEY": f"{MINE} {MINE}"},
            "The key that this Gateway was given for 127.0.0.1:[0-9]+ has spaces",
        ),
    ]
    for keys, said in cases:
        place = wire(provider, MINE, api_key=None, api_key_env="TENANT_KEY")
        with pytest.raises(AuthenticationError, match=said) as caught:
            Gateway(keys=keys).submit(train_file, model=MODEL, backend=place)
        assert MINE not in "".join(traceback.format_exception(caught.value))
        assert MINE not in repr(caught.value.__context__)
    assert provider.requests == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keys": {"openia": MINE}}, "Did you mean openai"),
        ({"keys": {"openai": 7}}, "keys\\['openai'\\] is int"),
        ({"keys": {MINE: "openai"}}, "A name in keys"),
        ({"keys": {"OPENAI_API_KEY": " "}}, "empty"),
        ({"keys": MINE}, "not str"),
        ({"timeout": 0}, "timeout cannot be 0"),
        ({"timeout": float("nan")}, "timeout cannot be nan"),
        ({"proxy": "socks9://127.0.0.1:1"}, "proxy can't be used"),
        ({"proxy": 7}, "not int"),
        ({"http_client": httpx.Client}, "must be an httpx2.Client"),
        ({"http_client": httpx2.AsyncClient}, "must be an httpx2.Client"),
        ({"backends": {"opanai": {}}}, "No backend named 'opanai'"),
        (
            {"backends": {"openai": {"timeout": 3}}},
            "Backend 'openai' has no setting 'timeout'. It takes",
        ),
        ({"backends": {"openai": 3}}, "a backend object or its options"),
    ],
)
def test_wrong_arguments_are_refused_without_showing_a_key(
    home: Path, given: dict[str, Any], said: str
) -> None:
    """What is misspelt or of a wrong kind is said when the Gateway is made."""
    with ExitStack() as closing:
        if isinstance(given.get("http_client"), type):
            client = given["http_client"]()
            given = {"http_client": client}
            if isinstance(client, httpx.Client):
                closing.callback(client.close)
        with pytest.raises(GatewayError, match=said) as caught:
            Gateway(**given)
    assert MINE not in str(caught.value) and not home.exists()


def test_no_key_is_kept_or_shown(
    tmp_path: Path, train_file: Path, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the home, in what is logged, in a text of an object or an error, nor in what another
    process gets."""
    caplog.set_level("DEBUG")
    home = tmp_path / "home"
    keys = by_host(provider)
    gateway = Gateway(home, keys=keys, backends={"their": wire(provider, THEIRS)})
    job = gateway.submit(train_file, model=MODEL, backend=wire(provider, MINE, api_key=None))
    job.wait(20)
    handle = job.result()
    provider.fault("POST /chat/completions", *["status"] * 9, status=400)
    with pytest.raises(BackendError) as caught:
        handle.chat("hi")
    gateway.submit(train_file, model=MODEL, backend="their").wait(20)
    seen = [caplog.text, repr(gateway.settings), repr(vars(gateway)), repr(job), repr(handle)]
    seen += ["".join(traceback.format_exception(caught.value)), repr(gateway.settings.client)]
    seen += [handle.model_dump_json(), repr(gateway.backend("their")), repr(job.backend)]
    for key in (MINE, THEIRS):
        assert key not in "\n".join(seen) and key.encode() not in pickle.dumps(gateway.settings)
        for path in home.rglob("*"):
            assert not path.is_file() or key.encode() not in path.read_bytes(), path


# -- use, close ----------------------------------------------------------------------------


def test_use_gives_another_gateway_of_the_same_home(
    home: Path, train_file: Path, provider: Provider
) -> None:
    """With another key and time-out; what is left out stays. Each is closed by itself."""
    place = wire(provider, MINE, api_key=None)
    mine = Gateway(keys=by_host(provider), backends={"gpu": place}, timeout=30)
    job = mine.submit(train_file, model=MODEL, backend="gpu")
    theirs = mine.use(keys={provider.url.split("/")[2]: THEIRS})
    assert theirs.settings.home == mine.settings.home and theirs.settings.client.timeout == 30
    with pytest.raises(AuthenticationError, match="another account"):
        theirs.job(job.id).refresh()
    assert theirs.submit(train_file, model=MODEL, backend="gpu").id != job.id
    assert [one["account"] for one in provider.jobs] == ["main", "other"]
    hurried = mine.use(timeout=7)
    restored = hurried.job(job.id).backend
    assert isinstance(restored, OpenAIBackend)
    theirs.close()
    assert job.wait(20).status is JobStatus.SUCCEEDED


def test_a_shorter_timeout_shortens_no_doubt(
    home: Path, train_file: Path, provider: Provider
) -> None:
    """A job that was sent with a long time-out may take effect for as long, whatever the Gateway
    that opens it waits for an answer; a longer one makes that longer."""
    place = wire(provider, MINE, settle_seconds=None, request_timeout=40.0)
    job = Gateway().submit(train_file, model=MODEL, backend=place)
    for seconds, pause in ((5.0, 50.0), (300.0, 310.0)):
        restored = Gateway(keys=by_host(provider), timeout=seconds).job(job.id).backend
        assert isinstance(restored, OpenAIBackend)
        assert restored.request_timeout == seconds
        assert restored.capabilities().settle_seconds == pause


def test_after_close_all_is_refused_in_words(
    tmp_path: Path, train_file: Path, provider: Provider
) -> None:
    """The Gateway, its jobs, its handles: nothing is sent; the home can be opened again. The
    connections of all threads are closed."""
    home = tmp_path / "home"
    with Gateway(home, keys=by_host(provider)) as gateway:
        job = gateway.submit(train_file, model=MODEL, backend=wire(provider, MINE, api_key=None))
        handle = job.wait(20).result()
        with ThreadPoolExecutor(2) as pool:
            assert [one.id for one in pool.submit(gateway.jobs).result()] == [job.id]
    before = len(provider.requests)
    late: list[Callable[[], object]] = [
        lambda: gateway.submit(train_file, model=MODEL, backend="fake"),
        lambda: gateway.validate(train_file),
        lambda: gateway.job(job.id),
        lambda: gateway.jobs(),
        lambda: gateway.use(timeout=3),
        lambda: gateway.backend("openai"),
        job.refresh,
        lambda: handle.chat("hi"),
        gateway.__enter__,
    ]
    for call in late:
        with pytest.raises(SpecError, match="This Gateway is closed"):
            call()
    gateway.close()
    until(lambda: not provider.server.open_sockets)
    assert len(provider.requests) == before
    assert Gateway(home).job(job.id).status is JobStatus.SUCCEEDED


def test_a_client_of_the_user_sends_everything(
    home: Path, train_file: Path, provider: Provider
) -> None:
    """Its hooks see each request, its own headers and login go nowhere, redirects are not followed,
    and only the user closes it."""
    paths: list[str] = []
    hook = {"request": [lambda request: paths.append(request.url.path)]}
    with httpx2.Client(event_hooks=hook, auth=("me", "secret"), follow_redirects=True) as client:
        with Gateway(http_client=client, keys=by_host(provider)) as gateway:
            place = wire(provider, MINE, api_key=None)
            job = gateway.submit(train_file, model=MODEL, backend=place)
            assert gateway.job(job.id).wait(20).status is JobStatus.SUCCEEDED
            assert "".join(job.result().stream("hi"))
        assert not client.is_closed and client.get(provider.url).status_code == 401
    assert len(paths) == len(provider.requests)
    assert asked_by(provider, job) == {MINE}
    gateway = Gateway(http_client=client, keys=by_host(provider))
    with pytest.raises(BackendError, match="http_client of this Gateway is closed"):
        gateway.submit(train_file, model=MODEL, backend=place, seed=2)
    with pytest.raises(SpecError, match="can't both be given"):
        Gateway(http_client=client, proxy="http://127.0.0.1:9")


def test_a_proxy_of_the_gateway_is_on_the_way(
    home: Path, train_file: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the environment is not; a password in it is shown nowhere."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    place: dict[str, Any] = {"base_url": "http://gpu.example/v1", "allow_http": True}
    proxy = f"http://me:hunter2@{provider.url.split('/')[2]}"
    with Gateway(keys={"gpu.example": MINE}, proxy=proxy) as gateway:
        job = gateway.submit(train_file, model=MODEL, backend=OpenAIBackend(**place))
        assert job.provider_id and provider.jobs[0]["account"] == "main"
        assert "hunter2" not in repr(gateway.settings)
    gateway = Gateway(keys={"gpu.example": MINE}, proxy="http://me:hunter2@127.0.0.1:1")
    with pytest.raises(BackendError, match="proxy= of this Gateway") as caught:
        gateway.submit(train_file, model=MODEL, backend=OpenAIBackend(**place), seed=2)
    assert "hunter2" not in str(caught.value)


def test_a_job_is_opened_with_a_backend_of_the_caller(
    home: Path, train_file: Path, provider: Provider
) -> None:
    """With its key; one of another host is refused, with nothing sent."""
    job = Gateway().submit(train_file, model=MODEL, backend=wire(provider, MINE))
    seen = Gateway().job(job.id, backend=wire(provider, MINE))
    assert seen.wait(20).status is JobStatus.SUCCEEDED
    before = len(provider.requests)
    elsewhere: list[Any] = [
        wire(provider, MINE, base_url="https://gpu.example/v1"), FakeBackend(), "local",
    ]  # fmt: skip
    for backend in elsewhere:
        with pytest.raises(SpecError, match=f"{job.id} is at http://127.0.0.1"):
            Gateway().job(job.id, backend=backend)
    assert len(provider.requests) == before


def test_a_tenant_leaves_nothing_in_the_default_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its data come as, and whatever is done with them."""
    monkeypatch.setenv("FTG_HOME", str(tmp_path / "default"))
    table = tmp_path / "rows.csv"
    table.write_text("prompt,completion\n" + "".join(f"what is {n},it is {n}\n" for n in range(12)))
    with Gateway(tmp_path / "tenant") as gateway:
        for data in (table, chat_rows(12), iter(chat_rows(12))):
            gateway.validate(data, model=MODEL)
        assert gateway.preview(table, model=MODEL) and gateway.advise(table)
        assert gateway.estimate(table, model=MODEL, backend="openai")
        job = gateway.submit(table, model=MODEL, backend="fake")
        assert job.wait(20).result().chat("hi").text
        assert gateway.refresh() == [] and gateway.remove(gateway.jobs()) and gateway.prune(0)
        assert gateway.budget() and gateway.costs()
    assert not (tmp_path / "default").exists()


def test_a_backend_that_is_being_loaded_holds_up_no_other_job(
    home: Path, tmp_path: Path, train_file: Path
) -> None:
    """Each Job loads its own; Python 3.11 has one lock for a cached property of all objects."""
    slow = Gateway(home).submit(train_file, model="m", backend=FakeBackend())
    quick = Gateway(tmp_path / "other").submit(train_file, model="m", backend=FakeBackend())
    begun, may_end = threading.Event(), threading.Event()

    def hang() -> Backend:
        begun.set()
        assert may_end.wait(60)
        return FakeBackend()

    job = Job(slow.record, slow.store, hang, slow._submitter)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(lambda: job.backend)
        assert begun.wait(60)
        opened = Gateway(tmp_path / "other").job(quick.id)
        try:
            assert pool.submit(lambda: opened.backend).result(timeout=30).name == "fake"
        finally:
            may_end.set()
        assert waiting.result(timeout=60) is job.backend
