"""``ftg estimate``: options side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any

import typer

from finetune_gateway.cli import output, serving
from finetune_gateway.cli.options import (
    Data,
    Epochs,
    Json,
    Method,
    Quiet,
    Settings,
    TrainingType,
    TrainPrice,
    backend_for,
    money,
    number,
    spec_options,
)
from finetune_gateway.cli.output import paint, say, show, size, span, usd, wrapped
from finetune_gateway.errors import GatewayError, SpecError
from finetune_gateway.gateway import Gateway, Plan
from finetune_gateway.pricing import Estimate
from finetune_gateway.serving import USUAL_GPU

LABEL, CELL = 21, 24  # columns of the first and, at least, of the other columns of the table


@dataclass(frozen=True)
class Option:
    """One column: a plan, or why there is none."""

    backend: str
    model: str
    plan: Plan | None
    refusal: GatewayError | None = None

    def document(self) -> dict[str, Any]:
        """This option as JSON."""
        if self.plan is not None:
            return self.plan.estimate.model_dump(mode="json")
        assert self.refusal is not None
        said = {"type": type(self.refusal).__name__, "message": self.refusal.message}
        return {"backend": self.backend, "model": self.model, "error": said}


def estimate(
    data: Data,
    model: Annotated[
        list[str], typer.Option(metavar="MODEL", help="Repeatable.", show_default=False)
    ],
    backend: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="openai, local, ...; repeatable.")
    ] = None,
    validation_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Held-out rows; their tokens are told.")
    ] = None,
    method: Method = None,
    n_epochs: Epochs = None,
    training_type: TrainingType = None,
    settings: Settings = None,
    train_price: TrainPrice = None,
    monthly_requests: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Price serving the result too, at N a month."),
    ] = None,
    tokens_in: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Of a request (mean of the data).")
    ] = None,
    tokens_out: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Of an answer (mean of the data).")
    ] = None,
    serve_gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"A GPU of your own ({USUAL_GPU}).")
    ] = None,
    serve_usd_per_hour: Annotated[
        str | None, typer.Option(metavar="USD", help="What that GPU costs you an hour.")
    ] = None,
    serve_tokens_per_second: Annotated[
        str | None, typer.Option(metavar="N", help="What it reaches, in and out together.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serving as one page with a picture.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What a run would cost, how long it takes and whether it fits, for several options side by
    side. Offline: no key, no network, nothing is sent.

    One model is priced on every backend, several models on one backend; as many models as
    backends are paired in order. Without --backend: 'owner/name', builtin models and folders
    are local, others are OpenAI's.

    With --monthly-requests also what serving the result costs a month: by the token, by the
    hour, on a GPU of your own, and from which volume on that GPU is cheaper.

    Examples:
      ftg estimate train.jsonl --model gpt-4.1-mini-2025-04-14
      ftg estimate train.jsonl --model gpt-4.1-mini-2025-04-14 --backend openai \\
          --model Qwen/Qwen3-4B --backend local --n-epochs 3
      ftg estimate train.jsonl --model gpt-9 --train-price 4.40
      ftg estimate train.jsonl --model gpt-4.1-mini-2025-04-14 \\
          --monthly-requests 100000 --html serving.html
    """
    chosen = spec_options(settings, method=method, n_epochs=n_epochs, training_type=training_type)
    serve = serving.Asked(
        requests=monthly_requests,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        gpu=serve_gpu,
        usd_per_hour=money("serve-usd-per-hour", serve_usd_per_hour),
        tokens_per_second=number("serve-tokens-per-second", serve_tokens_per_second),
        html=html,
    )
    serve.check(data)
    if validation_file is not None:
        chosen["validation"] = validation_file
    if train_price is not None:
        chosen["train_price"] = money("train-price", train_price)
    gateway = Gateway()
    options = [priced(gateway, data, *pair, chosen) for pair in pairs(model, backend or [])]
    if all(option.refusal for option in options) and options[0].refusal:
        raise options[0].refusal
    costs = serve.costs([o.plan for o in options if o.plan], gateway.settings.prices)
    if json:
        told = [option.document() for option in options]
        output.emit(
            {"estimates": told, "serving": costs.model_dump(mode="json")} if costs else told
        )
    else:
        show(screen(options))
    if costs and not json:
        show("\n" + serving.screen(costs))
    if costs and html is not None:
        # Imported here: only --html needs the page.
        from finetune_gateway.cli.serving_page import page

        html.write_text(page(costs), encoding="utf-8")
        say(f"Wrote {html}.", quiet=quiet)
    if not quiet and not json:
        say("Figures are estimates. Nothing was sent anywhere.")


def pairs(models: list[str], backends: list[str]) -> list[tuple[str, str]]:
    """Which model on which backend. Raises SpecError when that is not clear."""
    names = [name.strip() for given in backends for name in given.split(",") if name.strip()]
    if not names:
        return [(model, backend_for(model)) for model in models]
    if len(models) == 1 or len(names) == 1:
        return [(model, name) for model in models for name in names]
    if len(models) == len(names):
        return list(zip(models, names, strict=True))
    raise SpecError(
        f"{len(models)} models and {len(names)} backends do not pair up.",
        hint="Give one of either, or as many of each.",
    )


