"""Chat at the terminal: answers wrapped as they come, commands, Ctrl-C, and which host is asked."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from support.chaos import until
from support.cli import Ftg, Terminal, at_terminal
from support.interrupts import press_ctrl_c
from support.paths import DEMO_TRAIN
from support.provider import Provider

import finetune_gateway as gateway
from finetune_gateway import OpenAIBackend
from finetune_gateway.backend import HandleData
from finetune_gateway.backends.fake import FakeBackend, FakeChat
from finetune_gateway.cli.conversation import Conversation, Wrapping
from finetune_gateway.errors import BackendError
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.reports.output import display_width

DATA = str(DEMO_TRAIN)
HOSTED = "gpt-4.1-mini-2025-04-14"
WORDS = "Your parcel is on its way; it should be with you in two days, or three.\n\n  - one\n  - "


@pytest.fixture
def job(ftg: Ftg) -> str:
    """A finished job; its model says ``You said:`` and the question."""
    done = ftg("submit", DATA, "--model", "m", "--backend", "fake", "--wait", "-q")
    return done.stdout.strip()


# -- wrapping ----------------------------------------------------------------------------------


def wrapped(text: str, width: int, size: int) -> str:
    """What is printed of a text that comes in pieces of this size."""
    wrapping = Wrapping(width)
    pieces = (text[at : at + size] for at in range(0, len(text), size))
    return "".join(map(wrapping.add, pieces)) + wrapping.rest()


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("text", [WORDS * 3, f"{'x' * 130} y {'数据' * 40}, z", "a \r\nb\r", " \n"])
def test_an_answer_is_wrapped_at_words_whatever_its_pieces(text: str, width: int) -> None:
    """No line is too long, no word is lost, indents and empty lines stay, a word is broken only if
    it is longer than a line."""
    whole = wrapped(text, width, len(text))
    assert all(wrapped(text, width, size) == whole for size in (1, 2, 3, 7))
    assert max(map(display_width, whole.split("\n"))) <= width
    assert "".join(whole.replace("\\u000d", "\r").split()) == "".join(text.split())
    if text.startswith("Your"):
        assert whole.split() == text.split() and "\n\n  - one\n" in whole


def test_what_steers_a_terminal_is_shown() -> None:
    assert wrapped("a\x1b[2Jb\u202ec\x07", 80, 1) == "a\\u001b[2Jb\\u202ec\\u0007"


# -- commands ----------------------------------------------------------------------------------


def test_commands_between_questions(
    job: str, ftg: Ftg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/help, /system, /reset, /save (never over a file), a slash that is sent, an unknown word."""
    talk = tmp_path / "talk.jsonl"
    keys = (
        "Hello\n/help\n/system You are brief.\n/system\n//etc is full\n"
        f"/save {talk}\n/save {talk}\n/save\n/reset\n/save x\n/nope\n/exit\nnot read\n"
    )
    done = at_terminal(monkeypatch, keys, "chat", job)
    assert done.returncode == 0
    assert "You said: Hello\n" in done.stdout and "You said: /etc is full\n" in done.stdout
    assert "not read" not in done.stdout
    for said in (
        "/system [TEXT] show the system prompt",
        "The next answers follow it",
        "those so far. You are brief.",
        ": 5 messages.",
        "exists already",
        "Like: /save talk.jsonl",
        "The conversation is forgotten.",
        "There is nothing to save yet.",
        "There is no command /nope",
    ):
        assert said in " ".join(done.stderr.split()), done.stderr
    messages = json.loads(talk.read_text())["messages"]
    assert [one["role"] for one in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert gateway.validate([{"messages": messages}] * 10).ok


@pytest.mark.parametrize("ctrl_c", [False, True])
def test_leaving_at_the_prompt_is_quiet(
    ctrl_c: bool, job: str, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Ctrl-D and with Ctrl-C: exit 0, nothing is said."""
    done = at_terminal(monkeypatch, "", "chat", job, ctrl_c=ctrl_c)
    assert done.returncode == 0 and "nterrupted" not in done.stderr
    assert "/help lists commands" in done.stderr


def test_one_question_at_the_terminal_is_wrapped_and_in_a_pipe_exact(
    job: str, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = "word " * 30
    shown = at_terminal(monkeypatch, "", "chat", job, question)
    assert "Waiting for the answer" in shown.stderr
    exact = ftg("chat", job, question).stdout
    assert exact.endswith(f"] You said: {question}\n")
    lines = shown.stdout.splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 80
    assert shown.stdout.split() == exact.split()


class Halting(FakeBackend):
    """Its first answer is stopped by Ctrl-C, its second fails; it keeps what it is asked."""

    asked: list[list[dict[str, Any]]]
    again: Event  # it is asked once more
    left: bool  # and was while its first answer still went on

    def open(self, handle: HandleData) -> FakeChat:
        self.asked, self.left, self.again = [], False, Event()
        return _HaltingChat(self)


class _HaltingChat(FakeChat):
    def __init__(self, backend: Halting) -> None:
        super().__init__("m", None)
        self.backend = backend

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]:
        self.backend.asked.append(messages)
        yield "One two"
        if len(self.backend.asked) == 1:
            press_ctrl_c()
            self.backend.left = self.backend.again.wait(60)
        if len(self.backend.asked) == 2:
            self.backend.again.set()
            raise BackendError("The answer broke off.")


def test_ctrl_c_stops_an_answer_and_keeps_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next question is asked at once, whatever
    the stopped answer waits for; a question whose answer failed is not asked again."""
    backend = Halting()
    handle = ModelHandle(kind="hosted", model="m", base_model="m", backend="fake")
    handle.attach(backend)
    out, err = Terminal(), io.StringIO()
    for name, stream in (("stdin", Terminal("a\nb\nc\n")), ("stdout", out), ("stderr", err)):
        monkeypatch.setattr(sys, name, stream)
    Conversation(handle, None, {}).run()
    until(lambda: backend.left, seconds=10)
    assert "(stopped)" in err.getvalue() and "The answer broke off." in err.getvalue()
    assert out.getvalue().count("One two\n") == 3
    assert [[one["content"] for one in messages] for messages in backend.asked] == [
        ["a"],
        ["a", "One two", "b"],
        ["a", "One two", "c"],
    ]


# -- at which host -----------------------------------------------------------------------------


def test_a_model_is_asked_at_its_host(
    ftg: Ftg, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the job that made it, and that of --base-url with its key's variable."""
    with Provider() as provider:
        monkeypatch.setenv("OPENAI_API_KEY", provider.api_key)
        hosted = OpenAIBackend(
            base_url=provider.url, api_key_env="OPENAI_API_KEY", profile="custom", poll_seconds=0.01
        )
        handle = gateway.submit(train_file, model=HOSTED, backend=hosted).result()
        done = ftg("chat", handle.model, "Hello")
        assert done.returncode == 0 and done.stdout.strip(), done.stderr
        monkeypatch.setenv("MY_KEY", provider.api_key)
        monkeypatch.delenv("OPENAI_API_KEY")
        words = ("chat", handle.model, "Hello", "--base-url", provider.url)
        assert ftg(*words, "--api-key-env", "MY_KEY").stdout == done.stdout
    wrong = ftg("chat", "m", "Hello", "--api-key-env", "MY_KEY")
    assert wrong.returncode == 2 and "belong to --base-url" in wrong.stderr


def test_latest_without_jobs_says_so(ftg: Ftg) -> None:
    done = ftg("chat", "latest", "Hello")
    assert (done.returncode, done.stderr.splitlines()[0]) == (102, "error: There are no jobs yet.")
