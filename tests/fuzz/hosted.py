"""Everything that the hosted backend reads, fuzzed over a socket, and what must hold of it.

A call ends with an answer or with one of our errors. Whatever was answered is stored, and then
every view of the job works, can be written anywhere and steers no terminal. What a person sets is
read too: an address, a key, a proxy, a suffix.

    python tests/fuzz/hosted.py 600 7     for 600 seconds, with the seed 7

Prints the share of the lines of backends/openai/ that were reached. Ends with 0 when that is at
least 92 % and nothing was found; the bytes that led to a bug are kept in build/fuzz.
"""

# ruff: noqa: E402 - the measurement of lines begins before what is measured is imported

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import io
import json
import os
import random
import sys
import tempfile
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))  # for support, if this is the script

if __name__ == "__main__":  # before what is measured is imported
    import coverage

    ROOM = ROOT / "finetune_gateway/backends/openai"
    MEASURED = coverage.Coverage(data_file=None, config_file=False, source=[str(ROOM)])
    MEASURED.exclude("if TYPE_CHECKING:")
    MEASURED.start()

from rich.console import Console
from support.azure_management import AzureManagement
from support.hosted import EVENTS, LIST, MODEL, RETRIEVE, SPEC, data_file, handle_of, intent
from support.provider import CREATE, Provider
from targets import Wrong, restructured

from finetune_gateway import Gateway, OpenAIBackend
from finetune_gateway.backend.seam import PluginException
from finetune_gateway.errors import BackendError, GatewayError
from finetune_gateway.events import JobStatus, Result
from finetune_gateway.jobs import records
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.store import Store
from finetune_gateway.jobs.submission import Submitter
from finetune_gateway.reports import job_history_text, job_text, live, output
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

if TYPE_CHECKING:
    from support.provider_server import Host

    from finetune_gateway.backend import Intent

