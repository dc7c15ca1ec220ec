"""Why a worker died, as far as it can be known.

The dispatcher is the parent of the workers that it has started, and learns their signal or exit
code; of one that an earlier dispatcher had started, nobody does. That memory ran out is said only
where something shows it: the end of the log, the kernel's log with this process in it, or the
kernel's own count of such kills, of the worker's control group if it has one. Whoever starts a
worker notes in ``attempt.json`` how things stood before. Imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from finetune_gateway.settings import files

# Words of CUDA, of torch's allocator on CPUs, of numpy, of Linux and of C++.
WORDS = (
    "out of memory",
    "alloc_failed",
    "can't allocate memory",
    "unable to allocate",
    "cannot allocate memory",
    "bad_alloc",
    "memoryerror",
)
ATTEMPT, LOG = "attempt.json", "worker.log"
TAIL = 20_000  # bytes of a log that are looked through
SHOWN_LINES, SHOWN_CHARACTERS = 3, 200  # of the end of a log, and of one of its lines
KILLED = re.compile(r"Killed process (\d+)")  # mm/oom_kill.c
# inode of the first pid namespace (include/linux/proc_ns.h): numbers in the kernel's log are of it.
FIRST_NAMESPACE = 0xEFFFFFFC
CRASHES = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS")
LIMITS = {"SIGXCPU": "CPU time (ulimit -t)", "SIGXFSZ": "the size of a file (ulimit -f)"}


@dataclass(frozen=True)
class Kernel:
    """Where the kernel says what it has killed."""

    vmstat: Path = Path("/proc/vmstat")  # of the whole machine, also in a container
    own_group: Path = Path("/proc/self/cgroup")
    groups: Path = Path("/sys/fs/cgroup")
    log: Path = Path("/dev/kmsg")


KERNEL = Kernel()


@dataclass(frozen=True)
class Death:
    """What is known of a worker that died."""

    code: int | None = None  # of its exit; of a signal, its negative number; None: nobody knows
    reason: str = ""  # why it was killed by the dispatcher
    fence: int = 0  # which worker it was
    phase: str = ""
    step: int | None = None  # that it had made last
    peak_bytes: int | None = None  # of its memory
    memory: str = ""  # what shows that memory ran out
    log_start: int = 0  # where its part of the log begins, and ends
    log_end: int = 0

    def dump(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Ended:
    """How a child of this process has ended."""

    pid: int
    code: int
    peak_bytes: int | None = None


def end_of(worker: subprocess.Popen[bytes]) -> Ended | None:
    """Return how a worker that was started here has ended; None if it has not."""
    if worker.returncode is None:
        with suppress(ChildProcessError):
            pid, status, usage = os.wait4(worker.pid, os.WNOHANG)
            if pid == 0:
                return None
            worker.returncode = os.waitstatus_to_exitcode(status)
            unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
            return Ended(worker.pid, worker.returncode, usage.ru_maxrss * unit)
    code = worker.poll()
    return None if code is None else Ended(worker.pid, code)


def load(text: str | None) -> Death | None:
    """Return a death as it is stored; None without one, and for one that somebody has changed."""
    try:
        stored = json.loads(text or "null")
    except ValueError:
        return None
    if not isinstance(stored, dict):
        return None
    found = {one.name: stored[one.name] for one in fields(Death) if one.name in stored}
    kinds = {one.name: str if one.default == "" else int | None for one in fields(Death)}
    sound = all(isinstance(value, kinds[name]) for name, value in found.items())
    return Death(**found) if sound else None


# -- in words ------------------------------------------------------------------------------


def is_out_of_memory(text: str) -> bool:
    """Return True if an error or a line of a log says that memory ran out."""
    return any(word in text.lower() for word in WORDS)


def how(death: Death) -> str:
    """Return how a worker ended: ``killed by SIGKILL``."""
    if death.reason:
        return f"killed here, because {death.reason}"
    if death.code is None:
        return "nobody saw how, as the dispatcher that had started it was gone"
    if death.code < 0:
        return f"killed by {signal_name(-death.code)}"
    return f"ended with exit code {death.code}, without a word"


def where(death: Death) -> str:
    """Return what a worker did when it died: ``while training, after step 12``."""
    doing = f"while {death.phase}" if death.phase else "before it began"
    return f"{doing}, after step {death.step:,}" if death.step else doing


def sentence(death: Death) -> str:
    """Return all that is known of a death but its log."""
    text = f"{where(death)}: {how(death)}."
    if death.memory:
        text += f" {death.memory}"
    elif death.code in (None, -signal.SIGKILL) and not death.reason:
        text += " Nothing here shows that memory ran out."
    if death.peak_bytes:
        text += f" It had {death.peak_bytes / 1e6:,.0f} MB of memory at most."
    return text


def advice(death: Death) -> str:
    """Return what to try after a death for which memory is not the reason."""
    name = signal_name(-death.code) if death.code is not None and death.code < 0 else ""
    if death.reason:
        return (
            "Where it hung stands in its log. FTG_HANG_SECONDS sets how long it may take (0: for "
            "ever); ftg resume lets it go on."
        )
    if name in CRASHES:
        return (
            "A library has crashed, which its log may name: try engine=trl or another version of "
            "torch, then: ftg resume."
        )
    if name in LIMITS:
        return f"This shell limits {LIMITS[name]}: raise that, then: ftg resume."
    if name or death.code is None:
        return "Somebody, or a limit of this machine, has ended it. ftg resume lets it go on."
    return "Its log says more. ftg resume lets it go on."


def signal_name(number: int) -> str:
    """Return ``SIGKILL`` for 9; the number for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_lines(folder: Path, death: Death) -> list[str]:
    """Return the last lines that a worker that died has written to the log of its run."""
    lines = [line.strip() for line in _log(folder, death.log_start, death.log_end)]
    return [line[:SHOWN_CHARACTERS] for line in lines if line][-SHOWN_LINES:]


