"""What the kill tests share: processes of their own that are killed with -9, and the count after.

A child is a ``python -c`` of one of the scripts below, or ``python -m finetune_gateway``. It says
``ready`` when its imports are done, so that a random moment falls into the work.
"""

from __future__ import annotations

import dis
import fcntl
import json
import linecache
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

import httpx
import psutil
from support.paths import TEST_PATH
from support.rows import chat_rows

from finetune_gateway import Gateway, Job, JobStatus
from finetune_gateway.backends.local.queue import Queue, RunRow
from finetune_gateway.backends.local.slots import slots
from finetune_gateway.settings.home import Settings

MODEL = "gpt-4.1-mini-2025-04-14"
KEY = "sk-test-0123456789abcdef"
WORKER = "finetune_gateway.backends.local.worker"
DISPATCHER = "finetune_gateway.backends.local.dispatcher"

BACKEND = """
import json, os, sys
import finetune_gateway as g
def backend(url):
    return g.OpenAIBackend(base_url=url, api_key_env="CHAOS_KEY", profile="custom",
        request_timeout=float(os.environ.get("CHAOS_TIMEOUT", "1")),
        settle_seconds=float(os.environ.get("CHAOS_SETTLE", "1")), poll_seconds=0.05)
"""

# arguments: url, file
SUBMIT = (
    BACKEND
    + """
from finetune_gateway.gateway import Gateway
import finetune_gateway.backends.openai.backend
gateway, hosted = Gateway(), backend(sys.argv[1])
print("ready", flush=True)
print(gateway.submit(sys.argv[2], model="gpt-4.1-mini-2025-04-14", backend=hosted).id, flush=True)
"""
)

# arguments: file, model folder, seed
SUBMIT_LOCAL = """
import sys
from finetune_gateway.gateway import Gateway
import finetune_gateway.backends.local.backend
gateway = Gateway()
print("ready", flush=True)
gateway.submit(sys.argv[1], model=sys.argv[2], backend="local", max_steps=1, batch_size=4, lora_r=4,
               seed=int(sys.argv[3]))
"""

# What a user does after a crash: list the jobs, oldest first, and wait for each. One of which the
# host cannot tell whether it is there has the status ``doubt``.
FINISH = """
import json
from finetune_gateway import BackendError
from finetune_gateway.gateway import Gateway
def end(job):
    try:
        return job.wait(timeout=120).status
    except BackendError as exc:
        assert f"ftg settle {job.id}" in str(exc), exc
        return "doubt"
jobs = Gateway().jobs()[::-1]
print(json.dumps({job.id: [end(job), job.provider_id] for job in jobs}))
"""


def start(script: str, *arguments: object, **variables: object) -> subprocess.Popen[str]:
    """A Python process running ``script``, in a session of its own."""
    return begin([sys.executable, "-c", script, *map(str, arguments)], **variables)


def ftg(*arguments: object, **variables: object) -> subprocess.Popen[str]:
    """The command line as a process."""
    return begin([sys.executable, "-m", "finetune_gateway", *map(str, arguments)], **variables)


def begin(command: list[str], **variables: object) -> subprocess.Popen[str]:
    given = {name: str(value) for name, value in variables.items()}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"CHAOS_KEY": KEY, **os.environ, **given},
        start_new_session=True,
    )


def ready(process: subprocess.Popen[str]) -> None:
    """Block until the imports of a script are done."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.strip() == "ready", (line, process.communicate(timeout=30))


def killed_after(work: Callable[[], object]) -> None:
    """Do this in a fork, which then kills itself with -9. No connection may be open."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def kill(process: subprocess.Popen[str]) -> bool:
    """kill -9 of this one process; False when it had ended by itself."""
    alive = process.poll() is None
    process.kill()
    process.communicate(timeout=30)
    return alive


def finish() -> dict[str, tuple[str, str | None]]:
    """Another process lists all jobs and waits for them: id -> status and provider's id."""
    process = start(FINISH)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return {job: (status, remote) for job, (status, remote) in json.loads(out).items()}


def data_file(folder: Path, number: int, rows: int = 12) -> Path:
    """A file of chat rows whose content no other number has."""
    path = folder / f"job-{number}.jsonl"
    data = chat_rows(rows)
    data[0]["messages"][0]["content"] += f" This is file {number}."
    path.write_text("".join(json.dumps(row) + "\n" for row in data), "utf-8")
    return path


