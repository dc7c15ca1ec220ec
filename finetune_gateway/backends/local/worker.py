"""The process that trains one job: wait for a slot, train, say how it ended.

Started by ``queue``; forks into a session of its own. Until a slot is free it holds
about 40 MB and no torch.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType

from finetune_gateway.backends.local import fourbit
from finetune_gateway.backends.local.run import Cancelled, Fenced, Run
from finetune_gateway.errors import GatewayError
from finetune_gateway.events import JobStatus, Result
from finetune_gateway.methods import load_trainer
from finetune_gateway.settings.home import Settings

SLOT_SECONDS = 0.3  # between looks for a free slot
# What Python, safetensors (Rust) and torch's own writer say when a write does not get through.
DISK_FULL = ("No space left", "Disk quota", "File too large", "inline_container", "StreamWriter")


def main(arguments: list[str]) -> None:
    home, run_id, fence, descriptor = arguments
    if os.fork() > 0:
        os._exit(0)
    os.setsid()
    os.set_inheritable(int(descriptor), False)  # the lock that says we are alive is ours alone
    run = Run(Settings(home=Path(home)), run_id, int(fence))

    def stop(number: int, frame: FrameType | None) -> None:
        run.stop.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the watcher
    try:
        run.claim(pid=os.getpid(), phase="starting")  # not the phase in which the last one died
        with run.heartbeat():
            work(run)
    except Fenced:
        print("a newer worker has this run; ending", file=sys.stderr)


def work(run: Run) -> None:
    """Everything between the start of the process and the final word in the queue."""
    try:
        wait_for_slot(run)
        result, trained_tokens = train(run)
    except Cancelled:
        run.event("Cancelled.", level="warn")
        end(run, JobStatus.CANCELLED)
    except Fenced:
        raise
    except GatewayError as exc:
        fail(run, str(exc))
    except Exception as exc:
        # The edge of the process: whatever a library raises ends as the job's reason, and
        # the traceback stays in worker.log.
        traceback.print_exc()
        fail(run, reason(exc))
    else:
        end(
            run, JobStatus.SUCCEEDED, result=result.model_dump_json(), trained_tokens=trained_tokens
        )


def wait_for_slot(run: Run) -> None:
    """Block until this run is the first in line and a device is free."""
    waiting = False
    while True:
        run.check()
        slot = run.queue.try_slot() if run.queue.first_in_line(run.id) else None
        if slot is not None:
            break
        if not waiting:
            run.phase("waiting for a free slot")
            waiting = True
        run.stop.wait(SLOT_SECONDS)
    name, _ = slot  # the descriptor stays open, and with it the slot ours, until we end
    device = name.partition("-")[2]
    if name != "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    run.begin()
    run.claim(status=JobStatus.RUNNING, slot=name, phase="starting")
    attempts = run.queue.get(run.id).attempts + 1
    run.claim(attempts=attempts)
    if attempts > 1:
        run.event(f"The worker died; attempt {attempts} begins.", level="warn")


def train(run: Run) -> tuple[Result, int | None]:
    """Run the method's own file, which imports torch."""
    run.phase("importing torch and trl")
    if run.spec.training_type == "qlora":
        fourbit.bring_in()
    else:
        fourbit.keep_out()
    method = load_trainer(run.spec.method)
    outcome: tuple[Result, int | None] = method.train(run)
    return outcome


def fail(run: Run, why: str) -> None:
    """The reason into the row, also when the disk is too full for another event."""
    with suppress(OSError):
        run.event(why, level="error")
    end(run, JobStatus.FAILED, error=why)


def end(run: Run, status: JobStatus, **values: str | int | None) -> None:
    # An attempt that ends before it has a slot leaves the time of those before as it is.
    worked = {"seconds": run.seconds} if run.seconds else {}
    run.claim(status=status, phase="", finished_at=time.time(), **worked, **values)


def reason(exc: Exception) -> str:
    """A library's error in one line, with what to do where it is known."""
    text = f"{type(exc).__name__}: {str(exc).strip() or 'no message'}".splitlines()[0][:500]
    if "out of memory" in text.lower() or isinstance(exc, MemoryError):
        return f"{text} Use a smaller batch_size, max_length or lora_r, or a smaller model."
    if any(word in text for word in DISK_FULL):
        return f"The disk seems to be full: {text} Free some space and submit again."
    return f"{text} The whole traceback is in worker.log (ftg logs)."


if __name__ == "__main__":
    main(sys.argv[1:])
