"""Starts the dispatcher of a home, and tells it what a worker is to be started with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from finetune_gateway.backends.local import heartbeat, messages
from finetune_gateway.errors import BackendError
from finetune_gateway.settings import files, interpreter, processes
from finetune_gateway.text.cleaning import visible

LOCK = "dispatcher"  # in the folder of locks; who holds it is the dispatcher
DISPATCHER = "finetune_gateway.backends.local.dispatcher"
WORKER = "finetune_gateway.backends.local.worker"
BY_USER = "look"  # why a dispatcher was started
REST_SECONDS = 30.0  # after a shutdown nothing starts by itself, only if somebody looks
STOPPED = "stopped"
LOG_END = 20_000  # bytes of its log in which the last fault is looked for


def ensure(
    home: Path,
    database: Path,
    locks: Path,
    runs: Path,
    env: Mapping[str, str],
    *,
    by_user: bool = True,
) -> None:
    """Start the dispatcher of a home unless it lives. ``env``: its environment, and its workers'.
    ``by_user``: somebody looks; else a worker, which lets one that was just shut down rest.

    It inherits the lock that is taken here, so at no moment can a second one start. Raises
    BackendError if it cannot be started.
    """
    lock, ended = take_lock(locks), ""
    if lock is None and (ended := heartbeat.end_silent(locks)):
        lock = take_lock(locks)
    if lock is None:
        return
    try:
        if by_user or not _rests(lock):
            words = [*map(str, (home, database, locks, runs, lock)), BY_USER if by_user else ""]
            _spawn(words, locks, lock, env, ended)
    finally:
        files.unlock(lock)


def take_lock(locks: Path) -> int | None:
    """Take the lock of the dispatcher; None if another has it. Its folder is made again where
    somebody has removed it, but not the home."""
    with suppress(FileExistsError):
        locks.mkdir(files.PRIVATE_FOLDER)
    return files.try_lock(locks / LOCK)


def _spawn(
    words: list[str], locks: Path, lock: int, env: Mapping[str, str], reason: str = ""
) -> None:
    path = locks / f"{LOCK}.log"
    written = files.open_private(path, os.O_WRONLY | os.O_TRUNC)
    with open(written, "ab") as log, processes.holding_signals():
        log.write(f"{reason}\n".encode() if reason else b"")
        log.flush()
        # The process started here forks, starts a session of its own and ends at once: the
        # dispatcher outlives us, and leaves no zombie in a long-lived parent. If we are interrupted
        # (Ctrl-C), it does so all the same.
        started = subprocess.Popen(
            interpreter.module(DISPATCHER, *words),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
            # Which devices a job may have is kept with the job.
            env={name: value for name, value in env.items() if name != "CUDA_VISIBLE_DEVICES"},
            cwd="/",
            start_new_session=True,  # Ctrl-C reaches only the caller
        )
    started.wait()
    if started.returncode != 0:
        raise BackendError(
            f"The dispatcher of local jobs could not be started (exit {started.returncode}).",
            hint=f"See {path}",
            backend="local",
        )


def fault(locks: Path) -> str:
    """Return, in words, what the dispatcher has died of, or cannot get over; empty if nothing."""
    path = locks / f"{LOCK}.log"
    with suppress(OSError):
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - LOG_END))
            lines = log.read().decode(errors="replace").split("\n")
        told = [one for one in lines if one and not one.startswith((" ", "\t"))]
        if any(one.startswith("Traceback ") for one in told):
            return f"the dispatcher of jobs fails: {visible(told[-1][:200])} (see {path})"
    return ""


def clear_faults() -> None:
    """Empty the log of this process, the dispatcher: it works again."""
    os.ftruncate(sys.stderr.fileno(), 0)


def log_to(locks: Path) -> None:
    """Let this process, the dispatcher, write its log to a new file: the old one was removed."""
    descriptor = files.open_private(locks / f"{LOCK}.log", os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)


def note_shutdown(lock: int) -> None:
    """Say in the lock file of the dispatcher that it was shut down, and when: on the clock of this
    run of the machine, which nobody can set."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{STOPPED} {processes.boot()} {time.monotonic()}".encode(), 0)


def _rests(lock: int) -> bool:
    """Return True if the last dispatcher was shut down a moment ago, and in this run of the
    machine."""
    word, _, rest = os.pread(lock, 200, 0).decode("ascii", "replace").partition(" ")
    boot, _, moment = rest.rpartition(" ")
    if word != STOPPED or boot != processes.boot():
        return False
    with suppress(ValueError):
        return 0 <= time.monotonic() - float(moment) < REST_SECONDS
    return False


def tell(locks: Path, run_id: str) -> bool:
    """Tell the dispatcher, if it lives, how to start the worker of this run."""
    environment = dict(os.environ)
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    command = interpreter.module(WORKER)
    message = {"run": run_id, "command": command, "environment": environment}
    return messages.tell(locks / LOCK, message)


def wake(locks: Path) -> None:
    """Let the dispatcher, if it lives, look at once."""
    messages.tell(locks / LOCK, {})


def worker_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment with the telemetry of libraries off."""
    return {
        **environment,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",  # bars are for a terminal, and this is a log
        "PYTHONUNBUFFERED": "1",
    }
