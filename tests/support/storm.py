"""Workers that start at once, to be killed: a process that has imported torch forks them.

``python -m support.storm`` reads commands, one a line: ``train HOME RUN`` starts the worker of a
run, by the queue's own rules and the worker's own code; ``saves HOME RUN COUNT SEED`` trains a run
and kills so many of its saves, each in a process of its own, and prints what they left as JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from support.chaos import ready
from support.paths import TEST_PATH

from finetune_gateway.backends.local import worker
from finetune_gateway.backends.local.dispatcher import Dispatcher
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.run import Run
from finetune_gateway.methods import METHODS, load_trainer
from finetune_gateway.settings.home import Settings


class Warm:
    """The process that forks workers, as the tests see it."""

    def __enter__(self) -> Self:
        self.log = tempfile.TemporaryFile("w+")  # what libraries print; nobody would empty a pipe
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.storm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "PYTHONPATH": TEST_PATH, "OMP_NUM_THREADS": "1"},
        )
        ready(self.process)
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)
        self.log.close()

    def ask(self, *words: object) -> dict[str, Any]:
        """Send a command; return what it says."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(*words, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        found: dict[str, Any] = json.loads(line or "{}")
        if not found:
            self.log.seek(0)
            raise AssertionError(self.log.read()[-3000:])
        return found


# -- in that process -------------------------------------------------------------------------


