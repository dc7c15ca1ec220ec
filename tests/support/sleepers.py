"""A home with runs whose workers do nothing until they are killed, and their dispatcher."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from finetune_gateway.backend import Schedule
from finetune_gateway.backends.local import states
from finetune_gateway.backends.local.dispatcher import Dispatcher
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.run_file import RunFile
from finetune_gateway.backends.local.spawning import LOCK
from finetune_gateway.settings.files import try_lock
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec


class Sleeping(Dispatcher):
    """A dispatcher of this process, whose workers do nothing until they are killed."""

    command: tuple[str, ...] = ("sleep", "600")

    def spawn(self, run_id: str, fence: int, run_lock: int, slot: str, slot_lock: int) -> None:
        self.workers[run_id] = subprocess.Popen(
            self.command, pass_fds=(run_lock, slot_lock), start_new_session=True
        )


class Home:
    """A home with one run."""

    def __init__(self, home: Path) -> None:
        made = Settings(home).create()
        self.queue = Queue(made)
        self.alone = try_lock(made.locks / LOCK)
        self.dispatcher = Sleeping(made.home, made.database, made.locks, made.runs)
        self.add("a")

    def add(self, name: str, device: str = "gpu-0") -> None:
        folder = self.queue.folder(name)
        folder.mkdir(parents=True)
        spec = TrainingSpec.build(model="builtin/tiny")
        file = RunFile(job_id=name, spec=spec, train_sha256="", versions={}, created_at=0.0)
        (folder / "run.json").write_text(file.model_dump_json(), "utf-8")
        self.queue.add(name, Schedule(), (device,))

    def close(self) -> None:
        for worker in self.dispatcher.workers.values():
            worker.kill()
            worker.wait()

    def look(self) -> None:
        self.dispatcher.not_before.clear()
        self.dispatcher.look()

    def begin(self) -> Run:
        """Start its worker, and do what that does first."""
        self.look()
        run = Run(self.queue.settings, "a", self.queue.get("a").fence)
        run.begin()
        run.begin_attempt("gpu-0")
        run.claim(phase="training", step=7)
        return run

    def kill(self, number: int = signal.SIGKILL) -> None:
        worker = self.dispatcher.workers["a"]
        os.kill(worker.pid, number)
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)

    @property
    def phase(self) -> str:
        found = self.queue.get("a")
        return states.States(self.queue, [found]).snapshot(found).phase
