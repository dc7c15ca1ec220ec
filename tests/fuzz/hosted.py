"""Everything that the hosted backend reads, fuzzed over a socket, and what must hold of it.

A call ends with an answer or with one of our errors. Whatever was answered is stored, and then
every view of the job works and can be written anywhere. What a person sets is read too: an address,
a key, a suffix.

    python tests/fuzz/hosted.py 600 7     for 600 seconds, with the seed 7

Prints the share of the lines of backends/openai/ that were reached. Ends with 0 when that is at
least 90 % and nothing was found; the bytes that led to a bug are kept in build/fuzz.
"""

# ruff: noqa: E402 - the measurement of lines begins before what is measured is imported

from __future__ import annotations

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))  # for support, if this is the script

if __name__ == "__main__":  # before what is measured is imported
    import coverage

    ROOM = ROOT / "finetune_gateway/backends/openai"
    MEASURED = coverage.Coverage(data_file=None, config_file=False, source=[str(ROOM)])
    MEASURED.exclude("if TYPE_CHECKING:")
    MEASURED.start()

from rich.console import Console
from support.hosted import EVENTS, LIST, MODEL, RETRIEVE, SPEC, data_file, handle_of, intent
from support.provider import CREATE, Provider
from targets import Wrong, restructured

from finetune_gateway import Gateway, OpenAIBackend
from finetune_gateway.errors import BackendError, GatewayError
from finetune_gateway.jobs import records
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.store import Store
from finetune_gateway.jobs.submission import Submitter
from finetune_gateway.reports import job_history_text, job_text, live, output
from finetune_gateway.spec import TrainingSpec