def until(look: Callable[[], Any], seconds: float = 60, pause: float = 0.005) -> Any:
    """What ``look`` returns once it is true. Fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(pause)
    return found


JOBS = ("/finetune_gateway/jobs/",)  # the files whose lines are counted


def ctrl_c_at_line(number: int) -> AbstractContextManager[object]:
    """Ctrl-C when the block comes to its n-th line in jobs/, but where a ``with`` ends: Python
    looks for signals after the exit of its lock, and a trace comes before."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    return at_line(number, interrupt, leave_out=_ends_a_with)


def _ends_a_with(frame: FrameType) -> bool:
    """Return True where a trace has come back to the line of a ``with``."""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    operation = dis.opname[frame.f_code.co_code[frame.f_lasti]]
    return line.lstrip().startswith("with ") and operation in ("LOAD_CONST", "PUSH_EXC_INFO")


def killed_at_line(number: int, files: Sequence[str] = JOBS) -> AbstractContextManager[object]:
    """kill -9 of this process when the block comes to its n-th line in these files."""
    return at_line(number, lambda: os.kill(os.getpid(), signal.SIGKILL), files)


def lines_of(work: Callable[[], object], files: Sequence[str] = JOBS) -> int:
    """Do this in a fork, to its end; return how many lines in these files it comes to."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with at_line(0, lambda: None, files) as count:
                work()
            os.write(writer, str(count()).encode())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writer)
    with open(reader) as answer:
        lines = answer.read()
    os.waitpid(child, 0)
    assert lines, "it did not come to its end"
    return int(lines)


@contextmanager
def at_line(
    number: int,
    act: Callable[[], object],
    files: Sequence[str] = JOBS,
    leave_out: Callable[[FrameType], bool] = lambda frame: False,
) -> Iterator[Callable[[], int]]:
    """Do this when the block comes to its n-th line in these files; yield what counts them."""
    lines = 0

    def line(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if not any(name in frame.f_code.co_filename for name in files):
            return None
        if event == "line" and not leave_out(frame):
            lines += 1
            if lines == number:
                sys.settrace(None)
                act()
        return line

    sys.settrace(line)
    try:
        yield lambda: lines
    finally:
        sys.settrace(None)


# -- the provider as a process ------------------------------------------------------------


class ProviderProcess:
    """``support/provider.py`` in a process of its own: it outlives whoever is killed."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.port_file = folder / "port"
        self.state_file = folder / "provider.json"
        command = [sys.executable, "-m", "support.provider", "--api-key", KEY]
        command += ["--port-file", str(self.port_file), "--state-file", str(self.state_file)]
        self.process = begin([*command, *map(str, arguments)], PYTHONPATH=TEST_PATH)

    def __enter__(self) -> Self:
        until(self.port_file.exists, 30)
        self.root = f"http://127.0.0.1:{self.port_file.read_text()}"
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def report(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.root}/_provider").json()
        return answer

    def swap_keys(self, keys: dict[str, str]) -> None:
        """From now on these keys are known, each with its account, and no others."""
        httpx.post(f"{self.root}/_provider", json={"keys": keys})

    def fault(self, endpoint: str, kind: str, **settings: Any) -> None:
        httpx.post(f"{self.root}/_provider", json={"endpoint": endpoint, "kind": kind, **settings})

    def posts(self, path: str) -> int:
        """How many POSTs this path has received."""
        return int(self.report()["posts"].get(path, 0))

    def idle(self) -> bool:
        """Return whether no request is under way, so that nothing sent before takes effect."""
        return bool(self.report()["connections"] == 1)

    def bought(self) -> Counter[str]:
        """How many jobs there are for each of our ids."""
        return Counter(job["request"]["metadata"]["ftg_job_id"] for job in self.report()["jobs"])

    def contents(self) -> Counter[str]:
        """How often each content was stored."""
        files = json.loads(self.state_file.read_text())["files"]
        return Counter(file["content"] for file in files.values())


def account(provider: ProviderProcess, lost: Set[str] = frozenset()) -> dict[str, int]:
    """The figures of R1: what was bought against what the gateway knows, after ``finish``.

    ``lost``: jobs that a restored store does not know, and whose owners asked for them again.
    """
    ended, bought = finish(), provider.bought()
    return {
        "asked": len(ended.keys() | lost),
        "bought": sum(bought.values()),
        "extra": sum(bought.values()) - len(bought) + len(bought.keys() - ended.keys() - lost),
        "missing": len(ended.keys() - bought.keys()),
        "unfinished": sum(status not in ("succeeded", "doubt") for status, _ in ended.values()),
        "doubts": sum(status == "doubt" for status, _ in ended.values()),
        "extra_uploads": sum(provider.contents().values()) - len(provider.contents()),
    }


