"""The process that trains one job, on the slot that it was given, and stores how it ended.

``dispatcher`` starts it, and hands it two locks: that of its run, and that of its slot.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

from finetune_gateway.backends.local import (
    deaths,
    hangs,
    out_of_memory,
    run_folder,
    trackers,
    variables,
)
from finetune_gateway.backends.local.divergence import Diverged
from finetune_gateway.backends.local.imports import import_training
from finetune_gateway.backends.local.line import INTERRUPTED
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.read_ahead import read_ahead
from finetune_gateway.backends.local.run import Cancelled, Fenced, Run
from finetune_gateway.backends.local.slots import still_there
from finetune_gateway.backends.local.umask import make_process_private
from finetune_gateway.errors import GatewayError, StoreError
from finetune_gateway.estimation.engine import BITSANDBYTES, TRL, packages_of
from finetune_gateway.events import DIVERGED, JobStatus, Result
from finetune_gateway.settings import processes
from finetune_gateway.settings.files import adopt
from finetune_gateway.settings.home import Settings

# Words in the errors of Python, safetensors (Rust) and torch's writer when a write fails.
DISK_FULL = ("No space left", "Disk quota", "File too large", "inline_container", "StreamWriter")


class TakesAnother(Exception):
    """The device of this worker is gone, and the run has others."""


def main(arguments: list[str]) -> None:
    """Run the worker of one job; arguments: home, run, fence, the descriptor of its lock, its slot
    and the descriptor of that."""
    home, run_id, fence, run_lock, slot, slot_lock = arguments
    environment = dict(os.environ)  # as it was given; what we set is for this job alone
    faulthandler.enable()  # a crash of a library says in worker.log where it was
    faulthandler.register(hangs.SAY_WHERE)  # so does one that hangs
    make_process_private()
    for descriptor in (run_lock, slot_lock):  # no child may hold the locks that mean we live
        adopt(int(descriptor))
    settings = Settings(home=Path(home))
    try:
        run = Run(settings, run_id, int(fence), environment)
    except (GatewayError, OSError) as exc:
        traceback.print_exc()
        return cannot_begin(Queue(settings), run_id, exc)

    variables.bring(os.environ, run.file.shell)
    run.locks = {
        run.folder / run_folder.LOCK: int(run_lock),
        settings.locks / f"slot-{slot}": int(slot_lock),
    }
    stop_on_signals(run)
    try:
        died = deaths.load(run.queue.get(run.id).death)
        pid = os.getpid()
        run.claim(pid=pid, pid_start=processes.start_of(pid), phase="starting")
        with run.heartbeat():
            work(run, slot, died)
    except Fenced:
        print("A newer worker has this run; stopping.", file=sys.stderr)
    except StoreError as exc:
        # The home was moved, or the store is of no use now. Whoever looks at the job where it is by
        # then lets it go on.
        print(f"{exc} This worker ends; the job goes on from its last checkpoint.", file=sys.stderr)


def cannot_begin(queue: Queue, run_id: str, exc: GatewayError | OSError) -> None:
    """End a run whose folder cannot be used, or is damaged. Raises what may pass, such as a full
    disk: the next worker begins later."""
    reason = queue.folder_fault(run_id, exc)
    if not reason:
        raise exc
    queue.fail(run_id, reason)


def stop_on_signals(run: Run) -> None:
    """Let SIGTERM and SIGHUP stop the run, from a thread of its own: the main thread may be in a
    step of minutes. Those that came while we were imported have waited."""
    signals = processes.take_signals([signal.SIGTERM, signal.SIGHUP])

    def read() -> None:
        while os.read(signals, 64):
            run.interrupt()

    Thread(target=read, name="signals", daemon=True).start()


def work(run: Run, slot: str, died: deaths.Death | None = None) -> None:
    """Take the run from its slot to its final status. ``died``: how the worker before this one
    did."""
    try:
        begin(run, slot, died)
        result, trained_tokens = train(run)
    except TakesAnother:
        leave(run, JobStatus.QUEUED, "")
    except Cancelled:
        stopped(run)
    except Fenced:
        raise
    except Exception as exc:
        # The edge of the process: whatever a library raises becomes the job's error, and the
        # traceback goes to worker.log.
        if gone := run.folder_is_gone():
            traceback.print_exc()
            return fail(run, gone)
        if run.stop.is_set():  # what has failed may have been ended by the same signal
            traceback.print_exc()
            return stopped(run)
        if isinstance(exc, GatewayError):
            return fail(run, str(exc), DIVERGED if isinstance(exc, Diverged) else "")
        traceback.print_exc()
        row = run.queue.get(run.id)
        on_gpu = row.slot not in (None, "cpu")
        fail(run, in_one_line(exc, out_of_memory.advice(run.spec, row.phase, on_gpu=on_gpu)))
    else:
        placed = result.model_copy(update={"model": run.model.name})  # within its folder
        end(
            run, JobStatus.SUCCEEDED, result=placed.model_dump_json(), trained_tokens=trained_tokens
        )


def stopped(run: Run) -> None:
    """End a worker that was asked to stop, as the row says: a signal alone is no cancel."""
    row = run.queue.get(run.id)
    if row.cancel_at is not None:
        run.event("Cancelled.", level="warn")
        end(run, JobStatus.CANCELLED)
    elif row.pause_at is not None:
        run.event("Paused.", level="warn")
        leave(run, JobStatus.PAUSED, "")
    elif run.asked_to_pause:
        run.event("Paused, and resumed before it had stopped.")
        leave(run, JobStatus.QUEUED, "resuming")
    else:
        run.event("Interrupted.", level="warn")
        leave(run, JobStatus.QUEUED, INTERRUPTED)


def leave(run: Run, status: JobStatus, phase: str) -> None:
    """Give the run back, to be gone on with: this attempt did not die."""
    run.take_back_attempt()
    began = {"seconds": run.seconds} if run.seconds else {}
    run.claim(
        status=status, phase=phase, pause_at=None, pid=None, pid_start=None, slot=None,
        seconds_left=None, **began,
    )  # fmt: skip


def begin(run: Run, slot: str, died: deaths.Death | None) -> None:
    """Start an attempt at the run on this slot, which is ours until the process ends."""
    run.check()
    if run.queue.get(run.id).devices:
        require_device(run, slot)
    if slot != "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.partition("-")[2]
    elif run.queue.get(run.id).devices:  # the CPU was chosen; a GPU may be there, and taken
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    run.begin()
    attempts = run.begin_attempt(slot)
    if lacking := variables.missing(os.environ, run.file.shell, run.id):
        run.event(lacking, level="warn")
    if died is not None:
        text = f"The worker died {why_it_died(run, died, slot)} Attempt {attempts} starts."
        data = {"code": died.code, "phase": died.phase, "step": died.step, "attempt": attempts}
        run.event(text, level="warn", data=data)
        run.claim(death=None)
    elif run.queue.get(run.id).resumes:
        run.event("The job was resumed.")


def require_device(run: Run, slot: str) -> None:
    """Raise GatewayError if a run was submitted for devices none of which is there any more, and
    TakesAnother if it has to take one of them that is another than this."""
    chosen = run.queue.get(run.id).devices or ()
    there = still_there(chosen)
    if slot in there:
        return
    gone = slot.partition("-")[2]
    if there:
        run.claim(devices=json.dumps(there))
        run.event(f"GPU {gone} is not here any more: the job takes another of its GPUs.")
        raise TakesAnother
    raise GatewayError(
        f"It was submitted for GPU {gone}, which is not here any more, nor is any other of its "
        "shell.",
        hint=f"To let it take any that is here: ftg resume {run.id}. To choose: "
        f"CUDA_VISIBLE_DEVICES=0 ftg resume {run.id}",
    )


def why_it_died(run: Run, died: deaths.Death, slot: str | None) -> str:
    """Return how the worker before this one died, and what follows where memory ran out."""
    text = deaths.sentence(died)
    if not died.memory:
        return text
    rows = out_of_memory.halve(run.folder, run.spec, died.phase)
    if rows is None:
        return f"{text} {out_of_memory.advice_for_dead(run.folder, died.phase, slot)}"
    run.claim(attempts=1)  # something is tried that was not before
    return f"{text} {out_of_memory.again_in_words(rows, run.spec)}"


def train(run: Run) -> tuple[Result, int | None]:
    """Run the method's file, which imports torch; return the result and the trained tokens."""
    run.phase("importing torch")
    if run.spec.report_to != "none":
        name, folder = run.spec.report_to, run.folder
        run.event(trackers.prepare(name, folder, run.id, run.file.tracker) + ".")
    read_ahead(run.spec.model, run.base_revision)
    # Torch: not before there is a slot.
    packages = packages_of(run.spec)
    import_training(
        run.spec.method,
        bitsandbytes=BITSANDBYTES in packages,
        trl=TRL in packages,
        full=run.spec.training_type == "full",
    )
    from finetune_gateway.backends.local import finishing

    return train_within_memory(run, finishing.train)


