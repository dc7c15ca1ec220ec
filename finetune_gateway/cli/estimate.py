"""``ftg estimate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune_gateway import registry
from finetune_gateway.backend import Backend
from finetune_gateway.cli.backend_params import BackendParam, parse_backend_params
from finetune_gateway.cli.options import (
    AzureTraining,
    BaseUrl,
    ChatTemplate,
    ContinueFrom,
    Data,
    Epochs,
    Force,
    Json,
    Map,
    Method,
    Profile,
    Quiet,
    Settings,
    Split,
    TrainingType,
    TrainOn,
    TrainPrice,
    models_to_train,
    parse_amount,
    parse_map,
    parse_number,
    parse_settings,
    refuse_foreign_page,
    write_page,
)
from finetune_gateway.cli.placement import Placement
from finetune_gateway.cli.progress import progress_bar
from finetune_gateway.cli.serving_options import ServingOptions
from finetune_gateway.errors import SpecError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.gpu_hours import USUAL_GPU
from finetune_gateway.estimation.hosted import price_ways
from finetune_gateway.estimation.throughput import USERS
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.estimate_view import EstimateView
from finetune_gateway.reports.leaving import point_out_leaving
from finetune_gateway.reports.output import print_json, print_message, print_result, wrap_text


def estimate(
    data: Data,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Repeatable.", show_default=False)
    ] = None,
    continue_from: ContinueFrom = None,
    backend: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="openai, local, ...; repeatable.")
    ] = None,
    validation_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Held-out rows; their tokens are counted.", readable=False
        ),
    ] = None,
    validation_split: Split = None,
    columns: Map = None,
    method: Method = None,
    n_epochs: Epochs = None,
    training_type: TrainingType = None,
    train_on: TrainOn = None,
    chat_template: ChatTemplate = None,
    settings: Settings = None,
    backend_param: BackendParam = None,
    train_price: TrainPrice = None,
    base_url: BaseUrl = None,
    profile: Profile = None,
    azure_training: AzureTraining = None,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Train locally on this GPU: H200, 'RTX 4090', ..."),
    ] = None,
    usd_per_gpu_hour: Annotated[
        str | None, typer.Option(metavar="USD", help="Price of an hour on that GPU.")
    ] = None,
    monthly_requests: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Estimate serving too, at N requests a month."),
    ] = None,
    tokens_in: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Tokens per request (mean of the data)."),
    ] = None,
    tokens_out: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Tokens per answer (mean of the data)."),
    ] = None,
    serve_gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Your own GPU to serve on ({USUAL_GPU}).")
    ] = None,
    serve_usd_per_hour: Annotated[
        str | None, typer.Option(metavar="USD", help="Price of an hour on your GPU.")
    ] = None,
    serve_tokens_per_second: Annotated[
        str | None, typer.Option(metavar="N", help="Its throughput, in and out together.")
    ] = None,
    serve_users: Annotated[
        int | None,
        typer.Option(metavar="N", help=f"Without it: requests at once ({USERS})."),
    ] = None,
    serve_billions: Annotated[
        float | None,
        typer.Option(metavar="N", help="Without it: parameters in billions (your base's, or 8)."),
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="human (default), json or html.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write one HTML page."),
    ] = None,
    force: Force = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also print what the figures rest on.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Estimate cost, time and memory of a run, and whether it fits, for several options side by
    side. Offline: no key, no network, nothing is sent.

    With commas in --backend, every model is estimated on every backend. With one --backend per
    --model, they pair up in order. Without --backend, 'owner/name', builtin models and folders
    are local, other models are OpenAI's. Options are sorted by price; one that is not possible is
    left out. --explain says why, and prints sources, dates, assumptions and memory by part.
    --quiet prints the expected cost in USD alone.

    --continue-from estimates training on from the model of a job of this machine.

    --base-url sets the address of another host with OpenAI's API: of the one backend that has
    no address of its own.

    With --monthly-requests, also estimates what serving the trained model costs per month: by
    the token, by the hour and on your own GPU, and from which volume your GPU is cheaper.

    Examples:
      ftg estimate train.jsonl --model gpt-4.1-mini-2025-04-14
      ftg estimate train.jsonl --backend openai,azure,local \\
          --model gpt-4.1-mini-2025-04-14 --model builtin/tiny
      ftg estimate train.jsonl --model gpt-4.1-mini-2025-04-14 --backend openai \\
          --model Qwen/Qwen3-4B --backend local --n-epochs 3
      ftg estimate train.jsonl --model Qwen/Qwen3-4B --gpu H200 --explain
      ftg estimate train.jsonl --model gpt-9 --train-price 4.40
      ftg estimate train.jsonl --model my-model --backend openai \\
          --base-url https://gpu.example.com/v1 --train-price 0.50
      ftg estimate train.jsonl --model gpt-4.1-mini-2025-04-14 \\
          --monthly-requests 100000 --html costs.html
    """
    fields = parse_settings(
        settings,
        method=method,
        n_epochs=n_epochs,
        training_type=training_type,
        train_on=train_on,
        chat_template=chat_template,
        continue_from=continue_from,
        backend_params=parse_backend_params(backend_param),
    )
    serving = ServingOptions(
        requests=monthly_requests,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        gpu=serve_gpu,
        usd_per_hour=parse_amount("serve-usd-per-hour", serve_usd_per_hour),
        tokens_per_second=parse_number("serve-tokens-per-second", serve_tokens_per_second),
        users=serve_users,
        billions=serve_billions,
    )
    serving.check()
    output_format = _choose_format(format_, json)
    refuse_foreign_page(html, force, data)
    if explain and (quiet or output_format != "human"):
        other = "--quiet" if quiet else f"--format {output_format}"
        raise SpecError(f"--explain contradicts {other}.", hint="Drop one of them.")
    if validation_file is not None:
        fields["validation"] = validation_file
    if columns is not None:
        fields["columns"] = parse_map(columns)
    if validation_split is not None:
        fields["validation_split"] = validation_split
    if train_price is not None:
        fields["train_price"] = parse_amount("train-price", train_price)
    gateway = Gateway()
    hour = parse_amount("usd-per-gpu-hour", usd_per_gpu_hour)
    where = Placement(gpu, hour, base_url, profile, azure_training)
    models = models_to_train(gateway, model, fields)
    placed = where.place(pair_up(models, backend or []))
    with progress_bar(quiet=quiet) as on_progress:
        options = _estimate(gateway, data, placed, on_progress=on_progress, **fields)
    estimates = [option.estimate for option in options if option.estimate]
    if len(options) == 1 and options[0].error:
        raise options[0].error
    costs = serving.costs(estimates, gateway.settings.prices)
    view = EstimateView(data.name, options, costs)
    if output_format == "human":
        shown = view.price() if quiet else view.text(explain=explain)
        print_result(shown)
    else:
        _print_document(view, output_format)
    if html is not None:
        write_page(html, view.page(), quiet=quiet)
    if output_format == "human":
        said = "All figures are estimates. Nothing was sent anywhere."
        print_message(wrap_text(said), quiet=quiet)
        _point_out_prices(estimates, quiet=quiet)
        point_out_leaving(shown, quiet=quiet)
    first_error = options[0].error
    return first_error.exit_code if first_error and not estimates else 0


