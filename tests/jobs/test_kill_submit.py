"""kill -9 of a submitting process: no job is bought twice, none is lost."""

from __future__ import annotations

import time
from pathlib import Path

from support.chaos import (
    CLEAN,
    SUBMIT,
    ProviderProcess,
    account,
    data_file,
    ftg,
    kill,
    ready,
    start,
    until,
)
from support.provider import CREATE

from finetune_gateway import Gateway

UPLOAD = "POST /files"
# fault on, its kind, what must have been received before the kill
MOMENTS = [
    ("", "", ""),  # before the intent, or shortly after: nothing was sent
    (UPLOAD, "slow", "/files"),  # received, takes effect after our death
    (UPLOAD, "late", "/files"),  # took effect, not yet answered
    (CREATE, "slow", "/fine_tuning/jobs"),
    (CREATE, "late", "/fine_tuning/jobs"),
    (CREATE, "error_after", "/fine_tuning/jobs"),  # the answer and the kill race
]


def test_killed_at_every_step(home: Path, tmp_path: Path) -> None:
    """Before the intent, while the file and while the job are sent, and after: another process
    lists the jobs and all of them succeed, each bought once and uploaded once."""
    killed = 0
    with ProviderProcess(tmp_path) as provider:
        for number, (endpoint, kind, path) in enumerate(MOMENTS):
            if endpoint:
                provider.fault(endpoint, kind, seconds=0.5)
            before = provider.posts(path)
            process = start(SUBMIT, provider.url, data_file(tmp_path, number))
            ready(process)
            if path:
                until(lambda: provider.posts(path) > before)  # noqa: B023
            killed += kill(process)
        jobs = Gateway().jobs()
        assert killed >= 5 and {job.record.step for job in jobs} >= {"uploading", "creating"}
        figures = account(provider)
        assert figures.items() >= CLEAN.items() and figures["asked"] >= 5, figures


def test_the_command_line_killed_after_its_answer(home: Path, tmp_path: Path) -> None:
    """``ftg submit`` dies as soon as the provider has the job; ``ftg wait`` brings it home, and
    the same submit again meets the same job."""
    with ProviderProcess(tmp_path, "--pace", "0.3") as provider:
        file = data_file(tmp_path, 1)
        words = ["submit", file, "--model", "gpt-4.1-mini-2025-04-14", "--backend", "openai"]
        words += ["--base-url", provider.url, "--api-key-env", "CHAOS_KEY", "--yes"]
        process = ftg(*words)
        until(lambda: any(job.record.step == "sent" for job in Gateway().jobs()))
        kill(process)
        again = ftg(*words)
        out, err = again.communicate(timeout=60)
        assert out.split() == [Gateway().jobs()[0].id], err
        waiting = ftg("wait", "latest", "--timeout", "60s")
        out, err = waiting.communicate(timeout=90)
        assert waiting.returncode == 0 and "succeeded" in out, err
        assert list(provider.bought().values()) == [1]


def test_the_waiting_process_killed_while_it_settles_a_doubt(home: Path, tmp_path: Path) -> None:
    """A doubt that is being settled when its settler dies is still a doubt: nothing more is
    bought."""
    with ProviderProcess(tmp_path) as provider:
        provider.fault(CREATE, "reset_after")
        process = start(SUBMIT, provider.url, data_file(tmp_path, 1))
        process.communicate(timeout=60)
        for _ in range(2):
            waiting = ftg("wait", "latest")
            time.sleep(1.2)
            kill(waiting)
        figures = account(provider)
        assert figures == {"asked": 1, "bought": 1, **CLEAN}