class ForkingDispatcher(Dispatcher):
    """A dispatcher whose workers are forks of this process, which has imported what they need."""

    def spawn(self, run_id: str, fence: int, run_lock: int, slot: str, slot_lock: int) -> None:
        locks = os.dup(run_lock), os.dup(slot_lock)  # a fork leaves its parent those that it took
        if os.fork() > 0:
            for lock in locks:
                os.close(lock)
            os.wait()
            return
        if os.fork() > 0:
            os._exit(0)
        log = os.open(self.runs / run_id / "worker.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(log, stream)
        words = str(self.home), run_id, str(fence), str(locks[0]), slot, str(locks[1])
        worker.main([*words])
        os._exit(0)


def main() -> None:
    import finetune_gateway.backends.local.trl_orpo
    import finetune_gateway.backends.local.trl_trainers  # noqa: F401
    from finetune_gateway.backends.local import fourbit

    fourbit.import_quietly()
    for method, known in METHODS.items():
        if known.trainer:
            load_trainer(method)
    print("ready", flush=True)
    for line in sys.stdin:
        command, home, run_id, *rest = line.split()
        reading, writing = os.pipe()
        if os.fork() == 0:
            with os.fdopen(writing, "w") as answer:
                os.dup2(2, 1)  # libraries print
                print(
                    json.dumps(COMMANDS[command](Settings(Path(home)), run_id, *rest)), file=answer
                )
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answers:  # its worker may hold the other end for long
            print(answers.readline().strip() or "{}", flush=True)  # none: it has failed
        os.wait()


def dispatch(settings: Settings, run_id: str, most: str = "40") -> dict[str, Any]:
    """Dispatch as the process of the home does, until no run is left or ``most`` workers of this
    one have started; return how many there were."""
    queue = Queue(settings)
    dispatcher = ForkingDispatcher(settings.home, settings.database, settings.locks, settings.runs)
    before = queue.get(run_id).fence
    while queue.get(run_id).fence - before < int(most) and dispatcher.look():
        dispatcher.not_before.clear()  # one that died at once is followed by the next one
        time.sleep(0.005)
    return {"workers": queue.get(run_id).fence - before}


def start_worker(settings: Settings, run_id: str) -> dict[str, Any]:
    """Dispatch as the process of the home does, until this run has a new worker. The caller holds
    the lock of that, so that there is none."""
    queue = Queue(settings)
    dispatcher = ForkingDispatcher(settings.home, settings.database, settings.locks, settings.runs)
    before = queue.get(run_id).fence
    while queue.get(run_id).fence == before:
        dispatcher.look()
        time.sleep(0.005)
    return {"fence": queue.get(run_id).fence}


def kill_saves(settings: Settings, run_id: str, count: str, seed: str) -> dict[str, Any]:
    """Train a run to its end. Kill ``count`` of its saves, half of them of checkpoints."""
    from finetune_gateway.backends.local import finishing
    from finetune_gateway.backends.local.trainer import WatchedTrainer

    run = Run(settings, run_id, 0)
    killer = Killer(run, random.Random(int(seed)))
    save, save_checkpoint = finishing.save, WatchedTrainer._save_checkpoint
    saved = 0

    def killed_checkpoints(trainer: Any, model: Any, trial: Any) -> None:
        nonlocal saved
        saved += 1
        if saved in (2, 3):  # there is one before, which no kill may take away

            def whole_save() -> None:
                save_checkpoint(trainer, model, trial)
                trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)

            step = trainer.state.global_step
            killer.kill(whole_save, int(count) // 4, lambda: killer.checkpoint(step))
        save_checkpoint(trainer, model, trial)

    def killed_results(run: Run, trainer: Any, *rest: Any) -> None:
        killer.kill(
            lambda: save(run, trainer, *rest), int(count) - int(count) // 4 * 2, killer.result
        )
        save(run, trainer, *rest)

    WatchedTrainer._save_checkpoint = killed_checkpoints  # type: ignore[method-assign, assignment]  # of a class
    finishing.save = killed_results  # type: ignore[assignment]  # 'rest' is what it takes
    load_trainer(run.spec.method).train_and_save(run)
    killer.compare()
    return {"saves": saved, **killer.found}


class Killer:
    """Kills saves of a run at random moments, and looks at what they left."""

    def __init__(self, run: Run, draw: random.Random) -> None:
        self.run, self.draw = run, draw
        self.found: Counter[str] = Counter()
        self.left: list[dict[str, bytes]] = []  # results that were whole

    def kill(self, save: Callable[[], None], count: int, look: Callable[[], str]) -> None:
        longest, killed = 0.0, 0
        while killed < count:
            began = time.monotonic()
            child = os.fork()
            if child == 0:
                save()
                os._exit(0)
            if longest:
                time.sleep(self.draw.random() * longest)
                os.kill(child, 9)  # its number is its own until it is waited for
            ended = os.waitpid(child, 0)[1]
            found = look()
            if ended == 0:  # the first is left alone, to know how long one takes
                assert found.endswith("whole")
                longest = min(longest or 60.0, time.monotonic() - began)
                continue
            assert ended == 9, ended
            killed += 1
            self.found["killed"] += 1
            self.found[found] += 1

    def checkpoint(self, step: int) -> str:
        """Whether this checkpoint is there. If it is, all of it can be read; if it is not, the one
        before it can be."""
        import torch
        from safetensors.torch import load_file

        from finetune_gateway.backends.local import checkpoints

        path, _ = checkpoints.newest(self.run.checkpoints)  # as the next worker does
        assert path is not None, "no checkpoint is left"
        assert all(load_file(file) for file in path.rglob("*.safetensors"))
        assert torch.load(path / "optimizer.pt", weights_only=True)
        for name in ("scheduler.pt", "rng_state.pth"):
            torch.load(path / name, weights_only=False)
        state = json.loads((path / "trainer_state.json").read_text("utf-8"))
        assert f"checkpoint-{state['global_step']}" == path.name
        json.loads((path / checkpoints.PROGRESS).read_text("utf-8"))
        if path.name != f"checkpoint-{step}":
            return "checkpoint absent"
        shutil.rmtree(path)
        return "checkpoint whole"

    def result(self) -> str:
        """Whether the result is there; if it is, its hashes are right."""
        from finetune_gateway.backends.local.saving import manifest_of

        model = self.run.model
        if manifest_of(model) is None:
            assert not model.exists()
            return "model absent"
        self.left.append(weights(model))
        shutil.rmtree(model)
        return "model whole"

    def compare(self) -> None:
        """All results that were whole are the one that was saved in peace."""
        assert all(one == weights(self.run.model) for one in self.left)
        assert not [*self.run.folder.glob("*.tmp.*")]


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")}


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "train": start_worker,
    "dispatch": dispatch,
    "saves": kill_saves,
}

if __name__ == "__main__":
    main()
