"""A fork of the process that runs the tests."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

SECONDS = 120


def fork(function: Callable[[], object]) -> Callable[[], None]:
    """Call a function in a fork; return what waits for it, and fails as it did."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)  # one that hangs does not outlive the tests
        try:
            function()
            os.write(write, b"done")
        except BaseException:
            os.write(write, traceback.format_exc().encode()[-4000:])
        os._exit(0)
    os.close(write)

    def end() -> None:
        os.waitpid(child, 0)
        with os.fdopen(read, "rb") as report:
            said = report.read().decode()
        assert said == "done", said

    return end