CHECKPOINTS = "GET /fine_tuning/jobs/*/checkpoints"
CANCEL = "POST /fine_tuning/jobs/*/cancel"
RESUME = "POST /fine_tuning/jobs/*/resume"
FILES, UPLOAD, DELETE = "GET /files", "POST /files", "DELETE /files/*"
MODELS, DELETE_MODEL = "GET /models", "DELETE /models/*"
CHAT = "POST /chat/completions"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
BROKEN = ("reset_before", "reset_after", "late", "cut")  # connections, for the last values of how
ENOUGH = 0.92  # of the lines
SHORTEST = 5  # bytes of an input with a body
HEADERS = [
    {}, {"Retry-After": "1"}, {"Retry-After": "\xb2"}, {"retry-after-ms": "1.5.2"},
    {"Retry-After": "9" * 400}, {"location": "http://[/"},
    {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, {"retry-after-ms": "1"},
    {"Retry-After": "3600", "location": "http://\x9b/"},
]  # fmt: skip
STATUSES = (200, 200, 200, 200, 307, 400, 403, 404, 409, 429, 500, 503)
REFUSED = (5, 20)  # values of how: 400; 409 that asks to wait
# 200, 307, 404, 409 that asks to wait, 307 to an address that is none, each with half a JSON.
BARE = (0, 4, 7, 20, 64)
ONCE = {"x-should-retry": "false"}
PIECES = {"Content-Type": "text/event-stream"}
NOBODY = "127.0.0.1:9"
KEY = "sk-test-0123456789abcdef"  # of the provider
TOKEN = "eyJ0eXAi.management.token"  # of Azure's management plane
# Marks of direction, tags, and what is not to be seen between two words.
HIDDEN = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\U000e0041"
ODD: list[Any] = [
    "\ud83d", "a\udc00", "\x1b[2J", "\x9b1m", "a\rb", "\u202e", "\u2067a", "\u200f", "\u2028",
    "\U000e0041", "\0", "..", "../x", "a/b", "", "expired", 2**63,
    2**70, -(2**70), 10**400, 1e300, -1, 0, 1.5, float("nan"), float("inf"), True, None, [], {},
    [None], [[]], {"a": None}, KEY, f"a {KEY}", "1", "1.5",
    "none", "succeeded", "failed", "metrics",
]  # fmt: skip


SETTINGS: dict[str, Any] = {
    "base_url": f"http://{NOBODY}/v1", "api_key_env": "FUZZ_KEY", "profile": "custom",
    "request_timeout": 1.0, "settle_seconds": None, "poll_seconds": 0.1, "key": "sk-test",
    "suffix": "mine", "model": MODEL, "method": "sft", "job": "ftjob-1", "allow_http": False,
    "uploads_expire": None, "OPENAI_BASE_URL": None, "OPENAI_API_KEY": None, "HTTPS_PROXY": None,
}  # fmt: skip
VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "HTTPS_PROXY")  # of the environment
AWAY = {"base_url": "https://nobody.invalid/v1"}
ODD_SETTINGS: list[dict[str, Any]] = [
    {"base_url": None, "profile": "azure"}, {"profile": "openai", "model": "none"},
    {"key": ""}, {"key": "a b"}, {"suffix": "x" * 99}, {"base_url": "nowhere"},
    {"base_url": "http://a:b@c"}, {"base_url": "http://c/?d"}, {"poll_seconds": -1},
    {"method": "reinforcement"}, {"profile": "azure", "suffix": "a.b"},
    {"base_url": "http://example.org", "api_key_env": "OPENAI_API_KEY", "OPENAI_API_KEY": "sk-x"},
    {"base_url": None, "profile": "openai", "OPENAI_BASE_URL": f"http://{NOBODY}/v1"},
    {"base_url": None, "profile": None, "OPENAI_BASE_URL": "\u202e"},
    {**AWAY, "HTTPS_PROXY": "socks9://x"}, {**AWAY, "HTTPS_PROXY": f"http://{NOBODY}"},
    {"job": "../x"}, {"job": "\x1b[2J\u2067"}, {"api_key_env": 7},
    {"uploads_expire": 3600}, {"profile": "openai", "uploads_expire": 60},
    {"base_url": "http://example.org"}, {"base_url": "http://example.org", "allow_http": True},
    {"profile": "openai", "base_url": "http://127.0.0.1:9", "model": "gpt-3.5-turbo-0125"},
]  # fmt: skip
ODD_STREAMS = [
    b'data: {"error": {"message": "No \\u001b[2J."}}\n\n', b"data: {\n\n", b"data: [DONE]\n\n",
    b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\n',
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Call:
    """What is called, and the request whose answer is the input."""

    endpoint: str
    run: Callable[[], object]
    # A request before it: of another kind, it is refused; of the same kind, it has a real answer.
    first: str = ""
    streams: bool = False
    headers: dict[str, str] = dataclasses.field(default_factory=dict)  # of each answer
    answer: Any = None  # a real one, where it is not the same for all calls of the endpoint
    host: Host | None = None  # whose endpoint it is, if not the provider's


class Hosted:
    """A provider whose next answer is the input, and a home with a job. It shows no metadata, so
    that jobs are told apart by their files where the input does not show them."""

    def __init__(self, folder: Path) -> None:
        self.provider = Provider(metadata="null").__enter__()
        self.plane = AzureManagement(self.provider, token=TOKEN).__enter__()
        self.folder = folder
        self.backend, self.azure = self._backend("custom"), self._backend("azure")
        data = data_file(folder / "train.jsonl")
        self.file = dataclasses.replace(data, remote_id=self.backend.upload(data))
        self.gateway = Gateway(folder / "home")
        self.azure.bind(self.gateway.settings)
        submitted = self.gateway.submit(data.path, model=MODEL, backend=self.backend)
        self.record, self.store = submitted.record, Store(self.gateway.settings)
        backend, azure, file = self.backend, self.azure, self.file
        model, hurried = backend.open(handle_of(MODEL)), self._backend("")
        ours = str(self.record.provider_id)
        others = frozenset([ours])
        late = self.provider.world.events(self.provider.jobs[0])[0]["id"]
        unnamed = f"{late} no-model-since={int(time.time()) - 600}"
        self.calls = [
            Call(RETRIEVE, self._follow),
            Call(EVENTS, self._follow),
            Call(CHECKPOINTS, self._follow),
            Call(UPLOAD, lambda: backend.upload(file)),
            Call(FILES, lambda: backend.find_upload(file)),
            Call(CREATE, lambda: backend.start("job-1", SPEC, file, None)),
            Call(LIST, lambda: self._find(intent("job-1"))),
            Call(LIST, lambda: self._find(intent("job-1")), first=LIST),
            Call(CHAT, lambda: model.chat(HELLO)),
            Call(CHAT, lambda: [*model.stream(HELLO)], streams=True),
            Call(CHAT, self._gather, streams=True, headers=PIECES),
            Call(CANCEL, lambda: backend.cancel(ours)),
            Call(RETRIEVE, lambda: backend.cancel(ours), first=CANCEL),
            Call(RESUME, lambda: backend.resume(ours, 1)),
            Call(RETRIEVE, lambda: backend.resume(ours, 1), first=RESUME),
            Call(LIST, lambda: backend.statuses([ours, "ftjob-none"])),
            Call(LIST, lambda: backend.statuses(["ftjob-none"])),
            Call(LIST, self._list),
            Call(LIST, lambda: self._find(intent("job-2", file, others=others))),
            Call(LIST, lambda: self._find(intent("job-2", data))),
            Call(LIST, lambda: self._find(intent("job-2", same_account=False))),
            Call(FILES, lambda: self._find(intent("job-2", data))),
            Call(RETRIEVE, lambda: self._follow(azure)),
            Call(CHAT, self._deploy),
            Call(UPLOAD, lambda: azure.upload(file)),
            Call(CREATE, lambda: azure.start("job-1", SPEC, file, None)),
            Call(DELETE, lambda: azure.delete_file("file-1")),
            Call(FILES, lambda: azure.delete_file("file-1"), first=DELETE),
            Call(DELETE_MODEL, lambda: azure.delete_model("m")),
            Call(MODELS, lambda: azure.delete_model("m"), first=DELETE_MODEL),
            Call(EVENTS, lambda: self._follow(cursor=late)),
            Call(RETRIEVE, lambda: self._follow(cursor=unnamed)),
            Call(RETRIEVE, lambda: hurried.poll(ours, None)),
            *self._leaving(),
            Call("", self._set),
        ]

    def _gather(self) -> None:
        """Ask for an answer in pieces, as a comparison does."""
        from leaving import ask_streamed  # not there before (tests/trust.py)

        asyncio.run(ask_streamed(self.backend))

    def _leaving(self) -> list[Call]:
        """Return what leaving a host reads; nothing where there is none (tests/trust.py)."""
        from leaving import readings, settings

        try:
            settings(self.folder)
            found = [*readings(self._backend("custom"), self.folder, self.plane)]
        except NameError:
            return []
        return [
            Call(endpoint, run, answer=answer, host=host) for endpoint, run, answer, host in found
        ]

    def _backend(self, profile: str) -> OpenAIBackend:
        return OpenAIBackend(
            base_url=self.provider.url,
            api_key=self.provider.api_key,
            profile=profile or "custom",
            request_timeout=5.0 if profile else 0.2,
        )

    def _find(self, wanted: Intent) -> str | None:
        """Look for a job, not knowing yet what the host keeps."""
        return self._backend("custom").find(wanted)

    def close(self) -> None:
        """Stop the provider."""
        self.provider.__exit__()
        self.plane.__exit__()

    def seeds(self) -> list[bytes]:
        """Real answers of the provider: two bytes that say where and how, then the body."""
        world, ours = self.provider.world, str(self.record.provider_id)
        body: dict[str, Any] = {"model": MODEL, "messages": HELLO}
        stream = [f"data: {json.dumps(chunk)}\n\n" for chunk in world.stream(body)]
        world.jobs[ours]["stage"] = 9
        shown = world.shown(world.jobs[ours])
        tagged = {**shown, "metadata": {"ftg_job_id": "job-1"}}
        ours_by_file = {**shown, "id": "ftjob-2", "status": "running"}
        file = world.file(str(self.file.remote_id))
        lists: dict[str, list[Any]] = {LIST: [tagged, ours_by_file], FILES: [file]}
        answers: dict[str, Any] = {
            RETRIEVE: shown,
            EVENTS: world.list_events(ours, {}),
            CHECKPOINTS: world.list_checkpoints(ours, {}),
            UPLOAD: file,
            CREATE: shown,
            CHAT: world.chat(body),
            CANCEL: shown,
            RESUME: shown,
            DELETE: {"id": "file-1", "deleted": True},
            DELETE_MODEL: {"id": "m", "deleted": True},
            MODELS: {"data": [{"id": MODEL}]},
            **{name: {"data": items, "has_more": False} for name, items in lists.items()},
            "": SETTINGS,
        }
        more = {
            RETRIEVE: self._jobs(shown),
            LIST: self._lists(shown),
            EVENTS: self._events(),
            CHECKPOINTS: [{"data": [{"id": "c1", "step_number": 1}], "has_more": False}],
        }
        error = {"error": {"message": "No.", "type": "x", "param": "model", "code": "not_found"}}
        made = []
        for number, call in enumerate(self.calls):
            whole = answers[call.endpoint] if call.answer is None else call.answer
            raw = "".join(stream) if call.streams else json.dumps(whole)
            made.append(bytes([number, 0]) + raw.encode())
            made += [bytes([number, how]) + json.dumps(error).encode() for how in REFUSED]
            odd = [json.dumps(one).encode() for one in more.get(call.endpoint, [])]
            made += [bytes([number, 0]) + one for one in (ODD_STREAMS if call.streams else odd)]
        last = bytes([len(self.calls) - 1, 0])
        made += [last + json.dumps({**SETTINGS, **one}).encode() for one in ODD_SETTINGS]
        numbered = {number: call.endpoint for number, call in enumerate(self.calls)}
        cut = [number for number, endpoint in numbered.items() if endpoint == CHAT]
        late = [number for number, endpoint in numbered.items() if endpoint == RETRIEVE][-1]
        breaks = [(1, 252), (5, 253), (late, 254), *((number, 255) for number in cut)]
        bare = [bytes([number, how]) + b"{" for number in numbered for how in BARE]
        return [*made, *(bytes([*pair]) + b"{}" for pair in breaks), *bare]

    def _jobs(self, shown: dict[str, Any]) -> list[dict[str, Any]]:
        """Jobs that have succeeded long ago and name no model, are paused, have failed, or have a
        status with the key in it."""
        unnamed = {**shown, "fine_tuned_model": None, "finished_at": 1_700_000_000}
        why = {"code": "bad", "message": f"No \x1b[2J {KEY}."}
        failed = {**shown, "status": "failed", "error": why}
        return [unnamed, {**shown, "status": "paused"}, failed, {**shown, "status": f"x {KEY}"}]

    def _lists(self, shown: dict[str, Any]) -> list[dict[str, Any]]:
        """Lists of jobs without tags: another's, none of ours, one with our file, several pages,
        one job twice."""
        job: dict[str, Any] = {"id": "ftjob-9", "model": MODEL, "created_at": int(time.time())}
        job |= {"training_file": "file-other", "metadata": None, "status": "queued", "seed": None}
        mine = {**job, "id": "ftjob-8", "training_file": self.file.remote_id}
        found: list[list[dict[str, Any]]] = [
            [], [job], [job, mine], [mine, {**mine, "id": "ftjob-7"}],
            [shown, {**shown, "status": "running"}],
        ]  # fmt: skip
        lists = [{"object": "list", "data": jobs, "has_more": False} for jobs in found]
        return [*lists, {"object": "list", "data": [job], "has_more": True}]

    def _events(self) -> list[dict[str, Any]]:
        """Figures that are none, and an error that steers a terminal."""
        wrong = {"id": "e1", "type": "metrics", "message": "Step 1", "data": {"train_loss": "\x9b"}}
        said = {"id": "e2", "level": "error", "type": "message", "message": "\x1b[2J\u2067 gone"}
        return [{"data": [wrong, said], "has_more": False}]

    def _set(self) -> None:
        """Read what a person sets: the answer is a request for a backend of these settings."""
        known = {name: self.settings[name] for name in SETTINGS if name in self.settings}
        spec = {name: known.pop(name) for name in ("suffix", "model", "method") if name in known}
        job = str(known.pop("job", ""))
        if job != SETTINGS["job"]:  # as a person names it
            self.backend.poll(job, None)
        variables = {name: known.pop(name, None) for name in VARIABLES}
        with environment({"FUZZ_KEY": known.pop("key", ""), **variables}):
            backend = OpenAIBackend(**known)
            backend.bind(self.gateway.settings)
            shown = [repr(backend), backend.display_name, backend.options(), backend.identity()]
            json.dumps(shown).encode()
            asked = TrainingSpec.build(**spec)
            backend.capabilities(asked.model)
            tokens = TokenStats(encoding="o200k_base", exact=True, rows=9, total=99, trained=9)
            json.dumps(backend.estimate(asked, tokens, tokens).model_dump(mode="json")).encode()
            backend.account()
            backend.check(asked)
            backend.connect()
            from finetune_gateway.settings.network import (
                proxy_for,  # not there before (tests/trust.py)
            )

            way = proxy_for(backend.base_url)
            if NOBODY in (backend.host, way and way.url.removeprefix("http://")):
                backend.start("job-1", asked, self.file, None)

    def one(self, data: bytes) -> None:
        """Answer one call with these bytes."""
        where, how = data[:2].ljust(2, b"\0")
        call = self.calls[where % len(self.calls)]
        if call.host is not None:  # which was sent a token, and never the key
            data = data[:2] + data[2:].replace(KEY.encode(), TOKEN.encode())
        endpoint = call.endpoint
        status = STATUSES[how % len(STATUSES)]
        more = HEADERS[how // len(STATUSES) % len(HEADERS)]
        headers = {"x-should-retry": "false", **call.headers, **more}
        host = call.host or self.provider
        host.faults.clear()
        if call.first == endpoint:
            host.fault(endpoint, "ok")
        elif call.first:
            refusal = 404 if call.first.startswith("DELETE") else 409
            host.fault(call.first, "status", status=refusal, headers=ONCE)
        if how >= 256 - len(BROKEN):
            kind = BROKEN[how - 256]
            host.fault(endpoint, *[kind] * (3 if kind == "late" else 1), seconds=0.3)
        else:
            answer: dict[str, Any] = {"status": status, "body": data[2:], "headers": headers}
            host.fault(endpoint, "raw", "raw", **answer)
        typed = data[2:].replace(KEY.encode(), b"none")  # of a host alone a key must not come back
        self.settings = settings_in(typed) if not endpoint else {}
        try:
            call.run()
        except GatewayError as exc:
            check_ours(exc)
            check_visible(str(exc), said(exc))
            code = exc.code if isinstance(exc, BackendError) else None
            json.dumps([code], ensure_ascii=False).encode()

    def _job(self, backend: OpenAIBackend, **values: Any) -> Job:
        """Return a new job that is at its host."""
        name = records.new_job_id()
        fresh = {"id": name, "submit_key": name, "backend_options": backend.options(), **values}
        self.store.add(self.record.model_copy(update=fresh))
        submitter = Submitter(self.store, lambda: None, lambda _: backend)
        return Job(self.store.get(name), self.store, lambda: backend, submitter)

    def _list(self) -> None:
        """Ask for many jobs at once, and list them."""
        jobs = [self._job(self.backend, status=JobStatus.RUNNING) for _ in range(2)]
        for failure in self.gateway.refresh(jobs):
            check_ours(failure.error)
            check_visible(str(failure.error), said(failure.error))
        check_visible(job_text.job_list_text([self.store.get(job.id) for job in jobs]))

    def _deploy(self) -> None:
        """Name a deployment: what it answers first is kept, and shown."""
        result = Result(kind="hosted", model="m", deploy="az deploy")
        job = self._job(self.azure, status=JobStatus.SUCCEEDED, result=result)
        check_visible(repr(job.result(model="ours")), job_text.job_text(job))
        json.dumps(job_text.job_document(job), allow_nan=False)

    def _follow(self, backend: OpenAIBackend | None = None, cursor: str | None = None) -> None:
        """Poll as a new job, store the answer, and look at the job in every way."""
        job = self._job(backend or self.backend, cursor=cursor)
        job.refresh()
        events, view = job.events(), live.View(job)
        for event in events:
            view.add(event)
            output.replace_non_finite(event.model_dump(mode="json"))
        screen = io.StringIO()
        Console(file=screen, width=80).print(view)
        check_visible(screen.getvalue())
        metrics = job.metrics()
        check_visible(json.dumps(job_text.job_document(job), allow_nan=False))
        json.dumps(job_history_text.metrics_document(metrics))
        job_history_text.metrics_csv(metrics).encode()
        check_visible(job_text.job_text(job), job_text.status_line(job), job_text.next_step(job))
        check_visible(*map(job_history_text.event_line, events))
        check_visible(job_text.job_list_text([job.record]), job_text.job_costs_text([job.record]))
        check_visible(repr(job), job._repr_html_())
        if getattr(job.record, "deploy", None):  # not there before (tests/trust.py)
            check_visible(repr(job.result()), job.result()._repr_html_())
        check_visible(job_history_text.checkpoints_text(job.checkpoints()))
        if metrics:
            check_visible(job_history_text.metrics_text(metrics))


def settings_in(data: bytes) -> dict[str, Any]:
    """The settings that these bytes ask for, none if they are no JSON object."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def environment(variables: dict[str, Any]) -> Iterator[None]:
    """Set variables for a block, as far as a variable can have this value; None is not set."""
    before = os.environ.copy()
    for name, value in variables.items():
        if value is not None:
            os.environ[name] = str(value).encode("ascii", "ignore").decode().replace("\0", "")
    try:
        yield
    finally:
        for name in variables.keys() - before.keys():
            os.environ.pop(name, None)
        os.environ.update(before)


def said(exc: GatewayError) -> str:
    """Return what the command line shows of an error."""
    screen = io.StringIO()
    with redirect_stderr(screen):
        output.print_error(type(exc).__name__, exc.message, exc.hint, exc.exit_code)
    return screen.getvalue()


def check_ours(exc: GatewayError) -> None:
    """Raise what our backend broke by: the seam makes a plain error of it, as of a plug-in's."""
    if isinstance(exc.__cause__, PluginException):
        raise exc.__cause__


def check_visible(*texts: str) -> None:
    """Raise Wrong for a text that has the key in it, steers a terminal or hides a part of itself;
    UnicodeEncodeError for one that is none."""
    for text in texts:
        text.encode()
        if any(secret in text for secret in (KEY, TOKEN)):
            raise Wrong(f"a text with the key: {text!a}")
        found = [char for char in text if steers(char)]
        if found:
            raise Wrong(f"a text that steers, by {found[0]!a}: {text!a}")


def steers(char: str) -> bool:
    """Is it a control character, a line end of Unicode, a mark of direction, or hidden?"""
    if char.isascii():
        return char < " " and char not in "\t\n" or char == "\x7f"
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in HIDDEN


def changed(data: bytes, chance: random.Random) -> bytes:
    """The input with one value of its JSON replaced by an odd one, or as ``restructured`` does."""
    if chance.random() < 0.4:
        return data[:1] + restructured(data[1:], chance)
    try:
        value = json.loads(data[2:])
    except (ValueError, RecursionError):
        at = chance.randrange(2, len(data) + 1)
        return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    places = [*_places(value)]
    if not places:
        return data[:2] + json.dumps(chance.choice(ODD)).encode()
    holder, key = chance.choice(places)
    holder[key] = chance.choice(ODD)
    return (
        bytes([data[0], chance.choice((0, data[1], chance.randrange(256)))])
        + json.dumps(value).encode()
    )


def _places(value: Any) -> list[tuple[Any, Any]]:
    if not isinstance(value, dict | list):
        return []
    pairs = [*(value.items() if isinstance(value, dict) else enumerate(value))]
    return [(value, key) for key, _ in pairs] + [
        place for _, inner in pairs for place in _places(inner)
    ]


def inputs(seeds: list[bytes], chance: random.Random) -> Iterator[bytes]:
    """Yield every seed, then seeds with up to six changes, without end: those with a body that is
    read."""
    yield from seeds
    whole = [data for data in seeds if data[1] == 0 and len(data) > SHORTEST]
    while True:
        data = chance.choice(whole)
        for _ in range(chance.randrange(1, 7)):
            data = changed(data, chance)
        yield data


def main(seconds: int, seed: int) -> int:
    """Fuzz for so long and return how many different bugs were found."""
    os.environ["FTG_TODAY"] = "2026-11-21"  # a day on which the model can be trained
    end, bugs, runs = time.monotonic() + seconds, set(), 0
    with tempfile.TemporaryDirectory() as name:
        hosted = Hosted(Path(name))
        for data in inputs(hosted.seeds(), random.Random(seed)):
            if time.monotonic() > end:
                break
            runs += 1
            try:
                hosted.one(data)
            except Exception as exc:
                where = str(traceback.extract_tb(exc.__traceback__)[-1])
                if (type(exc), where) not in bugs:
                    bugs.add((type(exc), where))
                    print(f"{kept(data)}: {type(exc).__name__}: {exc!r} at {where}", flush=True)
        hosted.close()
    print(f"hosted: {runs:,} answers with the seed {seed}, {len(bugs)} bugs")
    return len(bugs)


def kept(data: bytes) -> Path:
    """Keep an input that led to a bug."""
    folder = Path("build/fuzz")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"hosted-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    return path


def share_reached() -> float:
    """Print which lines of backends/openai/ were not reached, and return the share that was."""
    MEASURED.stop()
    lines, missed = 0, 0
    for path in sorted(ROOM.glob("*.py")):
        _, statements, _, missing, shown = MEASURED.analysis2(str(path))
        lines, missed = lines + len(statements), missed + len(missing)
        print(f"  {path.name}: not reached {shown}" if missing else "", end="\n" if missing else "")
    reached = (lines - missed) / lines
    print(f"hosted: {reached:.1%} of the {lines} lines of backends/openai/ reached")
    return reached


if __name__ == "__main__":
    found = main(int(sys.argv[1]), int((sys.argv[2:] or ["7"])[0]))
    sys.exit(min(found + (share_reached() < ENOUGH), 100))