CHECKPOINTS = "GET /fine_tuning/jobs/*/checkpoints"
CANCEL = "POST /fine_tuning/jobs/*/cancel"
CHAT = "POST /chat/completions"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
BROKEN = ("reset_before", "reset_after", "late", "cut")  # connections, for the last values of how
ENOUGH = 0.9  # of the lines
HEADERS = [
    {}, {"Retry-After": "1"}, {"Retry-After": "\xb2"}, {"retry-after-ms": "1.5.2"},
    {"Retry-After": "9" * 400}, {"location": "http://[/"},
    {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"},
]  # fmt: skip
STATUSES = (200, 200, 200, 200, 307, 400, 403, 404, 409, 429, 500, 503)
ODD: list[Any] = [
    "\ud83d", "a\udc00", "\x1b[2J", "\u202e", "\0", "..", "../x", "a/b", "", "expired", 2**63,
    2**70, -(2**70), 10**400, 1e300, -1, 0, 1.5, float("nan"), float("inf"), True, None, [], {},
    [None], [[]], {"a": None}, "1", "1.5", "none", "succeeded", "failed", "metrics",
]  # fmt: skip


SETTINGS: dict[str, Any] = {
    "base_url": "http://127.0.0.1:9/v1", "api_key_env": "FUZZ_KEY", "profile": "custom",
    "request_timeout": 1.0, "settle_seconds": None, "poll_seconds": 0.1, "key": "sk-test",
    "suffix": "mine", "model": MODEL, "method": "sft",
}  # fmt: skip


class Hosted:
    """A provider whose next answer is the input, and a home with a job. It shows no metadata, so
    that jobs are told apart by their files where the input does not show them."""

    def __init__(self, folder: Path) -> None:
        self.provider = Provider(metadata="null").__enter__()
        self.folder = folder
        self.backend, azure, hurried = (self._backend(name) for name in ("custom", "azure", ""))
        data = data_file(folder / "train.jsonl")
        self.file = dataclasses.replace(data, remote_id=self.backend.upload(data))
        gateway = Gateway(folder / "home")
        submitted = gateway.submit(data.path, model=MODEL, backend=self.backend)
        self.record, self.store = submitted.record, Store(gateway.settings)
        model = self.backend.open(handle_of(MODEL))
        ours = str(self.record.provider_id)
        others = frozenset([ours])
        self.calls: list[tuple[str, Callable[[], object]]] = [
            (RETRIEVE, self._follow),
            (EVENTS, self._follow),
            (CHECKPOINTS, self._follow),
            ("POST /files", lambda: self.backend.upload(self.file)),
            ("GET /files", lambda: self.backend.find_upload(self.file)),
            (CREATE, lambda: self.backend.start("job-1", SPEC, self.file, None)),
            (LIST, lambda: self.backend.find(intent("job-1"))),
            (CHAT, lambda: model.chat(HELLO)),
            (CHAT, lambda: [*model.stream(HELLO)]),
            (CANCEL, lambda: self.backend.cancel(ours)),
            (LIST, lambda: self.backend.statuses([ours, "ftjob-none"])),
            (LIST, lambda: self.backend.find(intent("job-2", self.file, others=others))),
            (LIST, lambda: self.backend.find(intent("job-2", data))),
            ("GET /files", lambda: self.backend.find(intent("job-2", data))),
            (RETRIEVE, lambda: azure.poll(ours, None)),
            ("POST /files", lambda: azure.upload(self.file)),
            (CREATE, lambda: azure.start("job-1", SPEC, self.file, None)),
            (RETRIEVE, lambda: hurried.poll(ours, None)),
            ("", self._set),
        ]

    def _backend(self, profile: str) -> OpenAIBackend:
        return OpenAIBackend(
            base_url=self.provider.url,
            api_key=self.provider.api_key,
            profile=profile or "custom",
            request_timeout=5.0 if profile else 0.2,
        )

    def close(self) -> None:
        """Stop the provider."""
        self.provider.__exit__()

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
        lists: dict[str, list[Any]] = {LIST: [tagged, ours_by_file, shown], "GET /files": [file]}
        answers: dict[str, Any] = {
            RETRIEVE: shown,
            EVENTS: world.list_events(ours, {}),
            CHECKPOINTS: world.list_checkpoints(ours, {}),
            "POST /files": file,
            CREATE: shown,
            CHAT: world.chat(body),
            CANCEL: shown,
            **{name: {"data": items, "has_more": False} for name, items in lists.items()},
            "": SETTINGS,
        }
        error = {"error": {"message": "No.", "type": "x", "param": "model", "code": "not_found"}}
        made = []
        for number, (endpoint, _) in enumerate(self.calls):
            raw = json.dumps(answers[endpoint]).encode()
            made.append(bytes([number, 0]) + ("".join(stream).encode() if number == 8 else raw))
            made.append(bytes([number, 5]) + json.dumps(error).encode())
            if endpoint == LIST:
                made += [bytes([number, 0]) + json.dumps(body).encode() for body in self._lists()]
        odd: list[dict[str, Any]] = [
            {"base_url": None, "profile": "azure"}, {"profile": "openai", "model": "none"},
            {"key": ""}, {"key": "a b"}, {"suffix": "x" * 99}, {"base_url": "nowhere"},
            {"base_url": "http://a:b@c"}, {"poll_seconds": -1}, {"method": "reinforcement"},
            {"base_url": "http://example.org", "api_key_env": "OPENAI_API_KEY"},
        ]  # fmt: skip
        last = bytes([len(self.calls) - 1, 0])
        made += [last + json.dumps({**SETTINGS, **one}).encode() for one in odd]
        numbered = dict(enumerate(endpoint for endpoint, _ in self.calls))
        cut = [number for number, endpoint in numbered.items() if endpoint == CHAT]
        late = [number for number, endpoint in numbered.items() if endpoint == RETRIEVE][-1]
        breaks = [(1, 252), (5, 253), (late, 254), *((number, 255) for number in cut)]
        moved = [bytes([number, 4]) + b"{}" for number in numbered]  # 307
        return [*made, *(bytes([*pair]) + b"{}" for pair in breaks), *moved]

    def _lists(self) -> Iterator[dict[str, Any]]:
        """Lists of jobs without tags: another's, none of ours, one with our file, several pages."""
        job: dict[str, Any] = {"id": "ftjob-9", "model": MODEL, "created_at": int(time.time())}
        job |= {"training_file": "file-other", "metadata": None, "status": "queued", "seed": None}
        mine = {**job, "id": "ftjob-8", "training_file": self.file.remote_id}
        for jobs in ([], [job], [job, mine], [mine, {**mine, "id": "ftjob-7"}]):
            yield {"object": "list", "data": jobs, "has_more": False}
        yield {"object": "list", "data": [job], "has_more": True}

    def _set(self) -> None:
        """Read what a person sets: the answer is a request for a backend of these settings."""
        given = self.settings
        known = {name: given[name] for name in SETTINGS if name in given}
        spec = {name: known.pop(name) for name in ("suffix", "model", "method") if name in known}
        os.environ["FUZZ_KEY"] = str(given.get("key", "")).encode("ascii", "ignore").decode()
        os.environ["FUZZ_KEY"] = os.environ["FUZZ_KEY"].replace("\0", "")
        known.pop("key", None)
        backend = OpenAIBackend(**known)
        json.dumps([repr(backend), backend.display_name, backend.options()]).encode()
        asked = TrainingSpec.build(**spec)
        backend.capabilities(asked.model)
        backend.check(asked)

    def one(self, data: bytes) -> None:
        """Answer one call with these bytes."""
        where, how = data[:2].ljust(2, b"\0")
        endpoint, call = self.calls[where % len(self.calls)]
        status = STATUSES[how % len(STATUSES)]
        headers = {"x-should-retry": "false", **HEADERS[how // len(STATUSES) % len(HEADERS)]}
        self.provider.faults.clear()
        if how >= 256 - len(BROKEN):
            self.provider.fault(endpoint, BROKEN[how - 256], seconds=0.3)
        else:
            answer: dict[str, Any] = {"status": status, "body": data[2:], "headers": headers}
            self.provider.fault(endpoint, "raw", "raw", **answer)
        self.settings = settings_in(data[2:]) if not endpoint else {}
        try:
            call()
        except GatewayError as exc:
            check_visible(str(exc))
            code = exc.code if isinstance(exc, BackendError) else None
            json.dumps([code], ensure_ascii=False).encode()

    def _follow(self) -> None:
        """Poll as a new job, store the answer, and look at the job in every way."""
        name = records.new_job_id()
        fresh = {"id": name, "submit_key": name, "cursor": None}
        self.store.add(self.record.model_copy(update=fresh))
        submitter = Submitter(self.store, lambda: None, lambda _: self.backend)
        job = Job(self.store.get(name), self.store, lambda: self.backend, submitter)
        job.refresh()
        events, view = job.events(), live.View(job)
        for event in events:
            view.add(event)
            output.replace_non_finite(event.model_dump(mode="json"))
        screen = io.StringIO()
        Console(file=screen, width=80).print(view)
        check_visible(screen.getvalue())
        metrics = job.metrics()
        json.dumps(job_text.job_document(job), allow_nan=False)
        json.dumps(job_history_text.metrics_document(metrics))
        job_history_text.metrics_csv(metrics).encode()
        check_visible(job_text.job_text(job), job_text.status_line(job), job_text.next_step(job))
        check_visible(*map(job_history_text.event_line, events))
        check_visible(job_text.job_list_text([job.record]), job_text.job_costs_text([job.record]))
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


def check_visible(*texts: str) -> None:
    """Raise Wrong for a text that steers a terminal; UnicodeEncodeError for one that is none."""
    for text in texts:
        text.encode()
        if any(char in text for char in "\0\x1b\x9b\u202e\u2066"):
            raise Wrong(f"a text that steers: {text!r}")


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
    """Yield every seed, then seeds with up to six changes, without end."""
    yield from seeds
    while True:
        data = chance.choice(seeds)
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
