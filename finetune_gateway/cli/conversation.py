"""A conversation at the terminal: questions, commands, and answers as they are generated."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from finetune_gateway.chat import ChatReply, ChatStream
from finetune_gateway.cli.progress import working
from finetune_gateway.errors import GatewayError
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.reports.output import (
    apply_style,
    display_width,
    format_count,
    print_error,
    print_message,
    terminal_width,
)
from finetune_gateway.text.cleaning import visible

Messages = list[dict[str, Any]]
HELP = """\
/system [TEXT]  show the system prompt, or set another one ("" for none)
/reset          forget the conversation
/reasoning      show the reasoning of the last answer
/save FILE      write it as a row of training data
/exit           leave, as do Ctrl-D and Ctrl-C at the prompt
Ctrl-C stops an answer. A line that begins with // is sent with one /."""


class Conversation:
    """The questions and answers so far, and the commands between them."""

    def __init__(
        self,
        handle: ModelHandle,
        system: str | None,
        sampling: dict[str, Any],
        *,
        quiet: bool = False,
    ) -> None:
        self.quiet = quiet
        self.handle = handle
        self.system = system
        self.sampling = sampling
        self.messages: Messages = []
        self.waiting: Messages = []  # calls whose results are typed next
        self.reasoning = ""  # of the last answer
        self.doing = first_doing(handle)

    def run(self) -> None:
        """Read lines and answer them until the end of input, Ctrl-C or /exit."""
        intro = "/help lists commands. Ctrl-C stops an answer, Ctrl-D ends."
        print_message(intro, quiet=self.quiet)
        for line in _read_lines("" if self.quiet else "you> "):
            if line == "/exit":
                return
            if line.startswith("/") and not line.startswith("//"):
                self._obey(*line.partition(" ")[::2])
            else:
                self._ask(line.removeprefix("/") if line.startswith("//") else line)

    def _ask(self, question: str) -> None:
        call = self.waiting[:1]
        self.messages.append(self._question(question))
        if self.waiting:
            self._ask_for_result()
            return
        answer = self._answer()
        if answer is None:
            self.messages.pop()
            self.waiting = call  # its result is typed again
        else:
            self.messages.append(answer)

    def _question(self, text: str) -> dict[str, Any]:
        """Return what was typed as a message: the result of a call, if one waits for it."""
        if not self.waiting:
            return {"role": "user", "content": text}
        call = self.waiting.pop(0)
        return {"role": "tool", "tool_call_id": call.get("id"), "content": text}

    def _ask_for_result(self) -> None:
        name = visible(str((self.waiting[0].get("function") or {}).get("name")))
        print_message(f"What does {name} return? /reset forgets the call.")

    def _answer(self) -> dict[str, Any] | None:
        """Print an answer and return it as a message, or as much as Ctrl-C let through; None if
        there is none or it failed."""
        received: list[str] = []
        try:
            pieces = self._stream()
            print_stream(pieces, received, self.doing, quiet=self.quiet)
            self.doing = "Waiting for the answer"
            if pieces.reply is not None:
                return self._whole(pieces.reply)
        except KeyboardInterrupt:
            print_message("(stopped)", quiet=self.quiet)
        except GatewayError as exc:
            print_error(type(exc).__name__, exc.message, exc.hint, exc.exit_code)
            return None
        text = "".join(received)
        return {"role": "assistant", "content": text} if text else None

    def _whole(self, reply: ChatReply) -> dict[str, Any] | None:
        """Print what an answer has beside its text, and return it as a message."""
        self.reasoning = reply.reasoning or ""
        print_beside(reply, folded=True, quiet=self.quiet)
        message: dict[str, Any] = {"role": "assistant", "content": reply.text}
        if reply.tool_calls:
            message["tool_calls"] = reply.tool_calls
            self.waiting = [*reply.tool_calls]
            self._ask_for_result()
        return message if reply.text or reply.tool_calls else None

    def _stream(self) -> ChatStream:
        if not self.handle.has_template:  # it goes on with a text, and knows no turns
            return self.handle.stream_completion(self.messages[-1]["content"], **self.sampling)
        return self.handle.stream([*self.messages], system=self.system, **self.sampling)

    def _obey(self, command: str, text: str) -> None:
        commands: dict[str, Callable[[str], str]] = {
            "/help": lambda _: HELP,
            "/system": self._set_system,
            "/reset": self._reset,
            "/reasoning": lambda _: visible(self.reasoning) or "The last answer has no reasoning.",
            "/save": self._save,
        }
        known = commands.get(command)
        unknown = f"There is no command {visible(command)}; /help lists them."
        print_message(known(text.strip()) if known else unknown)

    def _set_system(self, text: str) -> str:
        if text:
            self.system = "" if text in ('""', "''") else text
            return "The next answers follow it; /reset forgets those so far."
        current = self.handle.system_prompt if self.system is None else self.system
        return visible(current or "There is no system prompt.")

    def _reset(self, _: str) -> str:
        self.messages.clear()
        self.waiting.clear()
        return "The conversation is forgotten."

    def _save(self, name: str) -> str:
        """Write the conversation to a new file; an existing one stays as it is."""
        if not name or not self.messages:
            return "Like: /save talk.jsonl" if self.messages else "There is nothing to save yet."
        row = {"messages": self.handle.as_messages(self.messages, self.system)}
        try:
            with Path(name).expanduser().open("x", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except FileExistsError:
            return f"{visible(name)} exists already; choose another name."
        except OSError as exc:
            return f"{visible(name)} cannot be written: {exc.strerror or exc}."
        return f"Saved in {visible(name)}: {len(row['messages'])} messages."


def _read_lines(prompt: str) -> Iterator[str]:
    while True:
        try:
            line = _read_line(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            print_message("")
            return
        if line:
            yield line


def _read_line(prompt: str) -> str:
    """Read a line from the terminal; the prompt goes to stderr if stdout is redirected."""
    if sys.stdout.isatty():
        import readline  # noqa: F401  # importing it enables arrow keys and history

        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()


def first_doing(handle: ModelHandle) -> str:
    """Return what is done until the first answer begins."""
    return "Waiting for the answer" if handle.kind == "hosted" else "Loading the model"


# -- answers -------------------------------------------------------------------------------


def print_stream(
    pieces: ChatStream,
    received: list[str],
    doing: str = "Waiting for the answer",
    *,
    quiet: bool = False,
) -> None:
    """Print an answer as it comes, and add its pieces to ``received``: into a pipe exactly, on a
    terminal wrapped at words, where it must not steer the cursor. ``doing``: what is shown until
    the first piece, unless ``quiet``."""
    wrapping = Wrapping(terminal_width()) if sys.stdout.isatty() else None
    try:
        with working(doing, quiet=quiet):
            first = next(pieces, "")
        for piece in chain([first], pieces):
            received.append(piece)
            print(wrapping.add(piece) if wrapping else piece, end="", flush=True)
    finally:
        pieces.close()
        print(wrapping.rest() if wrapping else "", flush=True)


def print_beside(reply: ChatReply, *, folded: bool = False, quiet: bool = False) -> None:
    """Print what an answer has beside its text: calls, and on stderr its reasoning (``folded``: how
    long it is) and what could not be read of it."""
    if reply.tool_calls:
        print(visible(reply.calls_text), flush=True)
    if reply.reasoning:
        words = format_count(len(reply.reasoning.split()), "word")
        text = f"{words}; /reasoning shows it" if folded else visible(reply.reasoning)
        print_message(apply_style(f"Reasoning: {text}", "dim", sys.stderr), quiet=quiet)
    if reply.note:
        print_message(visible(reply.note), quiet=quiet)


class Wrapping:
    """Breaks lines at words while a text arrives; a word is printed when its end is known."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.column = 0
        self.space = self.word = self.held = ""

    def add(self, piece: str) -> str:
        """Return what can be printed of the text so far."""
        text = self.held + piece
        self.held = "\r" if text.endswith("\r") else ""  # it may belong to the next line break
        text = text.removesuffix(self.held).replace("\r\n", "\n")
        return "".join(map(self._char, visible(text)))

    def rest(self) -> str:
        """Return the last word."""
        return self._end_word() + visible(self.held)

    def _char(self, char: str) -> str:
        if char == "\n":
            ended, self.column, self.space = self._end_word(), 0, ""
            return f"{ended}\n"
        if char in " \t":
            ended = self._end_word()
            self.space += char
            return ended
        size = display_width(char)
        # Scripts of wide characters have no spaces, and a word as long as a line has to be broken.
        full = size == 2 or display_width(self.word) + size > self.width
        ended = self._end_word() if full and self.word else ""
        self.word += char
        return ended + (self._end_word() if size == 2 else "")

    def _end_word(self) -> str:
        if not self.word:
            return ""
        size = display_width(self.word)
        fits = self.column + len(self.space.expandtabs()) + size <= self.width
        start = self.space if fits or not self.column else "\n"
        self.column = size + (self.column + len(start.expandtabs()) if start != "\n" else 0)
        printed, self.word, self.space = f"{start}{self.word}", "", ""
        return printed