def train_within_memory(
    run: Run, train: Callable[[Run], tuple[Result, int | None]]
) -> tuple[Result, int | None]:
    """Train, and where memory runs out again from the last checkpoint, with half as many rows at
    once. Raises what came when there is nothing left to halve."""
    while True:
        try:
            return train(run)
        except (RuntimeError, MemoryError) as exc:
            phase = run.queue.get(run.id).phase
            rows = None
            if out_of_memory.is_error_of_memory(exc):
                rows = out_of_memory.halve(run.folder, run.spec, phase)
            if rows is None:
                raise
            text = out_of_memory.in_words(exc).splitlines()[0][:500].rstrip(".")
        # Behind the except clause, as its traceback holds what did not fit; it is freed before the
        # model is loaded again (``load_base``).
        again = out_of_memory.again_in_words(rows, run.spec)
        # transformers reads weights in threads, and waits for ever for one that has no memory to
        # begin.
        os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
        run.event(f"Memory ran out: {text}. {again}", level="warn", data={"micro_batch": rows})


def fail(run: Run, error: str, phase: str = "") -> None:
    """End the run as failed, even if the disk is too full for another event."""
    with suppress(OSError):
        run.event(error, level="error")
    end(run, JobStatus.FAILED, error=error, phase=phase)


def end(run: Run, status: JobStatus, *, phase: str = "", **values: str | int | None) -> None:
    """Store the final status of the run."""
    # An attempt that ends before it has a slot keeps the time of earlier attempts.
    seconds = {"seconds": run.seconds} if run.seconds else {}
    run.claim(status=status, phase=phase, finished_at=time.time(), **seconds, **values)


def in_one_line(exc: Exception, less_memory: str) -> str:
    """Return a library's error in one line, with advice for known causes; ``less_memory`` if memory
    ran out."""
    whole = out_of_memory.in_words(exc)
    text = whole.splitlines()[0][:500]
    if out_of_memory.is_error_of_memory(exc):
        return f"Memory ran out: {text.rstrip('.')}. {less_memory}"
    if any(word in text for word in DISK_FULL):
        return (
            f"The disk seems to be full: {text.rstrip('.')}. Free some space, then let it go on: "
            "ftg resume."
        )
    return f"{text} The traceback is in worker.log (ftg logs)."


if __name__ == "__main__":
    main(sys.argv[1:])