def priced(gateway: Gateway, data: Any, model: str, backend: str, chosen: dict[str, Any]) -> Option:
    """One model on one backend; a refusal is part of the answer."""
    try:
        plan = gateway.plan(data, model=model, backend=backend, **chosen)
    except GatewayError as exc:
        return Option(backend, model, None, exc)
    return Option(backend, model, plan)


def screen(options: Sequence[Option]) -> str:
    """The table, as many options beside each other as fit, then what the figures rest on."""
    room = max(1, (output.width() - LABEL) // (CELL + 2))
    groups = [options[start : start + room] for start in range(0, len(options), room)]
    return "\n\n".join([*map(_table, groups), *filter(None, map(_grounds, options))])


def _table(options: Sequence[Option]) -> str:
    cell = (output.width() - LABEL) // len(options) - 2
    lines = [_line(paint, "", [f"{option.backend} / {option.model}" for option in options], cell)]
    for label, row in ROWS:
        cells = [row(option.plan) if option.plan else "" for option in options]
        if label == "cost":
            cells = [
                c if o.plan else f"cannot: {_why(o)}" for c, o in zip(cells, options, strict=True)
            ]
        if any(cells):
            lines.append(_line(None, label, cells, cell))
    return "\n".join(lines)


def _why(option: Option) -> str:
    return option.refusal.message if option.refusal else ""


def _line(style: Callable[..., str] | None, label: str, cells: Sequence[str], cell: int) -> str:
    """One row; a cell that is too long goes on below."""
    stacks = [wrap(text, cell, break_on_hyphens=False) or [""] for text in cells]
    rows = []
    for i in range(max(map(len, stacks))):
        texts = [stack[i] if i < len(stack) else "" for stack in stacks]
        padded = "  ".join(f"{text:<{cell}}" for text in texts).rstrip()
        head = f"{label if i == 0 else '':<{LABEL}}"
        rows.append(f"{head}{style(padded, 'bold') if style else padded}".rstrip())
    return "\n".join(rows)


def cost(estimate: Estimate) -> str:
    """``$5.74 ($3.83 to $7.65)``."""
    found = estimate.cost_usd
    if found is None:
        return "not known"
    if found.low == found.high:
        return usd(found.expected)
    return f"{usd(found.expected)} ({usd(found.low)} to {usd(found.high)})"


def _ranged(found: Any, words: Callable[[float], str]) -> str:
    if found is None:
        return "not known"
    if found.low == found.high:
        return words(found.expected)
    return f"{words(found.expected)} ({words(found.low)} to {words(found.high)})"


def _tokens(plan: Plan) -> str:
    epochs = plan.estimate.n_epochs
    times = f"{epochs} epoch{'' if epochs == 1 else 's'}"
    billed = plan.estimate.billed_tokens
    return f"{billed.expected if billed else plan.tokens.total * epochs:,} ({times})"


def _leaves(plan: Plan) -> str:
    host = plan.estimate.host
    if not plan.estimate.data_leaves_machine:
        return "no"
    return f"yes, to {host}" if host else "yes"


def _closes(plan: Plan) -> str:
    closing = plan.backend.capabilities(plan.spec.model).no_new_jobs_after
    return f"{closing}" if closing else "-"


def _memory(plan: Plan) -> str:
    return "-" if plan.estimate.data_leaves_machine else _ranged(plan.estimate.memory_bytes, size)


UNITS = {
    "train_mtok": "per million training tokens",
    "train_hour": "per hour of training",
    "gpu_hour": "per GPU hour",
    "hosting_hour": "per hour of hosting",
}
ROWS: tuple[tuple[str, Callable[[Plan], str]], ...] = (
    ("cost", lambda plan: cost(plan.estimate)),
    ("tokens to train", _tokens),
    ("time", lambda plan: _ranged(plan.estimate.seconds, span)),
    ("memory", _memory),
    ("data leaves machine", _leaves),
    ("takes jobs until", _closes),
)


def _grounds(option: Option) -> str:
    """Prices with source and date, warnings, assumptions and what is not known."""
    if option.plan is None:
        return ""
    lines = list(_ground_lines(option.plan.estimate))
    return "\n".join([f"{option.backend} / {option.model}", *lines]) if lines else ""


def _ground_lines(found: Estimate) -> Iterator[str]:
    for price in found.prices:
        unit = UNITS.get(price.unit, price.unit)
        text = f"price: ${price.usd} {unit}, as of {price.as_of}, {price.source} {price.note}"
        yield wrapped(text.strip(), "    ", "  ")
    for kind, texts in (
        ("warning", found.warnings),
        ("assumed", found.assumptions),
        ("not known", found.unknown),
    ):
        style = "warning" if kind == "warning" else "dim"
        for text in texts:
            filled = wrapped(f"{kind}: {text}", "    ", "  ")
            yield filled.replace(f"{kind}:", f"{paint(kind, style)}:", 1)