def _estimate(
    gateway: Gateway, data: Path, placed: Sequence[tuple[str, str | Backend] | Option], **more: Any
) -> list[Option]:
    """Return an Option for each, those that were refused before in their place."""
    pairs = [pair for pair in placed if not isinstance(pair, Option)]
    options = iter(gateway.options(data, pairs, **more))
    return [one if isinstance(one, Option) else next(options) for one in placed]


def _point_out_prices(estimates: Sequence[Estimate], *, quiet: bool) -> None:
    """Say what gives the first estimate without a price one."""
    for one in estimates:
        if one.cost_usd is None and one.data_leaves_machine:
            if way := price_ways(one.backend, one, one.billed_tokens):
                print_message(f"To have the cost of {one.model!r}, {way}", quiet=quiet)
            return


def _choose_format(name: str | None, json: bool) -> str:
    if name is None:
        return "json" if json else "human"
    if name not in ("human", "json", "html"):
        raise SpecError(f"There is no format {name!r}.", hint="Use human, json or html.")
    if json and name != "json":
        raise SpecError(f"--format {name} contradicts --json.", hint="Drop one of them.")
    return name


def _print_document(view: EstimateView, output_format: str) -> None:
    if output_format == "json":
        print_json(view.document())
    else:
        print_result(view.page())


def pair_up(models: list[str], backends: list[str]) -> list[tuple[str, str]]:
    """Return (model, backend name) pairs. Raises SpecError when they are ambiguous."""
    lists = [[name.strip() for name in given.split(",") if name.strip()] for given in backends]
    names = list(dict.fromkeys(name for listed in lists for name in listed))
    if not names:
        return [(model, registry.default_backend(model)) for model in models]
    plain = all(len(listed) == 1 for listed in lists)
    if plain and len(models) > 1 and len(lists) == len(models):
        return [(model, listed[0]) for model, listed in zip(models, lists, strict=True)]
    if plain and len(models) > 1 and len(lists) > 1:
        raise SpecError(
            f"{len(models)} models and {len(lists)} backends do not pair up.",
            hint=f"For every model on every backend: --backend {','.join(names)}",
        )
    return [(model, name) for model in models for name in names]
