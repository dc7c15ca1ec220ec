"""``ftg chat``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from finetune_gateway.backend import Backend
from finetune_gateway.backends.local import builtin
from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.chat import ChatReply, ChatStream
from finetune_gateway.cli.conversation import (
    Conversation,
    first_doing,
    print_beside,
    print_stream,
)
from finetune_gateway.cli.options import AllowHttp, BaseUrl, Json, KeyName, Quiet, build_backend
from finetune_gateway.cli.progress import working
from finetune_gateway.cli.scores import print_scores
from finetune_gateway.errors import JobNotFinished, SpecError
from finetune_gateway.events import JobStatus
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs import model_names
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.results import StepName
from finetune_gateway.reports.output import print_json, print_message
from finetune_gateway.text.cleaning import visible
from finetune_gateway.tokens.encodings import base_model

NO_TEMPLATE = "This model has no chat template: it goes on with each text of yours."


def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Job, JOB@STEP, handle or model folder, builtin/tiny, ft:..."
        ),
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
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    allow_http: AllowHttp = False,
    allow_changed_base: Annotated[
        bool,
        typer.Option(
            "--allow-changed-base", help="Answer on a base whose weights have changed since."
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Chat with a model, with the template and the system prompt it was trained with.

    MODEL is a job (its result), JOB@STEP (a checkpoint; @last, and @best by the loss on held-out
    rows), a handle's file or folder, builtin/tiny or another base model on this machine, or the id
    of a hosted model (ft:...): where 'ftg models add' has found it, at the host of the job that
    made it, at OpenAI, or at --base-url. Text from a pipe is one question, and
    the answer into a pipe is exact. Calls of tools follow the text, one a line; reasoning goes to
    stderr.

    A model without a chat template, as after --method pretrain on a base, goes on with the text.

    Without PROMPT, questions are read from the terminal. Ctrl-C stops an answer; at the prompt it
    leaves, as Ctrl-D and /exit do (exit code 0). /help lists commands. What is typed
    after a call is its result. --quiet prints answers alone, without a prompt and reasoning.

    A reward model scores: PROMPT, or the text from a pipe, is rows of data, one a line, and
    so is the output, a score each; for a preference pair two, that of the preferred answer first.

    Examples:
      ftg chat latest "Where is my parcel?"
      ftg chat builtin/tiny "Hello" --max-tokens 20
      ftg chat latest -s "You are brief." --json "Hello"
      ftg chat latest@200 "Where is my parcel?"
      ftg chat ./my-model
      ftg chat latest < held_out.jsonl
      ftg chat my-model --base-url http://127.0.0.1:8000/v1
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
    host = {"base_url": base_url, "api_key_env": api_key_env, "allow_http": allow_http}
    handle = _open(model, named, host, quiet=quiet)
    handle.require_deployed()
    handle.connect(allow_changed_base=allow_changed_base)
    if handle.kind == "reward":
        _score(handle, prompt, system, sampling, as_json=json)
        return
    ask, stream = _ways_to_ask(handle, system, sampling, quiet=quiet)
    if prompt is None:
        print_message(_title(model, handle), quiet=quiet)
        Conversation(handle, system, sampling, quiet=quiet).run()
    elif json:
        reply = ask(prompt)
        print_json({"model": handle.model, **reply.model_dump(mode="json")})
    elif sys.stdout.isatty():
        pieces = stream(prompt)
        print_stream(pieces, [], first_doing(handle), quiet=quiet)
        if pieces.reply is not None:
            print_beside(pieces.reply, quiet=quiet)
    else:
        reply = ask(prompt)
        if reply.text or not reply.tool_calls:
            print(reply.text, flush=True)
        print_beside(reply, quiet=quiet)


def _score(
    handle: ModelHandle,
    rows: str | None,
    system: str | None,
    sampling: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Print what a reward model says of rows of data."""
    if rows is None:
        handle.require_answers()
    elif sampling:
        raise SpecError(
            f"{' and '.join(sampling)} shape an answer, and this is a reward model: it scores.",
            hint="Leave them out.",
        )
    else:
        print_scores(handle, rows, system=system, as_json=as_json)