# -- what shows it -------------------------------------------------------------------------


def begin(folder: Path, kernel: Kernel = KERNEL) -> None:
    """Note in a run's folder how things stand before a worker starts."""
    group = group_file(kernel)
    noted = {
        "log_bytes": _size(folder / LOG),
        "kernel_kills": kills(kernel.vmstat),
        "group": str(group) if group else None,
        "group_kills": kills(group) if group else None,
        "at": time.monotonic(),
    }
    files.write_atomic(folder / ATTEMPT, json.dumps(noted), private=True, fsync=False)


def find(
    folder: Path, code: int | None = None, pid: int | None = None, kernel: Kernel = KERNEL
) -> Death:
    """Return what can be known of a worker of this run that has died just now."""
    noted = _noted(folder)
    start, end = noted.get("log_bytes", 0), _size(folder / LOG)
    start = start if isinstance(start, int) and start <= end else 0
    memory = ""
    if code in (None, -signal.SIGKILL):
        memory = _words_of_kernel(noted, pid, kernel)
    if not memory and code != -signal.SIGKILL:  # who is killed so says nothing
        said = next(filter(is_out_of_memory, _log(folder, start, end)), "")
        memory = f"Memory ran out: {said.strip()[:300]}." if said else ""
    return Death(code, memory=memory, log_start=start, log_end=end)


_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("log_bytes", "kernel_kills", "group_kills"), (int,)),
    "group": (str,),
    "at": (int, float),
}


def _noted(folder: Path) -> Mapping[str, Any]:
    try:
        noted = json.loads((folder / ATTEMPT).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):  # of an older version, or damaged
        return {}
    if not isinstance(noted, dict):
        return {}
    return {name: one for name, one in noted.items() if isinstance(one, _KINDS.get(name, object))}


def _words_of_kernel(noted: Mapping[str, Any], pid: int | None, kernel: Kernel) -> str:
    """Return what the kernel says of a process that it may have killed for lack of memory."""
    killed = killed_since(noted.get("at"), kernel.log)
    if killed and pid in killed:
        return f"Memory ran out: the kernel's log has {killed[pid]!r}."
    if killed and _in_first_namespace():
        return ""  # it has killed others
    for name, path in (("group_kills", noted.get("group")), ("kernel_kills", str(kernel.vmstat))):
        before, now = noted.get(name), kills(Path(path)) if path else None
        if isinstance(before, int) and now is not None:
            whose = " of its control group" if name == "group_kills" else ""
            if now <= before:
                return ""
            return (
                f"Memory ran out: since it began, the kernel has killed processes{whose} for that."
            )
    return ""


def kills(path: Path) -> int | None:
    """Return how many processes the kernel has killed because memory ran out, of a file with a line
    ``oom_kill 3``; None where it does not say."""
    with suppress(OSError, ValueError):
        for line in path.read_text("ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def group_file(kernel: Kernel = KERNEL) -> Path | None:
    """Return the file that counts the kills of the control group that this process is in, and its
    children will be: ``memory.events`` of version 2, ``memory.oom_control`` of version 1."""
    with suppress(OSError, ValueError):
        for line in kernel.own_group.read_text("utf-8").splitlines():
            number, kinds, group = line.split(":", 2)
            if "memory" in kinds.split(","):
                found = kernel.groups / "memory" / group.lstrip("/") / "memory.oom_control"
            elif number == "0":
                found = kernel.groups / group.lstrip("/") / "memory.events"
            else:
                continue
            if found.is_file():
                return found
    return None


def killed_since(moment: float | None, log: Path) -> dict[int, str] | None:
    """Return the processes that the kernel's log says it has killed for lack of memory since this
    moment (monotonic), with its words; None where it cannot be read."""
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        records = list(_records(descriptor))
    finally:
        os.close(descriptor)
    found = {}
    # "6,1234,5678901,-;message": the third number is in microseconds.
    for record in "".join(records).splitlines():
        head, _, message = record.partition(";")
        match, stamps = KILLED.search(message), head.split(",")
        late = len(stamps) > 2 and stamps[2].isdecimal() and moment is not None
        if match and late and int(stamps[2]) / 1e6 >= (moment or 0.0) - 1:
            found[int(match[1])] = message[:160]
    return found


def _records(descriptor: int) -> Iterable[str]:
    """Yield what the kernel's log has now; each read gives one record of it."""
    while True:
        try:
            raw = os.read(descriptor, 8192)
        except BrokenPipeError:  # it was overwritten meanwhile
            continue
        except OSError:  # there is no more, or it may not be read
            return
        if not raw:
            return
        yield raw.decode("utf-8", "replace")


def _in_first_namespace() -> bool:
    with suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino == FIRST_NAMESPACE
    return False


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _log(folder: Path, start: int, end: int) -> list[str]:
    """Return the last lines of a worker's log, of those between these bytes."""
    with suppress(OSError), (folder / LOG).open("rb") as file:
        first = max(start, end - TAIL)
        file.seek(first)
        return file.read(max(0, end - first)).decode("utf-8", "replace").splitlines()
    return []
