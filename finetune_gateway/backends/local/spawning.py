"""Starts the dispatcher of a home, and tells it what a worker is to be started with."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from finetune_gateway.backends.local import messages
from finetune_gateway.errors import BackendError
from finetune_gateway.settings import files, interpreter

LOCK = "dispatcher"  # in the folder of locks; who holds it is the dispatcher
DISPATCHER = "finetune_gateway.backends.local.dispatcher"
WORKER = "finetune_gateway.backends.local.worker"


def ensure(home: Path, database: Path, locks: Path, runs: Path, env: Mapping[str, str]) -> None:
    """Start the dispatcher of a home unless it lives. ``env``: its environment, and its workers'.

    It inherits the lock that is taken here, so at no moment can a second one start. Raises
    BackendError if it cannot be started.
    """
    lock = files.try_lock(locks / LOCK)
    if lock is None:
        return
    try:
        _spawn(home, database, locks, runs, lock, env)
    finally:
        files.unlock(lock)


def _spawn(
    home: Path, database: Path, locks: Path, runs: Path, lock: int, env: Mapping[str, str]
) -> None:
    words = str(home), str(database), str(locks), str(runs), str(lock)
    path = locks / f"{LOCK}.log"
    with open(files.open_private(path, os.O_WRONLY | os.O_TRUNC), "ab") as log:
        # The process started here forks, starts a session of its own and ends at once: the
        # dispatcher outlives us, and leaves no zombie in a long-lived parent.
        started = subprocess.run(
            interpreter.module(DISPATCHER, *words),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
            # Which devices a job may have is kept with the job.
            env={name: value for name, value in env.items() if name != "CUDA_VISIBLE_DEVICES"},
            cwd="/",
            start_new_session=True,  # Ctrl-C reaches only the caller
            check=False,
        )
    if started.returncode != 0:
        raise BackendError(
            f"The dispatcher of local jobs could not be started (exit {started.returncode}).",
            hint=f"See {path}",
            backend="local",
        )


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
