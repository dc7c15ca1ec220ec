"""``ftg chat``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune_gateway.backend import Backend
from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.cli.options import Json
from finetune_gateway.errors import GatewayError, JobNotFinished, NotFoundError, SpecError
from finetune_gateway.events import JobStatus
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs.handle import FILE_NAME, ModelHandle
from finetune_gateway.reports.output import (
    print_error,
    print_json,
    print_message,
)
from finetune_gateway.text.cleaning import visible
from finetune_gateway.tokens.encodings import base_model

Messages = list[dict[str, Any]]


def chat(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Job, handle or model folder, builtin/tiny, ft:..."),
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="A single question (default: a conversation)."),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--system", "-s", metavar="TEXT", help="System prompt ('' for none)."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Maximum length of an answer.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", min=0, help="0 always picks the most likely token.")
    ] = None,
    named: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Model of a job whose host names none; its deployment.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Chat with a model, with the template and the system prompt it was trained with.

    MODEL is a job (its result), a handle's file or folder, builtin/tiny or another base model on
    this machine, or the id of a hosted fine-tuned model (ft:...). Without PROMPT, questions are
    read from the terminal until Ctrl-D; text from a pipe is one question.

    Examples:
      ftg chat latest "Where is my parcel?"
      ftg chat builtin/tiny "Hello" --max-tokens 20
      ftg chat latest -s "You are brief." --json "Hello"
      ftg chat ./my-model
    """
    sampling = {
        name: value
        for name, value in (("max_tokens", max_tokens), ("temperature", temperature))
        if value is not None
    }
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
        if not prompt:
            raise SpecError("There is no question: stdin is empty.", hint="Give a PROMPT.")
    if prompt is None and json:
        raise SpecError("--json needs a PROMPT.", hint='Like: ftg chat latest --json "Hello"')
    handle = _open_job_result(model, named) if named else open_model(model)
    handle.require_deployed()
    handle.connect()
    if prompt is None:
        converse(handle, system, sampling)
    elif json:
        reply = handle.chat(prompt, system=system, **sampling)
        print_json({"model": handle.model, **reply.model_dump(mode="json")})
    else:
        print_answer(handle.chat(prompt, system=system, **sampling).text, end="\n")


def print_answer(text: str, end: str = "") -> None:
    """Print a model's words: into a pipe as they are; a terminal they must not steer."""
    shown = visible(text.replace("\r\n", "\n")) if sys.stdout.isatty() else text
    print(shown, end=end, flush=True)


def open_model(name: str) -> ModelHandle:
    """Return the handle of a job, a path, a base model or a hosted id."""
    path = Path(name).expanduser()
    if path.is_file() or (path / FILE_NAME).is_file():
        return ModelHandle.load(path)
    if path.is_dir() or name.startswith("builtin/"):
        return _open_base(name)
    if name.startswith("ft:"):
        return ModelHandle(kind="hosted", model=name, base_model=base_model(name), backend="openai")
    try:
        return _open_job_result(name)
    except NotFoundError as exc:
        if "/" in name and not name.startswith((".", "/", "~")):
            return _open_base(name)
        raise NotFoundError(
            f"There is no job, handle or model folder {name!r}.",
            hint="See your jobs: ftg list. To try a base model: ftg chat builtin/tiny",
        ) from exc


def _open_base(name: str) -> ModelHandle:
    gateway = Gateway()
    backend: Backend = gateway.backend("local")
    if not isinstance(backend, LocalBackend):
        raise SpecError("The local backend was replaced by one that has no base models.")
    print_message(f"Opening {name}, without fine-tuning ...")
    return backend.base(name)


def _open_job_result(name: str, model: str | None = None) -> ModelHandle:
    job = Gateway().job(name)
    if not job.status.final:
        job.refresh()
    if not job.status.final:
        raise JobNotFinished(
            f"Job {job.id} is still {job.status}; there is no model yet.",
            hint=f"Run: ftg {'resume' if job.status is JobStatus.PAUSED else 'wait'} {job.id}",
            job_id=job.id,
        )
    return job.result(model=model)


def converse(handle: ModelHandle, system: str | None, sampling: dict[str, Any]) -> None:
    """Ask for questions and print answers until the end of input; Ctrl-C stops an answer."""
    print_message(f"{visible(handle.model)}. Ctrl-D ends, Ctrl-C stops an answer.")
    messages: Messages = []
    for question in _read_questions():
        messages.append({"role": "user", "content": question})
        answer = _print_stream(handle.stream([*messages], system=system, **sampling))
        if answer is None:
            messages.pop()
        else:
            messages.append({"role": "assistant", "content": answer})


def _read_questions() -> Iterator[str]:
    while True:
        try:
            question = _read_line("you> ").strip()
        except EOFError:
            print_message("")
            return
        if question:
            yield question


def _read_line(prompt: str) -> str:
    """Read a line from the terminal; the prompt goes to stderr if stdout is redirected."""
    if sys.stdout.isatty():
        import readline  # noqa: F401  # importing it enables arrow keys and history

        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()


def _print_stream(pieces: Iterator[str]) -> str | None:
    """Print an answer as it arrives and return it; None if it is empty or failed."""
    received: list[str] = []
    try:
        for piece in pieces:
            received.append(piece)
            print_answer(piece)
    except KeyboardInterrupt:
        print_message(" ...")
    except GatewayError as exc:
        print_error(type(exc).__name__, exc.message, exc.hint, exc.exit_code)
        return None
    print()
    return "".join(received) or None