CLEAN = {"extra": 0, "missing": 0, "unfinished": 0, "doubts": 0, "extra_uploads": 0}


# -- local runs ---------------------------------------------------------------------------


def queue(home: Path) -> Queue:
    return Queue(Settings(home))


def ended(job: Job, seconds: float = 60) -> JobStatus:
    """The status of a job once it has ended, looking more often than its ``wait``."""
    until(lambda: job.refresh().status.final, seconds, 0.02)
    return job.status


@contextmanager
def slots_taken(home: Path) -> Iterator[None]:
    """Hold every slot: jobs wait, without a process."""
    locks = Settings(home).create().locks
    held = [os.open(locks / f"slot-{name}", os.O_RDWR | os.O_CREAT) for name in slots()]
    try:
        for descriptor in held:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def workers(home: Path) -> list[int]:
    """Process ids of the workers that live in this home."""
    return _living(WORKER, home)


def dispatchers(home: Path) -> list[int]:
    """Process ids of the dispatchers that live in this home: one, or none."""
    return _living(DISPATCHER, home)


def _living(module: str, home: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        words, state = process.info["cmdline"] or [], process.info["status"]
        if module in words and str(home) in words and state != psutil.STATUS_ZOMBIE:
            found.append(process.info["pid"])
    return found


def row(home: Path, run_id: str) -> RunRow:
    return queue(home).get(run_id)


def kill_worker(pid: int | None) -> bool:
    """kill -9 of a worker or a dispatcher, and wait until it is gone; False when it had ended."""
    if pid is None or not lives(pid):
        return False
    os.kill(pid, signal.SIGKILL)
    until(lambda: not lives(pid), 10)
    return True


def hold_worker(home: Path, run_id: str, reached: Callable[[], Any]) -> int:
    """Let a worker run until this is so, and hold it there; return its pid, for SIGKILL or SIGCONT.

    Once it has imported torch and read its data it runs in slices of some milliseconds: on a busy
    machine a look may take longer than a whole training, which would have ended by then.
    """
    said = home / "runs" / run_id / "events.jsonl"
    until(lambda: said.exists() and said.stat().st_size, 180)
    pid: int = until(lambda: row(home, run_id).pid)

    def run_on() -> Any:
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.02)
        os.kill(pid, signal.SIGSTOP)
        return reached()

    until(run_on, 180, 0)
    assert not row(home, run_id).status.final, row(home, run_id)
    return pid


def has_losses(home: Path, run_id: str, count: int) -> Callable[[], bool]:
    """Has a run told so many losses of training?"""
    path = home / "runs" / run_id / "events.jsonl"
    return lambda: path.exists() and path.read_text("utf-8").count('"train_loss"') >= count


def lives(pid: int) -> bool:
    """Does this process run? One that has ended may keep its number for seconds, until init asks
    for its end; while another of its threads ends, it still holds its locks."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False


def fences(home: Path, run_id: str) -> list[int]:
    """The worker number of each line of events.jsonl, in the order of the file."""
    path = home / "runs" / run_id / "events.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [int(json.loads(line)["id"].rsplit("-", 2)[1]) for line in lines]


def check_run(home: Path, run_id: str) -> str:
    """The end of a run, after it was held against every promise made about it."""
    # Imported here: torch takes seconds, and the hosted tests do without.
    from finetune_gateway.backends.local.saving import manifest_of

    job = Gateway(home).job(run_id)
    folder = home / "runs" / run_id
    assert job.status.final, job
    written = fences(home, run_id)
    assert written == sorted(written), f"two workers wrote at once: {written}"
    assert not list(folder.glob("*.tmp.*")), list(folder.iterdir())
    if job.status == "succeeded":
        manifest = manifest_of(folder / "model")
        assert manifest is not None and manifest["job_id"] == run_id
    else:
        assert job.status == "failed" and job.error, job
    return str(job.status)


def nobody_left(home: Path) -> None:
    """No worker and no dispatcher lives on after the last job."""
    until(lambda: not workers(home) + dispatchers(home), 20, 0.05)


def end_workers(home: Path) -> None:
    """After a test that failed: its jobs do not go on beside the next one. The dispatcher comes
    first: it would start workers again, as these would start it."""
    while left := [*dispatchers(home), *workers(home)]:
        for pid in left:
            kill_worker(pid)


def moments(count: int, longest: float, seed: int) -> list[float]:
    """Random moments spread evenly over ``longest`` seconds, in random order."""
    draw = random.Random(seed)
    found = [(number + draw.random()) * longest / count for number in range(count)]
    draw.shuffle(found)
    return found
