"""``ftg estimate``: options side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune_gateway.backend import Backend
from finetune_gateway.cli import progress
from finetune_gateway.cli.options import (
    BaseUrl,
    Data,
    Epochs,
    Json,
    Method,
    Profile,
    Quiet,
    Settings,
    TrainingType,
    TrainPrice,
    backend_for,
    money,
    number,
    spec_options,
)
from finetune_gateway.errors import SpecError
from finetune_gateway.estimation.serving import USUAL_GPU, ServingCosts
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports import output, placement, serving_text
from finetune_gateway.reports.estimate_text import one, several
from finetune_gateway.reports.output import print_message, print_result


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
    base_url: BaseUrl = None,
    profile: Profile = None,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Local training on this GPU: H200, 'RTX 4090', ..."),
    ] = None,
    usd_per_gpu_hour: Annotated[
        str | None, typer.Option(metavar="USD", help="What an hour of it costs you.")
    ] = None,
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
    format_: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="human (default), json or html.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="OUT", help="All of it as one page, in this file.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """What a run would cost, how long it takes and whether it fits, for several options side by
    side. Offline: no key, no network, nothing is sent.

    Every model is priced on every backend that --backend lists with commas. A --backend for each
    --model pairs them in order. Without --backend: 'owner/name', builtin models and folders are
    local, others are OpenAI's. What cannot be done is a row that says why.

    With --base-url another host of OpenAI's contract is priced, as submit would send to it: the
    one of --backend that has no address of its own.

    With --monthly-requests also what serving the result costs a month: by the token, by the
    hour, on a GPU of your own, and from which volume on that GPU is cheaper.

    Examples:
      ftg estimate train.jsonl --model gpt-4.1-mini-2025-04-14
      ftg estimate train.jsonl --backend openai,azure,local \\
          --model gpt-4.1-mini-2025-04-14 --model builtin/tiny
      ftg estimate train.jsonl --model gpt-4.1-mini-2025-04-14 --backend openai \\
          --model Qwen/Qwen3-4B --backend local --n-epochs 3
      ftg estimate train.jsonl --model Qwen/Qwen3-4B --gpu H200
      ftg estimate train.jsonl --model gpt-9 --train-price 4.40
      ftg estimate train.jsonl --model my-model --backend openai \\
          --base-url https://gpu.example.com/v1 --train-price 0.50
      ftg estimate train.jsonl --model gpt-4.1-mini-2025-04-14 \\
          --monthly-requests 100000 --html costs.html
    """
    chosen = spec_options(settings, method=method, n_epochs=n_epochs, training_type=training_type)
    serve = serving_text.Asked(
        requests=monthly_requests,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        gpu=serve_gpu,
        usd_per_hour=money("serve-usd-per-hour", serve_usd_per_hour),
        tokens_per_second=number("serve-tokens-per-second", serve_tokens_per_second),
    )
    serve.check()
    wanted = _format(format_, json)
    if html and html.exists() and data.exists() and html.samefile(data):
        raise SpecError(f"--html {html} is the data itself.", hint="Give another name.")
    if validation_file is not None:
        chosen["validation"] = validation_file
    if train_price is not None:
        chosen["train_price"] = money("train-price", train_price)
    gateway = Gateway()
    hour = money("usd-per-gpu-hour", usd_per_gpu_hour)
    places = placement.Places(gpu, hour, base_url, profile)
    asked = places.placed(pairs(model, backend or []))
    with progress.bar(quiet=quiet) as moved:
        options = _options(gateway, data, asked, on_progress=moved, **chosen)
    found = [option.estimate for option in options if option.estimate]
    if len(options) == 1 and options[0].error:
        raise options[0].error
    told = Told(data.name, options, serve.costs(found, gateway.settings.prices))
    _show(told, wanted)
    if html is not None:
        html.write_text(told.page(), encoding="utf-8")
        print_message(f"Wrote {html}.", quiet=quiet)
    if wanted == "human":
        print_message("Figures are estimates. Nothing was sent anywhere.", quiet=quiet)
    first = options[0].error
    return first.exit_code if first and not found else 0


def _options(
    gateway: Gateway, data: Path, asked: Sequence[tuple[str, str | Backend] | Option], **more: Any
) -> list[Option]:
    """Each option in its place, those that are refused already too."""
    open_ = [one for one in asked if not isinstance(one, Option)]
    found = iter(gateway.options(data, open_, **more))
    return [one if isinstance(one, Option) else next(found) for one in asked]


@dataclass(frozen=True)
class Told:
    """Everything that is shown."""

    name: str
    options: Sequence[Option]
    costs: ServingCosts | None

    def document(self) -> Any:
        """As JSON."""
        told = [option.document() for option in self.options]
        if self.costs is None:
            return told
        return {"estimates": told, "serving": self.costs.model_dump(mode="json")}

    def screen(self) -> str:
        """As text."""
        single = self.options[0].estimate if len(self.options) == 1 else None
        text = one(single, self.options[0].backend) if single else several(self.options)
        return f"{text}\n\n{serving_text.screen(self.costs)}" if self.costs else text

    def page(self) -> str:
        """As one HTML file."""
        # Imported here: only pages need it.
        from finetune_gateway.reports.estimate_page import page

        return page(self.name, self.options, self.costs)


def _format(name: str | None, json: bool) -> str:
    if name is None:
        return "json" if json else "human"
    if name not in ("human", "json", "html") or (json and name != "json"):
        more = " beside --json" if json else ""
        raise SpecError(f"--format {name!r} is none{more}.", hint="Use human, json or html.")
    return name


def _show(told: Told, wanted: str) -> None:
    if wanted == "json":
        output.print_json(told.document())
    elif wanted == "html":
        print_result(told.page())
    else:
        print_result(told.screen())


def pairs(models: list[str], backends: list[str]) -> list[tuple[str, str]]:
    """Which model on which backend. Raises SpecError when that is not clear."""
    lists = [[name.strip() for name in given.split(",") if name.strip()] for given in backends]
    names = list(dict.fromkeys(name for listed in lists for name in listed))
    if not names:
        return [(model, backend_for(model)) for model in models]
    plain = all(len(listed) == 1 for listed in lists)
    if plain and len(models) > 1 and len(lists) == len(models):
        return [(model, listed[0]) for model, listed in zip(models, lists, strict=True)]
    if plain and len(models) > 1 and len(lists) > 1:
        raise SpecError(
            f"{len(models)} models and {len(lists)} backends do not pair up.",
            hint=f"For every model on every backend: --backend {','.join(names)}",
        )
    return [(model, name) for model in models for name in names]