def _ways_to_ask(
    handle: ModelHandle, system: str | None, sampling: dict[str, Any], *, quiet: bool
) -> tuple[Callable[[str], ChatReply], Callable[[str], ChatStream]]:
    """Return what asks a model a question, whole and in pieces; one without a chat template goes on
    with the text. Raises SpecError for a system prompt that it would not see."""
    if handle.has_template:
        return (
            lambda text: handle.chat(text, system=system, **sampling),
            lambda text: handle.stream(text, system=system, **sampling),
        )
    if system:
        raise SpecError(
            "This model has no chat template, so it sees no system prompt.",
            hint="Leave --system out.",
        )
    print_message(NO_TEMPLATE, quiet=quiet)
    return (
        lambda text: handle.complete(text, **sampling),
        lambda text: handle.stream_completion(text, **sampling),
    )


def _open(model: str, named: str | None, host: dict[str, Any], *, quiet: bool) -> ModelHandle:
    """Return the handle of a model: at this host, if one was given."""
    if not any(host.values()):
        return _open_job_result(model, named) if named else open_model(model, quiet=quiet)
    if not host["base_url"] or named:
        raise SpecError(
            "--api-key-env and --allow-http belong to --base-url."
            if not host["base_url"]
            else "--base-url and --model exclude each other.",
            hint="Like: ftg chat MODEL --base-url https://HOST/v1 --api-key-env NAME",
        )
    handle = ModelHandle(kind="hosted", model=model, base_model=base_model(model), backend="openai")
    handle.attach(Gateway().backend(build_backend("openai", **host)))
    return handle


def _title(name: str, handle: ModelHandle) -> str:
    """Return which model answers, as the user calls it, and where."""
    if handle.kind == "merged" and handle.base_model == name:
        about = f"\n{builtin.ABOUT}" if name == builtin.NAME else ""
        return f"{visible(name)}, without fine-tuning.{about}"
    if handle.kind != "hosted":
        at = f" up to step {handle.step}" if handle.step is not None else ""
        return visible(f"{handle.job_id or handle.model}: {handle.base_model}, fine-tuned{at}.")
    host = handle.backend_options.get("base_url")
    return f"{visible(handle.model)}{f' at {visible(host)}' if host else ''}."


def open_model(name: str, *, quiet: bool = False) -> ModelHandle:
    """Return the handle of a job, a path, a base model or a hosted id; ``quiet``: without a word on
    what takes time."""
    meant = model_names.meaning(name, Gateway().store)
    if isinstance(meant, model_names.Base):
        return _open_base(meant.name, quiet)
    if isinstance(meant, model_names.OfHost):
        model = meant.model
        base = base_model(model)
        return ModelHandle(kind="hosted", model=model, base_model=base, backend="openai")
    if isinstance(meant, model_names.OfJob):
        return _open_job_result(meant.record.id, step=meant.step)
    return meant


def _open_base(name: str, quiet: bool) -> ModelHandle:
    gateway = Gateway()
    backend: Backend = gateway.backend("local")
    if not isinstance(backend, LocalBackend):
        raise SpecError("The local backend was replaced by one that has no base models.")
    with working(f"Opening {name}", quiet=quiet) as say:
        return backend.base(name, say)


def _open_job_result(
    name: str, model: str | None = None, step: StepName | None = None
) -> ModelHandle:
    job = Gateway().job(name)
    if step is not None:
        return job.result(step=step)
    if not job.status.final:
        job.refresh()
    if not job.status.final:
        raise JobNotFinished(
            f"Job {job.id} is still {job.status}; there is no model yet.",
            hint=f"Run: ftg {'resume' if job.status is JobStatus.PAUSED else 'wait'} {job.id}",
            job_id=job.id,
        )
    return job.result(model=model)
